//! An engine with its insides open, for the tests beside the code that fill a table up to its
//! limit: message by message that would take minutes.

use bytes::Bytes;
use qm_wire::{
    Class, Entry, INFINITE_MS, Incarnation, MessageFlags, MessageId, MessageKey, QmId, Tag,
};

use crate::backlog::Message;
use crate::config::{EngineConfig, Trust};
use crate::engine::{Engine, Identity};
use crate::entropy::SeededEntropy;
use crate::identity::TokenKey;
use crate::io::{LinkId, Output, Recovered};
use crate::peers::{Approval, PeerRecord};
use crate::session::Session;
use crate::time::{Now, Timestamp};

/// One that trusts everybody and knows nobody.
pub(crate) fn engine() -> Engine {
    let config = EngineConfig {
        trust: Trust::Any,
        ..EngineConfig::default()
    };
    let public_key = [1; 32];
    let me = Identity {
        qm: QmId::from_ed25519_public_key(&public_key),
        public_key,
        store_id: [1; 16],
        token_key: TokenKey::new(public_key),
    };
    let entropy = Box::new(SeededEntropy::new(1));
    Engine::new(config, me, Recovered::default(), entropy, Now::default())
}

pub(crate) const fn qm(n: usize) -> QmId {
    let [.., a, b, c, d] = (n as u64).to_be_bytes();
    QmId::from_bytes([7, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub(crate) const fn id(sequence: u64) -> MessageId {
    MessageId {
        incarnation: Incarnation(7),
        sequence,
    }
}

pub(crate) const fn entry(sequence: u64) -> Entry {
    Entry {
        id: id(sequence),
        tag: Tag([3; 8]),
    }
}

/// A message of a sender.
pub(crate) const fn key(source: usize, sequence: u64) -> MessageKey {
    MessageKey {
        source: qm(source),
        entry: entry(sequence),
    }
}

/// Gives a peer that may be listened to a session.
pub(crate) fn session(engine: &mut Engine, link: LinkId, peer: QmId) {
    let ends = (engine.qm_id(), peer);
    let remote = "10.0.0.9:1801".parse().expect("an address");
    let life = (1, engine.incarnation());
    let session = Session::new(link, ends, remote, false, Timestamp(0), life);
    engine.sessions.insert(link, session);
    let record = PeerRecord::new([0; 32], Approval::Approved);
    engine.peers.known.insert(peer, record);
}

/// What the engine wants to happen now.
pub(crate) fn outputs(engine: &mut Engine) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(output) = engine.poll(Now::default()) {
        outputs.push(output);
    }
    outputs
}

/// A transactional message of this node that waits, or may have been transmitted.
pub(crate) fn transactional(source: QmId, sequence: u8, transmitted: bool) -> Message {
    Message {
        position: 0,
        source,
        id: entry(u64::from(sequence)).id,
        tag: Tag([sequence; 8]),
        class: Class::Transactional,
        flags: MessageFlags::DEAD_LETTER,
        at: Timestamp(0),
        wall_us: 0,
        reach_left_ms: INFINITE_MS,
        receive_left_ms: INFINITE_MS,
        aborts: 0,
        transmitted,
        envelope: Bytes::new(),
        body: Bytes::new(),
    }
}
