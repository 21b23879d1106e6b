//! Making room on a full disk: what is live moves together, so that whole segments come free.
//!
//! Nothing of this happens while the disk gives more segments, nor as long as more than half of
//! what would have to move is live: then the store is full and says so.

use std::collections::BTreeSet;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::RECORD_BYTES;
use crate::index::Slot;

use super::Log;

/// A segment that would be free if what is live in it and in those before it moved.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    slot: Slot,
    sequence: u64,
    live_bytes: u64,
    /// Bytes of its file that nothing can be written to any more.
    used_bytes: u64,
    file_bytes: u64,
    is_active: bool,
    /// Whether nothing needs to come free before it.
    is_independent: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy)]
struct Move {
    victim: Candidate,
    /// Begin a new segment first.
    fresh: bool,
}

impl Log {
    /// Whether a group of so many bytes can be written behind the last one.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.active.is_some_and(|active| bytes <= active.room())
    }

    /// Whether a group without puts may be written; the reserve is for these.
    pub(super) fn has_room(&mut self, bytes: usize) -> Result<bool, StoreError> {
        while !self.fits(bytes) && self.space.spares() == 0 {
            let made =
                self.space.create()? || self.reclaim_one(true)? || self.make_room(bytes)?.is_some();
            if !made {
                self.owes_room = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a group with puts may be written without touching the reserve.
    pub(super) fn has_room_for_puts(&mut self, bytes: usize) -> Result<bool, StoreError> {
        let mut moved = 0;
        loop {
            let mut needed = self.options.reserve_segments() + usize::from(!self.fits(bytes));
            if self.options.broken(Break::ReserveForPuts) {
                needed = usize::from(!self.fits(bytes));
            }
            if self.space.spares() >= needed {
                self.refused_bytes = 0;
                return Ok(true);
            }
            if self.space.create()? || self.reclaim_one(true)? {
                continue;
            }
            // One commit waits for about one large write at most.
            if moved >= self.options.group_bytes_max {
                break;
            }
            match self.make_room(bytes)? {
                Some(bytes) => moved += bytes,
                None => break,
            }
        }
        self.refused_bytes = bytes;
        self.owes_room = true;
        Ok(false)
    }

    /// Whether what was turned away last would find room now, told once.
    pub(super) fn has_room_again(&mut self) -> Result<Option<bool>, StoreError> {
        if !self.owes_room {
            return Ok(None);
        }
        let needed = self.options.reserve_segments() + usize::from(!self.fits(self.refused_bytes));
        // Somebody else may have made room on the disk.
        self.owes_room = self.space.spares() < needed
            && !(self.space.create()? && self.space.spares() >= needed);
        Ok(Some(!self.owes_room))
    }

    /// A step towards room for the puts that were turned away, or towards a whole reserve, when
    /// the disk has nothing more to give; returns whether there was one.
    pub(super) fn relieve(&mut self) -> Result<bool, StoreError> {
        let reserve = self.options.reserve_segments();
        let refused = self.refused_bytes > 0 && !self.fits(self.refused_bytes);
        if self.space.spares() >= reserve + usize::from(refused) {
            return Ok(false);
        }
        Ok(self.reclaim_one(true)? || self.make_room(self.refused_bytes)?.is_some())
    }

    /// Moves live records out of one segment, if that leads to more segments outside the log, or
    /// at least to `wanted` bytes in a fresh one. Returns the bytes moved, `None` when nothing of
    /// the kind would help. The reserve may be used for it and is whole again at the end.
    fn make_room(&mut self, wanted: usize) -> Result<Option<usize>, StoreError> {
        let Some(Move { victim, fresh }) = self.next_move(wanted) else {
            return Ok(None);
        };
        let capacity = self.options.capacity();
        let live = self.live_in(victim.slot)?;
        let room = self.active.map_or(0, |active| active.room());
        let first_bytes = live.first().map_or(0, |at| at.bytes as usize) + RECORD_BYTES;
        let spares = self.space.spares();
        let whole_bytes = victim.live_bytes.saturating_add(RECORD_BYTES as u64);
        let fits = |room: usize| whole_bytes <= room as u64;
        let fresh = fresh || first_bytes > room || (spares == 1 && !fits(room));
        let room = if fresh { capacity } else { room };
        if (fresh && spares == 0) || first_bytes > room {
            return Ok(None);
        }
        // With the last spare at stake it must come back in this very step.
        let bytes_max = if spares > 1 {
            room.min(self.options.group_bytes_max)
        } else {
            room
        };
        if spares <= 1 && !fits(room) {
            return Ok(None);
        }
        let Some(carried) = self.read_live(victim.slot, &live, bytes_max) else {
            // Damaged: it stays until somebody removes it, and another way has to be found.
            self.pinned.insert(victim.sequence);
            return Ok(Some(0));
        };
        if fresh {
            self.active = None;
        }
        let moved = carried
            .iter()
            .map(super::carry::Carried::encoded_bytes)
            .sum();
        self.write_group(&[], &[], &carried, 0)?;
        self.reclaim_one(true)?;
        Ok(Some(moved))
    }

    /// The cheapest way to a segment, else the oldest segments together, else a fresh start.
    fn next_move(&self, wanted: usize) -> Option<Move> {
        let header = RECORD_BYTES as u64;
        let room = self.active.map_or(0, |active| active.room()) as u64;
        let capacity = self.options.capacity() as u64;
        let segment_bytes = u64::from(self.options.segment_bytes);
        let candidates = self.candidates();

        let alone = candidates
            .iter()
            .filter(|one| one.is_independent && one.live_bytes <= one.used_bytes / 2)
            .min_by_key(|one| one.live_bytes)
            .copied();
        if let Some(victim) = alone
            && !victim.is_active
            && victim.live_bytes + header <= room
        {
            let fresh = false;
            return Some(Move { victim, fresh });
        }

        let (mut live_bytes, mut freed_bytes) = (0, 0);
        for (at, one) in candidates.iter().enumerate() {
            live_bytes += one.live_bytes;
            freed_bytes += one.file_bytes;
            // Whatever their sizes, of two neighbours among packed segments the records of the
            // second did not fit the first: both together hold more than one can.
            let segments = if !one.is_active && live_bytes + header <= room {
                0
            } else if live_bytes + header <= capacity {
                1
            } else {
                1 + (2 * live_bytes).div_ceil(capacity - capacity / 16)
            };
            if freed_bytes >= (segments + 1) * segment_bytes && live_bytes <= freed_bytes / 2 {
                let first = candidates[..=at].iter().find(|one| one.live_bytes > 0);
                return Some(Move {
                    victim: first.copied().unwrap_or(*one),
                    fresh: one.is_active,
                });
            }
        }

        let wanted = wanted as u64;
        let victim = alone.filter(|one| {
            wanted > room
                && one.file_bytes >= segment_bytes
                && one.live_bytes + header + wanted <= capacity
        })?;
        let fresh = true;
        Some(Move { victim, fresh })
    }

    /// What can be freed by moving, in the order in which it would come free.
    fn candidates(&self) -> Vec<Candidate> {
        let active = self.active.map(|active| active.slot);
        let index = self.shared.index();
        let mut freed = BTreeSet::new();
        let mut candidates = Vec::new();
        for (sequence, slot) in &self.order {
            let segment = index.segments.get(*slot);
            if self.pinned.contains(sequence) || !segment.depends.is_subset(&freed) {
                continue;
            }
            freed.insert(*sequence);
            let is_active = Some(*slot) == active;
            let file_bytes = u64::from(segment.file.bytes);
            candidates.push(Candidate {
                slot: *slot,
                sequence: *sequence,
                live_bytes: segment.live_bytes,
                used_bytes: if is_active {
                    u64::from(segment.end)
                } else {
                    file_bytes
                },
                file_bytes,
                is_active,
                is_independent: segment.depends.is_empty(),
            });
        }
        candidates
    }
}
