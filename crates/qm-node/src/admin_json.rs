//! Administrative requests and answers as JSON documents: what travels on the local socket and
//! what `--json` prints.
//!
//! A request is an object whose `do` names the verb, such as `{"do":"queue.show","name":"orders"}`.
//! An answer carries its `schema`, such as `qm.queue/1`; fields may be added to a schema, never
//! changed or removed. Times are RFC 3339, units stand in names, what is unlimited or unknown is
//! `null`. Listings are `qm.list/1` documents of at most one frame; `after` in the answer, given
//! back in the next request, continues them.
//!
//! ```
//! use qm_node::admin_json::decode_request;
//!
//! let asked = decode_request(br#"{"do":"queue.show","name":"orders"}"#).unwrap();
//! assert_eq!(asked.request, qm_engine::admin::AdminRequest::Queues);
//! let error = decode_request(br#"{"do":"queue.sow"}"#).unwrap_err();
//! assert!(error.to_string().contains("queue.show"));
//! ```

mod caches;
mod document;
mod identity;
mod letters;
mod request;
mod streams;
mod time;
mod twins;

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_wire::Outcome;
use serde::Serialize;

use crate::info::NodeInfo;

pub use crate::health::{DamagedRecordDocument, StoreHealthDocument};
pub use caches::{DedupDocument, RouteDocument, RouteStatsDocument};
pub use document::{
    CountersDocument, Document, DoneDocument, ErrorDocument, List, NodeDocument, OutgoingDocument,
    PeerDocument, QueueDocument, StatusDocument, WhyDocument,
};
pub use identity::{FormerDestinationDocument, FormerDocument, IdentityDocument};
pub use letters::{
    ConnectionDocument, DeadLetterDocument, LetterFateDocument, TraceDocument, TraceEventDocument,
};
pub use request::{Request, Which};
pub use streams::{RebasedDocument, StreamDocument};
pub use time::rfc3339;
pub use twins::{
    BranchDocument, PartedDocument, TwinDocument, TwinMachineDocument, WentBackDocument,
};

/// Bytes of items in one listing: leaves room for the rest of the document below
/// [`ADMIN_BYTES_MAX`](qm_wire::limits::ADMIN_BYTES_MAX).
const PAGE_BYTES: usize = qm_wire::limits::ADMIN_BYTES_MAX - (64 << 10);

/// A request as understood: what the engine is asked, and what of its answer is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For the engine.
    pub request: AdminRequest,
    /// To be kept until the engine's answer is there.
    pub shape: Shape,
}

/// Which part of the engine's answer was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Only the item of this key, as a document of its own.
    only: Option<String>,
    /// Only items behind this key.
    after: Option<String>,
}

/// A request that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the administrative request is malformed: {cause}")]
pub struct AdminJsonError {
    cause: String,
}

/// Understands the JSON of a request.
///
/// # Errors
/// [`AdminJsonError`] naming what is wrong and what is accepted.
pub fn decode_request(json: &[u8]) -> Result<Asked, AdminJsonError> {
    let request: Request = serde_json::from_slice(json).map_err(|error| AdminJsonError {
        cause: error.to_string(),
    })?;
    request.ask()
}

/// The JSON of an answer, and whether it tells of success.
///
/// `shape` is what [`decode_request`] gave; `node` tells what the engine does not know. The
/// document never exceeds [`ADMIN_BYTES_MAX`](qm_wire::limits::ADMIN_BYTES_MAX).
#[must_use]
pub fn encode_reply(reply: &AdminReply, shape: &Shape, node: &NodeInfo) -> (bool, Vec<u8>) {
    let json = match reply {
        AdminReply::Done { count } => to_json(&DoneDocument::new(*count)),
        AdminReply::Status(view) => to_json(&StatusDocument::new(view, node)),
        AdminReply::Queues(views) => {
            return listing(views.iter().map(QueueDocument::new), None, shape);
        }
        AdminReply::Outgoing(views) => {
            return listing(views.iter().map(OutgoingDocument::new), None, shape);
        }
        AdminReply::Peers(views) => {
            return listing(views.iter().map(PeerDocument::new), None, shape);
        }
        AdminReply::Routes { stats, rows } => {
            let stats = RouteStatsDocument::new(stats);
            return listing(rows.iter().map(RouteDocument::new), Some(stats), shape);
        }
        AdminReply::Streams(views) => {
            return listing(views.iter().map(StreamDocument::new), None, shape);
        }
        AdminReply::Identity(view) => to_json(&IdentityDocument::new(view, node)),
        AdminReply::Rebased {
            streams,
            messages,
            uncertain,
        } => to_json(&RebasedDocument::new(*streams, *messages, *uncertain)),
        AdminReply::Dedup(stats) => to_json(&DedupDocument::new(stats)),
        AdminReply::Why(view) => to_json(&WhyDocument::new(view)),
        AdminReply::Trace(view) => to_json(&TraceDocument::new(view)),
        AdminReply::Purged(tally) => to_json(&DoneDocument::purged(tally)),
        AdminReply::DeadLetters { letters, after } => {
            let mut list = List::new(None);
            list.items = letters.iter().map(DeadLetterDocument::new).collect();
            list.after = after.map(|after| after.to_string());
            to_json(&list)
        }
        AdminReply::LetterFates(fates) => {
            let mut list = List::new(None);
            list.items = fates.iter().map(LetterFateDocument::new).collect();
            to_json(&list)
        }
        AdminReply::Failed {
            outcome,
            cause,
            fix,
        } => {
            return (
                false,
                to_json(&ErrorDocument::of_outcome(*outcome, cause, fix)),
            );
        }
        _ => {
            let cause = "the node gave an answer that has no document";
            let fix = "report this with the command you ran";
            return (
                false,
                to_json(&ErrorDocument::of_outcome(Outcome::UNSUPPORTED, cause, fix)),
            );
        }
    };
    (true, json)
}

/// The answer to a request that was not understood.
#[must_use]
pub fn encode_error(error: &AdminJsonError) -> Vec<u8> {
    let fix = "use the qm-node command of the node's own version";
    to_json(&ErrorDocument::of_outcome(
        Outcome::BAD_REQUEST,
        &error.to_string(),
        fix,
    ))
}

/// Sorts the items by key, leaves out what was not asked for, and cuts at the size of a page.
fn listing<T: Document>(
    items: impl Iterator<Item = T>,
    summary: Option<RouteStatsDocument>,
    shape: &Shape,
) -> (bool, Vec<u8>) {
    let mut items: Vec<(String, T)> = items.map(|item| (item.key(), item)).collect();
    if let Some(only) = &shape.only {
        let wanted = only.to_lowercase();
        return match items.into_iter().find(|(key, _)| *key == wanted) {
            Some((_, item)) => (true, to_json(&item)),
            None => {
                let cause = format!("there is no {} `{only}` on this node", T::NOUN);
                let error = ErrorDocument::of_outcome(Outcome::NOT_FOUND, &cause, T::NOT_FOUND_FIX);
                (false, to_json(&error))
            }
        };
    }
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut list = List::<Box<serde_json::value::RawValue>>::new(summary);
    let mut bytes = 0_usize;
    let mut last = None;
    for (key, item) in items {
        if shape.after.as_ref().is_some_and(|after| key <= *after) {
            continue;
        }
        let raw = serde_json::value::to_raw_value(&item)
            .expect("documents have string keys and no failing serializer");
        bytes = bytes.saturating_add(raw.get().len() + 1);
        if bytes > PAGE_BYTES && last.is_some() {
            list.after = last;
            break;
        }
        list.items.push(raw);
        last = Some(key);
    }
    (true, to_json(&list))
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have string keys and no failing serializer")
}

#[cfg(test)]
mod tests;
