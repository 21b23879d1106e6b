//! The world: what happens next, to whom, and whether what must hold still does.

mod faults;
mod links;
mod machines;
mod people;
mod quinn;

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
use crate::quic::Wires;
use crate::scenario::Scenario;
use quinn::Mend;

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
    /// Datagrams handed to the network, where links are QUIC's.
    pub datagrams: u64,
    /// Of these, lost on the way.
    pub lost_datagrams: u64,
    /// Of these, delivered with a bit turned.
    pub damaged_datagrams: u64,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
    /// Of this, after the last fault; over several runs the longest.
    pub drain_ms: u64,
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
    /// Whether links were QUIC's.
    pub quinn: bool,
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
        let mode = if self.quinn { "--mode quinn " } else { "" };
        write!(f, "again with: cargo xtask sim {mode}--seed {}", self.seed)
    }
}

impl core::error::Error for Failure {}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a simulation may spend the memory"
)]
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
    Trouble,
    Mend(Mend),
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
    /// Where links are QUIC's, instead of `network`.
    wires: Option<Wires>,
    /// Processes that are stopped, until when.
    frozen: BTreeMap<usize, u64>,
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
            wires: None,
            frozen: BTreeMap::new(),
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

    /// One of so many.
    fn pick(&mut self, of: usize) -> usize {
        usize::try_from(self.draw(0, (of as u64).saturating_sub(1))).unwrap_or(0)
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
            quinn: self.scenario.packets.is_some(),
            text,
            at_ms: self.now / 1_000,
            tail: self.tail.iter().cloned().collect(),
        })
    }

    fn run(mut self) -> Result<Report, Box<Failure>> {
        let outcome = match self.scenario.packets.clone() {
            Some(packets) => self.run_on_wires(&packets),
            None => self.live(),
        };
        match outcome {
            Ok(()) => Ok(self.report),
            Err(text) => Err(self.failure(text)),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.begin();
        while !self.agenda.is_empty() {
            if self.next()? {
                break;
            }
        }
        self.end()
    }

    /// Plans what begins by itself.
    fn begin(&mut self) {
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
    }

    /// Does what comes next; tells whether everything is over.
    fn next(&mut self) -> Result<bool, String> {
        let Some(((at, number), what)) = self.agenda.pop_first() else {
            return Ok(true);
        };
        if let Some(thaw) = self.frozen_until(at, &what) {
            // In its old place among those that wait with it.
            self.agenda.insert((thaw, number), what);
            return Ok(false);
        }
        self.now = at;
        self.report.steps += 1;
        self.step(what)?;
        if self.report.steps.is_multiple_of(256) && self.is_over() {
            return Ok(true);
        }
        if self.now > self.scenario.fault_ms * 1_000 + DRAIN_US {
            return Err(format!("rule 7: it does not end: {}", self.what_waits()));
        }
        Ok(false)
    }

    /// Closes the books.
    fn end(&mut self) -> Result<(), String> {
        self.collect_dead_letters()?;
        self.oracle.finish()?;
        self.report.virtual_ms = self.now / 1_000;
        self.report.drain_ms = self
            .report
            .virtual_ms
            .saturating_sub(self.scenario.fault_ms);
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
            What::ToApplication { conn, frame } => self.answered(conn, frame),
            What::Connect { who } => self.connect(who),
            What::Work { sender } => self.work(sender),
            What::BreakLink => self.break_some_link(),
            What::Trouble => self.trouble(),
            What::Mend(what) => {
                self.mend(what);
                Ok(())
            }
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
                let node = self.pick(self.scenario.nodes);
                let years = 60 * 365 * 24 * 3_600 * 1_000_000_u64;
                let jump = self.draw(0, 2 * years).cast_signed() - years.cast_signed();
                self.machines[node].wall_offset_us = jump;
                self.note(&format!("node{node}: the wall clock jumps"));
                self.plan_fault(self.scenario.clock_jump_ms, What::JumpClock);
                Ok(())
            }
        }
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
