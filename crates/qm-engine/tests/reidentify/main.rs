//! A node takes another identity while it runs: nothing stalls, is lost, comes twice or out of
//! order, whenever it dies on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod world;

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{EngineConfig, Event};
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
    assert!(world.machines[SENDER].events.iter().any(erased));
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
