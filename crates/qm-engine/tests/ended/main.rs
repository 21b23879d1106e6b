//! Messages that end at their sender although their destination may have them: expired, purged or
//! refused in doubt. Their destination has the last word, and keeps it (W-USE-8).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../streams/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of streams, which use all of it"
)]
mod support;

mod certainty;
mod letters;
mod voids;
mod words;

use qm_engine::admin::{AdminRequest, Selector};
use qm_engine::{EngineConfig, LinkId};
use qm_wire::{Class, PeerFrame};
use support::{Node, connect};

pub(crate) const LINK: LinkId = LinkId(1);
pub(crate) const NEXT: LinkId = LinkId(2);
pub(crate) const LATER: LinkId = LinkId(3);

/// The classes that leave no place in a stream, as far as a crash of the sender spares them.
pub(crate) const CLASSES: [Class; 2] = [Class::Express, Class::Recoverable];

/// Two nodes that have met; the second has the queue.
pub(crate) fn met() -> (Node, Node) {
    met_with(|_| {})
}

/// The same, with settings of both.
pub(crate) fn met_with(configure: fn(&mut EngineConfig)) -> (Node, Node) {
    let (mut a, mut b) = (Node::with(1, configure), Node::with(2, configure));
    b.create("orders", |settings| settings.transactional = false);
    a.put("qm://b/orders", "first", |put| put.class = Class::Express);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["first"]);
    (a, b)
}

/// Puts a message with this much time to reach its queue.
pub(crate) fn put(a: &mut Node, class: Class, body: &str, time_ms: Option<u64>) {
    a.put("qm://b/orders", body, |put| {
        put.class = class;
        put.time_to_reach_queue_ms = time_ms;
    });
}

/// What a destination says of messages.
pub(crate) const fn is_answer(frame: &PeerFrame) -> bool {
    matches!(
        frame,
        PeerFrame::SessionAck(_) | PeerFrame::Answer(_) | PeerFrame::Reject(_)
    )
}

pub(crate) fn purge(a: &mut Node) {
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
}

/// Whether anything is left that must be kept over a restart for these messages.
pub(crate) fn asks_of(a: &Node) -> usize {
    let asks = |key: &&bytes::Bytes| key.starts_with(b"ask/");
    a.disk.state.keys().filter(asks).count()
}

pub(crate) fn voids_of(b: &Node) -> usize {
    let voids = |key: &&bytes::Bytes| key.starts_with(b"void/");
    b.disk.state.keys().filter(voids).count()
}
