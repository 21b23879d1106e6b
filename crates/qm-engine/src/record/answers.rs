//! What is stored of an application: which of its requests became which messages.
//!
//! It is written with every batch that answers the application, so it is packed: applications that
//! take turns leave a run for each message, and such a run takes some four bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Incarnation, MessageId};

use super::head::{fold, put_varint, take_varint, unfold};
use super::{Run, decode_runs};

const VERSION: u8 = 2;
/// Runs that the version before kept at most.
const RUNS_BEFORE: usize = 1_024;

/// What is stored of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Node time at which it was heard of last, microseconds.
    pub(crate) at_us: u64,
    /// Below this number answers were forgotten.
    pub(crate) forgotten_below: u64,
    pub(crate) runs: Vec<Run>,
}

/// See [`Answers`].
pub(crate) fn encode_answers<'a>(
    at_us: u64,
    forgotten_below: u64,
    runs: impl ExactSizeIterator<Item = &'a Run>,
) -> Bytes {
    let mut to = BytesMut::with_capacity(32 + runs.len() * 4);
    to.put_u8(VERSION);
    to.put_u64_le(at_us);
    to.put_u64_le(forgotten_below);
    let mut next = (0u64, Incarnation(0), 0u64);
    for run in runs {
        let id = run.first_id;
        if id.incarnation != next.1 {
            // No run is empty: this says that a life follows.
            put_varint(&mut to, 0);
            to.put_u64_le(id.incarnation.0);
        }
        let more = run.last.saturating_sub(run.first);
        put_varint(&mut to, more.saturating_add(1));
        put_varint(&mut to, fold(run.first.wrapping_sub(next.0)));
        put_varint(&mut to, fold(id.sequence.wrapping_sub(next.2)));
        next = (
            run.last.wrapping_add(1),
            id.incarnation,
            id.sequence.wrapping_add(more).wrapping_add(1),
        );
    }
    to.freeze()
}

/// Reads [`Answers`] back, also those of the version before.
pub(crate) fn decode_answers(value: &Bytes) -> Option<Answers> {
    if value.first() != Some(&VERSION) {
        let (at_us, _, runs) = decode_runs(value)?;
        let oldest = runs.first().map_or(0, |run| run.first);
        let full = runs.len() >= RUNS_BEFORE;
        return Some(Answers {
            at_us,
            forgotten_below: if full { oldest } else { 0 },
            runs,
        });
    }
    let mut r = value.slice(1..);
    let (at_us, forgotten_below) = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
    let mut runs = Vec::new();
    let mut next = (0u64, Incarnation(0), 0u64);
    while !r.is_empty() {
        let mut count = take_varint(&mut r)?;
        if count == 0 {
            next.1 = Incarnation(r.try_get_u64_le().ok()?);
            count = take_varint(&mut r)?;
        }
        let more = count.checked_sub(1)?;
        let first = next.0.wrapping_add(unfold(take_varint(&mut r)?));
        let sequence = next.2.wrapping_add(unfold(take_varint(&mut r)?));
        let first_id = MessageId {
            incarnation: next.1,
            sequence,
        };
        let last = first.checked_add(more)?;
        runs.push(Run {
            first,
            last,
            first_id,
        });
        next.0 = last.wrapping_add(1);
        next.2 = sequence.wrapping_add(more).wrapping_add(1);
    }
    Some(Answers {
        at_us,
        forgotten_below,
        runs,
    })
}

#[cfg(test)]
mod tests {
    use super::super::encode_runs;
    use super::*;

    fn run(first: u64, last: u64, life: u64, sequence: u64) -> Run {
        let first_id = MessageId {
            incarnation: Incarnation(life),
            sequence,
        };
        Run {
            first,
            last,
            first_id,
        }
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let runs = vec![
            run(1, 1, 9, 5),
            run(2, 400, 9, 7),
            run(900, 900, u64::MAX, 1),
            run(30, 31, u64::MAX, u64::MAX - 5),
            run(u64::MAX - 1, u64::MAX, 3, 2),
            run(0, 0, 0, 0),
        ];
        let answers = Answers {
            at_us: 17,
            forgotten_below: 12,
            runs,
        };
        let value = encode_answers(17, 12, answers.runs.iter());
        assert_eq!(decode_answers(&value), Some(answers));
        assert_eq!(decode_answers(&value.slice(..value.len() - 1)), None);
        assert_eq!(decode_answers(&Bytes::new()), None);
    }

    #[test]
    fn applications_that_take_turns_need_four_bytes_a_message() {
        let runs: Vec<_> = (1..=8_192).map(|n| run(n, n, 7, 2 * n)).collect();
        assert!(encode_answers(1, 0, runs.iter()).len() <= 4 * runs.len());
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read() {
        for (count, forgotten_below) in [(1_023, 0), (1_024, 2)] {
            let runs: Vec<_> = (1..=count).map(|n| run(2 * n, 2 * n, 7, n)).collect();
            let value = encode_runs(9, [0; 16], runs.iter());
            let answers = Answers {
                at_us: 9,
                forgotten_below,
                runs,
            };
            assert_eq!(decode_answers(&value), Some(answers));
        }
    }
}
