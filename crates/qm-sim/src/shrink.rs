//! From a failing seed to a scenario that is as simple as possible and fails in the same way.

use crate::report::Failure;
use crate::scenario::Scenario;
use crate::world::run;

/// A simpler scenario and how it fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The scenario.
    pub scenario: Scenario,
    /// The rule it breaks, which is the one that was broken before.
    pub failure: Box<Failure>,
    /// What was taken out, in order.
    pub removed: Vec<&'static str>,
    /// How many scenarios were run for it.
    pub runs: u64,
    /// Events that these runs handled.
    pub steps: u64,
}

/// Takes one thing after another out of a scenario, as long as the same rule is broken: whole
/// kinds of faults first, then machines, messages and time, until nothing can go, or until so
/// many events were handled. The seed stays the same, but with less to draw for, what happens
/// becomes another: so each step tries a few other seeds before it gives up.
#[must_use]
pub fn shrink(scenario: &Scenario, failure: Box<Failure>, steps_max: u64) -> Shrunk {
    let rule = failure.rule().to_owned();
    let mut best = Shrunk {
        scenario: scenario.clone(),
        failure,
        removed: Vec::new(),
        runs: 0,
        steps: 0,
    };
    loop {
        let before = best.removed.len();
        for (what, simplify) in Scenario::SIMPLER {
            let mut simpler = best.scenario.clone();
            simplify(&mut simpler);
            if simpler == best.scenario {
                continue;
            }
            for other in 0..SEEDS {
                if best.steps >= steps_max {
                    return best;
                }
                best.runs += 1;
                let attempt = Scenario {
                    seed: simpler.seed.wrapping_add(other),
                    ..simpler.clone()
                };
                match run(attempt.clone()) {
                    Ok(report) => best.steps += report.steps,
                    Err(failure) => {
                        best.steps += failure.steps;
                        if failure.rule() == rule {
                            best.scenario = attempt;
                            best.failure = failure;
                            best.removed.push(what);
                            break;
                        }
                    }
                }
            }
        }
        if best.removed.len() == before {
            return best;
        }
    }
}

/// Seeds tried for each step.
const SEEDS: u64 = 6;

impl Shrunk {
    /// What is left, in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let s = &self.scenario;
        let mut text = format!(
            "{} machines, {} applications each, {} messages each, {} ms of faults, seed {}",
            s.nodes, s.senders, s.messages, s.fault_ms, s.seed
        );
        let mut left = Vec::new();
        for (what, simplify) in Scenario::SIMPLER {
            let mut simpler = s.clone();
            simplify(&mut simpler);
            let counts = simpler.nodes == s.nodes
                && simpler.messages == s.messages
                && simpler.fault_ms == s.fault_ms;
            if simpler != *s && counts {
                left.push(*what);
            }
        }
        if !left.is_empty() {
            text += "; needed: ";
            text += &left.join(", ");
        }
        text
    }
}
