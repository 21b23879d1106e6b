//! Opening: what is there, what survived, and making that durable before anybody relies on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{
    DATA_AT, HeaderState, Kind, RECORD, RECORD_BYTES, SegmentHeader, VERSION, u64_at,
};
use crate::fs::Fs;
use crate::index::{Index, Location, Segment, Slot};
use crate::rules::Rules;
use crate::scan::{Found, Scan, Sink, Tail};
use crate::segment::{SegmentFile, Window};
use crate::types::{RecentPut, Recovered, RecoveryNote, StreamId};

use super::space::Space;
use super::{Active, Log, LogOptions, SaltSource, Scratch, Shared};

/// Bytes rewritten at once when a tail is made durable.
const REWRITE_BYTES: usize = 1024 * 1024;

struct Listed {
    header: SegmentHeader,
    file: Arc<SegmentFile>,
    seal: Option<u32>,
}

/// What the directory holds, before any record is read.
struct Listing {
    segments: Vec<Listed>,
    spares: Vec<Arc<SegmentFile>>,
    notes: Vec<RecoveryNote>,
}

pub(super) fn open(
    fs: Arc<dyn Fs>,
    dir: &Path,
    options: LogOptions,
    mut salt_source: SaltSource,
) -> Result<(Log, Recovered), StoreError> {
    fs.create_dir_all(dir)
        .map_err(|error| StoreError::io("create", dir, error))?;
    let lock_path = dir.join("lock");
    let lock = fs
        .open(&lock_path, true)
        .map_err(|e| StoreError::io("open", &lock_path, e))?;
    match lock.try_lock() {
        Ok(true) => {}
        Ok(false) => return Err(StoreError::Locked { path: lock_path }),
        Err(error) => return Err(StoreError::io("lock", &lock_path, error)),
    }
    let mut space = Space::new(Arc::clone(&fs), dir, &options);
    let listing = list(fs.as_ref(), dir, &options, &mut space)?;
    let (segments, mut notes) = (listing.segments, listing.notes);
    let store_id = match segments.first() {
        Some(first) => first.header.store,
        None => salt_source(),
    };
    check_belonging(&segments)?;

    let mut replay = Replay::new(options.salvage, options.recent_puts);
    let mut order = BTreeMap::new();
    let mut last = None;
    for (at, listed) in segments.iter().enumerate() {
        let SegmentHeader {
            sequence,
            segment_bytes,
            ..
        } = listed.header;
        let follower = segments.get(at + 1).map(|next| next.header);
        let told = follower
            .filter(|next| next.sequence == sequence + 1)
            .map(|f| f.previous_end);
        let known_end = listed.seal.or(told);
        let seed = options.seed(&listed.header);
        let slot = replay.begin(listed, seed)?;
        space.in_log(&listed.file);
        let scan = Scan {
            window: Window::new(&listed.file),
            seed,
            segment_bytes,
            known_end,
            sink: &mut replay,
            ignore_batch_end: options.broken(Break::IgnoreBatchEnd),
        };
        let tail = scan.run()?;
        if known_end.is_none() && follower.is_some() {
            replay.damage(
                tail.end,
                segment_bytes - tail.end,
                "nothing says where it ends",
            )?;
        }
        if tail.torn && follower.is_none() {
            let offset = u64::from(tail.end);
            notes.push(RecoveryNote::TornTail {
                segment: sequence,
                offset,
            });
        }
        let segment = replay.index.segments.get_mut(slot);
        segment.end = tail.end;
        segment.sealed = listed.seal.is_some();
        order.insert(sequence, slot);
        last = Some((slot, tail));
    }
    notes.append(&mut replay.notes);

    let closed =
        last.is_none_or(|(slot, tail)| tail.clean && !replay.index.segments.get(slot).sealed);
    let sealed = last.is_some_and(|(slot, _)| replay.index.segments.get(slot).sealed);
    let mut recovered = Recovered {
        recent: replay.take_recent(),
        state: std::mem::take(&mut replay.state),
        clean: (closed || sealed) && notes.is_empty(),
        ..Recovered::default()
    };
    let mut rules = Rules::default();
    for (id, stream) in &replay.index.streams {
        recovered.streams.insert(*id, stream.summary());
        if let Some(last_put) = stream.last_put {
            rules.put(*id, last_put);
        }
    }

    let newest = order
        .last_key_value()
        .map(|(sequence, slot)| (*sequence, replay.index.segments.get(*slot).end));
    let mut active = None;
    let mut unsealed = None;
    if let Some((slot, tail)) = last {
        let segment = replay.index.segments.get(slot);
        let resumes = (closed
            && tail.end as usize + 2 * RECORD_BYTES <= segment.file.bytes as usize)
            || options.broken(Break::AppendAfterTornTail);
        if resumes {
            let Segment { seed, end, .. } = *segment;
            active = Some(Active {
                slot,
                seed,
                end,
                segment_bytes: segment.file.bytes,
            });
        }
        make_durable(segment, tail, &options)?;
    }
    if closed {
        for slot in order.values().rev().skip(1).copied() {
            let segment = replay.index.segments.get_mut(slot);
            if !segment.sealed {
                segment.file.seal(segment.seed, segment.end)?;
                segment.sealed = true;
            }
        }
    } else {
        // Of what an interrupted process left, only the page cache may know: the newest seals,
        // the emptied headers and the names are written again before anything builds on them.
        for slot in order.values().rev().take(2).rev().copied() {
            let segment = replay.index.segments.get_mut(slot);
            let is_newest = last.is_some_and(|(newest, _)| newest == slot);
            if is_newest && active.is_none() && !segment.sealed {
                // Or it is taken up again, if there is no room to begin another.
                unsealed = Some(slot);
            } else if active.is_none_or(|active| active.slot != slot) {
                segment.file.seal(segment.seed, segment.end)?;
                segment.sealed = true;
            }
        }
        if !options.broken(Break::SkipVoid) && !options.broken(Break::SkipVoidAgain) {
            for spare in &listing.spares {
                spare.void()?;
            }
        }
    }
    fs.sync_dir(dir)
        .map_err(|error| StoreError::io("flush", dir, error))?;
    for spare in listing.spares {
        space.add_spare(spare);
    }

    let shared = Arc::new(Shared {
        serves_unchecked: options.broken(Break::ServeUnchecked),
        ..Shared::default()
    });
    *shared.index_mut() = std::mem::take(&mut replay.index);
    // These hold files, and what is held is not used again.
    drop((segments, replay));
    let mut log = Log {
        options,
        salt_source,
        shared,
        space,
        rules,
        active,
        order,
        unsealed,
        carry: None,
        pinned: BTreeSet::new(),
        newest,
        next_group: last.map_or(1, |(_, tail)| tail.group_number.saturating_add(1)),
        store_id,
        last_group_bytes: 0,
        untidy: false,
        refused_bytes: 0,
        scratch: Scratch::default(),
        _lock: lock,
    };
    if log.active.is_some() {
        // What the closing group promised no longer holds once anything is written behind it.
        log.write_group(&[], &[], &[], 0)?;
    }
    while log.reclaim_one(false)? {}
    let reserve = log.options.reserve_segments();
    let mut is_full = false;
    while !is_full && log.space.spares() < reserve + usize::from(log.active.is_none()) {
        is_full = !log.space.create()? && !log.reclaim_one(true)?;
    }
    if let Some((_, tail)) = last
        && is_full
        && !log.options.salvage
    {
        log.take_up(tail)?;
    }
    log.seal_previous()?;
    if log.space.spares() < reserve + usize::from(log.active.is_none()) {
        notes.push(RecoveryNote::ReserveIncomplete);
    }
    recovered.notes = notes;
    Ok((log, recovered))
}

fn list(
    fs: &dyn Fs,
    dir: &Path,
    options: &LogOptions,
    space: &mut Space,
) -> Result<Listing, StoreError> {
    let mut listing = Listing {
        segments: Vec::new(),
        spares: Vec::new(),
        notes: Vec::new(),
    };
    for name in fs
        .list(dir)
        .map_err(|error| StoreError::io("list", dir, error))?
    {
        let Some((number, kind)) = name.split_once('.') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        space.saw(number);
        let path = dir.join(&name);
        if kind == "new" {
            fs.remove(&path)
                .map_err(|error| StoreError::io("remove", &path, error))?;
            continue;
        }
        if kind != "seg" {
            continue;
        }
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
        match copies.state {
            HeaderState::Valid(header) => {
                let sound = u64::from(header.segment_bytes) == length
                    && header.segment_bytes > DATA_AT
                    && header.segment_bytes.is_multiple_of(4096);
                if !sound {
                    let what = "its length is not what its header says";
                    return Err(StoreError::Foreign { path, what });
                }
                if copies.one_damaged {
                    listing.notes.push(RecoveryNote::DamagedHeader { path });
                }
                let seal = file.read_seal(options.seed(&header))?;
                let seal = seal.filter(|end| (DATA_AT..=header.segment_bytes).contains(end));
                listing.segments.push(Listed { header, file, seal });
            }
            HeaderState::Newer(found) => {
                return Err(StoreError::NewerFormat {
                    path,
                    found,
                    supported: VERSION,
                });
            }
            HeaderState::Void => listing.spares.push(file),
            HeaderState::Unreadable => {
                let aside = dir.join(format!("{number:08}.unreadable"));
                fs.rename(&path, &aside)
                    .map_err(|e| StoreError::io("rename", &path, e))?;
                listing.notes.push(RecoveryNote::SetAside { path: aside });
            }
        }
    }
    listing
        .segments
        .sort_by_key(|listed| listed.header.sequence);
    Ok(listing)
}

fn check_belonging(segments: &[Listed]) -> Result<(), StoreError> {
    for pair in segments.windows(2) {
        let [one, other] = pair else { continue };
        let path = other.file.path.clone();
        if one.header.store != other.header.store {
            return Err(StoreError::Foreign {
                path,
                what: "another store wrote it",
            });
        }
        if one.header.sequence == other.header.sequence {
            return Err(StoreError::Foreign {
                path,
                what: "a segment of its number is there",
            });
        }
    }
    Ok(())
}

/// Writes the last group again and flushes it. After a failed flush or a killed process it may
/// be readable without being on the disk, and a mere flush would not put it there.
fn make_durable(segment: &Segment, tail: Tail, options: &LogOptions) -> Result<(), StoreError> {
    if options.broken(Break::SkipRewrite) {
        return Ok(());
    }
    let file = &segment.file;
    let with_header = !options.broken(Break::RewriteWithoutHeader);
    let mut at = if tail.last_group == DATA_AT && with_header {
        0
    } else {
        tail.last_group
    };
    let mut window = Window::new(file);
    while at < tail.end {
        let count = REWRITE_BYTES.min((tail.end - at) as usize);
        let bytes = window.bytes(at, count)?;
        file.file
            .write_at(bytes, u64::from(at))
            .map_err(|error| file.error("rewrite", error))?;
        at += u32::try_from(bytes.len().max(1)).unwrap_or(u32::MAX);
    }
    file.file
        .sync_data()
        .map_err(|error| file.error("flush", error))
}

/// Brings the index up from what a scan finds.
struct Replay {
    index: Index,
    state: BTreeMap<Bytes, Bytes>,
    notes: Vec<RecoveryNote>,
    salvage: bool,
    recent_puts: usize,
    recent: VecDeque<RecentHead>,
    recent_carried: VecDeque<RecentHead>,
    slot: Slot,
    sequence: u64,
    file: Option<Arc<SegmentFile>>,
}

/// The buffer is used again for the next head.
struct RecentHead {
    stream: StreamId,
    position: u64,
    head: Vec<u8>,
}

impl Replay {
    fn new(salvage: bool, recent_puts: usize) -> Self {
        Self {
            index: Index::default(),
            state: BTreeMap::new(),
            notes: Vec::new(),
            salvage,
            recent_puts,
            recent: VecDeque::new(),
            recent_carried: VecDeque::new(),
            slot: 0,
            sequence: 0,
            file: None,
        }
    }

    fn begin(&mut self, listed: &Listed, seed: crate::format::Seed) -> Result<Slot, StoreError> {
        let file = Arc::clone(&listed.file);
        let segment = Segment::new(file, listed.header.sequence, seed, DATA_AT);
        let path = listed.file.path.clone();
        self.slot = self
            .index
            .segments
            .insert(segment)
            .ok_or(StoreError::Foreign {
                path,
                what: "there are more segments than can be addressed",
            })?;
        self.sequence = listed.header.sequence;
        self.file = Some(Arc::clone(&listed.file));
        Ok(self.slot)
    }

    fn note_recent(&mut self, carried: bool, stream: StreamId, position: u64, head: &[u8]) {
        if self.recent_puts == 0 {
            return;
        }
        let recent = if carried {
            &mut self.recent_carried
        } else {
            &mut self.recent
        };
        let mut buffer = Vec::new();
        if recent.len() >= self.recent_puts
            && let Some(oldest) = recent.pop_front()
        {
            buffer = oldest.head;
            buffer.clear();
        }
        buffer.extend_from_slice(head);
        recent.push_back(RecentHead {
            stream,
            position,
            head: buffer,
        });
    }

    /// Copies are of old records: they stand before the others, unless the original is there.
    fn take_recent(&mut self) -> Vec<RecentPut> {
        let known: BTreeSet<_> = self
            .recent
            .iter()
            .map(|put| (put.stream, put.position))
            .collect();
        let mut copies = BTreeSet::new();
        let mut puts: Vec<_> = std::mem::take(&mut self.recent_carried)
            .into_iter()
            .rev()
            .filter(|put| !known.contains(&(put.stream, put.position)))
            .filter(|put| copies.insert((put.stream, put.position)))
            .take(self.recent_puts - self.recent.len())
            .collect();
        puts.reverse();
        puts.extend(std::mem::take(&mut self.recent));
        puts.into_iter()
            .map(
                |RecentHead {
                     stream,
                     position,
                     head,
                 }| {
                    RecentPut {
                        stream,
                        position,
                        head: head.into(),
                    }
                },
            )
            .collect()
    }

    fn record(&mut self, found: &Found, window: &mut Window<'_>) -> Result<(), StoreError> {
        let Found {
            header,
            offset,
            damaged,
        } = *found;
        let bytes = u32::try_from(header.record_bytes()).unwrap_or(u32::MAX);
        let at = Location {
            slot: self.slot,
            offset,
            bytes,
        };
        let (head_bytes, body_bytes) = (header.head_bytes as usize, header.body_bytes as usize);
        let payload_at = offset + RECORD;
        let stream = StreamId(header.stream);
        match header.kind {
            Kind::Group => {}
            Kind::Put => {
                let position = header.position;
                if damaged {
                    let segment = self.sequence;
                    let offset = u64::from(offset);
                    let note = RecoveryNote::DamagedRecord {
                        segment,
                        offset,
                        stream,
                        position,
                    };
                    self.notes.push(note);
                } else {
                    let head = window.bytes(payload_at, head_bytes)?;
                    self.note_recent(header.is_carried(), stream, position, head);
                }
                if !header.is_carried() {
                    self.index.segments.get_mut(self.slot).puts += 1;
                }
                self.index.put(stream, position, at);
            }
            Kind::Remove => {
                let payload = window.bytes(payload_at, 8)?;
                if head_bytes == 0 && body_bytes == 8 && payload.len() == 8 {
                    let last = u64_at(payload, 0);
                    self.index.remove(stream, header.position, last, self.slot);
                }
            }
            Kind::Set => {
                let payload = window.bytes(payload_at, head_bytes + body_bytes)?;
                let key = Bytes::copy_from_slice(&payload[..head_bytes]);
                self.state
                    .insert(key.clone(), Bytes::copy_from_slice(&payload[head_bytes..]));
                self.index.set(key, at);
            }
            Kind::Unset => {
                let key = window.bytes(payload_at, head_bytes)?;
                self.state.remove(key);
                self.index.unset(key, self.slot);
            }
        }
        Ok(())
    }
}

impl Sink for Replay {
    fn batch(&mut self, records: &[Found], window: &mut Window<'_>) -> Result<(), StoreError> {
        records
            .iter()
            .try_for_each(|found| self.record(found, window))
    }

    fn damage(&mut self, offset: u32, bytes: u32, what: &'static str) -> Result<(), StoreError> {
        let (segment, offset) = (self.sequence, u64::from(offset));
        if self.salvage {
            let bytes = u64::from(bytes);
            self.notes.push(RecoveryNote::DamagedRange {
                segment,
                offset,
                bytes,
            });
            return Ok(());
        }
        let path = self
            .file
            .as_ref()
            .map(|file| file.path.clone())
            .unwrap_or_default();
        Err(StoreError::Damaged {
            segment,
            path,
            offset,
            what,
            record: None,
        })
    }
}
