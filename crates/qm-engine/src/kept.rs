//! Settling batches that the disk refused: it had not even room for what gives room back.
//!
//! What is in such a batch belongs together, and memory has gone on from it: it is as if the disk
//! took longer. So it is kept whole, with who waits for it, and handed over again in front of
//! whatever is handed over next, also when only time has passed.
//!
//! **No settling batch is on disk before those that were gathered before it**: a removal would
//! outlive a crash without the mark that it is told by. The disk sees to it among the batches that
//! it has ([`RefusalsKnown`](crate::RefusalsKnown)), this module among those that came back: each
//! has its place, and none of them is handed over again as long as one is at the disk, which will
//! come back as well and belongs between them. Small ones are joined, in their order; the first of
//! them is left as it is, because a disk may have room for it alone, and for more when it has
//! taken that.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::commits::{OP_BYTES, Then};
use crate::io::StoreOp;

/// Refused batches are joined up to so many bytes.
const JOINED_BYTES: usize = 64 << 10;

/// What the names of settings begin with: what the operator said of a peer, who was met, who
/// follows whom, which alarms stand. Memory has them whatever becomes of a change of identity.
const SETTINGS: [&[u8]; 11] = [
    b"peer/",
    b"name/",
    b"pin/",
    b"heir/",
    b"met/",
    b"twin/",
    b"parted/",
    b"branched/",
    b"went-back/",
    b"life/",
    b"courses",
];

pub(crate) fn is_setting(name: &Bytes) -> bool {
    SETTINGS.iter().any(|setting| name.starts_with(setting))
}

/// The name that a change is about.
pub(crate) const fn name_of(op: &StoreOp) -> Option<&Bytes> {
    match op {
        StoreOp::Set { key, .. } | StoreOp::Unset { key } => Some(key),
        StoreOp::Put { .. } | StoreOp::Remove { .. } => None,
    }
}

/// What a named value takes in its batch, as [`Commits`](crate::commits::Commits) counts it.
fn bytes_of(op: &StoreOp) -> usize {
    match op {
        StoreOp::Set { key, value } => OP_BYTES + key.len() + value.len(),
        StoreOp::Unset { key } => OP_BYTES + key.len(),
        StoreOp::Put { .. } | StoreOp::Remove { .. } => OP_BYTES,
    }
}

/// A refused batch, or several of them joined.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Among all settling batches, in the order in which they were gathered: of the last of them.
    pub(crate) place: u64,
    pub(crate) bytes: usize,
    pub(crate) ops: Vec<StoreOp>,
    pub(crate) then: Vec<Then>,
}

impl Kept {
    /// Adds the batch behind it.
    fn join(&mut self, next: Self) {
        // The newest value of a name is the one that counts: the clock alone has another one every
        // second.
        let names: BTreeSet<&Bytes> = next.ops.iter().filter_map(name_of).collect();
        self.ops.retain(|op| match name_of(op) {
            Some(name) if names.contains(name) => {
                self.bytes = self.bytes.saturating_sub(bytes_of(op));
                false
            }
            _ => true,
        });
        self.place = next.place;
        self.bytes += next.bytes;
        self.ops.extend(next.ops);
        self.then.extend(next.then);
    }
}

/// All of them, in order. See the module.
#[derive(Debug, Default)]
pub(crate) struct Refused(Vec<Kept>);

impl Refused {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a batch at its place, unless nothing is left of it.
    pub(crate) fn add(&mut self, batch: Kept) {
        if batch.ops.is_empty() && batch.then.is_empty() {
            return;
        }
        let at = self.0.partition_point(|kept| kept.place < batch.place);
        self.0.insert(at, batch);
    }

    /// Who waits for them.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Then> {
        self.0.iter().flat_map(|kept| &kept.then)
    }

    /// Takes all of them, joined. None of them must be at the disk: it might belong between two.
    pub(crate) fn take(&mut self) -> Vec<Kept> {
        let mut joined: Vec<Kept> = Vec::with_capacity(self.0.len());
        for next in self.0.drain(..) {
            let is_second = joined.len() < 2;
            match joined.last_mut() {
                Some(last) if !is_second && last.bytes + next.bytes <= JOINED_BYTES => {
                    last.join(next);
                }
                _ => joined.push(next),
            }
        }
        joined
    }
}
