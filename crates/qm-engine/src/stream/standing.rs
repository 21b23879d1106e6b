//! Where a stream goes on that was interrupted, when it stands, and how it begins anew.

use qm_wire::{Class, Link, Need, Outcome, Priority, QmId, StreamId};

use crate::backlog::Message;
use crate::commits::{Died, Origin};
use crate::engine::Engine;
use crate::io::{Event, LinkId};
use crate::outgoing::OutQueue;
use crate::stream::chain::{GoOn, Skipping};
use crate::stream::record::skip_key;
use crate::stream::sending::HeldStream;

/// How often a destination may say on one session that it lacks what is settled, before it is
/// believed.
const LACKS_MAX: u8 = 3;
/// Why a stream stands whose destination went back.
const LACKS_SETTLED: &str = "the destination lacks messages of this stream that it acknowledged once: its store went back or was lost";
/// Why one stands whose sender went back, too far for the destination to tell where.
pub(crate) const WENT_BACK: &str = "the destination has messages of this stream that its sender does not know, and no longer remembers where they parted: the sender's store went back to a backup, or is a copy";

impl Engine {
    /// The destination lacks what is before something that was sent (W-STR-8).
    pub(crate) fn on_need(&mut self, link: LinkId, need: &Need) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        let Some(number) = self.stream_towards(peer, need.stream) else {
            // Of a stream that was begun anew since.
            return;
        };
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        if stream.chain.unsettled().len() == 0 && stream.chain.skips().len() == 0 {
            return;
        }
        if stream.unproven && need.leaves.is_empty() && stream.chain.low() > 1 {
            return self.begin_again(number);
        }
        let floor = stream.floor.filter(|(on, _)| *on == link);
        let floor = floor.map_or(1, |(_, low)| low);
        let ahead = stream.chain.is_behind(&need.leaves);
        match stream.chain.needed(&need.leaves, floor) {
            GoOn::Behind(position) if !self.lacks_settled(link, number, &need.leaves) => {
                crate::reached!(self, NeedMet);
                self.go_on_behind(link, number, position);
            }
            GoOn::Behind(_) => self.hold_stream(link, number, Outcome::NOT_FOUND, LACKS_SETTLED),
            GoOn::Hold => {
                let text = if ahead { WENT_BACK } else { LACKS_SETTLED };
                self.hold_stream(link, number, Outcome::NOT_FOUND, text);
            }
        }
    }

    /// A stream was begun anew, and its destination knew by name what was first in it: it has no
    /// link for what follows to stand behind, and never had one.
    fn begin_again(&mut self, number: u32) {
        crate::reached!(self, StreamBegunAgain);
        let queue = self.outs.get(&number).map(|out| out.queue.clone());
        self.reroot_stream(number);
        if let Some(queue) = queue {
            self.event(Event::StreamRerooted {
                peer: self.peer_of(number),
                queue,
                text: "the destination had what was first in it, from before it was begun anew"
                    .to_owned(),
            });
        }
    }

    /// Whether a destination, which has these leaves, has said again and again on this session that
    /// it lacks what another session settled: a copy of it took that. What settled it may have
    /// overtaken its word, but not each time.
    fn lacks_settled(&mut self, link: LinkId, number: u32, leaves: &[(u64, Link)]) -> bool {
        let Some(stream) = self.out_stream(number) else {
            return false;
        };
        let low = stream.chain.low();
        let last = leaves.iter().map(|(position, _)| *position).max();
        if last.unwrap_or(0).saturating_add(1) >= low {
            stream.lacks = None;
            return false;
        }
        let before = stream.lacks.filter(|(on, at, _)| (*on, *at) == (link, low));
        let times = before.map_or(1, |(_, _, times)| times.saturating_add(1));
        stream.lacks = Some((link, low, times));
        times > LACKS_MAX
    }

    /// Everything behind a position that was sent on this session is sent again, in order.
    fn go_on_behind(&mut self, link: LinkId, number: u32, position: u64) {
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        stream.chain.unsend_skips(position);
        self.call_back(link, number, position);
        self.nudge_out(number);
    }

    /// What was sent of a stream that stands waits again: nothing will be answered for it, and its
    /// operator decides about what waits.
    pub(crate) fn call_back_held(&mut self, number: u32) {
        let stream = self.out_stream(number);
        if let Some(link) = stream.and_then(|stream| stream.held.as_ref().map(|held| held.link)) {
            self.call_back(link, number, 0);
        }
    }

    /// What is behind a position and was sent on this session waits to be sent again.
    fn call_back(&mut self, link: LinkId, number: u32, position: u64) {
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        let flights: Vec<_> = stream
            .chain
            .unsettled()
            .filter(|placed| placed.mark.position > position)
            .filter_map(|placed| placed.flight)
            .filter(|(on, _)| *on == link)
            .collect();
        for (on, sent) in flights {
            if let Some(flight) = self.take_flight(on, sent) {
                let mut message = flight.message;
                message.transmitted = true;
                self.send_again(flight.queue, flight.priority, message);
            }
        }
    }

    /// A stream stands, on this session at least, until its operator decides or the destination
    /// has again what it lacks.
    pub(crate) fn hold_stream(&mut self, link: LinkId, number: u32, outcome: Outcome, text: &str) {
        let peer = self.peer_of(number);
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        let queue = out.queue.clone();
        let Some(stream) = out.stream.as_mut() else {
            return;
        };
        let first = stream.chain.unsettled().next();
        let first = first.map(|placed| (placed.mark, placed.previous));
        let skip = stream.chain.skips().next();
        let skip = skip.map(|skip| (skip.mark, skip.previous));
        let oldest = first
            .into_iter()
            .chain(skip)
            .min_by_key(|(m, _)| m.position);
        let known = stream.held.is_some();
        stream.held = Some(HeldStream {
            link,
            outcome,
            text: text.to_owned(),
        });
        let place = oldest.map(|(mark, previous)| stream.chain.travels(mark, previous));
        crate::reached!(self, StreamHeld);
        if let Some(peer) = peer {
            // Its skips keep those of others back no more.
            self.busy_peers.insert(peer);
        }
        if known {
            return;
        }
        self.counters.streams_held += 1;
        if let Some(place) = place {
            self.tell_hold(link, &place, outcome, text);
        }
        let text = text.to_owned();
        self.event(Event::StreamHeld {
            peer,
            queue,
            incoming: false,
            text,
        });
    }

    /// A session with a destination opened: whether it is the store that knows the streams.
    pub(crate) fn meet_store(&mut self, link: LinkId, peer: QmId, store: [u8; 16]) {
        let own = self.sessions.get(&link).map(|session| session.own);
        for number in self.queues_towards(own.unwrap_or(self.me.qm), peer) {
            let Some(out) = self.outs.get_mut(&number) else {
                continue;
            };
            let queue = out.queue.clone();
            let Some(stream) = out.stream.as_mut() else {
                continue;
            };
            stream.floor = Some((link, stream.chain.low()));
            match stream.store {
                Some(known) if known == store => continue,
                Some(_) => {
                    crate::reached!(self, StreamRerooted);
                    self.event(Event::StreamRerooted {
                        peer: Some(peer),
                        queue,
                        text: "the destination has another store than before: exactly once cannot be proven across its loss".to_owned(),
                    });
                    // Before the new store is noted: whoever dies half way begins it anew again.
                    self.reroot_stream(number);
                }
                None => {}
            }
            if let Some(stream) = self.out_stream(number) {
                stream.store = Some(store);
            }
            self.soil_stream(number);
        }
    }

    /// A message came back from the disk that refused its dead letter. When its stream began anew
    /// meanwhile, and what is behind it has places there, it has none, and would count as settled:
    /// the stream begins anew once more.
    pub(crate) fn link_again(&mut self, number: u32, at: u64) {
        let out = self.outs.get(&number);
        let stream = out.and_then(|out| out.stream.as_ref());
        if stream.is_some_and(|stream| stream.chain.has_passed(at))
            || out.and_then(OutQueue::passed_over).is_some()
        {
            self.reroot_stream(number);
        }
    }

    /// Links everything that is not settled anew, under a new stream. What is in doubt is asked
    /// for by name before it is sent again; what left and was not answered for stays uncertain.
    pub(crate) fn reroot_stream(&mut self, number: u32) -> u64 {
        if self.commits.has_puts() {
            // Of what is gathered, the batch that puts is the last one: a skip that stands beside
            // its letter there would come back.
            self.seal();
        }
        self.give_up_skips(number);
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        let id = StreamId(id);
        let me = self.own_of(number);
        let Some(out) = self.outs.get_mut(&number) else {
            return 0;
        };
        let root = Link::start(&me, &id, &out.queue);
        let Some(stream) = out.stream.as_mut() else {
            return 0;
        };
        let old = stream.chain.id();
        let flights: Vec<_> = stream
            .chain
            .unsettled()
            .filter_map(|placed| placed.flight)
            .collect();
        let skips = stream.chain.reroot(id, root);
        stream.floor = None;
        stream.lacks = None;
        stream.held = None;
        (stream.unproven, stream.begins) = (true, false);
        stream.leaving.clear();
        self.stream_ids.remove(&old);
        self.stream_ids.insert(id, number);
        self.counters.streams_rerooted += 1;
        for skip in skips {
            // Their letters are on their way to the disk, which may refuse them: nothing is decided
            // before they stand. What a crash between would leave open is noted.
            self.commits.unset(skip_key(number, skip.mark.position));
            if let Some((letter, _)) = skip.letter {
                self.note_letter_uncertain(letter);
            }
        }
        let flights = flights
            .into_iter()
            .filter_map(|(on, sent)| self.take_flight(on, sent))
            .collect::<Vec<_>>();
        self.place_again(number, &flights);
        for flight in flights {
            self.put_in_doubt(flight.queue, flight.priority, flight.message);
        }
        self.doubt_called_back(number);
        self.soil_stream(number);
        self.nudge_out(number);
        self.outs
            .get(&number)
            .map_or(0, |out| out.waiting().0 + out.doubtful())
    }

    /// What was called back was transmitted, and an answer to it may be under way, which is no
    /// answer under another stream.
    fn doubt_called_back(&mut self, number: u32) {
        let priority = Priority::LOWEST.get();
        let mut messages = Vec::new();
        if let Some(lane) = self.out_lane(number, priority) {
            let sent = |m: &&Message| m.class == Class::Transactional && m.transmitted;
            let sent = lane.backlog.resident().filter(sent);
            let positions: Vec<_> = sent.map(|m| m.position).collect();
            messages.extend(positions.into_iter().filter_map(|at| lane.backlog.take(at)));
        }
        for message in messages {
            self.release(&message);
            self.put_in_doubt(number, priority, message);
        }
    }

    /// Of a stream that begins anew nobody answers for the skips any more. There may be more of
    /// them than one batch takes: each goes as if it were answered for, so that what is on disk
    /// after any of the batches is a chain with the right places, of which is noted that it is to
    /// begin anew: its destination never answered for them. Those whose letters the disk has
    /// not confirmed stay: a message that comes back must not find its place settled.
    fn give_up_skips(&mut self, number: u32) {
        let Some(stream) = self.out_stream(number) else {
            return;
        };
        // Without a letter it is in an earlier batch of those that keep their order.
        let certain = |skip: &&Skipping<_>| skip.durable || skip.letter.is_none();
        let skips = stream.chain.skips().filter(certain);
        let positions: Vec<_> = skips.map(|skip| skip.mark.position).collect();
        stream.begins = true;
        for position in positions {
            let Some(skip) = self
                .out_stream(number)
                .and_then(|stream| stream.chain.settle_skip(position))
            else {
                continue;
            };
            self.soil_stream(number);
            self.commits.unset(skip_key(number, position));
            self.letter_uncertain(skip.letter.map(|(letter, _)| letter), skip.entry.id);
            self.tell_end(skip.entry.id, skip.outcome);
            self.seal_if_large();
        }
    }

    /// A dead letter is on disk, and its skip may be sent; unless its stream began anew meanwhile:
    /// then nobody can say any more whether its message arrived.
    pub(crate) fn letter_of_stream_durable(
        &mut self,
        from: &Origin,
        letter: u64,
        died: Option<&Died>,
    ) {
        let (queue, message) = (from.queue, &from.message);
        let skips = self.skip_of_letter_durable(queue, message.position);
        let doubt = died.filter(|died| died.end.unconfirmed);
        if let Some(died) = doubt.filter(|_| !skips && message.class == Class::Transactional) {
            self.letter_uncertain(Some(letter), message.id);
            self.tell_end(message.id, died.end.outcome);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::record::RemoteKey;
    use crate::stream::chain::Mark;
    use crate::testing::{engine, qm, transactional};

    /// An engine with a queue of another node, and the number of that.
    fn with_a_queue() -> (Engine, u32) {
        let mut engine = engine();
        let queue = "orders".parse().expect("a name");
        let number = engine.out_queue(engine.qm_id(), &RemoteKey::Id(qm(5)), &queue);
        (engine, number)
    }

    #[test]
    fn a_destination_is_believed_when_it_said_often_enough_that_it_lacks_what_is_settled() {
        let (mut engine, number) = with_a_queue();
        let mark = Mark {
            at: 9,
            position: 9,
            link: Link([9; 16]),
        };
        engine.add_stream(number, StreamId([1; 16]), None, [mark], []);
        let low = engine.out_stream(number).expect("a stream").chain.low();
        let mut lacks = |link: u64, last: u64| {
            engine.lacks_settled(LinkId(link), number, &[(last, Link([0; 16]))])
        };
        let mut says = |link: u64| (0..LACKS_MAX).any(|_| lacks(link, low - 2));
        assert!(!says(1), "what settled it may have overtaken that");
        assert!(!says(2), "another session");
        assert!(lacks(2, low - 2), "once more");
        assert!(!lacks(2, low - 1), "it has it");
        assert!(!lacks(2, low - 2), "that is counted anew");
    }

    /// A message that is to be transmitted, before one that was: its letter was refused once, and
    /// the other one was called back. Without a place of its own it would count as settled.
    #[test]
    fn what_waits_before_what_was_transmitted_gets_its_place_when_a_stream_begins_anew() {
        let (mut engine, number) = with_a_queue();
        let own = engine.qm_id();
        let priority = Priority::LOWEST.get();
        let mut waits = |sequence: u8, transmitted| {
            let message = transactional(own, sequence, transmitted);
            engine.begin_stream(number);
            let lane = engine.out_lane(number, priority).expect("a lane");
            let (at, _) = lane.backlog.push(message, true);
            lane.backlog.committed(at + 1);
            at
        };
        let (first, second) = (waits(1, false), waits(2, true));
        engine.reroot_stream(number);
        let out = engine.outs.get(&number).expect("the queue");
        assert_eq!(out.passed_over(), None);
        let chain = &out.stream.as_ref().expect("a stream").chain;
        let place = |at| chain.placed_at(at).map(|placed| placed.mark.position);
        assert_eq!((place(first), place(second)), (Some(1), Some(2)));
    }
}
