//! Engines with perfect disks, driven by hand.

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/order.rs"]
mod order;

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest};
use qm_engine::{
    ConnId, Engine, EngineConfig, Event, Identity, Input, LinkId, LocalSettings, Now, Output,
    Recovered, SeededEntropy, StoreOp, StreamId, Ticket, Timestamp, Trust,
};
use qm_wire::local::{ClientFrame, ClientHello, NodeFrame, Put, Receive, Settle, Verdict};
use qm_wire::{Class, ClientId, Outcome, QmId};

pub(crate) use disk::Disk;
use order::Order;

pub(crate) const APPLICATION: ConnId = ConnId(1);

/// An engine with its disk and what it said.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) identity: Identity,
    pub(crate) disk: Disk,
    /// Heads of everything put, as a log keeps them: consumed messages too.
    pub(crate) log: Vec<(StreamId, Bytes)>,
    /// Frames to the peer, dials, and everything else, since they were last looked at.
    pub(crate) sent: Vec<(LinkId, Bytes)>,
    pub(crate) dials: Vec<u64>,
    pub(crate) closed: Vec<Outcome>,
    pub(crate) told: Vec<NodeFrame>,
    pub(crate) events: Vec<Event>,
    pub(crate) admin: Option<AdminReply>,
    /// Whether the disk refuses messages.
    pub(crate) full: bool,
    /// What was handed to the disk, batch by batch.
    pub(crate) batches: Vec<Vec<StoreOp>>,
    /// Whether the disk keeps its answers to itself; those it owes.
    pub(crate) mute: bool,
    pub(crate) owed: Vec<(Ticket, Vec<StoreOp>)>,
    order: Order,
    /// Whether the engine counts anew after each input what it holds: with very many messages that
    /// takes longer than all else.
    pub(crate) audits: bool,
    /// Time at which inputs without one are given.
    pub(crate) clock_ms: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_request: u64,
}

pub(crate) fn config(trust: Trust) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.trust = trust;
    config.listen_port = 1801;
    config
}

impl Node {
    pub(crate) fn new(seed: u8, trust: Trust) -> Self {
        let public_key = [seed; 32];
        let qm = QmId::from_ed25519_public_key(&public_key);
        let identity = Identity {
            qm,
            public_key,
            store_id: [seed; 16],
            token_key: qm_engine::TokenKey::new(public_key),
        };
        let seed = u64::from(seed);
        Self::over(identity, Disk::default(), Vec::new(), trust, seed)
    }

    /// A node that lets its peers have few messages in flight.
    pub(crate) fn narrow(seed: u8) -> Self {
        let mut node = Self::new(seed, Trust::Any);
        let mut config = config(Trust::Any);
        config.window_messages = 8;
        let entropy = Box::new(SeededEntropy::new(u64::from(seed)));
        let recovered = Recovered::default();
        node.engine = Engine::new(config, node.identity, recovered, entropy, Now::default());
        node
    }

    /// Lets no more than so many bytes wait on its disk.
    pub(crate) fn limit(&mut self, bytes: u64) {
        let mut config = config(Trust::Any);
        config.store_bytes_max = bytes;
        let entropy = Box::new(SeededEntropy::new(7));
        let recovered = Recovered::default();
        self.engine = Engine::new(config, self.identity, recovered, entropy, Now::default());
    }

    pub(crate) fn over(
        identity: Identity,
        disk: Disk,
        log: Vec<(StreamId, Bytes)>,
        trust: Trust,
        seed: u64,
    ) -> Self {
        Self::over_with(identity, disk, log, config(trust), seed)
    }

    fn over_with(
        identity: Identity,
        disk: Disk,
        log: Vec<(StreamId, Bytes)>,
        config: EngineConfig,
        seed: u64,
    ) -> Self {
        let recovered = Recovered {
            recent: log.clone(),
            ..disk.recovered()
        };
        let entropy = Box::new(SeededEntropy::new(seed));
        let engine = Engine::new(config, identity, recovered, entropy, Now::default());
        Self {
            engine,
            identity,
            disk,
            log,
            sent: Vec::new(),
            dials: Vec::new(),
            closed: Vec::new(),
            told: Vec::new(),
            events: Vec::new(),
            admin: None,
            full: false,
            batches: Vec::new(),
            mute: false,
            audits: true,
            owed: Vec::new(),
            order: Order::default(),
            clock_ms: 0,
            next_sequence: 1,
            next_request: 1,
        }
    }

    /// The same machine after an orderly stop and a new start.
    pub(crate) fn restart(self, trust: Trust) -> Self {
        Self::over(self.identity, self.disk, self.log, trust, 99)
    }

    /// The same with other settings.
    pub(crate) fn restart_with(self, config: EngineConfig) -> Self {
        Self::over_with(self.identity, self.disk, self.log, config, 99)
    }

    pub(crate) fn give(&mut self, at_ms: u64, input: Input) {
        let now = Now {
            at: Timestamp(at_ms * 1_000),
            wall_us: 1,
        };
        self.engine.handle(now, input);
        while let Some(output) = self.engine.poll(now) {
            match output {
                Output::Send { link, frames, .. } => self.sent.push((link, frames)),
                Output::Dial { dial, .. } => self.dials.push(dial),
                Output::Close { reason, .. } => self.closed.push(reason),
                Output::Client { frame, .. } => self.told.push(frame),
                Output::Event(event) => self.events.push(event),
                Output::Admin { reply, .. } => self.admin = Some(reply),
                Output::Persist {
                    ticket,
                    ops,
                    refusals_known,
                } => {
                    self.order.handed(ticket, refusals_known);
                    if self.mute {
                        self.owed.push((ticket, ops));
                        continue;
                    }
                    let puts = ops.iter().any(|op| matches!(op, StoreOp::Put { .. }));
                    let answer = self.answered(ticket, ops, !self.full || !puts);
                    self.engine.handle(now, answer);
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
                Output::Trust { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        if self.audits {
            self.engine.audit().unwrap();
        }
    }

    /// What the disk answers that has room for a batch, or not.
    fn answered(&mut self, ticket: Ticket, ops: Vec<StoreOp>, has_room: bool) -> Input {
        if self.order.takes(ticket, has_room) {
            self.batches.push(ops.clone());
            self.apply(ops);
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

    /// Takes what is on its way to a peer on this link.
    pub(crate) fn sent_on(&mut self, link: LinkId) -> Vec<Bytes> {
        let (on_it, others) = std::mem::take(&mut self.sent)
            .into_iter()
            .partition(|(on, _)| *on == link);
        self.sent = others;
        let on_it: Vec<(LinkId, Bytes)> = on_it;
        on_it.into_iter().map(|(_, frames)| frames).collect()
    }

    pub(crate) fn apply(&mut self, ops: Vec<StoreOp>) {
        for op in &ops {
            if let StoreOp::Put { stream, head, .. } = op {
                self.log.push((*stream, head.clone()));
            }
        }
        self.disk.apply(ops);
    }

    /// Asks, and does not wait for the answer.
    pub(crate) fn ask(&mut self, what: AdminRequest) {
        self.give(
            self.clock_ms,
            Input::Admin {
                conn: APPLICATION,
                request: 1,
                what,
            },
        );
    }

    pub(crate) fn admin(&mut self, what: AdminRequest) -> AdminReply {
        self.ask(what);
        self.admin.take().expect("every request is answered")
    }

    pub(crate) fn create(&mut self, queue: &str) {
        let settings = LocalSettings::new(queue.parse().unwrap());
        assert!(matches!(
            self.admin(AdminRequest::QueueCreate(settings)),
            AdminReply::Done { count: 1 }
        ));
    }

    pub(crate) fn client(&mut self, frame: ClientFrame) {
        self.give(
            self.clock_ms,
            Input::Client {
                conn: APPLICATION,
                frame,
            },
        );
    }

    pub(crate) fn hello(&mut self) {
        let client = ClientId([7; 16]);
        self.client(ClientFrame::Hello(ClientHello {
            protocol: 1,
            client,
            program: "test".into(),
        }));
    }

    pub(crate) fn put(&mut self, to: &str, body: &'static [u8], change: impl FnOnce(&mut Put)) {
        if self.next_sequence == 1 {
            self.hello();
        }
        let mut put = Put::new(self.next_sequence, to, Bytes::from_static(body));
        self.next_sequence += 1;
        put.class = Class::Recoverable;
        change(&mut put);
        self.client(ClientFrame::Put(put));
    }

    /// Takes the only message of a queue, and holds it. Its lookup id.
    pub(crate) fn hold(&mut self, queue: &str) -> u64 {
        assert_eq!(self.receive_all(queue).len(), 1);
        let lookup = |frame: &NodeFrame| match frame {
            NodeFrame::Delivery(delivery) => Some(delivery.lookup),
            _ => None,
        };
        self.told.iter().find_map(lookup).unwrap()
    }

    /// What is held was dealt with.
    pub(crate) fn consume(&mut self, queue: &str, lookup: u64) {
        self.told.clear();
        self.client(ClientFrame::Settle(Settle {
            request: 77,
            queue: queue.parse().unwrap(),
            verdict: Verdict::Consume,
            ranges: vec![(lookup, lookup)],
        }));
    }

    /// What was answered to that.
    pub(crate) fn settled(&self) -> Option<(u32, Option<Outcome>)> {
        self.told.iter().find_map(|frame| match frame {
            NodeFrame::Settled(settled) => Some((settled.messages, settled.outcome)),
            _ => None,
        })
    }

    pub(crate) fn receive_all(&mut self, queue: &str) -> Vec<Bytes> {
        let mut receive = Receive::new(self.next_request, queue.parse().unwrap());
        self.next_request += 1;
        receive.messages_max = 100;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 0;
        self.told.clear();
        self.client(ClientFrame::Receive(receive));
        let bodies = |frame: &NodeFrame| match frame {
            NodeFrame::Delivery(delivery) => Some(delivery.body.clone()),
            _ => None,
        };
        self.told.iter().filter_map(bodies).collect()
    }
}

/// The answer of a mute disk to the oldest batch that waits for it.
pub(crate) fn reply(node: &mut Node, at_ms: u64, refuses: bool) {
    let (ticket, ops) = node.owed.remove(0);
    let input = node.answered(ticket, ops, !refuses);
    node.give(at_ms, input);
}

/// Carries frames to and fro until neither side has any.
pub(crate) fn carry(a: &mut Node, b: &mut Node, link: LinkId) {
    loop {
        let (to_b, to_a) = (a.sent_on(link), b.sent_on(link));
        if to_b.is_empty() && to_a.is_empty() {
            return;
        }
        for frames in to_b {
            b.give(0, Input::Received { link, frames });
        }
        for frames in to_a {
            a.give(0, Input::Received { link, frames });
        }
    }
}

/// `a` has dialled `b`.
pub(crate) fn connect(a: &mut Node, b: &mut Node, link: LinkId) {
    meet(a, b, link);
    carry(a, b, link);
}

/// `a` has dialled `b`, and nothing was said yet.
pub(crate) fn meet(a: &mut Node, b: &mut Node, link: LinkId) {
    let dial = a.dials.pop();
    let connected = |own: Identity, peer: Identity, dial| Input::Connected {
        link,
        peer: peer.qm,
        public_key: peer.public_key,
        own: own.qm,
        remote: "10.0.0.1:1801".parse().unwrap(),
        dial,
    };
    a.give(0, connected(a.identity, b.identity, dial));
    b.give(0, connected(b.identity, a.identity, None));
}

pub(crate) const LINK: LinkId = LinkId(1);
