//! The atomics of the two tables: the standard ones, or loom's when a model is explored.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(not(loom))]
pub(crate) use std::hint::spin_loop;

#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
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

/// Whether this build has the named fault, on purpose: the models of `tests/loom.rs` must find it.
///
/// Faults exist in model builds only, where `QM_MUTANT` names one.
#[inline(always)]
pub(crate) const fn is_mutant(name: &str) -> bool {
    if !cfg!(loom) {
        return false;
    }
    let Some(built) = option_env!("QM_MUTANT") else {
        return false;
    };
    let (built, name) = (built.as_bytes(), name.as_bytes());
    let mut at = 0;
    while at < built.len() && at < name.len() && built[at] == name[at] {
        at += 1;
    }
    at == built.len() && at == name.len()
}
