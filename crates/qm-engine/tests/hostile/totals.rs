//! Limits of what all peers and all applications together make the engine keep: as many as there
//! may be, and one more.

use bytes::Bytes;
use qm_cache::Admit;
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::{
    BRANCHES_MAX, DOUBT_BYTES_MAX, DOUBTS_MAX, QUEUES_MAX, REMEMBERED_MAX, REMEMBERED_SLACK_MAX,
    RESERVED_MAX, STREAMS_PER_PEER_MAX,
};
use qm_engine::{ArrivalKey, ConnId, Event, Input, LocalSettings};
use qm_wire::local::{ClientFrame, ClientHello, Put};
use qm_wire::{
    Class, ClientId, Credit, Entry, Incarnation, Link, MessageId, MessageKey, Outcome, PeerFrame,
    Place, Query, QueueName, SessionAck, StreamId, Tag, tag_hash,
};

use super::limits::answer;
use super::{Peer, Victim};

/// A queue is made with one message or one command more, however many there are: otherwise this
/// takes hours.
#[test]
fn there_are_so_many_queues_and_no_more() {
    const AWAY: u64 = 8_192;
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    victim.hello_of(1, 1);
    peer.open(&mut victim);
    let send = |victim: &mut Victim, sequence: u64, number: u64| {
        let address = format!("qm:{}/q{number}", peer.qm);
        let mut put = Put::new(sequence, address.as_str(), Bytes::from_static(b"x"));
        put.class = Class::Recoverable;
        let frame = ClientFrame::Put(put);
        victim.hand(Input::Client {
            conn: ConnId(1),
            frame,
        });
        answer(victim).unwrap().1
    };
    let mut acknowledged = 0;
    let mut receive_all = |victim: &mut Victim| {
        let frames = victim.frames_to(peer.link).into_iter();
        let arrived = frames.filter_map(|frame| match frame {
            PeerFrame::Data(data) => Some((data.number, data.tag)),
            _ => None,
        });
        let (numbers, tags): (Vec<_>, Vec<_>) = arrived.unzip();
        let ack = SessionAck {
            duplicate: false,
            tag_hash: tag_hash(tags),
            ranges: vec![(numbers[0], numbers[numbers.len() - 1])],
        };
        acknowledged += numbers.len() as u64;
        peer.say_quietly(victim, &[PeerFrame::SessionAck(ack)]);
        let credit = Credit {
            messages: acknowledged + 4_096,
            bytes: 1 << 40,
        };
        peer.say_quietly(victim, &[PeerFrame::Credit(credit)]);
    };
    for number in 0..AWAY {
        assert_eq!(send(&mut victim, number + 1, number), None);
        if number % 1_000 == 999 {
            receive_all(&mut victim);
        }
    }
    let create = |victim: &mut Victim, number: u64| {
        let settings = LocalSettings::new(format!("q{number}").parse().unwrap());
        victim.hand(Input::Admin {
            conn: ConnId(9),
            request: number,
            what: AdminRequest::QueueCreate(settings),
        });
        match victim.admin.take().unwrap() {
            AdminReply::Done { .. } => None,
            AdminReply::Failed { outcome, .. } => Some(outcome),
            other => panic!("{other:?}"),
        }
    };
    let mut here = victim.engine.sizes().queues as u64 - AWAY;
    while here + AWAY < QUEUES_MAX as u64 {
        assert_eq!(create(&mut victim, here), None);
        here += 1;
    }
    assert_eq!(create(&mut victim, here), Some(Outcome::BUSY));
    let busy = Some(Outcome::BUSY);
    assert_eq!(send(&mut victim, AWAY + 1, AWAY), busy, "a new destination");
    assert_eq!(send(&mut victim, AWAY + 2, 0), None, "one that is known");
    let delete = AdminRequest::QueueDelete {
        name: format!("q{}", here - 1).parse().unwrap(),
        force: true,
        discard: true,
    };
    victim.hand(Input::Admin {
        conn: ConnId(9),
        request: here,
        what: delete,
    });
    assert_eq!(create(&mut victim, here), None, "there is room for one");
    assert_eq!(create(&mut victim, here + 1), busy);
    victim.engine.audit().unwrap();
}

/// What waits on disk is in doubt after a restart, little by little.
#[test]
fn so_many_messages_of_earlier_lives_are_in_doubt_at_a_time() {
    for (messages, bytes) in [(DOUBTS_MAX as u64 + 50, 10), (20, 1 << 20)] {
        let mut victim = Victim::open_to_all();
        let peer = Peer::new(1);
        victim.hello_of(1, 1);
        let address = format!("qm:{}/orders", peer.qm);
        let body = Bytes::from(vec![7; bytes]);
        for sequence in 1..=messages {
            let mut put = Put::new(sequence, address.as_str(), body.clone());
            put.class = Class::Recoverable;
            let frame = ClientFrame::Put(put);
            let conn = ConnId(1);
            victim.hand(Input::Client { conn, frame });
        }
        victim.restart();
        peer.open(&mut victim);
        let doubts = victim.engine.sizes().doubts as u64;
        let most = if bytes == 10 {
            DOUBTS_MAX as u64
        } else {
            DOUBT_BYTES_MAX / bytes as u64 + 1
        };
        assert!(
            (most - 2..=most).contains(&doubts),
            "{doubts} of {messages}"
        );
        assert_eq!(victim.disk.records.len() as u64, messages, "the rest waits");
    }
}

#[test]
fn so_many_messages_wait_for_the_word_of_the_duplicate_cache() {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    peer.open(&mut victim);
    let cache = victim.engine.dedup_cache();
    let other = Peer::new(2);
    let mut reserved = Vec::new();
    let mut reserve = |sequence: u64| {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence,
        };
        let tag = Tag([3; 8]);
        let entry = Entry { id, tag };
        let source = other.qm;
        match cache.admit(ArrivalKey(MessageKey { source, entry }), 0) {
            Admit::Fresh(reservation) => {
                reserved.push(reservation);
                true
            }
            _ => false,
        }
    };
    for sequence in 1..=RESERVED_MAX as u64 {
        assert!(reserve(sequence), "{sequence}");
    }
    assert!(!reserve(RESERVED_MAX as u64 + 1));
    victim.frames_to(peer.link);
    let data = peer.data(1, 1, "orders", Class::Recoverable);
    peer.say(&mut victim, &[PeerFrame::Data(data.clone())]);
    assert_eq!(victim.disk.records.len(), 0);
    let answered = |frames: Vec<PeerFrame>| {
        let answers = |f: &PeerFrame| matches!(f, PeerFrame::SessionAck(_) | PeerFrame::Reject(_));
        frames.iter().any(answers)
    };
    assert!(!answered(victim.frames_to(peer.link)), "its sender asks");
    drop(reserved);
    let query = Query {
        void: false,
        source: peer.qm,
        entries: vec![Entry {
            id: MessageId {
                incarnation: Incarnation(1),
                sequence: 1,
            },
            tag: data.tag,
        }],
    };
    peer.say(&mut victim, &[PeerFrame::Query(query)]);
    let frames = victim.frames_to(peer.link);
    assert!(frames.iter().any(|f| matches!(f, PeerFrame::Answer(_))));
}

#[test]
fn a_sender_has_so_many_streams_and_a_stream_so_many_branches() {
    for (most, streams) in [(STREAMS_PER_PEER_MAX, true), (BRANCHES_MAX, false)] {
        let mut victim = Victim::open_to_all();
        let queue: QueueName = "ordered".parse().unwrap();
        let settings = LocalSettings {
            transactional: true,
            ..LocalSettings::new(queue.clone())
        };
        victim.admin(AdminRequest::QueueCreate(settings));
        let peer = Peer::new(1);
        peer.open(&mut victim);
        let mut held = |number: u64| {
            let [a, b, ..] = if streams {
                number.to_le_bytes()
            } else {
                [0; 8]
            };
            let stream = StreamId([a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let mut data = peer.data(number, number, "ordered", Class::Transactional);
            data.transit.place = Some(Place {
                stream,
                position: 1,
                low: 1,
                previous: Link::start(&peer.qm, &stream, &queue),
            });
            peer.say_quietly(&mut victim, &[PeerFrame::Data(data)]);
            let frames = victim.frames_to(peer.link);
            let events = std::mem::take(&mut victim.events);
            let told = frames.iter().any(|f| matches!(f, PeerFrame::Hold(_)));
            let here = |event: &Event| matches!(event, Event::StreamHeld { incoming: true, .. });
            assert_eq!(told, events.iter().any(here));
            told
        };
        for number in 1..=most as u64 {
            assert!(!held(number), "{number}");
        }
        assert!(held(most as u64 + 1));
        assert_eq!(victim.disk.records.len(), most);
    }
}

/// Those of applications that are gone; each is cheap, and everybody may come under any name.
#[test]
fn so_many_applications_are_remembered() {
    let mut victim = Victim::open_to_all();
    let come = |victim: &mut Victim, number: u64| {
        let conn = ConnId(number);
        let mut client = [0; 16];
        client[..8].copy_from_slice(&number.to_le_bytes());
        let hello = ClientHello {
            protocol: 1,
            client: ClientId(client),
            program: "test".into(),
        };
        let frame = ClientFrame::Hello(hello);
        victim.hand(Input::Client { conn, frame });
        victim.hand(Input::ClientClosed { conn });
        victim.told.clear();
        victim.now_ms += 1;
        victim.engine.sizes().clients
    };
    let all = (REMEMBERED_MAX + REMEMBERED_SLACK_MAX) as u64;
    let mut most = 0;
    for number in 1..=all + 10 {
        most = most.max(come(&mut victim, number));
    }
    assert_eq!(most, REMEMBERED_MAX + REMEMBERED_SLACK_MAX - 1);
    let left = victim.engine.sizes().clients;
    assert!(
        (REMEMBERED_MAX..REMEMBERED_MAX + 20).contains(&left),
        "{left}"
    );
}
