//! Reading what lives again and again, so that damage is found before it is needed.

use crate::error::StoreError;
use crate::reader::Reader;
use crate::types::StreamId;

/// Records one step looks at, at most.
const STEP_RECORDS: usize = 256;

/// A walk over every live record that verifies its checksum, a little at a time.
///
/// The caller decides when a step is due and how large it is. A round goes through the streams in
/// their order; records put behind its back are met by the next one. Opening a store verifies all
/// of it, so a round that a restart interrupts need not be remembered.
#[derive(Debug)]
pub struct Scrub {
    reader: Reader,
    /// Where to go on; none between two rounds.
    at: Option<(StreamId, u64)>,
}

/// What one step found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Records that are whole.
    pub records: u64,
    /// Bytes of heads and bodies that were verified.
    pub bytes: u64,
    /// Records that are damaged: each a [`StoreError::Damaged`] that names it and its place.
    pub damaged: Vec<StoreError>,
    /// Whether the round is complete.
    pub is_round_done: bool,
}

impl Scrub {
    /// A walk that begins with the first record.
    #[must_use]
    pub const fn new(reader: Reader) -> Self {
        Self { reader, at: None }
    }

    /// Verifies the next records: about so many bytes, one record at least.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Failed`]: the walk goes on where it was. Damage is no
    /// error but in the result.
    pub fn step(&mut self, bytes_max: usize) -> Result<Scrubbed, StoreError> {
        let mut done = Scrubbed::default();
        let mut next = Some(self.at.unwrap_or((StreamId(0), 0)));
        let streams = self.reader.streams();
        loop {
            let wanted = next.and_then(|(stream, from)| {
                let found = streams.iter().copied().find(|other| *other >= stream)?;
                Some((found, if found == stream { from } else { 0 }))
            });
            self.at = wanted;
            let Some((stream, from)) = wanted else {
                done.is_round_done = true;
                return Ok(done);
            };
            let left = bytes_max.saturating_sub(usize::try_from(done.bytes).unwrap_or(usize::MAX));
            match self.reader.read(stream, from, STEP_RECORDS, left) {
                Ok(records) => {
                    let Some(last) = records.last() else {
                        next = behind(stream, u64::MAX);
                        continue;
                    };
                    next = behind(stream, last.position);
                    done.records += records.len() as u64;
                    let bytes = records.iter().map(|r| r.head.len() + r.body.len());
                    done.bytes += bytes.sum::<usize>() as u64;
                }
                Err(error) => match &error {
                    StoreError::Damaged {
                        record: Some((_, position)),
                        ..
                    } => {
                        next = behind(stream, *position);
                        done.damaged.push(error);
                    }
                    _ => return Err(error),
                },
            }
            self.at = next;
            let looked = done.records + done.damaged.len() as u64;
            if done.bytes >= bytes_max as u64 || looked >= STEP_RECORDS as u64 {
                return Ok(done);
            }
        }
    }
}

/// The place behind a position; behind the last one of a stream is the next stream.
fn behind(stream: StreamId, position: u64) -> Option<(StreamId, u64)> {
    match position.checked_add(1) {
        Some(next) => Some((stream, next)),
        None => Some((StreamId(stream.0.checked_add(1)?), 0)),
    }
}
