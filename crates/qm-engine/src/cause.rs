//! Every cause that can hold a message, a queue or a destination.

macro_rules! causes {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal;)*) => {
        /// Why something does not move, or where it went: what `why` answers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Cause {
            $($(#[doc = $doc])* $name,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

causes! {
    /// The host name does not resolve.
    Unresolved = "unresolved";
    /// Nothing listens at the address.
    Refused = "refused";
    /// Nothing answers at the address.
    Unreachable = "unreachable";
    /// Another identity than the pinned one answers.
    WrongIdentity = "wrong_identity";
    /// The secure handshake fails.
    Handshake = "handshake";
    /// No common version of the protocol.
    Version = "version";
    /// This node has no network.
    NetworkFailed = "network_failed";
    /// No address is known for the peer.
    NoAddress = "no_address";
    /// A connection is being made.
    Connecting = "connecting";
    /// The connection ended; the next one is due.
    Disconnected = "disconnected";
    /// The other node stopped in order.
    PeerStopping = "peer_stopping";
    /// The other node has too many peers that await approval.
    PeerBusy = "peer_busy";
    /// The other node has not approved this one.
    PendingApproval = "pending_approval";
    /// The other node's operator blocked this one.
    Blocked = "blocked";
    /// This node's operator blocked the peer.
    BlockedHere = "blocked_here";
    /// The destination queue is at its quota.
    QueueFull = "queue_full";
    /// The other node grants no credit.
    NoCredit = "no_credit";
    /// Transmitted, and no acknowledgement came yet.
    WaitingForAck = "waiting_for_ack";
    /// Transmitted before a connection or a life ended; the destination is asked.
    InDoubt = "in_doubt";
    /// The transactional stream stands: an operator decides whether it begins anew.
    StreamHeld = "stream_held";
    /// Transmission is paused by an operator here.
    Paused = "paused";
    /// Messages of this subject move.
    Moving = "moving";
    /// It waits behind older messages, or such of higher priority.
    Behind = "behind";
    /// Nothing waits.
    Idle = "idle";
    /// The disk of this node, or a limit of it, is full.
    StoreFull = "store_full";
    /// The disk of this node has not confirmed a write for long.
    DiskSlow = "disk_slow";
    /// Records on the disk of this node cannot be read.
    Damaged = "damaged";
    /// This node is stopping.
    Stopping = "stopping";
    /// The queue of this node is at its quota.
    QuotaHere = "quota_here";
    /// Receivers of the queue are held back by an operator.
    QueuePaused = "queue_paused";
    /// The queue is being deleted.
    Deleting = "deleting";
    /// Messages wait and no application receives.
    NoReceiver = "no_receiver";
    /// An application holds it.
    Leased = "leased";
    /// The queue is empty.
    Empty = "empty";
    /// Another live machine has this node's identity.
    OwnTwin = "own_twin";
    /// A copy had this node's identity, and has one of its own now.
    CopyParted = "copy_parted";
    /// An identity that this node had before.
    Former = "former_identity";
    /// Its time ran out.
    Expired = "expired";
    /// There is no such queue at the destination.
    UnknownQueue = "unknown_queue";
    /// The queue takes transactional messages only, or none of them.
    QueueType = "queue_type";
    /// An operator removed it.
    Purged = "purged";
    /// It is dead for another reason.
    Dead = "dead";
    /// Its destination has it.
    Delivered = "delivered";
    /// Its destination has it, and is to tell what becomes of it there.
    AwaitingEnd = "awaiting_end";
    /// An application consumed it.
    Received = "received";
    /// It was settled here; how is no longer remembered.
    Settled = "settled";
    /// Nothing here has this name.
    Unknown = "unknown";
}

impl From<crate::io::DialFailure> for Cause {
    fn from(failure: crate::io::DialFailure) -> Self {
        use crate::io::DialFailure;
        match failure {
            DialFailure::Unresolved => Self::Unresolved,
            DialFailure::Refused => Self::Refused,
            DialFailure::Unreachable => Self::Unreachable,
            DialFailure::WrongIdentity => Self::WrongIdentity,
            DialFailure::Handshake => Self::Handshake,
            DialFailure::Version => Self::Version,
        }
    }
}

impl Cause {
    /// The cause behind a dead letter's reason.
    pub(crate) fn of_death(outcome: qm_wire::Outcome) -> Self {
        use qm_wire::Outcome;
        match outcome {
            Outcome::REACH_QUEUE_EXPIRED | Outcome::RECEIVE_EXPIRED => Self::Expired,
            Outcome::BAD_DESTINATION_QUEUE => Self::UnknownQueue,
            Outcome::NOT_TRANSACTIONAL_QUEUE | Outcome::NOT_TRANSACTIONAL_MESSAGE => {
                Self::QueueType
            }
            Outcome::PURGED_IN_TRANSIT | Outcome::QUEUE_PURGED | Outcome::QUEUE_DELETED => {
                Self::Purged
            }
            _ => Self::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_what_each_word_means() {
        let page = include_str!("../../../docs/operations.md");
        let rows = || page.lines().filter(|line| line.starts_with("| `"));
        for cause in Cause::ALL {
            let word = format!("`{}`", cause.name());
            assert!(rows().any(|row| row.contains(&word)), "{word}");
        }
    }

    #[test]
    fn words_are_unique() {
        for (n, a) in Cause::ALL.iter().enumerate() {
            assert!(Cause::ALL.iter().skip(n + 1).all(|b| a.name() != b.name()));
        }
    }
}
