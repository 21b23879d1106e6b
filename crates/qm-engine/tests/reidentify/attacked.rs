//! Changes of identity at the worst moment, and people who mean harm.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{EngineConfig, Event, Input, LinkId, OnTwin};
use qm_wire::{Class, Hello, HelloFlags, Incarnation, PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame, QmId};

use crate::world::{Fuse, RECEIVER, SENDER, World, id_of, parted, place, succession};
use crate::{check, named, plain, send, send_named};

/// A copy of the sender runs beside it: the one that lost, and the one that keeps the identity.
fn copied(world: &mut World) -> (usize, usize) {
    send_named(world, SENDER, &named('a', 1..=3));
    world.run(2_000);
    let copy = world.copy(SENDER);
    send_named(world, copy, &named('c', 1..=3));
    world.run(60_000);
    sides(world, copy)
}

/// Of the sender and its copy, the one that lost, and the one that keeps the identity.
fn sides(world: &World, copy: usize) -> (usize, usize) {
    match [SENDER, copy].map(|machine| world.has_lost(machine)) {
        [true, false] => (SENDER, copy),
        [false, true] => (copy, SENDER),
        both => panic!("{both:?}"),
    }
}

/// The sender is copied while an earlier change of its identity drains, and its destination
/// approves nobody: the identity that both copies have, the one that lost, and the other.
fn copied_while_a_change_drains(world: &mut World) -> (QmId, usize, usize) {
    send_named(world, SENDER, &named('a', 1..=1));
    world.run(2_000);
    world.remint(SENDER);
    let between = world.id(SENDER);
    world.run(2_000);
    let copy = world.copy(SENDER);
    world.run(200_000);
    let (loser, winner) = sides(world, copy);
    (between, loser, winner)
}

fn alarm_only(config: &mut EngineConfig) {
    config.on_twin = OnTwin::AlarmOnly;
}

thread_local! {
    /// Whether machines that start now are told to keep still.
    static STILL: Cell<bool> = const { Cell::new(false) };
}

/// Machines keep still when they start while `STILL` says so.
fn still_at_times(config: &mut EngineConfig) {
    if STILL.get() {
        alarm_only(config);
    }
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

/// Whoever has this key begins a session with the receiver and says this.
fn begins(world: &mut World, link: u64, key: u8, frames: Vec<PeerFrame>) {
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
}

/// Keys cost nothing: neither one that takes another identity every moment, nor one that has many
/// successors, fills the address book.
#[test]
fn the_successions_of_a_peer_that_is_heard_are_few() {
    for in_line in [false, true] {
        let mut world = World::new(|config| config.pending_peers_max = 10);
        let before = world.peers(RECEIVER).len();
        let mut key = 1;
        for new in 60..=200_u8 {
            let frame = PeerFrame::Succession(succession(key, new));
            let link = 9_000 + u64::from(new);
            begins(&mut world, link, key, vec![frame]);
            let text = "the end".to_owned();
            let link = LinkId(link);
            world.give(RECEIVER, Input::Closed { link, text });
            key = if in_line { new } else { 1 };
        }
        let seen = |event: &&Event| matches!(event, Event::PeerSucceeded { .. });
        let events = world.machines[RECEIVER].events.iter();
        assert_eq!(events.filter(seen).count(), 141, "in line: {in_line}");
        let after = world.peers(RECEIVER).len();
        assert!(after <= before + 10, "{before} and then {after}");
        let peers = world.peers(RECEIVER);
        assert!(peers.iter().any(|peer| peer.qm == Some(id_of(200))));
        world.crash(RECEIVER);
        assert_eq!(world.peers(RECEIVER).len(), after);
    }
}

#[test]
fn a_strangers_successions_are_not_heard() {
    let mut world = World::new(|config| config.pending_peers_max = 10);
    let before = world.peers(RECEIVER).len();
    let many = (60..=250).map(|new| PeerFrame::Succession(succession(50, new)));
    begins(&mut world, 9_001, 50, many.collect());
    assert!(world.peers(RECEIVER).len() <= before + 1);
    let seen = |event: &Event| matches!(event, Event::PeerSucceeded { .. });
    assert_eq!(world.told(RECEIVER, seen), 0);
    // Others still find a place.
    begins(&mut world, 9_002, 31, Vec::new());
    let peers = world.peers(RECEIVER);
    assert!(peers.iter().any(|peer| peer.qm == Some(id_of(31))));
}

/// What was decided about an identity ends with the change, so that it does not come back with it.
#[test]
fn a_decision_does_not_outlive_the_change_that_followed_from_it() {
    for dies in [false, true] {
        STILL.set(true);
        let mut world = World::new(still_at_times);
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
        STILL.set(false);
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

/// What a node does not do by itself, it says.
#[test]
fn a_change_that_has_to_wait_says_for_what() {
    let mut world = World::new(plain);
    let (between, loser, _) = copied_while_a_change_drains(&mut world);
    assert_eq!(world.id(loser), between);
    let view = world.identity(loser).twins.unwrap();
    let held_up = view.held_up.unwrap();
    assert!(held_up.contains("former identity"), "{held_up}");
    // Once nothing holds it up, it is not said any more.
    world.approve(RECEIVER, between);
    world.run(400_000);
    assert_ne!(world.id(loser), between);
    assert_eq!(world.identity(loser).twins, None);
}

/// The loser could not change, and the machine that kept the identity is no more: with the alarm
/// what was decided is over.
#[test]
fn who_lost_keeps_the_identity_when_its_operator_says_that_it_is_alone() {
    for crashes in [false, true] {
        let mut world = World::new(plain);
        let (between, loser, winner) = copied_while_a_change_drains(&mut world);
        world.leave(Some(winner));
        world.run(1_000);
        let forget = AdminRequest::PeerForget {
            who: between.to_string(),
        };
        let reply = world.ask(loser, forget);
        assert!(matches!(reply, AdminReply::Done { .. }), "{reply:?}");
        assert_eq!(world.identity(loser).twins, None);
        if crashes {
            world.crash(loser);
        }
        world.approve(RECEIVER, between);
        world.run(400_000);
        assert_eq!(world.id(loser), between, "nobody else has it");
        let former = world.identity(loser).former.unwrap();
        assert!(former.erased_in_ms.is_some(), "it has drained: {former:?}");
        // A change that the operator wishes later is an ordinary one again.
        let because = "a wish".to_owned();
        world.ask(loser, AdminRequest::Remint { because });
        assert_ne!(world.id(loser), between);
        world.run(20_000);
        let follows =
            |event: &Event| matches!(event, Event::PeerSucceeded { old, .. } if *old == between);
        assert!(world.told(RECEIVER, follows) > 0);
    }
}

/// The winner is changed by hand, and proves it: who lost to it is alone.
#[test]
fn who_lost_keeps_the_identity_when_the_winner_has_parted() {
    STILL.set(true);
    let mut world = World::new(still_at_times);
    let old = world.id(SENDER);
    let (loser, winner) = copied(&mut world);
    world.remint(winner);
    world.run(20_000);
    assert_eq!(world.identity(loser).twins, None);
    STILL.set(false);
    world.crash(loser);
    world.run(400_000);
    assert_eq!(world.id(loser), old);
}

/// Rule 11, for one that speaks with both identities of a node that changes: it is asked under one
/// of them at a time, for it answers under each.
#[test]
fn a_machine_that_went_back_is_no_twin_for_one_with_two_identities() {
    let mut world = World::new(plain);
    send_named(&mut world, SENDER, &named('a', 1..=1));
    world.run(2_000);
    let backup = world.backup(SENDER);
    for _ in 0..2 {
        world.crash(SENDER);
        world.run(5_000);
    }
    world.put(RECEIVER, "a/notes", "r", Class::Recoverable);
    world.run(2_000);
    world.remint(RECEIVER);
    world.run(10_000);
    world.restore(SENDER, &backup);
    world.run(120_000);
    let seen = |event: &Event| matches!(event, Event::TwinSeen { .. });
    let branched = |event: &Event| matches!(event, Event::HistoryBranched { .. });
    assert!(world.told(RECEIVER, branched) > 0, "it went back");
    assert_eq!(world.told(RECEIVER, seen), 0, "there is one machine");
}

/// An address by the identity that this node had: nobody else has it.
#[test]
fn messages_for_an_own_former_identity_are_for_this_node() {
    let mut world = World::new(plain);
    let old = world.id(SENDER);
    world.remint(SENDER);
    world.run(1_000);
    world.put(
        SENDER,
        &format!("qm:{old}/notes"),
        "mine",
        Class::Recoverable,
    );
    assert_eq!(world.receive(SENDER, "notes"), ["mine"]);
    // Where copies parted, another machine has it.
    let mut world = World::new(plain);
    let (loser, winner) = copied(&mut world);
    let old = world.id(winner);
    world.put(
        loser,
        &format!("qm:{old}/notes"),
        "yours",
        Class::Recoverable,
    );
    assert_eq!(world.receive(loser, "notes"), [""; 0]);
}

/// The open session of a machine with another one that has this identity.
fn open_link(world: &World, at: usize, with: QmId) -> LinkId {
    let mut open = Vec::new();
    for event in &world.machines[at].events {
        match event {
            Event::SessionOpened { link, peer, .. } if *peer == with => open.push(*link),
            Event::SessionClosed { link, .. } => open.retain(|of| of != link),
            _ => {}
        }
    }
    *open.last().unwrap()
}

/// W-TWN-6: whoever has no key of both proves nothing, and who has speaks of itself.
#[test]
fn a_copy_that_parted_is_believed_when_its_keys_say_so_and_of_itself() {
    let mut world = World::new(alarm_only);
    let (_, winner) = copied(&mut world);
    let told = |world: &mut World, lives: &[u64], spoilt: Option<usize>| {
        let mut parted = parted(1, 90, lives);
        match spoilt {
            Some(0) => parted.succession.old_signature[0] ^= 1,
            Some(1) => parted.succession.new_signature[0] ^= 1,
            Some(_) => parted.signature[0] ^= 1,
            None => {}
        }
        let mut frames = BytesMut::new();
        PeerFrame::Parted(parted).encode(&mut frames);
        let link = open_link(world, winner, id_of(2));
        let frames = frames.freeze();
        world.give(winner, Input::Received { link, frames });
        world.identity(winner).twins.is_some()
    };
    let view = world.identity(winner).twins.unwrap();
    let lives: Vec<u64> = view.machines.iter().map(|m| m.incarnation.0).collect();
    let other = view
        .machines
        .iter()
        .find(|m| !m.address.is_empty())
        .unwrap();
    let other = other.incarnation.0;
    let own = lives.iter().copied().find(|life| *life != other).unwrap();
    assert!(told(&mut world, &[77], None), "of another life");
    assert!(
        told(&mut world, &[own], None),
        "of the life that it is told to"
    );
    for spoilt in 0..3 {
        assert!(told(&mut world, &[other], Some(spoilt)), "{spoilt}");
        let accused = |event: &Event| matches!(event, Event::PeerMisbehaved { .. });
        assert_eq!(world.told(winner, accused), spoilt + 1);
        world.run(400_000);
    }
    assert!(!told(&mut world, &[other], None));
}

/// The lives of which a machine says that it had its former identity in them.
fn lives_left(world: &mut World) -> Vec<Incarnation> {
    world.run(10_000);
    world.parted.last().expect("somebody parts").lives.clone()
}

/// W-TWN-6. Whoever was met in several lives is known by any of them.
#[test]
fn a_machine_that_parts_tells_of_all_lives_in_which_it_was_met() {
    let mut world = World::new(alarm_only);
    let (loser, _) = copied(&mut world);
    let mut lives = vec![world.machines[loser].engine.incarnation()];
    for _ in 0..3 {
        world.crash(loser);
        world.run(60_000);
        lives.push(world.machines[loser].engine.incarnation());
    }
    // Of a life that nobody met nobody hears.
    world.leave(Some(loser));
    world.crash(loser);
    world.run(60_000);
    let unmet = world.machines[loser].engine.incarnation();
    world.crash(loser);
    world.leave(None);
    world.run(60_000);
    lives.push(world.machines[loser].engine.incarnation());
    world.remint(loser);
    let left = lives_left(&mut world);
    assert!(!left.contains(&unmet));
    lives.sort_unstable();
    assert_eq!(left, lives);
}

/// A copy of the memory of a machine may live on in the life that both had.
#[test]
fn a_machine_that_parts_says_nothing_of_what_was_before_it_was_met() {
    let mut world = World::new(alarm_only);
    send(&mut world, 1..=3);
    world.run(2_000);
    let before = world.machines[SENDER].engine.incarnation();
    world.give(SENDER, Input::Resumed { why: "a test" });
    world.run(10_000);
    let copy = world.copy(SENDER);
    world.run(60_000);
    assert!(world.has_lost(copy) || world.has_lost(SENDER));
    let met = world.machines[SENDER].engine.incarnation();
    world.remint(SENDER);
    let left = lives_left(&mut world);
    assert!(!left.contains(&before), "{left:?}");
    assert!(left.contains(&met), "{left:?}");
}

fn why(world: &mut World, at: usize, subject: String) -> (&'static str, String) {
    let AdminReply::Why(view) = world.ask(at, AdminRequest::Why { subject }) else {
        panic!("no answer");
    };
    assert!(!view.cause.is_empty());
    let lines = [view.cause]
        .into_iter()
        .chain(view.evidence)
        .chain(view.fix);
    (view.code.name(), lines.collect::<Vec<_>>().join("\n"))
}

/// Whoever asks about the identity of a machine hears who else has it, or had it, and what was
/// done, at every machine that it concerns.
#[test]
fn why_names_the_copy_at_both() {
    let mut world = World::new(|config| {
        alarm_only(config);
        config.name = "Till".to_owned();
    });
    let old = world.id(SENDER);
    let (code, said) = why(&mut world, SENDER, old.to_string());
    assert_eq!(code, "idle", "{said}");
    let (loser, winner) = copied(&mut world);
    for (at, other) in [(loser, winner), (winner, loser)] {
        let (code, said) = why(&mut world, at, old.to_string());
        assert_eq!(code, "own_twin", "{said}");
        let life = world.machines[other].engine.incarnation().to_string();
        let address = place(other);
        for word in [address.as_str(), &life, "known for", "b", "remint"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        let (_, by_name) = why(&mut world, at, "till".to_owned());
        assert_eq!(said, by_name);
    }
    let (_, said) = why(&mut world, winner, old.to_string());
    assert!(said.contains("this machine keeps"), "{said}");
    let (_, said) = why(&mut world, loser, old.to_string());
    assert!(
        said.contains("the other machine showed the higher rank"),
        "{said}"
    );

    let life = world.machines[loser].engine.incarnation().to_string();
    world.remint(loser);
    world.run(120_000);
    let (code, said) = why(&mut world, winner, old.to_string());
    assert_eq!(code, "copy_parted", "{said}");
    let address = place(loser);
    for word in [
        address.as_str(),
        &life,
        "has one of its own",
        "this machine keeps",
    ] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let (code, said) = why(&mut world, loser, old.to_string());
    assert_eq!(code, "former_identity", "{said}");
    assert!(said.contains("another machine keeps it"), "{said}");
    let new = world.id(loser);
    let (_, said) = why(&mut world, loser, new.to_string());
    assert!(said.contains(&old.to_string()), "{said}");
}

/// The one that lost goes on to speak under the identity of both, as long as nobody approves its
/// own: for the one that keeps it that is no news.
#[test]
fn a_machine_that_drains_does_not_disturb_the_one_that_stays() {
    let mut world = World::new(plain);
    let (loser, winner) = copied(&mut world);
    world.run(120_000);
    let old = world.id(winner);
    assert_eq!(
        world.identity(loser).former.map(|former| former.qm),
        Some(old)
    );
    let said = |world: &World| {
        let such = |event: &Event| matches!(event, Event::OwnHistoryBranched { .. });
        (
            world.told(winner, such),
            world.machines[winner].engine.incarnation(),
        )
    };
    let mut before = said(&world);
    for n in 1..=20 {
        // That both histories branch is said once.
        if n == 3 {
            before = said(&world);
        }
        world.shut(Some(old));
        world.shut(None);
        send_named(&mut world, loser, &named('l', n..=n));
        send_named(&mut world, winner, &named('w', n..=n));
        world.run(120_000);
    }
    assert_eq!(
        world.identity(loser).former.map(|former| former.qm),
        Some(old)
    );
    assert_eq!(said(&world), before);
}

#[test]
fn the_alarm_of_three_ends_when_two_have_parted() {
    let mut world = World::new(plain);
    send_named(&mut world, SENDER, &named('a', 1..=1));
    world.run(2_000);
    let old = world.id(SENDER);
    let copies = [SENDER, world.copy(SENDER), world.copy(SENDER)];
    for (copy, letter) in copies.into_iter().zip(['b', 'c', 'd']) {
        send_named(&mut world, copy, &named(letter, 1..=2));
    }
    world.run(400_000);
    let kept = copies.map(|copy| world.id(copy) == old);
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 1, "{kept:?}");
    let winner = copies.into_iter().find(|copy| world.id(*copy) == old);
    assert_eq!(world.identity(winner.unwrap()).twins, None);
    let parted = |event: &Event| matches!(event, Event::TwinParted { .. });
    assert_eq!(world.told(winner.unwrap(), parted), 2);
}
