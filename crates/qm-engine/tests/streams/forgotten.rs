//! A backup that is older than the links that its destination remembers: nobody can tell where the
//! two parted, so nothing is guessed.

use qm_engine::admin::{AdminReply, AdminRequest, PurgeTally, Selector};
use qm_engine::{EngineConfig, Event, LinkId};
use qm_wire::{Hold, Outcome, PeerFrame};

use crate::support::*;
use crate::{LINK, NEXT, is_quiet, met};

const LATER: LinkId = LinkId(3);

fn to_orders() -> Selector {
    Selector::Name("qm://b:1801/orders".to_owned())
}

/// A sender that went back to where 1 to 3 were not acknowledged. Since then they arrived, and
/// 4 to 80 behind them, of whose links the destination remembers what it is configured to.
fn went_back(configure: fn(&mut EngineConfig)) -> (Node, Node) {
    let (mut a, mut b) = (Node::with(1, configure), Node::with(2, configure));
    b.create("orders", |_| {});
    a.send([0]);
    connect(&mut a, &mut b, LINK);
    a.send(1..=3);
    let backup = a.disk.clone();
    carry(&mut a, &mut b, LINK);
    for n in 4..=80 {
        a.send([n]);
        carry(&mut a, &mut b, LINK);
    }
    b.wait(60_000);
    assert_eq!(b.receive("orders"), numbers(0..=80));
    // Nor does it remember the messages themselves.
    let (mut a, mut b) = (a.over_disk(backup), b.crash());
    a.send(81..=82);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    (a, b)
}

fn few_links(config: &mut EngineConfig) {
    config.stream_history_links = 8;
}

fn rebase(a: &mut Node, b: &mut Node, link: LinkId) {
    let (which, dry_run) = (to_orders(), false);
    let reply = a.ask(AdminRequest::StreamRebase { which, dry_run });
    assert!(matches!(reply, AdminReply::Rebased { .. }), "{reply:?}");
    talk(a, b, link);
}

fn purge(a: &mut Node) -> PurgeTally {
    let (which, discard) = (to_orders(), false);
    match a.ask(AdminRequest::OutgoingPurge { which, discard }) {
        AdminReply::Purged(tally) => tally,
        reply => panic!("{reply:?}"),
    }
}

/// Both say everything, and what they say later.
fn talk(a: &mut Node, b: &mut Node, link: LinkId) {
    carry(a, b, link);
    a.wait(60_000);
    b.wait(60_000);
    carry(a, b, link);
}

#[test]
fn a_backup_whose_place_is_remembered_goes_on_by_itself() {
    let (mut a, mut b) = went_back(|_| {});
    assert_eq!(b.receive("orders"), numbers(81..=82));
    is_quiet(&mut a);
}

#[test]
fn a_backup_older_than_the_links_that_are_remembered_waits_for_its_operator() {
    let (a, b) = went_back(few_links);
    // Restarts of both change nothing.
    let (mut first, mut second) = (a, b);
    for link in [NEXT, LATER] {
        let (a, b) = (&mut first, &mut second);
        assert_eq!(b.receive("orders"), numbers([]), "nothing comes twice");
        for node in [&*a, &*b] {
            let held = |event: &&Event| {
                matches!(event, Event::StreamHeld { text, .. }
                if text.contains("the sender's store went back"))
            };
            assert_eq!(node.events.iter().filter(held).count(), 1);
        }
        let view = a.streams().into_iter().find(|view| !view.incoming).unwrap();
        assert_eq!((view.unsettled, view.skips), (5, 0), "nothing is lost");
        let said = view.held.unwrap();
        assert!(said.contains("the sender's store went back"), "{said}");
        assert!(a.dead().is_empty());
        let subject = "qm://b:1801/orders".to_owned();
        let AdminReply::Why(why) = a.ask(AdminRequest::Why { subject }) else {
            panic!("it is told why");
        };
        assert_eq!(why.code.name(), "stream_held");
        let fix = why.fix.unwrap();
        for command in ["outgoing purge", "stream rebase", "dead resend"] {
            assert!(fix.contains(command), "{fix}");
        }
        if link == NEXT {
            (first, second) = (first.crash(), second.crash());
            first.wait(60_000);
            connect(&mut first, &mut second, LATER);
        }
    }
}

/// The way that `why` tells: all of it is kept as dead letters, what never arrived is sent again.
#[test]
fn an_operator_who_looks_loses_nothing_and_gets_nothing_twice() {
    let (mut a, mut b) = went_back(few_links);
    assert_eq!(
        purge(&mut a).left,
        0,
        "what was sent in vain is called back"
    );
    rebase(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers([]));
    let letters = a.dead();
    assert_eq!(letters.len(), 5);
    assert!(letters.iter().all(|letter| letter.uncertain), "{letters:?}");
    let never_arrived = letters[3..].iter().map(|letter| letter.position);
    let reply = a.ask(AdminRequest::DeadResend {
        positions: never_arrived.collect(),
        force: true,
        to: None,
    });
    let AdminReply::LetterFates(fates) = reply else {
        panic!("{reply:?}")
    };
    assert!(fates.iter().all(|fate| fate.resent_as.is_some()));
    talk(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(81..=82));
    assert_eq!(a.dead().len(), 3, "1 to 3, which arrived before");
    a.send([83]);
    talk(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), numbers(83..=83));
    is_quiet(&mut a);
}

/// A stream that stands although its destination took all of it, whose acks are still on their way.
fn stands_with_late_acks() -> (Node, Node, Vec<PeerFrame>) {
    let (mut a, mut b) = met();
    a.send(1..=3);
    let mut place = None;
    for frame in a.sent_on(LINK) {
        if let PeerFrame::Data(data) = &frame {
            place = place.or(data.transit.place);
        }
        b.hear(LINK, &frame);
    }
    let late = b.sent_on(LINK);
    let place = place.expect("a transactional message has a place");
    let hold = PeerFrame::Hold(Hold {
        stream: place.stream,
        position: place.position,
        previous: place.previous,
        outcome: Outcome::BUSY,
        text: "too many branches".into(),
    });
    a.hear(LINK, &hold);
    (a, b, late)
}

/// What a purge called back may have arrived: delivered wins over the letter.
#[test]
fn what_is_called_back_and_had_arrived_is_delivered() {
    let (mut a, mut b, late) = stands_with_late_acks();
    assert_eq!(purge(&mut a).left, 0);
    let letters = a.dead();
    assert_eq!(letters.len(), 3);
    assert!(
        letters.iter().all(|letter| letter.unconfirmed),
        "{letters:?}"
    );
    a.hear_all(LINK, &late);
    talk(&mut a, &mut b, LINK);
    assert!(a.dead().is_empty(), "delivered wins");
    a.send([4]);
    talk(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), numbers(1..=4), "once, and in order");
    is_quiet(&mut a);
}

/// A full disk takes no letters: what was called back waits, may have arrived, and is not sent in a
/// new stream before its destination was asked.
#[test]
fn what_is_called_back_by_a_purge_that_fails_is_asked_for() {
    let (mut a, mut b, late) = stands_with_late_acks();
    a.hold_disk = true;
    a.send([9]);
    a.release_disk(1);
    let (which, discard) = (to_orders(), false);
    let reply = a.ask(AdminRequest::OutgoingPurge { which, discard });
    assert!(matches!(reply, AdminReply::Failed { .. }), "{reply:?}");
    rebase(&mut a, &mut b, LINK);
    a.hear_all(LINK, &late);
    talk(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), numbers(1..=3), "once");
    assert!(a.dead().is_empty());
    is_quiet(&mut a);
}

/// Exactly once reaches as far as what the destination remembers: an operator who begins the stream
/// anew, without a look at what waits, has it sent once more.
#[test]
fn a_stream_that_is_only_begun_anew_sends_what_had_arrived_once_more() {
    let (mut a, mut b) = went_back(few_links);
    rebase(&mut a, &mut b, NEXT);
    let mut came = numbers(1..=3);
    came.extend(numbers(81..=82));
    assert_eq!(b.receive("orders"), came);
    is_quiet(&mut a);
}
