//! Visits the states of a small world, for the models beside it.
#![expect(
    clippy::print_stdout,
    reason = "how many states there were is for people"
)]

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;

use super::digest::digest;

/// A state of everything that is modelled.
pub(crate) trait World: Clone + Hash + std::fmt::Debug {
    /// Every world that can come next.
    fn next(&self) -> Vec<Self>;

    /// What is wrong in this one, if anything is.
    fn wrong(&self) -> Option<&'static str>;
}

/// States that are looked at: so many, or more if `QM_MODEL_STATES` says so.
pub(crate) fn states_max(usually: usize) -> usize {
    let set = std::env::var("QM_MODEL_STATES").ok();
    let set = set.and_then(|set| set.parse().ok()).unwrap_or(0);
    usually.max(set)
}

/// How far a search went, and what it found.
#[derive(Debug)]
pub(crate) struct Searched {
    pub(crate) states: usize,
    /// Whether there are no others.
    pub(crate) whole: bool,
    pub(crate) wrong: Option<&'static str>,
}

/// Visits worlds in the order of the number of steps, until one is wrong.
pub(crate) fn visit<W: World>(name: &str, first: Vec<W>, usually: usize) -> Searched {
    let most = states_max(usually);
    let mut seen: BTreeSet<u64> = first.iter().map(digest).collect();
    let mut open = VecDeque::from(first);
    while let Some(world) = open.pop_front() {
        if let Some(wrong) = world.wrong() {
            println!("{name}: {} states, then: {wrong}", seen.len());
            if std::env::var_os("QM_MODEL_SHOW").is_some() {
                println!("{world:#?}");
            }
            return Searched {
                states: seen.len(),
                whole: false,
                wrong: Some(wrong),
            };
        }
        // Once that many were met, those that are left are judged; what comes of them is not.
        if seen.len() >= most {
            continue;
        }
        for next in world.next() {
            if seen.insert(digest(&next)) {
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

/// How far one has to look in each world until the last of the rules that are left out in it is
/// found. That nothing is found says something about the right rules only if it is looked for at
/// least as far.
pub(crate) struct Depths<B>(Vec<(B, usize)>);

impl<B: Copy + PartialEq + std::fmt::Debug> Depths<B> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// In this world a rule that is left out was found after so many states.
    pub(crate) fn found(&mut self, world: B, states: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == world) {
            Some((_, deepest)) => *deepest = states.max(*deepest),
            None => self.0.push((world, states)),
        }
    }

    /// Holds the right rules in each of these worlds, as far as that.
    pub(crate) fn hold(&self, search: impl Fn(&str, B, usize) -> Searched) {
        assert!(!self.0.is_empty(), "no rule was left out");
        for (world, deepest) in &self.0 {
            let held = search("with all rules, as far", *world, *deepest);
            assert_eq!(held.wrong, None, "{world:?}");
            let states = held.states;
            assert!(held.whole || states >= *deepest, "{states} {world:?}");
        }
    }
}
