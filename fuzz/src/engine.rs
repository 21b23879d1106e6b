//! Targets of qm-engine: peers and applications that say well-formed things in any order.

mod applications;
mod copies;
mod frames;
mod streams;

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
use qm_wire::frame::{HEADER_VERSION, MAGIC, RawFrame};
use qm_wire::limits::FRAME_HEADER_BYTES;
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{
    Confirm, Credit, Entry, FrameKind, Incarnation, PeerFrame, QmId, QueueName, Tag, tag_hash,
};

use crate::wire::decode_sealed;
use copies::Copies;
use streams::Streams;

/// Peers of the engine; the last one is a stranger.
const PEERS: u8 = 4;
/// Another machine with the engine's own first key.
const COPY: u8 = PEERS;
const OWN_KEY: [u8; 32] = [0xee; 32];
const PENDING_MAX: usize = 2;
/// All but the last are there.
const QUEUES: [&str; 4] = ["orders", "full", "ledger", "nowhere"];
/// Which of them is transactional.
const TRANSACTIONAL: u8 = 2;
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
    /// Batches that found no room, and those of them that only give room back.
    refusals: u64,
    settling_refusals: u64,
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
    /// The number of the message that a peer told last on a link, and its credit there.
    numbers: BTreeMap<LinkId, u64>,
    granted: BTreeMap<LinkId, u64>,
    told_entries: Vec<Entry>,
    streams: Streams,
    copies: Copies,
    own_key: [u8; 32],
    /// Kinds of frames that peers said, and the engine.
    kinds: [BTreeSet<FrameKind>; 2],
    durable: BTreeSet<Tag>,
    lookups: Vec<u64>,
    sequences: [u64; 3],
    requests: u64,
    /// The transaction that an application began last.
    transactions: u64,
    /// What applications were told.
    answered: Vec<NodeFrame>,
    /// What operators were answered.
    pub(crate) replies: Vec<AdminReply>,
}

fn key_of(peer: u8) -> [u8; 32] {
    if peer == COPY {
        OWN_KEY
    } else {
        [peer + 1; 32]
    }
}

fn queue(which: u8) -> QueueName {
    QUEUES[usize::from(which)].parse().expect("a good name")
}

fn id_of(peer: u8) -> QmId {
    QmId::from_ed25519_public_key(&key_of(peer))
}

fn life_of(peer: u8, number: u8) -> Incarnation {
    Incarnation(u64::from(peer) * 100 + u64::from(number % 3))
}

impl World {
    pub(crate) fn new(seed: u8) -> Self {
        let public_key = OWN_KEY;
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
            settling_refusals: 0,
            links: Vec::new(),
            next_link: 0,
            next_conn: 0,
            conns: Vec::new(),
            attempts: BTreeMap::new(),
            answers: BTreeMap::new(),
            seen: Vec::new(),
            told: BTreeMap::new(),
            numbers: BTreeMap::new(),
            granted: BTreeMap::new(),
            told_entries: Vec::new(),
            streams: Streams::default(),
            copies: Copies::default(),
            own_key: OWN_KEY,
            kinds: [BTreeSet::new(), BTreeSet::new()],
            durable: BTreeSet::new(),
            lookups: Vec::new(),
            sequences: [0; 3],
            requests: 0,
            transactions: 0,
            answered: Vec::new(),
            replies: Vec::new(),
        };
        for which in 0..3 {
            let mut settings = LocalSettings::new(queue(which));
            if QUEUES[usize::from(which)] == "full" {
                settings.quota_messages = 2;
            }
            settings.transactional = which == TRANSACTIONAL;
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
            Output::Client { frame, .. } => {
                if let NodeFrame::Delivery(delivery) = &frame {
                    self.lookups.push(delivery.lookup);
                }
                self.answered.push(frame);
            }
            Output::Abandon => self.links.clear(),
            keys @ (Output::Sign { .. } | Output::Verify { .. } | Output::Succeed { .. }) => {
                self.with_keys(now, keys);
            }
            Output::Admin { reply, .. } => self.replies.push(reply),
            _ => {}
        }
    }

    /// What the engine says to peers is well-formed, and an ack says the truth.
    fn overhear(&mut self, link: LinkId, lane: Lane, mut frames: Bytes) {
        let peer = self.links.iter().find(|(open, _)| *open == link);
        let peer = peer.map_or(PEERS - 1, |(_, peer)| *peer);
        while !frames.is_empty() {
            let frame = PeerFrame::next(&mut frames, 1 << 20)
                .expect("the engine's own frames are right")
                .expect("and whole");
            self.kinds[1].extend(frame.kind());
            self.streams.overhear(peer, &frame, &self.durable);
            self.copies.overhear(link, &frame);
            match frame {
                PeerFrame::Hello(hello) => {
                    self.attempts.insert(link, hello.attempt);
                }
                PeerFrame::Credit(credit) => {
                    self.granted.insert(link, credit.messages);
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
                    if let Some(place) = data.transit.place {
                        self.streams.sent(peer, place, data.tag);
                    }
                    self.seen.push((link, data.number, entry));
                }
                PeerFrame::Skip(skip) => self.streams.sent(peer, skip.place, skip.entry.tag),
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

    /// The disk answers the oldest batch: it did it, or has no room. Now and then it has not even
    /// room for what gives room back.
    fn disk(&mut self, how: u8) {
        if how % 16 == 8 && self.refusals > 0 {
            return self.give(Input::DiskHasRoom);
        }
        if self.at_disk.is_empty() {
            return;
        }
        let (ticket, ops, known) = self.at_disk.remove(0);
        let puts = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
        let (overtakes, settles) = match known {
            RefusalsKnown::All(known) => (known < self.refusals, false),
            RefusalsKnown::Settling(known) => (known < self.settling_refusals, true),
        };
        if overtakes || puts && how % 8 == 7 || how % 16 == 15 {
            self.refusals += 1;
            self.settling_refusals += u64::from(settles);
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
            self.kinds[0].extend(frame.kind());
            frame.encode(&mut bytes);
        }
        self.give(Input::Received {
            link,
            frames: bytes.freeze(),
        });
    }
}

/// Whatever several peers and applications say in whatever order, with a disk that is slow or full:
/// no panic, the audit holds after every step, tables keep their limits, what is said to peers is
/// well-formed, and nothing is acknowledged before it is stored.
pub fn engine_ops(data: &[u8]) {
    ops(data);
}

/// The kinds of frames that peers said while [`engine_ops`] ran, and those that the engine said.
pub fn kinds_in_ops(data: &[u8]) -> [BTreeSet<FrameKind>; 2] {
    ops(data).kinds
}

fn ops(data: &[u8]) -> World {
    let mut cut = Cut(data);
    let mut world = World::new(cut.byte());
    for _ in 0..STEPS_MAX {
        if cut.0.is_empty() {
            break;
        }
        match cut.below(16) {
            0 => world.connect(cut.0.first().map_or(0, |b| b % (PEERS + 1))),
            1 | 2 => {
                let peer = cut.below(PEERS + 1);
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
    world
}

/// The frames of an application's connection, driven into an engine: whatever arrives, the engine's
/// rules hold. A frame goes up to the next header, and its length and checksum are put right, or a
/// change in one frame would be the end of all that follow; what cannot be decoded is left out.
pub fn local_session(data: &[u8]) {
    answers_in_session(data);
}

/// What the application was told while [`local_session`] ran.
pub fn answers_in_session(data: &[u8]) -> Vec<NodeFrame> {
    let conn = ConnId(1);
    let mut world = World::new(1);
    world.conns.push(conn);
    world.next_conn = 1;
    let frames = client_frames(data).take(STEPS_MAX);
    for (step, frame) in frames.enumerate() {
        if !world.conns.contains(&conn) {
            break;
        }
        if !matches!(frame, ClientFrame::Admin(_) | ClientFrame::Ignored { .. }) {
            world.give(Input::Client { conn, frame });
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
    world.give(Input::ClientClosed { conn });
    assert_eq!(
        world.engine.sizes().lease_bytes,
        0,
        "a vanished application holds nothing"
    );
    world.answered
}

fn client_frames(data: &[u8]) -> impl Iterator<Item = ClientFrame> {
    const START: [u8; 3] = [MAGIC[0], MAGIC[1], HEADER_VERSION];
    let starts = data.windows(START.len()).enumerate();
    let starts = starts.filter_map(|(at, window)| (window == START).then_some(at));
    let starts: Vec<_> = starts.collect();
    let ends = starts.iter().copied().skip(1).chain([data.len()]);
    let frames: Vec<_> = starts.iter().copied().zip(ends).collect();
    frames.into_iter().filter_map(move |(start, end)| {
        let frame = &data[start..end];
        let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let raw = RawFrame {
            kind: header[3],
            flags: u16::from_le_bytes([header[4], header[5]]),
            checksum: 0,
            body: Bytes::copy_from_slice(body),
        };
        decode_sealed(&raw, ClientFrame::decode).map(|(_, frame)| frame)
    })
}
