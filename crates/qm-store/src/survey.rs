//! Reading a whole store without changing it: everything that lives, everything that is damaged.
//!
//! Nothing here shares code with the index that recovery builds, so that the two can be compared.

mod found;
mod reading;
mod unverified;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{
    DATA_AT, HEADER_AT, HEADER_BYTES, HeaderState, LISTED_VERSION, Seed, SegmentHeader, VERSION,
};
use crate::fs::{File, Fs};
use crate::manifest::{self, FileState, Found, MANIFEST_NAME};
use crate::segment::{SegmentFile, UNREADABLE};
use crate::side::{self, SideBody, SideReader};
use crate::types::StreamId;

pub use found::{Checked, Damage, Lost, LostRecord};
use reading::Reading;
use unverified::unverified_head;

/// Damaged places that are listed one by one; the rest is counted.
const DAMAGES_MAX: usize = 10_000;

/// Verifies everything in a store that no process has open, and changes nothing.
///
/// Reads every byte of the log once; needs about 50 bytes of memory for each live record.
///
/// # Errors
/// [`StoreError::Locked`] while a process has it open, [`StoreError::NewerFormat`],
/// [`StoreError::Io`]. Damage is no error: it is what is looked for.
pub fn check(fs: &dyn Fs, dir: &Path) -> Result<Checked, StoreError> {
    Ok(survey(fs, dir, 0)?.checked)
}

/// Where a live record stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) segment: usize,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
    damaged: bool,
}

impl Place {
    pub(crate) const fn is_damaged(&self) -> bool {
        self.damaged
    }
}

/// A segment of the log.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) seed: Seed,
    pub(crate) header: SegmentHeader,
    seal: Option<u32>,
    /// Where the log ends in it, if something that was written last may have stood behind that.
    last_end: Option<u32>,
}

/// Everything a store holds.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) checked: Checked,
    /// In the order of the log.
    pub(crate) segments: Vec<Surveyed>,
    pub(crate) live: BTreeMap<StreamId, BTreeMap<u64, Place>>,
    /// Bodies in files of their own, of all records that were put so.
    pub(crate) side: BTreeMap<(StreamId, u64), SideBody>,
    /// The highest position put in each stream.
    pub(crate) highest: BTreeMap<StreamId, u64>,
    /// Heads of the newest records, removed or not, in the order of the log.
    pub(crate) recent: VecDeque<(StreamId, u64, Bytes)>,
    pub(crate) lock: StoreLock,
    /// What is in every segment file, by its number.
    states: BTreeMap<u64, FileState>,
    /// Files of which neither header copy can be read.
    unreadable: Vec<(u64, PathBuf, u64)>,
}

/// Keeps every other process out of a store for as long as it is held.
#[derive(Debug, Clone, Default)]
pub struct StoreLock {
    _file: Option<Arc<dyn File>>,
}

/// Reads a store; see [`check`].
pub(crate) fn survey(fs: &dyn Fs, dir: &Path, recent_max: usize) -> Result<Survey, StoreError> {
    let mut survey = Survey {
        lock: lock(fs, dir)?,
        ..Survey::default()
    };
    survey.list(fs, dir)?;
    survey.keep_ours();
    let doubt = survey.compare(fs, dir)?;
    let segments = std::mem::take(&mut survey.segments);
    let mut reading = Reading {
        survey: &mut survey,
        segments: &segments,
        recent_max,
        at: 0,
        last_doubt: None,
    };
    let mut last_end = None;
    for at in 0..segments.len() {
        last_end = reading.segment(at)?;
    }
    let last_doubt = reading.last_doubt.max(doubt);
    survey.segments = segments;
    if let Some(last) = survey.segments.last_mut() {
        last.last_end = last_end;
    }
    survey.check_bodies(fs, dir)?;
    survey.count(last_doubt)?;
    survey.name_unreadable();
    Ok(survey)
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<StoreLock, StoreError> {
    let path = dir.join("lock");
    let file = match fs.open_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(StoreLock::default());
        }
        Err(error) => return Err(StoreError::io("open", path, error)),
    };
    match file.try_lock() {
        Ok(true) => Ok(StoreLock { _file: Some(file) }),
        Ok(false) => Err(StoreError::Locked { path }),
        Err(error) => Err(StoreError::io("lock", path, error)),
    }
}

impl Survey {
    fn damage(&mut self, damage: Damage) {
        if self.checked.damages.len() < DAMAGES_MAX {
            self.checked.damages.push(damage);
        } else {
            self.checked.unlisted += 1;
        }
    }

    fn list(&mut self, fs: &dyn Fs, dir: &Path) -> Result<(), StoreError> {
        let names = fs
            .list(dir)
            .map_err(|error| StoreError::io("list", dir, error))?;
        for name in names {
            let Some((number, kind)) = name.split_once('.') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            let path = dir.join(&name);
            match kind {
                "seg" => self.look_at(fs, number, path)?,
                "unreadable" => self.checked.set_aside.push(path),
                _ => {}
            }
        }
        self.segments.sort_by_key(|segment| segment.header.sequence);
        Ok(())
    }

    fn look_at(&mut self, fs: &dyn Fs, number: u64, path: PathBuf) -> Result<(), StoreError> {
        let file = fs
            .open_read(&path)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let length = file
            .len()
            .map_err(|error| StoreError::io("measure", &path, error))?;
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let file = Arc::new(SegmentFile::new(number, path.clone(), file, bytes));
        let copies = file.read_header()?;
        self.states.insert(number, FileState::of(&copies.state));
        let header = match copies.state {
            HeaderState::Void => {
                self.checked.empty_segments += 1;
                return Ok(());
            }
            HeaderState::Newer(found) => {
                return Err(StoreError::NewerFormat {
                    path,
                    found,
                    supported: VERSION,
                });
            }
            HeaderState::Unreadable => {
                self.unreadable.push((number, path, length));
                return Ok(());
            }
            HeaderState::Valid(header) => header,
        };
        let sequence = Some(header.sequence);
        if copies.one_damaged {
            self.damage(Damage {
                offset: damaged_copy(&file)?,
                bytes: HEADER_BYTES as u64,
                file: path.clone(),
                segment: sequence,
                what: "one copy of the header cannot be read; the other is whole",
                lost: Lost::Nothing,
            });
        }
        let seed = header.seed();
        let seal = file.read_seal(seed)?;
        let seal = seal.map(|seal| seal.end);
        let seal = seal.filter(|end| (DATA_AT..=header.segment_bytes).contains(end));
        let said = u64::from(header.segment_bytes);
        if said != length {
            // What is behind a known end costs nothing, and what is before it is found missing.
            let lost = if length < said && seal.is_none() {
                Lost::Unknown { likely: None }
            } else {
                Lost::Nothing
            };
            self.damage(Damage {
                file: path,
                segment: sequence,
                offset: length.min(said),
                bytes: length.abs_diff(said),
                what: "the file has not the length that its header says",
                lost,
            });
        }
        self.segments.push(Surveyed {
            file,
            seed,
            header,
            seal,
            last_end: None,
        });
        Ok(())
    }

    /// Leaves out what another store wrote, and second copies.
    fn keep_ours(&mut self) {
        let mut stores: BTreeMap<u64, usize> = BTreeMap::new();
        for segment in &self.segments {
            *stores.entry(segment.header.store).or_default() += 1;
        }
        let ours = stores
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(store, _)| *store);
        let mut kept: Vec<Surveyed> = Vec::new();
        for segment in std::mem::take(&mut self.segments) {
            let what = if Some(segment.header.store) != ours {
                "another store wrote this segment"
            } else if kept
                .last()
                .is_some_and(|last| last.header.sequence == segment.header.sequence)
            {
                "another file is the segment of this number"
            } else {
                kept.push(segment);
                continue;
            };
            self.damage(Damage {
                file: segment.file.path.clone(),
                segment: Some(segment.header.sequence),
                offset: 0,
                bytes: u64::from(segment.file.bytes),
                what,
                lost: Lost::Nothing,
            });
        }
        self.segments = kept;
    }

    /// Looks for what the list says is there; returns the place before which everything is in
    /// doubt because a segment is missing.
    fn compare(&mut self, fs: &dyn Fs, dir: &Path) -> Result<Option<(usize, u32)>, StoreError> {
        let path = dir.join(MANIFEST_NAME);
        let found = manifest::read(fs, dir, false)?;
        let store = self.segments.first().map(|first| first.header.store);
        let was_listed = |segment: &Surveyed| segment.header.version >= LISTED_VERSION;
        let what = match &found {
            Found::Whole(read) if store.is_some_and(|store| store != read.listed.store) => {
                Some("the list of segments is of another store")
            }
            Found::Whole(_) => None,
            Found::Unreadable => Some("neither copy of the list of segments can be read"),
            Found::None if self.segments.iter().any(was_listed) => {
                Some("the list of segments is gone: whether one is missing cannot be told")
            }
            Found::None => None,
        };
        if let Some(what) = what {
            self.damage(Damage {
                file: path,
                segment: None,
                offset: 0,
                bytes: 0,
                what,
                lost: Lost::Unknown { likely: None },
            });
        }
        let read = match &found {
            Found::Whole(read) if what.is_none() => Some(read),
            _ => None,
        };
        let missing = read.map_or_else(Vec::new, |read| read.missing(&self.states));
        let is_complete = read.is_some_and(|read| read.is_complete());
        for (number, path, length) in std::mem::take(&mut self.unreadable) {
            // What was not listed had not been begun: a power cut tore its first write.
            if is_complete && !missing.iter().any(|one| one.file == number) {
                self.checked.empty_segments += 1;
            } else if !missing.iter().any(|one| one.file == number) {
                self.damage(Damage {
                    file: path,
                    segment: None,
                    offset: 0,
                    bytes: length,
                    what: "neither copy of the header can be read",
                    lost: Lost::Unknown { likely: None },
                });
            }
        }
        let mut doubt = None;
        for one in missing {
            let after = self
                .segments
                .partition_point(|segment| segment.header.sequence < one.sequence);
            doubt = doubt.max(Some((after, 0)));
            self.checked.missing_segments += 1;
            self.damage(Damage {
                file: dir.join(format!("{:08}.seg", one.file)),
                segment: Some(one.sequence),
                offset: 0,
                bytes: 0,
                what: one.what,
                lost: Lost::Unknown { likely: None },
            });
        }
        Ok(doubt)
    }

    /// Reads the files with bodies of what is live.
    fn check_bodies(&mut self, fs: &dyn Fs, dir: &Path) -> Result<(), StoreError> {
        let mut lost = Vec::new();
        self.side.retain(|(stream, position), _| {
            let places = self.live.get(stream);
            places.is_some_and(|places| places.contains_key(position))
        });
        for ((stream, position), side) in &self.side {
            let Some(place) = self.live.get(stream).and_then(|p| p.get(position)) else {
                continue;
            };
            let sequence = self.segments[place.segment].header.sequence;
            let record = (*stream, *position);
            let found = match SideReader::open(fs, dir, *side, sequence, record)? {
                Some(reader) => reader.verify(),
                None => Err(side::missing(dir, *side, sequence, record)),
            };
            match found {
                Ok(()) => self.checked.bytes += side.file_bytes(),
                Err(StoreError::Damaged {
                    path, offset, what, ..
                }) => lost.push((record, *place, path, offset, what)),
                Err(error) => return Err(error),
            }
        }
        for ((stream, position), place, file, offset, what) in lost {
            let segment = &self.segments[place.segment];
            let (segment, head) = (
                segment.header.sequence,
                unverified_head(&segment.file, place.offset)?,
            );
            self.checked.lost_records += 1;
            let bytes = self.side.remove(&(stream, position));
            self.damage(Damage {
                file,
                segment: Some(segment),
                offset,
                bytes: bytes.map_or(0, |side| side.file_bytes()),
                what,
                lost: Lost::Record(LostRecord {
                    stream,
                    position,
                    head,
                }),
            });
            if let Some(places) = self.live.get_mut(&stream) {
                places.remove(&position);
            }
        }
        Ok(())
    }

    /// Sums up, and names the damaged records that are live.
    fn count(&mut self, last_doubt: Option<(usize, u32)>) -> Result<(), StoreError> {
        self.checked.segments = self.segments.len() as u64;
        let mut damaged = Vec::new();
        for (stream, places) in &self.live {
            let mut whole = 0;
            for (position, place) in places {
                if place.damaged {
                    damaged.push((*stream, *position, *place));
                    continue;
                }
                whole += 1;
                let stands_before =
                    last_doubt.is_some_and(|doubt| (place.segment, place.offset) < doubt);
                self.checked.uncertain_records += u64::from(stands_before);
            }
            self.checked.records += whole;
            if whole > 0 {
                self.checked.streams.insert(*stream, whole);
            }
        }
        self.checked.lost_records += damaged.len() as u64;
        for (stream, position, place) in damaged {
            let segment = &self.segments[place.segment];
            let head = unverified_head(&segment.file, place.offset)?;
            self.damage(Damage {
                file: segment.file.path.clone(),
                segment: Some(segment.header.sequence),
                offset: u64::from(place.offset),
                bytes: u64::from(place.bytes),
                what: segment.file.why(
                    place.offset..place.offset.saturating_add(place.bytes),
                    "the checksum of a record's content does not match",
                ),
                lost: Lost::Record(LostRecord {
                    stream,
                    position,
                    head,
                }),
            });
        }
        Ok(())
    }
}

impl Survey {
    /// Names what the disk could not read and no other damage tells of.
    fn name_unreadable(&mut self) {
        let mut found = Vec::new();
        for (segment, place) in self.segments.iter().zip(1..) {
            let is_newest = place == self.segments.len();
            for part in segment.file.unreadable() {
                let is_told = self.checked.damages.iter().any(|damage| {
                    damage.file == segment.file.path
                        && damage.offset < u64::from(part.end)
                        && u64::from(part.start) < damage.offset.saturating_add(damage.bytes)
                });
                if is_told {
                    continue;
                }
                // The log ends where the first group cannot be read: it may have been a whole one.
                let last = segment.last_end.filter(|_| is_newest);
                let lost = match last {
                    Some(end) if part.end > end => Lost::Unknown { likely: None },
                    _ => Lost::Nothing,
                };
                found.push(Damage {
                    file: segment.file.path.clone(),
                    segment: Some(segment.header.sequence),
                    offset: part.start.into(),
                    bytes: (part.end - part.start).into(),
                    what: UNREADABLE,
                    lost,
                });
            }
        }
        for damage in found {
            self.damage(damage);
        }
    }
}

fn damaged_copy(file: &SegmentFile) -> Result<u64, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    file.read(&mut bytes, HEADER_AT[0] as u64)?;
    let first_is_whole = matches!(SegmentHeader::decode(&bytes), HeaderState::Valid(_));
    Ok(HEADER_AT[usize::from(first_is_whole)] as u64)
}
