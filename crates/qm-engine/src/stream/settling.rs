//! What a destination may say of places in a stream, and what that settles here.

use qm_wire::{LinkAt, MessageId, OrderAck, Outcome, Priority, QmId, Skipped};

use crate::backlog::Message;
use crate::dead::Doubt;
use crate::engine::Engine;
use crate::io::{Event, LinkId};
use crate::stream::chain::Settles;
use crate::stream::record::skip_key;

impl Engine {
    /// Runs are stored at the destination (W-STR-6).
    pub(crate) fn on_order_ack(&mut self, link: LinkId, ack: &OrderAck) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        let mut foreign = 0;
        for run in &ack.runs {
            let number = self.stream_towards(peer, run.stream);
            let stream = number.and_then(|n| self.outs.get(&n)?.stream.as_ref());
            let (Some(number), Some(stream)) = (number, stream) else {
                foreign += 1;
                continue;
            };
            #[cfg_attr(
                not(feature = "__breaks"),
                expect(unused_mut, reason = "a break changes it")
            )]
            let mut settles = stream.chain.acked(run);
            #[cfg(feature = "__breaks")]
            {
                if self.config.breaks.order_ack_by_number {
                    settles = Settles::These(stream.chain.within(run.first, run.last));
                } else if self.config.breaks.order_ack_from_start && settles != Settles::NotHeld {
                    settles = Settles::These(stream.chain.within(1, run.last));
                }
            }
            match settles {
                Settles::These(positions) => {
                    crate::reached!(self, OrderAckApplied);
                    self.prove_stream(number);
                    for position in positions {
                        self.delivered_in_stream(number, position);
                        // One run may be of more than a batch takes.
                        self.seal_if_large();
                    }
                }
                Settles::Nothing => {}
                Settles::NotHeld => foreign += 1,
            }
        }
        if foreign > 0 {
            self.not_held_in_stream(peer, foreign);
        }
        self.busy_peers.insert(peer);
    }

    /// The destination has a link of a stream: from now on it lacks what is settled of it only if
    /// it went back.
    fn prove_stream(&mut self, number: u32) {
        if let Some(stream) = self.out_stream(number)
            && core::mem::take(&mut stream.unproven)
        {
            self.soil_stream(number);
        }
    }

    /// An answer named links that are not held: counted and told, never applied.
    fn not_held_in_stream(&mut self, peer: QmId, entries: usize) {
        crate::reached!(self, OrderAckNotHeld);
        self.counters.acks_not_held += entries as u64;
        self.event(Event::AckNotHeld {
            peer,
            entries,
            foreign_incarnation: false,
        });
    }

    /// The destination has what stands at this position.
    fn delivered_in_stream(&mut self, number: u32, position: u64) {
        let stream = self.outs.get(&number).and_then(|out| out.stream.as_ref());
        let Some(stream) = stream else { return };
        if let Some(placed) = stream.chain.placed(position).copied() {
            if let Some((link, sent)) = placed.flight {
                self.settle_flight(link, sent);
            } else if let Some(message) = self.take_rest(number, placed.mark.at) {
                self.settle_delivered(number, Priority::LOWEST.get(), &message);
            }
            return;
        }
        let Some(skip) = stream.chain.skip(position) else {
            return;
        };
        if !skip.durable {
            // The end would be written before what it ends. When that is on disk the skip is sent,
            // and answered in the same way.
            return;
        }
        let (id, letter) = (skip.entry.id, skip.letter);
        if letter.is_some_and(|(at, _)| self.is_letter_held(at)) {
            self.skips_heard.insert(id, (number, position));
            return;
        }
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        let Some(skip) = stream.chain.settle_skip(position) else {
            return;
        };
        stream.held = None;
        // Delivered wins: it was under way when it left.
        crate::reached!(self, SkipDelivered);
        self.commits.unset(skip_key(number, position));
        self.soil_stream(number);
        self.was_delivered(number, skip.entry, skip.letter);
    }

    /// A dead letter is not in an application's hands any more: its destination may have said
    /// meanwhile that it has the message.
    pub(crate) fn skip_let_go(&mut self, id: MessageId) {
        let Some((number, position)) = self.skips_heard.remove(&id) else {
            return;
        };
        let stream = self.outs.get(&number).and_then(|out| out.stream.as_ref());
        let skip = stream.and_then(|stream| stream.chain.skip(position));
        // The stream may have begun anew since.
        if skip.is_some_and(|skip| skip.entry.id == id) {
            self.delivered_in_stream(number, position);
        }
    }

    /// Takes out a message that has a place and is not in flight.
    fn take_rest(&mut self, number: u32, at: u64) -> Option<Message> {
        let priority = Priority::LOWEST.get();
        let peer = self.peer_of(number)?;
        let lane = self.outs.get_mut(&number)?.lanes.get_mut(&priority)?;
        if let Some(entry) = lane.doubt.get(&at).map(Message::entry) {
            return self.take_doubt(peer, &entry).map(|(_, _, message)| message);
        }
        let message = lane.backlog.take(at)?;
        self.release(&message);
        Some(message)
    }

    pub(crate) fn peer_of(&self, number: u32) -> Option<QmId> {
        self.remotes.get(&self.outs.get(&number)?.remote)?.peer()
    }

    /// The destination recorded these links as skips: they are certainly not delivered (W-STR-7).
    pub(crate) fn on_skipped(&mut self, link: LinkId, skipped: &Skipped) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        let mut foreign = 0;
        for LinkAt {
            stream: id,
            position,
            link,
        } in &skipped.links
        {
            let number = self.stream_towards(peer, *id);
            let Some(number) = number else {
                foreign += 1;
                continue;
            };
            let Some(stream) = self.out_stream(number) else {
                continue;
            };
            let skip = stream.chain.skip(*position);
            if let Some(skip) = skip.filter(|skip| skip.mark.link == *link) {
                // A copy of this node may have sent it. It is sent when it is on disk here, and
                // answered again.
                if !skip.durable {
                    continue;
                }
                if let Some(skip) = stream.chain.settle_skip(*position) {
                    stream.held = None;
                    stream.unproven = false;
                    crate::reached!(self, SkipConfirmed);
                    self.commits.unset(skip_key(number, *position));
                    self.soil_stream(number);
                    self.letter_certain(skip.letter.map(|(letter, _)| letter), skip.entry.id);
                    self.tell_end(skip.entry.id, skip.outcome);
                }
                continue;
            }
            let placed = stream.chain.placed(*position).copied();
            match placed.filter(|placed| placed.mark.link == *link) {
                Some(placed) => self.skipped_there(number, placed.mark.at, placed.flight),
                None if *position < stream.chain.low() => {}
                None => foreign += 1,
            }
        }
        if foreign > 0 {
            self.not_held_in_stream(peer, foreign);
        }
        self.busy_peers.insert(peer);
    }

    /// A copy of this node, or this node before its store went back, let go of a message that is
    /// still here. Its destination will not take it any more.
    fn skipped_there(&mut self, number: u32, at: u64, flight: Option<(LinkId, u64)>) {
        let message = match flight {
            Some((link, sent)) => self.take_flight(link, sent).map(|flight| flight.message),
            None => self.take_rest(number, at),
        };
        let Some(message) = message else { return };
        if let Some(stream) = self.out_stream(number) {
            stream.held = None;
        }
        self.prove_stream(number);
        // Its place is not settled before its letter is on disk: the skip that it leaves is
        // answered like any other.
        self.bury(
            number,
            Priority::LOWEST.get(),
            &message,
            Outcome::PURGED_IN_TRANSIT,
            Doubt::None,
        );
    }
}
