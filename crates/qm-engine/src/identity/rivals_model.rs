//! Every history of a node whose memory is copied while it runs, and of a machine that both
//! processes speak to, over the functions of [`super::token`].
//!
//! The machine has one session with each life of a peer: a new one takes the place of the older
//! one. So two processes in one life take each other's sessions, and nobody can ask both whether
//! they live. It ends when one of them has another life, which each begins when the machine shows
//! it a token that another process gave. In each state: the sessions that both opened in one life
//! are few, however they were begun, lost and delayed. Each rule that is left out is found.

use std::collections::VecDeque;

use super::token::{Given, Held, Judged, Ledger, Take, Token};
use super::visit::{self, Depths, Searched, visit};

/// How often the session of one process follows that of the other in one life, at most.
const TURNS_MAX: u8 = 3;

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Break {
    None,
    /// No other life begins.
    NoNewLife,
    /// Only a token that is further on than the next one counts, and in an open session.
    OnlyWhenOpen,
    /// Of a token that is the child of a known one nobody asks who gave it.
    AnyChildIsOwn,
    /// What a process told once is told for ever: its later sessions name the former life.
    LifeNotTold,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bounds {
    broken: Break,
    sessions: u8,
    /// Of them at a time in their handshake.
    begin_at_once: usize,
    ends: u8,
    /// Whether what the node knew when its memory was copied is of a process before that one.
    started_anew: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    Hello(Token),
    Welcome(Token),
    Confirm(Token),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    process: usize,
    /// The life that its hello tells.
    life: u8,
    to_node: VecDeque<Said>,
    to_machine: VecDeque<Said>,
    welcomed: bool,
    opened: bool,
    /// What the machine presented last.
    presented: Token,
}

/// A process with the node's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    life: u8,
    told: u8,
    ledger: Ledger,
    given: Given,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    bounds: Bounds,
    processes: Vec<Process>,
    held: Held<Token>,
    sessions: Vec<Session>,
    begun: u8,
    numbers: u8,
    ends: u8,
    /// Whose session opened last since the copy, and in which life.
    last: Option<(usize, u8)>,
    turns: u8,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let process = Process {
            life: 1,
            told: 1,
            ledger: Ledger::default(),
            given: Given::default(),
        };
        let mut world = Self {
            bounds,
            processes: vec![process],
            held: Held::new(Token::NONE),
            sessions: Vec::new(),
            begun: 0,
            numbers: 0,
            ends: 0,
            last: None,
            turns: 0,
        };
        // The machine knows the node already.
        world.begin(0);
        for _ in 0..2 {
            world.node_hears(0);
            world.machine_hears(0);
        }
        world.node_hears(0);
        assert!(world.sessions[0].opened, "{world:?}");
        if bounds.started_anew {
            world.end(0);
            world.processes[0].given = Given::default();
        }
        world
    }

    fn after(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    /// The machine dials, or is dialled: both say hello.
    fn begin(&mut self, process: usize) {
        let presented = *self.held.stored();
        self.begun += 1;
        self.sessions.push(Session {
            process,
            life: if self.bounds.broken == Break::LifeNotTold {
                1
            } else {
                self.processes[process].life
            },
            to_node: VecDeque::from([Said::Hello(presented)]),
            to_machine: VecDeque::new(),
            welcomed: false,
            opened: false,
            presented,
        });
    }

    fn end(&mut self, link: usize) {
        self.sessions.remove(link);
    }

    fn node_hears(&mut self, link: usize) {
        let said = self.sessions[link].to_node.pop_front();
        let Some(Said::Hello(token) | Said::Confirm(token)) = said else {
            return;
        };
        let (process, opened) = (self.sessions[link].process, self.sessions[link].opened);
        let it = &mut self.processes[process];
        let before = it.ledger.clone();
        let (judged, _) = it.ledger.present(&token);
        // The machine is one, and its sign of life is left out: whatever it has it goes on from.
        if judged == Judged::Strange {
            it.ledger.branch(&token);
        }
        let anothers = it.given.is_anothers(&before, judged, &token);
        let begins = match self.bounds.broken {
            Break::None | Break::LifeNotTold => anothers,
            Break::NoNewLife => false,
            Break::OnlyWhenOpen => opened && judged == Judged::OwnStoreWentBack,
            Break::AnyChildIsOwn => anothers && judged == Judged::OwnStoreWentBack,
        };
        // Not again for a while.
        if begins && it.life == 1 {
            it.life = 2 + u8::try_from(process).unwrap_or(u8::MAX);
            if opened {
                return self.end(link);
            }
        }
        let session = &mut self.sessions[link];
        if session.welcomed {
            if !session.opened {
                session.opened = true;
                self.opens(link);
            }
            return;
        }
        session.welcomed = true;
        self.numbers += 1;
        let fresh = token.child([self.numbers; 16]);
        self.processes[process].given.gave(&fresh);
        self.sessions[link]
            .to_machine
            .push_back(Said::Welcome(fresh));
    }

    /// A session is open at both ends: the machine ends older ones with that life.
    fn opens(&mut self, link: usize) {
        let (process, life) = (self.sessions[link].process, self.sessions[link].life);
        let mut at = 0;
        self.sessions.retain(|session| {
            let older = at != link && session.life == life && session.opened;
            at += 1;
            !older
        });
        if self.processes.len() > 1 {
            let follows = |(last, of): (usize, u8)| last != process && of == life;
            self.turns += u8::from(self.last.is_some_and(follows));
            self.last = Some((process, life));
        }
    }

    fn machine_hears(&mut self, link: usize) {
        let session = &mut self.sessions[link];
        let Some(Said::Welcome(fresh)) = session.to_machine.pop_front() else {
            return;
        };
        // Its disk is fast: what is under way there is looked at elsewhere.
        if self.held.take(&session.presented, &fresh) == Take::Store {
            self.held.is_stored();
        }
        session.presented = *self.held.stored();
        let token = session.presented;
        session.to_node.push_back(Said::Confirm(token));
    }
}

impl visit::World for World {
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        if self.processes.len() == 1 {
            next.push(self.after(|world| {
                let copy = world.processes[0].clone();
                world.processes.push(copy);
            }));
        }
        for process in 0..self.processes.len() {
            let begins = self.sessions.iter().filter(|session| !session.opened);
            if self.begun <= self.bounds.sessions && begins.count() < self.bounds.begin_at_once {
                next.push(self.after(|world| world.begin(process)));
            }
        }
        for (link, session) in self.sessions.iter().enumerate() {
            if !session.to_node.is_empty() {
                next.push(self.after(|world| world.node_hears(link)));
            }
            if !session.to_machine.is_empty() {
                next.push(self.after(|world| world.machine_hears(link)));
            }
            if self.ends < self.bounds.ends {
                next.push(self.after(|world| {
                    world.ends += 1;
                    world.end(link);
                }));
            }
        }
        next
    }

    fn wrong(&self) -> Option<&'static str> {
        if self.processes.len() == 1 && self.processes[0].life != 1 {
            return Some("a process that is alone begins another life");
        }
        (self.turns > TURNS_MAX).then_some("two processes take each other's sessions on and on")
    }
}

const WORLD: Bounds = Bounds {
    broken: Break::None,
    sessions: 6,
    begin_at_once: 2,
    ends: 1,
    started_anew: false,
};

fn search(name: &str, bounds: Bounds, usually: usize) -> Searched {
    visit(name, vec![World::new(bounds)], usually)
}

#[test]
fn two_processes_of_one_memory_get_two_lives() {
    for started_anew in [false, true] {
        for (begin_at_once, ends) in [(1, 2), (2, 1)] {
            let bounds = Bounds {
                begin_at_once,
                ends,
                started_anew,
                ..WORLD
            };
            let name = format!("one memory, {begin_at_once} at once, started anew: {started_anew}");
            assert_eq!(search(&name, bounds, 40_000).wrong, None);
        }
    }
}

#[test]
fn each_rule_of_the_new_life_is_needed() {
    let mut depths = Depths::new();
    for broken in [
        Break::NoNewLife,
        Break::OnlyWhenOpen,
        Break::AnyChildIsOwn,
        Break::LifeNotTold,
    ] {
        let bounds = Bounds {
            begin_at_once: 1,
            ends: 0,
            ..WORLD
        };
        let name = format!("one memory, without the rule: {broken:?}");
        let found = search(&name, Bounds { broken, ..bounds }, 40_000);
        assert!(found.wrong.is_some(), "{broken:?} harms nobody");
        depths.found(bounds, found.states);
    }
    depths.hold(search);
}
