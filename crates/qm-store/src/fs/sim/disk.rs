//! The state of a simulated disk, and what a power cut leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Fault, Tear};
use crate::fs::around::unreadable;

const SECTOR: usize = 512;
/// What is read and written together.
const PAGE: usize = 4096;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) pending_names: Vec<DirOp>,
    pub(super) locks: BTreeMap<u64, u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) powerless: bool,
    pub(super) boot: u64,
    pub(super) next_inode: u64,
    pub(super) next_handle: u64,
    pub(super) operations: u64,
    pub(super) syncs: u64,
    pub(super) writes: u64,
    pub(super) reads: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    pub(super) current: Vec<u8>,
    pub(super) pending: Vec<Write>,
    /// Numbers of pages that cannot be read.
    spoiled: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

/// One change of names that survives whole or not at all.
#[derive(Debug, Clone)]
pub(super) struct DirOp {
    pub(super) unlink: Option<PathBuf>,
    pub(super) link: Option<(PathBuf, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Fail,
    Cut,
}

impl Disk {
    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.powerless {
            Err(injected())
        } else {
            Ok(())
        }
    }

    pub(super) fn node(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn step(&mut self, is_write: bool) -> Verdict {
        let number = self.operations;
        self.operations += 1;
        if self.faults.contains(&Fault::CutAt(number)) {
            self.powerless = true;
            return Verdict::Cut;
        }
        let fails = self.faults.iter().any(|fault| match fault {
            Fault::FailAt(at) => *at == number,
            Fault::FailFrom(at) => *at <= number,
            Fault::FailWrites => is_write,
            _ => false,
        });
        if fails {
            return Verdict::Fail;
        }
        Verdict::Pass
    }

    pub(super) fn read_step(&mut self) -> io::Result<()> {
        let number = self.reads;
        self.reads += 1;
        if self.faults.contains(&Fault::FailReadAt(number)) {
            return Err(injected());
        }
        Ok(())
    }

    /// Whether an operation finds the disk full.
    fn is_full(&self, number: u64, grows: bool) -> bool {
        self.faults.iter().any(|fault| match fault {
            Fault::FullFrom(at) => grows && *at <= number,
            Fault::FullForAllFrom(at) => *at <= number,
            _ => false,
        })
    }

    pub(super) fn replace(&mut self, path: &Path, content: &[u8]) {
        let inode = self.names.get(path).copied().unwrap_or_else(|| {
            self.next_inode += 1;
            self.names.insert(path.to_owned(), self.next_inode);
            self.durable_names.insert(path.to_owned(), self.next_inode);
            self.next_inode
        });
        let node = Inode {
            durable: content.to_vec(),
            current: content.to_vec(),
            pending: Vec::new(),
            spoiled: BTreeSet::new(),
        };
        self.inodes.insert(inode, node);
    }

    pub(super) fn spoil(&mut self, path: &Path, bytes: Range<u64>) -> bool {
        let inode = self.names.get(path).copied();
        let Some(node) = inode.and_then(|inode| self.inodes.get_mut(&inode)) else {
            return false;
        };
        let at = |offset: u64| usize::try_from(offset).map_or(usize::MAX, |at| at) / PAGE;
        node.spoiled
            .extend(at(bytes.start)..=at(bytes.end.saturating_sub(1)));
        true
    }

    pub(super) fn lose(&mut self, path: &Path) -> bool {
        self.durable_names.remove(path);
        self.names.remove(path).is_some()
    }

    pub(super) fn write(&mut self, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
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
        let length = self.node(inode)?.current.len();
        let growth = end.saturating_sub(length) as u64;
        if self.is_full(self.operations - 1, growth > 0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = self.node(inode)?;
        if growth > 0 && capacity.is_some_and(|capacity| used + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let write = Write {
            offset,
            bytes: bytes.to_vec(),
        };
        node.mend(offset..end, length)?;
        write.apply(&mut node.current);
        node.pending.push(write);
        if verdict == Verdict::Cut {
            Err(injected())
        } else {
            Ok(())
        }
    }

    pub(super) fn directory_change(&mut self, op: DirOp) -> io::Result<()> {
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

    pub(super) fn link(&mut self, op: DirOp) {
        op.apply(&mut self.names);
        self.pending_names.push(op);
    }

    pub(super) fn drop_orphans(&mut self) {
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

    pub(super) fn crash(&mut self, tear: Tear) {
        let mut choice = Choice::new(tear);
        let pending = std::mem::take(&mut self.pending_names);
        let count = pending.len();
        for (number, op) in pending.into_iter().enumerate() {
            if choice.keeps_name(number, count) {
                op.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for node in self.inodes.values_mut() {
            node.crash(&mut choice);
        }
        self.drop_orphans();
        self.forget_handles();
    }

    pub(super) fn forget_handles(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.faults.clear();
        self.powerless = false;
    }
}

impl Inode {
    pub(super) fn is_spoiled(&self, bytes: Range<usize>) -> bool {
        let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
        !bytes.is_empty() && self.spoiled.range(pages).next().is_some()
    }

    /// Pages that are written as a whole can be read again; a part of one cannot be written.
    fn mend(&mut self, bytes: Range<usize>, length: usize) -> io::Result<()> {
        let pages = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
        let touched: Vec<usize> = self.spoiled.range(pages).copied().collect();
        let is_whole = |page: &usize| {
            let end = ((page + 1) * PAGE).min(length.max(bytes.end));
            bytes.start <= page * PAGE && end <= bytes.end
        };
        if !touched.iter().all(is_whole) {
            return Err(unreadable());
        }
        for page in touched {
            self.spoiled.remove(&page);
        }
        Ok(())
    }

    fn crash(&mut self, choice: &mut Choice) {
        let pending = std::mem::take(&mut self.pending);
        choice.begin_file();
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
        let count = sectors.len();
        for (at, (sector, writes)) in sectors.into_iter().enumerate() {
            let Some((versions, torn)) = choice.sector(at, count, writes.len()) else {
                continue;
            };
            let start = sector * SECTOR;
            let mut old = before.get(start..).unwrap_or_default().to_vec();
            old.resize(SECTOR, 0);
            let mut new = old.clone();
            // Any of the versions this sector went through may be the one on the platter.
            for number in &writes[..versions] {
                old.copy_from_slice(&new);
                pending[*number].apply_to_sector(start, &mut new);
            }
            if let Some(torn) = torn {
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

/// What survives, decided piece by piece.
struct Choice {
    tear: Tear,
    random: SplitMix,
    /// Seeded: whether the changes of names survive as a prefix, and whether one was lost.
    in_order: bool,
    lost: bool,
    /// Seeded: of eight sectors of the present file this many are lost.
    odds: usize,
}

impl Choice {
    fn new(tear: Tear) -> Self {
        let seed = match tear {
            Tear::Seeded(seed) => seed,
            _ => 0,
        };
        let mut random = SplitMix(seed);
        // Even seeds cut the tail of the name changes, odd seeds lose any of them.
        let in_order = random.next().is_multiple_of(2);
        Self {
            tear,
            random,
            in_order,
            lost: false,
            odds: 0,
        }
    }

    fn begin_file(&mut self) {
        if matches!(self.tear, Tear::Seeded(_)) {
            // How often a sector survives differs: nearly always, half the time, hardly ever.
            self.odds = [1, 4, 7][self.random.below(3)];
        }
    }

    fn keeps_name(&mut self, number: usize, count: usize) -> bool {
        match self.tear {
            Tear::Seeded(_) => {
                let survives = self.random.next().is_multiple_of(2);
                let kept = survives && !(self.in_order && self.lost);
                self.lost |= !kept;
                kept
            }
            tear => keeps(tear, number, count),
        }
    }

    /// How many of the writes to a sector reached it, and where the last of them was torn.
    fn sector(&mut self, at: usize, count: usize, writes: usize) -> Option<(usize, Option<usize>)> {
        match self.tear {
            Tear::Seeded(_) => {
                if self.random.below(8) >= self.odds {
                    return None;
                }
                let versions = self.random.below(writes) + 1;
                let is_torn = self.random.below(8) == 0;
                let torn = is_torn.then(|| self.random.below(SECTOR + 1));
                Some((versions, torn))
            }
            Tear::Oldest => Some((1, None)),
            Tear::MidSector => Some((writes, (at + 1 == count).then_some(SECTOR / 2))),
            tear => keeps(tear, at, count).then_some((writes, None)),
        }
    }
}

const fn keeps(tear: Tear, number: usize, count: usize) -> bool {
    match tear {
        Tear::Nothing => false,
        Tear::FirstHalf => number < count.div_ceil(2),
        Tear::LastHalf => number >= count / 2,
        Tear::Even => number.is_multiple_of(2),
        Tear::Odd => !number.is_multiple_of(2),
        _ => true,
    }
}

impl Write {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
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
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(name) = &self.unlink {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.link {
            names.insert(name.clone(), *inode);
        }
    }

    pub(super) fn is_in(&self, dir: &Path) -> bool {
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

pub(super) fn injected() -> io::Error {
    io::Error::other("injected fault")
}
