//! A rejection is answered when it stands.

use qm_engine::admin::{AdminReply, AdminRequest};
use qm_wire::local::{NodeFrame, Verdict};
use qm_wire::{Class, MessageFlags, Outcome};

use super::support::Node;

fn rejected(class: Class, flags: MessageFlags) -> Node {
    let mut a = Node::new(1);
    a.create("here", |settings| settings.transactional = false);
    a.put("here", "1", |put| {
        put.class = class;
        put.flags = flags;
    });
    let held = a.take("here", 1, None);
    a.hold_disk = true;
    a.settle("here", held[0].lookup, Verdict::Reject);
    a
}

fn settled(a: &Node) -> Vec<Option<Outcome>> {
    let told = a.told.iter();
    told.filter_map(|frame| match frame {
        NodeFrame::Settled(settled) => Some(settled.outcome),
        _ => None,
    })
    .collect()
}

#[test]
fn a_rejection_is_answered_when_its_letter_or_its_removal_is_on_disk() {
    for flags in [MessageFlags::DEAD_LETTER, MessageFlags::NONE] {
        let mut a = rejected(Class::Recoverable, flags);
        assert_eq!(settled(&a), [], "{flags:?}");
        a.release_disk(0);
        assert_eq!(settled(&a), [None], "{flags:?}");
    }
    let mut a = rejected(Class::Express, MessageFlags::DEAD_LETTER);
    assert_eq!(settled(&a), []);
    a.release_disk(0);
    assert_eq!(settled(&a), [None]);
    let a = rejected(Class::Express, MessageFlags::NONE);
    assert_eq!(settled(&a), [None]);
}

#[test]
fn a_rejection_that_a_full_disk_refuses_says_so_and_the_message_is_there() {
    let mut a = rejected(Class::Recoverable, MessageFlags::DEAD_LETTER);
    a.release_disk(1);
    assert_eq!(settled(&a), [Some(Outcome::STORE_FULL)]);
    assert_eq!(a.receive("here"), ["1"]);
}

#[test]
fn a_letter_is_sent_again_to_no_queue_of_the_wrong_kind() {
    let mut a = rejected(Class::Recoverable, MessageFlags::DEAD_LETTER);
    a.release_disk(0);
    a.create("strict", |settings| settings.transactional = true);
    let position = a.dead()[0].position;
    let reply = a.ask(AdminRequest::DeadResend {
        positions: vec![position],
        force: false,
        to: Some("strict".into()),
    });
    match reply {
        AdminReply::LetterFates(fates) => {
            assert_eq!(fates[0].outcome, Some(Outcome::NOT_TRANSACTIONAL_MESSAGE));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(a.dead().len(), 1);
    assert!(a.receive("strict").is_empty());
}
