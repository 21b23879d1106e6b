//! What a table can be keyed by: a value that is a fixed number of 64-bit words.

use crate::sync::{AtomicU64, Ordering};

/// A key of a fixed number of 64-bit words.
///
/// The words are what is hashed, stored and compared, so two keys are equal exactly when their
/// words are equal. Ready for `u64`, `u128`, `(u64, u64)` and `[u64; N]`.
///
/// A key may have *identity words* in front, which alone are hashed: two keys with the same
/// identity words and other words behind them are different keys, and the cache notices that it
/// has seen such a sibling ([`Ticket::has_sibling`](crate::Ticket::has_sibling)).
///
/// ```
/// use qm_cache::Key;
///
/// /// A message id and the tag of its contents.
/// #[derive(Clone, Copy, PartialEq, Eq)]
/// struct TaggedId {
///     id: u64,
///     tag: u64,
/// }
///
/// impl Key for TaggedId {
///     type Words = [u64; 2];
///     const WORDS: usize = 2;
///     const IDENTITY_WORDS: usize = 1;
///     fn to_words(&self) -> [u64; 2] {
///         [self.id, self.tag]
///     }
/// }
/// ```
pub trait Key: Copy + Eq {
    /// The words of a key; an array of [`WORDS`](Self::WORDS) words.
    type Words: AsRef<[u64]> + Copy;

    /// How many words a key has, at least 1.
    const WORDS: usize;

    /// How many of the leading words are hashed, from 1 to [`WORDS`](Self::WORDS).
    const IDENTITY_WORDS: usize = Self::WORDS;

    /// How many of the leading words name the owner of a key, a remote peer say; by default 0:
    /// keys have no owners. See [`DedupConfig::owner_share_percent`].
    ///
    /// [`DedupConfig::owner_share_percent`]: crate::DedupConfig::owner_share_percent
    const OWNER_WORDS: usize = 0;

    /// The words of this key.
    fn to_words(&self) -> Self::Words;
}

impl Key for u64 {
    type Words = [Self; 1];
    const WORDS: usize = 1;
    fn to_words(&self) -> [Self; 1] {
        [*self]
    }
}

impl Key for u128 {
    type Words = [u64; 2];
    const WORDS: usize = 2;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves are what is wanted"
    )]
    fn to_words(&self) -> [u64; 2] {
        [(*self >> 64) as u64, *self as u64]
    }
}

impl Key for (u64, u64) {
    type Words = [u64; 2];
    const WORDS: usize = 2;
    fn to_words(&self) -> [u64; 2] {
        [self.0, self.1]
    }
}

impl<const N: usize> Key for [u64; N] {
    type Words = Self;
    const WORDS: usize = N;
    fn to_words(&self) -> Self {
        *self
    }
}

/// Where the words of a key are: in a value, or in a slot that nobody else writes.
pub(crate) trait Source: Copy {
    fn word(&self, at: usize) -> u64;
}

/// The words of a key, as a value.
///
/// They are handed on by value, so that they stay in registers, or where the caller has them,
/// until they are stored. To copy them to one place first costs more than the copy: it is done
/// sixteen bytes at a time, and such a load waits until the caller's stores of eight bytes have
/// reached the cache, which they do behind all that the insertion before has written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<W>(pub(crate) W);

impl<W: AsRef<[u64]> + Copy> Source for Words<W> {
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        self.0.as_ref()[at]
    }
}

impl Source for &[AtomicU64] {
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        self[at].load(Ordering::Relaxed)
    }
}
