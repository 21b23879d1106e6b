//! Frames between queue managers over QUIC, with raw public keys as identities.
#![forbid(unsafe_code)]

mod budget;
mod cid;
mod config;
mod dial;
mod endpoint;
mod error;
mod event;
mod framing;
mod key;
mod lane;
mod link;
pub mod memory;
mod quic;
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
