//! Changes of identity at the worst moment, and people who mean harm.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{EngineConfig, Event, Input, LinkId, OnTwin};
use qm_wire::{Class, Hello, HelloFlags, Incarnation, PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame};

use crate::world::{Fuse, RECEIVER, SENDER, World, id_of, succession};
use crate::{check, named, plain, send, send_named};

fn has_lost(world: &World, machine: usize) -> bool {
    let lost = |event: &Event| matches!(event, Event::ElectionLost { .. });
    world.machines[machine].events.iter().any(lost)
}

/// A copy of the sender runs beside it: the one that lost, and the one that keeps the identity.
fn copied(world: &mut World) -> (usize, usize) {
    send_named(world, SENDER, &named('a', 1..=3));
    world.run(2_000);
    let copy = world.copy(SENDER);
    send_named(world, copy, &named('c', 1..=3));
    world.run(60_000);
    match [SENDER, copy].map(|machine| has_lost(world, machine)) {
        [true, false] => (SENDER, copy),
        [false, true] => (copy, SENDER),
        both => panic!("{both:?}"),
    }
}

fn alarm_only(config: &mut EngineConfig) {
    config.on_twin = OnTwin::AlarmOnly;
}

#[test]
fn what_begins_after_the_drain_outlives_the_next_change() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    world.remint(SENDER);
    let new = world.id(SENDER);
    world.approve(RECEIVER, new);
    world.run(120_000);
    check(&mut world, 1..=3);
    let former = world.identity(SENDER).former.unwrap();
    assert!(former.erased_in_ms.is_some(), "{former:?}");
    let far = format!("qm:{}/notes", id_of(77));
    world.put(SENDER, &far, "kept", Class::Recoverable);
    assert_eq!(world.identity(SENDER).former.unwrap().waiting, 0);
    world.remint(SENDER);
    world.crash(SENDER);
    world.run(2_000);
    let AdminReply::Outgoing(queues) = world.ask(SENDER, AdminRequest::Outgoing) else {
        panic!("no list of outgoing queues");
    };
    assert_eq!(queues.iter().map(|queue| queue.waiting).sum::<u64>(), 1);
    assert_eq!(world.dead(SENDER), []);
}

#[test]
fn the_loser_that_is_changed_by_hand_moves_nobody_to_itself() {
    let mut world = World::new(alarm_only);
    let old = world.id(SENDER);
    let (loser, winner) = copied(&mut world);
    world.remint(loser);
    world.run(10_000);
    let by_id = format!("qm:{old}/notes");
    world.put(RECEIVER, &by_id, "reply", Class::Recoverable);
    world.run(20_000);
    assert_eq!(world.receive(winner, "notes"), ["reply"]);
    assert_eq!(world.receive(loser, "notes"), [""; 0]);
}

#[test]
fn messages_for_the_machine_that_stays_wait_for_it() {
    let mut world = World::new(plain);
    let old = world.id(SENDER);
    let to = format!("qm:{old}/orders");
    world.put(RECEIVER, &to, "r1", Class::Transactional);
    world.run(2_000);
    let (loser, winner) = copied(&mut world);
    assert_ne!(world.id(loser), old);
    world.leave(Some(winner));
    world.put(RECEIVER, &to, "r2", Class::Transactional);
    world.run(5_000);
    world.leave(None);
    world.run(60_000);
    world.put(RECEIVER, &to, "r3", Class::Transactional);
    world.run(60_000);
    assert_eq!(world.receive(winner, "orders"), ["r1", "r2", "r3"]);
}

#[test]
fn a_strangers_successions_are_not_heard() {
    let mut world = World::new(|config| config.pending_peers_max = 10);
    let stranger = |world: &mut World, link: u64, key: u8, frames: Vec<PeerFrame>| {
        let link = LinkId(link);
        world.give(
            RECEIVER,
            Input::Connected {
                link,
                peer: id_of(key),
                public_key: [key; 32],
                own: id_of(2),
                remote: "10.9.9.9:5".parse().unwrap(),
                dial: None,
            },
        );
        let mut bytes = BytesMut::new();
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            incarnation: Incarnation(5),
            prior_incarnations: Vec::new(),
            attempt: 1,
            token: Bytes::new(),
            listen_port: 1,
            body_bytes_max: 1_000,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: "stranger".into(),
            host: "".into(),
        };
        PeerFrame::Hello(hello).encode(&mut bytes);
        for frame in frames {
            frame.encode(&mut bytes);
        }
        let frames = bytes.freeze();
        world.give(RECEIVER, Input::Received { link, frames });
    };
    let before = world.peers(RECEIVER).len();
    let many = (60..=250).map(|new| PeerFrame::Succession(succession(50, new)));
    stranger(&mut world, 9_001, 50, many.collect());
    assert!(world.peers(RECEIVER).len() <= before + 1);
    let seen = |event: &Event| matches!(event, Event::PeerSucceeded { .. });
    assert!(!world.machines[RECEIVER].events.iter().any(seen));
    // Others still find a place.
    stranger(&mut world, 9_002, 31, Vec::new());
    let peers = world.peers(RECEIVER);
    assert!(peers.iter().any(|peer| peer.qm == Some(id_of(31))));
}

/// What was decided about an identity ends with the change, so that it does not come back with it.
#[test]
fn a_decision_does_not_outlive_the_change_that_followed_from_it() {
    static ALARM: AtomicBool = AtomicBool::new(true);
    fn configure(config: &mut EngineConfig) {
        if ALARM.load(Ordering::Relaxed) {
            config.on_twin = OnTwin::AlarmOnly;
        }
    }
    for dies in [false, true] {
        ALARM.store(true, Ordering::Relaxed);
        let mut world = World::new(configure);
        let old = world.id(SENDER);
        let (loser, winner) = copied(&mut world);
        world.leave(Some(winner));
        if dies {
            world.machines[loser].fuse = Some(Fuse {
                commit: 0,
                taken: true,
            });
        }
        world.remint(loser);
        ALARM.store(false, Ordering::Relaxed);
        world.run(1_000);
        let reply = world.ask(loser, AdminRequest::Reclaim);
        assert!(matches!(reply, AdminReply::Identity(_)), "{reply:?}");
        assert_eq!(world.id(loser), old);
        world.run(200_000);
        world.crash(loser);
        world.run(400_000);
        assert_eq!(world.id(loser), old, "the other machine is gone");
    }
}

#[test]
fn a_peer_that_was_forgotten_makes_no_dead_letters() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    let old = world.id(SENDER);
    world.remint(SENDER);
    world.run(5_000);
    let pause = AdminRequest::OutgoingPause {
        which: Selector::Name("b/orders".to_owned()),
        paused: true,
    };
    world.ask(SENDER, pause);
    send(&mut world, 4..=6);
    world.run(1_000);
    let who = old.to_string();
    world.ask(RECEIVER, AdminRequest::PeerForget { who });
    world.run(5_000);
    assert_eq!(world.dead(SENDER), []);
}
