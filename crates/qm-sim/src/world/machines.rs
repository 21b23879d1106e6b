//! Machines: what they are given, what they ask for, and whether it was right.

use super::*;

impl World {
    /// Hands an input to a machine and does what it asks for.
    pub(super) fn give(&mut self, node: usize, input: Input) -> Result<(), String> {
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

    pub(super) fn drain(&mut self, node: usize) -> Result<(), String> {
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

    pub(super) fn obey(&mut self, node: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Send { link, lane, frames } => {
                self.send(End { node, link }, lane, frames);
                Ok(())
            }
            Output::Close { link, reason, text } => {
                self.note(&format!("node{node} closes {link}: {reason}"));
                self.close(End { node, link }, reason, &text);
                Ok(())
            }
            Output::Dial {
                dial,
                address,
                expected,
            } => {
                if let Some(wires) = &self.wires {
                    wires.dial(node, dial, &address, expected);
                    return Ok(());
                }
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
            Output::Trust { .. } => Ok(()),
            Output::Event(event) => self.observe(node, event),
            Output::Admin { .. } => Ok(()),
            other => Err(format!("the world does not know {other:?}")),
        }
    }

    pub(super) fn persist(&mut self, node: usize, ticket: Ticket, ops: Vec<StoreOp>) {
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

    pub(super) fn commit(&mut self, node: usize) -> Result<(), String> {
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
                inputs.push(Input::PersistRefused {
                    ticket,
                    limited: false,
                });
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

    pub(super) fn observe(&mut self, node: usize, event: Event) -> Result<(), String> {
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

    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
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
        if let Some(wires) = &mut self.wires {
            wires.plug(node)?;
        }
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

    pub(super) fn add_peer(&mut self, node: usize, other: usize) {
        let what = AdminRequest::PeerAdd {
            name: format!("node{other}"),
            address: Some(format!("node{other}:{PORT}")),
            qm: None,
            keep_connected: true,
        };
        self.admin(node, what);
    }

    /// The queue was created and its creation did not survive.
    pub(super) fn queue_is_missing(&mut self, node: usize) -> bool {
        match self.admin(node, AdminRequest::Queues) {
            Some(AdminReply::Queues(views)) => !views
                .iter()
                .any(|view| view.settings.name.as_str() == "inbox"),
            _ => false,
        }
    }
}
