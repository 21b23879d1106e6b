//! Reading live records while commits go on.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Kind, RECORD_BYTES, RecordHeader, Seed};
use crate::index::Location;
use crate::log::Shared;
use crate::memory::Held;
use crate::segment::SegmentFile;
use crate::types::{Record, StreamId};

/// The most one call returns, whatever it is asked for.
const RECORDS_MAX: usize = 65_536;
/// The most one file read takes, single large records apart.
const SPAN_BYTES: u32 = 1024 * 1024;
/// Bytes between two wanted records that are cheaper read along than left out.
const GAP_BYTES: u32 = 16 * 1024;

/// Reads live records; cheap to clone, usable from any thread.
///
/// It sees every commit that has returned. It does not stop a removal: a record handed out may
/// be removed at any time.
#[derive(Debug, Clone)]
pub struct Reader {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Log(Arc<Shared>),
    Memory(Arc<Held>),
}

impl Reader {
    pub(crate) const fn of_log(shared: Arc<Shared>) -> Self {
        Self {
            source: Source::Log(shared),
        }
    }

    pub(crate) const fn of_memory(held: Arc<Held>) -> Self {
        Self {
            source: Source::Memory(held),
        }
    }

    /// The next live records at or after `from`, in order: at most `max_records`, and at most
    /// `max_bytes` of heads, bodies and padding, but at least one when there is one and
    /// `max_records` is not 0.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the first of them does not match its checksum (records before
    /// a damaged one are returned first; go on behind it, or remove it), [`StoreError::Io`],
    /// [`StoreError::Failed`] after a failed commit.
    pub fn read(
        &self,
        stream: StreamId,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Record>, StoreError> {
        match &self.source {
            Source::Log(shared) => read_log(shared, stream, from, max_records, max_bytes),
            Source::Memory(held) => held.read(stream, from, max_records, max_bytes),
        }
    }
}

struct Wanted {
    position: u64,
    at: Location,
}

/// Wanted records that one file read fetches.
struct Span {
    file: Arc<SegmentFile>,
    sequence: u64,
    seed: Seed,
    start: u32,
    end: u32,
    wanted: Vec<Wanted>,
}

fn read_log(
    shared: &Shared,
    stream: StreamId,
    from: u64,
    max_records: usize,
    max_bytes: usize,
) -> Result<Vec<Record>, StoreError> {
    shared.check()?;
    let spans = plan(shared, stream, from, max_records, max_bytes);
    let mut records = Vec::with_capacity(spans.iter().map(|span| span.wanted.len()).sum());
    for span in spans {
        match span.read(stream, !shared.serves_unchecked(), &mut records) {
            Ok(()) => {}
            Err(error) if records.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(records)
}

fn plan(
    shared: &Shared,
    stream: StreamId,
    from: u64,
    max_records: usize,
    max_bytes: usize,
) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let index = shared.index();
    let Some(live) = index.streams.get(&stream) else {
        return spans;
    };
    let mut bytes = 0;
    for (position, at) in live.live_from(from).take(max_records.min(RECORDS_MAX)) {
        bytes += at.bytes as usize - RECORD_BYTES;
        if bytes > max_bytes && !spans.is_empty() {
            break;
        }
        let end = at.offset + at.bytes;
        let wanted = Wanted { position, at };
        match spans.last_mut() {
            Some(span) if span.extends_to(at) => {
                span.end = end;
                span.wanted.push(wanted);
            }
            _ => {
                let segment = index.segments.get(at.slot);
                spans.push(Span {
                    file: Arc::clone(&segment.file),
                    sequence: segment.sequence,
                    seed: segment.seed,
                    start: at.offset,
                    end,
                    wanted: vec![wanted],
                });
            }
        }
    }
    spans
}

impl Span {
    fn extends_to(&self, at: Location) -> bool {
        let same = self
            .wanted
            .last()
            .is_some_and(|last| last.at.slot == at.slot);
        let gap = at.offset.checked_sub(self.end);
        same && gap.is_some_and(|gap| gap <= GAP_BYTES)
            && at.offset + at.bytes - self.start <= SPAN_BYTES
    }

    fn read(
        self,
        stream: StreamId,
        verify: bool,
        records: &mut Vec<Record>,
    ) -> Result<(), StoreError> {
        let mut buffer = vec![0; (self.end - self.start) as usize];
        let filled = self
            .file
            .file
            .read_at(&mut buffer, u64::from(self.start))
            .map_err(|error| self.file.error("read", error))?;
        buffer.truncate(filled);
        let buffer = Bytes::from(buffer);
        // One record kept for long must not keep a span many times its size in memory.
        let used: usize = self
            .wanted
            .iter()
            .map(|wanted| wanted.at.bytes as usize)
            .sum();
        let share = used * 2 >= buffer.len() && self.wanted.len() == 1;
        for Wanted { position, at } in &self.wanted {
            let skip = (at.offset - self.start) as usize;
            let damaged = |what| StoreError::Damaged {
                segment: self.sequence,
                path: self.file.path.clone(),
                offset: u64::from(at.offset),
                what,
                record: Some((stream, *position)),
            };
            let header = buffer
                .get(skip..)
                .and_then(|bytes| RecordHeader::decode(self.seed, at.offset, bytes))
                .ok_or_else(|| damaged("no record where the index has one"))?;
            if header.kind != Kind::Put
                || header.stream != stream.0
                || header.position != *position
                || header.record_bytes() != u64::from(at.bytes)
            {
                return Err(damaged("another record where the index has this one"));
            }
            let head_at = skip + RECORD_BYTES;
            let body_at = head_at + header.head_bytes as usize;
            let end = body_at + header.body_bytes as usize;
            let payload = buffer.get(head_at..end).unwrap_or_default();
            if verify && !header.payload_matches(self.seed, at.offset, payload) {
                return Err(damaged("the checksum of its content does not match"));
            }
            let record = if share {
                (buffer.slice(head_at..body_at), buffer.slice(body_at..end))
            } else {
                let own = Bytes::copy_from_slice(payload);
                (
                    own.slice(..body_at - head_at),
                    own.slice(body_at - head_at..),
                )
            };
            records.push(Record {
                position: *position,
                head: record.0,
                body: record.1,
            });
        }
        Ok(())
    }
}
