//! Dead letters, and what happened to messages and connections.

use std::borrow::Cow;

use qm_engine::admin::{ConnectionEvent, DeadLetterView, LetterFate, TraceEvent, TraceView};
use qm_wire::{MessageId, Outcome, QmId};
use serde::{Deserialize, Serialize};

use super::document::Schema;
use super::time::rfc3339;

/// A dead letter, `qm.dead_letter/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetterDocument {
    /// `qm.dead_letter/1`.
    pub schema: Schema,
    /// The message, as printed when it was sent.
    pub id: String,
    /// Who minted it.
    pub source: QmId,
    /// The reason's stable word; its code when this version does not know it.
    pub reason: String,
    /// Four hexadecimal digits of the reason.
    pub outcome: String,
    /// Whether it may have been delivered or received all the same.
    pub uncertain: bool,
    /// Whether its destination is being asked, and has not answered yet.
    #[serde(default)]
    pub unconfirmed: bool,
    /// When it died.
    pub died_at: String,
    /// Milliseconds since, by the node's own clock.
    pub age_ms: u64,
    /// The queue manager whose word the reason is.
    pub by: Option<QmId>,
    /// Where it was to go.
    pub destination: String,
    /// Its class.
    pub class: String,
    /// Its priority.
    pub priority: u8,
    /// When it was accepted.
    pub sent_at: String,
    /// What the application called it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// The message that it repeated, `<QMId>/<message id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resent_from: Option<String>,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// Whether an application holds it.
    pub leased: bool,
    /// The number by which `peek dead$ --lookup-id` shows it.
    pub lookup_id: u64,
    /// Its place among the dead letters.
    pub position: u64,
}

impl DeadLetterDocument {
    pub(super) fn new(view: &DeadLetterView) -> Self {
        Self {
            schema: Cow::Borrowed("qm.dead_letter/1"),
            id: view.id.to_string(),
            source: view.source,
            reason: word(view.outcome),
            outcome: code(view.outcome),
            uncertain: view.uncertain,
            unconfirmed: view.unconfirmed,
            died_at: rfc3339(view.died_us),
            age_ms: view.age_ms,
            by: view.by,
            destination: view.destination.clone(),
            class: view.class.name().to_owned(),
            priority: view.priority,
            sent_at: rfc3339(view.sent_us),
            label: view.label.clone(),
            resent_from: view.resent_from.clone(),
            body_bytes: view.body_bytes,
            leased: view.leased,
            lookup_id: view.lookup,
            position: view.position,
        }
    }
}

/// What became of a dead letter that was to be resent or dropped, `qm.letter_fate/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LetterFateDocument {
    /// `qm.letter_fate/1`.
    pub schema: Schema,
    /// The dead message; `null` when there is none at that place any more.
    pub id: Option<String>,
    /// The new message that took its place.
    pub resent_as: Option<String>,
    /// Where it was to go.
    pub destination: String,
    /// Whether it was done.
    pub done: bool,
    /// Why it was not, a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Four hexadecimal digits of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The same in words, with what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Its place among the dead letters.
    pub position: u64,
}

impl LetterFateDocument {
    pub(super) fn new(fate: &LetterFate) -> Self {
        let printed = |id: MessageId| id.to_string();
        Self {
            schema: Cow::Borrowed("qm.letter_fate/1"),
            id: fate.id.map(printed),
            resent_as: fate.resent_as.map(printed),
            destination: fate.destination.clone(),
            done: fate.outcome.is_none(),
            reason: fate.outcome.map(word),
            outcome: fate.outcome.map(code),
            text: fate.text.clone(),
            position: fate.position,
        }
    }
}

/// What `trace` shows, `qm.trace/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraceDocument {
    /// `qm.trace/1`.
    pub schema: Schema,
    /// The message.
    pub id: String,
    /// Who minted it; `null` when this node does not know.
    pub source: Option<QmId>,
    /// Where it is now, a stable word.
    pub state: String,
    /// The same in words.
    pub now: String,
    /// What happened to it here, oldest first.
    pub events: Vec<TraceEventDocument>,
    /// Whether the history reaches back to before the message came to this node.
    pub complete: bool,
    /// Time of the oldest event remembered, of whatever message.
    pub remembered_since: Option<String>,
    /// Events remembered, of all messages.
    pub remembered_events: u64,
    /// Events remembered at most.
    pub remembered_events_max: u64,
    /// What to ask, and where, to learn more.
    pub ask: Vec<String>,
}

/// Something that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraceEventDocument {
    /// When.
    pub at: String,
    /// A stable word.
    pub event: String,
    /// The same in words.
    pub text: String,
}

impl TraceDocument {
    pub(super) fn new(view: &TraceView) -> Self {
        let event = |event: &TraceEvent| TraceEventDocument {
            at: rfc3339(event.at_us),
            event: event.event.to_owned(),
            text: event.text.clone(),
        };
        Self {
            schema: Cow::Borrowed("qm.trace/1"),
            id: view.id.to_string(),
            source: view.source,
            state: view.state.to_owned(),
            now: view.now.clone(),
            events: view.events.iter().map(event).collect(),
            complete: view.complete,
            remembered_since: view.remembered_since_us.map(rfc3339),
            remembered_events: view.remembered,
            remembered_events_max: view.remembered_max,
            ask: view.ask.clone(),
        }
    }
}

/// Something that happened to connections with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConnectionDocument {
    /// When.
    pub at: String,
    /// A stable word: `dial_failed`, `wrong_identity`, `opened`, `closed`.
    pub event: String,
    /// In words, with the cause.
    pub text: String,
}

impl ConnectionDocument {
    pub(super) fn new(event: &ConnectionEvent) -> Self {
        Self {
            at: rfc3339(event.at_us),
            event: event.event.to_owned(),
            text: event.text.clone(),
        }
    }
}

fn code(outcome: Outcome) -> String {
    format!("{:04X}", outcome.0)
}

fn word(outcome: Outcome) -> String {
    outcome.name().map_or_else(|| code(outcome), str::to_owned)
}

#[cfg(test)]
mod tests;
