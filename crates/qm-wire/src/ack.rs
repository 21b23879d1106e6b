//! Acknowledgements, refusals, questions and answers about messages.

use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, put_count};
use crate::id::{Entry, Incarnation, MessageId, QmId, Tag};
use crate::limits::{ACK_RANGES_MAX, ENTRIES_MAX, WINDOW_MESSAGES_MAX};
use crate::outcome::Outcome;

/// Messages of this session arrived to their class; named by ranges of the session's own message
/// numbers and a hash over their tags, so that an ack can never be applied by position alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionAck {
    /// Whether these messages had arrived before (a duplicate is acknowledged again, or its
    /// sender would retry for ever).
    pub duplicate: bool,
    /// [`tag_hash`] over the tags in the order of the numbers (W-ACK-3).
    pub tag_hash: u64,
    /// First and last message number of each range, ascending, not touching.
    pub ranges: Vec<(u64, u64)>,
}

/// Hash over tags in the order of their message numbers (W-TAG-3): xxh3-64 of the concatenated
/// tags.
///
/// It guards against faults (a shifted window, two clones spliced into one connection), not
/// against the authenticated peer, who could compute it anyway.
#[derive(Clone, Default)]
pub struct TagHash(xxhash_rust::xxh3::Xxh3);

impl TagHash {
    /// Adds the next tag.
    pub fn push(&mut self, tag: Tag) {
        self.0.update(&tag.0);
    }

    /// The hash so far.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

impl core::fmt::Debug for TagHash {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("TagHash").field(&self.finish()).finish()
    }
}

/// [`TagHash`] of a list of tags.
#[must_use]
pub fn tag_hash(tags: impl IntoIterator<Item = Tag>) -> u64 {
    let mut hash = TagHash::default();
    for tag in tags {
        hash.push(tag);
    }
    hash.finish()
}

/// Messages arrived to their class, said off the session they came on: names the queue manager
/// that minted them and every (incarnation, sequence, tag), never a position (W-ACK-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedAck {
    /// Whose messages these are.
    pub source: QmId,
    /// Whether they had arrived before.
    pub duplicate: bool,
    /// The messages.
    pub entries: Vec<Entry>,
}

/// Answer to a routed ack: this node does not hold these messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHeld {
    /// The source that the ack named.
    pub source: QmId,
    /// Each entry, and whether its incarnation was ever this node's.
    pub entries: Vec<(Entry, bool)>,
}

/// What became of these messages?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Whose messages these are.
    pub source: QmId,
    /// Whether the destination shall durably refuse those it does not have.
    pub void: bool,
    /// The messages.
    pub entries: Vec<Entry>,
}

/// What a destination knows of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// It arrived to its class.
    Delivered,
    /// It arrived and is being stored.
    InFlight,
    /// Nothing is known of it; it may be sent again.
    Unknown,
    /// It ended otherwise.
    Outcome(Outcome),
}

/// Answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The source that the query named.
    pub source: QmId,
    /// Each entry and what is known of it.
    pub entries: Vec<(Entry, Known)>,
}

/// One refused transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The session's message number.
    pub number: u64,
    /// The message's tag.
    pub tag: Tag,
    /// Why.
    pub outcome: Outcome,
}

/// Transmissions of this session are refused (W-ACK-7, W-USE-9). Valid only on the session of the
/// transmission it answers: a late one would kill what was delivered since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The transmissions.
    pub refusals: Vec<Refusal>,
}

pub(crate) const ENTRY_BYTES: usize = 24;

pub(crate) fn put_entry(to: &mut BytesMut, entry: &Entry) {
    to.put_u64_le(entry.id.incarnation.0);
    to.put_u64_le(entry.id.sequence);
    to.put_slice(&entry.tag.0);
}

pub(crate) fn read_entry(r: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let incarnation = Incarnation(r.u64("incarnation")?);
    let sequence = r.u64("sequence")?;
    let tag = Tag(r.array("tag")?);
    Ok(Entry {
        id: MessageId {
            incarnation,
            sequence,
        },
        tag,
    })
}

/// W-ACK-4.
fn entries_not_empty(n: usize) -> Result<usize, DecodeError> {
    if n == 0 {
        Err(DecodeError::Invalid {
            what: "number of entries",
            value: 0,
        })
    } else {
        Ok(n)
    }
}

impl SessionAck {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u8(u8::from(self.duplicate));
        to.put_u64_le(self.tag_hash);
        let ranges = self.ranges.get(..ACK_RANGES_MAX).unwrap_or(&self.ranges);
        put_count(to, ranges.len());
        for (first, last) in ranges {
            to.put_u64_le(*first);
            to.put_u64_le(*last);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const WHAT: &str = "acknowledged range";
        let duplicate = r.bool("duplicate flag")?;
        let tag_hash = r.u64("tag hash")?;
        let n = entries_not_empty(r.count(ACK_RANGES_MAX, 16, "acknowledged ranges")?)?;
        let mut ranges = Vec::with_capacity(n);
        let mut previous: Option<(u64, u64)> = None;
        for _ in 0..n {
            let (first, last) = (r.u64(WHAT)?, r.u64(WHAT)?);
            if first == 0 || first > last {
                return Err(DecodeError::Invalid {
                    what: WHAT,
                    value: first,
                });
            }
            // W-ACK-1: touching ranges have a shorter form, so they are not canonical.
            if previous.is_some_and(|(_, end)| first <= end.saturating_add(1)) {
                return Err(DecodeError::NotCanonical { what: WHAT });
            }
            previous = Some((first, last));
            ranges.push((first, last));
        }
        let span = match (ranges.first(), ranges.last()) {
            (Some((first, _)), Some((_, last))) => last.saturating_sub(*first).saturating_add(1),
            _ => 0,
        };
        // W-ACK-2: whoever applies an ack walks through its numbers.
        if span > WINDOW_MESSAGES_MAX {
            let limit = WINDOW_MESSAGES_MAX;
            return Err(DecodeError::OverLimit {
                what: "acknowledged span",
                value: span,
                limit,
            });
        }
        Ok(Self {
            duplicate,
            tag_hash,
            ranges,
        })
    }

    /// Acks for these messages, as few as the limits allow.
    ///
    /// Give the arrivals in the order of their numbers; one that is out of order only costs a
    /// frame of its own. Each frame keeps [`ACK_RANGES_MAX`] and [`WINDOW_MESSAGES_MAX`].
    pub fn cover(duplicate: bool, arrivals: impl IntoIterator<Item = (u64, Tag)>) -> Vec<Self> {
        let mut acks = Vec::new();
        let mut hash = TagHash::default();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (number, tag) in arrivals {
            let first = ranges.first().map(|(first, _)| *first);
            let end = ranges.last().map(|(_, last)| *last);
            let follows = end.and_then(|end| end.checked_add(1)) == Some(number);
            let span = first.and_then(|first| number.checked_sub(first));
            let fits = end.is_none_or(|end| number > end)
                && span.is_none_or(|span| span < WINDOW_MESSAGES_MAX)
                && (follows || ranges.len() < ACK_RANGES_MAX);
            if !fits {
                acks.push(Self {
                    duplicate,
                    tag_hash: core::mem::take(&mut hash).finish(),
                    ranges: core::mem::take(&mut ranges),
                });
            }
            hash.push(tag);
            match ranges.last_mut() {
                Some(last) if follows && fits => last.1 = number,
                _ => ranges.push((number, number)),
            }
        }
        if !ranges.is_empty() {
            let tag_hash = hash.finish();
            acks.push(Self {
                duplicate,
                tag_hash,
                ranges,
            });
        }
        acks
    }

    /// The message numbers named, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl RoutedAck {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[Entry]) {
        to.put_slice(self.source.as_bytes());
        to.put_u8(u8::from(self.duplicate));
        put_count(to, entries.len());
        for entry in entries {
            put_entry(to, entry);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let source = QmId::from_bytes(r.array("source")?);
        let duplicate = r.bool("duplicate flag")?;
        let n = entries_not_empty(r.count(ENTRIES_MAX, ENTRY_BYTES, "entries")?)?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            entries.push(read_entry(r)?);
        }
        Ok(Self {
            source,
            duplicate,
            entries,
        })
    }
}

impl NotHeld {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[(Entry, bool)]) {
        to.put_slice(self.source.as_bytes());
        put_count(to, entries.len());
        for (entry, ever_mine) in entries {
            put_entry(to, entry);
            to.put_u8(u8::from(*ever_mine));
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let source = QmId::from_bytes(r.array("source")?);
        let n =
            entries_not_empty(r.count(ENTRIES_MAX, ENTRY_BYTES.saturating_add(1), "entries")?)?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            entries.push((read_entry(r)?, r.bool("ever mine")?));
        }
        Ok(Self { source, entries })
    }
}

impl Query {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[Entry]) {
        to.put_slice(self.source.as_bytes());
        to.put_u8(u8::from(self.void));
        put_count(to, entries.len());
        for entry in entries {
            put_entry(to, entry);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let source = QmId::from_bytes(r.array("source")?);
        let void = r.bool("void flag")?;
        let n = entries_not_empty(r.count(ENTRIES_MAX, ENTRY_BYTES, "entries")?)?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            entries.push(read_entry(r)?);
        }
        Ok(Self {
            source,
            void,
            entries,
        })
    }
}

impl Known {
    const fn codes(self) -> (u8, u16) {
        match self {
            Self::Delivered => (1, 0),
            Self::InFlight => (2, 0),
            Self::Unknown => (3, 0),
            Self::Outcome(outcome) => (4, outcome.0),
        }
    }

    /// W-ACK-6.
    const fn from_codes(known: u8, outcome: u16) -> Result<Self, DecodeError> {
        match (known, outcome) {
            (1, 0) => Ok(Self::Delivered),
            (2, 0) => Ok(Self::InFlight),
            (3, 0) => Ok(Self::Unknown),
            (4, outcome) => Ok(Self::Outcome(Outcome(outcome))),
            _ => Err(DecodeError::Invalid {
                what: "answer",
                value: known as u64,
            }),
        }
    }
}

impl Answer {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[(Entry, Known)]) {
        to.put_slice(self.source.as_bytes());
        put_count(to, entries.len());
        for (entry, known) in entries {
            put_entry(to, entry);
            let (known, outcome) = known.codes();
            to.put_u8(known);
            to.put_u16_le(outcome);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let source = QmId::from_bytes(r.array("source")?);
        let n =
            entries_not_empty(r.count(ENTRIES_MAX, ENTRY_BYTES.saturating_add(3), "entries")?)?;
        let mut entries = Vec::with_capacity(n);
        for _ in 0..n {
            let entry = read_entry(r)?;
            entries.push((
                entry,
                Known::from_codes(r.u8("answer")?, r.u16("outcome")?)?,
            ));
        }
        Ok(Self { source, entries })
    }
}

impl Reject {
    pub(crate) fn write(to: &mut BytesMut, refusals: &[Refusal]) {
        put_count(to, refusals.len());
        for refusal in refusals {
            to.put_u64_le(refusal.number);
            to.put_slice(&refusal.tag.0);
            to.put_u16_le(refusal.outcome.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let n = entries_not_empty(r.count(ENTRIES_MAX, 18, "refusals")?)?;
        let mut refusals = Vec::with_capacity(n);
        for _ in 0..n {
            let number = r.u64("message number")?;
            let tag = Tag(r.array("tag")?);
            if number == 0 {
                return Err(DecodeError::Invalid {
                    what: "message number",
                    value: 0,
                });
            }
            refusals.push(Refusal {
                number,
                tag,
                outcome: Outcome(r.u16("outcome")?),
            });
        }
        Ok(Self { refusals })
    }
}
