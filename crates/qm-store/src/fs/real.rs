//! The operating system's file system. What it makes is for its owner only: the files hold
//! messages, and a permissive umask must not show them to everybody on the machine.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{File, Fs};

/// The operating system's file system, through the standard library.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

#[derive(Debug)]
struct RealFile(fs::File);

impl Fs for RealFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let missing = dir.ancestors().skip(1).take_while(|dir| !dir.exists());
        let missing: Vec<&Path> = missing.collect();
        private_dirs().create(dir)?;
        // The names of new directories must survive as well, the outermost first.
        for made in missing.into_iter().rev().chain([dir]) {
            if let Some(parent) = made.parent().filter(|p| !p.as_os_str().is_empty()) {
                self.sync_dir(parent)?;
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let file = private_files()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    // Windows offers no handle to flush a directory with; NTFS journals its entries itself.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Makes directories, with those above them.
fn private_dirs() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Opens files.
fn private_files() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match read_some(&self.0, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match write_some(&self.0, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; 256 * 1024];
        let mut at = from;
        while at < to {
            let step = usize::try_from(to - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.write_at(&zeros[..step], at)?;
            at += step as u64;
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(unix)]
fn read_some(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_some(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_some(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
        // ERROR_HANDLE_EOF: reading at or past the end is an empty read elsewhere.
        Err(error) if error.raw_os_error() == Some(38) => Ok(0),
        other => other,
    }
}

#[cfg(windows)]
fn write_some(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::fs::is_full;

    /// Whatever the umask says: these files hold messages.
    #[test]
    fn what_it_makes_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("deep/store");
        RealFs.create_dir_all(&store).unwrap();
        let file = store.join("a");
        drop(RealFs.open(&file, true).unwrap());
        for (path, mode) in [
            (dir.path().join("deep"), 0o700),
            (store, 0o700),
            (file, 0o600),
        ] {
            let found = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }

    /// Out of descriptors is no failure of the disk: the store waits for room instead of failing.
    #[test]
    fn a_process_out_of_descriptors_counts_as_full() {
        let out_of_descriptors = io::Error::from_raw_os_error(24);
        assert!(is_full(&out_of_descriptors), "{out_of_descriptors}");
        assert!(!is_full(&io::ErrorKind::NotFound.into()));
    }
}
