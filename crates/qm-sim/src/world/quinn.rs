//! A world whose machines speak QUIC: agenda and runtime share one clock, and packets have
//! troubles of their own.

use std::time::Duration;

use qm_transport::Event as Told;
use qm_transport::memory::Faults;
use tokio::time::{Instant, sleep_until};

use super::*;
use crate::quic::{Packets, Wires, input, noise};

/// What ends a trouble.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mend {
    /// A direction of a path is as the others again.
    Path(usize, usize),
    /// A machine reads again.
    Ears(usize),
    /// Everything: the faults are over.
    All,
}

impl World {
    /// Runs on tokio's paused clock, which jumps to the next thing to happen when nobody has
    /// anything to do.
    pub(super) fn run_on_wires(&mut self, packets: &Packets) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(async {
            let nodes = self.scenario.nodes;
            let hidden = self.scenario.nat.then(|| nodes - 1);
            let wires = Wires::new(self.scenario.seed, nodes, packets, hidden);
            for (node, machine) in self.machines.iter_mut().enumerate() {
                machine.identify(wires.public_key(node));
            }
            self.wires = Some(wires);
            let outcome = self.live_on_wires(packets).await;
            // Endpoints end with the runtime, not after it.
            if let Some(wires) = self.wires.take() {
                let (stats, digest) = wires.summary();
                self.report.datagrams = stats.sent;
                self.report.lost_datagrams = stats.lost + stats.blocked + stats.overflowed;
                self.report.damaged_datagrams = stats.corrupted;
                self.report.repeated_datagrams = stats.duplicated;
                self.report.overtaken_datagrams = stats.overtaken;
                self.note(&format!("the network's digest is {digest:016x}"));
            }
            outcome
        })
    }

    async fn live_on_wires(&mut self, packets: &Packets) -> Result<(), String> {
        self.begin();
        self.plan_fault(packets.trouble_ms, What::Trouble);
        self.plan_at(self.scenario.fault_ms * 1_000, What::Mend(Mend::All));
        let began = Instant::now();
        while let Some(((due, _), _)) = self.agenda.first_key_value() {
            let due = *due;
            let clock = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            // The runtime's clock ticks in milliseconds. The agenda catches up before anybody
            // learns what the network brought.
            if due <= clock {
                if self.next()? {
                    break;
                }
                continue;
            }
            self.now = clock;
            let Some(wires) = &mut self.wires else { break };
            let told = tokio::select! {
                biased;
                told = wires.next() => Some(told),
                () = sleep_until(began + Duration::from_micros(due)) => None,
            };
            if let Some((node, event)) = told {
                self.notified(node, event)?;
            }
        }
        self.end()
    }

    fn notified(&mut self, node: usize, event: Told) -> Result<(), String> {
        match &event {
            Told::Connected {
                link, peer, dial, ..
            } => {
                self.note(&format!("node{node} has {link} to {peer}, dial {dial:?}"));
                let mut machines = self.machines.iter();
                if let Some(other) = machines.position(|machine| machine.identity.qm == *peer) {
                    self.truth.join(node, *link, other);
                }
            }
            Told::DialFailed { dial, error } => {
                self.note(&format!("node{node}: dial {dial} failed: {error}"));
            }
            Told::Received {
                link, lane, frames, ..
            } => {
                let bytes = frames.len();
                self.note(&format!(
                    "node{node} receives {bytes} bytes on {link}, {lane:?}"
                ));
                self.truth.hear_on(node, *link, self.now);
                if self.print {
                    self.print_lines(&crate::frames::describe(frames));
                }
            }
            Told::AddressChanged { link, remote } => {
                self.note(&format!("node{node}: {link} is now at {remote}"));
            }
            Told::Closed { link, reason } => {
                self.report.broken_links += 1;
                self.note(&format!("node{node}: {link} ended: {reason}"));
            }
            other => return Err(format!("the world does not know {other:?}")),
        }
        let (input, held) = input::input_of(event);
        if let Some(input) = input {
            self.give(node, input)?;
        }
        // As in a node: given back when it was dealt with.
        drop(held);
        Ok(())
    }

    /// One process loses one link, and says so.
    pub(super) fn close_some_wire(&mut self) {
        let ends = self.wires.as_ref().map(Wires::ends).unwrap_or_default();
        if ends.is_empty() {
            return;
        }
        let (node, link) = ends[self.pick(ends.len())];
        self.note(&format!("node{node} loses {link}"));
        if let Some(wires) = &self.wires {
            wires.close(node, link, 0, "");
        }
    }

    /// Something happens to the paths between two machines, or to one of the two.
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        let packets = self
            .scenario
            .packets
            .clone()
            .unwrap_or_else(|| Packets::from_seed(0));
        self.plan_fault(packets.trouble_ms, What::Trouble);
        let node = self.pick(self.scenario.nodes);
        let peer = (node + 1 + self.pick(self.scenario.nodes - 1)) % self.scenario.nodes;
        // Now and then longer than links live without a sign.
        let time = self.draw(5, 2 * packets.idle_ms.min(5_000)) * 1_000;
        let base = packets.faults();
        match self.draw(0, 9) {
            0 => {
                self.report.one_way_partitions += 1;
                self.note(&format!("node{peer} hears nothing of node{node}"));
                self.cut(node, peer, time);
            }
            1 => {
                self.report.partitions += 1;
                self.note(&format!("node{node} and node{peer} are apart"));
                self.cut(node, peer, time);
                self.cut(peer, node, time);
            }
            2 => {
                self.report.isolations += 1;
                self.note(&format!("node{node} is alone"));
                for other in (0..self.scenario.nodes).filter(|other| *other != node) {
                    self.cut(node, other, time);
                    self.cut(other, node, time);
                }
            }
            3 => {
                // Below what QUIC needs, and somewhere on the way to what it found.
                let mtu = usize::try_from(self.draw(600, 1_400)).unwrap_or(1_200);
                self.report.black_holes += 1;
                self.note(&format!("above {mtu} bytes nothing passes to node{peer}"));
                self.worsen(node, peer, Faults { mtu, ..base }, time);
            }
            4 => {
                self.report.lossy_paths += 1;
                let loss_per_mille = u32::try_from(self.draw(300, 900)).unwrap_or(0);
                self.note(&format!(
                    "node{node} to node{peer}: {loss_per_mille} ‰ are lost"
                ));
                self.worsen(
                    node,
                    peer,
                    Faults {
                        loss_per_mille,
                        ..base
                    },
                    time,
                );
            }
            5 => {
                self.report.narrow_paths += 1;
                let bytes_per_second = self.draw(2_000, 30_000);
                self.note(&format!(
                    "node{node} to node{peer} is {bytes_per_second} B/s wide"
                ));
                let faults = Faults {
                    bytes_per_second,
                    queue_max: Duration::from_millis(self.draw(20, 3_000)),
                    ..base
                };
                self.worsen(node, peer, faults, time);
            }
            6 => {
                self.report.rebinds += 1;
                self.note(&format!("node{node} moves"));
                if let Some(wires) = &mut self.wires {
                    wires.move_away(node);
                }
            }
            7 => self.freeze(node, time),
            8 => {
                self.report.stalls += 1;
                self.note(&format!("node{node} stops reading"));
                if let Some(wires) = &mut self.wires {
                    wires.set_deaf(node, true);
                }
                self.plan(time, What::Mend(Mend::Ears(node)));
            }
            _ => {
                self.note(&format!("noise reaches node{node}"));
                let mut random = SeededEntropy::new(self.random.next_u64());
                for _ in 0..self.draw(1, 40) {
                    let name = (self.draw(0, 1) == 0).then_some(peer);
                    self.report.strange_datagrams += 1;
                    let bytes = noise::datagram(&mut random);
                    if let Some(wires) = &self.wires {
                        wires.inject(name, node, bytes);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn mend(&mut self, what: Mend) {
        let packets = self.scenario.packets.clone();
        let (Some(wires), Some(packets)) = (&mut self.wires, packets) else {
            return;
        };
        match what {
            Mend::Path(from, to) => {
                wires.cut(from, to, false);
                wires.set_path(from, to, None);
            }
            // A stopped process goes on when its own time is over, and not in pieces.
            Mend::Ears(node) if self.frozen.get(&node).is_some_and(|thaw| self.now < *thaw) => {}
            Mend::Ears(node) => wires.set_deaf(node, false),
            Mend::All => wires.calm(&packets),
        }
        self.note(&format!("better: {what:?}"));
    }

    /// A stopped process: it does nothing, hears nothing, and what is sent to it is lost. Time goes
    /// on.
    fn freeze(&mut self, node: usize, time_us: u64) {
        let stopped = self.frozen.get(&node).is_some_and(|thaw| self.now < *thaw);
        if stopped || self.machines[node].running.is_none() {
            return;
        }
        self.report.freezes += 1;
        self.note(&format!("node{node} is stopped"));
        self.frozen.insert(node, self.now + time_us);
        for other in (0..self.scenario.nodes).filter(|other| *other != node) {
            self.cut(node, other, time_us);
            self.cut(other, node, time_us);
        }
        if let Some(wires) = &mut self.wires {
            wires.set_deaf(node, true);
        }
        self.plan(time_us, What::Mend(Mend::Ears(node)));
    }

    /// Until when something waits because its process is stopped.
    pub(super) fn frozen_until(&self, at: u64, what: &What) -> Option<u64> {
        let node = match what {
            What::Commit { node, .. } | What::Loaded { node, .. } | What::Tick { node, .. } => node,
            What::ToNode { conn, .. } => &self.conns.get(conn)?.node,
            _ => return None,
        };
        self.frozen.get(node).copied().filter(|thaw| at < *thaw)
    }

    fn cut(&mut self, from: usize, to: usize, time_us: u64) {
        if let Some(wires) = &self.wires {
            wires.cut(from, to, true);
        }
        self.plan(time_us, What::Mend(Mend::Path(from, to)));
    }

    fn worsen(&mut self, from: usize, to: usize, faults: Faults, time_us: u64) {
        if let Some(wires) = &self.wires {
            wires.set_path(from, to, Some(faults));
        }
        self.plan(time_us, What::Mend(Mend::Path(from, to)));
    }
}
