//! What both copies of a machine hold is set aside at the one that takes another identity.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{Event, OnTwin};
use qm_wire::{Class, Outcome};

use crate::world::{Fuse, RECEIVER, SENDER, World};
use crate::{named, plain};

/// Messages for the machine that will be copied, in both kinds of queue.
fn arrive(world: &mut World, bodies: &[String]) {
    for body in bodies {
        world.put(RECEIVER, "a/orders", body, Class::Transactional);
        world.put(RECEIVER, "a/notes", body, Class::Recoverable);
    }
    world.run(2_000);
}

/// Messages that a machine has for itself.
fn own(world: &mut World, at: usize, letter: char) {
    for body in named(letter, 1..=2) {
        world.put(at, "orders", &body, Class::Transactional);
        world.put(at, "notes", &body, Class::Recoverable);
    }
}

/// A machine with inherited messages is copied while it runs, and both go on; the copy loses, and
/// may die meanwhile.
fn copied(inherited: usize, fuse: Option<Fuse>) -> (World, usize) {
    let mut world = World::new(plain);
    arrive(&mut world, &named('i', 1..=inherited));
    let old = world.id(SENDER);
    let copy = world.copy(SENDER);
    own(&mut world, copy, 'c');
    own(&mut world, SENDER, 'a');
    world.machines[copy].fuse = fuse;
    // Both have a session.
    world.put(SENDER, "b/notes", "a", Class::Recoverable);
    world.put(copy, "b/notes", "c", Class::Recoverable);
    world.run(200_000);
    assert_eq!(world.id(SENDER), old);
    assert_ne!(world.id(copy), old);
    (world, copy)
}

fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort_unstable();
    bodies
}

#[test]
fn what_both_hold_is_set_aside_where_the_identity_ends_and_nothing_else() {
    let (mut world, copy) = copied(600, None);
    for queue in ["orders", "notes"] {
        assert_eq!(world.receive(copy, queue), named('c', 1..=2), "{queue}");
        let aside = format!("{queue}:quarantine");
        assert_eq!(world.receive(copy, &aside), named('i', 1..=600), "{queue}");
        let all = [named('i', 1..=600), named('a', 1..=2)].concat();
        assert_eq!(world.receive(SENDER, queue), all, "{queue}");
    }
    let told = |event: &Event| matches!(event, Event::Quarantined { messages: 600, .. });
    assert_eq!(world.told(copy, told), 2);
}

/// An operator chooses which of the copies keeps the identity, and not by their ranks.
#[test]
fn the_winner_that_is_changed_by_hand_sets_aside_what_both_hold() {
    for dies in [false, true] {
        let mut world = World::new(|config| config.on_twin = OnTwin::AlarmOnly);
        arrive(&mut world, &named('i', 1..=20));
        let copy = world.copy(SENDER);
        own(&mut world, copy, 'c');
        own(&mut world, SENDER, 'a');
        world.put(SENDER, "b/notes", "a", Class::Recoverable);
        world.put(copy, "b/notes", "c", Class::Recoverable);
        world.run(60_000);
        assert!(!world.has_lost(SENDER), "it wins");
        if dies {
            world.crash(SENDER);
            world.run(1_000);
        }
        world.remint(SENDER);
        world.run(5_000);
        for queue in ["orders", "notes"] {
            assert_eq!(world.receive(SENDER, queue), named('a', 1..=2), "{queue}");
            let aside = format!("{queue}:quarantine");
            assert_eq!(world.receive(SENDER, &aside), named('i', 1..=20));
            let all = [named('i', 1..=20), named('c', 1..=2)].concat();
            assert_eq!(world.receive(copy, queue), all, "{queue}");
        }
    }
}

#[test]
fn what_is_set_aside_is_released_behind_what_waits() {
    let (mut world, copy) = copied(600, None);
    let AdminReply::Status(status) = world.ask(copy, AdminRequest::Status) else {
        panic!("no status");
    };
    assert_eq!(status.quarantined, 1_200);
    let name = "orders:quarantine".parse().unwrap();
    let reply = world.ask(copy, AdminRequest::QuarantineRelease { name });
    assert!(
        matches!(reply, AdminReply::Done { count: 600 }),
        "{reply:?}"
    );
    assert_eq!(world.receive(copy, "notes"), named('c', 1..=2));
    let name = "notes:quarantine".parse().unwrap();
    world.ask(copy, AdminRequest::QuarantineRelease { name });
    // It is not set aside again, not by a restart either.
    world.crash(copy);
    world.run(1_000);
    let all = [named('c', 1..=2), named('i', 1..=600)].concat();
    assert_eq!(world.receive(copy, "orders"), all);
    assert_eq!(world.receive(copy, "notes"), named('i', 1..=600));
    for name in ["orders", "nowhere:quarantine", "orders:quarantine"] {
        let name = name.parse().unwrap();
        let reply = world.ask(copy, AdminRequest::QuarantineRelease { name });
        let nothing = matches!(
            reply,
            AdminReply::Failed { .. } | AdminReply::Done { count: 0 }
        );
        assert!(nothing, "{reply:?}");
    }
}

/// Neither the queue into which messages are released nor the quarantine that they leave.
#[test]
fn a_queue_that_messages_move_into_is_not_deleted_meanwhile() {
    let (mut world, copy) = copied(600, None);
    world.slow_down(copy);
    let name = "notes:quarantine".parse().unwrap();
    world.begin(copy, AdminRequest::QuarantineRelease { name });
    for queue in ["notes", "notes:quarantine"] {
        let reply = world.begin(
            copy,
            AdminRequest::QueueDelete {
                name: queue.parse().unwrap(),
                force: true,
                discard: true,
            },
        );
        match reply {
            Some(AdminReply::Failed { outcome, .. }) => assert_eq!(outcome, Outcome::BUSY),
            other => panic!("{queue}: {other:?}"),
        }
    }
    world.speed_up(copy);
    world.run(1_000);
    let all = [named('c', 1..=2), named('i', 1..=600)].concat();
    assert_eq!(world.receive(copy, "notes"), all);
}

/// A delivery in the hands of an application when the machine parts is set aside if it comes back.
#[test]
fn what_an_application_gives_back_is_set_aside_as_well() {
    let mut world = World::new(plain);
    arrive(&mut world, &named('i', 1..=3));
    let copy = world.copy(SENDER);
    let held = world.take(copy, "notes", 2);
    assert_eq!(held.len(), 2);
    world.put(SENDER, "b/notes", "a", Class::Recoverable);
    world.put(copy, "b/notes", "c", Class::Recoverable);
    world.run(200_000);
    world.give_back(copy, "notes", &held);
    world.run(1_000);
    assert_eq!(world.receive(copy, "notes"), [""; 0]);
    let aside = world.receive(copy, "notes:quarantine");
    assert_eq!(sorted(aside), named('i', 1..=3));
}

#[test]
fn a_crash_at_every_commit_leaves_each_message_in_one_place() {
    for commit in 0.. {
        for taken in [false, true] {
            let fuse = Fuse { commit, taken };
            let (mut world, copy) = copied(20, Some(fuse));
            if world.deaths == 0 {
                assert!(commit > 10, "{commit} commits are too few to be all of it");
                return;
            }
            for queue in ["orders", "notes"] {
                let kept = world.receive(copy, queue);
                assert_eq!(sorted(kept), named('c', 1..=2), "{commit} {taken}");
                let aside = world.receive(copy, &format!("{queue}:quarantine"));
                assert_eq!(sorted(aside), named('i', 1..=20), "{commit} {taken}");
            }
        }
    }
}
