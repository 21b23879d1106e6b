//! Where every live record is: 12 bytes a record, and what each segment is still needed for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{STEP, Seed};
use crate::segment::SegmentFile;
use crate::types::{StreamId, StreamSummary};

/// Records a chunk holds before the next one starts.
const CHUNK: usize = 512;

/// Number of a segment in memory; reused, unlike its sequence number.
pub(crate) type Slot = u16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) slot: Slot,
    pub(crate) offset: u32,
    /// The whole record, padding included.
    pub(crate) bytes: u32,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) sequence: u64,
    pub(crate) seed: Seed,
    /// Where its records end.
    pub(crate) end: u32,
    pub(crate) sealed: bool,
    /// Records put here, carried copies apart, live or removed.
    pub(crate) puts: u64,
    pub(crate) live_records: u64,
    pub(crate) live_bytes: u64,
    /// Sequence numbers of segments that hold records this one removed: were it gone and one of
    /// them not, recovery would bring those records back.
    pub(crate) depends: BTreeSet<u64>,
    /// Those that hold records of streams this one has copies of. It need not outlive them: it
    /// is empty when other segments have removed or replaced the copies, and what those did
    /// keeps the older records away as well. They take this over, see [`Segments::take`].
    pub(crate) copied: BTreeSet<u64>,
    /// The same for keys this one set again.
    pub(crate) reset: BTreeSet<u64>,
}

impl Segment {
    pub(crate) const fn new(file: Arc<SegmentFile>, sequence: u64, seed: Seed, end: u32) -> Self {
        Self {
            file,
            sequence,
            seed,
            end,
            sealed: false,
            puts: 0,
            live_records: 0,
            live_bytes: 0,
            depends: BTreeSet::new(),
            copied: BTreeSet::new(),
            reset: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) state: BTreeMap<Bytes, Location>,
    pub(crate) segments: Segments,
}

impl Index {
    /// Adds a record, or moves it when it is a copy of one that is live.
    pub(crate) fn put(&mut self, stream: StreamId, position: u64, at: Location) {
        let stream = self.streams.entry(stream).or_default();
        stream.last_put = stream.last_put.max(Some(position));
        self.segments.born(at);
        match stream.insert(position, at) {
            Some(old) => {
                stream.live_bytes -= u64::from(old.bytes);
                if let Some(sequence) = self.segments.died(old, at.slot) {
                    self.segments.get_mut(at.slot).copied.insert(sequence);
                }
            }
            None => stream.live_records += 1,
        }
        stream.live_bytes += u64::from(at.bytes);
    }

    /// Removes a range by a mark standing in segment `by`.
    pub(crate) fn remove(&mut self, stream: StreamId, first: u64, last: u64, by: Slot) {
        let Some(stream) = self.streams.get_mut(&stream) else {
            return;
        };
        let (mut records, mut bytes) = (0, 0);
        let segments = &mut self.segments;
        stream.remove(first, last, |old| {
            records += 1;
            bytes += u64::from(old.bytes);
            match segments.died(old, by) {
                Some(sequence) => {
                    segments.get_mut(by).depends.insert(sequence);
                }
                // Should it have been a copy, this mark now keeps the older ones away.
                None => {
                    let segment = segments.get_mut(by);
                    segment.depends.append(&mut segment.copied);
                }
            }
        });
        stream.live_records -= records;
        stream.live_bytes -= bytes;
    }

    pub(crate) fn set(&mut self, key: Bytes, at: Location) {
        self.segments.born(at);
        let died = |old| self.segments.died(old, at.slot);
        if let Some(sequence) = self.state.insert(key, at).and_then(died) {
            self.segments.get_mut(at.slot).reset.insert(sequence);
        }
    }

    pub(crate) fn unset(&mut self, key: &[u8], by: Slot) {
        let Some(old) = self.state.remove(key) else {
            return;
        };
        match self.segments.died(old, by) {
            Some(sequence) => {
                self.segments.get_mut(by).depends.insert(sequence);
            }
            None => {
                let segment = self.segments.get_mut(by);
                segment.depends.append(&mut segment.reset);
            }
        }
    }

    /// What is live in a segment, in the order it stands there. Walks the whole index.
    pub(crate) fn live_in(&self, slot: Slot) -> Vec<Location> {
        let records = self
            .streams
            .values()
            .flat_map(|stream| stream.live_from(0).map(|(_, at)| at));
        let mut found: Vec<Location> = self
            .state
            .values()
            .copied()
            .chain(records)
            .filter(|at| at.slot == slot)
            .collect();
        found.sort_unstable_by_key(|at| at.offset);
        found
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let chunks: usize = self
            .streams
            .values()
            .flat_map(|stream| stream.chunks.values())
            .map(|chunk| size_of::<(u64, Chunk)>() + chunk.entries.capacity() * size_of::<Entry>())
            .sum();
        let streams = self.streams.len() * size_of::<(StreamId, Stream)>();
        let state: usize = self
            .state
            .keys()
            .map(|key| key.len() + size_of::<(Bytes, Location)>())
            .sum();
        (chunks + streams + state) as u64
    }
}

/// The segments of the log by slot.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    slots: Vec<Option<Segment>>,
    live_bytes: u64,
}

impl Segments {
    /// The lowest free slot, unless all are taken.
    pub(crate) fn insert(&mut self, segment: Segment) -> Option<Slot> {
        let free = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        let slot = Slot::try_from(free).ok()?;
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(segment);
        Some(slot)
    }

    /// Takes a segment out that is empty and depends on none. Those that emptied it `inherit` what
    /// it replaced.
    pub(crate) fn take(&mut self, slot: Slot, inherit: bool) -> Option<Segment> {
        let mut taken = self.slots.get_mut(usize::from(slot))?.take()?;
        if !inherit {
            taken.copied.clear();
            taken.reset.clear();
        }
        for other in self.slots.iter_mut().flatten() {
            if other.depends.remove(&taken.sequence) {
                other.depends.extend(&taken.copied);
                other.depends.extend(&taken.reset);
            }
            if other.copied.remove(&taken.sequence) {
                other.copied.extend(&taken.copied);
            }
            if other.reset.remove(&taken.sequence) {
                other.reset.extend(&taken.reset);
            }
        }
        Some(taken)
    }

    pub(crate) fn get(&self, slot: Slot) -> &Segment {
        self.slots[usize::from(slot)]
            .as_ref()
            .expect("invariant: slots in use are filled")
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Segment {
        self.slots[usize::from(slot)]
            .as_mut()
            .expect("invariant: slots in use are filled")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Segment)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(slot, segment)| Some((slot, segment.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Bytes of everything live, state included.
    pub(crate) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn born(&mut self, at: Location) {
        self.live_bytes += u64::from(at.bytes);
        let segment = self.get_mut(at.slot);
        segment.live_records += 1;
        segment.live_bytes += u64::from(at.bytes);
    }

    /// A record is gone because of one in segment `by`; returns the sequence number of the
    /// segment it was in when that is another.
    fn died(&mut self, old: Location, by: Slot) -> Option<u64> {
        self.live_bytes -= u64::from(old.bytes);
        let segment = self.get_mut(old.slot);
        segment.live_records -= 1;
        segment.live_bytes -= u64::from(old.bytes);
        (old.slot != by).then_some(segment.sequence)
    }
}

/// Live positions of one stream, in chunks keyed by a position at or below their first.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    chunks: BTreeMap<u64, Chunk>,
    pub(crate) last_put: Option<u64>,
    pub(crate) live_records: u64,
    pub(crate) live_bytes: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    /// Rising by `delta`.
    entries: Vec<Entry>,
    live: usize,
}

/// Lengths and offsets count units of 8 bytes; no length means removed.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u32,
    length: u32,
    delta: u16,
    slot: Slot,
}

impl Entry {
    const fn new(delta: u16, at: Location) -> Self {
        Self {
            offset: at.offset / STEP,
            length: at.bytes / STEP,
            delta,
            slot: at.slot,
        }
    }

    const fn location(self) -> Location {
        Location {
            slot: self.slot,
            offset: self.offset * STEP,
            bytes: self.length * STEP,
        }
    }

    const fn is_live(self) -> bool {
        self.length > 0
    }
}

impl Stream {
    pub(crate) fn summary(&self) -> StreamSummary {
        StreamSummary {
            next_position: self.last_put.map_or(0, |last| last.saturating_add(1)),
            first_live: self.next_live(0).map(|(position, _)| position),
            live_records: self.live_records,
            live_bytes: self.live_bytes,
        }
    }

    fn next_live(&self, from: u64) -> Option<(u64, Location)> {
        self.live_from(from).next()
    }

    /// Where the record at a position is, if it is live.
    pub(crate) fn find(&self, position: u64) -> Option<Location> {
        self.next_live(position)
            .filter(|(found, _)| *found == position)
            .map(|(_, at)| at)
    }

    /// Live records at or after a position, in order.
    pub(crate) fn live_from(&self, from: u64) -> impl Iterator<Item = (u64, Location)> {
        let start = self
            .chunks
            .range(..=from)
            .next_back()
            .map_or(from, |(base, _)| *base);
        self.chunks.range(start..).flat_map(move |(base, chunk)| {
            let skip = from.checked_sub(*base).map_or(0, |delta| chunk.rank(delta));
            chunk.entries[skip..]
                .iter()
                .filter(|entry| entry.is_live())
                .map(move |entry| (base + u64::from(entry.delta), entry.location()))
        })
    }

    /// Returns where the position was before, if it was live.
    fn insert(&mut self, position: u64, at: Location) -> Option<Location> {
        let mut empty = None;
        // Nearly always the last chunk, which is found without comparing.
        let is_tail = self
            .chunks
            .last_key_value()
            .is_some_and(|(base, _)| *base <= position);
        let found = if is_tail {
            self.chunks.iter_mut().next_back()
        } else {
            self.chunks.range_mut(..=position).next_back()
        };
        if let Some((base, chunk)) = found {
            if let Ok(delta) = u16::try_from(position - base) {
                let rank = chunk.rank(u64::from(delta));
                match chunk.entries.get_mut(rank) {
                    Some(entry) if entry.delta == delta => {
                        let old = entry.is_live().then(|| entry.location());
                        *entry = Entry::new(delta, at);
                        chunk.live += usize::from(old.is_none());
                        return old;
                    }
                    None if rank >= CHUNK => {}
                    _ => {
                        chunk.insert(rank, Entry::new(delta, at));
                        if chunk.entries.len() > 2 * CHUNK {
                            let base = *base;
                            self.split(base);
                        }
                        return None;
                    }
                }
            }
            empty = (chunk.live == 0).then_some(*base);
        }
        if let Some(base) = empty {
            self.chunks.remove(&base);
        }
        let mut chunk = Chunk::default();
        chunk.insert(0, Entry::new(0, at));
        self.chunks.insert(position, chunk);
        None
    }

    fn split(&mut self, base: u64) {
        let Some(chunk) = self.chunks.get_mut(&base) else {
            return;
        };
        let mut upper = chunk.entries.split_off(CHUNK);
        chunk.live = chunk.entries.iter().filter(|entry| entry.is_live()).count();
        let shift = upper[0].delta;
        for entry in &mut upper {
            entry.delta -= shift;
        }
        let live = upper.iter().filter(|entry| entry.is_live()).count();
        self.chunks.insert(
            base + u64::from(shift),
            Chunk {
                entries: upper,
                live,
            },
        );
    }

    fn remove(&mut self, first: u64, last: u64, mut removed: impl FnMut(Location)) {
        if first > last {
            return;
        }
        let start = self
            .chunks
            .range(..=first)
            .next_back()
            .map_or(first, |(base, _)| *base);
        let tail = self.chunks.last_key_value().map(|(base, _)| *base);
        let mut empty = Vec::new();
        for (base, chunk) in self.chunks.range_mut(start..=last) {
            let from = first
                .checked_sub(*base)
                .map_or(0, |delta| chunk.rank(delta));
            for entry in &mut chunk.entries[from..] {
                if u64::from(entry.delta) > last - base {
                    break;
                }
                if entry.is_live() {
                    removed(entry.location());
                    entry.length = 0;
                    chunk.live -= 1;
                }
            }
            if chunk.live == 0 && tail != Some(*base) {
                empty.push(*base);
            } else if chunk.live == 0 {
                // The tail keeps its memory for the next put.
                chunk.entries.clear();
            } else if chunk.live * 2 < chunk.entries.len() {
                chunk.entries.retain(|entry| entry.is_live());
                if tail != Some(*base) {
                    chunk.entries.shrink_to_fit();
                }
            }
        }
        for base in empty {
            self.chunks.remove(&base);
        }
    }
}

impl Chunk {
    /// How many entries lie below a delta.
    fn rank(&self, delta: u64) -> usize {
        // New records come at the end and old ones leave at the start.
        match self.entries.last() {
            Some(last) if u64::from(last.delta) < delta => self.entries.len(),
            _ => self
                .entries
                .partition_point(|entry| u64::from(entry.delta) < delta),
        }
    }

    fn insert(&mut self, rank: usize, entry: Entry) {
        let count = self.entries.len();
        if count == self.entries.capacity() {
            // Never more than a chunk needs: the slack would cost more than the entries.
            let more = if count < CHUNK {
                count.max(4).min(CHUNK - count)
            } else {
                CHUNK / 8
            };
            self.entries.reserve_exact(more);
        }
        self.entries.insert(rank, entry);
        self.live += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Location {
        let unit = u32::try_from(position % 1000).unwrap() + 1;
        Location {
            slot: 3,
            offset: unit * 16,
            bytes: unit * 8,
        }
    }

    fn live(stream: &Stream, from: u64) -> Vec<u64> {
        stream
            .live_from(from)
            .map(|(position, _)| position)
            .collect()
    }

    #[test]
    fn a_record_costs_twelve_bytes() {
        assert_eq!(size_of::<Entry>(), 12);
        let mut stream = Stream::default();
        for position in 0..100_000 {
            stream.insert(position, at(position));
        }
        let allocated: usize = stream
            .chunks
            .values()
            .map(|chunk| chunk.entries.capacity())
            .sum();
        assert!(allocated <= 100_000 + CHUNK, "{allocated}");
    }

    #[test]
    fn copies_may_come_in_any_order() {
        let mut stream = Stream::default();
        for position in (0..5000).rev().step_by(3).chain(0..5000) {
            stream.insert(position, at(position));
        }
        assert_eq!(live(&stream, 0), (0..5000).collect::<Vec<_>>());
        for position in 0..5000 {
            assert_eq!(stream.find(position), Some(at(position)));
        }
        assert!(
            stream
                .chunks
                .values()
                .all(|chunk| chunk.entries.len() <= 2 * CHUNK)
        );
    }

    #[test]
    fn random_work_matches_an_ordered_map() {
        let mut model = BTreeMap::new();
        let mut stream = Stream::default();
        let mut random = 1u64;
        let mut next = move |bound: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % bound
        };
        let mut top = 0;
        for _ in 0..60_000 {
            match next(12) {
                0..=6 => {
                    top += 1 + next(3) * next(2) * next(40_000);
                    assert_eq!(stream.insert(top, at(top)), model.insert(top, at(top)));
                }
                7 => {
                    let position = next(top + 1);
                    assert_eq!(
                        stream.insert(position, at(position)),
                        model.insert(position, at(position))
                    );
                }
                _ => {
                    let first = next(top + 1);
                    let last = first + next(1 + (top / 500).max(3));
                    let mut removed = 0;
                    stream.remove(first, last, |_| removed += 1);
                    let before = model.len();
                    model.retain(|position, _| *position < first || *position > last);
                    assert_eq!(removed, before - model.len());
                }
            }
        }
        assert!(model.len() > 100);
        for from in [0, top / 3, top / 2, top, top + 1] {
            let expected: Vec<u64> = model.range(from..).map(|(position, _)| *position).collect();
            assert_eq!(live(&stream, from), expected);
        }
        stream.remove(0, u64::MAX, |_| {});
        assert_eq!(live(&stream, 0), []);
        assert!(stream.chunks.len() <= 1);
    }
}
