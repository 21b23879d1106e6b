//! Huge bodies, each in a file of its own: they need not fit a segment, are never moved, and
//! their room comes back at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::u64_at;
use crate::fs::{File, Fs, read_around};
use crate::types::StreamId;

/// A block of the file: a checksum, then body.
const BLOCK: usize = 64 * 1024;
const CRC: usize = 4;
const BLOCK_BODY: usize = BLOCK - CRC;
/// Written at once.
const PIECE_BLOCKS: usize = 16;
/// Longest body, in bytes: 1 GiB.
pub(crate) const SIDE_BYTES_MAX: usize = 1 << 30;
/// What a record says of its file.
pub(crate) const SIDE_REF_BYTES: usize = 24;

/// A body in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SideBody {
    /// Names the file; never used twice while anything in the log may name it.
    pub(crate) number: u64,
    /// Of the body.
    pub(crate) bytes: u64,
    /// Where the checksums start from.
    pub(crate) salt: u64,
}

impl SideBody {
    pub(crate) fn encode(&self) -> [u8; SIDE_REF_BYTES] {
        let mut out = [0; SIDE_REF_BYTES];
        out[..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..].copy_from_slice(&self.salt.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SIDE_REF_BYTES {
            return None;
        }
        let side = Self {
            number: u64_at(bytes, 0),
            bytes: u64_at(bytes, 8),
            salt: u64_at(bytes, 16),
        };
        (side.bytes <= SIDE_BYTES_MAX as u64).then_some(side)
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:08}.body", self.number))
    }

    /// Length of the file.
    pub(crate) const fn file_bytes(&self) -> u64 {
        self.bytes + self.bytes.div_ceil(BLOCK_BODY as u64) * CRC as u64
    }

    fn crc(&self, block: u64, body: &[u8]) -> u32 {
        let seed = crc32c::crc32c(&self.salt.to_le_bytes());
        let seed = crc32c::crc32c_append(seed, &block.to_le_bytes());
        crc32c::crc32c_append(seed, body)
    }

    /// Writes the file, and flushes it unless a test of the tests says otherwise; its name
    /// is durable only after the directory was flushed.
    pub(crate) fn write(
        &self,
        fs: &dyn Fs,
        dir: &Path,
        body: &[u8],
        flush: bool,
    ) -> std::io::Result<()> {
        let file = fs.open(&self.path(dir), true)?;
        let mut buffer = Vec::with_capacity(PIECE_BLOCKS * BLOCK);
        let mut at = 0;
        for (number, block) in (0..).zip(body.chunks(BLOCK_BODY)) {
            buffer.extend_from_slice(&self.crc(number, block).to_le_bytes());
            buffer.extend_from_slice(block);
            if buffer.len() >= PIECE_BLOCKS * BLOCK {
                file.write_at(&buffer, at)?;
                at += buffer.len() as u64;
                buffer.clear();
            }
        }
        if !buffer.is_empty() {
            file.write_at(&buffer, at)?;
        }
        if flush { file.sync_data() } else { Ok(()) }
    }
}

/// A file being read.
#[derive(Debug)]
pub(crate) struct SideReader {
    side: SideBody,
    path: PathBuf,
    file: Arc<dyn File>,
    sequence: u64,
    record: (StreamId, u64),
}

impl SideReader {
    /// `Ok(None)` when there is no such file.
    pub(crate) fn open(
        fs: &dyn Fs,
        dir: &Path,
        side: SideBody,
        sequence: u64,
        record: (StreamId, u64),
    ) -> Result<Option<Self>, StoreError> {
        let path = side.path(dir);
        match fs.open_read(&path) {
            Ok(file) => Ok(Some(Self {
                side,
                path,
                file,
                sequence,
                record,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", path, error)),
        }
    }

    /// Appends up to `count` bytes of the body from `from` on.
    pub(crate) fn read(
        &self,
        from: u64,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let to = self.side.bytes.min(from.saturating_add(count as u64));
        let body = BLOCK_BODY as u64;
        let mut at = from;
        let mut buffer = Vec::new();
        while at < to {
            let first = at / body;
            let blocks = (to.div_ceil(body) - first).min(PIECE_BLOCKS as u64);
            let end = self.side.bytes.min((first + blocks) * body);
            let start = first * BLOCK as u64;
            let bytes = end - first * body + blocks * CRC as u64;
            buffer.resize(usize::try_from(bytes).unwrap_or(0), 0);
            let around = read_around(self.file.as_ref(), &mut buffer, start)
                .map_err(|error| StoreError::io("read", &self.path, error))?;
            if let Some(part) = around.unreadable.first() {
                return Err(self.damaged(part.start, "the disk cannot read its body file"));
            }
            buffer.truncate(around.filled);
            for block in first..first + blocks {
                let offset = block * BLOCK as u64;
                let skip = usize::try_from(offset - start).unwrap_or(usize::MAX);
                let wanted =
                    usize::try_from(self.side.bytes.min((block + 1) * body) - block * body)
                        .unwrap_or(usize::MAX);
                let stored = buffer.get(skip..skip.saturating_add(CRC + wanted));
                let Some((crc, content)) = stored.and_then(|s| s.split_at_checked(CRC)) else {
                    return Err(self.damaged(offset, "its body file is too short"));
                };
                if crc != self.side.crc(block, content).to_le_bytes() {
                    return Err(self.damaged(offset, "a checksum of its body file does not match"));
                }
                let begin = usize::try_from(at - block * body).unwrap_or(usize::MAX);
                let until = usize::try_from(to.min((block + 1) * body) - block * body);
                let until = until.unwrap_or(usize::MAX);
                out.extend_from_slice(content.get(begin..until).unwrap_or_default());
                at = (block + 1) * body;
            }
        }
        Ok(())
    }

    /// Reads the whole file and keeps nothing of it.
    pub(crate) fn verify(&self) -> Result<(), StoreError> {
        let mut piece = Vec::new();
        let count = PIECE_BLOCKS * BLOCK_BODY;
        let mut from = 0;
        while from < self.side.bytes {
            piece.clear();
            self.read(from, count, &mut piece)?;
            from = from.saturating_add(count as u64);
        }
        Ok(())
    }

    fn damaged(&self, offset: u64, what: &'static str) -> StoreError {
        damaged(self.sequence, self.path.clone(), offset, what, self.record)
    }
}

/// The error for a record whose file is not there.
pub(crate) fn missing(dir: &Path, side: SideBody, seq: u64, record: (StreamId, u64)) -> StoreError {
    damaged(seq, side.path(dir), 0, "its body file is missing", record)
}

const fn damaged(
    segment: u64,
    path: PathBuf,
    offset: u64,
    what: &'static str,
    record: (StreamId, u64),
) -> StoreError {
    StoreError::Damaged {
        segment,
        path,
        offset,
        what,
        record: Some(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    fn body(bytes: usize) -> Vec<u8> {
        let pattern = (0..251u8).cycle();
        pattern.take(bytes).collect()
    }

    #[test]
    fn any_piece_of_any_body_is_what_was_written() {
        let fs = SimFs::new();
        let dir = Path::new("/d");
        let sizes = [1, 100, BLOCK_BODY - 1, BLOCK_BODY, BLOCK_BODY + 1];
        for (number, bytes) in (1..).zip(sizes.into_iter().chain([20 * BLOCK_BODY + 77])) {
            let side = SideBody {
                number,
                bytes: bytes as u64,
                salt: 5,
            };
            let body = body(bytes);
            side.write(&fs, dir, &body, true).unwrap();
            let length = fs.content(&side.path(dir)).unwrap().len();
            assert_eq!(length as u64, side.file_bytes());
            let record = (StreamId(1), 2);
            let reader = SideReader::open(&fs, dir, side, 3, record)
                .unwrap()
                .unwrap();
            let starts = [0, 1, bytes / 2, bytes - 1, bytes, bytes + 1, BLOCK_BODY];
            for from in starts {
                for count in [0, 1, 1000, BLOCK_BODY, bytes, usize::MAX] {
                    let mut out = Vec::new();
                    reader.read(from as u64, count, &mut out).unwrap();
                    let from = from.min(bytes);
                    let to = from.saturating_add(count).min(bytes);
                    assert_eq!(out, body[from..to], "{bytes} from {from} count {count}");
                }
            }
        }
    }
}
