//! Every kind of frame between nodes at every stage of a session, from a peer that names what is
//! others': either the session ends with a word that says why, or nothing comes of it. What is
//! stored, in flight and remembered stays as it was.

use std::collections::BTreeSet;

use bytes::Bytes;
use qm_engine::Sizes;
use qm_engine::admin::AdminRequest;
use qm_wire::local::{Receive, ReceiveDone};
use qm_wire::{
    Announce, BodyPart, BodyWanted, Challenge, Claim, Evicted, Final, FinalConfirm, ForkPoint,
    ForkPoints, FrameKind, Goodbye, Hold, Link, LinkAt, Need, OrderAck, Parted, Place, QueueState,
    RemoteAnswer, RemoteAsk, RemoteReply, RemoteRequest, Run, Skip, Skipped, StreamId, Succession,
    Twin, Wanted, tag_hash,
};

use super::*;

/// How far a peer is with its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has said nothing.
    Silent,
    /// It said hello, and has not confirmed its welcome.
    HalfOpen,
    /// Its session is open, and it waits to be approved.
    Pending,
    Open,
    /// Its session was open; then it was blocked.
    Blocked,
}

const STAGES: [Stage; 5] = [
    Stage::Silent,
    Stage::HalfOpen,
    Stage::Pending,
    Stage::Open,
    Stage::Blocked,
];

/// What a frame comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// Nothing, or an answer.
    Nothing,
    /// The session ends; the goodbye says so.
    Ends(Outcome, &'static str),
    /// The peer said goodbye itself.
    Leaves,
}

use Comes::{Ends, Leaves, Nothing};

const EARLY: Comes = Ends(Outcome::PROTOCOL, "a frame before the handshake");

const fn wrong(text: &'static str) -> Comes {
    Ends(Outcome::PROTOCOL, text)
}

/// A frame, and what it comes to while its sender is silent, half open, pending and open; whoever
/// is blocked has no session.
type Row = (PeerFrame, [Comes; 4]);

/// The same whenever the handshake has begun.
fn always(frame: PeerFrame, comes: Comes) -> Row {
    (frame, [EARLY, comes, comes, comes])
}

/// An engine between a good peer and one that is not.
struct Scene {
    victim: Victim,
    good: Peer,
    bad: Peer,
    /// In flight to the good peer, under this number.
    sent: (u64, Entry),
    /// What the good peer sent: it waits in the queue.
    taken: Entry,
}

fn entry_of(data: &Data) -> Entry {
    Entry {
        id: data.open().unwrap().id,
        tag: data.tag,
    }
}

impl Scene {
    fn new(stage: Stage) -> Self {
        let mut victim = Victim::new(|config| config.dedup_capacity = 100);
        let (good, bad) = (Peer::new(1), Peer::new(2));
        let settings = LocalSettings::new("orders".parse().unwrap());
        victim.admin(AdminRequest::QueueCreate(settings));
        let mut approve = |peer: &Peer| {
            let (who, name) = (peer.qm.to_string(), None);
            victim.admin(AdminRequest::PeerApprove { who, name });
        };
        approve(&good);
        if stage != Stage::Pending {
            approve(&bad);
        }
        good.open(&mut victim);
        let data = good.data(1, 1, "orders", Class::Recoverable);
        let taken = entry_of(&data);
        good.say(&mut victim, &[PeerFrame::Data(data)]);
        victim.hello_of(1, 1);
        let to = format!("qm:{}/orders", good.qm);
        victim.put(1, 1, &to, Bytes::from_static(b"not yours"));
        let frames = victim.frames_to(good.link);
        let sent = frames.iter().find_map(|frame| match frame {
            PeerFrame::Data(data) => Some((data.number, entry_of(data))),
            _ => None,
        });
        match stage {
            Stage::Silent => bad.connect(&mut victim),
            Stage::HalfOpen => {
                bad.connect(&mut victim);
                bad.say(&mut victim, &[PeerFrame::Hello(bad.hello("bad"))]);
            }
            Stage::Pending | Stage::Open => bad.open(&mut victim),
            Stage::Blocked => {
                bad.open(&mut victim);
                let who = bad.qm.to_string();
                victim.admin(AdminRequest::PeerBlock { who });
                assert_eq!(victim.was_closed(bad.link), Some(Outcome::BLOCKED));
            }
        }
        victim.sent.clear();
        victim.closed.clear();
        Self {
            victim,
            good,
            bad,
            sent: sent.expect("it is in flight"),
            taken,
        }
    }

    /// Every kind of frame with what others have, or none.
    fn rows(&self) -> Vec<Row> {
        let (me, good, bad) = (self.victim.engine.qm_id(), self.good.qm, self.bad.qm);
        let (number, sent) = self.sent;
        let stream = StreamId([5; 16]);
        let link = Link([6; 16]);
        let place = Place {
            stream,
            position: 2,
            low: 1,
            previous: link,
        };
        let relay = [7; 16];
        let rank = Rank {
            sealed: true,
            served_s: u64::MAX,
            draw: u64::MAX,
        };
        let points = vec![ForkPoint {
            from_us: 1,
            mark: [8; 16],
        }];
        let succession = Succession {
            old_key: self.good.key,
            new_key: [9; 32],
            old_signature: [0; 64],
            new_signature: [0; 64],
        };
        let channel = 1;
        let data = self.good.data(1, 2, "orders", Class::Recoverable);
        let announce = Announce {
            number: 1,
            tag: data.tag,
            transit: data.transit.clone(),
            envelope: data.envelope.clone(),
        };
        let welcome = Welcome {
            flags: WelcomeFlags::NONE,
            protocol: PROTOCOL_MAX,
            incarnation: Incarnation(1),
            attempt: u64::MAX,
            nonce: [1; 16],
            store_id: [9; 16],
            token: Bytes::new(),
        };
        let query = |source, void| {
            PeerFrame::Query(Query {
                source,
                void,
                entries: vec![self.taken],
            })
        };
        let beyond = wrong("a message beyond the credit granted");
        let unsupported = Ends(Outcome::UNSUPPORTED, "this version does not offer");
        let answers_no_hello = wrong("a welcome that answers no hello");
        let second = wrong("a second hello");
        vec![
            (
                PeerFrame::Hello(self.bad.hello("bad")),
                [Nothing, second, second, second],
            ),
            (PeerFrame::Welcome(welcome), [answers_no_hello; 4]),
            always(
                PeerFrame::Confirm(Confirm {
                    attempt: u64::MAX,
                    token: Bytes::from_static(b"token"),
                }),
                Nothing,
            ),
            always(
                PeerFrame::Challenge(Challenge {
                    attempt: u64::MAX,
                    challenge: [1; 16],
                }),
                Nothing,
            ),
            always(
                PeerFrame::ChallengeOk(Challenge {
                    attempt: 1,
                    challenge: [1; 16],
                }),
                Nothing,
            ),
            (
                PeerFrame::Credit(Credit {
                    messages: u64::MAX,
                    bytes: u64::MAX,
                }),
                [Nothing; 4],
            ),
            (
                PeerFrame::QueueState(QueueState {
                    queue: "orders".parse().unwrap(),
                    open: false,
                }),
                [Nothing; 4],
            ),
            (
                PeerFrame::Goodbye(Goodbye {
                    reason: Outcome::WRONG_IDENTITY,
                    text: "enough".into(),
                }),
                [Leaves; 4],
            ),
            always(
                PeerFrame::Twin(Twin {
                    relay,
                    incarnation: Incarnation(1),
                    known_s: 1,
                    address: "10.0.0.7:1801".into(),
                    host: "copy".into(),
                }),
                Nothing,
            ),
            always(
                PeerFrame::Claim(Claim {
                    relay,
                    challenge: [1; 32],
                    incarnation: Incarnation(1),
                    nonce: [1; 16],
                    rank,
                    asked_rank: rank,
                    points: points.clone(),
                    signature: [1; 64],
                }),
                Nothing,
            ),
            always(
                PeerFrame::Ask(Ask {
                    relay,
                    challenge: [1; 32],
                    rank,
                }),
                Nothing,
            ),
            always(
                PeerFrame::ForkPoints(ForkPoints {
                    relay,
                    challenge: [1; 32],
                    points,
                    signature: [1; 64],
                }),
                unsupported,
            ),
            always(
                PeerFrame::Succession(succession),
                wrong("a succession of other identities than its own"),
            ),
            always(
                PeerFrame::Parted(Parted {
                    succession,
                    lives: vec![Incarnation(1)],
                    signature: [1; 64],
                }),
                Nothing,
            ),
            (
                PeerFrame::Data(data),
                // What another is the source of is refused, and remembered to be.
                [EARLY, beyond, beyond, Nothing],
            ),
            (
                PeerFrame::Skip(Skip {
                    place,
                    entry: self.taken,
                    outcome: Outcome::VOIDED,
                    queue: "orders".parse().unwrap(),
                }),
                [
                    EARLY,
                    Nothing,
                    wrong("a skip from a peer that awaits approval"),
                    Nothing,
                ],
            ),
            (
                PeerFrame::Announce(announce),
                [EARLY, beyond, beyond, Nothing],
            ),
            always(
                PeerFrame::BodyWanted(BodyWanted {
                    entry: sent,
                    wanted: Wanted::Have,
                }),
                unsupported,
            ),
            always(
                PeerFrame::BodyPart(BodyPart {
                    entry: self.taken,
                    offset: 0,
                    part: Bytes::from_static(b"part"),
                }),
                unsupported,
            ),
            always(
                PeerFrame::SessionAck(SessionAck {
                    duplicate: false,
                    ranges: vec![(number, number)],
                    tag_hash: tag_hash([sent.tag]),
                }),
                Nothing,
            ),
            always(
                PeerFrame::RoutedAck(RoutedAck {
                    source: me,
                    duplicate: false,
                    entries: vec![sent],
                }),
                Nothing,
            ),
            always(
                PeerFrame::RoutedAck(RoutedAck {
                    source: good,
                    duplicate: false,
                    entries: vec![sent],
                }),
                wrong("a routed ack for another queue manager"),
            ),
            always(
                PeerFrame::NotHeld(NotHeld {
                    source: good,
                    entries: vec![(self.taken, true)],
                }),
                wrong("not-held about another queue manager's messages"),
            ),
            always(
                query(good, false),
                wrong("a query about another queue manager's messages"),
            ),
            always(
                query(good, true),
                wrong("a query about another queue manager's messages"),
            ),
            (query(bad, false), [EARLY, Nothing, Nothing, Nothing]),
            always(
                PeerFrame::Answer(Answer {
                    source: me,
                    entries: vec![(sent, Known::Delivered)],
                }),
                Nothing,
            ),
            always(
                PeerFrame::Answer(Answer {
                    source: good,
                    entries: vec![(sent, Known::Delivered)],
                }),
                wrong("an answer for another queue manager"),
            ),
            always(
                PeerFrame::Reject(Reject {
                    refusals: vec![Refusal {
                        number,
                        tag: sent.tag,
                        outcome: Outcome::BAD_DESTINATION_QUEUE,
                    }],
                }),
                Nothing,
            ),
            always(
                PeerFrame::OrderAck(OrderAck {
                    duplicate: false,
                    runs: vec![Run {
                        stream,
                        first: 1,
                        last: u64::MAX,
                        link,
                    }],
                }),
                Nothing,
            ),
            always(
                PeerFrame::Need(Need {
                    stream,
                    leaves: vec![(1, link)],
                    queue: "orders".parse().unwrap(),
                }),
                Nothing,
            ),
            always(
                PeerFrame::Skipped(Skipped {
                    links: vec![LinkAt {
                        stream,
                        position: 1,
                        link,
                    }],
                }),
                Nothing,
            ),
            always(
                PeerFrame::Hold(Hold {
                    stream,
                    position: 1,
                    previous: link,
                    outcome: Outcome::NOT_FOUND,
                    text: "it stands".into(),
                }),
                Nothing,
            ),
            always(
                PeerFrame::Final(Final {
                    source: me,
                    entries: vec![(sent, Outcome::RECEIVED)],
                }),
                Nothing,
            ),
            always(
                PeerFrame::FinalConfirm(FinalConfirm {
                    source: good,
                    entries: vec![self.taken],
                }),
                wrong("a confirmation of another queue manager's finals"),
            ),
            always(
                PeerFrame::Evicted(Evicted {
                    source: good,
                    marks: vec![(Incarnation(1), u64::MAX)],
                }),
                wrong("marks for another queue manager's messages"),
            ),
            always(
                PeerFrame::RemoteRequest(RemoteRequest {
                    channel,
                    ask: RemoteAsk::Receive(Receive::new(1, "orders".parse().unwrap())),
                }),
                Nothing,
            ),
            always(
                PeerFrame::RemoteAnswer(RemoteAnswer {
                    channel,
                    reply: RemoteReply::ReceiveDone(ReceiveDone {
                        request: 1,
                        messages: 0,
                        outcome: None,
                        text: "".into(),
                    }),
                }),
                unsupported,
            ),
        ]
    }

    fn stored(&self) -> (usize, Vec<(Bytes, Bytes)>) {
        let disk = &self.victim.disk;
        let state = disk.state.iter().map(|(k, v)| (k.clone(), v.clone()));
        (disk.records.len(), state.collect())
    }
}

/// What may not grow, whatever a peer says: not counted are the session itself, that its peer is
/// held off from now on, and the timers of both.
fn held(sizes: Sizes) -> Sizes {
    let mut held = sizes;
    (held.sessions, held.penalties, held.timers) = (0, 0, 0);
    held
}

#[test]
fn every_kind_of_frame_at_every_stage_ends_the_session_or_comes_to_nothing() {
    let mut kinds = BTreeSet::new();
    for stage in STAGES {
        for number in 0..Scene::new(stage).rows().len() {
            let mut scene = Scene::new(stage);
            let (frame, comes) = scene.rows().swap_remove(number);
            let comes = match stage {
                Stage::Blocked => Nothing,
                other => comes[other as usize],
            };
            kinds.extend(frame.kind());
            let what = format!("{stage:?}: {frame:?}");
            let (before, stored) = (held(scene.victim.engine.sizes()), scene.stored());
            scene
                .bad
                .say(&mut scene.victim, std::slice::from_ref(&frame));
            let mut after = held(scene.victim.engine.sizes());
            let said = scene.victim.frames_to(scene.bad.link);
            let goodbye = said.iter().find_map(|frame| match frame {
                PeerFrame::Goodbye(goodbye) => Some((goodbye.reason, goodbye.text.to_string())),
                _ => None,
            });
            let closed = scene.victim.was_closed(scene.bad.link);
            match (comes, &goodbye) {
                (Nothing, None) => assert_eq!(closed, None, "{what}"),
                (Ends(reason, why), Some((said, text))) => {
                    assert!(text.contains(why), "{what}: {text}");
                    assert_eq!((*said, closed), (reason, Some(reason)), "{what}");
                }
                (Leaves, None) => assert!(closed.is_some(), "{what}"),
                _ => panic!("{what} came to {goodbye:?}"),
            }
            // Where an approved peer listens is kept, for acks, when its session ends; one that was
            // open has a row already.
            if stage == Stage::HalfOpen && closed.is_some() {
                assert_eq!(after.routes, before.routes + 1, "{what}");
                after.routes = before.routes;
            }
            // A refusal is remembered, that the same message is refused again.
            if stage == Stage::Open && matches!(frame, PeerFrame::Data(_)) {
                assert_eq!(after.refused, 1, "{what}");
                after.refused = 0;
            }
            assert_eq!(after, before, "{what}");
            // Kept are what a peer says of itself, and the rank that this node has from the first
            // word of an approved peer about copies.
            let approved = matches!(stage, Stage::HalfOpen | Stage::Open);
            let of_itself = |key: &Bytes| key.ends_with(scene.bad.qm.as_bytes());
            let ranks = approved && matches!(frame, PeerFrame::Twin(_) | PeerFrame::Ask(_));
            let may_change = |key: &Bytes| of_itself(key) || ranks && key.starts_with(b"rank");
            let [before, after] = [stored, scene.stored()].map(|(records, mut state)| {
                state.retain(|(key, _)| !may_change(key));
                (records, state)
            });
            assert_eq!(after, before, "{what} is stored");
            assert_eq!(scene.victim.was_closed(scene.good.link), None, "{what}");
        }
    }
    let all = FrameKind::ALL.iter().filter(|kind| kind.is_between_nodes());
    assert_eq!(kinds, all.copied().collect(), "every kind has a row");
}

#[test]
fn a_peer_that_awaits_approval_voids_nothing() {
    for (stage, refused) in [(Stage::Pending, true), (Stage::Open, false)] {
        let mut scene = Scene::new(stage);
        let (bad, stored) = (scene.bad.clone(), scene.stored());
        let data = bad.data(1, 7, "orders", Class::Recoverable);
        let void = Query {
            source: bad.qm,
            void: true,
            entries: vec![entry_of(&data)],
        };
        bad.say(&mut scene.victim, &[PeerFrame::Query(void)]);
        let closed = scene.victim.was_closed(bad.link);
        assert_eq!(closed, refused.then_some(Outcome::PROTOCOL), "{stage:?}");
        assert_eq!(scene.stored() == stored, refused, "{stage:?}");
        let text = "a void from a peer that awaits approval";
        let named = |event: &Event| match event {
            Event::PeerMisbehaved { text: why, .. } => why == text,
            _ => false,
        };
        assert_eq!(scene.victim.events.iter().any(named), refused, "{stage:?}");
    }
}

#[test]
fn a_welcome_comes_again_only_so_often() {
    let mut scene = Scene::new(Stage::Silent);
    let (victim, bad) = (&mut scene.victim, scene.bad.clone());
    bad.gone(victim);
    let bad = Peer {
        link: LinkId(9),
        ..bad
    };
    bad.connect(victim);
    let attempt = victim.frames_to(bad.link).iter().find_map(|f| match f {
        PeerFrame::Hello(hello) => Some(hello.attempt),
        _ => None,
    });
    let welcome = |token: u32, nonce: u8| {
        PeerFrame::Welcome(Welcome {
            flags: WelcomeFlags::NONE,
            protocol: PROTOCOL_MAX,
            incarnation: Incarnation(1),
            attempt: attempt.expect("a hello was said"),
            nonce: [nonce; 16],
            store_id: [9; 16],
            token: Bytes::copy_from_slice(&token.to_le_bytes()),
        })
    };
    bad.say(victim, &[PeerFrame::Hello(bad.hello("bad"))]);
    for token in 0..=DOUBTFUL_MAX {
        bad.say(victim, &[welcome(token, 1)]);
        assert_eq!(victim.was_closed(bad.link), None, "welcome {token}");
    }
    bad.say(victim, &[welcome(u32::MAX, 1)]);
    assert_eq!(victim.was_closed(bad.link), Some(Outcome::PROTOCOL));
    let goodbye = victim
        .frames_to(bad.link)
        .into_iter()
        .find_map(|f| match f {
            PeerFrame::Goodbye(goodbye) => Some(goodbye.text.to_string()),
            _ => None,
        });
    assert_eq!(goodbye.as_deref(), Some("one welcome after the other"));
}
