//! Bodies in files of their own: written before the record that names them, removed after it.

use std::sync::Arc;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::fs::is_full;
use crate::side::SideBody;
use crate::types::{Applied, Batch, Op, RefusalsKnown};

use super::{Log, Shared};

/// Files removed for one commit at most, and by one step of housekeeping.
const REMOVED_A_STEP: usize = 4;

impl Log {
    /// Writes and flushes the huge bodies of the batches that have a size, in their order. Where
    /// the disk has no room for one its batch is turned away.
    pub(super) fn write_sides(
        &mut self,
        batches: &[Batch],
        sizes: &mut [usize],
        answers: &mut [Applied],
    ) -> Result<(), StoreError> {
        self.scratch.sides.clear();
        let mut named = false;
        let mut full = false;
        for (at, batch) in batches.iter().enumerate() {
            if sizes[at] == 0 {
                continue;
            }
            if full && matches!(batch.refusals_known, Some(RefusalsKnown::All(_))) {
                // It must not overtake the one before.
                sizes[at] = 0;
                answers[at] = Applied::Full;
                continue;
            }
            let written = self.scratch.sides.len();
            for op in &batch.ops {
                let Op::Put { body, .. } = op else { continue };
                if !self.options.is_side(op) {
                    continue;
                }
                if let Some(side) = self.write_side(body)? {
                    self.scratch.sides.push(side);
                    named = true;
                    continue;
                }
                for side in self.scratch.sides.split_off(written) {
                    self.remove_side(side)?;
                }
                // Some file systems give room back only then.
                self.flush_names()?;
                sizes[at] = 0;
                answers[at] = Applied::Full;
                full = true;
                break;
            }
        }
        if named && !self.options.broken(Break::SkipBodyName) {
            self.flush_names()?;
        }
        Ok(())
    }

    fn flush_names(&self) -> Result<(), StoreError> {
        let Shared { fs, dir, .. } = self.shared.as_ref();
        fs.sync_dir(dir)
            .map_err(|error| StoreError::io("flush", dir, error))
    }

    fn write_side(&mut self, body: &[u8]) -> Result<Option<SideBody>, StoreError> {
        let side = SideBody {
            number: self.next_side,
            bytes: body.len() as u64,
            salt: (self.salt_source)(),
        };
        self.next_side += 1;
        let flush = !self.options.broken(Break::SkipBodySync);
        let shared = Arc::clone(&self.shared);
        let (fs, path) = (shared.fs.as_ref(), side.path(&shared.dir));
        loop {
            if self.space.holds(side.file_bytes()) {
                match side.write(fs, &shared.dir, body, flush) {
                    Ok(()) => {
                        self.space.add_side(side.file_bytes());
                        return Ok(Some(side));
                    }
                    Err(error) if is_full(&error) => match fs.remove(&path) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(StoreError::io("remove", path, error));
                        }
                        _ => {}
                    },
                    Err(error) => return Err(StoreError::io("write", path, error)),
                }
            }
            // Perhaps what is gone has not been removed yet; and empty segments are only kept
            // to save the time of making them.
            let keep = self.options.reserve_segments() + 1;
            if !self.remove_dead_sides()? && !self.space.give_up(keep)? {
                return Ok(None);
            }
        }
    }

    /// For tests of the tests: as if a file went with its record's removal, not after it.
    pub(super) fn remove_sides_early(&self, batches: &[Batch]) {
        for op in batches.iter().flat_map(|batch| &batch.ops) {
            let Op::Remove {
                stream,
                first,
                last,
            } = op
            else {
                continue;
            };
            let index = self.shared.index();
            for side in index.side.range((*stream, *first)..=(*stream, *last)) {
                drop(self.shared.fs.remove(&side.1.path(&self.shared.dir)));
            }
        }
    }

    fn remove_side(&mut self, side: SideBody) -> Result<(), StoreError> {
        let path = side.path(&self.shared.dir);
        self.space.remove_side(side.file_bytes());
        match self.shared.fs.remove(&path) {
            // Missing, or held by somebody: the next start looks for what is left over.
            Err(error) if !may_stay(&error) => Err(StoreError::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Removes some files whose records are gone; returns whether there were any. What a crash
    /// leaves is removed at recovery, so that nothing needs a flush here.
    pub(super) fn remove_dead_sides(&mut self) -> Result<bool, StoreError> {
        if self.shared.index().dead_side.is_empty() {
            return Ok(false);
        }
        let dead = {
            let mut index = self.shared.index_mut();
            let keep = index.dead_side.len().saturating_sub(REMOVED_A_STEP);
            index.dead_side.split_off(keep)
        };
        for side in dead {
            self.remove_side(side)?;
        }
        Ok(true)
    }
}

fn may_stay(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ResourceBusy
    )
}
