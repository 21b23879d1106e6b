//! A release from quarantine on a full disk.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{ConnId, Input};
use qm_wire::{Class, Outcome};

use super::support::Node;

#[test]
fn a_release_that_a_full_disk_refuses_ends_and_can_be_asked_for_again() {
    let mut a = Node::new(1);
    let held = "orders:quarantine";
    for queue in ["orders", held] {
        a.create(queue, |settings| settings.transactional = false);
    }
    a.put(held, "1", |put| put.class = Class::Recoverable);
    a.hold_disk = true;
    let name = held.parse().unwrap();
    let release = AdminRequest::QuarantineRelease { name };
    a.admin = None;
    a.give(Input::Admin {
        conn: ConnId(1),
        request: 1,
        what: release.clone(),
    });
    a.release_disk(1);
    match a.admin.take() {
        Some(AdminReply::Failed { outcome, .. }) => assert_eq!(outcome, Outcome::STORE_FULL),
        other => panic!("{other:?}"),
    }
    assert!(a.receive("orders").is_empty());
    a.wait(2_000);
    let reply = a.ask(release);
    assert!(matches!(reply, AdminReply::Done { count: 1 }), "{reply:?}");
    assert_eq!(a.receive("orders"), ["1"]);
}
