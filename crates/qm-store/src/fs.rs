//! The few file operations the log needs, behind a trait so that a simulated disk can stand in.

mod around;
mod real;
mod sim;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use around::{Around, read_around};
pub(crate) use around::{PAGE_BYTES, is_unreadable};
pub use real::RealFs;
pub use sim::{Fault, SimFs, Tear};

/// A file system, seen from one directory of segments.
pub trait Fs: fmt::Debug + Send + Sync {
    /// Creates the directory and its parents where missing.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing; with `create`, makes an empty one where missing.
    ///
    /// # Errors
    /// As the operating system says.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is there for reading only: needs no right to write, and can change
    /// nothing.
    ///
    /// # Errors
    /// As the operating system says.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing the target. Durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in the directory durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: fmt::Debug + Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    ///
    /// # Errors
    /// As the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads from `offset` until the buffer is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes everything at `offset`.
    ///
    /// # Errors
    /// As the operating system says; part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when the content and the length are on stable storage.
    ///
    /// # Errors
    /// As the operating system says; what was written since the last flush may be lost, even if
    /// a later flush succeeds.
    fn sync_data(&self) -> io::Result<()>;

    /// Fills `from..to` with written zeros, so that later writes there change no metadata.
    ///
    /// # Errors
    /// As the operating system says, [`io::ErrorKind::StorageFull`] when there is no room.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;

    /// Takes the file's exclusive lock, held until the handle goes; false when somebody has it.
    ///
    /// # Errors
    /// As the operating system says.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Whether an error says that there is no room, on the disk or for another open file.
///
/// The store survives both alike: what is there goes on, and it is looked again.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    ) || is_out_of_descriptors(error)
}

/// `ENFILE` and `EMFILE`, the same numbers on every Unix; the library has no kind for them.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}
