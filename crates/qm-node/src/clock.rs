//! Node time: monotonic while the node runs, carried over restarts, untouched by wall-clock steps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qm_engine::{Now, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// 2026-01-01T00:00:00Z. A wall clock before it is that of a machine which has not yet heard of
/// the time; nothing is computed from it.
const PLAUSIBLE_WALL_US: u64 = 1_767_225_600_000_000;

/// Counts while the machine sleeps, too: a message grows older in a closed laptop.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ELAPSED: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ELAPSED: ClockId = ClockId::Monotonic;

/// The clock of one run of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    base_us: u64,
    started: Duration,
}

/// Both clocks as an earlier run saved them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedClock {
    pub(crate) node_us: u64,
    pub(crate) wall_us: u64,
}

impl SavedClock {
    /// Name under which the engine keeps the clock in the store.
    pub(crate) const KEY: &'static [u8] = b"clock";

    /// Reads the stored value: version, node time, wall clock, both microseconds, little-endian.
    /// `None` for a value of a later version.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first()?;
        let (node, wall) = rest.split_first_chunk::<8>()?;
        let wall = wall.first_chunk::<8>().filter(|_| wall.len() == 8)?;
        (*version == 1).then_some(Self {
            node_us: u64::from_le_bytes(*node),
            wall_us: u64::from_le_bytes(*wall),
        })
    }
}

impl NodeClock {
    /// Starts behind what was saved, by as much as the wall clock says that has passed since, if
    /// the wall clock is to be believed both times; else right behind it.
    pub(crate) fn start(saved: Option<SavedClock>) -> Self {
        Self {
            base_us: base_us(saved, wall_us()),
            started: elapsed(),
        }
    }

    /// Both clocks at this moment.
    pub(crate) fn now(&self) -> Now {
        let passed = elapsed().saturating_sub(self.started);
        let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let at = Timestamp(self.base_us.saturating_add(passed_us));
        Now {
            at,
            wall_us: wall_us(),
        }
    }
}

fn base_us(saved: Option<SavedClock>, wall_us: u64) -> u64 {
    let Some(saved) = saved else { return 0 };
    if saved.wall_us < PLAUSIBLE_WALL_US || wall_us < PLAUSIBLE_WALL_US {
        return saved.node_us;
    }
    saved
        .node_us
        .saturating_add(wall_us.saturating_sub(saved.wall_us))
}

pub(crate) fn elapsed() -> Duration {
    let time = clock_gettime(ELAPSED);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

fn wall_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: u64 = 86_400_000_000;

    #[test]
    fn time_off_counts_only_when_both_wall_clocks_are_plausible() {
        let saved = SavedClock {
            node_us: 500,
            wall_us: PLAUSIBLE_WALL_US + DAY_US,
        };
        let base = |wall_us| base_us(Some(saved), wall_us);
        assert_eq!(base(PLAUSIBLE_WALL_US + 2 * DAY_US), 500 + DAY_US);
        // Stepped back, or booted in 1970.
        assert_eq!(base(PLAUSIBLE_WALL_US), 500);
        assert_eq!(base(DAY_US), 500);
        let unsure = SavedClock {
            node_us: 500,
            wall_us: DAY_US,
        };
        assert_eq!(base_us(Some(unsure), PLAUSIBLE_WALL_US + DAY_US), 500);
        assert_eq!(base_us(None, PLAUSIBLE_WALL_US), 0);
    }

    #[test]
    fn a_saved_clock_is_read_exactly() {
        let mut value = vec![1];
        value.extend_from_slice(&7_u64.to_le_bytes());
        value.extend_from_slice(&9_u64.to_le_bytes());
        assert_eq!(
            SavedClock::decode(&value),
            Some(SavedClock {
                node_us: 7,
                wall_us: 9
            })
        );
        assert_eq!(SavedClock::decode(&value[..16]), None);
        value.push(0);
        assert_eq!(SavedClock::decode(&value), None);
        value.pop();
        value[0] = 2;
        assert_eq!(SavedClock::decode(&value), None);
    }

    #[test]
    fn node_time_never_runs_back() {
        let clock = NodeClock::start(Some(SavedClock {
            node_us: 1_000,
            wall_us: 0,
        }));
        let first = clock.now();
        let second = clock.now();
        assert!(first.at >= Timestamp(1_000) && second.at >= first.at);
    }
}
