//! How often messages were handed out, on disk before their bodies leave.
//!
//! For each stream one small value holds a mark, below which every message was handed out at least
//! once, and runs of those that were handed out more often, or out of turn. It is written with
//! whatever goes to the disk anyway: a batch of hand-outs costs one such value, not one for each
//! message. What a receiver waits for is marked with the message's own commit, and a busy receiver
//! finds the next messages marked already; so a hand-out seldom waits for the disk. The price is
//! that after a crash a few messages seem handed out that were about to be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::local::NodeFrame;

use crate::backlog::Backlog;
use crate::commits::Then;
use crate::engine::Engine;
use crate::io::{ConnId, Output, StoreOp, StreamId};
use crate::limits::{HANDED_AHEAD_MAX, HANDED_RUNS_MAX};
use crate::queues::{LocalQueue, lookup_of};
use crate::record::prefixed;

/// Names of the values that say how often messages of a stream were handed out.
const HANDED: &[u8] = b"handed/";
const VERSION: u8 = 1;

/// Requests that are looked at to guess whether a message will be handed out at once.
const WAITERS_LOOKED_AT: usize = 8;

/// What is handed out once it is on disk that it was.
#[derive(Debug)]
pub(crate) struct HandOut {
    pub(crate) conn: ConnId,
    pub(crate) frames: Vec<NodeFrame>,
    pub(crate) streams: BTreeSet<StreamId>,
}

/// See the module; of one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Messages below may have been handed out in an earlier life.
    found: u64,
    /// Messages below were handed out in this life, or in an earlier one.
    handed_to: u64,
    /// Messages below count as handed out after a crash, once what is gathered is on disk.
    marked: u64,
    /// The same, on disk.
    durable: u64,
    /// Messages handed out in turn since the value was written.
    since: u64,
    /// Runs of messages by first position: last position, and how often each was handed out.
    again: BTreeMap<u64, (u64, u32)>,
}

impl Handed {
    fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(9 + self.again.len() * 20);
        to.put_u8(VERSION);
        to.put_u64_le(self.marked);
        for (first, (last, times)) in &self.again {
            to.put_u64_le(*first);
            to.put_u64_le(*last);
            to.put_u32_le(*times);
        }
        to.freeze()
    }

    fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let marked = r.try_get_u64_le().ok()?;
        let mut again = BTreeMap::new();
        let mut end = None;
        while !r.is_empty() {
            let (first, last) = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
            let times = r.try_get_u32_le().ok()?;
            if first > last || end.is_some_and(|end| first <= end) {
                return None;
            }
            end = Some(last);
            again.insert(first, (last, times));
        }
        Some(Self {
            found: marked,
            handed_to: marked,
            marked,
            durable: marked,
            since: 0,
            again,
        })
    }

    /// How often a message was handed out before this life began.
    pub(crate) fn times(&self, position: u64) -> u32 {
        match self.again.range(..=position).next_back() {
            Some((_, (last, times))) if *last >= position => *times,
            _ => u32::from(position < self.found),
        }
    }

    /// Notes that one message was handed out so often.
    fn set(&mut self, position: u64, times: u32) {
        if let Some((first, (last, same))) = self
            .again
            .range(..=position)
            .next_back()
            .map(|(first, run)| (*first, *run))
            && last >= position
        {
            if same == times {
                return;
            }
            self.again.remove(&first);
            if first < position {
                self.again.insert(first, (position - 1, same));
            }
            if position < last {
                self.again.insert(position + 1, (last, same));
            }
        }
        let (mut first, mut last) = (position, position);
        if let Some((before, (end, same))) = self
            .again
            .range(..position)
            .next_back()
            .map(|(before, run)| (*before, *run))
            && end.checked_add(1) == Some(position)
            && same == times
        {
            self.again.remove(&before);
            first = before;
        }
        if let Some(next) = position.checked_add(1)
            && let Some((end, same)) = self.again.get(&next).copied()
            && same == times
        {
            self.again.remove(&next);
            last = end;
        }
        self.again.insert(first, (last, times));
    }

    /// Notes a hand-out of a message that was handed out so often `before`. Returns whether that is
    /// on disk already, and whether the value is to be written.
    fn note(&mut self, position: u64, before: u32, in_turn: bool) -> (bool, bool) {
        if before > 0 || !in_turn {
            self.set(position, before.saturating_add(1));
            return (false, true);
        }
        self.handed_to = self.handed_to.max(position.saturating_add(1));
        self.since = self.since.saturating_add(1);
        if position < self.durable {
            let left = self.marked.saturating_sub(self.handed_to);
            return (true, left < self.since / 2);
        }
        self.marked = self.marked.max(position.saturating_add(1));
        (false, true)
    }

    /// Forgets what is gone, and marks ahead as fast as messages leave. `next` is the position of
    /// the next message that will arrive, `lowest` that of the first that is still there.
    fn prepare(&mut self, lowest: u64, next: u64, ahead: bool) {
        while let Some(entry) = self.again.first_entry() {
            if entry.get().0 >= lowest {
                break;
            }
            entry.remove();
        }
        while self.again.len() > HANDED_RUNS_MAX {
            let first = self.again.pop_first();
            let second = self.again.pop_first();
            if let (Some((from, (_, times))), Some((_, (to, others)))) = (first, second) {
                self.again.insert(from, (to, times.min(others)));
            }
        }
        if ahead {
            let ahead = self.since.saturating_mul(2).min(HANDED_AHEAD_MAX);
            let to = self.handed_to.saturating_add(ahead).min(next);
            self.marked = self.marked.max(to);
        }
        self.since = 0;
    }
}

fn handed_key(stream: StreamId) -> Bytes {
    prefixed(HANDED, &stream.0.to_be_bytes())
}

impl LocalQueue {
    /// Whether a message that comes now will probably be handed out as soon as it is on disk.
    fn is_awaited(&self) -> bool {
        if self.waiters.is_empty() || self.settings.paused || self.deleting {
            return false;
        }
        let asked = self.waiters.iter().filter(|waiter| waiter.picks.is_none());
        let asked = asked.take(WAITERS_LOOKED_AT);
        let asked: u64 = asked.map(|waiter| u64::from(waiter.messages_max)).sum();
        self.waiting().0 <= asked
    }

    /// Position of the first message of a priority that is still there.
    fn lowest(&self, priority: u8) -> u64 {
        let leased = self
            .leased
            .range(lookup_of(priority, 0)..=lookup_of(priority, (1 << 60) - 1))
            .next()
            .map(|(_, leased)| leased.message.position);
        let waiting = self.lanes.get(&priority).map(Backlog::lowest);
        leased.into_iter().chain(waiting).min().unwrap_or(u64::MAX)
    }
}

impl Engine {
    /// Notes that a durable message is handed out. Returns whether its body may leave at once; it
    /// waits otherwise for the batch that is being gathered.
    pub(crate) fn note_handed(
        &mut self,
        number: u32,
        priority: u8,
        position: u64,
        before: u32,
        in_turn: bool,
    ) -> bool {
        let Some(queue) = self.locals.get_mut(&number) else {
            return true;
        };
        let handed = queue.handed.entry(priority).or_default();
        let (on_disk, write) = handed.note(position, before, in_turn);
        if write {
            self.handed_dirty.insert((number, priority));
        }
        on_disk
    }

    /// A message is on its way to the disk that somebody waits for: it is marked in the same batch.
    pub(crate) fn mark_awaited(&mut self, number: u32, priority: u8, position: u64) {
        let stopping = self.stopping;
        let Some(queue) = self.locals.get_mut(&number).filter(|_| !stopping) else {
            return;
        };
        if !queue.is_awaited() {
            return;
        }
        let handed = queue.handed.entry(priority).or_default();
        handed.marked = handed.marked.max(position.saturating_add(1));
        self.handed_awaited.insert((number, priority));
    }

    /// Adds to the batches being gathered what must be known of hand-outs.
    pub(crate) fn save_handed(&mut self) {
        let mut awaited = core::mem::take(&mut self.handed_awaited);
        for (number, priority) in core::mem::take(&mut self.handed_dirty) {
            awaited.remove(&(number, priority));
            if let Some((key, value, then)) = self.handed_value(number, priority) {
                self.commits.set(key, value);
                self.commits.after_settling(then);
            }
        }
        for (number, priority) in awaited {
            if let Some((key, value, then)) = self.handed_value(number, priority) {
                self.commits.put(StoreOp::Set { key, value });
                self.commits.after_putting(then);
            }
        }
    }

    fn handed_value(&mut self, number: u32, priority: u8) -> Option<(Bytes, Bytes, Then)> {
        let stopping = self.stopping;
        let queue = self.locals.get_mut(&number)?;
        let lowest = queue.lowest(priority);
        let next = queue.lanes.get(&priority).map_or(0, Backlog::next_position);
        let handed = queue.handed.get_mut(&priority)?;
        handed.prepare(lowest, next, !stopping);
        let stream = Self::stream_of(number, priority);
        let below = handed.marked;
        Some((
            handed_key(stream),
            handed.encode(),
            Then::Marked { stream, below },
        ))
    }

    pub(crate) fn mark_durable(&mut self, stream: StreamId, below: u64) {
        let (number, priority) = Self::queue_of(stream);
        let queue = self.locals.get_mut(&number);
        if let Some(handed) = queue.and_then(|queue| queue.handed.get_mut(&priority)) {
            handed.durable = handed.durable.max(below);
        }
    }

    /// The disk had no room: it is written again with the next batch.
    pub(crate) fn mark_refused(&mut self, stream: StreamId) {
        self.handed_dirty.insert(Self::queue_of(stream));
    }

    /// It is on disk that these messages are handed out.
    pub(crate) fn hand_out(&mut self, hand_out: HandOut) {
        let conn = hand_out.conn;
        for frame in hand_out.frames {
            self.outputs.push_back(Output::Client { conn, frame });
        }
    }

    /// Nothing more is handed out: what was marked ahead is not.
    pub(crate) fn unmark_ahead(&mut self) {
        for (number, queue) in &mut self.locals {
            for (priority, handed) in &mut queue.handed {
                if handed.marked > handed.handed_to {
                    handed.marked = handed.handed_to;
                    self.handed_dirty.insert((*number, *priority));
                }
            }
        }
    }

    /// What is known of hand-outs of a queue goes with the queue.
    pub(crate) fn forget_handed(&mut self, number: u32) {
        let Some(queue) = self.locals.get(&number) else {
            return;
        };
        for priority in queue.handed.keys() {
            self.handed_dirty.remove(&(number, *priority));
            self.handed_awaited.remove(&(number, *priority));
            self.commits
                .unset(handed_key(Self::stream_of(number, *priority)));
        }
    }

    /// Reads back how often messages were handed out. Returns whether the value was understood,
    /// `None` when it is another's.
    pub(crate) fn recover_handed(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let stream = key.strip_prefix(HANDED)?;
        let stream = <[u8; 4]>::try_from(stream).ok();
        let Some((stream, handed)) = stream.zip(Handed::decode(value)) else {
            return Some(false);
        };
        let (number, priority) = Self::queue_of(StreamId(u32::from_be_bytes(stream)));
        match self.locals.get_mut(&number) {
            Some(queue) => {
                queue.handed.insert(priority, handed);
            }
            None => self.commits.unset(key.clone()),
        }
        Some(true)
    }

    /// How often a message that was read back was handed out in earlier lives.
    pub(crate) fn handed_before(&self, number: u32, priority: u8, position: u64) -> u32 {
        self.locals
            .get(&number)
            .and_then(|queue| queue.handed.get(&priority))
            .map_or(0, |handed| handed.times(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(handed: &mut Handed) -> Handed {
        handed.prepare(0, u64::MAX, false);
        Handed::decode(&handed.encode()).unwrap()
    }

    #[test]
    fn what_was_handed_out_is_known_after_a_crash() {
        let mut handed = Handed::default();
        for position in 0..3 {
            assert_eq!(handed.note(position, 0, true), (false, true));
        }
        assert_eq!(handed.note(7, 0, false), (false, true));
        assert_eq!(handed.note(1, 1, true), (false, true));
        let found = again(&mut handed);
        let times: Vec<_> = (0..9).map(|position| found.times(position)).collect();
        assert_eq!(times, [1, 2, 1, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn runs_split_and_join() {
        let mut handed = Handed::default();
        for position in [4, 6, 5] {
            handed.set(position, 2);
        }
        assert_eq!(handed.again, BTreeMap::from([(4, (6, 2))]));
        handed.set(5, 3);
        let split = BTreeMap::from([(4, (4, 2)), (5, (5, 3)), (6, (6, 2))]);
        assert_eq!(handed.again, split);
        handed.set(4, 3);
        handed.set(6, 3);
        assert_eq!(handed.again, BTreeMap::from([(4, (6, 3))]));
        handed.prepare(7, 7, false);
        assert!(handed.again.is_empty());
    }

    #[test]
    fn a_busy_receiver_finds_messages_marked() {
        let mut handed = Handed::default();
        for position in 0..16 {
            handed.note(position, 0, true);
        }
        handed.prepare(0, 1_000, true);
        assert_eq!(handed.marked, 48);
        handed.durable = handed.marked;
        assert_eq!(handed.note(16, 0, true), (true, false));
        // Not beyond what is there.
        handed.prepare(0, 20, true);
        assert_eq!(handed.marked, 48);
        assert_eq!(handed.note(48, 0, true), (false, true));
    }

    #[test]
    fn the_number_of_runs_is_bounded_and_never_overstates() {
        let mut handed = Handed::default();
        for n in 0..2 * HANDED_RUNS_MAX as u64 {
            handed.set(3 * n, 2 + u32::from(n == 1));
        }
        handed.prepare(0, 0, false);
        assert!(handed.again.len() <= HANDED_RUNS_MAX);
        assert_eq!(handed.times(3), 2);
    }

    #[test]
    fn a_damaged_value_is_not_understood() {
        let mut handed = Handed::default();
        handed.set(4, 2);
        let value = handed.encode();
        assert_eq!(Handed::decode(&value.slice(..value.len() - 1)), None);
        let mut twice = value.to_vec();
        twice.extend_from_slice(&value[9..]);
        assert_eq!(Handed::decode(&twice.into()), None);
        assert_eq!(Handed::decode(&Bytes::from_static(&[9; 9])), None);
    }
}
