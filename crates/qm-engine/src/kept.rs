//! Settling batches that the disk refused: it had not even room for what gives room back.
//!
//! What is in such a batch belongs together, and memory has gone on from it: it is as if the disk
//! took longer. So it is kept whole, with who waits for it, and handed over again in front of
//! whatever is handed over next, joined with what gives room back there, also when only time has
//! passed. What a later batch has written under the same name stands.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::commits::{OP_BYTES, Then};
use crate::io::{StoreOp, Ticket};

/// Refused batches are joined up to so many bytes.
const JOINED_BYTES: usize = 1 << 20;

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

/// Refused batches, or several of them joined.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Of the first of them, when it was refused.
    ticket: Ticket,
    pub(crate) bytes: usize,
    ops: Vec<StoreOp>,
    pub(crate) then: Vec<Then>,
}

impl Kept {
    /// The changes, in order.
    pub(crate) fn ops(&self) -> Vec<StoreOp> {
        self.ops.clone()
    }
}

/// All of them, in order. See the module.
#[derive(Debug, Default)]
pub(crate) struct Refused(Vec<Kept>);

impl Refused {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a batch, unless nothing is left of it.
    pub(crate) fn add(&mut self, ticket: Ticket, bytes: usize, ops: Vec<StoreOp>, then: Vec<Then>) {
        if ops.is_empty() && then.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.bytes.saturating_add(bytes) <= JOINED_BYTES => {
                // The newest value of a name is the one that counts: the clock alone has another
                // one every second.
                let names: BTreeSet<&Bytes> = ops.iter().filter_map(name_of).collect();
                last.ops.retain(|op| match name_of(op) {
                    Some(name) if names.contains(name) => {
                        last.bytes = last.bytes.saturating_sub(bytes_of(op));
                        false
                    }
                    _ => true,
                });
                last.bytes += bytes;
                last.ops.extend(ops);
                last.then.extend(then);
            }
            _ => self.0.push(Kept {
                ticket,
                bytes,
                ops,
                then,
            }),
        }
    }

    /// Who waits for a settling batch that is on disk, while one before it is not, waits for both.
    pub(crate) fn waits_for(&mut self, ticket: Ticket) -> Option<&mut Vec<Then>> {
        let before = self.0.iter_mut().rev().find(|kept| kept.ticket < ticket)?;
        Some(&mut before.then)
    }

    /// Who waits for them.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Then> {
        self.0.iter().flat_map(|kept| &kept.then)
    }

    pub(crate) fn take(&mut self) -> Vec<Kept> {
        core::mem::take(&mut self.0)
    }
}
