//! A peer blocks the former identity: what it holds is given up, and nobody is asked about it.

use qm_engine::admin::{AdminRequest, DeadLetterView};
use qm_wire::{Class, Outcome};

use super::world::{RECEIVER, SENDER, World};
use super::{plain, send};

fn open(letter: &DeadLetterView) -> (Class, bool, bool) {
    (letter.class, letter.unconfirmed, letter.uncertain)
}

/// Whether nothing keeps the former identity but the time its key is kept for.
fn has_drained(world: &mut World) -> bool {
    let former = world.identity(SENDER).former.unwrap();
    former.waiting == 0 && former.erased_in_ms.is_some()
}

fn block(world: &mut World, who: String) {
    world.ask(RECEIVER, AdminRequest::PeerBlock { who });
    world.cut = false;
    world.run(120_000);
}

/// An earlier life may have transmitted it; nobody can say.
#[test]
fn what_an_earlier_life_left_is_uncertain_and_the_former_identity_drains() {
    let mut world = World::new(plain);
    send(&mut world, 1..=2);
    world.run(1_000);
    let old = world.id(SENDER);
    world.cut();
    send(&mut world, 3..=4);
    world.remint(SENDER);
    world.crash(SENDER);
    block(&mut world, old.to_string());
    let letters = world.dead(SENDER);
    assert_eq!(letters.len(), 4);
    for letter in &letters {
        assert_eq!(letter.outcome, Outcome::ACCESS_DENIED);
        assert!(!letter.unconfirmed, "{:?}", open(letter));
        if letter.class == Class::Recoverable {
            assert!(letter.uncertain, "{:?}", open(letter));
        }
    }
    assert!(has_drained(&mut world), "{:?}", world.identity(SENDER));
}

/// The question was open when the peer blocked this identity: it ends without an answer.
#[test]
fn what_was_being_asked_for_is_uncertain_then() {
    for crash in [false, true] {
        let mut world = World::new(plain);
        send(&mut world, 1..=2);
        world.run(1_000);
        let old = world.id(SENDER);
        world.cut();
        world.put(SENDER, "b/notes", "3", Class::Recoverable);
        world.remint(SENDER);
        world.crash(SENDER);
        let purge = AdminRequest::OutgoingPurge {
            which: qm_engine::admin::Selector::All,
            discard: false,
        };
        world.ask(SENDER, purge);
        world.run(100);
        assert!(world.dead(SENDER)[0].unconfirmed);
        if crash {
            world.crash(SENDER);
        }
        // So that there is something to be refused.
        world.put(SENDER, "b/notes", "4", Class::Recoverable);
        block(&mut world, old.to_string());
        let letters: Vec<_> = world.dead(SENDER).iter().map(open).collect();
        assert!(letters.contains(&(Class::Recoverable, false, true)));
        assert!(letters.iter().all(|letter| !letter.1), "{letters:?}");
        assert!(has_drained(&mut world), "{:?}", world.identity(SENDER));
    }
}
