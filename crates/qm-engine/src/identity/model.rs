//! Every history of a small world, in which the state machines of [`super::check`] run: a node
//! between, and one or two machines with one identity, whose processes begin sessions, are lost and
//! start again, while everything said is delayed as long as it likes.

use std::collections::{BTreeSet, VecDeque};

use super::check::{Begun, Checks, Current, Told};
use super::digest::digest;
use super::shares::Tenant;

/// Sessions and restarts of one world.
const SESSIONS_MAX: usize = 3;
const RESTARTS_MAX: u8 = 1;

/// The identity that is looked at.
const PEER: Tenant = Tenant {
    peer: qm_wire::QmId::from_bytes([1; 16]),
    stranger: false,
    at_ms: 0,
};

/// What is under way on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Said {
    /// The process begins: hello.
    Begin,
    /// The node between asks.
    Question(u8),
    /// The process answers.
    Answer(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    machine: usize,
    /// The process of the machine that began it.
    process: u8,
    to_node: VecDeque<Said>,
    to_process: VecDeque<Said>,
    /// Whether the node between has heard the beginning, and has not seen the end.
    open: bool,
    ended: bool,
    /// Whether the process has ended it; what it said before is under way.
    parted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    number: u8,
    current: Current<u8, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    machines: Vec<Process>,
    sessions: Vec<Session>,
    checks: Checks<usize, u8>,
    challenges: u8,
    restarts: u8,
    /// Whether the node between believes in two machines.
    accused: bool,
}

/// The rules, and single ones of them broken.
#[derive(Clone, Copy, Debug)]
struct Rules {
    answers: usize,
    old_sessions_answer: bool,
    /// When a session has ended on which an answer was given, one is given on an older one.
    older_answers_after: bool,
}

const RIGHT: Rules = Rules {
    answers: 2,
    old_sessions_answer: false,
    older_answers_after: false,
};

impl World {
    fn new(machines: usize, rules: Rules) -> Self {
        let process = Process {
            number: 0,
            current: Current::new(),
        };
        let checks = if rules.answers == RIGHT.answers {
            Checks::new()
        } else {
            Checks::believing(rules.answers)
        };
        Self {
            machines: vec![process; machines],
            sessions: Vec::new(),
            checks,
            challenges: 0,
            restarts: 0,
            accused: false,
        }
    }

    /// Every world that can come next.
    fn next(&self, rules: Rules) -> Vec<Self> {
        let mut next = Vec::new();
        for machine in 0..self.machines.len() {
            if self.sessions.len() < SESSIONS_MAX {
                next.push(self.after(|world| world.begin(machine)));
            }
            if self.restarts < RESTARTS_MAX {
                next.push(self.after(|world| world.restart(machine)));
            }
        }
        for (link, session) in self.sessions.iter().enumerate() {
            if !session.to_node.is_empty() {
                next.push(self.after(|world| world.node_hears(link)));
            }
            if !session.to_process.is_empty() {
                next.push(self.after(|world| world.process_hears(link, rules)));
            }
            if !session.ended {
                next.push(self.after(|world| world.end(link)));
            }
            if !session.ended && !session.parted {
                next.push(self.after(|world| world.part(link)));
            }
        }
        next
    }

    fn after(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    fn begin(&mut self, machine: usize) {
        let link = self.sessions.len();
        let process = &mut self.machines[machine];
        process.current.began(0, link);
        self.sessions.push(Session {
            machine,
            process: process.number,
            to_node: VecDeque::from([Said::Begin]),
            to_process: VecDeque::new(),
            open: false,
            ended: false,
            parted: false,
        });
    }

    /// The process ends a session, which the node between hears later.
    fn part(&mut self, link: usize) {
        let session = &mut self.sessions[link];
        session.parted = true;
        session.to_process.clear();
        let process = &mut self.machines[session.machine];
        if session.process == process.number {
            process.current.ended(&0, &link);
        }
    }

    /// The process is lost with all it knew, and another one starts.
    fn restart(&mut self, machine: usize) {
        self.restarts += 1;
        let process = &mut self.machines[machine];
        process.number += 1;
        process.current = Current::new();
    }

    fn end(&mut self, link: usize) {
        let session = &mut self.sessions[link];
        (session.open, session.ended) = (false, true);
        session.to_node.clear();
        session.to_process.clear();
        self.checks.ended(link);
        let process = &mut self.machines[session.machine];
        if session.process == process.number {
            process.current.ended(&0, &link);
        }
    }

    fn ask(&mut self, newest: usize) {
        for older in 0..self.sessions.len() {
            if older == newest || !self.sessions[older].open {
                continue;
            }
            let asked = [newest, older].map(|link| {
                self.challenges += 1;
                (link, self.challenges)
            });
            if self.checks.begin(asked, PEER) == Begun::Asks {
                for (link, challenge) in asked {
                    let question = Said::Question(challenge);
                    self.sessions[link].to_process.push_back(question);
                }
            }
        }
    }

    fn node_hears(&mut self, link: usize) {
        match self.sessions[link].to_node.pop_front() {
            Some(Said::Begin) => {
                self.sessions[link].open = true;
                self.ask(link);
            }
            Some(Said::Answer(challenge)) => {
                if let Told::Both(_) = self.checks.answered(link, &challenge) {
                    self.accused = true;
                }
            }
            _ => {}
        }
    }

    fn process_hears(&mut self, link: usize, rules: Rules) {
        let session = &mut self.sessions[link];
        let said = session.to_process.pop_front();
        let process = &mut self.machines[session.machine];
        // What is said to a process that is gone is heard by nobody.
        if session.process != process.number || session.parted {
            return;
        }
        if let Some(Said::Question(challenge)) = said
            && (process.current.may_answer(&0, &link) || rules.old_sessions_answer)
        {
            session.to_node.push_back(Said::Answer(challenge));
            if !rules.older_answers_after {
                process.current.answered(&0, &link);
            }
        }
    }
}

/// Visits every world that can come of this many machines, in the order of the number of steps,
/// until one is accused. Returns how many there are, and whether one was accused.
fn explore(machines: usize, rules: Rules) -> (usize, bool) {
    let first = World::new(machines, rules);
    let mut seen = BTreeSet::from([digest(&first)]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        if world.accused {
            return (seen.len(), true);
        }
        for next in world.next(rules) {
            if seen.insert(digest(&next)) {
                open.push_back(next);
            }
            assert!(seen.len() < 500_000, "the world grew too large");
        }
    }
    (seen.len(), false)
}

#[test]
fn a_machine_alone_is_never_accused() {
    let (worlds, accused) = explore(1, RIGHT);
    assert!(!accused);
    assert!(worlds > 5_000, "only {worlds} worlds were visited");
}

#[test]
fn two_machines_are_found() {
    let (_, accused) = explore(2, RIGHT);
    assert!(accused);
}

/// Whatever happened before: when both live and begin anew, and nothing is lost, they are found.
#[test]
fn two_live_machines_are_always_found_in_the_end() {
    let mut world = World::new(2, RIGHT);
    world.restart(0);
    for machine in [0, 1, 0] {
        world.begin(machine);
        let link = world.sessions.len() - 1;
        while !world.sessions[link].to_node.is_empty() {
            world.node_hears(link);
        }
    }
    for link in 0..world.sessions.len() {
        while !world.sessions[link].to_process.is_empty() {
            world.process_hears(link, RIGHT);
        }
        while !world.sessions[link].to_node.is_empty() {
            world.node_hears(link);
        }
    }
    assert!(world.accused);
}

#[test]
fn each_rule_is_needed() {
    let one_sided = Rules {
        answers: 1,
        ..RIGHT
    };
    let old_sessions_answer = Rules {
        old_sessions_answer: true,
        ..RIGHT
    };
    let older_answers_after = Rules {
        older_answers_after: true,
        ..RIGHT
    };
    for broken in [one_sided, old_sessions_answer, older_answers_after] {
        let (_, accused) = explore(1, broken);
        assert!(accused, "{broken:?} accuses nobody");
    }
}
