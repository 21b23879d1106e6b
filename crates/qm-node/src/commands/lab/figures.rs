//! What is played through, and what is measured of it, whoever's rules hold.

use std::collections::BTreeSet;

use qm_engine::{Entropy as _, SeededEntropy};
use serde::Serialize;

/// One way through the network, at least, microseconds; up to [`DELAY_SPREAD_US`] more.
const DELAY_US: u64 = 5_000;
const DELAY_SPREAD_US: u64 = 2_000;

/// What is played through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    pub(super) clones: u16,
    /// Messages a second of each clone.
    pub(super) rate_per_s: f64,
    pub(super) lifetime_ms: u64,
    pub(super) duration_ms: u64,
    pub(super) apart: u32,
    pub(super) seed: u64,
    /// Whether the machines share one identity; false for the control.
    pub(super) one_identity: bool,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Figures {
    pub(super) sent: u64,
    /// Time from sending to leaving the outgoing queue; for what still waits at the end, up to the
    /// end.
    pub(super) wait_mean_us: u64,
    pub(super) wait_p99_us: u64,
    pub(super) wait_max_us: u64,
    /// Acknowledgements that went to another machine than the one that had sent.
    pub(super) misrouted_acks: u64,
    /// How often the receiver began to send acknowledgements to another machine than before.
    pub(super) turns: u64,
    /// Left the outgoing queue as delivered, and no application has them.
    pub(super) lost: u64,
    /// Times that an application got a message again.
    pub(super) delivered_twice: u64,
    pub(super) still_waiting: u64,
    /// Clones that know, with proof, that another machine has their identity.
    pub(super) clones_aware: u64,
}

#[cfg(test)]
impl Figures {
    /// Whether nothing went wrong.
    pub(super) const fn is_clean(&self) -> bool {
        self.misrouted_acks == 0
            && self.lost == 0
            && self.delivered_twice == 0
            && self.still_waiting == 0
    }
}

impl Situation {
    /// When each message is sent, and by which clone: gaps as of independent events. The same for
    /// every policy.
    pub(super) fn sendings(&self) -> Vec<(u64, u16)> {
        let mut random = self.random(1);
        let until_us = self.duration_ms.saturating_mul(1_000);
        let mut sendings = Vec::new();
        for clone in 0..self.clones {
            let mut at_us = 0_u64;
            loop {
                at_us = at_us.saturating_add(self.gap_us(&mut random));
                if at_us > until_us {
                    break;
                }
                sendings.push((at_us, clone));
            }
        }
        sendings.sort_unstable();
        sendings
    }

    fn gap_us(&self, random: &mut SeededEntropy) -> u64 {
        // 52 bits, and never 0.
        #[expect(clippy::cast_precision_loss, reason = "the bits fit")]
        let fraction = ((random.next_u64() >> 12) + 1) as f64 / (1_u64 << 52) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a cast of a larger number gives the largest"
        )]
        let gap = (-fraction.ln() / self.rate_per_s * 1e6) as u64;
        gap
    }

    /// Chance of its own for every purpose.
    pub(super) const fn random(&self, purpose: u64) -> SeededEntropy {
        SeededEntropy::new(self.seed ^ purpose << 56)
    }
}

/// One way through the network.
pub(super) fn delay_us(random: &mut SeededEntropy) -> u64 {
    DELAY_US + random.next_u64() % DELAY_SPREAD_US
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at_us: u64,
    settled_us: Option<u64>,
    delivered: u64,
}

/// Every message and what became of it.
#[derive(Debug)]
pub(super) struct Books {
    of_clone: Vec<Vec<Sent>>,
    /// Deliveries of what the image had sent before it was copied.
    inherited: Vec<u64>,
    pub(super) misrouted_acks: u64,
    pub(super) turns: u64,
    aware: BTreeSet<usize>,
    open: u64,
}

impl Books {
    pub(super) fn new(clones: u16, inherited: usize) -> Self {
        Self {
            of_clone: vec![Vec::new(); usize::from(clones)],
            inherited: vec![0; inherited],
            misrouted_acks: 0,
            turns: 0,
            aware: BTreeSet::new(),
            open: 0,
        }
    }

    /// A message is sent; returns its number among those of its clone.
    pub(super) fn sent(&mut self, clone: usize, at_us: u64) -> usize {
        let of_clone = &mut self.of_clone[clone];
        of_clone.push(Sent {
            at_us,
            settled_us: None,
            delivered: 0,
        });
        self.open += 1;
        of_clone.len() - 1
    }

    pub(super) fn delivered(&mut self, clone: usize, number: usize) {
        self.of_clone[clone][number].delivered += 1;
    }

    pub(super) fn inherited_delivered(&mut self, number: usize) {
        self.inherited[number] += 1;
    }

    /// A clone knows of another one.
    pub(super) fn noticed(&mut self, clone: usize) {
        self.aware.insert(clone);
    }

    /// It left the outgoing queue of its clone.
    pub(super) fn settled(&mut self, clone: usize, number: usize, at_us: u64) {
        let sent = &mut self.of_clone[clone][number];
        if sent.settled_us.is_none() {
            sent.settled_us = Some(at_us);
            self.open -= 1;
        }
    }

    /// Messages that wait in outgoing queues.
    pub(super) const fn open(&self) -> u64 {
        self.open
    }

    pub(super) fn figures(&self, end_us: u64) -> Figures {
        let all = || self.of_clone.iter().flatten();
        let mut waits: Vec<u64> = all()
            .map(|sent| sent.settled_us.unwrap_or(end_us).saturating_sub(sent.at_us))
            .collect();
        waits.sort_unstable();
        let count = waits.len() as u64;
        let total: u64 = waits.iter().sum();
        let rank = (waits.len() * 99).div_ceil(100).saturating_sub(1);
        let again = |times: u64| times.saturating_sub(1);
        let lost_of_image = self.inherited.iter().filter(|times| **times == 0).count() as u64;
        Figures {
            sent: count,
            wait_mean_us: total.checked_div(count).unwrap_or(0),
            wait_p99_us: waits.get(rank).copied().unwrap_or(0),
            wait_max_us: waits.last().copied().unwrap_or(0),
            misrouted_acks: self.misrouted_acks,
            turns: self.turns,
            lost: lost_of_image
                + all()
                    .filter(|sent| sent.settled_us.is_some() && sent.delivered == 0)
                    .count() as u64,
            delivered_twice: all().map(|sent| again(sent.delivered)).sum::<u64>()
                + self.inherited.iter().copied().map(again).sum::<u64>(),
            still_waiting: self.open,
            clones_aware: self.aware.len() as u64,
        }
    }
}
