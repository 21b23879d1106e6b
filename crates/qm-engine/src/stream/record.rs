//! How streams lie in the store: values of the keyed state, each with a version byte.
//!
//! | name | value |
//! |---|---|
//! | `s/` outgoing queue | stream id, whether unproven or begun anew, destination's store, marks |
//! | `skip/` outgoing queue, position | place, message, outcome, dead letter |
//! | `h/` sender, stream, position, first bytes of a link | a run of links that were taken |
//! | `hs/` sender, stream | its queue, and that ancestors were forgotten |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Entry, Incarnation, Link, MessageId, Outcome, QmId, QueueName, StreamId, Tag};

use crate::record::{prefixed, put_bytes, take_array, take_bytes};
use crate::stream::branches::{RunName, StoredRun, Taken};
use crate::stream::chain::{Mark, Skipping};

const VERSION: u8 = 1;

/// Name of the sender's side of a stream.
pub(crate) fn chain_key(number: u32) -> Bytes {
    prefixed(b"s/", &number.to_be_bytes())
}

/// The outgoing queue of such a name.
pub(crate) fn chain_of(key: &[u8]) -> Option<Option<u32>> {
    let rest = key.strip_prefix(b"s/")?;
    Some(<[u8; 4]>::try_from(rest).ok().map(u32::from_be_bytes))
}

/// Name of a skip that is not answered for.
pub(crate) fn skip_key(number: u32, position: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_slice(b"skip/");
    key.put_u32(number);
    key.put_u64(position);
    key.freeze()
}

/// Outgoing queue of such a name; the position is in the value as well.
pub(crate) fn skip_of(key: &[u8]) -> Option<Option<u32>> {
    let mut rest = key.strip_prefix(b"skip/")?;
    let number = rest.try_get_u32().ok();
    Some(number.filter(|_| rest.len() == 8))
}

/// The sender's side of a stream as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredChain {
    pub(crate) id: StreamId,
    /// Store of the destination, once it was met.
    pub(crate) store: Option<[u8; 16]>,
    /// See [`OutStream::unproven`](crate::stream::sending::OutStream::unproven).
    pub(crate) unproven: bool,
    /// See [`OutStream::begins`](crate::stream::sending::OutStream::begins).
    pub(crate) begins: bool,
    pub(crate) marks: Vec<Mark>,
}

/// The store of the destination is known.
const MET: u8 = 1;
const UNPROVEN: u8 = 2;
const BEGINS: u8 = 4;

impl StoredChain {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(34 + self.marks.len() * 32);
        to.put_u8(VERSION);
        to.put_slice(&self.id.0);
        let met = if self.store.is_some() { MET } else { 0 };
        let unproven = if self.unproven { UNPROVEN } else { 0 };
        let begins = if self.begins { BEGINS } else { 0 };
        to.put_u8(met | unproven | begins);
        to.put_slice(&self.store.unwrap_or_default());
        for mark in &self.marks {
            put_mark(&mut to, mark);
        }
        to.freeze()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut r = version(value)?;
        let id = StreamId(take_array(&mut r)?);
        let flags = r.try_get_u8().ok()?;
        if flags & !(MET | UNPROVEN | BEGINS) != 0 {
            return None;
        }
        let store = take_array(&mut r)?;
        let mut marks = Vec::with_capacity(r.len() / 32);
        while !r.is_empty() {
            marks.push(take_mark(&mut r)?);
        }
        Some(Self {
            id,
            store: (flags & MET != 0).then_some(store),
            unproven: flags & UNPROVEN != 0,
            begins: flags & BEGINS != 0,
            marks,
        })
    }
}

pub(crate) fn encode_skip<F>(skip: &Skipping<F>) -> Bytes {
    let mut to = BytesMut::with_capacity(100);
    to.put_u8(VERSION);
    put_mark(&mut to, &skip.mark);
    to.put_slice(&skip.previous.0);
    put_entry(&mut to, &skip.entry);
    to.put_u16_le(skip.outcome.0);
    to.put_u8(u8::from(skip.letter.is_some()));
    let (letter, bytes) = skip.letter.unwrap_or_default();
    to.put_u64_le(letter);
    to.put_u64_le(bytes);
    to.freeze()
}

pub(crate) fn decode_skip<F>(value: &Bytes) -> Option<Skipping<F>> {
    let mut r = version(value)?;
    let mark = take_mark(&mut r)?;
    let previous = Link(take_array(&mut r)?);
    let entry = take_entry(&mut r)?;
    let outcome = Outcome(r.try_get_u16_le().ok()?);
    let kept = take_bool(&mut r)?;
    let letter = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
    r.is_empty().then_some(Skipping {
        mark,
        previous,
        entry,
        outcome,
        letter: kept.then_some(letter),
        sent: None,
        durable: true,
    })
}

/// Name of a run of links: streams of one sender lie together.
pub(crate) fn run_key((source, stream): &(QmId, StreamId), (first, link): RunName) -> Bytes {
    let mut key = BytesMut::with_capacity(50);
    key.put_slice(b"h/");
    key.put_slice(source.as_bytes());
    key.put_slice(&stream.0);
    key.put_u64(first);
    // Two branches may begin at one position.
    key.put_slice(link.0.first_chunk::<8>().unwrap_or(&[0; 8]));
    key.freeze()
}

/// Name of what is known of a whole stream.
pub(crate) fn stream_key((source, stream): &(QmId, StreamId)) -> Bytes {
    let mut key = BytesMut::with_capacity(35);
    key.put_slice(b"hs/");
    key.put_slice(source.as_bytes());
    key.put_slice(&stream.0);
    key.freeze()
}

/// The stream that such a name, of a run or a whole stream, names.
pub(crate) fn stream_of_key(key: &[u8], prefix: &[u8]) -> Option<Option<(QmId, StreamId)>> {
    let rest = key.strip_prefix(prefix)?;
    let split = rest.split_first_chunk::<16>();
    let named = split.and_then(|(source, rest)| {
        let stream = rest.first_chunk::<16>()?;
        Some((QmId::from_bytes(*source), StreamId(*stream)))
    });
    Some(named)
}

pub(crate) fn encode_stream(queue: &QueueName, dropped: bool) -> Bytes {
    let mut to = BytesMut::new();
    to.put_u8(VERSION);
    to.put_u8(u8::from(dropped));
    put_bytes(&mut to, queue.as_bytes());
    to.freeze()
}

/// The queue of a stream, and whether ancestors were forgotten.
pub(crate) fn decode_stream(value: &Bytes) -> Option<(QueueName, bool)> {
    let mut r = version(value)?;
    let dropped = take_bool(&mut r)?;
    let queue = QueueName::from_bytes(take_bytes(&mut r)?).ok()?;
    r.is_empty().then_some((queue, dropped))
}

/// A run: 10 bytes a message as a rule. Lives are written where they change, sequences as what was
/// added to the one before, links not at all: they follow from the tags.
pub(crate) fn encode_run(run: &StoredRun) -> Bytes {
    let mut to = BytesMut::with_capacity(40 + run.taken.len() * 10);
    to.put_u8(VERSION);
    to.put_u64_le(run.first);
    to.put_slice(&run.before.0);
    to.put_u64_le(run.at_us);
    let mut last = MessageId {
        incarnation: Incarnation(0),
        sequence: 0,
    };
    for taken in &run.taken {
        let Entry { id, tag } = taken.entry;
        let step = id.sequence.checked_sub(last.sequence);
        let short = step.and_then(|step| u8::try_from(step).ok());
        let short = short.filter(|_| id.incarnation == last.incarnation);
        let skipped = if taken.skipped.0 == 0 { 0 } else { SKIPPED };
        to.put_u8(skipped | if short.is_none() { NAMED } else { 0 });
        match short {
            Some(step) => to.put_u8(step),
            None => {
                to.put_u64_le(id.incarnation.0);
                to.put_u64_le(id.sequence);
            }
        }
        to.put_slice(&tag.0);
        if taken.skipped.0 != 0 {
            to.put_u16_le(taken.skipped.0);
        }
        last = id;
    }
    to.freeze()
}

/// A skip stands there, its outcome follows.
const SKIPPED: u8 = 1;
/// Life and sequence are written out.
const NAMED: u8 = 2;

pub(crate) fn decode_run(value: &Bytes) -> Option<StoredRun> {
    let mut r = version(value)?;
    let first = r.try_get_u64_le().ok()?;
    let before = Link(take_array(&mut r)?);
    let at_us = r.try_get_u64_le().ok()?;
    let mut taken = Vec::with_capacity(r.len() / 10);
    let mut id = MessageId {
        incarnation: Incarnation(0),
        sequence: 0,
    };
    while !r.is_empty() {
        let flags = r.try_get_u8().ok()?;
        if flags & !(SKIPPED | NAMED) != 0 {
            return None;
        }
        if flags & NAMED == 0 {
            let step = u64::from(r.try_get_u8().ok()?);
            id.sequence = id.sequence.checked_add(step)?;
        } else {
            id.incarnation = Incarnation(r.try_get_u64_le().ok()?);
            id.sequence = r.try_get_u64_le().ok()?;
        }
        let tag = Tag(take_array(&mut r)?);
        let skipped = if flags & SKIPPED == 0 {
            Outcome(0)
        } else {
            Outcome(r.try_get_u16_le().ok().filter(|outcome| *outcome != 0)?)
        };
        let entry = Entry { id, tag };
        taken.push(Taken { entry, skipped });
    }
    // A run that would pass the end of all positions was never written.
    first.checked_add(taken.len() as u64)?;
    (first > 0 && !taken.is_empty()).then_some(StoredRun {
        first,
        before,
        at_us,
        taken,
    })
}

fn version(value: &Bytes) -> Option<Bytes> {
    let mut r = value.clone();
    (r.try_get_u8().ok()? == VERSION).then_some(r)
}

fn take_bool(r: &mut Bytes) -> Option<bool> {
    match r.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put_mark(to: &mut BytesMut, mark: &Mark) {
    to.put_u64_le(mark.at);
    to.put_u64_le(mark.position);
    to.put_slice(&mark.link.0);
}

fn take_mark(r: &mut Bytes) -> Option<Mark> {
    Some(Mark {
        at: r.try_get_u64_le().ok()?,
        position: r.try_get_u64_le().ok()?,
        link: Link(take_array(r)?),
    })
}

fn put_entry(to: &mut BytesMut, entry: &Entry) {
    to.put_u64_le(entry.id.incarnation.0);
    to.put_u64_le(entry.id.sequence);
    to.put_slice(&entry.tag.0);
}

fn take_entry(r: &mut Bytes) -> Option<Entry> {
    let incarnation = Incarnation(r.try_get_u64_le().ok()?);
    let sequence = r.try_get_u64_le().ok()?;
    let id = MessageId {
        incarnation,
        sequence,
    };
    let tag = Tag(take_array(r)?);
    Some(Entry { id, tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(n: u8) -> Mark {
        Mark {
            at: u64::from(n) << 40,
            position: u64::from(n),
            link: Link([n; 16]),
        }
    }

    #[test]
    fn a_sender_s_values_come_back_as_they_were() {
        for flags in 0..8 {
            let chain = StoredChain {
                id: StreamId([4; 16]),
                store: (flags & 1 != 0).then_some([7; 16]),
                unproven: flags & 2 != 0,
                begins: flags & 4 != 0,
                marks: vec![mark(1), mark(3)],
            };
            let value = chain.encode();
            assert_eq!(StoredChain::decode(&value), Some(chain));
            assert_eq!(StoredChain::decode(&value.slice(..value.len() - 1)), None);
        }
        let id = MessageId {
            incarnation: Incarnation(5),
            sequence: 6,
        };
        for letter in [None, Some((8, 9))] {
            let skip = Skipping::<()> {
                mark: mark(2),
                previous: Link([3; 16]),
                entry: Entry {
                    id,
                    tag: Tag([7; 8]),
                },
                outcome: Outcome::PURGED_IN_TRANSIT,
                letter,
                sent: None,
                durable: true,
            };
            assert_eq!(decode_skip(&encode_skip(&skip)), Some(skip));
        }
        assert_eq!(chain_of(&chain_key(5)), Some(Some(5)));
        assert_eq!(skip_of(&skip_key(5, 6)), Some(Some(5)));
        assert_eq!(skip_of(b"other/"), None);
    }
    #[test]
    fn a_receiver_s_values_come_back_as_they_were() {
        let taken = |incarnation, sequence, skipped| Taken {
            entry: Entry {
                id: MessageId {
                    incarnation: Incarnation(incarnation),
                    sequence,
                },
                tag: Tag([7; 8]),
            },
            skipped: Outcome(skipped),
        };
        let run = StoredRun {
            first: 9,
            before: Link([8; 16]),
            at_us: 77,
            taken: vec![
                taken(5, 1_000, 0),
                taken(5, 1_001, 0x8001),
                taken(5, 900, 0),
                taken(6, 901, 0x8002),
                taken(6, 1_156, 0),
                taken(6, 1_413, 0),
            ],
        };
        let value = encode_run(&run);
        assert_eq!(decode_run(&value), Some(run.clone()));
        for cut in 0..value.len() {
            assert_ne!(decode_run(&value.slice(..cut)), Some(run.clone()), "{cut}");
        }
        let key = (QmId::from_bytes([1; 16]), StreamId([2; 16]));
        let name = run_key(&key, (9, Link([3; 16])));
        assert_eq!(stream_of_key(&name, b"h/"), Some(Some(key)));
        assert_eq!(stream_of_key(&stream_key(&key), b"hs/"), Some(Some(key)));
        let queue: QueueName = "orders".parse().unwrap();
        let value = encode_stream(&queue, true);
        assert_eq!(decode_stream(&value), Some((queue, true)));
    }
}
