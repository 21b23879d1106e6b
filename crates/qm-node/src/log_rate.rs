//! How many log lines others can cause: whoever can make a line appear can make a million.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind within [`SPAN`]; those beyond are counted and left out.
const LINES_MAX: u32 = 50;
/// See [`LINES_MAX`].
const SPAN: Duration = Duration::from_secs(10);

/// Lines of one kind since a moment.
#[derive(Clone, Copy, Debug)]
struct Lines {
    since: Instant,
    count: u32,
}

/// What a rate decides about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    write: bool,
    /// So many were left out before, of a span that is over.
    left_out: u32,
}

impl Lines {
    fn count(&mut self, now: Instant) -> Verdict {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= SPAN {
            left_out = self.count.saturating_sub(LINES_MAX);
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        Verdict {
            write: self.count <= LINES_MAX,
            left_out,
        }
    }
}

/// The rates of the process: its log is one.
static RATES: Mutex<BTreeMap<&'static str, Lines>> = Mutex::new(BTreeMap::new());

/// Whether another line of this kind is written now. Tells how many were not.
pub(crate) fn admits(event: &'static str) -> bool {
    let now = Instant::now();
    let mut rates = RATES.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = rates.entry(event).or_insert(Lines {
        since: now,
        count: 0,
    });
    let Verdict { write, left_out } = lines.count(now);
    drop(rates);
    if left_out > 0 {
        tracing::warn!(
            event = "lines_left_out",
            of = event,
            count = left_out,
            "more lines of this kind than are written"
        );
    }
    write
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let began = Instant::now();
        let mut lines = Lines {
            since: began,
            count: 0,
        };
        let written = (0..10_000).filter(|_| lines.count(began).write).count();
        assert_eq!(written, 50);
        let verdict = lines.count(began + SPAN);
        assert_eq!(
            verdict,
            Verdict {
                write: true,
                left_out: 9_950
            }
        );
        assert_eq!(lines.count(began + SPAN).left_out, 0);
    }
}
