//! Machines with disks and files of keys, links that carry frames, and a fuse that kills a machine
//! at a commit of its choice.

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/order.rs"]
mod order;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use qm_engine::admin::{
    AdminReply, AdminRequest, DeadFilter, DeadLetterView, IdentityView, PeerView,
};
use qm_engine::{
    ConnId, DialFailure, Engine, EngineConfig, Event, Identity, Input, LinkId, LocalSettings, Now,
    Output, Roles, SeededEntropy, StoreOp, Ticket, Timestamp, TokenKey, Trust,
};
use qm_wire::local::{
    ClientFrame, ClientHello, IdempotencyKey, NodeFrame, Put, Receive, Settle, Verdict,
};
use qm_wire::{Class, ClientId, Incarnation, Parted, PeerFrame, Priority, QmId, Succession};

use disk::Disk;
use order::Order;

const APPLICATION: ConnId = ConnId(1);
pub(crate) const SENDER: usize = 0;
pub(crate) const RECEIVER: usize = 1;

pub(crate) fn id_of(key: u8) -> QmId {
    QmId::from_ed25519_public_key(&[key; 32])
}

/// Stands for Ed25519: only who has the key makes it, and it covers every byte.
fn signature(key: u8, bytes: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    let hash = blake3::keyed_hash(&[key; 32], bytes);
    signature[..32].copy_from_slice(hash.as_bytes());
    signature
}

/// When a machine dies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fuse {
    /// At this commit from now, counted from 0.
    pub(crate) commit: usize,
    /// Whether the disk still takes it.
    pub(crate) taken: bool,
}

pub(crate) struct Machine {
    pub(crate) engine: Engine,
    disk: Disk,
    /// Every key in its files.
    keys: Vec<u8>,
    /// The key of the identity that it has, as the driver was told.
    current: u8,
    first_key: u8,
    lives: u64,
    trust: Trust,
    pub(crate) events: Vec<Event>,
    told: Vec<NodeFrame>,
    pub(crate) admin: Option<AdminReply>,
    next_sequence: u64,
    next_request: u64,
    pub(crate) commits: usize,
    pub(crate) fuse: Option<Fuse>,
    dead: bool,
    /// What a slow disk has yet to write; `None` when it is fast.
    unwritten: Option<VecDeque<(Ticket, Vec<StoreOp>)>>,
    order: Order,
    configure: fn(&mut EngineConfig),
}

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    links: BTreeMap<LinkId, [usize; 2]>,
    under_way: VecDeque<(usize, LinkId, Bytes)>,
    dials: VecDeque<(usize, u64, QmId, String, Option<QmId>)>,
    /// Nothing is carried and nobody is reached.
    pub(crate) cut: bool,
    /// The identities at the ends of a link.
    spoken: BTreeMap<LinkId, [QmId; 2]>,
    /// An identity that reaches nobody.
    shut: Option<QmId>,
    next_link: u64,
    pub(crate) now_ms: u64,
    /// Times that somebody died.
    pub(crate) deaths: usize,
    pub(crate) away: Option<usize>,
    /// What was said of machines that parted.
    pub(crate) parted: Vec<Parted>,
}

impl World {
    /// A sender and a receiver that know and trust each other, and a queue of each kind there.
    pub(crate) fn new(configure: fn(&mut EngineConfig)) -> Self {
        let mut world = Self {
            machines: Vec::new(),
            links: BTreeMap::new(),
            under_way: VecDeque::new(),
            dials: VecDeque::new(),
            cut: false,
            spoken: BTreeMap::new(),
            shut: None,
            next_link: 0,
            now_ms: 1_000,
            deaths: 0,
            away: None,
            parted: Vec::new(),
        };
        for key in [1, 2] {
            world.machines.push(Machine {
                engine: start(
                    key,
                    &Disk::default(),
                    1,
                    Trust::Approve,
                    configure,
                    world.now(),
                ),
                disk: Disk::default(),
                keys: vec![key],
                current: key,
                first_key: key,
                lives: 1,
                trust: Trust::Approve,
                events: Vec::new(),
                told: Vec::new(),
                admin: None,
                next_sequence: 1,
                next_request: 1,
                commits: 0,
                fuse: None,
                dead: false,
                unwritten: None,
                order: Order::default(),
                configure,
            });
        }
        for machine in [SENDER, RECEIVER] {
            world.give(machine, Input::Tick);
            for (name, transactional) in [("orders", true), ("notes", false)] {
                let mut settings = LocalSettings::new(name.parse().unwrap());
                settings.transactional = transactional;
                world.ask(machine, AdminRequest::QueueCreate(settings));
            }
        }
        world.add_peer(SENDER, "b", RECEIVER);
        world.add_peer(RECEIVER, "a", SENDER);
        world.run(2_000);
        world
    }

    /// Another machine with the disk and the keys of this one, which runs on; it gets the next
    /// number.
    pub(crate) fn copy(&mut self, of: usize) -> usize {
        let now = self.now();
        let original = &self.machines[of];
        let lives = 50 + self.machines.len() as u64;
        let (key, trust, configure) = (original.current, original.trust, original.configure);
        let machine = Machine {
            engine: start(key, &original.disk, lives, trust, configure, now),
            disk: original.disk.clone(),
            keys: original.keys.clone(),
            current: key,
            first_key: original.first_key,
            lives,
            trust,
            events: Vec::new(),
            told: Vec::new(),
            admin: None,
            next_sequence: 1,
            next_request: 1,
            commits: 0,
            fuse: None,
            dead: false,
            unwritten: None,
            order: Order::default(),
            configure,
        };
        self.machines.push(machine);
        let number = self.machines.len() - 1;
        self.give(number, Input::Tick);
        number
    }

    pub(crate) fn add_peer(&mut self, at: usize, name: &str, other: usize) {
        let request = AdminRequest::PeerAdd {
            name: name.to_owned(),
            address: Some(place(other)),
            qm: None,
            keep_connected: true,
        };
        let reply = self.ask(at, request);
        assert!(matches!(reply, AdminReply::Done { .. }), "{reply:?}");
    }

    fn now(&self) -> Now {
        Now {
            at: Timestamp(self.now_ms * 1_000),
            wall_us: 1_000_000_000 + self.now_ms * 1_000,
        }
    }

    pub(crate) fn id(&self, machine: usize) -> QmId {
        id_of(self.machines[machine].current)
    }

    pub(crate) fn give(&mut self, number: usize, input: Input) {
        let now = self.now();
        let mut gone: Vec<LinkId> = Vec::new();
        // No two machines draw the same key.
        let others = self.machines.iter().enumerate();
        let others = others.filter(|(other, _)| *other != number && *other != RECEIVER);
        let others = others.flat_map(|(_, machine)| machine.keys.iter().copied());
        let newest = others.max().unwrap_or(0);
        let machine = &mut self.machines[number];
        machine.engine.handle(now, input);
        while let Some(output) = machine.engine.poll(now) {
            match output {
                Output::Send { link, frames, .. } => {
                    if let Some(ends) = self.links.get(&link) {
                        let to = if ends[0] == number { ends[1] } else { ends[0] };
                        self.under_way.push_back((to, link, frames));
                    }
                }
                Output::Dial {
                    dial,
                    address,
                    expected,
                    own,
                } => self.dials.push_back((number, dial, own, address, expected)),
                Output::Client { frame, .. } => machine.told.push(frame),
                Output::Event(event) => machine.events.push(event),
                Output::Admin { reply, .. } => machine.admin = Some(reply),
                Output::Close { link, .. } => {
                    // What was sent before still arrives.
                    if let Some(ends) = self.links.get(&link).copied() {
                        let to = if ends[0] == number { ends[1] } else { ends[0] };
                        self.under_way.push_back((to, link, Bytes::new()));
                    }
                }
                Output::Persist {
                    ticket,
                    ops,
                    refusals_known,
                } => {
                    machine.order.handed(ticket, refusals_known);
                    if let Some(unwritten) = &mut machine.unwritten {
                        unwritten.push_back((ticket, ops));
                        continue;
                    }
                    let takes = machine.order.takes(ticket, true);
                    assert!(takes, "a fast disk has answered what was refused before it");
                    let fuse = machine.fuse.filter(|fuse| fuse.commit == 0);
                    machine.commits += 1;
                    if let Some(fuse) = &mut machine.fuse {
                        fuse.commit = fuse.commit.wrapping_sub(1);
                    }
                    if fuse.is_none_or(|fuse| fuse.taken) {
                        machine.disk.apply(ops);
                    }
                    if fuse.is_some() {
                        machine.dead = true;
                        break;
                    }
                    machine.engine.handle(now, Input::Persisted { ticket });
                }
                Output::Load {
                    load,
                    stream,
                    from,
                    records_max,
                    bytes_max,
                } => {
                    let records = machine.disk.load(stream, from, records_max, bytes_max);
                    machine.engine.handle(now, Input::Loaded { load, records });
                }
                Output::Verify {
                    verify,
                    key,
                    bytes,
                    signature: given,
                } => {
                    let good = given == signature(key[0], &bytes);
                    machine.engine.handle(now, Input::Verified { verify, good });
                }
                Output::Sign { sign, bytes } => {
                    let signature = signature(machine.current, &bytes);
                    machine
                        .engine
                        .handle(now, Input::Signed { sign, signature });
                }
                Output::Succeed { old_key, new_key } => {
                    let new = new_key.map_or_else(
                        || {
                            let made = machine.keys.iter().max().unwrap().max(&newest) + 10;
                            machine.keys.push(made);
                            made
                        },
                        |key| key[0],
                    );
                    let succession = succession(old_key[0], new);
                    let input = Input::Succeeded {
                        succession,
                        token_key: TokenKey::new([new; 32]),
                    };
                    machine.engine.handle(now, input);
                }
                Output::Keys { current, former } => {
                    machine
                        .keys
                        .retain(|key| id_of(*key) == current || Some(id_of(*key)) == former);
                    let mut keys = machine.keys.iter();
                    machine.current = *keys.find(|key| id_of(**key) == current).unwrap();
                }
                Output::Trust { .. } => {}
                Output::Abandon => {
                    let links = self.links.iter();
                    let own = links.filter(|(_, ends)| ends.contains(&number));
                    gone = own.map(|(link, _)| *link).collect();
                    self.dials.retain(|(from, ..)| *from != number);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        if self.machines[number].dead {
            self.revive(number);
        }
        self.machines[number].engine.audit().unwrap();
        // Nothing tells the other end; it notices by itself.
        self.under_way.retain(|(_, link, _)| !gone.contains(link));
        for link in gone {
            let ends = self.links.remove(&link).unwrap();
            let other = if ends[0] == number { ends[1] } else { ends[0] };
            self.close(other, link);
        }
    }

    /// The process is dead: its links are gone, and another process starts on its disk.
    fn revive(&mut self, number: usize) {
        self.deaths += 1;
        let gone: BTreeSet<LinkId> = self
            .links
            .iter()
            .filter(|(_, ends)| ends.contains(&number))
            .map(|(link, _)| *link)
            .collect();
        self.under_way.retain(|(_, link, _)| !gone.contains(link));
        self.dials.retain(|(from, ..)| *from != number);
        let now = self.now();
        let machine = &mut self.machines[number];
        machine.dead = false;
        machine.unwritten = None;
        machine.order = Order::default();
        machine.fuse = None;
        machine.lives += 1;
        machine.told.clear();
        machine.next_sequence = 1;
        let key = match Roles::read(&machine.disk.state).unwrap() {
            None => machine.first_key,
            Some(roles) => {
                let has = |key: u8| machine.keys.contains(&key);
                assert!(
                    has(roles.current[0]),
                    "the key of the current identity is lost"
                );
                if let Some(former) = roles.former {
                    assert!(has(former[0]), "the key of the former identity is lost");
                }
                roles.current[0]
            }
        };
        machine.current = key;
        machine.engine = start(
            key,
            &machine.disk,
            machine.lives,
            machine.trust,
            machine.configure,
            now,
        );
        for link in gone {
            let ends = self.links.remove(&link).unwrap();
            let other = if ends[0] == number { ends[1] } else { ends[0] };
            self.close(other, link);
        }
        self.give(number, Input::Tick);
    }

    pub(crate) fn crash(&mut self, number: usize) {
        self.revive(number);
    }

    /// What a backup of the disk holds at this moment.
    pub(crate) fn backup(&self, number: usize) -> Disk {
        self.machines[number].disk.clone()
    }

    /// The process ends without a word, and the disk is as it was then.
    pub(crate) fn restore(&mut self, number: usize, disk: &Disk) {
        self.machines[number].disk.clone_from(disk);
        self.revive(number);
    }

    /// From now on a disk writes only what [`Self::write_one`] tells it to.
    pub(crate) fn slow_down(&mut self, number: usize) {
        self.machines[number].unwritten = Some(VecDeque::new());
    }

    /// A slow disk writes one batch. Returns whether there was one.
    pub(crate) fn write_one(&mut self, number: usize) -> bool {
        let machine = &mut self.machines[number];
        let next = machine.unwritten.as_mut().and_then(VecDeque::pop_front);
        let Some((ticket, ops)) = next else {
            return false;
        };
        let input = if machine.order.takes(ticket, true) {
            machine.disk.apply(ops);
            Input::Persisted { ticket }
        } else {
            Input::PersistRefused {
                ticket,
                ops,
                limited: false,
            }
        };
        self.give(number, input);
        true
    }

    /// A slow disk has no room for the next batch that puts a message, and writes what is before
    /// it.
    pub(crate) fn refuse_one(&mut self, number: usize) {
        self.refuse(number, |ops| {
            ops.iter().any(|op| matches!(op, StoreOp::Put { .. }))
        });
    }

    /// The same for the next batch whose changes are such.
    pub(crate) fn refuse(&mut self, number: usize, such: impl Fn(&[StoreOp]) -> bool) {
        loop {
            let unwritten = self.machines[number].unwritten.as_mut().unwrap();
            let (ticket, ops) = unwritten.front().expect("such a batch").clone();
            if !such(&ops) {
                self.write_one(number);
                continue;
            }
            unwritten.pop_front();
            self.machines[number].order.takes(ticket, false);
            let refused = Input::PersistRefused {
                ticket,
                ops,
                limited: false,
            };
            return self.give(number, refused);
        }
    }

    /// A slow disk writes everything, and is fast again.
    pub(crate) fn speed_up(&mut self, number: usize) {
        while self.write_one(number) {}
        self.machines[number].unwritten = None;
    }

    fn close(&mut self, at: usize, link: LinkId) {
        let text = "the connection is gone".to_owned();
        self.give(at, Input::Closed { link, text });
    }

    /// All connections are lost, and none can be made.
    pub(crate) fn cut(&mut self) {
        self.cut = true;
        self.under_way.clear();
        for (link, ends) in std::mem::take(&mut self.links) {
            for end in ends {
                self.close(end, link);
            }
        }
    }

    pub(crate) fn leave(&mut self, who: Option<usize>) {
        self.away = who;
        let Some(who) = who else { return };
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, e)| e.contains(&who))
            .map(|(l, _)| *l)
            .collect();
        for link in links {
            if let Some(ends) = self.links.remove(&link) {
                for end in ends {
                    self.close(end, link);
                }
            }
        }
    }

    /// One identity loses its connections and gets no others until this is taken back.
    pub(crate) fn shut(&mut self, who: Option<QmId>) {
        self.shut = who;
        let Some(who) = who else { return };
        let spoken = self.spoken.iter().filter(|(_, ids)| ids.contains(&who));
        let links: Vec<LinkId> = spoken.map(|(link, _)| *link).collect();
        for link in links {
            if let Some(ends) = self.links.remove(&link) {
                for end in ends {
                    self.close(end, link);
                }
            }
        }
    }

    fn reach(&mut self, from: usize, dial: u64, own: QmId, address: &str, expected: Option<QmId>) {
        let held = |machine: &Machine, qm: QmId| machine.keys.iter().any(|key| id_of(*key) == qm);
        let to = (0..self.machines.len()).find(|to| place(*to) == address);
        let open = !self.cut && self.shut != Some(own);
        let here = self.away != Some(from) && (to.is_none() || self.away != to);
        let Some(to) = to.filter(|_| here && open && held(&self.machines[from], own)) else {
            let input = Input::DialFailed {
                dial,
                failure: DialFailure::Unreachable,
                text: "nobody answers".to_owned(),
            };
            return self.give(from, input);
        };
        // Whoever dials hints at whom it expects; the other side proves that one, if it can.
        let hinted = expected.filter(|qm| held(&self.machines[to], *qm));
        let proven = hinted.unwrap_or_else(|| self.id(to));
        if expected.is_some_and(|expected| expected != proven) || self.shut == Some(proven) {
            let input = Input::DialFailed {
                dial,
                failure: DialFailure::WrongIdentity,
                text: "somebody else answers".to_owned(),
            };
            return self.give(from, input);
        }
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.insert(link, [from, to]);
        self.spoken.insert(link, [own, proven]);
        let keys = |machine: &Machine, qm: QmId| {
            let key = machine.keys.iter().find(|key| id_of(**key) == qm);
            [*key.unwrap(); 32]
        };
        for (at, own, peer, other, dial) in [
            (from, own, proven, to, Some(dial)),
            (to, proven, own, from, None),
        ] {
            if !self.links.contains_key(&link) {
                return;
            }
            let input = Input::Connected {
                link,
                peer,
                public_key: keys(&self.machines[other], peer),
                own,
                remote: place(other).parse().unwrap(),
                dial,
            };
            self.give(at, input);
        }
    }

    /// Carries what is under way, without letting time pass; at most so many buffers.
    pub(crate) fn carry(&mut self, most: usize) {
        for _ in 0..most {
            if let Some((to, link, frames)) = self.under_way.pop_front() {
                if !self.links.contains_key(&link) || self.cut {
                    continue;
                }
                if frames.is_empty() {
                    self.links.remove(&link);
                    self.close(to, link);
                } else {
                    let mut rest = frames.clone();
                    while let Ok(Some(frame)) = PeerFrame::next(&mut rest, usize::MAX) {
                        if let PeerFrame::Parted(parted) = frame {
                            self.parted.push(parted);
                        }
                    }
                    self.give(to, Input::Received { link, frames });
                }
            } else if let Some((from, dial, own, address, expected)) = self.dials.pop_front() {
                self.reach(from, dial, own, &address, expected);
            } else {
                return;
            }
        }
    }

    /// Lets time pass and carries everything.
    pub(crate) fn run(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        let step = if ms > 5_000 { 1_000 } else { 250 };
        while self.now_ms < until {
            self.carry(100_000);
            self.now_ms += (until - self.now_ms).min(step);
            for number in 0..self.machines.len() {
                self.give(number, Input::Tick);
            }
        }
        self.carry(100_000);
    }

    pub(crate) fn ask(&mut self, number: usize, what: AdminRequest) -> AdminReply {
        let deaths = self.deaths;
        let input = Input::Admin {
            conn: APPLICATION,
            request: 1,
            what: what.clone(),
        };
        self.give(number, input);
        if self.deaths > deaths {
            // Whoever asked asks again.
            return self.ask(number, what);
        }
        let reply = self.machines[number].admin.take();
        reply.expect("every request is answered")
    }

    /// Asks, and gives the answer if it comes at once.
    pub(crate) fn begin(&mut self, number: usize, what: AdminRequest) -> Option<AdminReply> {
        let conn = APPLICATION;
        let request = 1;
        self.machines[number].admin = None;
        self.give(
            number,
            Input::Admin {
                conn,
                request,
                what,
            },
        );
        self.machines[number].admin.take()
    }

    /// How many such events a machine told.
    pub(crate) fn told(&self, number: usize, such: impl Fn(&Event) -> bool) -> usize {
        let events = self.machines[number].events.iter();
        events.filter(|event| such(event)).count()
    }

    /// Whether the machine was shown that another one keeps its identity.
    pub(crate) fn has_lost(&self, number: usize) -> bool {
        self.told(number, |event| matches!(event, Event::ElectionLost { .. })) > 0
    }

    pub(crate) fn identity(&mut self, number: usize) -> IdentityView {
        match self.ask(number, AdminRequest::Identity) {
            AdminReply::Identity(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn peers(&mut self, number: usize) -> Vec<PeerView> {
        match self.ask(number, AdminRequest::Peers) {
            AdminReply::Peers(views) => views,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn dead(&mut self, number: usize) -> Vec<DeadLetterView> {
        let filter = DeadFilter::default();
        let request = AdminRequest::DeadList {
            filter,
            after: None,
        };
        match self.ask(number, request) {
            AdminReply::DeadLetters { letters, .. } => letters,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a new identity unless it was taken already.
    pub(crate) fn remint(&mut self, number: usize) {
        if self.identity(number).former.is_none() {
            let because = "a copy was found".to_owned();
            let reply = self.ask(number, AdminRequest::Remint { because });
            // One that died with the change durable is told so by the second request.
            let done = matches!(reply, AdminReply::Identity(_) | AdminReply::Failed { .. });
            assert!(done, "{reply:?}");
        }
        assert!(self.identity(number).former.is_some());
    }

    pub(crate) fn approve(&mut self, at: usize, who: QmId) {
        let who = who.to_string();
        let reply = self.ask(at, AdminRequest::PeerApprove { who, name: None });
        assert!(matches!(reply, AdminReply::Done { .. }), "{reply:?}");
    }

    fn client(&mut self, number: usize, frame: ClientFrame) {
        let conn = APPLICATION;
        self.give(number, Input::Client { conn, frame });
    }

    /// Has a message accepted; whoever is not answered asks again under the same key.
    pub(crate) fn put(&mut self, number: usize, to: &str, body: &str, class: Class) {
        loop {
            self.offer(number, to, body, class);
            if self.has_accepted(number) {
                return;
            }
            let machine = &self.machines[number];
            assert!(
                machine.next_sequence == 1,
                "refused without a crash: {:?}",
                machine.told
            );
        }
    }

    /// Hands a message over, and does not wait for the answer.
    pub(crate) fn offer(&mut self, number: usize, to: &str, body: &str, class: Class) {
        let machine = &mut self.machines[number];
        if machine.next_sequence == 1 {
            let mut client = [7; 16];
            client[0] = u8::try_from(machine.lives).unwrap();
            self.client(
                number,
                ClientFrame::Hello(ClientHello {
                    protocol: 1,
                    client: ClientId(client),
                    program: "test".into(),
                }),
            );
        }
        let machine = &mut self.machines[number];
        let mut put = Put::new(machine.next_sequence, to, Bytes::from(body.to_owned()));
        machine.next_sequence += 1;
        put.class = class;
        put.priority = if class == Class::Transactional {
            Priority::LOWEST
        } else {
            Priority::DEFAULT
        };
        put.idempotency = Some(IdempotencyKey {
            key: Bytes::from(format!("{to} {body}")),
            number: None,
        });
        machine.told.clear();
        self.client(number, ClientFrame::Put(put));
    }

    /// Whether what was offered last is accepted.
    pub(crate) fn has_accepted(&self, number: usize) -> bool {
        let mut told = self.machines[number].told.iter();
        told.any(|frame| matches!(frame, NodeFrame::Accepted(_)))
    }

    /// An application says hello, once a life.
    fn greet(&mut self, number: usize) {
        if self.machines[number].next_sequence == 1 {
            self.machines[number].next_sequence = 2;
            let frame = ClientFrame::Hello(ClientHello {
                protocol: 1,
                client: ClientId([8; 16]),
                program: "test".into(),
            });
            self.client(number, frame);
        }
    }

    /// Takes so many messages into an application's hands: their lookup ids.
    pub(crate) fn take(&mut self, number: usize, queue: &str, messages: u32) -> Vec<u64> {
        self.greet(number);
        let machine = &mut self.machines[number];
        let mut receive = Receive::new(machine.next_request, queue.parse().unwrap());
        machine.next_request += 1;
        receive.messages_max = messages;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 0;
        machine.told.clear();
        self.client(number, ClientFrame::Receive(receive));
        let told = self.machines[number].told.iter();
        told.filter_map(|frame| match frame {
            NodeFrame::Delivery(delivery) => Some(delivery.lookup),
            _ => None,
        })
        .collect()
    }

    pub(crate) fn give_back(&mut self, number: usize, queue: &str, lookups: &[u64]) {
        let settle = Settle {
            request: self.machines[number].next_request,
            queue: queue.parse().unwrap(),
            verdict: Verdict::GiveBack,
            ranges: lookups.iter().map(|lookup| (*lookup, *lookup)).collect(),
        };
        self.machines[number].next_request += 1;
        self.client(number, ClientFrame::Settle(settle));
    }

    /// Receives and consumes everything.
    pub(crate) fn receive(&mut self, number: usize, queue: &str) -> Vec<String> {
        let name: qm_wire::QueueName = queue.parse().unwrap();
        self.greet(number);
        let mut all = Vec::new();
        loop {
            let machine = &mut self.machines[number];
            let mut receive = Receive::new(machine.next_request, name.clone());
            machine.next_request += 1;
            receive.messages_max = 1_000;
            receive.bytes_max = u32::MAX;
            receive.wait_ms = 0;
            machine.told.clear();
            self.client(number, ClientFrame::Receive(receive));
            let told = std::mem::take(&mut self.machines[number].told);
            let deliveries: Vec<_> = told
                .into_iter()
                .filter_map(|frame| match frame {
                    NodeFrame::Delivery(delivery) => Some(delivery),
                    _ => None,
                })
                .collect();
            if deliveries.is_empty() {
                return all;
            }
            for delivery in deliveries {
                all.push(String::from_utf8(delivery.body.to_vec()).unwrap());
                let settle = Settle {
                    request: self.machines[number].next_request,
                    queue: name.clone(),
                    verdict: Verdict::Consume,
                    ranges: vec![(delivery.lookup, delivery.lookup)],
                };
                self.machines[number].next_request += 1;
                self.client(number, ClientFrame::Settle(settle));
            }
        }
    }
}

pub(crate) fn place(machine: usize) -> String {
    format!("10.0.0.{}:1801", machine + 1)
}

pub(crate) fn succession(old: u8, new: u8) -> Succession {
    let mut succession = Succession {
        old_key: [old; 32],
        new_key: [new; 32],
        old_signature: [0; 64],
        new_signature: [0; 64],
    };
    let bytes = succession.signed_bytes();
    succession.old_signature = signature(old, &bytes);
    succession.new_signature = signature(new, &bytes);
    succession
}

/// Says that these lives left the identity of one key for that of the other.
pub(crate) fn parted(old: u8, new: u8, lives: &[u64]) -> Parted {
    let mut parted = Parted {
        succession: succession(old, new),
        lives: lives.iter().copied().map(Incarnation).collect(),
        signature: [0; 64],
    };
    parted.signature = signature(new, &parted.signed_bytes());
    parted
}

fn start(
    key: u8,
    disk: &Disk,
    lives: u64,
    trust: Trust,
    configure: fn(&mut EngineConfig),
    now: Now,
) -> Engine {
    let mut config = EngineConfig::default();
    config.trust = trust;
    config.listen_port = 1801;
    configure(&mut config);
    let identity = Identity {
        qm: id_of(key),
        public_key: [key; 32],
        store_id: [key % 10; 16],
        token_key: TokenKey::new([key; 32]),
    };
    let entropy = Box::new(SeededEntropy::new(u64::from(key) * 1_000 + lives));
    let mut engine = Engine::new(config, identity, disk.recovered(), entropy, now);
    let roles = Roles::read(&disk.state).unwrap();
    if let Some(former) = roles.and_then(|roles| roles.former) {
        engine.set_former_token_key(TokenKey::new(former));
    }
    engine
}
