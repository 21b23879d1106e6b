//! Up to which message of each life of a sender arrivals may have been forgotten here (W-FIN-2).
//!
//! The duplicate cache keeps the newest arrivals and does not tell which it drops. So arrivals are
//! counted in generations, and of each generation is known the highest sequence of every life in
//! it. As soon as one of a generation may be gone from the cache, all of it counts as forgotten:
//! the marks may be too high by a sixteenth of the cache, never too low. They hold for this life of
//! the node only; what arrived in an earlier one its sender knows as minted before this life.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_wire::limits::EVICTED_MARKS_MAX;
use qm_wire::{Evicted, Incarnation, QmId};

use crate::engine::Engine;
use crate::limits::{FORGOTTEN_LIVES_MAX, FORGOTTEN_LIVES_PER_PEER_MAX};

/// Of how many generations the cache holds what is certain to be remembered.
const GENERATIONS: usize = 16;

/// A life of a sender.
type Life = (QmId, Incarnation);

#[derive(Debug, Default)]
struct Generation {
    arrivals: usize,
    /// When its first arrival came, milliseconds of node time.
    since_ms: u64,
    highest: BTreeMap<Life, u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Forgotten {
    capacity: usize,
    interval_ms: u64,
    generations: VecDeque<Generation>,
    arrivals: usize,
    /// The newest arrival's life and its highest sequence in the newest generation: most arrivals
    /// follow one of the same life.
    newest: Option<(Life, u64)>,
    marks: BTreeMap<Life, u64>,
    /// Senders with too many lives: everything of theirs counts as forgotten.
    crowded: BTreeSet<QmId>,
    /// All senders together had too many lives.
    overcrowded: bool,
}

impl Forgotten {
    /// For a cache of this capacity whose entries age in this time; 0: they do not age.
    pub(crate) const fn new(capacity: usize, interval_ms: u64) -> Self {
        Self {
            capacity,
            interval_ms,
            generations: VecDeque::new(),
            arrivals: 0,
            newest: None,
            marks: BTreeMap::new(),
            crowded: BTreeSet::new(),
            overcrowded: false,
        }
    }

    /// A message arrived and is remembered.
    pub(crate) fn arrived(&mut self, life: Life, sequence: u64, now_ms: u64) {
        let full = (self.capacity / GENERATIONS).max(1);
        match self.generations.back_mut() {
            Some(last) if last.arrivals < full => last.arrivals += 1,
            _ => {
                self.close_newest();
                self.generations.push_back(Generation {
                    arrivals: 1,
                    since_ms: now_ms,
                    highest: BTreeMap::new(),
                });
                // Bounded whether anybody asks or not.
                if self.generations.len() > 2 * GENERATIONS {
                    self.drop_oldest();
                }
            }
        }
        self.arrivals += 1;
        match &mut self.newest {
            Some((known, highest)) if *known == life => *highest = sequence.max(*highest),
            _ => {
                self.close_newest();
                self.newest = Some((life, sequence));
            }
        }
    }

    fn close_newest(&mut self) {
        if let Some((life, sequence)) = self.newest.take()
            && let Some(last) = self.generations.back_mut()
        {
            let highest = last.highest.entry(life).or_insert(sequence);
            *highest = sequence.max(*highest);
        }
    }

    fn drop_oldest(&mut self) {
        if self.generations.len() == 1 {
            self.close_newest();
        }
        let Some(oldest) = self.generations.pop_front() else {
            return;
        };
        self.arrivals -= oldest.arrivals;
        for ((source, life), sequence) in oldest.highest {
            self.forget((source, life), sequence);
        }
    }

    fn forget(&mut self, life: Life, sequence: u64) {
        if let Some(mark) = self.marks.get_mut(&life) {
            *mark = sequence.max(*mark);
            return;
        }
        if self.overcrowded || self.crowded.contains(&life.0) {
            return;
        }
        let all = (life.0, Incarnation(0))..=(life.0, Incarnation(u64::MAX));
        if self.marks.range(all).count() >= FORGOTTEN_LIVES_PER_PEER_MAX {
            self.crowded.insert(life.0);
            self.marks.retain(|(source, _), _| *source != life.0);
        } else if self.marks.len() >= FORGOTTEN_LIVES_MAX {
            self.overcrowded = true;
            self.marks.clear();
            self.crowded.clear();
        } else {
            self.marks.insert(life, sequence);
        }
    }

    /// The highest sequence of a life that may be forgotten, when the cache is certain to have the
    /// newest `remembered` arrivals.
    pub(crate) fn mark(&mut self, life: Life, remembered: usize, now_ms: u64) -> Option<u64> {
        // Ages are coarse in the cache.
        let age_ms = self.interval_ms - self.interval_ms / 16;
        while self.generations.front().is_some_and(|oldest| {
            let old = self.interval_ms > 0 && oldest.since_ms.saturating_add(age_ms) <= now_ms;
            old || self.arrivals > remembered
        }) {
            self.drop_oldest();
        }
        if self.overcrowded || self.crowded.contains(&life.0) {
            return Some(u64::MAX);
        }
        self.marks.get(&life).copied()
    }
}

impl Engine {
    /// Tells before an answer what may have been forgotten of the lives that it is about.
    pub(crate) fn evicted_of(
        &mut self,
        source: QmId,
        lives: &BTreeSet<Incarnation>,
    ) -> Vec<Evicted> {
        // The newest keys are remembered, whosever they are.
        let remembered = self.config.dedup_capacity;
        let now_ms = self.now.at.as_ms();
        let marks: Vec<_> = lives
            .iter()
            .filter_map(|life| {
                let mark = self.forgotten.mark((source, *life), remembered, now_ms)?;
                Some((*life, mark))
            })
            .collect();
        marks
            .chunks(EVICTED_MARKS_MAX)
            .map(|marks| Evicted {
                source,
                marks: marks.to_vec(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn life(n: u64) -> Life {
        (QmId::from_bytes([1; 16]), Incarnation(n))
    }

    #[test]
    fn a_mark_is_never_too_low_and_at_most_a_generation_too_high() {
        for capacity in [1, 16, 40, 1_000] {
            let mut forgotten = Forgotten::new(capacity, 0);
            for sequence in 1..=3_000 {
                forgotten.arrived(life(sequence % 3), sequence, 0);
            }
            let most = capacity + (capacity / GENERATIONS).max(1);
            for n in 0..3 {
                let mark = forgotten.mark(life(n), capacity, 0).unwrap();
                let oldest_remembered = 3_000 - capacity as u64 + 1;
                assert!(mark + 3 >= oldest_remembered, "{capacity}: {mark}");
                assert!(
                    mark <= 3_000 - capacity as u64 + most as u64 - capacity as u64,
                    "{capacity}: {mark}"
                );
            }
            assert_eq!(forgotten.mark(life(9), capacity, 0), None);
        }
    }

    #[test]
    fn while_everything_is_remembered_there_is_no_mark() {
        let mut forgotten = Forgotten::new(100, 1_000);
        for sequence in 1..=100 {
            forgotten.arrived(life(1), sequence, 5);
        }
        assert_eq!(forgotten.mark(life(1), 100, 900), None);
        assert_eq!(
            forgotten.mark(life(1), 12, 900),
            Some(90),
            "a smaller window"
        );
        assert_eq!(forgotten.mark(life(1), 100, 1_005), Some(100), "by age");
    }

    #[test]
    fn a_cache_that_is_off_forgets_at_once() {
        let mut forgotten = Forgotten::new(0, 1_000);
        forgotten.arrived(life(1), 7, 0);
        assert_eq!(forgotten.mark(life(1), 0, 0), Some(7));
    }

    #[test]
    fn a_sender_of_too_many_lives_is_told_that_all_may_be_forgotten() {
        let mut forgotten = Forgotten::new(0, 0);
        for n in 0..=FORGOTTEN_LIVES_PER_PEER_MAX as u64 {
            forgotten.arrived(life(n), 7, 0);
        }
        assert_eq!(forgotten.mark(life(0), 0, 0), Some(u64::MAX));
        let other = (QmId::from_bytes([2; 16]), Incarnation(0));
        assert_eq!(forgotten.mark(other, 0, 0), None);
    }

    #[test]
    fn of_too_many_lives_everybody_is_told_that_all_may_be_forgotten() {
        let mut forgotten = Forgotten::new(0, 0);
        let each = 64;
        let arrives = |forgotten: &mut Forgotten, n: usize| {
            let source = crate::testing::qm(n / each);
            forgotten.arrived((source, Incarnation((n % each) as u64)), 7, 0);
        };
        (0..FORGOTTEN_LIVES_MAX).for_each(|n| arrives(&mut forgotten, n));
        let first = (crate::testing::qm(0), Incarnation(0));
        assert_eq!(forgotten.mark(first, 0, 0), Some(7));
        arrives(&mut forgotten, FORGOTTEN_LIVES_MAX);
        assert_eq!(forgotten.mark(first, 0, 0), Some(u64::MAX));
        assert_eq!(forgotten.mark(life(1), 0, 0), Some(u64::MAX), "a stranger");
    }
}
