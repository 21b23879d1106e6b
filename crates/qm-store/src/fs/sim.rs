//! A disk in memory that does to unflushed data what real disks may do, from a seed.

mod disk;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::around::unreadable;
use super::{File, Fs};

use disk::{DirOp, Disk, Inode, Verdict, injected};

/// An in-memory, deterministic disk of one machine.
///
/// What is written is visible at once but durable only after a flush, and names are durable only
/// after the directory was flushed. [`SimFs::crash`] then decides by seed, sector by sector, what
/// of the rest survives. `clone` copies the whole disk, as copying a virtual machine does; locks
/// and open handles stay with the original.
#[derive(Debug)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

/// A fault to inject. Operations are counted from 0 over everything that changes the disk:
/// writes, allocations, flushes, creations, renames, removals; see [`SimFs::operations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The power goes during operation `n`: what it wrote is left unflushed, it and everything
    /// after it fails. Call [`SimFs::crash`] next.
    CutAt(u64),
    /// Operation `n` fails once, without effect. A failed flush forgets what it should have
    /// flushed: it stays readable until the crash but no later flush saves it, as Linux does.
    FailAt(u64),
    /// Operation `n` and everything after it fails without effect, as on a drive that died.
    FailFrom(u64),
    /// Read `n` fails once; see [`SimFs::reads`].
    FailReadAt(u64),
    /// From operation `n` on nothing grows: what would is `StorageFull`.
    FullFrom(u64),
    /// From operation `n` on every write and allocation is `StorageFull`, also of what exists, as
    /// on file systems that write elsewhere and on thinly provisioned volumes.
    FullForAllFrom(u64),
    /// Every write and allocation fails.
    FailWrites,
    /// Flushes return success and do nothing: a broken drive, for checking that tests can fail.
    LyingSync,
}

/// What of the unflushed survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tear {
    /// Each sector, length and name as the seed decides, some sectors in part.
    Seeded(u64),
    /// Nothing.
    Nothing,
    /// All of it, the operation that was cut included.
    Everything,
    /// In every file the sectors of the first half of what was written, and the first half of the
    /// changes of names.
    FirstHalf,
    /// The last half: what was written later is there, what was written before it is not.
    LastHalf,
    /// Every other sector and change of a name, from the first one on.
    Even,
    /// The others.
    Odd,
    /// All of it, but the last sector of every file only to its middle.
    MidSector,
    /// Of sectors written several times, the oldest version.
    Oldest,
}

impl Tear {
    /// All kinds that need no seed.
    pub const FIXED: [Self; 8] = [
        Self::Nothing,
        Self::Everything,
        Self::FirstHalf,
        Self::LastHalf,
        Self::Even,
        Self::Odd,
        Self::MidSector,
        Self::Oldest,
    ];
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for SimFs {
    fn clone(&self) -> Self {
        let mut disk = lock(&self.disk).clone();
        disk.forget_handles();
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }
}

impl SimFs {
    /// An empty disk without limits or faults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk::default())),
        }
    }

    /// The power goes and comes back: of everything not flushed each sector, length and name
    /// survives, is lost or is torn, as the seed decides. Open handles fail from now on, faults
    /// are lifted, locks are released.
    pub fn crash(&self, seed: u64) {
        self.crash_as(Tear::Seeded(seed));
    }

    /// The same, with a say in what survives.
    pub fn crash_as(&self, tear: Tear) {
        lock(&self.disk).crash(tear);
    }

    /// The process is gone and the machine lives on: what was written stays as it is, flushed or
    /// not. Open handles fail from now on, faults are lifted, locks are released.
    pub fn restart(&self) {
        lock(&self.disk).forget_handles();
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        lock(&self.disk).faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        lock(&self.disk).faults.clear();
    }

    /// Limits the sum of all file lengths; writing beyond it is `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.disk).capacity = bytes;
    }

    /// How many operations changed the disk so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.disk).operations
    }

    /// How many flushes of file contents succeeded so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.disk).syncs
    }

    /// How many writes (allocations apart) succeeded so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        lock(&self.disk).writes
    }

    /// How many reads were asked for so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        lock(&self.disk).reads
    }

    /// Replaces the content of a file, on the disk and in the cache, or makes the file; as somebody
    /// who meddles with it does.
    pub fn replace(&self, path: &Path, content: &[u8]) {
        lock(&self.disk).replace(path, content);
    }

    /// Removes a file, on the disk and in the cache; false when there is none.
    pub fn lose(&self, path: &Path) -> bool {
        lock(&self.disk).lose(path)
    }

    /// From now on the disk cannot read these bytes of a file, whatever becomes of the process and
    /// the machine: reads that touch the pages they stand in fail as a device fails them. Writing
    /// a page as a whole makes it readable; a write that needs the rest of it fails as well. False
    /// when there is no such file.
    pub fn spoil(&self, path: &Path, bytes: Range<u64>) -> bool {
        lock(&self.disk).spoil(path, bytes)
    }

    /// Flips one bit of a file, on the disk and in the cache; false when there is no such byte.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut disk = lock(&self.disk);
        let Some(inode) = disk.names.get(path).copied() else {
            return false;
        };
        let Some(node) = disk.inodes.get_mut(&inode) else {
            return false;
        };
        let Ok(at) = usize::try_from(offset) else {
            return false;
        };
        let mut hit = false;
        for content in [&mut node.durable, &mut node.current] {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << (bit % 8);
                hit = true;
            }
        }
        hit
    }

    fn handle(&self, disk: &mut Disk, inode: u64, may_write: bool) -> Arc<dyn File> {
        disk.next_handle += 1;
        Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            inode,
            boot: disk.boot,
            handle: disk.next_handle,
            may_write,
        })
    }

    /// The visible content of a file.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = lock(&self.disk);
        let inode = disk.names.get(path)?;
        disk.inodes.get(inode).map(|node| node.current.clone())
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = lock(&self.disk);
        disk.check_power()?;
        Ok(disk
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let mut disk = lock(&self.disk);
        disk.check_power()?;
        let inode = match disk.names.get(path) {
            Some(inode) => *inode,
            None if create => {
                let verdict = disk.step(false);
                if verdict == Verdict::Fail {
                    return Err(injected());
                }
                disk.next_inode += 1;
                let inode = disk.next_inode;
                disk.inodes.insert(inode, Inode::default());
                disk.link(DirOp {
                    unlink: None,
                    link: Some((path.to_owned(), inode)),
                });
                if verdict == Verdict::Cut {
                    return Err(injected());
                }
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(self.handle(&mut disk, inode, true))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = lock(&self.disk);
        disk.check_power()?;
        let inode = disk.names.get(path).copied();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&mut disk, inode, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.check_power()?;
        let Some(inode) = disk.names.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        disk.directory_change(DirOp {
            unlink: Some(from.to_owned()),
            link: Some((to.to_owned(), inode)),
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.check_power()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.directory_change(DirOp {
            unlink: Some(path.to_owned()),
            link: None,
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.check_power()?;
        if disk.step(false) != Verdict::Pass {
            return Err(injected());
        }
        if disk.faults.contains(&Fault::LyingSync) {
            return Ok(());
        }
        let (flushed, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut disk.pending_names)
            .into_iter()
            .partition(|op| op.is_in(dir));
        disk.pending_names = kept;
        for op in &flushed {
            op.apply(&mut disk.durable_names);
        }
        disk.drop_orphans();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    boot: u64,
    handle: u64,
    may_write: bool,
}

impl SimFile {
    fn disk_to_write(&self) -> io::Result<MutexGuard<'_, Disk>> {
        if !self.may_write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk()
    }

    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = lock(&self.disk);
        disk.check_power()?;
        if disk.boot == self.boot {
            Ok(disk)
        } else {
            Err(injected())
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = lock(&self.disk);
        if disk.boot == self.boot && disk.locks.get(&self.inode) == Some(&self.handle) {
            disk.locks.remove(&self.inode);
        }
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk()?;
        Ok(disk.node(self.inode)?.current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk()?;
        disk.read_step()?;
        let node = disk.node(self.inode)?;
        let content = &node.current;
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let count = buffer.len().min(content.len() - start);
        if node.is_spoiled(start..start + count) {
            return Err(unreadable());
        }
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk_to_write()?.write(self.inode, bytes, offset)?;
        lock(&self.disk).writes += 1;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        match disk.step(false) {
            Verdict::Pass => {}
            Verdict::Cut => return Err(injected()),
            Verdict::Fail => {
                disk.node(self.inode)?.pending.clear();
                return Err(injected());
            }
        }
        disk.syncs += 1;
        if disk.faults.contains(&Fault::LyingSync) {
            return Ok(());
        }
        let node = disk.node(self.inode)?;
        for write in std::mem::take(&mut node.pending) {
            write.apply(&mut node.durable);
        }
        Ok(())
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let count = usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?;
        self.disk_to_write()?
            .write(self.inode, &vec![0; count], from)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut disk = self.disk()?;
        let handle = self.handle;
        Ok(*disk.locks.entry(self.inode).or_insert(handle) == handle)
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
