//! What a node knows of itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use qm_engine::Trust;
use qm_wire::{Incarnation, QmId};

use crate::health::StoreHealth;

/// Facts of a node: who it is and where it can be reached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Display name.
    pub name: String,
    /// Identity, computed from the public key.
    pub qm: QmId,
    /// The Ed25519 public key.
    pub public_key: [u8; 32],
    /// The full digest of the key in base32, by which peers pin it: 52 characters.
    pub fingerprint: String,
    /// This life; zero when the node was only created.
    pub incarnation: Incarnation,
    /// The UDP socket, with the real port.
    pub listen: SocketAddr,
    /// `host:port` that peers can try.
    pub addresses: Vec<String>,
    /// The socket of applications.
    pub socket: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// Whether this start created the identity.
    pub created: bool,
    /// Who may send to the node.
    pub trust: Trust,
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: &'static str,
    /// Why it has no network at present, which is tried again; `None` when it has.
    pub network_failed: Option<String>,
    /// What is known of its disk; shared with the running node.
    pub(crate) health: Arc<StoreHealth>,
}

#[cfg(feature = "__fuzz")]
impl NodeInfo {
    /// A node that never ran.
    #[doc(hidden)]
    #[must_use]
    pub fn of_nobody() -> Self {
        let public_key = [0x42; 32];
        Self {
            name: "nobody".to_owned(),
            qm: QmId::from_ed25519_public_key(&public_key),
            public_key,
            fingerprint: "a".repeat(52),
            incarnation: Incarnation(1),
            listen: ([127, 0, 0, 1], 1801).into(),
            addresses: Vec::new(),
            socket: "/run/qm/node.sock".into(),
            data: "/var/lib/qm".into(),
            created: false,
            trust: Trust::Approve,
            pid: 1,
            version: "0.0.0",
            network_failed: None,
            health: Arc::default(),
        }
    }
}
