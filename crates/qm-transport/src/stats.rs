//! Counters of a link, for operators.

use std::net::SocketAddr;
use std::time::Duration;

use qm_wire::QmId;

use crate::link::canonical;

/// The state of a link's path at one moment; see [`Endpoint::stats`](crate::Endpoint::stats).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Who is at the other end.
    pub peer: QmId,
    /// Where.
    pub remote: SocketAddr,
    /// Estimated round trip.
    pub round_trip: Duration,
    /// Datagram size in use, without IP and UDP headers.
    pub mtu_bytes: u16,
    /// Bytes the congestion control allows in flight.
    pub congestion_window_bytes: u64,
    /// Bytes in datagrams sent, with QUIC's own headers and repetitions.
    pub sent_bytes: u64,
    /// Bytes in datagrams received.
    pub received_bytes: u64,
    /// Packets taken for lost and sent again.
    pub lost_packets: u64,
    /// Bytes given to [`send`](crate::Endpoint::send) that QUIC has not taken over yet.
    pub queued_bytes: u64,
}

impl LinkStats {
    pub(crate) fn new(peer: QmId, connection: &quinn::Connection, queued_bytes: u64) -> Self {
        let stats = connection.stats();
        Self {
            peer,
            remote: canonical(connection.remote_address()),
            round_trip: stats.path.rtt,
            mtu_bytes: stats.path.current_mtu,
            congestion_window_bytes: stats.path.cwnd,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            queued_bytes,
        }
    }
}
