//! What became of messages at their destinations, told to senders that wait for it: kept by the
//! one and heard by the other, whatever is lost and whoever crashes (W-FIN-1).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../streams/support.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of streams, which use all of it"
)]
mod support;

mod crashes;
mod ends;
mod hostile;
mod journal;
mod limits;
mod loss;
mod reports;
mod unknown;

use qm_engine::LinkId;
use qm_wire::local::Follow;
use qm_wire::{AckWishes, Class, PeerFrame};
use support::{Node, carry, connect};

pub(crate) const LINK: LinkId = LinkId(1);
pub(crate) const NEXT: LinkId = LinkId(2);
pub(crate) const LATER: LinkId = LinkId(3);

pub(crate) const CLASSES: [Class; 3] = [Class::Express, Class::Recoverable, Class::Transactional];

/// Two nodes that met, and a message of one that was received and consumed at the other, whose end
/// is not carried back yet.
pub(crate) fn consumed(class: Class) -> (Node, Node) {
    let (mut a, mut b) = met(class);
    put(&mut a, class, "1");
    carry(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["1"]);
    (a, b)
}

/// Two nodes that have met; the second has the queue, which sends what came back twice away.
pub(crate) fn met(class: Class) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    b.create("orders", |settings| {
        settings.transactional = class == Class::Transactional;
        settings.aborts_max = 2;
    });
    a.put("qm://b/orders", "first", |put| put.class = class);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["first"]);
    (a, b)
}

/// Puts a message whose end its application waits for.
pub(crate) fn put(a: &mut Node, class: Class, body: &str) {
    a.put("qm://b/orders", body, |put| {
        put.class = class;
        put.follow = Follow::Received;
    });
}

/// Puts a message that wishes this, and that nobody follows.
pub(crate) fn wish(a: &mut Node, class: Class, wishes: AckWishes) {
    a.put("qm://b/orders", "wish", |put| {
        put.class = class;
        put.ack_wishes = wishes;
    });
}

/// What of this kind is on a node's disk.
fn stored(node: &Node, kind: &[u8]) -> usize {
    let names = node.disk.state.keys();
    names.filter(|name| name.starts_with(kind)).count()
}

pub(crate) fn finals_of(b: &Node) -> usize {
    stored(b, b"final/")
}

pub(crate) fn awaited_of(a: &Node) -> usize {
    stored(a, b"await/")
}

pub(crate) const fn is_final(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Final(_))
}

pub(crate) const fn is_confirm(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::FinalConfirm(_))
}
