//! The documents of transactional streams.

use std::borrow::Cow;

use qm_engine::admin::StreamView;
use qm_wire::{QmId, QueueName};
use serde::{Deserialize, Serialize};

use super::document::{Document, Schema};

/// A transactional stream, `qm.stream/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamDocument {
    /// `qm.stream/1`.
    pub schema: Schema,
    /// `out` for a stream that leaves, `in` for one that arrives.
    pub direction: String,
    /// The node at the other end, once known.
    pub peer: Option<QmId>,
    /// Its name, or how it is addressed.
    pub peer_name: String,
    /// The destination queue.
    pub queue: QueueName,
    /// The stream's id, 32 hexadecimal digits.
    pub stream: String,
    /// The newest position that has a link.
    pub position: u64,
    /// The sender's oldest position that is not settled.
    pub low: u64,
    /// Outgoing: messages that may have been transmitted and are not settled.
    pub unsettled: u64,
    /// Outgoing: skips that the destination has not answered for.
    pub skips: u64,
    /// Incoming: links remembered.
    pub links: u64,
    /// Incoming: branches; more than one when the sender was cloned or went back to a backup.
    pub branches: u64,
    /// Why it stands, when it does.
    pub held: Option<String>,
}

impl StreamDocument {
    pub(super) fn new(view: &StreamView) -> Self {
        let stream = view.stream.0.iter().map(|byte| format!("{byte:02x}"));
        Self {
            schema: Cow::Borrowed("qm.stream/1"),
            direction: if view.incoming { "in" } else { "out" }.to_owned(),
            peer: view.peer,
            peer_name: view.peer_name.clone(),
            queue: view.queue.clone(),
            stream: stream.collect(),
            position: view.position,
            low: view.low,
            unsettled: view.unsettled,
            skips: view.skips,
            links: view.links,
            branches: view.branches,
            held: view.held.clone(),
        }
    }
}

impl Document for StreamDocument {
    const NOUN: &'static str = "stream";
    const NOT_FOUND_FIX: &'static str = "`qm-node stream list` shows the streams";

    fn key(&self) -> String {
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        format!("{} {peer} {}", self.direction, self.stream)
    }
}

/// Streams that were begun anew, or would be, `qm.rebased/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RebasedDocument {
    /// `qm.rebased/1`.
    pub schema: Schema,
    /// How many.
    pub streams: u64,
    /// Messages in them that are not settled: they are linked anew and sent.
    pub messages: u64,
    /// Dead letters that no destination will confirm any more.
    pub uncertain: u64,
}

impl RebasedDocument {
    /// Counts of streams, messages and letters.
    #[must_use]
    pub const fn new(streams: u64, messages: u64, uncertain: u64) -> Self {
        Self {
            schema: Cow::Borrowed("qm.rebased/1"),
            streams,
            messages,
            uncertain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_streams_are_those_of_the_contract() {
        let document = StreamDocument {
            schema: "qm.stream/1".into(),
            direction: "out".to_owned(),
            peer: None,
            peer_name: "hub".to_owned(),
            queue: "orders".parse().unwrap(),
            stream: "00".repeat(16),
            position: 9,
            low: 8,
            unsettled: 1,
            skips: 1,
            links: 0,
            branches: 0,
            held: Some("why".to_owned()),
        };
        let json = r#"{"schema":"qm.stream/1","direction":"out","peer":null,"peer_name":"hub","queue":"orders","stream":"00000000000000000000000000000000","position":9,"low":8,"unsettled":1,"skips":1,"links":0,"branches":0,"held":"why"}"#;
        assert_eq!(serde_json::to_string(&document).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<StreamDocument>(json).unwrap(),
            document
        );
        let rebased = RebasedDocument::new(1, 2, 3);
        let json = r#"{"schema":"qm.rebased/1","streams":1,"messages":2,"uncertain":3}"#;
        assert_eq!(serde_json::to_string(&rebased).unwrap(), json);
    }
}
