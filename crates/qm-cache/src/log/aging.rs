//! Forgetting by age, and what is told of ages.

use super::{BUSY, Log, MARK_TICKS, SPARE_MARKS, TICK_SHIFT, TICK_WRAP, TICKET_SHIFT, age_of};
use crate::Key;
use crate::sync::{AtomicU64, Ordering};

/// Counters of what the log did, all since its creation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogStats {
    pub(crate) len: u64,
    pub(crate) inserted: u64,
    pub(crate) wasted: u64,
    pub(crate) purged: u64,
    pub(crate) evicted: u64,
    /// Of `evicted`: those whose time had come anyhow.
    pub(crate) evicted_due: u64,
    pub(crate) oldest_age_ticks: Option<u64>,
    pub(crate) last_evicted_age_ticks: Option<u64>,
}

impl<K: Key> Log<K> {
    /// Forgets every entry with a ticket below `ticket`; says how many that were.
    pub(crate) fn forget_below(&self, ticket: u64) -> usize {
        let floor = ticket.saturating_sub(1);
        let before = self.floor.0.fetch_max(floor, Ordering::AcqRel);
        let edge = self.tail().saturating_sub(self.window + 1);
        let purged = floor.saturating_sub(before.max(edge));
        self.counters.0.purged.fetch_add(purged, Ordering::Relaxed);
        usize::try_from(purged).unwrap_or(usize::MAX)
    }

    /// Leaves the mark that `boundary` was taken before the clock went from one tick to another.
    ///
    /// A mark stays true whatever is inserted later, so it does no harm when it is left late.
    pub(crate) fn leave_mark(&self, from_tick: u64, to_tick: u64, boundary: u64) {
        let marks = self.marks.len() as u64;
        let first = (from_tick + 1).max((to_tick + 1).saturating_sub(marks));
        for tick in first..=to_tick {
            self.mark(tick).store(
                boundary << TICKET_SHIFT | tick & MARK_TICKS,
                Ordering::Relaxed,
            );
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the number of marks")]
    fn mark(&self, tick: u64) -> &AtomicU64 {
        &self.marks[(tick % self.marks.len() as u64) as usize]
    }

    /// Forgets what is more than `due_ticks` old; says how many entries that were.
    ///
    /// The mark of the oldest tick that is not due tells the boundary, so it takes the same time
    /// whatever the size, and nobody is stopped. The ticks in the entries would not do: one whose
    /// thread stood still before it drew its ticket looks older than those before it.
    pub(crate) fn purge(&self, now_tick: u64) -> usize {
        let Some(young) = now_tick.checked_sub(self.due_ticks) else {
            return 0;
        };
        let marks = (young.saturating_sub(SPARE_MARKS)..=young).filter_map(|tick| {
            let mark = self.mark(tick).load(Ordering::Relaxed);
            (mark & MARK_TICKS == tick & MARK_TICKS).then_some(mark >> TICKET_SHIFT)
        });
        marks.max().map_or(0, |ticket| self.forget_below(ticket))
    }

    /// The newest ticket that is forgotten for certain.
    fn oldest_edge(&self, tail: u64) -> u64 {
        self.floor
            .0
            .load(Ordering::Acquire)
            .max(tail.saturating_sub(self.window + 1))
            .min(tail - 1)
    }

    /// The age of an entry, unless its ticket was wasted or is still being linked.
    fn age(&self, ticket: u64, now_tick: u64) -> Option<u64> {
        let meta = self.slot(ticket)[0].load(Ordering::Acquire);
        (meta >> TICKET_SHIFT == ticket && meta & BUSY == 0)
            .then(|| (now_tick % TICK_WRAP).wrapping_sub(meta >> TICK_SHIFT) % TICK_WRAP)
    }

    pub(crate) fn stats(&self, now_tick: u64) -> LogStats {
        let tail = self.tail();
        let edge = self.oldest_edge(tail);
        let len = tail - 1 - edge;
        let purged = self.counters.0.purged.load(Ordering::Relaxed);
        let last = self.counters.0.last_evicted.load(Ordering::Relaxed);
        let wasted = self.counters.0.wasted.load(Ordering::Relaxed);
        LogStats {
            len,
            inserted: (tail - 1).saturating_sub(wasted),
            wasted,
            purged,
            evicted: (tail - 1).saturating_sub(len + purged),
            evicted_due: self.counters.0.evicted_due.load(Ordering::Relaxed),
            oldest_age_ticks: (edge + 1..tail).find_map(|t| self.age(t, now_tick)),
            last_evicted_age_ticks: (last > 0).then(|| age_of(last)),
        }
    }
}
