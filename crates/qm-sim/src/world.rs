//! The world: what there is in it, what happens next, and to whom.
//!
//! [`agenda`] is what can happen, [`closing`] whether all is over and was right.

mod agenda;
mod clones;
mod closing;
mod ends;
mod faults;
mod forked;
mod liars;
mod links;
mod machines;
mod manners;
mod movers;
mod operators;
mod people;
mod quinn;
mod truth;
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use qm_engine::admin::{AdminReply, AdminRequest, StatusView};
use qm_engine::{
    ConnId, DialFailure, Entropy, Event, Input, Lane, LoadId, LocalSettings, Output, SeededEntropy,
    StoreOp, StoredMessage, StoredRecord, StreamId,
};
use qm_store::{Applied, Fault};
use qm_wire::local::{ClientFrame, NodeFrame, Verdict};
use qm_wire::{Outcome, QmId, QueueName};

use crate::application::{JOURNAL, Mover, REPORTS, Receiver, Sender, WAIT_MS, queue_name};
use crate::machine::{Committed, Machine, Running, Started, outputs};
use crate::network::{End, Network};
use crate::oracle::clones::Forks;
use crate::oracle::{Ended, Fate, Oracle, Put};
use crate::quic::Wires;
use crate::report::{Failure, Report};
use crate::scenario::Scenario;
use agenda::What;
use clones::{CloneStep, Copying};
use manners::Manners;
use quinn::Mend;
use truth::Truth;
use words::Words;

/// After the last fault everything must have drained within this virtual time.
const DRAIN_US: u64 = 20 * 60 * 1_000_000;
const PORT: u16 = 1801;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// With its machine: what was not flushed may be lost.
    Power,
    /// Alone: what was written stays.
    Process,
    /// As it was told to.
    Stopped,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Sender(usize),
    Receiver(usize),
    Mover(usize),
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
    movers: Vec<Mover>,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    oracle: Oracle,
    /// The books instead, where machines are copied.
    forks: Option<Forks>,
    copying: Copying,
    truth: Truth,
    words: Words,
    manners: Manners,
    /// Where each machine is, where its name leads, and the next free place.
    homes: Vec<u16>,
    resolved: Vec<u16>,
    next_home: u16,
    report: Report,
    tail: std::collections::VecDeque<String>,
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
            for queue in 0..scenario.queues {
                receivers.push(Receiver::new(node, queue, &mut random));
            }
            if scenario.wishes_per_mille > 0 {
                receivers.push(Receiver::new(node, REPORTS, &mut random));
            }
            if scenario.journal_per_mille > 0 {
                receivers.push(Receiver::new(node, JOURNAL, &mut random));
            }
            for _ in 0..scenario.senders {
                let number = u32::try_from(senders.len()).unwrap_or(0);
                senders.push(Sender::new(number, node, &mut random));
            }
        }
        let mut movers = Vec::new();
        for node in 0..scenario.nodes {
            for _ in 0..scenario.movers {
                let number = u32::try_from(senders.len() + movers.len()).unwrap_or(0);
                movers.push(Mover::new(number, node, &scenario, &mut random));
            }
        }
        let mut oracle = Oracle::new(scenario.nodes);
        oracle.keeps_duplicates = scenario.dedup_capacity == 0;
        oracle.gaps = scenario.lost_buffers_per_mille > 0
            || scenario.repeated_buffers_per_mille > 0
            || scenario.disk_full_every_ms > 0
            || scenario.disk_failure_every_ms > 0;
        let homes: Vec<u16> = (1..).take(scenario.nodes).collect();
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
            movers,
            conns: BTreeMap::new(),
            next_conn: 0,
            oracle,
            forks: scenario
                .clones
                .as_ref()
                .map(|clones| Forks::new(scenario.nodes, clones.receives)),
            copying: Copying::default(),
            truth: Truth::default(),
            words: Words::default(),
            manners: Manners::new(
                scenario.hasty_per_mille > 0 && scenario.quota_messages < u64::MAX
                    || scenario.operator_every_ms > 0,
            ),
            resolved: homes.clone(),
            homes,
            next_home: 1_000,
            report: Report {
                trace_hash: 0xcbf2_9ce4_8422_2325,
                ..Report::default()
            },
            tail: std::collections::VecDeque::new(),
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
        if mean_ms > 0 && self.may_fail() {
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

    /// What is said, for whoever reads the trace: no part of the trace's identity.
    fn print_lines(&self, lines: &[String]) {
        for line in lines {
            #[expect(clippy::print_stderr, reason = "the trace was asked for")]
            {
                eprintln!("                  {line}");
            }
        }
    }

    fn failure(&self, text: String) -> Box<Failure> {
        Box::new(Failure {
            seed: self.scenario.seed,
            quinn: self.scenario.packets.is_some(),
            streams: self.scenario.transactional_queues > 0,
            case: self
                .scenario
                .clones
                .as_ref()
                .map(|clones| clones.case.name()),
            text,
            at_ms: self.now / 1_000,
            steps: self.report.steps,
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
        for mover in 0..self.movers.len() {
            let delay = self.draw(20_000, 200_000);
            self.plan(delay, What::Trade { mover });
        }
        self.plan_faults();
        if self.forks.is_some() {
            self.plan_clones();
        } else {
            self.plan(500_000, What::AskWhy);
        }
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
        if self.report.steps.is_multiple_of(256) && self.is_over()? {
            return Ok(true);
        }
        if self.now > self.scenario.fault_ms * 1_000 + DRAIN_US {
            if self.is_quiet()? {
                return Ok(true);
            }
            return Err(format!("rule 7: it does not end: {}", self.what_waits()?));
        }
        Ok(false)
    }

    fn admin(&mut self, node: usize, what: AdminRequest) -> Result<Option<AdminReply>, String> {
        let now = self.machines[node].now(self.now);
        let Some(running) = self.machines[node].running.as_mut() else {
            return Ok(None);
        };
        running.handle(
            now,
            Input::Admin {
                conn: ConnId(0),
                request: 0,
                what,
            },
        );
        let mut answer = None;
        let life = self.life(node);
        for output in outputs(&mut self.machines[node], self.now) {
            match output {
                Output::Admin { reply, .. } => answer = Some(reply),
                // Whatever else became due is handled as if it came by itself.
                other if self.is_same_life(node, life) => self.obey(node, other)?,
                _ => {}
            }
        }
        Ok(answer)
    }

    fn status(&mut self, node: usize) -> Result<Option<Box<StatusView>>, String> {
        Ok(match self.admin(node, AdminRequest::Status)? {
            Some(AdminReply::Status(status)) => Some(status),
            _ => None,
        })
    }

    fn life(&self, node: usize) -> u64 {
        self.machines[node].lives
    }

    fn is_same_life(&self, node: usize, life: u64) -> bool {
        self.machines[node].running.is_some() && self.life(node) == life
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        if what.is_fault() && !self.may_fail() {
            return Ok(());
        }
        match what {
            What::Frames { to, link, frames } => {
                if self.network.hears(link, to) {
                    if let Some(link) = self.network.links.get(&link) {
                        let from = link.ends[usize::from(link.ends[0] == to)].node;
                        self.truth.hear(to.node, from, self.now);
                    }
                    self.note(&format!(
                        "node{} receives {} bytes on {}",
                        to.node,
                        frames.len(),
                        to.link
                    ));
                    if self.print {
                        self.print_lines(&crate::frames::describe(&frames));
                    }
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
                self.network.deafen(end);
                let input = Input::Closed {
                    link: end.link,
                    text: text.to_owned(),
                };
                self.give(end.node, input)
            }
            What::LinkEnd { link } => self.link_ends(link),
            What::Silence { link } => {
                self.break_link(link);
                Ok(())
            }
            What::Dialled {
                node,
                life,
                dial,
                address,
                expected,
                own,
            } => {
                if self.is_same_life(node, life) {
                    return self.dialled(node, dial, &address, expected, own);
                }
                Ok(())
            }
            What::Later { node, life, input } => {
                if self.is_same_life(node, life) {
                    return self.give(node, *input);
                }
                Ok(())
            }
            What::Clone(step) => self.clone_step(step),
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
            What::ToNode { conn, frame } => {
                if self.print && self.conns.contains_key(&conn) {
                    self.print_lines(&[crate::frames::describe_request(conn, &frame)]);
                }
                self.said(conn, frame)
            }
            What::ToApplication { conn, frame } => {
                if self.print && self.conns.contains_key(&conn) {
                    self.print_lines(&[crate::frames::describe_reply(conn, &frame)]);
                }
                self.answered(conn, frame)
            }
            What::Connect { who } => self.connect(who),
            What::Work { sender } => self.work(sender),
            What::Trade { mover } => self.trade(mover),
            What::Ask { conn, number } => {
                self.ask(conn, number);
                Ok(())
            }
            What::LosePower => self.lose_power(),
            What::Kill => self.kill_some(),
            What::Stop => self.stop_some(),
            What::Squeeze => self.squeeze(),
            What::Relax { node } => self.relax(node),
            What::BreakClient => self.break_some_client(),
            What::CrashClient => self.crash_some_client(),
            What::Operate => self.operate(),
            What::Create { node, queue } => self.create(node, queue),
            What::Unpause { node, queue } => self.put_queue_right(node, queue),
            What::Approve { node, peer } => self.approve(node, peer),
            What::Block => self.block_some(),
            What::Trouble => self.trouble(),
            What::AskWhy => self.ask_why(),
            What::Tidy => self.tidy(),
            What::Heal => self.heal(),
            other => {
                self.go_wrong(&other);
                Ok(())
            }
        }
    }

    /// Faults that no node has to be told of.
    fn go_wrong(&mut self, what: &What) {
        match what {
            What::BreakLink => self.break_some_link(),
            What::LongSilence { from, to } => self.give_up_silent(*from, *to),
            What::Mend(what) => self.mend(*what),
            What::Stall => self.stall(),
            What::Partition => self.partition(),
            What::Move => self.move_machine(),
            What::Rename { node } => self.rename(*node),
            What::FillDisk => self.fill_disk(),
            What::EmptyDisk { node } => self.empty_disk(*node),
            What::FailDisk => self.fail_disk(),
            What::SlowDisk => self.slow_disk(),
            What::JumpClock => self.jump_clock(),
            _ => {}
        }
    }
}
