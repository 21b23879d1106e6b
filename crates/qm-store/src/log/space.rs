//! Empty segment files: made, kept, handed out, given back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::fs::{File, Fs, is_full};
use crate::hint::hint_path;
use crate::manifest::Manifest;
use crate::segment::SegmentFile;

use super::{LogOptions, file_path};

/// What one step of preparing writes at least, and what an idle one writes.
const STEP_BYTES: u64 = 64 * 1024;
const IDLE_STEP_BYTES: u64 = 4 * 1024 * 1024;
/// Empty segments beside the reserve that stay when it is quiet.
const IDLE_SPARES: usize = 1;
/// Zeros written between two flushes of a file being prepared: no flush is a long one.
pub(super) const FLUSH_BYTES: u64 = 4 * 1024 * 1024;
/// How many requests for room pass before a full disk is asked again, at most.
const PATIENCE_MAX: u32 = 64;

#[derive(Debug)]
pub(super) struct Space {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    segment_bytes: u32,
    disk_bytes_max: Option<u64>,
    spares: Vec<Arc<SegmentFile>>,
    /// Emptied files a reader still holds.
    draining: Vec<Arc<SegmentFile>>,
    /// Empty files that do not have today's segment size.
    misfits: Vec<Arc<SegmentFile>>,
    growing: Option<Growing>,
    next_file: u64,
    /// Bytes of files in the log.
    log_bytes: u64,
    /// Bytes of files with bodies.
    side_bytes: u64,
    patience: u32,
    waiting: u32,
    /// Whether the limit, and not the disk, was what had no room last.
    limited: bool,
    /// Which segments there are; none where there was no room for the list.
    manifest: Option<Manifest>,
    /// For tests of the tests.
    skips_dir_sync: bool,
}

#[derive(Debug)]
struct Growing {
    path: PathBuf,
    number: u64,
    file: Arc<dyn File>,
    written: u64,
    flushed: u64,
}

impl Space {
    pub(super) fn new(fs: Arc<dyn Fs>, dir: &Path, options: &LogOptions) -> Self {
        Self {
            fs,
            dir: dir.to_owned(),
            segment_bytes: options.segment_bytes,
            disk_bytes_max: options.disk_bytes_max,
            spares: Vec::new(),
            draining: Vec::new(),
            misfits: Vec::new(),
            growing: None,
            next_file: 1,
            log_bytes: 0,
            side_bytes: 0,
            patience: 0,
            waiting: 0,
            limited: false,
            manifest: None,
            skips_dir_sync: options.broken(Break::SkipDirSync),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Bytes of files outside the log.
    pub(super) fn disk_bytes(&self) -> u64 {
        let files = self
            .spares
            .iter()
            .chain(&self.draining)
            .chain(&self.misfits);
        let whole: u64 = files.map(|file| u64::from(file.bytes)).sum();
        whole + self.growing.as_ref().map_or(0, |growing| growing.written) + self.side_bytes
    }

    /// Whether the limit allows a file of so many bytes more. Spares beyond the reserve are not
    /// given up for it: they are given back when it is quiet.
    pub(super) fn holds(&mut self, bytes: u64) -> bool {
        let used = self.log_bytes + self.disk_bytes();
        let holds = self
            .disk_bytes_max
            .is_none_or(|max| used.saturating_add(bytes) <= max);
        self.limited = !holds;
        holds
    }

    /// Whether the limit, and not the disk, was what had no room last.
    pub(super) const fn is_limited(&self) -> bool {
        self.limited
    }

    pub(super) fn add_side(&mut self, bytes: u64) {
        self.side_bytes += bytes;
    }

    pub(super) fn remove_side(&mut self, bytes: u64) {
        self.side_bytes = self.side_bytes.saturating_sub(bytes);
        self.patience = 0;
        self.waiting = 0;
    }

    /// From here on the list says which segments there are.
    pub(super) fn keep_list(&mut self, manifest: Option<Manifest>) {
        self.manifest = manifest;
    }

    pub(super) const fn has_list(&self) -> bool {
        self.manifest.is_some()
    }

    /// A segment was begun, durably.
    pub(super) fn list(&mut self, sequence: u64, file: u64) -> Result<(), StoreError> {
        match &mut self.manifest {
            Some(manifest) => manifest.add(self.fs.as_ref(), sequence, file),
            None => Ok(()),
        }
    }

    /// A segment is about to be emptied.
    pub(super) fn unlist(&mut self, sequence: u64) -> Result<(), StoreError> {
        match &mut self.manifest {
            Some(manifest) => manifest.remove(self.fs.as_ref(), sequence),
            None => Ok(()),
        }
    }

    /// Notes a file that exists, so that its number is not used again.
    pub(super) fn saw(&mut self, number: u64) {
        self.next_file = self.next_file.max(number.saturating_add(1));
    }

    /// Counts a file that is in the log.
    pub(super) fn in_log(&mut self, file: &SegmentFile) {
        self.log_bytes += u64::from(file.bytes);
    }

    pub(super) fn add_spare(&mut self, file: Arc<SegmentFile>) {
        let fits = file.bytes == self.segment_bytes;
        if fits {
            &mut self.spares
        } else {
            &mut self.misfits
        }
        .push(file);
    }

    /// Hands out an empty segment.
    pub(super) fn take(&mut self) -> Option<Arc<SegmentFile>> {
        let file = self.spares.pop()?;
        self.in_log(&file);
        Some(file)
    }

    /// Takes an emptied segment back.
    pub(super) fn give(&mut self, file: Arc<SegmentFile>) {
        self.log_bytes -= u64::from(file.bytes);
        self.patience = 0;
        self.waiting = 0;
        // Nothing is lost by an emptied file that the disk cannot mend: it is left where it is.
        if file.mend().is_err() {
            return;
        }
        self.draining.push(file);
        self.collect_drained();
    }

    pub(super) fn collect_drained(&mut self) {
        let draining = std::mem::take(&mut self.draining);
        for file in draining {
            // Nobody can take hold of it anew: the index no longer names it.
            if Arc::strong_count(&file) == 1 {
                self.add_spare(file);
            } else {
                self.draining.push(file);
            }
        }
    }

    /// Makes one more spare, or says that there is no room.
    pub(super) fn create(&mut self) -> Result<bool, StoreError> {
        let spares = self.spares.len();
        self.collect_drained();
        if self.spares.len() > spares {
            return Ok(true);
        }
        self.remove_misfits()?;
        if self.waiting > 0 {
            self.waiting -= 1;
            return Ok(false);
        }
        while let Some(done) = self.grow(u64::from(self.segment_bytes))? {
            if done {
                return Ok(true);
            }
        }
        self.patience = (self.patience * 2).clamp(1, PATIENCE_MAX);
        self.waiting = self.patience;
        Ok(false)
    }

    /// Gives a spare beyond `keep` back to the disk; returns whether there was one.
    pub(super) fn give_up(&mut self, keep: usize) -> Result<bool, StoreError> {
        if self.spares.len() <= keep {
            return Ok(false);
        }
        let surplus = self.spares.remove(0);
        self.remove(&surplus)?;
        Ok(true)
    }

    /// Prepares the next segment step by step and lets surplus ones go; returns whether there is
    /// more to do.
    pub(super) fn prepare(
        &mut self,
        idle: bool,
        reserve: usize,
        soon: bool,
        group_bytes: usize,
    ) -> Result<bool, StoreError> {
        self.remove_misfits()?;
        if self.spares.len() <= reserve && soon && self.waiting == 0 {
            let step = if idle {
                IDLE_STEP_BYTES
            } else {
                STEP_BYTES.max(4 * group_bytes as u64)
            };
            return Ok(match self.grow(step)? {
                Some(done) => !done,
                None => {
                    self.patience = (self.patience * 2).clamp(1, PATIENCE_MAX);
                    self.waiting = self.patience;
                    false
                }
            });
        }
        if idle {
            return self.give_up(reserve + IDLE_SPARES);
        }
        Ok(false)
    }

    fn remove_misfits(&mut self) -> Result<(), StoreError> {
        while let Some(file) = self.misfits.pop() {
            self.remove(&file)?;
        }
        Ok(())
    }

    fn remove(&mut self, file: &SegmentFile) -> Result<(), StoreError> {
        if let Some(manifest) = &mut self.manifest {
            manifest.forget(self.fs.as_ref(), file.number)?;
        }
        // What is left of it is removed at the next start.
        drop(self.fs.remove(&hint_path(&file.path)));
        self.fs
            .remove(&file.path)
            .and_then(|()| self.fs.sync_dir(&self.dir))
            .map_err(|error| file.error("remove", error))
    }

    /// A file that was to become a segment and has a place that cannot be written: the next start
    /// removes it, or it would meet it again as the next one to use. Nothing in it counts.
    pub(super) fn discard(&mut self, file: &SegmentFile) {
        // The store ends by the first error; what becomes of this is not for it to wait for.
        let forgotten = match &mut self.manifest {
            Some(manifest) => manifest.forget(self.fs.as_ref(), file.number).is_ok(),
            None => true,
        };
        if forgotten {
            let unfinished = file.path.with_extension("new");
            drop(self.fs.rename(&file.path, &unfinished));
            drop(self.fs.sync_dir(&self.dir));
        }
    }

    /// Writes more zeros: `Some(true)` when a spare is complete, `None` when there is no room.
    fn grow(&mut self, step: u64) -> Result<Option<bool>, StoreError> {
        let total = u64::from(self.segment_bytes);
        let others = self.log_bytes + self.disk_bytes();
        let mut growing = match self.growing.take() {
            Some(growing) => growing,
            None => {
                if self
                    .disk_bytes_max
                    .is_some_and(|max| others.saturating_add(total) > max)
                {
                    self.limited = true;
                    return Ok(None);
                }
                let number = self.next_file;
                let path = self.dir.join(format!("{number:08}.new"));
                let file = match self.fs.open(&path, true) {
                    Ok(file) => file,
                    Err(error) if is_full(&error) => {
                        self.limited = false;
                        return Ok(None);
                    }
                    Err(error) => return Err(StoreError::io("create", path, error)),
                };
                self.next_file += 1;
                Growing {
                    path,
                    number,
                    file,
                    written: 0,
                    flushed: 0,
                }
            }
        };
        let until = total.min(growing.written.saturating_add(step));
        while growing.written < until {
            let to = until.min(growing.flushed + FLUSH_BYTES);
            let written = growing.file.allocate(growing.written, to);
            let flushed = written.and_then(|()| {
                let due = to == total || to == growing.flushed + FLUSH_BYTES;
                if due {
                    growing.file.sync_data().map(|()| growing.flushed = to)
                } else {
                    Ok(())
                }
            });
            match flushed {
                Ok(()) => growing.written = to,
                Err(error) if is_full(&error) => {
                    self.limited = false;
                    self.fs
                        .remove(&growing.path)
                        .and_then(|()| self.fs.sync_dir(&self.dir))
                        .map_err(|error| StoreError::io("remove", &growing.path, error))?;
                    return Ok(None);
                }
                Err(error) => return Err(StoreError::io("allocate", &growing.path, error)),
            }
        }
        if growing.written < total {
            self.growing = Some(growing);
            return Ok(Some(false));
        }
        let path = file_path(&self.dir, growing.number);
        self.fs
            .rename(&growing.path, &path)
            .and_then(|()| {
                if self.skips_dir_sync {
                    Ok(())
                } else {
                    self.fs.sync_dir(&self.dir)
                }
            })
            .map_err(|error| StoreError::io("rename", &growing.path, error))?;
        let bytes = self.segment_bytes;
        self.spares.push(Arc::new(SegmentFile::new(
            growing.number,
            path,
            growing.file,
            bytes,
        )));
        self.patience = 0;
        Ok(Some(true))
    }
}
