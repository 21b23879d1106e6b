//! The contract without a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{RECORD_BYTES, encoded_bytes, padded};
use crate::reader::Reader;
use crate::rules::Rules;
use crate::store::Store;
use crate::types::{
    Applied, Batch, Op, Record, Recovered, Refusals, StreamId, StreamSummary, Usage,
};

/// A store in memory, for tests and for nodes that keep nothing. Nothing survives it but what
/// [`MemoryStore::recovered`] hands on.
#[derive(Debug)]
pub struct MemoryStore {
    held: Arc<Held>,
    rules: Rules,
    batch_bytes_max: usize,
    live_bytes_max: Option<u64>,
    /// Batches that were not done. See [`Batch::refusals_known`].
    refusals: Refusals,
}

/// What a memory store shares with its readers.
#[derive(Debug, Default)]
pub(crate) struct Held {
    content: RwLock<Content>,
}

#[derive(Debug, Default)]
struct Content {
    streams: BTreeMap<StreamId, Stream>,
    state: BTreeMap<Bytes, Bytes>,
}

#[derive(Debug, Default)]
struct Stream {
    records: BTreeMap<u64, (Bytes, Bytes)>,
    live_bytes: u64,
    next_position: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that takes batches as large as a log with default options does.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(64 * 1024 * 1024, None)
    }

    /// An empty store that refuses batches above `batch_bytes_max` and answers
    /// [`Applied::Full`] when live records would take more than `live_bytes_max`.
    #[must_use]
    pub fn with_limits(batch_bytes_max: usize, live_bytes_max: Option<u64>) -> Self {
        Self {
            held: Arc::new(Held::default()),
            rules: Rules::default(),
            batch_bytes_max,
            live_bytes_max,
            refusals: Refusals::default(),
        }
    }

    /// What opening a log with this content would tell (without recent heads).
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        let content = self.held.content();
        let summary = |stream: &Stream| StreamSummary {
            next_position: stream.next_position,
            first_live: stream
                .records
                .first_key_value()
                .map(|(position, _)| *position),
            live_records: stream.records.len() as u64,
            live_bytes: stream.live_bytes,
        };
        Recovered {
            streams: content
                .streams
                .iter()
                .map(|(id, stream)| (*id, summary(stream)))
                .collect(),
            state: content.state.clone(),
            clean: true,
            ..Recovered::default()
        }
    }

    fn apply(&mut self, batch: &Batch) -> Applied {
        let bytes: usize = batch
            .ops
            .iter()
            .map(|op| encoded_bytes(op, usize::MAX))
            .fold(0, usize::saturating_add);
        self.rules.begin();
        if let Some(refusal) = self.rules.check(batch, bytes, self.batch_bytes_max) {
            return Applied::Refused(refusal);
        }
        if self.refusals.are_unknown_to(batch) {
            return Applied::Full;
        }
        let mut content = self.held.content_mut();
        if let Some(max) = self.live_bytes_max
            && batch.has_puts()
        {
            let live: u64 = content
                .streams
                .values()
                .map(|stream| stream.live_bytes)
                .sum();
            if live + bytes as u64 > max {
                return Applied::Full;
            }
        }
        for op in &batch.ops {
            match op {
                Op::Put {
                    stream: id,
                    position,
                    head,
                    body,
                } => {
                    let stream = content.streams.entry(*id).or_default();
                    stream
                        .records
                        .insert(*position, (head.clone(), body.clone()));
                    stream.live_bytes += encoded_bytes(op, usize::MAX) as u64;
                    stream.next_position = position.saturating_add(1);
                    self.rules.put(*id, *position);
                }
                Op::Remove {
                    stream,
                    first,
                    last,
                } => {
                    let Some(stream) = content.streams.get_mut(stream) else {
                        continue;
                    };
                    let removed: Vec<u64> = stream
                        .records
                        .range(first..=last)
                        .map(|(position, _)| *position)
                        .collect();
                    for position in removed {
                        if let Some((head, body)) = stream.records.remove(&position) {
                            stream.live_bytes -= record_bytes(&head, &body);
                        }
                    }
                }
                Op::Set { key, value } => {
                    content.state.insert(key.clone(), value.clone());
                }
                Op::Unset { key } => {
                    content.state.remove(key);
                }
            }
        }
        Applied::Done
    }
}

fn record_bytes(head: &Bytes, body: &Bytes) -> u64 {
    (RECORD_BYTES + padded(head.len() + body.len())) as u64
}

impl Store for MemoryStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
        let answers = batches.iter().map(|batch| {
            let answer = self.apply(batch);
            self.refusals.count(batch, answer);
            answer
        });
        Ok(answers.collect())
    }

    fn reader(&self) -> Reader {
        Reader::of_memory(Arc::clone(&self.held))
    }

    fn usage(&self) -> Usage {
        let content = self.held.content();
        let streams = content.streams.values();
        Usage {
            live_records: streams
                .clone()
                .map(|stream| stream.records.len() as u64)
                .sum(),
            live_bytes: streams.map(|stream| stream.live_bytes).sum(),
            state_keys: content.state.len() as u64,
            ..Usage::default()
        }
    }
}

impl Held {
    pub(crate) fn streams(&self) -> Vec<StreamId> {
        self.content().streams.keys().copied().collect()
    }

    pub(crate) fn read(
        &self,
        stream: StreamId,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let content = self.content();
        let mut records = Vec::new();
        let Some(stream) = content.streams.get(&stream) else {
            return Ok(records);
        };
        let mut bytes = 0;
        for (position, (head, body)) in stream.records.range(from..).take(max_records) {
            bytes += padded(head.len() + body.len());
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(Record {
                position: *position,
                head: head.clone(),
                body: body.clone(),
            });
        }
        Ok(records)
    }

    fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn content_mut(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }
}
