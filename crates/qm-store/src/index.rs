//! Where every live record is, and what each segment is still needed for.

mod pages;
mod rescan;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Seal, Seed};
use crate::segment::SegmentFile;
use crate::side::SideBody;
use crate::types::{StreamId, StreamSummary};

pub(crate) use pages::{PAGES_NAME, Pages, put_varint, take_varint};
use stream::{Source, Stream};

/// Chunks a search for a cold one looks at, at most.
const SEARCH_STEPS: usize = 64;

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
    pub(crate) seal: Option<Seal>,
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
            seal: None,
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
    streams: BTreeMap<StreamId, Stream>,
    pub(crate) state: BTreeMap<Bytes, Location>,
    pub(crate) segments: Segments,
    /// Bodies in files of their own, by the records that name them.
    pub(crate) side: BTreeMap<(StreamId, u64), SideBody>,
    /// Those whose records are gone.
    pub(crate) dead_side: Vec<SideBody>,
    pub(crate) side_bytes: u64,
    pages: Pages,
    /// The chunk that left memory last.
    hand: Option<(StreamId, u64)>,
}

impl Index {
    pub(crate) fn new(pages: Pages) -> Self {
        Self {
            pages,
            ..Self::default()
        }
    }

    /// Adds a record, or moves it when it is a copy of one that is live.
    pub(crate) fn put(
        &mut self,
        id: StreamId,
        position: u64,
        at: Location,
        side: Option<SideBody>,
    ) -> Result<(), StoreError> {
        let stream = self.streams.entry(id).or_default();
        stream.last_put = stream.last_put.max(Some(position));
        let old = stream.insert(position, at, id, &mut self.pages, &self.segments)?;
        self.segments.born(at);
        match old {
            Some(old) => {
                stream.live_bytes -= u64::from(old.bytes);
                if let Some(sequence) = self.segments.died(old, at.slot) {
                    self.segments.get_mut(at.slot).copied.insert(sequence);
                }
            }
            None => stream.live_records += 1,
        }
        stream.live_bytes += u64::from(at.bytes);
        let before = match side {
            Some(side) => {
                stream.live_bytes += side.bytes;
                self.side_bytes += side.bytes;
                self.side.insert((id, position), side)
            }
            None if old.is_some() => self.side.remove(&(id, position)),
            None => None,
        };
        if let Some(before) = before {
            stream.live_bytes -= before.bytes;
            self.side_bytes -= before.bytes;
            if side.is_none_or(|side| side.number != before.number) {
                self.dead_side.push(before);
            }
        }
        if self.pages.is_crowded(self.streams.len()) {
            self.page_out();
        }
        Ok(())
    }

    /// Lets one chunk leave memory, going round all of them.
    fn page_out(&mut self) {
        let mut steps = SEARCH_STEPS;
        let (mut id, mut after) = match self.hand {
            Some((id, base)) => (id, Bound::Excluded(base)),
            None => (StreamId(0), Bound::Unbounded),
        };
        for (next, stream) in self.streams.range_mut(id..) {
            if *next != id {
                after = Bound::Unbounded;
            }
            id = *next;
            match stream.find_hot(after, &mut steps) {
                Ok(base) => {
                    stream.cool(base, &mut self.pages);
                    self.hand = Some((id, base));
                    return;
                }
                Err(Some(base)) => {
                    self.hand = Some((id, base));
                    return;
                }
                Err(None) => {}
            }
            steps = steps.saturating_sub(1);
            if steps == 0 {
                self.hand = Some((id, u64::MAX));
                return;
            }
        }
        self.hand = None;
    }

    /// Removes a range by a mark standing in segment `by`.
    pub(crate) fn remove(
        &mut self,
        id: StreamId,
        first: u64,
        last: u64,
        by: Slot,
    ) -> Result<(), StoreError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let (mut records, mut bytes) = (0, 0);
        let removed = |segments: &mut Segments, old: Location| {
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
        };
        let (pages, segments) = (&mut self.pages, &mut self.segments);
        stream.remove(first, last, id, pages, segments, removed)?;
        stream.live_records -= records;
        stream.live_bytes -= bytes;
        while let Some((key, side)) = self.side.range((id, first)..=(id, last)).next() {
            let (key, side) = (*key, *side);
            self.side.remove(&key);
            stream.live_bytes -= side.bytes;
            self.side_bytes -= side.bytes;
            self.dead_side.push(side);
        }
        Ok(())
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

    /// Shows live records of a stream at or after a position, in order, until `show` has enough.
    pub(crate) fn visit(
        &self,
        id: StreamId,
        from: u64,
        show: impl FnMut(u64, Location) -> bool,
    ) -> Result<(), StoreError> {
        match self.streams.get(&id) {
            Some(stream) => stream.visit(from, self.source(id), show),
            None => Ok(()),
        }
    }

    /// Where the record at a position is, if it is live.
    pub(crate) fn find(&self, id: StreamId, position: u64) -> Result<Option<Location>, StoreError> {
        let mut found = None;
        self.visit(id, position, |at, location| {
            found = (at == position).then_some(location);
            false
        })?;
        Ok(found)
    }

    /// Every stream, and the highest position put in it.
    pub(crate) fn summaries(&self) -> Result<BTreeMap<StreamId, StreamSummary>, StoreError> {
        let streams = self.streams.iter();
        streams
            .map(|(id, stream)| Ok((*id, stream.summary(self.source(*id))?)))
            .collect()
    }

    pub(crate) fn last_puts(&self) -> impl Iterator<Item = (StreamId, u64)> {
        let streams = self.streams.iter();
        streams.filter_map(|(id, stream)| Some((*id, stream.last_put?)))
    }

    /// Live records and the bytes they take.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let streams = self.streams.values();
        streams.fold((0, 0), |(records, bytes), stream| {
            (records + stream.live_records, bytes + stream.live_bytes)
        })
    }

    const fn source(&self, id: StreamId) -> Source<'_> {
        Source {
            id,
            pages: &self.pages,
            segments: &self.segments,
        }
    }

    /// What is live in a segment, in the order it stands there. Walks the whole index.
    pub(crate) fn live_in(&self, slot: Slot) -> Result<Vec<Location>, StoreError> {
        let mut found: Vec<Location> = self.state.values().copied().collect();
        found.retain(|at| at.slot == slot);
        for (id, stream) in &self.streams {
            stream.visit(0, self.source(*id), |_, at| {
                found.extend(Some(at).filter(|at| at.slot == slot));
                true
            })?;
        }
        found.sort_unstable_by_key(|at| at.offset);
        Ok(found)
    }

    /// Gives the file of cold chunks back when nothing is in it.
    pub(crate) fn trim_pages(&mut self) -> bool {
        self.pages.trim()
    }

    /// Bytes of the file of cold chunks.
    pub(crate) const fn page_bytes(&self) -> u64 {
        self.pages.disk_bytes()
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let chunks: usize = self.streams.values().map(Stream::memory_bytes).sum();
        let streams = self.streams.len() * size_of::<(StreamId, Stream)>();
        let side = self.side.len() * size_of::<((StreamId, u64), SideBody)>();
        let state: usize = self
            .state
            .keys()
            .map(|key| key.len() + size_of::<(Bytes, Location)>())
            .sum();
        (chunks + streams + side + state + self.pages.memory_bytes()) as u64
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
