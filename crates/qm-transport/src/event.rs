//! What an endpoint tells its node.

use core::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use qm_wire::QmId;

use crate::budget::Held;
use crate::error::{CloseReason, DialError};
use crate::lane::Lane;

/// One connection with one peer, named by a number that its endpoint never uses twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {}", self.0)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({})", self.0)
    }
}

/// One thing that happened at an [`Endpoint`](crate::Endpoint).
///
/// Every link begins with one `Connected` and ends with one `Closed`; all its other events lie
/// between the two. Every [`dial`](crate::Endpoint::dial) is answered by one `Connected` or one
/// `DialFailed`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A link is open, and the peer has proved to hold the key of `peer`.
    Connected {
        /// The new link.
        link: LinkId,
        /// Who is at the other end; may be ourselves.
        peer: QmId,
        /// The peer's whole public key, for allow-lists.
        public_key: [u8; 32],
        /// The identity that this endpoint proved.
        own: QmId,
        /// Where the peer is at the moment.
        remote: SocketAddr,
        /// The number given to `dial`; `None` if the peer dialled.
        dial: Option<u64>,
    },
    /// A dial did not lead to a link.
    DialFailed {
        /// The number given to `dial`.
        dial: u64,
        /// Why.
        error: DialError,
    },
    /// Frames arrived, in the order the peer sent them on that lane.
    Received {
        /// The link.
        link: LinkId,
        /// The lane.
        lane: Lane,
        /// One or more whole frames, one behind the other. Magic, version and length were
        /// checked; checksums and contents were not.
        frames: Bytes,
        /// Gives the bytes back when dropped; see [`Held`].
        held: Held,
    },
    /// The peer is now at another address (NAT rebinding, another network); the link goes on.
    AddressChanged {
        /// The link.
        link: LinkId,
        /// Where the peer is now.
        remote: SocketAddr,
    },
    /// A link has ended. What was still queued for it was not, or not certainly, received.
    Closed {
        /// The link.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
}
