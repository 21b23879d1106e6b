//! An explicit-state check of one stream whose *receiver* is copied while it runs, or goes back
//! to a backup, over the very functions that the engine uses: [`Chain`] at the sender,
//! [`Branches`] at each receiver.
//!
//! Every interleaving, up to a number of states, of one sender and one receiver or two copies of
//! it: the sender's sessions lead to one of them and then to the other, and end; frames are lost,
//! repeated and reordered; receivers crash before and between their commits. In each state:
//! nothing was delivered twice at one machine or with a gap there, nothing that was settled is at
//! nobody unless the disk that had it went back, and a stream stands only where its receiver
//! lacks what was settled. From each state a run without faults empties the queue, or the stream
//! stands.
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
use qm_engine::stream::chain::{Chain, GoOn, Settles};
use qm_wire::{Entry, Incarnation, Link, MessageId, Outcome, Run, StreamId, Tag};

use digest::digest;

const ROOT: Link = Link([7; 16]);
const STREAM: StreamId = StreamId([1; 16]);
/// As the engine: how often a receiver may say on one session that it lacks what is settled.
const LACKS_MAX: u8 = 3;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    None,
    /// A receiver takes what does not follow what it has.
    TakeUnknown,
    /// A receiver acknowledges before its disk has the message.
    AckBeforeDurable,
    /// A receiver writes links some time after the messages.
    LinksApart,
    /// A stream stands at the first word that what is settled is lacking.
    HoldAtOnce,
    /// A stream never stands.
    NeverHold,
}

/// What may happen, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    broken: Break,
    mints: u8,
    sessions: u8,
    crashes: u8,
    copies: u8,
    restores: u8,
    frames: usize,
}

const LONE: Bounds = Bounds {
    broken: Break::None,
    mints: 2,
    sessions: 2,
    crashes: 0,
    copies: 0,
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Frame {
    Item(Item),
    /// Of a run: the first position, the last one and its link.
    Ack(u8, u64, u64, Link),
    Need(u8, Vec<(u64, Link)>),
}

/// What a receiver's disk has: its messages, and the links of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Disk {
    got: u8,
    links: BTreeMap<(u64, Link), (Link, Vec<Taken>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Receiver {
    branches: Branches,
    disk: Disk,
    /// What is taken and not on disk.
    pending: Vec<Item>,
}

impl Receiver {
    fn started(disk: Disk) -> Self {
        let runs = disk
            .links
            .iter()
            .map(|((first, _), (before, taken))| StoredRun {
                first: *first,
                before: *before,
                at_us: 1,
                taken: taken.clone(),
            });
        let (branches, orphans) = Branches::recovered(ROOT, false, runs.collect());
        assert!(orphans.is_empty(), "no disk is full here");
        Self {
            branches,
            disk,
            pending: Vec::new(),
        }
    }

    fn write_links(&mut self) {
        for change in self.branches.save(1) {
            match change {
                RunChange::Set(name, run) => {
                    self.disk.links.insert(name, (run.before, run.taken));
                }
                RunChange::Unset(name) => {
                    self.disk.links.remove(&name);
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    chain: Chain<u8>,
    /// Where it lies, and the message.
    queue: BTreeMap<u64, u8>,
    floor: u64,
    held: bool,
    lacks: u8,
    settled: u8,
    receivers: Vec<Receiver>,
    /// To whom each session leads; `None` when it died with its receiver. The sender has the last.
    sessions: Vec<Option<usize>>,
    frames: BTreeSet<Frame>,
    backup: Option<Disk>,
    /// Lost by disks that went back.
    lost: u8,
    minted: u8,
    begun: u8,
    crashes: u8,
    restores: u8,
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Step {
    Mint,
    Send,
    Deliver(Frame),
    Repeat(Frame),
    Lose(Frame),
    Commit(usize),
    Session(usize),
    Crash(usize),
    Copy,
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
        Self {
            chain: Chain::new(STREAM, ROOT),
            queue: BTreeMap::new(),
            floor: 1,
            held: false,
            lacks: 0,
            settled: 0,
            receivers: vec![Receiver::started(Disk::default())],
            sessions: vec![Some(0)],
            frames: BTreeSet::new(),
            backup: None,
            lost: 0,
            minted: 0,
            begun: 0,
            crashes: 0,
            restores: 0,
            wrong: None,
        }
    }

    fn session(&self) -> u8 {
        u8::try_from(self.sessions.len() - 1).unwrap()
    }

    /// The machine that the sender speaks to.
    fn to(&self) -> Option<usize> {
        self.sessions.last().copied().flatten()
    }

    /// A session opens; the receiver ends an older one with the same life of its peer.
    fn open(&mut self, receiver: usize) {
        self.dies(receiver);
        self.sessions.push(Some(receiver));
        self.unsend(0);
        self.floor = self.chain.low();
        (self.held, self.lacks) = (false, 0);
    }

    fn unsend(&mut self, behind: u64) {
        let again: Vec<u64> = self
            .chain
            .unsettled()
            .filter(|placed| placed.mark.position > behind)
            .map(|placed| placed.mark.at)
            .collect();
        for at in again {
            self.chain.set_flight(at, None);
        }
    }

    /// What the sender would transmit next.
    fn next_item(&self) -> Option<(Item, Self)> {
        if self.held {
            return None;
        }
        let waits = self.queue.iter().find(|(at, _)| {
            let placed = self.chain.placed_at(**at);
            placed.is_none_or(|placed| placed.flight.is_none())
        });
        let (at, message) = waits.map(|(at, message)| (*at, *message))?;
        let mut after = self.clone();
        let placed = *after.chain.place(at, entry(message).tag)?;
        after.chain.set_flight(at, Some(self.session()));
        let item = Item {
            session: self.session(),
            position: placed.mark.position,
            previous: placed.previous,
            low: after.chain.travels(placed.mark, placed.previous).low,
            message,
        };
        Some((item, after))
    }

    fn ack(&mut self, session: u8, (first, last): (u64, u64), link: Link) {
        self.frames.insert(Frame::Ack(session, first, last, link));
    }

    fn arrives(&mut self, item: Item, broken: Break) {
        let Some(at) = self.sessions[usize::from(item.session)] else {
            return;
        };
        let tag = entry(item.message).tag;
        let link = item.previous.next(tag, item.position);
        let it = &mut self.receivers[at];
        let judged = it
            .branches
            .judge(item.position, item.previous, link, item.low);
        let judged = match judged {
            Judged::Need if broken == Break::TakeUnknown => Judged::Next { branches: false },
            judged => judged,
        };
        match judged {
            Judged::Delivered { first } => self.ack(item.session, (first, item.position), link),
            Judged::Next { .. } => {
                let taken = Taken {
                    entry: entry(item.message),
                    skipped: Outcome(0),
                };
                it.branches.take(item.position, item.previous, link, taken);
                it.pending.push(item);
                if broken == Break::AckBeforeDurable {
                    self.ack(item.session, (item.position, item.position), link);
                }
            }
            Judged::Need => {
                let leaves = it.branches.leaves(8);
                self.frames.insert(Frame::Need(item.session, leaves));
            }
            Judged::InFlight | Judged::Skipped(_) => {}
        }
    }

    fn commit(&mut self, at: usize, broken: Break) {
        let it = &mut self.receivers[at];
        // Links some time after the messages: what was taken before this batch is written now.
        if broken != Break::LinksApart {
            it.write_links();
        }
        for item in std::mem::take(&mut it.pending) {
            let it = &mut self.receivers[at];
            let bit = 1_u8 << item.message;
            let link = item.previous.next(entry(item.message).tag, item.position);
            it.branches.stored(item.position, link);
            if it.disk.got & bit != 0 {
                self.wrong = Some("delivered twice at one machine");
            }
            if item.message > 1 && it.disk.got & (bit >> 1) == 0 {
                self.wrong = Some("delivered with a gap");
            }
            it.disk.got |= bit;
            self.ack(item.session, (item.position, item.position), link);
        }
    }

    fn dies(&mut self, receiver: usize) {
        for session in &mut self.sessions {
            *session = session.filter(|to| *to != receiver);
        }
    }

    fn hears(&mut self, frame: &Frame, broken: Break) {
        match frame {
            Frame::Item(item) => self.arrives(*item, broken),
            Frame::Ack(_, first, last, link) => {
                let run = Run {
                    stream: STREAM,
                    first: *first,
                    last: *last,
                    link: *link,
                };
                if let Settles::These(positions) = self.chain.acked(&run) {
                    for position in positions {
                        self.settle(position);
                    }
                }
            }
            Frame::Need(session, leaves) => {
                if *session == self.session() {
                    self.needs(leaves, broken);
                }
            }
        }
    }

    fn settle(&mut self, position: u64) {
        let Some(placed) = self.chain.placed(position).copied() else {
            return;
        };
        self.chain.settle(placed.mark.at);
        let bit = 1_u8 << self.queue.remove(&placed.mark.at).unwrap();
        self.settled |= bit;
    }

    /// W-STR-8, as the engine follows it.
    fn needs(&mut self, leaves: &[(u64, Link)], broken: Break) {
        if self.chain.unsettled().len() == 0 {
            return;
        }
        let last = leaves.iter().map(|(position, _)| *position).max();
        let lacks = last.unwrap_or(0) + 1 < self.chain.low();
        self.lacks = if lacks { self.lacks + 1 } else { 0 };
        let patience = if broken == Break::HoldAtOnce {
            0
        } else {
            LACKS_MAX
        };
        match self.chain.needed(leaves, self.floor) {
            _ if broken == Break::NeverHold => self.unsend(0),
            GoOn::Behind(position) if self.lacks <= patience => self.unsend(position),
            GoOn::Behind(_) | GoOn::Hold => {
                self.held = true;
                let has = |at: usize| self.receivers[at].disk.got;
                if self.to().is_some_and(|at| self.settled & !has(at) == 0) {
                    self.wrong = Some("it stands, and its receiver lacks nothing");
                }
            }
        }
    }

    fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.minted < bounds.mints {
            steps.push(Step::Mint);
        }
        if self.frames.len() < bounds.frames && self.next_item().is_some() {
            steps.push(Step::Send);
        }
        for at in 0..self.receivers.len() {
            if self.begun < bounds.sessions {
                steps.push(Step::Session(at));
            }
            if self.crashes < bounds.crashes {
                steps.push(Step::Crash(at));
            }
            if !self.receivers[at].pending.is_empty() {
                steps.push(Step::Commit(at));
            }
        }
        for frame in &self.frames {
            steps.push(Step::Deliver(frame.clone()));
            steps.push(Step::Lose(frame.clone()));
            // Each word that something is lacking counts, and a session says it once.
            if !matches!(frame, Frame::Need(..)) {
                steps.push(Step::Repeat(frame.clone()));
            }
        }
        if self.receivers.len() <= usize::from(bounds.copies) {
            steps.push(Step::Copy);
        }
        if self.restores < bounds.restores {
            steps.push(if self.backup.is_some() {
                Step::Restore
            } else {
                Step::Backup
            });
        }
        steps
    }

    fn after(&self, step: &Step, broken: Break) -> Self {
        let mut world = self.clone();
        match step {
            Step::Mint => {
                world.minted += 1;
                world.queue.insert(u64::from(world.minted), world.minted);
            }
            Step::Send => {
                let (item, after) = world.next_item().unwrap();
                world = after;
                world.frames.insert(Frame::Item(item));
            }
            Step::Deliver(frame) => {
                world.frames.remove(frame);
                world.hears(frame, broken);
            }
            Step::Repeat(frame) => world.hears(frame, broken),
            Step::Lose(frame) => {
                world.frames.remove(frame);
            }
            Step::Commit(at) => world.commit(*at, broken),
            Step::Session(at) => {
                world.begun += 1;
                world.open(*at);
            }
            Step::Crash(at) => {
                world.crashes += 1;
                world.dies(*at);
                let disk = world.receivers[*at].disk.clone();
                world.receivers[*at] = Receiver::started(disk);
                world.open(*at);
            }
            // The disk of a running machine.
            Step::Copy => {
                let copy = Receiver::started(world.receivers[0].disk.clone());
                world.receivers.push(copy);
            }
            Step::Backup => world.backup = Some(world.receivers[0].disk.clone()),
            Step::Restore => {
                world.restores += 1;
                world.dies(0);
                let disk = world.backup.take().unwrap();
                world.lost |= world.receivers[0].disk.got & !disk.got;
                world.receivers[0] = Receiver::started(disk);
                world.open(0);
            }
        }
        let all = world.receivers.iter();
        let somewhere = all.fold(world.lost, |got, receiver| got | receiver.disk.got);
        if world.settled & !somewhere != 0 {
            world.wrong = Some("settled, and nobody has it");
        }
        world
    }

    /// Whether the stream stands at the end of a run without faults from here; else the queue is
    /// empty.
    fn ends(&self, broken: Break) -> Result<bool, &'static str> {
        let mut world = self.clone();
        for round in 0..24 {
            if let Some(wrong) = world.wrong {
                return Err(wrong);
            }
            if world.held || world.queue.is_empty() {
                return Ok(world.held);
            }
            if round == 8 {
                let to = world.to().unwrap_or(0);
                world.open(to);
            }
            while let Some((item, after)) = world.next_item() {
                world = after;
                world.arrives(item, broken);
            }
            for at in 0..world.receivers.len() {
                world.commit(at, broken);
            }
            for frame in std::mem::take(&mut world.frames) {
                world.hears(&frame, broken);
            }
        }
        Err("it does not end")
    }
}

/// States looked at, whether these are all, from how many the stream comes to stand, and what is
/// wrong in the first wrong one, with the way there.
fn explore(bounds: Bounds, most: usize) -> (usize, bool, usize, Option<String>) {
    let first = World::new();
    let mut seen: BTreeMap<u64, (u64, Option<Step>)> = BTreeMap::new();
    seen.insert(digest(&first), (0, None));
    let mut open = VecDeque::from([first]);
    let mut held = 0;
    while let Some(world) = open.pop_front() {
        let here = digest(&world);
        let ends = world.wrong.map_or_else(|| world.ends(bounds.broken), Err);
        held += usize::from(ends == Ok(true));
        if let Err(wrong) = ends {
            let (mut at, mut way) = (here, Vec::new());
            while let Some((before, Some(step))) = seen.get(&at) {
                way.push(format!("{step:?}"));
                at = *before;
            }
            way.reverse();
            let way = format!("{wrong}:\n  {}", way.join("\n  "));
            return (seen.len(), false, held, Some(way));
        }
        if seen.len() >= most {
            continue;
        }
        for step in world.steps(bounds) {
            let next = world.after(&step, bounds.broken);
            if let std::collections::btree_map::Entry::Vacant(free) = seen.entry(digest(&next)) {
                free.insert((here, Some(step)));
                open.push_back(next);
            }
        }
    }
    (seen.len(), seen.len() < most, held, None)
}

/// So many states, or more if `QM_MODEL_STATES` says so.
fn states(usually: usize) -> usize {
    let set = std::env::var("QM_MODEL_STATES").ok();
    let set = set.and_then(|text| text.parse().ok()).unwrap_or(0);
    usually.max(set)
}

#[test]
fn a_stream_to_a_receiver_that_is_copied_or_goes_back_holds_its_promises() {
    let copied = Bounds { copies: 1, ..LONE };
    let runs = [
        ("lone", LONE, false),
        ("copied", copied, true),
        (
            "copied, crashes",
            Bounds {
                crashes: 1,
                sessions: 1,
                ..copied
            },
            true,
        ),
        (
            "copied, three messages",
            Bounds {
                mints: 3,
                sessions: 1,
                ..copied
            },
            true,
        ),
        (
            "went back",
            Bounds {
                restores: 1,
                sessions: 1,
                ..LONE
            },
            true,
        ),
        (
            "copied, and one went back",
            Bounds {
                restores: 1,
                sessions: 1,
                ..copied
            },
            true,
        ),
    ];
    for (name, bounds, stands) in runs {
        let (count, whole, held, wrong) = explore(bounds, states(8_000));
        let all = if whole { ", all" } else { "" };
        println!("{name}: {count} states{all}, it comes to stand from {held}");
        assert!(wrong.is_none(), "{name}: {}", wrong.unwrap());
        assert_eq!(held > 0, stands, "{name}");
    }
}

#[test]
fn each_rule_that_is_left_out_is_found() {
    let copied = Bounds { copies: 1, ..LONE };
    let back = Bounds {
        restores: 1,
        ..LONE
    };
    let crashed = Bounds {
        crashes: 1,
        mints: 1,
        ..LONE
    };
    let mut depths: Vec<(Bounds, usize)> = Vec::new();
    for (broken, bounds) in [
        (Break::TakeUnknown, copied),
        (Break::TakeUnknown, back),
        (Break::AckBeforeDurable, crashed),
        (Break::LinksApart, copied),
        (Break::HoldAtOnce, LONE),
        (Break::NeverHold, copied),
        (Break::NeverHold, back),
    ] {
        let (count, _, _, wrong) = explore(Bounds { broken, ..bounds }, 60_000);
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
        let (count, whole, _, wrong) = explore(world, states(deepest));
        println!("with all rules, as far: {count} states");
        assert!(wrong.is_none(), "{world:?}: {}", wrong.unwrap());
        assert!(whole || count >= deepest, "{count} {world:?}");
    }
}
