//! Every history of two or three copies of a machine that receives messages, over the functions
//! that decide where they parted ([`Courses`]) and what is set aside because of it
//! ([`is_inherited`]): copies of a disk, of an older backup and of a running machine, restarts,
//! clocks that run apart, applications that consume, an election in any order, and a machine that
//! dies while it sets aside.
//!
//! In each state every message that anybody received is, or was, where an application sees it, at
//! one machine at least: what is set aside is dealt with by another one. Of two copies of a disk it
//! is exactly one in the end. Each rule that is left out is found.

use std::collections::BTreeMap;

use super::courses::{Courses, is_inherited};
use super::visit::{Depths, Searched, World, visit};
use crate::time::Timestamp;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Break {
    None,
    /// A process that starts begins its course by its own clock, not behind what is stored.
    StartByClock,
    /// A sign of a resume begins a course where it is noticed.
    SignByClock,
    /// A branched history begins a course, as a start does.
    BranchBegins,
    /// Where they parted is read from the own courses alone.
    OwnCourses,
    /// Messages are stored under the time at which their course begins.
    AtBeginning,
    /// Batches are stored under one time.
    SameInstant,
    /// Where they parted is forgotten when the machine dies.
    ForkForgotten,
    /// Express messages are taken for inherited ones.
    Express,
}

/// What may happen, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bounds {
    broken: Break,
    messages: u8,
    copies: usize,
    /// Copies of the memory, else of the disk.
    memory: bool,
    /// Resumed machines see a sign of it before they store anything long after.
    signs: bool,
    /// That sign may also come long after they stored something.
    late: bool,
    restarts: u8,
    backups: u8,
    ticks: u8,
    branches: u8,
    consumed: u8,
    express: bool,
}

const DISK: Bounds = Bounds {
    broken: Break::None,
    messages: 3,
    copies: 1,
    memory: false,
    signs: false,
    late: false,
    restarts: 1,
    backups: 0,
    ticks: 1,
    branches: 0,
    consumed: 1,
    express: false,
};

const MEMORY: Bounds = Bounds {
    memory: true,
    restarts: 0,
    ..DISK
};

/// Longer than a sign takes to be noticed.
const TICK_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Has,
    /// Shown a higher rank; where they parted.
    Lost(Option<u64>),
    /// Has an identity of its own, and sets aside what is older than this.
    Changed(Option<u64>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    courses: Courses,
    now: Timestamp,
    /// What waits, by the time at which it was stored, and whether that is on the disk.
    queue: BTreeMap<u8, (Timestamp, bool)>,
    had: u16,
    consumed: u16,
    aside: u16,
    role: Role,
    /// A copy of the memory that has not seen a sign; since then time has passed.
    unaware: bool,
    /// It stored something since.
    stored: bool,
    idle: bool,
    rank: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Copies {
    bounds: Bounds,
    machines: Vec<Machine>,
    backup: Option<Box<Machine>>,
    ranks: [u8; 3],
    messages: u8,
    restarts: u8,
    ticks: u8,
    branches: u8,
    consumed: u8,
    marks: u8,
    memory_copied: bool,
}

impl Copies {
    fn new(bounds: Bounds, ranks: [u8; 3]) -> Self {
        let mut courses = Courses::default();
        courses.begin_at_start([0; 16]);
        let machine = Machine {
            courses,
            now: Timestamp(0),
            queue: BTreeMap::new(),
            had: 0,
            consumed: 0,
            aside: 0,
            role: Role::Has,
            unaware: false,
            stored: false,
            idle: false,
            rank: ranks[0],
        };
        Self {
            bounds,
            machines: vec![machine],
            backup: None,
            ranks,
            messages: 0,
            restarts: 0,
            ticks: 0,
            branches: 0,
            consumed: 0,
            marks: 0,
            memory_copied: false,
        }
    }

    fn after(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    fn mark(&mut self) -> [u8; 16] {
        self.marks += 1;
        [self.marks; 16]
    }

    fn store(&mut self, at: usize, durable: bool) {
        let signs = self.bounds.signs && self.machines[at].unaware && self.machines[at].idle;
        if signs {
            // It looks before anything is stored.
            self.sign(at);
        }
        self.messages += 1;
        let message = self.messages;
        let broken = self.bounds.broken;
        let machine = &mut self.machines[at];
        let mut stamp = machine.courses.stamp(machine.now);
        if broken == Break::SameInstant {
            stamp = machine.now;
        }
        let beginning = machine.courses.points().last().map(|last| last.from_us);
        if broken == Break::AtBeginning && beginning == Some(stamp.0 - 1) {
            stamp = Timestamp(stamp.0 - 1);
        }
        machine.queue.insert(message, (stamp, durable));
        machine.had |= 1 << message;
        machine.stored |= machine.unaware;
        machine.courses.stored(stamp);
    }

    fn sign(&mut self, at: usize) {
        let mark = self.mark();
        let machine = &mut self.machines[at];
        (machine.unaware, machine.stored) = (false, false);
        if self.bounds.broken == Break::SignByClock {
            // As if it had just stored something.
            machine.courses.stored(machine.now);
            machine.courses.begin_at_start(mark);
        } else {
            machine.courses.begin_at_sign(machine.now, mark);
        }
    }

    fn start(&mut self, at: usize) {
        let mark = self.mark();
        let broken = self.bounds.broken;
        let machine = &mut self.machines[at];
        // Express messages were on no disk.
        machine.queue.retain(|_, (_, durable)| *durable);
        if broken == Break::StartByClock {
            machine.courses.stored(machine.now);
        }
        machine.courses.begin_at_start(mark);
        (machine.unaware, machine.stored) = (false, false);
        if broken == Break::ForkForgotten {
            machine.role = match machine.role {
                Role::Lost(_) => Role::Lost(None),
                Role::Changed(_) => Role::Changed(None),
                Role::Has => Role::Has,
            };
        }
    }

    fn copy(&mut self, of: &Machine) {
        let mut copy = of.clone();
        copy.rank = self.ranks[self.machines.len()];
        copy.unaware = self.bounds.memory;
        copy.stored = false;
        copy.idle = false;
        self.machines.push(copy);
        if self.bounds.memory {
            self.memory_copied = true;
        } else {
            self.start(self.machines.len() - 1);
        }
    }

    fn meet(&mut self, winner: usize, loser: usize) {
        let others = self.machines[winner].courses.points().to_vec();
        let own = &self.machines[loser].courses;
        let fork = if self.bounds.broken == Break::OwnCourses {
            let shared = own.points().iter().rposition(|p| others.contains(p));
            let next =
                shared.and_then(|at| own.points().get(at + 1).or_else(|| own.points().get(at)));
            next.map(|point| point.from_us)
        } else {
            own.fork(&others)
        };
        let known = match self.machines[loser].role {
            Role::Lost(known) => known,
            _ => None,
        };
        self.machines[loser].role = Role::Lost(known.max(fork));
    }

    /// The next message that a machine sets aside.
    fn to_move(&self, at: usize) -> Option<u8> {
        let Role::Changed(Some(fork)) = self.machines[at].role else {
            return None;
        };
        let express = self.bounds.broken == Break::Express;
        let mut queue = self.machines[at].queue.iter();
        let found = queue
            .find(|(_, (at, durable))| is_inherited(*at, *durable || express, Timestamp(fork)));
        found.map(|(message, _)| *message)
    }

    /// Whether all have parted and set aside what they have to.
    fn is_over(&self) -> bool {
        let has = |machine: &&Machine| machine.role == Role::Has;
        let lost = |machine: &Machine| matches!(machine.role, Role::Lost(_));
        self.machines.len() > 1
            && self.machines.iter().filter(has).count() == 1
            && !self.machines.iter().any(lost)
            && (0..self.machines.len()).all(|at| self.to_move(at).is_none())
    }
}

impl World for Copies {
    fn next(&self) -> Vec<Self> {
        let bounds = &self.bounds;
        let mut next = Vec::new();
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            if self.messages < bounds.messages {
                next.push(self.after(|world| world.store(at, true)));
                if bounds.express {
                    next.push(self.after(|world| world.store(at, false)));
                }
            }
            // What a sign tells a second later is not told to one that is started meanwhile.
            let waits = bounds.signs && self.machines.iter().any(|machine| machine.unaware);
            if self.restarts < bounds.restarts && !waits {
                next.push(self.after(|world| {
                    world.restarts += 1;
                    world.start(at);
                }));
            }
            // What was stored is followed by a look.
            let looks = bounds.signs && !bounds.late && machine.unaware && machine.stored;
            if self.ticks < bounds.ticks && !looks {
                next.push(self.after(|world| {
                    world.ticks += 1;
                    let now = &mut world.machines[at].now;
                    *now = now.plus_ms(TICK_MS);
                    world.machines[at].idle = true;
                }));
            }
            if bounds.signs && machine.unaware {
                next.push(self.after(|world| world.sign(at)));
            }
            if self.branches < bounds.branches {
                next.push(self.after(|world| {
                    world.branches += 1;
                    if bounds.broken == Break::BranchBegins {
                        world.sign(at);
                    }
                }));
            }
            // Nothing is handed out while messages are set aside.
            if self.consumed < bounds.consumed && self.to_move(at).is_none() {
                for message in machine.queue.keys().copied() {
                    next.push(self.after(|world| {
                        world.consumed += 1;
                        let machine = &mut world.machines[at];
                        machine.queue.remove(&message);
                        machine.consumed |= 1 << message;
                    }));
                }
            }
            if let Some(message) = self.to_move(at) {
                next.push(self.after(|world| {
                    let machine = &mut world.machines[at];
                    machine.queue.remove(&message);
                    machine.aside |= 1 << message;
                }));
            }
            if let Role::Lost(fork) = machine.role {
                next.push(self.after(|world| world.machines[at].role = Role::Changed(fork)));
            }
            for other in 0..self.machines.len() {
                let shows = self.machines[other].rank > machine.rank
                    && !matches!(self.machines[other].role, Role::Changed(_));
                if shows && !matches!(machine.role, Role::Changed(_)) {
                    next.push(self.after(|world| world.meet(other, at)));
                }
            }
            let whole = machine.role == Role::Has;
            if whole && self.machines.len() <= bounds.copies {
                next.push(self.after(|world| world.copy(&self.machines[at])));
            }
        }
        let may_copy = self.machines.len() <= bounds.copies;
        if let Some(backup) = self.backup.as_ref().filter(|_| may_copy) {
            next.push(self.after(|world| world.copy(backup)));
        }
        if bounds.backups > 0 && self.backup.is_none() && self.machines.len() == 1 {
            let backup = Box::new(self.machines[0].clone());
            next.push(self.after(|world| world.backup = Some(backup)));
        }
        next
    }

    fn wrong(&self) -> Option<&'static str> {
        let over = self.is_over();
        for message in 1..=self.messages {
            let bit = 1_u16 << message;
            // Express messages may go with the process.
            let seen = |m: &&Machine| m.queue.contains_key(&message) || m.consumed & bit != 0;
            let aside = self.machines.iter().any(|m| m.aside & bit != 0);
            if aside && self.machines.iter().filter(seen).count() == 0 {
                return Some("set aside everywhere");
            }
            let waits = |m: &&Machine| m.queue.contains_key(&message);
            let exact = !self.bounds.memory && self.machines.len() == 2 && over;
            if exact && self.machines.iter().filter(waits).count() > 1 {
                return Some("it waits at both");
            }
        }
        None
    }
}

fn explore(name: &str, bounds: Bounds, usually: usize) -> Searched {
    let ranks = match bounds.copies {
        1 => vec![[1, 2, 0], [2, 1, 0]],
        _ => vec![
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [2, 3, 1],
            [3, 1, 2],
            [3, 2, 1],
        ],
    };
    let first = ranks.into_iter().map(|ranks| Copies::new(bounds, ranks));
    visit(name, first.collect(), usually)
}

#[test]
fn what_is_set_aside_is_dealt_with_by_another_machine() {
    for (name, bounds) in [
        ("a disk copied", DISK),
        (
            "a disk copied, clocks apart, branched",
            Bounds {
                ticks: 2,
                branches: 1,
                restarts: 2,
                messages: 2,
                ..DISK
            },
        ),
        (
            "an older backup beside it",
            Bounds {
                backups: 1,
                messages: 2,
                ..DISK
            },
        ),
        (
            "express messages",
            Bounds {
                express: true,
                messages: 2,
                ..DISK
            },
        ),
        ("three copies of a disk", Bounds { copies: 2, ..DISK }),
        (
            "a memory copied, with a sign",
            Bounds {
                signs: true,
                ticks: 2,
                restarts: 1,
                ..MEMORY
            },
        ),
        (
            "a memory copied, without a sign, branched",
            Bounds {
                branches: 1,
                ..MEMORY
            },
        ),
        (
            "a memory copied twice, without a sign",
            Bounds {
                copies: 2,
                ticks: 0,
                ..MEMORY
            },
        ),
    ] {
        assert_eq!(explore(name, bounds, 24_000).wrong, None, "{name}");
    }
}

#[test]
fn each_rule_of_where_copies_parted_is_needed() {
    let everywhere = Some("set aside everywhere");
    let both = Some("it waits at both");
    let mut depths = Depths::new();
    for (broken, bounds, wrong) in [
        (Break::StartByClock, Bounds { ticks: 1, ..DISK }, everywhere),
        (
            Break::SignByClock,
            Bounds {
                signs: true,
                ..MEMORY
            },
            everywhere,
        ),
        (
            Break::BranchBegins,
            Bounds {
                branches: 1,
                ..MEMORY
            },
            everywhere,
        ),
        (Break::OwnCourses, DISK, both),
        (Break::AtBeginning, DISK, everywhere),
        (Break::SameInstant, DISK, everywhere),
        (Break::ForkForgotten, DISK, both),
        (
            Break::Express,
            Bounds {
                express: true,
                ..DISK
            },
            everywhere,
        ),
    ] {
        let name = format!("without the rule: {broken:?}");
        let found = explore(&name, Bounds { broken, ..bounds }, 200_000);
        assert_eq!(found.wrong, wrong, "{broken:?}");
        depths.found(bounds, found.states);
    }
    depths.hold(explore);
}

/// Known and told: nothing tells a machine that was resumed, never noticed it and was started again
/// from one that was copied while it stood.
#[test]
fn a_copied_memory_that_is_started_again_unnoticed_is_taken_for_a_copied_disk() {
    let bounds = Bounds {
        restarts: 1,
        ..MEMORY
    };
    let found = explore("a memory copied, unnoticed, restarted", bounds, 200_000);
    assert_eq!(found.wrong, Some("set aside everywhere"));
}

/// Known and told: a sign is taken to be noticed before long. What a machine that was resumed
/// stores before it is noticed at last, and nobody else has, may be set aside.
#[test]
fn a_sign_that_is_noticed_late_sets_aside_what_was_stored_before_it() {
    let bounds = Bounds {
        signs: true,
        late: true,
        ..MEMORY
    };
    let found = explore("a memory copied, the sign late", bounds, 200_000);
    assert_eq!(found.wrong, Some("set aside everywhere"));
}
