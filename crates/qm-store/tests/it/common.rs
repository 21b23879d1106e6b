//! What the integration tests share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use qm_store::{Batch, Fs, Log, LogOptions, Op, Reader, Recovered, StoreError, StreamId};

/// Small segments, so that everything that happens to segments happens often, and no index in
/// memory but the newest part of each stream.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 20 * 1024,
        reserve_bytes: 8 * 1024,
        index_bytes_max: 0,
        spare_segments_max: 2,
        recent_puts: 50,
        ..LogOptions::default()
    }
}

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data")
}

/// Salts from a counter: different for every segment, the same for every run.
pub(crate) fn salts(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut random = Random(seed);
    Box::new(move || random.next())
}

pub(crate) fn open(
    fs: &Arc<impl Fs + 'static>,
    options: LogOptions,
) -> Result<(Log, Recovered), StoreError> {
    open_at(fs, &dir(), options, 7)
}

pub(crate) fn open_at(
    fs: &Arc<impl Fs + 'static>,
    dir: &Path,
    options: LogOptions,
    seed: u64,
) -> Result<(Log, Recovered), StoreError> {
    let fs: Arc<dyn Fs> = Arc::clone(fs) as Arc<dyn Fs>;
    Log::open(fs, dir, options, salts(seed))
}

pub(crate) fn put(
    stream: u32,
    position: u64,
    head: impl AsRef<[u8]>,
    body: impl AsRef<[u8]>,
) -> Op {
    Op::Put {
        stream: StreamId(stream),
        position,
        head: Bytes::copy_from_slice(head.as_ref()),
        body: Bytes::copy_from_slice(body.as_ref()),
    }
}

pub(crate) fn remove(stream: u32, first: u64, last: u64) -> Op {
    Op::Remove {
        stream: StreamId(stream),
        first,
        last,
    }
}

pub(crate) fn set(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Op::Set {
        key: Bytes::copy_from_slice(key.as_ref()),
        value: Bytes::copy_from_slice(value.as_ref()),
    }
}

pub(crate) fn unset(key: impl AsRef<[u8]>) -> Op {
    Op::Unset {
        key: Bytes::copy_from_slice(key.as_ref()),
    }
}

pub(crate) fn batch(ops: impl Into<Vec<Op>>) -> Batch {
    Batch::from(ops.into())
}

/// Every live record of a stream.
pub(crate) fn all(reader: &Reader, stream: u32) -> Vec<(u64, Bytes, Bytes)> {
    let mut found = Vec::new();
    let mut from = 0;
    loop {
        let page = reader.read(StreamId(stream), from, 100, 8 * 1024).unwrap();
        let Some(last) = page.last() else {
            return found;
        };
        from = last.position + 1;
        found.extend(page.into_iter().map(|r| (r.position, r.head, r.body)));
    }
}

/// What a store must hold, kept the simplest way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    pub(crate) streams: BTreeMap<u32, BTreeMap<u64, (Bytes, Bytes)>>,
    pub(crate) state: BTreeMap<Bytes, Bytes>,
}

impl Model {
    pub(crate) fn apply(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put {
                    stream,
                    position,
                    head,
                    body,
                } => {
                    let stream = self.streams.entry(stream.0).or_default();
                    stream.insert(*position, (head.clone(), body.clone()));
                }
                Op::Remove {
                    stream,
                    first,
                    last,
                } => {
                    if let Some(stream) = self.streams.get_mut(&stream.0) {
                        stream.retain(|position, _| position < first || position > last);
                    }
                }
                Op::Set { key, value } => {
                    self.state.insert(key.clone(), value.clone());
                }
                Op::Unset { key } => {
                    self.state.remove(key);
                }
            }
        }
        self.streams.retain(|_, stream| !stream.is_empty());
    }

    /// What a store holds, read back record by record.
    pub(crate) fn read(reader: &Reader, streams: u32, state: BTreeMap<Bytes, Bytes>) -> Self {
        let streams = (0..streams)
            .map(|id| {
                let records = all(reader, id);
                (
                    id,
                    records
                        .into_iter()
                        .map(|(at, head, body)| (at, (head, body)))
                        .collect(),
                )
            })
            .filter(|(_, records): &(u32, BTreeMap<_, _>)| !records.is_empty())
            .collect();
        Self { streams, state }
    }

    /// The records that a store serves, read so many bytes at a time, and those that it refuses by
    /// name because of damage that `is_it` knows: by its file, and by what is said of it.
    pub(crate) fn served(
        reader: &Reader,
        streams: u32,
        bytes: usize,
        is_it: impl Fn(&Path, &str) -> bool,
    ) -> Result<(Self, BTreeSet<(u32, u64)>), String> {
        let (mut found, mut refused) = (Self::default(), BTreeSet::new());
        for stream in 0..streams {
            let mut from = 0;
            loop {
                match reader.read(StreamId(stream), from, 10, bytes) {
                    Ok(page) => {
                        let Some(last) = page.last() else { break };
                        from = last.position + 1;
                        let records = page.into_iter().map(|r| (r.position, (r.head, r.body)));
                        found.streams.entry(stream).or_default().extend(records);
                    }
                    Err(StoreError::Damaged {
                        record: Some((_, position)),
                        path,
                        what,
                        ..
                    }) if is_it(&path, what) => {
                        refused.insert((stream, position));
                        from = position + 1;
                    }
                    Err(error) => return Err(format!("reading: {error}")),
                }
            }
        }
        Ok((found, refused))
    }
}

/// Steele, Lea, Flood: *Fast splittable pseudorandom number generators* (2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
