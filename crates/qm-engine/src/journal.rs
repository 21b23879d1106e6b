//! Copies of messages that have left for other nodes, in the journal queue of this one, for senders
//! that wished so.
//!
//! A copy is put in the commit in which its message leaves the outgoing queue: the message is
//! always in exactly one of the two. While the disk takes no copies, messages that wish one wait.

use qm_wire::{Class, MessageFlags, QueueName};

use crate::backlog::Message;
use crate::commits::{Origin, PutAt, Then};
use crate::engine::Engine;
use crate::io::StoreOp;
use crate::record::LocalSettings;

/// Name of the queue of copies.
const JOURNAL_QUEUE: &str = "journal$";

/// Whether a copy of a message is wished when it has left.
pub(crate) const fn wishes_copy(message: &Message) -> bool {
    message.flags.contains(MessageFlags::JOURNAL)
}

const fn removal_of(number: u32, priority: u8, message: &Message) -> StoreOp {
    StoreOp::Remove {
        stream: Engine::stream_of(number, priority),
        first: message.position,
        last: message.position,
    }
}

impl Engine {
    fn journal_name() -> QueueName {
        JOURNAL_QUEUE.parse().expect("the name follows the rules")
    }

    /// Whether this is the queue of copies.
    pub(crate) fn is_journal(&self, number: u32) -> bool {
        self.locals
            .get(&number)
            .is_some_and(|queue| queue.settings.name.as_str() == JOURNAL_QUEUE)
    }

    /// Whether this is a queue of messages that have ended already: dead letters, or copies.
    pub(crate) fn is_aside(&self, number: u32) -> bool {
        self.is_dead_queue(number) || self.is_journal(number)
    }

    /// Whether the queue of copies is at its quota.
    pub(crate) fn is_journal_full(&self) -> bool {
        let number = self.local_names.get(&Self::journal_name());
        let queue = number.and_then(|number| self.locals.get(number));
        queue.is_some_and(crate::queues::LocalQueue::is_full)
    }

    /// A message has left, and its copy takes its place.
    pub(crate) fn journal(&mut self, number: u32, priority: u8, message: &Message) {
        let durable = message.class.is_durable();
        if durable {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
        }
        let journal = match self.local_names.get(&Self::journal_name()) {
            Some(journal) => *journal,
            None => self.create_queue(LocalSettings::new(Self::journal_name())),
        };
        let mut copy = message.clone();
        copy.class = Class::Recoverable;
        copy.at = self.now.at;
        copy.wall_us = self.now.wall_us;
        copy.receive_left_ms = qm_wire::INFINITE_MS;
        copy.aborts = 0;
        copy.transmitted = false;
        let put = self.put_local(journal, 0, copy);
        let removal = removal_of(number, priority, message);
        if durable && !crate::broken!(self, copy_apart) {
            self.commits.put(removal);
        }
        let from = Box::new(Origin {
            local: false,
            queue: number,
            priority,
            message: message.clone(),
        });
        self.commits.after_putting(Then::Journalled { put, from });
    }

    /// A copy is on disk, and its message no more.
    pub(crate) fn journalled(&mut self, put: PutAt, from: &Origin) {
        if crate::broken!(self, copy_apart) {
            let removal = removal_of(from.queue, from.priority, &from.message);
            self.commits.settle(removal);
        }
        self.put_durable(true, put);
        self.counters.journalled += 1;
        self.busy_queues.insert(put.queue);
    }

    /// The disk took neither the copy nor the removal: both are tried again.
    pub(crate) fn not_journalled(&mut self, put: PutAt, from: Origin) {
        crate::reached!(self, CopyHeldBack);
        self.put_refused(true, put);
        if from.message.class.is_durable() {
            let credit = from.message.credit();
            self.stored_bytes = self.stored_bytes.saturating_add(credit);
        }
        self.unawait_arrival(from.message.id);
        self.journal_later.push(from);
    }

    /// See [`Self::not_journalled`].
    pub(crate) fn journal_again(&mut self) {
        for from in core::mem::take(&mut self.journal_later) {
            self.leave_delivered(from.queue, from.priority, &from.message);
            self.seal_if_large();
        }
    }
}
