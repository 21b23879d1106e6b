//! Every history of an election between two copies, or three, over [`super::election::judge`] and
//! [`super::election::raised`]: questions and answers are lost, repeated and late, copies restart.
//! Both never give up, and from every state a run without faults leaves one. Other rules fail.
#![expect(
    clippy::print_stdout,
    reason = "how many states there were is for people"
)]

use std::collections::{BTreeSet, VecDeque};

use qm_wire::Rank;

use super::election::{Verdict, judge, raised};
use super::visit::{Depths, Searched, states_max};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// As it is.
    Right,
    /// The rank is drawn anew at a restart.
    Forgotten,
    /// The rank is drawn anew, up or down, when a copy believes that the incident is over.
    Thawed,
    /// A tie is broken by a new draw, up or down.
    Redrawn,
    /// A copy that answered a lower rank once does not give up any more.
    WinsOnce,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    active: bool,
    rank: Rank,
    challenge: u8,
    won: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Ask {
        by: usize,
        to: usize,
        challenge: u8,
        rank: Rank,
    },
    Claim {
        to: usize,
        challenge: u8,
        rank: Rank,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    copies: Vec<Copy>,
    said: BTreeSet<Said>,
    asked: u8,
    draws: u8,
    restarts: u8,
    raises: u8,
}

const fn rank(draw: u64) -> Rank {
    Rank {
        sealed: true,
        served_s: 1,
        draw,
    }
}

const EQUAL: [Rank; 2] = [rank(2), rank(2)];
const APART: [Rank; 2] = [rank(2), rank(3)];

/// One copy ran longer, one was moved to another machine.
const BY_UPTIME: [Rank; 3] = [
    Rank {
        served_s: 9,
        ..rank(1)
    },
    rank(3),
    Rank {
        sealed: false,
        served_s: 50,
        draw: 7,
    },
];

impl World {
    fn new(ranks: &[Rank]) -> Self {
        let copy = |rank: &Rank| Copy {
            active: true,
            rank: *rank,
            challenge: 0,
            won: false,
        };
        Self {
            copies: ranks.iter().map(copy).collect(),
            said: BTreeSet::new(),
            asked: 0,
            draws: 0,
            restarts: 0,
            raises: 0,
        }
    }

    /// Asks all that may be copies, as those between relay it.
    fn ask(&mut self, who: usize) {
        self.asked += 1;
        self.copies[who].challenge = self.asked;
        let (challenge, rank) = (self.asked, self.copies[who].rank);
        let others = (0..self.copies.len()).filter(|to| *to != who);
        self.said.extend(others.map(|to| Said::Ask {
            by: who,
            to,
            challenge,
            rank,
        }));
    }

    fn break_tie(&mut self, who: usize, chance: u64, rule: Rule) {
        self.draws += 1;
        let copy = &mut self.copies[who];
        copy.rank = match rule {
            Rule::Redrawn => rank(chance),
            // Two copies draw apart sooner or later.
            _ => raised(copy.rank, 3 * chance + who as u64, !copy.rank.sealed),
        };
    }

    fn hear(&mut self, said: &Said, chance: u64, rule: Rule, draws_max: u8) {
        match *said {
            Said::Ask {
                by,
                to,
                challenge,
                rank,
            } => {
                let copy = &mut self.copies[to];
                if !copy.active {
                    return;
                }
                copy.won |= judge(copy.rank, rank) == Verdict::Keeps;
                let rank = copy.rank;
                self.said.insert(Said::Claim {
                    to: by,
                    challenge,
                    rank,
                });
            }
            Said::Claim {
                to,
                challenge,
                rank,
            } => {
                let copy = &mut self.copies[to];
                if !copy.active || copy.challenge != challenge {
                    return;
                }
                match judge(copy.rank, rank) {
                    Verdict::GivesUp if rule == Rule::WinsOnce && copy.won => {}
                    Verdict::GivesUp => copy.active = false,
                    Verdict::Tied if self.draws < draws_max => self.break_tie(to, chance, rule),
                    Verdict::Tied | Verdict::Keeps => {}
                }
            }
        }
    }

    fn next(&self, rule: Rule, asks: u8, (restarts, raises): (u8, u8)) -> Vec<Self> {
        let mut next = Vec::new();
        let mut after = |step: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            step(&mut world);
            next.push(world);
        };
        for who in 0..self.copies.len() {
            if self.copies[who].active && self.asked < asks {
                after(&|world| world.ask(who));
            }
            // Who believes that the incident is over is worth more by now; it may be wrong in that.
            if self.copies[who].active && self.raises < raises {
                for draw in [1, 4, 5] {
                    after(&|world| {
                        world.raises += 1;
                        let copy = &mut world.copies[who];
                        copy.rank = match rule {
                            Rule::Thawed => rank(draw),
                            _ => copy.rank.max(rank(draw)),
                        };
                    });
                }
            }
            if self.restarts < restarts {
                let draws = if rule == Rule::Forgotten { 1..5 } else { 1..2 };
                for draw in draws {
                    after(&|world| {
                        world.restarts += 1;
                        world.copies[who].challenge = 0;
                        if rule == Rule::Forgotten {
                            world.copies[who].rank = rank(draw);
                        }
                    });
                }
            }
        }
        for said in &self.said {
            let ties = match *said {
                Said::Ask { .. } => false,
                Said::Claim { to, rank, .. } => rank == self.copies[to].rank,
            };
            let chances = if ties { 1..5 } else { 1..2 };
            // What was said may be heard again at any time, or never.
            for chance in chances {
                after(&|world| world.hear(said, chance, rule, 4));
            }
        }
        next
    }

    /// From here on nothing is lost: whether one is left in the end.
    fn settles(&self, rule: Rule) -> bool {
        let mut world = self.clone();
        world.said.clear();
        for round in 0..40 {
            if world.active() < 2 {
                break;
            }
            for who in 0..world.copies.len() {
                if !world.copies[who].active {
                    continue;
                }
                world.ask(who);
            }
            for _ in 0..2 {
                for said in core::mem::take(&mut world.said) {
                    world.hear(&said, 1 + round % 4, rule, u8::MAX);
                }
            }
        }
        world.active() == 1
    }

    fn active(&self) -> usize {
        self.copies.iter().filter(|copy| copy.active).count()
    }
}

/// Ranks at first, how often copies ask, restart and are raised.
type Bounds<'a> = (&'a [Rank], u8, (u8, u8));

fn explore(name: &str, rule: Rule, bounds: Bounds<'_>, usually: usize) -> Searched {
    let (ranks, asks, (restarts, raises)) = bounds;
    let most = states_max(usually);
    let first = World::new(ranks);
    let mut seen = BTreeSet::from([first.clone()]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        let wrong = if world.active() == 0 {
            Some("both gave up")
        } else if rule == Rule::Redrawn || world.settles(rule) {
            None
        } else {
            Some("it never settles")
        };
        if wrong.is_some() {
            println!("{name}: {} states, then: {wrong:?}", seen.len());
            return Searched {
                states: seen.len(),
                whole: false,
                wrong,
            };
        }
        // Once that many were met, those that are left are judged; what comes of them is not.
        if seen.len() >= most {
            continue;
        }
        for next in world.next(rule, asks, (restarts, raises)) {
            if seen.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    let whole = seen.len() < most;
    let all = if whole { "all" } else { "the first" };
    println!("{name}: {all} {} states", seen.len());
    Searched {
        states: seen.len(),
        whole,
        wrong: None,
    }
}

/// What goes wrong in so many states of two copies, and fewer of three.
fn wrong(name: &str, rule: Rule, bounds: Bounds<'_>) -> Option<&'static str> {
    let usually = if bounds.0.len() > 2 { 6_000 } else { 20_000 };
    explore(name, rule, bounds, usually).wrong
}

#[test]
fn one_copy_keeps_the_identity() {
    for (name, bounds) in [
        ("equal ranks", (&EQUAL, 3, (1, 0))),
        ("different ranks", (&APART, 3, (2, 0))),
        ("raised later", (&APART, 3, (0, 2))),
    ] {
        let (ranks, asks, faults) = bounds;
        assert_eq!(wrong(name, Rule::Right, (ranks, asks, faults)), None);
    }
}

#[test]
fn of_three_copies_one_keeps_the_identity() {
    let three = [rank(2); 3];
    let moved = [rank(2), BY_UPTIME[2], BY_UPTIME[2]];
    for (name, ranks, faults) in [
        ("three, equal ranks", &three, (1, 0)),
        ("three, by uptime", &BY_UPTIME, (1, 0)),
        ("three, raised later", &moved, (0, 1)),
    ] {
        assert_eq!(wrong(name, Rule::Right, (ranks, 3, faults)), None);
    }
}

#[test]
fn each_rule_of_the_election_is_needed() {
    let (gone, on) = (Some("both gave up"), Some("it never settles"));
    let three = [rank(2); 3];
    let mut depths = Depths::new();
    for (name, rule, bounds, wrong) in [
        (
            "drawn anew at a restart",
            Rule::Forgotten,
            (&APART[..], 2, (1, 0)),
            gone,
        ),
        (
            "drawn anew when it seems over",
            Rule::Thawed,
            (&APART[..], 2, (0, 1)),
            gone,
        ),
        (
            "ties drawn up or down",
            Rule::Redrawn,
            (&EQUAL[..], 2, (0, 0)),
            gone,
        ),
        (
            "who won once stays",
            Rule::WinsOnce,
            (&EQUAL[..], 4, (1, 0)),
            on,
        ),
        // Who is highest by uptime and has won once keeps out of it, and so does the next.
        (
            "three, who won once stays",
            Rule::WinsOnce,
            (&three[..], 3, (0, 0)),
            on,
        ),
    ] {
        let found = explore(name, rule, bounds, 20_000);
        assert_eq!(found.wrong, wrong, "{name}");
        depths.found(bounds, found.states);
    }
    depths.hold(|name, bounds, states| explore(name, Rule::Right, bounds, states));
}

#[test]
fn a_rank_is_only_ever_raised() {
    for draw in [0, 1, 77, u64::MAX / 2, u64::MAX - 300, u64::MAX - 1] {
        for chance in [0, 1, u64::MAX] {
            for moved in [false, true] {
                let raised = raised(rank(draw), chance, moved);
                assert!(raised > rank(draw), "{draw} {chance}");
            }
        }
    }
    assert_eq!(raised(rank(u64::MAX), 5, false), rank(u64::MAX));
    for chance in [0, 1, 77, u64::MAX] {
        let moved = raised(rank(7), chance, true);
        assert!(moved < raised(rank(7), !chance, false), "{chance}");
    }
}
