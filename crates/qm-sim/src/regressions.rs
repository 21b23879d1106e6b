//! Seeds that once failed, kept: `qm-sim --regressions` runs them all.
//!
//! What a seed does changes with the engine and with the simulation, so a line of these lists is
//! worth keeping and no proof of the mend.

use crate::scenario::{Case, Scenario};

const FAST: &str = include_str!("../tests/regressions.txt");
const STREAMS: &str = include_str!("../tests/streams_regressions.txt");
const CLONES: &str = include_str!("../tests/clones_regressions.txt");

/// The runs of all lists.
///
/// # Errors
/// A line that names no seed or no scenario, with its text.
pub fn regressions() -> Result<Vec<Scenario>, String> {
    let mut runs = Vec::new();
    for line in lines(FAST) {
        both(Scenario::from_seed(seed(line)?), &mut runs);
    }
    for line in lines(STREAMS) {
        both(Scenario::streams_from_seed(seed(line)?), &mut runs);
    }
    for line in lines(CLONES) {
        let (name, number) = line
            .split_once(' ')
            .ok_or_else(|| format!("{line} has no seed"))?;
        let case = Case::named(name).ok_or_else(|| format!("{name} is not a scenario"))?;
        runs.push(Scenario::clones_from_seed(seed(number)?, Some(case)));
    }
    Ok(runs)
}

/// A seed's world, and the one that it was before machines ran short of memory: most of these
/// failed in that.
fn both(today: Scenario, runs: &mut Vec<Scenario>) {
    let then = Scenario {
        squeeze_every_ms: 0,
        ..today.clone()
    };
    if today != then {
        runs.push(today);
    }
    runs.push(then);
}

fn lines(list: &str) -> impl Iterator<Item = &str> {
    let texts = list.lines().filter_map(|line| line.split('#').next());
    texts.map(str::trim).filter(|line| !line.is_empty())
}

fn seed(text: &str) -> Result<u64, String> {
    let seed = text.trim().parse::<u64>();
    seed.map_err(|error| format!("{text} is not a seed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_names_a_run() {
        let runs = regressions().expect("lists that can be read");
        let kept = lines(FAST).chain(lines(STREAMS)).chain(lines(CLONES));
        assert!(runs.len() >= kept.count());
    }
}
