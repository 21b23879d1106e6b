//! The log: commits, and what keeps it from growing.

mod carry;
mod options;
mod recover;
mod room;
mod sides;
mod space;
mod take_up;
mod tidy;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::{DATA_AT, FLAG_CLEAN, RECORD_BYTES, Seed};
use crate::fs::{File, Fs};
use crate::hint::HintWriter;
use crate::index::{Index, Slot};
use crate::reader::Reader;
use crate::rules::Rules;
use crate::side::{SIDE_BYTES_MAX, SideBody};
use crate::store::Store;
use crate::types::{Applied, Batch, Op, Recovered, Refusal, Refusals, Usage};

use carry::Carry;
pub use options::LogOptions;
use space::Space;

/// Emptied segments kept at most for the heads in them, see [`LogOptions::recent_puts`].
const RETAINED_MAX: usize = 2;

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
    /// What its hint will say.
    unsealed_hint: HintWriter,
    /// The same for the active one, so far.
    hint: HintWriter,
    /// Number of the next body's file.
    next_side: u64,
    carry: Option<Carry>,
    /// Segments that hold what cannot be carried.
    pinned: BTreeSet<u64>,
    /// Sequence number and end of the newest segment.
    newest: Option<(u64, u32)>,
    next_group: u64,
    store_id: u64,
    last_group_bytes: usize,
    untidy: bool,
    /// Bytes of the group whose puts were turned away last, until puts are accepted again.
    refused_bytes: usize,
    /// Batches that were not done since the store was opened. See [`Batch::refusals_known`].
    refusals: Refusals,
    /// Whether somebody waits to hear that there is room again.
    owes_room: bool,
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
    sides: Vec<SideBody>,
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
#[derive(Debug)]
pub(crate) struct Shared {
    index: RwLock<Index>,
    failed: OnceLock<Arc<str>>,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    /// For tests of the tests.
    serves_unchecked: bool,
}

impl Shared {
    fn new(index: Index, fs: Arc<dyn Fs>, dir: &Path, serves_unchecked: bool) -> Self {
        Self {
            index: RwLock::new(index),
            failed: OnceLock::new(),
            fs,
            dir: dir.to_owned(),
            serves_unchecked,
        }
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            Some(cause) => Err(StoreError::Failed {
                cause: Arc::clone(cause),
            }),
            None => Ok(()),
        }
    }

    fn fail(&self, error: &StoreError) -> StoreError {
        let cause = self.failed.get_or_init(|| error.to_string().into());
        StoreError::Failed {
            cause: Arc::clone(cause),
        }
    }

    pub(crate) const fn serves_unchecked(&self) -> bool {
        self.serves_unchecked
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
            let bytes: usize = batch
                .ops
                .iter()
                .map(|op| self.options.encoded_bytes(op))
                .fold(0, usize::saturating_add);
            let refusal = too_long(batch).or_else(|| self.rules.check(batch, bytes, capacity));
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
            self.keep_order(
                &batches[run.clone()],
                &mut sizes[run.clone()],
                &mut answers[run.clone()],
            );
            self.commit_run(
                &batches[run.clone()],
                &mut sizes[run.clone()],
                &mut answers[run.clone()],
            )
            .map_err(|error| self.shared.fail(&error))?;
            for (batch, answer) in batches[run.clone()].iter().zip(&answers[run]) {
                self.refusals.count(batch, *answer);
            }
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
        let (live_records, live_bytes) = index.totals();
        let log_bytes: u64 = index
            .segments
            .iter()
            .map(|(_, s)| u64::from(s.file.bytes))
            .sum();
        let hints = index.segments.iter().filter_map(|(_, s)| s.seal?.hint);
        let cache_bytes = hints.map(|hint| u64::from(hint.bytes)).sum::<u64>() + index.page_bytes();
        Usage {
            live_records,
            live_bytes,
            state_keys: index.state.len() as u64,
            segments: index.segments.len() as u64,
            spare_segments: self.space.spares() as u64,
            disk_bytes: log_bytes + self.space.disk_bytes(),
            side_files: index.side.len() as u64,
            side_bytes: index.side_bytes,
            cache_bytes,
            index_bytes: index.memory_bytes(),
        }
    }

    /// Housekeeping that need not delay a commit: seals, gives emptied segments back, prepares
    /// the next, and when the disk is full moves what is live together, so that puts find room.
    /// One small step a call; returns whether there is more to do. Every commit does what an owner
    /// that never calls this left undone.
    ///
    /// With `idle`, also does what would disturb a busy disk.
    ///
    /// # Errors
    /// [`StoreError::Failed`], as for [`Log::commit`].
    pub fn tidy(&mut self, idle: bool) -> Result<bool, StoreError> {
        self.shared.check()?;
        self.untidy = false;
        self.tidy_step(idle)
            .map_err(|error| self.shared.fail(&error))
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
                    sizes[at] = 0;
                }
            }
            // What has its place behind them and puts nothing.
            self.keep_order(batches, sizes, answers);
            bytes = sizes.iter().sum();
        }
        if bytes > 0 {
            self.write_sides(batches, sizes, answers)?;
            // What is empty overtakes as well.
            self.keep_order(batches, sizes, answers);
            bytes = sizes.iter().sum();
        }
        if bytes == 0 {
            return Ok(());
        }
        if !self.has_room(bytes + RECORD_BYTES)? {
            // There may be room for the oldest alone, and what it gives back for the next.
            let oldest = sizes.iter().position(|size| *size > 0);
            let alone = oldest.map(|at| sizes[at]).filter(|size| *size < bytes);
            let fits = match alone {
                Some(size) => self.has_room(size + RECORD_BYTES)?,
                None => false,
            };
            for (at, (size, answer)) in sizes.iter_mut().zip(&mut *answers).enumerate() {
                if *size > 0 && !(fits && Some(at) == oldest) {
                    *size = 0;
                    *answer = Applied::Full;
                }
            }
            self.keep_order(batches, sizes, answers);
            bytes = sizes.iter().sum();
            if bytes == 0 {
                return Ok(());
            }
        }
        if !self.fits(bytes + RECORD_BYTES) {
            self.active = None;
        }
        if self.options.broken(Break::RemoveBodyFirst) {
            self.remove_sides_early(batches);
        }
        let room = self
            .active
            .map_or_else(|| self.options.capacity(), |active| active.room());
        let carried = self.next_carried(room - bytes - RECORD_BYTES, bytes)?;
        self.write_group(batches, sizes, &carried, 0)
    }
}

impl Log {
    /// Turns away what would overtake something that its submitter does not know to be refused.
    /// See [`Batch::refusals_known`].
    fn keep_order(&mut self, batches: &[Batch], sizes: &mut [usize], answers: &mut [Applied]) {
        let mut refusals = self.refusals;
        for ((batch, size), answer) in batches.iter().zip(sizes).zip(answers) {
            if *answer == Applied::Done && refusals.are_unknown_to(batch) {
                *answer = Applied::Full;
                *size = 0;
                // It may find room at once, and is to be told so.
                self.owes_room = true;
            }
            refusals.count(batch, *answer);
        }
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

    fn has_room_again(&mut self) -> Result<Option<bool>, StoreError> {
        Self::has_room_again(self)
    }

    fn is_limited(&self) -> bool {
        self.space.is_limited()
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

/// Bodies have a limit of their own: they need not fit a segment.
fn too_long(batch: &Batch) -> Option<Refusal> {
    let bodies = batch.ops.iter().filter_map(|op| match op {
        Op::Put { body, .. } => Some(body.len()),
        _ => None,
    });
    let longest = bodies.max().filter(|bytes| *bytes > SIDE_BYTES_MAX)?;
    Some(Refusal::TooLarge {
        bytes: longest as u64,
        max: SIDE_BYTES_MAX as u64,
    })
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}
