//! Settings whose batch the disk refused: they are written again when there is room.
//!
//! What the operator said of a peer, who was met, who follows whom, which alarms stand: memory has
//! it whatever becomes of the batch, nobody waits for it, and after a restart it would be as it was
//! before. All else that is written tells by its own end what to do when it was refused.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::io::StoreOp;

/// What the names of such values begin with.
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

/// Newest values of settings by their names; `None` for one that was removed.
#[derive(Debug, Default)]
pub(crate) struct Settings(BTreeMap<Bytes, Option<Bytes>>);

impl Settings {
    /// Notes a change, if it is of a setting.
    pub(crate) fn note(&mut self, op: &StoreOp) {
        let (key, value) = match op {
            StoreOp::Set { key, value } => (key, Some(value)),
            StoreOp::Unset { key } => (key, None),
            StoreOp::Put { .. } | StoreOp::Remove { .. } => return,
        };
        if SETTINGS.iter().any(|name| key.starts_with(name)) {
            self.0.insert(key.clone(), value.cloned());
        }
    }

    /// What is written anew need not be written again.
    pub(crate) fn forget(&mut self, op: &StoreOp) {
        if let StoreOp::Set { key, .. } | StoreOp::Unset { key } = op {
            self.0.remove(key);
        }
    }

    pub(crate) fn has(&self, key: &Bytes) -> bool {
        self.0.contains_key(key)
    }

    /// Adds what was refused, unless a later batch says something newer.
    pub(crate) fn refused(&mut self, lost: Self, is_newer: impl Fn(&Bytes) -> bool) {
        let lost = lost.0.into_iter().filter(|(key, _)| !is_newer(key));
        self.0.extend(lost);
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = StoreOp> + use<> {
        let again = core::mem::take(&mut self.0).into_iter();
        again.map(|(key, value)| match value {
            Some(value) => StoreOp::Set { key, value },
            None => StoreOp::Unset { key },
        })
    }
}
