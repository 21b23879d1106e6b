//! Every history of a machine that takes another identity because a copy of it keeps the one they
//! had: over [`Former::mints`], the streams' [`Chain`] and [`Branches`]. Both copies inherited a
//! message, go on to mint, send and are acknowledged, on frames that are lost, repeated, late, or
//! come to the other copy; the destination approves the new identity some time or never; the
//! change is taken back; the machine dies at any time, also while something is on its way to the
//! disk.
//!
//! In each state nothing was delivered twice, settled without being there, or out of order, and a
//! run without faults and without an operator delivers all that was minted. Each rule that is left
//! out is found.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::{Entry, Incarnation, Link, MessageId, Outcome, QmId, Run, StreamId, Succession, Tag};

use super::record::Former;
use crate::identity::visit::{Depths, Searched, World, visit};
use crate::record::RemoteKey;
use crate::stream::branches::{Branches, Judged, Taken};
use crate::stream::chain::{Chain, Settles};
use crate::time::Timestamp;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Break {
    None,
    /// What is new is minted under the new identity at once.
    SwitchAtOnce,
    /// That a destination has switched is in memory only.
    SwitchForgotten,
    /// Messages of the new identity wait for none of the former one.
    NoBarrier,
    /// What waits is minted again under the new identity.
    Relabel,
    /// The former key is erased with the change.
    KeyErased,
    /// A change is taken back while transactional messages wait under both identities.
    ReclaimAnyTime,
    /// The stream is told by its numbers: an ack for one copy settles what the other has there.
    AckByNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bounds {
    broken: Break,
    mints: u8,
    crashes: u8,
    approves: bool,
    reclaims: u8,
    frames: usize,
    /// It begins where the change is durable and approved.
    changed: bool,
    /// The copy that keeps the identity does nothing.
    alone: bool,
    /// The loser also mints from when its change is taken back until the destination knows.
    mints_going_back: bool,
}

const USUAL: Bounds = Bounds {
    broken: Break::None,
    mints: 3,
    crashes: 1,
    approves: true,
    reclaims: 0,
    frames: 2,
    changed: false,
    alone: false,
    mints_going_back: false,
};

/// What is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    Change,
    Switch,
    Reclaim,
    Erase,
}

/// Which identity a machine has beside its current one, as its disk says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Role {
    of: usize,
    former: Former,
}

impl std::hash::Hash for Role {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let former = &self.former;
        (self.of, former.reclaimed, former.marks.get(&there())).hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    current: usize,
    role: Option<Role>,
    pending: Option<Pending>,
    /// Of each identity: its stream, what waits in it with the message before, and its key.
    chains: [Chain<u8>; 2],
    queues: [BTreeMap<u64, (u8, u8)>; 2],
    keys: [bool; 2],
    last: u8,
    session: u8,
    /// A switch that is in memory only.
    switched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Said {
    Item {
        by: usize,
        own: usize,
        position: u64,
        previous: Link,
        message: u8,
        parent: u8,
    },
    Ack {
        to: usize,
        own: usize,
        first: u64,
        last: u64,
        link: Link,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copies {
    bounds: Bounds,
    machines: [Machine; 2],
    branches: [Branches; 2],
    said: BTreeSet<Said>,
    approved: bool,
    got: u8,
    mints: u8,
    crashes: u8,
    reclaims: u8,
    wrong: Option<&'static str>,
}

fn there() -> RemoteKey {
    RemoteKey::Host("hub".to_owned())
}

fn entry(message: u8) -> Entry {
    Entry {
        id: MessageId {
            incarnation: Incarnation(1),
            sequence: u64::from(message),
        },
        tag: Tag([message; 8]),
    }
}

fn root(own: usize) -> Link {
    Link([if own == 0 { 100 } else { 101 }; 16])
}

fn former(reclaimed: bool) -> Former {
    let succession = Succession {
        old_key: [1; 32],
        new_key: [2; 32],
        old_signature: [0; 64],
        new_signature: [0; 64],
    };
    Former {
        qm: QmId::from_ed25519_public_key(&succession.old_key),
        succession,
        since_us: 0,
        because: String::new(),
        reclaimed,
        split: !reclaimed,
        inherited_before: None::<Timestamp>,
        lives: Vec::new(),
        marks: BTreeMap::new(),
        drained: None,
        gone: false,
    }
}

impl Machine {
    fn new(session: u8) -> Self {
        let chain = |own: usize| Chain::new(StreamId([u8::from(own > 0); 16]), root(own));
        let mut machine = Self {
            current: 0,
            role: None,
            pending: None,
            chains: [chain(0), chain(1)],
            queues: [BTreeMap::new(), BTreeMap::new()],
            keys: [true, false],
            last: 0,
            session,
            switched: false,
        };
        machine.put(0, 1);
        machine
    }

    fn minting(&self, broken: Break) -> usize {
        match &self.role {
            Some(role)
                if !self.switched
                    && broken != Break::SwitchAtOnce
                    && role.former.mints(&there()) =>
            {
                role.of
            }
            _ => self.current,
        }
    }

    fn put(&mut self, own: usize, message: u8) {
        let at = u64::from(message);
        self.queues[own].insert(at, (message, self.last));
        self.last = message;
    }

    fn is_barred(&self, own: usize) -> bool {
        let before = self.role.as_ref().map(|role| role.of);
        own == self.current && before.is_some_and(|before| !self.queues[before].is_empty())
    }

    /// Whether anything waits under the former identity, or may come to.
    fn holds(&self, broken: Break) -> bool {
        self.role
            .as_ref()
            .is_some_and(|role| !self.queues[role.of].is_empty() || self.minting(broken) == role.of)
    }

    /// Whether a change is being taken back, and the destination is not told yet.
    fn is_going_back(&self, broken: Break) -> bool {
        let back = self.role.as_ref().is_some_and(|role| role.of == 1);
        self.pending == Some(Pending::Reclaim) || back && self.minting(broken) == 1
    }

    /// A process that starts knows what is on the disk.
    fn restart(&mut self) {
        (self.pending, self.switched) = (None, false);
        for own in 0..2 {
            let marks: Vec<_> = self.chains[own].marks().copied().collect();
            let id = self.chains[own].id();
            self.chains[own] = Chain::recovered(id, root(own), marks, Vec::new());
            for (at, (message, _)) in &self.queues[own] {
                self.chains[own].place(*at, entry(*message).tag);
            }
        }
    }
}

impl Copies {
    fn new(bounds: Bounds) -> Self {
        let mut world = Self {
            bounds,
            machines: [Machine::new(0), Machine::new(1)],
            branches: [Branches::new(root(0)), Branches::new(root(1))],
            said: BTreeSet::new(),
            approved: false,
            got: 0,
            mints: 1,
            crashes: 0,
            reclaims: 0,
            wrong: None,
        };
        if bounds.changed {
            world.machines[1].pending = Some(Pending::Change);
            world.durable();
            world.approved = true;
        }
        world
    }

    fn after(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    /// What is sent next under an identity, if it may be.
    fn send(&mut self, by: usize, own: usize) -> Option<Said> {
        let broken = self.bounds.broken;
        let machine = &mut self.machines[by];
        let barred = machine.is_barred(own) && broken != Break::NoBarrier;
        if barred || !machine.keys[own] || own == 1 && !self.approved {
            return None;
        }
        let chain = &mut machine.chains[own];
        let free = |at: &u64| {
            let placed = chain.placed_at(*at);
            placed.is_none_or(|placed| placed.flight.is_none())
        };
        let at = machine.queues[own].keys().copied().find(free)?;
        let (message, parent) = machine.queues[own][&at];
        let placed = *chain.place(at, entry(message).tag)?;
        chain.set_flight(at, Some(machine.session));
        Some(Said::Item {
            by,
            own,
            position: placed.mark.position,
            previous: placed.previous,
            message,
            parent,
        })
    }

    fn hear(&mut self, said: Said, at: Option<usize>) {
        match said {
            Said::Item {
                by,
                own,
                position,
                previous,
                message,
                parent,
            } => self.arrives(by, own, (position, previous), message, parent),
            Said::Ack {
                to,
                own,
                first,
                last,
                link,
            } => self.acked(at.unwrap_or(to), own, (first, last, link)),
        }
    }

    fn arrives(&mut self, by: usize, own: usize, place: (u64, Link), message: u8, parent: u8) {
        if own == 1 && !self.approved {
            return;
        }
        let (position, previous) = place;
        let link = previous.next(entry(message).tag, position);
        let bit = 1 << message;
        let first = match self.branches[own].judge(position, previous, link, 1) {
            Judged::Delivered { first } => first,
            Judged::Next { .. } => {
                if self.got & bit != 0 {
                    self.wrong = Some("delivered twice");
                }
                if parent != 0 && self.got & (1 << parent) == 0 {
                    self.wrong = Some("delivered before what is older");
                }
                let taken = Taken {
                    entry: entry(message),
                    skipped: Outcome(0),
                };
                self.branches[own].take(position, previous, link, taken);
                let _saved = self.branches[own].save(1);
                self.branches[own].stored(position, link);
                self.got |= bit;
                position
            }
            _ => return,
        };
        self.said.insert(Said::Ack {
            to: by,
            own,
            first,
            last: position,
            link,
        });
    }

    fn acked(&mut self, to: usize, own: usize, (first, last, link): (u64, u64, Link)) {
        let stream = self.machines[to].chains[own].id();
        let run = Run {
            stream,
            first,
            last,
            link,
        };
        let by_number = self.bounds.broken == Break::AckByNumber;
        let machine = &mut self.machines[to];
        let positions = match machine.chains[own].acked(&run) {
            _ if by_number => machine.chains[own].within(first, last),
            Settles::These(positions) => positions,
            _ => return,
        };
        for position in positions {
            let placed = machine.chains[own].placed(position).copied();
            let Some(placed) = placed else { continue };
            machine.chains[own].settle(placed.mark.at);
            let gone = machine.queues[own].remove(&placed.mark.at);
            if gone.is_some_and(|(message, _)| self.got & (1 << message) == 0) {
                self.wrong = Some("settled as delivered and is not there");
            }
        }
    }

    /// What the loser has to write down next of itself.
    fn begins(&self) -> Option<Pending> {
        let loser = &self.machines[1];
        let broken = self.bounds.broken;
        let asks = loser.role.as_ref().is_some_and(|role| {
            let takes = loser.current == 0 || self.approved;
            takes && loser.minting(broken) == role.of
        });
        if loser.pending.is_some() || broken == Break::SwitchForgotten && loser.switched {
            return None;
        }
        asks.then_some(Pending::Switch)
    }

    fn durable(&mut self) {
        let broken = self.bounds.broken;
        let loser = &mut self.machines[1];
        match loser.pending.take() {
            Some(Pending::Change) => {
                (loser.current, loser.keys) = (1, [broken != Break::KeyErased, true]);
                let former = former(false);
                loser.role = Some(Role { of: 0, former });
                if broken == Break::Relabel {
                    loser.queues[1] = core::mem::take(&mut loser.queues[0]);
                }
            }
            Some(Pending::Switch) if broken == Break::SwitchForgotten => loser.switched = true,
            Some(Pending::Switch) => {
                if let Some(role) = &mut loser.role {
                    role.former.marks.insert(there(), true);
                }
            }
            Some(Pending::Reclaim) => {
                let mut former = former(true);
                if loser.minting(broken) == 1 {
                    former.marks.insert(there(), false);
                }
                loser.role = Some(Role { of: 1, former });
                loser.current = 0;
            }
            Some(Pending::Erase) => {
                if let Some(role) = loser.role.take() {
                    loser.keys[role.of] = false;
                }
            }
            None => {}
        }
    }

    /// Whether a run without faults, in which no operator does anything, delivers everything.
    fn drains(&self) -> bool {
        let mut world = self.clone();
        for _ in 0..12 {
            if world.wrong.is_some() {
                return true;
            }
            let open = |m: &Machine| m.queues.iter().any(|queue| !queue.is_empty());
            if !world.machines.iter().any(open) {
                return true;
            }
            world.durable();
            for by in 0..2 {
                for own in 0..2 {
                    let chain = &mut world.machines[by].chains[own];
                    let again: Vec<u64> = chain.unsettled().map(|p| p.mark.at).collect();
                    for at in again {
                        chain.set_flight(at, None);
                    }
                    while let Some(said) = world.send(by, own) {
                        world.said.insert(said);
                    }
                }
            }
            for _ in 0..2 {
                // Items in the order of their places, then what they are answered.
                for said in core::mem::take(&mut world.said) {
                    world.hear(said, None);
                }
            }
        }
        false
    }
}

impl World for Copies {
    fn next(&self) -> Vec<Self> {
        let bounds = &self.bounds;
        let loser = &self.machines[1];
        let mut next = Vec::new();
        for by in usize::from(bounds.alone)..2 {
            let back = by == 1 && loser.is_going_back(bounds.broken);
            if self.mints < bounds.mints && (!back || bounds.mints_going_back) {
                next.push(self.after(|world| {
                    world.mints += 1;
                    let message = world.mints;
                    let own = world.machines[by].minting(bounds.broken);
                    world.machines[by].put(own, message);
                }));
            }
            for own in 0..2 {
                if self.said.len() < bounds.frames {
                    let mut world = self.clone();
                    if let Some(said) = world.send(by, own) {
                        world.said.insert(said);
                        next.push(world);
                    }
                }
            }
            if self.crashes < bounds.crashes {
                next.push(self.after(|world| {
                    world.crashes += 1;
                    world.machines[by].restart();
                }));
            }
        }
        for said in &self.said {
            next.push(self.after(|world| world.hear(*said, None)));
            next.push(self.after(|world| {
                world.said.remove(said);
                world.hear(*said, None);
            }));
            next.push(self.after(|world| {
                world.said.remove(said);
            }));
            if let Said::Ack { to, .. } = said {
                next.push(self.after(|world| world.hear(*said, Some(1 - to))));
            }
        }
        let mut begin = |pending| {
            next.push(self.after(|world| world.machines[1].pending = Some(pending)));
        };
        if loser.pending.is_none() && loser.role.is_none() && loser.keys == [true, false] {
            begin(Pending::Change);
        }
        if let Some(pending) = self.begins() {
            begin(pending);
        }
        if loser.pending.is_none() && loser.role.is_some() && !loser.holds(bounds.broken) {
            begin(Pending::Erase);
        }
        let back = loser.pending.is_none()
            && self.reclaims < bounds.reclaims
            && loser.role.as_ref().is_some_and(|role| role.of == 0);
        let turns = loser.is_barred(1) && !loser.queues[1].is_empty();
        if back && (!turns || bounds.broken == Break::ReclaimAnyTime) {
            next.push(self.after(|world| {
                world.reclaims += 1;
                world.machines[1].pending = Some(Pending::Reclaim);
            }));
        }
        if loser.pending.is_some() {
            next.push(self.after(Self::durable));
        }
        if bounds.approves && !self.approved {
            next.push(self.after(|world| world.approved = true));
        }
        next
    }

    fn wrong(&self) -> Option<&'static str> {
        self.wrong
            .or_else(|| (!self.drains()).then_some("it does not drain"))
    }
}

fn explore(name: &str, bounds: Bounds, usually: usize) -> Searched {
    visit(name, vec![Copies::new(bounds)], usually)
}

#[test]
fn a_change_of_identity_loses_doubles_and_turns_around_nothing() {
    for (name, bounds) in [
        (
            "never approved",
            Bounds {
                approves: false,
                ..USUAL
            },
        ),
        ("approved", USUAL),
        (
            "approved, four messages",
            Bounds {
                mints: 4,
                crashes: 0,
                ..USUAL
            },
        ),
        (
            "taken back",
            Bounds {
                reclaims: 1,
                ..USUAL
            },
        ),
    ] {
        assert_eq!(explore(name, bounds, 4_000).wrong, None, "{name}");
    }
}

#[test]
fn each_rule_of_a_change_of_identity_is_needed() {
    let small = Bounds {
        frames: 1,
        crashes: 0,
        ..USUAL
    };
    let dies = Bounds {
        crashes: 1,
        ..small
    };
    let mut depths = Depths::new();
    for (broken, bounds) in [
        (Break::SwitchAtOnce, small),
        (
            Break::SwitchForgotten,
            Bounds {
                changed: true,
                alone: true,
                ..dies
            },
        ),
        (Break::NoBarrier, small),
        (Break::Relabel, small),
        (Break::KeyErased, small),
        (
            Break::ReclaimAnyTime,
            Bounds {
                reclaims: 1,
                alone: true,
                ..small
            },
        ),
        (Break::AckByNumber, small),
    ] {
        let name = format!("without the rule: {broken:?}");
        let found = explore(&name, Bounds { broken, ..bounds }, 20_000);
        assert!(found.wrong.is_some(), "{broken:?} harms nobody");
        depths.found(bounds, found.states);
    }
    depths.hold(explore);
}

/// Known and told: a change is taken back while messages wait under the former identity. What is
/// minted before the destination has switched again comes under the other one, for which these
/// wait then.
#[test]
fn what_is_minted_while_a_change_is_taken_back_may_overtake_what_is_older() {
    let bounds = Bounds {
        frames: 1,
        crashes: 0,
        reclaims: 1,
        alone: true,
        mints_going_back: true,
        ..USUAL
    };
    let found = explore("minted while it is taken back", bounds, 20_000);
    assert_eq!(found.wrong, Some("delivered before what is older"));
}
