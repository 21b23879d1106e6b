//! Requests that applications repeat after a restart get the answers that they had.

use bytes::Bytes;
use qm_engine::limits::{CLIENT_PAGE_RUNS, CLIENT_RUNS_MAX};
use qm_engine::{ConnId, EngineConfig, Input, Now, StoreOp, Timestamp, Trust};
use qm_wire::local::{ClientFrame, ClientHello, NodeFrame, Put};
use qm_wire::{Class, ClientId, Outcome};

use crate::support::Node;

fn say(node: &mut Node, client: u8, frame: ClientFrame) {
    let conn = ConnId(u64::from(client));
    node.give(0, Input::Client { conn, frame });
}

fn hello(node: &mut Node, client: u8) {
    let hello = ClientHello {
        protocol: 1,
        client: ClientId([client; 16]),
        program: "test".into(),
    };
    say(node, client, ClientFrame::Hello(hello));
}

fn put(node: &mut Node, client: u8, sequence: u64) {
    let mut put = Put::new(sequence, "qm://b/orders", Bytes::from_static(b"x"));
    put.class = Class::Recoverable;
    say(node, client, ClientFrame::Put(put));
}

/// How many requests were answered with what was told last, and how many were refused.
fn answered(node: &Node) -> (usize, usize) {
    let (mut accepted, mut refused) = (0, 0);
    for frame in &node.told {
        match frame {
            NodeFrame::Accepted(answer) => accepted += answer.count as usize,
            NodeFrame::Refused(_) => refused += 1,
            _ => {}
        }
    }
    (accepted, refused)
}

/// Neither gets two messages in a row: each message is a run of its own.
#[test]
fn applications_that_take_turns_have_their_whole_window_answered_again() {
    let window = EngineConfig::default().client_window_messages;
    assert_eq!(CLIENT_RUNS_MAX as u64, u64::from(window));
    let mut node = Node::new(1, Trust::Any);
    hello(&mut node, 11);
    hello(&mut node, 12);
    let requests = 2_000;
    for sequence in 1..=requests as u64 {
        put(&mut node, 11, sequence);
        put(&mut node, 12, sequence);
    }
    let stored = node.disk.records.len();
    let mut node = node.restart(Trust::Any);
    hello(&mut node, 11);
    node.told.clear();
    for sequence in 1..=requests as u64 {
        put(&mut node, 11, sequence);
    }
    assert_eq!(answered(&node), (requests, 0));
    assert_eq!(node.disk.records.len(), stored);
}

/// A refusal of the disk takes runs away: that answers were forgotten is known all the same.
#[test]
fn what_was_forgotten_is_not_accepted_again_after_a_restart() {
    let mut node = Node::new(1, Trust::Any);
    hello(&mut node, 11);
    // Gaps in the numbers cannot be kept as one run.
    let requests = (CLIENT_RUNS_MAX + 2 * CLIENT_PAGE_RUNS) as u64;
    node.audits = false;
    for n in 1..=requests {
        put(&mut node, 11, 2 * n);
    }
    node.audits = true;
    node.full = true;
    put(&mut node, 11, 2 * requests + 2);
    node.full = false;
    let stored = node.disk.records.len();
    let mut node = node.restart(Trust::Any);
    hello(&mut node, 11);
    node.told.clear();
    put(&mut node, 11, 2);
    assert!(
        matches!(
            node.told.last(),
            Some(NodeFrame::Refused(refused)) if refused.outcome == Outcome::BAD_REQUEST
        ),
        "{:?}",
        node.told
    );
    assert_eq!(node.disk.records.len(), stored);
}

/// A batch of the store is no larger than it may be, however much is forgotten at once.
#[test]
fn many_applications_are_forgotten_in_several_batches() {
    const BATCH: usize = 4 << 10;
    const APPLICATIONS: u8 = 200;
    let mut node = Node::new(1, Trust::Any);
    let mut config = crate::support::config(Trust::Any);
    config.batch_bytes_max = BATCH;
    let retention = config.outcome_retention_ms;
    for client in 1..=APPLICATIONS {
        hello(&mut node, client);
        put(&mut node, client, 1);
    }
    let mut node = node.restart_with(config);
    node.batches.clear();
    node.give(retention * 3, Input::Tick);
    let clients = |key: &&Bytes| key.starts_with(b"client/");
    assert_eq!(node.disk.state.keys().filter(clients).count(), 0);
    let name = b"client/".len() + 16;
    let unset = |op: &&StoreOp| matches!(op, StoreOp::Unset { .. });
    for batch in &node.batches {
        let bytes = batch.iter().filter(unset).count() * name;
        assert!(bytes <= BATCH, "{bytes} bytes");
    }
    assert!(node.batches.len() >= usize::from(APPLICATIONS) * name / BATCH);
    assert!(node.batches.len() > 2);
}

/// However many applications are answered at once, and however much is kept of each.
#[test]
fn answers_to_many_applications_are_stored_in_several_batches() {
    const BATCH: usize = 32 << 10;
    const APPLICATIONS: u8 = 200;
    let mut node = Node::new(1, Trust::Any);
    node.audits = false;
    let mut config = crate::support::config(Trust::Any);
    config.batch_bytes_max = BATCH;
    for client in 1..=APPLICATIONS {
        hello(&mut node, client);
        for n in 1..100 {
            // Gaps in the numbers cannot be kept as one run.
            put(&mut node, client, 2 * n);
        }
    }
    let mut node = node.restart_with(config);
    for client in 1..=APPLICATIONS {
        hello(&mut node, client);
    }
    node.batches.clear();
    for client in 1..=APPLICATIONS {
        let mut put = Put::new(500, "qm://b/orders", Bytes::from_static(b"x"));
        put.class = Class::Recoverable;
        let conn = ConnId(u64::from(client));
        let frame = ClientFrame::Put(put);
        let now = Now {
            at: Timestamp(0),
            wall_us: 1,
        };
        node.engine.handle(now, Input::Client { conn, frame });
    }
    node.give(0, Input::Tick);
    let bytes = |op: &StoreOp| match op {
        StoreOp::Set { key, value } => key.len() + value.len(),
        StoreOp::Put { head, body, .. } => head.len() + body.len(),
        _ => 0,
    };
    let sizes: Vec<usize> = node
        .batches
        .iter()
        .map(|batch| batch.iter().map(bytes).sum())
        .collect();
    let together: usize = sizes.iter().sum();
    assert!(together > 2 * BATCH, "{sizes:?}");
    assert!(sizes.iter().all(|bytes| *bytes <= BATCH), "{sizes:?}");
}
