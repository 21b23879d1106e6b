//! Streams that begin anew: with more skips than one batch takes, with letters that are on their
//! way to the disk, and with a crash in between.

use qm_engine::admin::{AdminRequest, Selector};
use qm_engine::{EngineConfig, Input, LinkId};
use qm_wire::local::{Follow, NodeFrame};
use qm_wire::{AckWishes, Outcome, PeerFrame, Refusal, Reject};

use super::support::*;
use super::{LINK, NEXT, is_answer, is_quiet, met, pair};

const LATER: LinkId = LinkId(3);
const BATCH_BYTES: usize = 2 << 10;
/// What a segment of the disk takes.
const SEGMENT_BYTES: usize = 4 * BATCH_BYTES;
const MANY: usize = 150;

fn small_batches(config: &mut EngineConfig) {
    config.batch_bytes_max = BATCH_BYTES;
}

/// A node with a purge of very many messages behind it, whose destination lost its store. One
/// message in the midst of them waits still.
fn purged() -> (Node, Node) {
    let (mut a, mut b) = purged_while_away();
    b.identity.store_id = [99; 16];
    let mut b = b.over_disk(Disk::default());
    b.create("orders", |_| {});
    a.wait(60_000);
    (a, b)
}

/// The same with the store that its destination had.
fn purged_while_away() -> (Node, Node) {
    let (a, mut b) = pair();
    drop(a);
    let mut a = Node::with(1, small_batches);
    a.send([0]);
    connect(&mut a, &mut b, LINK);
    assert_eq!(b.receive("orders"), ["0"]);
    a.lose_link(LINK);
    b.lose_link(LINK);
    a.send(1..=MANY);
    a.ask(AdminRequest::OutgoingPurge {
        which: Selector::All,
        discard: false,
    });
    assert_eq!(skips(&a), MANY);
    a.batch_max = SEGMENT_BYTES;
    (a, b)
}

pub(crate) fn rebase() -> AdminRequest {
    AdminRequest::StreamRebase {
        which: Selector::Name("orders".to_owned()),
        dry_run: false,
    }
}

fn skips(a: &Node) -> usize {
    let skips = a.disk.state.keys().filter(|key| key.starts_with(b"skip/"));
    skips.count()
}

fn is_accepted(a: &mut Node) -> bool {
    let told = std::mem::take(&mut a.told).into_iter();
    let accepted = |frame: &NodeFrame| matches!(frame, NodeFrame::Accepted(_));
    told.filter(accepted).count() > 0
}

#[test]
fn a_stream_with_more_skips_than_a_segment_takes_begins_anew() {
    let (mut a, mut b) = purged();
    connect(&mut a, &mut b, NEXT);
    a.told.clear();
    a.send([MANY + 1]);
    assert!(is_accepted(&mut a), "its disk takes what it says");
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), [(MANY + 1).to_string()]);
    is_quiet(&mut a);
    let a = &mut a.crash();
    assert_eq!(a.dead().len(), MANY);
    assert!(a.dead().iter().all(|letter| letter.uncertain));
}

/// Whichever of the batches are on disk when it dies, it begins anew again, and every message that
/// it accepted arrives once and in order.
#[test]
fn a_crash_while_a_stream_begins_anew_loses_nothing() {
    let mut batches = 1;
    let mut reached = 0;
    while reached < batches {
        let (mut a, mut b) = purged();
        a.send(MANY + 1..=MANY + 2);
        a.hold_disk = true;
        plug(&mut a, &mut b, NEXT);
        let is_data = |frame: &PeerFrame| matches!(frame, PeerFrame::Data(_));
        carry_but(&mut a, &mut b, NEXT, is_data);
        while a.engine.counters().streams_rerooted == 0 {
            a.answer_one(true);
            carry_but(&mut a, &mut b, NEXT, is_data);
        }
        batches = a.waiting.len() + 1;
        assert!(batches > 5, "{batches}");
        let mut a = a.die_with(|n| n < reached);
        b.lose_link(NEXT);
        a.batch_max = SEGMENT_BYTES;
        a.send([MANY + 3]);
        a.wait(60_000);
        connect(&mut a, &mut b, LINK);
        assert_eq!(
            b.receive("orders"),
            numbers(MANY + 1..=MANY + 3),
            "{reached}"
        );
        assert_eq!(b.engine.counters().needs_sent, 0, "{reached}");
        is_quiet(&mut a);
        let mut a = a.crash();
        assert_eq!(a.dead().len(), MANY);
        assert!(a.dead().iter().all(|letter| letter.uncertain), "{reached}");
        reached += 1;
    }
}

/// The first message on its way is refused by its destination, and its stream begins anew while the
/// letter is on its way to the disk.
pub(crate) fn begins_anew_behind_a_letter(a: &mut Node) {
    let frames = a.sent_on(LINK);
    let Some(PeerFrame::Data(first)) = frames.first() else {
        panic!("{frames:?}");
    };
    let refusals = vec![Refusal {
        number: first.number,
        tag: first.tag,
        outcome: Outcome::BAD_DESTINATION_QUEUE,
    }];
    a.hold_disk = true;
    a.hear(LINK, &PeerFrame::Reject(Reject { refusals }));
    a.give(Input::Admin {
        conn: APPLICATION,
        request: 1,
        what: rebase(),
    });
}

/// A message of which its application wishes to hear in a queue, refused by its destination; the
/// stream begins anew while its letter is on its way to the disk.
fn begun_anew() -> (Node, Node) {
    let (mut a, mut b) = met();
    a.create("acks", |settings| settings.transactional = false);
    a.put("qm://b/orders", "1", |put| {
        put.follow = Follow::Delivered;
        put.ack_wishes = AckWishes::POSITIVE_ARRIVAL.with(AckWishes::NEGATIVE_ARRIVAL);
        put.admin_queue = "acks".into();
    });
    a.told.clear();
    begins_anew_behind_a_letter(&mut a);
    b.lose_link(LINK);
    (a, b)
}

fn reports(a: &mut Node) -> Vec<Outcome> {
    let deliveries = a.take("acks", 100, None).into_iter();
    let envelopes = deliveries.map(|delivery| delivery.open().unwrap());
    envelopes.map(|envelope| envelope.report.unwrap()).collect()
}

fn is_told_once(a: &mut Node) {
    let letter = a.dead().remove(0);
    assert!(letter.uncertain && !letter.unconfirmed);
    assert_eq!(reports(a), [Outcome::BAD_DESTINATION_QUEUE]);
    let awaits = a.disk.state.keys();
    let awaits = awaits.filter(|key| key.starts_with(b"await/"));
    assert_eq!(awaits.count(), 0);
}

/// What is told of a message is what became of it, and is told once, wherever the node dies.
#[test]
fn a_death_whose_letter_is_on_its_way_when_its_stream_begins_anew_is_told_once() {
    let (mut a, _b) = begun_anew();
    let batches = a.waiting.len();
    a.release_disk(0);
    assert_eq!(a.fates(), [Outcome::BAD_DESTINATION_QUEUE]);
    is_told_once(&mut a);
    let mut died = 0;
    for batches in 1..=batches {
        let (mut a, _b) = begun_anew();
        a.release_batches(batches, 0);
        let mut a = a.crash();
        if !a.dead().is_empty() {
            a.ask(rebase());
            is_told_once(&mut a);
            died += 1;
        }
    }
    assert!(died >= 2, "{died} of {batches}");
}

#[test]
fn of_a_message_whose_letter_is_refused_after_its_stream_began_anew_only_its_arrival_is_told() {
    let (mut a, mut b) = begun_anew();
    a.release_disk(1);
    assert_eq!(a.fates(), [], "it may arrive yet");
    a.lose_link(LINK);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["1"]);
    assert_eq!(a.fates(), [Outcome::REACHED_QUEUE]);
    assert_eq!(reports(&mut a), [Outcome::REACHED_QUEUE]);
    assert!(a.dead().is_empty());
    assert_eq!(a.engine.counters().letters_uncertain, 0);
    let view = a.streams().remove(0);
    assert_eq!((view.unsettled, view.skips), (0, 0));
}

/// A stream that was begun anew although its destination has some of what is in it: the first
/// `arrived` of 1 to 3.
fn begun_anew_in_vain(arrived: usize) -> (Node, Node) {
    let (mut a, mut b) = met();
    a.send(1..=3);
    let mut came = 0;
    carry_but(&mut a, &mut b, LINK, |frame| {
        let data = matches!(frame, PeerFrame::Data(_));
        came += usize::from(data);
        data && came > arrived || is_answer(frame)
    });
    assert_eq!(b.receive("orders"), numbers(1..=arrived));
    a.ask(rebase());
    b.lose_link(LINK);
    a.lose_link(LINK);
    (a, b)
}

/// What its destination knows by name is settled and leaves no link there: nothing that follows
/// waits for a link that was never sent.
#[test]
fn a_stream_begun_anew_goes_on_when_its_destination_knows_by_name_what_was_in_it() {
    for arrived in 1..=3 {
        for dies in [false, true] {
            let (mut a, mut b) = begun_anew_in_vain(arrived);
            a.wait(60_000);
            connect(&mut a, &mut b, NEXT);
            a.wait(60_000);
            carry(&mut a, &mut b, NEXT);
            if dies {
                (a, b) = (a.crash(), b.crash());
                a.wait(60_000);
                connect(&mut a, &mut b, LATER);
            }
            let link = if dies { LATER } else { NEXT };
            a.send([4]);
            carry(&mut a, &mut b, link);
            a.wait(60_000);
            carry(&mut a, &mut b, link);
            assert_eq!(b.receive("orders"), numbers(arrived + 1..=4), "{dies}");
            is_quiet(&mut a);
        }
    }
}

/// Over crashes of its sender, too, a stream that was begun anew stands when its destination lacks
/// what it acknowledged of it.
#[test]
fn a_stream_begun_anew_stands_when_its_destination_lost_links_of_it() {
    let (mut a, mut b) = begun_anew_in_vain(3);
    a.wait(60_000);
    connect(&mut a, &mut b, NEXT);
    let backup = b.disk.clone();
    a.send([4]);
    carry(&mut a, &mut b, NEXT);
    a.wait(60_000);
    carry(&mut a, &mut b, NEXT);
    assert_eq!(b.receive("orders"), ["4"]);
    let (mut a, mut b) = (a.crash(), b.over_disk(backup));
    a.send([5]);
    a.wait(60_000);
    connect(&mut a, &mut b, LATER);
    a.wait(60_000);
    carry(&mut a, &mut b, LATER);
    assert!(b.receive("orders").is_empty());
    let view = a.streams().into_iter().find(|view| !view.incoming).unwrap();
    assert!(view.held.unwrap().contains("the destination lacks"));
}

/// Whichever of the batches are on disk when its node dies, what an operator began is done, and
/// nothing stands.
#[test]
fn what_dies_half_way_while_an_operator_begins_its_stream_anew_goes_on_by_itself() {
    let mut batches = 1;
    let mut reached = 0;
    while reached <= batches {
        let (mut a, mut b) = purged_while_away();
        a.hold_disk = true;
        a.give(Input::Admin {
            conn: APPLICATION,
            request: 1,
            what: rebase(),
        });
        batches = a.waiting.len();
        assert!(batches > 5, "{batches}");
        let mut a = a.die_with(|n| n < reached);
        a.batch_max = SEGMENT_BYTES;
        a.send([MANY + 1]);
        a.wait(60_000);
        connect(&mut a, &mut b, NEXT);
        a.wait(60_000);
        carry(&mut a, &mut b, NEXT);
        assert_eq!(b.receive("orders"), numbers([MANY + 1]), "{reached}");
        assert_eq!(b.engine.counters().needs_sent, 0, "{reached}");
        is_quiet(&mut a);
        let mut a = a.crash();
        let letters = a.dead();
        assert_eq!(letters.len(), MANY);
        let is_begun = reached > 0;
        assert!(letters.iter().all(|letter| letter.uncertain == is_begun));
        reached += 1;
    }
}
