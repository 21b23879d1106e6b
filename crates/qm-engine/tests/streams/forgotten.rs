//! A backup that is older than the links that its destination remembers: nobody can tell where the
//! two parted, so nothing is guessed.

use qm_engine::admin::{AdminReply, AdminRequest, Selector};
use qm_engine::{EngineConfig, Event, LinkId};

use crate::support::*;
use crate::{LINK, NEXT, is_quiet};

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
            let held = |event: &&Event| matches!(event, Event::StreamHeld { .. });
            assert_eq!(node.events.iter().filter(held).count(), 1);
        }
        let view = a.streams().into_iter().find(|view| !view.incoming).unwrap();
        assert_eq!((view.unsettled, view.skips), (5, 0), "nothing is lost");
        assert!(view.held.is_some());
        assert!(a.dead().is_empty());
        let subject = "qm://b:1801/orders".to_owned();
        let AdminReply::Why(why) = a.ask(AdminRequest::Why { subject }) else {
            panic!("it is told why");
        };
        assert_eq!(why.code.name(), "stream_held");
        assert!(why.fix.unwrap().contains("stream rebase"));
        if link == NEXT {
            (first, second) = (first.crash(), second.crash());
            first.wait(60_000);
            connect(&mut first, &mut second, LATER);
        }
    }
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
