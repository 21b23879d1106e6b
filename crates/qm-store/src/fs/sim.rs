//! A disk in memory that does to unflushed data what real disks may do, from a seed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Fs};

const SECTOR: usize = 512;

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
    /// Every write and allocation fails.
    FailWrites,
    /// Flushes return success and do nothing: a broken drive, for checking that tests can fail.
    LyingSync,
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
        let mut disk = lock(&self.disk);
        disk.crash(&mut SplitMix(seed));
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
        disk.next_handle += 1;
        let handle = disk.next_handle;
        Ok(Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            inode,
            boot: disk.boot,
            handle,
        }))
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
}

impl SimFile {
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
        let content = &disk.node(self.inode)?.current;
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk()?.write(self.inode, bytes, offset)?;
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
        self.disk()?.write(self.inode, &vec![0; count], from)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut disk = self.disk()?;
        let handle = self.handle;
        Ok(*disk.locks.entry(self.inode).or_insert(handle) == handle)
    }
}

#[derive(Debug, Clone, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<DirOp>,
    locks: BTreeMap<u64, u64>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    powerless: bool,
    boot: u64,
    next_inode: u64,
    next_handle: u64,
    operations: u64,
    syncs: u64,
    writes: u64,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Write>,
}

#[derive(Debug, Clone)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

/// One change of names that survives whole or not at all.
#[derive(Debug, Clone)]
struct DirOp {
    unlink: Option<PathBuf>,
    link: Option<(PathBuf, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    Cut,
}

impl Disk {
    fn check_power(&self) -> io::Result<()> {
        if self.powerless {
            Err(injected())
        } else {
            Ok(())
        }
    }

    fn node(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn step(&mut self, is_write: bool) -> Verdict {
        let number = self.operations;
        self.operations += 1;
        if self.faults.contains(&Fault::CutAt(number)) {
            self.powerless = true;
            return Verdict::Cut;
        }
        if self.faults.contains(&Fault::FailAt(number))
            || (is_write && self.faults.contains(&Fault::FailWrites))
        {
            return Verdict::Fail;
        }
        Verdict::Pass
    }

    fn write(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let verdict = self.step(true);
        if verdict == Verdict::Fail {
            return Err(injected());
        }
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset
            .checked_add(bytes.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let used: u64 = self
            .inodes
            .values()
            .map(|node| node.current.len() as u64)
            .sum();
        let capacity = self.capacity;
        let node = self.node(inode)?;
        let growth = end.saturating_sub(node.current.len()) as u64;
        if growth > 0 && capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let write = Write {
            offset,
            bytes: bytes.to_vec(),
        };
        write.apply(&mut node.current);
        node.pending.push(write);
        if verdict == Verdict::Cut {
            Err(injected())
        } else {
            Ok(())
        }
    }

    fn directory_change(&mut self, op: DirOp) -> io::Result<()> {
        let verdict = self.step(false);
        if verdict == Verdict::Fail {
            return Err(injected());
        }
        self.link(op);
        if verdict == Verdict::Cut {
            Err(injected())
        } else {
            Ok(())
        }
    }

    fn link(&mut self, op: DirOp) {
        op.apply(&mut self.names);
        self.pending_names.push(op);
    }

    fn drop_orphans(&mut self) {
        let Self {
            inodes,
            names,
            durable_names,
            pending_names,
            ..
        } = self;
        inodes.retain(|inode, _| {
            names.values().any(|named| named == inode)
                || durable_names.values().any(|named| named == inode)
                || pending_names
                    .iter()
                    .any(|op| op.link.as_ref().is_some_and(|l| l.1 == *inode))
        });
    }

    fn crash(&mut self, random: &mut SplitMix) {
        // Even seeds cut the tail of the name changes, odd seeds lose any of them.
        let in_order = random.next().is_multiple_of(2);
        let mut lost = false;
        for op in std::mem::take(&mut self.pending_names) {
            let survives = random.next().is_multiple_of(2);
            if survives && !(in_order && lost) {
                op.apply(&mut self.durable_names);
            } else {
                lost = true;
            }
        }
        self.names = self.durable_names.clone();
        for node in self.inodes.values_mut() {
            node.crash(random);
        }
        self.drop_orphans();
        self.forget_handles();
    }

    fn forget_handles(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.faults.clear();
        self.powerless = false;
    }
}

impl Inode {
    fn crash(&mut self, random: &mut SplitMix) {
        let pending = std::mem::take(&mut self.pending);
        // How often a sector survives differs between crashes: nearly all, half, hardly any.
        let odds = [1, 4, 7][random.below(3)];
        let mut sectors: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, write) in pending.iter().enumerate() {
            if write.bytes.is_empty() {
                continue;
            }
            let last = (write.offset + write.bytes.len() - 1) / SECTOR;
            for sector in write.offset / SECTOR..=last {
                sectors.entry(sector).or_default().push(number);
            }
        }
        let before = self.durable.clone();
        for (sector, writes) in sectors {
            if random.below(8) >= odds {
                continue;
            }
            let start = sector * SECTOR;
            let mut old = before.get(start..).unwrap_or_default().to_vec();
            old.resize(SECTOR, 0);
            let mut new = old.clone();
            // Any of the versions this sector went through may be the one on the platter.
            let versions = random.below(writes.len()) + 1;
            for number in &writes[..versions] {
                old.copy_from_slice(&new);
                pending[*number].apply_to_sector(start, &mut new);
            }
            if random.below(8) == 0 {
                let torn = random.below(SECTOR + 1);
                new[torn..].copy_from_slice(&old[torn..]);
            }
            let end = (start + SECTOR).min(self.current.len());
            if end <= start {
                continue;
            }
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[start..end].copy_from_slice(&new[..end - start]);
        }
        self.current = self.durable.clone();
    }
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        let end = self.offset + self.bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[self.offset..end].copy_from_slice(&self.bytes);
    }

    fn apply_to_sector(&self, start: usize, sector: &mut [u8]) {
        let from = self.offset.max(start);
        let to = (self.offset + self.bytes.len()).min(start + SECTOR);
        sector[from - start..to - start]
            .copy_from_slice(&self.bytes[from - self.offset..to - self.offset]);
    }
}

impl DirOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(name) = &self.unlink {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.link {
            names.insert(name.clone(), *inode);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let name = self
            .unlink
            .as_ref()
            .or_else(|| self.link.as_ref().map(|link| &link.0));
        name.is_some_and(|name| name.parent() == Some(dir))
    }
}

/// Steele, Lea, Flood: *Fast splittable pseudorandom number generators* (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

fn injected() -> io::Error {
    io::Error::other("injected fault")
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
