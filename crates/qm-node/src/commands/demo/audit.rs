//! Whether what came is what was sent.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_wire::MessageId;

/// What is wrong, counted. All zero is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Lines that did not arrive.
    pub(super) missing: u64,
    /// Messages that nobody sent.
    pub(super) unexpected: u64,
    /// Lines that arrived with other bytes.
    pub(super) changed: u64,
    /// Lines that arrived behind a later one.
    pub(super) misplaced: u64,
}

impl Verdict {
    /// Compares the lines, with the ids under which they were accepted, to the messages that
    /// arrived: the first arrival of each, in their order.
    pub(super) fn of(lines: &[Bytes], ids: &[MessageId], arrived: &[(MessageId, Bytes)]) -> Self {
        let mut verdict = Self::default();
        let numbers: BTreeMap<MessageId, usize> =
            ids.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let mut expected = 0;
        let mut came = 0_u64;
        for (id, body) in arrived {
            let Some(&number) = numbers.get(id) else {
                verdict.unexpected += 1;
                continue;
            };
            came += 1;
            if lines.get(number) != Some(body) {
                verdict.changed += 1;
            }
            if number < expected {
                verdict.misplaced += 1;
            } else {
                expected = number + 1;
            }
        }
        verdict.missing = (lines.len() as u64).saturating_sub(came);
        verdict
    }

    pub(super) fn is_intact(self) -> bool {
        self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId {
            incarnation: Incarnation(1),
            sequence,
        }
    }

    fn verdict(arrived: &[(u64, &'static str)]) -> Verdict {
        let lines = ["a", "", "a", "d"].map(Bytes::from);
        let ids = [id(10), id(11), id(13), id(14)];
        let arrived: Vec<_> = arrived
            .iter()
            .map(|(sequence, body)| (id(*sequence), Bytes::from(*body)))
            .collect();
        Verdict::of(&lines, &ids, &arrived)
    }

    #[test]
    fn every_fault_is_seen() {
        let fine = [(10, "a"), (11, ""), (13, "a"), (14, "d")];
        assert!(verdict(&fine).is_intact());
        let none = Verdict::default();
        assert_eq!(verdict(&fine[..3]), Verdict { missing: 1, ..none });
        assert_eq!(
            verdict(&[(10, "a"), (13, "a"), (11, ""), (14, "d")]),
            Verdict {
                misplaced: 1,
                ..none
            }
        );
        assert_eq!(
            verdict(&[(10, "a"), (11, "x"), (13, "a"), (14, "d")]),
            Verdict { changed: 1, ..none }
        );
        assert_eq!(
            verdict(&[(10, "a"), (11, ""), (12, "a"), (14, "d")]),
            Verdict {
                missing: 1,
                unexpected: 1,
                ..none
            }
        );
    }
}
