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

mod aging;
mod look;
mod tickets;

use std::marker::PhantomData;
use std::sync::atomic::AtomicU64 as StdU64;

use crate::Key;
use crate::key::Source;
use crate::owners::Owners;
use crate::reduce::Modulus;
use crate::sync::{AtomicU64, Line, Ordering, fence, is_mutant, spin_loop, words};

pub(crate) use tickets::{Single, Tickets};

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
/// The bits of a key in the filters, one of each eight, by nine bits of its hash.
static FILTER: [u32; 512] = {
    let mut filters = [0; 512];
    let mut bits = 0;
    while bits < filters.len() {
        filters[bits] = 1 << (bits >> 6) | 1 << (bits >> 3 & 7 | 8) | 1 << (bits & 7 | 16);
        bits += 1;
    }
    filters
};
/// Bits of a ticket in a word of the index.
const WORD_TICKETS: u64 = u64::MAX >> WORD_SHIFT;

/// Entries' ticks are kept modulo this.
pub(crate) const TICK_WRAP: u64 = 1 << 13;
const TICK_SHIFT: u32 = 3;

/// The bits of a tick in the `meta` of a slot.
const TICKS: u64 = (TICK_WRAP - 1) << TICK_SHIFT;
/// Marks an eviction that is followed by others which are to be noted as well.
const EACH: u64 = 1;

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

#[derive(Debug, Default)]
struct Counters {
    wasted: StdU64,
    purged: StdU64,
    evicted_due: StdU64,
    /// The [`eviction`] noted last, with [`EACH`]; 0 when nothing was. While it stays the same
    /// there is nothing to be done for another.
    last_evicted: StdU64,
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
            filter: u64::from(FILTER[(hash >> 55) as usize]),
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

    #[inline]
    fn slot(&self, ticket: u64) -> &[AtomicU64] {
        let at = self.position(ticket);
        &self.ring[at..at + Self::STRIDE]
    }

    /// The slot of a ticket below `tail`, whose own slot begins at `end`; none if the ticket is
    /// forgotten for certain.
    ///
    /// To go back from there is sooner done than a remainder, which the look into the slot would
    /// have to wait for.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most the number of slots"
    )]
    fn slot_before(&self, tail: u64, end: usize, ticket: u64) -> Option<&[AtomicU64]> {
        let age = tail.wrapping_sub(ticket);
        if age > self.slots.slots() {
            return (age <= self.window + LATE).then(|| self.slot(ticket));
        }
        let back = age as usize * Self::STRIDE;
        let at = if back > end {
            end + self.ring.len()
        } else {
            end
        } - back;
        Some(&self.ring[at..][..Self::STRIDE])
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

    /// Links an entry that a look down from `head` did not find; if that cannot be, what was found
    /// instead: nothing, when tickets have run out.
    ///
    /// A *tentative* entry gives way to another entry of its key that is linked meanwhile. One
    /// that is not belongs to who holds the reservation of the key: nobody else can commit it, and
    /// tentative entries give way to the reservation. The slot stays BUSY until
    /// [`settle`](Self::settle).
    #[inline(always)]
    pub(crate) fn insert<'a>(
        &'a self,
        key: impl Source,
        place: Place<'a>,
        tick: u64,
        tentative: bool,
        head: u64,
        tickets: &mut impl Tickets,
    ) -> Result<Linked<'a>, Found> {
        if let Some(drawn) = tickets.try_draw(self) {
            match self.enter(key, place, drawn, tick, tentative, head) {
                Ok(linked) => return Ok(linked),
                Err(Some(found)) => return Err(found),
                Err(None) => {}
            }
        }
        // Taken apart and put together again: a result that is handed through lies in memory, the
        // one above as well.
        let Linked { word, slot, meta } =
            self.insert_again(key, place, tick, tentative, head, tickets)?;
        Ok(Linked { word, slot, meta })
    }

    /// The same with one ticket after the other, for who was not lucky with the first.
    #[cold]
    #[inline(never)]
    fn insert_again<'a>(
        &'a self,
        key: impl Source,
        place: Place<'a>,
        tick: u64,
        tentative: bool,
        head: u64,
        tickets: &mut impl Tickets,
    ) -> Result<Linked<'a>, Found> {
        loop {
            let drawn = tickets.draw(self);
            if drawn.0 >= TICKET_MAX {
                return Err(Found::Absent);
            }
            match self.enter(key, place, drawn, tick, tentative, head) {
                Ok(linked) => return Ok(linked),
                Err(Some(found)) => return Err(found),
                Err(None) => spin_loop(),
            }
        }
    }

    /// Writes an entry into the slot of its ticket and links it; if that cannot be, what was found
    /// instead, or nothing when it takes another ticket.
    #[inline(always)]
    fn enter<'a>(
        &'a self,
        key: impl Source,
        place: Place<'a>,
        (ticket, at): (u64, usize),
        tick: u64,
        tentative: bool,
        head: u64,
    ) -> Result<Linked<'a>, Option<Found>> {
        let state = if tentative { TENTATIVE } else { COMMITTED };
        let tick = tick % TICK_WRAP;
        let slot = &self.ring[at..at + Self::STRIDE];
        let meta = ticket << TICKET_SHIFT | tick << TICK_SHIFT;
        let old = slot[0].load(Ordering::Relaxed);
        if old & BUSY != 0 && !is_mutant("no_busy") || old >> TICKET_SHIFT >= ticket {
            // Its owner is still writing, or a later lap was faster (L2).
            self.waste(1);
            return Err(None);
        }
        let claim = meta | BUSY | state;
        if slot[0]
            .compare_exchange(old, claim, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            // Now it is so, or was in between.
            self.waste(1);
            return Err(None);
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
        let word = match self.link(place, slot, ticket, head) {
            Ok(word) => word,
            Err(now) => {
                let (word, found) =
                    self.link_again(key, place, slot, ticket, tentative, [head, now]);
                if word == 0 {
                    slot[0].store(meta | DEAD, Ordering::Release);
                    self.waste(1);
                    return Err((found != Found::Absent).then_some(found));
                }
                word
            }
        };
        if K::OWNER_WORDS > 0
            && let Some(owners) = &self.owners
        {
            owners.gain(key);
        }
        let slot = &slot[0];
        Ok(Linked { word, slot, meta })
    }

    /// Links a written slot above `head`: what names it in the index, or the head that is there
    /// instead.
    #[inline(always)]
    fn link(
        &self,
        place: Place<'_>,
        slot: &[AtomicU64],
        ticket: u64,
        head: u64,
    ) -> Result<u64, u64> {
        // Linking above a later ticket would break L1.
        let next = self.behind(ticket, head).ok_or(head)?;
        slot[1].store(next, Ordering::Relaxed);
        let word = ticket << WORD_SHIFT | place.filter | next & FILTERS;
        place
            .bucket
            .compare_exchange(head, word, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| word)
    }

    /// Links a written slot to a chain that no longer has the head it had: what names it in the
    /// index. Or 0, and what was found; nothing, when a later ticket was linked first.
    #[cold]
    #[inline(never)]
    fn link_again(
        &self,
        key: impl Source,
        place: Place<'_>,
        slot: &[AtomicU64],
        ticket: u64,
        tentative: bool,
        [mut before, mut head]: [u64; 2],
    ) -> (u64, Found) {
        while head != before {
            if tentative && !is_mutant("blind_retry") {
                let found = self.look_down(head, before, key, place.filter).found;
                if found != Found::Absent {
                    return (0, found);
                }
            }
            before = head;
            match self.link(place, slot, ticket, head) {
                Ok(word) => return (word, Found::Absent),
                Err(now) => head = now,
            }
        }
        (0, Found::Absent)
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
    pub(crate) fn would_push_out_others(&self, key: impl Source) -> bool {
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

    /// Notes the age of the entry that leaves the window because of `ticket`.
    #[inline(always)]
    fn note_evicted(&self, overwritten: u64, ticket: u64, tick: u64) {
        let noted = self.counters.0.last_evicted.load(Ordering::Relaxed);
        if noted != eviction(overwritten, tick) {
            self.note_other_evicted(overwritten, ticket, tick);
        }
    }

    #[cold]
    #[inline(never)]
    fn note_other_evicted(&self, overwritten: u64, ticket: u64, tick: u64) {
        // A ring with more slots than its window forgets before it overwrites.
        let meta = if self.has_spare_slots {
            self.slot(ticket.saturating_sub(self.window))[0].load(Ordering::Relaxed)
        } else {
            overwritten
        };
        let evicted = meta >> TICKET_SHIFT;
        if evicted + self.window != ticket || evicted <= self.floor.0.load(Ordering::Relaxed) {
            return;
        }
        let counters = &self.counters.0;
        let mut noted = eviction(meta, tick);
        let is_due = age_of(noted) > self.due_ticks;
        if is_due {
            counters.evicted_due.fetch_add(1, Ordering::Relaxed);
        }
        if is_due || self.has_spare_slots {
            noted |= EACH;
        }
        if counters.last_evicted.load(Ordering::Relaxed) != noted {
            counters.last_evicted.store(noted, Ordering::Relaxed);
        }
    }
}

/// What is noted of an entry with this meta that leaves the window at a tick: one more than that
/// tick, and below it the tick of the entry.
#[inline(always)]
const fn eviction(meta: u64, tick: u64) -> u64 {
    (tick + 1) << TICKET_SHIFT | meta & TICKS
}

/// The age of the entry in what is noted of it.
const fn age_of(noted: u64) -> u64 {
    (noted >> TICKET_SHIFT).wrapping_sub(1 + ((noted & TICKS) >> TICK_SHIFT)) % TICK_WRAP
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
