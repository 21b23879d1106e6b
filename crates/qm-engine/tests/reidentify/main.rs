//! A node takes another identity while it runs: nothing stalls, is lost, comes twice or out of
//! order, whenever it dies on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod attacked;
mod blocked;
mod inherited;
mod slow;
mod world;

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{EngineConfig, Event, OnTwin};
use qm_wire::{Class, Outcome};

use world::{Fuse, RECEIVER, SENDER, World, id_of};

fn plain(_: &mut EngineConfig) {}

/// Puts messages of both durable classes with these numbers.
fn send(world: &mut World, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        let body = number.to_string();
        world.put(SENDER, "b/orders", &body, Class::Transactional);
        world.put(SENDER, "b/notes", &body, Class::Recoverable);
    }
}

fn numbers(all: std::ops::RangeInclusive<usize>) -> Vec<String> {
    all.map(|number| number.to_string()).collect()
}

/// Everything came once, transactional messages in their order.
fn check(world: &mut World, all: std::ops::RangeInclusive<usize>) {
    assert_eq!(world.receive(RECEIVER, "orders"), numbers(all.clone()));
    let mut notes: Vec<usize> = world
        .receive(RECEIVER, "notes")
        .iter()
        .map(|body| body.parse().unwrap())
        .collect();
    notes.sort_unstable();
    assert_eq!(notes, all.collect::<Vec<_>>());
    assert_eq!(world.dead(SENDER), []);
    // One machine is no copy of itself, whoever it is and was.
    for machine in &world.machines {
        for event in &machine.events {
            let accuses = matches!(
                event,
                Event::HistoryBranched { .. }
                    | Event::OwnHistoryBranched { .. }
                    | Event::OwnStoreWentBack { .. }
                    | Event::TwinSeen { .. }
                    | Event::OwnTwin { .. }
                    | Event::PeerMisbehaved { .. }
                    | Event::Unreadable { .. }
            );
            assert!(!accuses, "{event:?}");
        }
    }
}

#[test]
fn messages_go_on_under_the_former_identity_until_the_new_one_is_approved() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    let old = world.id(SENDER);
    world.remint(SENDER);
    let new = world.id(SENDER);
    assert_ne!(old, new);
    // The operator of the other side sleeps; nothing waits.
    send(&mut world, 4..=6);
    world.run(5_000);
    check(&mut world, 1..=6);
    let view = world.identity(SENDER);
    let former = view.former.unwrap();
    assert_eq!((view.qm, former.qm, former.waiting), (new, old, 0));
    assert_eq!(former.erased_in_ms, None);
    let [destination] = former.destinations.as_slice() else {
        panic!("{:?}", former.destinations);
    };
    assert!(
        !destination.switched && destination.pending,
        "{destination:?}"
    );
    // W-SUC-2. The other side sees who comes, and that it is the same machine: no right follows
    // from that.
    let peers = world.peers(RECEIVER);
    let seen = peers.iter().find(|peer| peer.qm == Some(new)).unwrap();
    assert_eq!((seen.approval, seen.succeeds), ("pending", Some(old)));

    world.approve(RECEIVER, new);
    world.run(2_000);
    let switched = |event: &Event| matches!(event, Event::IdentitySwitched { .. });
    assert_eq!(
        world.machines[SENDER]
            .events
            .iter()
            .filter(|e| switched(e))
            .count(),
        1
    );
    send(&mut world, 7..=9);
    world.run(2_000);
    check(&mut world, 7..=9);
    world.run(120_000);
    let former = world.identity(SENDER).former.unwrap();
    assert!(former.destinations.iter().all(|d| d.switched));
    assert!(
        former
            .erased_in_ms
            .is_some_and(|ms| ms > 29 * 24 * 60 * 60 * 1_000)
    );
}

#[test]
fn what_the_former_identity_still_holds_is_delivered_first() {
    let mut world = World::new(plain);
    send(&mut world, 1..=3);
    world.run(1_000);
    world.remint(SENDER);
    world.run(5_000);
    let new = world.id(SENDER);
    // Transmission of orders is paused: they wait under the former identity.
    let pause = AdminRequest::OutgoingPause {
        which: qm_engine::admin::Selector::Name("b/orders".to_owned()),
        paused: true,
    };
    world.ask(SENDER, pause);
    send(&mut world, 4..=6);
    world.approve(RECEIVER, new);
    world.run(2_000);
    send(&mut world, 7..=9);
    // New ones may leave as soon as they may overtake.
    world.run(5_000);
    assert_eq!(world.receive(RECEIVER, "orders"), numbers(1..=3));
    let go_on = AdminRequest::OutgoingPause {
        which: qm_engine::admin::Selector::Name("b/orders".to_owned()),
        paused: false,
    };
    world.ask(SENDER, go_on);
    world.run(5_000);
    assert_eq!(world.receive(RECEIVER, "orders"), numbers(4..=9));
    assert_eq!(world.receive(RECEIVER, "notes").len(), 9);
}

/// One history with the fuse at every commit of the sender, taken and not, until it never blows.
fn at_every_commit(configure: fn(&mut EngineConfig), history: impl Fn(&mut World, Fuse)) -> usize {
    for commit in 0.. {
        for taken in [false, true] {
            let mut world = World::new(configure);
            history(&mut world, Fuse { commit, taken });
            if world.deaths == 0 {
                return commit;
            }
            assert_eq!(world.deaths, 1);
        }
    }
    unreachable!("a history ends")
}

fn changed_under_load(world: &mut World, fuse: Fuse) {
    send(world, 1..=2);
    world.run(500);
    world.machines[SENDER].fuse = Some(fuse);
    send(world, 3..=4);
    world.carry(3);
    world.remint(SENDER);
    send(world, 5..=6);
    world.carry(5);
    send(world, 7..=8);
    world.run(3_000);
    let new = world.id(SENDER);
    world.approve(RECEIVER, new);
    world.carry(4);
    send(world, 9..=10);
    world.run(3_000);
    send(world, 11..=12);
    world.run(90_000);
    assert_eq!(world.id(SENDER), new);
    assert!(world.identity(SENDER).former.unwrap().destinations[0].switched);
}

#[test]
fn a_crash_at_every_commit_loses_nothing_and_doubles_nothing() {
    let steps = at_every_commit(plain, |world, fuse| {
        changed_under_load(world, fuse);
        check(world, 1..=12);
    });
    assert!(steps > 20, "{steps} commits are too few to be all of it");
}

#[test]
fn a_crash_while_links_are_cut_changes_nothing_either() {
    at_every_commit(plain, |world, fuse| {
        send(world, 1..=2);
        world.run(500);
        world.machines[SENDER].fuse = Some(fuse);
        world.cut();
        send(world, 3..=4);
        world.remint(SENDER);
        send(world, 5..=6);
        world.cut = false;
        world.run(10_000);
        let new = world.id(SENDER);
        world.approve(RECEIVER, new);
        send(world, 7..=8);
        world.run(2_000);
        world.cut();
        send(world, 9..=10);
        world.cut = false;
        world.run(120_000);
        check(world, 1..=10);
    });
}

#[test]
fn a_blocked_former_identity_is_given_up_at_once() {
    let mut world = World::new(plain);
    send(&mut world, 1..=2);
    world.run(1_000);
    let old = world.id(SENDER);
    world.cut();
    send(&mut world, 3..=4);
    world.remint(SENDER);
    let new = world.id(SENDER);
    let who = old.to_string();
    world.ask(RECEIVER, AdminRequest::PeerBlock { who });
    world.cut = false;
    world.run(10_000);
    let dead = world.dead(SENDER);
    assert_eq!(dead.len(), 4, "{dead:?}");
    assert!(
        dead.iter()
            .all(|letter| letter.outcome == Outcome::ACCESS_DENIED)
    );
    // What comes now is under the new identity, waits for its approval, and behind nothing.
    send(&mut world, 5..=6);
    world.run(1_000);
    world.approve(RECEIVER, new);
    world.run(60_000);
    assert_eq!(world.receive(RECEIVER, "orders"), ["1", "2", "5", "6"]);
    assert_eq!(world.receive(RECEIVER, "notes").len(), 4);
}

#[test]
fn messages_for_the_former_identity_still_arrive_and_then_find_the_new_one() {
    let mut world = World::new(plain);
    let old = world.id(SENDER);
    let put = |world: &mut World, n: usize| {
        let body = n.to_string();
        world.put(RECEIVER, "a/orders", &body, Class::Transactional);
        world.put(RECEIVER, "a/notes", &body, Class::Recoverable);
    };
    put(&mut world, 1);
    world.run(1_000);
    put(&mut world, 2);
    world.remint(SENDER);
    put(&mut world, 3);
    world.run(5_000);
    put(&mut world, 4);
    world.run(5_000);
    assert_eq!(world.receive(SENDER, "orders"), numbers(1..=4));
    assert_eq!(world.receive(SENDER, "notes"), numbers(1..=4));
    let new = world.id(SENDER);
    let told = world.machines[RECEIVER]
        .events
        .iter()
        .find_map(|event| match event {
            Event::PeerSucceeded { old, new, moved } => Some((*old, *new, *moved)),
            _ => None,
        });
    assert_eq!(told, Some((old, new, 1)));
    // After restarts at both ends, too.
    world.crash(RECEIVER);
    world.crash(SENDER);
    put(&mut world, 5);
    world.run(60_000);
    assert_eq!(world.receive(SENDER, "orders"), ["5"]);
    assert_eq!(world.receive(SENDER, "notes"), ["5"]);
}

#[test]
fn the_former_key_is_erased_thirty_days_after_the_drain_and_not_before() {
    let mut world = World::new(plain);
    send(&mut world, 1..=2);
    world.remint(SENDER);
    world.run(2_000);
    let new = world.id(SENDER);
    world.approve(RECEIVER, new);
    world.run(180_000);
    let left = world.identity(SENDER).former.unwrap().erased_in_ms.unwrap();
    world.crash(SENDER);
    // Time jumps: only the last minutes are played.
    world.now_ms += left - 240_000;
    world.run(120_000);
    assert!(world.identity(SENDER).former.is_some());
    world.run(300_000);
    assert!(world.identity(SENDER).former.is_none());
    let erased = |event: &Event| matches!(event, Event::FormerErased { .. });
    assert!(world.told(SENDER, erased) > 0);
    world.crash(SENDER);
    assert_eq!(world.id(SENDER), new);
    send(&mut world, 3..=4);
    world.run(60_000);
    check(&mut world, 1..=4);
}

#[test]
fn a_change_is_taken_back_and_order_holds() {
    let mut world = World::new(plain);
    let old = world.id(SENDER);
    send(&mut world, 1..=2);
    world.remint(SENDER);
    world.run(2_000);
    let new = world.id(SENDER);
    world.approve(RECEIVER, new);
    world.run(2_000);
    send(&mut world, 3..=4);
    let reply = world.ask(SENDER, AdminRequest::Reclaim);
    assert!(matches!(reply, AdminReply::Identity(_)), "{reply:?}");
    assert_eq!(world.id(SENDER), old);
    send(&mut world, 5..=6);
    world.run(30_000);
    send(&mut world, 7..=8);
    world.run(30_000);
    check(&mut world, 1..=8);
    let former = world.identity(SENDER).former.unwrap();
    assert_eq!(former.qm, new);
    assert!(former.destinations.iter().all(|d| d.switched));
}

/// What it has to wait for is what waits, not that somebody has noted that nothing does.
#[test]
fn a_second_change_waits_for_messages_only() {
    let mut world = World::new(plain);
    send(&mut world, 1..=2);
    world.run(2_000);
    world.remint(SENDER);
    let because = || "again".to_owned();
    let early = world.ask(SENDER, AdminRequest::Remint { because: because() });
    assert!(matches!(early, AdminReply::Failed { .. }), "{early:?}");
    let first = world.id(SENDER);
    world.approve(RECEIVER, first);
    world.run(2_000);
    let reply = world.ask(SENDER, AdminRequest::Remint { because: because() });
    assert!(matches!(reply, AdminReply::Identity(_)), "{reply:?}");
    assert_ne!(world.id(SENDER), first);
    send(&mut world, 3..=4);
    world.run(30_000);
    check(&mut world, 1..=4);
}

#[test]
fn going_back_waits_while_it_would_turn_the_order_around() {
    let mut world = World::new(plain);
    send(&mut world, 1..=2);
    world.remint(SENDER);
    world.run(2_000);
    let pause = |paused| AdminRequest::OutgoingPause {
        which: qm_engine::admin::Selector::All,
        paused,
    };
    world.ask(SENDER, pause(true));
    send(&mut world, 3..=4);
    let new = world.id(SENDER);
    world.approve(RECEIVER, new);
    world.run(2_000);
    send(&mut world, 5..=6);
    let reply = world.ask(SENDER, AdminRequest::Reclaim);
    assert!(
        matches!(
            reply,
            AdminReply::Failed {
                outcome: Outcome::BUSY,
                ..
            }
        ),
        "{reply:?}"
    );
    let because = "again".to_owned();
    let reply = world.ask(SENDER, AdminRequest::Remint { because });
    assert!(
        matches!(
            reply,
            AdminReply::Failed {
                outcome: Outcome::BUSY,
                ..
            }
        ),
        "{reply:?}"
    );
    world.ask(SENDER, pause(false));
    world.run(30_000);
    check(&mut world, 1..=6);
}

/// W-SUC-1, W-SUC-3.
#[test]
fn a_succession_that_the_keys_did_not_sign_moves_nothing() {
    use qm_engine::{Input, LinkId};
    use qm_wire::{PeerFrame, Succession};
    let forged: [fn(&mut Succession); 3] = [
        |s| s.old_signature[0] ^= 1,
        |s| s.new_signature[0] ^= 1,
        |s| *s = world::succession(7, 8),
    ];
    for forge in forged {
        let mut world = World::new(plain);
        let mut succession = world::succession(1, 9);
        forge(&mut succession);
        let mut frames = bytes::BytesMut::new();
        PeerFrame::Succession(succession).encode(&mut frames);
        let frames = frames.freeze();
        let link = world.machines[RECEIVER]
            .events
            .iter()
            .rev()
            .find_map(|e| match e {
                Event::SessionOpened { link, .. } => Some(*link),
                _ => None,
            });
        let link: LinkId = link.unwrap();
        world.give(RECEIVER, Input::Received { link, frames });
        let events = &world.machines[RECEIVER].events;
        assert!(
            events
                .iter()
                .any(|e| matches!(e, Event::PeerMisbehaved { .. }))
        );
        assert!(
            !events
                .iter()
                .any(|e| matches!(e, Event::PeerSucceeded { .. }))
        );
        let peers = world.peers(RECEIVER);
        let peer = peers.iter().find(|peer| peer.qm == Some(id_of(1))).unwrap();
        assert_eq!(peer.succeeded_by, None);
    }
}

/// The former identity reaches nobody for a while, the new one does.
fn held_up(world: &mut World) {
    send(world, 1..=3);
    world.run(1_000);
    let old = world.id(SENDER);
    world.remint(SENDER);
    world.shut(Some(old));
    send(world, 4..=5);
    let new = world.id(SENDER);
    world.run(2_000);
    world.approve(RECEIVER, new);
    world.run(2_000);
    send(world, 6..=7);
    world.run(20_000);
    let waits = world.identity(SENDER).former.unwrap().waiting;
    assert_eq!(waits, 4, "two of each class");
    world.shut(None);
    world.run(60_000);
    check(world, 1..=7);
}

#[test]
fn the_new_identity_waits_for_the_former_one_where_order_is_promised() {
    held_up(&mut World::new(plain));
}

/// The operator of the other side never approves anybody.
fn nobody_approves(world: &mut World) {
    send(world, 1..=2);
    world.remint(SENDER);
    send(world, 3..=4);
    world.run(2_000);
    world.crash(SENDER);
    send(world, 5..=6);
    world.run(60_000);
    check(world, 1..=6);
}

#[test]
fn nothing_waits_for_an_approval_that_never_comes() {
    nobody_approves(&mut World::new(plain));
}

#[cfg(feature = "__breaks")]
mod broken {
    //! Each rule, switched off, is missed by one of the tests above.

    use super::*;

    fn fails(configure: fn(&mut EngineConfig), history: fn(&mut World)) -> bool {
        std::panic::catch_unwind(|| history(&mut World::new(configure))).is_err()
    }

    #[test]
    fn a_switch_that_a_restart_forgets_is_noticed() {
        let tried = std::panic::catch_unwind(|| {
            at_every_commit(
                |config| config.breaks.forget_switch = true,
                |world, fuse| {
                    changed_under_load(world, fuse);
                    check(world, 1..=12);
                },
            )
        });
        assert!(tried.is_err());
    }

    #[test]
    fn speaking_under_an_identity_that_is_not_approved_is_noticed() {
        assert!(fails(|c| c.breaks.switch_at_once = true, nobody_approves));
    }

    #[test]
    fn messages_that_overtake_those_of_the_former_identity_are_noticed() {
        assert!(fails(|c| c.breaks.no_barrier = true, held_up));
    }
}

/// What arrived from each machine, told apart by the bodies' first letter, in order of arrival.
fn by_machine(bodies: &[String], letter: char) -> Vec<&str> {
    let of = |body: &&String| body.starts_with(letter);
    bodies.iter().filter(of).map(String::as_str).collect()
}

fn named(letter: char, all: std::ops::RangeInclusive<usize>) -> Vec<String> {
    all.map(|number| format!("{letter}{number:02}")).collect()
}

fn send_named(world: &mut World, from: usize, bodies: &[String]) {
    for body in bodies {
        world.put(from, "b/orders", body, Class::Transactional);
        world.put(from, "b/notes", body, Class::Recoverable);
    }
}

/// A used machine is copied with messages on their way out, and both run: one of them, and only
/// one, takes an identity of its own; everything arrives, what both inherited arrives once, and
/// each machine's order holds. `crash` may kill machines meanwhile.
fn copies_part(configure: fn(&mut EngineConfig), crash: impl Fn(&mut World, usize)) -> World {
    let mut world = World::new(configure);
    send_named(&mut world, SENDER, &named('a', 1..=3));
    world.run(2_000);
    let old = world.id(SENDER);
    world.cut();
    send_named(&mut world, SENDER, &named('i', 1..=5));
    let copy = world.copy(SENDER);
    world.cut = false;
    send_named(&mut world, SENDER, &named('a', 4..=8));
    send_named(&mut world, copy, &named('c', 1..=8));
    world.run(5_000);
    crash(&mut world, copy);
    world.run(5_000);
    send_named(&mut world, SENDER, &named('a', 9..=12));
    send_named(&mut world, copy, &named('c', 9..=12));
    world.run(120_000);

    let ids = [SENDER, copy].map(|machine| world.id(machine));
    let kept = ids.iter().filter(|id| **id == old).count();
    assert_eq!(kept, 1, "one keeps the identity: {ids:?}");
    let loser = if ids[0] == old { copy } else { SENDER };
    let new = world.id(loser);
    world.approve(RECEIVER, new);
    world.run(120_000);
    send_named(&mut world, SENDER, &named('a', 13..=14));
    send_named(&mut world, copy, &named('c', 13..=14));
    world.run(5_000);

    let orders = world.receive(RECEIVER, "orders");
    for (letter, last) in [('a', 14), ('i', 5), ('c', 14)] {
        assert_eq!(by_machine(&orders, letter), named(letter, 1..=last));
    }
    let mut notes = world.receive(RECEIVER, "notes");
    notes.sort_unstable();
    let mut all: Vec<String> = [('a', 14), ('i', 5), ('c', 14)]
        .into_iter()
        .flat_map(|(letter, last)| named(letter, 1..=last))
        .collect();
    all.sort_unstable();
    assert_eq!(notes, all);
    for machine in [SENDER, copy] {
        assert_eq!(world.dead(machine), []);
        let view = world.identity(machine);
        assert!(view.former.is_none_or(|former| former.waiting == 0));
    }
    // The other side goes on to reach the machine that kept the identity by its name.
    world.put(
        RECEIVER,
        &format!("qm:{old}/notes"),
        "reply",
        Class::Recoverable,
    );
    world.run(5_000);
    let winner = if loser == copy { SENDER } else { copy };
    assert_eq!(world.receive(winner, "notes"), ["reply"]);
    world
}

#[test]
fn of_two_copies_one_takes_an_identity_of_its_own_and_nothing_is_lost() {
    let mut world = copies_part(plain, |_, _| {});
    let seen = |event: &Event| matches!(event, Event::TwinSeen { .. });
    assert_eq!(world.told(RECEIVER, seen), 1);
    let over = |event: &Event| matches!(event, Event::TwinParted { .. });
    assert!(world.told(RECEIVER, over) > 0);
    let reply = world.ask(RECEIVER, AdminRequest::Status);
    let AdminReply::Status(status) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(status.twins, [], "the alarm is over where it was raised");
}

fn twins(world: &mut World, at: usize) -> usize {
    let AdminReply::Status(status) = world.ask(at, AdminRequest::Status) else {
        panic!("no status");
    };
    status.twins.len()
}

/// W-TWN-5.
#[test]
fn the_alarm_ends_when_the_copy_that_parts_has_nothing_to_send() {
    let mut world = World::new(plain);
    for (at, name, other) in [(SENDER, "b", RECEIVER), (RECEIVER, "a", SENDER)] {
        let request = AdminRequest::PeerAdd {
            name: name.to_owned(),
            address: Some(world::place(other)),
            qm: None,
            keep_connected: false,
        };
        world.ask(at, request);
    }
    let old = world.id(SENDER);
    send_named(&mut world, SENDER, &named('a', 1..=1));
    // Until idle connections are closed.
    world.run(900_000);
    let copy = world.copy(SENDER);
    send_named(&mut world, copy, &named('c', 1..=1));
    world.run(30_000);
    // The copy has a session there, and all that it had to send is delivered.
    send_named(&mut world, SENDER, &named('a', 2..=2));
    world.run(5_000);
    assert_eq!(world.id(SENDER), old, "it served for longer");
    assert_ne!(world.id(copy), old);
    let parted = |event: &Event| matches!(event, Event::TwinParted { .. });
    assert!(world.told(RECEIVER, parted) > 0);
    assert_eq!(twins(&mut world, RECEIVER), 0);

    // W-TWN-6. It has proven to the machine that keeps the identity that it has another.
    assert_eq!(twins(&mut world, SENDER), 0);
    assert!(world.told(SENDER, parted) > 0);
}

#[test]
fn copies_part_although_they_die_meanwhile() {
    copies_part(plain, |world, copy| {
        for machine in [SENDER, copy] {
            world.crash(machine);
        }
    });
    copies_part(plain, |world, _| world.crash(RECEIVER));
}

#[test]
fn a_copy_that_is_told_to_keep_still_changes_nothing_by_itself() {
    let mut world = World::new(|config| config.on_twin = OnTwin::AlarmOnly);
    let old = world.id(SENDER);
    let copy = world.copy(SENDER);
    world.run(120_000);
    assert_eq!([world.id(SENDER), world.id(copy)], [old, old]);
    let losers = [SENDER, copy].map(|machine| world.has_lost(machine));
    assert!(losers[0] != losers[1], "{losers:?}");
}

/// A hint that the process was resumed from a snapshot costs a reconnect, at any moment.
#[test]
fn a_machine_that_may_have_been_resumed_connects_anew_and_nothing_is_lost() {
    for steps in 0..40 {
        let mut world = World::new(plain);
        send(&mut world, 1..=3);
        world.carry(steps);
        let before = world.machines[SENDER].engine.incarnation();
        for machine in [SENDER, RECEIVER] {
            world.give(machine, qm_engine::Input::Resumed { why: "a test" });
        }
        let after = world.machines[SENDER].engine.incarnation();
        assert_ne!(before, after);
        let resumed = |event: &Event| matches!(event, Event::Resumed { why: "a test" });
        assert!(world.told(SENDER, resumed) > 0);
        send(&mut world, 4..=6);
        world.run(30_000);
        check(&mut world, 1..=6);
    }
}
