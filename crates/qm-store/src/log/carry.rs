//! Carrying what is still live out of the oldest segment, so that its file can be used again.
//!
//! Oldest first: a segment can only be given back when the older ones its marks refer to are
//! gone, so one long-lived record would otherwise hold everything written after it.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Encoder, FLAG_CARRIED, Kind, RECORD, RECORD_BYTES, RecordHeader};
use crate::index::{Index, Location, Slot};
use crate::segment::Window;
use crate::types::StreamId;

use super::{DATA_AT, Log, RETAINED_MAX};

/// What one commit copies at least, when there is something to copy.
const COPY_BYTES: usize = 64 * 1024;
/// What one commit looks through at most.
const LOOK_BYTES: usize = 2 * 1024 * 1024;

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
            _ => encoder.put(
                flags,
                StreamId(self.header.stream),
                self.header.position,
                head,
                body,
            ),
        }
    }

    pub(super) fn show(&self, index: &mut Index, at: Location) {
        match self.header.kind {
            // A copy of its own: a slice would keep the whole payload in memory.
            Kind::Set => {
                let key = &self.payload[..self.header.head_bytes as usize];
                index.set(Bytes::copy_from_slice(key), at);
            }
            _ => index.put(StreamId(self.header.stream), self.header.position, at),
        }
    }
}

impl Log {
    /// What the next group should take along, at most `room` bytes.
    pub(super) fn next_carried(
        &mut self,
        room: usize,
        group_bytes: usize,
    ) -> Result<Vec<Carried>, StoreError> {
        let pressed = self.space.spares() < self.options.reserve_segments();
        if !pressed {
            let capacity = self.options.capacity() as u64;
            let live_bytes = self.shared.index().segments.live_bytes();
            let slack = (self.options.spare_segments_max + RETAINED_MAX) as u64 * capacity;
            if self.order.len() as u64 * capacity <= 2 * live_bytes + slack {
                return Ok(Vec::new());
            }
        }
        let Some(mut carry) = self.victim(pressed, room) else {
            return Ok(Vec::new());
        };
        let copy_bytes = if pressed {
            room
        } else {
            room.min(COPY_BYTES.max(group_bytes.saturating_mul(2)))
        };
        let look_bytes = if pressed { usize::MAX } else { LOOK_BYTES };

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
            let Some(header) = record_at(&mut window, carry.at, seed) else {
                pinned = true;
                carry.at = end;
                break;
            };
            let bytes = usize::try_from(header.record_bytes()).unwrap_or(usize::MAX);
            if header.kind == Kind::Put || header.kind == Kind::Set {
                let count = header.head_bytes as usize + header.body_bytes as usize;
                let at = carry.at;
                let payload = window.bytes(at + RECORD, count).unwrap_or_default();
                let found = {
                    let index = shared.index();
                    match header.kind {
                        Kind::Set => payload
                            .get(..header.head_bytes as usize)
                            .and_then(|key| index.state.get(key).copied()),
                        _ => index
                            .streams
                            .get(&StreamId(header.stream))
                            .and_then(|stream| stream.find(header.position)),
                    }
                };
                if found.is_some_and(|found| found.slot == carry.slot && found.offset == at) {
                    // One record larger than the pace goes all the same, when there is room.
                    let limit = if carried.is_empty() { room } else { copy_bytes };
                    if copied + bytes > limit {
                        break;
                    }
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

    /// The segment to empty: the one begun, else the oldest that would then be free; when room
    /// is short the one with the least to copy, if that fits.
    fn victim(&mut self, pressed: bool, room: usize) -> Option<Carry> {
        let active = self.active.map(|active| active.slot);
        let index = self.shared.index();
        // The reserve is there for removals, not for copies: until the last of it is at stake
        // only what takes little of it moves.
        let half = if self.space.spares() > 0 { 2 } else { 1 };
        let most = (room as u64).min(self.options.capacity() as u64 / half);
        let fits = |slot| !pressed || index.segments.get(slot).live_bytes <= most;
        if let Some(carry) = self.carry.take()
            && self.order.get(&carry.sequence) == Some(&carry.slot)
            && fits(carry.slot)
        {
            return Some(carry);
        }
        let mut candidates = self
            .order
            .iter()
            .map(|(sequence, slot)| (*sequence, *slot, index.segments.get(*slot)))
            .filter(|(sequence, slot, segment)| {
                Some(*slot) != active
                    && segment.live_records > 0
                    && segment.depends.is_empty()
                    && !self.pinned.contains(sequence)
            });
        let (sequence, slot, _) = if pressed {
            candidates
                .filter(|(_, slot, _)| fits(*slot))
                .min_by_key(|(_, _, segment)| segment.live_bytes)?
        } else {
            candidates.next()?
        };
        Some(Carry {
            slot,
            sequence,
            at: DATA_AT,
        })
    }
}

/// A record that cannot be read is not carried; a commit must not fail for it.
fn record_at(window: &mut Window<'_>, at: u32, seed: crate::format::Seed) -> Option<RecordHeader> {
    let bytes = window.bytes(at, RECORD_BYTES).ok()?;
    RecordHeader::decode(seed, at, bytes)
}
