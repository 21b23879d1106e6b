//! Reading one segment from front to back, telling a torn tail from damage.

use std::ops::Range;

use crate::error::StoreError;
use crate::format::{DATA_AT, FLAG_CLEAN, Kind, RECORD, RECORD_BYTES, RecordHeader, STEP, Seed};
use crate::segment::Window;

/// What stands where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) header: RecordHeader,
    pub(crate) offset: u32,
    /// The record's head or body is damaged (only on puts).
    pub(crate) damaged: bool,
}

/// Takes what a scan finds, in log order.
pub(crate) trait Sink {
    /// A whole batch. Payloads can be read from the window again.
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError>;

    /// Durable bytes that cannot be read. An error stops the scan.
    fn damage(&mut self, offset: u32, bytes: u32, what: &'static str) -> Result<(), StoreError>;
}

/// How a scan ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    /// Where the last whole batch ends.
    pub(crate) end: u32,
    /// Where the group that ends there starts.
    pub(crate) last_group: u32,
    /// The number of that group.
    pub(crate) group_number: u64,
    /// Whether that group says the store was closed in order.
    pub(crate) clean: bool,
    /// Whether an unfinished write follows.
    pub(crate) torn: bool,
}

pub(crate) struct Scan<'a, 'f> {
    pub(crate) window: Window<'f>,
    pub(crate) seed: Seed,
    pub(crate) segment_bytes: u32,
    /// Where the segment ends, if anything durable says so.
    pub(crate) known_end: Option<u32>,
    pub(crate) sink: &'a mut dyn Sink,
    /// Deliver records without waiting for the end of their batch.
    pub(crate) ignore_batch_end: bool,
}

/// Where a record has its kind.
const KIND_AT: usize = 4;
/// What a search looks at at once.
const LOOK_BYTES: usize = 64 * 1024;

impl Scan<'_, '_> {
    pub(crate) fn run(mut self) -> Result<Tail, StoreError> {
        let limit = self.known_end.unwrap_or(self.segment_bytes);
        let mut tail = Tail {
            end: DATA_AT,
            last_group: DATA_AT,
            group_number: 0,
            clean: false,
            torn: false,
        };
        let mut at = DATA_AT;
        while at < limit {
            let Some((group, group_end)) = self.group_at(at)? else {
                let next = self.find_group(at + STEP, limit)?;
                if next.is_none() && self.known_end.is_none() {
                    break;
                }
                // A group starts only where durable bytes end, so this was durable once.
                let end = next.unwrap_or(limit);
                self.batches(at, end, Some(true))?;
                at = end;
                tail.end = end;
                continue;
            };
            let group_end = group_end.min(limit);
            let durable = self.known_end.is_some().then_some(true);
            let end = self.batches(at + RECORD, group_end, durable)?;
            tail.last_group = at;
            tail.group_number = group.position;
            tail.clean = group.flags & FLAG_CLEAN != 0;
            // A group none of whose batches survived is not worth keeping.
            tail.end = if end == at + RECORD && end < group_end {
                at
            } else {
                end
            };
            if end < group_end {
                tail.torn = true;
                break;
            }
            at = group_end;
        }
        Ok(tail)
    }

    /// Delivers the batches of `from..to` and returns where the last whole one ends; short of
    /// `to` only when the rest is the unfinished end of the log.
    fn batches(
        &mut self,
        from: u32,
        to: u32,
        mut durable: Option<bool>,
    ) -> Result<u32, StoreError> {
        let mut records = Vec::new();
        let mut batch_start = from;
        let mut at = from;
        while at < to {
            let header = self
                .record_at(at, to)?
                .filter(|header| header.kind != Kind::Group);
            let Some(header) = header else {
                if !self.is_durable(&mut durable, to)? {
                    return Ok(batch_start);
                }
                let next = self.find_record(at + STEP, to)?.unwrap_or(to);
                self.sink.damage(
                    at,
                    next - at,
                    self.why(at..next, "no record where one was written"),
                )?;
                at = next;
                continue;
            };
            let payload_bytes = header.head_bytes as usize + header.body_bytes as usize;
            let payload = self.window.bytes(at + RECORD, payload_bytes)?;
            let whole = header.payload_matches(self.seed, at, payload);
            if !whole && !self.is_durable(&mut durable, to)? {
                return Ok(batch_start);
            }
            let bytes = u32::try_from(header.record_bytes()).unwrap_or(to - at);
            if whole || matches!(header.kind, Kind::Put | Kind::SidePut) {
                records.push(Found {
                    header,
                    offset: at,
                    damaged: !whole,
                });
            } else {
                let what = self.why(
                    at..at + bytes,
                    "the checksum of a mark or of state does not match",
                );
                self.sink.damage(at, bytes, what)?;
            }
            at += bytes;
            if header.is_last() || self.ignore_batch_end {
                self.sink.batch(&records, &mut self.window)?;
                records.clear();
                batch_start = at;
            }
        }
        if !records.is_empty() {
            if !self.is_durable(&mut durable, to)? {
                return Ok(batch_start);
            }
            self.sink
                .damage(batch_start, at - batch_start, "a batch does not end")?;
            self.sink.batch(&records, &mut self.window)?;
        }
        Ok(to)
    }

    fn why(&self, part: Range<u32>, otherwise: &'static str) -> &'static str {
        self.window.file().why(part, otherwise)
    }

    /// Whether what stands before `group_end` was durable, so that a hole in it is damage.
    fn is_durable(&mut self, known: &mut Option<bool>, group_end: u32) -> Result<bool, StoreError> {
        if let Some(known) = known {
            return Ok(*known);
        }
        let later = self.find_group(group_end, self.segment_bytes)?.is_some();
        *known = Some(later);
        Ok(later)
    }

    fn group_at(&mut self, at: u32) -> Result<Option<(RecordHeader, u32)>, StoreError> {
        let header = self.record_at(at, self.segment_bytes)?;
        Ok(header.and_then(|header| {
            let end = header.group_end(self.seed, at, self.segment_bytes)?;
            Some((header, end))
        }))
    }

    fn record_at(&mut self, at: u32, to: u32) -> Result<Option<RecordHeader>, StoreError> {
        let bytes = self.window.bytes(at, RECORD_BYTES)?;
        Ok(RecordHeader::decode(self.seed, at, bytes)
            .filter(|header| header.record_bytes() <= u64::from(to.saturating_sub(at))))
    }

    /// The first group that starts at or after `from` and lies before `to`.
    fn find_group(&mut self, from: u32, to: u32) -> Result<Option<u32>, StoreError> {
        let mut at = from;
        while let Some(found) = self.find_kind(at, to, |kind| kind == Kind::Group as u8)? {
            if self.group_at(found)?.is_some() {
                return Ok(Some(found));
            }
            at = found + STEP;
        }
        Ok(None)
    }

    /// The first record that starts at or after `from` and ends before `to`.
    fn find_record(&mut self, from: u32, to: u32) -> Result<Option<u32>, StoreError> {
        let mut at = from;
        while let Some(found) = self.find_kind(at, to, |kind| kind != 0)? {
            if self.record_at(found, to)?.is_some() {
                return Ok(Some(found));
            }
            at = found + STEP;
        }
        Ok(None)
    }

    /// The first place that could be a record by the byte of its kind: most of what is searched
    /// is zeros, and checksums take longer than looking.
    fn find_kind(
        &mut self,
        from: u32,
        to: u32,
        wanted: impl Fn(u8) -> bool,
    ) -> Result<Option<u32>, StoreError> {
        let mut at = from;
        while at.saturating_add(RECORD) <= to {
            let count = LOOK_BYTES.min((to - at) as usize);
            let bytes = self.window.bytes(at, count)?;
            let mut steps = 0;
            for step in bytes.chunks_exact(STEP as usize) {
                if wanted(step[KIND_AT]) {
                    return Ok(Some(at + steps * STEP));
                }
                steps += 1;
            }
            if steps == 0 {
                return Ok(None);
            }
            at += steps * STEP;
        }
        Ok(None)
    }
}
