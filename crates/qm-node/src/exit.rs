//! How a command ends: its exit code, and the error with cause and fix.

use std::fmt;

use qm_node::admin_json::ErrorDocument;
use qm_wire::Outcome;

use crate::config::ConfigError;

/// Exit codes, a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed while it was being done.
    Failed = 1,
    /// Usage or configuration is wrong.
    Usage = 2,
    /// Nothing was there, or the time to wait ran out with the fate open.
    Nothing = 3,
    /// Rejected, with a typed code.
    Rejected = 4,
    /// No node is running.
    NotRunning = 5,
}

impl Exit {
    pub(crate) fn code(self) -> std::process::ExitCode {
        std::process::ExitCode::from(self as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// A stable word.
    pub(crate) code: String,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) cause: String,
    pub(crate) fix: String,
}

/// The errors of the command line itself; those of messages are [`Outcome`]s.
pub(crate) const CODES: &[(&str, Exit, &str, &str)] = &[
    (
        "usage",
        Exit::Usage,
        "the command line is wrong",
        "`qm-node help COMMAND` shows what is possible",
    ),
    (
        "config",
        Exit::Usage,
        "a value of the configuration is wrong",
        "`qm-node config check` names it, with what is accepted",
    ),
    (
        "needs_yes",
        Exit::Usage,
        "a destructive or bulk command was not confirmed",
        "add --yes; --dry-run shows what it would do",
    ),
    (
        "nothing",
        Exit::Nothing,
        "there was no message, or nothing that matches",
        "wait for one with --wait or --follow",
    ),
    (
        "fate_open",
        Exit::Nothing,
        "the time to wait ran out before the message's fate was known",
        "`qm-node why MESSAGE-ID` tells what holds it up; the message is still on its way",
    ),
    (
        "not_running",
        Exit::NotRunning,
        "no node answers at the socket",
        "start one with `qm-node run`, or name its socket with --socket or its directory with --data",
    ),
    (
        "no_permission",
        Exit::Failed,
        "the socket or a file belongs to somebody else",
        "run the command as the user of the node, or ask its operator for access",
    ),
    (
        "connection",
        Exit::Failed,
        "the connection to the node failed",
        "look at the node's log; it was stopped, or is of another version",
    ),
    (
        "outcome_unknown",
        Exit::Failed,
        "the answer was lost: the message may have been accepted or not",
        "send again with the same --idempotency-key, or look with `qm-node peek`",
    ),
    (
        "io",
        Exit::Failed,
        "a file or stream cannot be read or written",
        "check that it is there, that you may use it, and that its disk has room",
    ),
    (
        "store_damaged",
        Exit::Failed,
        "bytes of the message store are not what was written",
        "`qm-node store repair --in-place` saves everything undamaged and keeps the damaged store",
    ),
    (
        "not_intact",
        Exit::Failed,
        "messages are missing, changed or out of order",
        "report it: this must not happen; the nodes' directory with their logs was kept",
    ),
    (
        "trial",
        Exit::Failed,
        "a node that was started for a demonstration or measurement failed",
        "the cause shows the end of its log; --keep leaves all of it",
    ),
    (
        "aborted",
        Exit::Failed,
        "the operator answered no",
        "nothing was done",
    ),
];

impl Failure {
    pub(crate) fn new(
        exit: Exit,
        code: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            exit,
            code: code.into(),
            outcome: None,
            cause: cause.into(),
            fix: fix.into(),
        }
    }

    /// One of [`CODES`], with its exit code and fix.
    pub(crate) fn of(code: &'static str, cause: impl Into<String>) -> Self {
        let (_, exit, _, fix) = CODES
            .iter()
            .find(|known| known.0 == code)
            .expect("codes used are in the table");
        Self::new(*exit, code, cause, *fix)
    }

    pub(crate) fn usage(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: fix.into(),
            ..Self::of("usage", cause)
        }
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::of("io", format!("{what}: {error}"))
    }

    /// Rejected with a typed outcome.
    pub(crate) fn rejected(outcome: Outcome, cause: impl Into<String>) -> Self {
        let code = outcome
            .name()
            .map_or_else(|| format!("{:04X}", outcome.0), str::to_owned);
        Self {
            outcome: Some(outcome),
            ..Self::new(Exit::Rejected, code, cause, fix_of(outcome))
        }
    }

    pub(crate) fn with_fix(self, fix: impl Into<String>) -> Self {
        Self {
            fix: fix.into(),
            ..self
        }
    }

    /// What a node answered.
    pub(crate) fn from_document(document: ErrorDocument) -> Self {
        let outcome = document.outcome.as_deref().and_then(Outcome::from_name);
        let exit = if outcome.is_some() {
            Exit::Rejected
        } else {
            Exit::Failed
        };
        Self {
            outcome,
            ..Self::new(exit, document.code, document.cause, document.fix)
        }
    }

    pub(crate) fn document(&self) -> ErrorDocument {
        match self.outcome {
            Some(outcome) => ErrorDocument::of_outcome(outcome, &self.cause, &self.fix),
            None => ErrorDocument::new(&*self.code, &*self.cause, &*self.fix),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            fix: error.fix,
            ..Self::of("config", error.cause)
        }
    }
}

/// What an operator can do about an outcome.
pub(crate) const fn fix_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::REACHED_QUEUE | Outcome::RECEIVED => "nothing is to be done",
        Outcome::BAD_DESTINATION_QUEUE => {
            "make the queue on its node with `qm-node queue create NAME`, or correct the name"
        }
        Outcome::PURGED_IN_TRANSIT | Outcome::QUEUE_PURGED => {
            "an operator did this on purpose; send again if it was a mistake"
        }
        Outcome::REACH_QUEUE_EXPIRED | Outcome::RECEIVE_EXPIRED => {
            "allow more time with --time-to-reach-queue or --time-to-be-received, or find the delay \
             with `qm-node why`"
        }
        Outcome::QUOTA_EXCEEDED => {
            "let receivers catch up, or raise the quota with `qm-node queue set NAME --quota-bytes`"
        }
        Outcome::ACCESS_DENIED | Outcome::BLOCKED => {
            "ask the other node's operator to run `qm-node peers approve`"
        }
        Outcome::HOPS_EXCEEDED => "look for a loop between forwarding queues",
        Outcome::BAD_SIGNATURE | Outcome::BAD_ENCRYPTION => "check the keys of sender and receiver",
        Outcome::NOT_TRANSACTIONAL_QUEUE => {
            "send with --class recoverable, or make the queue with --transactional"
        }
        Outcome::NOT_TRANSACTIONAL_MESSAGE => "send with --class transactional",
        Outcome::SOURCE_CHANGED => "the sender got a new identity; send from it again",
        Outcome::QUEUE_DELETED => "make the queue again and send again",
        Outcome::REJECTED_BY_RECEIVER => "ask the receiving application",
        Outcome::DAMAGED => "send again; if it repeats, test memory and disk of both machines",
        Outcome::BODY_TOO_LARGE => {
            "raise limits.body_bytes in the node's configuration, or split the message"
        }
        Outcome::VERSION => "update the older of the two nodes",
        Outcome::IDEMPOTENCY_CONFLICT => {
            "use a new --idempotency-key: this one stands for another message"
        }
        Outcome::BAD_DESTINATION_NAME => {
            "write queue, peer/queue, qm://host/queue or qm:<QMId>/queue"
        }
        Outcome::STORE_FULL => "free disk space, or let receivers catch up",
        Outcome::STORE_FAILED => "look at the node's log and the disk, then start the node again",
        Outcome::UNSUPPORTED => "update the node, or do without the feature",
        Outcome::WRONG_IDENTITY => {
            "if the machine was replaced on purpose, `qm-node peers forget` it; otherwise find out \
             who answers there"
        }
        Outcome::PENDING_APPROVAL => {
            "run `qm-node peers approve` on the other node; the messages wait meanwhile"
        }
        Outcome::PROTOCOL => "update the older of the two; report it if both are of one version",
        Outcome::STOPPING => "try again when the node has started again",
        Outcome::SUPERSEDED | Outcome::IDLE => "nothing is to be done: the session opens again",
        Outcome::DROPPED_OLDEST => "let receivers catch up, or raise the queue's quota",
        Outcome::BUSY => "wait for answers before asking more",
        Outcome::BAD_REQUEST => "use the command of the node's own version",
        Outcome::NOT_FOUND => "the list commands show what there is",
        Outcome::LEASE_LOST => "receive it again: it went back to its queue",
        Outcome::POISON => "look at it with `qm-node peek QUEUE:poison`",
        _ => "update this command: the node knows more outcomes than it",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn every_known_outcome_has_its_own_advice() {
        let unknown = fix_of(Outcome(0x1234));
        for outcome in Outcome::ALL {
            assert_ne!(fix_of(*outcome), unknown, "{outcome}");
        }
    }

    #[test]
    fn errors_are_documents() {
        let failure = Failure::rejected(Outcome::BAD_DESTINATION_QUEUE, "there is no queue `x`");
        assert_eq!(failure.exit, Exit::Rejected);
        expect![[r#"{"schema":"qm.error/1","code":"bad_destination_queue","outcome":"8000","cause":"there is no queue `x`","fix":"make the queue on its node with `qm-node queue create NAME`, or correct the name"}"#]]
            .assert_eq(&serde_json::to_string(&failure.document()).unwrap());
        assert_eq!(Failure::from_document(failure.document()), failure);
        let failure = Failure::of("not_running", "nobody answers");
        assert_eq!(failure.exit, Exit::NotRunning);
        expect![[r#"{"schema":"qm.error/1","code":"not_running","cause":"nobody answers","fix":"start one with `qm-node run`, or name its socket with --socket or its directory with --data"}"#]]
            .assert_eq(&serde_json::to_string(&failure.document()).unwrap());
    }
}
