//! Frames between queue managers over QUIC, with raw public keys as identities.
//!
//! An [`Endpoint`] is a node's place on the network. It dials and is dialled, proves who it is,
//! learns who the others are, and moves runs of whole frames over the lanes of each link. It is
//! told what to do by method calls that never wait, and tells what happened by [`Event`]s.
//!
//! It is *not* a session layer: it neither retries a dial, nor keeps what a broken link had in
//! flight, nor understands a frame beyond its header (magic, version, length). It knows no queue
//! and no disk, and nobody who uses it sees QUIC or TLS.
//!
//! ```
//! use qm_transport::{Endpoint, EndpointConfig, Event, Lane, NodeKey};
//! # fn frame() -> bytes::Bytes {
//! #     bytes::Bytes::from_static(b"QM\x01\x10\0\0\0\0\x02\0\0\0\0\0\0\0hi")
//! # }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let config =
//!     EndpointConfig { listen: "127.0.0.1:0".parse().unwrap(), ..EndpointConfig::default() };
//! let (events, mut told_a) = tokio::sync::mpsc::unbounded_channel();
//! let a = Endpoint::bind(config.clone(), &NodeKey::generate([1; 32]), events).await.unwrap();
//! let (events, mut told_b) = tokio::sync::mpsc::unbounded_channel();
//! let key_b = NodeKey::generate([2; 32]);
//! let b = Endpoint::bind(config, &key_b, events).await.unwrap();
//!
//! let address = b.local_addr().unwrap().to_string();
//! a.dial(1, &address, Some(key_b.qm_id()));
//! let Some(Event::Connected { link, peer, .. }) = told_a.recv().await else { panic!() };
//! assert_eq!(peer, key_b.qm_id());
//!
//! a.send(link, Lane::Priority(3), frame());
//! let Some(Event::Connected { .. }) = told_b.recv().await else { panic!() };
//! let Some(Event::Received { lane, frames, .. }) = told_b.recv().await else { panic!() };
//! assert_eq!((lane, frames), (Lane::Priority(3), frame()));
//!
//! a.close(link, 0, "done");
//! a.shutdown().await;
//! # });
//! ```
//!
//! # The types to know
//!
//! [`NodeKey`] is who we are. [`EndpointConfig`] is what an operator may set. [`Endpoint`] does
//! it all; [`Event`] is its answer. [`Lane`] is where a frame travels, [`LinkId`] with whom.
//! [`Held`] is how received bytes are given back. [`memory::Network`] replaces the sockets in
//! simulations.
//!
//! # Guarantees
//!
//! * **Identity.** Both sides prove in TLS 1.3 that they hold the Ed25519 key (RFC 7250) from
//!   which their QMId is computed. There is no resumption and no early data that would skip it.
//!   Whether a peer *may* talk is decided above.
//! * **Order.** The frames of one lane of one link arrive in order, each whole and at most once,
//!   without gaps; the lanes do not wait for each other. A link that ends may have lost a tail of
//!   every lane, and only the peer's acknowledgements in frames tell how much.
//! * **Events.** A link tells `Connected` first, `Closed` last, and each once. A dial is answered
//!   once.
//! * **Back-pressure.** A peer that sends faster than the node handles is stopped by QUIC's flow
//!   control once [`received_bytes_max`](EndpointConfig::received_bytes_max) is held. Message
//!   lanes that are stopped leave the control and ack lanes their own room. What is held must be
//!   given back without waiting for a *message* of the same link, or both wait for ever.
//! * **Hostile peers.** A length is believed only up to its limit, and memory follows what really
//!   arrived. Bytes that are no frames end their link with a code, never the process. The memory
//!   of one link is bounded ([`EndpointConfig`]), as are links and handshakes ([`Limits`]); a node
//!   that strangers may dial should also set
//!   [`stranger_window_bytes`](EndpointConfig::stranger_window_bytes).
//! * **Moves.** When the peer's address changes under way (NAT, another network), the link goes
//!   on. When the peer's process is restarted at the same address, its first packet ends the link,
//!   so that it can be dialled again at once and not after the idle timeout.
//!
//! # Cost
//!
//! Hand over frames in batches: up to 64 KiB travel as cheaply as one. Every received byte is
//! copied once, into a buffer of the run's own size, so that keeping a frame keeps no datagram
//! buffers alive. `cargo bench -p qm-transport` compares with TCP.
#![forbid(unsafe_code)]

mod budget;
mod cid;
mod config;
mod dial;
mod endpoint;
mod error;
mod event;
mod framing;
mod gate;
mod key;
mod lane;
mod link;
pub mod memory;
mod quic;
mod quiet;
mod stats;
mod tls;

pub use budget::Held;
pub use config::{EndpointConfig, Limits};
pub use endpoint::Endpoint;
pub use error::{BindError, CloseReason, DialError};
pub use event::{Event, LinkId};
pub use framing::FramingError;
pub use key::{KeyError, NodeKey, fingerprint, verify};
pub use lane::Lane;
pub use stats::LinkStats;
