//! Reading a whole store without changing it: everything that lives, everything that is damaged.
//!
//! Nothing here shares code with the index that recovery builds, so that the two can be compared.

mod found;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::StoreError;
use crate::format::{
    DATA_AT, HEADER_AT, HEADER_BYTES, HeaderState, Kind, RECORD, RECORD_BYTES, RecordHeader, Seed,
    SegmentHeader, VERSION, u64_at,
};
use crate::fs::{File, Fs};
use crate::scan::{Found, Scan, Sink};
use crate::segment::{SegmentFile, Window};
use crate::side::{self, SideBody, SideReader};
use crate::types::StreamId;

pub use found::{Checked, Damage, Lost, LostRecord};

/// Damaged places that are listed one by one; the rest is counted.
const DAMAGES_MAX: usize = 10_000;
/// Longest head of a damaged record that is kept for whoever wants to know which message it was.
const HEAD_BYTES_MAX: usize = 4096;

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
    let segments = std::mem::take(&mut survey.segments);
    let mut reading = Reading {
        survey: &mut survey,
        segments: &segments,
        recent_max,
        at: 0,
        last_doubt: None,
    };
    for at in 0..segments.len() {
        reading.segment(at)?;
    }
    let last_doubt = reading.last_doubt;
    survey.segments = segments;
    survey.check_bodies(fs, dir)?;
    survey.count(last_doubt)?;
    Ok(survey)
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<StoreLock, StoreError> {
    let path = dir.join("lock");
    let file = match fs.open(&path, false) {
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
            if number.parse::<u64>().is_err() {
                continue;
            }
            let path = dir.join(&name);
            match kind {
                "seg" => self.look_at(fs, path)?,
                "unreadable" => self.checked.set_aside.push(path),
                _ => {}
            }
        }
        self.segments.sort_by_key(|segment| segment.header.sequence);
        Ok(())
    }

    fn look_at(&mut self, fs: &dyn Fs, path: PathBuf) -> Result<(), StoreError> {
        let file = fs
            .open(&path, false)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let length = file
            .len()
            .map_err(|error| StoreError::io("measure", &path, error))?;
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let file = Arc::new(SegmentFile {
            path: path.clone(),
            file,
            bytes,
        });
        let copies = file.read_header()?;
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
                self.damage(Damage {
                    file: path,
                    segment: None,
                    offset: 0,
                    bytes: length,
                    what: "neither copy of the header can be read",
                    lost: Lost::Unknown { likely: None },
                });
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
                what: "the checksum of a record's content does not match",
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

fn damaged_copy(file: &SegmentFile) -> Result<u64, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    file.file
        .read_at(&mut bytes, HEADER_AT[0] as u64)
        .map_err(|error| file.error("read", error))?;
    let first_is_whole = matches!(SegmentHeader::decode(&bytes), HeaderState::Valid(_));
    Ok(HEADER_AT[usize::from(first_is_whole)] as u64)
}

/// The head of the record at an offset, as it stands there.
fn unverified_head(file: &SegmentFile, offset: u32) -> Result<Bytes, StoreError> {
    Ok(unverified(file, offset)?.map_or_else(Bytes::new, |(_, head)| head))
}

fn unverified(file: &SegmentFile, offset: u32) -> Result<Option<(Unverified, Bytes)>, StoreError> {
    let mut bytes = [0; RECORD_BYTES];
    let read = |buffer: &mut [u8], at: u64| {
        file.file
            .read_at(buffer, at)
            .map_err(|error| file.error("read", error))
    };
    if read(&mut bytes, u64::from(offset))? < RECORD_BYTES {
        return Ok(None);
    }
    let record = Unverified::read(&bytes);
    let mut head = vec![0; record.head_bytes as usize];
    if head.len() > HEAD_BYTES_MAX {
        return Ok(Some((record, Bytes::new())));
    }
    let filled = read(&mut head, u64::from(offset) + RECORD_BYTES as u64)?;
    head.truncate(filled);
    Ok(Some((record, head.into())))
}

/// The header of a record whose checksum may not match.
#[derive(Debug, Clone, Copy)]
struct Unverified {
    kind: u8,
    head_bytes: u32,
    body_bytes: u32,
    stream: StreamId,
    position: u64,
}

impl Unverified {
    fn read(bytes: &[u8; RECORD_BYTES]) -> Self {
        use crate::format::u32_at;
        Self {
            kind: bytes[4],
            head_bytes: u32_at(bytes, 8),
            body_bytes: u32_at(bytes, 12),
            stream: StreamId(u32_at(bytes, 16)),
            position: u64_at(bytes, 24),
        }
    }

    const fn record_bytes(&self) -> u64 {
        RECORD_BYTES as u64
            + (self.head_bytes as u64 + self.body_bytes as u64)
                .next_multiple_of(crate::format::ALIGN as u64)
    }
}

/// Brings a survey up from what the scans find.
struct Reading<'a> {
    survey: &'a mut Survey,
    segments: &'a [Surveyed],
    recent_max: usize,
    /// The segment being read.
    at: usize,
    /// The last place whose content nobody knows.
    last_doubt: Option<(usize, u32)>,
}

impl Reading<'_> {
    fn segment(&mut self, at: usize) -> Result<(), StoreError> {
        let segments = self.segments;
        let segment = &segments[at];
        let SegmentHeader {
            sequence,
            segment_bytes,
            ..
        } = segment.header;
        let follower = segments.get(at + 1).map(|next| next.header);
        let told = follower
            .filter(|next| next.sequence == sequence + 1)
            .map(|next| next.previous_end);
        let known_end = segment.seal.or(told).map(|end| end.min(segment_bytes));
        self.at = at;
        let tail = Scan {
            window: Window::new(&segment.file),
            seed: segment.seed,
            segment_bytes,
            known_end,
            sink: self,
            ignore_batch_end: false,
        }
        .run()?;
        self.survey.checked.bytes += u64::from(tail.end.saturating_sub(DATA_AT));
        if known_end.is_none() && follower.is_some() {
            self.damage(
                tail.end,
                segment_bytes.saturating_sub(tail.end),
                "nothing says where the segment ends",
            )?;
        } else if tail.torn {
            let path = segment.file.path.clone();
            self.survey.checked.unfinished = Some((path, u64::from(tail.end)));
        }
        Ok(())
    }

    fn record(&mut self, found: &Found, window: &mut Window<'_>) -> Result<(), StoreError> {
        let Found {
            header,
            offset,
            damaged,
        } = *found;
        let (head_bytes, body_bytes) = (header.head_bytes as usize, header.body_bytes as usize);
        let payload_at = offset + RECORD;
        let stream = StreamId(header.stream);
        match header.kind {
            Kind::Group => {}
            Kind::Put | Kind::SidePut => self.put(&header, offset, damaged, window)?,
            Kind::Remove => {
                let payload = window.bytes(payload_at, 8)?;
                if head_bytes == 0
                    && body_bytes == 8
                    && payload.len() == 8
                    && let Some(places) = self.survey.live.get_mut(&stream)
                {
                    let (first, last) = (header.position, u64_at(payload, 0));
                    if first <= last {
                        let gone: Vec<u64> =
                            places.range(first..=last).map(|(at, _)| *at).collect();
                        for position in gone {
                            self.removed(stream, position)?;
                        }
                    }
                }
            }
            Kind::Set => {
                let payload = window.bytes(payload_at, head_bytes + body_bytes)?;
                let (key, value) = payload.split_at(head_bytes.min(payload.len()));
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                self.survey.checked.state.insert(key, value);
            }
            Kind::Unset => {
                let key = window.bytes(payload_at, head_bytes)?;
                self.survey.checked.state.remove(key);
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        header: &RecordHeader,
        offset: u32,
        damaged: bool,
        window: &mut Window<'_>,
    ) -> Result<(), StoreError> {
        let (stream, position) = (StreamId(header.stream), header.position);
        let place = Place {
            segment: self.at,
            offset,
            bytes: u32::try_from(header.record_bytes()).unwrap_or(u32::MAX),
            damaged,
        };
        let highest = self.survey.highest.entry(stream).or_insert(position);
        *highest = position.max(*highest);
        let places = self.survey.live.entry(stream).or_default();
        let before = places.get(&position).copied();
        if damaged && header.is_carried() && before.is_some_and(|before| !before.damaged) {
            return self.note_harmless(place, "a copy is damaged; what it was made from is whole");
        }
        places.insert(position, place);
        let side = match header.kind {
            Kind::SidePut if !damaged => {
                let at = offset.saturating_add(RECORD.saturating_add(header.head_bytes));
                SideBody::decode(window.bytes(at, header.body_bytes as usize)?)
            }
            _ => None,
        };
        match side {
            Some(side) => self.survey.side.insert((stream, position), side),
            None => self.survey.side.remove(&(stream, position)),
        };
        if let Some(before) = before.filter(|before| before.damaged) {
            self.note_harmless(before, "a damaged record was replaced")?;
        }
        if !damaged && self.recent_max > 0 {
            let head = window.bytes(offset + RECORD, header.head_bytes as usize)?;
            let recent = &mut self.survey.recent;
            if recent.len() >= self.recent_max {
                recent.pop_front();
            }
            recent.push_back((stream, position, Bytes::copy_from_slice(head)));
        }
        Ok(())
    }

    fn removed(&mut self, stream: StreamId, position: u64) -> Result<(), StoreError> {
        let places = self.survey.live.get_mut(&stream);
        match places.and_then(|places| places.remove(&position)) {
            Some(place) if place.damaged => {
                self.note_harmless(place, "a damaged record was removed already")
            }
            _ => Ok(()),
        }
    }

    fn note_harmless(&mut self, place: Place, what: &'static str) -> Result<(), StoreError> {
        let segment = &self.segments[place.segment];
        self.survey.damage(Damage {
            file: segment.file.path.clone(),
            segment: Some(segment.header.sequence),
            offset: u64::from(place.offset),
            bytes: u64::from(place.bytes),
            what,
            lost: Lost::Nothing,
        });
        Ok(())
    }
}

impl Sink for Reading<'_> {
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|found| self.record(found, window))
    }

    fn damage(&mut self, offset: u32, bytes: u32, what: &'static str) -> Result<(), StoreError> {
        self.last_doubt = Some((self.at, offset));
        let segment = &self.segments[self.at];
        let likely = unverified(&segment.file, offset)?
            .filter(|(record, _)| {
                [Kind::Put as u8, Kind::SidePut as u8].contains(&record.kind)
                    && record.record_bytes() == u64::from(bytes)
            })
            .map(|(record, head)| LostRecord {
                stream: record.stream,
                position: record.position,
                head,
            });
        self.survey.damage(Damage {
            file: segment.file.path.clone(),
            segment: Some(segment.header.sequence),
            offset: u64::from(offset),
            bytes: u64::from(bytes),
            what,
            lost: Lost::Unknown { likely },
        });
        Ok(())
    }
}
