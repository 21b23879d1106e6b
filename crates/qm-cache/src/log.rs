//! The bounded log of remembered keys: a ring of tickets and a hash index of descending chains.
//!
//! Every inserted key draws a *ticket* from `tail`; ticket `t` lives in slot `t mod slots` of the
//! ring, so the newest `window` tickets are remembered and the oldest is forgotten first. The index
//! maps a hash to the newest ticket of its bucket, each entry names the one before it. Invariants:
//!
//! * L1 Tickets strictly descend along a chain. So when an entry has been forgotten, everything
//!   behind it has too, and forgetting never has to unlink anything.
//! * L2 Only the ticket that made a slot BUSY writes the slot, and BUSY stays until the entry has
//!   been linked (or given up).
//! * L3 The filter in a word that names an entry covers that entry and every live entry behind it.
//! * L4 A ticket is linked at most once, so a word of the index never comes back (no ABA).
//!
//! An insertion takes effect when its compare-and-swap of the index succeeds.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64 as StdU64;

use crate::Key;
use crate::owners::Owners;
use crate::reduce::Modulus;
use crate::sync::{AtomicU64, Line, Ordering, fence, is_mutant, spin_loop, words};

/// Tickets are 48 bits: 8.9 years at a million insertions a second.
const TICKET_MAX: u64 = (1 << 48) - 1;
const TICKET_SHIFT: u32 = 16;

/// Entries' ticks are kept modulo this.
pub(crate) const TICK_WRAP: u64 = 1 << 13;
const TICK_SHIFT: u32 = 3;

const BUSY: u64 = 1 << 2;
const STATE: u64 = 3;
const DEAD: u64 = 0;
const TENTATIVE: u64 = 1;
const COMMITTED: u64 = 2;

/// Words of a slot in front of its key: `meta`, `next`.
const HEADER: usize = 2;

/// Slots a ring has at least, whatever the window: so many insertions may be stopped half-way
/// before another has to wait for one of them.
#[cfg(not(loom))]
const SLOTS_MIN: usize = 64;
#[cfg(loom)]
const SLOTS_MIN: usize = 1;

/// Words in a cache line.
const LINE_WORDS: usize = 8;

/// Rings of more words are not expected to stay in a core's own caches: 1 MiB.
const FAR_WORDS: usize = 1 << 17;

/// What the log knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    /// Linked, but its insertion may yet give way to a reservation.
    Tentative,
    Committed,
}

/// The result of looking down a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    pub(crate) found: Found,
    /// The word of the index the look began at.
    pub(crate) head: u64,
    /// An entry with the same identity words and other words behind them was seen.
    pub(crate) sibling: bool,
}

/// A linked entry whose slot is still BUSY.
#[derive(Debug)]
pub(crate) struct Linked {
    ticket: u64,
    tick: u64,
}

/// The result of an insertion.
#[derive(Debug)]
pub(crate) enum Inserted {
    Linked(Linked),
    /// Another thread's entry of the same key was there first.
    Lost(Found),
    /// Tickets have run out: nothing is remembered any more.
    Exhausted,
}

/// Where insertions take their tickets.
pub(crate) trait Tickets {
    fn draw(&mut self, tail: &AtomicU64) -> u64;
}

/// One ticket at a time.
pub(crate) struct Single;

impl Tickets for Single {
    #[inline]
    fn draw(&mut self, tail: &AtomicU64) -> u64 {
        tail.fetch_add(1, Ordering::Relaxed)
    }
}

/// Tickets drawn many at once, when the first is wanted.
#[derive(Debug)]
pub(crate) struct Run {
    next: u64,
    end: u64,
    count: u64,
    may_draw_ahead: bool,
}

impl Run {
    /// Sets how many tickets a draw takes when none is left.
    #[inline]
    pub(crate) const fn expect_more(&mut self, count: u64) {
        self.count = if self.may_draw_ahead { count } else { 1 };
    }
}

impl Tickets for Run {
    #[inline]
    fn draw(&mut self, tail: &AtomicU64) -> u64 {
        if self.next == self.end {
            self.next = tail.fetch_add(self.count, Ordering::Relaxed);
            self.end = self.next + self.count;
        }
        self.next += 1;
        self.next - 1
    }
}

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

#[derive(Debug, Default)]
struct Counters {
    wasted: StdU64,
    purged: StdU64,
    evicted_due: StdU64,
    /// One more than the age of what was evicted last; 0 when nothing was.
    last_evicted_age: StdU64,
}

pub(crate) struct Log<K> {
    /// The next ticket; the first is 1.
    tail: Line<AtomicU64>,
    /// Every ticket up to this one is forgotten.
    floor: Line<AtomicU64>,
    counters: Line<Counters>,
    index: Box<[AtomicU64]>,
    ring: Box<[AtomicU64]>,
    window: u64,
    slots: Modulus,
    /// Entries older than this many ticks are due to be forgotten.
    due_ticks: u64,
    owners: Option<Owners>,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> Log<K> {
    const STRIDE: usize = HEADER + K::WORDS;

    /// A log that remembers the newest `window` entries.
    pub(crate) fn new(window: usize, due_ticks: u64, owners: Option<Owners>) -> Self {
        let slots = window.max(SLOTS_MIN);
        Self {
            tail: Line(AtomicU64::new(1)),
            floor: Line(AtomicU64::new(0)),
            counters: Line::default(),
            index: words(window.next_power_of_two()),
            ring: words(slots * Self::STRIDE),
            window: window as u64,
            slots: Modulus::new(slots as u64),
            due_ticks,
            owners,
            key: PhantomData,
        }
    }

    /// Bytes held on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.index.len() + self.ring.len()) * 8
            + self.owners.as_ref().map_or(0, Owners::heap_bytes)
    }

    /// Entries remembered at most.
    #[expect(clippy::cast_possible_truncation, reason = "was given as a usize")]
    pub(crate) const fn window(&self) -> usize {
        self.window as usize
    }

    /// Entries forgotten because they were due.
    pub(crate) fn purged(&self) -> u64 {
        self.counters.0.purged.load(Ordering::Relaxed)
    }

    /// The next ticket.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.0.load(Ordering::Acquire)
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked by the length of the index"
    )]
    fn bucket(&self, hash: u64) -> &AtomicU64 {
        &self.index[hash as usize & (self.index.len() - 1)]
    }

    /// The two bits of a key in the filters, drawn from hash bits no bucket uses.
    #[inline]
    const fn filter(hash: u64) -> u64 {
        (1 << (hash >> 60)) | (1 << (hash >> 56 & 15))
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below the number of slots, a usize"
    )]
    fn slot(&self, ticket: u64) -> &[AtomicU64] {
        let at = self.slots.of(ticket) as usize * Self::STRIDE;
        &self.ring[at..at + Self::STRIDE]
    }

    /// Looks for a key.
    #[inline]
    pub(crate) fn scan(&self, key: &(impl Source + ?Sized), hash: u64) -> Scan {
        let head = self.bucket(hash).load(Ordering::Acquire);
        self.scan_from(head, 0, key, hash)
    }

    /// The chain of a hash as it is now, for who knows that the key is not in it.
    #[inline]
    pub(crate) fn chain_head(&self, hash: u64) -> Scan {
        let head = self.bucket(hash).load(Ordering::Acquire);
        Scan {
            found: Found::Absent,
            head,
            sibling: false,
        }
    }

    /// Looks for a key again, if the chain has changed since an earlier look that did not find it.
    #[inline]
    pub(crate) fn rescan(&self, before: Scan, key: &(impl Source + ?Sized), hash: u64) -> Scan {
        let head = self.bucket(hash).load(Ordering::Acquire);
        if head == before.head {
            return before;
        }
        let mut scan = self.scan_from(head, before.head >> TICKET_SHIFT, key, hash);
        scan.sibling |= before.sibling;
        scan
    }

    /// Looks for a key in what has been linked above an entry since.
    #[inline]
    pub(crate) fn scan_above(
        &self,
        linked: &Linked,
        key: &(impl Source + ?Sized),
        hash: u64,
    ) -> Found {
        let head = self.bucket(hash).load(Ordering::Acquire);
        self.scan_from(head, linked.ticket, key, hash).found
    }

    /// Looks down from `head` until ticket `stop`, which and all behind have been looked at before.
    #[inline]
    fn scan_from(&self, head: u64, stop: u64, key: &(impl Source + ?Sized), hash: u64) -> Scan {
        let filter = Self::filter(hash);
        let mut scan = Scan {
            found: Found::Absent,
            head,
            sibling: false,
        };
        let mut word = head;
        while word & filter == filter {
            let ticket = word >> TICKET_SHIFT;
            if ticket <= stop || ticket <= self.floor.0.load(Ordering::Relaxed) {
                break;
            }
            let slot = self.slot(ticket);
            let meta = slot[0].load(Ordering::Acquire);
            if meta >> TICKET_SHIFT != ticket {
                break; // forgotten, and all behind it (L1)
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
                if self.has_spare_slots()
                    && ticket.saturating_add(self.window) < self.tail.0.load(Ordering::Relaxed)
                {
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

    /// Brings the bucket of a hash near; the value means nothing.
    #[inline]
    pub(crate) fn touch_bucket(&self, hash: u64) -> u64 {
        self.bucket(hash).load(Ordering::Relaxed)
    }

    /// Brings the slot near that a look for this hash would read at this word of the chain, if
    /// any; the word behind it, unless the slot seems to hold the key.
    #[inline]
    pub(crate) fn touch_slot(&self, word: u64, hash: u64, last_word: u64) -> u64 {
        let filter = Self::filter(hash);
        if word & filter != filter {
            return 0;
        }
        let slot = self.slot(word >> TICKET_SHIFT);
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
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below the number of slots, a usize"
    )]
    pub(crate) fn touch_ahead(&self, count: usize) -> u64 {
        let tail = self.tail.0.load(Ordering::Relaxed).min(TICKET_MAX);
        let first = self.slots.of(tail) as usize + count;
        let slots = self.slots.get() as usize;
        let words = first.min(slots) * Self::STRIDE..(first + count).min(slots) * Self::STRIDE;
        let lines = self.ring[words].iter().step_by(LINE_WORDS);
        lines.fold(0, |near, word| near ^ word.load(Ordering::Relaxed))
    }

    /// Whether the log is too large for the nearer caches, so that touching ahead pays.
    #[inline]
    pub(crate) const fn is_far(&self) -> bool {
        self.ring.len() > FAR_WORDS
    }

    /// Orders this thread against every other that orders itself or inserts in the same bucket:
    /// of two, the later one sees what the earlier one wrote before.
    ///
    /// It takes a read-modify-write that is really done. `fetch_or(0)` would say the same, but
    /// compilers replace one whose result is unused by a fence, which on x86 is nothing at all
    /// below `SeqCst`; the write to the table of reservations would then pass the reads behind it.
    #[inline]
    pub(crate) fn order(&self, hash: u64, mut head: u64) {
        let bucket = self.bucket(hash);
        while let Err(now) =
            bucket.compare_exchange_weak(head, head, Ordering::AcqRel, Ordering::Relaxed)
        {
            head = now;
        }
    }

    /// A run of tickets from which none has been drawn.
    pub(crate) const fn empty_run(&self) -> Run {
        // Spare slots make the next ticket the edge of the window: none may be drawn in advance.
        Run {
            next: 0,
            end: 0,
            count: 1,
            may_draw_ahead: !self.has_spare_slots(),
        }
    }

    /// Whether the ring has more slots than its window, so that being overwritten and being
    /// forgotten are not the same.
    #[inline]
    const fn has_spare_slots(&self) -> bool {
        self.slots.get() != self.window
    }

    /// Gives back what is left of a run; it is wasted when others have drawn since.
    pub(crate) fn return_run(&self, run: &Run) {
        if run.next < run.end
            && self
                .tail
                .0
                .compare_exchange(run.end, run.next, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            self.waste(run.end - run.next);
        }
    }

    /// Links an entry that `scan` did not find.
    ///
    /// A *tentative* entry gives way to another entry of its key that is linked meanwhile. One
    /// that is not belongs to who holds the reservation of the key: nobody else can commit it, and
    /// tentative entries give way to the reservation. The slot stays BUSY until
    /// [`settle`](Self::settle).
    #[inline]
    pub(crate) fn insert(
        &self,
        key: &(impl Source + ?Sized),
        hash: u64,
        tick: u64,
        tentative: bool,
        scan: Scan,
        tickets: &mut impl Tickets,
    ) -> Inserted {
        let state = if tentative { TENTATIVE } else { COMMITTED };
        let tick = tick % TICK_WRAP;
        let bucket = self.bucket(hash);
        let mut head = scan.head;
        'ticket: loop {
            let ticket = tickets.draw(&self.tail.0);
            if ticket >= TICKET_MAX {
                return Inserted::Exhausted;
            }
            let slot = self.slot(ticket);
            let meta = ticket << TICKET_SHIFT | tick << TICK_SHIFT;
            let mut old = slot[0].load(Ordering::Relaxed);
            loop {
                if old & BUSY != 0 && !is_mutant("no_busy") || old >> TICKET_SHIFT >= ticket {
                    // Its owner is still writing, or a later lap was faster (L2).
                    self.waste(1);
                    spin_loop();
                    continue 'ticket;
                }
                match slot[0].compare_exchange_weak(
                    old,
                    meta | BUSY | state,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
            self.note_evicted(old, ticket, tick);
            if let Some(owners) = &self.owners
                && old & STATE == COMMITTED
            {
                owners.lose(&slot[HEADER..]);
            }
            // Whoever reads a word written below also sees that the slot has changed hands.
            fence(Ordering::Release);
            for (at, word) in slot[HEADER..].iter().enumerate() {
                word.store(key.word(at), Ordering::Relaxed);
            }
            loop {
                let below = head >> TICKET_SHIFT;
                if below >= ticket && !is_mutant("any_order") {
                    // Linking would break L1: a later ticket was linked first.
                    slot[0].store(meta | DEAD, Ordering::Release);
                    self.waste(1);
                    continue 'ticket;
                }
                let live = below.saturating_add(self.window) > ticket
                    && below > self.floor.0.load(Ordering::Relaxed);
                let next = if live { head } else { 0 };
                slot[1].store(next, Ordering::Relaxed);
                let filter = Self::filter(hash) | next & ((1 << TICKET_SHIFT) - 1);
                match bucket.compare_exchange(
                    head,
                    ticket << TICKET_SHIFT | filter,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => {
                        if let Some(owners) = &self.owners {
                            owners.gain(key);
                        }
                        return Inserted::Linked(Linked { ticket, tick });
                    }
                    Err(now) => {
                        if tentative && !is_mutant("blind_retry") {
                            let found = self.scan_from(now, below, key, hash).found;
                            if found != Found::Absent {
                                slot[0].store(meta | DEAD, Ordering::Release);
                                self.waste(1);
                                return Inserted::Lost(found);
                            }
                        }
                        head = now;
                    }
                }
            }
        }
    }

    /// Counts the places of the owners of keys, if that is wanted.
    pub(crate) const fn owners(&self) -> Option<&Owners> {
        self.owners.as_ref()
    }

    /// Whether inserting this key now would take the place of a live key of another owner, though
    /// its own owner has all the places he may have.
    pub(crate) fn would_push_out_others(&self, key: &(impl Source + ?Sized)) -> bool {
        let Some(owners) = &self.owners else {
            return false;
        };
        if !owners.is_over(key) {
            return false;
        }
        let tail = self.tail.0.load(Ordering::Relaxed);
        let slot = self.slot(tail);
        let oldest = slot[0].load(Ordering::Relaxed) >> TICKET_SHIFT;
        // Read while others may write: a wrong guess costs one place, once.
        oldest > self.floor.0.load(Ordering::Relaxed) && !owners.same(key, &slot[HEADER..])
    }

    /// Ends an insertion: the entry counts, or it is as if it had never been.
    #[inline]
    pub(crate) fn settle(&self, linked: &Linked, keep: bool) {
        let state = if keep { COMMITTED } else { DEAD };
        self.slot(linked.ticket)[0].store(
            linked.ticket << TICKET_SHIFT | linked.tick << TICK_SHIFT | state,
            Ordering::Release,
        );
        if !keep {
            self.waste(1);
        }
    }

    fn waste(&self, count: u64) {
        self.counters.0.wasted.fetch_add(count, Ordering::Relaxed);
    }

    /// Notes the age of the entry that leaves the window because of `ticket`.
    #[inline]
    fn note_evicted(&self, overwritten: u64, ticket: u64, tick: u64) {
        let Some(evicted) = ticket.checked_sub(self.window) else {
            return;
        };
        if evicted <= self.floor.0.load(Ordering::Relaxed) {
            return;
        }
        // A ring with more slots than its window forgets before it overwrites.
        let meta = if self.has_spare_slots() {
            self.slot(evicted)[0].load(Ordering::Relaxed)
        } else {
            overwritten
        };
        if meta >> TICKET_SHIFT != evicted {
            return;
        }
        let age = tick.wrapping_sub(meta >> TICK_SHIFT) % TICK_WRAP;
        let counters = &self.counters.0;
        if counters.last_evicted_age.load(Ordering::Relaxed) != age + 1 {
            counters.last_evicted_age.store(age + 1, Ordering::Relaxed);
        }
        if age > self.due_ticks {
            counters.evicted_due.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets every entry with a ticket below `ticket`; says how many that were.
    pub(crate) fn forget_below(&self, ticket: u64) -> usize {
        let floor = ticket.saturating_sub(1);
        let before = self.floor.0.fetch_max(floor, Ordering::AcqRel);
        let edge = self.tail().saturating_sub(self.window + 1);
        let purged = floor.saturating_sub(before.max(edge));
        self.counters.0.purged.fetch_add(purged, Ordering::Relaxed);
        usize::try_from(purged).unwrap_or(usize::MAX)
    }

    /// Forgets what is more than `due_ticks` old; says how many entries that were.
    ///
    /// Ticks rise with the tickets, so the boundary is found by halving: some twenty loads,
    /// whatever the size, and nobody is stopped.
    pub(crate) fn purge(&self, now_tick: u64) -> usize {
        let tail = self.tail();
        let edge = self.oldest_edge(tail);
        let mut due = edge;
        let mut young = tail;
        while young - due > 1 {
            let middle = due + (young - due) / 2;
            let known = (middle..young).find_map(|t| Some((t, self.age(t, now_tick)?)));
            match known {
                Some((ticket, age)) if age > self.due_ticks => due = ticket,
                _ => young = middle,
            }
        }
        if due == edge {
            0
        } else {
            self.forget_below(due + 1)
        }
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
        let last = self.counters.0.last_evicted_age.load(Ordering::Relaxed);
        let wasted = self.counters.0.wasted.load(Ordering::Relaxed);
        LogStats {
            len,
            inserted: (tail - 1).saturating_sub(wasted),
            wasted,
            purged,
            evicted: (tail - 1).saturating_sub(len + purged),
            evicted_due: self.counters.0.evicted_due.load(Ordering::Relaxed),
            oldest_age_ticks: (edge + 1..tail).find_map(|t| self.age(t, now_tick)),
            last_evicted_age_ticks: last.checked_sub(1),
        }
    }
}

/// Where the words of a key are: in a value, or in a slot that nobody else writes.
pub(crate) trait Source {
    fn word(&self, at: usize) -> u64;
}

impl Source for [u64] {
    #[inline]
    fn word(&self, at: usize) -> u64 {
        self[at]
    }
}

impl Source for [AtomicU64] {
    #[inline]
    fn word(&self, at: usize) -> u64 {
        self[at].load(Ordering::Relaxed)
    }
}

/// Whether these stored words are those of the key.
#[inline]
fn equal(
    stored: &[AtomicU64],
    key: &(impl Source + ?Sized),
    mut words: std::ops::Range<usize>,
) -> bool {
    words.all(|at| stored[at].load(Ordering::Relaxed) == key.word(at))
}

impl<K> std::fmt::Debug for Log<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
