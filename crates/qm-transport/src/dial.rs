//! Dialling: resolve, try each address, say precisely what went wrong.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use qm_wire::QmId;
use quinn::{ConnectError, ConnectionError};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::endpoint::{Resolver, Shared};
use crate::error::DialError;
use crate::link::{canonical, printable};
use crate::quic::code;
use crate::tls::{SeenKey, server_name};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// TLS alerts travel as QUIC errors 0x100 + alert (RFC 9001, section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// RFC 7301, section 3.2.
const ALERT_NO_APPLICATION_PROTOCOL: u64 = CRYPTO_ERROR + 120;
/// RFC 8446, section 6.2.
const ALERT_PROTOCOL_VERSION: u64 = CRYPTO_ERROR + 70;
/// RFC 9000, section 20.1.
const CONNECTION_REFUSED: u64 = 0x02;

/// Dials `address` until one of the places it stands for answers as `expected`.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    own: QmId,
    address: &str,
    expected: Option<QmId>,
) -> Result<quinn::Connection, DialError> {
    let remotes = resolve(&shared.resolver, address).await?;
    let mut worst: Option<DialError> = None;
    let last = remotes.len().saturating_sub(1);
    for (at, remote) in remotes.into_iter().enumerate() {
        // A family or an address that is silently dropped on the way must not hold up the next.
        let share = if at == last { 1 } else { 4 };
        let patience = shared.config.handshake_timeout / share;
        match dial_one(shared, own, (remote, expected), patience).await {
            Ok(connection) => return Ok(connection),
            Err(DialError::ShutDown) => return Err(DialError::ShutDown),
            Err(error) => {
                if worst
                    .as_ref()
                    .is_none_or(|worst| worst.weight() < error.weight())
                {
                    worst = Some(error);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| unresolved(address, "the name has no address")))
}

async fn resolve(resolver: &Resolver, address: &str) -> Result<Vec<SocketAddr>, DialError> {
    // A literal needs no resolver, and asks no blocking thread.
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    if address
        .rsplit_once(':')
        .is_none_or(|(host, port)| host.is_empty() || port.is_empty())
    {
        return Err(unresolved(
            address,
            "expected host:port, with IPv6 literals in brackets",
        ));
    }
    match resolver {
        Resolver::System => {
            let name = address.to_owned();
            let look_up = async move {
                let found = tokio::net::lookup_host(name).await?;
                io::Result::Ok(found.take(ADDRESSES_MAX).collect())
            };
            // A task of its own: where the system gives it no thread, looking up panics, and that
            // must end the dial and not its task, which tells how it ended.
            match tokio::spawn(look_up).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(unresolved(address, &error.to_string())),
                Err(_panic) => Err(unresolved(address, "no thread to look it up with")),
            }
        }
        Resolver::Memory(network) => match network.resolve(address) {
            Some(found) => Ok(vec![found]),
            None => Err(unresolved(address, "unknown name")),
        },
    }
}

fn unresolved(address: &str, reason: &str) -> DialError {
    DialError::Resolve {
        address: address.to_owned(),
        reason: reason.to_owned(),
    }
}

async fn dial_one(
    shared: &Arc<Shared>,
    own: QmId,
    (remote, expected): (SocketAddr, Option<QmId>),
    patience: Duration,
) -> Result<quinn::Connection, DialError> {
    let tls = |reason: String| DialError::Tls { remote, reason };
    let (crypto, seen) = shared
        .keys()
        .tls
        .dial(own, expected)
        .map_err(|e| tls(e.to_string()))?;
    let connecting = shared
        .quinn
        .connect_with(shared.client.config(crypto), remote, &server_name(expected))
        .map_err(|error| match error {
            ConnectError::EndpointStopping => DialError::ShutDown,
            ConnectError::InvalidRemoteAddress(_) => DialError::Unreachable {
                remote,
                reason: "this endpoint does not listen on that address family".to_owned(),
            },
            error => tls(error.to_string()),
        })?;
    let probed = matches!(shared.resolver, Resolver::System);
    tokio::select! {
        biased;
        connected = timeout(patience, connecting) => match connected {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(classify(remote, error, expected, &seen)),
            Err(_elapsed) => Err(DialError::Timeout { remote }),
        },
        error = probe(remote), if probed => Err(error),
    }
}

/// Finds out at once what QUIC would learn only by silence; pending if there is nothing to tell.
///
/// QUIC's socket is not connected to one peer, so the operating system tells it nothing of ICMP.
/// A socket of our own sends one byte that is no QUIC packet, and that every QUIC endpoint drops.
async fn probe(remote: SocketAddr) -> DialError {
    let local: SocketAddr = match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let found = async {
        let socket = UdpSocket::bind(local).await?;
        socket.connect(remote).await?;
        socket.send(&[0]).await?;
        // Nobody answers; what comes back is an error or nothing.
        let mut buffer = [0; 1];
        loop {
            socket.recv(&mut buffer).await?;
        }
    };
    let error: Result<core::convert::Infallible, io::Error> = found.await;
    let Err(error) = error;
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
            DialError::Refused { remote }
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            DialError::Unreachable {
                remote,
                reason: error.to_string(),
            }
        }
        _ => core::future::pending().await,
    }
}

fn classify(
    remote: SocketAddr,
    error: ConnectionError,
    expected: Option<QmId>,
    seen: &SeenKey,
) -> DialError {
    let remote = canonical(remote);
    let reason = printable(error.to_string().as_bytes());
    if let (Some(expected), Some(found)) = (expected, seen.qm_id())
        && expected != found
    {
        return DialError::WrongIdentity {
            remote,
            expected,
            found,
        };
    }
    let quic_code = match &error {
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    match (error, quic_code) {
        (ConnectionError::TimedOut, _) => DialError::Timeout { remote },
        (ConnectionError::LocallyClosed, _) => DialError::ShutDown,
        (ConnectionError::VersionMismatch, _)
        | (_, Some(ALERT_NO_APPLICATION_PROTOCOL | ALERT_PROTOCOL_VERSION)) => {
            DialError::Version { remote, reason }
        }
        (_, Some(CONNECTION_REFUSED)) => DialError::Busy { remote },
        (ConnectionError::ApplicationClosed(close), _)
            if close.error_code.into_inner() == code::TOO_MANY =>
        {
            DialError::Busy { remote }
        }
        _ => DialError::Tls { remote, reason },
    }
}
