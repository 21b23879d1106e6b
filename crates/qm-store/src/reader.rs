//! Reading live records while commits go on.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{Kind, RECORD_BYTES, RecordHeader, Seed, u32_at};
use crate::index::Location;
use crate::log::Shared;
use crate::memory::Held;
use crate::segment::SegmentFile;
use crate::side::{self, SideBody, SideReader};
use crate::types::{BodyPart, RawRecord, Record, StreamId};

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

    /// Part of the body of one record: at most `max_bytes` from `from` on; `None` when no live
    /// record has the position. A huge body is read no further than asked for.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    pub fn read_body(
        &self,
        stream: StreamId,
        position: u64,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<BodyPart>, StoreError> {
        if let Source::Log(shared) = &self.source {
            shared.check()?;
            let side = {
                let index = shared.index();
                let side = index.side.get(&(stream, position)).copied();
                let at = index.find(stream, position)?;
                side.zip(at.map(|at| index.segments.get(at.slot).sequence))
            };
            if let Some((side, sequence)) = side {
                let mut bytes = Vec::new();
                let record = (stream, position);
                let read = read_side(shared, side, sequence, record, from, max_bytes, &mut bytes)?;
                let part = BodyPart {
                    bytes: bytes.into(),
                    body_bytes: side.bytes,
                };
                return Ok(read.then_some(part));
            }
        }
        let records = self.read(stream, position, 1, 0)?;
        let record = records.into_iter().next();
        Ok(record
            .filter(|record| record.position == position)
            .map(|Record { body, .. }| {
                let start = usize::try_from(from).map_or(body.len(), |from| from.min(body.len()));
                let end = start.saturating_add(max_bytes).min(body.len());
                BodyPart {
                    bytes: body.slice(start..end),
                    body_bytes: body.len() as u64,
                }
            }))
    }
}

/// Appends part of a huge body; false when its record was removed meanwhile.
fn read_side(
    shared: &Shared,
    side: SideBody,
    sequence: u64,
    record: (StreamId, u64),
    from: u64,
    count: usize,
    out: &mut Vec<u8>,
) -> Result<bool, StoreError> {
    let (fs, dir) = (shared.fs.as_ref(), &shared.dir);
    if let Some(reader) = SideReader::open(fs, dir, side, sequence, record)? {
        let wanted = side.bytes.saturating_sub(from).min(count as u64);
        out.reserve_exact(usize::try_from(wanted).unwrap_or(0));
        reader.read(from, count, out)?;
        return Ok(true);
    }
    let live = shared.index().side.get(&record) == Some(&side);
    if live {
        return Err(side::missing(dir, side, sequence, record));
    }
    Ok(false)
}

impl Reader {
    /// Streams that have had records since the store was opened, in their order.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamId> {
        match &self.source {
            Source::Log(shared) => {
                let index = shared.index();
                let mut streams: Vec<_> = index.last_puts().map(|(stream, _)| stream).collect();
                streams.sort_unstable();
                streams
            }
            Source::Memory(held) => held.streams(),
        }
    }

    /// A live record as it stands on the disk, nothing of it verified, for keeping a damaged one
    /// elsewhere; zeros where the disk cannot read it. `None` when it is not live, or has no bytes
    /// because the store is in memory.
    ///
    /// # Errors
    /// As for [`Reader::read`].
    pub fn raw(&self, stream: StreamId, position: u64) -> Result<Option<RawRecord>, StoreError> {
        let Source::Log(shared) = &self.source else {
            return Ok(None);
        };
        shared.check()?;
        let spans = plan(shared, stream, position, 1, usize::MAX)?;
        let found = spans.iter().find_map(|span| {
            let mut wanted = span.wanted.iter();
            let wanted = wanted.find(|wanted| wanted.position == position)?;
            Some((span, wanted.side))
        });
        let Some((span, side)) = found else {
            return Ok(None);
        };
        let mut bytes = vec![0; (span.end - span.start) as usize];
        let filled = span.file.read(&mut bytes, u64::from(span.start))?;
        bytes.truncate(filled);
        let bytes = Bytes::from(bytes);
        let head_bytes = bytes
            .get(..RECORD_BYTES)
            .map_or(0, |header| u32_at(header, 8));
        let head_end = RECORD_BYTES.saturating_add(head_bytes as usize);
        let head = if head_end <= bytes.len() {
            bytes.slice(RECORD_BYTES.min(head_end)..head_end)
        } else {
            Bytes::new()
        };
        Ok(Some(RawRecord {
            bytes,
            head,
            body_file: side.map(|side| side.path(&shared.dir)),
        }))
    }
}

struct Wanted {
    position: u64,
    at: Location,
    /// Where its body is, if not beside its head.
    side: Option<SideBody>,
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
    let spans = plan(shared, stream, from, max_records, max_bytes)?;
    let mut records = Vec::with_capacity(spans.iter().map(|span| span.wanted.len()).sum());
    for span in spans {
        match span.read(shared, stream, &mut records) {
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
) -> Result<Vec<Span>, StoreError> {
    let mut spans: Vec<Span> = Vec::new();
    let mut left = max_records.min(RECORDS_MAX);
    if left == 0 {
        return Ok(spans);
    }
    let index = shared.index();
    let mut bytes = 0usize;
    index.visit(stream, from, |position, at| {
        let side = match index.side.is_empty() {
            true => None,
            false => index.side.get(&(stream, position)).copied(),
        };
        let body = side.map_or(0, |side| usize::try_from(side.bytes).unwrap_or(usize::MAX));
        bytes = bytes.saturating_add(at.bytes as usize - RECORD_BYTES);
        bytes = bytes.saturating_add(body);
        if bytes > max_bytes && !spans.is_empty() {
            return false;
        }
        let end = at.offset + at.bytes;
        let wanted = Wanted { position, at, side };
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
        left -= 1;
        left > 0
    })?;
    Ok(spans)
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
        shared: &Shared,
        stream: StreamId,
        records: &mut Vec<Record>,
    ) -> Result<(), StoreError> {
        let mut buffer = vec![0; (self.end - self.start) as usize];
        let filled = self.file.read(&mut buffer, u64::from(self.start))?;
        buffer.truncate(filled);
        let buffer = Bytes::from(buffer);
        // One record kept for long must not keep a span many times its size in memory.
        let used: usize = self
            .wanted
            .iter()
            .map(|wanted| wanted.at.bytes as usize)
            .sum();
        let share = used * 2 >= buffer.len() && self.wanted.len() == 1;
        for Wanted { position, at, side } in &self.wanted {
            let skip = (at.offset - self.start) as usize;
            let damaged = |what| StoreError::Damaged {
                segment: self.sequence,
                path: self.file.path.clone(),
                offset: u64::from(at.offset),
                what: self.file.why(at.offset..at.offset + at.bytes, what),
                record: Some((stream, *position)),
            };
            let header = buffer
                .get(skip..)
                .and_then(|bytes| RecordHeader::decode(self.seed, at.offset, bytes))
                .ok_or_else(|| damaged("no record where the index has one"))?;
            let kind = match side {
                Some(_) => Kind::SidePut,
                None => Kind::Put,
            };
            if header.kind != kind
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
            if !shared.serves_unchecked() && !header.payload_matches(self.seed, at.offset, payload)
            {
                return Err(damaged("the checksum of its content does not match"));
            }
            if let Some(side) = side {
                let mut body = Vec::new();
                let record = (stream, *position);
                let count = usize::MAX;
                if read_side(shared, *side, self.sequence, record, 0, count, &mut body)? {
                    records.push(Record {
                        position: *position,
                        head: Bytes::copy_from_slice(&payload[..body_at - head_at]),
                        body: body.into(),
                    });
                }
                continue;
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
