//! Counters that many threads raise.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sync::Line;

const STRIPES: usize = 8;

/// A counter spread over cache lines, so that threads do not fight for one.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    stripes: [Line<AtomicU64>; STRIPES],
}

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.stripes[stripe()].0.fetch_add(count, Ordering::Relaxed);
    }

    /// As `add`, where the count is often 0.
    #[inline]
    pub(crate) fn add_some(&self, count: u64) {
        if count > 0 {
            self.add(count);
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| stripe.0.load(Ordering::Relaxed))
            .sum()
    }
}

#[inline]
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
    }
    MINE.with(|mine| *mine)
}
