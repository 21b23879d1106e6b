//! Heads of stored messages: what a node knows of one beside its envelope, and the envelope.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Outcome, QmId, Tag, Text};

use super::{put_bytes, take_array, take_text};

/// The first version of heads; read, no longer written.
const VERSION: u8 = 1;
/// Version of heads whose dead letters tell more than the reason; read, no longer written.
const DEAD_VERSION: u8 = 2;
/// Version of the heads that are written: what the envelope says already is left out.
const BRIEF_VERSION: u8 = 3;

/// Flags of a head: a dead letter; wall clock, time to reach the queue and time to be received are
/// not those of the envelope.
const DEAD: u8 = 1;
const OWN_WALL: u8 = 2;
const OWN_REACH: u8 = 4;
const OWN_RECEIVE: u8 = 8;
const FLAGS: u8 = DEAD | OWN_WALL | OWN_REACH | OWN_RECEIVE;

/// Where an envelope has its wall clock, time to reach the queue and time to be received. Only
/// brevity depends on it: whatever stands there, what is read back is what was written.
const ENVELOPE_TIMES: [usize; 3] = [52, 60, 68];

/// Bytes of a stored head before the envelope, for a message that is no dead letter and was
/// accepted here, with a node time below two months.
pub(crate) const HEAD_BYTES: u64 = 1 + 1 + 8 + 6;

/// What a node knows of a stored message beside its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredHead {
    pub(crate) tag: Tag,
    /// Node time of acceptance or arrival, microseconds.
    pub(crate) at_us: u64,
    /// Wall clock then, microseconds; for people.
    pub(crate) wall_us: u64,
    /// Time left to reach the queue at `at_us`.
    pub(crate) reach_left_ms: u64,
    /// Time left to be received at `at_us`.
    pub(crate) receive_left_ms: u64,
    /// Why it is here, for dead letters.
    pub(crate) dead: Option<DeadReason>,
    pub(crate) envelope: Bytes,
}

/// Provenance of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadReason {
    pub(crate) outcome: Outcome,
    /// The original destination, as it would be written again.
    pub(crate) destination: Text,
    /// Whether the message may have been delivered or received all the same.
    pub(crate) uncertain: bool,
    /// The queue manager whose word it is.
    pub(crate) by: QmId,
}

/// What is stored beside a message's body, for tools and tests that look into a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The message's envelope.
    pub envelope: qm_wire::Envelope,
    /// Its tag.
    pub tag: Tag,
    /// Why it is a dead letter, if it is one.
    pub dead: Option<Outcome>,
}

impl StoredMessage {
    /// Understands the head of a stored record; `None` when it is damaged or of a later version.
    #[must_use]
    pub fn read(head: &Bytes) -> Option<Self> {
        let head = StoredHead::decode(head)?;
        let envelope = qm_wire::Envelope::decode(&head.envelope).ok()?;
        Some(Self {
            envelope,
            tag: head.tag,
            dead: head.dead.map(|dead| dead.outcome),
        })
    }
}

impl StoredHead {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(48 + self.envelope.len());
        let own = [self.wall_us, self.reach_left_ms, self.receive_left_ms];
        let told = envelope_times(&self.envelope);
        let mut flags = if self.dead.is_some() { DEAD } else { 0 };
        for (flag, (own, told)) in OWN.into_iter().zip(own.into_iter().zip(told)) {
            flags |= if own == told { 0 } else { flag };
        }
        to.put_u8(BRIEF_VERSION);
        to.put_u8(flags);
        to.put_slice(&self.tag.0);
        put_varint(&mut to, self.at_us);
        for (own, told) in own.into_iter().zip(told) {
            if own != told {
                put_varint(&mut to, fold(own.wrapping_sub(told)));
            }
        }
        if let Some(dead) = &self.dead {
            to.put_u16_le(dead.outcome.0);
            put_bytes(&mut to, dead.destination.as_bytes());
            to.put_u8(u8::from(dead.uncertain));
            to.put_slice(dead.by.as_bytes());
        }
        to.put_slice(&self.envelope);
        to.freeze()
    }

    pub(crate) fn decode(head: &Bytes) -> Option<Self> {
        let mut r = head.clone();
        match r.try_get_u8().ok()? {
            BRIEF_VERSION => Self::decode_brief(r),
            version @ (VERSION | DEAD_VERSION) => Self::decode_long(r, version),
            _ => None,
        }
    }

    fn decode_brief(mut r: Bytes) -> Option<Self> {
        let flags = r.try_get_u8().ok()?;
        if flags & !FLAGS != 0 {
            return None;
        }
        let tag = Tag(take_array(&mut r)?);
        let at_us = take_varint(&mut r)?;
        let mut times = [0; 3];
        for (flag, time) in OWN.into_iter().zip(&mut times) {
            if flags & flag != 0 {
                *time = unfold(take_varint(&mut r)?);
            }
        }
        let dead = if flags & DEAD == 0 {
            None
        } else {
            Some(DeadReason {
                outcome: Outcome(r.try_get_u16_le().ok()?),
                destination: take_text(&mut r)?,
                uncertain: r.try_get_u8().ok()? & 1 != 0,
                by: QmId::from_bytes(take_array(&mut r)?),
            })
        };
        for (time, told) in times.iter_mut().zip(envelope_times(&r)) {
            *time = time.wrapping_add(told);
        }
        let [wall_us, reach_left_ms, receive_left_ms] = times;
        Some(Self {
            tag,
            at_us,
            wall_us,
            reach_left_ms,
            receive_left_ms,
            dead,
            envelope: r,
        })
    }

    /// Heads as earlier versions wrote them.
    fn decode_long(mut r: Bytes, version: u8) -> Option<Self> {
        let tag = Tag(take_array(&mut r)?);
        let at_us = r.try_get_u64_le().ok()?;
        let wall_us = r.try_get_u64_le().ok()?;
        let reach_left_ms = r.try_get_u64_le().ok()?;
        let receive_left_ms = r.try_get_u64_le().ok()?;
        let outcome = Outcome(r.try_get_u16_le().ok()?);
        let dead = if outcome.0 == 0 {
            None
        } else {
            let destination = take_text(&mut r)?;
            // The first version did not tell whose word it was, nor whether it was certain.
            let (uncertain, by) = if version == VERSION {
                (false, QmId::from_bytes([0; 16]))
            } else {
                let flags = r.try_get_u8().ok()?;
                (flags & 1 != 0, QmId::from_bytes(take_array(&mut r)?))
            };
            Some(DeadReason {
                outcome,
                destination,
                uncertain,
                by,
            })
        };
        Some(Self {
            tag,
            at_us,
            wall_us,
            reach_left_ms,
            receive_left_ms,
            dead,
            envelope: r,
        })
    }
}

const OWN: [u8; 3] = [OWN_WALL, OWN_REACH, OWN_RECEIVE];

fn envelope_times(envelope: &[u8]) -> [u64; 3] {
    ENVELOPE_TIMES.map(|at| {
        let time = envelope.get(at..).and_then(|rest| rest.first_chunk::<8>());
        time.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    })
}

/// Small differences, up or down, become small numbers.
pub(super) const fn fold(difference: u64) -> u64 {
    (difference << 1) ^ 0u64.wrapping_sub(difference >> 63)
}

pub(super) const fn unfold(folded: u64) -> u64 {
    (folded >> 1) ^ 0u64.wrapping_sub(folded & 1)
}

/// Seven bits a byte, lowest first, the eighth set on all but the last.
pub(super) fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.put_u8(value.to_le_bytes()[0]);
}

pub(super) fn take_varint(from: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << shift;
        if shifted >> shift != bits {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use qm_wire::{Incarnation, MessageId};

    use super::*;

    #[test]
    fn heads_come_back_as_they_were() {
        let head = letter();
        assert_eq!(StoredHead::decode(&head.encode()), Some(head.clone()));
        assert_eq!(StoredHead::decode(&head.encode().slice(..20)), None);
    }

    /// A head as the first two versions wrote it.
    fn long(head: &StoredHead, version: u8) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(version);
        to.put_slice(&head.tag.0);
        for number in [
            head.at_us,
            head.wall_us,
            head.reach_left_ms,
            head.receive_left_ms,
        ] {
            to.put_u64_le(number);
        }
        to.put_u16_le(head.dead.as_ref().map_or(0, |dead| dead.outcome.0));
        if let Some(dead) = &head.dead {
            put_bytes(&mut to, dead.destination.as_bytes());
            if version == DEAD_VERSION {
                to.put_u8(u8::from(dead.uncertain));
                to.put_slice(dead.by.as_bytes());
            }
        }
        to.put_slice(&head.envelope);
        to.freeze()
    }

    fn letter() -> StoredHead {
        StoredHead {
            tag: Tag([1; 8]),
            at_us: 2,
            wall_us: 3,
            reach_left_ms: 4,
            receive_left_ms: u64::MAX,
            dead: Some(DeadReason {
                outcome: Outcome::ACCESS_DENIED,
                destination: "qm://b/orders".into(),
                uncertain: true,
                by: QmId::from_bytes([4; 16]),
            }),
            envelope: Bytes::from_static(b"envelope"),
        }
    }

    #[test]
    fn heads_of_earlier_versions_are_still_read() {
        let mut head = letter();
        assert_eq!(StoredHead::decode(&long(&head, 2)), Some(head.clone()));
        let dead = head.dead.as_mut().unwrap();
        (dead.uncertain, dead.by) = (false, QmId::from_bytes([0; 16]));
        assert_eq!(StoredHead::decode(&long(&head, 1)), Some(head.clone()));
        head.dead = None;
        assert_eq!(StoredHead::decode(&long(&head, 1)), Some(head.clone()));
        let mut later = head.encode().to_vec();
        for (at, byte) in [(0, BRIEF_VERSION + 1), (1, FLAGS + 1)] {
            let before = std::mem::replace(&mut later[at], byte);
            assert_eq!(StoredHead::decode(&later.clone().into()), None);
            later[at] = before;
        }
    }

    #[test]
    fn what_the_envelope_says_is_not_stored_again_and_comes_back_all_the_same() {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence: 2,
        };
        let mut envelope = qm_wire::Envelope::new(
            QmId::from_bytes([3; 16]),
            id,
            qm_wire::Salt([4; 16]),
            qm_wire::Class::Recoverable,
            "orders".parse().unwrap(),
        );
        envelope.sent_at_us = 1_764_000_000_000_000;
        envelope.time_to_reach_queue_ms = 345_600_000;
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).unwrap();
        let accepted = StoredHead {
            at_us: (1 << 42) - 1,
            wall_us: envelope.sent_at_us,
            reach_left_ms: envelope.time_to_reach_queue_ms,
            receive_left_ms: envelope.time_to_be_received_ms,
            dead: None,
            envelope: encoded.freeze(),
            ..letter()
        };
        let own = accepted.encode().len() - accepted.envelope.len();
        assert_eq!(own as u64, HEAD_BYTES);
        // Later, at another node whose clock is behind.
        let mut arrived = accepted.clone();
        arrived.wall_us -= 1_000_000;
        arrived.reach_left_ms = u64::MAX;
        arrived.receive_left_ms = 0;
        let extremes = StoredHead {
            at_us: u64::MAX,
            wall_us: 0,
            ..letter()
        };
        for head in [accepted, arrived, extremes] {
            let stored = head.encode();
            assert_eq!(StoredHead::decode(&stored), Some(head.clone()));
            let own = stored.len() - head.envelope.len();
            for cut in 0..own {
                assert_eq!(StoredHead::decode(&stored.slice(..cut)), None, "{cut}");
            }
        }
    }
}
