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

/// States that are looked at: so many, or what `QM_MODEL_STATES` says.
fn states_max(usually: usize) -> usize {
    let set = std::env::var("QM_MODEL_STATES").ok();
    set.and_then(|set| set.parse().ok()).unwrap_or(usually)
}

/// Visits worlds in the order of the number of steps. What went wrong first, if anything did.
pub(crate) fn visit<W: World>(name: &str, first: Vec<W>, usually: usize) -> Option<&'static str> {
    let most = states_max(usually);
    let mut seen: BTreeSet<u64> = first.iter().map(digest).collect();
    let mut open = VecDeque::from(first);
    let mut cut = false;
    while let Some(world) = open.pop_front() {
        if let Some(wrong) = world.wrong() {
            println!("{name}: {} states, then: {wrong}", seen.len());
            if std::env::var_os("QM_MODEL_SHOW").is_some() {
                println!("{world:#?}");
            }
            return Some(wrong);
        }
        // Once that many were met, those that are left are judged; what comes of them is not.
        if seen.len() >= most {
            cut = true;
            continue;
        }
        for next in world.next() {
            if seen.insert(digest(&next)) {
                open.push_back(next);
            }
        }
    }
    let all = if cut { "the first" } else { "all" };
    println!("{name}: {all} {} states", seen.len());
    None
}
