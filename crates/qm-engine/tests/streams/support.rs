//! Nodes with disks that keep what was confirmed, and links that carry, lose and repeat frames.

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/order.rs"]
mod order;

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest, DeadFilter, DeadLetterView, StreamView};
use qm_engine::{
    ConnId, Engine, EngineConfig, Event, Identity, Input, LinkId, LocalSettings, Now, Output,
    SeededEntropy, StoreOp, Ticket, Timestamp, Trust,
};
use qm_wire::local::{
    ClientFrame, ClientHello, Delivery, NodeFrame, Put, Receive, Settle, Verdict,
};
use qm_wire::{Class, ClientId, Outcome, PeerFrame, Priority, QmId};

pub(crate) use disk::Disk;
use order::Order;

pub(crate) const APPLICATION: ConnId = ConnId(1);
const LIMIT: usize = 1 << 20;

/// An engine with its disk and what it said.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) identity: Identity,
    pub(crate) disk: Disk,
    pub(crate) now_ms: u64,
    sent: Vec<(LinkId, Bytes)>,
    pub(crate) dials: Vec<u64>,
    pub(crate) told: Vec<NodeFrame>,
    pub(crate) events: Vec<Event>,
    pub(crate) admin: Option<AdminReply>,
    /// What the disk has not confirmed yet, when it keeps that back.
    pub(crate) hold_disk: bool,
    /// It is busy: what it hears makes one batch, and is said when this is over.
    pub(crate) gathers: bool,
    /// Whether the engine counts anew after each input what it holds: with very many messages that
    /// takes longer than all else.
    pub(crate) audits: bool,
    /// Whether every signature that it asks about is good.
    pub(crate) believes: bool,
    pub(crate) waiting: Vec<(Ticket, Vec<StoreOp>)>,
    /// Bytes of the largest batch that its disk can take at all.
    pub(crate) batch_max: usize,
    order: Order,
    next_sequence: u64,
    pub(crate) next_request: u64,
    lives: u64,
    configure: fn(&mut EngineConfig),
}

impl Node {
    pub(crate) fn new(seed: u8) -> Self {
        Self::with(seed, |_| {})
    }

    pub(crate) fn with(seed: u8, configure: fn(&mut EngineConfig)) -> Self {
        let public_key = [seed; 32];
        let identity = Identity {
            qm: QmId::from_ed25519_public_key(&public_key),
            public_key,
            store_id: [seed; 16],
            token_key: qm_engine::TokenKey::new(public_key),
        };
        Self::over(identity, Disk::default(), 1, 0, configure)
    }

    fn over(
        identity: Identity,
        disk: Disk,
        lives: u64,
        now_ms: u64,
        configure: fn(&mut EngineConfig),
    ) -> Self {
        let mut config = EngineConfig::default();
        config.trust = Trust::Any;
        config.listen_port = 1801;
        configure(&mut config);
        let seed = u64::from(identity.public_key[0]) * 1_000 + lives;
        let entropy = Box::new(SeededEntropy::new(seed));
        let now = Now {
            at: Timestamp(now_ms * 1_000),
            wall_us: 1,
        };
        let engine = Engine::new(config, identity, disk.recovered(), entropy, now);
        let mut node = Self {
            engine,
            identity,
            disk,
            now_ms,
            sent: Vec::new(),
            dials: Vec::new(),
            told: Vec::new(),
            events: Vec::new(),
            admin: None,
            hold_disk: false,
            gathers: false,
            audits: true,
            believes: false,
            waiting: Vec::new(),
            batch_max: usize::MAX,
            order: Order::default(),
            next_sequence: 1,
            next_request: 1,
            lives,
            configure,
        };
        node.give(Input::Tick);
        node
    }

    /// Dies and starts again with what its disk confirmed.
    pub(crate) fn crash(self) -> Self {
        let disk = self.disk.clone();
        self.over_disk(disk)
    }

    /// Starts again with another disk: a backup, or a new one.
    pub(crate) fn over_disk(self, disk: Disk) -> Self {
        let (lives, now) = (self.lives + 1, self.now_ms);
        Self::over(self.identity, disk, lives, now, self.configure)
    }

    /// A copy of this machine's disk in another process.
    pub(crate) fn clone_of(other: &Self, lives: u64) -> Self {
        let (disk, now) = (other.disk.clone(), other.now_ms);
        Self::over(other.identity, disk, lives, now, other.configure)
    }

    pub(crate) fn give(&mut self, input: Input) {
        let now = Now {
            at: Timestamp(self.now_ms * 1_000),
            wall_us: 1,
        };
        self.engine.handle(now, input);
        if self.gathers {
            return;
        }
        while let Some(output) = self.engine.poll(now) {
            match output {
                Output::Send { link, frames, .. } => self.sent.push((link, frames)),
                Output::Dial { dial, .. } => self.dials.push(dial),
                Output::Client { frame, .. } => self.told.push(frame),
                Output::Event(event) => self.events.push(event),
                Output::Admin { reply, .. } => self.admin = Some(reply),
                Output::Persist {
                    ticket,
                    ops,
                    refusals_known,
                } => {
                    self.order.handed(ticket, refusals_known);
                    if self.hold_disk {
                        self.waiting.push((ticket, ops));
                    } else {
                        let answer = self.answered(ticket, ops, true);
                        self.engine.handle(now, answer);
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
                Output::Close { .. } | Output::Trust { .. } => {}
                Output::Verify { verify, .. } if self.believes => {
                    let good = true;
                    self.engine.handle(now, Input::Verified { verify, good });
                }
                // That copies prove themselves to each other is another test's business.
                Output::Sign { .. } | Output::Verify { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        if self.audits {
            self.engine.audit().unwrap();
        }
    }

    /// What the disk answers that has room for a batch, or not.
    fn answered(&mut self, ticket: Ticket, ops: Vec<StoreOp>, has_room: bool) -> Input {
        let fits = ops.iter().map(bytes_of).sum::<usize>() <= self.batch_max;
        if self.order.takes(ticket, has_room && fits) {
            self.disk.apply(ops);
            Input::Persisted { ticket }
        } else {
            let limited = false;
            Input::PersistRefused {
                ticket,
                ops,
                limited,
            }
        }
    }

    /// The disk answers for the batch that waits longest.
    pub(crate) fn answer_one(&mut self, has_room: bool) {
        let (ticket, ops) = self.waiting.remove(0);
        let answer = self.answered(ticket, ops, has_room);
        self.give(answer);
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        self.give(Input::Tick);
    }

    /// The disk does what it kept waiting; the first `refused` batches that put are refused.
    pub(crate) fn release_disk(&mut self, refused: usize) {
        self.release_batches(usize::MAX, refused);
        self.hold_disk = false;
    }

    /// The same for so many batches; it goes on keeping others waiting.
    pub(crate) fn release_batches(&mut self, batches: usize, mut refused: usize) {
        // In order: what the node says meanwhile comes behind.
        for _ in 0..batches {
            if self.waiting.is_empty() {
                return;
            }
            let mut ops = self.waiting[0].1.iter();
            let puts = ops.any(|op| matches!(op, StoreOp::Put { .. }));
            let has_room = !puts || refused == 0;
            refused -= usize::from(!has_room);
            self.answer_one(has_room);
        }
    }

    /// The batches that wait, without doing them: which of them reach the disk, the caller says;
    /// then the node is dead.
    pub(crate) fn die_with(mut self, reaches: impl Fn(usize) -> bool) -> Self {
        let waiting = std::mem::take(&mut self.waiting);
        for (n, (_, ops)) in waiting.into_iter().enumerate() {
            if reaches(n) {
                self.disk.apply(ops);
            }
        }
        self.crash()
    }

    /// Its disk refuses the first batch that puts, and what would overtake that, and takes all
    /// others; then the node is dead.
    pub(crate) fn die_on_a_full_disk(mut self) -> Self {
        let mut refused = false;
        for (ticket, ops) in std::mem::take(&mut self.waiting) {
            let puts = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
            self.answered(ticket, ops, refused || !puts);
            refused |= puts;
        }
        self.crash()
    }

    pub(crate) fn ask(&mut self, what: AdminRequest) -> AdminReply {
        self.give(Input::Admin {
            conn: APPLICATION,
            request: 1,
            what,
        });
        self.admin.take().expect("every request is answered")
    }

    pub(crate) fn create(&mut self, queue: &str, change: impl FnOnce(&mut LocalSettings)) {
        let mut settings = LocalSettings::new(queue.parse().unwrap());
        settings.transactional = true;
        change(&mut settings);
        let reply = self.ask(AdminRequest::QueueCreate(settings));
        assert!(matches!(reply, AdminReply::Done { .. }), "{reply:?}");
    }

    pub(crate) fn client(&mut self, frame: ClientFrame) {
        let conn = APPLICATION;
        self.give(Input::Client { conn, frame });
    }

    pub(crate) fn put(&mut self, to: &str, body: &str, change: impl FnOnce(&mut Put)) {
        if self.next_sequence == 1 {
            let mut client = [7; 16];
            client[0] = u8::try_from(self.lives).unwrap();
            self.client(ClientFrame::Hello(ClientHello {
                protocol: 1,
                client: ClientId(client),
                program: "test".into(),
            }));
        }
        let body = Bytes::from(body.to_owned());
        let mut put = Put::new(self.next_sequence, to, body);
        self.next_sequence += 1;
        put.class = Class::Transactional;
        put.priority = Priority::LOWEST;
        change(&mut put);
        self.client(ClientFrame::Put(put));
    }

    /// Puts these, in order.
    pub(crate) fn send(&mut self, bodies: impl IntoIterator<Item = usize>) {
        for body in bodies {
            self.put("qm://b/orders", &body.to_string(), |_| {});
        }
    }

    /// Takes up to this many messages of a queue, at this lookup id if one is named: they are held
    /// until they are settled.
    pub(crate) fn take(
        &mut self,
        queue: &str,
        messages: u32,
        lookup: Option<u64>,
    ) -> Vec<Delivery> {
        let mut receive = Receive::new(self.next_request, queue.parse().unwrap());
        self.next_request += 1;
        receive.messages_max = messages;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 0;
        receive.lookup = lookup;
        self.told.clear();
        self.client(ClientFrame::Receive(receive));
        let told = std::mem::take(&mut self.told).into_iter();
        told.filter_map(|frame| match frame {
            NodeFrame::Delivery(delivery) => Some(delivery),
            _ => None,
        })
        .collect()
    }

    /// Settles one delivery.
    pub(crate) fn settle(&mut self, queue: &str, lookup: u64, verdict: Verdict) {
        self.client(ClientFrame::Settle(Settle {
            request: self.next_request,
            queue: queue.parse().unwrap(),
            verdict,
            ranges: vec![(lookup, lookup)],
        }));
        self.next_request += 1;
    }

    /// What an application heard of its messages since it was asked last, each in turn.
    pub(crate) fn fates(&mut self) -> Vec<Outcome> {
        let told = std::mem::take(&mut self.told).into_iter();
        let fates = told.filter_map(|frame| match frame {
            NodeFrame::Fate(fate) => Some(fate.runs),
            _ => None,
        });
        let runs = fates.flatten();
        runs.flat_map(|(first, last, outcome)| (first..=last).map(move |_| outcome))
            .collect()
    }

    /// Receives and consumes everything.
    pub(crate) fn receive(&mut self, queue: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let deliveries = self.take(queue, 1_000, None);
            if deliveries.is_empty() {
                return all;
            }
            for delivery in deliveries {
                all.push(String::from_utf8(delivery.body.to_vec()).unwrap());
                self.settle(queue, delivery.lookup, Verdict::Consume);
            }
        }
    }

    pub(crate) fn dead(&mut self) -> Vec<DeadLetterView> {
        let filter = DeadFilter::default();
        match self.ask(AdminRequest::DeadList {
            filter,
            after: None,
        }) {
            AdminReply::DeadLetters { letters, .. } => letters,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn streams(&mut self) -> Vec<StreamView> {
        match self.ask(AdminRequest::Streams) {
            AdminReply::Streams(views) => views,
            other => panic!("{other:?}"),
        }
    }

    /// Takes what is on its way to a peer on this link, frame by frame.
    pub(crate) fn sent_on(&mut self, link: LinkId) -> Vec<PeerFrame> {
        let (on_it, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(on, _)| *on == link);
        self.sent = others;
        let mut frames = Vec::new();
        for (_, mut bytes) in on_it {
            while let Some(frame) = PeerFrame::next(&mut bytes, LIMIT).unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    pub(crate) fn hear(&mut self, link: LinkId, frame: &PeerFrame) {
        self.hear_all(link, std::slice::from_ref(frame));
    }

    /// Hears frames that came in one buffer.
    pub(crate) fn hear_all(&mut self, link: LinkId, all: &[PeerFrame]) {
        let mut frames = bytes::BytesMut::new();
        for frame in all {
            frame.encode(&mut frames);
        }
        let frames = frames.freeze();
        self.give(Input::Received { link, frames });
    }

    pub(crate) fn lose_link(&mut self, link: LinkId) {
        self.give(Input::Closed {
            link,
            text: "lost".to_owned(),
        });
    }
}

/// What an operation takes in a store, about.
fn bytes_of(op: &StoreOp) -> usize {
    40 + match op {
        StoreOp::Put { head, body, .. } => head.len() + body.len(),
        StoreOp::Set { key, value } => key.len() + value.len(),
        StoreOp::Unset { key } => key.len(),
        StoreOp::Remove { .. } => 0,
    }
}

/// Carries frames to and fro until neither side has any, except those that `drops` names.
pub(crate) fn carry_but(
    a: &mut Node,
    b: &mut Node,
    link: LinkId,
    mut drops: impl FnMut(&PeerFrame) -> bool,
) {
    loop {
        let (to_b, to_a) = (a.sent_on(link), b.sent_on(link));
        if to_b.is_empty() && to_a.is_empty() {
            return;
        }
        for frame in to_b.iter().filter(|frame| !drops(frame)) {
            b.hear(link, frame);
        }
        for frame in to_a.iter().filter(|frame| !drops(frame)) {
            a.hear(link, frame);
        }
    }
}

pub(crate) fn carry(a: &mut Node, b: &mut Node, link: LinkId) {
    carry_but(a, b, link, |_| false);
}

/// `a` has dialled `b`; nothing is carried yet.
pub(crate) fn plug(a: &mut Node, b: &mut Node, link: LinkId) {
    let dial = a.dials.pop();
    let connected = |own: Identity, peer: Identity, dial| Input::Connected {
        link,
        peer: peer.qm,
        public_key: peer.public_key,
        own: own.qm,
        // Two lives at one place are one machine.
        remote: ([10, 0, 0, 1], 1_800 + u16::try_from(link.0).unwrap()).into(),
        dial,
    };
    a.give(connected(a.identity, b.identity, dial));
    b.give(connected(b.identity, a.identity, None));
}

/// `a` has dialled `b`, and both have said everything.
pub(crate) fn connect(a: &mut Node, b: &mut Node, link: LinkId) {
    plug(a, b, link);
    carry(a, b, link);
}

/// The link is gone; a new one is made when `a` dials again.
pub(crate) fn reconnect(a: &mut Node, b: &mut Node, old: LinkId, new: LinkId) {
    a.lose_link(old);
    b.lose_link(old);
    a.sent.clear();
    b.sent.clear();
    a.wait(60_000);
    b.wait(60_000);
    connect(a, b, new);
}

pub(crate) fn numbers(range: impl IntoIterator<Item = usize>) -> Vec<String> {
    range.into_iter().map(|n| n.to_string()).collect()
}
