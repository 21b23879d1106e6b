//! Messages whose time ran out: noticed when the earliest of a queue is due, or when a message is
//! about to be handed out.

use std::collections::BTreeSet;

use qm_wire::{Class, MessageFlags, Outcome};

use crate::backlog::{Backlog, Message};
use crate::commits::{Died, Origin};
use crate::dead::End;
use crate::engine::{Engine, Timer};
use crate::history::What;
use crate::io::{Event, StoreOp};
use crate::outgoing::OutLane;
use crate::time::Timestamp;

/// Deadlines so close together are looked at together, milliseconds.
pub(crate) const TOGETHER_MS: u64 = 100;

/// What is overdue and can't end yet is looked at again after so long, milliseconds.
const LOOK_AGAIN_MS: u64 = 10_000;

impl Engine {
    /// Arms the timer for a message that entered memory.
    pub(crate) fn watch(&mut self, local: bool, queue: u32, priority: u8, deadline: Timestamp) {
        if deadline == Timestamp::NEVER {
            return;
        }
        let backlog = if local {
            self.locals
                .get_mut(&queue)
                .and_then(|q| q.lanes.get_mut(&priority))
        } else {
            self.outs
                .get_mut(&queue)
                .and_then(|q| q.lanes.get_mut(&priority))
                .map(|lane| &mut lane.backlog)
        };
        let Some(backlog) = backlog else { return };
        if deadline < backlog.deadline {
            backlog.deadline = deadline;
            self.arm(deadline, Timer::Expiry);
        }
    }

    /// The same for a message that comes back. One that is overdue is looked at a moment later,
    /// `again_ms`: the disk may have refused its letter just now.
    pub(crate) fn watch_again(
        &mut self,
        local: bool,
        queue: u32,
        priority: u8,
        deadline: Timestamp,
        again_ms: u64,
    ) {
        let earliest = self.now.at.plus_ms(again_ms);
        self.watch(local, queue, priority, deadline.max(earliest));
    }

    /// Looks through the queues whose earliest deadline has come.
    pub(crate) fn expire_due(&mut self) {
        let now = self.now.at;
        let mut due: Vec<(bool, u32, u8, Vec<u64>)> = Vec::new();
        let mut doubtful: Vec<(u32, u8, u64)> = Vec::new();
        let mut rearm = Timestamp::NEVER;
        for (number, queue) in &mut self.locals {
            for (priority, backlog) in &mut queue.lanes {
                let positions = overdue(backlog, now, Message::receive_deadline, |_| true);
                rearm = rearm.min(backlog.deadline);
                due.push((true, *number, *priority, positions));
            }
        }
        let life = self.incarnation;
        let looks_again = now.plus_ms(LOOK_AGAIN_MS);
        let is_due = |lane: &OutLane| lane.doubt_deadline <= now || lane.backlog.deadline <= now;
        let lanes = self.outs.values().flat_map(|out| out.lanes.values());
        let (judges, mut skips) = if lanes.into_iter().any(is_due) {
            (self.destinations_that_judge(), self.skips_left())
        } else {
            (BTreeSet::new(), 0)
        };
        for (number, out) in &mut self.outs {
            for (priority, lane) in &mut out.lanes {
                // What is transactional and was transmitted, perhaps in an earlier life, is not
                // declared expired while its destination is there: that decides, sees no time
                // left, and rejects what it does not already have.
                let judged = judges.contains(number) && !crate::broken!(self, expire_in_doubt);
                let mut may_end = |message: &Message, doubtful: bool| {
                    if message.class != Class::Transactional {
                        return true;
                    }
                    let sent = doubtful || message.transmitted || message.id.incarnation != life;
                    if sent && judged {
                        return false;
                    }
                    // It leaves a skip, which takes memory until its destination has answered.
                    let room = skips > 0;
                    skips = skips.saturating_sub(1);
                    room
                };
                if lane.doubt_deadline <= now {
                    let mut next = Timestamp::NEVER;
                    for message in lane.doubt.values() {
                        let at = message.reach_deadline();
                        if at > now {
                            next = next.min(at);
                        } else if may_end(message, true) {
                            doubtful.push((*number, *priority, message.position));
                        } else {
                            next = next.min(looks_again);
                        }
                    }
                    lane.doubt_deadline = next;
                }
                rearm = rearm.min(lane.doubt_deadline);
                let backlog = &mut lane.backlog;
                let positions =
                    overdue(backlog, now, Message::reach_deadline, |m| may_end(m, false));
                rearm = rearm.min(backlog.deadline);
                due.push((false, *number, *priority, positions));
            }
        }
        for (number, priority, position) in doubtful {
            if let Some(message) = self.give_up_doubt(number, priority, position) {
                self.expire_out(number, priority, &message);
            }
        }
        for (local, number, priority, positions) in due {
            for position in positions {
                let backlog = if local {
                    self.locals
                        .get_mut(&number)
                        .and_then(|q| q.lanes.get_mut(&priority))
                } else {
                    self.outs
                        .get_mut(&number)
                        .and_then(|q| q.lanes.get_mut(&priority))
                        .map(|lane| &mut lane.backlog)
                };
                let Some(message) = backlog.and_then(|backlog| backlog.take(position)) else {
                    continue;
                };
                self.release(&message);
                if local {
                    crate::reached!(self, ExpiredInQueue);
                    let end = End::here(self.me.qm, Outcome::RECEIVE_EXPIRED);
                    self.bury_local(number, priority, &message, end);
                } else {
                    self.expire_out(number, priority, &message);
                }
            }
        }
        if rearm != Timestamp::NEVER {
            // Many deadlines close together are looked at together.
            self.arm(rearm.max(now.plus_ms(TOGETHER_MS)), Timer::Expiry);
        }
    }

    /// Queues whose destinations are there, and judge for themselves what may have reached them.
    fn destinations_that_judge(&self) -> BTreeSet<u32> {
        let outs = self.outs.iter().filter(|(_, out)| out.stream.is_some());
        let numbers = outs.map(|(number, _)| *number);
        numbers.filter(|number| !self.is_away(*number)).collect()
    }

    /// Whether the destination of an outgoing queue can't be asked now.
    pub(crate) fn is_away(&self, number: u32) -> bool {
        let peer = self.peer_of(number);
        !peer.is_some_and(|peer| self.has_session(self.own_of(number), peer))
    }

    /// A message ended: its letter is safe, or none is kept. Whoever follows it may hear of it; a
    /// letter that the disk refuses leaves the message where it was. `on_disk`: whether no crash
    /// brings it back any more.
    pub(crate) fn died(&mut self, died: Died, on_disk: bool) {
        self.note_death(died, false);
        let Died { id, end, .. } = died;
        if end.unconfirmed {
            // Its destination has the last word.
        } else if on_disk {
            self.tell_fate(id, end.outcome);
        } else {
            self.tell_end(id, end.outcome);
        }
    }

    /// With `aside` it is a dead letter or a copy that ends, whose message had ended before.
    fn note_death(&mut self, died: Died, aside: bool) {
        let Died {
            source,
            id,
            end,
            kept,
        } = died;
        let outcome = end.outcome;
        self.counters.purged += u64::from(end.purged());
        let what = What::Dead {
            outcome,
            kept,
            aside,
        };
        self.note(source, id, what);
        self.event(Event::Dead {
            id,
            outcome,
            kept,
            uncertain: end.uncertain || end.unconfirmed,
        });
    }

    /// A message leaves its destination queue otherwise than by being received.
    pub(crate) fn bury_local(&mut self, number: u32, priority: u8, message: &Message, end: End) {
        let kept = message.flags.contains(MessageFlags::DEAD_LETTER) && !end.discard;
        let destination = self.local_destination(number);
        let durable = message.class.is_durable();
        if durable {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
        }
        let removal = durable.then(|| StoreOp::Remove {
            stream: Self::stream_of(number, priority),
            first: message.position,
            last: message.position,
        });
        let aside = self.is_aside(number);
        if self.is_dead_queue(number) {
            self.letter_closes(message.position);
        }
        self.note_end(number, message, end.outcome, kept);
        if kept {
            let from = Some(Origin {
                local: true,
                queue: number,
                priority,
                message: message.clone(),
            });
            self.put_dead_letter(message, end, &destination, removal, from);
        } else {
            if let Some(removal) = removal {
                self.commits.settle(removal);
            }
            self.counters.discarded += 1;
            let died = Died {
                source: message.source,
                id: message.id,
                end,
                kept,
            };
            if aside {
                // Whoever follows the message hears how that ended, not its letter or its copy.
                self.note_death(died, true);
            } else {
                self.died(died, !durable);
            }
        }
        // Many may leave in one step.
        self.seal_if_large();
        self.reopen_if_room(number);
    }
}

/// Positions of the messages whose time has come; sets the next time to look.
fn overdue(
    backlog: &mut Backlog,
    now: Timestamp,
    deadline: impl Fn(&Message) -> Timestamp,
    mut may_end: impl FnMut(&Message) -> bool,
) -> Vec<u64> {
    if backlog.deadline > now {
        return Vec::new();
    }
    let mut next = Timestamp::NEVER;
    let mut positions = Vec::new();
    for message in backlog.resident() {
        let at = deadline(message);
        if at > now {
            next = next.min(at);
        } else if may_end(message) {
            positions.push(message.position);
        } else {
            next = next.min(now.plus_ms(LOOK_AGAIN_MS));
        }
    }
    backlog.deadline = next;
    positions
}
