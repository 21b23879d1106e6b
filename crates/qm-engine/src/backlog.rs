//! The waiting messages of one priority of one queue: a bounded part in memory, the rest on disk.
//!
//! Order is by position. A message may be handed out only when everything before it that is meant
//! for disk is there, so what is handed out survives what was handed out before it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use qm_wire::{Class, Entry, MessageFlags, MessageId, QmId, Tag};

use crate::io::StreamId;
use crate::time::Timestamp;

/// A waiting message in memory; bytes are shared with the receive buffer or the store's read.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) position: u64,
    pub(crate) source: QmId,
    pub(crate) id: MessageId,
    pub(crate) tag: Tag,
    pub(crate) class: Class,
    pub(crate) flags: MessageFlags,
    /// Node time at which the times left below were counted.
    pub(crate) at: Timestamp,
    pub(crate) wall_us: u64,
    pub(crate) reach_left_ms: u64,
    pub(crate) receive_left_ms: u64,
    /// How often it was handed out and given back.
    pub(crate) aborts: u32,
    /// Whether it may have been transmitted in an earlier session or life.
    pub(crate) transmitted: bool,
    pub(crate) envelope: Bytes,
    pub(crate) body: Bytes,
}

impl Message {
    pub(crate) const fn entry(&self) -> Entry {
        Entry {
            id: self.id,
            tag: self.tag,
        }
    }

    pub(crate) const fn cost(&self) -> usize {
        self.envelope.len() + self.body.len() + size_of::<Self>()
    }

    pub(crate) const fn credit(&self) -> u64 {
        qm_wire::credit_bytes(self.envelope.len(), self.body.len())
    }

    /// What it takes of the store.
    pub(crate) const fn stored_bytes(&self) -> u64 {
        if self.class.is_durable() {
            self.credit()
        } else {
            0
        }
    }

    pub(crate) fn reach_deadline(&self) -> Timestamp {
        self.at.plus_ms(self.reach_left_ms)
    }

    pub(crate) fn receive_deadline(&self) -> Timestamp {
        self.at.plus_ms(self.receive_left_ms)
    }
}

/// What is left of a span counted at `at`; the infinite stays infinite.
pub(crate) fn left_ms(span_ms: u64, at: Timestamp, now: Timestamp) -> u64 {
    if span_ms == qm_wire::INFINITE_MS {
        span_ms
    } else {
        span_ms.saturating_sub(now.ms_since(at))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) stream: StreamId,
    /// Next position to assign.
    next: u64,
    /// Durable messages below this position are on disk.
    committed_to: u64,
    ready: BTreeMap<u64, Message>,
    /// Behind the last durable message that was pushed.
    durable_to: u64,
    /// Every live durable message below this position is in `ready` or was handed out.
    resident_to: u64,
    /// Live durable messages at or above `resident_to`, committed or not.
    spilled: u64,
    /// A read is under way, or came back empty and waits for a commit.
    loading: bool,
    /// `committed_to` when the read under way was asked for.
    load_saw: u64,
    starved: bool,
    /// Positions at or above `resident_to` that were handed out of turn.
    ahead: BTreeSet<u64>,
    /// Before this time no message in memory expires.
    pub(crate) deadline: Timestamp,
    /// Waiting messages, in memory or not, not handed out.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Of these, the bytes of express messages, which are in no store.
    express_bytes: u64,
}

impl Backlog {
    /// An empty one whose first message gets the position `first`.
    pub(crate) const fn new(stream: StreamId, first: u64) -> Self {
        Self {
            stream,
            next: first,
            committed_to: first,
            durable_to: 0,
            ready: BTreeMap::new(),
            resident_to: first,
            spilled: 0,
            loading: false,
            load_saw: 0,
            starved: false,
            ahead: BTreeSet::new(),
            deadline: Timestamp::NEVER,
            messages: 0,
            bytes: 0,
            express_bytes: 0,
        }
    }

    /// As recovery found it: everything on disk, nothing in memory; new messages get positions
    /// from `first` on.
    pub(crate) fn recovered(
        stream: StreamId,
        summary: crate::io::StreamSummary,
        first: u64,
    ) -> Self {
        let mut backlog = Self::new(stream, first.max(summary.next_position));
        if summary.live_records > 0 {
            backlog.resident_to = summary.first_live;
        }
        backlog.spilled = summary.live_records;
        backlog.messages = summary.live_records;
        // An estimate: the store counts the head's own fields too.
        let heads = summary
            .live_records
            .saturating_mul(crate::record::HEAD_BYTES);
        backlog.bytes = summary.live_bytes.saturating_sub(heads);
        backlog
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(crate) const fn next_position(&self) -> u64 {
        self.next
    }

    /// Below this position nothing is still on its way to the disk.
    pub(crate) fn settled_to(&self) -> u64 {
        if self.durable_to <= self.committed_to {
            self.next
        } else {
            self.committed_to
        }
    }

    /// Messages in memory from a position on.
    pub(crate) fn resident_from(&self, from: u64) -> impl Iterator<Item = &Message> {
        self.ready.range(from..).map(|(_, message)| message)
    }

    /// Lowest position at which something may wait.
    pub(crate) fn lowest(&self) -> u64 {
        let ready = self.ready.first_key_value().map(|(first, _)| *first);
        let spilled = (self.spilled > 0).then_some(self.resident_to);
        ready.into_iter().chain(spilled).min().unwrap_or(self.next)
    }

    /// Assigns a position and takes the message in; `keep` says whether a durable one may stay in
    /// memory. Returns the position and how many bytes of memory it holds there.
    pub(crate) fn push(&mut self, mut message: Message, keep: bool) -> (u64, usize) {
        let position = self.next;
        self.next += 1;
        message.position = position;
        self.count_in(&message);
        if message.class.is_durable() {
            self.durable_to = self.next;
            if !keep || self.spilled > 0 {
                self.spilled += 1;
                return (position, 0);
            }
            self.resident_to = self.next;
        }
        let cost = message.cost();
        self.ready.insert(position, message);
        (position, cost)
    }

    /// Durable messages below `position` are on disk now.
    pub(crate) fn committed(&mut self, position: u64) {
        self.committed_to = self.committed_to.max(position);
        self.starved = false;
    }

    /// Takes back messages whose commit was refused. Returns bytes of memory set free.
    pub(crate) fn refuse(&mut self, position: u64, credit: u64) -> usize {
        self.count_out(credit);
        match self.ready.remove(&position) {
            Some(message) => message.cost(),
            None => {
                self.spilled = self.spilled.saturating_sub(1);
                // A read that is under way, or comes before the removal, may bring it all the same.
                if self.spilled > 0 || self.loading {
                    self.ahead.insert(position);
                }
                0
            }
        }
    }

    const fn count_in(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += message.credit();
        if !message.class.is_durable() {
            self.express_bytes += message.credit();
        }
    }

    /// A message that is in memory leaves.
    const fn hand_out(&mut self, message: &Message) {
        self.count_out(message.credit());
        if !message.class.is_durable() {
            self.express_bytes = self.express_bytes.saturating_sub(message.credit());
        }
    }

    /// Bytes of express messages that wait.
    pub(crate) const fn express_bytes(&self) -> u64 {
        self.express_bytes
    }

    /// Bytes that wait and are in the store.
    pub(crate) const fn stored_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.express_bytes)
    }

    /// One message less. What was estimated at recovery is settled when the last one leaves.
    const fn count_out(&mut self, credit: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = if self.messages == 0 {
            0
        } else {
            self.bytes.saturating_sub(credit)
        };
    }

    /// Position of the message that [`Backlog::pop`] would hand out.
    pub(crate) fn peek(&self) -> Option<&Message> {
        let message = self.ready.first_key_value()?.1;
        if message.class.is_durable() && message.position >= self.committed_to {
            return None;
        }
        if self.spilled > 0 && message.position >= self.resident_to {
            // Older messages are still on disk.
            return None;
        }
        Some(message)
    }

    /// Where the first message lies, handed out next or not; the end of all places when none waits.
    pub(crate) fn first_at(&self) -> u64 {
        let ready = self.ready.first_key_value().map(|(first, _)| *first);
        let disk = (self.spilled > 0).then_some(self.resident_to);
        ready.into_iter().chain(disk).min().unwrap_or(u64::MAX)
    }

    /// Hands out the first message.
    pub(crate) fn pop(&mut self) -> Option<Message> {
        self.peek()?;
        let (_, message) = self.ready.pop_first()?;
        self.hand_out(&message);
        Some(message)
    }

    /// Whether a message is in memory and may be handed out.
    pub(crate) fn may_take(&self, position: u64) -> bool {
        let message = self.ready.get(&position);
        message.is_some_and(|m| !m.class.is_durable() || position < self.committed_to)
    }

    /// Takes a message out by its position, if it is in memory and may be handed out.
    pub(crate) fn take(&mut self, position: u64) -> Option<Message> {
        if !self.may_take(position) {
            return None;
        }
        let message = self.ready.remove(&position)?;
        self.hand_out(&message);
        Some(message)
    }

    /// Hands out of turn a message that was read from disk.
    pub(crate) fn take_ahead(&mut self, position: u64, credit: u64) -> bool {
        if position < self.resident_to || position >= self.next || !self.ahead.insert(position) {
            return false;
        }
        self.spilled = self.spilled.saturating_sub(1);
        self.count_out(credit);
        true
    }

    /// Puts a message back that was handed out. Returns the memory it holds there.
    pub(crate) fn give_back(&mut self, message: Message) -> usize {
        let cost = message.cost();
        self.count_in(&message);
        self.ready.insert(message.position, message);
        cost
    }

    /// Whether more should be read from disk: from which position. Ahead of need only when there is
    /// `room` in memory.
    pub(crate) fn wants_load(&self, low_water: usize, room: bool) -> Option<u64> {
        // Express messages behind what is on disk do not count: they wait for it.
        let hungry = self
            .ready
            .first_key_value()
            .is_none_or(|(first, _)| *first >= self.resident_to);
        let wanted = hungry || (room && self.ready.len() < low_water);
        (self.spilled > 0 && !self.loading && !self.starved && wanted).then_some(self.resident_to)
    }

    pub(crate) const fn load_started(&mut self) {
        self.loading = true;
        self.load_saw = self.committed_to;
    }

    /// Takes in what was read, in the order of positions; a record that cannot be understood is
    /// passed over and stays on disk. Returns bytes of memory now held.
    pub(crate) fn loaded(&mut self, records: Vec<(u64, Option<Message>)>) -> usize {
        self.loading = false;
        let mut held = 0;
        // Nothing there: the next commit brings it, unless one came while this read was under way.
        self.starved = records.is_empty() && self.committed_to == self.load_saw;
        for (position, message) in records {
            if position < self.resident_to {
                continue;
            }
            self.resident_to = position + 1;
            if self.ahead.remove(&position) {
                continue;
            }
            self.spilled = self.spilled.saturating_sub(1);
            match message {
                Some(message) => {
                    held += message.cost();
                    self.ready.insert(position, message);
                }
                None => self.count_out(0),
            }
        }
        if self.spilled == 0 {
            self.resident_to = self.next;
            self.ahead.clear();
        }
        held
    }

    /// A record on disk that no read will ever bring: it waits no longer. Returns whether it did.
    pub(crate) fn lost(&mut self, position: u64) -> bool {
        if position < self.resident_to || position >= self.committed_to {
            return false;
        }
        self.resident_to = position + 1;
        if self.ahead.remove(&position) {
            return false;
        }
        self.spilled = self.spilled.saturating_sub(1);
        self.count_out(0);
        true
    }

    /// Whether nothing waits below a position, in memory or on disk. Damaged records, which no read
    /// brings, are not waited for.
    pub(crate) fn is_clear_below(&self, end: u64) -> bool {
        let in_memory = self
            .ready
            .first_key_value()
            .is_some_and(|(first, _)| *first < end);
        let unreadable = self.starved && !self.loading && self.committed_to >= end;
        let on_disk = self.spilled > 0 && self.resident_to < end && !unreadable;
        !in_memory && !on_disk
    }

    /// Messages that no read brought although they should be there.
    pub(crate) fn missing(&self) -> u64 {
        let waits = self.starved && !self.loading && self.committed_to >= self.next;
        if waits { self.spilled } else { 0 }
    }

    /// Whether everything that waits is in memory.
    pub(crate) const fn is_resident(&self) -> bool {
        self.spilled == 0
    }

    /// Lowest position that may wait on disk only.
    pub(crate) const fn resident_to(&self) -> u64 {
        self.resident_to
    }

    /// Takes out every message that is in memory only.
    pub(crate) fn drain_express(&mut self) -> Vec<Message> {
        let express: Vec<u64> = self
            .ready
            .values()
            .filter(|message| !message.class.is_durable())
            .map(|message| message.position)
            .collect();
        express
            .into_iter()
            .filter_map(|position| {
                let message = self.ready.remove(&position)?;
                self.hand_out(&message);
                Some(message)
            })
            .collect()
    }

    /// Whether a read that is under way concerns what was purged meanwhile.
    pub(crate) fn resident(&self) -> impl Iterator<Item = &Message> {
        self.ready.values()
    }

    /// Those of them in a range of positions, in order.
    pub(crate) fn resident_in(&self, range: Range<u64>) -> impl Iterator<Item = &Message> {
        // An empty range may be reversed, and the map does not take that.
        let range = range.start.min(range.end)..range.end;
        self.ready.range(range).map(|(_, message)| message)
    }

    /// What must hold at any time; for audits.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let in_memory = self.ready.len() as u64;
        if in_memory + self.spilled != self.messages {
            return Err(format!(
                "stream {}: {in_memory} in memory and {} on disk are not the {} that wait",
                self.stream.0, self.spilled, self.messages
            ));
        }
        if self
            .ready
            .keys()
            .next_back()
            .is_some_and(|last| *last >= self.next)
        {
            return Err(format!(
                "stream {}: a position was never assigned",
                self.stream.0
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    fn message(class: Class) -> Message {
        Message {
            position: 0,
            source: QmId::from_bytes([0; 16]),
            id: MessageId {
                incarnation: Incarnation(1),
                sequence: 1,
            },
            tag: Tag([0; 8]),
            class,
            flags: MessageFlags::DEAD_LETTER,
            at: Timestamp(0),
            wall_us: 0,
            reach_left_ms: qm_wire::INFINITE_MS,
            receive_left_ms: qm_wire::INFINITE_MS,
            aborts: 0,
            transmitted: false,
            envelope: Bytes::new(),
            body: Bytes::from_static(b"0123456789"),
        }
    }

    #[test]
    fn durable_messages_are_handed_out_only_after_their_commit() {
        let mut backlog = Backlog::new(StreamId(0), 0);
        let (position, _) = backlog.push(message(Class::Recoverable), true);
        assert!(backlog.pop().is_none());
        backlog.committed(position + 1);
        assert_eq!(backlog.pop().map(|m| m.position), Some(position));
        assert!(backlog.is_empty());
        backlog.audit().unwrap();
    }

    #[test]
    fn an_express_message_does_not_overtake_what_is_on_disk() {
        let mut backlog = Backlog::new(StreamId(0), 0);
        let (first, _) = backlog.push(message(Class::Recoverable), false);
        let (second, _) = backlog.push(message(Class::Express), true);
        backlog.committed(first + 1);
        assert!(backlog.pop().is_none(), "the older one must be read first");
        assert_eq!(backlog.wants_load(10, true), Some(0));
        backlog.load_started();
        let mut read = message(Class::Recoverable);
        read.position = first;
        backlog.loaded(vec![(first, Some(read))]);
        assert_eq!(backlog.pop().map(|m| m.position), Some(first));
        assert_eq!(backlog.pop().map(|m| m.position), Some(second));
        backlog.audit().unwrap();
    }

    #[test]
    fn a_purge_waits_for_what_is_on_disk_and_not_for_what_cannot_be_read() {
        let mut backlog = Backlog::new(StreamId(0), 0);
        let (first, _) = backlog.push(message(Class::Recoverable), false);
        assert!(!backlog.is_clear_below(first + 1));
        assert!(backlog.is_clear_below(first));
        backlog.committed(first + 1);
        backlog.load_started();
        assert!(!backlog.is_clear_below(first + 1));
        // The record is damaged: the read brings nothing.
        backlog.loaded(vec![]);
        assert!(backlog.is_clear_below(first + 1));
        assert_eq!(backlog.missing(), 1);
    }

    #[test]
    fn a_read_under_way_does_not_bring_the_last_message_back_that_was_refused() {
        let mut backlog = Backlog::new(StreamId(0), 0);
        let (position, _) = backlog.push(message(Class::Recoverable), false);
        backlog.load_started();
        // The disk has it, and the read sees it before it is taken out again.
        backlog.refuse(position, 0);
        backlog.loaded(vec![(position, Some(message(Class::Recoverable)))]);
        backlog.committed(position + 1);
        assert!(backlog.pop().is_none());
        assert!(backlog.is_empty() && backlog.is_resident());
        let (next, _) = backlog.push(message(Class::Recoverable), true);
        backlog.committed(next + 1);
        assert_eq!(backlog.pop().map(|message| message.position), Some(next));
    }
}
