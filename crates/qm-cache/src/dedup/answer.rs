//! What a cache answers, and the right to a reserved key.

use std::hash::BuildHasher;

use super::DedupCache;
use crate::Key;
use crate::hash::KeyedSipHasher;
use crate::inflight::Held;

/// The answer to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admit<T> {
    /// Not seen within the window: do the work, then commit.
    Fresh(T),
    /// Somebody else is doing the work, or too many reservations are outstanding: do nothing, and
    /// do not acknowledge. The sender will try again.
    InFlight,
    /// Done before: acknowledge again, do nothing.
    Duplicate,
}

impl<T> Admit<T> {
    /// Turns what a fresh key carries into something else.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Admit<U> {
        match self {
            Self::Fresh(value) => Admit::Fresh(f(value)),
            Self::InFlight => Admit::InFlight,
            Self::Duplicate => Admit::Duplicate,
        }
    }

    /// What a fresh key carries.
    pub fn fresh(self) -> Option<T> {
        match self {
            Self::Fresh(value) => Some(value),
            Self::InFlight | Self::Duplicate => None,
        }
    }
}

/// What the cache knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Reserved, neither committed nor aborted yet.
    Reserved,
    /// Committed within the window.
    Committed,
}

/// The right to commit or abort a reserved key, owned and free of lifetimes.
///
/// A ticket that is dropped leaves its key reserved for ever: every later copy is answered
/// [`Admit::InFlight`]. Where the scope allows it, [`DedupCache::admit`] gives a guard that aborts
/// by itself.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reserved key stays reserved until its ticket is committed or aborted"]
pub struct Ticket {
    pub(super) held: Option<Held>,
    pub(super) hash: u64,
    pub(super) sibling: bool,
}

impl Ticket {
    /// Whether a committed key with the same identity words and other words behind them was seen
    /// ([`Key::IDENTITY_WORDS`]).
    ///
    /// Such a sibling is found while it is remembered and was committed before this key was
    /// admitted.
    #[must_use]
    pub const fn has_sibling(&self) -> bool {
        self.sibling
    }
}

/// The right to commit a reserved key; aborts when dropped.
#[must_use = "the reservation is aborted when this is dropped"]
pub struct Reservation<'a, K: Key, S: BuildHasher = KeyedSipHasher> {
    pub(super) cache: &'a DedupCache<K, S>,
    pub(super) ticket: Option<Ticket>,
}

impl<K: Key, S: BuildHasher> Reservation<'_, K, S> {
    /// Remembers the key: later copies are duplicates.
    pub fn commit(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.cache.commit(ticket);
        }
    }

    /// Gives the key up, as dropping does: the next copy is fresh.
    pub fn abort(self) {
        drop(self);
    }

    /// The owned form of this right.
    ///
    /// # Panics
    /// Never: a reservation has its ticket until it is consumed.
    pub fn into_ticket(mut self) -> Ticket {
        self.ticket
            .take()
            .expect("a reservation has its ticket until it is consumed")
    }

    /// See [`Ticket::has_sibling`].
    #[must_use]
    pub fn has_sibling(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::has_sibling)
    }
}

impl<K: Key, S: BuildHasher> Drop for Reservation<'_, K, S> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.cache.abort(ticket);
        }
    }
}

impl<K: Key, S: BuildHasher> std::fmt::Debug for Reservation<'_, K, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl Ticket {
    /// What a cache that is off hands out.
    pub(super) const fn off() -> Self {
        Self {
            held: None,
            hash: 0,
            sibling: false,
        }
    }
}
