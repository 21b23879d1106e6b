//! Housekeeping: sealing what is full, giving back what nothing needs.

use std::sync::Arc;

use crate::breaks::Break;
use crate::error::StoreError;
use crate::format::Seal;
use crate::hint::{HintWriter, hint_path};
use crate::index::Slot;

use super::{Log, RETAINED_MAX};

impl Log {
    pub(super) fn tidy_step(&mut self, idle: bool) -> Result<bool, StoreError> {
        self.seal_previous()?;
        self.space.collect_drained();
        let reserve = self.options.reserve_segments();
        if self.remove_dead_sides()? || self.reclaim_one(false)? {
            return Ok(true);
        }
        let soon = self
            .active
            .is_none_or(|active| active.end > active.segment_bytes / 2);
        let soon = soon || self.space.spares() < reserve;
        if self
            .space
            .prepare(idle, reserve, soon, self.last_group_bytes)?
        {
            return Ok(true);
        }
        if self.relieve()? {
            return Ok(true);
        }
        if !idle {
            return Ok(false);
        }
        let trimmed = self.shared.index_mut().trim_pages();
        Ok(trimmed || self.compact_idle()?)
    }

    pub(super) fn seal_previous(&mut self) -> Result<(), StoreError> {
        let Some(slot) = self.unsealed else {
            return Ok(());
        };
        let hint = std::mem::take(&mut self.unsealed_hint);
        self.seal(slot, hint)?;
        self.unsealed = None;
        Ok(())
    }

    fn seal(&self, slot: Slot, hint: HintWriter) -> Result<(), StoreError> {
        let (file, seed, end, sequence) = {
            let index = self.shared.index();
            let segment = index.segments.get(slot);
            let file = Arc::clone(&segment.file);
            (file, segment.seed, segment.end, segment.sequence)
        };
        let hint = if self.options.hints {
            let path = hint_path(&file.path);
            hint.write(sequence, self.shared.fs.as_ref(), &path)
        } else {
            None
        };
        let seal = Seal { end, hint };
        if !self.options.broken(Break::SkipSeal) {
            file.seal(seed, seal)?;
        }
        self.shared.index_mut().segments.get_mut(slot).seal = Some(seal);
        Ok(())
    }

    /// Empties the oldest segment nothing needs any more, durably, and keeps its file for reuse.
    /// Unless there is `need`, the newest emptied ones stay for the heads in them.
    pub(super) fn reclaim_one(&mut self, need: bool) -> Result<bool, StoreError> {
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
        let Some((sequence, slot)) = found else {
            return Ok(false);
        };
        if self.unsealed == Some(slot) {
            self.seal_previous()?;
        }
        // Its header may be all that tells where the segment before it ends.
        if let Some((_, before)) = self.order.range(..sequence).next_back() {
            let sealed = self.shared.index().segments.get(*before).seal.is_some();
            if !sealed {
                self.seal(*before, HintWriter::broken())?;
            }
        }
        let file = Arc::clone(&self.shared.index().segments.get(slot).file);
        let is_late = self.options.broken(Break::EmptyBeforeListing);
        if !is_late {
            self.space.unlist(sequence)?;
        }
        if !self.options.broken(Break::SkipVoid) {
            file.void()?;
        }
        if is_late {
            self.space.unlist(sequence)?;
        }
        drop(file);
        self.order.remove(&sequence);
        let inherit = !self.options.broken(Break::ForgetReplaced);
        let mut index = self.shared.index_mut();
        let segment = index
            .segments
            .take(slot, inherit)
            .expect("invariant: ordered slots are filled");
        drop(index);
        self.pinned.remove(&sequence);
        self.space.give(segment.file);
        Ok(true)
    }
}
