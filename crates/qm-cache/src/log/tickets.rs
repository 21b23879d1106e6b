//! Tickets: one at a time, or a run of them for a batch, of which what is left goes back.

use super::Log;
use crate::Key;
use crate::sync::Ordering;

use super::{BOUNDARY, TICKET_MAX};

/// Where insertions take their tickets.
pub(crate) trait Tickets {
    /// A ticket, and where its slot begins in the ring; `None` if others are faster just now, or
    /// tickets have run out.
    fn try_draw<K: Key>(&mut self, log: &Log<K>) -> Option<(u64, usize)>;

    /// The same for who does not take no for an answer.
    fn draw<K: Key>(&mut self, log: &Log<K>) -> (u64, usize);
}

/// One ticket at a time.
pub(crate) struct Single;

impl Tickets for Single {
    /// What is done with a ticket should not have to wait for the read-modify-write, which waits
    /// for everything before it, a bucket far away among it. So the ticket is taken from a load,
    /// and the exchange only confirms it: the processor goes on with the next key meanwhile.
    #[inline(always)]
    fn try_draw<K: Key>(&mut self, log: &Log<K>) -> Option<(u64, usize)> {
        let tail = log.tail.0.load(Ordering::Relaxed);
        let ticket = tail % BOUNDARY;
        let is_drawn = ticket < TICKET_MAX
            && log
                .tail
                .0
                .compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        is_drawn.then(|| (ticket, log.position(ticket)))
    }

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
    fn try_draw<K: Key>(&mut self, log: &Log<K>) -> Option<(u64, usize)> {
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
        (drawn.0 < TICKET_MAX).then_some(drawn)
    }

    fn draw<K: Key>(&mut self, log: &Log<K>) -> (u64, usize) {
        self.try_draw(log).unwrap_or((TICKET_MAX, 0))
    }
}

impl<K: Key> Log<K> {
    /// Draws so many tickets; what `tail` said before, with the first in it.
    #[inline]
    fn draw(&self, count: u64) -> u64 {
        let tail = self.tail.0.load(Ordering::Relaxed);
        if tail % BOUNDARY >= TICKET_MAX {
            return tail;
        }
        // Others draw too: whoever comes now gets some at the first attempt.
        self.tail.0.fetch_add(count, Ordering::Relaxed)
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
}
