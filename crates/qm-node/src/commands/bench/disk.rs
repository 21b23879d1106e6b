//! What the disk can do: a plain file to which the same bytes are appended.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::exit::Failure;

use super::super::processes::per_second;

/// How long the disk is measured at a time.
const TIME: Duration = Duration::from_millis(500);
/// Size of the file; when it is full, writing begins anew at its start.
const FILE_BYTES: usize = 64 << 20;

/// What a plain file took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Append {
    pub(super) messages: u64,
    pub(super) time: Duration,
    /// Messages between two flushes.
    pub(super) batch: u32,
}

impl Append {
    pub(super) fn messages_per_s(&self) -> u64 {
        per_second(self.messages, self.time)
    }

    /// Both measurements as one.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            time: self.time.saturating_add(other.time),
            ..self
        }
    }
}

/// Appends bodies of `size` bytes to a preallocated file, with one write and one fdatasync for
/// each `batch` of them.
pub(super) fn append(dir: &Path, size: u32, batch: u32) -> Result<Append, Failure> {
    let path = dir.join("plain");
    let failed = |e: std::io::Error| Failure::io(path.display(), &e);
    let chunk = vec![0x5a; size as usize * batch as usize];
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed)?;
    let length = FILE_BYTES.max(chunk.len());
    // Written, not only reserved: the first write to a reserved block costs a journal entry.
    file.write_all_at(&vec![0; length], 0).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let (mut at, mut batches) = (0, 0_u64);
    let started = Instant::now();
    while started.elapsed() < TIME {
        if at + chunk.len() > length {
            at = 0;
        }
        file.write_all_at(&chunk, at as u64).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        at += chunk.len();
        batches += 1;
    }
    let time = started.elapsed();
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(Append {
        messages: batches.saturating_mul(batch.into()),
        time,
        batch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let append = append(dir.path(), 100, 16).unwrap();
        assert!(append.messages_per_s() > 0);
        // Both are cut to whole numbers.
        let (twice, once) = (append.and(append).messages_per_s(), append.messages_per_s());
        assert!(twice.abs_diff(once) <= 1, "{twice} {once}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
