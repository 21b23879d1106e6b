//! Typed outcomes: why a message was accepted or refused, one table for wire, dead letters,
//! administration messages, commands and metrics.

use core::fmt;

/// What became of a message: a 16-bit code with a name and a sentence.
///
/// Values below `9000` are MSMQ's message classes, so that people and tools recognise them
/// (MS-MQMQ, section 2.2.18.1.6); qm's own begin at `9000`. Unknown codes survive decoding
/// (W-OUT-1, W-OUT-2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome(pub u16);

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $key:literal, $text:literal;)*) => {
        impl Outcome {
            $($(#[doc = $doc])* pub const $name: Self = Self($code);)*

            /// Every outcome this version knows, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable lower-case name, or `None` for a code this version does not know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($code => Some($key),)* _ => None }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "an outcome this version does not know",
                }
            }
        }
    };
}

outcomes! {
    /// The message reached its queue.
    REACHED_QUEUE = 0x0002, "reached_queue", "the message reached its destination queue";
    /// An application received the message.
    RECEIVED = 0x4000, "received", "an application received the message";
    /// The destination queue does not exist.
    BAD_DESTINATION_QUEUE = 0x8000, "bad_destination_queue", "the destination queue does not exist";
    /// Purged by an operator before it reached its queue.
    PURGED_IN_TRANSIT = 0x8001, "purged_in_transit", "an operator purged the message before it reached its queue";
    /// The time-to-reach-queue ran out.
    REACH_QUEUE_EXPIRED = 0x8002, "time_to_reach_queue_expired", "the time to reach the queue ran out";
    /// The message can never fit the queue's quota.
    QUOTA_EXCEEDED = 0x8003, "queue_quota_exceeded", "the queue's quota does not admit the message";
    /// The destination refuses this sender.
    ACCESS_DENIED = 0x8004, "access_denied", "the destination refuses this sender";
    /// Too many hops.
    HOPS_EXCEEDED = 0x8005, "hop_count_exceeded", "the message travelled over too many nodes";
    /// The signature does not verify.
    BAD_SIGNATURE = 0x8006, "bad_signature", "the signature does not verify";
    /// The encryption cannot be undone.
    BAD_ENCRYPTION = 0x8007, "bad_encryption", "the encryption cannot be undone here";
    /// A transactional message for a queue that is not transactional.
    NOT_TRANSACTIONAL_QUEUE = 0x8009, "not_transactional_queue", "the queue is not transactional and the message is";
    /// A non-transactional message for a transactional queue.
    NOT_TRANSACTIONAL_MESSAGE = 0x800A, "not_transactional_message", "the queue is transactional and the message is not";
    /// The identity of the source changed.
    SOURCE_CHANGED = 0x800C, "source_identity_changed", "the identity of the source changed";
    /// The queue was deleted before the message was received.
    QUEUE_DELETED = 0xC000, "queue_deleted", "the queue was deleted before the message was received";
    /// Purged from the destination queue.
    QUEUE_PURGED = 0xC001, "queue_purged", "an operator purged the message from its queue";
    /// The time-to-be-received ran out.
    RECEIVE_EXPIRED = 0xC002, "time_to_be_received_expired", "the time to be received ran out";
    /// The application rejected the message.
    REJECTED_BY_RECEIVER = 0xC004, "rejected_by_receiver", "the receiving application rejected the message";
    /// The tag does not match: the message was damaged.
    DAMAGED = 0x9001, "damaged", "the message's tag does not match its content";
    /// The body is larger than the node accepts.
    BODY_TOO_LARGE = 0x9002, "body_over_limit", "the body is larger than the node accepts";
    /// No common protocol version.
    VERSION = 0x9003, "version", "the peer speaks no protocol version this node speaks";
    /// The idempotency key was used before with other content.
    IDEMPOTENCY_CONFLICT = 0x9004, "idempotency_conflict", "the idempotency key was used before with other content";
    /// The destination name cannot be understood or resolved.
    BAD_DESTINATION_NAME = 0x9005, "bad_destination_name", "the destination name cannot be understood";
    /// The node's store is full.
    STORE_FULL = 0x9006, "store_full", "the node's disk or quota is full";
    /// The node's store failed; nothing further is accepted until it restarts.
    STORE_FAILED = 0x9007, "store_failed", "the node's store failed and must be reopened";
    /// The feature is not offered by this version.
    UNSUPPORTED = 0x9008, "unsupported", "this version does not offer the requested feature";
    /// The peer's key is not the one pinned for its address.
    WRONG_IDENTITY = 0x9009, "wrong_identity", "another queue manager answers at this address";
    /// The peer has not approved this node.
    PENDING_APPROVAL = 0x900A, "pending_approval", "the peer has not approved this node yet";
    /// A frame breaks the protocol.
    PROTOCOL = 0x900B, "protocol", "the peer broke the protocol";
    /// The node is stopping.
    STOPPING = 0x900C, "stopping", "the node is stopping";
    /// Superseded by another session of the same pair.
    SUPERSEDED = 0x900D, "superseded", "another session of the same pair of nodes took over";
    /// The session was idle.
    IDLE = 0x900E, "idle", "nothing was sent for a while";
    /// The peer is blocked by the operator.
    BLOCKED = 0x900F, "blocked", "the operator blocked this peer";
    /// The oldest messages of a full queue make room by its policy.
    DROPPED_OLDEST = 0x9010, "dropped_oldest", "a full queue made room by its policy";
    /// Too many requests of one client are unanswered.
    BUSY = 0x9011, "busy", "too many unanswered requests";
    /// A request of the application is malformed.
    BAD_REQUEST = 0x9012, "bad_request", "the request is malformed";
    /// The named thing does not exist.
    NOT_FOUND = 0x9013, "not_found", "there is nothing of that name";
    /// The delivery is no longer leased to this client.
    LEASE_LOST = 0x9014, "lease_lost", "the lease on the message ran out or was given back";
    /// A message came back too often and went to the poison subqueue.
    POISON = 0x9015, "poison", "the message was given back too often";
    /// The transaction is not open: the node ended it, or its connection is gone.
    TRANSACTION_ABORTED = 0x9016, "transaction_aborted", "the transaction is not open any more; nothing of it happened";
    /// The transaction holds as much as a transaction may.
    TRANSACTION_TOO_LARGE = 0x9017, "transaction_too_large", "the transaction holds as much as one may";
    /// Its sender gave the message up, and the destination promised never to take it.
    VOIDED = 0x9018, "voided", "its sender gave the message up; its destination does not take it any more";
    /// Nobody can tell what became of a message after it had arrived.
    END_UNKNOWN = 0x9019, "end_unknown", "it arrived; what became of it there nobody can tell any more";
}

impl Outcome {
    /// The outcome of a stable name, or of four hexadecimal digits.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(known) = Self::ALL.iter().find(|known| known.name() == Some(name)) {
            return Some(*known);
        }
        let hex = name.len() == 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u16::from_str_radix(name, 16).ok().map(Self))
            .flatten()
    }

    /// Whether the code tells of success.
    #[must_use]
    pub const fn is_positive(self) -> bool {
        matches!(self, Self::REACHED_QUEUE | Self::RECEIVED)
    }

    /// Whether it is of a message that had arrived in its queue, whatever became of it there.
    #[must_use]
    pub const fn is_of_arrived(self) -> bool {
        self.is_positive() || self.0 & 0xF000 == 0xC000
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{:04X} {name}", self.0),
            None => write!(f, "{:04X}", self.0),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique() {
        for (n, a) in Outcome::ALL.iter().enumerate() {
            for b in Outcome::ALL.iter().skip(n + 1) {
                assert_ne!(a.0, b.0);
                assert_ne!(a.name(), b.name());
            }
        }
        for outcome in Outcome::ALL {
            assert_eq!(outcome.name().and_then(Outcome::from_name), Some(*outcome));
        }
        assert_eq!(
            Outcome::from_name("800a"),
            Some(Outcome::NOT_TRANSACTIONAL_MESSAGE)
        );
        assert_eq!(Outcome::from_name("+80a"), None);
        assert_eq!(Outcome(0x1234).name(), None);
        assert_eq!(
            Outcome::QUOTA_EXCEEDED.to_string(),
            "8003 queue_quota_exceeded"
        );
    }
}
