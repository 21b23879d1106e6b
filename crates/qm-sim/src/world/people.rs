//! Applications and their connections to their machines.

use super::*;

impl World {
    pub(super) fn drop_conn(&mut self, conn: ConnId) {
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

    pub(super) fn connect(&mut self, who: Who) -> Result<(), String> {
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

    pub(super) fn answered(&mut self, conn: ConnId, frame: NodeFrame) -> Result<(), String> {
        let Some(who) = self.conns.get(&conn).map(|conn| conn.who) else {
            return Ok(());
        };
        match who {
            Who::Sender(sender) => self.sender_answered(sender, frame),
            Who::Receiver(node) => self.receiver_answered(conn, node, frame),
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

    pub(super) fn receiver_answered(
        &mut self,
        conn: ConnId,
        node: usize,
        frame: NodeFrame,
    ) -> Result<(), String> {
        let mut frames = Vec::new();
        match frame {
            NodeFrame::Delivery(delivery) => {
                let put = Put::from_body(&delivery.body);
                if put.is_none() {
                    return Err(format!("node{node} delivered a body nobody sent"));
                }
                if let Some(put) = put {
                    self.oracle.handed_out(node, delivery.lookup, put)?;
                    if let Some(fate) = self.oracle.fates.get_mut(&put) {
                        fate.seen += 1;
                    }
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
}
