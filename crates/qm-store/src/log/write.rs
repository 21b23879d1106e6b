//! Writing a group, and what is known once it is on the disk.

use std::io;
use std::sync::Arc;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{
    DATA_AT, Encoder, FLAG_LAST, HEADER_AT, HEADER_BYTES, LISTED_VERSION, RECORD_BYTES,
    SegmentHeader, narrow,
};
use crate::fs::is_unreadable;
use crate::hint::{Effect, HintWriter};
use crate::index::{Location, Segment};
use crate::segment::SegmentFile;
use crate::types::{Batch, Op};

use super::carry::Carried;
use super::space::Space;
use super::{Active, Log, Scratch};

/// The segment a group goes to, and its file when the group is its first.
struct Opened {
    active: Active,
    fresh: Option<Fresh>,
}

struct Fresh {
    file: Arc<SegmentFile>,
    sequence: u64,
}

impl Log {
    /// Writes and flushes one group, then shows it to readers.
    pub(super) fn write_group(
        &mut self,
        batches: &[Batch],
        sizes: &[usize],
        carried: &[Carried],
        flags: u8,
    ) -> Result<(), StoreError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.buffer.clear();
        scratch.offsets.clear();
        let opened = match self.active {
            Some(active) => Opened {
                active,
                fresh: None,
            },
            None => self.begin_segment(&mut scratch.buffer)?,
        };
        let active = opened.active;
        let carried_bytes: usize = carried.iter().map(Carried::encoded_bytes).sum();
        let group_bytes = RECORD_BYTES + carried_bytes + sizes.iter().sum::<usize>();
        let base = if opened.fresh.is_some() {
            0
        } else {
            active.end
        };
        let group_at = base + narrow(scratch.buffer.len());
        let mut encoder = Encoder::new(&mut scratch.buffer, active.seed, base);
        encoder.group(self.next_group, group_bytes, flags);
        // Copies come first: a removal in the same group must follow what it removes.
        for (at, copy) in carried.iter().enumerate() {
            scratch.offsets.push(encoder.offset());
            copy.encode(
                &mut encoder,
                if at + 1 == carried.len() {
                    FLAG_LAST
                } else {
                    0
                },
            );
        }
        let mut sides = scratch.sides.iter().copied();
        for (batch, _) in batches.iter().zip(sizes).filter(|(_, size)| **size > 0) {
            let last = batch.ops.len() - 1;
            for (at, op) in batch.ops.iter().enumerate() {
                scratch.offsets.push(encoder.offset());
                let side = if self.options.is_side(op) {
                    sides.next()
                } else {
                    None
                };
                encoder.op(if at == last { FLAG_LAST } else { 0 }, op, side);
            }
        }
        debug_assert_eq!(encoder.offset() as usize, group_at as usize + group_bytes);
        let file = match &opened.fresh {
            Some(fresh) => Arc::clone(&fresh.file),
            None => Arc::clone(&self.shared.index().segments.get(active.slot).file),
        };
        let fresh_file = opened.fresh.as_ref().map(|fresh| Arc::clone(&fresh.file));
        let failed = |space: &mut Space, action, error: io::Error| {
            if let Some(file) = fresh_file.as_ref().filter(|_| is_unreadable(&error)) {
                space.discard(file);
            }
            file.error(action, error)
        };
        file.file
            .write_at(&scratch.buffer, u64::from(base))
            .map_err(|error| failed(&mut self.space, "write", error))?;
        let end = group_at + narrow(group_bytes);
        let is_early = self.options.broken(Break::ShowBeforeSync);
        let copies_only = batches.is_empty() && !carried.is_empty();
        let skips_sync = self.options.broken(Break::ReportBeforeSync)
            || (copies_only && self.options.broken(Break::CopyWithoutSync));
        let fresh = opened.fresh.as_ref();
        let begun = fresh.map(|fresh| (fresh.sequence, fresh.file.number));
        let mut opened = Some(opened);
        if is_early && let Some(opened) = opened.take() {
            self.show(opened, end, batches, sizes, carried, &scratch)?;
        }
        if !skips_sync {
            file.file
                .sync_data()
                .map_err(|error| failed(&mut self.space, "flush", error))?;
        }
        // From now on it would be missed.
        if let Some((sequence, number)) = begun
            && !self.options.broken(Break::SkipListing)
        {
            self.space.list(sequence, number)?;
        }
        if let Some(opened) = opened {
            self.show(opened, end, batches, sizes, carried, &scratch)?;
        }
        scratch.sides.clear();
        self.next_group += 1;
        self.last_group_bytes = group_bytes;
        if scratch.buffer.capacity() > 2 * self.options.group_bytes_max {
            scratch.buffer = Vec::new();
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Takes a spare and puts the block that will head it into the buffer.
    fn begin_segment(&mut self, buffer: &mut Vec<u8>) -> Result<Opened, StoreError> {
        // Seals are made in order, one segment behind: recovery relies on it.
        self.seal_previous()?;
        let file = self.space.take().expect("invariant: room was checked");
        let header = SegmentHeader {
            version: if self.space.has_list() {
                LISTED_VERSION
            } else {
                LISTED_VERSION - 1
            },
            segment_bytes: file.bytes,
            sequence: self.newest.map_or(1, |(sequence, _)| sequence + 1),
            salt: (self.salt_source)(),
            store: self.store_id,
            previous_end: self.newest.map_or(0, |(_, end)| end),
        };
        let encoded = header.encode();
        buffer.resize(DATA_AT as usize, 0);
        for at in HEADER_AT {
            buffer[at..at + HEADER_BYTES].copy_from_slice(&encoded);
        }
        let seed = self.options.seed(&header);
        let active = Active {
            slot: 0,
            seed,
            end: DATA_AT,
            segment_bytes: file.bytes,
        };
        Ok(Opened {
            active,
            fresh: Some(Fresh {
                file,
                sequence: header.sequence,
            }),
        })
    }

    /// Brings the index up to what was written.
    fn show(
        &mut self,
        opened: Opened,
        end: u32,
        batches: &[Batch],
        sizes: &[usize],
        carried: &[Carried],
        scratch: &Scratch,
    ) -> Result<(), StoreError> {
        let Opened { mut active, fresh } = opened;
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index_mut();
        let index = &mut *index;
        if let Some(Fresh { file, sequence }) = fresh {
            let path = file.path.clone();
            let segment = Segment::new(file, sequence, active.seed, DATA_AT);
            active.slot = index.segments.insert(segment).ok_or_else(|| {
                StoreError::io("count", path, io::Error::other("too many segments"))
            })?;
            self.unsealed = self
                .newest
                .and_then(|(newest, _)| self.order.get(&newest).copied())
                .filter(|before| index.segments.get(*before).seal.is_none());
            let hint = HintWriter::new(sequence);
            self.unsealed_hint = std::mem::replace(&mut self.hint, hint);
            self.order.insert(sequence, active.slot);
            self.newest = Some((sequence, end));
        }
        let slot = active.slot;
        let mut offsets = scratch.offsets.iter().copied();
        let mut sides = scratch.sides.iter().copied();
        let mut place = |bytes: usize| {
            let offset = offsets
                .next()
                .expect("invariant: one offset for every record");
            Location {
                slot,
                offset,
                bytes: narrow(bytes),
            }
        };
        for copy in carried {
            let at = place(copy.encoded_bytes());
            let effect = copy.effect();
            self.hint.add(&effect, at);
            effect.apply(index, at)?;
        }
        for (batch, _) in batches.iter().zip(sizes).filter(|(_, size)| **size > 0) {
            for op in &batch.ops {
                let at = place(self.options.encoded_bytes(op));
                let effect = match op {
                    Op::Put {
                        stream, position, ..
                    } => {
                        self.rules.put(*stream, *position);
                        Effect::Put {
                            stream: *stream,
                            position: *position,
                            carried: false,
                            side: if self.options.is_side(op) {
                                sides.next()
                            } else {
                                None
                            },
                        }
                    }
                    Op::Remove {
                        stream,
                        first,
                        last,
                    } => Effect::Remove {
                        stream: *stream,
                        first: *first,
                        last: *last,
                    },
                    Op::Set { key, .. } => Effect::Set {
                        key: key.clone(),
                        carried: false,
                    },
                    Op::Unset { key } => Effect::Unset { key: key.clone() },
                };
                self.hint.add(&effect, at);
                effect.apply(index, at)?;
            }
        }
        index.segments.get_mut(slot).end = end;
        active.end = end;
        self.active = Some(active);
        if let Some((_, newest_end)) = &mut self.newest {
            *newest_end = end;
        }
        Ok(())
    }
}
