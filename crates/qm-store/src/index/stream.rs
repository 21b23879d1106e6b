//! Live positions of one stream, 12 bytes each, in chunks that leave memory when they are cold.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::STEP;
use crate::types::{StreamId, StreamSummary};

use super::pages::{Page, Pages};
use super::{Location, Segments, Slot};

/// Records a chunk holds before the next one starts.
pub(super) const CHUNK: usize = 512;

/// Live positions of one stream, in chunks keyed by a position at or below their first.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    chunks: BTreeMap<u64, Chunk>,
    pub(crate) last_put: Option<u64>,
    pub(crate) live_records: u64,
    pub(crate) live_bytes: u64,
}

#[derive(Debug)]
enum Chunk {
    Hot(Hot),
    /// Never the last chunk of a stream, and never empty.
    Cold(Cold),
}

#[derive(Debug, Default)]
struct Hot {
    /// Rising by `delta`.
    entries: Vec<Entry>,
    live: usize,
}

#[derive(Debug, Clone, Copy)]
struct Cold {
    page: Page,
    live: u16,
    /// Of the last live entry.
    last_delta: u16,
}

/// Lengths and offsets count units of 8 bytes; no length means removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) delta: u16,
    pub(super) slot: Slot,
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

    pub(super) const fn is_live(self) -> bool {
        self.length > 0
    }
}

/// Where cold chunks come back from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) id: StreamId,
    pub(super) pages: &'a Pages,
    pub(super) segments: &'a Segments,
}

impl Source<'_> {
    fn load(self, base: u64, cold: Cold) -> Result<Arc<[Entry]>, StoreError> {
        if let Some(entries) = self.pages.load(cold.page) {
            return Ok(entries);
        }
        // The log tells the same, and counts.
        let last = base.saturating_add(u64::from(cold.last_delta));
        let found = self.segments.rescan(self.id, base, last)?;
        let entries: Option<Vec<Entry>> = found
            .iter()
            .map(|(position, at)| Some(Entry::new(u16::try_from(position - base).ok()?, *at)))
            .collect();
        match entries {
            Some(entries) if entries.len() == usize::from(cold.live) => Ok(entries.into()),
            _ => Err(self.segments.unreadable()),
        }
    }
}

impl Stream {
    pub(super) fn summary(&self, source: Source<'_>) -> Result<StreamSummary, StoreError> {
        let mut first_live = None;
        self.visit(0, source, |position, _| {
            first_live = Some(position);
            false
        })?;
        Ok(StreamSummary {
            next_position: self.last_put.map_or(0, |last| last.saturating_add(1)),
            first_live,
            live_records: self.live_records,
            live_bytes: self.live_bytes,
        })
    }

    /// Shows live records at or after a position, in order, until `show` has enough.
    pub(super) fn visit(
        &self,
        from: u64,
        source: Source<'_>,
        mut show: impl FnMut(u64, Location) -> bool,
    ) -> Result<(), StoreError> {
        let start = self
            .chunks
            .range(..=from)
            .next_back()
            .map_or(from, |(base, _)| *base);
        for (base, chunk) in self.chunks.range(start..) {
            let loaded;
            let entries: &[Entry] = match chunk {
                Chunk::Hot(hot) => &hot.entries,
                Chunk::Cold(cold) if base.saturating_add(cold.last_delta.into()) < from => continue,
                Chunk::Cold(cold) => {
                    loaded = source.load(*base, *cold)?;
                    &loaded
                }
            };
            let skip = from
                .checked_sub(*base)
                .map_or(0, |delta| rank(entries, delta));
            for entry in entries[skip..].iter().filter(|entry| entry.is_live()) {
                if !show(base + u64::from(entry.delta), entry.location()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Puts a chunk that left memory back.
    fn heat(
        &mut self,
        base: u64,
        id: StreamId,
        pages: &mut Pages,
        segments: &Segments,
    ) -> Result<(), StoreError> {
        let Some(Chunk::Cold(cold)) = self.chunks.get(&base) else {
            return Ok(());
        };
        let cold = *cold;
        let source = Source {
            id,
            pages,
            segments,
        };
        let entries = source.load(base, cold)?.to_vec();
        let live = entries.len();
        self.chunks.insert(base, Chunk::Hot(Hot { entries, live }));
        pages.release(cold.page);
        pages.hot += 1;
        Ok(())
    }

    /// The first chunk behind `after` that may leave memory; looks at `steps` of them at most.
    /// `Err` tells where the search ended.
    pub(super) fn find_hot(
        &self,
        after: Bound<u64>,
        steps: &mut usize,
    ) -> Result<u64, Option<u64>> {
        let tail = self.chunks.last_key_value().map(|(base, _)| *base);
        for (base, chunk) in self.chunks.range((after, Bound::Unbounded)) {
            if matches!(chunk, Chunk::Hot(hot) if hot.live > 0) && Some(*base) != tail {
                return Ok(*base);
            }
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return Err(Some(*base));
            }
        }
        Err(None)
    }

    /// Lets a chunk leave memory, if that works.
    pub(super) fn cool(&mut self, base: u64, pages: &mut Pages) {
        let Some(chunk) = self.chunks.get_mut(&base) else {
            return;
        };
        let Chunk::Hot(hot) = chunk else { return };
        let last = hot.entries.iter().rev().find(|entry| entry.is_live());
        let (Some(last), Ok(live)) = (last, u16::try_from(hot.live)) else {
            return;
        };
        let last_delta = last.delta;
        if let Some(page) = pages.store(&hot.entries) {
            *chunk = Chunk::Cold(Cold {
                page,
                live,
                last_delta,
            });
            pages.hot -= 1;
        }
    }

    /// Returns where the position was before, if it was live.
    pub(super) fn insert(
        &mut self,
        position: u64,
        at: Location,
        id: StreamId,
        pages: &mut Pages,
        segments: &Segments,
    ) -> Result<Option<Location>, StoreError> {
        let mut empty = None;
        // Nearly always the last chunk, which is found without comparing.
        let is_tail = self
            .chunks
            .last_key_value()
            .is_some_and(|(base, _)| *base <= position);
        if !is_tail && let Some((base, Chunk::Cold(_))) = self.chunks.range(..=position).next_back()
        {
            let base = *base;
            self.heat(base, id, pages, segments)?;
        }
        let found = if is_tail {
            self.chunks.iter_mut().next_back()
        } else {
            self.chunks.range_mut(..=position).next_back()
        };
        if let Some((base, Chunk::Hot(chunk))) = found {
            if let Ok(delta) = u16::try_from(position - base) {
                let rank = rank(&chunk.entries, u64::from(delta));
                match chunk.entries.get_mut(rank) {
                    Some(entry) if entry.delta == delta => {
                        let old = entry.is_live().then(|| entry.location());
                        *entry = Entry::new(delta, at);
                        chunk.live += usize::from(old.is_none());
                        return Ok(old);
                    }
                    None if rank >= CHUNK => {}
                    _ => {
                        chunk.insert(rank, Entry::new(delta, at));
                        if chunk.entries.len() > 2 * CHUNK {
                            let base = *base;
                            self.split(base, pages);
                        }
                        return Ok(None);
                    }
                }
            }
            empty = (chunk.live == 0).then_some(*base);
        }
        if let Some(base) = empty {
            self.chunks.remove(&base);
            pages.hot -= 1;
        }
        let mut chunk = Hot::default();
        chunk.insert(0, Entry::new(0, at));
        self.chunks.insert(position, Chunk::Hot(chunk));
        pages.hot += 1;
        Ok(None)
    }

    fn split(&mut self, base: u64, pages: &mut Pages) {
        let Some(Chunk::Hot(chunk)) = self.chunks.get_mut(&base) else {
            return;
        };
        let mut upper = chunk.entries.split_off(CHUNK);
        chunk.live = chunk.entries.iter().filter(|entry| entry.is_live()).count();
        let shift = upper[0].delta;
        for entry in &mut upper {
            entry.delta -= shift;
        }
        let live = upper.iter().filter(|entry| entry.is_live()).count();
        let upper = Hot {
            entries: upper,
            live,
        };
        self.chunks
            .insert(base + u64::from(shift), Chunk::Hot(upper));
        pages.hot += 1;
    }

    /// Removes a range and tells where each removed record was.
    pub(super) fn remove(
        &mut self,
        first: u64,
        last: u64,
        id: StreamId,
        pages: &mut Pages,
        segments: &mut Segments,
        mut removed: impl FnMut(&mut Segments, Location),
    ) -> Result<(), StoreError> {
        if first > last {
            return Ok(());
        }
        let start = self
            .chunks
            .range(..=first)
            .next_back()
            .map_or(first, |(base, _)| *base);
        let cold: Vec<u64> = self
            .chunks
            .range(start..=last)
            .filter(|(base, chunk)| match chunk {
                Chunk::Hot(_) => false,
                Chunk::Cold(cold) => base.saturating_add(cold.last_delta.into()) >= first,
            })
            .map(|(base, _)| *base)
            .collect();
        let tail = self.chunks.last_key_value().map(|(base, _)| *base);
        let mut empty = Vec::new();
        // One at a time: a range over a long backlog must not bring all of it into memory.
        for base in cold {
            self.heat(base, id, pages, segments)?;
            if let Some(Chunk::Hot(chunk)) = self.chunks.get_mut(&base) {
                chunk.remove(base, first, last, |at| removed(segments, at));
                if chunk.live == 0 {
                    self.chunks.remove(&base);
                    pages.hot -= 1;
                }
            }
        }
        for (base, chunk) in self.chunks.range_mut(start..=last) {
            let Chunk::Hot(chunk) = chunk else { continue };
            chunk.remove(*base, first, last, |at| removed(segments, at));
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
            pages.hot -= 1;
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let one = |chunk: &Chunk| match chunk {
            Chunk::Hot(hot) => hot.entries.capacity() * size_of::<Entry>(),
            Chunk::Cold(_) => 0,
        };
        let chunks = self.chunks.values().map(one);
        chunks
            .map(|bytes| size_of::<(u64, Chunk)>() + bytes)
            .sum::<usize>()
    }
}

/// How many entries lie below a delta.
fn rank(entries: &[Entry], delta: u64) -> usize {
    // New records come at the end and old ones leave at the start.
    match entries.last() {
        Some(last) if u64::from(last.delta) < delta => entries.len(),
        _ => entries.partition_point(|entry| u64::from(entry.delta) < delta),
    }
}

impl Hot {
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

    fn remove(&mut self, base: u64, first: u64, last: u64, mut removed: impl FnMut(Location)) {
        let from = first
            .checked_sub(base)
            .map_or(0, |delta| rank(&self.entries, delta));
        for entry in &mut self.entries[from..] {
            if u64::from(entry.delta) > last - base {
                break;
            }
            if entry.is_live() {
                removed(entry.location());
                entry.length = 0;
                self.live -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
