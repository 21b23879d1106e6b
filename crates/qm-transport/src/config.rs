//! What an operator may set, with the defaults.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use qm_wire::limits::{FRAME_BODY_BYTES_DEFAULT, FRAME_HEADER_BYTES};

use crate::error::BindError;
use crate::lane::LANES;

/// Largest datagram quinn can send ten of in one call: ten of more than this exceed 64 KiB, the
/// call fails, and the failure is taken for a black hole in the path.
const MTU_MAX: u16 = 6500;
/// Less would make every batch wait for the peer.
const WINDOW_MIN: u32 = 64 << 10;
/// Smallest datagram QUIC promises to carry (RFC 9000, section 14).
const MTU_MIN: u16 = 1200;

/// Settings of an [`Endpoint`](crate::Endpoint).
///
/// The memory one link may cost is bounded by
/// `connection_window_bytes + received_bytes_max + steering_bytes_max + send_window_bytes`
/// plus one unfinished frame of `max_frame_bytes` per lane, plus what the caller itself queues.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Address of the UDP socket; `[::]` takes IPv4 as well. Default `[::]:0`.
    pub listen: SocketAddr,
    /// Longest frame accepted, header included; frames without a message, and all frames of the
    /// control and ack lanes, are limited to
    /// [`CONTROL_BYTES_MAX`](qm_wire::limits::CONTROL_BYTES_MAX) as well. Default: a message of
    /// 4 MiB ([`FRAME_BODY_BYTES_DEFAULT`]).
    pub max_frame_bytes: usize,
    /// A link on which nothing arrives for this long is closed. Default 30 s.
    pub idle_timeout: Duration,
    /// A quiet link is probed this often. Default 10 s, a third of the idle timeout.
    pub keep_alive: Duration,
    /// Longest time for an incoming handshake and for a dial; when a name has several addresses,
    /// each but the last gets a quarter of it. Default 10 s.
    pub handshake_timeout: Duration,
    /// Longest time `close` and `shutdown` wait for queued frames to be acknowledged. Default 1 s.
    pub flush_timeout: Duration,
    /// Kernel buffer of the UDP socket, each way; the kernel may grant less. Default 4 MiB.
    pub socket_buffer_bytes: usize,
    /// First datagram size, 1200 to `mtu_max`. Default 1200.
    pub mtu_initial: u16,
    /// Largest datagram size to discover, up to 6500 for jumbo frames. Default 1452.
    pub mtu_max: u16,
    /// Bytes a peer may have in flight on one lane. Default 2 MiB.
    pub stream_window_bytes: u32,
    /// Bytes a peer may have in flight on one link: at least 11 lanes' worth, so that no lane,
    /// read or not, can take another's room. Default 24 MiB.
    pub connection_window_bytes: u32,
    /// The same for sending: bytes QUIC holds until the peer acknowledges them; at least 11 times
    /// the peer's window per lane. Default 24 MiB.
    pub send_window_bytes: u32,
    /// With a value, a new link is a stranger's: only its control and ack lanes are read, and it
    /// may have this much in flight (at least 64 KiB), until
    /// [`trust`](crate::Endpoint::trust) is called. For nodes that anybody may dial: keys cost an
    /// attacker nothing, and each of its links could otherwise take the full memory of one.
    /// Default `None`: every link is trusted from the start.
    pub stranger_window_bytes: Option<u32>,
    /// Reading of message lanes pauses while the node holds this much of a link. Default 8 MiB.
    pub received_bytes_max: usize,
    /// The same for the control and ack lanes, so that messages cannot hold them back.
    /// Default 2 MiB.
    pub steering_bytes_max: usize,
    /// A link on which more than this was given to [`send`](crate::Endpoint::send) and not yet
    /// taken over by QUIC is closed: its peer does not read. Above a window of messages, or peers
    /// that are only slow would be closed. Default 64 MiB.
    pub unread_bytes_max: u64,
    /// The same for all links together: the one that leaves most unread is closed. Default 512 MiB.
    pub unread_bytes_total_max: u64,
    /// Limits against floods.
    pub limits: Limits,
}

/// How much strangers may ask of an endpoint.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open links. Default 4096.
    pub links: usize,
    /// Open links with one identity. Default 16.
    pub links_per_peer: usize,
    /// Open links that came in from one IP address. Default 512: sites share addresses.
    pub links_per_address: usize,
    /// Incoming handshakes under way. From half of it on, callers must first prove that they own
    /// their address (RFC 9000, section 8.1.2). Default 512.
    pub handshakes: usize,
    /// Incoming handshakes under way from one IP address. Default 128.
    pub handshakes_per_address: usize,
    /// Incoming handshakes that may begin in a second; four seconds' worth at once. What comes
    /// faster is not answered, and comes again by itself. Default 256.
    pub handshakes_per_second: u32,
    /// The same for one IPv4 address or one IPv6 network of 64 bits. Default 64.
    pub handshakes_per_second_per_address: u32,
    /// Links that came in and are not [trusted](crate::Endpoint::trust), with
    /// [`stranger_window_bytes`](EndpointConfig::stranger_window_bytes): another one takes the
    /// place of the oldest. Default 256.
    pub strangers: usize,
    /// Dials under way. Default 1024.
    pub dials: usize,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            max_frame_bytes: FRAME_HEADER_BYTES + FRAME_BODY_BYTES_DEFAULT,
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            flush_timeout: Duration::from_secs(1),
            socket_buffer_bytes: 4 << 20,
            mtu_initial: 1200,
            mtu_max: 1452,
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 24 << 20,
            send_window_bytes: 24 << 20,
            stranger_window_bytes: None,
            received_bytes_max: 8 << 20,
            steering_bytes_max: 2 << 20,
            unread_bytes_max: 64 << 20,
            unread_bytes_total_max: 512 << 20,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            links: 4096,
            links_per_peer: 16,
            links_per_address: 512,
            handshakes: 512,
            handshakes_per_address: 128,
            handshakes_per_second: 256,
            handshakes_per_second_per_address: 64,
            strangers: 256,
            dials: 1024,
        }
    }
}

impl EndpointConfig {
    pub(crate) fn check(&self) -> Result<(), BindError> {
        let (mtu_initial, mtu_max) = (self.mtu_initial, self.mtu_max);
        let (stream, connection) = (self.stream_window_bytes, self.connection_window_bytes);
        let stranger = self.stranger_window_bytes.unwrap_or(stream);
        // A lane that nobody reads must not take the room of another.
        let lanes = u64::from(stream) * LANES as u64;
        let rules = [
            (
                self.max_frame_bytes > FRAME_HEADER_BYTES,
                "max_frame_bytes must exceed 16",
            ),
            (
                !self.idle_timeout.is_zero(),
                "idle_timeout must not be zero",
            ),
            (!self.keep_alive.is_zero(), "keep_alive must not be zero"),
            (
                self.keep_alive < self.idle_timeout,
                "keep_alive must be below idle_timeout",
            ),
            (
                !self.handshake_timeout.is_zero(),
                "handshake_timeout must not be zero",
            ),
            (mtu_max <= MTU_MAX, "mtu_max must not exceed 6500"),
            (mtu_initial >= MTU_MIN, "mtu_initial must be at least 1200"),
            (
                mtu_initial <= mtu_max,
                "mtu_initial must not exceed mtu_max",
            ),
            (
                stream >= WINDOW_MIN,
                "stream_window_bytes must be at least 64 KiB",
            ),
            (
                u64::from(connection) >= lanes,
                "connection_window_bytes must be at least 11 times stream_window_bytes",
            ),
            (
                connection < 1 << 30,
                "connection_window_bytes must be below 1 GiB",
            ),
            (
                stranger >= WINDOW_MIN,
                "stranger_window_bytes must be at least 64 KiB",
            ),
            (
                stranger <= connection,
                "stranger_window_bytes must not exceed the full window",
            ),
            (
                u64::from(self.send_window_bytes) >= lanes,
                "send_window_bytes must be at least 11 times stream_window_bytes",
            ),
            (
                self.received_bytes_max > 0,
                "received_bytes_max must not be zero",
            ),
            (
                self.steering_bytes_max > 0,
                "steering_bytes_max must not be zero",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(BindError::Config { rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_nonsense_is_named() {
        EndpointConfig::default().check().unwrap();
        let check = |config: EndpointConfig, named: &str| {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        };
        let default = EndpointConfig::default;
        check(
            EndpointConfig {
                mtu_max: 9000,
                ..default()
            },
            "mtu_max",
        );
        check(
            EndpointConfig {
                keep_alive: Duration::from_secs(31),
                ..default()
            },
            "keep_alive",
        );
        check(
            EndpointConfig {
                stream_window_bytes: 4 << 20,
                ..default()
            },
            "11 times",
        );
        check(
            EndpointConfig {
                stranger_window_bytes: Some(1),
                ..default()
            },
            "stranger",
        );
    }
}
