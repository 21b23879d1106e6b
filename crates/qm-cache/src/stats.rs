//! Counters that many threads raise.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Line;

/// Stripes that belong to one thread each, and one behind them that the other threads share.
/// Few in models, whose threads have small stacks and take turns on one real thread.
const OWNED: usize = if cfg!(loom) { 1 } else { 15 };
const SHARED: usize = OWNED;

/// A counter spread over cache lines, so that threads do not fight for one.
///
/// A thread that has a stripe to itself adds with a load and a store. A locked instruction would
/// make the loads of the next call wait for it, and a call that finds a duplicate has no other.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    stripes: [Line<AtomicU64>; OWNED + 1],
}

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        let mine = MINE.get();
        if mine < OWNED {
            // Nobody else writes here while this thread lives.
            let cell = &self.stripes[mine].0;
            let sum = cell.load(Ordering::Relaxed).wrapping_add(count);
            cell.store(sum, Ordering::Relaxed);
        } else {
            self.add_otherwise(count);
        }
    }

    /// Adds for a thread that shares a stripe, or has not chosen one yet.
    #[cold]
    fn add_otherwise(&self, count: u64) {
        if MINE.get() == UNKNOWN && choose() < OWNED {
            return self.add(count);
        }
        self.stripes[SHARED].0.fetch_add(count, Ordering::Relaxed);
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
            .fold(0, u64::wrapping_add)
    }
}

/// Which stripes have an owner, a bit each.
static TAKEN: AtomicU64 = AtomicU64::new(0);

const UNKNOWN: usize = usize::MAX;

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(UNKNOWN) };
}

/// Chooses the stripe of this thread, the same in all counters.
fn choose() -> usize {
    thread_local! {
        static OWNER: Owner = Owner::new();
    }
    // While the thread ends its owner may be gone already: then it shares.
    let mine = OWNER.try_with(|owner| owner.0).unwrap_or(SHARED);
    MINE.set(mine);
    mine
}

/// Gives the stripe back when the thread ends.
struct Owner(usize);

impl Owner {
    fn new() -> Self {
        let mut taken = TAKEN.load(Ordering::Relaxed);
        loop {
            let free = taken.trailing_ones() as usize;
            if free >= OWNED {
                return Self(SHARED);
            }
            // Acquire: what the last owner added is there before this one adds to it.
            match TAKEN.compare_exchange_weak(
                taken,
                taken | 1 << free,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Self(free),
                Err(now) => taken = now,
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        MINE.set(SHARED);
        if self.0 != SHARED {
            TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// More threads at once than stripes, twice, so that stripes change owners.
    #[test]
    fn no_count_is_lost_whoever_owns_the_stripes() {
        const THREADS: usize = 40;
        const EACH: u64 = 20_000;
        let counter = Counter::default();
        for _ in 0..2 {
            let together = Barrier::new(THREADS);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        counter.add(0);
                        together.wait();
                        for _ in 0..EACH {
                            counter.add(1);
                        }
                    });
                }
            });
        }
        assert_eq!(counter.sum(), 2 * THREADS as u64 * EACH);
    }

    #[test]
    fn a_thread_that_ends_gives_its_stripe_back_and_counts_in_its_last_destructors() {
        struct Last<'a>(&'a Counter);
        impl Drop for Last<'_> {
            fn drop(&mut self) {
                self.0.add(1);
            }
        }
        static COUNTER: std::sync::LazyLock<Counter> = std::sync::LazyLock::new(Counter::default);
        thread_local! {
            static LAST: Last<'static> = Last(&COUNTER);
        }
        for _ in 0..3 * OWNED {
            thread::spawn(|| {
                LAST.with(|_| ());
                COUNTER.add(1);
            })
            .join()
            .unwrap();
        }
        assert_eq!(COUNTER.sum(), 6 * OWNED as u64);
    }
}
