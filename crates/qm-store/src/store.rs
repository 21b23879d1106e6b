//! The contract every engine keeps.

use crate::error::StoreError;
use crate::reader::Reader;
use crate::types::{Applied, Batch, Usage};

/// A place for durable effects: [`crate::Log`] on disk, [`crate::MemoryStore`] without.
pub trait Store: Send {
    /// Applies batches in order; when it returns, what is [`Applied::Done`] is as durable as the
    /// engine makes it and visible to readers.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the outcome is unknown, and so it stays until the store is opened
    /// again.
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError>;

    /// A handle for reading, usable from any thread while commits run.
    fn reader(&self) -> Reader;

    /// What the store holds and what it costs.
    fn usage(&self) -> Usage;

    /// One step of housekeeping; returns whether there is more to do.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    fn tidy(&mut self, idle: bool) -> Result<bool, StoreError> {
        let _ = idle;
        Ok(false)
    }

    /// Whether what [`Applied::Full`] turned away last would find room now: `Some(true)` is told
    /// once, `Some(false)` while there is none yet.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    fn has_room_again(&mut self) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }

    /// Whether it was a limit of the store that had no room last, and not the disk.
    fn is_limited(&self) -> bool {
        false
    }
}
