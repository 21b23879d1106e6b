//! Applications and their connections to their machines.

use super::*;

impl World {
    pub(super) fn drop_conn(&mut self, conn: ConnId) {
        let Some(Conn { who, .. }) = self.conns.remove(&conn) else {
            return;
        };
        match who {
            Who::Sender(sender) => self.senders[sender].conn = None,
            Who::Receiver(receiver) => {
                let receiver = &mut self.receivers[receiver];
                receiver.conn = None;
                receiver.in_hand.clear();
                receiver.settling.clear();
            }
            Who::Mover(mover) => self.mover_is_alone(mover),
        }
    }

    pub(super) fn connect(&mut self, who: Who) -> Result<(), String> {
        let (node, connected) = match who {
            Who::Sender(sender) => (
                self.senders[sender].node,
                self.senders[sender].conn.is_some(),
            ),
            Who::Receiver(receiver) => (
                self.receivers[receiver].node,
                self.receivers[receiver].conn.is_some(),
            ),
            Who::Mover(mover) => (self.movers[mover].node, self.movers[mover].conn.is_some()),
        };
        let running = self.machines[node].running.as_ref();
        if connected || running.is_none_or(|running| running.stopping) {
            return Ok(());
        }
        if matches!(who, Who::Receiver(_)) && self.nobody_receives(node) {
            self.plan(500_000, What::Connect { who });
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
            Who::Receiver(receiver) => self.receivers[receiver].reconnect(conn),
            Who::Mover(mover) => self.movers[mover].reconnect(conn),
        };
        for frame in frames {
            self.request(conn, frame);
        }
        Ok(())
    }

    pub(super) fn pace(&mut self, conn: ConnId, direction: usize) -> Option<u64> {
        let delay = self.draw(1, 400);
        let now = self.now;
        let conn = self.conns.get_mut(&conn)?;
        let at = (now + delay).max(conn.paces[direction] + 1);
        conn.paces[direction] = at;
        Some(at)
    }

    pub(super) fn request(&mut self, conn: ConnId, frame: ClientFrame) {
        if let Some(at) = self.pace(conn, 0) {
            self.plan_at(at, What::ToNode { conn, frame });
        }
    }

    pub(super) fn reply(&mut self, conn: ConnId, frame: NodeFrame) {
        if let Some(at) = self.pace(conn, 1) {
            self.plan_at(at, What::ToApplication { conn, frame });
        }
    }

    pub(super) fn work(&mut self, sender: usize) -> Result<(), String> {
        let scenario = self.scenario.clone();
        let conn = self.senders[sender].conn;
        if let Some(conn) = conn
            && self.senders[sender].unanswered.len() < 64
        {
            let mut random = SeededEntropy::new(self.random.next_u64());
            let now = self.now;
            for (put, fate, frame) in self.senders[sender].more(&scenario, &mut random) {
                if let Some(mut fate) = fate {
                    fate.put_at = now;
                    self.oracle.fates.insert(put, fate);
                }
                self.request(conn, ClientFrame::Put(frame));
            }
        }
        if !self.senders[sender].is_done(&scenario) || !self.senders[sender].unanswered.is_empty() {
            let delay = self.draw(500, scenario.fault_ms * 1_000 / 20);
            self.plan(delay, What::Work { sender });
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, conn: ConnId, frame: NodeFrame) -> Result<(), String> {
        let Some(who) = self.conns.get(&conn).map(|conn| conn.who) else {
            return Ok(());
        };
        match who {
            Who::Sender(sender) => self.sender_answered(sender, frame),
            Who::Receiver(receiver) => self.receiver_answered(conn, receiver, frame),
            Who::Mover(mover) => self.mover_answered(mover, frame),
        }
    }

    pub(super) fn sender_answered(
        &mut self,
        sender: usize,
        frame: NodeFrame,
    ) -> Result<(), String> {
        let node = self.senders[sender].node;
        let source = self.machines[node].identity.qm;
        match frame {
            NodeFrame::Accepted(accepted) => {
                for n in 0..u64::from(accepted.count) {
                    let sequence = accepted.first_sequence + n;
                    let Some((put, _)) = self.senders[sender].unanswered.remove(&sequence) else {
                        return Err(format!(
                            "rule 5: application {sender}: {sequence} answered twice"
                        ));
                    };
                    self.senders[sender].answered.insert(sequence, put);
                    let mut id = accepted.first_id;
                    id.sequence += n;
                    match (&mut self.forks, self.oracle.fates.get(&put)) {
                        (Some(forks), Some(fate)) => forks.accepted(node, put, id, fate)?,
                        _ => self.oracle.accepted(put, node, source, id)?,
                    }
                }
                Ok(())
            }
            NodeFrame::Refused(refused) => {
                let sequence = refused.sequence;
                let Some((put, frame)) = self.senders[sender].unanswered.remove(&sequence) else {
                    return Err(format!(
                        "rule 5: application {sender}: {sequence} answered twice"
                    ));
                };
                self.refused(sender, put, frame, refused.outcome, refused.text.as_str())
            }
            NodeFrame::Fate(fate) => {
                for (first, last, outcome) in fate.runs {
                    for sequence in first..=last {
                        self.told(sender, sequence, outcome)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn refused(
        &mut self,
        sender: usize,
        put: Put,
        frame: qm_wire::local::Put,
        outcome: Outcome,
        text: &str,
    ) -> Result<(), String> {
        let node = self.senders[sender].node;
        let Some(fate) = self.oracle.fates.get_mut(&put) else {
            return Err(format!("rule 5: {put:?} was refused and never put"));
        };
        let exists = fate.towards.1 < self.scenario.queues;
        let large = frame.body.len() > Machine::body_bytes_max(node) as usize;
        match outcome {
            Outcome::BODY_TOO_LARGE if large => fate.refused = true,
            Outcome::QUOTA_EXCEEDED if fate.fails_when_full => fate.refused = true,
            Outcome::NOT_TRANSACTIONAL_QUEUE | Outcome::NOT_TRANSACTIONAL_MESSAGE
                if fate.mistyped =>
            {
                fate.refused = true;
            }
            Outcome::STORE_FULL
            | Outcome::QUOTA_EXCEEDED
            | Outcome::STOPPING
            | Outcome::BAD_DESTINATION_NAME => {
                self.put_again(sender, put, frame);
            }
            Outcome::BAD_DESTINATION_QUEUE if exists => self.put_again(sender, put, frame),
            other => {
                return Err(format!("rule 11: {put:?} was refused: {other} {text}"));
            }
        }
        Ok(())
    }

    /// Put again later, behind what was put meanwhile.
    fn put_again(&mut self, sender: usize, put: Put, frame: qm_wire::local::Put) {
        self.oracle.disordered.insert(put.application);
        self.senders[sender].again.push((put, frame));
    }

    /// An application is told what became of a message it follows.
    fn told(&mut self, sender: usize, sequence: u64, outcome: Outcome) -> Result<(), String> {
        let Some(put) = self.senders[sender].answered.get(&sequence).copied() else {
            return Ok(());
        };
        let Some(fate) = self.oracle.fates.get(&put) else {
            return Ok(());
        };
        let local = fate.towards.0 == fate.node;
        let arrived = match &self.forks {
            Some(forks) => forks.has_entered(put),
            None => fate.stored > 0,
        };
        if outcome == Outcome::REACHED_QUEUE && !local && !arrived {
            return Err(format!(
                "rule 2: the application of {put:?} was told of its arrival and it never arrived"
            ));
        }
        self.report.fates_told += 1;
        if self.forks.is_none() {
            let (now, truth) = (self.now, &self.truth);
            self.oracle.end_heard(put, outcome, |fate, outcome| {
                Self::is_so(now, truth, fate, outcome)
            })?;
        }
        Ok(())
    }

    pub(super) fn receiver_answered(
        &mut self,
        conn: ConnId,
        number: usize,
        frame: NodeFrame,
    ) -> Result<(), String> {
        let node = self.receivers[number].node;
        match frame {
            NodeFrame::Delivery(delivery) => {
                let queue = self.receivers[number].queue;
                let (put, told) = if queue >= REPORTS {
                    (self.gets_aside(node, queue, &delivery)?, Ok(()))
                } else {
                    let Some(put) = Put::from_body(&delivery.body) else {
                        return Err(format!("rule 11: node{node} delivered a body nobody sent"));
                    };
                    let told = match (&self.forks, self.oracle.fates.get(&put)) {
                        (Some(forks), Some(fate)) => forks.handed_out(node, put, fate),
                        _ => self.oracle.handed_out(put),
                    };
                    (put, told)
                };
                if let Err(text) = told {
                    let id = qm_wire::Envelope::decode(&delivery.envelope).map(|e| e.id);
                    return Err(format!("{text}: {id:?} at {:x}", delivery.lookup));
                }
                let (request, lookup) = self.receivers[number].latest;
                if request == delivery.request && delivery.lookup <= lookup {
                    return Err(format!(
                        "rule 6: node{node} hands {put:?} out after what comes behind it"
                    ));
                }
                let receiver = &mut self.receivers[number];
                receiver.latest = (delivery.request, delivery.lookup);
                receiver.in_hand.push((delivery.lookup, put));
            }
            NodeFrame::ReceiveDone(done) => {
                if done.outcome == Some(Outcome::NOT_FOUND) {
                    // An operator deleted the queue: look again later.
                    let copies = self.receivers[number].queue == JOURNAL;
                    let delay = if copies { 5_000_000 } else { 50_000 };
                    self.plan(delay, What::Ask { conn, number });
                    return Ok(());
                }
                if let Some(outcome) = done.outcome {
                    return Err(format!(
                        "rule 11: node{node}: receive failed: {outcome} {}",
                        done.text
                    ));
                }
                let scenario = self.scenario.clone();
                let mut random = SeededEntropy::new(self.random.next_u64());
                let frames = self.receivers[number].settle(&scenario, &mut random);
                for frame in frames {
                    self.request(conn, frame);
                }
                self.ask(conn, number);
            }
            NodeFrame::Settled(settled) => {
                let settling = self.receivers[number].settling.remove(&settled.request);
                if let (Some((put, Verdict::Consume)), None) = (settling, settled.outcome) {
                    if let Some(forks) = &mut self.forks {
                        forks.consumed(node, put);
                        if let Some(fate) = self.oracle.fates.get_mut(&put) {
                            fate.consumed += 1;
                        }
                    } else {
                        self.oracle.consumed(put)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The next request of a receiver, on the connection it still has.
    pub(super) fn ask(&mut self, conn: ConnId, number: usize) {
        if self.receivers[number].conn == Some(conn) {
            // While ends are awaited that are asked for every few minutes, nobody need look often.
            let patient = self.scenario.tells_ends() && !self.may_fail();
            let wait_ms = if patient { 40 * WAIT_MS } else { WAIT_MS };
            let frame = self.receivers[number].ask(wait_ms);
            self.request(conn, frame);
        }
    }

    /// What an application says reaches its node.
    pub(super) fn said(&mut self, conn: ConnId, frame: ClientFrame) -> Result<(), String> {
        let Some(Conn { node, who, .. }) = self.conns.get(&conn) else {
            return Ok(());
        };
        let (node, who) = (*node, *who);
        if let (ClientFrame::Settle(settle), Who::Receiver(number)) = (&frame, who)
            && let Some((put, verdict)) = self.receivers[number].settling.get(&settle.request)
            && let Some(fate) = self.oracle.fates.get_mut(put)
        {
            fate.done |= *verdict != Verdict::GiveBack;
            fate.rejected |= *verdict == Verdict::Reject;
            fate.taken |= *verdict == Verdict::Consume;
            if let Some(forks) = &mut self.forks {
                forks.let_go(node, *put);
            }
        }
        if let (ClientFrame::EndTransaction(end), Who::Mover(mover)) = (&frame, who) {
            self.end_is_asked(mover, *end);
        }
        self.give(node, Input::Client { conn, frame })
    }
}
