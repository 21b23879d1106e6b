//! What becomes of handed out messages: consumed, given back, rejected, poisoned.

use qm_wire::local::{NodeFrame, Settle, Settled, Verdict};
use qm_wire::{MessageFlags, Outcome, QueueName, Text};

use crate::backlog::Message;
use crate::commits::Then;
use crate::dead::End;
use crate::engine::Engine;
use crate::expiry::TOGETHER_MS;
use crate::history::What;
use crate::io::{ConnId, Output, StoreOp};
use crate::queues::Leased;
use crate::record::LocalSettings;

/// What must be on disk before a settled delivery may be called settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stands {
    /// Nothing.
    AtOnce,
    /// Its removal.
    Settled,
    /// Its dead letter, in a batch that puts, behind the removals gathered with it.
    Put,
}

impl Engine {
    pub(crate) fn on_settle(&mut self, conn: ConnId, settle: &Settle) {
        let number = self.local_names.get(&settle.queue).copied();
        let mut held = Vec::new();
        let mut lost = Vec::new();
        for (first, last) in &settle.ranges {
            let mut next = *first;
            if let Some(queue) = number.and_then(|number| self.locals.get(&number)) {
                let leased = queue.leased.range(*first..=*last);
                // What a transaction received is settled by its end, or given back.
                let may = |leased: &Leased| {
                    let free = leased.transaction.is_none() || settle.verdict == Verdict::GiveBack;
                    leased.conn == conn && free && !leased.committing
                };
                for (lookup, _) in leased.filter(|(_, leased)| may(leased)) {
                    if next < *lookup {
                        lost.push((next, lookup - 1));
                    }
                    held.push(*lookup);
                    next = lookup.saturating_add(1);
                }
            }
            if next <= *last {
                lost.push((next, *last));
            }
        }
        lost.truncate(qm_wire::limits::ACK_RANGES_MAX);
        let (outcome, text) = if lost.is_empty() {
            (None, Text::EMPTY)
        } else {
            let text = "some of these deliveries are not held by this connection any more";
            (Some(Outcome::LEASE_LOST), text.into())
        };
        let messages = u32::try_from(held.len()).unwrap_or(u32::MAX);
        let mut stands = Stands::AtOnce;
        if let Some(number) = number {
            for lookup in held {
                if self.leaves_a_letter(number, lookup, settle.verdict) {
                    // In the batch of its letter: a range may take several.
                    let request = settle.request;
                    self.commits.after_putting(Then::Rejected { conn, request });
                }
                stands = stands.max(self.settle_one(number, lookup, settle.verdict));
            }
        }
        let settled = Settled {
            request: settle.request,
            messages,
            outcome,
            text,
            lost,
        };
        if crate::broken!(self, settle_before_durable) {
            stands = Stands::AtOnce;
        }
        match stands {
            Stands::AtOnce => self.outputs.push_back(Output::Client {
                conn,
                frame: NodeFrame::Settled(settled),
            }),
            Stands::Settled => self.commits.after_settling(Then::Settled {
                conn,
                settled,
                putting: false,
            }),
            Stands::Put => self.commits.after_putting(Then::Settled {
                conn,
                settled,
                putting: true,
            }),
        }
    }

    /// Whether a delivery that is settled so becomes a dead letter.
    fn leaves_a_letter(&self, number: u32, lookup: u64, verdict: Verdict) -> bool {
        let queue = self.locals.get(&number);
        let leased = queue.and_then(|queue| queue.leased.get(&lookup));
        verdict == Verdict::Reject
            && !self.is_aside(number)
            && leased.is_some_and(|l| l.message.flags.contains(MessageFlags::DEAD_LETTER))
    }

    /// The answer to a request of which the disk refused a part: that came back to its queue.
    pub(crate) fn settled_in_part(&mut self, conn: ConnId, mut settled: Settled) -> Settled {
        if let Some(back) = self.back_again.remove(&(conn, settled.request)) {
            settled.messages = settled.messages.saturating_sub(back);
            settled.outcome = Some(Outcome::STORE_FULL);
            settled.text =
                "the disk is full: what it took no dead letters of is back in its queue".into();
        }
        settled
    }

    /// Returns what the disk must confirm before it stands.
    pub(crate) fn settle_one(&mut self, number: u32, lookup: u64, verdict: Verdict) -> Stands {
        let Some(queue) = self.locals.get_mut(&number) else {
            return Stands::AtOnce;
        };
        let Some(Leased {
            conn,
            priority,
            message,
            transaction,
            ..
        }) = queue.leased.remove(&lookup)
        else {
            return Stands::AtOnce;
        };
        queue.leased_bytes = queue.leased_bytes.saturating_sub(message.credit());
        self.unleased(conn, message.credit());
        if let Some(transaction) = transaction {
            self.untaken(conn, transaction, number, lookup);
        }
        let removed = if message.class.is_durable() {
            Stands::Settled
        } else {
            Stands::AtOnce
        };
        match verdict {
            Verdict::Consume => {
                self.consume(number, priority, &message);
                removed
            }
            Verdict::GiveBack => {
                self.give_back(number, priority, message);
                Stands::AtOnce
            }
            Verdict::Reject if self.is_aside(number) => {
                // A dead letter is not buried again: it keeps its own reason. Nor is a copy.
                self.give_back(number, priority, message);
                Stands::AtOnce
            }
            Verdict::Reject => {
                let end = End::here(self.me.qm, Outcome::REJECTED_BY_RECEIVER);
                self.bury_local(number, priority, &message, end);
                if message.flags.contains(MessageFlags::DEAD_LETTER) {
                    Stands::Put
                } else {
                    removed
                }
            }
        }
    }

    /// An application holds less than it did: others may be handed something.
    pub(crate) fn unleased(&mut self, conn: ConnId, bytes: u64) {
        if self.clients.unleased(conn, bytes) {
            let waited = self
                .locals
                .iter()
                .filter(|(_, q)| q.waiting_receivers() > 0);
            self.busy_queues.extend(waited.map(|(number, _)| *number));
        }
    }

    /// A message that was handed out is dealt with, and goes.
    pub(crate) fn consume(&mut self, number: u32, priority: u8, message: &Message) {
        if let Some(queue) = self.locals.get_mut(&number) {
            queue.received += 1;
        }
        self.counters.received += 1;
        let copy = self.is_journal(number);
        if !copy {
            self.note(message.source, message.id, What::Received);
        }
        self.note_end(number, message, Outcome::RECEIVED, false);
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
            let stream = Self::stream_of(number, priority);
            let (first, last) = (message.position, message.position);
            self.commits.settle(StoreOp::Remove {
                stream,
                first,
                last,
            });
        }
        if self.is_dead_queue(number) {
            self.letter_closes(message.position);
            self.letter_let_go(message.id);
        }
        self.reopen_if_room(number);
        // Whoever follows the message hears how that ended, not its letter or its copy.
        if !self.is_aside(number) {
            if message.class.is_durable() {
                self.tell_end(message.id, Outcome::RECEIVED);
            } else {
                self.tell_fate(message.id, Outcome::RECEIVED);
            }
        }
    }

    /// A delivery comes back: to its place, or to the poison subqueue when it came back too often.
    pub(crate) fn give_back(&mut self, number: u32, priority: u8, mut message: Message) {
        self.counters.given_back += 1;
        message.aborts += 1;
        let aborts = message.aborts;
        self.note(message.source, message.id, What::GivenBack { aborts });
        if self.quarantine_given_back(number, priority, &message) {
            return;
        }
        let limit = self
            .locals
            .get(&number)
            .map_or(0, |queue| queue.settings.aborts_max);
        if limit != 0 && message.aborts >= limit && self.move_to_poison(number, priority, &message)
        {
            return;
        }
        let (durable, id) = (message.class.is_durable(), message.id);
        let deadline = message.receive_deadline();
        self.pick_again(number, priority, &message);
        let lane = self
            .locals
            .get_mut(&number)
            .and_then(|q| q.lanes.get_mut(&priority));
        if let Some(cost) = lane.map(|lane| lane.give_back(message)) {
            self.hold(durable, cost);
        }
        self.watch_again(true, number, priority, deadline, TOGETHER_MS);
        if self.is_dead_queue(number) {
            self.letter_let_go(id);
        }
        self.busy_queues.insert(number);
    }

    fn move_to_poison(&mut self, number: u32, priority: u8, message: &Message) -> bool {
        let Some(queue) = self.locals.get(&number) else {
            return false;
        };
        let name = &queue.settings.name;
        if name.subqueue().is_some() || name.is_system() {
            return false;
        }
        let Ok(poison) = format!("{name}:poison").parse::<QueueName>() else {
            return false;
        };
        let target = match self.local_names.get(&poison) {
            Some(number) => *number,
            None => self.create_queue(LocalSettings::new(poison)),
        };
        self.counters.poisoned += 1;
        self.note(message.source, message.id, What::Poisoned);
        let mut moved = message.clone();
        moved.aborts = 0;
        // For its sender it was rejected, whatever becomes of it there.
        let putting = message.class.is_durable();
        self.note_end(number, message, Outcome::REJECTED_BY_RECEIVER, putting);
        self.move_local((number, target), priority, message, moved);
        true
    }
}
