//! Emptying queues on an operator's word. Each message ends with a typed outcome, as if it had
//! expired: a dead letter unless its sender or the operator wished none, a fate for whoever
//! follows it, a count in the answer.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::{Class, MessageFlags, Outcome, QmId, QueueName};

use crate::admin::{AdminReply, PurgeTally, Selector};
use crate::backlog::{Backlog, Message};
use crate::commits::Then;
use crate::dead::End;
use crate::engine::{Engine, Timer};
use crate::io::ConnId;
use crate::jobs::{JobId, Work};

/// Messages taken out in one step: a purge of millions must not hold up everything else.
const STEP_MESSAGES: usize = 512;

/// A queue that is being emptied.
#[derive(Debug)]
pub(crate) struct Purge {
    job: JobId,
    /// Per priority, the position of the first message that came after the purge.
    ends: BTreeMap<u8, u64>,
    outcome: Outcome,
    discard: bool,
    deletes: bool,
    /// The peer whose word ends it, which will not be asked about what it may have.
    refused_by: Option<QmId>,
    /// Everything was taken out; the disk is to confirm it.
    confirming: bool,
}

/// Where a message waits: whether in a local queue, in which one, and with which priority.
type Place = (bool, u32, u8);

/// What a purge makes of each message.
#[derive(Clone, Copy, Debug)]
struct Fate {
    job: JobId,
    outcome: Outcome,
    discard: bool,
    refused_by: Option<QmId>,
}

impl Purge {
    const fn fate(&self) -> Fate {
        Fate {
            job: self.job,
            outcome: self.outcome,
            discard: self.discard,
            refused_by: self.refused_by,
        }
    }
}

/// Why a purge can't go on.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// The disk is full and takes no dead letters.
    Disk,
    /// Too many messages that left their streams are not answered for.
    Skips,
}

impl Failure {
    fn reply(self, skips_max: usize) -> AdminReply {
        let (outcome, cause, fix) = match self {
            Self::Disk => (
                Outcome::STORE_FULL,
                "the disk is full and takes no more dead letters; the messages that are not kept as such stay where they are".to_owned(),
                "purge with --discard, which keeps none and makes room",
            ),
            Self::Skips => (
                Outcome::BUSY,
                format!("{skips_max} transactional messages that left their queues wait for the word of their destinations, and no more may; those that are not purged stay where they are"),
                "purge again when a destination was there, or begin its stream anew (qm-node stream rebase QUEUE) before",
            ),
        };
        let fix = fix.to_owned();
        AdminReply::Failed {
            outcome,
            cause,
            fix,
        }
    }
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    /// For the disk.
    Waits,
    /// More can be done at once.
    Goes,
}

impl Engine {
    /// Begins to empty a local queue; the answer comes when it is done.
    pub(crate) fn purge_queue(
        &mut self,
        conn: ConnId,
        request: u64,
        number: u32,
        discard: bool,
        deletes: bool,
    ) -> Option<AdminReply> {
        if self.purges.contains_key(&(true, number)) {
            return Some(Self::being_emptied());
        }
        // Dead letters are not buried again.
        let discard = discard || self.is_aside(number);
        let outcome = if deletes {
            Outcome::QUEUE_DELETED
        } else {
            Outcome::QUEUE_PURGED
        };
        let open = BTreeSet::from([(true, number)]);
        let tally = PurgeTally::default();
        let job = self.begin_job(conn, request, Work::Purge { open, tally });
        let queue = self.locals.get_mut(&number)?;
        let ends = queue
            .lanes
            .iter()
            .map(|(priority, lane)| (*priority, lane.next_position()))
            .collect();
        let leased = queue.leased.len() as u64;
        let purge = Purge {
            job,
            ends,
            outcome,
            discard,
            deletes,
            refused_by: None,
            confirming: false,
        };
        self.purges.insert((true, number), purge);
        if deletes {
            if let Some(queue) = self.locals.get_mut(&number) {
                // Nothing arrives and nothing is handed out any more.
                queue.deleting = true;
                self.local_names.remove(&queue.settings.name);
            }
            // Without letters nothing is taken from anybody: the queue stays.
            if discard || !self.disk_refuses() {
                self.bury_leased(number, job, discard);
            }
        } else {
            self.count_purged(job, |tally| tally.left += leased);
        }
        self.step_purges();
        None
    }

    /// Each purge is answered for itself: a second one would take the place of the first.
    fn being_emptied() -> AdminReply {
        AdminReply::Failed {
            outcome: Outcome::BUSY,
            cause: "it is just being emptied on an earlier request".to_owned(),
            fix: "wait for the answer to that one, then try again".to_owned(),
        }
    }

    /// What applications hold of a queue that is being deleted ends with it. They may have acted
    /// on it already. What a commit on its way to the disk takes is left to that commit.
    fn bury_leased(&mut self, number: u32, job: JobId, discard: bool) {
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        let leased = core::mem::take(&mut queue.leased).into_iter();
        let (kept, taken): (Vec<_>, Vec<_>) = leased.partition(|(_, held)| held.committing);
        queue.leased.extend(kept);
        let taken: Vec<_> = taken.into_iter().map(|(_, held)| held).collect();
        let bytes = taken.iter().map(|held| held.message.credit()).sum();
        queue.leased_bytes = queue.leased_bytes.saturating_sub(bytes);
        for held in taken {
            let end = End {
                uncertain: true,
                discard,
                ..End::here(self.me.qm, Outcome::QUEUE_DELETED)
            };
            self.clients.unleased(held.conn, held.message.credit());
            self.tally_one(job, &held.message, end);
            self.bury_local(number, held.priority, &held.message, end);
        }
        // Whoever held too much of it may be handed something of another queue.
        let waited = self
            .locals
            .iter()
            .filter(|(_, q)| q.waiting_receivers() > 0);
        self.busy_queues.extend(waited.map(|(number, _)| *number));
    }

    /// Begins to empty outgoing queues.
    pub(crate) fn purge_selected(
        &mut self,
        conn: ConnId,
        request: u64,
        which: &Selector,
        discard: bool,
    ) -> Option<AdminReply> {
        let numbers = self.select_outgoing(which);
        if numbers.is_empty()
            && let Selector::Name(name) = which
        {
            return Some(Self::no_outgoing(name));
        }
        if numbers.is_empty() {
            return Some(AdminReply::Purged(PurgeTally::default()));
        }
        if numbers
            .iter()
            .any(|n| self.purges.contains_key(&(false, *n)))
        {
            return Some(Self::being_emptied());
        }
        let open = numbers.iter().map(|number| (false, *number)).collect();
        let tally = PurgeTally::default();
        let job = self.begin_job(conn, request, Work::Purge { open, tally });
        for number in numbers {
            self.call_back_held(number);
            let Some(out) = self.outs.get(&number) else {
                continue;
            };
            // Whose destination is away is given up, and answered for later.
            let doubtful = if self.is_away(number) {
                0
            } else {
                out.doubtful_in_stream()
            };
            let left = out.in_flight + doubtful;
            let ends = out
                .lanes
                .iter()
                .map(|(priority, lane)| (*priority, lane.backlog.next_position()))
                .collect();
            let purge = Purge {
                job,
                ends,
                outcome: Outcome::PURGED_IN_TRANSIT,
                discard,
                deletes: false,
                refused_by: None,
                confirming: false,
            };
            self.purges.insert((false, number), purge);
            self.count_purged(job, |tally| tally.left += left);
        }
        self.step_purges();
        None
    }

    /// The destination will never take what waits in this outgoing queue, because it blocked the
    /// identity under which it was minted: dead letters, uncertain where it was transmitted.
    pub(crate) fn bury_queue(&mut self, number: u32, by: QmId) {
        let Some(out) = self.outs.get(&number) else {
            return;
        };
        let lanes = out.lanes.iter();
        let doubts: Vec<_> = lanes
            .clone()
            .flat_map(|(_, lane)| lane.doubt.values())
            .map(|message| (message.entry(), message.class))
            .collect();
        let ends = lanes
            .map(|(priority, lane)| (*priority, lane.backlog.next_position()))
            .collect();
        let outcome = Outcome::ACCESS_DENIED;
        self.refused_asks(number);
        let mut skips = self.skips_left();
        for (entry, class) in doubts {
            if class == Class::Transactional {
                self.make_room_for_skip(number, &mut skips);
                skips = skips.saturating_sub(1);
            }
            if let Some((number, priority, message)) = self.take_doubt(by, &entry) {
                let end = End {
                    uncertain: !self.is_placed(number, &message),
                    ..End::here(by, outcome)
                };
                self.bury_as(number, priority, &message, end);
            }
        }
        let known = self.purges.get(&(false, number));
        if known.is_some() {
            // An operator's purge is under way; the next refusal comes back to the rest.
            return;
        }
        let open = BTreeSet::from([(false, number)]);
        let tally = PurgeTally::default();
        let job = self.begin_own_job(Work::Purge { open, tally });
        let purge = Purge {
            job,
            ends,
            outcome,
            discard: false,
            deletes: false,
            refused_by: Some(by),
            confirming: false,
        };
        self.purges.insert((false, number), purge);
        self.step_purges();
    }

    /// Goes on with every queue that is being emptied; called once for a batch of inputs.
    pub(crate) fn step_purges(&mut self) {
        if self.purges.is_empty() {
            return;
        }
        let open: Vec<_> = self.purges.keys().copied().collect();
        let mut skips = if open.iter().any(|(local, _)| !local) {
            self.skips_left()
        } else {
            0
        };
        for (local, number) in open {
            match self.step_purge(local, number, &mut skips) {
                Step::Done => {
                    let Some(purge) = self.purges.get_mut(&(local, number)) else {
                        continue;
                    };
                    purge.confirming = true;
                    let emptied = Then::Emptied { local, number };
                    if purge.discard {
                        // Everything goes in the batch that only gives room back.
                        self.commits.after_settling(emptied);
                    } else {
                        // A dead letter that is refused comes back into its queue: only when the
                        // disk has confirmed all of them is the queue empty.
                        self.commits.after_putting(emptied);
                    }
                }
                Step::Waits => {}
                Step::Goes => self.arm(self.now.at, Timer::Purge),
            }
        }
    }

    /// `skips`: how many more messages may leave their streams.
    fn step_purge(&mut self, local: bool, number: u32, skips: &mut usize) -> Step {
        let Some(purge) = self.purges.get(&(local, number)) else {
            return Step::Waits;
        };
        if purge.confirming {
            return Step::Waits;
        }
        let (fate, ends) = (purge.fate(), purge.ends.clone());
        if self.disk_refuses() && !fate.discard {
            return self.purge_failed(fate.job, &Failure::Disk);
        }
        let mut step = Step::Done;
        let mut taken = 0;
        // Who refused this node answers for no place: its stream begins anew, as often as skips
        // would be too many.
        let refused = fate.refused_by.is_some();
        for (priority, end) in ends.into_iter().rev() {
            loop {
                if taken >= STEP_MESSAGES {
                    return Step::Goes;
                }
                if !local && self.next_leaves_skip(number, priority, end) {
                    if refused {
                        self.make_room_for_skip(number, skips);
                    } else if *skips == 0 {
                        return self.purge_failed(fate.job, &Failure::Skips);
                    }
                    *skips = skips.saturating_sub(1);
                }
                let Some(lane) = self.purged_lane(local, number, priority) else {
                    break;
                };
                if lane.peek().is_none_or(|next| next.position >= end) {
                    if !lane.is_clear_below(end) {
                        step = Step::Waits;
                    }
                    break;
                }
                let Some(message) = lane.pop() else { break };
                taken += 1;
                self.release(&message);
                self.purge_one((local, number, priority), &message, fate);
                if local {
                    self.refill_local(number, priority);
                } else {
                    self.refill_out(number, priority);
                }
            }
            if local {
                self.refill_local(number, priority);
            } else {
                taken += self.purge_doubts(number, priority, end, fate, skips);
                self.refill_out(number, priority);
                if self
                    .purgeable_doubts(number, priority, end)
                    .next()
                    .is_some()
                {
                    return self.purge_failed(fate.job, &Failure::Skips);
                }
            }
        }
        if local && self.is_held_by_a_commit(number) {
            // It takes what it received, or gives it back.
            step = Step::Waits;
        }
        step
    }

    fn purge_one(&mut self, (local, number, priority): Place, message: &Message, fate: Fate) {
        // Perhaps in an earlier life.
        let before = message.transmitted || message.id.incarnation != self.incarnation;
        let transmitted = !local && before;
        if transmitted {
            self.place_in_stream(number, message);
        }
        if !local && self.left_when_settled(number, priority, message) {
            return;
        }
        // Who refused this node's word will not be asked; a place is begun anew.
        let refused = fate.refused_by.is_some();
        let lost = refused && !self.is_placed(number, message);
        let end = End {
            unconfirmed: transmitted && !refused,
            uncertain: transmitted && lost,
            discard: fate.discard,
            ..End::here(fate.refused_by.unwrap_or(self.me.qm), fate.outcome)
        };
        self.tally_one(fate.job, message, end);
        if local {
            self.bury_local(number, priority, message, end);
        } else {
            self.bury_as(number, priority, message, end);
        }
    }

    /// Purges a message that was taken out of its queue because the node stops, if a purge of that
    /// queue waits for the disk with what is before it. Returns whether one does.
    pub(crate) fn purge_spilled(&mut self, place: Place, message: &Message) -> bool {
        let (local, number, priority) = place;
        let Some(purge) = self.purges.get(&(local, number)) else {
            return false;
        };
        let end = purge.ends.get(&priority).copied();
        let fate = purge.fate();
        let covered = end.is_some_and(|end| message.position < end);
        // A full disk takes no letters: the purge fails.
        if !covered || self.disk_refuses() && !fate.discard {
            return false;
        }
        self.purge_one(place, message, fate);
        true
    }

    /// Whether a commit on its way to the disk takes something of a queue that is being deleted.
    fn is_held_by_a_commit(&self, number: u32) -> bool {
        let queue = self.locals.get(&number);
        queue.is_some_and(|q| q.deleting && !q.leased.is_empty())
    }

    /// Whether what a purge takes next leaves a skip.
    fn next_leaves_skip(&self, number: u32, priority: u8, end: u64) -> bool {
        let out = self.outs.get(&number);
        let lane = out.and_then(|out| out.lanes.get(&priority));
        let next = lane.and_then(|lane| lane.backlog.peek());
        next.is_some_and(|next| next.position < end && next.class == Class::Transactional)
    }

    /// Nobody answers for the places of this queue: its stream begins anew when another skip would
    /// be one too many. Where those of other queues leave no room, it does so for each step.
    fn make_room_for_skip(&mut self, number: u32, skips: &mut usize) {
        if *skips == 0 {
            self.reroot_stream(number);
            let step = STEP_MESSAGES.min(self.config.skips_max);
            *skips = self.skips_left().max(step);
        }
    }

    /// How many messages may still leave their streams before destinations answer for others.
    pub(crate) fn skips_left(&self) -> usize {
        let streams = self.outs.values().filter_map(|out| out.stream.as_ref());
        let open: usize = streams.map(|stream| stream.chain.skips().len()).sum();
        self.config.skips_max.saturating_sub(open)
    }

    /// What is in doubt goes too, and its destination is asked, which voids what it does not have.
    /// A transactional message whose destination is there stays: its place in the stream is asked
    /// for already. At most so many of the others leave as `skips` says.
    fn purge_doubts(
        &mut self,
        number: u32,
        priority: u8,
        end: u64,
        fate: Fate,
        skips: &mut usize,
    ) -> usize {
        let refused = fate.refused_by.is_some();
        let doubts: Vec<_> = self.purgeable_doubts(number, priority, end).collect();
        let mut taken = 0;
        for (at, class) in doubts {
            if class == Class::Transactional {
                if refused {
                    self.make_room_for_skip(number, skips);
                } else if *skips == 0 {
                    continue;
                }
                *skips = skips.saturating_sub(1);
            }
            let Some(message) = self.give_up_doubt(number, priority, at) else {
                continue;
            };
            taken += 1;
            let outcome = if refused {
                Outcome::ACCESS_DENIED
            } else {
                Outcome::PURGED_IN_TRANSIT
            };
            let end = End {
                unconfirmed: !refused,
                uncertain: refused,
                discard: fate.discard,
                ..End::here(self.own_of(number), outcome)
            };
            self.tally_one(fate.job, &message, end);
            self.bury_as(number, priority, &message, end);
        }
        taken
    }

    /// Where what is in doubt lies and goes with a purge.
    fn purgeable_doubts(
        &self,
        number: u32,
        priority: u8,
        end: u64,
    ) -> impl Iterator<Item = (u64, Class)> {
        let out = self.outs.get(&number);
        let lane = out.and_then(|out| out.lanes.get(&priority));
        let doubts = lane
            .into_iter()
            .flat_map(move |lane| lane.doubt.range(..end));
        let away = self.is_away(number);
        let goes = move |message: &Message| away || message.class != Class::Transactional;
        let doubts = doubts.filter(move |(_, message)| goes(message));
        doubts.map(|(at, message)| (*at, message.class))
    }

    fn purged_lane(&mut self, local: bool, number: u32, priority: u8) -> Option<&mut Backlog> {
        if local {
            self.locals.get_mut(&number)?.lanes.get_mut(&priority)
        } else {
            let lane = self.outs.get_mut(&number)?.lanes.get_mut(&priority)?;
            Some(&mut lane.backlog)
        }
    }

    fn tally_one(&mut self, job: JobId, message: &Message, end: End) {
        let kept = message.flags.contains(MessageFlags::DEAD_LETTER) && !end.discard;
        self.count_purged(job, |tally| {
            tally.messages += 1;
            tally.dead_letters += u64::from(kept);
            tally.discarded += u64::from(!kept);
            tally.uncertain += u64::from(end.uncertain || end.unconfirmed);
        });
    }

    fn count_purged(&mut self, job: JobId, count: impl FnOnce(&mut PurgeTally)) {
        if let Some(Work::Purge { tally, .. }) = self.job(job) {
            count(tally);
        }
    }

    /// What was done is done, the rest stays.
    fn purge_failed(&mut self, job: JobId, why: &Failure) -> Step {
        if self.job(job).is_none() {
            return Step::Waits;
        }
        let reply = why.reply(self.config.skips_max);
        let numbers: Vec<_> = self
            .purges
            .iter()
            .filter(|(_, purge)| purge.job == job)
            .map(|(at, _)| *at)
            .collect();
        for at in numbers {
            if let Some(purge) = self.purges.remove(&at)
                && purge.deletes
                && let Some(queue) = self.locals.get_mut(&at.1)
            {
                // It was not deleted: it can be used again.
                queue.deleting = false;
                let name = queue.settings.name.clone();
                self.local_names.insert(name, at.1);
                self.busy_queues.insert(at.1);
            }
        }
        self.end_job(job, reply);
        Step::Waits
    }

    /// The disk has confirmed, or refused, what a purge took out.
    pub(crate) fn purge_confirmed(&mut self, local: bool, number: u32) {
        let clear = self.is_purged(local, number);
        let Some(purge) = self.purges.get_mut(&(local, number)) else {
            return;
        };
        purge.confirming = false;
        let (job, discard) = (purge.job, purge.discard);
        if clear {
            self.purge_done(local, number);
        } else if self.disk_refuses() && !discard {
            self.purge_failed(job, &Failure::Disk);
        }
    }

    /// The disk refused the last letters of a purge. What it took out without one is told when the
    /// disk has taken that.
    pub(crate) fn purge_refused(&mut self, local: bool, number: u32) {
        if self.commits.settles_under_way() && self.is_purged(local, number) {
            self.commits.after_settling(Then::Emptied { local, number });
        } else {
            self.purge_confirmed(local, number);
        }
    }

    /// Whether nothing is left in a queue of what a purge is about.
    fn is_purged(&mut self, local: bool, number: u32) -> bool {
        let Some(purge) = self.purges.get(&(local, number)) else {
            return true;
        };
        purge.ends.clone().into_iter().all(|(priority, end)| {
            // What may have arrived and whose letter was refused is in doubt again.
            let doubts = !local
                && self
                    .purgeable_doubts(number, priority, end)
                    .next()
                    .is_some();
            let lane = self.purged_lane(local, number, priority);
            !doubts && lane.is_none_or(|lane| lane.is_clear_below(end))
        })
    }

    fn purge_done(&mut self, local: bool, number: u32) {
        let Some(purge) = self.purges.remove(&(local, number)) else {
            return;
        };
        if purge.refused_by.is_some() {
            // Nobody will answer for the places that are left.
            self.reroot_stream(number);
            self.nudge_out(number);
        }
        if purge.deletes {
            self.remove_queue(number);
        } else if local {
            self.reopen_if_room(number);
        }
        let Some(Work::Purge { open, tally }) = self.job(purge.job) else {
            return;
        };
        open.remove(&(local, number));
        if open.is_empty() {
            let reply = AdminReply::Purged(*tally);
            if purge.deletes {
                self.end_job_on_disk(purge.job, reply);
            } else {
                self.end_job(purge.job, reply);
            }
        }
    }

    /// Whether a queue of this name is being deleted.
    pub(crate) fn is_being_deleted(&self, name: &QueueName) -> bool {
        // There may be very many queues, and each that is made asks.
        let deleted = self.purges.iter().filter(|(_, purge)| purge.deletes);
        let mut queues = deleted.filter_map(|((_, number), _)| self.locals.get(number));
        queues.any(|queue| queue.settings.name == *name)
    }

    /// An emptied queue goes with its definition, after the last of its messages.
    fn remove_queue(&mut self, number: u32) {
        self.forget_handed(number);
        self.drop_receivers(number);
        if let Some(queue) = self.locals.remove(&number) {
            self.tell_open(&queue.settings.name);
        }
        self.record_queue(number);
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Priority;

    use crate::record::RemoteKey;
    use crate::testing::{engine, qm, transactional};

    /// Nobody will answer for them, and there may be more than memory is for.
    #[test]
    fn only_so_many_skips_are_held_of_a_queue_that_is_given_up() {
        let mut engine = engine();
        engine.config.skips_max = 3;
        let own = engine.qm_id();
        let queue = "orders".parse().expect("a name");
        let number = engine.out_queue(own, &RemoteKey::Id(qm(5)), &queue);
        engine.begin_stream(number);
        for sequence in 1..=20 {
            let message = transactional(own, sequence, true);
            let lane = engine.out_lane(number, Priority::LOWEST.get());
            let lane = lane.expect("a lane");
            let (at, _) = lane.backlog.push(message.clone(), true);
            lane.backlog.committed(at + 1);
            if sequence > 10 {
                let mut message = lane.backlog.take(at).expect("it waits");
                message.position = at;
                engine.put_in_doubt(number, Priority::LOWEST.get(), message);
            }
        }
        engine.bury_queue(number, qm(5));
        let out = engine.outs.get(&number).expect("the queue");
        assert_eq!(out.waiting().0 + out.doubtful(), 0);
        assert!(out.skipping() <= 3, "{}", out.skipping());
    }
}
