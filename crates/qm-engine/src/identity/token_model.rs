//! Every history of a small world, in which the functions of [`super::token`] run: a node that
//! gives tokens, and one machine or two copies of it, whose processes begin sessions side by side,
//! are lost in the middle of anything and start again, while sessions end with what was under way.
//!
//! In each state: a machine that is alone is never said to have a branched history, and the node
//! never says that its own store went back, or that another process has its key. Two copies that
//! both have a session are noticed, and so is a machine that went back. Each rule that is left
//! out is found, no deeper than the right rules are held in the same world. `QM_MODEL_STATES` makes
//! it look at more states.
#![expect(
    clippy::print_stdout,
    reason = "how many states there were is for people"
)]

use std::collections::{BTreeSet, VecDeque};

use super::check::Current;
use super::digest::digest;
use super::token::{Given, Held, Judged, Ledger, Take, Token};
use super::visit::{Depths, Searched, states_max};

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    None,
    /// A strange token is evidence without a sign of life.
    NoChallenge,
    /// Of the tokens given, only the last may be presented.
    OnePending,
    /// A token is confirmed before it is on disk.
    ConfirmFirst,
    /// Every token of a welcome is stored, whatever was stored meanwhile.
    StoreAny,
    /// A sign of life is given without presenting what is stored.
    AnswerStale,
    /// The node answers before what was presented is on its own disk.
    RememberLate,
    /// Sessions that are not the last one begun give signs of life.
    OldSessionsAnswer,
    /// A token is given while another one is unanswered.
    GiveSiblings,
    /// What the node gave is remembered when it is confirmed.
    GivenLate,
    /// What the node gave is kept over restarts, all but the last.
    GivenKept,
}

/// What may happen, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    broken: Break,
    sessions: usize,
    restarts: u8,
    node_restarts: u8,
    ends: u8,
    rotations: u8,
    disk_copies: u8,
    memory_copies: u8,
    restores: u8,
}

const LONE: Bounds = Bounds {
    broken: Break::None,
    sessions: 3,
    restarts: 1,
    node_restarts: 1,
    ends: 1,
    rotations: 0,
    disk_copies: 0,
    memory_copies: 0,
    restores: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Said {
    Hello(Token),
    Welcome(Token),
    Confirm(Token),
    Challenge(u8),
    ChallengeOk(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    machine: usize,
    process: u8,
    /// Whether it was begun after the copy or the restore.
    late: bool,
    to_node: VecDeque<Said>,
    to_process: VecDeque<Said>,
    ended: bool,
    // The process.
    presented: Token,
    awaits: bool,
    // The node.
    welcomed: bool,
    opened: bool,
    unanswered: bool,
    last: Option<Token>,
    strange: Option<(u8, Token)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Machine {
    process: u8,
    held: Held<Token>,
    disk: Token,
    current: Current<u8, usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    machines: Vec<Machine>,
    sessions: Vec<Session>,
    ledger: Ledger,
    /// The ledger before its last change.
    ledger_before: Ledger,
    /// The token given last.
    given: Token,
    /// What the node's process gave, and the same before the last one.
    by_process: Given,
    by_process_before: Given,
    numbers: u8,
    restarts: u8,
    node_restarts: u8,
    ends: u8,
    rotations: u8,
    copied: bool,
    backup: Option<Token>,
    restored: bool,
    /// Whether the backup was older than what was confirmed.
    must_be_noticed: bool,
    opened_late: [bool; 2],
    branched: bool,
    went_back: bool,
    anothers: bool,
}

impl World {
    fn new() -> Self {
        let machine = Machine {
            process: 0,
            held: Held::new(Token::NONE),
            disk: Token::NONE,
            current: Current::new(),
        };
        Self {
            machines: vec![machine],
            sessions: Vec::new(),
            ledger: Ledger::default(),
            ledger_before: Ledger::default(),
            given: Token::NONE,
            by_process: Given::default(),
            by_process_before: Given::default(),
            numbers: 0,
            restarts: 0,
            node_restarts: 0,
            ends: 0,
            rotations: 0,
            copied: false,
            backup: None,
            restored: false,
            must_be_noticed: false,
            opened_late: [false; 2],
            branched: false,
            went_back: false,
            anothers: false,
        }
    }

    fn after(&self, step: impl FnOnce(&mut Self)) -> Self {
        let mut world = self.clone();
        step(&mut world);
        world
    }

    /// Every world that can come next.
    fn next(&self, bounds: &Bounds) -> Vec<Self> {
        let mut next = Vec::new();
        for machine in 0..self.machines.len() {
            if self.sessions.len() < bounds.sessions {
                next.push(self.after(|world| world.begin(machine)));
            }
            if self.machines[machine].held != Held::new(self.machines[machine].disk) {
                next.push(self.after(|world| world.stored(machine, bounds.broken)));
            }
            if self.restarts < bounds.restarts {
                next.push(self.after(|world| world.restart(machine)));
            }
        }
        for (link, session) in self.sessions.iter().enumerate() {
            if !session.to_node.is_empty() {
                next.push(self.after(|world| world.node_hears(link, bounds.broken)));
            }
            if !session.to_process.is_empty() {
                next.push(self.after(|world| world.process_hears(link, bounds.broken)));
            }
            if self.may_rotate(session, bounds) {
                next.push(self.after(|world| world.rotate(link, bounds.broken)));
            }
            if !session.ended && self.ends < bounds.ends {
                next.push(self.after(|world| {
                    world.ends += 1;
                    world.end(link);
                }));
            }
        }
        if self.node_restarts < bounds.node_restarts {
            next.push(self.after(|world| world.node_restart(bounds.broken)));
        }
        if !self.copied && bounds.disk_copies + bounds.memory_copies > 0 {
            if bounds.disk_copies > 0 {
                next.push(self.after(|world| world.copy(false)));
            }
            if bounds.memory_copies > 0 {
                next.push(self.after(|world| world.copy(true)));
            }
        }
        if bounds.restores > 0 && !self.restored {
            next.push(self.after(|world| match world.backup {
                None => world.backup = Some(world.machines[0].disk),
                Some(backup) => world.restore(backup),
            }));
        }
        next
    }

    /// Whether an open session may get another token.
    fn may_rotate(&self, session: &Session, bounds: &Bounds) -> bool {
        let answered = !session.unanswered || bounds.broken == Break::GiveSiblings;
        session.opened && answered && !session.ended && self.rotations < bounds.rotations
    }

    fn rotate(&mut self, link: usize, broken: Break) {
        self.rotations += 1;
        if let Some(last) = self.sessions[link].last {
            self.gives(link, &last, broken);
        }
    }

    fn begin(&mut self, machine: usize) {
        let link = self.sessions.len();
        let it = &mut self.machines[machine];
        it.current.began(0, link);
        let presented = *it.held.stored();
        self.sessions.push(Session {
            machine,
            process: it.process,
            late: self.copied || self.restored,
            to_node: VecDeque::from([Said::Hello(presented)]),
            to_process: VecDeque::new(),
            ended: false,
            presented,
            awaits: false,
            welcomed: false,
            opened: false,
            unanswered: false,
            last: None,
            strange: None,
        });
    }

    /// The disk has the token.
    fn stored(&mut self, machine: usize, broken: Break) {
        let it = &mut self.machines[machine];
        if broken == Break::ConfirmFirst {
            it.disk = *it.held.stored();
            return;
        }
        it.held.is_stored();
        it.disk = *it.held.stored();
        self.confirm_awaiting(machine);
    }

    fn confirm_awaiting(&mut self, machine: usize) {
        let (process, token) = (
            self.machines[machine].process,
            *self.machines[machine].held.stored(),
        );
        for session in &mut self.sessions {
            let its = session.machine == machine && session.process == process;
            if its && core::mem::take(&mut session.awaits) && !session.ended {
                session.presented = token;
                session.to_node.push_back(Said::Confirm(token));
            }
        }
    }

    /// The process is lost with all that was not on disk.
    fn restart(&mut self, machine: usize) {
        self.restarts += 1;
        let it = &mut self.machines[machine];
        it.process += 1;
        it.held = Held::new(it.disk);
        it.current = Current::new();
    }

    fn end(&mut self, link: usize) {
        let session = &mut self.sessions[link];
        session.ended = true;
        session.to_node.clear();
        session.to_process.clear();
        let it = &mut self.machines[session.machine];
        if it.process == session.process {
            it.current.ended(&0, &link);
        }
    }

    fn node_restart(&mut self, broken: Break) {
        self.node_restarts += 1;
        if broken == Break::RememberLate {
            self.ledger = self.ledger_before.clone();
        }
        self.by_process = if broken == Break::GivenKept {
            self.by_process_before.clone()
        } else {
            Given::default()
        };
        for link in 0..self.sessions.len() {
            self.end(link);
        }
    }

    fn copy(&mut self, memory: bool) {
        self.copied = true;
        let mut copy = self.machines[0].clone();
        if !memory {
            copy.held = Held::new(copy.disk);
        }
        copy.process += 100;
        copy.current = Current::new();
        self.machines.push(copy);
    }

    fn restore(&mut self, backup: Token) {
        self.restored = true;
        let mut known = self.ledger.clone();
        self.must_be_noticed =
            self.ledger.branches() > 0 && known.present(&backup).0 == Judged::Strange;
        self.machines[0].disk = backup;
        self.restarts = self.restarts.saturating_sub(1);
        self.restart(0);
    }

    fn number(&mut self) -> u8 {
        self.numbers += 1;
        self.numbers
    }

    fn node_hears(&mut self, link: usize, broken: Break) {
        match self.sessions[link].to_node.pop_front() {
            Some(Said::Hello(token)) => self.presented(link, token, broken),
            Some(Said::Confirm(token)) => {
                self.sessions[link].unanswered = false;
                self.presented(link, token, broken);
            }
            Some(Said::ChallengeOk(number)) => self.answered(link, number, broken),
            _ => {}
        }
    }

    fn presented(&mut self, link: usize, token: Token, broken: Break) {
        let before = self.ledger.clone();
        let (mut judged, changed) = self.ledger.present(&token);
        self.anothers |= self.by_process.is_anothers(&before, judged, &token);
        if broken == Break::GivenLate && changed {
            self.by_process.gave(&token);
        }
        if broken == Break::OnePending && changed && token != self.given && before.branches() > 0 {
            self.ledger = before.clone();
            judged = Judged::Strange;
        }
        match judged {
            Judged::Strange if broken == Break::NoChallenge => self.branched = true,
            Judged::Strange => {
                let number = self.number();
                let session = &mut self.sessions[link];
                session.strange = Some((number, token));
                session.to_process.push_back(Said::Challenge(number));
            }
            Judged::OwnStoreWentBack | Judged::Known => {
                self.went_back |= judged == Judged::OwnStoreWentBack;
                if changed {
                    self.ledger_before = before;
                }
                self.goes_on(link, token, broken);
            }
        }
    }

    fn goes_on(&mut self, link: usize, token: Token, broken: Break) {
        let session = &mut self.sessions[link];
        session.last = Some(token);
        session.strange = None;
        if session.welcomed {
            session.opened = true;
            if session.late {
                let which = if self.copied { session.machine } else { 1 };
                self.opened_late[which] = true;
            }
            return;
        }
        session.welcomed = true;
        self.gives(link, &token, broken);
    }

    fn gives(&mut self, link: usize, token: &Token, broken: Break) {
        self.numbers += 1;
        let fresh = token.child([self.numbers; 16]);
        self.given = fresh;
        if broken != Break::GivenLate {
            self.by_process_before.clone_from(&self.by_process);
            self.by_process.gave(&fresh);
        }
        self.sessions[link].unanswered = true;
        self.sessions[link]
            .to_process
            .push_back(Said::Welcome(fresh));
    }

    fn answered(&mut self, link: usize, number: u8, broken: Break) {
        let Some((_, token)) = self.sessions[link]
            .strange
            .filter(|(asked, _)| *asked == number)
        else {
            return;
        };
        self.sessions[link].strange = None;
        if broken == Break::OnePending || self.ledger.present(&token).0 == Judged::Strange {
            self.branched = true;
            self.ledger.branch(&token);
            self.sessions[link].welcomed = false;
        }
        self.goes_on(link, token, broken);
    }

    fn process_hears(&mut self, link: usize, broken: Break) {
        let session = &mut self.sessions[link];
        let said = session.to_process.pop_front();
        let (machine, presented) = (session.machine, session.presented);
        let it = &mut self.machines[machine];
        // What is said to a process that is gone is heard by nobody.
        if session.process != it.process {
            return;
        }
        match said {
            Some(Said::Welcome(fresh)) => {
                let presented = if broken == Break::StoreAny {
                    *it.held.stored()
                } else {
                    presented
                };
                match it.held.take(&presented, &fresh) {
                    Take::Store if broken == Break::ConfirmFirst => {
                        it.held.is_stored();
                        session.awaits = true;
                        self.confirm_awaiting(machine);
                    }
                    Take::Store | Take::Wait => session.awaits = true,
                    Take::ConfirmStored => {
                        session.presented = *it.held.stored();
                        let token = session.presented;
                        session.to_node.push_back(Said::Confirm(token));
                    }
                }
            }
            Some(Said::Challenge(number)) => {
                if !it.current.may_answer(&0, &link) && broken != Break::OldSessionsAnswer {
                    return;
                }
                let stored = *it.held.stored();
                if presented != stored && broken != Break::AnswerStale {
                    session.presented = stored;
                    session.to_node.push_back(Said::Confirm(stored));
                }
                session.to_node.push_back(Said::ChallengeOk(number));
                it.current.answered(&0, &link);
            }
            _ => {}
        }
    }

    /// What is wrong in this state, if anything is.
    fn wrong(&self) -> Option<&'static str> {
        let innocent = !self.copied && !self.restored;
        if innocent && self.branched {
            return Some("a machine that is alone is accused");
        }
        if self.went_back {
            return Some("a node accuses its own disk without reason");
        }
        if self.anothers {
            return Some("a node finds another process with its key, and is alone");
        }
        if self.copied && self.opened_late == [true; 2] && !self.branched {
            return Some("two copies have sessions and are not noticed");
        }
        if self.restored && self.must_be_noticed && self.opened_late[1] && !self.branched {
            return Some("a machine that went back has a session and is not noticed");
        }
        None
    }
}

/// States of a world that are looked at, where no rule is left out.
const USUAL_STATES: usize = 40_000;

/// Visits worlds in the order of the number of steps. How many there are, whether these are all,
/// and what went wrong first.
fn explore(name: &str, bounds: Bounds, usually: usize) -> Searched {
    let most = states_max(usually);
    let first = World::new();
    let mut seen = BTreeSet::from([digest(&first)]);
    let mut open = VecDeque::from([first]);
    let mut noticed = 0_u64;
    while let Some(world) = open.pop_front() {
        let wrong = world.wrong();
        if let Some(wrong) = wrong {
            println!("{name}: {} states, then: {wrong}", seen.len());
            return Searched {
                states: seen.len(),
                whole: false,
                wrong: Some(wrong),
            };
        }
        noticed += u64::from(world.branched);
        // Once that many were met, those that are left are judged; what comes of them is not.
        if seen.len() >= most {
            continue;
        }
        for next in world.next(&bounds) {
            if seen.insert(digest(&next)) {
                open.push_back(next);
            }
        }
    }
    let whole = seen.len() < most;
    let all = if whole { "all" } else { "the first" };
    println!("{name}: {all} {} states, noticed in {noticed}", seen.len());
    Searched {
        states: seen.len(),
        whole,
        wrong: None,
    }
}

fn wrong(name: &str, bounds: Bounds) -> Option<&'static str> {
    explore(name, bounds, USUAL_STATES).wrong
}

#[test]
fn a_machine_alone_is_never_accused() {
    assert_eq!(wrong("alone", LONE), None);
    let long = Bounds {
        sessions: 4,
        restarts: 0,
        node_restarts: 0,
        ..LONE
    };
    assert_eq!(wrong("alone, four sessions", long), None);
    let rotates = Bounds {
        sessions: 2,
        rotations: 2,
        ..LONE
    };
    assert_eq!(wrong("alone, tokens exchanged anew", rotates), None);
    let restarts = Bounds {
        sessions: 3,
        restarts: 2,
        node_restarts: 2,
        ends: 0,
        ..LONE
    };
    assert_eq!(wrong("alone, restarts", restarts), None);
}

#[test]
fn copies_and_backups_are_noticed() {
    for (name, bounds) in [
        (
            "disk copied",
            Bounds {
                disk_copies: 1,
                node_restarts: 0,
                restarts: 0,
                ..LONE
            },
        ),
        (
            "memory copied",
            Bounds {
                memory_copies: 1,
                node_restarts: 0,
                restarts: 0,
                ..LONE
            },
        ),
        (
            "disk copied, restarts",
            Bounds {
                disk_copies: 1,
                ends: 0,
                ..LONE
            },
        ),
        (
            "backup restored",
            Bounds {
                restores: 1,
                restarts: 0,
                ..LONE
            },
        ),
    ] {
        assert_eq!(wrong(name, bounds), None, "{name}");
    }
}

#[test]
fn each_rule_of_tokens_is_needed() {
    let mut depths = Depths::new();
    for broken in [
        Break::NoChallenge,
        Break::OnePending,
        Break::ConfirmFirst,
        Break::StoreAny,
        Break::AnswerStale,
        Break::RememberLate,
        Break::GiveSiblings,
        Break::GivenLate,
        Break::GivenKept,
    ] {
        // The smallest world that shows it.
        let restarts = u8::from(broken == Break::ConfirmFirst);
        let bounds = Bounds {
            sessions: 2 + usize::from(matches!(
                broken,
                Break::ConfirmFirst | Break::RememberLate | Break::GivenLate | Break::GivenKept
            )),
            restarts,
            node_restarts: u8::from(matches!(broken, Break::RememberLate | Break::GivenKept)),
            ends: 0,
            rotations: 2 * u8::from(broken == Break::GiveSiblings),
            ..LONE
        };
        let name = format!("without the rule: {broken:?}");
        let found = explore(&name, Bounds { broken, ..bounds }, USUAL_STATES);
        assert!(found.wrong.is_some(), "{broken:?} harms nobody");
        depths.found(bounds, found.states);
    }
    depths.hold(explore);
    // Signs of life on old sessions harm no token: they are for the question whether two live.
    let broken = Break::OldSessionsAnswer;
    assert_eq!(
        wrong("old sessions answer", Bounds { broken, ..LONE }),
        None
    );
}
