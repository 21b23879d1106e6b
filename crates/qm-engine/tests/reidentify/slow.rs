//! Changes of identity while a disk is slow.

use std::collections::BTreeSet;

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{Event, LinkId, LocalSettings, StoreOp};
use qm_wire::Class;

use crate::world::{RECEIVER, SENDER, World};
use crate::{check, plain, send};

fn opened(world: &World, machine: usize) -> BTreeSet<LinkId> {
    let events = world.machines[machine].events.iter();
    let link = |event: &Event| match event {
        Event::SessionOpened { link, .. } => Some(*link),
        _ => None,
    };
    events.filter_map(link).collect()
}

/// W-SUC-1. The side that changed opens the session as soon as its own disk is done, and tells;
/// the other side's disk has not stored yet that this session goes forward.
#[test]
fn a_succession_is_heard_before_this_sides_disk_is_done() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    world.cut();
    let old = world.id(SENDER);
    world.remint(SENDER);
    let new = world.id(SENDER);
    world.cut = false;
    world.slow_down(RECEIVER);
    // The disk writes one batch at a time until one side has opened what the other has not.
    let ahead = |world: &World| -> BTreeSet<LinkId> {
        let both = [SENDER, RECEIVER].map(|machine| opened(world, machine));
        both[0].difference(&both[1]).copied().collect()
    };
    for _ in 0..100 {
        world.run(250);
        if !ahead(&world).is_empty() {
            break;
        }
        world.write_one(RECEIVER);
    }
    let early = ahead(&world);
    assert!(!early.is_empty(), "no session opened at one side first");
    world.carry(1_000);
    let succeeded = |event: &Event| matches!(event, Event::PeerSucceeded { .. });
    let accused = |event: &Event| matches!(event, Event::PeerMisbehaved { .. });
    let accusations = world.told(RECEIVER, accused);
    assert_eq!(accusations, 0, "an approved peer is accused");
    assert!(world.told(RECEIVER, succeeded) > 0, "what it said is heard");
    assert_eq!(ahead(&world), early, "and the session was not open then");
    // The session goes on: nobody begins anew.
    world.speed_up(RECEIVER);
    world.run(1_000);
    assert!(early.is_subset(&opened(&world, RECEIVER)));
    let peers = world.peers(RECEIVER);
    let known = peers.iter().find(|peer| peer.qm == Some(new)).unwrap();
    assert_eq!(known.succeeds, Some(old));
    send(&mut world, 4..=6);
    world.approve(RECEIVER, new);
    world.run(10_000);
    check(&mut world, 1..=6);
}

/// The former identity holds nothing, and nobody has looked yet whether it does: what is accepted
/// while another one takes its place is not minted under it.
#[test]
fn what_is_accepted_while_the_former_identity_is_replaced_is_delivered() {
    for crash in [false, true] {
        let mut world = World::new(plain);
        world.remint(SENDER);
        let first = world.id(SENDER);
        world.slow_down(SENDER);
        let because = "another copy was found".to_owned();
        let answer = world.begin(SENDER, AdminRequest::Remint { because });
        assert!(answer.is_none(), "{answer:?}");
        world.offer(SENDER, "b/orders", "1", Class::Transactional);
        assert!(!world.has_accepted(SENDER));
        while !world.has_accepted(SENDER) {
            assert!(world.write_one(SENDER));
        }
        world.speed_up(SENDER);
        assert_ne!(world.id(SENDER), first);
        if crash {
            world.crash(SENDER);
        }
        world.run(2_000);
        world.approve(RECEIVER, first);
        world.run(5_000);
        assert_eq!(world.receive(RECEIVER, "orders"), ["1"], "{crash}");
    }
}

/// The only message under the former identity is becoming a dead letter when another identity takes
/// its place, and the disk refuses the letter.
#[test]
fn what_a_full_disk_gives_back_to_the_former_identity_is_delivered() {
    for class in [Class::Recoverable, Class::Transactional] {
        let mut world = World::new(plain);
        let first = world.id(SENDER);
        let queue = if class == Class::Recoverable {
            "notes"
        } else {
            "orders"
        };
        world.remint(SENDER);
        world.shut(Some(first));
        world.put(SENDER, &format!("b/{queue}"), "1", class);
        world.approve(RECEIVER, world.id(SENDER));
        world.run(5_000);
        world.put(SENDER, &format!("b/{queue}"), "2", class);
        world.run(1_000);
        assert_eq!(world.identity(SENDER).former.unwrap().waiting, 1);
        world.slow_down(SENDER);
        let purge = AdminRequest::OutgoingPurge {
            which: Selector::All,
            discard: false,
        };
        let answer = world.begin(SENDER, purge);
        assert!(answer.is_none(), "{answer:?}");
        let because = "another copy was found".to_owned();
        world.begin(SENDER, AdminRequest::Remint { because });
        world.refuse_one(SENDER);
        world.speed_up(SENDER);
        world.shut(None);
        world.run(60_000);
        let mut arrived = world.receive(RECEIVER, queue);
        arrived.sort_unstable();
        let dead = world.dead(SENDER).len();
        assert!(arrived.contains(&"1".to_owned()) || dead > 0, "{class:?}");
    }
}

/// The disk refuses the change, with all that belongs to it: it does not come to it later.
#[test]
fn a_change_that_the_disk_refused_did_not_happen() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    world.cut();
    send(&mut world, 4..=6);
    let before = world.id(SENDER);
    world.slow_down(SENDER);
    let because = "another copy was found".to_owned();
    let answer = world.begin(SENDER, AdminRequest::Remint { because });
    assert!(answer.is_none(), "{answer:?}");
    let changes = |op: &StoreOp| matches!(op, StoreOp::Set { key, .. } if key == "identity");
    world.refuse(SENDER, |ops| ops.iter().any(changes));
    let answer = world.machines[SENDER].admin.take();
    assert!(
        matches!(answer, Some(AdminReply::Failed { .. })),
        "{answer:?}"
    );
    world.speed_up(SENDER);
    world.run(3_000);
    assert_eq!(world.id(SENDER), before);
    world.crash(SENDER);
    assert_eq!(world.id(SENDER), before);
    world.cut = false;
    world.run(60_000);
    check(&mut world, 1..=6);
}

/// While the disk has no room for what gives room back, nothing else may be in the batch with the
/// change: refused, it would go with it.
#[test]
fn no_identity_changes_while_the_disk_owes_what_it_refused() {
    let mut world = World::new(plain);
    let before = world.id(SENDER);
    world.slow_down(SENDER);
    let settings = LocalSettings::new("later".parse().unwrap());
    let answer = world.begin(SENDER, AdminRequest::QueueCreate(settings));
    assert!(answer.is_none(), "{answer:?}");
    let creates = |op: &StoreOp| matches!(op, StoreOp::Set { key, .. } if key.starts_with(b"q/"));
    world.refuse(SENDER, |ops| ops.iter().any(creates));
    let because = "another copy was found".to_owned();
    let answer = world.begin(SENDER, AdminRequest::Remint { because });
    assert!(
        matches!(answer, Some(AdminReply::Failed { .. })),
        "{answer:?}"
    );
    world.speed_up(SENDER);
    world.run(3_000);
    world.crash(SENDER);
    assert_eq!(world.id(SENDER), before);
    world.remint(SENDER);
    assert_ne!(world.id(SENDER), before);
}
