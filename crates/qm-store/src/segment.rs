//! One segment file and the copies of its header.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::StoreError;
use crate::format::{
    DATA_AT, HEADER_AT, HEADER_BYTES, HeaderState, SEAL_AT, SEAL_BYTES, Seal, Seed, SegmentHeader,
};
use crate::fs::{Around, File, PAGE_BYTES, is_unreadable, read_around};

/// An open segment file. Readers hold it while they read, so that it is not reused under them.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// The number that names it.
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    /// Its length.
    pub(crate) bytes: u32,
    /// What the disk could not read of it, in order and apart from each other.
    unreadable: Mutex<Vec<Range<u32>>>,
}

/// Places that cannot be read that are kept of one file; of more, the last one grows.
const UNREADABLE_MAX: usize = 256;

/// What the two copies of a header say together.
#[derive(Debug)]
pub(crate) struct HeaderCopies {
    pub(crate) state: HeaderState,
    pub(crate) one_damaged: bool,
    /// The disk gives neither of them: what the file holds is not known at all.
    pub(crate) is_lost: bool,
}

impl SegmentFile {
    pub(crate) const fn new(number: u64, path: PathBuf, file: Arc<dyn File>, bytes: u32) -> Self {
        Self {
            number,
            path,
            file,
            bytes,
            unreadable: Mutex::new(Vec::new()),
        }
    }

    /// Reads from `offset` until the buffer is full or the file ends, and returns the bytes read.
    /// What the disk cannot read is zeros, no checksum of anything, and noted.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let failed = |error| self.error("read", error);
        let Around { filled, unreadable } =
            read_around(self.file.as_ref(), buffer, offset).map_err(failed)?;
        let missed: u64 = unreadable.iter().map(|part| part.end - part.start).sum();
        if missed > 0 && missed == filled as u64 {
            // A disk that gives nothing at all is gone, maybe for a moment: that is no damage.
            let mut header = [0; HEADER_BYTES];
            for at in HEADER_AT {
                match self.file.read_at(&mut header, at as u64) {
                    Ok(_) => break,
                    Err(error) if at == HEADER_AT[1] => return Err(failed(error)),
                    Err(_) => {}
                }
            }
        }
        for part in unreadable {
            self.note_unreadable(part);
        }
        Ok(filled)
    }

    fn note_unreadable(&self, part: Range<u64>) {
        let narrow = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
        // What was read of a page tells nothing of the rest of it.
        let start = part.start / PAGE_BYTES * PAGE_BYTES;
        let end = part.end.next_multiple_of(PAGE_BYTES);
        let mut new = narrow(start)..narrow(end).min(self.bytes);
        let mut known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= UNREADABLE_MAX
            && let Some(last) = known.last()
        {
            new.start = new.start.min(last.start);
        }
        known.retain(|other| {
            let apart = other.end < new.start || new.end < other.start;
            if !apart {
                new.start = new.start.min(other.start);
                new.end = new.end.max(other.end);
            }
            apart
        });
        let at = known.partition_point(|other| other.start < new.start);
        known.insert(at, new);
    }

    /// What of the file the disk could not read so far, in whole pages.
    pub(crate) fn unreadable(&self) -> Vec<Range<u32>> {
        let known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// Whether the disk could not read something of a part of the file.
    pub(crate) fn is_unreadable(&self, part: Range<u32>) -> bool {
        let known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut known = known.iter();
        known.any(|other| other.start < part.end && part.start < other.end)
    }

    /// What is wrong with a part of the file: `otherwise`, unless the disk cannot read it.
    pub(crate) fn why(&self, part: Range<u32>, otherwise: &'static str) -> &'static str {
        if self.is_unreadable(part) {
            UNREADABLE
        } else {
            otherwise
        }
    }

    /// Writes zeros over what the disk could not read of an emptied file: it gets another place
    /// on the disk for that, or it fails, and then the file is not to be used again.
    pub(crate) fn mend(&self) -> io::Result<()> {
        let known = self.unreadable();
        for part in &known {
            self.file.allocate(part.start.into(), part.end.into())?;
        }
        if !known.is_empty() {
            self.file.sync_data()?;
        }
        let mut known = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.clear();
        Ok(())
    }

    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> StoreError {
        StoreError::io(action, &self.path, source)
    }

    pub(crate) fn read_header(&self) -> Result<HeaderCopies, StoreError> {
        let mut states = [HeaderState::Void; 2];
        let mut lost = 0;
        for (state, at) in states.iter_mut().zip(HEADER_AT) {
            let mut bytes = [0; HEADER_BYTES];
            *state = match self.file.read_at(&mut bytes, at as u64) {
                Ok(_) => SegmentHeader::decode(&bytes),
                Err(error) if is_unreadable(&error) => {
                    self.note_unreadable(at as u64..at as u64 + 1);
                    lost += 1;
                    HeaderState::Unreadable
                }
                Err(error) => return Err(self.error("read", error)),
            };
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
            is_lost: lost == HEADER_AT.len(),
        })
    }

    pub(crate) fn read_seal(&self, seed: Seed) -> Result<Option<Seal>, StoreError> {
        let mut bytes = [0; SEAL_BYTES];
        self.read(&mut bytes, SEAL_AT as u64)?;
        Ok(seed.decode_seal(&bytes))
    }

    /// States durably where the segment's records end. The whole block is written: what is left
    /// of it need not be readable then.
    pub(crate) fn seal(&self, seed: Seed, seal: Seal) -> Result<(), StoreError> {
        let mut block = [0; DATA_AT as usize - SEAL_AT];
        block[..SEAL_BYTES].copy_from_slice(&seed.encode_seal(seal));
        self.file
            .write_at(&block, SEAL_AT as u64)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| self.error("seal", e))
    }

    /// Makes the segment durably empty, one copy of the header after the other: cut in a write at
    /// most one is torn, and the other says what it was. The seal stays: were only one copy voided
    /// when the power goes, the segment is back and must still say where it ends. Whole blocks are
    /// written, as for the seal.
    pub(crate) fn void(&self) -> Result<(), StoreError> {
        for at in HEADER_AT {
            self.file
                .write_at(&[0; HEADER_AT[1]], at as u64)
                .and_then(|()| self.file.sync_data())
                .map_err(|error| self.error("void", error))?;
        }
        Ok(())
    }
}

/// What damage is called that is not other bytes, but none.
pub(crate) const UNREADABLE: &str = "the disk cannot read it";

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

    /// The file that is viewed.
    pub(crate) const fn file(&self) -> &'a SegmentFile {
        self.file
    }

    /// The bytes at `at`; fewer than `count` only at the end of the file. What the disk cannot
    /// read is zeros.
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
                self.filled = self.file.read(&mut self.buffer[..wanted], at)?;
                0
            }
        };
        let end = (skip + count).min(self.filled);
        Ok(&self.buffer[skip..end])
    }
}
