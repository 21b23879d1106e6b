//! The log: commits, and what keeps it from growing.

mod carry;
mod recover;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{
    ALIGN, DATA_AT, Encoder, FLAG_CLEAN, FLAG_LAST, HEADER_AT, HEADER_BYTES, RECORD_BYTES, Seed,
    SegmentHeader, encoded_bytes, narrow,
};
use crate::fs::{File, Fs};
use crate::index::{Index, Location, Segment, Slot};
use crate::reader::Reader;
use crate::rules::Rules;
use crate::segment::SegmentFile;
use crate::store::Store;
use crate::types::{Applied, Batch, Op, Recovered, Usage};

use carry::{Carry, Carried};
use space::Space;

/// Emptied segments kept at most for the heads in them, see [`LogOptions::recent_puts`].
const RETAINED_MAX: usize = 2;

/// How a log uses its disk.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Size of a segment file, in bytes: a multiple of 4096 from 20 KiB to 2 GiB. A batch must fit
    /// one. May change between runs.
    pub segment_bytes: u32,
    /// Preallocated room that only batches without puts may use, so that a full store can still
    /// be drained; rounded up to whole segments. One removal takes 40 bytes and 32 a commit.
    pub reserve_bytes: u64,
    /// Empty segments kept beyond the reserve instead of being given back to the disk.
    pub spare_segments_max: usize,
    /// The most all segment files together may take; beyond it the store is full. A limit the
    /// existing files exceed already only stops growth.
    pub disk_bytes_max: Option<u64>,
    /// The most one write takes; what waits beyond it goes into the next write of the same
    /// commit. One batch larger than this still goes whole.
    pub group_bytes_max: usize,
    /// How many heads recovery hands back at most. While there is room, up to two emptied
    /// segments are kept for it.
    pub recent_puts: usize,
    /// Open a damaged log all the same, skipping what cannot be read: records may be lost and
    /// removed records may come back. Each hole is noted. Without it such a log is an error.
    pub salvage: bool,
    /// Faults to build in, for tests of the tests.
    #[cfg(feature = "__breaks")]
    pub breaks: Vec<Break>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            spare_segments_max: 4,
            disk_bytes_max: None,
            group_bytes_max: 8 * 1024 * 1024,
            recent_puts: 10_000,
            salvage: false,
            #[cfg(feature = "__breaks")]
            breaks: Vec::new(),
        }
    }
}

impl LogOptions {
    fn check(&self) -> Result<(), StoreError> {
        let sized = (20 * 1024..=2 << 30).contains(&self.segment_bytes);
        if !sized || !self.segment_bytes.is_multiple_of(4096) {
            let what = "segment_bytes must be a multiple of 4096 from 20 KiB to 2 GiB";
            return Err(StoreError::Options { what });
        }
        Ok(())
    }

    /// Bytes of groups that fit an empty segment, with room for a closing group.
    fn capacity(&self) -> usize {
        self.segment_bytes as usize - DATA_AT as usize - RECORD_BYTES
    }

    /// Segments of the reserve.
    fn reserve_segments(&self) -> usize {
        let capacity = self.capacity() as u64;
        usize::try_from(self.reserve_bytes.div_ceil(capacity)).unwrap_or(usize::MAX)
    }

    fn seed(&self, header: &SegmentHeader) -> Seed {
        if self.broken(Break::ConstantSalt) { Seed::CONSTANT } else { header.seed() }
    }

    #[cfg(feature = "__breaks")]
    fn broken(&self, fault: Break) -> bool {
        self.breaks.contains(&fault)
    }

    #[cfg(not(feature = "__breaks"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    const fn broken(&self, _fault: Break) -> bool {
        false
    }
}

/// A source of random 64-bit numbers; segments are salted from it.
pub type SaltSource = Box<dyn FnMut() -> u64 + Send>;

/// An open log: one owner, synchronous, deterministic for the same calls on the same disk.
///
/// Dropping it without [`Log::close`] is like a crash: nothing durable is lost.
pub struct Log {
    options: LogOptions,
    salt_source: SaltSource,
    shared: Arc<Shared>,
    space: Space,
    rules: Rules,
    /// The segment being written; none right after an unclean start.
    active: Option<Active>,
    /// Slots by sequence number.
    order: BTreeMap<u64, Slot>,
    /// The segment before the active one, until its seal is durable.
    unsealed: Option<Slot>,
    carry: Option<Carry>,
    /// Segments that hold what cannot be carried.
    pinned: BTreeSet<u64>,
    /// Sequence number and end of the newest segment.
    newest: Option<(u64, u32)>,
    next_group: u64,
    store_id: u64,
    last_group_bytes: usize,
    untidy: bool,
    scratch: Scratch,
    /// Holds the directory's lock.
    _lock: Arc<dyn File>,
}

/// Reused by every commit.
#[derive(Debug, Default)]
struct Scratch {
    buffer: Vec<u8>,
    sizes: Vec<usize>,
    offsets: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    slot: Slot,
    seed: Seed,
    end: u32,
    segment_bytes: u32,
}

impl Active {
    /// Bytes left, a closing group apart.
    fn room(&self) -> usize {
        (self.segment_bytes as usize).saturating_sub(self.end as usize + RECORD_BYTES)
    }
}

/// What readers see.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    index: RwLock<Index>,
    failed: OnceLock<Arc<str>>,
}

impl Shared {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(cause) => Err(StoreError::Failed { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
    }

    fn fail(&self, error: &StoreError) -> StoreError {
        let cause = self.failed.get_or_init(|| error.to_string().into());
        StoreError::Failed { cause: Arc::clone(cause) }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Opens the log in a directory, creating both where missing, and tells what it holds.
    ///
    /// `salt_source` must be unpredictable to whoever sends messages, and must not repeat.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has the directory, [`StoreError::Damaged`] when
    /// durable bytes cannot be read (see [`LogOptions::salvage`]), [`StoreError::NewerFormat`],
    /// [`StoreError::Foreign`], [`StoreError::Options`], [`StoreError::Io`].
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: LogOptions,
        salt_source: SaltSource,
    ) -> Result<(Self, Recovered), StoreError> {
        options.check()?;
        recover::open(fs, dir, options, salt_source)
    }

    /// Applies batches in order, with one write and one flush for all of them (more only beyond
    /// [`LogOptions::group_bytes_max`] or a segment). The answers stand in the batches' order.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when a write or flush failed: which of these batches survive is
    /// unknown until the log is opened again, and every later call fails the same way.
    pub fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
        self.shared.check()?;
        if self.untidy {
            self.tidy(false)?;
        }
        let mut answers = Vec::with_capacity(batches.len());
        let mut sizes = std::mem::take(&mut self.scratch.sizes);
        sizes.clear();
        let capacity = self.options.capacity() - RECORD_BYTES;
        self.rules.begin();
        for batch in batches {
            let bytes: usize = batch.ops.iter().map(encoded_bytes).fold(0, usize::saturating_add);
            let refusal = self.rules.check(batch, bytes, capacity);
            sizes.push(if refusal.is_some() { 0 } else { bytes });
            answers.push(refusal.map_or(Applied::Done, Applied::Refused));
        }
        let group_bytes_max = self.options.group_bytes_max.min(capacity);
        let mut start = 0;
        while start < batches.len() {
            let mut end = start + 1;
            let mut bytes = sizes[start];
            while end < batches.len() && bytes.saturating_add(sizes[end]) <= group_bytes_max {
                bytes += sizes[end];
                end += 1;
            }
            let run = start..end;
            self.commit_run(&batches[run.clone()], &mut sizes[run.clone()], &mut answers[run])
                .map_err(|error| self.shared.fail(&error))?;
            start = end;
        }
        self.scratch.sizes = sizes;
        self.untidy = true;
        Ok(answers)
    }

    /// A handle for reading, usable from any thread while commits run.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::of_log(Arc::clone(&self.shared))
    }

    /// What the log holds and what it costs. Walks the index: not for every message.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let index = self.shared.index();
        let streams = index.streams.values();
        let (live_records, live_bytes) = streams
            .map(|stream| (stream.live_records, stream.live_bytes))
            .fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        let log_bytes: u64 = index.segments.iter().map(|(_, s)| u64::from(s.file.bytes)).sum();
        Usage {
            live_records,
            live_bytes,
            state_keys: index.state.len() as u64,
            segments: index.segments.len() as u64,
            spare_segments: self.space.spares() as u64,
            disk_bytes: log_bytes + self.space.disk_bytes(),
            index_bytes: index.memory_bytes(),
        }
    }

    /// Housekeeping that need not delay a commit: seals, gives emptied segments back, prepares
    /// the next. One small step a call; returns whether there is more to do. Every commit does
    /// what an owner that never calls this left undone.
    ///
    /// With `idle`, also does what would disturb a busy disk.
    ///
    /// # Errors
    /// [`StoreError::Failed`], as for [`Log::commit`].
    pub fn tidy(&mut self, idle: bool) -> Result<bool, StoreError> {
        self.shared.check()?;
        self.untidy = false;
        self.tidy_step(idle).map_err(|error| self.shared.fail(&error))
    }

    /// Marks the log as closed in order and releases the directory.
    pub fn close(mut self) {
        if self.shared.check().is_ok() && self.active.is_some() {
            // A log that could not be closed is recovered as after a crash; nothing is lost.
            if let Err(error) = self.write_group(&[], &[], &[], FLAG_CLEAN) {
                self.shared.fail(&error);
            }
        }
    }

    fn commit_run(
        &mut self,
        batches: &[Batch],
        sizes: &mut [usize],
        answers: &mut [Applied],
    ) -> Result<(), StoreError> {
        let mut bytes = sizes.iter().sum::<usize>();
        if bytes == 0 {
            return Ok(());
        }
        let puts = |(batch, size): (&Batch, &usize)| *size > 0 && batch.has_puts();
        if batches.iter().zip(&*sizes).any(puts) && !self.has_room_for_puts(bytes + RECORD_BYTES)? {
            for (at, batch) in batches.iter().enumerate() {
                if sizes[at] > 0 && batch.has_puts() {
                    answers[at] = Applied::Full;
                    bytes -= std::mem::take(&mut sizes[at]);
                }
            }
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut room = self.active.map_or(0, |active| active.room());
        if bytes + RECORD_BYTES > room {
            if self.space.spares() == 0 && !self.space.create()? && !self.reclaim_one(true)? {
                for (size, answer) in sizes.iter_mut().zip(answers) {
                    if std::mem::take(size) > 0 {
                        *answer = Applied::Full;
                    }
                }
                return Ok(());
            }
            self.active = None;
            room = self.options.capacity();
        }
        let carried = self.next_carried(room - bytes - RECORD_BYTES, bytes)?;
        self.write_group(batches, sizes, &carried, 0)
    }

    /// Whether a group with puts may be written without touching the reserve.
    fn has_room_for_puts(&mut self, bytes: usize) -> Result<bool, StoreError> {
        let fits = self.active.is_some_and(|active| bytes <= active.room());
        let needed = self.options.reserve_segments() + usize::from(!fits);
        while self.space.spares() < needed {
            if !self.space.create()? && !self.reclaim_one(true)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes and flushes one group, then shows it to readers.
    fn write_group(
        &mut self,
        batches: &[Batch],
        sizes: &[usize],
        carried: &[Carried],
        flags: u8,
    ) -> Result<(), StoreError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.buffer.clear();
        scratch.offsets.clear();
        let opened = match self.active {
            Some(active) => Opened { active, fresh: None },
            None => self.begin_segment(&mut scratch.buffer)?,
        };
        let active = opened.active;
        let carried_bytes: usize = carried.iter().map(Carried::encoded_bytes).sum();
        let group_bytes = RECORD_BYTES + carried_bytes + sizes.iter().sum::<usize>();
        let base = if opened.fresh.is_some() { 0 } else { active.end };
        let group_at = base + narrow(scratch.buffer.len());
        let mut encoder = Encoder::new(&mut scratch.buffer, active.seed, base);
        encoder.group(self.next_group, group_bytes, flags);
        // Copies come first: a removal in the same group must follow what it removes.
        for (at, copy) in carried.iter().enumerate() {
            scratch.offsets.push(encoder.offset());
            copy.encode(&mut encoder, if at + 1 == carried.len() { FLAG_LAST } else { 0 });
        }
        for (batch, _) in batches.iter().zip(sizes).filter(|(_, size)| **size > 0) {
            let last = batch.ops.len() - 1;
            for (at, op) in batch.ops.iter().enumerate() {
                scratch.offsets.push(encoder.offset());
                encoder.op(if at == last { FLAG_LAST } else { 0 }, op);
            }
        }
        debug_assert_eq!(encoder.offset() as usize, group_at as usize + group_bytes);
        let file = match &opened.fresh {
            Some(fresh) => Arc::clone(&fresh.file),
            None => Arc::clone(&self.shared.index().segments.get(active.slot).file),
        };
        file.file
            .write_at(&scratch.buffer, u64::from(base))
            .map_err(|error| file.error("write", error))?;
        if !self.options.broken(Break::ReportBeforeSync) {
            file.file.sync_data().map_err(|error| file.error("flush", error))?;
        }
        let end = group_at + narrow(group_bytes);
        self.show(opened, end, batches, sizes, carried, &scratch.offsets)?;
        self.next_group += 1;
        self.last_group_bytes = group_bytes;
        if scratch.buffer.capacity() > 2 * self.options.group_bytes_max {
            scratch.buffer = Vec::new();
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Takes a spare and puts the block that will head it into the buffer.
    fn begin_segment(&mut self, buffer: &mut Vec<u8>) -> Result<Opened, StoreError> {
        // Seals are made in order, one segment behind: recovery relies on it.
        self.seal_previous()?;
        let file = self.space.take().expect("invariant: room was checked");
        let header = SegmentHeader {
            segment_bytes: file.bytes,
            sequence: self.newest.map_or(1, |(sequence, _)| sequence + 1),
            salt: (self.salt_source)(),
            store: self.store_id,
            previous_end: self.newest.map_or(0, |(_, end)| end),
        };
        let encoded = header.encode();
        buffer.resize(DATA_AT as usize, 0);
        for at in HEADER_AT {
            buffer[at..at + HEADER_BYTES].copy_from_slice(&encoded);
        }
        let seed = self.options.seed(&header);
        let active = Active { slot: 0, seed, end: DATA_AT, segment_bytes: file.bytes };
        Ok(Opened { active, fresh: Some(Fresh { file, sequence: header.sequence }) })
    }

    /// Brings the index up to what was written.
    fn show(
        &mut self,
        opened: Opened,
        end: u32,
        batches: &[Batch],
        sizes: &[usize],
        carried: &[Carried],
        offsets: &[u32],
    ) -> Result<(), StoreError> {
        let Opened { mut active, fresh } = opened;
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index_mut();
        let index = &mut *index;
        if let Some(Fresh { file, sequence }) = fresh {
            let path = file.path.clone();
            let segment = Segment {
                file,
                sequence,
                seed: active.seed,
                end,
                sealed: false,
                puts: 0,
                live_records: 0,
                live_bytes: 0,
                depends: BTreeSet::new(),
            };
            active.slot = index.segments.insert(segment).ok_or_else(|| {
                StoreError::io("count", path, std::io::Error::other("too many segments"))
            })?;
            self.unsealed = self
                .newest
                .and_then(|(newest, _)| self.order.get(&newest).copied())
                .filter(|before| !index.segments.get(*before).sealed);
            self.order.insert(sequence, active.slot);
            self.newest = Some((sequence, end));
        }
        let slot = active.slot;
        let mut offsets = offsets.iter().copied();
        let mut place = |bytes: usize| {
            let offset = offsets.next().expect("invariant: one offset for every record");
            Location { slot, offset, bytes: narrow(bytes) }
        };
        for copy in carried {
            copy.show(index, place(copy.encoded_bytes()));
        }
        for (batch, _) in batches.iter().zip(sizes).filter(|(_, size)| **size > 0) {
            for op in &batch.ops {
                let at = place(encoded_bytes(op));
                match op {
                    Op::Put { stream, position, .. } => {
                        self.rules.put(*stream, *position);
                        index.segments.get_mut(slot).puts += 1;
                        index.put(*stream, *position, at);
                    }
                    Op::Remove { stream, first, last } => {
                        index.remove(*stream, *first, *last, slot);
                    }
                    Op::Set { key, .. } => index.set(key.clone(), at),
                    Op::Unset { key } => index.unset(key, slot),
                }
            }
        }
        index.segments.get_mut(slot).end = end;
        active.end = end;
        self.active = Some(active);
        if let Some((_, newest_end)) = &mut self.newest {
            *newest_end = end;
        }
        Ok(())
    }

    fn tidy_step(&mut self, idle: bool) -> Result<bool, StoreError> {
        self.seal_previous()?;
        self.space.collect_drained();
        let reserve = self.options.reserve_segments();
        if self.reclaim_one(false)? {
            return Ok(true);
        }
        self.space.prepare(
            idle,
            reserve,
            self.active.is_none_or(|active| active.end > active.segment_bytes / 2),
            self.last_group_bytes,
        )
    }

    fn seal_previous(&mut self) -> Result<(), StoreError> {
        let Some(slot) = self.unsealed else { return Ok(()) };
        self.seal(slot)?;
        self.unsealed = None;
        Ok(())
    }

    fn seal(&self, slot: Slot) -> Result<(), StoreError> {
        let (file, seed, end) = {
            let index = self.shared.index();
            let segment = index.segments.get(slot);
            (Arc::clone(&segment.file), segment.seed, segment.end)
        };
        file.seal(seed, end)?;
        self.shared.index_mut().segments.get_mut(slot).sealed = true;
        Ok(())
    }

    /// Empties the oldest segment nothing needs any more, durably, and keeps its file for reuse.
    /// Unless there is `need`, the newest emptied ones stay for the heads in them.
    fn reclaim_one(&mut self, need: bool) -> Result<bool, StoreError> {
        let ignore_marks = self.options.broken(Break::IgnoreMarkDependencies);
        let active = self.active.map(|active| active.slot);
        let mut found = None;
        {
            let index = self.shared.index();
            let (mut retained, mut newer_puts) = (0, 0);
            for (sequence, slot) in self.order.iter().rev() {
                let segment = index.segments.get(*slot);
                let empty = segment.live_records == 0 && Some(*slot) != active;
                if empty && (segment.depends.is_empty() || ignore_marks) {
                    retained += 1;
                    let wanted = newer_puts < self.options.recent_puts as u64;
                    if need || !wanted || retained > RETAINED_MAX {
                        found = Some((*sequence, *slot));
                    }
                }
                newer_puts += segment.puts;
            }
        }
        let Some((sequence, slot)) = found else { return Ok(false) };
        // Its header may be all that tells where the segment before it ends.
        if let Some((_, before)) = self.order.range(..sequence).next_back() {
            let sealed = self.shared.index().segments.get(*before).sealed;
            if !sealed {
                self.seal(*before)?;
            }
        }
        let file = Arc::clone(&self.shared.index().segments.get(slot).file);
        if !self.options.broken(Break::SkipVoid) {
            file.void()?;
        }
        drop(file);
        self.order.remove(&sequence);
        let mut index = self.shared.index_mut();
        let segment = index.segments.take(slot).expect("invariant: ordered slots are filled");
        for other in self.order.values() {
            index.segments.get_mut(*other).depends.remove(&sequence);
        }
        drop(index);
        self.space.give(segment.file);
        Ok(true)
    }
}

impl Store for Log {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
        Self::commit(self, batches)
    }

    fn reader(&self) -> Reader {
        Self::reader(self)
    }

    fn usage(&self) -> Usage {
        Self::usage(self)
    }

    fn tidy(&mut self, idle: bool) -> Result<bool, StoreError> {
        Self::tidy(self, idle)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.space.dir())
            .field("newest", &self.newest)
            .field("segments", &self.order.len())
            .finish_non_exhaustive()
    }
}

/// The segment a group goes to, and its file when the group is its first.
struct Opened {
    active: Active,
    fresh: Option<Fresh>,
}

struct Fresh {
    file: Arc<SegmentFile>,
    sequence: u64,
}

const _: () = assert!(RECORD_BYTES.is_multiple_of(ALIGN) && DATA_AT as usize % ALIGN == 0);

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}
