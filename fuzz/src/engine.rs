//! Targets of qm-engine: peers and applications that say well-formed things in any order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::limits::{
    CLIENT_REFUSALS_MAX, FLIGHTS_MAX, LEASES_MAX, OWED_LIVES_PER_PEER_MAX, REFUSED_MAX,
};
use qm_engine::{
    ConnId, Engine, EngineConfig, Identity, Input, Lane, LinkId, LocalSettings, Now, Output,
    Recovered, RefusalsKnown, SeededEntropy, StoreOp, StoredMessage, StoredRecord, StreamId,
    Ticket, Timestamp, Trust,
};
use qm_wire::local::{
    ClientFrame, ClientHello, Follow, IdempotencyKey, NodeFrame, Put, Receive, ReceiveMode, Settle,
    Verdict,
};
use qm_wire::{
    Answer, Class, ClientId, Confirm, Credit, Data, Entry, Envelope, Goodbye, Hello, HelloFlags,
    Incarnation, Known, MessageFlags, MessageId, NotHeld, Outcome, PeerFrame, QmId, Query,
    QueueState, Refusal, Reject, RoutedAck, Salt, SessionAck, Tag, Transit, Welcome, WelcomeFlags,
    tag_hash,
};

/// Peers of the engine; the last one is a stranger.
const PEERS: u8 = 4;
const PENDING_MAX: usize = 2;
const QUEUES: [&str; 3] = ["orders", "full", "nowhere"];
/// Steps of one input: long ones only repeat themselves.
const STEPS_MAX: usize = 400;

/// Cuts values off an input; zeros when it is used up.
struct Cut<'a>(&'a [u8]);

impl Cut<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound.max(1)
    }

    /// Mostly small, now and then at an edge.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 1 << 32,
            252 => 5_000,
            small => u64::from(small),
        }
    }
}

/// One engine, its disk, and what its peers know.
pub(crate) struct World {
    engine: Engine,
    now_ms: u64,
    records: BTreeMap<(StreamId, u64), StoredRecord>,
    state: BTreeMap<Bytes, Bytes>,
    /// Batches that the disk has not answered.
    at_disk: Vec<(Ticket, Vec<StoreOp>, RefusalsKnown)>,
    /// Batches that found no room.
    refusals: u64,
    links: Vec<(LinkId, u8)>,
    next_link: u64,
    next_conn: u64,
    conns: Vec<ConnId>,
    attempts: BTreeMap<LinkId, u64>,
    /// What a peer that keeps the rules answers next on its link.
    answers: BTreeMap<LinkId, PeerFrame>,
    /// Messages that were transmitted, for acks that are right for once.
    seen: Vec<(LinkId, u64, Entry)>,
    /// What a peer transmitted: link, number, tag.
    told: BTreeMap<(LinkId, u64), Tag>,
    durable: BTreeSet<Tag>,
    lookups: Vec<u64>,
    sequences: [u64; 3],
    requests: u64,
    /// What operators were answered.
    pub(crate) replies: Vec<AdminReply>,
}

fn key_of(peer: u8) -> [u8; 32] {
    [peer + 1; 32]
}

fn id_of(peer: u8) -> QmId {
    QmId::from_ed25519_public_key(&key_of(peer))
}

fn life_of(peer: u8, number: u8) -> Incarnation {
    Incarnation(u64::from(peer) * 100 + u64::from(number % 3))
}

impl World {
    pub(crate) fn new(seed: u8) -> Self {
        let public_key = [0xee; 32];
        let me = Identity {
            qm: QmId::from_ed25519_public_key(&public_key),
            public_key,
            store_id: [1; 16],
            token_key: qm_engine::TokenKey::new(public_key),
        };
        let mut config = EngineConfig::default();
        config.trust = Trust::Approve;
        config.pending_peers_max = PENDING_MAX;
        config.dedup_capacity = 200;
        config.window_messages = 8;
        config.window_bytes = 64 << 10;
        config.resident_bytes_max = 4 << 10;
        config.express_bytes_max = 16 << 10;
        config.store_bytes_max = 64 << 10;
        config.body_bytes_max = 2 << 10;
        let entropy = Box::new(SeededEntropy::new(u64::from(seed)));
        let engine = Engine::new(config, me, Recovered::default(), entropy, Now::default());
        let mut world = Self {
            engine,
            now_ms: 0,
            records: BTreeMap::new(),
            state: BTreeMap::new(),
            at_disk: Vec::new(),
            refusals: 0,
            links: Vec::new(),
            next_link: 0,
            next_conn: 0,
            conns: Vec::new(),
            attempts: BTreeMap::new(),
            answers: BTreeMap::new(),
            seen: Vec::new(),
            told: BTreeMap::new(),
            durable: BTreeSet::new(),
            lookups: Vec::new(),
            sequences: [0; 3],
            requests: 0,
            replies: Vec::new(),
        };
        for name in &QUEUES[..2] {
            let mut settings = LocalSettings::new(name.parse().expect("a good name"));
            if *name == "full" {
                settings.quota_messages = 2;
            }
            world.admin(AdminRequest::QueueCreate(settings));
        }
        for peer in 0..PEERS - 1 {
            let (who, name) = (id_of(peer).to_string(), None);
            world.admin(AdminRequest::PeerApprove { who, name });
        }
        while !world.at_disk.is_empty() {
            world.disk(0);
        }
        world
    }

    fn admin(&mut self, what: AdminRequest) {
        self.give(Input::Admin {
            conn: ConnId(u64::MAX),
            request: 1,
            what,
        });
    }

    /// Asks as an operator does, and lets the disk do all that follows.
    pub(crate) fn ask(&mut self, what: AdminRequest) {
        self.admin(what);
        while !self.at_disk.is_empty() {
            self.disk(0);
        }
    }

    fn give(&mut self, input: Input) {
        let now = Now {
            at: Timestamp(self.now_ms.saturating_mul(1_000)),
            wall_us: 1 + self.now_ms,
        };
        self.engine.handle(now, input);
        let mut outputs = 0;
        while let Some(output) = self.engine.poll(now) {
            outputs += 1;
            assert!(outputs < 20_000, "one input has no end of consequences");
            self.carry_out(output, now);
        }
        self.check();
    }

    fn carry_out(&mut self, output: Output, now: Now) {
        match output {
            Output::Send { link, lane, frames } => self.overhear(link, lane, frames),
            Output::Close { link, .. } => self.links.retain(|(open, _)| *open != link),
            Output::CloseClient { conn, .. } => {
                self.conns.retain(|open| *open != conn);
                self.engine.handle(now, Input::ClientClosed { conn });
            }
            Output::Persist {
                ticket,
                ops,
                refusals_known,
            } => self.at_disk.push((ticket, ops, refusals_known)),
            Output::Load {
                load,
                stream,
                from,
                records_max,
                bytes_max,
            } => {
                let mut left = bytes_max;
                let records = self
                    .records
                    .range((stream, from)..=(stream, u64::MAX))
                    .take(records_max)
                    .map_while(|(_, record)| {
                        let bytes = record.head.len() + record.body.len();
                        let fits = left > 0;
                        left = left.saturating_sub(bytes);
                        fits.then(|| record.clone())
                    })
                    .collect();
                self.engine.handle(now, Input::Loaded { load, records });
            }
            Output::Client {
                frame: NodeFrame::Delivery(delivery),
                ..
            } => self.lookups.push(delivery.lookup),
            Output::Admin { reply, .. } => self.replies.push(reply),
            _ => {}
        }
    }

    /// What the engine says to peers is well-formed, and an ack says the truth.
    fn overhear(&mut self, link: LinkId, lane: Lane, mut frames: Bytes) {
        while !frames.is_empty() {
            let frame = PeerFrame::next(&mut frames, 1 << 20)
                .expect("the engine's own frames are right")
                .expect("and whole");
            match frame {
                PeerFrame::Hello(hello) => {
                    self.attempts.insert(link, hello.attempt);
                }
                PeerFrame::Welcome(welcome) => {
                    let confirm = Confirm {
                        attempt: welcome.attempt,
                        token: welcome.token,
                    };
                    self.answers.insert(link, PeerFrame::Confirm(confirm));
                }
                PeerFrame::Challenge(challenge) => {
                    self.answers.insert(link, PeerFrame::ChallengeOk(challenge));
                }
                PeerFrame::Data(data) => {
                    assert!(matches!(lane, Lane::Priority(_)));
                    let envelope = data.open().expect("what is transmitted is whole");
                    let entry = Entry {
                        id: envelope.id,
                        tag: data.tag,
                    };
                    self.seen.push((link, data.number, entry));
                }
                PeerFrame::SessionAck(ack) if !ack.duplicate => {
                    let tags = ack.numbers().map(|number| self.told.get(&(link, number)));
                    let tags: Option<Vec<Tag>> = tags.map(|tag| tag.copied()).collect();
                    let tags = tags.expect("only what was transmitted is acknowledged");
                    assert_eq!(tag_hash(tags.iter().copied()), ack.tag_hash);
                    for tag in tags {
                        assert!(self.durable.contains(&tag), "acknowledged and not stored");
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        self.engine.audit().expect("the engine's own rules");
        let sizes = self.engine.sizes();
        let links = self.next_link as usize;
        assert!(sizes.sessions <= links);
        assert!(sizes.peers <= usize::from(PEERS) + PENDING_MAX + QUEUES.len());
        assert!(sizes.owed_lives <= usize::from(PEERS) * OWED_LIVES_PER_PEER_MAX);
        assert!(sizes.flights <= sizes.sessions * FLIGHTS_MAX);
        assert!(sizes.refused <= sizes.sessions * REFUSED_MAX);
        assert!(sizes.clients <= 3 && sizes.keys <= 8 + CLIENT_REFUSALS_MAX);
        assert!(sizes.connections <= self.next_conn as usize);
        assert!(sizes.lease_bytes <= (LEASES_MAX as u64) * (4 << 10));
        assert!(sizes.queues <= 64, "{sizes:?}");
        // What was admitted last may exceed it by a batch and a window of each peer.
        assert!(sizes.express_bytes <= 512 << 10, "{sizes:?}");
        assert!(sizes.resident_bytes <= 4 << 20, "{sizes:?}");
    }

    /// The disk answers the oldest batch: it did it, or has no room.
    fn disk(&mut self, how: u8) {
        if self.at_disk.is_empty() {
            return;
        }
        let (ticket, ops, known) = self.at_disk.remove(0);
        // Batches that only give room back are never refused.
        let puts = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        let overtakes = match known {
            RefusalsKnown::All(known) => known < self.refusals,
            RefusalsKnown::Settling(_) => false,
        };
        if overtakes || puts && how % 8 == 7 {
            self.refusals += 1;
            return self.give(Input::PersistRefused {
                ticket,
                ops,
                limited: false,
            });
        }
        for op in ops {
            self.apply(op);
        }
        self.give(Input::Persisted { ticket });
    }

    fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Put {
                stream,
                position,
                head,
                body,
            } => {
                let stored = StoredMessage::read(&head).expect("the engine reads what it writes");
                self.durable.insert(stored.tag);
                let record = StoredRecord {
                    position,
                    head,
                    body,
                };
                self.records.insert((stream, position), record);
            }
            StoreOp::Remove {
                stream,
                first,
                last,
            } => self
                .records
                .retain(|(s, p), _| *s != stream || *p < first || *p > last),
            StoreOp::Set { key, value } => {
                self.state.insert(key, value);
            }
            StoreOp::Unset { key } => {
                self.state.remove(&key);
            }
        }
    }

    fn connect(&mut self, peer: u8) {
        if self.links.len() >= 12 {
            return;
        }
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.push((link, peer));
        self.give(Input::Connected {
            link,
            peer: id_of(peer),
            public_key: key_of(peer),
            own: self.engine.qm_id(),
            remote: ([10, 0, 0, peer], 1801).into(),
            dial: None,
        });
    }

    fn some_link(&self, cut: &mut Cut<'_>) -> Option<(LinkId, u8)> {
        let at = usize::from(cut.byte()) % self.links.len().max(1);
        self.links.get(at).copied()
    }

    fn entry(&self, cut: &mut Cut<'_>) -> Entry {
        let known = usize::from(cut.byte());
        if known < 128 && !self.seen.is_empty() {
            let (_, _, entry) = self.seen[known % self.seen.len()];
            return entry;
        }
        let incarnation = match cut.below(3) {
            0 => self.engine.incarnation(),
            1 => life_of(cut.below(PEERS), cut.byte()),
            _ => Incarnation(cut.number()),
        };
        Entry {
            id: MessageId {
                incarnation,
                sequence: cut.number(),
            },
            tag: Tag([cut.byte(); 8]),
        }
    }

    fn entries(&self, cut: &mut Cut<'_>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..=cut.below(6)).map(|_| self.entry(cut)).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    fn outcome(cut: &mut Cut<'_>) -> Outcome {
        [
            Outcome::REACHED_QUEUE,
            Outcome::BAD_DESTINATION_QUEUE,
            Outcome::DAMAGED,
            Outcome(0),
            Outcome(u16::MAX),
        ][usize::from(cut.below(5))]
    }

    fn hello(peer: u8, cut: &mut Cut<'_>) -> Hello {
        let life = cut.byte();
        let priors = (0..cut.below(4)).map(|n| life_of(peer, life.wrapping_add(n + 1)));
        Hello {
            protocol_min: if cut.byte() == 255 { 9 } else { 1 },
            protocol_max: if cut.byte() == 255 { 0 } else { 1 },
            incarnation: life_of(peer, life),
            prior_incarnations: priors.collect(),
            attempt: cut.number(),
            token: Bytes::new(),
            listen_port: u16::from(cut.byte()),
            body_bytes_max: u32::MAX,
            flags: HelloFlags::NONE,
            enrolment: Bytes::new(),
            name: ["", "hub", "a/b"][usize::from(cut.below(3))].into(),
            host: "".into(),
        }
    }

    fn data(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> Data {
        let source = if cut.byte() == 255 {
            id_of(cut.below(PEERS))
        } else {
            id_of(peer)
        };
        let id = MessageId {
            incarnation: life_of(peer, cut.byte()),
            sequence: u64::from(cut.byte()),
        };
        let class = Class::from_code(cut.below(3)).unwrap_or(Class::Express);
        let queue = QUEUES[usize::from(cut.below(3))]
            .parse()
            .expect("a good name");
        let salt = Salt([cut.below(2); 16]);
        let mut envelope = Envelope::new(source, id, salt, class, queue);
        let body = Bytes::from(vec![cut.byte(); usize::from(cut.byte()) * 12]);
        envelope.body_bytes = u32::try_from(body.len()).unwrap_or(0);
        envelope.flags = MessageFlags::from_bits(cut.below(8)).unwrap_or_default();
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).expect("within the limits");
        let encoded = encoded.freeze();
        let mut tag = Tag::compute(&encoded, &salt, &body);
        if cut.byte() == 255 {
            tag.0[0] ^= 1;
        }
        let number = cut.number();
        let left = |cut: &mut Cut<'_>| match cut.below(4) {
            0 => u64::from(cut.byte()) * 100,
            _ => qm_wire::INFINITE_MS,
        };
        self.told.insert((link, number), tag);
        if class == Class::Express {
            self.durable.insert(tag);
        }
        Data {
            number,
            tag,
            transit: Transit {
                reach_queue_left_ms: left(cut),
                be_received_left_ms: left(cut),
                hops: 0,
                place: None,
                route: None,
            },
            envelope: encoded,
            body,
        }
    }

    /// A frame that a peer may say at any time, fitting or not.
    fn frame(&mut self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> PeerFrame {
        let me = self.engine.qm_id();
        let someone = |cut: &mut Cut<'_>, right: QmId| match cut.byte() {
            255 => id_of(cut.below(PEERS)),
            _ => right,
        };
        match cut.below(14) {
            0 => PeerFrame::Hello(Self::hello(peer, cut)),
            1 => PeerFrame::Welcome(self.welcome(link, peer, cut)),
            2 => PeerFrame::Credit(Credit {
                messages: cut.number(),
                bytes: cut.number().saturating_mul(1_000),
            }),
            3 => PeerFrame::QueueState(QueueState {
                queue: QUEUES[usize::from(cut.below(3))]
                    .parse()
                    .expect("a good name"),
                open: cut.below(2) == 0,
            }),
            4..=6 => PeerFrame::Data(self.data(link, peer, cut)),
            7 => self.session_ack(link, cut),
            8 => PeerFrame::RoutedAck(RoutedAck {
                source: someone(cut, me),
                duplicate: cut.below(2) == 0,
                entries: self.entries(cut),
            }),
            9 => PeerFrame::NotHeld(NotHeld {
                source: someone(cut, id_of(peer)),
                entries: self.entries(cut).into_iter().map(|e| (e, true)).collect(),
            }),
            10 => PeerFrame::Query(Query {
                source: someone(cut, id_of(peer)),
                void: cut.byte() == 255,
                entries: self.entries(cut),
            }),
            11 => {
                let known = match cut.below(4) {
                    0 => Known::Delivered,
                    1 => Known::InFlight,
                    2 => Known::Unknown,
                    _ => Known::Outcome(Self::outcome(cut)),
                };
                PeerFrame::Answer(Answer {
                    source: someone(cut, me),
                    entries: self.entries(cut).into_iter().map(|e| (e, known)).collect(),
                })
            }
            12 => {
                let (number, tag) = match self.seen.last() {
                    Some((_, number, entry)) if cut.below(2) == 0 => (*number, entry.tag),
                    _ => (cut.number(), Tag([cut.byte(); 8])),
                };
                PeerFrame::Reject(Reject {
                    refusals: vec![Refusal {
                        number,
                        tag,
                        outcome: Self::outcome(cut),
                    }],
                })
            }
            _ => PeerFrame::Goodbye(Goodbye {
                reason: Self::outcome(cut),
                text: "enough".into(),
            }),
        }
    }

    fn welcome(&self, link: LinkId, peer: u8, cut: &mut Cut<'_>) -> Welcome {
        let right = self.attempts.get(&link).copied().unwrap_or(0);
        Welcome {
            flags: if cut.byte() == 255 {
                WelcomeFlags::PENDING
            } else {
                WelcomeFlags::NONE
            },
            protocol: 1,
            incarnation: life_of(peer, cut.byte()),
            attempt: if cut.byte() == 255 {
                cut.number()
            } else {
                right
            },
            nonce: [0; 16],
            store_id: [peer; 16],
            token: Bytes::new(),
        }
    }

    fn session_ack(&self, link: LinkId, cut: &mut Cut<'_>) -> PeerFrame {
        let on_link: Vec<_> = self.seen.iter().filter(|(at, _, _)| *at == link).collect();
        let right = cut.below(3) > 0;
        let (mut ranges, mut tags) = (Vec::new(), Vec::new());
        for (_, number, entry) in on_link
            .iter()
            .rev()
            .take(usize::from(cut.below(5)) + 1)
            .rev()
        {
            ranges.push((*number, *number));
            tags.push(entry.tag);
        }
        ranges.dedup();
        if !right || ranges.is_empty() {
            let first = cut.number().clamp(1, u64::MAX - 5_000);
            ranges = vec![(first, first + cut.number().min(4_095))];
        }
        PeerFrame::SessionAck(SessionAck {
            duplicate: cut.below(2) == 0,
            tag_hash: tag_hash(tags),
            ranges,
        })
    }

    /// Opens a session as an honest peer does.
    fn open(&mut self, peer: u8, cut: &mut Cut<'_>) {
        self.connect(peer);
        let Some((link, peer)) = self.links.last().copied() else {
            return;
        };
        let mut quiet = Cut(&[]);
        let mut hello = Self::hello(peer, &mut quiet);
        hello.incarnation = life_of(peer, cut.byte());
        let welcome = self.welcome(link, peer, &mut quiet);
        let credit = Credit {
            messages: 20,
            bytes: 1 << 20,
        };
        let frames = [
            PeerFrame::Hello(hello),
            PeerFrame::Welcome(welcome),
            PeerFrame::Credit(credit),
        ];
        self.say(link, &frames);
        // A sign of life first, if one is asked for; the disk may take its time.
        for _ in 0..8 {
            self.disk(0);
            if let Some(answer) = self.answers.remove(&link) {
                self.say(link, &[answer]);
            }
        }
    }

    fn say(&mut self, link: LinkId, frames: &[PeerFrame]) {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.give(Input::Received {
            link,
            frames: bytes.freeze(),
        });
    }

    fn client(&mut self, cut: &mut Cut<'_>) {
        if self.conns.is_empty() || cut.below(16) == 0 {
            self.next_conn += 1;
            self.conns.push(ConnId(self.next_conn));
        }
        let at = usize::from(cut.byte()) % self.conns.len();
        let conn = self.conns[at];
        let frame = match cut.below(8) {
            0 | 1 => ClientFrame::Hello(ClientHello {
                protocol: 1,
                client: ClientId([cut.below(3); 16]),
                program: "fuzz".into(),
            }),
            2..=4 => ClientFrame::Put(self.put(cut)),
            5 | 6 => ClientFrame::Receive(self.receive(cut)),
            _ => {
                let lookup = match self.lookups.pop() {
                    Some(lookup) if cut.below(4) > 0 => lookup,
                    _ => cut.number(),
                };
                self.requests += 1;
                ClientFrame::Settle(Settle {
                    request: self.requests,
                    queue: QUEUES[usize::from(cut.below(3))]
                        .parse()
                        .expect("a good name"),
                    verdict: [Verdict::Consume, Verdict::GiveBack, Verdict::Reject]
                        [usize::from(cut.below(3))],
                    ranges: vec![(lookup, lookup.saturating_add(cut.number() % 3))],
                })
            }
        };
        self.give(Input::Client { conn, frame });
    }

    fn put(&mut self, cut: &mut Cut<'_>) -> Put {
        let slot = usize::from(cut.below(3));
        let sequence = match cut.byte() {
            255 => cut.number(),
            254 => self.sequences[slot],
            _ => self.sequences[slot].saturating_add(1 + u64::from(cut.below(2))),
        };
        self.sequences[slot] = self.sequences[slot].max(sequence.min(1 << 40));
        let to = match cut.below(6) {
            0 => "orders".to_owned(),
            1 => "full".to_owned(),
            2 => "hub/orders".to_owned(),
            3 => format!("qm://10.0.0.{}/orders", cut.below(3)),
            peer => format!(
                "qm:{}/{}",
                id_of(peer - 4),
                QUEUES[usize::from(cut.below(3))]
            ),
        };
        let mut put = Put::new(
            sequence,
            to.as_str(),
            vec![7; usize::from(cut.byte()) * 12].into(),
        );
        put.class = Class::from_code(cut.below(3)).unwrap_or(Class::Express);
        put.follow = [Follow::None, Follow::Delivered, Follow::Received][usize::from(cut.below(3))];
        if cut.below(4) == 0 {
            put.idempotency = Some(IdempotencyKey {
                key: Bytes::copy_from_slice(&[b'k', cut.below(4)]),
                number: (cut.below(2) == 0).then(|| cut.number()),
            });
        }
        if cut.below(4) == 0 {
            put.time_to_reach_queue_ms = Some(u64::from(cut.byte()) * 50);
        }
        put
    }

    fn receive(&mut self, cut: &mut Cut<'_>) -> Receive {
        self.requests += 1;
        let request = if cut.byte() == 255 {
            cut.number()
        } else {
            self.requests
        };
        let queue = QUEUES[usize::from(cut.below(3))]
            .parse()
            .expect("a good name");
        let mut receive = Receive::new(request, queue);
        receive.messages_max = u32::from(cut.below(5));
        receive.bytes_max = u32::MAX;
        receive.wait_ms = if cut.byte() > 250 {
            u64::MAX
        } else {
            u64::from(cut.byte()) * 10
        };
        match cut.below(8) {
            0 => receive.mode = ReceiveMode::Peek,
            1 => receive.lookup = Some(self.lookups.last().copied().unwrap_or(cut.number())),
            2 => receive.correlation_id = Bytes::from_static(b"c"),
            3 => receive.after = Some(cut.number()),
            _ => {}
        }
        receive
    }

    fn administer(&mut self, cut: &mut Cut<'_>) {
        let who = id_of(cut.below(PEERS)).to_string();
        let name = || "orders".parse().expect("a good name");
        self.admin(match cut.below(8) {
            0 => AdminRequest::PeerApprove { who, name: None },
            1 => AdminRequest::PeerBlock { who },
            2 => AdminRequest::PeerForget { who },
            3 => AdminRequest::QueueDelete {
                name: name(),
                force: true,
                discard: cut.below(2) == 0,
            },
            4 => AdminRequest::QueueCreate(LocalSettings::new(name())),
            5 => AdminRequest::QueuePurge {
                name: name(),
                discard: cut.below(2) == 0,
            },
            6 => AdminRequest::Why { subject: who },
            _ => AdminRequest::Peers,
        });
    }
}

/// Whatever several peers and applications say in whatever order, with a disk that is slow or full:
/// no panic, the audit holds after every step, tables keep their limits, what is said to peers is
/// well-formed, and nothing is acknowledged before it is stored.
pub fn engine_ops(data: &[u8]) {
    let mut cut = Cut(data);
    let mut world = World::new(cut.byte());
    for _ in 0..STEPS_MAX {
        if cut.0.is_empty() {
            break;
        }
        match cut.below(16) {
            0 => world.connect(cut.0.first().map_or(0, |b| b % PEERS)),
            1 | 2 => {
                let peer = cut.below(PEERS);
                world.open(peer, &mut cut);
            }
            3..=7 => {
                if let Some((link, peer)) = world.some_link(&mut cut) {
                    let frame = world.frame(link, peer, &mut cut);
                    world.say(link, &[frame]);
                }
            }
            8..=10 => world.client(&mut cut),
            11 | 12 => {
                let how = cut.byte();
                world.disk(how);
            }
            13 => {
                world.now_ms += [1, 100, 1_500, 40_000][usize::from(cut.below(4))];
                world.give(Input::Tick);
            }
            14 => {
                if let Some((link, _)) = world.some_link(&mut cut) {
                    world.links.retain(|(open, _)| *open != link);
                    let text = "lost".to_owned();
                    world.give(Input::Closed { link, text });
                } else if let Some(conn) = world.conns.pop() {
                    world.give(Input::ClientClosed { conn });
                }
            }
            _ => world.administer(&mut cut),
        }
    }
}

/// The bytes of an application's connection, cut into frames as the node does and driven into an
/// engine: whatever arrives, the engine's rules hold.
pub fn local_session(data: &[u8]) {
    let mut world = World::new(1);
    world.conns.push(ConnId(1));
    world.next_conn = 1;
    let mut bytes = Bytes::copy_from_slice(data);
    for step in 0..STEPS_MAX {
        match ClientFrame::next(&mut bytes, 1 << 20) {
            Ok(Some(ClientFrame::Admin(_) | ClientFrame::Ignored { .. })) => {}
            Ok(Some(frame)) => {
                let conn = ConnId(1);
                if !world.conns.contains(&conn) {
                    break;
                }
                world.give(Input::Client { conn, frame });
            }
            Ok(None) | Err(_) => break,
        }
        if step % 3 == 2 {
            world.disk(0);
        }
    }
    while !world.at_disk.is_empty() {
        world.disk(0);
    }
    world.now_ms += 120_000;
    world.give(Input::Tick);
    world.give(Input::ClientClosed { conn: ConnId(1) });
    assert_eq!(
        world.engine.sizes().lease_bytes,
        0,
        "a vanished application holds nothing"
    );
}
