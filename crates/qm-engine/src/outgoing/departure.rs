//! How a message leaves its outgoing queue for good: delivered, refused, expired, or given up. Its
//! removal and whatever is kept of it are one commit.

use qm_wire::{Class, MessageFlags, Outcome};

use super::Remote;
use crate::backlog::Message;
use crate::commits::{Died, Origin};
use crate::dead::{Doubt, End};
use crate::engine::Engine;
use crate::history::What;
use crate::io::{Event, StoreOp};
use crate::journal::wishes_copy;
use crate::reports::{Wanted, With};

impl Engine {
    /// The destination has it: the message leaves the queue for good.
    pub(crate) fn settle_delivered(&mut self, number: u32, priority: u8, message: &Message) {
        self.settle_in_stream(number, message);
        if let Some(out) = self.outs.get_mut(&number) {
            out.acknowledged += 1;
        }
        self.counters.acknowledged += 1;
        let peer = self.peer_of(number);
        self.leave_delivered(number, priority, message);
        self.note(message.source, message.id, What::Acknowledged { peer });
        self.event(Event::Acknowledged { id: message.id });
        self.tell_fate(message.id, Outcome::REACHED_QUEUE);
    }

    /// What was delivered goes, with all that is noted of it, in one commit.
    pub(crate) fn leave_delivered(&mut self, number: u32, priority: u8, message: &Message) {
        // A copy needs room: with it everything is refused, and comes again.
        let copies = wishes_copy(message);
        let with = if copies { With::Event } else { With::Nothing };
        let wanted = Wanted::of(&message.envelope);
        let of = (message.id, message.class);
        let arrived = Outcome::REACHED_QUEUE;
        self.report(wanted.as_ref(), of, arrived, copies, with);
        if let Some(peer) = self.peer_of(number) {
            self.await_final(message, peer, copies);
        }
        if copies {
            self.journal(number, priority, message);
        } else {
            self.remove_from_store(number, priority, message);
        }
    }

    pub(super) fn remove_from_store(&mut self, number: u32, priority: u8, message: &Message) {
        let stream = Self::stream_of(number, priority);
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
            let (first, last) = (message.position, message.position);
            self.commits.settle(StoreOp::Remove {
                stream,
                first,
                last,
            });
        }
    }

    /// The destination said that the message will not be delivered.
    pub(crate) fn bury(
        &mut self,
        number: u32,
        priority: u8,
        message: &Message,
        outcome: Outcome,
        doubt: Doubt,
    ) {
        // A refusal that claims success is a fault of the peer, and a dead letter all the same.
        let outcome = if outcome.0 == 0 || outcome.is_positive() {
            Outcome::PROTOCOL
        } else {
            outcome
        };
        let peer = self
            .outs
            .get(&number)
            .and_then(|out| self.remotes.get(&out.remote))
            .and_then(Remote::peer);
        let end = End {
            by: peer.unwrap_or(self.me.qm),
            uncertain: doubt == Doubt::Stays && message.class != Class::Transactional,
            unconfirmed: doubt == Doubt::Asks,
            ..End::here(self.me.qm, outcome)
        };
        self.bury_as(number, priority, message, end);
    }

    /// The time of a message ran out before it was acknowledged.
    pub(crate) fn expire_out(&mut self, number: u32, priority: u8, message: &Message) {
        let unconfirmed = self.may_be_there(message) && !crate::broken!(self, expire_in_doubt);
        if unconfirmed {
            crate::reached!(self, ExpiredInDoubt);
        } else {
            crate::reached!(self, ExpiredWaiting);
        }
        let end = End {
            unconfirmed,
            ..End::here(self.own_of(number), Outcome::REACH_QUEUE_EXPIRED)
        };
        self.bury_as(number, priority, message, end);
    }

    /// The message will not be delivered: dead letter, or nothing when its sender or the operator
    /// wished so.
    pub(crate) fn bury_as(&mut self, number: u32, priority: u8, message: &Message, mut end: End) {
        // Until its destination has answered for its place, it may have been delivered.
        self.place_before_leaving(number, message);
        if self.left_when_settled(number, priority, message) {
            return;
        }
        // Nobody knows of it whether it arrived: that must not be, and is no reason to lose it.
        end.uncertain |= self.is_settled(number, message);
        let mut placed = self.is_placed(number, message);
        if crate::broken!(self, no_skip) && core::mem::take(&mut placed) {
            self.settle_in_stream(number, message);
        }
        if message.class == Class::Transactional {
            end.unconfirmed = placed;
        } else if end.unconfirmed && !self.may_ask() {
            self.counters.uncertain_by_limit += 1;
            (end.unconfirmed, end.uncertain) = (false, true);
        }
        let asks = end.unconfirmed && !placed;
        let kept = message.flags.contains(MessageFlags::DEAD_LETTER) && !end.discard;
        let destination = self.outs.get(&number).map_or_else(String::new, |out| {
            let remote = self.remotes.get(&out.remote);
            remote.map_or_else(String::new, |remote| remote.key.destination(&out.queue))
        });
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
        }
        let stream = Self::stream_of(number, priority);
        let removal = message.class.is_durable().then_some(StoreOp::Remove {
            stream,
            first: message.position,
            last: message.position,
        });
        if kept {
            // In one batch with the removal: the message is always in exactly one of the two.
            let from = Some(Origin {
                local: false,
                queue: number,
                priority,
                message: message.clone(),
            });
            let letter = self.put_dead_letter(message, end, &destination, removal, from);
            if placed {
                self.leave_stream(number, message, end.outcome, letter);
            } else {
                self.leaves_unplaced(number, message);
            }
            if asks {
                self.ask_for(number, message, end.outcome, letter);
            }
            self.report_death(number, message, end, true);
        } else {
            if let Some(removal) = removal {
                self.commits.settle(removal);
            }
            if placed {
                self.leave_stream(number, message, end.outcome, None);
            }
            if asks {
                self.ask_for(number, message, end.outcome, None);
            }
            self.report_death(number, message, end, false);
            self.counters.discarded += 1;
            let died = Died {
                source: message.source,
                id: message.id,
                end,
                kept,
            };
            self.died(died, !message.class.is_durable());
        }
        // The letter, its removal and its skip are in one batch; many may leave in one step.
        self.seal_if_large();
    }

    /// A transactional message whose place is settled, and which wishes a copy for the journal, was
    /// delivered, and its copy refused: it leaves as such, whatever else was to become of it.
    /// Returns whether that is so.
    pub(crate) fn left_when_settled(
        &mut self,
        number: u32,
        priority: u8,
        message: &Message,
    ) -> bool {
        let settled = wishes_copy(message) && self.is_settled(number, message);
        if settled {
            crate::reached!(self, LeftSettled);
            self.leave_delivered(number, priority, message);
        }
        settled
    }

    /// Whether a transactional message has no place and is given none any more.
    fn is_settled(&self, number: u32, message: &Message) -> bool {
        let stream = self.outs.get(&number).and_then(|out| out.stream.as_ref());
        message.class == Class::Transactional
            && stream.is_some_and(|stream| stream.chain.has_passed(message.position))
    }

    /// Whoever wishes to hear of it does so when it is certain, or when nobody can say more.
    fn report_death(&mut self, number: u32, message: &Message, end: End, putting: bool) {
        // Of a destination that was never met nobody can say more.
        if let Some(peer) = self.peer_of(number).filter(|_| end.unconfirmed) {
            return self.await_word(message, peer, end.outcome, putting);
        }
        let wanted = Wanted::of(&message.envelope);
        let with = if putting { With::Event } else { With::Nothing };
        let of = (message.id, message.class);
        self.report(wanted.as_ref(), of, end.outcome, putting, with);
    }
}
