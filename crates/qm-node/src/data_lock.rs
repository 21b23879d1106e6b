//! One process at a time works in a data directory, from before it looks at what lies there.
//!
//! The store has a lock of its own, but it lies in the store, and a start on a directory that was
//! prepared for an image erases the store before it opens one.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::holder;
use crate::identity_file::io_error;
use crate::run::RunError;

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct DataLock {
    /// The directory itself: no file has to be made for the lock, and none can be erased with it.
    _directory: Option<File>,
}

impl DataLock {
    /// Takes the lock of a directory that is there.
    ///
    /// File systems that lock no directories (some network ones) leave it at the store's lock.
    ///
    /// # Errors
    /// [`RunError::DataInUse`] when another process has it, [`RunError::Identity`] when the
    /// directory cannot be opened.
    pub(crate) fn take(data: &Path) -> Result<Self, RunError> {
        let directory = File::open(data).map_err(io_error("open the data directory", data))?;
        match directory.try_lock() {
            Ok(()) => Ok(Self {
                _directory: Some(directory),
            }),
            Err(TryLockError::WouldBlock) => Err(RunError::DataInUse {
                data: data.to_owned(),
                holder: holder::of_file(data),
            }),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the file system locks no directories");
                Ok(Self { _directory: None })
            }
        }
    }
}
