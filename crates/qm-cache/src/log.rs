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
//! * L4 A ticket is linked at most once, so a word of the index comes back only after 2^40 others.
//!
//! An insertion takes effect when its compare-and-swap of the index succeeds.
//!
//! A word of the index has room for the low 40 bits of a ticket beside its filter. They are
//! completed with the help of a ticket that is known to be no older ([`unfold`]). A word that
//! nobody replaced during 2^40 insertions may so be taken for a younger one: a look then goes down
//! the chain of some other hash, where it finds no key that is not there, because keys are
//! compared.

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64 as StdU64;

use crate::Key;
use crate::owners::Owners;
use crate::reduce::Modulus;
use crate::sync::{AtomicU64, Line, Ordering, fence, is_mutant, spin_loop, words};

/// Tickets are 48 bits: 8.9 years at a million insertions a second. From here on none is drawn, so
/// far below that those which threads draw meanwhile do not overflow.
const TICKET_MAX: u64 = (1 << 48) - (1 << 24);
/// Where in `tail` the count of boundaries begins; the next ticket lies below.
const BOUNDARY: u64 = 1 << 48;
/// Where the ticket begins in the `meta` of a slot.
const TICKET_SHIFT: u32 = 16;

/// Where the ticket begins in a word of the index; the filter lies below.
const WORD_SHIFT: u32 = 24;
const FILTERS: u64 = (1 << WORD_SHIFT) - 1;
/// Bits of a ticket in a word of the index.
const WORD_TICKETS: u64 = u64::MAX >> WORD_SHIFT;

/// Entries' ticks are kept modulo this.
pub(crate) const TICK_WRAP: u64 = 1 << 13;
const TICK_SHIFT: u32 = 3;

const BUSY: u64 = 1 << 2;
const STATE: u64 = 3;
const DEAD: u64 = 0;
const TENTATIVE: u64 = 1;
const COMMITTED: u64 = 2;

/// The bits of a tick in a mark.
const MARK_TICKS: u64 = (1 << TICKET_SHIFT) - 1;

/// Words of a slot in front of its key: `meta`, `next`.
const HEADER: usize = 2;

/// Slots a ring has at least, whatever the window: so many insertions may be stopped half-way
/// before another has to wait for one of them.
#[cfg(not(loom))]
const SLOTS_MIN: usize = 64;
#[cfg(loom)]
const SLOTS_MIN: usize = 1;

/// An entry is given up without a look at its slot when so many more tickets than the window have
/// been drawn since: more than threads can have drawn in advance.
const LATE: u64 = 4096;

/// Marks of so many ticks before the one asked for are looked at too: who was to leave that one may
/// have been stopped before he did.
const SPARE_MARKS: u64 = if cfg!(loom) { 0 } else { 8 };

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

/// Where a hash belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    bucket: &'a AtomicU64,
    /// The bits of the key in the filters.
    filter: u64,
}

/// A linked entry whose slot is still BUSY.
#[derive(Debug)]
pub(crate) struct Linked<'a> {
    /// What names it in the index.
    word: u64,
    slot: &'a AtomicU64,
    /// What its slot will say, without the state.
    meta: u64,
}

/// The ticket whose low bits stand in a word of the index: the newest that is not above `above`.
///
/// Right if the ticket in the word is not above `above` either, nor 2^40 or more below.
#[inline]
const fn unfold(word: u64, above: u64) -> u64 {
    above.wrapping_sub(above.wrapping_sub(word >> WORD_SHIFT) & WORD_TICKETS)
}

/// The result of an insertion.
#[derive(Debug)]
pub(crate) enum Inserted<'a> {
    Linked(Linked<'a>),
    /// Another thread's entry of the same key was there first.
    Lost(Found),
    /// Tickets have run out: nothing is remembered any more.
    Exhausted,
}

/// Where insertions take their tickets.
pub(crate) trait Tickets {
    /// A ticket, and where its slot begins in the ring.
    fn draw<K: Key>(&mut self, log: &Log<K>) -> (u64, usize);
}

/// One ticket at a time.
pub(crate) struct Single;

impl Tickets for Single {
    #[inline(always)]
    fn draw<K: Key>(&mut self, log: &Log<K>) -> (u64, usize) {
        let ticket = log.draw(1) % BOUNDARY;
        (ticket, log.position(ticket))
    }
}

/// Tickets drawn many at once, when the first is wanted.
#[derive(Debug)]
pub(crate) struct Run {
    next: u64,
    end: u64,
    /// What `tail` said after the draw: the run can be returned while it says so.
    tail: u64,
    /// Where the slot of `next` begins.
    position: usize,
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
    #[inline(always)]
    fn draw<K: Key>(&mut self, log: &Log<K>) -> (u64, usize) {
        if self.next == self.end {
            let drawn = log.draw(self.count);
            self.tail = drawn + self.count;
            self.next = drawn % BOUNDARY;
            self.end = self.next + self.count;
            self.position = log.position(self.next);
        }
        let drawn = (self.next, self.position);
        self.next += 1;
        self.position += Log::<K>::STRIDE;
        if self.position == log.ring.len() {
            self.position = 0;
        }
        drawn
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
    /// `boundaries:16 | ticket:48`: the next ticket, the first being 1, and how often it was taken
    /// for a boundary that no later draw goes below.
    tail: Line<AtomicU64>,
    /// Every ticket up to this one is forgotten.
    floor: Line<AtomicU64>,
    counters: Line<Counters>,
    index: Box<[AtomicU64]>,
    ring: Box<[AtomicU64]>,
    window: u64,
    /// Whether the ring has more slots than its window, so that being overwritten and being
    /// forgotten are not the same.
    has_spare_slots: bool,
    slots: Modulus,
    /// Entries older than this many ticks are due to be forgotten.
    due_ticks: u64,
    /// Of the latest ticks the boundary taken before the clock reached them, `ticket:48 | tick:16`:
    /// tickets below had been drawn before. Empty where keys do not age.
    marks: Box<[AtomicU64]>,
    owners: Option<Owners>,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> Log<K> {
    const STRIDE: usize = HEADER + K::WORDS;

    /// A log that remembers the newest `window` entries.
    pub(crate) fn new(window: usize, due_ticks: u64, owners: Option<Owners>) -> Self {
        let slots = window.max(SLOTS_MIN);
        // Refuses what is too large before any memory is taken.
        let modulus = Modulus::new(slots as u64);
        let marks = due_ticks.checked_add(2 + SPARE_MARKS).map_or(0, |marks| {
            usize::try_from(marks).expect("ticks of an interval are few")
        });
        Self {
            tail: Line(AtomicU64::new(1)),
            floor: Line(AtomicU64::new(0)),
            counters: Line::default(),
            index: words(window.next_power_of_two()),
            ring: words(
                slots
                    .checked_mul(Self::STRIDE)
                    .expect("the ring fits into memory"),
            ),
            window: window as u64,
            has_spare_slots: slots != window,
            slots: modulus,
            due_ticks,
            marks: words(marks),
            owners,
            key: PhantomData,
        }
    }

    /// Bytes held on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        (self.index.len() + self.ring.len() + self.marks.len()) * 8
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
        self.tail.0.load(Ordering::Acquire) % BOUNDARY
    }

    /// The next ticket, for who needs no order with what else was written.
    #[inline(always)]
    fn newest(&self) -> u64 {
        self.tail.0.load(Ordering::Relaxed) % BOUNDARY
    }

    /// The next ticket, with the promise that none below is drawn from here on.
    ///
    /// Reading it would not do: of a run that somebody has drawn he may yet return the rest, and
    /// who draws that later is below.
    pub(crate) fn boundary(&self) -> u64 {
        if is_mutant("run_returns") {
            return self.tail();
        }
        self.tail.0.fetch_add(BOUNDARY, Ordering::AcqRel) % BOUNDARY
    }

    /// Where a hash belongs: a bucket, and three bits of the filters, one of each eight, drawn from
    /// hash bits that no bucket uses.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked by the length of the index"
    )]
    pub(crate) fn place(&self, hash: u64) -> Place<'_> {
        Place {
            bucket: &self.index[hash as usize & (self.index.len() - 1)],
            filter: 1 << (hash >> 61) | 1 << (hash >> 58 & 7 | 8) | 1 << (hash >> 55 & 7 | 16),
        }
    }

    /// Where in the ring the slot of a ticket begins.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below the number of slots, a usize"
    )]
    const fn position(&self, ticket: u64) -> usize {
        self.slots.of(ticket) as usize * Self::STRIDE
    }

    /// Draws so many tickets; what `tail` said before, with the first in it.
    ///
    /// What is done with a ticket should not have to wait for the read-modify-write, which waits
    /// for everything before it, a bucket far away among it. So the ticket is taken from a load,
    /// and the exchange only confirms it: the processor goes on with the next key meanwhile.
    #[inline(always)]
    fn draw(&self, count: u64) -> u64 {
        let tail = &self.tail.0;
        let first = tail.load(Ordering::Relaxed);
        if first % BOUNDARY >= TICKET_MAX {
            return first;
        }
        match tail.compare_exchange(first, first + count, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => first,
            // Others draw too: whoever comes now gets one at the first attempt.
            Err(_) => tail.fetch_add(count, Ordering::Relaxed),
        }
    }

    #[inline]
    fn slot(&self, ticket: u64) -> &[AtomicU64] {
        let at = self.position(ticket);
        &self.ring[at..at + Self::STRIDE]
    }

    /// Looks for a key.
    #[inline(always)]
    pub(crate) fn scan(&self, key: &(impl Source + ?Sized), place: Place<'_>) -> Scan {
        self.scan_from(self.head(place), key, place)
    }

    /// Looks for a key in the chain with this head.
    #[inline(always)]
    pub(crate) fn scan_from(
        &self,
        head: u64,
        key: &(impl Source + ?Sized),
        place: Place<'_>,
    ) -> Scan {
        if head & place.filter == place.filter {
            return self.look_down(head, 0, key, place.filter);
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
    pub(crate) fn rescan(
        &self,
        before: Scan,
        key: &(impl Source + ?Sized),
        place: Place<'_>,
    ) -> Scan {
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
        key: &(impl Source + ?Sized),
        place: Place<'_>,
    ) -> Found {
        let head = place.bucket.load(Ordering::Acquire);
        self.look_down(head, linked.word, key, place.filter).found
    }

    /// Looks down from `head`, read with Acquire, to the word `stop`, which and what is behind it
    /// has been looked at before.
    fn look_down(&self, head: u64, stop: u64, key: &(impl Source + ?Sized), filter: u64) -> Scan {
        let mut scan = Scan {
            found: Found::Absent,
            head,
            sibling: false,
        };
        let mut word = head;
        // Who linked `head` had drawn its ticket before.
        let tail = self.newest();
        let mut ticket = tail;
        while word & filter == filter && word != stop {
            ticket = unfold(word, ticket);
            if ticket <= self.floor.0.load(Ordering::Relaxed)
                || tail.saturating_sub(ticket) > self.window + LATE
            {
                break; // forgotten, and all behind it (L1)
            }
            let slot = self.slot(ticket);
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

    /// Brings the bucket of a hash near; the value means nothing.
    #[inline]
    pub(crate) fn touch_bucket(&self, hash: u64) -> u64 {
        self.place(hash).bucket.load(Ordering::Relaxed)
    }

    /// Brings the slot near that a look for this hash would read at this word of the chain, if
    /// any; the word behind it, unless the slot seems to hold the key.
    #[inline]
    pub(crate) fn touch_slot(&self, word: u64, tail: u64, hash: u64, last_word: u64) -> u64 {
        let filter = self.place(hash).filter;
        if word & filter != filter {
            return 0;
        }
        let ticket = unfold(word, tail);
        if tail.wrapping_sub(ticket) > self.window + LATE {
            return 0;
        }
        let slot = self.slot(ticket);
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

    /// Orders this thread against every other that orders itself or inserts in the same bucket:
    /// of two, the later one sees what the earlier one wrote before.
    ///
    /// It takes a read-modify-write that is really done. `fetch_or(0)` would say the same, but
    /// compilers replace one whose result is unused by a fence, which on x86 is nothing at all
    /// below `SeqCst`; the write to the table of reservations would then pass the reads behind it.
    #[inline]
    pub(crate) fn order(&self, place: Place<'_>, mut head: u64) {
        while let Err(now) =
            place
                .bucket
                .compare_exchange_weak(head, head, Ordering::AcqRel, Ordering::Relaxed)
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
            tail: 0,
            position: 0,
            count: 1,
            may_draw_ahead: !self.has_spare_slots,
        }
    }

    /// Gives back what is left of a run; it is wasted when others have drawn since, or taken a
    /// [boundary](Self::boundary).
    pub(crate) fn return_run(&self, run: &Run) {
        let left = run.end - run.next;
        if left > 0
            && self
                .tail
                .0
                .compare_exchange(
                    run.tail,
                    run.tail - left,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_err()
        {
            self.waste(left);
        }
    }

    /// Links an entry that a look down from `head` did not find.
    ///
    /// A *tentative* entry gives way to another entry of its key that is linked meanwhile. One
    /// that is not belongs to who holds the reservation of the key: nobody else can commit it, and
    /// tentative entries give way to the reservation. The slot stays BUSY until
    /// [`settle`](Self::settle).
    #[inline(always)]
    pub(crate) fn insert<'a>(
        &'a self,
        key: &(impl Source + ?Sized),
        place: Place<'a>,
        tick: u64,
        tentative: bool,
        mut head: u64,
        tickets: &mut impl Tickets,
    ) -> Inserted<'a> {
        let state = if tentative { TENTATIVE } else { COMMITTED };
        let tick = tick % TICK_WRAP;
        'ticket: loop {
            let (ticket, at) = tickets.draw(self);
            if ticket >= TICKET_MAX {
                return Inserted::Exhausted;
            }
            let slot = &self.ring[at..at + Self::STRIDE];
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
            if K::OWNER_WORDS > 0
                && let Some(owners) = &self.owners
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
                let Some(next) = self.behind(ticket, head) else {
                    // Linking would break L1: a later ticket was linked first.
                    slot[0].store(meta | DEAD, Ordering::Release);
                    self.waste(1);
                    continue 'ticket;
                };
                slot[1].store(next, Ordering::Relaxed);
                let word = ticket << WORD_SHIFT | place.filter | next & FILTERS;
                match place
                    .bucket
                    .compare_exchange(head, word, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => {
                        if K::OWNER_WORDS > 0
                            && let Some(owners) = &self.owners
                        {
                            owners.gain(key);
                        }
                        let slot = &slot[0];
                        return Inserted::Linked(Linked { word, slot, meta });
                    }
                    Err(now) => {
                        if tentative && !is_mutant("blind_retry") {
                            let found = self.look_down(now, head, key, place.filter).found;
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

    /// What an entry with this ticket has to name as the one behind it, if `head` was the head of
    /// its chain: the head, or 0 when that is forgotten. `None` when the head is newer.
    #[inline(always)]
    fn behind(&self, ticket: u64, head: u64) -> Option<u64> {
        let age = ticket.wrapping_sub(head >> WORD_SHIFT) & WORD_TICKETS;
        if age.wrapping_sub(1) < self.window - 1 {
            let live = ticket - age > self.floor.0.load(Ordering::Relaxed);
            Some(if live { head } else { 0 })
        } else if age.wrapping_sub(1) < WORD_TICKETS / 2 {
            Some(0)
        } else {
            self.behind_newer(ticket, head)
        }
    }

    /// The same when the head looks newer; it may be very old, or there may be none.
    #[cold]
    fn behind_newer(&self, ticket: u64, head: u64) -> Option<u64> {
        let tail = self.newest();
        let newer = head != 0 && unfold(head, tail) >= ticket;
        (!newer || is_mutant("any_order")).then_some(if newer { head } else { 0 })
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
        let slot = self.slot(self.newest());
        let oldest = slot[0].load(Ordering::Relaxed) >> TICKET_SHIFT;
        // Read while others may write: a wrong guess costs one place, once.
        oldest > self.floor.0.load(Ordering::Relaxed) && !owners.same(key, &slot[HEADER..])
    }

    /// Ends an insertion: the entry counts, or it is as if it had never been.
    #[inline(always)]
    pub(crate) fn settle(&self, linked: &Linked<'_>, keep: bool) {
        let state = if keep { COMMITTED } else { DEAD };
        linked.slot.store(linked.meta | state, Ordering::Release);
        if !keep {
            self.waste(1);
        }
    }

    #[cold]
    fn waste(&self, count: u64) {
        self.counters.0.wasted.fetch_add(count, Ordering::Relaxed);
    }

    #[cold]
    fn meta_beyond_window(&self, ticket: u64) -> u64 {
        self.slot(ticket.saturating_sub(self.window))[0].load(Ordering::Relaxed)
    }

    /// Notes the age of the entry that leaves the window because of `ticket`.
    #[inline(always)]
    fn note_evicted(&self, overwritten: u64, ticket: u64, tick: u64) {
        // A ring with more slots than its window forgets before it overwrites.
        let meta = if self.has_spare_slots {
            self.meta_beyond_window(ticket)
        } else {
            overwritten
        };
        let evicted = meta >> TICKET_SHIFT;
        if evicted + self.window != ticket || evicted <= self.floor.0.load(Ordering::Relaxed) {
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

#[cfg(all(test, not(loom)))]
#[path = "log/tests.rs"]
mod tests;
