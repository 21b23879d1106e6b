//! Who a node is, and was.

use std::borrow::Cow;
use std::cmp::Reverse;

use qm_engine::admin::{FormerDestination, FormerView, IdentityView};
use qm_wire::QmId;
use serde::{Deserialize, Serialize};

use super::document::Schema;
use super::{PartedDocument, TwinDocument, rfc3339};
use crate::info::NodeInfo;

/// Who a node is, `qm.identity/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IdentityDocument {
    /// `qm.identity/1`.
    pub schema: Schema,
    /// Its display name.
    pub name: String,
    /// Its identity.
    pub qm: QmId,
    /// The whole digest of its key.
    pub fingerprint: String,
    /// Its data directory.
    pub data: String,
    /// Whether it runs.
    pub running: bool,
    /// The live machines that have this identity, when the node knows that it is not alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<TwinDocument>,
    /// Machines that had this identity beside this node until lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parted: Option<PartedDocument>,
    /// Who it was before, as long as that drains or may be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<FormerDocument>,
}

/// An identity that drains or may be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FormerDocument {
    /// The identity.
    pub qm: QmId,
    /// The whole digest of its key.
    pub fingerprint: String,
    /// Time of the change.
    pub since: String,
    /// Why.
    pub because: String,
    /// Messages that wait under it, those in flight and in doubt included.
    pub waiting: u64,
    /// Milliseconds until its key is erased; `null` while something is left to do under it.
    pub erased_in_ms: Option<u64>,
    /// Destinations that are not spoken to under the new identity.
    #[serde(default)]
    pub open: u64,
    /// Destinations to which something was sent under it, those that are open first, and of them
    /// those for which most waits.
    pub destinations: Vec<FormerDestinationDocument>,
    /// How many more there are: the document fits an answer.
    #[serde(default)]
    pub unlisted: u64,
}

/// Destinations of a former identity that are listed.
const FORMER_DESTINATIONS_MAX: usize = 256;

/// How far a destination has come from the former identity to the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FormerDestinationDocument {
    /// The node as addressed.
    pub remote: String,
    /// Its identity, once known.
    pub peer: Option<QmId>,
    /// Its name in the address book.
    pub name: Option<String>,
    /// Whether messages for it are minted under the current identity.
    pub switched: bool,
    /// Messages that wait for it under the former identity.
    pub waiting: u64,
    /// Whether it was asked for approval of the current identity and has not given it.
    pub pending: bool,
}

impl IdentityDocument {
    pub(super) fn new(view: &IdentityView, node: &NodeInfo) -> Self {
        Self {
            schema: Cow::Borrowed("qm.identity/1"),
            name: node.name.clone(),
            qm: view.qm,
            fingerprint: qm_transport::fingerprint(&view.public_key),
            data: node.data.display().to_string(),
            running: true,
            twins: view.twins.as_ref().map(TwinDocument::new),
            parted: view.parted.as_ref().map(PartedDocument::new),
            former: view.former.as_ref().map(FormerDocument::new),
        }
    }

    /// What the data directory of a node says that does not run.
    #[must_use]
    pub fn at_rest(name: String, qm: QmId, fingerprint: String, data: String) -> Self {
        Self {
            schema: Cow::Borrowed("qm.identity/1"),
            name,
            qm,
            fingerprint,
            data,
            running: false,
            twins: None,
            parted: None,
            former: None,
        }
    }
}

impl FormerDocument {
    pub(super) fn new(view: &FormerView) -> Self {
        Self {
            qm: view.qm,
            fingerprint: qm_transport::fingerprint(&view.public_key),
            since: rfc3339(view.since_us),
            because: view.because.clone(),
            waiting: view.waiting,
            erased_in_ms: view.erased_in_ms,
            open: 0,
            destinations: view
                .destinations
                .iter()
                .map(FormerDestinationDocument::new)
                .collect(),
            unlisted: 0,
        }
        .cut()
    }

    /// Counts the destinations, and lists those that matter most.
    pub(super) fn cut(mut self) -> Self {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let all = &mut self.destinations;
        self.open = count(all.iter().filter(|d| !d.switched).count());
        all.sort_by_key(|d| (d.switched, Reverse(d.waiting)));
        self.unlisted = count(all.len().saturating_sub(FORMER_DESTINATIONS_MAX));
        all.truncate(FORMER_DESTINATIONS_MAX);
        self
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = match (self.waiting, self.open, self.erased_in_ms) {
            (_, _, Some(ms)) => format!(
                "nothing is left to do under it; its key is erased in {} days",
                ms.div_ceil(24 * 60 * 60 * 1_000)
            ),
            (1, 0, None) => "1 message is still delivered under it".to_owned(),
            (waiting, 0, None) => format!("{waiting} messages are still delivered under it"),
            (waiting, open, None) => format!(
                "{waiting} {} under it, and {open} {} not approved the new identity",
                if waiting == 1 {
                    "message waits"
                } else {
                    "messages wait"
                },
                if open == 1 {
                    "destination has"
                } else {
                    "destinations have"
                }
            ),
        };
        format!(
            "{} until {} ({}): {what}",
            self.qm, self.since, self.because
        )
    }
}

impl FormerDestinationDocument {
    fn new(view: &FormerDestination) -> Self {
        Self {
            remote: view.remote.to_string(),
            peer: view.peer,
            name: view.name.clone(),
            switched: view.switched,
            waiting: view.waiting,
            pending: view.pending,
        }
    }

    /// What people are told.
    #[must_use]
    pub fn sentence(&self) -> String {
        let name = self.name.as_deref().unwrap_or(&self.remote);
        let state = if self.switched {
            "spoken to under the new identity"
        } else if self.pending {
            "has not approved the new identity"
        } else {
            "not asked yet"
        };
        format!(
            "{name}: {state}, {} wait under the former one",
            self.waiting
        )
    }
}
