//! Peers and applications that mean harm, against one engine: what they cannot take, say or make it
//! remember. Whoever speaks here holds a valid key or the socket; the network is not part of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "hostile/damaged.rs"]
mod damaged;
#[path = "hostile/kinds.rs"]
mod kinds;
#[path = "hostile/limits.rs"]
mod limits;
#[path = "hostile/lives.rs"]
mod lives;
#[path = "hostile/totals.rs"]
mod totals;

#[path = "common/disk.rs"]
mod disk;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::{
    CLIENT_PAGE_RUNS, CLIENT_RUNS_MAX, DOUBTFUL_MAX, FLIGHTS_MAX, LEASE_BYTES_MAX,
    OWED_LIVES_PER_PEER_MAX, PENALTY_PAUSE_MIN_MS,
};
use qm_engine::{
    ConnId, Engine, EngineConfig, Event, Identity, Input, LinkId, LocalSettings, Now, Output,
    Recovered, SeededEntropy, StoreOp, Ticket, Timestamp, Trust,
};
use qm_wire::local::{ClientFrame, ClientHello, NodeFrame, Put, Receive, Settle, Verdict};
use qm_wire::{
    Answer, Ask, Class, ClientId, Confirm, Credit, Data, Entry, Envelope, Hello, HelloFlags,
    Incarnation, Known, MessageId, NotHeld, Outcome, PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame, QmId,
    Query, Rank, Refusal, Reject, RoutedAck, Salt, SessionAck, Tag, Transit, Welcome, WelcomeFlags,
};

use disk::Disk;

/// The engine under attack with its disk.
struct Victim {
    engine: Engine,
    start: (EngineConfig, Identity),
    now_ms: u64,
    disk: Disk,
    sent: Vec<(LinkId, Bytes)>,
    closed: Vec<(LinkId, Outcome)>,
    shut_out: Vec<String>,
    told: Vec<(ConnId, NodeFrame)>,
    events: Vec<Event>,
    dials: Vec<u64>,
    admin: Option<AdminReply>,
    /// With this the disk answers nothing by itself.
    slow: bool,
    tickets: Vec<Ticket>,
}

impl Victim {
    fn new(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let public_key = [1; 32];
        let qm = QmId::from_ed25519_public_key(&public_key);
        let me = Identity {
            qm,
            public_key,
            store_id: [1; 16],
            token_key: qm_engine::TokenKey::new(public_key),
        };
        let mut config = EngineConfig::default();
        change(&mut config);
        let entropy = Box::new(SeededEntropy::new(1));
        let start = config.clone();
        let engine = Engine::new(config, me, Recovered::default(), entropy, Now::default());
        Self {
            engine,
            start: (start, me),
            now_ms: 0,
            disk: Disk::default(),
            sent: Vec::new(),
            closed: Vec::new(),
            shut_out: Vec::new(),
            told: Vec::new(),
            events: Vec::new(),
            dials: Vec::new(),
            admin: None,
            slow: false,
            tickets: Vec::new(),
        }
    }

    fn open_to_all() -> Self {
        let mut victim = Self::new(|config| config.trust = Trust::Any);
        let settings = LocalSettings::new("orders".parse().unwrap());
        victim.admin(AdminRequest::QueueCreate(settings));
        victim
    }

    /// The process died, and begins another life over its disk.
    fn restart(&mut self) {
        let (config, me) = self.start.clone();
        let entropy = Box::new(SeededEntropy::new(2));
        self.engine = Engine::new(config, me, self.disk.recovered(), entropy, self.now());
        self.sent.clear();
        self.give(Input::Tick);
    }

    fn now(&self) -> Now {
        Now {
            at: Timestamp(self.now_ms * 1_000),
            wall_us: 1 + self.now_ms,
        }
    }

    fn give(&mut self, input: Input) {
        self.hand(input);
        self.engine.audit().unwrap();
    }

    /// As `give`, where there is so much that the books are not gone through each time.
    fn hand(&mut self, input: Input) {
        let now = self.now();
        self.engine.handle(now, input);
        while let Some(output) = self.engine.poll(now) {
            match output {
                Output::Send { link, frames, .. } => self.sent.push((link, frames)),
                Output::Dial { dial, .. } => self.dials.push(dial),
                Output::Close { link, reason, .. } => self.closed.push((link, reason)),
                Output::CloseClient { text, .. } => self.shut_out.push(text),
                Output::Client { conn, frame } => self.told.push((conn, frame)),
                Output::Event(event) => self.events.push(event),
                Output::Admin { reply, .. } => self.admin = Some(reply),
                Output::Persist { ticket, ops, .. } => {
                    self.disk.apply(ops);
                    if self.slow {
                        self.tickets.push(ticket);
                    } else {
                        self.engine.handle(now, Input::Persisted { ticket });
                    }
                }
                Output::Load {
                    load,
                    stream,
                    from,
                    records_max,
                    bytes_max,
                } => {
                    let records = self.disk.load(stream, from, records_max, bytes_max);
                    self.engine.handle(now, Input::Loaded { load, records });
                }
                _ => {}
            }
        }
    }

    fn admin(&mut self, what: AdminRequest) -> AdminReply {
        let conn = ConnId(u64::MAX);
        let request = 1;
        self.give(Input::Admin {
            conn,
            request,
            what,
        });
        self.admin.take().unwrap()
    }

    fn client(&mut self, conn: u64, frame: ClientFrame) {
        let conn = ConnId(conn);
        self.give(Input::Client { conn, frame });
    }

    fn hello_of(&mut self, conn: u64, client: u8) {
        let hello = ClientHello {
            protocol: 1,
            client: ClientId([client; 16]),
            program: "test".into(),
        };
        self.client(conn, ClientFrame::Hello(hello));
    }

    fn put(&mut self, conn: u64, sequence: u64, to: &str, body: Bytes) {
        self.put_quietly(conn, sequence, to, body);
        self.engine.audit().unwrap();
    }

    /// As `put`, with `hand`.
    fn put_quietly(&mut self, conn: u64, sequence: u64, to: &str, body: Bytes) {
        let mut put = Put::new(sequence, to, body);
        put.class = Class::Recoverable;
        let conn = ConnId(conn);
        let frame = ClientFrame::Put(put);
        self.hand(Input::Client { conn, frame });
    }

    fn receive(&mut self, conn: u64, request: u64, wait_ms: u64) {
        let mut receive = Receive::new(request, "orders".parse().unwrap());
        receive.messages_max = u32::MAX;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = wait_ms;
        self.client(conn, ClientFrame::Receive(receive));
    }

    /// What was sent on a link since the last look.
    fn frames_to(&mut self, link: LinkId) -> Vec<PeerFrame> {
        let mut frames = Vec::new();
        for (to, mut bytes) in std::mem::take(&mut self.sent) {
            while to == link && !bytes.is_empty() {
                frames.push(PeerFrame::next(&mut bytes, 8 << 20).unwrap().unwrap());
            }
        }
        frames
    }

    fn was_closed(&self, link: LinkId) -> Option<Outcome> {
        let closed = self.closed.iter().find(|(closed, _)| *closed == link);
        closed.map(|(_, reason)| *reason)
    }
}

/// Somebody with a key of his own.
#[derive(Clone)]
struct Peer {
    key: [u8; 32],
    qm: QmId,
    life: u64,
    link: LinkId,
    remote: SocketAddr,
}

impl Peer {
    fn new(number: u64) -> Self {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        Self {
            key,
            qm: QmId::from_ed25519_public_key(&key),
            life: 1,
            link: LinkId(number),
            remote: "10.0.0.9:1801".parse().unwrap(),
        }
    }

    fn connect(&self, victim: &mut Victim) {
        self.connect_quietly(victim);
        victim.engine.audit().unwrap();
    }

    /// As `connect`, with `hand`.
    fn connect_quietly(&self, victim: &mut Victim) {
        victim.hand(Input::Connected {
            link: self.link,
            peer: self.qm,
            public_key: self.key,
            own: victim.engine.qm_id(),
            remote: self.remote,
            dial: None,
        });
    }

    fn hello(&self, name: &str) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            incarnation: Incarnation(self.life),
            prior_incarnations: Vec::new(),
            attempt: 1,
            token: Bytes::new(),
            listen_port: 1801,
            body_bytes_max: 4 << 20,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: name.into(),
            host: "".into(),
        }
    }

    fn say(&self, victim: &mut Victim, frames: &[PeerFrame]) {
        self.say_quietly(victim, frames);
        victim.engine.audit().unwrap();
    }

    /// As `say`, with `hand`.
    fn say_quietly(&self, victim: &mut Victim, frames: &[PeerFrame]) {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        victim.hand(Input::Received {
            link: self.link,
            frames: bytes.freeze(),
        });
    }

    /// Connects, and opens the session.
    fn open(&self, victim: &mut Victim) {
        self.connect(victim);
        let attempt = victim.frames_to(self.link).iter().find_map(|f| match f {
            PeerFrame::Hello(hello) => Some(hello.attempt),
            _ => None,
        });
        let welcome = Welcome {
            flags: WelcomeFlags::NONE,
            protocol: PROTOCOL_MAX,
            incarnation: Incarnation(self.life),
            attempt: attempt.expect("a hello was said"),
            nonce: [0; 16],
            store_id: [9; 16],
            token: Bytes::new(),
        };
        let credit = Credit {
            messages: 4_096,
            bytes: 64 << 20,
        };
        self.say(
            victim,
            &[
                PeerFrame::Hello(self.hello("peer")),
                PeerFrame::Welcome(welcome),
                PeerFrame::Credit(credit),
            ],
        );
        self.confirm(victim);
    }

    /// Confirms what it was welcomed with, after a sign of life if one is asked for.
    fn confirm(&self, victim: &mut Victim) {
        let mut answers = Vec::new();
        for frame in victim.frames_to(self.link) {
            match frame {
                PeerFrame::Challenge(challenge) => {
                    answers = vec![PeerFrame::ChallengeOk(challenge)];
                }
                PeerFrame::Welcome(welcome) => {
                    answers = vec![PeerFrame::Confirm(Confirm {
                        attempt: welcome.attempt,
                        token: welcome.token,
                    })];
                }
                _ => {}
            }
        }
        let asked = matches!(answers.first(), Some(PeerFrame::ChallengeOk(_)));
        self.say(victim, &answers);
        if asked {
            self.confirm(victim);
        }
    }

    fn gone(&self, victim: &mut Victim) {
        victim.give(Input::Closed {
            link: self.link,
            text: "lost".to_owned(),
        });
    }

    fn data(&self, number: u64, sequence: u64, queue: &str, class: Class) -> Data {
        let id = MessageId {
            incarnation: Incarnation(self.life),
            sequence,
        };
        let salt = Salt([3; 16]);
        let mut envelope = Envelope::new(self.qm, id, salt, class, queue.parse().unwrap());
        let body = Bytes::from_static(b"body");
        envelope.body_bytes = 4;
        envelope.time_to_reach_queue_ms = qm_wire::INFINITE_MS;
        envelope.time_to_be_received_ms = qm_wire::INFINITE_MS;
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).unwrap();
        let encoded = encoded.freeze();
        Data {
            number,
            tag: Tag::compute(&encoded, &salt, &body),
            transit: Transit::direct(qm_wire::INFINITE_MS, qm_wire::INFINITE_MS),
            envelope: encoded,
            body,
        }
    }
}

#[test]
fn strangers_without_number_take_one_anothers_places_and_no_more() {
    let mut victim = Victim::new(|config| config.pending_peers_max = 50);
    for number in 0..500 {
        victim.now_ms += 1;
        let peer = Peer::new(number);
        peer.connect(&mut victim);
        peer.say(&mut victim, &[PeerFrame::Hello(peer.hello("hub"))]);
        peer.gone(&mut victim);
    }
    assert_eq!(victim.engine.sizes().peers, 50);
    let on_disk = |victim: &Victim| {
        victim
            .disk
            .state
            .keys()
            .filter(|k| k.starts_with(b"peer/"))
            .count()
    };
    assert_eq!(on_disk(&victim), 50);
    // The operator still sees whoever comes last.
    let late = Peer::new(10_000);
    victim.now_ms += 1;
    late.connect(&mut victim);
    late.say(&mut victim, &[PeerFrame::Hello(late.hello("late"))]);
    let AdminReply::Peers(views) = victim.admin(AdminRequest::Peers) else {
        panic!("peers were asked for");
    };
    assert!(views.iter().any(|view| view.qm == Some(late.qm)));
    // Connected ones keep their places; then there is none left.
    let mut full = Victim::new(|config| config.pending_peers_max = 3);
    for number in 0..4 {
        Peer::new(number).connect(&mut full);
    }
    assert_eq!(full.closed, [(LinkId(3), Outcome::BUSY)]);
}

#[test]
fn a_stranger_is_not_sent_what_is_meant_for_another_by_taking_its_name() {
    let mut victim = Victim::new(|_| {});
    let (hub, thief) = (Peer::new(1), Peer::new(2));
    hub.connect(&mut victim);
    hub.say(&mut victim, &[PeerFrame::Hello(hub.hello("hub"))]);
    let who = hub.qm.to_string();
    // Known by its own word only, not by a name of the operator's.
    let name = Some("headquarters".to_owned());
    victim.admin(AdminRequest::PeerApprove { who, name });
    thief.connect(&mut victim);
    thief.say(&mut victim, &[PeerFrame::Hello(thief.hello("hub"))]);
    victim.hello_of(1, 1);
    victim.put(1, 1, "hub/orders", Bytes::from_static(b"x"));
    assert!(matches!(
        victim.told.last(),
        Some((_, NodeFrame::Accepted(_)))
    ));
    let AdminReply::Outgoing(views) = victim.admin(AdminRequest::Outgoing) else {
        panic!("outgoing queues were asked for");
    };
    assert_eq!(
        views.iter().map(|v| v.peer).collect::<Vec<_>>(),
        [Some(hub.qm)]
    );
}

#[test]
fn whoever_breaks_the_protocol_waits_longer_each_time_and_others_do_not() {
    let mut victim = Victim::open_to_all();
    let good = Peer::new(99);
    good.open(&mut victim);
    let mut pause_ms = PENALTY_PAUSE_MIN_MS;
    for number in 1..4 {
        let bad = Peer {
            link: LinkId(number),
            ..Peer::new(1)
        };
        bad.connect(&mut victim);
        let hello = PeerFrame::Hello(bad.hello("bad"));
        bad.say(&mut victim, &[hello.clone(), hello]);
        assert_eq!(victim.was_closed(bad.link), Some(Outcome::PROTOCOL));
        victim.now_ms += pause_ms - 1;
        let early = Peer {
            link: LinkId(100 + number),
            ..bad.clone()
        };
        early.connect(&mut victim);
        assert_eq!(victim.was_closed(early.link), Some(Outcome::BUSY));
        victim.now_ms += 1;
        pause_ms *= 2;
    }
    assert_eq!(victim.engine.sizes().penalties, 1);
    good.say(
        &mut victim,
        &[PeerFrame::Data(good.data(1, 1, "orders", Class::Express))],
    );
    assert_eq!(victim.engine.counters().delivered, 1);
    // It is forgotten in time, and at once by the operator's word.
    victim.now_ms += 1_000_000;
    victim.give(Input::Tick);
    assert_eq!(victim.engine.sizes().penalties, 0);
}

#[test]
fn whoever_refuses_what_he_says_had_arrived_is_not_believed() {
    for outcome in [
        Outcome::REACHED_QUEUE,
        Outcome::RECEIVED,
        Outcome::RECEIVE_EXPIRED,
    ] {
        let mut victim = Victim::open_to_all();
        let liar = Peer::new(1);
        victim.hello_of(1, 1);
        let address = format!("qm:{}/orders", liar.qm);
        victim.put(1, 1, &address, Bytes::from_static(b"x"));
        liar.open(&mut victim);
        let refusals = victim.frames_to(liar.link).into_iter();
        let refusals = refusals.filter_map(|frame| match frame {
            PeerFrame::Data(data) => Some(Refusal {
                number: data.number,
                tag: data.tag,
                outcome,
            }),
            _ => None,
        });
        let refusals: Vec<_> = refusals.collect();
        assert_eq!(refusals.len(), 1);
        liar.say(&mut victim, &[PeerFrame::Reject(Reject { refusals })]);
        assert_eq!(victim.was_closed(liar.link), Some(Outcome::PROTOCOL));
        assert_eq!(victim.engine.counters().dead_letters, 0, "{outcome}");
        assert_eq!(victim.engine.counters().acknowledged, 0, "{outcome}");
    }
}

#[test]
fn nobody_settles_what_was_sent_to_another_whatever_he_says() {
    let mut victim = Victim::open_to_all();
    let (to, liar) = (Peer::new(1), Peer::new(2));
    victim.hello_of(1, 1);
    let address = format!("qm:{}/orders", to.qm);
    for sequence in 1..=3 {
        victim.put(1, sequence, &address, Bytes::from_static(b"x"));
    }
    to.open(&mut victim);
    let sent: Vec<Data> = victim
        .frames_to(to.link)
        .into_iter()
        .filter_map(|frame| match frame {
            PeerFrame::Data(data) => Some(data),
            _ => None,
        })
        .collect();
    assert_eq!(sent.len(), 3);
    liar.open(&mut victim);
    let entries: Vec<Entry> = sent
        .iter()
        .map(|data| Entry {
            id: data.open().unwrap().id,
            tag: data.tag,
        })
        .collect();
    let me = victim.engine.qm_id();
    let known = |known: Known| {
        PeerFrame::Answer(Answer {
            source: me,
            entries: entries.iter().map(|entry| (*entry, known)).collect(),
        })
    };
    let refusals = sent.iter().map(|data| Refusal {
        number: data.number,
        tag: data.tag,
        outcome: Outcome::ACCESS_DENIED,
    });
    liar.say(
        &mut victim,
        &[
            PeerFrame::SessionAck(SessionAck {
                duplicate: false,
                tag_hash: qm_wire::tag_hash(sent.iter().map(|data| data.tag)),
                ranges: vec![(1, 3)],
            }),
            PeerFrame::RoutedAck(RoutedAck {
                source: me,
                duplicate: true,
                entries: entries.clone(),
            }),
            known(Known::Delivered),
            known(Known::Outcome(Outcome::BAD_DESTINATION_QUEUE)),
            PeerFrame::Reject(Reject {
                refusals: refusals.collect(),
            }),
            PeerFrame::NotHeld(NotHeld {
                source: liar.qm,
                entries: entries.iter().map(|entry| (*entry, false)).collect(),
            }),
        ],
    );
    assert_eq!(victim.engine.counters().acknowledged, 0);
    assert_eq!(victim.engine.counters().dead_letters, 0);
    assert_eq!(victim.engine.sizes().flights, 3);
    assert_eq!(victim.was_closed(to.link), None);
    // About others' messages he may not even speak.
    liar.say(
        &mut victim,
        &[PeerFrame::Query(Query {
            source: to.qm,
            void: false,
            entries,
        })],
    );
    assert_eq!(victim.was_closed(liar.link), Some(Outcome::PROTOCOL));
}

#[test]
fn acks_that_do_not_fit_are_asked_about_once_a_second_and_end_the_session_in_the_end() {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    victim.hello_of(1, 1);
    let address = format!("qm:{}/orders", peer.qm);
    for sequence in 1..=500 {
        victim.put(1, sequence, &address, Bytes::from_static(b"x"));
    }
    peer.open(&mut victim);
    assert_eq!(victim.engine.sizes().flights, 500);
    victim.frames_to(peer.link);
    let wrong = PeerFrame::SessionAck(SessionAck {
        duplicate: false,
        tag_hash: 1,
        ranges: vec![(1, 4_096)],
    });
    let never_sent = PeerFrame::SessionAck(SessionAck {
        duplicate: false,
        tag_hash: 1,
        ranges: vec![(1_000_000, 1_004_095)],
    });
    // What was never sent costs nothing and changes nothing.
    for _ in 0..10 * DOUBTFUL_MAX {
        peer.say(&mut victim, std::slice::from_ref(&never_sent));
    }
    assert!(victim.frames_to(peer.link).is_empty());
    for _ in 0..DOUBTFUL_MAX {
        peer.say(&mut victim, std::slice::from_ref(&wrong));
    }
    let answers = victim.frames_to(peer.link);
    assert_eq!(answers.len(), 1, "one question for all of them");
    assert_eq!(victim.was_closed(peer.link), None);
    peer.say(&mut victim, &[wrong]);
    assert_eq!(victim.was_closed(peer.link), Some(Outcome::PROTOCOL));
    assert_eq!(victim.engine.counters().acknowledged, 0);
    assert_eq!(
        victim.engine.sizes().doubts,
        500,
        "nothing is lost with the session"
    );
}

#[test]
fn lives_without_number_do_not_fill_what_is_owed() {
    let mut victim = Victim::open_to_all();
    for life in 1..200 {
        let peer = Peer {
            life,
            link: LinkId(life),
            ..Peer::new(1)
        };
        peer.open(&mut victim);
        victim.slow = true;
        let data = peer.data(1, life, "orders", Class::Recoverable);
        peer.say(&mut victim, &[PeerFrame::Data(data)]);
        // Gone before the disk has it: the ack has nowhere to go.
        peer.gone(&mut victim);
        // Without an address to dial.
        victim.slow = false;
    }
    let last = *victim.tickets.last().unwrap();
    victim.give(Input::Persisted { ticket: last });
    assert_eq!(victim.engine.counters().delivered, 199);
    let sizes = victim.engine.sizes();
    assert!(sizes.owed_lives <= OWED_LIVES_PER_PEER_MAX, "{sizes:?}");
    assert_eq!(sizes.sessions, 0);
}

#[test]
fn a_refusal_is_remembered_until_newer_ones_need_its_place() {
    let mut victim = Victim::open_to_all();
    let peer = Peer::new(1);
    peer.open(&mut victim);
    // The lowest id comes last: it must not be taken for the oldest.
    for number in 1..=5_000 {
        let sequence = 10_000 - number;
        let data = peer.data(number, sequence, "nowhere", Class::Express);
        peer.say(&mut victim, &[PeerFrame::Data(data)]);
    }
    assert_eq!(
        victim.engine.sizes().refused,
        qm_engine::limits::REFUSED_MAX
    );
    let settings = LocalSettings::new("nowhere".parse().unwrap());
    victim.admin(AdminRequest::QueueCreate(settings));
    let rejected = victim.engine.counters().rejected;
    for (number, sequence) in [(5_001, 10_000 - 5_000), (5_002, 10_000 - 1)] {
        let data = peer.data(number, sequence, "nowhere", Class::Express);
        peer.say(&mut victim, &[PeerFrame::Data(data)]);
    }
    assert_eq!(
        victim.engine.counters().rejected,
        rejected + 1,
        "the newest is remembered"
    );
    assert_eq!(victim.engine.counters().delivered, 1, "the oldest is not");
}

#[test]
fn one_peer_cannot_push_what_others_sent_out_of_the_duplicate_cache() {
    let mut victim = Victim::open_to_all();
    let (good, loud) = (Peer::new(1), Peer::new(2));
    good.open(&mut victim);
    loud.open(&mut victim);
    let send = |victim: &mut Victim, peer: &Peer, from: u64, sequences: core::ops::Range<u64>| {
        let frames: Vec<_> = sequences
            .zip(from..)
            .map(|(sequence, number)| peer.data(number, sequence, "orders", Class::Express))
            .map(PeerFrame::Data)
            .collect();
        for some in frames.chunks(1_000) {
            peer.say(victim, some);
        }
    };
    send(&mut victim, &good, 1, 1..1_001);
    send(&mut victim, &loud, 1, 1..40_001);
    let before = victim.engine.counters().duplicates;
    send(&mut victim, &good, 1_001, 1..1_001);
    assert_eq!(victim.engine.counters().duplicates - before, 1_000);
}

/// Two busy peers fill whatever share of the cache they are left; what a third one may still have
/// in flight is known all the same, when it asks and when it sends it again.
#[test]
fn what_a_sender_may_send_again_is_known_whatever_others_send() {
    let mut victim = Victim::open_to_all();
    let (cut_off, busy) = (Peer::new(1), [Peer::new(2), Peer::new(3)]);
    cut_off.open(&mut victim);
    for peer in &busy {
        peer.open(&mut victim);
    }
    let send = |victim: &mut Victim, peer: &Peer, from: u64, sequences: core::ops::Range<u64>| {
        let frames: Vec<_> = sequences
            .zip(from..)
            .map(|(sequence, number)| peer.data(number, sequence, "orders", Class::Express))
            .collect();
        for some in frames.chunks(1_000) {
            let some: Vec<_> = some.iter().cloned().map(PeerFrame::Data).collect();
            peer.say(victim, &some);
        }
        frames
    };
    let in_flight = FLIGHTS_MAX as u64;
    let lost = send(&mut victim, &cut_off, 1, 1..in_flight + 1);
    for from in (1..20_001).step_by(1_000) {
        for peer in &busy {
            send(&mut victim, peer, from, from..from + 1_000);
        }
    }
    let query = Query {
        source: cut_off.qm,
        void: false,
        entries: lost
            .iter()
            .map(|data| Entry {
                id: data.open().unwrap().id,
                tag: data.tag,
            })
            .collect(),
    };
    victim.sent.clear();
    cut_off.say(&mut victim, &[PeerFrame::Query(query)]);
    let frames = victim.frames_to(cut_off.link);
    let answered: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            PeerFrame::Answer(answer) => Some(&answer.entries),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(answered.len(), lost.len());
    assert!(answered.iter().all(|(_, known)| *known == Known::Delivered));
    let before = victim.engine.counters().duplicates;
    send(&mut victim, &cut_off, in_flight + 1, 1..in_flight + 1);
    assert_eq!(victim.engine.counters().duplicates - before, in_flight);
}

#[test]
fn absurd_greetings_open_nothing_and_break_nothing() {
    let absurd: [fn(&mut Hello); 4] = [
        |hello| (hello.protocol_min, hello.protocol_max) = (u16::MAX, u16::MAX),
        |hello| (hello.protocol_min, hello.protocol_max) = (9, 0),
        |hello| hello.attempt = u64::MAX,
        |hello| {
            hello.prior_incarnations = (0..256).map(|n| Incarnation(u64::MAX - n)).collect();
            hello.body_bytes_max = u32::MAX;
            hello.listen_port = u16::MAX;
        },
    ];
    let mut victim = Victim::open_to_all();
    for (number, change) in (1..).zip(absurd) {
        let peer = Peer::new(number);
        peer.connect(&mut victim);
        let mut hello = peer.hello(&"n".repeat(255));
        change(&mut hello);
        peer.say(&mut victim, &[PeerFrame::Hello(hello)]);
        assert!(
            !victim
                .events
                .iter()
                .any(|e| matches!(e, Event::SessionOpened { .. }))
        );
    }
    // Without the other half they end.
    victim.now_ms += 10_001;
    victim.give(Input::Tick);
    assert_eq!(victim.engine.sizes().sessions, 0);
    assert!(victim.engine.sizes().routes <= 4 * 257);
}

#[test]
fn an_application_greets_once_and_has_a_limit_of_requests() {
    let mut victim = Victim::open_to_all();
    victim.hello_of(1, 1);
    victim.hello_of(1, 2);
    assert_eq!(
        victim.shut_out.pop().unwrap(),
        "a second hello on one connection"
    );
    assert_eq!(victim.engine.sizes().clients, 1);
    victim.hello_of(2, 2);
    for request in 1..=256 {
        victim.receive(2, request, 1_000);
    }
    // One that takes another's place is not one more. It does not wait, whoever waits before it.
    victim.receive(2, 7, 0);
    assert!(victim.shut_out.is_empty());
    assert_eq!(victim.engine.sizes().receives, 255);
    victim.receive(2, 257, 1_000);
    assert!(victim.shut_out.is_empty());
    victim.receive(2, 258, 1_000);
    assert_eq!(
        victim.shut_out.pop().unwrap(),
        "too many receive requests without an answer"
    );
    victim.now_ms += 1_000;
    victim.give(Input::Tick);
    assert_eq!(
        victim.engine.sizes().receives,
        0,
        "they are answered in time"
    );
    victim.receive(2, 300, 0);
    assert!(victim.shut_out.is_empty());
}

#[test]
fn what_an_application_holds_unsettled_is_bounded_and_holds_nobody_else_up() {
    let mut victim = Victim::open_to_all();
    victim.hello_of(1, 1);
    let body = Bytes::from(vec![7; 4 << 20]);
    for sequence in 1..=20 {
        victim.put(1, sequence, "orders", body.clone());
    }
    victim.hello_of(2, 2);
    // What is not in memory is read from disk between two requests.
    for request in 1..20 {
        victim.receive(2, request, 0);
    }
    let held = victim.engine.sizes().lease_bytes;
    let allowed = LEASE_BYTES_MAX..=LEASE_BYTES_MAX + (5 << 20);
    assert!(allowed.contains(&held), "{held}");
    // Greedy: told to settle first. Another application gets what is left.
    victim.told.clear();
    victim.receive(2, 20, 0);
    let refused = |told: &(ConnId, NodeFrame)| match &told.1 {
        NodeFrame::ReceiveDone(done) => done.outcome,
        _ => None,
    };
    assert_eq!(victim.told.iter().find_map(refused), Some(Outcome::BUSY));
    victim.receive(2, 21, 60_000);
    victim.hello_of(3, 3);
    victim.told.clear();
    for request in 1..20 {
        victim.receive(3, request, 0);
    }
    let to_other = victim
        .told
        .iter()
        .filter(|(conn, frame)| *conn == ConnId(3) && matches!(frame, NodeFrame::Delivery(_)));
    assert!(to_other.count() >= 3);
    // It settles one, and the request that waits is served with what comes.
    victim.put(1, 21, "orders", body);
    victim.told.clear();
    victim.client(
        2,
        ClientFrame::Settle(Settle {
            request: 22,
            queue: "orders".parse().unwrap(),
            verdict: Verdict::Consume,
            ranges: vec![(4 << 60, u64::MAX)],
        }),
    );
    let served = |(conn, frame): &(ConnId, NodeFrame)| {
        *conn == ConnId(2) && matches!(frame, NodeFrame::Delivery(_))
    };
    assert!(victim.told.iter().any(served));
    // A queue that goes takes its leases along, and tells who waits.
    victim.receive(2, 23, 60_000);
    victim.told.clear();
    victim.admin(AdminRequest::QueueDelete {
        name: "orders".parse().unwrap(),
        discard: false,
        force: true,
    });
    assert_eq!(victim.engine.sizes().lease_bytes, 0);
    assert_eq!(
        victim.told.iter().find_map(refused),
        Some(Outcome::NOT_FOUND)
    );
}

#[test]
fn who_held_too_much_of_a_deleted_queue_is_handed_what_waits_in_another() {
    let mut victim = Victim::open_to_all();
    let settings = LocalSettings::new("other".parse().unwrap());
    victim.admin(AdminRequest::QueueCreate(settings));
    victim.hello_of(1, 1);
    let body = Bytes::from(vec![7; 4 << 20]);
    for sequence in 1..=20 {
        victim.put(1, sequence, "orders", body.clone());
    }
    victim.put(1, 21, "other", Bytes::from_static(b"small"));
    victim.hello_of(2, 2);
    for request in 1..20 {
        victim.receive(2, request, 0);
    }
    victim.client(
        2,
        ClientFrame::Receive({
            let mut receive = Receive::new(20, "other".parse().unwrap());
            receive.wait_ms = 60_000;
            receive
        }),
    );
    victim.told.clear();
    victim.admin(AdminRequest::QueueDelete {
        name: "orders".parse().unwrap(),
        discard: true,
        force: true,
    });
    let served = |(conn, frame): &(ConnId, NodeFrame)| {
        *conn == ConnId(2) && matches!(frame, NodeFrame::Delivery(_))
    };
    assert!(victim.told.iter().any(served));
}

#[test]
fn answers_to_an_application_that_skips_numbers_are_kept_within_a_limit() {
    let mut victim = Victim::open_to_all();
    victim.hello_of(1, 1);
    // Gaps in the numbers cannot be kept as one run.
    for n in 1..=(CLIENT_RUNS_MAX + 2 * CLIENT_PAGE_RUNS) as u64 {
        victim.put_quietly(1, 2 * n, "orders", Bytes::from_static(b"x"));
    }
    answers_are_stored_in_small_pages(&victim);
    victim.told.clear();
    victim.put(1, 2, "orders", Bytes::from_static(b"x"));
    assert!(matches!(
        victim.told.last(),
        Some((_, NodeFrame::Refused(refused))) if refused.outcome == Outcome::BAD_REQUEST
    ));
}

fn answers_are_stored_in_small_pages(victim: &Victim) {
    let stored = victim.disk.state.iter();
    let pages = stored.filter(|(key, _)| key.starts_with(b"client/"));
    let sizes: Vec<usize> = pages.map(|(_, value)| value.len()).collect();
    assert!(
        sizes.len() <= CLIENT_RUNS_MAX / CLIENT_PAGE_RUNS + 1,
        "{}",
        sizes.len()
    );
    assert!(sizes.iter().all(|bytes| *bytes <= 4 << 10), "{sizes:?}");
}

#[test]
fn an_application_that_skips_numbers_far_leaves_little_to_store() {
    let mut victim = Victim::open_to_all();
    victim.hello_of(1, 1);
    let far = 1_u64 << 50;
    for n in 1..=5_000 {
        victim.put_quietly(1, far * n, "orders", Bytes::from_static(b"x"));
    }
    answers_are_stored_in_small_pages(&victim);
    victim.told.clear();
    victim.put(1, far, "orders", Bytes::from_static(b"x"));
    let (_, last) = victim.told.last().unwrap();
    assert!(
        matches!(last, NodeFrame::Accepted(answer) if answer.repeated),
        "{last:?}"
    );
}

fn count(victim: &Victim, prefix: &[u8]) -> usize {
    let keys = victim.disk.state.keys();
    keys.filter(|key| key.starts_with(prefix)).count()
}

/// Strangers whose sessions open, one after the other.
#[test]
fn strangers_without_number_leave_nothing_on_the_disk() {
    let mut victim = Victim::new(|config| config.pending_peers_max = 50);
    for number in 0..500 {
        victim.now_ms += 1;
        let peer = Peer::new(number);
        peer.open(&mut victim);
        peer.gone(&mut victim);
    }
    let opened = |event: &&Event| matches!(event, Event::SessionOpened { .. });
    assert_eq!(victim.events.iter().filter(opened).count(), 500);
    assert_eq!(count(&victim, b"met/"), 0, "no message is minted for them");
    let left = victim.disk.state.keys();
    let left = left.filter(|key| {
        [&b"peer/"[..], b"token/", b"ledger/"]
            .iter()
            .any(|of| key.starts_with(of))
    });
    assert!(left.count() <= 3 * 50);
    assert_eq!(victim.engine.sizes().routes, 0, "nothing is owed to them");

    // Whoever is approved meanwhile is met, until the operator forgets it.
    let peer = Peer::new(1_000);
    peer.open(&mut victim);
    let who = peer.qm.to_string();
    let name = None;
    victim.admin(AdminRequest::PeerApprove {
        who: who.clone(),
        name,
    });
    victim.give(Input::Tick);
    assert_eq!(count(&victim, b"met/"), 1);
    assert_eq!(victim.engine.sizes().routes, 1);
    victim.admin(AdminRequest::PeerForget { who });
    victim.give(Input::Tick);
    assert_eq!(count(&victim, b"met/"), 0);
}

/// What a life knew of very many peers does not make one batch that no segment holds.
#[test]
fn what_was_met_is_written_anew_in_parts() {
    let met = 20_000_u32;
    let mut recovered = Recovered::default();
    for number in 0..met {
        let mut value = vec![1];
        value.extend([9; 24]);
        let id = [&number.to_le_bytes()[..], &[8; 12]].concat();
        let key = [&b"met/"[..], &id].concat();
        recovered.state.insert(key.into(), value.into());
    }
    let mut victim = Victim::new(|_| {});
    let public_key = [1; 32];
    let me = Identity {
        qm: QmId::from_ed25519_public_key(&public_key),
        public_key,
        store_id: [1; 16],
        token_key: qm_engine::TokenKey::new(public_key),
    };
    let mut config = EngineConfig::default();
    config.batch_bytes_max = 128 << 10;
    let entropy = Box::new(SeededEntropy::new(1));
    let most = config.batch_bytes_max + 100_000;
    victim.engine = Engine::new(config, me, recovered, entropy, Now::default());
    victim.engine.handle(Now::default(), Input::Tick);
    let (mut batches, mut written) = (0, 0);
    while let Some(output) = victim.engine.poll(Now::default()) {
        if let Output::Persist { ops, .. } = output {
            let bytes = ops.iter().map(|op| match op {
                StoreOp::Set { key, value } => key.len() + value.len(),
                _ => 0,
            });
            assert!(bytes.sum::<usize>() <= most);
            let is_met =
                |op: &&StoreOp| matches!(op, StoreOp::Set { key, .. } if key.starts_with(b"met/"));
            written += ops.iter().filter(is_met).count();
            batches += 1;
        }
    }
    assert_eq!(written, usize::try_from(met).unwrap());
    assert!(batches > 1);
}

/// A stranger whose history this node forgot, because others took its place, presents what it was
/// given before: that says nothing about this node, and what it says of itself is nobody's concern.
#[test]
fn a_strangers_tokens_accuse_nobody() {
    let mut victim = Victim::new(|config| config.pending_peers_max = 2);
    let peer = Peer::new(1);
    let mut token = Bytes::new();
    let open_with = |victim: &mut Victim, presented: Bytes, confirmed: Option<Bytes>| {
        peer.connect(victim);
        let mut hello = peer.hello("x");
        hello.token = presented;
        peer.say(victim, &[PeerFrame::Hello(hello)]);
        let mut given = Bytes::new();
        for _ in 0..2 {
            for frame in victim.frames_to(peer.link) {
                match frame {
                    PeerFrame::Welcome(welcome) => {
                        given = welcome.token;
                        let confirm = Confirm {
                            attempt: welcome.attempt,
                            token: confirmed.clone().unwrap_or_else(|| given.clone()),
                        };
                        peer.say(victim, &[PeerFrame::Confirm(confirm)]);
                    }
                    PeerFrame::Challenge(challenge) => {
                        peer.say(victim, &[PeerFrame::ChallengeOk(challenge)]);
                    }
                    _ => {}
                }
            }
        }
        peer.gone(victim);
        given
    };
    for _ in 0..3 {
        token = open_with(&mut victim, token, None);
    }
    let first = Bytes::new();
    for number in 10..20 {
        victim.now_ms += 1;
        let other = Peer::new(number);
        other.open(&mut victim);
        other.gone(&mut victim);
    }
    assert_eq!(count(&victim, b"ledger/"), 2);
    // From the future, and then back.
    open_with(&mut victim, first.clone(), Some(token));
    open_with(&mut victim, first, None);
    let AdminReply::Status(status) = victim.admin(AdminRequest::Status) else {
        panic!("no status");
    };
    assert_eq!(status.went_back, []);
    assert_eq!(status.branched, []);
    for event in &victim.events {
        let accuses = matches!(
            event,
            Event::OwnStoreWentBack { .. } | Event::HistoryBranched { .. }
        );
        assert!(!accuses, "{event:?}");
    }
}

/// The rank is on disk before it is said, and frozen then: not for a stranger.
#[test]
fn a_strangers_question_about_a_copy_writes_nothing() {
    let mut victim = Victim::new(|_| {});
    let peer = Peer::new(1);
    peer.open(&mut victim);
    let ask = Ask {
        relay: [3; 16],
        challenge: [4; 32],
        rank: Rank {
            sealed: true,
            served_s: 1,
            draw: 1,
        },
    };
    peer.say(&mut victim, &[PeerFrame::Ask(ask)]);
    assert_eq!(count(&victim, b"rank/"), 0);
}
