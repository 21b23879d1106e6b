//! Which messages of peers arrived last, as the disk knows it: what memory knows of them, in the
//! duplicate cache and of each peer, is filled from it, so that a restart opens no window for
//! duplicates.
//!
//! The log shows the newest messages too, but forgets consumed ones before their senders heard of
//! their arrival: at once where room is short, and after some of them in any case. So the key of a
//! message is on disk *before* it leaves the log: in the batch that removes it, unless it was
//! written earlier. Keys stand in small values, the newest of which is written again as it grows.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use qm_wire::{Class, Entry, Incarnation, MessageId, MessageKey, QmId, Tag};

use crate::commits::Then;
use crate::engine::{ArrivalKey, Engine};
use crate::io::{Recovered, StoreOp};
use crate::limits::RECALLED_MAX;
use crate::record::{StoredMessage, prefixed};
use crate::undone::{UNDONE, undone_key};

/// Names of the values that list arrivals.
const ARRIVALS: &[u8] = b"arrivals/";
const KEY_BYTES: usize = 40;
/// Few, because the newest value is written with every removal that follows an arrival.
const KEYS_PER_VALUE: usize = 32;
/// After so many messages stored, arrivals in no value get into one although they still wait: of
/// its newest messages, sent ones among them, the log shows ten thousand.
const PUTS_MAX: u32 = 1_000;

/// A value that is not durable yet as it stands here, or not full.
#[derive(Debug)]
struct Value {
    number: u64,
    keys: Vec<MessageKey>,
    /// How many of them were handed to the disk.
    written: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// As many keys are kept at least.
    capacity: usize,
    /// Numbers of the values that are complete, the oldest first, and the keys in each.
    complete: VecDeque<(u64, usize)>,
    listed: usize,
    /// The last is the one that grows.
    open: VecDeque<Value>,
    next: u64,
    /// Messages stored since the list was up to date.
    puts: u32,
    /// The disk has no room: nothing is written for its own sake until it takes something.
    full: bool,
}

impl Arrivals {
    fn push(&mut self, key: MessageKey) {
        if self.open.back().is_none_or(Value::is_complete) {
            self.open.push_back(Value {
                number: self.next,
                keys: Vec::with_capacity(KEYS_PER_VALUE),
                written: 0,
            });
            self.next += 1;
        }
        if let Some(value) = self.open.back_mut() {
            value.keys.push(key);
            if value.is_complete() {
                self.complete.push_back((value.number, value.keys.len()));
                self.listed += value.keys.len();
            }
        }
    }

    /// Whether arrivals are in no value that was handed to the disk.
    fn is_behind(&self) -> bool {
        self.open.iter().any(Value::is_behind)
    }

    /// Whether a value should be written although nothing is removed.
    fn is_due(&self) -> bool {
        let complete = |value: &Value| value.is_complete() && value.is_behind();
        !self.full && (self.puts >= PUTS_MAX || self.open.iter().any(complete))
    }

    /// What is to be written, which from now on counts as written.
    fn behind(&mut self) -> Vec<Written> {
        self.puts = 0;
        let behind = self.open.iter_mut().filter(|value| value.is_behind());
        let written = behind.map(|value| {
            value.written = value.keys.len();
            Written {
                number: value.number,
                keys: value.keys.clone(),
            }
        });
        written.collect()
    }

    /// The oldest value, when the younger ones hold enough.
    fn surplus(&mut self) -> Option<u64> {
        let (number, keys) = *self.complete.front()?;
        if self.listed - keys < self.capacity {
            return None;
        }
        self.listed -= keys;
        self.complete.pop_front();
        Some(number)
    }

    /// A value is on disk with this many keys.
    pub(crate) fn durable(&mut self, number: u64, keys: usize) {
        self.full = false;
        self.open
            .retain(|value| value.number != number || keys < KEYS_PER_VALUE);
    }

    /// The disk did not take a value: it goes there again.
    pub(crate) fn refused(&mut self, number: u64) {
        self.full = true;
        for value in self.open.iter_mut().filter(|v| v.number == number) {
            value.written = 0;
        }
    }
}

/// A value as it is handed to the disk.
struct Written {
    number: u64,
    keys: Vec<MessageKey>,
}

impl Written {
    fn key(&self) -> Bytes {
        arrivals_key(self.number)
    }

    fn bytes(&self) -> Bytes {
        self.keys.iter().flat_map(arrival_bytes).collect()
    }

    const fn then(&self) -> Then {
        Then::Listed {
            number: self.number,
            keys: self.keys.len(),
        }
    }
}

impl Value {
    const fn is_complete(&self) -> bool {
        self.keys.len() >= KEYS_PER_VALUE
    }

    const fn is_behind(&self) -> bool {
        self.written < self.keys.len()
    }
}

impl Engine {
    /// A message of a peer is on disk.
    pub(crate) fn list_arrival(&mut self, key: MessageKey) {
        if self.arrivals.capacity > 0 {
            self.arrivals.push(key);
        }
    }

    /// A message of anybody is on disk.
    pub(crate) const fn count_put(&mut self) {
        self.arrivals.puts = self.arrivals.puts.saturating_add(1);
        self.arrivals.full = false;
    }

    /// Puts what the disk does not know of arrivals into the batches that make the log forget.
    pub(crate) fn save_arrivals(&mut self) {
        if !self.arrivals.is_behind() {
            self.arrivals.puts = 0;
            return;
        }
        // A removal from anything that is not an outgoing queue.
        let outs = &self.outs;
        let removes = |op: &StoreOp| match op {
            StoreOp::Remove { stream, .. } => !outs.contains_key(&Self::queue_of(*stream).0),
            _ => false,
        };
        let (settling, putting) = self.commits.any(removes);
        if settling || putting || self.arrivals.is_due() {
            self.write_arrivals(settling || !putting, putting);
        }
    }

    /// Writes what is behind, into which of the two batches is told.
    fn write_arrivals(&mut self, settling: bool, putting: bool) {
        for value in self.arrivals.behind() {
            if settling {
                self.commits.set(value.key(), value.bytes());
                self.commits.after_settling(value.then());
            }
            if putting {
                let (key, bytes) = (value.key(), value.bytes());
                self.commits.put(StoreOp::Set { key, value: bytes });
                self.commits.after_putting(value.then());
            }
        }
        self.drop_surplus();
    }

    /// Drops the oldest values that are too many, as far as the batch takes it: the rest goes with
    /// a later one.
    fn drop_surplus(&mut self) {
        while self.commits.gathered_bytes() < self.config.batch_bytes_max
            && let Some(number) = self.arrivals.surplus()
        {
            self.commits.unset(arrivals_key(number));
        }
    }

    /// Fills the duplicate cache from what arrived last, consumed messages included: from the list,
    /// then from the newest messages in the log, which the list may not have yet.
    pub(crate) fn recall_arrivals(&mut self, recovered: &Recovered) {
        self.arrivals.capacity = match self.config.dedup_capacity {
            0 => 0,
            capacity => capacity.max(RECALLED_MAX),
        };
        let mut undone: BTreeSet<MessageKey> = BTreeSet::new();
        let mut values: Vec<(Option<u64>, &Bytes, &Bytes)> = Vec::new();
        for (key, value) in &recovered.state {
            undone.extend(key.strip_prefix(UNDONE).and_then(read_arrival));
            if let Some(number) = key.strip_prefix(ARRIVALS) {
                let number = number.try_into().ok().map(u64::from_be_bytes);
                values.push((number, key, value));
            }
        }
        // Values without a number of this kind were written by an earlier version: the oldest.
        values.sort_by_key(|(number, ..)| *number);
        let mut known: BTreeSet<MessageKey> = BTreeSet::new();
        let mut arrivals: Vec<MessageKey> = Vec::new();
        for (at, (number, key, value)) in values.iter().enumerate() {
            let keys = value.chunks_exact(KEY_BYTES).filter_map(read_arrival);
            let keys: Vec<MessageKey> = keys.filter(|key| known.insert(*key)).collect();
            arrivals.extend(&keys);
            // Nothing is kept of any when the cache is off.
            let Some(number) = number.filter(|_| self.arrivals.capacity > 0) else {
                keys.into_iter().for_each(|key| self.list_arrival(key));
                self.commits.unset((*key).clone());
                continue;
            };
            self.arrivals.next = self.arrivals.next.max(number.saturating_add(1));
            if at + 1 == values.len() && keys.len() < KEYS_PER_VALUE {
                self.arrivals.open.push_back(Value {
                    number,
                    written: keys.len(),
                    keys,
                });
            } else {
                self.arrivals.listed += keys.len();
                self.arrivals.complete.push_back((number, keys.len()));
            }
        }
        for (_, head) in &recovered.recent {
            let Some(arrival) = self.recall_head(head) else {
                continue;
            };
            if undone.contains(&arrival) {
                self.undone_arrivals.insert(arrival);
            } else if known.insert(arrival) {
                arrivals.push(arrival);
                self.list_arrival(arrival);
            }
        }
        // Those that the log has forgotten need no mark any more.
        let gone = undone.difference(&self.undone_arrivals);
        let gone: Vec<_> = gone.map(undone_key).collect();
        for key in gone {
            self.commits.unset(key);
            self.seal_if_large();
        }
        for key in &arrivals {
            self.recent.insert(key.source, key.entry);
        }
        let now_ms = self.now.at.as_ms();
        let newest = arrivals.len().saturating_sub(self.config.dedup_capacity);
        for key in arrivals.iter().skip(newest) {
            self.dedup.insert_if_absent(ArrivalKey(*key), now_ms);
        }
        for value in self.arrivals.behind() {
            self.commits.set(value.key(), value.bytes());
            self.commits.after_settling(value.then());
            self.seal_if_large();
        }
        // All of it at once only when the list became much shorter than it was.
        self.drop_surplus();
        while self.commits.gathered_bytes() >= self.config.batch_bytes_max {
            self.seal();
            self.drop_surplus();
        }
    }

    /// The arrival that a head in the log tells of, if it does.
    fn recall_head(&mut self, head: &Bytes) -> Option<MessageKey> {
        let stored = StoredMessage::read(head)?;
        let envelope = stored.envelope;
        if self.is_own(envelope.source) {
            // My own earlier lives: their acks are mine to take.
            self.prior_incarnations.insert(envelope.id.incarnation);
            return None;
        }
        if stored.dead.is_some() || envelope.class == Class::Transactional {
            return None;
        }
        // Also when its queue was deleted since: its sender may not have heard of the arrival, and
        // the queue may be there again under its name.
        Some(MessageKey {
            source: envelope.source,
            entry: Entry {
                id: envelope.id,
                tag: stored.tag,
            },
        })
    }
}

fn arrivals_key(number: u64) -> Bytes {
    prefixed(ARRIVALS, &number.to_be_bytes())
}

pub(crate) fn arrival_bytes(key: &MessageKey) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    let Entry { id, tag } = key.entry;
    let parts: [&[u8]; 4] = [
        key.source.as_bytes(),
        &id.incarnation.0.to_le_bytes(),
        &id.sequence.to_le_bytes(),
        &tag.0,
    ];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

pub(crate) fn read_arrival(bytes: &[u8]) -> Option<MessageKey> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let id = MessageId {
        incarnation: Incarnation(u64::from_le_bytes(*incarnation)),
        sequence: u64::from_le_bytes(*sequence),
    };
    let entry = Entry {
        id,
        tag: Tag(rest.try_into().ok()?),
    };
    Some(MessageKey {
        source: QmId::from_bytes(*source),
        entry,
    })
}
