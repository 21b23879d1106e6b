//! Looking for a key down a chain, and bringing near what a look will read.

use super::{
    COMMITTED, DEAD, FAR_WORDS, Found, HEADER, LINE_WORDS, Linked, Log, Place, STATE, Scan,
    TICKET_SHIFT, unfold,
};
use crate::Key;
use crate::key::Source;
use crate::sync::{AtomicU64, Ordering, fence, is_mutant};

impl<K: Key> Log<K> {
    /// Looks for a key.
    #[inline(always)]
    pub(crate) fn scan(&self, key: impl Source, place: Place<'_>) -> Scan {
        self.scan_from(self.head(place), key, place)
    }

    /// Looks for a key in the chain with this head.
    #[inline(always)]
    pub(crate) fn scan_from(&self, head: u64, key: impl Source, place: Place<'_>) -> Scan {
        if head & place.filter == place.filter {
            return self.walk_down(head, 0, key, place.filter);
        }
        Scan {
            found: Found::Absent,
            head,
            sibling: false,
        }
    }

    /// The word in the bucket of a hash.
    #[inline(always)]
    pub(crate) fn head(&self, place: Place<'_>) -> u64 {
        place.bucket.load(Ordering::Acquire)
    }

    /// Looks for a key again, if the chain has changed since an earlier look that did not find it.
    #[inline]
    pub(crate) fn rescan(&self, before: Scan, key: impl Source, place: Place<'_>) -> Scan {
        let head = place.bucket.load(Ordering::Acquire);
        if head == before.head {
            return before;
        }
        let mut scan = self.look_down(head, before.head, key, place.filter);
        scan.sibling |= before.sibling;
        scan
    }

    /// Looks for a key in what has been linked above an entry since.
    #[inline]
    pub(crate) fn scan_above(
        &self,
        linked: &Linked<'_>,
        key: impl Source,
        place: Place<'_>,
    ) -> Found {
        let head = place.bucket.load(Ordering::Acquire);
        self.look_down(head, linked.word, key, place.filter).found
    }

    /// Looks down from `head`, read with Acquire, to the word `stop`, which and what is behind it
    /// has been looked at before.
    #[inline(never)]
    pub(super) fn look_down(&self, head: u64, stop: u64, key: impl Source, filter: u64) -> Scan {
        self.walk_down(head, stop, key, filter)
    }

    /// The same, in the place where it is called.
    #[inline(always)]
    fn walk_down(&self, head: u64, stop: u64, key: impl Source, filter: u64) -> Scan {
        let mut scan = Scan {
            found: Found::Absent,
            head,
            sibling: false,
        };
        let mut word = head;
        // Who linked `head` had drawn its ticket before.
        let tail = self.newest();
        let end = self.position(tail);
        let mut ticket = tail;
        while word & filter == filter && word != stop {
            ticket = unfold(word, ticket);
            if ticket <= self.floor.0.load(Ordering::Relaxed) {
                break; // forgotten, and all behind it (L1)
            }
            let Some(slot) = self.slot_before(tail, end, ticket) else {
                break; // the same
            };
            let meta = slot[0].load(Ordering::Acquire);
            if meta >> TICKET_SHIFT != ticket {
                break; // the same
            }
            let next = slot[1].load(Ordering::Relaxed);
            let same_identity = equal(&slot[HEADER..], key, 0..K::IDENTITY_WORDS);
            let same_rest = equal(&slot[HEADER..], key, K::IDENTITY_WORDS..K::WORDS);
            fence(Ordering::Acquire);
            let meta = slot[0].load(Ordering::Relaxed);
            if meta >> TICKET_SHIFT != ticket && !is_mutant("torn_read") {
                break; // what was read may be torn
            }
            if same_identity && meta & STATE != DEAD {
                if self.has_spare_slots && ticket.saturating_add(self.window) < self.newest() {
                    break; // outside the window, though not overwritten yet
                }
                if same_rest {
                    scan.found = if meta & STATE == COMMITTED || is_mutant("tentative_counts") {
                        Found::Committed
                    } else {
                        Found::Tentative
                    };
                    return scan;
                }
                scan.sibling = true;
            }
            word = next;
        }
        scan
    }

    /// Brings near what looks for the keys with these hashes will read; the value means nothing.
    ///
    /// Loads that depend on nothing but the hash overlap in the processor, if little else stands
    /// between them. Two entries deep: what lies deeper is rare.
    #[inline(always)]
    pub(crate) fn touch<const N: usize>(
        &self,
        hashes: &[u64; N],
        ahead: usize,
        last_word: impl Fn(usize) -> u64,
    ) -> u64 {
        let places = hashes.map(|hash| self.place(hash));
        let mut words = places.map(|place| place.bucket.load(Ordering::Relaxed));
        let tail = self.tail();
        let end = self.position(tail);
        let mut near = self.touch_ahead(ahead);
        for _ in 0..2 {
            for at in 0..N {
                let filter = places[at].filter;
                if words[at] & filter == filter {
                    words[at] = self.touch_slot(words[at], tail, end, last_word(at));
                    near ^= words[at];
                }
            }
        }
        near
    }

    /// Brings the slot near that a word of a chain names, if it may be live; the word behind it,
    /// unless the slot seems to hold the key.
    #[inline]
    fn touch_slot(&self, word: u64, tail: u64, end: usize, last_word: u64) -> u64 {
        let ticket = unfold(word, tail);
        let Some(slot) = self.slot_before(tail, end, ticket) else {
            return 0;
        };
        let next = slot[1].load(Ordering::Relaxed);
        // A slot may lie across two cache lines: its last word is asked for as well.
        if slot[Self::STRIDE - 1].load(Ordering::Relaxed) == last_word {
            0
        } else {
            next
        }
    }

    /// Brings the slots near that `count` insertions after the next `count` will write.
    #[inline]
    pub(crate) fn touch_ahead(&self, count: usize) -> u64 {
        let tail = self.newest();
        let count = count * Self::STRIDE;
        let first = self.position(tail) + count;
        let words = first.min(self.ring.len())..(first + count).min(self.ring.len());
        let lines = self.ring[words].iter().step_by(LINE_WORDS);
        lines.fold(0, |near, word| near ^ word.load(Ordering::Relaxed))
    }

    /// Whether the log is too large for the nearer caches, so that touching ahead pays.
    #[inline]
    pub(crate) const fn is_far(&self) -> bool {
        self.ring.len() > FAR_WORDS
    }
}

/// Whether these stored words are those of the key.
#[inline]
fn equal(stored: &[AtomicU64], key: impl Source, mut words: std::ops::Range<usize>) -> bool {
    words.all(|at| stored[at].load(Ordering::Relaxed) == key.word(at))
}
