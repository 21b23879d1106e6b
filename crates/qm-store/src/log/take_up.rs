//! Going on in the segment an interrupted process wrote last, when there is no room for another.

use std::sync::Arc;

use crate::error::StoreError;
use crate::scan::Tail;

use super::space::FLUSH_BYTES;
use super::{Active, Log};

/// A segment with less room than this is not taken up.
const TAKE_UP_BYTES: u32 = 4096;

impl Log {
    /// Makes the unsealed newest segment the active one, with nothing but zeros behind its end:
    /// were every start to begin a segment, a few restarts would use up the reserve of a full
    /// disk.
    pub(super) fn take_up(&mut self, tail: Tail) -> Result<(), StoreError> {
        // Half a group cannot be told from a whole one once another stands behind it.
        let is_cut = tail.torn && tail.end > tail.last_group;
        let Some(slot) = self.unsealed.filter(|_| !is_cut) else {
            return Ok(());
        };
        let (file, seed) = {
            let index = self.shared.index();
            let segment = index.segments.get(slot);
            (Arc::clone(&segment.file), segment.seed)
        };
        let rest = tail.end..file.bytes;
        if rest.end - rest.start < TAKE_UP_BYTES || file.is_unreadable(rest) {
            return Ok(());
        }
        let mut at = u64::from(tail.end);
        while at < u64::from(file.bytes) {
            let to = u64::from(file.bytes).min(at + FLUSH_BYTES);
            file.file
                .allocate(at, to)
                .and_then(|()| file.file.sync_data())
                .map_err(|error| file.error("clear", error))?;
            at = to;
        }
        self.unsealed = None;
        self.hint = std::mem::take(&mut self.unsealed_hint);
        self.active = Some(Active {
            slot,
            seed,
            end: tail.end,
            segment_bytes: file.bytes,
        });
        Ok(())
    }
}
