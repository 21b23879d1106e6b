//! Whoever follows a transactional message is told how it ended, when its destination has answered
//! for its place.

use qm_engine::admin::{AdminRequest, Selector};
use qm_engine::{Event, Input};
use qm_wire::local::{ClientFrame, ClientHello, Follow, Put};
use qm_wire::{ClientId, MessageFlags, Outcome, PeerFrame};

use super::{LINK, NEXT, met, support::*};

/// Puts a message that is followed, and returns the request.
fn follow(a: &mut Node, to: &str, until: Follow) -> Put {
    let mut request = None;
    a.put(to, "x", |put| {
        put.follow = until;
        request = Some(put.clone());
    });
    request.expect("it was put")
}

/// The application lost its connection, and asks the same again on another one.
fn repeat(a: &mut Node, put: Put) {
    a.give(Input::ClientClosed { conn: APPLICATION });
    let mut client = [7; 16];
    client[0] = 1;
    a.client(ClientFrame::Hello(ClientHello {
        protocol: 1,
        client: ClientId(client),
        program: "test".into(),
    }));
    a.client(ClientFrame::Put(put));
}

const fn is_skipped(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Skipped(_))
}

#[test]
fn who_follows_a_refused_message_hears_of_it_when_its_place_is_answered_for() {
    for until in [Follow::Delivered, Follow::Received] {
        let (mut a, mut b) = met();
        b.create("plain", |settings| settings.transactional = false);
        for to in ["qm://b/plain", "qm://b/nowhere"] {
            follow(&mut a, to, until);
            carry_but(&mut a, &mut b, LINK, is_skipped);
            assert_eq!(a.fates(), [], "its destination has the last word");
        }
        reconnect(&mut a, &mut b, LINK, NEXT);
        let mut told = a.fates();
        told.sort_unstable();
        let refused = [
            Outcome::BAD_DESTINATION_QUEUE,
            Outcome::NOT_TRANSACTIONAL_QUEUE,
        ];
        assert_eq!(told, refused, "{until:?}");
    }
}

#[test]
fn the_same_without_a_dead_letter_and_not_before_it_is_on_disk() {
    let (mut a, mut b) = met();
    a.put("qm://b/nowhere", "x", |put| {
        put.follow = Follow::Delivered;
        put.flags = MessageFlags::NONE;
    });
    carry_but(&mut a, &mut b, LINK, is_skipped);
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.wait(60_000);
    plug(&mut a, &mut b, NEXT);
    // Everything but the answer is said; what follows from that the disk keeps waiting.
    let mut answers = Vec::new();
    carry_but(&mut a, &mut b, NEXT, |frame| {
        if is_skipped(frame) {
            answers.push(frame.clone());
        }
        is_skipped(frame)
    });
    a.hold_disk = true;
    a.hear_all(NEXT, &answers);
    assert_eq!(a.fates(), [], "a crash brings the question back");
    a.release_disk(0);
    assert_eq!(a.fates(), [Outcome::BAD_DESTINATION_QUEUE]);
    assert!(a.dead().is_empty());
}

/// The application is back while the question is open, also after a crash of its node.
#[test]
fn who_comes_back_waits_for_the_answer() {
    let (mut a, mut b) = met();
    let put = follow(&mut a, "qm://b/nowhere", Follow::Delivered);
    carry_but(&mut a, &mut b, LINK, is_skipped);
    b.lose_link(LINK);
    repeat(&mut a, put.clone());
    assert_eq!(a.fates(), [], "the question is open");
    let mut a = a.crash();
    repeat(&mut a, put);
    assert_eq!(a.fates(), [], "it is open after a crash");
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(a.fates(), [Outcome::BAD_DESTINATION_QUEUE]);
}

#[test]
fn of_what_left_a_stream_that_begins_anew_its_reason_is_told() {
    let (mut a, mut b) = met();
    let put = follow(&mut a, "qm://b/orders", Follow::Delivered);
    carry_but(&mut a, &mut b, LINK, |_| true);
    b.lose_link(LINK);
    // An earlier life may have transmitted it.
    let mut a = a.crash();
    repeat(&mut a, put);
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    assert_eq!(a.fates(), [], "it may have arrived");
    b.identity.store_id = [99; 16];
    let mut b = b.over_disk(Disk::default());
    b.create("orders", |_| {});
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    let uncertain = |event: &&Event| matches!(event, Event::DeathUncertain { .. });
    assert_eq!(a.events.iter().filter(uncertain).count(), 1);
    assert_eq!(a.fates(), [Outcome::PURGED_IN_TRANSIT]);
}
