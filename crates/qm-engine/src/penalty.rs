//! Peers that broke the protocol wait before they are let in again, longer each time: a session
//! costs this node more than the one who opens it, and a peer with a fault in it repeats it.

use std::collections::BTreeMap;

use qm_wire::QmId;

use crate::engine::Engine;
use crate::limits::{PENALTIES_MAX, PENALTY_PAUSE_MAX_MS, PENALTY_PAUSE_MIN_MS};
use crate::time::Timestamp;

/// What is remembered of a peer that broke the protocol.
#[derive(Clone, Copy, Debug)]
struct Penalty {
    until: Timestamp,
    pause_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Penalties(BTreeMap<QmId, Penalty>);

impl Penalties {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Penalty {
    /// A peer that kept the rules for this long starts anew.
    fn forgotten_at(&self) -> Timestamp {
        self.until.plus_ms(self.pause_ms.saturating_mul(10))
    }
}

impl Engine {
    /// A peer broke the protocol.
    pub(crate) fn penalize(&mut self, peer: QmId) {
        let now = self.now.at;
        if self.penalties.0.len() >= PENALTIES_MAX && !self.penalties.0.contains_key(&peer) {
            self.forgive();
            // Keys are cheap: whoever comes with new ones all the time is held back before this.
            if self.penalties.0.len() >= PENALTIES_MAX {
                return;
            }
        }
        let penalty = self.penalties.0.entry(peer).or_insert(Penalty {
            until: now,
            pause_ms: PENALTY_PAUSE_MIN_MS / 2,
        });
        if penalty.forgotten_at() <= now {
            penalty.pause_ms = PENALTY_PAUSE_MIN_MS / 2;
        }
        penalty.pause_ms = penalty.pause_ms.saturating_mul(2).min(PENALTY_PAUSE_MAX_MS);
        penalty.until = now.plus_ms(penalty.pause_ms);
    }

    /// For how long a peer is not let in; `None` when it is.
    pub(crate) fn penalty_left_ms(&self, peer: QmId) -> Option<u64> {
        let penalty = self.penalties.0.get(&peer)?;
        (penalty.until > self.now.at).then(|| penalty.until.ms_since(self.now.at).max(1))
    }

    /// The operator's word lets a peer in at once.
    pub(crate) fn forgive_peer(&mut self, peer: QmId) {
        self.penalties.0.remove(&peer);
    }

    /// Forgets what is long past.
    pub(crate) fn forgive(&mut self) {
        let now = self.now.at;
        self.penalties
            .0
            .retain(|_, penalty| penalty.forgotten_at() > now);
    }
}
