//! One segment file and the copies of its header.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::{
    HEADER_AT, HEADER_BYTES, HeaderState, SEAL_AT, SEAL_BYTES, Seal, Seed, SegmentHeader,
};
use crate::fs::File;

/// An open segment file. Readers hold it while they read, so that it is not reused under them.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// The number that names it.
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    /// Its length.
    pub(crate) bytes: u32,
}

/// What the two copies of a header say together.
#[derive(Debug)]
pub(crate) struct HeaderCopies {
    pub(crate) state: HeaderState,
    pub(crate) one_damaged: bool,
}

impl SegmentFile {
    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::io(action, &self.path, source)
    }

    pub(crate) fn read_header(&self) -> Result<HeaderCopies, StoreError> {
        let mut states = [HeaderState::Void; 2];
        for (state, at) in states.iter_mut().zip(HEADER_AT) {
            let mut bytes = [0; HEADER_BYTES];
            self.file
                .read_at(&mut bytes, at as u64)
                .map_err(|e| self.error("read", e))?;
            *state = SegmentHeader::decode(&bytes);
        }
        let [first, second] = states;
        let readable =
            |state: &HeaderState| matches!(state, HeaderState::Valid(_) | HeaderState::Newer(_));
        let state = match (readable(&first), readable(&second)) {
            (true, _) => first,
            (false, true) => second,
            // The other one is what a power cut left of a voiding or of a first write: neither
            // touches a copy while the other holds a header that anybody relies on.
            (false, false) if [first, second].contains(&HeaderState::Void) => HeaderState::Void,
            (false, false) => HeaderState::Unreadable,
        };
        Ok(HeaderCopies {
            state,
            one_damaged: first != second && readable(&state),
        })
    }

    pub(crate) fn read_seal(&self, seed: Seed) -> Result<Option<Seal>, StoreError> {
        let mut bytes = [0; SEAL_BYTES];
        self.file
            .read_at(&mut bytes, SEAL_AT as u64)
            .map_err(|e| self.error("read", e))?;
        Ok(seed.decode_seal(&bytes))
    }

    /// States durably where the segment's records end.
    pub(crate) fn seal(&self, seed: Seed, seal: Seal) -> Result<(), StoreError> {
        self.file
            .write_at(&seed.encode_seal(seal), SEAL_AT as u64)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| self.error("seal", e))
    }

    /// Makes the segment durably empty, one copy of the header after the other: cut in a write at
    /// most one is torn, and the other says what it was. The seal stays: were only one copy voided
    /// when the power goes, the segment is back and must still say where it ends.
    pub(crate) fn void(&self) -> Result<(), StoreError> {
        for at in HEADER_AT {
            self.file
                .write_at(&[0; HEADER_BYTES], at as u64)
                .and_then(|()| self.file.sync_data())
                .map_err(|error| self.error("void", error))?;
        }
        Ok(())
    }
}

/// A moving view of a file for reading it from front to back.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a SegmentFile,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

const WINDOW_BYTES: usize = 1024 * 1024;

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a SegmentFile) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            start: 0,
            filled: 0,
        }
    }

    /// The same view again, of the same file.
    pub(crate) const fn resume(
        file: &'a SegmentFile,
        buffer: Vec<u8>,
        start: u64,
        filled: usize,
    ) -> Self {
        Self {
            file,
            buffer,
            start,
            filled,
        }
    }

    /// What [`Window::resume`] needs.
    pub(crate) fn pause(self) -> (Vec<u8>, u64, usize) {
        (self.buffer, self.start, self.filled)
    }

    /// The bytes at `at`; fewer than `count` only at the end of the file.
    pub(crate) fn bytes(&mut self, at: u32, count: usize) -> Result<&[u8], StoreError> {
        let at = u64::from(at);
        let inside = at
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| {
                skip.checked_add(count)
                    .is_some_and(|end| end <= self.filled)
            });
        let skip = match inside {
            Some(skip) => skip,
            None => {
                let left = u64::from(self.file.bytes).saturating_sub(at);
                let wanted = (count.max(WINDOW_BYTES) as u64).min(left);
                let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
                if self.buffer.len() < wanted {
                    self.buffer = vec![0; wanted];
                }
                self.start = at;
                // Should it fail, nothing of what was there before is taken for what is here.
                self.filled = 0;
                self.filled = self
                    .file
                    .file
                    .read_at(&mut self.buffer[..wanted], at)
                    .map_err(|e| self.file.error("read", e))?;
                0
            }
        };
        let end = (skip + count).min(self.filled);
        Ok(&self.buffer[skip..end])
    }
}
