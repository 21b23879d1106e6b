//! What goes wrong in a world.

use super::*;

impl World {
    /// The process is gone; its disk may have lost what was not flushed.
    pub(super) fn die(&mut self, node: usize, power: bool) -> Result<(), String> {
        self.report.deaths += 1;
        self.oracle.died = true;
        if power {
            let seed = self.random.next_u64();
            self.machines[node].lose_power(seed);
        } else {
            self.machines[node].kill();
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
        Ok(())
    }

    pub(super) fn break_some_link(&mut self) -> Result<(), String> {
        if self.wires.is_some() {
            self.close_some_wire();
        }
        let alive = self.network.alive();
        if !alive.is_empty() {
            let pick = self.pick(alive.len());
            self.note("a link breaks");
            self.break_link(alive[pick]);
        }
        self.plan_fault(self.scenario.link_break_ms, What::BreakLink);
        Ok(())
    }

    /// The power goes, at once or during one of the next operations of the disk.
    pub(super) fn lose_power(&mut self) -> Result<(), String> {
        let node = self.pick(self.scenario.nodes);
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

    pub(super) fn kill_some(&mut self) -> Result<(), String> {
        let node = self.pick(self.scenario.nodes);
        self.plan_fault(self.scenario.kill_ms, What::Kill);
        if self.machines[node].running.is_some() {
            self.note(&format!("node{node} is killed"));
            return self.die(node, false);
        }
        Ok(())
    }

    pub(super) fn break_some_client(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.client_break_ms, What::BreakClient);
        let conns: Vec<_> = self.conns.keys().copied().collect();
        if conns.is_empty() {
            return Ok(());
        }
        let conn = conns[self.pick(conns.len())];
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

    pub(super) fn fill_disk(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.disk_full_ms, What::FillDisk);
        let node = self.pick(self.scenario.nodes);
        if !self.full {
            self.note(&format!("node{node}: the disk fills up"));
            self.machines[node].disk.set_capacity(Some(0));
            let delay = self.draw(100_000, 6_000_000);
            self.plan(delay, What::EmptyDisk { node });
        }
        Ok(())
    }
}
