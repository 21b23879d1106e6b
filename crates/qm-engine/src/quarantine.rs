//! What both copies of a machine hold is set aside at the one that takes another identity.
//!
//! Messages that had arrived before the two parted lie in the queues of both. The machine that
//! keeps the identity goes on with them; the other one moves them into a subqueue `quarantine` of
//! their queue, where no application looks, until its operator releases or drops them. What only it
//! received stays where it is.

use std::collections::BTreeMap;

use qm_wire::{Outcome, QueueName};

use crate::admin::AdminReply;
use crate::backlog::{Message, left_ms};
use crate::commits::{Origin, Then};
use crate::engine::{Engine, Timer};
use crate::history::What;
use crate::identity::courses::is_inherited;
use crate::io::{ConnId, Event, StoreOp};
use crate::jobs::{JobId, Work};
use crate::record::LocalSettings;
use crate::time::Timestamp;

/// The subqueue in which they wait.
pub const QUARANTINE: &str = "quarantine";
/// Messages moved in one step: millions must not hold up everything else.
const STEP_MESSAGES: usize = 512;

/// Messages on their way from one queue of this node to another.
#[derive(Debug)]
struct Move {
    /// Once it is known to be needed.
    to: Option<u32>,
    /// Per priority, the position of the first message that stays.
    ends: BTreeMap<u8, u64>,
    /// Only durable ones from before this node time.
    before: Option<Timestamp>,
    job: Option<JobId>,
    moved: u64,
    /// Everything was taken out; the disk is to confirm it.
    confirming: bool,
}

/// What is next in a lane.
#[derive(Clone, Copy, Debug)]
enum Next {
    At(u64),
    /// It is on its way to the disk or from it.
    Waits,
    None,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// By the queue that they leave.
    moves: BTreeMap<u32, Move>,
}

impl Quarantine {
    /// Whether nothing is handed out of a queue, because messages are leaving it.
    pub(crate) fn holds(&self, number: u32) -> bool {
        self.moves.contains_key(&number)
    }

    /// Whether messages are leaving this queue for another one, or coming into it from one: it must
    /// not be deleted meanwhile.
    pub(crate) fn concerns(&self, number: u32) -> bool {
        let mut moves = self.moves.values();
        self.holds(number) || moves.any(|moving| moving.to == Some(number))
    }
}

/// Whether a queue holds what was set aside.
pub(crate) fn is_quarantine(name: &QueueName) -> bool {
    name.subqueue() == Some(QUARANTINE)
}

impl Engine {
    /// Up to when the machine that keeps this node's former identity has what this node has.
    fn inherited_before(&self) -> Option<Timestamp> {
        let former = self.former_record()?;
        if crate::broken!(self, quarantine_nothing) {
            return None;
        }
        if crate::broken!(self, quarantine_everything) {
            return Some(Timestamp(u64::MAX));
        }
        former.inherited_before
    }

    /// Begins to set aside what another machine has as well; after a start, goes on with it.
    pub(crate) fn quarantine_inherited(&mut self) {
        let Some(before) = self.inherited_before() else {
            return;
        };
        let locals = self.locals.iter().filter(|(number, queue)| {
            let waits = queue.lanes.values().any(|lane| !lane.is_empty());
            waits && self.quarantine_of(**number).is_some()
        });
        let numbers: Vec<u32> = locals.map(|(number, _)| *number).collect();
        for number in numbers {
            let beginning = Move {
                to: None,
                ends: self.ends_of(number),
                before: Some(before),
                job: None,
                moved: 0,
                confirming: false,
            };
            self.quarantine.moves.entry(number).or_insert(beginning);
        }
    }

    fn ends_of(&self, number: u32) -> BTreeMap<u8, u64> {
        let lanes = self.locals.get(&number).map(|queue| &queue.lanes);
        let lanes = lanes.into_iter().flatten();
        lanes
            .map(|(priority, lane)| (*priority, lane.next_position()))
            .collect()
    }

    /// Where what is set aside of a queue goes.
    fn quarantine_of(&self, number: u32) -> Option<QueueName> {
        let name = &self.locals.get(&number)?.settings.name;
        if name.is_system() || name.subqueue().is_some() {
            return None;
        }
        format!("{name}:{QUARANTINE}").parse().ok()
    }

    /// Whether a message that an application gave back is one that another machine has as well.
    /// Set aside, if so.
    pub(crate) fn quarantine_given_back(
        &mut self,
        number: u32,
        priority: u8,
        message: &Message,
    ) -> bool {
        let durable = message.class.is_durable();
        let inherited = self
            .inherited_before()
            .is_some_and(|before| is_inherited(message.at, durable, before));
        if !inherited {
            return false;
        }
        let Some(to) = self.quarantine_number(number) else {
            return false;
        };
        self.note(message.source, message.id, What::Quarantined);
        self.move_local((number, to), priority, message, message.clone());
        true
    }

    /// The quarantine of a queue, made when there is none.
    fn quarantine_number(&mut self, number: u32) -> Option<u32> {
        let name = self.quarantine_of(number)?;
        match self.local_names.get(&name) {
            Some(number) => Some(*number),
            None => Some(self.create_queue(LocalSettings::new(name))),
        }
    }

    /// Begins to move everything out of a quarantine, behind what waits in its queue; the answer
    /// comes when that is durable.
    pub(crate) fn release_quarantine(
        &mut self,
        conn: ConnId,
        request: u64,
        name: &QueueName,
    ) -> Option<AdminReply> {
        let failed = |outcome, cause, fix: &str| {
            Some(AdminReply::Failed {
                outcome,
                cause,
                fix: fix.to_owned(),
            })
        };
        let number = self.local_names.get(name).copied();
        let Some(number) = number.filter(|_| is_quarantine(name)) else {
            let cause = format!("nothing is in quarantine as {name}");
            return failed(Outcome::NOT_FOUND, cause, "see: qm-node quarantine list");
        };
        let queue = name.without_subqueue();
        let Some(to) = self.local_names.get(&queue).copied() else {
            let cause = format!("there is no queue {queue} any more");
            return failed(
                Outcome::NOT_FOUND,
                cause,
                "create it, then release them; or drop them",
            );
        };
        let busy = self.quarantine.holds(number) || self.quarantine.holds(to);
        if busy || self.purges.contains_key(&(true, number)) {
            let cause = "its messages are just being moved or removed".to_owned();
            return failed(Outcome::BUSY, cause, "try again");
        }
        let job = self.begin_job(conn, request, Work::Release);
        let release = Move {
            to: Some(to),
            ends: self.ends_of(number),
            before: None,
            job: Some(job),
            moved: 0,
            confirming: false,
        };
        self.quarantine.moves.insert(number, release);
        self.step_quarantine();
        None
    }

    /// Goes on with every queue whose messages are moved; called once for a batch of inputs.
    pub(crate) fn step_quarantine(&mut self) {
        let open: Vec<u32> = self.quarantine.moves.keys().copied().collect();
        for number in open {
            self.step_move(number);
        }
    }

    fn step_move(&mut self, number: u32) {
        let full = self.disk_refuses();
        let Some(moving) = self.quarantine.moves.get_mut(&number) else {
            return;
        };
        if moving.confirming {
            return;
        }
        if full {
            // It takes no copies. What is to be moved waits until there is room, or is removed.
            return self.move_confirmed(number);
        }
        let (ends, before) = (moving.ends.clone(), moving.before);
        let mut left = STEP_MESSAGES;
        let mut waits = false;
        for (priority, end) in ends.into_iter().rev() {
            loop {
                if left == 0 {
                    return self.arm(self.now.at, Timer::Purge);
                }
                self.refill_local(number, priority);
                match self.next_to_move(number, priority, end, before) {
                    Next::None => break,
                    Next::Waits => {
                        waits = true;
                        break;
                    }
                    Next::At(position) => {
                        left -= 1;
                        if !self.move_one(number, priority, position) {
                            break;
                        }
                    }
                }
            }
        }
        if waits {
            return;
        }
        if let Some(moving) = self.quarantine.moves.get_mut(&number) {
            moving.confirming = true;
        }
        self.commits.after_putting(Then::Moved(number));
    }

    /// The first message of a lane that is to be moved.
    fn next_to_move(&self, number: u32, priority: u8, end: u64, before: Option<Timestamp>) -> Next {
        let queue = self.locals.get(&number);
        let Some(lane) = queue.and_then(|queue| queue.lanes.get(&priority)) else {
            return Next::None;
        };
        // Express messages were on no disk that was copied.
        let mut concerned = lane.resident().filter(|message| {
            message.position < end && (before.is_none() || message.class.is_durable())
        });
        let first = concerned.next();
        let on_disk = !lane.is_resident() && lane.resident_to() < end;
        match first {
            // Older ones are still on disk.
            Some(first) if on_disk && first.position >= lane.resident_to() => Next::Waits,
            Some(first) if before.is_some_and(|before| !is_inherited(first.at, true, before)) => {
                Next::None
            }
            // It is on its way to the disk.
            Some(first) if !lane.may_take(first.position) => Next::Waits,
            Some(first) => Next::At(first.position),
            None if on_disk && lane.missing() == 0 => Next::Waits,
            None => Next::None,
        }
    }

    fn move_one(&mut self, number: u32, priority: u8, position: u64) -> bool {
        let moving = self.quarantine.moves.get(&number);
        let Some((to, before)) = moving.map(|moving| (moving.to, moving.before)) else {
            return false;
        };
        let Some(to) = to.or_else(|| self.quarantine_number(number)) else {
            return false;
        };
        let queue = self.locals.get_mut(&number);
        let lane = queue.and_then(|queue| queue.lanes.get_mut(&priority));
        let Some(message) = lane.and_then(|lane| lane.take(position)) else {
            return false;
        };
        self.release(&message);
        let mut moved = message.clone();
        if before.is_some() {
            crate::reached!(self, SetAside);
            self.note(message.source, message.id, What::Quarantined);
        } else {
            // From now on it is this machine's own.
            moved.receive_left_ms = left_ms(message.receive_left_ms, message.at, self.now.at);
            moved.reach_left_ms = left_ms(message.reach_left_ms, message.at, self.now.at);
            moved.at = self.stamp();
            self.note(message.source, message.id, What::Released);
        }
        self.move_local((number, to), priority, &message, moved);
        self.seal_if_large();
        if let Some(moving) = self.quarantine.moves.get_mut(&number) {
            (moving.to, moving.moved) = (Some(to), moving.moved + 1);
        }
        true
    }

    /// Puts a message that was taken out of one queue into another, in one batch with its removal.
    pub(crate) fn move_local(
        &mut self,
        (from, to): (u32, u32),
        priority: u8,
        message: &Message,
        moved: Message,
    ) {
        let put = self.put_local(to, priority, moved);
        if !message.class.is_durable() {
            return;
        }
        self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
        let (first, last) = (message.position, message.position);
        self.commits.put(StoreOp::Remove {
            stream: Self::stream_of(from, priority),
            first,
            last,
        });
        let from = Some(Origin {
            local: true,
            queue: from,
            priority,
            message: message.clone(),
        });
        let died = None;
        self.commits
            .after_putting(Then::DeadLetter { put, from, died });
    }

    /// The disk has confirmed, or refused, what was moved out of a queue.
    pub(crate) fn move_confirmed(&mut self, number: u32) {
        let Some(moving) = self.quarantine.moves.get_mut(&number) else {
            return;
        };
        moving.confirming = false;
        let (ends, before) = (moving.ends.clone(), moving.before);
        let left = ends.into_iter().any(|(priority, end)| {
            let next = self.next_to_move(number, priority, end, before);
            !matches!(next, Next::None)
        });
        let release = self.quarantine.moves.get(&number);
        let release = release.and_then(|moving| moving.job);
        if left && let Some(job) = release.filter(|_| self.disk_refuses()) {
            return self.release_failed(number, job);
        }
        if left {
            // What the disk refused came back: it goes on when there is room.
            return;
        }
        let Some(done) = self.quarantine.moves.remove(&number) else {
            return;
        };
        self.reopen_if_room(number);
        self.pick_anew(number);
        self.busy_queues.insert(number);
        self.busy_queues.extend(done.to);
        let queue = self.locals.get(&number).map(|q| q.settings.name.clone());
        if let Some(queue) = queue.filter(|_| done.moved > 0) {
            let messages = done.moved;
            self.event(match done.before {
                Some(_) => Event::Quarantined { queue, messages },
                None => Event::QuarantineReleased { queue, messages },
            });
        }
        if let Some(job) = done.job {
            let count = done.moved;
            self.end_job(job, AdminReply::Done { count });
        }
    }

    /// A full disk takes no copies: what was released is released, the rest stays in quarantine.
    fn release_failed(&mut self, number: u32, job: JobId) {
        self.quarantine.moves.remove(&number);
        self.pick_anew(number);
        self.busy_queues.insert(number);
        let outcome = Outcome::STORE_FULL;
        let cause =
            "the disk is full and takes no copies; what is not released yet stays in quarantine"
                .to_owned();
        let fix = "make room, then release again; or drop them".to_owned();
        let reply = AdminReply::Failed {
            outcome,
            cause,
            fix,
        };
        self.end_job(job, reply);
    }

    /// Whether nothing is handed out of the queue of this name.
    pub(crate) fn holds_back(&self, name: &QueueName) -> bool {
        let number = self.local_names.get(name);
        number.is_some_and(|number| self.quarantine.holds(*number))
    }

    /// Evidence for `why` about a queue of which messages are set aside.
    pub(crate) fn quarantine_evidence(&self, name: &QueueName) -> Option<String> {
        let number = self.local_names.get(name)?;
        let aside = self.quarantine_of(*number)?;
        let aside = self.local_names.get(&aside)?;
        let (messages, _) = self.locals.get(aside)?.waiting();
        (messages > 0).then(|| {
            format!(
                "{messages} that another machine has as well are set aside: qm-node quarantine list"
            )
        })
    }

    /// Messages in quarantine.
    pub(crate) fn quarantined(&self) -> u64 {
        let queues = self.locals.values();
        let held = queues.filter(|queue| is_quarantine(&queue.settings.name));
        held.map(|queue| queue.waiting().0).sum()
    }
}
