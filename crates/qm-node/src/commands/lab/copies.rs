//! qm's own engine in virtual time: a machine that was used is copied, and the copies run.
//!
//! Each copy has the identity and everything that the image had stored; it differs from the others
//! in what its operating system gives a process at its start: randomness. The image leaves messages
//! unsent, which all copies inherit.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use qm_engine::admin::AdminRequest;
use qm_engine::{
    ConnId, DialFailure, Engine, EngineConfig, Entropy as _, Event, Identity, Input, LinkId,
    LoadId, LocalSettings, Now, Output, Recovered, SeededEntropy, StoreOp, StoredRecord, StreamId,
    StreamSummary, Ticket, Timestamp, TokenKey, Trust,
};
use qm_transport::NodeKey;
use qm_wire::local::{ClientFrame, ClientHello, NodeFrame, Put, Receive, Settle, Verdict};
use qm_wire::{Class, ClientId, MessageId, QueueName};

use super::figures::{Books, Figures, Situation, delay_us};

/// How long a commit to disk takes.
const COMMIT_US: u64 = 1_000;
/// How long nobody answers before a dial fails.
const DIAL_US: u64 = 1_000_000;
/// When the image is switched off, and when its copies may start sending.
const COPIED_US: u64 = 20_000_000;
const BEGIN_US: u64 = 40_000_000;
/// After the last message for so long the end is awaited.
const PATIENCE_US: u64 = 10 * 60 * 1_000_000;
/// Messages that the image leaves unsent.
const INHERITED: usize = 3;
const RECEIVER: usize = 0;
const IMAGE: usize = 1;
/// The first copy.
const COPIES: usize = 2;
const APPLICATION: ConnId = ConnId(1);
const QUEUE: &str = "inbox";
/// 2026-01-02, microseconds; for people only.
const WALL_US: u64 = 1_767_312_000_000_000;

#[expect(
    clippy::large_enum_variant,
    reason = "a simulation may spend the memory"
)]
enum What {
    Start(usize),
    Send(usize),
    Tick(usize),
    Give { to: usize, input: Input },
    SwitchOff,
}

/// A machine with its disk.
struct Machine {
    engine: Engine,
    records: BTreeMap<(StreamId, u64), StoredRecord>,
    state: BTreeMap<Bytes, Bytes>,
    running: bool,
    tick_us: u64,
    /// Number of the next put of its application.
    next_put: u64,
    /// Puts that are not answered, with the message's number among those of its clone.
    unanswered: BTreeMap<u64, usize>,
    named: BTreeMap<MessageId, usize>,
}

struct Link {
    ends: [usize; 2],
    /// When the last of what goes towards each end arrives: nothing overtakes.
    last_us: [u64; 2],
}

struct World {
    situation: Situation,
    random: SeededEntropy,
    now_us: u64,
    agenda: BTreeMap<(u64, u64), What>,
    planned: u64,
    /// `None`: not started.
    machines: Vec<Option<Machine>>,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    books: Books,
    next_request: u64,
    /// Whether messages came that the receiving application has not asked for.
    news: bool,
    receiving: bool,
}

/// Plays a situation through.
pub(super) fn play(situation: &Situation) -> Figures {
    let mut world = World {
        situation: *situation,
        random: situation.random(3),
        now_us: 0,
        agenda: BTreeMap::new(),
        planned: 0,
        machines: Vec::new(),
        links: BTreeMap::new(),
        next_link: 0,
        books: Books::new(situation.clones, INHERITED),
        next_request: 0,
        news: false,
        receiving: false,
    };
    let copies = usize::from(situation.clones);
    world.machines.resize_with(COPIES + copies, || None);
    world.plan(0, What::Start(RECEIVER));
    world.plan(0, What::Start(IMAGE));
    world.plan(COPIED_US, What::SwitchOff);
    for copy in COPIES..COPIES + copies {
        let delay = world.random.next_u64() % 10_000_000;
        world.plan(COPIED_US + 5_000_000 + delay, What::Start(copy));
    }
    let mut end_us = BEGIN_US;
    for (at_us, clone) in situation.sendings() {
        end_us = BEGIN_US + at_us;
        world.plan(end_us, What::Send(COPIES + usize::from(clone)));
    }
    let patience_us = end_us + PATIENCE_US;
    while let Some(((at_us, _), what)) = world.agenda.pop_first() {
        // What was delivered twice may come after everything is acknowledged.
        let over = at_us > end_us + 60_000_000 && world.books.open() == 0;
        if over || at_us > patience_us {
            break;
        }
        world.now_us = at_us;
        world.step(what);
    }
    world.books.figures(world.now_us)
}

/// All copies have the image's key.
const fn owner_of(machine: usize) -> u8 {
    if machine == RECEIVER { 1 } else { 2 }
}

fn key_of(machine: usize) -> NodeKey {
    NodeKey::generate([owner_of(machine); 32])
}

fn identity_of(machine: usize) -> Identity {
    let key = key_of(machine);
    Identity {
        qm: key.qm_id(),
        public_key: key.public_key(),
        store_id: [owner_of(machine); 16],
        token_key: TokenKey::new(key.derive(b"qm-token")),
    }
}

fn place_of(machine: usize) -> SocketAddr {
    let last = u8::try_from(machine + 1).unwrap_or(u8::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 1801)
}

fn recovered(
    records: &BTreeMap<(StreamId, u64), StoredRecord>,
    state: &BTreeMap<Bytes, Bytes>,
) -> Recovered {
    let mut recovered = Recovered {
        state: state.clone(),
        ..Recovered::default()
    };
    for ((stream, position), record) in records {
        let new = || StreamSummary {
            first_live: *position,
            ..StreamSummary::default()
        };
        let summary = recovered.streams.entry(*stream).or_insert_with(new);
        summary.next_position = position + 1;
        summary.live_records += 1;
        summary.live_bytes += (record.head.len() + record.body.len()) as u64;
        recovered.recent.push((*stream, record.head.clone()));
    }
    recovered
}

/// What a message says: the clone whose it is, and its number there.
fn body(clone: u32, number: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(12);
    body.put_u32_le(clone);
    body.put_u64_le(number as u64);
    body.freeze()
}

const OF_IMAGE: u32 = u32::MAX;

impl World {
    fn plan(&mut self, at_us: u64, what: What) {
        self.planned += 1;
        self.agenda.insert((at_us, self.planned), what);
    }

    fn now(&self) -> Now {
        Now {
            at: Timestamp(self.now_us),
            wall_us: WALL_US + self.now_us,
        }
    }

    fn step(&mut self, what: What) {
        match what {
            What::Start(machine) => self.start(machine),
            What::Send(machine) => {
                let clone = machine - COPIES;
                let number = self.books.sent(clone, self.now_us);
                self.put(machine, u32::try_from(clone).unwrap_or(OF_IMAGE), number);
            }
            What::Tick(machine) => {
                if let Some(ticked) = self.running(machine)
                    && ticked.tick_us <= self.now_us
                {
                    self.machine(machine).tick_us = u64::MAX;
                    self.give(machine, Input::Tick);
                }
            }
            What::Give { to, input } => self.give(to, input),
            What::SwitchOff => {
                // Sent while nobody can be reached: inherited by every copy.
                self.cut_off(IMAGE);
                for number in 0..INHERITED {
                    self.put(IMAGE, OF_IMAGE, number);
                }
                self.plan(self.now_us + 10 * COMMIT_US, What::Tick(IMAGE));
            }
        }
    }

    fn running(&self, machine: usize) -> Option<&Machine> {
        self.machines[machine].as_ref().filter(|m| m.running)
    }

    fn machine(&mut self, machine: usize) -> &mut Machine {
        self.machines[machine]
            .as_mut()
            .expect("invariant: only machines that were started are asked")
    }

    fn start(&mut self, machine: usize) {
        let (records, state, next_put) = if machine < COPIES {
            (BTreeMap::new(), BTreeMap::new(), 1)
        } else {
            let image = self.machine(IMAGE);
            image.running = false;
            // The application was copied, too, with the numbers that it gives its puts.
            (image.records.clone(), image.state.clone(), image.next_put)
        };
        let mut config = EngineConfig::default();
        config.name = if machine == RECEIVER { "hub" } else { "till" }.to_owned();
        config.host.clone_from(&config.name);
        config.listen_port = 1801;
        config.trust = Trust::Any;
        config.ack_route_lifetime_ms = self.situation.lifetime_ms;
        let entropy = self.situation.random(0x10 + machine as u64);
        let engine = Engine::new(
            config,
            identity_of(machine),
            recovered(&records, &state),
            Box::new(entropy),
            self.now(),
        );
        self.machines[machine] = Some(Machine {
            engine,
            records,
            state,
            running: true,
            tick_us: u64::MAX,
            next_put,
            unanswered: BTreeMap::new(),
            named: BTreeMap::new(),
        });
        self.pump(machine);
        if machine == RECEIVER {
            let what = AdminRequest::QueueCreate(LocalSettings::new(queue()));
            let (conn, request) = (APPLICATION, 1);
            self.give(
                machine,
                Input::Admin {
                    conn,
                    request,
                    what,
                },
            );
        }
        self.client(
            machine,
            ClientFrame::Hello(ClientHello {
                protocol: 1,
                client: ClientId([7; 16]),
                program: "lab".into(),
            }),
        );
        if machine == IMAGE {
            // It was used before it was copied.
            self.put(IMAGE, OF_IMAGE, INHERITED);
        }
    }

    fn client(&mut self, machine: usize, frame: ClientFrame) {
        let conn = APPLICATION;
        self.give(machine, Input::Client { conn, frame });
    }

    fn put(&mut self, machine: usize, clone: u32, number: usize) {
        let sender = self.machine(machine);
        let sequence = sender.next_put;
        sender.next_put += 1;
        if machine >= COPIES {
            sender.unanswered.insert(sequence, number);
        }
        let to = format!("qm://hub/{QUEUE}");
        let mut put = Put::new(sequence, to.as_str(), body(clone, number));
        put.class = Class::Recoverable;
        self.client(machine, ClientFrame::Put(put));
    }

    /// The machine is gone from the network, as when it is switched off.
    fn cut_off(&mut self, machine: usize) {
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.ends.contains(&machine))
            .map(|(link, _)| *link)
            .collect();
        for id in gone {
            if let Some(link) = self.links.remove(&id) {
                for end in link.ends {
                    let text = "the other machine is gone".to_owned();
                    self.give(end, Input::Closed { link: id, text });
                }
            }
        }
    }

    fn give(&mut self, machine: usize, input: Input) {
        let now = self.now();
        let Some(receiver) = self.machines[machine].as_mut().filter(|m| m.running) else {
            return;
        };
        receiver.engine.handle(now, input);
        self.pump(machine);
    }

    /// Does what the engine asks for until it asks for nothing.
    fn pump(&mut self, machine: usize) {
        let now = self.now();
        while let Some(output) = self.machine(machine).engine.poll(now) {
            self.serve(machine, output);
        }
        let due_us = self.machine(machine).engine.next_deadline();
        let asked = self.machine(machine);
        if due_us != Timestamp::NEVER && due_us.0 < asked.tick_us {
            asked.tick_us = due_us.0;
            let at_us = due_us.0.max(self.now_us);
            self.plan(at_us, What::Tick(machine));
        }
        if machine == RECEIVER && self.news && !self.receiving {
            self.news = false;
            self.receiving = true;
            self.next_request += 1;
            let mut receive = Receive::new(self.next_request, queue());
            receive.messages_max = 1_000;
            receive.bytes_max = u32::MAX;
            receive.wait_ms = 0;
            self.client(RECEIVER, ClientFrame::Receive(receive));
        }
    }

    fn later(&mut self, delay_us: u64, to: usize, input: Input) {
        self.plan(self.now_us + delay_us, What::Give { to, input });
    }

    /// Something for the other end of a link; nothing overtakes on its way.
    fn across(&mut self, from: usize, link: LinkId, input: Input) {
        let delay = delay_us(&mut self.random);
        let Some(between) = self.links.get_mut(&link) else {
            return;
        };
        let side = usize::from(between.ends[0] == from);
        let at_us = (self.now_us + delay).max(between.last_us[side]);
        between.last_us[side] = at_us;
        let to = between.ends[side];
        self.plan(at_us, What::Give { to, input });
    }

    fn serve(&mut self, machine: usize, output: Output) {
        match output {
            Output::Send { link, frames, .. } => {
                self.across(machine, link, Input::Received { link, frames });
            }
            Output::Close { link, text, .. } => {
                self.across(machine, link, Input::Closed { link, text });
            }
            Output::Dial { dial, address, .. } => self.dial(machine, dial, &address),
            Output::Persist { ticket, ops, .. } => {
                self.commit(machine, ticket, ops);
            }
            Output::Load {
                load,
                stream,
                from,
                records_max,
                ..
            } => self.load(machine, load, stream, from, records_max),
            Output::Sign { sign, bytes } => {
                let signature = key_of(machine).sign(&bytes);
                self.later(0, machine, Input::Signed { sign, signature });
            }
            Output::Verify {
                verify,
                key,
                bytes,
                signature,
            } => {
                let good = qm_transport::verify(&key, &bytes, &signature);
                self.later(0, machine, Input::Verified { verify, good });
            }
            Output::Client { frame, .. } => self.told(machine, frame),
            Output::Event(event) => self.note(machine, &event),
            // A network that is nobody else's, and a request that is known to be done.
            _ => {}
        }
    }

    fn dial(&mut self, from: usize, dial: u64, address: &str) {
        let up = |machine: &usize| self.running(*machine).is_some();
        let to = (0..self.machines.len())
            .filter(up)
            .find(|machine| {
                (*machine == RECEIVER && address == "hub:1801")
                    || address == place_of(*machine).to_string()
            })
            .filter(|_| from != IMAGE || self.now_us < COPIED_US);
        let Some(to) = to else {
            let failure = DialFailure::Unreachable;
            let text = "nothing answers".to_owned();
            let input = Input::DialFailed {
                dial,
                failure,
                text,
            };
            return self.later(DIAL_US, from, input);
        };
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let there_us = self.now_us + delay_us(&mut self.random);
        let back_us = there_us + delay_us(&mut self.random);
        self.links.insert(
            link,
            Link {
                ends: [from, to],
                last_us: [back_us; 2],
            },
        );
        for (end, other, dial) in [(from, to, Some(dial)), (to, from, None)] {
            let identity = identity_of(other);
            let input = Input::Connected {
                link,
                peer: identity.qm,
                public_key: identity.public_key,
                own: identity_of(end).qm,
                remote: place_of(other),
                dial,
            };
            self.plan(back_us, What::Give { to: end, input });
        }
    }

    fn commit(&mut self, machine: usize, ticket: Ticket, ops: Vec<StoreOp>) {
        let disk = self.machine(machine);
        for op in ops {
            match op {
                StoreOp::Put {
                    stream,
                    position,
                    head,
                    body,
                } => {
                    let record = StoredRecord {
                        position,
                        head,
                        body,
                    };
                    disk.records.insert((stream, position), record);
                }
                StoreOp::Remove {
                    stream,
                    first,
                    last,
                } => {
                    let gone: Vec<_> = disk
                        .records
                        .range((stream, first)..=(stream, last))
                        .map(|(at, _)| *at)
                        .collect();
                    for at in gone {
                        disk.records.remove(&at);
                    }
                }
                StoreOp::Set { key, value } => {
                    disk.state.insert(key, value);
                }
                StoreOp::Unset { key } => {
                    disk.state.remove(&key);
                }
            }
        }
        self.later(COMMIT_US, machine, Input::Persisted { ticket });
    }

    fn load(
        &mut self,
        machine: usize,
        load: LoadId,
        stream: StreamId,
        from: u64,
        records_max: usize,
    ) {
        let records = self
            .machine(machine)
            .records
            .range((stream, from)..=(stream, u64::MAX))
            .take(records_max)
            .map(|(_, record)| record.clone())
            .collect();
        self.later(0, machine, Input::Loaded { load, records });
    }

    fn told(&mut self, machine: usize, frame: NodeFrame) {
        match frame {
            NodeFrame::Accepted(accepted) => {
                let sender = self.machine(machine);
                for n in 0..u64::from(accepted.count) {
                    let number = sender.unanswered.remove(&(accepted.first_sequence + n));
                    if let Some(number) = number {
                        let mut id = accepted.first_id;
                        id.sequence += n;
                        sender.named.insert(id, number);
                    }
                }
            }
            NodeFrame::Delivery(delivery) => {
                let mut body = delivery.body.clone();
                if let (Ok(clone), Ok(number)) = (body.try_get_u32_le(), body.try_get_u64_le()) {
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    match usize::try_from(clone) {
                        _ if clone == OF_IMAGE && number >= INHERITED => {}
                        _ if clone == OF_IMAGE => self.books.inherited_delivered(number),
                        Ok(clone) => self.books.delivered(clone, number),
                        Err(_) => {}
                    }
                }
                self.next_request += 1;
                let settle = Settle {
                    request: self.next_request,
                    queue: queue(),
                    verdict: Verdict::Consume,
                    ranges: vec![(delivery.lookup, delivery.lookup)],
                };
                let frame = ClientFrame::Settle(settle);
                let conn = APPLICATION;
                self.later(0, machine, Input::Client { conn, frame });
            }
            NodeFrame::ReceiveDone(done) => {
                self.receiving = false;
                self.news |= done.messages > 0;
            }
            _ => {}
        }
    }

    fn note(&mut self, machine: usize, event: &Event) {
        match event {
            Event::Delivered { .. } if machine == RECEIVER => self.news = true,
            Event::Acknowledged { id } if machine >= COPIES => {
                if let Some(number) = self.machine(machine).named.remove(id) {
                    self.books.settled(machine - COPIES, number, self.now_us);
                }
            }
            Event::OwnTwin { .. } if machine >= COPIES => self.books.noticed(machine - COPIES),
            Event::AckNotHeld { entries, .. } => self.books.misrouted_acks += *entries as u64,
            _ => {}
        }
    }
}

fn queue() -> QueueName {
    QUEUE.parse().expect("the name is one")
}
