//! What operators see of a node's identities.

use qm_wire::QmId;

use super::FORMER_KEPT_MS;
use crate::admin::AdminReply;
use crate::engine::Engine;
use crate::identity::{PartedView, TwinView};
use crate::outgoing::OutQueue;
use crate::record::RemoteKey;

/// Who a node is, and was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityView {
    /// Its identity.
    pub qm: QmId,
    /// Its public key.
    pub public_key: [u8; 32],
    /// The live machines that have this identity, when they are several.
    pub twins: Option<TwinView>,
    /// Machines that had this identity beside this node until lately.
    pub parted: Option<PartedView>,
    /// Who it was before, as long as that drains or may be taken back.
    pub former: Option<FormerView>,
}

/// An identity that drains or may be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormerView {
    /// The identity.
    pub qm: QmId,
    /// Its public key.
    pub public_key: [u8; 32],
    /// Wall clock of the change, microseconds.
    pub since_us: u64,
    /// Why.
    pub because: String,
    /// Messages that wait under it, those in flight and in doubt included.
    pub waiting: u64,
    /// Milliseconds until its key is erased, once nothing is left to do under it.
    pub erased_in_ms: Option<u64>,
    /// Destinations to which something was sent under it.
    pub destinations: Vec<FormerDestination>,
}

/// How far a destination has come from the former identity to the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormerDestination {
    /// The node as addressed.
    pub remote: RemoteKey,
    /// Its identity, once known.
    pub peer: Option<QmId>,
    /// Its name, as operators know it.
    pub name: Option<String>,
    /// Whether messages for it are minted under the current identity.
    pub switched: bool,
    /// Messages that wait under the former identity.
    pub waiting: u64,
    /// Whether it has not approved the current identity, as far as a session told.
    pub pending: bool,
}

impl Engine {
    pub(crate) fn identity_view(&self) -> AdminReply {
        AdminReply::Identity(Box::new(IdentityView {
            qm: self.me.qm,
            public_key: self.me.public_key,
            twins: self.own_twin_view(),
            parted: self.own_parted_view(),
            former: self.former_view(),
        }))
    }

    /// Evidence for `why` about messages that wait while this node has two identities.
    pub(crate) fn former_evidence(&self, out: &OutQueue) -> Option<String> {
        let record = self.reidentifying.former.as_ref()?;
        let (former, because) = (record.qm, record.because.as_str());
        let remote = self.remotes.get(&out.remote)?;
        if remote.own == former {
            let next = if self.minting_own(&remote.key) == former {
                format!("until {} is approved there", self.me.qm)
            } else {
                format!("newer ones are sent under {}", self.me.qm)
            };
            return Some(format!(
                "sent under this node's former identity {former} ({because}); {next}"
            ));
        }
        let before = self.sibling_of(remote.own, &remote.key, &out.queue)?;
        let waits = before.waiting().0 + before.in_flight + before.doubtful();
        (before.holds_stream() && waits > 0).then(|| {
            format!("transactional messages wait for {waits} of this node's former identity {former}, which come first")
        })
    }

    pub(crate) fn former_view(&self) -> Option<FormerView> {
        let former = self.reidentifying.former.as_ref()?;
        let mut destinations = Vec::new();
        let used = self
            .remotes
            .values()
            .filter(|remote| remote.own == former.qm && !remote.queues.is_empty());
        for remote in used {
            let outs = remote.queues.values().filter_map(|n| self.outs.get(n));
            let waits = outs.map(|out| out.waiting().0 + out.in_flight + out.doubtful());
            let waiting = waits.sum();
            let peer = remote.peer();
            let pending = peer.into_iter().flat_map(|peer| self.by_peer.get(&peer));
            let pending = pending.flatten().filter_map(|link| self.sessions.get(link));
            let entry = self.peers.name_of(&remote.key, remote.pin);
            destinations.push(FormerDestination {
                remote: remote.key.clone(),
                peer,
                name: entry.map(|entry| entry.name.clone()),
                switched: self.minting_own(&remote.key) == self.me.qm,
                waiting,
                pending: pending
                    .into_iter()
                    .any(|s| s.own == self.me.qm && s.opened && s.pending),
            });
        }
        let left = |since| FORMER_KEPT_MS.saturating_sub(self.now.at.ms_since(since));
        Some(FormerView {
            qm: former.qm,
            public_key: former.succession.old_key,
            since_us: former.since_us,
            because: former.because.clone(),
            waiting: destinations.iter().map(|d| d.waiting).sum(),
            erased_in_ms: former.drained.map(left),
            destinations,
        })
    }
}
