//! Reading part of the index out of the log again, when its page cannot be read.

use std::collections::BTreeMap;

use crate::error::StoreError;
use crate::format::{Kind, RECORD, u64_at};
use crate::scan::{Found, Scan, Sink};
use crate::segment::Window;
use crate::types::StreamId;

use super::{Location, Segment, Segments, Slot};

/// What is live of one stream in a range, as far as the log was read.
struct Live {
    stream: StreamId,
    first: u64,
    last: u64,
    slot: Slot,
    found: BTreeMap<u64, Location>,
}

impl Sink for Live {
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError> {
        for found in records {
            let header = found.header;
            if header.stream != self.stream.0 {
                continue;
            }
            let wanted = self.first..=self.last;
            match header.kind {
                Kind::Put | Kind::SidePut if wanted.contains(&header.position) => {
                    let at = Location {
                        slot: self.slot,
                        offset: found.offset,
                        bytes: u32::try_from(header.record_bytes()).unwrap_or(u32::MAX),
                    };
                    self.found.insert(header.position, at);
                }
                Kind::Remove if header.head_bytes == 0 && header.body_bytes == 8 => {
                    let payload = window.bytes(found.offset + RECORD, 8)?;
                    if payload.len() == 8 {
                        let removed = header.position..=u64_at(payload, 0);
                        self.found.retain(|at, _| !removed.contains(at));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    // Whoever asked knows how many records there must be.
    fn damage(&mut self, _: u32, _: u32, _: &'static str) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Segments {
    /// What is live of a stream in a range of positions. Reads the whole log.
    pub(super) fn rescan(
        &self,
        stream: StreamId,
        first: u64,
        last: u64,
    ) -> Result<BTreeMap<u64, Location>, StoreError> {
        let mut live = Live {
            stream,
            first,
            last,
            slot: 0,
            found: BTreeMap::new(),
        };
        let mut segments: Vec<(Slot, &Segment)> = self.iter().collect();
        segments.sort_unstable_by_key(|(_, segment)| segment.sequence);
        for (slot, segment) in segments {
            live.slot = slot;
            let scan = Scan {
                window: Window::new(&segment.file),
                seed: segment.seed,
                segment_bytes: segment.file.bytes,
                known_end: Some(segment.end),
                sink: &mut live,
                ignore_batch_end: false,
            };
            scan.run()?;
        }
        Ok(live.found)
    }

    /// The error for a part of the index that neither its page nor the log tells.
    pub(super) fn unreadable(&self) -> StoreError {
        let oldest = self.iter().min_by_key(|(_, segment)| segment.sequence);
        let (segment, path) = oldest.map_or_else(Default::default, |(_, segment)| {
            (segment.sequence, segment.file.path.clone())
        });
        StoreError::Damaged {
            segment,
            path,
            offset: 0,
            what: "a part of the index was lost and the log, from here on, does not tell it whole",
            record: None,
        }
    }
}
