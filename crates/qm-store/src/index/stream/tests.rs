//! Streams against an ordered map, in memory and paged out.

use std::path::PathBuf;

use super::*;
use crate::fs::{Fs, SimFs};

const ID: StreamId = StreamId(1);

/// A stream with what an index has around it.
struct Kept {
    stream: Stream,
    pages: Pages,
    segments: Segments,
    /// Whether chunks leave memory all the time.
    cold: bool,
}

impl Kept {
    fn new(cold: bool) -> Self {
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
        Self {
            stream: Stream::default(),
            pages: Pages::new(fs, PathBuf::from("/pages"), [1; 4], 0, false),
            segments: Segments::default(),
            cold,
        }
    }

    fn insert(&mut self, position: u64, at: Location) -> Option<Location> {
        let old = self
            .stream
            .insert(position, at, ID, &mut self.pages, &self.segments)
            .unwrap();
        if self.cold {
            self.cool();
        }
        old
    }

    fn cool(&mut self) {
        let mut steps = 4;
        if let Ok(base) = self.stream.find_hot(Bound::Unbounded, &mut steps) {
            self.stream.cool(base, &mut self.pages);
        }
    }

    fn remove(&mut self, first: u64, last: u64) -> usize {
        let mut removed = 0;
        let count = |_: &mut Segments, _| removed += 1;
        let (pages, segments) = (&mut self.pages, &mut self.segments);
        self.stream
            .remove(first, last, ID, pages, segments, count)
            .unwrap();
        removed
    }

    fn source(&self) -> Source<'_> {
        Source {
            id: ID,
            pages: &self.pages,
            segments: &self.segments,
        }
    }

    fn find(&self, position: u64) -> Option<Location> {
        let mut found = None;
        let show = |at, location| {
            found = (at == position).then_some(location);
            false
        };
        self.stream.visit(position, self.source(), show).unwrap();
        found
    }

    fn cold_chunks(&self) -> usize {
        let chunks = self.stream.chunks.values();
        chunks
            .filter(|chunk| matches!(chunk, Chunk::Cold(_)))
            .count()
    }

    fn hot_chunks(&self) -> usize {
        self.stream.chunks.len() - self.cold_chunks()
    }
}

fn at(position: u64) -> Location {
    let unit = u32::try_from(position % 1000).unwrap() + 1;
    Location {
        slot: 3,
        offset: unit * 16,
        bytes: unit * 8,
    }
}

fn live(kept: &Kept, from: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let show = |position, _| {
        found.push(position);
        true
    };
    kept.stream.visit(from, kept.source(), show).unwrap();
    found
}

#[test]
fn a_record_costs_twelve_bytes() {
    assert_eq!(size_of::<Entry>(), 12);
    let mut stream = Kept::new(false);
    for position in 0..100_000 {
        stream.insert(position, at(position));
    }
    let one = |chunk: &Chunk| match chunk {
        Chunk::Hot(hot) => hot.entries.capacity(),
        Chunk::Cold(_) => 0,
    };
    let allocated: usize = stream.stream.chunks.values().map(one).sum();
    assert!(allocated <= 100_000 + CHUNK, "{allocated}");
}

#[test]
fn copies_may_come_in_any_order() {
    let mut stream = Kept::new(false);
    for position in (0..5000).rev().step_by(3).chain(0..5000) {
        stream.insert(position, at(position));
    }
    assert_eq!(live(&stream, 0), (0..5000).collect::<Vec<_>>());
    for position in 0..5000 {
        assert_eq!(stream.find(position), Some(at(position)));
    }
    let small = |chunk: &Chunk| match chunk {
        Chunk::Hot(hot) => hot.entries.len() <= 2 * CHUNK,
        Chunk::Cold(cold) => usize::from(cold.live) <= 2 * CHUNK,
    };
    assert!(stream.stream.chunks.values().all(small));
}

#[test]
fn random_work_matches_an_ordered_map() {
    for seed in 1..3 {
        assert_eq!(random_work(seed, false), 0);
        assert!(random_work(seed, true) > 50);
    }
}

/// How many chunks were seen outside memory.
fn random_work(seed: u64, cold: bool) -> usize {
    let mut model = BTreeMap::new();
    let mut stream = Kept::new(cold);
    let mut cold_seen = 0;
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % bound
    };
    let mut top = 0;
    for _ in 0..8_000 {
        cold_seen += usize::from(stream.cold_chunks() > 0);
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
                let removed = stream.remove(first, last);
                let before = model.len();
                model.retain(|position, _| *position < first || *position > last);
                assert_eq!(removed, before - model.len());
            }
        }
    }
    assert_eq!(stream.pages.hot, stream.hot_chunks());
    assert!(model.len() > 100);
    for from in [0, top / 3, top / 2, top, top + 1] {
        let expected: Vec<u64> = model.range(from..).map(|(position, _)| *position).collect();
        assert_eq!(live(&stream, from), expected);
    }
    stream.remove(0, u64::MAX);
    assert_eq!(live(&stream, 0), []);
    assert!(stream.stream.chunks.len() <= 1);
    assert_eq!(stream.pages.disk_bytes(), 0, "all pages are free");
    cold_seen
}
