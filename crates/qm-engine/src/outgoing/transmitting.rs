//! How messages are sent to their destination: in order within a priority, as credit allows, and
//! read on from disk.

use qm_wire::{Class, Data, Priority, QmId, Transit};

use super::{LOAD_BYTES, LOAD_RECORDS};
use crate::backlog::{Message, left_ms};
use crate::engine::{Engine, LoadFor};
use crate::expiry::TOGETHER_MS;
use crate::history::What;
use crate::io::{Lane, LinkId, Output};
use crate::journal::wishes_copy;
use crate::limits::{DOUBT_BYTES_MAX, DOUBTS_MAX};
use crate::session::Flight;

impl Engine {
    /// Transmits what credit and the state of queues allow, higher priorities first.
    pub(crate) fn pump_peer(&mut self, peer: QmId) {
        // The former identity first: the other one waits for it.
        for own in self.owns() {
            self.pump_peer_as(own, peer);
        }
        self.query_fresh_awaited(peer);
    }

    fn pump_peer_as(&mut self, own: QmId, peer: QmId) {
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let numbers = self.queues_towards(own, peer);
        self.ask_fresh(own, peer, &numbers);
        let mut asked = false;
        // Counted once for all queues: it takes a walk over all of them.
        let mut skips_open = None;
        for priority in (0..Priority::COUNT).rev() {
            let Ok(priority) = u8::try_from(priority) else {
                continue;
            };
            for number in &numbers {
                asked |= self.pump_lane(link, *number, priority, &mut skips_open);
            }
        }
        if asked {
            self.query_doubts(own, peer);
        }
        self.rest(&numbers);
        self.busy_sessions.insert(link);
    }

    /// Returns whether messages of an earlier life were found whose fate must be asked.
    fn pump_lane(
        &mut self,
        link: LinkId,
        number: u32,
        priority: u8,
        skips_open: &mut Option<usize>,
    ) -> bool {
        let mut asked = false;
        let mut first_flight = false;
        let barred = priority == Priority::LOWEST.get() && self.is_barred(number);
        // Nothing leaves for which its copy would find no room.
        let full = self.disk_refuses();
        let mut skips_left = None;
        loop {
            if priority == Priority::LOWEST.get()
                && !barred
                && !self.pump_stream(link, number, skips_open)
            {
                return asked;
            }
            let now = self.now;
            let incarnation = self.incarnation;
            let Some(out) = self.outs.get_mut(&number) else {
                return asked;
            };
            let Some(session) = self.sessions.get_mut(&link) else {
                return asked;
            };
            if out.paused || session.closed_queues.contains(&out.queue) {
                return asked;
            }
            let Some(lane) = out.lanes.get_mut(&priority) else {
                return asked;
            };
            let Some(next) = lane.backlog.peek() else {
                break;
            };
            let transactional = next.class == Class::Transactional;
            if transactional && barred {
                crate::reached!(self, BarredByFormer);
                break;
            }
            // W-USE-8: it is not sent any more; whether it was sent before, its destination says. A
            // transactional message that was is judged by its destination, in its place.
            let may_be_there = next.transmitted || next.id.incarnation != incarnation;
            let judged_there = may_be_there && transactional;
            if next.reach_deadline() <= now.at && !judged_there {
                if transactional {
                    match &mut skips_left {
                        // Counted once for all that are overdue.
                        None => {
                            skips_left = Some(self.skips_left());
                            continue;
                        }
                        Some(0) => break,
                        Some(left) => *left -= 1,
                    }
                }
                let Some(message) = lane.backlog.pop() else {
                    break;
                };
                self.release(&message);
                self.expire_out(number, priority, &message);
                continue;
            }
            // Order within a priority: nothing leaves before what is older and in doubt.
            let inherited = next.id.incarnation != incarnation
                && !next.transmitted
                && !crate::broken!(self, forget_doubt);
            if inherited {
                if lane.doubt.len() >= DOUBTS_MAX || lane.doubt_bytes >= DOUBT_BYTES_MAX {
                    break;
                }
                let Some(message) = lane.backlog.pop() else {
                    break;
                };
                self.release(&message);
                self.put_in_doubt(number, priority, message);
                asked = true;
                continue;
            }
            if lane
                .doubt
                .first_key_value()
                .is_some_and(|(first, _)| *first < next.position)
                && !crate::broken!(self, overtake_doubt)
            {
                break;
            }
            if lane.flies_elsewhere(link) {
                break;
            }
            if full && wishes_copy(next) {
                break;
            }
            let stream = out.stream.as_mut().filter(|_| transactional);
            if stream
                .as_ref()
                .is_some_and(|s| s.waits_behind(next.position))
            {
                break;
            }
            if transactional && stream.is_none() {
                self.begin_stream(number);
                continue;
            }
            if !session.admits(next.credit()) && !crate::broken!(self, ignore_credit) {
                break;
            }
            let Some(message) = lane.backlog.pop() else {
                break;
            };
            #[cfg(feature = "__breaks")]
            let message = if crate::broken!(self, relabel_queue) {
                crate::relabel::relabelled(message, session.own)
            } else {
                message
            };
            // In flight it is bounded by the window, not by what may be kept beside the disk.
            let held = if message.class.is_durable() {
                &mut self.resident_bytes
            } else {
                &mut self.express_bytes
            };
            *held = held.saturating_sub(message.cost());
            let place = match stream {
                None => None,
                Some(stream) => match stream.fly(&message, (link, session.next_number)) {
                    Some(place) => Some(place),
                    None if wishes_copy(&message) => {
                        // It was settled; its copy was refused.
                        self.leave_delivered(number, priority, &message);
                        continue;
                    }
                    None => {
                        // Mark and removal are one commit, so this must not be. Rather than
                        // lost it is asked for by name.
                        self.reroot_stream(number);
                        self.put_in_doubt(number, priority, message);
                        asked = true;
                        continue;
                    }
                },
            };
            let flying = &mut lane.flying;
            let again = message.transmitted;
            if again && message.reach_deadline() <= now.at {
                crate::reached!(self, ExpiredAsked);
            }
            let data = Data {
                number: session.next_number,
                tag: message.tag,
                transit: Transit {
                    place,
                    ..Transit::direct(
                        left_ms(message.reach_left_ms, message.at, now.at),
                        left_ms(message.receive_left_ms, message.at, now.at),
                    )
                },
                envelope: message.envelope.clone(),
                body: message.body.clone(),
            };
            session.next_number += 1;
            session.sent.messages += 1;
            session.sent.bytes += message.credit();
            session.last_activity = now.at;
            let lane = Lane::Priority(priority);
            if let Some(frames) = session.push_data(lane, &data) {
                self.outputs.push_back(Output::Send { link, lane, frames });
            }
            let peer = session.peer;
            let sent = (message.source, message.id);
            let flight = Flight {
                queue: number,
                priority,
                sent: now.at,
                message,
            };
            session.flight_bytes = session.flight_bytes.saturating_add(flight.message.credit());
            session.flights.insert(data.number, flight);
            out.in_flight += 1;
            flying.0 += 1;
            flying.1 = Some(link);
            first_flight |= session.flights.len() == 1;
            self.counters.transmitted += 1;
            let (source, id) = sent;
            self.note(source, id, What::Transmitted { peer, link, again });
            self.counters.retransmitted += u64::from(again);
            if crate::broken!(self, settle_on_transmit) {
                self.settle_flight(link, data.number);
            }
        }
        if first_flight && let Some(session) = self.sessions.get(&link) {
            let wait_ms = session.ack_wait_ms(&self.config);
            self.arm_session(link, self.now.at.plus_ms(wait_ms));
        }
        self.refill_out(number, priority);
        asked
    }

    /// Reads on from disk when memory runs low.
    pub(crate) fn refill_out(&mut self, number: u32, priority: u8) {
        let room = self.may_keep(LOAD_BYTES);
        // What is purged is not asked for first.
        let purged = self.purges.contains_key(&(false, number));
        let Some(lane) = self
            .outs
            .get_mut(&number)
            .and_then(|out| out.lanes.get_mut(&priority))
        else {
            return;
        };
        if lane.doubt.len() >= DOUBTS_MAX && !purged {
            return;
        }
        let Some(from) = lane.backlog.wants_load(LOAD_RECORDS, room) else {
            return;
        };
        lane.backlog.load_started();
        let stream = lane.backlog.stream;
        let what = LoadFor::Backlog {
            queue: number,
            priority,
            local: false,
        };
        self.start_load(stream, from, LOAD_RECORDS, LOAD_BYTES, what);
    }

    /// One message less in flight.
    pub(crate) fn landed(&mut self, number: u32, priority: u8) {
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        out.in_flight = out.in_flight.saturating_sub(1);
        if let Some(lane) = out.lanes.get_mut(&priority) {
            lane.flying.0 = lane.flying.0.saturating_sub(1);
        }
    }

    /// It may be sent again: the destination said it does not have it.
    pub(crate) fn send_again(&mut self, number: u32, priority: u8, message: Message) {
        self.place_in_stream(number, &message);
        let durable = message.class.is_durable();
        let deadline = message.reach_deadline();
        if let Some(lane) = self.out_lane(number, priority) {
            let cost = lane.backlog.give_back(message);
            self.hold(durable, cost);
        }
        self.watch_again(false, number, priority, deadline, TOGETHER_MS);
        self.nudge_out(number);
    }
}
