//! The world: what happens next, to whom, and whether what must hold still does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest, StatusView};
use qm_engine::{
    ConnId, DialFailure, Entropy, Event, Input, Lane, LoadId, LocalSettings, Output, SeededEntropy,
    StoreOp, StoredMessage, StoredRecord, Ticket,
};
use qm_store::{Applied, Fault};
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{Class, MessageId, Outcome, QmId};

use crate::application::{Receiver, Sender};
use crate::machine::{Committed, Machine, outputs};
use crate::network::{End, Network};
use crate::oracle::{Fate, Oracle, Put};
use crate::scenario::Scenario;

/// After the last fault everything must have drained within this virtual time.
const DRAIN_US: u64 = 20 * 60 * 1_000_000;
const PORT: u16 = 1801;

/// What a run that kept every rule did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages consumed by applications.
    pub consumed: u64,
    /// Puts refused for good.
    pub refused: u64,
    /// Machines that lost power or were killed.
    pub deaths: u64,
    /// Of these, in the middle of a commit or of recovery.
    pub deaths_in_commit: u64,
    /// Links that broke.
    pub broken_links: u64,
    /// Buffers lost on living links.
    pub lost_buffers: u64,
    /// Batches refused by full disks.
    pub full_batches: u64,
    /// Duplicates removed by the duplicate cache.
    pub duplicates: u64,
    /// Acks sent off their session.
    pub routed_acks: u64,
    /// Messages whose fate was asked.
    pub queried: u64,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
    /// Events handled.
    pub steps: u64,
    /// Hash over everything that happened, in order.
    pub trace_hash: u64,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed to run again.
    pub seed: u64,
    /// Which rule, and what was seen.
    pub text: String,
    /// Virtual time of it, milliseconds.
    pub at_ms: u64,
    /// The last things that happened before.
    pub tail: Vec<String>,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.text)?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        write!(f, "again with: cargo xtask sim --seed {}", self.seed)
    }
}

impl core::error::Error for Failure {}

#[derive(Debug)]
enum What {
    Frames {
        to: End,
        link: u64,
        frames: Bytes,
    },
    LinkDown {
        end: End,
        text: &'static str,
    },
    LinkEnd {
        link: u64,
    },
    Dialled {
        node: usize,
        life: u64,
        dial: u64,
        address: String,
        expected: Option<QmId>,
    },
    Commit {
        node: usize,
        life: u64,
    },
    Loaded {
        node: usize,
        life: u64,
        load: LoadId,
        records: Vec<StoredRecord>,
    },
    Tick {
        node: usize,
        life: u64,
    },
    Start {
        node: usize,
    },
    ToNode {
        conn: ConnId,
        frame: ClientFrame,
    },
    ToApplication {
        conn: ConnId,
        frame: NodeFrame,
    },
    Connect {
        who: Who,
    },
    Work {
        sender: usize,
    },
    BreakLink,
    LosePower,
    Kill,
    BreakClient,
    FillDisk,
    EmptyDisk {
        node: usize,
    },
    JumpClock,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Sender(usize),
    Receiver(usize),
}

struct Conn {
    node: usize,
    who: Who,
    /// When the last frame arrives, towards the node and towards the application.
    paces: [u64; 2],
}

struct World {
    scenario: Scenario,
    random: SeededEntropy,
    now: u64,
    agenda: BTreeMap<(u64, u64), What>,
    planned: u64,
    machines: Vec<Machine>,
    network: Network,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    oracle: Oracle,
    /// Which put became which recoverable message, as read from the batches of its own node.
    names: BTreeMap<(QmId, MessageId), Put>,
    report: Report,
    tail: std::collections::VecDeque<String>,
    full: bool,
    print: bool,
}

/// Runs a scenario to its end.
///
/// # Errors
/// The first rule that is broken.
pub fn run(scenario: Scenario) -> Result<Report, Box<Failure>> {
    World::new(scenario, false).run()
}

/// The same, printing everything that happens to standard error.
///
/// # Errors
/// The first rule that is broken.
pub fn run_traced(scenario: Scenario) -> Result<Report, Box<Failure>> {
    World::new(scenario, true).run()
}

impl World {
    fn new(scenario: Scenario, print: bool) -> Self {
        let mut random = SeededEntropy::new(scenario.seed);
        let machines: Vec<_> = (0..scenario.nodes)
            .map(|n| Machine::new(n, scenario.seed))
            .collect();
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for node in 0..scenario.nodes {
            receivers.push(Receiver::new(&mut random));
            for _ in 0..scenario.senders {
                let number = u32::try_from(senders.len()).unwrap_or(0);
                senders.push(Sender::new(number, node, &mut random));
            }
        }
        let mut oracle = Oracle::new(scenario.nodes);
        oracle.forgetful = scenario.segment_bytes < 1 << 20;
        oracle.gaps = scenario.lost_buffers_per_mille > 0 || scenario.disk_full_ms > 0;
        Self {
            random,
            now: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            machines,
            network: Network::default(),
            senders,
            receivers,
            conns: BTreeMap::new(),
            next_conn: 0,
            oracle,
            names: BTreeMap::new(),
            report: Report {
                trace_hash: 0xcbf2_9ce4_8422_2325,
                ..Report::default()
            },
            tail: std::collections::VecDeque::new(),
            full: false,
            print,
            scenario,
        }
    }

    fn draw(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high.max(low) - low + 1)
    }

    fn plan(&mut self, delay_us: u64, what: What) {
        self.plan_at(self.now + delay_us, what);
    }

    fn plan_at(&mut self, at: u64, what: What) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), what);
    }

    /// Plans the next fault of a kind: exponential in spirit, uniform up to twice the mean.
    fn plan_fault(&mut self, mean_ms: u64, what: What) {
        if mean_ms > 0 && self.now < self.scenario.fault_ms * 1_000 {
            let delay = self.draw(1, 2 * mean_ms) * 1_000;
            self.plan(delay, what);
        }
    }

    fn note(&mut self, text: &str) {
        // FNV-1a: the trace's identity, not its protection.
        let line = format!("{:>10.3} ms {text}", self.now as f64 / 1_000.0);
        for byte in line.bytes() {
            self.report.trace_hash ^= u64::from(byte);
            self.report.trace_hash = self.report.trace_hash.wrapping_mul(0x100_0000_01b3);
        }
        if self.print {
            #[expect(clippy::print_stderr, reason = "the trace was asked for")]
            {
                eprintln!("{line}");
            }
        }
        if self.tail.len() >= 40 {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    fn failure(&self, text: String) -> Box<Failure> {
        Box::new(Failure {
            seed: self.scenario.seed,
            text,
            at_ms: self.now / 1_000,
            tail: self.tail.iter().cloned().collect(),
        })
    }

    fn run(mut self) -> Result<Report, Box<Failure>> {
        match self.live() {
            Ok(()) => Ok(self.report),
            Err(text) => Err(self.failure(text)),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        for node in 0..self.scenario.nodes {
            let delay = self.draw(0, 20_000);
            self.plan(delay, What::Start { node });
        }
        for sender in 0..self.senders.len() {
            let delay = self.draw(20_000, 200_000);
            self.plan(delay, What::Work { sender });
        }
        let s = self.scenario.clone();
        self.plan_fault(s.link_break_ms, What::BreakLink);
        self.plan_fault(s.power_loss_ms, What::LosePower);
        self.plan_fault(s.kill_ms, What::Kill);
        self.plan_fault(s.client_break_ms, What::BreakClient);
        self.plan_fault(s.disk_full_ms, What::FillDisk);
        self.plan_fault(s.clock_jump_ms, What::JumpClock);
        let limit = s.fault_ms * 1_000 + DRAIN_US;
        while let Some(((at, _), what)) = self.agenda.pop_first() {
            self.now = at;
            self.report.steps += 1;
            self.step(what)?;
            if self.report.steps.is_multiple_of(256) && self.is_over() {
                break;
            }
            if self.now > limit {
                return Err(format!("rule 7: it does not end: {}", self.what_waits()));
            }
        }
        self.collect_dead_letters()?;
        self.oracle.finish()?;
        self.report.virtual_ms = self.now / 1_000;
        for fate in self.oracle.fates.values() {
            self.report.accepted += u64::from(!fate.accepted.is_empty());
            self.report.consumed += u64::from(fate.consumed > 0);
            self.report.refused += u64::from(fate.refused && fate.accepted.is_empty());
        }
        for node in 0..self.scenario.nodes {
            if let Some(status) = self.status(node) {
                self.report.duplicates += status.counters.duplicates;
                self.report.routed_acks += status.counters.acks_routed;
                self.report.queried += status.counters.queried;
            }
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        if self.now < self.scenario.fault_ms * 1_000 {
            return false;
        }
        let idle = self
            .senders
            .iter()
            .all(|s| s.is_done(&self.scenario) && s.unanswered.is_empty());
        if !idle
            || self
                .receivers
                .iter()
                .any(|r| !r.settling.is_empty() || !r.in_hand.is_empty())
        {
            return false;
        }
        (0..self.scenario.nodes).all(|node| {
            self.status(node)
                .is_some_and(|s| s.outgoing_messages == 0 && s.local_messages == 0)
        })
    }

    fn what_waits(&mut self) -> String {
        let mut text = format!("{} accepted puts are open", self.oracle.open());
        for sender in &self.senders {
            if !sender.unanswered.is_empty() || !sender.is_done(&self.scenario) {
                text += &format!(
                    "; application {} has {} unanswered, {} to put again",
                    sender.number,
                    sender.unanswered.len(),
                    sender.again.len()
                );
            }
        }
        for node in 0..self.scenario.nodes {
            match self.admin(node, AdminRequest::Outgoing) {
                Some(AdminReply::Outgoing(views)) => {
                    for view in views {
                        if view.waiting + view.unacknowledged + view.in_doubt > 0 {
                            text += &format!("; node{node}: {view:?}");
                        }
                    }
                }
                _ => text += &format!("; node{node} is down"),
            }
            if let Some(AdminReply::Queues(views)) = self.admin(node, AdminRequest::Queues) {
                for view in views.iter().filter(|view| view.messages + view.leased > 0) {
                    text += &format!("; node{node}: {view:?}");
                }
            }
        }
        text
    }

    fn admin(&mut self, node: usize, what: AdminRequest) -> Option<AdminReply> {
        let now = self.machines[node].now(self.now);
        let running = self.machines[node].running.as_mut()?;
        running.engine.handle(
            now,
            Input::Admin {
                conn: ConnId(0),
                request: 0,
                what,
            },
        );
        let mut answer = None;
        for output in outputs(&mut self.machines[node], self.now) {
            match output {
                Output::Admin { reply, .. } => answer = Some(reply),
                // Whatever else became due is handled as if it came by itself.
                other => {
                    let _handled = self.obey(node, other);
                }
            }
        }
        answer
    }

    fn status(&mut self, node: usize) -> Option<Box<StatusView>> {
        match self.admin(node, AdminRequest::Status) {
            Some(AdminReply::Status(status)) => Some(status),
            _ => None,
        }
    }

    fn life(&self, node: usize) -> u64 {
        self.machines[node].lives
    }

    fn is_same_life(&self, node: usize, life: u64) -> bool {
        self.machines[node].running.is_some() && self.life(node) == life
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Frames { to, link, frames } => {
                if self.network.is_alive(link) {
                    self.note(&format!(
                        "node{} receives {} bytes on {}",
                        to.node,
                        frames.len(),
                        to.link
                    ));
                    return self.give(
                        to.node,
                        Input::Received {
                            link: to.link,
                            frames,
                        },
                    );
                }
                Ok(())
            }
            What::LinkDown { end, text } => {
                let input = Input::Closed {
                    link: end.link,
                    text: text.to_owned(),
                };
                self.give(end.node, input)
            }
            What::LinkEnd { link } => {
                if let Some(ends) = self.network.break_link(link) {
                    for end in ends {
                        let input = Input::Closed {
                            link: end.link,
                            text: "closed by the peer".to_owned(),
                        };
                        self.give(end.node, input)?;
                    }
                }
                Ok(())
            }
            What::Dialled {
                node,
                life,
                dial,
                address,
                expected,
            } => {
                if self.is_same_life(node, life) {
                    return self.dialled(node, dial, &address, expected);
                }
                Ok(())
            }
            What::Commit { node, life } => {
                if self.is_same_life(node, life) {
                    return self.commit(node);
                }
                Ok(())
            }
            What::Loaded {
                node,
                life,
                load,
                records,
            } => {
                if self.is_same_life(node, life) {
                    return self.give(node, Input::Loaded { load, records });
                }
                Ok(())
            }
            What::Tick { node, life } => {
                if self.is_same_life(node, life) {
                    if self.machines[node].tick_at <= self.now {
                        self.machines[node].tick_at = u64::MAX;
                    }
                    return self.give(node, Input::Tick);
                }
                Ok(())
            }
            What::Start { node } => self.start(node),
            What::ToNode { conn, frame } => match self.conns.get(&conn).map(|conn| conn.node) {
                Some(node) => self.give(node, Input::Client { conn, frame }),
                None => Ok(()),
            },
            What::ToApplication { conn, frame } => self.to_application(conn, frame),
            What::Connect { who } => self.connect(who),
            What::Work { sender } => self.work(sender),
            What::BreakLink => self.break_some_link(),
            What::LosePower => self.lose_power(),
            What::Kill => self.kill_some(),
            What::BreakClient => self.break_some_client(),
            What::FillDisk => self.fill_disk(),
            What::EmptyDisk { node } => {
                self.note(&format!("node{node}: the disk has room again"));
                self.machines[node].disk.set_capacity(None);
                Ok(())
            }
            What::JumpClock => {
                let node = self.draw(0, self.scenario.nodes as u64 - 1) as usize;
                let years = 60 * 365 * 24 * 3_600 * 1_000_000_u64;
                let jump = self.draw(0, 2 * years) as i64 - years as i64;
                self.machines[node].wall_offset_us = jump;
                self.note(&format!("node{node}: the wall clock jumps"));
                self.plan_fault(self.scenario.clock_jump_ms, What::JumpClock);
                Ok(())
            }
        }
    }

    /// Hands an input to a machine and does what it asks for.
    fn give(&mut self, node: usize, input: Input) -> Result<(), String> {
        let now = self.machines[node].now(self.now);
        let Some(running) = &mut self.machines[node].running else {
            return Ok(());
        };
        running.engine.handle(now, input);
        // Now and then several inputs are handled before anything leaves.
        if self.draw(0, 7) == 0 {
            let life = self.life(node);
            let delay = self.draw(1, 500);
            self.plan(delay, What::Tick { node, life });
            return Ok(());
        }
        self.drain(node)
    }

    fn drain(&mut self, node: usize) -> Result<(), String> {
        for output in outputs(&mut self.machines[node], self.now) {
            self.obey(node, output)?;
        }
        let life = self.life(node);
        if let Some(running) = &self.machines[node].running {
            running
                .engine
                .audit()
                .map_err(|text| format!("rule 8: node{node}: {text}"))?;
            let due = self.machines[node].world_time(running.engine.next_deadline());
            let due = due.max(self.now + 1);
            if due < self.machines[node].tick_at {
                self.machines[node].tick_at = due;
                self.plan_at(due, What::Tick { node, life });
            }
        }
        Ok(())
    }

    fn obey(&mut self, node: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Send { link, lane, frames } => {
                self.send(End { node, link }, lane, frames);
                Ok(())
            }
            Output::Close { link, reason, .. } => {
                self.note(&format!("node{node} closes {link}: {reason}"));
                self.close(End { node, link });
                Ok(())
            }
            Output::Dial {
                dial,
                address,
                expected,
            } => {
                let life = self.life(node);
                let delay = self.draw(100, self.scenario.delay_max_us.max(200) * 2);
                self.plan(
                    delay,
                    What::Dialled {
                        node,
                        life,
                        dial,
                        address,
                        expected,
                    },
                );
                Ok(())
            }
            Output::Persist { ticket, ops } => {
                self.persist(node, ticket, ops);
                Ok(())
            }
            Output::Load {
                load,
                stream,
                from,
                records_max,
                bytes_max,
            } => {
                let records = self.machines[node].load(stream, from, records_max, bytes_max)?;
                let life = self.life(node);
                let delay = self.draw(1, 5_000);
                self.plan(
                    delay,
                    What::Loaded {
                        node,
                        life,
                        load,
                        records,
                    },
                );
                Ok(())
            }
            Output::Client { conn, frame } => {
                self.reply(conn, frame);
                Ok(())
            }
            Output::CloseClient { text, .. } => Err(format!(
                "node{node} shut a well-behaved application out: {text}"
            )),
            Output::Event(event) => self.observe(node, event),
            Output::Admin { .. } => Ok(()),
            other => Err(format!("the world does not know {other:?}")),
        }
    }

    fn send(&mut self, from: End, lane: Lane, frames: Bytes) {
        let lossy = matches!(lane, Lane::Ack | Lane::Priority(_));
        if lossy
            && self.draw(1, 1_000) <= self.scenario.lost_buffers_per_mille
            && self.now < self.scenario.fault_ms * 1_000
        {
            self.report.lost_buffers += 1;
            self.note(&format!(
                "node{} loses {} bytes on {}",
                from.node,
                frames.len(),
                from.link
            ));
            return;
        }
        let delay = self.draw(10, self.scenario.delay_max_us);
        let now = self.now;
        let Some(link) = self.network.id_of(from) else {
            return;
        };
        let Some((to, lanes)) = self.network.towards(from) else {
            return;
        };
        let at = (now + delay).max(lanes.get(&lane).copied().unwrap_or(0) + 1);
        lanes.insert(lane, at);
        self.plan_at(at, What::Frames { to, link, frames });
    }

    /// The other end gets what was sent, then the end.
    fn close(&mut self, from: End) {
        let now = self.now;
        let Some(link) = self.network.id_of(from) else {
            return;
        };
        let Some((_, lanes)) = self.network.towards(from) else {
            return;
        };
        let at = lanes.values().copied().max().unwrap_or(0).max(now) + 1;
        self.plan_at(at, What::LinkEnd { link });
    }

    fn break_link(&mut self, link: u64) {
        if let Some(ends) = self.network.break_link(link) {
            self.report.broken_links += 1;
            for end in ends {
                let delay = self.draw(1, 2_000_000);
                self.plan(
                    delay,
                    What::LinkDown {
                        end,
                        text: "the connection was lost",
                    },
                );
            }
        }
    }

    fn address_of(node: usize) -> SocketAddr {
        let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), PORT)
    }

    fn dialled(
        &mut self,
        node: usize,
        dial: u64,
        address: &str,
        expected: Option<QmId>,
    ) -> Result<(), String> {
        let target = (0..self.scenario.nodes).find(|n| {
            address == format!("node{n}:{PORT}") || address == Self::address_of(*n).to_string()
        });
        let hidden = |n: usize| self.scenario.nat && n == self.scenario.nodes - 1;
        let fail = |failure, text: &str| Input::DialFailed {
            dial,
            failure,
            text: text.to_owned(),
        };
        let Some(target) = target else {
            return self.give(node, fail(DialFailure::Unresolved, "no such host"));
        };
        if self.machines[target].running.is_none() || hidden(target) {
            return self.give(node, fail(DialFailure::Refused, "nothing listens there"));
        }
        if expected.is_some_and(|qm| qm != self.machines[target].identity.qm) {
            return self.give(
                node,
                fail(DialFailure::WrongIdentity, "somebody else answers"),
            );
        }
        let [here, there] = self.network.connect(node, target);
        let (me, peer) = (self.machines[node].identity, self.machines[target].identity);
        self.note(&format!("node{node} reaches node{target}"));
        self.give(
            node,
            Input::Connected {
                link: here.link,
                peer: peer.qm,
                public_key: peer.public_key,
                remote: Self::address_of(target),
                dial: Some(dial),
            },
        )?;
        let mut remote = Self::address_of(node);
        remote.set_port(40_000);
        self.give(
            target,
            Input::Connected {
                link: there.link,
                peer: me.qm,
                public_key: me.public_key,
                remote,
                dial: None,
            },
        )
    }

    fn persist(&mut self, node: usize, ticket: Ticket, ops: Vec<StoreOp>) {
        let life = self.life(node);
        let delay = self.draw(10, self.scenario.commit_max_us);
        if let Some(running) = &mut self.machines[node].running {
            running.waiting.push((ticket, ops));
            if !running.committing {
                running.committing = true;
                self.plan(delay, What::Commit { node, life });
            }
        }
    }

    fn commit(&mut self, node: usize) -> Result<(), String> {
        let committed = self.machines[node].commit()?;
        let Committed::Answers(answers) = committed else {
            self.report.deaths_in_commit += 1;
            self.note(&format!("node{node}: power lost in the middle of a commit"));
            return self.die(node, true);
        };
        let source = self.machines[node].identity.qm;
        let mut inputs = Vec::new();
        for (ticket, ops, applied) in answers {
            if applied != Applied::Done {
                if !matches!(applied, Applied::Full) {
                    return Err(format!("node{node}: a batch was refused: {applied:?}"));
                }
                self.report.full_batches += 1;
                inputs.push(Input::PersistRefused { ticket });
                continue;
            }
            for op in &ops {
                let StoreOp::Put { head, body, .. } = op else {
                    continue;
                };
                let Some(stored) = StoredMessage::read(head) else {
                    return Err(format!("node{node}: an unreadable head was stored"));
                };
                let id = stored.envelope.id;
                let Some(put) = Put::from_body(body) else {
                    return Err(format!("node{node}: a body nobody sent was stored"));
                };
                if stored.envelope.source == source {
                    self.note(&format!("node{node} stores {put:?} as {id}"));
                    self.names.insert((source, id), put);
                } else if stored.dead.is_none() {
                    self.oracle.stored(node, stored.envelope.source, id, put)?;
                }
                self.oracle.flushed(node, stored.envelope.source, id);
            }
            inputs.push(Input::Persisted { ticket });
        }
        if let Some(running) = &mut self.machines[node].running {
            running.committing = false;
        }
        self.note(&format!("node{node}: {} batches are on disk", inputs.len()));
        for input in inputs {
            self.give(node, input)?;
        }
        let more = self.machines[node]
            .running
            .as_ref()
            .is_some_and(|r| !r.waiting.is_empty());
        if more {
            let life = self.life(node);
            let delay = self.draw(10, self.scenario.commit_max_us);
            if let Some(running) = &mut self.machines[node].running
                && !running.committing
            {
                running.committing = true;
                self.plan(delay, What::Commit { node, life });
            }
        }
        Ok(())
    }

    fn observe(&mut self, node: usize, event: Event) -> Result<(), String> {
        self.note(&format!("node{node}: {event:?}"));
        let source = self.machines[node].identity.qm;
        match event {
            Event::Acknowledged { id } => {
                if let Some(put) = self.names.get(&(source, id)) {
                    let to = self.oracle.fates.get(put).map_or(0, |fate| fate.towards.0);
                    return self.oracle.acknowledged(true, source, id, to);
                }
                Ok(())
            }
            Event::PeerMisbehaved { text, .. } => Err(format!(
                "node{node} finds fault with a well-behaved peer: {text}"
            )),
            Event::Unreadable { what } => Err(format!("node{node} cannot read {what}")),
            Event::IdentityChanged { .. } => Err(format!("node{node} takes a peer for another")),
            _ => Ok(()),
        }
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].running.is_some() {
            return Ok(());
        }
        let scenario = self.scenario.clone();
        let Some(heads) = self.machines[node].start(&scenario, self.now)? else {
            self.report.deaths_in_commit += 1;
            self.note(&format!("node{node}: power lost during recovery"));
            return self.die(node, true);
        };
        for stored in heads.iter().filter_map(StoredMessage::read) {
            // A commit that the power cut short may still have reached the disk whole.
            self.oracle
                .flushed(node, stored.envelope.source, stored.envelope.id);
        }
        self.note(&format!("node{node} starts"));
        if self.machines[node].lives == 1 || self.queue_is_missing(node) {
            let mut settings = LocalSettings::new("inbox".parse().expect("a valid name"));
            settings.quota_messages = scenario.quota_messages;
            self.admin(node, AdminRequest::QueueCreate(settings));
        }
        if scenario.nat && node == scenario.nodes - 1 {
            for other in 0..scenario.nodes - 1 {
                self.add_peer(node, other);
            }
        }
        if scenario.nat && node != scenario.nodes - 1 {
            let hidden = self.machines[scenario.nodes - 1].identity.qm;
            let name = format!("node{}", scenario.nodes - 1);
            let what = AdminRequest::PeerAdd {
                name,
                address: None,
                qm: Some(hidden),
                keep_connected: false,
            };
            self.admin(node, what);
        }
        self.drain(node)?;
        for sender in 0..self.senders.len() {
            if self.senders[sender].node == node {
                self.connect(Who::Sender(sender))?;
            }
        }
        self.connect(Who::Receiver(node))
    }

    fn add_peer(&mut self, node: usize, other: usize) {
        let what = AdminRequest::PeerAdd {
            name: format!("node{other}"),
            address: Some(format!("node{other}:{PORT}")),
            qm: None,
            keep_connected: true,
        };
        self.admin(node, what);
    }

    /// The queue was created and its creation did not survive.
    fn queue_is_missing(&mut self, node: usize) -> bool {
        match self.admin(node, AdminRequest::Queues) {
            Some(AdminReply::Queues(views)) => !views
                .iter()
                .any(|view| view.settings.name.as_str() == "inbox"),
            _ => false,
        }
    }

    /// The process is gone; its disk may have lost what was not flushed.
    fn die(&mut self, node: usize, power: bool) -> Result<(), String> {
        self.report.deaths += 1;
        self.oracle.died = true;
        if power {
            let seed = self.random.next_u64();
            self.machines[node].lose_power(seed);
        } else {
            self.machines[node].kill();
        }
        for link in self.network.alive_at(node) {
            self.break_link(link);
        }
        let gone: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| c.node == node)
            .map(|(id, _)| *id)
            .collect();
        for conn in gone {
            self.drop_conn(conn);
        }
        let delay = self.draw(1_000, 3_000_000);
        self.plan(delay, What::Start { node });
        Ok(())
    }

    fn drop_conn(&mut self, conn: ConnId) {
        let Some(Conn { who, .. }) = self.conns.remove(&conn) else {
            return;
        };
        match who {
            Who::Sender(sender) => self.senders[sender].conn = None,
            Who::Receiver(node) => {
                self.receivers[node].conn = None;
                self.receivers[node].in_hand.clear();
                self.receivers[node].settling.clear();
            }
        }
    }

    fn connect(&mut self, who: Who) -> Result<(), String> {
        let (node, connected) = match who {
            Who::Sender(sender) => (
                self.senders[sender].node,
                self.senders[sender].conn.is_some(),
            ),
            Who::Receiver(node) => (node, self.receivers[node].conn.is_some()),
        };
        if connected || self.machines[node].running.is_none() {
            return Ok(());
        }
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.conns.insert(
            conn,
            Conn {
                node,
                who,
                paces: [0; 2],
            },
        );
        let frames = match who {
            Who::Sender(sender) => self.senders[sender].reconnect(conn),
            Who::Receiver(node) => self.receivers[node].reconnect(conn),
        };
        for frame in frames {
            self.request(conn, frame);
        }
        Ok(())
    }

    fn pace(&mut self, conn: ConnId, direction: usize) -> Option<u64> {
        let delay = self.draw(1, 400);
        let now = self.now;
        let conn = self.conns.get_mut(&conn)?;
        let at = (now + delay).max(conn.paces[direction] + 1);
        conn.paces[direction] = at;
        Some(at)
    }

    fn request(&mut self, conn: ConnId, frame: ClientFrame) {
        if let Some(at) = self.pace(conn, 0) {
            self.plan_at(at, What::ToNode { conn, frame });
        }
    }

    fn reply(&mut self, conn: ConnId, frame: NodeFrame) {
        if let Some(at) = self.pace(conn, 1) {
            self.plan_at(at, What::ToApplication { conn, frame });
        }
    }

    fn work(&mut self, sender: usize) -> Result<(), String> {
        let scenario = self.scenario.clone();
        let conn = self.senders[sender].conn;
        if let Some(conn) = conn
            && self.senders[sender].unanswered.len() < 64
        {
            let mut random = SeededEntropy::new(self.random.next_u64());
            for (put, to, frame) in self.senders[sender].more(&scenario, &mut random) {
                let towards = (to, frame.priority.get());
                let node = self.senders[sender].node;
                let fate = self.oracle.fates.entry(put).or_insert_with(|| Fate {
                    durable: frame.class == Class::Recoverable,
                    node,
                    towards,
                    ..Fate::default()
                });
                fate.refused = false;
                self.request(conn, ClientFrame::Put(frame));
            }
        }
        if !self.senders[sender].is_done(&scenario) || !self.senders[sender].unanswered.is_empty() {
            let delay = self.draw(500, scenario.fault_ms * 1_000 / 20);
            self.plan(delay, What::Work { sender });
        }
        Ok(())
    }

    fn to_application(&mut self, conn: ConnId, frame: NodeFrame) -> Result<(), String> {
        let Some(who) = self.conns.get(&conn).map(|conn| conn.who) else {
            return Ok(());
        };
        match who {
            Who::Sender(sender) => self.to_sender(sender, frame),
            Who::Receiver(node) => self.to_receiver(conn, node, frame),
        }
    }

    fn to_sender(&mut self, sender: usize, frame: NodeFrame) -> Result<(), String> {
        let node = self.senders[sender].node;
        let source = self.machines[node].identity.qm;
        match frame {
            NodeFrame::Accepted(accepted) => {
                for n in 0..u64::from(accepted.count) {
                    let sequence = accepted.first_sequence + n;
                    let Some((put, _)) = self.senders[sender].unanswered.remove(&sequence) else {
                        return Err(format!("application {sender}: {sequence} answered twice"));
                    };
                    let mut id = accepted.first_id;
                    id.sequence += n;
                    self.oracle.accepted(put, node, source, id)?;
                }
                Ok(())
            }
            NodeFrame::Refused(refused) => {
                let Some((put, frame)) = self.senders[sender].unanswered.remove(&refused.sequence)
                else {
                    return Err(format!(
                        "application {sender}: {} answered twice",
                        refused.sequence
                    ));
                };
                match refused.outcome {
                    Outcome::STORE_FULL
                    | Outcome::QUOTA_EXCEEDED
                    | Outcome::BAD_DESTINATION_QUEUE
                    | Outcome::BAD_DESTINATION_NAME => {
                        // Put again later, behind what was put meanwhile.
                        self.oracle.disordered.insert(put.application);
                        self.senders[sender].again.push((put, frame));
                    }
                    other => return Err(format!("{put:?} was refused: {other} {}", refused.text)),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn to_receiver(&mut self, conn: ConnId, node: usize, frame: NodeFrame) -> Result<(), String> {
        let mut frames = Vec::new();
        match frame {
            NodeFrame::Delivery(delivery) => {
                let put = Put::from_body(&delivery.body);
                if put.is_none() {
                    return Err(format!("node{node} delivered a body nobody sent"));
                }
                if let Some(put) = put
                    && let Some(fate) = self.oracle.fates.get_mut(&put)
                {
                    fate.seen += 1;
                }
                self.receivers[node].in_hand.push((delivery.lookup, put));
            }
            NodeFrame::ReceiveDone(done) => {
                if let Some(outcome) = done.outcome
                    && outcome != Outcome::NOT_FOUND
                {
                    return Err(format!(
                        "node{node}: receive failed: {outcome} {}",
                        done.text
                    ));
                }
                let scenario = self.scenario.clone();
                let mut random = SeededEntropy::new(self.random.next_u64());
                frames = self.receivers[node].settle(&scenario, &mut random);
                frames.push(self.receivers[node].ask());
            }
            NodeFrame::Settled(settled) => {
                let puts = self.receivers[node].settling.remove(&settled.request);
                if settled.outcome.is_none() {
                    for put in puts.into_iter().flatten().flatten() {
                        let Some(fate) = self.oracle.fates.get_mut(&put) else {
                            continue;
                        };
                        fate.consumed += 1;
                        if fate.durable && fate.consumed > 1 && !self.oracle.forgetful {
                            return Err(format!("rule 4: {put:?} was consumed twice"));
                        }
                    }
                }
            }
            _ => {}
        }
        for frame in frames {
            self.request(conn, frame);
        }
        Ok(())
    }

    fn break_some_link(&mut self) -> Result<(), String> {
        let alive = self.network.alive();
        if !alive.is_empty() {
            let pick = self.draw(0, alive.len() as u64 - 1) as usize;
            self.note("a link breaks");
            self.break_link(alive[pick]);
        }
        self.plan_fault(self.scenario.link_break_ms, What::BreakLink);
        Ok(())
    }

    /// The power goes, at once or during one of the next operations of the disk.
    fn lose_power(&mut self) -> Result<(), String> {
        let node = self.draw(0, self.scenario.nodes as u64 - 1) as usize;
        self.plan_fault(self.scenario.power_loss_ms, What::LosePower);
        if self.draw(0, 2) == 0 {
            if self.machines[node].running.is_some() {
                self.note(&format!("node{node} loses power"));
                return self.die(node, true);
            }
        } else if !self.machines[node].cut_armed {
            let at = self.machines[node].disk.operations() + self.draw(0, 30);
            self.machines[node].disk.inject(Fault::CutAt(at));
            self.machines[node].cut_armed = true;
        }
        Ok(())
    }

    fn kill_some(&mut self) -> Result<(), String> {
        let node = self.draw(0, self.scenario.nodes as u64 - 1) as usize;
        self.plan_fault(self.scenario.kill_ms, What::Kill);
        if self.machines[node].running.is_some() {
            self.note(&format!("node{node} is killed"));
            return self.die(node, false);
        }
        Ok(())
    }

    fn break_some_client(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.client_break_ms, What::BreakClient);
        let conns: Vec<_> = self.conns.keys().copied().collect();
        if conns.is_empty() {
            return Ok(());
        }
        let conn = conns[self.draw(0, conns.len() as u64 - 1) as usize];
        let Some(Conn { node, who, .. }) = self.conns.get(&conn) else {
            return Ok(());
        };
        let (node, who) = (*node, *who);
        self.note(&format!(
            "an application of node{node} loses its connection"
        ));
        self.drop_conn(conn);
        let delay = self.draw(1, 200_000);
        self.plan(delay, What::Connect { who });
        self.give(node, Input::ClientClosed { conn })
    }

    fn fill_disk(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.disk_full_ms, What::FillDisk);
        let node = self.draw(0, self.scenario.nodes as u64 - 1) as usize;
        if !self.full {
            self.note(&format!("node{node}: the disk fills up"));
            self.machines[node].disk.set_capacity(Some(0));
            let delay = self.draw(100_000, 6_000_000);
            self.plan(delay, What::EmptyDisk { node });
        }
        Ok(())
    }

    /// Dead letters count as found; they are all there is in the stores that is not received.
    fn collect_dead_letters(&mut self) -> Result<(), String> {
        for node in 0..self.scenario.nodes {
            for number in 0..64_u32 {
                for priority in 0..8 {
                    let stream = qm_engine::StreamId(number * 8 + priority);
                    for record in self.machines[node].load(stream, 0, 10_000, usize::MAX)? {
                        let Some(stored) = StoredMessage::read(&record.head) else {
                            continue;
                        };
                        if stored.dead.is_some()
                            && let Some(put) = Put::from_body(&record.body)
                            && let Some(fate) = self.oracle.fates.get_mut(&put)
                        {
                            fate.dead = true;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
