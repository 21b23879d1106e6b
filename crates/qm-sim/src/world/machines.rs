//! Machines: what they are given, what they ask for, and whether it was right.

use super::*;
use crate::machine::Waiting;
use crate::oracle::Kept;

impl World {
    /// Hands an input to a machine and does what it asks for.
    pub(super) fn give(&mut self, node: usize, input: Input) -> Result<(), String> {
        let now = self.machines[node].now(self.now);
        if let Input::Received { link, frames } = &input {
            self.hears_words(End { node, link: *link }, frames);
        }
        let Some(running) = &mut self.machines[node].running else {
            return Ok(());
        };
        match &input {
            Input::Received { link, frames } => {
                let engine = &running.engine;
                let asks_about = |id| engine.asks_about(id);
                self.manners.hears(node, *link, frames, asks_about);
            }
            Input::Closed { link, .. } => self.manners.parted(node, *link),
            _ => {}
        }
        let put = matches!(
            &input,
            Input::Client {
                frame: ClientFrame::Put(_),
                ..
            }
        );
        let held = |running: &Running| {
            if put {
                running.engine.sizes().resident_bytes
            } else {
                0
            }
        };
        let before = held(running);
        running.handle(now, input);
        let after = held(running);
        if after > before && after > running.memory.resident_bytes {
            return Err(format!(
                "rule 8: node{node} keeps another message in memory and has {after} bytes there"
            ));
        }
        // Now and then several inputs are handled before anything leaves.
        if self.draw(0, 7) == 0 {
            let life = self.life(node);
            let delay = self.draw(1, 500);
            self.plan(delay, What::Tick { node, life });
            return Ok(());
        }
        self.drain(node)
    }

    /// The same, and what it causes leaves at once.
    pub(super) fn give_now(&mut self, node: usize, input: Input) -> Result<(), String> {
        let now = self.machines[node].now(self.now);
        if let Some(running) = &mut self.machines[node].running {
            running.handle(now, input);
        }
        self.drain(node)
    }

    pub(super) fn drain(&mut self, node: usize) -> Result<(), String> {
        let life = self.life(node);
        for output in outputs(&mut self.machines[node], self.now) {
            if self.dies_suddenly(node)? || !self.is_same_life(node, life) {
                return Ok(());
            }
            self.obey(node, output)?;
        }
        if self.machines[node].running.is_some() {
            self.manners.check(node)?;
            self.machines[node]
                .audit()
                .map_err(|text| format!("rule 8: node{node}: {text}"))?;
        }
        if let Some(running) = &self.machines[node].running {
            let due = self.machines[node].world_time(running.engine.next_deadline());
            let due = due.max(self.now + 1);
            if due < self.machines[node].tick_at {
                self.machines[node].tick_at = due;
                self.plan_at(due, What::Tick { node, life });
            }
        }
        Ok(())
    }

    /// Between two effects of an engine its process may die, or its machine.
    fn dies_suddenly(&mut self, node: usize) -> Result<bool, String> {
        let odds = self.scenario.sudden_death;
        if odds == 0 || !self.may_fail() || self.draw(1, 100_000) > odds {
            return Ok(false);
        }
        self.note(&format!("node{node} dies in the middle of what it does"));
        self.report.sudden_deaths += 1;
        let end = if self.draw(0, 1) == 0 {
            Death::Power
        } else {
            Death::Process
        };
        self.die(node, end)?;
        Ok(true)
    }

    pub(super) fn obey(&mut self, node: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Send { link, lane, frames } => {
                for (id, is_gone) in self.manners.turned_away(node, link, &frames) {
                    self.oracle.turned_away(id, is_gone);
                }
                self.manners.says(node, link, &frames);
                self.says_words(End { node, link }, &frames)?;
                self.hear_ends(node, lane, &frames)?;
                self.send(End { node, link }, lane, frames);
                Ok(())
            }
            Output::Close { link, reason, text } => {
                self.manners.closes(node, link);
                self.note(&format!("node{node} closes {link}: {reason}"));
                self.close(End { node, link }, reason, &text);
                Ok(())
            }
            Output::Dial {
                dial,
                address,
                expected,
                own,
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
                        own,
                    },
                );
                Ok(())
            }
            Output::Persist {
                ticket,
                ops,
                refusals_known,
            } => {
                let batch = Waiting {
                    ticket,
                    ops,
                    refusals_known,
                };
                self.persist(node, batch);
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
            // What the memory of a copy answers to applications of its original reaches nobody.
            Output::Client { conn, .. }
                if self.conns.get(&conn).is_some_and(|c| c.node != node) =>
            {
                Ok(())
            }
            Output::Client { conn, frame } => {
                self.learn_names(conn, &frame);
                self.judge_delivery(conn, &frame)?;
                self.reply(conn, frame);
                Ok(())
            }
            Output::CloseClient { text, .. } => Err(format!(
                "node{node} shut a well-behaved application out: {text}"
            )),
            Output::Trust { .. } => Ok(()),
            Output::Event(event) => self.observe(node, event),
            Output::Admin { .. } => Ok(()),
            other => self.obey_identity(node, other),
        }
    }

    pub(super) fn persist(&mut self, node: usize, batch: Waiting) {
        if let Some(running) = &mut self.machines[node].running {
            running.waiting.push(batch);
            if !running.committing {
                self.plan_commit(node);
            }
        }
    }

    fn plan_commit(&mut self, node: usize) {
        let life = self.life(node);
        let mut delay = self.draw(10, self.scenario.commit_max_us);
        if self.machines[node].slow_until > self.now {
            delay += self.draw(0, 1_000_000);
        }
        if let Some(running) = &mut self.machines[node].running {
            running.committing = true;
            self.plan(delay, What::Commit { node, life });
        }
    }

    pub(super) fn commit(&mut self, node: usize) -> Result<(), String> {
        let answers = match self.machines[node].commit()? {
            Committed::Answers(answers) => answers,
            Committed::PowerLost => {
                self.report.deaths_in_commit += 1;
                self.note(&format!("node{node}: power lost in the middle of a commit"));
                return self.die(node, Death::Power);
            }
            Committed::Failed => {
                self.report.disk_failures += 1;
                self.note(&format!("node{node}: the disk fails; it starts anew"));
                return self.die(node, Death::Process);
            }
        };
        let mut inputs = Vec::new();
        for (ticket, ops, applied) in answers {
            if applied != Applied::Done {
                if let Some(running) = &mut self.machines[node].running {
                    running.spill_refused |= running.stopping;
                }
                if !matches!(applied, Applied::Full) {
                    return Err(format!(
                        "rule 11: node{node}: a batch was refused: {applied:?}"
                    ));
                }
                self.report.full_batches += 1;
                inputs.push(Input::PersistRefused {
                    ticket,
                    ops,
                    limited: false,
                });
                continue;
            }
            if self.forks.is_some() {
                self.read_forked_batch(node, &ops)?;
            } else {
                self.read_batch(node, &ops)?;
            }
            inputs.push(Input::Persisted { ticket });
        }
        if let Some(running) = &mut self.machines[node].running {
            running.committing = false;
        }
        self.note(&format!("node{node}: {} batches are on disk", inputs.len()));
        let life = self.life(node);
        for input in inputs {
            if self.is_same_life(node, life) {
                self.give(node, input)?;
            }
        }
        if self.is_same_life(node, life) {
            let stopping = self.machines[node]
                .running
                .as_ref()
                .is_some_and(|r| r.stopping);
            if stopping {
                self.drain(node)?;
            }
            let more = self.machines[node]
                .running
                .as_ref()
                .is_some_and(|r| !r.waiting.is_empty() && !r.committing);
            if more {
                self.plan_commit(node);
            }
            self.end_if_stopped(node);
        }
        Ok(())
    }

    /// What a durable batch says of messages.
    fn read_batch(&mut self, node: usize, ops: &[StoreOp]) -> Result<(), String> {
        let me = self.machines[node].identity.qm;
        let life = self.life(node);
        self.read_values(node, ops)?;
        for op in ops {
            if let StoreOp::Remove {
                stream,
                first,
                last,
            } = op
            {
                self.oracle.removed(node, *stream, *first, *last);
            }
            let StoreOp::Put {
                stream,
                position,
                head,
                body,
            } = op
            else {
                continue;
            };
            let Some(stored) = StoredMessage::read(head) else {
                return Err(format!(
                    "rule 11: node{node}: an unreadable head was stored"
                ));
            };
            let (source, id) = (stored.envelope.source, stored.envelope.id);
            if stored.envelope.report.is_some() {
                self.read_report(node, &stored.envelope)?;
                continue;
            }
            let Some(put) = Put::from_body(body) else {
                return Err(format!(
                    "rule 11: node{node}: a body nobody sent was stored"
                ));
            };
            let before = self.oracle.before(node, source, id, put);
            self.oracle.flushed(node, source, id);
            if let Some(outcome) = stored.dead {
                self.oracle.dead_letter(node, put, id, outcome);
            }
            if self.oracle.is_journal(node, *stream) {
                let at = (*stream, *position);
                let copy = Kept {
                    node,
                    at,
                    source,
                    id,
                };
                self.note(&format!("node{node} keeps a copy of {put:?}"));
                self.oracle.copied(copy, put)?;
            } else if source == me {
                self.note(&format!("node{node} stores {put:?} as {id}"));
                self.oracle.deal_stored(put)?;
                self.oracle.names.insert(id, put);
            } else if stored.dead.is_none() && stored.envelope.class.is_durable() {
                self.oracle.stored(node, life, source, id, Some(put))?;
                self.oracle.untold(node, *stream, *position, before);
            }
        }
        Ok(())
    }

    /// Names of express messages, from the answers to their puts.
    fn learn_names(&mut self, conn: ConnId, frame: &NodeFrame) {
        let NodeFrame::Accepted(accepted) = frame else {
            return;
        };
        let node = self.conns.get(&conn).map_or(0, |conn| conn.node);
        let Some(Who::Sender(sender)) = self.conns.get(&conn).map(|conn| conn.who) else {
            return;
        };
        for n in 0..u64::from(accepted.count) {
            let sequence = accepted.first_sequence + n;
            if let Some((put, _)) = self.senders[sender].unanswered.get(&sequence) {
                let mut id = accepted.first_id;
                id.sequence += n;
                self.oracle.names.insert(id, *put);
                if let Some(forks) = &mut self.forks {
                    forks.named(node, id, *put, false);
                }
            }
        }
    }

    pub(super) fn observe(&mut self, node: usize, event: Event) -> Result<(), String> {
        self.note(&format!("node{node}: {event:?}"));
        if let Some(judged) = self.observe_forked(node, &event) {
            return judged;
        }
        let me = self.machines[node].identity.qm;
        match event {
            Event::Acknowledged { id } => {
                self.manners.settled(node, id);
                self.oracle.acknowledged(me, id)
            }
            Event::DuplicateRemoved { id, .. } => {
                self.manners.removed(node, id);
                Ok(())
            }
            // No machine is copied in these worlds, and no disk goes back.
            Event::TwinSeen { .. }
            | Event::OwnTwin { .. }
            | Event::ElectionLost { .. }
            | Event::HistoryBranched { .. }
            | Event::OwnHistoryBranched { .. }
            | Event::OwnStoreWentBack { .. } => {
                Err(format!("a machine that is alone is accused: {event:?}"))
            }
            Event::Delivered { source, id, .. } => {
                let durable = self
                    .oracle
                    .names
                    .get(&id)
                    .and_then(|put| self.oracle.fates.get(put))
                    .is_some_and(|fate| fate.durable);
                if durable {
                    // Its batch has told of it; its sender hears of it now.
                    self.oracle.told(node, source, id);
                    return Ok(());
                }
                let life = self.life(node);
                self.oracle.stored(node, life, source, id, None)
            }
            Event::Dead {
                id,
                outcome,
                uncertain,
                ..
            } => {
                let now = self.now;
                let queues = self.scenario.queues;
                let truth = &self.truth;
                let end = Ended {
                    node,
                    now,
                    outcome,
                    uncertain,
                };
                self.oracle.died(id, end, |fate, outcome| {
                    let missing = fate.towards.1 >= queues || truth.deleted.contains(&fate.towards);
                    let blocked = truth.blocked.contains(&(fate.towards.0, fate.node));
                    match outcome {
                        Outcome::BAD_DESTINATION_QUEUE => missing,
                        Outcome::ACCESS_DENIED | Outcome::BLOCKED => blocked,
                        Outcome::QUEUE_PURGED
                        | Outcome::QUEUE_DELETED
                        // Which messages an operator met, only the node knows.
                        | Outcome::PURGED_IN_TRANSIT => true,
                        _ => false,
                    }
                })
            }
            Event::DeathConfirmed { id } => self.oracle.death_confirmed(id),
            Event::StreamHeld { text, .. } => Err(format!(
                "rule 7: node{node} holds a stream although nothing was lost: {text}"
            )),
            Event::PeerPending { peer, .. } => {
                let delay = self.draw(10_000, 3_000_000);
                self.report.approvals += 1;
                self.plan(delay, What::Approve { node, peer });
                Ok(())
            }
            Event::PeerMisbehaved { text, .. } => Err(format!(
                "rule 11: node{node} finds fault with a well-behaved peer: {text}"
            )),
            Event::Unreadable { what } => Err(format!("rule 11: node{node} cannot read {what}")),
            Event::IdentityChanged { .. } => {
                Err(format!("rule 11: node{node} takes a peer for another"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn start(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].running.is_some() || self.is_gone(node) {
            return Ok(());
        }
        let scenario = self.scenario.clone();
        let found = match self.machines[node].start(&scenario, self.now)? {
            Started::Runs(found) => found,
            Started::PowerLost => {
                self.report.deaths_in_commit += 1;
                self.note(&format!("node{node}: power lost during recovery"));
                return self.die(node, Death::Power);
            }
            Started::Failed => {
                self.report.disk_failures += 1;
                self.note(&format!("node{node}: the disk fails during recovery"));
                return self.die(node, Death::Process);
            }
        };
        let me = self.machines[node].identity.qm;
        let life = self.life(node);
        self.manners.begins(node);
        if self.forks.is_some() {
            self.found_forked(node, &found);
            return self.begin_life(node, &scenario);
        }
        self.oracle.starts(node, &found.remembered);
        for stored in &found.known {
            // A commit that the power cut short may still have reached the disk whole.
            let (source, id) = (stored.envelope.source, stored.envelope.id);
            let own = source == me || stored.dead.is_some();
            self.oracle.found(node, life, source, id, own);
        }
        for (_, stored, put) in &found.named {
            // Its application may not have heard its name yet, and its end may come before that.
            self.oracle.names.insert(stored.envelope.id, *put);
        }
        self.read_found(node, &found)?;
        self.begin_life(node, &scenario)
    }

    /// What operators and applications do when a node starts.
    fn begin_life(&mut self, node: usize, scenario: &Scenario) -> Result<(), String> {
        self.note(&format!("node{node} starts"));
        if let Some(wires) = &mut self.wires {
            wires.plug(node)?;
        }
        for queue in 0..scenario.queues {
            self.create(node, queue)?;
        }
        if scenario.movers > 0 {
            self.create(node, scenario.token_queue())?;
        }
        if scenario.wishes_per_mille > 0 {
            self.create(node, REPORTS)?;
        }
        if self.forks.is_some() {
            let root = self.family(node);
            for other in (0..scenario.nodes).filter(|other| *other != root) {
                if !scenario.is_avoided(other) {
                    self.add_peer(node, other)?;
                }
            }
        }
        if scenario.nat && node == scenario.nodes - 1 {
            for other in 0..scenario.nodes - 1 {
                self.add_peer(node, other)?;
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
            self.admin(node, what)?;
        }
        if !self.may_fail() {
            self.put_right(node)?;
        }
        self.drain(node)?;
        self.connect_applications(node)
    }

    pub(super) fn connect_applications(&mut self, node: usize) -> Result<(), String> {
        for sender in 0..self.senders.len() {
            if self.senders[sender].node == node {
                self.connect(Who::Sender(sender))?;
            }
        }
        for receiver in 0..self.receivers.len() {
            if self.receivers[receiver].node == node {
                self.connect(Who::Receiver(receiver))?;
            }
        }
        for mover in 0..self.movers.len() {
            if self.movers[mover].node == node {
                self.connect(Who::Mover(mover))?;
            }
        }
        Ok(())
    }

    pub(super) fn add_peer(&mut self, node: usize, other: usize) -> Result<(), String> {
        let what = AdminRequest::PeerAdd {
            name: format!("node{other}"),
            address: Some(format!("node{other}:{PORT}")),
            qm: None,
            keep_connected: true,
        };
        self.admin(node, what)?;
        Ok(())
    }
}
