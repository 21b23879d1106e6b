//! The list of the segments in use, so that one whose file is gone is missed.
//!
//! It is kept in two slots of one file that are written in turn, each flushed before anything
//! builds on it: torn while one is written, the other says what held before. What held before is
//! as good: a segment that is there and not listed is only younger than the list, or older than
//! its own removal from it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::format::{HeaderState, SegmentHeader, u32_at, u64_at};
use crate::fs::{File, Fs, PAGE_BYTES, is_full, is_unreadable};
use crate::hint::{fold, unfold};
use crate::index::{put_varint, take_varint};

/// Name of the file.
pub(crate) const MANIFEST_NAME: &str = "manifest";
const NEW_NAME: &str = "manifest.new";
const MAGIC: [u8; 8] = [b'q', b'm', b's', b'e', b'g', b's', 0, VERSION];
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 48;
const CRC_BYTES: usize = 4;
/// A slot of a new file, and what slots are multiples of: one does not tear the other.
const SLOT_BYTES: usize = 4096;
/// More than all segments there can be take.
const SLOT_BYTES_MAX: usize = 1024 * 1024;

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) store: u64,
    generation: u64,
    /// Segments with lower sequence numbers are not listed: there was no room for them.
    from: u64,
    /// Numbers of files by sequence number.
    pub(crate) files: BTreeMap<u64, u64>,
}

/// A list that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) listed: Listed,
    /// The other slot cannot be read: it may have held a younger list.
    is_doubtful: bool,
    manifest: Manifest,
}

/// What is in a segment file, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    Empty,
    Unreadable,
    Segment(u64),
}

impl FileState {
    pub(crate) const fn of(header: &HeaderState) -> Self {
        match header {
            HeaderState::Valid(SegmentHeader { sequence, .. }) => Self::Segment(*sequence),
            HeaderState::Void => Self::Empty,
            HeaderState::Newer(_) | HeaderState::Unreadable => Self::Unreadable,
        }
    }
}

/// A listed segment that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) sequence: u64,
    pub(crate) file: u64,
    pub(crate) what: &'static str,
}

impl Read {
    /// Which of the listed segments are not among the files of a directory.
    pub(crate) fn missing(&self, files: &BTreeMap<u64, FileState>) -> Vec<Missing> {
        let there: BTreeSet<u64> = files
            .values()
            .filter_map(|state| match state {
                FileState::Segment(sequence) => Some(*sequence),
                _ => None,
            })
            .collect();
        let gone = self.listed.files.iter();
        let gone = gone.filter(|(sequence, _)| !there.contains(sequence));
        let missing = gone.filter_map(|(sequence, file)| {
            let what = match files.get(file) {
                None => "its file is gone",
                Some(FileState::Unreadable) => "neither copy of its header can be read",
                // An older list may still name what was emptied or used again since.
                Some(FileState::Empty) if self.is_doubtful => return None,
                Some(FileState::Segment(now)) if self.is_doubtful && now > sequence => return None,
                Some(FileState::Empty) => "its file holds nothing any more",
                Some(FileState::Segment(_)) => "its file holds another segment",
            };
            Some(Missing {
                sequence: *sequence,
                file: *file,
                what,
            })
        });
        missing.collect()
    }

    /// Whether every segment there was is listed, so that a file nobody can read held none.
    pub(crate) const fn is_complete(&self) -> bool {
        self.listed.from == 0
    }

    pub(crate) fn into_manifest(self) -> Manifest {
        self.manifest
    }
}

/// What became of reading a list.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is no file.
    None,
    /// There is one, and neither slot can be read.
    Unreadable,
    Whole(Read),
}

/// Reads the list of a directory and changes nothing.
pub(crate) fn read(fs: &dyn Fs, dir: &Path, for_writing: bool) -> Result<Found, StoreError> {
    let path = dir.join(MANIFEST_NAME);
    let opened = if for_writing {
        fs.open(&path, false)
    } else {
        fs.open_read(&path)
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
        Err(error) => return Err(StoreError::io("open", path, error)),
    };
    let failed = |error| StoreError::io("read", &path, error);
    let length = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
    let slot_bytes = length / 2;
    if !(SLOT_BYTES..=SLOT_BYTES_MAX).contains(&slot_bytes) {
        return Ok(Found::Unreadable);
    }
    let mut slots = [None, None];
    let mut is_doubtful = false;
    let mut newer = 0;
    for (at, slot) in slots.iter_mut().enumerate() {
        let mut bytes = vec![0; slot_bytes];
        match file.read_at(&mut bytes, (at * slot_bytes) as u64) {
            Ok(filled) => bytes.truncate(filled),
            Err(error) if is_unreadable(&error) => {
                bytes.clear();
                is_doubtful = true;
            }
            Err(error) => return Err(failed(error)),
        }
        *slot = decode(&bytes);
        if bytes.starts_with(&MAGIC[..7]) {
            newer = newer.max(bytes.get(7).copied().unwrap_or(0));
        }
        is_doubtful |= slot.is_none() && bytes.iter().any(|byte| *byte != 0);
    }
    let [one, other] = slots;
    let newest = match (one, other) {
        (Some(one), Some(other)) if other.generation > one.generation => Some(other),
        (Some(one), _) => Some(one),
        (None, other) => other,
    };
    let Some(listed) = newest else {
        if newer > VERSION {
            return Err(StoreError::NewerFormat {
                path,
                found: newer.into(),
                supported: VERSION.into(),
            });
        }
        return Ok(Found::Unreadable);
    };
    let manifest = Manifest {
        path,
        file,
        slot_bytes,
        listed: listed.clone(),
        // The other slot may name any of them, or more.
        left: listed.files.values().copied().collect(),
        skips_sync: false,
    };
    Ok(Found::Whole(Read {
        listed,
        is_doubtful,
        manifest,
    }))
}

/// The list of a store that is open.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    file: Arc<dyn File>,
    slot_bytes: usize,
    listed: Listed,
    /// Numbers of files that the older slot may still name and the newer one does not.
    left: BTreeSet<u64>,
    /// For tests of the tests.
    skips_sync: bool,
}

impl Manifest {
    /// Makes the file, and the list in it durable; `None` when there is no room for it.
    pub(crate) fn create(
        fs: &dyn Fs,
        dir: &Path,
        store: u64,
        files: BTreeMap<u64, u64>,
    ) -> Result<Option<Self>, StoreError> {
        let listed = Listed {
            store,
            generation: 1,
            from: 0,
            files,
        };
        let mut slot_bytes = SLOT_BYTES;
        while encode(&listed).len() > slot_bytes && slot_bytes < SLOT_BYTES_MAX {
            slot_bytes *= 2;
        }
        Self::write_new(fs, dir, listed, slot_bytes)
    }

    fn write_new(
        fs: &dyn Fs,
        dir: &Path,
        listed: Listed,
        slot_bytes: usize,
    ) -> Result<Option<Self>, StoreError> {
        let (path, new) = (dir.join(MANIFEST_NAME), dir.join(NEW_NAME));
        let remove = |new: &Path| match fs.remove(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", new, error))
            }
            _ => Ok(()),
        };
        remove(&new)?;
        let write = || {
            let file = fs.open(&new, true)?;
            file.allocate(0, 2 * slot_bytes as u64)?;
            let mut manifest = Self {
                path: path.clone(),
                file,
                slot_bytes,
                listed,
                left: BTreeSet::new(),
                skips_sync: false,
            };
            // Both slots, so that one damaged byte does not cost the list.
            manifest.write_slot(&encode(&manifest.listed))?;
            manifest.listed.generation += 1;
            manifest.write_slot(&encode(&manifest.listed))?;
            Ok(manifest)
        };
        match write() {
            Ok(manifest) => {
                fs.rename(&new, &path)
                    .and_then(|()| fs.sync_dir(dir))
                    .map_err(|error| StoreError::io("rename", new, error))?;
                Ok(Some(manifest))
            }
            Err(error) if is_full(&error) => remove(&new).map(|()| None),
            Err(error) => Err(StoreError::io("write", new, error)),
        }
    }

    /// For tests of the tests.
    pub(crate) const fn skip_sync(&mut self, skips: bool) {
        self.skips_sync = skips;
    }

    /// Makes another list of all segments durable.
    pub(crate) fn replace(
        &mut self,
        fs: &dyn Fs,
        files: BTreeMap<u64, u64>,
    ) -> Result<(), StoreError> {
        self.listed.from = 0;
        let kept: BTreeSet<u64> = files.values().copied().collect();
        let before = self.listed.files.values();
        self.left = before
            .copied()
            .filter(|file| !kept.contains(file))
            .collect();
        self.listed.files = files;
        self.write(fs)
    }

    /// A segment was begun, durably.
    pub(crate) fn add(&mut self, fs: &dyn Fs, sequence: u64, file: u64) -> Result<(), StoreError> {
        self.left.clear();
        self.listed.files.insert(sequence, file);
        self.write(fs)
    }

    /// A segment will be emptied.
    pub(crate) fn remove(&mut self, fs: &dyn Fs, sequence: u64) -> Result<(), StoreError> {
        let file = self.listed.files.remove(&sequence);
        self.left = file.into_iter().collect();
        self.write(fs)
    }

    /// A file will be removed: after this, neither slot names it.
    pub(crate) fn forget(&mut self, fs: &dyn Fs, file: u64) -> Result<(), StoreError> {
        if self.left.contains(&file) {
            self.left.clear();
            self.write(fs)?;
        }
        Ok(())
    }

    fn write(&mut self, fs: &dyn Fs) -> Result<(), StoreError> {
        self.listed.generation += 1;
        let mut bytes = encode(&self.listed);
        if bytes.len() > self.slot_bytes {
            let larger = bytes.len().next_power_of_two().min(SLOT_BYTES_MAX);
            let dir = self.path.parent().unwrap_or_else(|| Path::new(""));
            if let Some(mut grown) = Self::write_new(fs, dir, self.listed.clone(), larger)? {
                grown.skips_sync = self.skips_sync;
                // Both its slots are young.
                *self = grown;
                return Ok(());
            }
            // What is not listed is not missed: rather the oldest than that the store stops.
            while bytes.len() > self.slot_bytes {
                let most = self.listed.files.len() / 2;
                let Some(from) = self.listed.files.keys().nth(most.max(1)).copied() else {
                    break;
                };
                self.listed.files = self.listed.files.split_off(&from);
                self.listed.from = from;
                bytes = encode(&self.listed);
            }
        }
        self.write_slot(&bytes)
            .map_err(|error| StoreError::io("write", &self.path, error))
    }

    fn write_slot(&self, bytes: &[u8]) -> io::Result<()> {
        let slot = usize::from(!self.listed.generation.is_multiple_of(2));
        // Whole pages: what stood there need not be readable.
        let mut bytes = bytes.to_vec();
        let whole = (bytes.len() as u64).next_multiple_of(PAGE_BYTES);
        let whole = usize::try_from(whole).unwrap_or(0).min(self.slot_bytes);
        bytes.resize(bytes.len().max(whole), 0);
        self.file
            .write_at(&bytes, (slot * self.slot_bytes) as u64)?;
        if self.skips_sync {
            return Ok(());
        }
        self.file.sync_data()
    }
}

fn encode(listed: &Listed) -> Vec<u8> {
    let mut entries = Vec::new();
    let (mut last, mut last_file) = (0, 0);
    for (sequence, file) in &listed.files {
        put_varint(&mut entries, sequence.wrapping_sub(last));
        put_varint(
            &mut entries,
            fold(file.wrapping_sub(last_file).wrapping_sub(1)),
        );
        (last, last_file) = (*sequence, *file);
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&listed.store.to_le_bytes());
    out.extend_from_slice(&listed.generation.to_le_bytes());
    out.extend_from_slice(&listed.from.to_le_bytes());
    out.extend_from_slice(&(listed.files.len() as u64).to_le_bytes());
    out.extend_from_slice(&entries);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(slot: &[u8]) -> Option<Listed> {
    let head = slot.get(..HEAD_BYTES)?;
    if head[..8] != MAGIC {
        return None;
    }
    let end = HEAD_BYTES.checked_add(usize::try_from(u64_at(head, 8)).ok()?)?;
    let whole = slot.get(..end.checked_add(CRC_BYTES)?)?;
    if u32_at(whole, end) != crc32c::crc32c(&whole[..end]) {
        return None;
    }
    let mut entries = &whole[HEAD_BYTES..end];
    let mut files = BTreeMap::new();
    let (mut sequence, mut file) = (0u64, 0u64);
    while !entries.is_empty() {
        sequence = sequence.wrapping_add(take_varint(&mut entries)?);
        file = file
            .wrapping_add(1)
            .wrapping_add(unfold(take_varint(&mut entries)?));
        files.insert(sequence, file);
    }
    let listed = Listed {
        store: u64_at(head, 16),
        generation: u64_at(head, 24),
        from: u64_at(head, 32),
        files,
    };
    (listed.files.len() as u64 == u64_at(head, 40)).then_some(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    fn dir() -> &'static Path {
        Path::new("/data")
    }

    fn read_again(fs: &SimFs) -> Read {
        match read(fs, dir(), false).unwrap() {
            Found::Whole(read) => read,
            other => panic!("{other:?}"),
        }
    }

    fn there(segments: impl Iterator<Item = u64>) -> BTreeMap<u64, FileState> {
        segments
            .map(|sequence| (sequence + 7, FileState::Segment(sequence)))
            .collect()
    }

    /// With thousands of segments the list needs more room, and takes it; where there is none the
    /// oldest are left out, and nothing that is there raises an alarm.
    #[test]
    fn the_list_grows_with_the_segments() {
        for is_full in [false, true] {
            let fs = SimFs::new();
            let created = Manifest::create(&fs, dir(), 5, BTreeMap::new()).unwrap();
            let mut manifest = created.unwrap();
            let path = dir().join(MANIFEST_NAME);
            let before = fs.content(&path).unwrap().len();
            fs.set_capacity(is_full.then_some(before as u64 + 100));
            let last = 3000;
            for sequence in 1..=last {
                manifest.add(&fs, sequence, sequence + 7).unwrap();
            }
            assert_eq!(fs.content(&path).unwrap().len() > before, !is_full);
            let read = read_again(&fs);
            assert_eq!(read.is_complete(), !is_full);
            assert_eq!(read.missing(&there(1..=last)), []);
            let gone = |sequence| {
                let missing = read.missing(&there((1..=last).filter(|at| *at != sequence)));
                missing.first().map(|missing| missing.file)
            };
            assert_eq!(gone(last), Some(last + 7));
            assert_eq!(gone(1).is_some(), !is_full);
            // As soon as there is room all are listed again.
            fs.set_capacity(None);
            let files = (1..=last).map(|sequence| (sequence, sequence + 7));
            manifest.replace(&fs, files.collect()).unwrap();
            assert!(read_again(&fs).is_complete());
            manifest.remove(&fs, 3).unwrap();
            assert_eq!(read_again(&fs).listed.files.len() as u64, last - 1);
        }
    }

    #[test]
    fn whatever_bytes_a_slot_has_they_cannot_do_harm() {
        let listed = Listed {
            store: 3,
            generation: 9,
            from: 0,
            files: [(1, 4), (2, 3), (900, 1)].into(),
        };
        let whole = encode(&listed);
        assert_eq!(decode(&whole), Some(listed));
        for at in 0..whole.len() {
            assert_eq!(decode(&whole[..at]), None);
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(decode(&changed), None, "{at}");
                // And with a checksum that matches.
                let end = changed.len() - CRC_BYTES;
                let crc = crc32c::crc32c(&changed[..end]);
                changed[end..].copy_from_slice(&crc.to_le_bytes());
                decode(&changed);
            }
        }
    }
}
