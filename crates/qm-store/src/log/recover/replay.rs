//! Bringing the index up from segments and hints.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::listing::Listed;
use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{
    DATA_AT, Kind, RECORD, RECORD_BYTES, RecordHeader, Seal, Seed, SegmentHeader, u64_at,
};
use crate::fs::Fs;
use crate::hint::{self, Effect, HintReader, HintWriter};
use crate::index::{Index, Location, Pages, Segment, Slot};
use crate::log::LogOptions;
use crate::scan::{Found, Scan, Sink, Tail};
use crate::segment::{SegmentFile, Window};
use crate::side::SideBody;
use crate::types::{RecentPut, RecoveryNote, StreamId};

/// Brings the index up from what a scan or a hint tells.
pub(super) struct Replay<'a> {
    pub(super) index: Index,
    pub(super) state: BTreeMap<Bytes, Bytes>,
    pub(super) notes: Vec<RecoveryNote>,
    /// Slots by sequence number.
    pub(super) order: BTreeMap<u64, Slot>,
    pub(super) last: Option<(Slot, Tail)>,
    /// Of the segment that was scanned last.
    pub(super) hint: HintWriter,
    /// Above every number of a body the log names.
    pub(super) next_side: u64,
    /// Whether a record may name a body that is not in the index.
    pub(super) bodies_unknown: bool,
    options: &'a LogOptions,
    recent: VecDeque<RecentHead>,
    recent_carried: VecDeque<RecentHead>,
    slot: Slot,
    sequence: u64,
    file: Option<Arc<SegmentFile>>,
}

/// The buffer is used again for the next head.
struct RecentHead {
    stream: StreamId,
    position: u64,
    /// Where its head is to be read, if only a hint told of it.
    at: Option<Location>,
    head: Vec<u8>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(options: &'a LogOptions, pages: Pages) -> Self {
        Self {
            index: Index::new(pages),
            state: BTreeMap::new(),
            notes: Vec::new(),
            order: BTreeMap::new(),
            last: None,
            hint: HintWriter::default(),
            next_side: 1,
            bodies_unknown: options.salvage,
            options,
            recent: VecDeque::new(),
            recent_carried: VecDeque::new(),
            slot: 0,
            sequence: 0,
            file: None,
        }
    }

    /// Takes all segments in their order, complete ones from their hints where `hints` is given.
    pub(super) fn run(
        &mut self,
        segments: &[Listed],
        hints: Option<&dyn Fs>,
    ) -> Result<(), StoreError> {
        for (at, listed) in segments.iter().enumerate() {
            let SegmentHeader {
                sequence,
                segment_bytes,
                ..
            } = listed.header;
            let follower = segments.get(at + 1).map(|next| next.header);
            let told = follower
                .filter(|next| next.sequence == sequence + 1)
                .map(|f| f.previous_end);
            let known_end = listed.seal.map(|seal| seal.end).or(told);
            let seed = self.options.seed(&listed.header);
            let slot = self.begin(listed, seed)?;
            self.order.insert(sequence, slot);
            if let (Some(fs), Some(seal), Some(_)) = (hints, listed.seal, follower)
                && self.take_hint(fs, listed, seal)?
            {
                let segment = self.index.segments.get_mut(slot);
                segment.end = seal.end;
                segment.seal = listed.seal;
                continue;
            }
            self.hint = HintWriter::new(sequence);
            let scan = Scan {
                window: Window::new(&listed.file),
                seed,
                segment_bytes,
                known_end,
                ignore_batch_end: self.options.broken(Break::IgnoreBatchEnd),
                sink: self,
            };
            let tail = scan.run()?;
            if known_end.is_none() && follower.is_some() {
                let bytes = segment_bytes - tail.end;
                self.damage(tail.end, bytes, "nothing says where it ends")?;
            }
            if tail.torn && follower.is_none() {
                let offset = u64::from(tail.end);
                self.notes.push(RecoveryNote::TornTail {
                    segment: sequence,
                    offset,
                });
            }
            let segment = self.index.segments.get_mut(slot);
            segment.end = tail.end;
            segment.seal = listed.seal;
            self.last = Some((slot, tail));
        }
        self.read_state()
    }

    /// Whether the hint of a segment said everything.
    fn take_hint(&mut self, fs: &dyn Fs, listed: &Listed, seal: Seal) -> Result<bool, StoreError> {
        let path = hint::hint_path(&listed.file.path);
        let trust = self.options.broken(Break::TrustHints);
        let content = seal
            .hint
            .and_then(|mark| hint::read(fs, &path, mark, trust));
        let Some(content) = content else {
            return Ok(false);
        };
        let Some(mut hint) = HintReader::new(&content, self.slot, seal.end) else {
            return Ok(false);
        };
        while !hint.is_done() {
            let Some((effect, at)) = hint.next() else {
                // What the seal vouches for says nonsense: half of it was taken already.
                return Err(self.contradiction(0));
            };
            match &effect {
                Effect::Put {
                    stream,
                    position,
                    carried,
                    side,
                } => {
                    self.note_recent(*carried, *stream, *position, Some(at), &[]);
                    self.note_side(*side);
                }
                // The value is read at the end, if it is still wanted then.
                Effect::Set { key, .. } | Effect::Unset { key } => {
                    self.state.remove(key);
                }
                Effect::Remove { .. } => {}
            }
            effect.apply(&mut self.index, at)?;
        }
        Ok(true)
    }

    /// Values of keys that only hints told of.
    fn read_state(&mut self) -> Result<(), StoreError> {
        let mut wanted: Vec<(Location, Bytes)> = self
            .index
            .state
            .iter()
            .filter(|(key, _)| !self.state.contains_key(*key))
            .map(|(key, at)| (*at, key.clone()))
            .collect();
        wanted.sort_unstable_by_key(|(at, _)| (at.slot, at.offset));
        let mut reading = Reading::default();
        for (at, key) in wanted {
            let (header, payload) = reading.record(&self.index, at)?;
            let split = payload.split_at_checked(header.head_bytes as usize);
            match split {
                Some((found, value)) if header.kind == Kind::Set && found == key => {
                    self.state.insert(key, Bytes::copy_from_slice(value));
                }
                _ => return Err(self.contradiction(at.offset)),
            }
        }
        Ok(())
    }

    fn contradiction(&self, offset: u32) -> StoreError {
        let path = self.file.as_ref().map(|file| file.path.clone());
        StoreError::Damaged {
            segment: self.sequence,
            path: path.unwrap_or_default(),
            offset: u64::from(offset),
            what: "its hint says something else",
            record: None,
        }
    }

    fn begin(&mut self, listed: &Listed, seed: Seed) -> Result<Slot, StoreError> {
        let file = Arc::clone(&listed.file);
        let segment = Segment::new(file, listed.header.sequence, seed, DATA_AT);
        let path = listed.file.path.clone();
        self.slot = self
            .index
            .segments
            .insert(segment)
            .ok_or(StoreError::Foreign {
                path,
                what: "there are more segments than can be addressed",
            })?;
        self.sequence = listed.header.sequence;
        self.file = Some(Arc::clone(&listed.file));
        Ok(self.slot)
    }

    fn note_side(&mut self, side: Option<SideBody>) {
        if let Some(side) = side {
            self.next_side = self.next_side.max(side.number.saturating_add(1));
        }
    }

    fn note_recent(
        &mut self,
        carried: bool,
        stream: StreamId,
        position: u64,
        at: Option<Location>,
        head: &[u8],
    ) {
        let recent_puts = self.options.recent_puts;
        if recent_puts == 0 {
            return;
        }
        let recent = if carried {
            &mut self.recent_carried
        } else {
            &mut self.recent
        };
        let mut buffer = Vec::new();
        if recent.len() >= recent_puts
            && let Some(oldest) = recent.pop_front()
        {
            buffer = oldest.head;
            buffer.clear();
        }
        buffer.extend_from_slice(head);
        recent.push_back(RecentHead {
            stream,
            position,
            at,
            head: buffer,
        });
    }

    /// Copies are of old records: they stand before the others, unless the original is there.
    pub(super) fn take_recent(&mut self) -> Result<Vec<RecentPut>, StoreError> {
        let known: BTreeSet<_> = self
            .recent
            .iter()
            .map(|put| (put.stream, put.position))
            .collect();
        let mut copies = BTreeSet::new();
        let mut puts: Vec<_> = std::mem::take(&mut self.recent_carried)
            .into_iter()
            .rev()
            .filter(|put| !known.contains(&(put.stream, put.position)))
            .filter(|put| copies.insert((put.stream, put.position)))
            .take(self.options.recent_puts - self.recent.len())
            .collect();
        puts.reverse();
        puts.extend(std::mem::take(&mut self.recent));
        let mut reading = Reading::default();
        let mut told = Vec::with_capacity(puts.len());
        for put in puts {
            let RecentHead {
                stream, position, ..
            } = put;
            let head = match put.at {
                None => put.head.into(),
                Some(at) => match reading.record(&self.index, at) {
                    Ok((header, payload)) => {
                        let head = payload.get(..header.head_bytes as usize);
                        let named = (header.stream, header.position) == (stream.0, position);
                        let Some(head) = head.filter(|_| named) else {
                            return Err(self.contradiction(at.offset));
                        };
                        Bytes::copy_from_slice(head)
                    }
                    Err(StoreError::Damaged {
                        segment,
                        path,
                        offset,
                        ..
                    }) => {
                        self.notes.push(RecoveryNote::DamagedRecord {
                            segment,
                            path,
                            offset,
                            stream,
                            position,
                        });
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            told.push(RecentPut {
                stream,
                position,
                head,
            });
        }
        Ok(told)
    }

    fn record(&mut self, found: &Found, window: &mut Window<'_>) -> Result<(), StoreError> {
        let Found {
            header,
            offset,
            damaged,
        } = *found;
        let bytes = u32::try_from(header.record_bytes()).unwrap_or(u32::MAX);
        let at = Location {
            slot: self.slot,
            offset,
            bytes,
        };
        let (head_bytes, body_bytes) = (header.head_bytes as usize, header.body_bytes as usize);
        let payload_at = offset + RECORD;
        let stream = StreamId(header.stream);
        let effect = match header.kind {
            Kind::Group => return Ok(()),
            Kind::Put | Kind::SidePut => {
                let position = header.position;
                let mut side = None;
                if damaged {
                    let segment = self.sequence;
                    let offset = u64::from(offset);
                    let path = self.file.as_ref().map(|file| file.path.clone());
                    let note = RecoveryNote::DamagedRecord {
                        segment,
                        path: path.unwrap_or_default(),
                        offset,
                        stream,
                        position,
                    };
                    self.notes.push(note);
                    self.hint = HintWriter::broken();
                    self.bodies_unknown |= header.kind == Kind::SidePut;
                } else {
                    if header.kind == Kind::SidePut {
                        let body_at = offset.saturating_add(RECORD + header.head_bytes);
                        side = SideBody::decode(window.bytes(body_at, body_bytes)?);
                        self.bodies_unknown |= side.is_none();
                        self.note_side(side);
                    }
                    let head = window.bytes(payload_at, head_bytes)?;
                    self.note_recent(header.is_carried(), stream, position, None, head);
                }
                Effect::Put {
                    stream,
                    position,
                    carried: header.is_carried(),
                    side,
                }
            }
            Kind::Remove => {
                let payload = window.bytes(payload_at, 8)?;
                if head_bytes != 0 || body_bytes != 8 || payload.len() != 8 {
                    self.hint = HintWriter::broken();
                    return Ok(());
                }
                Effect::Remove {
                    stream,
                    first: header.position,
                    last: u64_at(payload, 0),
                }
            }
            Kind::Set => {
                let payload = window.bytes(payload_at, head_bytes + body_bytes)?;
                let key = Bytes::copy_from_slice(&payload[..head_bytes]);
                self.state
                    .insert(key.clone(), Bytes::copy_from_slice(&payload[head_bytes..]));
                Effect::Set {
                    key,
                    carried: header.is_carried(),
                }
            }
            Kind::Unset => {
                let key = Bytes::copy_from_slice(window.bytes(payload_at, head_bytes)?);
                self.state.remove(&key);
                Effect::Unset { key }
            }
        };
        // A record of one kind that says what another kind means has no place in a hint.
        if effect.kind() != header.kind {
            self.hint = HintWriter::broken();
        }
        self.hint.add(&effect, at);
        effect.apply(&mut self.index, at)
    }
}

impl Sink for Replay<'_> {
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|found| self.record(found, window))
    }

    fn damage(&mut self, offset: u32, bytes: u32, what: &'static str) -> Result<(), StoreError> {
        let (segment, offset) = (self.sequence, u64::from(offset));
        if self.options.salvage {
            let bytes = u64::from(bytes);
            self.notes.push(RecoveryNote::DamagedRange {
                segment,
                offset,
                bytes,
            });
            self.hint = HintWriter::broken();
            return Ok(());
        }
        let path = self.file.as_ref().map(|file| file.path.clone());
        Err(StoreError::Damaged {
            segment,
            path: path.unwrap_or_default(),
            offset,
            what,
            record: None,
        })
    }
}

/// Reads records at known places, cheaply when they stand side by side.
#[derive(Default)]
struct Reading {
    current: Option<(Slot, Vec<u8>, u64, usize)>,
}

impl Reading {
    /// A record and its payload, verified.
    fn record(&mut self, index: &Index, at: Location) -> Result<(RecordHeader, &[u8]), StoreError> {
        let segment = index.segments.get(at.slot);
        let mut window = match self.current.take() {
            Some((slot, buffer, start, filled)) if slot == at.slot => {
                Window::resume(&segment.file, buffer, start, filled)
            }
            _ => Window::new(&segment.file),
        };
        let found = window.bytes(at.offset, at.bytes as usize).map(|bytes| {
            RecordHeader::decode(segment.seed, at.offset, bytes)
                .filter(|header| header.record_bytes() == u64::from(at.bytes))
                .filter(|header| {
                    let count = header.head_bytes as usize + header.body_bytes as usize;
                    bytes
                        .get(RECORD_BYTES..RECORD_BYTES + count)
                        .is_some_and(|p| header.payload_matches(segment.seed, at.offset, p))
                })
        });
        let (buffer, start, filled) = window.pause();
        let (_, buffer, start, _) = self.current.insert((at.slot, buffer, start, filled));
        let Some(header) = found? else {
            return Err(StoreError::Damaged {
                segment: segment.sequence,
                path: segment.file.path.clone(),
                offset: u64::from(at.offset),
                what: segment.file.why(
                    at.offset..at.offset.saturating_add(at.bytes),
                    "the checksum of a record does not match",
                ),
                record: None,
            });
        };
        let skip = usize::try_from(u64::from(at.offset) - *start).unwrap_or(usize::MAX);
        let from = skip.saturating_add(RECORD_BYTES);
        let count = header.head_bytes as usize + header.body_bytes as usize;
        Ok((header, buffer.get(from..from + count).unwrap_or_default()))
    }
}
