//! What is or was so in the world, to compare with what nodes say.

use std::collections::{BTreeMap, BTreeSet};

use qm_transport::LinkId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Machines whose operator paused transmission at some time.
    pub(super) paused_outgoing: BTreeSet<usize>,
    /// Pairs of which the first blocked the second at some time.
    pub(super) blocked: BTreeSet<(usize, usize)>,
    /// Queues that were deleted at some time.
    pub(super) deleted: BTreeSet<(usize, usize)>,
    /// Queues that were purged at some time.
    pub(super) purged: BTreeSet<(usize, usize)>,
    /// When the current separation of two machines began.
    apart: BTreeMap<(usize, usize), u64>,
    /// When a machine last got anything from another.
    heard: BTreeMap<(usize, usize), u64>,
    /// Which machine is at the other end of a link.
    ends: BTreeMap<(usize, LinkId), usize>,
}

impl Truth {
    /// Two machines cannot hear each other from now on.
    pub(super) fn part(&mut self, a: usize, b: usize, now: u64) {
        self.apart.insert((a.min(b), a.max(b)), now);
    }

    /// The first got something from the second.
    pub(super) fn hear(&mut self, node: usize, other: usize, now: u64) {
        self.heard.insert((node, other), now);
    }

    /// A link of the first leads to the second.
    pub(super) fn join(&mut self, node: usize, link: LinkId, other: usize) {
        self.ends.insert((node, link), other);
    }

    /// A machine got something on a link.
    pub(super) fn hear_on(&mut self, node: usize, link: LinkId, now: u64) {
        if let Some(other) = self.ends.get(&(node, link)).copied() {
            self.hear(node, other, now);
        }
    }

    /// When that was last so; the beginning of time when it never was.
    pub(super) fn heard_at(&self, node: usize, other: usize) -> u64 {
        self.heard.get(&(node, other)).copied().unwrap_or(0)
    }

    /// When the current separation of two machines began; the end of time when it never did.
    pub(super) fn apart_since(&self, a: usize, b: usize) -> u64 {
        let pair = (a.min(b), a.max(b));
        self.apart.get(&pair).copied().unwrap_or(u64::MAX)
    }
}
