//! How a log uses its disk.

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{DATA_AT, RECORD_BYTES, Seed, SegmentHeader, encoded_bytes};
use crate::types::Op;

/// What a full chunk of the index takes, with its place in the map.
const CHUNK_BYTES: usize = 6 * 1024 + 256;

/// How a log uses its disk.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size of a segment file, in bytes: a multiple of 4096 from 20 KiB to 2 GiB. A batch must fit
    /// one. May change between runs.
    pub segment_bytes: u32,
    /// Preallocated room that only batches without puts may use, so that a full store can still
    /// be drained; in whole segments, at least so many bytes but for a thousandth. One
    /// removal takes 40 bytes and 32 a commit. With
    /// none a full store can neither be drained nor make room.
    pub reserve_bytes: u64,
    /// How many segments more than twice of what is live a busy log may have before its commits
    /// move records. Emptied segments are used again; only when it is quiet those beyond the
    /// reserve and one more go back to the disk.
    pub spare_segments_max: usize,
    /// The most all segment files together may take; beyond it the store is full. A limit the
    /// existing files exceed already only stops growth.
    pub disk_bytes_max: Option<u64>,
    /// The most one write takes; what waits beyond it goes into the next write of the same
    /// commit. One batch larger than this still goes whole.
    pub group_bytes_max: usize,
    /// How many heads recovery hands back at most. While there is room, up to two emptied
    /// segments are kept for it.
    pub recent_puts: usize,
    /// Open a damaged log all the same, skipping what cannot be read: records may be lost and
    /// removed records may come back. Each hole is noted. Without it such a log is an error.
    pub salvage: bool,
    /// Take complete segments from their hint files instead of reading all of them. Without it
    /// opening verifies every record.
    pub hints: bool,
    /// What the parts of the index in memory may take, in bytes; what is cold beyond it waits in
    /// a file. The newest records of every stream always stay.
    pub index_bytes_max: usize,
    /// Bodies of so many bytes or more get a file of their own each, up to 1 GiB.
    pub side_file_bytes: usize,
    /// Faults to build in, for tests of the tests.
    #[cfg(feature = "__breaks")]
    pub breaks: Vec<Break>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 32 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            spare_segments_max: 4,
            disk_bytes_max: None,
            group_bytes_max: 8 * 1024 * 1024,
            recent_puts: 10_000,
            salvage: false,
            hints: true,
            index_bytes_max: 16 * 1024 * 1024,
            side_file_bytes: 1024 * 1024,
            #[cfg(feature = "__breaks")]
            breaks: Vec::new(),
        }
    }
}

impl LogOptions {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let sized = (20 * 1024..=2 << 30).contains(&self.segment_bytes);
        if !sized || !self.segment_bytes.is_multiple_of(4096) {
            let what = "segment_bytes must be a multiple of 4096 from 20 KiB to 2 GiB";
            return Err(StoreError::Options { what });
        }
        let least = (self.reserve_segments() as u64).saturating_add(1);
        let least = least.saturating_mul(u64::from(self.segment_bytes));
        if self.disk_bytes_max.is_some_and(|max| max < least) {
            let what = "disk_bytes_max must hold the reserve and one segment more";
            return Err(StoreError::Options { what });
        }
        Ok(())
    }

    /// Bytes of groups that fit an empty segment, with room for a closing group.
    pub(super) fn capacity(&self) -> usize {
        self.segment_bytes as usize - DATA_AT as usize - RECORD_BYTES
    }

    /// Segments of the reserve.
    pub(super) fn reserve_segments(&self) -> usize {
        // What heads a segment must not cost another one.
        let bytes = self.reserve_bytes - self.reserve_bytes / 1024;
        usize::try_from(bytes.div_ceil(self.capacity() as u64)).unwrap_or(usize::MAX)
    }

    /// Chunks of the index that may be in memory.
    pub(super) const fn chunks_max(&self) -> usize {
        self.index_bytes_max / CHUNK_BYTES
    }

    /// Bytes an operation takes in a segment.
    pub(super) fn encoded_bytes(&self, op: &Op) -> usize {
        encoded_bytes(op, self.side_file_bytes)
    }

    pub(super) fn is_side(&self, op: &Op) -> bool {
        matches!(op, Op::Put { body, .. } if body.len() >= self.side_file_bytes)
    }

    pub(super) fn seed(&self, header: &SegmentHeader) -> Seed {
        if self.broken(Break::ConstantSalt) {
            Seed::CONSTANT
        } else {
            header.seed()
        }
    }

    #[cfg(feature = "__breaks")]
    pub(super) fn broken(&self, fault: Break) -> bool {
        self.breaks.contains(&fault)
    }

    #[cfg(not(feature = "__breaks"))]
    #[expect(
        clippy::unused_self,
        reason = "the same call with and without the feature"
    )]
    pub(super) const fn broken(&self, _fault: Break) -> bool {
        false
    }
}
