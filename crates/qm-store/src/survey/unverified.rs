//! Records as they stand on the disk, whatever their checksums say.

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{ALIGN, RECORD_BYTES, u32_at, u64_at};
use crate::segment::SegmentFile;
use crate::types::StreamId;

/// Longest head of a damaged record that is kept for whoever wants to know which message it was.
const HEAD_BYTES_MAX: usize = 4096;

/// The head of the record at an offset, as it stands there.
pub(super) fn unverified_head(file: &SegmentFile, offset: u32) -> Result<Bytes, StoreError> {
    Ok(unverified(file, offset)?.map_or_else(Bytes::new, |(_, head)| head))
}

pub(super) fn unverified(
    file: &SegmentFile,
    offset: u32,
) -> Result<Option<(Unverified, Bytes)>, StoreError> {
    let mut bytes = [0; RECORD_BYTES];
    let read = |buffer: &mut [u8], at: u64| file.read(buffer, at);
    if read(&mut bytes, u64::from(offset))? < RECORD_BYTES {
        return Ok(None);
    }
    let record = Unverified::read(&bytes);
    let mut head = vec![0; record.head_bytes as usize];
    if head.len() > HEAD_BYTES_MAX {
        return Ok(Some((record, Bytes::new())));
    }
    let filled = read(&mut head, u64::from(offset) + RECORD_BYTES as u64)?;
    head.truncate(filled);
    Ok(Some((record, head.into())))
}

/// The header of a record whose checksum may not match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unverified {
    pub(super) kind: u8,
    head_bytes: u32,
    body_bytes: u32,
    pub(super) stream: StreamId,
    pub(super) position: u64,
}

impl Unverified {
    fn read(bytes: &[u8; RECORD_BYTES]) -> Self {
        Self {
            kind: bytes[4],
            head_bytes: u32_at(bytes, 8),
            body_bytes: u32_at(bytes, 12),
            stream: StreamId(u32_at(bytes, 16)),
            position: u64_at(bytes, 24),
        }
    }

    pub(super) const fn record_bytes(&self) -> u64 {
        RECORD_BYTES as u64
            + (self.head_bytes as u64 + self.body_bytes as u64).next_multiple_of(ALIGN as u64)
    }
}
