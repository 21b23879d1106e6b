//! Carrying what is still live out of the oldest segment, so that its file can be used again.
//!
//! Oldest first: a segment can only be given back when the older ones its marks refer to are
//! gone, so one long-lived record would otherwise hold everything written after it.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Encoder, FLAG_CARRIED, Kind, RECORD, RECORD_BYTES, RecordHeader};
use crate::hint::Effect;
use crate::index::{Index, Location, Segment, Slot};
use crate::segment::Window;
use crate::side::SideBody;
use crate::types::StreamId;

use super::{DATA_AT, Log, RETAINED_MAX};

/// What one commit copies at least, when there is something to copy.
const COPY_BYTES: usize = 64 * 1024;
/// What one commit looks through at most.
const LOOK_BYTES: usize = 1024 * 1024;
/// What is copied at once while nobody waits.
const IDLE_BYTES: usize = 256 * 1024;

/// How far the segment being emptied was looked through.
#[derive(Debug)]
pub(super) struct Carry {
    slot: Slot,
    sequence: u64,
    at: u32,
}

/// A live record on its way into the active segment.
#[derive(Debug)]
pub(super) struct Carried {
    header: RecordHeader,
    payload: Bytes,
}

impl Carried {
    /// The same as where it came from.
    pub(super) fn encoded_bytes(&self) -> usize {
        usize::try_from(self.header.record_bytes()).unwrap_or(usize::MAX)
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_>, flags: u8) {
        let flags = flags | FLAG_CARRIED;
        let (head, body) = self.payload.split_at(self.header.head_bytes as usize);
        match self.header.kind {
            Kind::Set => encoder.set(flags, head, body),
            Kind::SidePut => encoder.side_put(
                flags,
                StreamId(self.header.stream),
                self.header.position,
                head,
                body,
            ),
            _ => encoder.put(
                flags,
                StreamId(self.header.stream),
                self.header.position,
                head,
                body,
            ),
        }
    }

    /// What it does to the index.
    pub(super) fn effect(&self) -> Effect {
        let (head, body) = self.payload.split_at(self.header.head_bytes as usize);
        match self.header.kind {
            // A copy of its own: a slice would keep the whole payload in memory.
            Kind::Set => Effect::Set {
                key: Bytes::copy_from_slice(head),
                carried: true,
            },
            kind => Effect::Put {
                stream: StreamId(self.header.stream),
                position: self.header.position,
                carried: true,
                side: match kind {
                    Kind::SidePut => SideBody::decode(body),
                    _ => None,
                },
            },
        }
    }
}

/// Why records are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urge {
    /// The reserve is at stake: as much as fits.
    Pressed,
    /// The log has grown far beyond what is live: a little with every commit.
    Paced,
    /// Nobody waits.
    Idle,
}

impl Log {
    /// What the next group should take along, at most `room` bytes. Unless the reserve is at stake
    /// that is no more than twice what the group has anyway, 64 KiB, or one record.
    pub(super) fn next_carried(
        &mut self,
        room: usize,
        group_bytes: usize,
    ) -> Result<Vec<Carried>, StoreError> {
        if self.space.spares() < self.options.reserve_segments() {
            return self.carry(Urge::Pressed, room, usize::MAX);
        }
        let capacity = self.options.capacity() as u64;
        let live_bytes = self.shared.index().segments.live_bytes();
        let slack = (self.options.spare_segments_max + RETAINED_MAX) as u64 * capacity;
        if self.order.len() as u64 * capacity <= 2 * live_bytes + slack {
            return Ok(Vec::new());
        }
        let pace = COPY_BYTES.max(group_bytes.saturating_mul(2));
        self.carry(Urge::Paced, room, pace)
    }

    /// Moves some of what is live in a segment that holds little of it; returns whether there was
    /// any. For a log nobody is using, so that what it drained to does not hold the disk.
    pub(super) fn compact_idle(&mut self) -> Result<bool, StoreError> {
        let Some(active) = self.active else {
            return Ok(false);
        };
        let Some(carry) = self.victim(Urge::Idle, 0) else {
            return Ok(false);
        };
        let (slot, at) = (carry.slot, carry.at);
        self.carry = Some(carry);
        let room = active.room().saturating_sub(RECORD_BYTES);
        let mut carried = self.carry(Urge::Idle, room, IDLE_BYTES)?;
        let advanced = self.carry.as_ref().is_none_or(|carry| carry.at > at);
        if carried.is_empty() && !advanced {
            // The next record does not fit: another segment is begun for it, as one comes free.
            if self.space.spares() <= self.options.reserve_segments() {
                self.carry = None;
                return Ok(false);
            }
            self.active = None;
            carried = self.carry(
                Urge::Idle,
                self.options.capacity() - RECORD_BYTES,
                IDLE_BYTES,
            )?;
            if carried.is_empty() {
                self.active = Some(active);
                self.carry = None;
                return Ok(false);
            }
        }
        if !carried.is_empty() {
            self.write_group(&[], &[], &carried, 0)?;
        } else if self.shared.index().segments.get(slot).live_records > 0 && self.carry.is_none() {
            // What is left there cannot move. It is not looked through again and again.
            let sequence = self.shared.index().segments.get(slot).sequence;
            self.pinned.insert(sequence);
        }
        Ok(true)
    }

    fn carry(&mut self, urge: Urge, room: usize, pace: usize) -> Result<Vec<Carried>, StoreError> {
        let Some(mut carry) = self.victim(urge, room) else {
            return Ok(Vec::new());
        };
        let copy_bytes = room.min(pace);
        let look_bytes = match urge {
            Urge::Pressed => usize::MAX,
            Urge::Paced | Urge::Idle => LOOK_BYTES,
        };
        let shared = Arc::clone(&self.shared);
        let (file, seed, end) = {
            let index = shared.index();
            let segment = index.segments.get(carry.slot);
            (Arc::clone(&segment.file), segment.seed, segment.end)
        };
        let mut window = Window::new(&file);
        let mut carried = Vec::new();
        let (mut copied, start) = (0, carry.at);
        let mut pinned = false;
        while carry.at < end && ((carry.at - start) as usize) < look_bytes {
            let at = carry.at;
            let Some(header) = record_at(&mut window, at, seed) else {
                pinned = true;
                carry.at = end;
                break;
            };
            let bytes = usize::try_from(header.record_bytes()).unwrap_or(usize::MAX);
            let is_whole = |window: &mut Window<'_>| {
                let count = header.head_bytes as usize + header.body_bytes as usize;
                let payload = window.bytes(at + RECORD, count).unwrap_or_default();
                header.payload_matches(seed, at, payload)
            };
            if header.kind == Kind::Set && !is_whole(&mut window) {
                // Which key it sets cannot be told, so not whether it counts either.
                pinned = true;
            } else if is_live(&shared.index(), &mut window, &header, carry.slot, at)? {
                // One record larger than the pace goes all the same, when there is room.
                let limit = if carried.is_empty() { room } else { copy_bytes };
                if copied + bytes > limit {
                    break;
                }
                let count = header.head_bytes as usize + header.body_bytes as usize;
                let payload = window.bytes(at + RECORD, count).unwrap_or_default();
                if header.payload_matches(seed, at, payload) {
                    carried.push(Carried {
                        header,
                        payload: Bytes::copy_from_slice(payload),
                    });
                    copied += bytes;
                } else {
                    // Damaged: it stays where it is until somebody removes it.
                    pinned = true;
                }
            }
            carry.at += u32::try_from(bytes).unwrap_or(end - carry.at);
        }
        if pinned {
            self.pinned.insert(carry.sequence);
        }
        if carry.at < end {
            self.carry = Some(carry);
        }
        Ok(carried)
    }

    /// What is live in a segment, in the order it stands there.
    pub(super) fn live_in(&self, slot: Slot) -> Result<Vec<Location>, StoreError> {
        let index = self.shared.index();
        let segment = index.segments.get(slot);
        let mut window = Window::new(&segment.file);
        let mut live = Vec::new();
        let mut offset = DATA_AT;
        while offset < segment.end && (live.len() as u64) < segment.live_records {
            let Some(header) = record_at(&mut window, offset, segment.seed) else {
                // The way along its records is cut: the index knows them all.
                return index.live_in(slot);
            };
            let Ok(bytes) = u32::try_from(header.record_bytes()) else {
                return index.live_in(slot);
            };
            if is_live(&index, &mut window, &header, slot, offset)? {
                live.push(Location {
                    slot,
                    offset,
                    bytes,
                });
            }
            offset = offset.saturating_add(bytes);
        }
        if (live.len() as u64) < segment.live_records {
            return index.live_in(slot);
        }
        Ok(live)
    }

    /// Copies of live records of a segment, in the order given, at most `bytes_max` with the group
    /// around them; `None` when one of them cannot be read.
    pub(super) fn read_live(
        &self,
        slot: Slot,
        live: &[Location],
        bytes_max: usize,
    ) -> Option<Vec<Carried>> {
        let (file, seed) = {
            let index = self.shared.index();
            let segment = index.segments.get(slot);
            (Arc::clone(&segment.file), segment.seed)
        };
        let mut window = Window::new(&file);
        let mut carried = Vec::new();
        let mut group_bytes = RECORD_BYTES;
        for at in live {
            group_bytes += at.bytes as usize;
            if group_bytes > bytes_max && !carried.is_empty() {
                break;
            }
            let header = record_at(&mut window, at.offset, seed)
                .filter(|header| header.record_bytes() == u64::from(at.bytes))?;
            let count = header.head_bytes as usize + header.body_bytes as usize;
            let payload = window.bytes(at.offset + RECORD, count).ok()?;
            if payload.len() < count || !header.payload_matches(seed, at.offset, payload) {
                return None;
            }
            carried.push(Carried {
                header,
                payload: Bytes::copy_from_slice(payload),
            });
        }
        Some(carried)
    }

    /// The segment to empty: the one begun, else the oldest that is free then and holds little;
    /// when room is short the one with the least to copy, if that fits.
    fn victim(&mut self, urge: Urge, room: usize) -> Option<Carry> {
        let active = self.active.map(|active| active.slot);
        let pressed = urge == Urge::Pressed;
        let index = self.shared.index();
        // The reserve is there for removals, not for copies: until the last of it is at stake
        // only what takes little of it moves.
        let half = if self.space.spares() > 0 { 2 } else { 1 };
        let most = (room as u64).min(self.options.capacity() as u64 / half);
        let fits = |slot| !pressed || index.segments.get(slot).live_bytes <= most;
        if let Some(carry) = self.carry.take()
            && self.order.get(&carry.sequence) == Some(&carry.slot)
            && index.segments.get(carry.slot).live_records > 0
            && Some(carry.slot) != active
            && !self.pinned.contains(&carry.sequence)
            && fits(carry.slot)
        {
            return Some(carry);
        }
        let candidates = || {
            self.order
                .iter()
                .map(|(sequence, slot)| (*sequence, *slot, index.segments.get(*slot)))
                .filter(|(sequence, slot, segment)| {
                    Some(*slot) != active
                        && segment.live_records > 0
                        && segment.depends.is_empty()
                        && !self.pinned.contains(sequence)
                })
        };
        let is_sparse = |segment: &Segment| {
            let most = segment.file.bytes.saturating_sub(DATA_AT) / 2;
            segment.live_bytes <= u64::from(most)
        };
        let sparse = || candidates().find(|(_, _, segment)| is_sparse(segment));
        // Little is live, yet nowhere that could come free: what stands in the way moves.
        let in_the_way = || {
            candidates().find(|(sequence, _, _)| {
                let mut others = index.segments.iter();
                others.any(|(_, other)| other.depends.contains(sequence))
            })
        };
        let (sequence, slot, _) = match urge {
            Urge::Pressed => candidates()
                .filter(|(_, slot, _)| fits(*slot))
                .min_by_key(|(_, _, segment)| segment.live_bytes)?,
            Urge::Paced => sparse().or_else(in_the_way)?,
            Urge::Idle => sparse()?,
        };
        Some(Carry {
            slot,
            sequence,
            at: DATA_AT,
        })
    }
}

/// Whether a record is the one that counts.
fn is_live(
    index: &Index,
    window: &mut Window<'_>,
    header: &RecordHeader,
    slot: Slot,
    at: u32,
) -> Result<bool, StoreError> {
    let found = match header.kind {
        Kind::Put | Kind::SidePut => index.find(StreamId(header.stream), header.position)?,
        Kind::Set => {
            let key = window.bytes(at + RECORD, header.head_bytes as usize);
            index.state.get(key.unwrap_or_default()).copied()
        }
        _ => None,
    };
    Ok(found.is_some_and(|found| found.slot == slot && found.offset == at))
}

/// A record that cannot be read is not carried; a commit must not fail for it.
fn record_at(window: &mut Window<'_>, at: u32, seed: crate::format::Seed) -> Option<RecordHeader> {
    let bytes = window.bytes(at, RECORD_BYTES).ok()?;
    RecordHeader::decode(seed, at, bytes)
}
