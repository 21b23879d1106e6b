//! The atomics of the two tables: the standard ones, or loom's when a model is explored.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub(crate) use std::hint::spin_loop;

#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Keeps what it holds away from the neighbours' cache lines.
///
/// 128 bytes: adjacent-line prefetchers work on pairs of 64-byte lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// A boxed slice of `len` zeroed words.
pub(crate) fn words(len: usize) -> Box<[AtomicU64]> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// Whether the named fault is built in, on purpose: the models of `tests/loom.rs` must find it.
///
/// Faults exist in model builds only, where `QM_MUTANT` names one while they run.
#[cfg(loom)]
pub(crate) fn is_mutant(name: &str) -> bool {
    static FAULT: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("QM_MUTANT").unwrap_or_default());
    *FAULT == name
}

/// Never outside of model builds.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn is_mutant(_name: &str) -> bool {
    false
}
