//! How a command ends: its exit code, and the error with cause and fix.

use std::fmt;

use qm_node::admin_json::ErrorDocument;
use qm_node::errors::{ErrorCode, code_of_io};
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

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Nothing,
            4 => Self::Rejected,
            5 => Self::NotRunning,
            _ => Self::Failed,
        }
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
    /// The line that is wrong and the column, from 0, of the character at which it is.
    pub(crate) excerpt: Option<Box<(String, usize)>>,
    /// What else is wrong.
    pub(crate) more: Vec<Self>,
}

impl Failure {
    fn new(
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
            excerpt: None,
            more: Vec::new(),
        }
    }

    /// One of the table of errors, with its exit code and fix.
    pub(crate) fn of(code: &'static str, cause: impl Into<String>) -> Self {
        let known = ErrorCode::named(code).expect("invariant: codes used are in the table");
        Self::new(Exit::of(known.exit), code, cause, known.fix)
    }

    pub(crate) fn usage(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            fix: fix.into(),
            ..Self::of("usage", cause)
        }
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::of(code_of_io(error, "io"), format!("{what}: {error}"))
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
        let document = match self.outcome {
            Some(outcome) => ErrorDocument::of_outcome(outcome, &self.cause, &self.fix),
            None => ErrorDocument::new(&*self.code, &*self.cause, &*self.fix),
        };
        document.and(self.more.iter().map(Self::document).collect())
    }
}

impl From<Vec<ConfigError>> for Failure {
    fn from(errors: Vec<ConfigError>) -> Self {
        let mut all = errors.into_iter().map(|error| Self {
            fix: error.fix,
            excerpt: error.excerpt.map(Box::new),
            ..Self::of(error.code, error.cause)
        });
        let first = all.next().expect("invariant: one mistake at least");
        Self {
            more: all.collect(),
            ..first
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
            "let receivers catch up, or raise what is full with `qm-node queue set NAME --quota-bytes` or `--quota-messages`"
        }
        Outcome::ACCESS_DENIED | Outcome::BLOCKED => {
            "ask the other node's operator to run `qm-node peers approve`"
        }
        Outcome::HOPS_EXCEEDED => "look for a loop between forwarding queues",
        Outcome::BAD_SIGNATURE | Outcome::BAD_ENCRYPTION => "check the keys of sender and receiver",
        Outcome::NOT_TRANSACTIONAL_QUEUE => {
            "send without --transactional, or to a queue made with `qm-node queue create \
             --transactional`"
        }
        Outcome::NOT_TRANSACTIONAL_MESSAGE => "send with --transactional",
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
        Outcome::TRANSACTION_ABORTED => {
            "do it again in a new transaction; client.transaction_time says how long one may be open"
        }
        Outcome::TRANSACTION_TOO_LARGE => "commit smaller transactions",
        Outcome::END_UNKNOWN => {
            "ask its destination: `qm-node trace` and `qm-node why` there tell what it remembers"
        }
        Outcome::VOIDED => "look where its sender gave it up: `qm-node trace` there says why",
        Outcome::POISON => "look at it with `qm-node peek QUEUE:poison`",
        _ => "update this command: the node knows more outcomes than it",
    }
}

#[cfg(test)]
#[path = "../tests/errors/skeleton.rs"]
mod skeleton;

#[cfg(test)]
impl Failure {
    /// It has a row of the table, and says what the example there says.
    pub(crate) fn assert_as_in_the_table(&self) {
        let known = ErrorCode::named(&self.code).unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(self.exit, Exit::of(known.exit), "{self:?}");
        assert!(!self.fix.is_empty(), "{self:?}");
        let [said, example] = [&*self.cause, known.example].map(skeleton::skeleton);
        assert_eq!(said, example);
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
        let mut failure = Failure::of("not_running", "nobody answers");
        assert_eq!(failure.exit, Exit::NotRunning);
        expect![[r#"{"schema":"qm.error/1","code":"not_running","cause":"nobody answers","fix":"start one with `qm-node run`, or name its socket with --socket or its directory with --data"}"#]]
            .assert_eq(&serde_json::to_string(&failure.document()).unwrap());
        failure.more.push(Failure::of("aborted", "no"));
        expect![[r#"{"schema":"qm.error/1","code":"not_running","cause":"nobody answers","fix":"start one with `qm-node run`, or name its socket with --socket or its directory with --data","more":[{"schema":"qm.error/1","code":"aborted","cause":"no","fix":"nothing was done"}]}"#]]
            .assert_eq(&serde_json::to_string(&failure.document()).unwrap());
    }
}
