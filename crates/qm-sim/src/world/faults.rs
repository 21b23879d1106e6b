//! What goes wrong in a machine, and the end of all faults.

use super::*;
use crate::machine::Memory;

impl World {
    /// Whether faults still happen.
    pub(super) fn may_fail(&self) -> bool {
        self.now < self.scenario.fault_ms * 1_000
    }

    /// So often out of a thousand.
    pub(super) fn happens(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.draw(1, 1_000) <= per_mille
    }

    pub(super) fn plan_faults(&mut self) {
        let s = self.scenario.clone();
        self.plan_fault(s.link_break_every_ms, What::BreakLink);
        self.plan_fault(s.stall_every_ms, What::Stall);
        self.plan_fault(s.partition_every_ms, What::Partition);
        self.plan_fault(s.move_every_ms, What::Move);
        self.plan_fault(s.power_loss_every_ms, What::LosePower);
        self.plan_fault(s.kill_every_ms, What::Kill);
        self.plan_fault(s.stop_every_ms, What::Stop);
        self.plan_fault(s.client_break_every_ms, What::BreakClient);
        self.plan_fault(s.client_crash_every_ms, What::CrashClient);
        self.plan_fault(s.disk_full_every_ms, What::FillDisk);
        self.plan_fault(s.disk_failure_every_ms, What::FailDisk);
        self.plan_fault(s.slow_disk_every_ms, What::SlowDisk);
        self.plan_fault(s.clock_jump_every_ms, What::JumpClock);
        self.plan_fault(s.squeeze_every_ms, What::Squeeze);
        self.plan_fault(s.operator_every_ms, What::Operate);
        self.plan_fault(s.block_every_ms, What::Block);
        self.plan_at(s.fault_ms * 1_000, What::Heal);
    }

    /// The process is gone; its disk may have lost what was not flushed.
    pub(super) fn die(&mut self, node: usize, end: Death) -> Result<(), String> {
        self.report.deaths += 1;
        self.end_process(node, end);
        Ok(())
    }

    pub(super) fn end_process(&mut self, node: usize, end: Death) {
        self.keep_counters(node);
        // A stop writes express messages down, unless the disk is full: then they are lost.
        let refused = self.machines[node]
            .running
            .as_ref()
            .is_some_and(|running| running.spill_refused);
        self.oracle
            .ended(node, matches!(end, Death::Stopped) && !refused);
        match end {
            Death::Power => {
                let seed = self.random.next_u64();
                self.machines[node].lose_power(seed);
            }
            Death::Process | Death::Stopped => self.machines[node].kill(),
        }
        self.frozen.remove(&node);
        if let Some(wires) = &mut self.wires {
            wires.unplug(node);
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
    }

    /// The power goes, at once or during one of the next operations of the disk, which may be in
    /// the middle of recovery.
    pub(super) fn lose_power(&mut self) -> Result<(), String> {
        let node = self.pick(self.machines.len());
        self.plan_fault(self.scenario.power_loss_every_ms, What::LosePower);
        if self.draw(0, 2) == 0 {
            if self.machines[node].running.is_some() {
                self.note(&format!("node{node} loses power"));
                return self.die(node, Death::Power);
            }
        } else if !self.machines[node].cut_armed {
            let at = self.machines[node].disk.operations() + self.draw(0, 30);
            self.machines[node].disk.inject(Fault::CutAt(at));
            self.machines[node].cut_armed = true;
        }
        Ok(())
    }

    pub(super) fn kill_some(&mut self) -> Result<(), String> {
        let node = self.pick(self.machines.len());
        self.plan_fault(self.scenario.kill_every_ms, What::Kill);
        if self.machines[node].running.is_some() {
            self.note(&format!("node{node} is killed"));
            return self.die(node, Death::Process);
        }
        Ok(())
    }

    /// A process is told to stop, as for an upgrade: it says goodbye, writes down what it has in
    /// memory only, and ends when that is on disk.
    pub(super) fn stop_some(&mut self) -> Result<(), String> {
        let node = self.pick(self.machines.len());
        self.plan_fault(self.scenario.stop_every_ms, What::Stop);
        self.tell_to_stop(node)
    }

    fn tell_to_stop(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node]
            .running
            .as_ref()
            .is_none_or(|r| r.stopping)
        {
            return Ok(());
        }
        self.note(&format!("node{node} is told to stop"));
        self.report.stops += 1;
        self.give_now(node, Input::Stop)?;
        let conns: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| c.node == node)
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.drop_conn(conn);
        }
        if let Some(running) = &mut self.machines[node].running {
            running.stopping = true;
        }
        self.end_if_stopped(node);
        Ok(())
    }

    /// A stopping process ends when nothing waits for its disk.
    pub(super) fn end_if_stopped(&mut self, node: usize) {
        let done = self.machines[node]
            .running
            .as_ref()
            .is_some_and(|r| r.stopping && !r.committing && r.waiting.is_empty());
        if done {
            self.note(&format!("node{node} has stopped"));
            self.end_process(node, Death::Stopped);
        }
    }

    pub(super) fn break_some_client(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.client_break_every_ms, What::BreakClient);
        let conns: Vec<_> = self.conns.keys().copied().collect();
        if conns.is_empty() {
            return Ok(());
        }
        let conn = conns[self.pick(conns.len())];
        self.break_client(conn)
    }

    pub(super) fn break_client(&mut self, conn: ConnId) -> Result<(), String> {
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

    /// An application dies with what it knew: it comes back under another name, repeats what has a
    /// key and forgets the rest.
    pub(super) fn crash_some_client(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.client_crash_every_ms, What::CrashClient);
        let sender = self.pick(self.senders.len() + self.movers.len());
        self.note(&format!("application {sender} crashes"));
        self.report.client_crashes += 1;
        if let Some(mover) = sender.checked_sub(self.senders.len()) {
            return self.crash_mover(mover);
        }
        let mut random = SeededEntropy::new(self.random.next_u64());
        let idle = self.senders[sender].is_done(&self.scenario)
            && self.senders[sender].unanswered.is_empty();
        let forgotten = self.senders[sender].crash(&mut random);
        if idle {
            self.plan(1_000, What::Work { sender });
        }
        for put in forgotten {
            if let Some(fate) = self.oracle.fates.get_mut(&put) {
                fate.abandoned = true;
            }
        }
        // What it puts again comes behind what the node may still take of its earlier life.
        let number = self.senders[sender].number;
        self.oracle.disordered.insert(number);
        match self.senders[sender].conn {
            Some(conn) => self.break_client(conn),
            None => Ok(()),
        }
    }

    pub(super) fn fill_disk(&mut self) {
        self.plan_fault(self.scenario.disk_full_every_ms, What::FillDisk);
        let node = self.pick(self.machines.len());
        self.note(&format!("node{node}: the disk fills up"));
        self.machines[node].disk.set_capacity(Some(0));
        let delay = self.draw(100_000, 6_000_000);
        self.machines[node].full_until = self.now + delay;
        self.plan(delay, What::EmptyDisk { node });
    }

    pub(super) fn empty_disk(&mut self, node: usize) {
        if self.machines[node].full_until <= self.now {
            self.note(&format!("node{node}: the disk has room again"));
            self.machines[node].disk.set_capacity(None);
        }
    }

    /// One of the next operations of a disk fails: a write, or a flush after which nobody knows
    /// what is on the platter.
    pub(super) fn fail_disk(&mut self) {
        self.plan_fault(self.scenario.disk_failure_every_ms, What::FailDisk);
        let node = self.pick(self.machines.len());
        if !self.machines[node].failure_armed {
            let at = self.machines[node].disk.operations() + self.draw(0, 20);
            self.machines[node].disk.inject(Fault::FailAt(at));
            self.machines[node].failure_armed = true;
        }
    }

    pub(super) fn slow_disk(&mut self) {
        self.plan_fault(self.scenario.slow_disk_every_ms, What::SlowDisk);
        let node = self.pick(self.machines.len());
        let for_us = self.draw(100_000, 5_000_000);
        self.note(&format!("node{node}: the disk is slow"));
        self.report.slow_disks += 1;
        self.machines[node].slow_until = self.now + for_us;
    }

    pub(super) fn jump_clock(&mut self) {
        let node = self.pick(self.machines.len());
        let years = 60 * 365 * 24 * 3_600 * 1_000_000_u64;
        let jump = self.draw(0, 2 * years).cast_signed() - years.cast_signed();
        self.machines[node].wall_offset_us = jump;
        self.report.clock_jumps += 1;
        self.note(&format!("node{node}: the wall clock jumps"));
        self.plan_fault(self.scenario.clock_jump_every_ms, What::JumpClock);
    }

    /// A machine has less memory for a while. No process can be told so while it runs: it ends for
    /// want of it, or is told to stop, and those that follow are given less.
    pub(super) fn squeeze(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.squeeze_every_ms, What::Squeeze);
        let node = self.pick(self.machines.len());
        let memory = Memory {
            resident_bytes: [0, 500, 2_000][self.pick(3)],
            // Enough for one message, whatever it is.
            express_bytes: usize::try_from(self.draw(8_000, 16_000)).unwrap_or(8_000),
        };
        let for_us = self.draw(500_000, 6_000_000);
        self.note(&format!("node{node} has memory for {memory:?}"));
        self.report.squeezes += 1;
        self.machines[node].short = Some((memory, self.now + for_us));
        self.plan(for_us, What::Relax { node });
        if self.draw(0, 1) == 0 {
            return self.tell_to_stop(node);
        }
        if self.machines[node].running.is_some() {
            return self.die(node, Death::Process);
        }
        Ok(())
    }

    /// It has as much as before, and so has the process that is started next.
    pub(super) fn relax(&mut self, node: usize) -> Result<(), String> {
        let over = |(_, until): (Memory, u64)| until <= self.now;
        if !self.machines[node].short.is_some_and(over) {
            return Ok(());
        }
        self.note(&format!("node{node} has memory again"));
        self.machines[node].short = None;
        if self.may_fail() {
            return self.tell_to_stop(node);
        }
        Ok(())
    }

    /// Nothing goes wrong any more, and the operators put everything right.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.note("the faults are over");
        self.network.heal();
        for machine in &mut self.machines {
            machine.slow_until = 0;
            machine.full_until = 0;
            machine.short = None;
            machine.disk.set_capacity(None);
        }
        for node in 0..self.machines.len() {
            if node < self.scenario.nodes {
                let mut family = (node..self.machines.len())
                    .filter(|other| self.family(*other) == node && !self.is_gone(*other));
                self.resolved[node] = self.homes[family.next().unwrap_or(node)];
            }
            self.put_right(node)?;
        }
        if self.scenario.store_bytes_max < 1 << 20 {
            self.plan(1_000_000, What::Tidy);
        }
        Ok(())
    }
}
