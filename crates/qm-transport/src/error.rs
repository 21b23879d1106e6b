//! What can go wrong, said so that an operator can act on it.

use std::io;
use std::net::SocketAddr;

use qm_wire::QmId;

use crate::framing::FramingError;

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process, or another node of this process, has the port.
    #[error("UDP address {listen} is in use; stop the other process or choose another port")]
    AddressInUse {
        /// The address that was asked for.
        listen: SocketAddr,
    },
    /// No interface of this machine has the address.
    #[error("UDP address {listen} does not belong to this machine; choose one of its own")]
    AddressNotAvailable {
        /// The address that was asked for.
        listen: SocketAddr,
    },
    /// The operating system refuses the port.
    #[error("no permission for UDP address {listen}; ports below 1024 usually need a privilege")]
    PermissionDenied {
        /// The address that was asked for.
        listen: SocketAddr,
    },
    /// Any other failure of the socket.
    #[error("cannot open UDP socket {listen}: {source}")]
    Io {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Entropy,
    /// A setting makes no sense.
    #[error("bad transport setting: {rule}")]
    Config {
        /// The rule that does not hold.
        rule: &'static str,
    },
    /// The key cannot be used for TLS.
    #[error("the node's key cannot be used for TLS: {reason}")]
    Key {
        /// What the TLS library said.
        reason: String,
    },
}

impl BindError {
    pub(crate) fn io(listen: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { listen },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable { listen },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { listen },
            _ => Self::Io { listen, source },
        }
    }
}

/// Why a dial did not lead to a link.
///
/// When a name has several addresses, all are tried and the most telling error is reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address is not `host:port`, or the name is unknown.
    #[error("cannot resolve {address}: {reason}")]
    Resolve {
        /// The address as given.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The machine answers that nothing listens on that UDP port.
    #[error("{remote} refuses: no process listens on that UDP port; is the node running?")]
    Refused {
        /// The address tried.
        remote: SocketAddr,
    },
    /// This machine has no way to the address.
    #[error("{remote} cannot be reached: {reason}")]
    Unreachable {
        /// The address tried.
        remote: SocketAddr,
        /// What the operating system said.
        reason: String,
    },
    /// No answer in time: nothing there, or a firewall drops UDP.
    #[error("{remote} did not answer in time; nothing there, or UDP is blocked on the way")]
    Timeout {
        /// The address tried.
        remote: SocketAddr,
    },
    /// The peer is another queue manager than the one asked for.
    #[error(
        "{remote} is {found}, expected {expected}; another node has that address, or it has a new key"
    )]
    WrongIdentity {
        /// The address tried.
        remote: SocketAddr,
        /// The id that was asked for.
        expected: QmId,
        /// The id whose key the peer showed.
        found: QmId,
    },
    /// The peer does not speak this protocol in a version we know.
    #[error("{remote} speaks no protocol version we know ({reason}); upgrade the older node")]
    Version {
        /// The address tried.
        remote: SocketAddr,
        /// What differed.
        reason: String,
    },
    /// The handshake failed otherwise.
    #[error("handshake with {remote} failed: {reason}")]
    Tls {
        /// The address tried.
        remote: SocketAddr,
        /// What the TLS or QUIC library said.
        reason: String,
    },
    /// The peer does not want more connections now.
    #[error("{remote} has no room for another connection; try again later")]
    Busy {
        /// The address tried.
        remote: SocketAddr,
    },
    /// A limit of this endpoint: too many links, or too many with this peer.
    #[error("too many links: {limit}")]
    TooMany {
        /// Which limit.
        limit: &'static str,
    },
    /// This endpoint is shut down.
    #[error("the endpoint is shut down")]
    ShutDown,
}

impl DialError {
    /// How much the error tells, to choose one among several addresses.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::WrongIdentity { .. } => 7,
            Self::Version { .. } => 6,
            Self::Tls { .. } => 5,
            Self::Busy { .. } => 4,
            Self::Refused { .. } => 3,
            Self::Timeout { .. } => 2,
            Self::Unreachable { .. } => 1,
            Self::Resolve { .. } | Self::TooMany { .. } | Self::ShutDown => 0,
        }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side called [`Endpoint::close`](crate::Endpoint::close).
    #[error("closed here with code {code}: {reason}")]
    Local {
        /// The code given.
        code: u32,
        /// The text given.
        reason: String,
    },
    /// The peer called [`Endpoint::close`](crate::Endpoint::close). Code and text travel in a
    /// packet that is not repeated for long: if it is lost, the link ends as
    /// [`Reset`](Self::Reset) instead, some two seconds after the last lane. What must be known
    /// belongs in a frame sent before.
    #[error("closed by the peer with code {code}: {reason}")]
    Peer {
        /// The code it gave.
        code: u32,
        /// The text it gave, at most 1 KiB, made printable.
        reason: String,
    },
    /// This endpoint was shut down or dropped.
    #[error("this endpoint was shut down")]
    ShutDown,
    /// The peer's endpoint was shut down.
    #[error("the peer's endpoint was shut down")]
    PeerShutDown,
    /// The peer sent something that is no run of frames.
    #[error("the peer broke the framing: {0}")]
    Misbehaved(FramingError),
    /// The peer says that we sent something that is no run of frames.
    #[error("the peer says that we broke the framing: {reason}")]
    Accused {
        /// Its explanation, at most 1 KiB, made printable.
        reason: String,
    },
    /// The peer left too much of what was sent to it unread.
    #[error("the peer leaves what is sent to it unread: {bytes} bytes")]
    Unread {
        /// How much had gathered here.
        bytes: u64,
    },
    /// The peer has too many links.
    #[error("the peer has too many links: {reason}")]
    PeerTooMany {
        /// Its explanation, at most 1 KiB, made printable.
        reason: String,
    },
    /// Nothing came for the idle timeout: the peer or the path is gone.
    #[error("nothing came from the peer for the idle timeout; it stopped, or the path is cut")]
    TimedOut,
    /// The peer has no memory of this link: it restarted, or closed it and the news was lost.
    #[error("the peer does not know this link any more; it restarted")]
    Reset,
    /// The QUIC layer ended the link.
    #[error("QUIC error: {reason}")]
    Quic {
        /// What the QUIC library said.
        reason: String,
    },
}
