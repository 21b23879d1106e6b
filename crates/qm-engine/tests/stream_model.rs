//! An explicit-state check of the stream protocol, over the very functions that the engine uses:
//! [`Chain`] at senders, [`Branches`] at the receiver.
//!
//! Every interleaving, up to a number of states, of one receiver and one sender or two copies of
//! it, with: sessions that end, frames lost, repeated and reordered, crashes of the sender, crashes
//! of the receiver before and between its commits, a sender that goes back to a backup or is
//! cloned, expiry, refusals, and a queue that is full. In each state: nothing was delivered twice,
//! nothing acknowledged is missing, no certain dead letter was delivered, and order holds. From
//! each state a run without faults empties all queues.
//!
//! Each rule that is left out is found. It is found no deeper than the right rules
//! are held in the same world. `QM_MODEL_STATES` makes it look at more states.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(
    clippy::print_stdout,
    reason = "how many states there were is for people"
)]

#[path = "../src/identity/digest.rs"]
mod digest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_engine::stream::branches::{Branches, Judged, RunChange, StoredRun, Taken};
use qm_engine::stream::chain::{Chain, GoOn, Mark, Settles, Skipping};
use qm_wire::{Entry, Incarnation, Link, MessageId, Outcome, Run, StreamId, Tag};

use digest::digest;

const ROOT: Link = Link([7; 16]);
const STREAM: StreamId = StreamId([1; 16]);

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    None,
    NumberForLink,
    AckByNumber,
    AckFromStart,
    NoSkip,
    DeadAtOnce,
    LateReject,
    AckBeforeDurable,
    PositionApart,
    SkipNeedsRoom,
}

/// What may happen, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    broken: Break,
    mints: u8,
    sessions: u8,
    crashes: u8,
    receiver_crashes: u8,
    expiries: u8,
    refusals: u8,
    fulls: u8,
    clones: u8,
    restores: u8,
    frames: usize,
}

const LONE: Bounds = Bounds {
    broken: Break::None,
    mints: 3,
    sessions: 1,
    crashes: 0,
    receiver_crashes: 0,
    expiries: 0,
    refusals: 0,
    fulls: 0,
    clones: 0,
    restores: 0,
    frames: 2,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Item {
    session: u8,
    position: u64,
    previous: Link,
    low: u64,
    message: u8,
    parent: u8,
    skip: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Frame {
    Item(Item),
    Ack {
        session: u8,
        first: u64,
        last: u64,
        link: Link,
    },
    Skipped {
        session: u8,
        position: u64,
        link: Link,
    },
    Need {
        session: u8,
        leaves: Vec<(u64, Link)>,
    },
    Reject {
        session: u8,
        position: u64,
        link: Link,
    },
}

impl Frame {
    const fn session(&self) -> u8 {
        match self {
            Self::Item(Item { session, .. })
            | Self::Ack { session, .. }
            | Self::Skipped { session, .. }
            | Self::Need { session, .. }
            | Self::Reject { session, .. } => *session,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sender {
    chain: Chain<u8>,
    /// Where it lies, the message, and the message minted before it by this copy's ancestors.
    queue: BTreeMap<u64, (u8, u8)>,
    next: u64,
    last: u8,
    session: u8,
    floor: u64,
    held: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    senders: Vec<Sender>,
    /// Whose each session is.
    owners: Vec<u8>,
    /// Sessions before this one died with the receiver.
    living: u8,
    frames: BTreeSet<Frame>,
    branches: Branches,
    /// What is taken and not on disk.
    pending: Vec<(u8, Item, Link)>,
    disk: BTreeMap<(u64, Link), (Link, Vec<Taken>)>,
    full: bool,
    refuses: bool,
    backup: Option<Box<Sender>>,
    /// Of messages: delivered and on disk, skipped, certainly dead.
    got: u16,
    skipped: u16,
    dead: u16,
    counts: [u8; 9],
    wrong: Option<&'static str>,
}

const MINTS: usize = 0;
const SESSIONS: usize = 1;
const CRASHES: usize = 2;
const RECEIVER: usize = 3;
const EXPIRIES: usize = 4;
const REFUSALS: usize = 5;
const FULLS: usize = 6;
const CLONES: usize = 7;
const RESTORES: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    Mint(usize),
    Send(usize),
    Deliver(Frame),
    Repeat(Frame),
    Lose(Frame),
    Commit,
    ReceiverCrash,
    Session(usize),
    Crash(usize),
    Expire(usize, u64),
    Refuse,
    Full,
    Clone,
    Backup,
    Restore,
}

fn entry(message: u8) -> Entry {
    let id = MessageId {
        incarnation: Incarnation(1),
        sequence: u64::from(message),
    };
    let tag = Tag([message; 8]);
    Entry { id, tag }
}

impl World {
    fn new() -> Self {
        let sender = Sender {
            chain: Chain::new(STREAM, ROOT),
            queue: BTreeMap::new(),
            next: 1,
            last: 0,
            session: 0,
            floor: 1,
            held: false,
        };
        Self {
            senders: vec![sender],
            owners: vec![0],
            living: 0,
            frames: BTreeSet::new(),
            branches: Branches::new(ROOT),
            pending: Vec::new(),
            disk: BTreeMap::new(),
            full: false,
            refuses: false,
            backup: None,
            got: 0,
            skipped: 0,
            dead: 0,
            counts: [0; 9],
            wrong: None,
        }
    }

    fn open(&mut self, sender: usize) {
        self.owners.push(u8::try_from(sender).unwrap());
        let session = u8::try_from(self.owners.len() - 1).unwrap();
        let it = &mut self.senders[sender];
        it.session = session;
        let places: Vec<u64> = it.chain.unsettled().map(|p| p.mark.at).collect();
        for at in places {
            it.chain.set_flight(at, None);
        }
        it.chain.unsend_skips(0);
        it.floor = it.chain.low();
        it.held = false;
    }

    /// A sender as its disk has it: what waits may have been transmitted.
    fn recover(sender: &mut Sender) {
        let marks: Vec<Mark> = sender.chain.marks().copied().collect();
        let skips: Vec<Skipping<u8>> = sender.chain.skips().cloned().collect();
        sender.chain = Chain::recovered(STREAM, ROOT, marks, skips);
        for (at, (message, _)) in &sender.queue {
            assert!(sender.chain.place(*at, entry(*message).tag).is_some());
        }
    }

    /// What a sender would transmit next.
    fn next_item(sender: &Sender) -> Option<(Item, Sender)> {
        let mut after = sender.clone();
        let waits = sender.queue.keys().copied().find(|at| {
            let placed = sender.chain.placed_at(*at);
            placed.is_none_or(|placed| placed.flight.is_none())
        });
        if sender.held {
            return None;
        }
        let item = |mark: Mark, previous, low, message, parent, skip| Item {
            session: sender.session,
            position: mark.position,
            previous,
            low,
            message,
            parent,
            skip,
        };
        // Where the search goes on is no part of the state.
        let mut chain = sender.chain.clone();
        if let Some(skip) = chain.sendable_skip(waits.unwrap_or(u64::MAX)) {
            let place = sender.chain.travels(skip.mark, skip.previous);
            let message = skip.entry.tag.0[0];
            after.chain.send_skip(skip.mark.position, sender.session);
            return Some((
                item(skip.mark, skip.previous, place.low, message, 0, true),
                after,
            ));
        }
        let at = waits?;
        let (message, parent) = sender.queue[&at];
        let placed = *after.chain.place(at, entry(message).tag)?;
        after.chain.set_flight(at, Some(sender.session));
        let low = after.chain.travels(placed.mark, placed.previous).low;
        Some((
            item(placed.mark, placed.previous, low, message, parent, false),
            after,
        ))
    }

    fn arrives(&mut self, item: Item, bounds: Bounds) {
        if item.session < self.living {
            return;
        }
        let session = item.session;
        let tag = entry(item.message).tag;
        let link = item.previous.next(tag, item.position);
        let judged = if bounds.broken == Break::NumberForLink {
            let end = self
                .branches
                .leaves(1)
                .first()
                .map_or(1, |(last, _)| last + 1);
            let pending = self
                .pending
                .iter()
                .any(|(_, i, _)| i.position == item.position);
            match item.position.cmp(&end) {
                std::cmp::Ordering::Less if pending => Judged::InFlight,
                std::cmp::Ordering::Less => Judged::Delivered {
                    first: item.position,
                },
                std::cmp::Ordering::Equal => Judged::Next { branches: false },
                std::cmp::Ordering::Greater => Judged::Need,
            }
        } else {
            self.branches
                .judge(item.position, item.previous, link, item.low)
        };
        match judged {
            Judged::Delivered { first } => {
                let last = item.position;
                self.frames.insert(Frame::Ack {
                    session,
                    first,
                    last,
                    link,
                });
            }
            Judged::Skipped(_) => {
                let position = item.position;
                self.frames.insert(Frame::Skipped {
                    session,
                    position,
                    link,
                });
            }
            Judged::InFlight => {}
            Judged::Next { .. } if self.refuses && !item.skip => {
                let position = item.position;
                self.frames.insert(Frame::Reject {
                    session,
                    position,
                    link,
                });
            }
            // Credit is withdrawn; a skip needs none.
            Judged::Next { .. }
                if self.full && (!item.skip || bounds.broken == Break::SkipNeedsRoom) => {}
            Judged::Next { .. } => {
                let skipped = Outcome(if item.skip { 0x8001 } else { 0 });
                let taken = Taken {
                    entry: entry(item.message),
                    skipped,
                };
                let previous = if bounds.broken == Break::NumberForLink {
                    self.branches
                        .leaves(1)
                        .first()
                        .map_or(ROOT, |(_, link)| *link)
                } else {
                    item.previous
                };
                let kept = previous.next(tag, item.position);
                self.branches.take(item.position, previous, kept, taken);
                self.pending.push((session, item, kept));
                if bounds.broken == Break::AckBeforeDurable && !item.skip {
                    let (first, last) = (item.position, item.position);
                    self.frames.insert(Frame::Ack {
                        session,
                        first,
                        last,
                        link,
                    });
                }
            }
            Judged::Need => {
                let leaves = self.branches.leaves(8);
                self.frames.insert(Frame::Need { session, leaves });
            }
        }
    }

    fn commit(&mut self, bounds: Bounds) {
        // Links some time after the messages: what was taken before this batch is written now.
        let late = bounds.broken == Break::PositionApart;
        if !late {
            self.write_links();
        }
        for (session, item, link) in std::mem::take(&mut self.pending) {
            let bit = 1_u16 << item.message;
            self.branches.stored(item.position, link);
            let link = item.previous.next(entry(item.message).tag, item.position);
            if item.skip {
                self.skipped |= bit;
                let position = item.position;
                self.frames.insert(Frame::Skipped {
                    session,
                    position,
                    link,
                });
                continue;
            }
            if self.got & bit != 0 {
                self.wrong = Some("delivered twice");
            }
            if self.dead & bit != 0 {
                self.wrong = Some("a certain dead letter was delivered");
            }
            if item.parent != 0 && (self.got | self.skipped) & (1 << item.parent) == 0 {
                self.wrong = Some("delivered before what is older");
            }
            self.got |= bit;
            let (first, last) = (item.position, item.position);
            self.frames.insert(Frame::Ack {
                session,
                first,
                last,
                link,
            });
        }
    }

    fn write_links(&mut self) {
        for change in self.branches.save(1) {
            match change {
                RunChange::Set(name, run) => {
                    self.disk.insert(name, (run.before, run.taken));
                }
                RunChange::Unset(name) => {
                    self.disk.remove(&name);
                }
            }
        }
    }

    fn receiver_crash(&mut self) {
        self.pending.clear();
        let runs = self
            .disk
            .iter()
            .map(|((first, _), (before, taken))| StoredRun {
                first: *first,
                before: *before,
                at_us: 1,
                taken: taken.clone(),
            });
        let (branches, orphans) = Branches::recovered(ROOT, false, runs.collect());
        assert!(orphans.is_empty(), "no disk is full here");
        self.branches = branches;
        self.living = u8::try_from(self.owners.len()).unwrap();
        for sender in 0..self.senders.len() {
            self.open(sender);
        }
    }

    fn settle(&mut self, sender: usize, position: u64) {
        let it = &mut self.senders[sender];
        let bit = if let Some(placed) = it.chain.placed(position).copied() {
            it.chain.settle(placed.mark.at);
            it.queue
                .remove(&placed.mark.at)
                .map(|(message, _)| 1_u16 << message)
        } else {
            let skip = it.chain.settle_skip(position);
            skip.map(|skip| 1_u16 << skip.entry.tag.0[0])
        };
        if bit.is_some_and(|bit| self.got & bit == 0) {
            self.wrong = Some("settled as delivered and is not there");
        }
    }

    /// A message leaves otherwise than by delivery.
    fn leave(&mut self, sender: usize, at: u64, bounds: Bounds) {
        let it = &mut self.senders[sender];
        // Also what was never transmitted has a place: a copy may transmit it.
        let before: Vec<_> = it
            .queue
            .range(..=at)
            .map(|(at, (m, _))| (*at, *m))
            .collect();
        for (at, message) in before {
            it.chain.place(at, entry(message).tag);
        }
        let (message, _) = it.queue.remove(&at).unwrap();
        let placed = it.chain.placed_at(at).is_some();
        // A copy, and a restored backup, may still deliver what was never sent here: a known limit.
        let alone = bounds.clones + bounds.restores == 0;
        let certain =
            !placed && alone || matches!(bounds.broken, Break::DeadAtOnce | Break::LateReject);
        if placed && bounds.broken == Break::NoSkip {
            it.chain.settle(at);
        } else if placed {
            let outcome = Outcome::PURGED_IN_TRANSIT;
            let skip = it.chain.leave(at, entry(message), outcome, None).unwrap();
            let position = skip.mark.position;
            it.chain.skip_mut(position).unwrap().durable = true;
        }
        if certain {
            self.bury(message);
        }
        if !placed {
            // Nothing waits for what was never transmitted.
            self.skipped |= 1 << message;
        }
    }

    fn bury(&mut self, message: u8) {
        self.dead |= 1 << message;
        if self.got & (1 << message) != 0 {
            self.wrong = Some("a certain dead letter was delivered");
        }
    }

    fn hears(&mut self, frame: &Frame, bounds: Bounds) {
        let sender = usize::from(self.owners[usize::from(frame.session())]);
        match frame {
            Frame::Item(item) => self.arrives(*item, bounds),
            Frame::Ack {
                first, last, link, ..
            } => {
                let run = Run {
                    stream: STREAM,
                    first: *first,
                    last: *last,
                    link: *link,
                };
                let chain = &self.senders[sender].chain;
                let settles = match (bounds.broken, chain.acked(&run)) {
                    (Break::AckByNumber | Break::NumberForLink, _) => {
                        Settles::These(chain.within(*first, *last))
                    }
                    (Break::AckFromStart, Settles::These(_)) => {
                        Settles::These(chain.within(1, *last))
                    }
                    (_, settles) => settles,
                };
                if let Settles::These(positions) = settles {
                    for position in positions {
                        self.settle(sender, position);
                    }
                }
            }
            Frame::Skipped { position, link, .. } => {
                let chain = &mut self.senders[sender].chain;
                let skip = chain.skip(*position).filter(|skip| skip.mark.link == *link);
                if skip.is_some() {
                    let skip = chain.settle_skip(*position).unwrap();
                    self.bury(skip.entry.tag.0[0]);
                    return;
                }
                let placed = chain.placed(*position).copied();
                if let Some(placed) = placed.filter(|placed| placed.mark.link == *link) {
                    chain.settle(placed.mark.at);
                    let gone = self.senders[sender].queue.remove(&placed.mark.at);
                    self.bury(gone.unwrap().0);
                }
            }
            Frame::Need { session, leaves } => {
                let it = &mut self.senders[sender];
                if it.session != *session {
                    return;
                }
                match it.chain.needed(leaves, it.floor) {
                    GoOn::Behind(position) => {
                        it.chain.unsend_skips(position);
                        let again: Vec<u64> = it
                            .chain
                            .unsettled()
                            .filter(|placed| placed.mark.position > position)
                            .map(|placed| placed.mark.at)
                            .collect();
                        for at in again {
                            it.chain.set_flight(at, None);
                        }
                    }
                    GoOn::Hold => it.held = true,
                }
            }
            Frame::Reject {
                session,
                position,
                link,
            } => {
                let it = &self.senders[sender];
                if it.session != *session && bounds.broken != Break::LateReject {
                    return;
                }
                let placed = it.chain.placed(*position).copied();
                if let Some(placed) = placed.filter(|placed| placed.mark.link == *link) {
                    self.leave(sender, placed.mark.at, bounds);
                }
            }
        }
    }

    fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps = Vec::new();
        let may = |what: usize, most: u8| self.counts[what] < most;
        for (n, sender) in self.senders.iter().enumerate() {
            if may(MINTS, bounds.mints) {
                steps.push(Step::Mint(n));
            }
            if self.frames.len() < bounds.frames && Self::next_item(sender).is_some() {
                steps.push(Step::Send(n));
            }
            if may(SESSIONS, bounds.sessions) {
                steps.push(Step::Session(n));
            }
            if may(CRASHES, bounds.crashes) {
                steps.push(Step::Crash(n));
            }
            if may(EXPIRIES, bounds.expiries) {
                steps.extend(sender.queue.keys().map(|at| Step::Expire(n, *at)));
            }
        }
        for frame in &self.frames {
            steps.push(Step::Deliver(frame.clone()));
            steps.push(Step::Lose(frame.clone()));
            steps.push(Step::Repeat(frame.clone()));
        }
        if !self.pending.is_empty() {
            steps.push(Step::Commit);
        }
        if may(RECEIVER, bounds.receiver_crashes) {
            steps.push(Step::ReceiverCrash);
        }
        if may(REFUSALS, bounds.refusals) {
            steps.push(Step::Refuse);
        }
        if may(FULLS, bounds.fulls) {
            steps.push(Step::Full);
        }
        if may(CLONES, bounds.clones) {
            steps.push(Step::Clone);
        }
        if may(RESTORES, bounds.restores) {
            steps.push(if self.backup.is_some() {
                Step::Restore
            } else {
                Step::Backup
            });
        }
        steps
    }

    fn after(&self, step: &Step, bounds: Bounds) -> Self {
        let mut world = self.clone();
        match step {
            Step::Mint(n) => {
                world.counts[MINTS] += 1;
                let message = world.counts[MINTS];
                let it = &mut world.senders[*n];
                it.queue.insert(it.next, (message, it.last));
                it.next += 1;
                it.last = message;
            }
            Step::Send(n) => {
                let (item, after) = Self::next_item(&world.senders[*n]).unwrap();
                world.senders[*n] = after;
                world.frames.insert(Frame::Item(item));
            }
            Step::Deliver(frame) => {
                world.frames.remove(frame);
                world.hears(frame, bounds);
            }
            Step::Repeat(frame) => world.hears(frame, bounds),
            Step::Lose(frame) => {
                world.frames.remove(frame);
            }
            Step::Commit => world.commit(bounds),
            Step::ReceiverCrash => {
                world.counts[RECEIVER] += 1;
                world.receiver_crash();
            }
            Step::Session(n) => {
                world.counts[SESSIONS] += 1;
                world.open(*n);
            }
            Step::Crash(n) => {
                world.counts[CRASHES] += 1;
                Self::recover(&mut world.senders[*n]);
                world.open(*n);
            }
            Step::Expire(n, at) => {
                world.counts[EXPIRIES] += 1;
                world.leave(*n, *at, bounds);
            }
            Step::Refuse => {
                world.counts[REFUSALS] += 1;
                world.refuses = !world.refuses;
            }
            Step::Full => {
                world.counts[FULLS] += 1;
                world.full = !world.full;
            }
            Step::Clone => {
                world.counts[CLONES] += 1;
                let mut copy = world.senders[0].clone();
                Self::recover(&mut copy);
                world.senders.push(copy);
                let n = world.senders.len() - 1;
                world.open(n);
            }
            Step::Backup => world.backup = Some(Box::new(world.senders[0].clone())),
            Step::Restore => {
                world.counts[RESTORES] += 1;
                let mut old = *world.backup.take().unwrap();
                // Messages lie elsewhere in every life.
                old.next = world.senders[0].next.max(old.next) + 10;
                Self::recover(&mut old);
                world.senders[0] = old;
                world.open(0);
            }
        }
        world
    }

    /// Whether a run without faults from here empties all queues.
    fn drains(&self, bounds: Bounds) -> bool {
        let mut world = self.clone();
        (world.refuses, world.full) = (false, world.full && bounds.broken == Break::SkipNeedsRoom);
        if self.full && bounds.broken != Break::SkipNeedsRoom {
            world.full = false;
        }
        for round in 0..40 {
            if world.wrong.is_some() {
                return true;
            }
            let open = |s: &Sender| !s.queue.is_empty() || s.chain.skips().len() > 0;
            if !world.senders.iter().any(open) {
                return true;
            }
            if round % 8 == 7 {
                for n in 0..world.senders.len() {
                    world.open(n);
                }
            }
            for n in 0..world.senders.len() {
                while let Some((item, after)) = Self::next_item(&world.senders[n]) {
                    world.senders[n] = after;
                    world.arrives(item, bounds);
                }
            }
            world.commit(bounds);
            for frame in std::mem::take(&mut world.frames) {
                world.hears(&frame, bounds);
            }
        }
        false
    }
}

/// States looked at, and what is wrong in the first wrong one, with the way there.
fn explore(bounds: Bounds, most: usize) -> (usize, bool, Option<String>) {
    let first = World::new();
    let mut seen: BTreeMap<u64, (u64, Option<Step>)> = BTreeMap::new();
    seen.insert(digest(&first), (0, None));
    let mut open = VecDeque::from([first]);
    let way = |seen: &BTreeMap<u64, (u64, Option<Step>)>, mut at: u64| {
        let mut steps = Vec::new();
        while let Some((before, Some(step))) = seen.get(&at) {
            steps.push(format!("{step:?}"));
            at = *before;
        }
        steps.reverse();
        steps.join("\n  ")
    };
    while let Some(world) = open.pop_front() {
        let here = digest(&world);
        if let Some(wrong) = world.wrong {
            return (
                seen.len(),
                false,
                Some(format!("{wrong}:\n  {}", way(&seen, here))),
            );
        }
        if !world.drains(bounds) {
            let way = way(&seen, here);
            return (
                seen.len(),
                false,
                Some(format!("it does not drain:\n  {way}")),
            );
        }
        if seen.len() >= most {
            continue;
        }
        for step in world.steps(bounds) {
            let next = world.after(&step, bounds);
            let to = digest(&next);
            if let std::collections::btree_map::Entry::Vacant(free) = seen.entry(to) {
                free.insert((here, Some(step)));
                open.push_back(next);
            }
        }
    }
    (seen.len(), seen.len() < most, None)
}

/// So many states, or more if `QM_MODEL_STATES` says so.
fn states(usually: usize) -> usize {
    let set = std::env::var("QM_MODEL_STATES").ok();
    let set = set.and_then(|text| text.parse().ok()).unwrap_or(0);
    usually.max(set)
}

#[test]
fn the_protocol_holds_in_every_state_that_is_reached() {
    let runs = [
        (
            "lone, sessions end",
            Bounds {
                sessions: 2,
                ..LONE
            },
        ),
        (
            "receiver crashes, expiry",
            Bounds {
                receiver_crashes: 1,
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            "refusals",
            Bounds {
                refusals: 2,
                mints: 2,
                ..LONE
            },
        ),
        (
            "sender crashes, expiry",
            Bounds {
                crashes: 1,
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            "full queue, expiry",
            Bounds {
                fulls: 1,
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            "restored backup, expiry",
            Bounds {
                restores: 1,
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            "clone, expiry",
            Bounds {
                clones: 1,
                expiries: 1,
                mints: 2,
                sessions: 0,
                ..LONE
            },
        ),
        (
            "all of it",
            Bounds {
                crashes: 1,
                receiver_crashes: 1,
                expiries: 1,
                refusals: 1,
                fulls: 1,
                restores: 1,
                clones: 1,
                mints: 3,
                ..LONE
            },
        ),
    ];
    for (name, bounds) in runs {
        let (count, whole, wrong) = explore(bounds, states(8_000));
        println!("{name}: {count} states{}", if whole { ", all" } else { "" });
        assert!(wrong.is_none(), "{name}: {}", wrong.unwrap());
    }
}

#[test]
fn each_rule_that_is_left_out_is_found() {
    let runs = [
        (
            Break::NumberForLink,
            Bounds {
                restores: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            Break::AckByNumber,
            Bounds {
                restores: 1,
                mints: 2,
                sessions: 0,
                ..LONE
            },
        ),
        (
            Break::AckFromStart,
            Bounds {
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            Break::NoSkip,
            Bounds {
                expiries: 1,
                mints: 2,
                ..LONE
            },
        ),
        (
            Break::DeadAtOnce,
            Bounds {
                expiries: 1,
                mints: 1,
                ..LONE
            },
        ),
        (
            Break::LateReject,
            Bounds {
                refusals: 2,
                mints: 1,
                ..LONE
            },
        ),
        (
            Break::AckBeforeDurable,
            Bounds {
                receiver_crashes: 1,
                mints: 1,
                ..LONE
            },
        ),
        (
            Break::PositionApart,
            Bounds {
                receiver_crashes: 1,
                mints: 1,
                ..LONE
            },
        ),
        (
            Break::SkipNeedsRoom,
            Bounds {
                fulls: 1,
                expiries: 1,
                mints: 1,
                ..LONE
            },
        ),
    ];
    let mut depths: Vec<(Bounds, usize)> = Vec::new();
    for (broken, bounds) in runs {
        let (count, _, wrong) = explore(Bounds { broken, ..bounds }, 60_000);
        let Some(wrong) = wrong else {
            panic!("{broken:?} was not found in {count} states");
        };
        println!("{broken:?}: {count} states, {wrong}");
        match depths.iter_mut().find(|(world, _)| *world == bounds) {
            Some((_, deepest)) => *deepest = count.max(*deepest),
            None => depths.push((bounds, count)),
        }
    }
    // That nothing is found with all rules says something only if one looks at least as far.
    for (world, deepest) in depths {
        let (count, whole, wrong) = explore(world, states(deepest));
        println!("with all rules, as far: {count} states");
        assert!(wrong.is_none(), "{world:?}: {}", wrong.unwrap());
        assert!(whole || count >= deepest, "{count} {world:?}");
    }
}
