//! Worlds in which some queues are transactional.

use qm_engine::{Entropy, SeededEntropy};
use qm_wire::Class;

use super::Scenario;

impl Scenario {
    /// The same world with transactional queues: the last of each machine, or all of them. Some
    /// messages are of the wrong class for their queue in some of these worlds. In half of them
    /// applications move tokens between one more transactional queue of each machine.
    #[must_use]
    pub fn streams_from_seed(seed: u64) -> Self {
        let world = Self::from_seed(seed);
        let mut random = SeededEntropy::new(seed ^ 0x0057_4e41_5254);
        let mut draw = |of: u64| random.next_u64() % of;
        let all = draw(2) == 0;
        let mistyped = draw(3) == 0;
        let per_mille = 5 + draw(100);
        let moves = draw(2) == 0;
        let movers = 1 + usize::from(draw(2) == 0);
        let tokens = 2 + draw(5);
        Self {
            transactional_queues: if all { world.queues } else { 1 },
            mistyped_per_mille: if mistyped { per_mille } else { 0 },
            movers: if moves { movers } else { 0 },
            tokens,
            ..world
        }
    }

    /// The queue of every machine in which tokens lie: behind the one that does not exist.
    #[must_use]
    pub const fn token_queue(&self) -> usize {
        self.queues + 1
    }

    /// Whether a queue of every machine is transactional.
    #[must_use]
    pub const fn is_transactional(&self, queue: usize) -> bool {
        let last = queue < self.queues && queue + self.transactional_queues >= self.queues;
        last || queue == self.token_queue()
    }

    /// The class with which a message for a queue is put: transactional where the queue is, and
    /// wrong where it is to be refused.
    pub(crate) fn class_for(
        &self,
        queue: usize,
        other: Class,
        below: &mut impl FnMut(u64) -> u64,
    ) -> Class {
        if self.transactional_queues == 0 {
            return other;
        }
        let wrong = below(1_000) < self.mistyped_per_mille;
        let missing = queue >= self.queues && below(2) == 0;
        if self.is_transactional(queue) != wrong || missing {
            Class::Transactional
        } else {
            other
        }
    }
}
