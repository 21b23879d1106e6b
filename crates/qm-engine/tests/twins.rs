//! Copies of a machine: who notices, who is told what, and who is never accused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "what it costs is for people")]

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use qm_engine::admin::{AdminReply, AdminRequest, StatusView};
use qm_engine::{
    BranchEvidence, ConnId, Engine, EngineConfig, Event, Identity, Input, LinkId, Now, OnTwin,
    Output, Recovered, SeededEntropy, StoreOp, Ticket, Timestamp, Trust, TwinView,
};
use qm_wire::{
    Challenge, Claim, Goodbye, Incarnation, Outcome, PeerFrame, QmId, Rank, Twin, Welcome,
    WelcomeFlags,
};

const HUB: usize = 0;

/// A machine whose disk holds only small values.
struct Machine {
    engine: Engine,
    identity: Identity,
    state: BTreeMap<Bytes, Bytes>,
    host: String,
    events: Vec<Event>,
    admin: Option<AdminReply>,
    closed: Vec<LinkId>,
    /// With this the disk answers nothing by itself.
    slow: bool,
    at_disk: VecDeque<(Ticket, Vec<StoreOp>)>,
    persisted: usize,
}

/// Machines, and what is under way between them.
struct World {
    machines: Vec<Machine>,
    links: BTreeMap<LinkId, [usize; 2]>,
    under_way: VecDeque<(usize, LinkId, Bytes)>,
    /// Links on which nothing arrives until they are let go.
    held: Vec<LinkId>,
    now_ms: u64,
}

fn identity(key: u8) -> Identity {
    let public_key = [key; 32];
    Identity {
        qm: QmId::from_ed25519_public_key(&public_key),
        public_key,
        store_id: [key; 16],
        token_key: qm_engine::TokenKey::new(public_key),
    }
}

/// Stands for Ed25519: only who has the key makes it, and it covers every byte.
fn signature(key: u8, bytes: &[u8]) -> [u8; 64] {
    let hash = blake3::keyed_hash(&[key; 32], bytes);
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(hash.as_bytes());
    signature
}

fn machine(key: u8, host: &str, state: BTreeMap<Bytes, Bytes>, seed: u64, now: Now) -> Machine {
    let mut config = EngineConfig::default();
    config.trust = Trust::Any;
    host.clone_into(&mut config.host);
    config.listen_port = 1801;
    let recovered = Recovered {
        state: state.clone(),
        ..Recovered::default()
    };
    let entropy = Box::new(SeededEntropy::new(seed));
    let identity = identity(key);
    Machine {
        engine: Engine::new(config, identity, recovered, entropy, now),
        identity,
        state,
        host: host.to_owned(),
        events: Vec::new(),
        admin: None,
        closed: Vec::new(),
        slow: false,
        at_disk: VecDeque::new(),
        persisted: 0,
    }
}

impl Machine {
    /// The disk did what it was asked for.
    fn written(&mut self, now: Now) {
        while let Some((ticket, ops)) = self.at_disk.pop_front() {
            for op in ops {
                match op {
                    StoreOp::Set { key, value } => self.state.insert(key, value),
                    StoreOp::Unset { key } => self.state.remove(&key),
                    _ => None,
                };
            }
            self.engine.handle(now, Input::Persisted { ticket });
        }
    }
}

impl World {
    /// A hub, and a till that was used.
    fn new() -> Self {
        let now = Now::default();
        let mut world = Self {
            machines: vec![
                machine(1, "hub", BTreeMap::new(), 1, now),
                machine(2, "till", BTreeMap::new(), 2, now),
            ],
            links: BTreeMap::new(),
            under_way: VecDeque::new(),
            held: Vec::new(),
            now_ms: 0,
        };
        world.tick(HUB);
        world.tick(1);
        world
    }

    fn now(&self) -> Now {
        Now {
            at: Timestamp(self.now_ms * 1_000),
            wall_us: 1_000_000_000 + self.now_ms * 1_000,
        }
    }

    /// Another machine with the disk of this one; it gets the next number.
    fn copy(&mut self, of: usize, host: &str) -> usize {
        let seed = 100 + self.machines.len() as u64;
        let key = self.machines[of].identity.public_key[0];
        let state = self.machines[of].state.clone();
        let copy = machine(key, host, state, seed, self.now());
        self.machines.push(copy);
        let number = self.machines.len() - 1;
        self.tick(number);
        number
    }

    /// The process ends without a word, and another one starts on the same disk.
    fn restart(&mut self, number: usize) {
        let old = &self.machines[number];
        let (key, host) = (old.identity.public_key[0], old.host.clone());
        let seed = 1_000 + self.now_ms + number as u64;
        self.machines[number] = machine(key, &host, old.state.clone(), seed, self.now());
        // What is said to the old process is heard by nobody.
        let gone = |ends: &[usize; 2]| ends.contains(&number);
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, ends)| gone(ends))
            .map(|(link, _)| *link)
            .collect();
        self.under_way
            .retain(|(to, link, _)| *to != number || !links.contains(link));
        for link in links {
            let ends = self.links.get_mut(&link).unwrap();
            *ends = ends.map(|end| if end == number { usize::MAX } else { end });
        }
        self.tick(number);
    }

    fn tick(&mut self, number: usize) {
        self.give(number, Input::Tick);
    }

    fn give(&mut self, number: usize, input: Input) {
        let now = self.now();
        let key = self.machines[number].identity.public_key[0];
        let machine = &mut self.machines[number];
        machine.engine.handle(now, input);
        while let Some(output) = machine.engine.poll(now) {
            match output {
                Output::Send { link, frames, .. } => {
                    let ends = self.links[&link];
                    let to = if ends[0] == number { ends[1] } else { ends[0] };
                    self.under_way.push_back((to, link, frames));
                }
                Output::Close { link, .. } => machine.closed.push(link),
                Output::Event(event) => machine.events.push(event),
                Output::Admin { reply, .. } => machine.admin = Some(reply),
                Output::Sign { sign, bytes } => {
                    let signature = signature(key, &bytes);
                    machine
                        .engine
                        .handle(now, Input::Signed { sign, signature });
                }
                Output::Verify {
                    verify,
                    bytes,
                    signature: given,
                    ..
                } => {
                    let good = given == signature(key, &bytes);
                    machine.engine.handle(now, Input::Verified { verify, good });
                }
                Output::Persist { ticket, ops, .. } => {
                    machine.persisted += 1;
                    machine.at_disk.push_back((ticket, ops));
                    if !machine.slow {
                        machine.written(now);
                    }
                }
                _ => {}
            }
        }
        self.machines[number].engine.audit().unwrap();
    }

    /// `from` dials `to`; nothing of what follows is carried yet.
    fn dial(&mut self, from: usize, to: usize) -> LinkId {
        let link = LinkId(self.links.len() as u64 + 1);
        self.links.insert(link, [from, to]);
        for (end, other) in [(from, to), (to, from)] {
            let peer = self.machines[other].identity;
            let input = Input::Connected {
                link,
                peer: peer.qm,
                public_key: peer.public_key,
                own: self.machines[end].identity.qm,
                remote: format!("10.0.0.{other}:1801").parse().unwrap(),
                dial: (end == from).then_some(u64::MAX),
            };
            self.give(end, input);
        }
        link
    }

    /// Carries everything that is not held.
    fn carry(&mut self) {
        while let Some(at) = self
            .under_way
            .iter()
            .position(|(_, link, _)| !self.held.contains(link))
        {
            let (to, link, frames) = self.under_way.remove(at).unwrap();
            if to != usize::MAX {
                self.give(to, Input::Received { link, frames });
            }
        }
    }

    /// The connection is gone, and both ends hear of it.
    fn cut(&mut self, link: LinkId) {
        self.under_way.retain(|(_, of, _)| *of != link);
        for end in self.links[&link] {
            if end != usize::MAX {
                let text = "it was cut".to_owned();
                self.give(end, Input::Closed { link, text });
            }
        }
    }

    fn connect(&mut self, from: usize, to: usize) -> LinkId {
        let link = self.dial(from, to);
        self.carry();
        link
    }

    fn say(&mut self, to: usize, link: LinkId, frame: &PeerFrame) {
        let mut frames = BytesMut::new();
        frame.encode(&mut frames);
        let frames = frames.freeze();
        self.give(to, Input::Received { link, frames });
    }

    fn twins(&mut self, number: usize) -> Vec<TwinView> {
        self.status(number).twins
    }

    fn status(&mut self, number: usize) -> StatusView {
        let (conn, request) = (ConnId(1), 1);
        let what = AdminRequest::Status;
        self.give(
            number,
            Input::Admin {
                conn,
                request,
                what,
            },
        );
        match self.machines[number].admin.take() {
            Some(AdminReply::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn alarms(&self, number: usize) -> usize {
        let alarm =
            |event: &&Event| matches!(event, Event::TwinSeen { .. } | Event::OwnTwin { .. });
        self.machines[number].events.iter().filter(alarm).count()
    }

    /// The same as its counters tell it: of peers, and of itself.
    fn counted(&self, number: usize) -> (u64, u64) {
        let counters = self.machines[number].engine.counters();
        (counters.twins_seen, counters.own_twins)
    }

    /// What a machine noted of histories that branched or went back, its own and others'.
    fn branches(&self, number: usize) -> Vec<Event> {
        let branch = |event: &&Event| {
            matches!(
                event,
                Event::HistoryBranched { .. }
                    | Event::OwnHistoryBranched { .. }
                    | Event::OwnStoreWentBack { .. }
            )
        };
        let events = self.machines[number].events.iter();
        events.filter(branch).cloned().collect()
    }

    fn sessions(&self, number: usize) -> usize {
        let opened = |event: &&Event| matches!(event, Event::SessionOpened { .. });
        self.machines[number].events.iter().filter(opened).count()
    }

    /// The process ends without a word, and the disk is as it was then.
    fn restore(&mut self, number: usize, state: &BTreeMap<Bytes, Bytes>) {
        self.machines[number].state.clone_from(state);
        self.restart(number);
    }

    /// The token that a machine holds of the only peer it has.
    fn token(&self, number: usize) -> Option<Bytes> {
        let mut state = self.machines[number].state.iter();
        let found = state.find(|(key, _)| key.starts_with(b"token/"));
        found.map(|(_, value)| value.clone())
    }
}

/// Hosts and addresses of the machines of an alarm, in order of their hosts.
fn places(view: &TwinView) -> Vec<(&str, &str)> {
    let machines = view.machines.iter();
    let mut places: Vec<_> = machines
        .map(|machine| (machine.host.as_str(), machine.address.as_str()))
        .collect();
    places.sort_unstable();
    places
}

#[test]
fn a_copied_disk_is_noticed_at_the_hub_and_by_both_copies() {
    let mut world = World::new();
    let copy = world.copy(1, "till-2");
    world.now_ms = 60_000;
    world.connect(1, HUB);
    assert_eq!(world.alarms(HUB), 0, "one alone is no twin");
    world.now_ms = 90_000;
    world.connect(copy, HUB);

    let till = world.machines[1].identity.qm;
    let at_hub = world.twins(HUB);
    assert_eq!(at_hub.len(), 1);
    assert_eq!((at_hub[0].qm, at_hub[0].told_by), (till, None));
    assert_eq!(
        places(&at_hub[0]),
        [("till", "10.0.0.1:1801"), ("till-2", "10.0.0.2:1801")]
    );
    let since: Vec<u64> = at_hub[0].machines.iter().map(|m| m.since_us).collect();
    assert!(since.contains(&1_060_000_000) && since.contains(&1_090_000_000));

    let hub = world.machines[HUB].identity.qm;
    for (number, other) in [
        (1, ("till-2", "10.0.0.2:1801")),
        (copy, ("till", "10.0.0.1:1801")),
    ] {
        let own = world.twins(number);
        assert_eq!(own.len(), 1, "machine {number}");
        assert_eq!((own[0].qm, own[0].told_by), (till, Some(hub)));
        assert!(places(&own[0]).contains(&other), "{own:?}");
        assert_eq!(world.alarms(number), 1);
    }
    assert_eq!(world.counted(HUB), (1, 0));
    assert_eq!([1, copy].map(|n| world.counted(n)), [(0, 1); 2]);
    // The sessions of both go on.
    assert!(
        world
            .machines
            .iter()
            .all(|machine| machine.closed.is_empty())
    );
}

#[test]
fn a_process_that_restarts_or_dials_again_is_never_accused() {
    let mut world = World::new();
    world.connect(1, HUB);
    for _ in 0..3 {
        // The hub has not seen the end of the old session.
        world.restart(1);
        world.connect(1, HUB);
        world.connect(HUB, 1);
        world.connect(1, HUB);
    }
    // What was begun is heard long after what was begun later.
    let first = world.dial(1, HUB);
    world.held.push(first);
    world.connect(1, HUB);
    world.held.clear();
    world.carry();
    for number in [HUB, 1] {
        assert_eq!(
            world.alarms(number),
            0,
            "{:?}",
            world.machines[number].events
        );
        assert_eq!(world.branches(number), []);
    }
}

/// W-SES-8.
#[test]
fn a_question_is_answered_on_the_session_that_was_begun_last() {
    let mut world = World::new();
    let link = world.connect(1, HUB);
    let answers = |world: &mut World| {
        // The first session of a process is its first attempt.
        let challenge = Challenge {
            attempt: 1,
            challenge: [9; 16],
        };
        world.under_way.clear();
        world.say(1, link, &PeerFrame::Challenge(challenge));
        let mut answers = 0;
        for (_, _, frames) in &world.under_way {
            let mut frames = frames.clone();
            while let Ok(Some(frame)) = PeerFrame::next(&mut frames, 1 << 20) {
                answers += usize::from(frame == PeerFrame::ChallengeOk(challenge));
            }
        }
        answers
    };
    assert_eq!(answers(&mut world), 1);
    world.dial(HUB, 1);
    assert_eq!(answers(&mut world), 0);
}

#[test]
fn a_copy_that_dials_its_copy_is_met_directly() {
    let mut world = World::new();
    let copy = world.copy(1, "till-2");
    world.connect(1, copy);
    for (number, other) in [(1, "till-2"), (copy, "till")] {
        let own = world.twins(number);
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].told_by, None);
        assert!(places(&own[0]).iter().any(|(host, _)| *host == other));
    }
}

#[test]
fn three_copies_all_learn_of_it_and_are_told_once() {
    let mut world = World::new();
    let copies = [1, world.copy(1, "till-2"), world.copy(1, "till-3")];
    for copy in copies {
        world.connect(copy, HUB);
    }
    for copy in copies {
        assert!(!world.twins(copy).is_empty(), "copy {copy}");
    }
    assert_eq!(world.twins(HUB)[0].machines.len(), 3);
    let before: Vec<usize> = (0..4).map(|n| world.alarms(n)).collect();
    world.now_ms += 1_000;
    for copy in copies {
        world.connect(copy, HUB);
    }
    let after: Vec<usize> = (0..4).map(|n| world.alarms(n)).collect();
    assert_eq!(before, after, "the same machines are news once");
    let counted = copies.map(|copy| world.counted(copy));
    assert_eq!(world.counted(HUB), (before[0] as u64, 0));
    assert_eq!(counted, copies.map(|copy| (0, before[copy] as u64)));
}

/// A node between that lies: it has no key, so nothing it says is believed (W-TWN-4).
#[test]
fn a_hub_cannot_invent_a_copy() {
    let mut world = World::new();
    let link = world.connect(1, HUB);
    let twin = Twin {
        relay: [7; 16],
        incarnation: Incarnation(77),
        known_s: 5,
        address: "203.0.113.9:1801".into(),
        host: "nowhere".into(),
    };
    world.say(1, link, &PeerFrame::Twin(twin));
    let asked = world.under_way.iter().find_map(|(_, _, frames)| {
        let mut frames = frames.clone();
        loop {
            match PeerFrame::next(&mut frames, 1 << 20) {
                Ok(Some(PeerFrame::Ask(ask))) => return Some(ask),
                Ok(Some(_)) => {}
                _ => return None,
            }
        }
    });
    let ask = asked.expect("it asks the copy");
    world.under_way.clear();
    let mut claim = Claim {
        relay: ask.relay,
        challenge: ask.challenge,
        incarnation: Incarnation(77),
        nonce: [3; 16],
        rank: Rank {
            sealed: true,
            served_s: 1,
            draw: 1,
        },
        asked_rank: ask.rank,
        points: Vec::new(),
        signature: [0; 64],
    };
    claim.signature = signature(1, &claim.signed_bytes());
    world.say(1, link, &PeerFrame::Claim(claim));
    assert_eq!(world.alarms(1), 0);
    assert!(world.twins(1).is_empty());
    assert_eq!(world.machines[1].closed, [link], "and it is shut out");
}

/// A backup that is restored after its machine is gone, and one that is as new as the machine was.
#[test]
fn a_machine_that_goes_back_is_noticed_and_goes_on_under_another_life() {
    let mut world = World::new();
    world.connect(1, HUB);
    let backup = world.machines[1].state.clone();
    world.restart(1);
    world.connect(1, HUB);
    world.restore(1, &backup);
    let before = world.machines[1].engine.incarnation();
    world.connect(1, HUB);
    let (till, hub) = (
        world.machines[1].identity.qm,
        world.machines[HUB].identity.qm,
    );
    let by = BranchEvidence::Token;
    assert_eq!(
        world.branches(HUB),
        [Event::HistoryBranched { peer: till, by }]
    );
    assert_eq!(
        world.branches(1),
        [Event::OwnHistoryBranched { told_by: hub }]
    );
    assert_ne!(world.machines[1].engine.incarnation(), before);
    assert_eq!(world.sessions(1), 1, "and its session opens");
    assert_eq!(world.alarms(HUB) + world.alarms(1), 0, "nobody is a twin");
    // From then on its branch is known: the same machine is not told of twice.
    world.restart(1);
    world.connect(1, HUB);
    assert_eq!(world.branches(HUB).len(), 1);
    // What was seen outlives the hub's process.
    world.restart(HUB);
    assert_eq!(world.status(HUB).branched[0].tokens, 1);
}

/// Whatever of a handshake is lost with the process: that is no history that branched.
#[test]
fn a_handshake_that_breaks_off_accuses_nobody() {
    for stored in [false, true] {
        for breaks in [1, HUB] {
            let mut world = World::new();
            world.connect(1, HUB);
            for _ in 0..3 {
                world.restart(1);
                world.machines[breaks].slow = true;
                world.connect(1, HUB);
                let now = world.now();
                if stored {
                    // On disk, and nothing of it was said.
                    world.machines[breaks].written(now);
                }
                world.restart(breaks);
                world.restart(1);
                world.connect(1, HUB);
                assert_eq!(world.sessions(1), 1, "{breaks} {stored}");
                for number in [1, HUB] {
                    assert_eq!(world.branches(number), [], "{breaks} {stored}");
                }
            }
        }
    }
}

/// The peer is never accused of what this node's own disk forgot.
#[test]
fn a_hub_that_goes_back_tells_it_of_itself() {
    let mut world = World::new();
    world.connect(1, HUB);
    let backup = world.machines[HUB].state.clone();
    for _ in 0..2 {
        world.restart(1);
        world.connect(1, HUB);
    }
    world.restore(HUB, &backup);
    let till = world.machines[1].identity.qm;
    world.restart(1);
    world.connect(1, HUB);
    let hub = world.machines[HUB].identity.qm;
    let by = BranchEvidence::Token;
    assert_eq!(
        world.branches(HUB),
        [
            Event::OwnStoreWentBack { peer: till },
            Event::OwnHistoryBranched { told_by: till }
        ],
        "nothing about the till"
    );
    assert_eq!(
        world.branches(1),
        [Event::HistoryBranched { peer: hub, by }],
        "the till has its own view of it"
    );
    assert_eq!(world.status(HUB).went_back[0].peer, till);
    world.restart(1);
    world.connect(1, HUB);
    assert_eq!(world.branches(HUB).len(), 2, "it is told once");
}

/// W-SES-6, and the same for who remembers.
#[test]
fn a_session_opens_when_both_sides_have_stored_what_they_tell() {
    for slow in [1, HUB] {
        let mut world = World::new();
        world.machines[slow].slow = true;
        world.connect(1, HUB);
        assert_eq!(world.sessions(1) + world.sessions(HUB), 0, "{slow} is slow");
        for _ in 0..3 {
            let now = world.now();
            world.machines[slow].written(now);
            world.tick(slow);
            world.carry();
        }
        assert_eq!((world.sessions(1), world.sessions(HUB)), (1, 1));
    }
}

#[test]
fn an_open_session_gets_a_fresh_token_from_time_to_time() {
    gets_fresh_tokens(false);
    // A newer one went further, and was turned away for it.
    gets_fresh_tokens(true);
}

fn gets_fresh_tokens(beside_another: bool) {
    let mut world = World::new();
    // Held open, as idle ones are not.
    for (number, other) in [(1, HUB), (HUB, 1)] {
        let what = AdminRequest::PeerAdd {
            name: "other".to_owned(),
            address: None,
            qm: Some(world.machines[other].identity.qm),
            keep_connected: true,
        };
        let (conn, request) = (ConnId(1), 1);
        world.give(
            number,
            Input::Admin {
                conn,
                request,
                what,
            },
        );
    }
    let ids = [1, HUB].map(|number| world.machines[number].identity.qm);
    let [lower, higher] = if ids[0] < ids[1] { [1, HUB] } else { [HUB, 1] };
    let link = world.connect(lower, higher);
    let mut sessions = 1;
    if beside_another {
        let newer = world.connect(higher, lower);
        assert!(world.machines.iter().any(|m| m.closed == [newer]));
        world.cut(newer);
        sessions += 1;
    }
    let mut tokens = vec![world.token(1).expect("it got one")];
    for _ in 0..5 {
        world.now_ms += 599_000;
        world.tick(1);
        world.tick(HUB);
        world.carry();
        world.now_ms += 1_500;
        world.tick(1);
        world.tick(HUB);
        world.carry();
        tokens.push(world.token(1).expect("it has one"));
    }
    tokens.dedup();
    // The first that a session gets behind a newer one brings that one's into it.
    let got = 7 - sessions;
    assert_eq!(tokens.len(), got, "{:?}", world.machines[1].closed);
    assert!(world.machines.iter().all(|m| !m.closed.contains(&link)));
    for number in [1, HUB] {
        assert_eq!(world.branches(number), []);
        assert_eq!(world.sessions(number), sessions);
    }
    world.restart(1);
    world.connect(1, HUB);
    assert_eq!(world.branches(HUB), []);
}

/// A peer that has nothing but old tokens makes this node remember a few.
#[test]
fn branches_of_a_peer_are_bounded() {
    let mut world = World::new();
    world.connect(1, HUB);
    let old = world.machines[1].state.clone();
    for n in 0..12 {
        world.restart(1);
        world.connect(1, HUB);
        // Each goes back to the same place, and then on.
        world.restore(1, &old);
        world.now_ms += 100_000 * n;
        world.connect(1, HUB);
    }
    let ledger = world.machines[HUB].state.iter();
    let ledger = ledger.filter(|(key, _)| key.starts_with(b"ledger/"));
    let bytes: Vec<usize> = ledger.map(|(_, value)| value.len()).collect();
    assert_eq!(bytes, [2 + 8 * 24]);
}

/// What noticing costs a healthy machine; docs/identity.md tells these figures.
#[test]
fn the_price_of_a_handshake() {
    let mut world = World::new();
    for (contact, bytes_max, writes) in [("first", 700, 3), ("later", 900, 3)] {
        let written = world.machines[1].persisted;
        let link = world.dial(1, HUB);
        let (mut bursts, mut bytes) = (0, 0);
        while !world.under_way.is_empty() {
            bursts += 1;
            for (to, link, frames) in core::mem::take(&mut world.under_way) {
                bytes += frames.len();
                world.give(to, Input::Received { link, frames });
            }
        }
        let writes_here = world.machines[1].persisted - written;
        println!(
            "{contact} contact: {bursts} bursts, {bytes} bytes both ways, {writes_here} writes"
        );
        assert_eq!(bursts, 4, "hello, welcome, confirm, credit");
        assert!(bytes <= bytes_max, "{bytes} bytes");
        assert!(writes_here <= writes, "{writes_here} writes");
        for number in [1, HUB] {
            let text = "lost".to_owned();
            world.give(number, Input::Closed { link, text });
        }
    }
}

/// W-TWN-1: the machine that has served longer keeps the identity; the other knows it, also after a
/// restart of anybody, and from then on no restart turns that round.
#[test]
fn one_of_two_copies_learns_that_the_other_keeps_the_identity() {
    let mut world = World::new();
    world.now_ms = 500_000;
    let copy = world.copy(1, "till-2");
    world.connect(1, HUB);
    world.connect(copy, HUB);
    let lost = |world: &World, number: usize| {
        let events = world.machines[number].events.iter();
        let lost = |event: &&Event| matches!(event, Event::ElectionLost { .. });
        events.filter(lost).cloned().collect::<Vec<_>>()
    };
    assert_eq!(lost(&world, 1), [], "the till has served longer");
    let told = lost(&world, copy);
    assert!(
        matches!(&told[..], [Event::ElectionLost { winner, on_twin: OnTwin::Reidentify, .. }]
            if winner.host == "till"),
        "{told:?}"
    );
    for number in [1, copy, HUB] {
        world.restart(number);
    }
    // The till starts anew, long after its copy: what was said is said for ever.
    assert_eq!(world.twins(1)[0].lost_us, None);
    assert!(world.twins(copy)[0].lost_us.is_some());
    assert_eq!(world.twins(HUB)[0].machines.len(), 2);
    world.now_ms += 900_000;
    world.restart(1);
    world.connect(copy, HUB);
    world.connect(1, HUB);
    let spoke = world.twins(1)[0].last_us;
    assert_eq!(spoke, 1_000_000_000 + 1_400_000_000, "they spoke again");
    assert_eq!(world.alarms(1), 0, "and that is no news");
    for number in [1, copy] {
        assert_eq!(lost(&world, number), [], "it is told once");
    }
    assert_eq!(world.twins(1)[0].lost_us, None);
}

/// What is said to a copy is on disk before.
#[test]
fn a_rank_is_stored_before_it_is_said() {
    let mut world = World::new();
    let copy = world.copy(1, "till-2");
    world.connect(1, HUB);
    world.connect(copy, HUB);
    assert_eq!(world.twins(1).len(), 1);
    let mut world = World::new();
    let copy = world.copy(1, "till-2");
    world.connect(1, HUB);
    world.machines[1].slow = true;
    world.connect(copy, HUB);
    assert_eq!(world.twins(copy), [], "nobody has heard the till's rank");
    let now = world.now();
    world.machines[1].written(now);
    world.machines[1].slow = false;
    world.tick(1);
    world.carry();
    assert_eq!(world.twins(copy).len(), 1);
}

/// So is the life by which it will know this machine, in which another one may part later.
#[test]
fn a_life_is_stored_before_a_copy_hears_of_it() {
    let mut world = World::new();
    let copies = [world.copy(1, "till-2"), world.copy(1, "till-3")];
    world.connect(1, HUB);
    world.connect(copies[0], HUB);
    assert_eq!(world.twins(copies[0]).len(), 1, "its rank is stored");
    world.restart(copies[0]);
    world.restart(1);
    world.connect(1, HUB);
    world.machines[1].slow = true;
    world.connect(copies[1], HUB);
    assert_eq!(world.twins(copies[1]), [], "nothing is said of this life");
    let now = world.now();
    world.machines[1].written(now);
    world.machines[1].slow = false;
    world.tick(1);
    world.carry();
    assert_eq!(world.twins(copies[1]).len(), 1);
}

/// Two machines with one memory have one life, so a session with one takes the place of that with
/// the other, and nobody asks both whether they live. What they gave their peer tells them apart.
#[test]
fn processes_of_one_memory_that_take_each_others_sessions_are_told_apart() {
    let mut world = World::new();
    let twin = machine(2, "till", BTreeMap::new(), 2, world.now());
    world.machines.push(twin);
    let twin = world.machines.len() - 1;
    world.tick(twin);
    let life = |world: &World, number: usize| world.machines[number].engine.incarnation();
    assert_eq!(life(&world, 1), life(&world, twin), "they are in one life");
    let link = world.connect(1, HUB);
    world.cut(link);
    // The hub sees a history that branched, once, and its word of that is lost.
    let link = world.dial(twin, HUB);
    while world.branches(HUB).is_empty() {
        let (to, of, frames) = world.under_way.pop_front().unwrap();
        world.give(to, Input::Received { link: of, frames });
    }
    world.cut(link);
    let mut turns = 0;
    while life(&world, 1) == life(&world, twin) {
        assert!(turns < 4, "they stay in one life");
        for machine in [1, twin] {
            let link = world.connect(machine, HUB);
            world.cut(link);
        }
        turns += 1;
    }
    assert_eq!(world.alarms(HUB), 0);
    // From here on they draw other numbers, as a node does because it adds the time.
    let link = world.connect(1, HUB);
    world.cut(link);
    world.connect(1, HUB);
    world.connect(twin, HUB);
    assert_eq!(world.alarms(HUB), 1, "the hub asks both");
    assert_eq!([world.alarms(1), world.alarms(twin)], [1, 1]);
    // Of its disk only the one says something that had given nothing when it began.
    let back = |event: &&Event| matches!(event, Event::OwnStoreWentBack { .. });
    let said = [1, twin].map(|number| world.branches(number).iter().filter(back).count());
    assert_eq!(said, [0, 1]);
}

/// A node may be told its own address. It begins another life while its hello to itself is under
/// way: that is no other machine.
#[test]
fn a_node_that_reaches_itself_is_no_copy_of_itself() {
    let mut world = World::new();
    world.connect(1, HUB);
    let backup = world.machines[1].state.clone();
    world.restart(1);
    world.connect(1, HUB);
    world.restore(1, &backup);
    let me = world.machines[1].identity;
    let before = world.machines[1].engine.incarnation();
    let ends = [901, 902].map(LinkId);
    for link in ends {
        world.links.insert(link, [1, 1]);
        let input = Input::Connected {
            link,
            peer: me.qm,
            public_key: me.public_key,
            own: me.qm,
            remote: "10.0.0.1:1801".parse().unwrap(),
            dial: None,
        };
        world.give(1, input);
    }
    let hellos: Vec<_> = world.under_way.drain(..).collect();
    assert_eq!(hellos.len(), 2);
    world.connect(1, HUB);
    assert_ne!(world.machines[1].engine.incarnation(), before);
    for (_, from, frames) in hellos {
        let link = if from == ends[0] { ends[1] } else { ends[0] };
        world.give(1, Input::Received { link, frames });
    }
    world.carry();
    assert_eq!(world.alarms(1), 0);
    assert_eq!(world.twins(1), []);
}

#[test]
fn copies_that_meet_decide_it_among_themselves() {
    let mut world = World::new();
    let copy = world.copy(1, "till-2");
    world.now_ms = 5_000;
    world.restart(copy);
    world.connect(1, copy);
    let keeps = |world: &mut World, number: usize| world.twins(number)[0].lost_us.is_none();
    assert!(keeps(&mut world, 1));
    assert!(!keeps(&mut world, copy));
}

/// A copy on another machine gives way, however long it has run; a move is told and nothing else.
#[test]
fn the_machine_that_the_identity_was_made_on_keeps_it() {
    let seal = |value| qm_engine::Seal {
        source: "machine-id",
        value: [value; 32],
    };
    let mut world = World::new();
    let start = |world: &mut World, number: usize, value| {
        let now = world.now();
        let machine = &mut world.machines[number];
        let mut config = EngineConfig::default();
        config.trust = Trust::Any;
        config.host.clone_from(&machine.host);
        config.seals = vec![seal(value)];
        let recovered = Recovered {
            state: machine.state.clone(),
            ..Recovered::default()
        };
        let entropy = Box::new(SeededEntropy::new(u64::from(value)));
        machine.engine = Engine::new(config, machine.identity, recovered, entropy, now);
        machine.events.clear();
        world.tick(number);
    };
    start(&mut world, 1, 7);
    let copy = world.copy(1, "till-2");
    start(&mut world, copy, 8);
    assert!(world.machines[copy].events.contains(&Event::Moved));
    world.now_ms = 500_000;
    start(&mut world, 1, 7);
    assert!(!world.machines[1].events.contains(&Event::Moved));
    world.connect(copy, HUB);
    world.connect(1, HUB);
    assert_eq!(world.twins(1)[0].lost_us, None, "it is where it was made");
    assert!(world.twins(copy)[0].lost_us.is_some());
}

/// What was said about a first copy does not decide about one that is made later.
#[test]
fn a_machine_that_served_for_years_keeps_its_identity_from_a_copy_of_it() {
    for seed in 0..8 {
        let mut world = World::new();
        let first = world.copy(1, "till-2");
        world.now_ms = 10_000;
        world.connect(1, HUB);
        world.restart(first);
        world.connect(first, HUB);
        assert_eq!(world.twins(1)[0].lost_us, None);
        // Its operator says that the incident is over.
        let who = world.machines[1].identity.qm.to_string();
        let (conn, request) = (ConnId(1), 1);
        let what = AdminRequest::PeerForget { who };
        let input = Input::Admin {
            conn,
            request,
            what,
        };
        world.give(1, input);
        world.now_ms += 400 * 24 * 3_600_000 + seed;
        // Its rank is copied with its disk.
        let second = world.copy(1, "till-3");
        world.restart(second);
        world.connect(second, HUB);
        world.connect(1, HUB);
        assert_eq!(world.twins(1)[0].lost_us, None, "seed {seed}");
        assert!(world.twins(second)[0].lost_us.is_some(), "seed {seed}");
    }
}

/// Whoever has the key may say that it takes another identity: of itself, not of others.
#[test]
fn a_machine_that_parts_says_nothing_of_the_others() {
    let mut world = World::new();
    let copies = [1, world.copy(1, "till-2"), world.copy(1, "till-3")];
    for copy in copies {
        world.connect(copy, HUB);
    }
    // W-TWN-5.
    let parts = |world: &mut World, copy: usize| {
        let mut links = world.links.iter();
        let link = links.find(|(_, ends)| ends.contains(&copy));
        let (link, reason) = (*link.unwrap().0, Outcome::WRONG_IDENTITY);
        let text = "it takes another".into();
        world.say(HUB, link, &PeerFrame::Goodbye(Goodbye { reason, text }));
    };
    assert_eq!(world.twins(HUB)[0].machines.len(), 3);
    parts(&mut world, copies[2]);
    let left = world.twins(HUB);
    assert_eq!(left.len(), 1, "two are left");
    let hosts: Vec<&str> = places(&left[0]).into_iter().map(|(host, _)| host).collect();
    assert_eq!(hosts, ["till", "till-2"]);
    parts(&mut world, copies[1]);
    assert!(world.twins(HUB).is_empty(), "one is left");
}

fn welcome(attempt: u64, nonce: u8, flags: WelcomeFlags, token: u8) -> PeerFrame {
    PeerFrame::Welcome(Welcome {
        flags,
        protocol: 1,
        incarnation: Incarnation(5),
        attempt,
        nonce: [nonce; 16],
        store_id: [1; 16],
        token: vec![token; 56].into(),
    })
}

/// Each costs a write of this node's disk.
#[test]
fn a_session_that_does_not_open_gets_a_few_welcomes() {
    let mut world = World::new();
    let link = world.dial(1, HUB);
    world.under_way.clear();
    for n in 0..400_u16 {
        let token = n.to_le_bytes()[0];
        world.say(1, link, &welcome(1, 3, WelcomeFlags::NONE, token));
    }
    assert_eq!(world.machines[1].closed, [link]);
    assert!(world.machines[1].persisted < 300);
}

/// A node that nobody knows says that this one's history branched, minute by minute.
#[test]
fn a_strangers_word_begins_no_new_life_and_others_begin_few() {
    for (trust, lives_max) in [(Trust::Approve, 1), (Trust::Any, 12)] {
        let mut world = World::new();
        let now = world.now();
        let mut config = EngineConfig::default();
        config.trust = trust;
        let identity = world.machines[1].identity;
        let entropy = Box::new(SeededEntropy::new(9));
        let recovered = Recovered::default();
        world.machines[1].engine = Engine::new(config, identity, recovered, entropy, now);
        let mut lives = std::collections::BTreeSet::new();
        for attempt in 1..=2_000 {
            world.now_ms += 61_000;
            world.tick(1);
            let link = world.dial(HUB, 1);
            world.under_way.clear();
            world.say(1, link, &welcome(attempt, 3, WelcomeFlags::BRANCHED, 1));
            lives.insert(world.machines[1].engine.incarnation());
            let text = "lost".to_owned();
            for end in [HUB, 1] {
                let text = text.clone();
                world.give(end, Input::Closed { link, text });
            }
        }
        assert!(lives.len() <= lives_max, "{trust:?}: {} lives", lives.len());
        assert_eq!(lives.len() > 1, trust == Trust::Any);
    }
}
