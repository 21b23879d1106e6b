//! What operators do, and what they are told when they ask why.

use qm_engine::admin::{OutgoingState, OutgoingView, Selector};

use super::links::{NOTICED_US, SILENCE_US};
use super::*;

/// Messages that wait for longer than this towards a machine that cannot be reached must not be
/// said to be moving.
const PATIENCE_US: u64 = 5_000_000;

impl World {
    /// An operator does something somewhere.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.operator_every_ms, What::Operate);
        let node = self.pick(self.scenario.nodes);
        if self.machines[node].running.is_none() {
            return Ok(());
        }
        self.report.operations += 1;
        let queue = self.pick(self.scenario.queues);
        let name: QueueName = queue_name(queue).parse().expect("a valid name");
        let discard = self.draw(0, 1) == 0;
        match self.draw(0, 7) {
            0 => {
                self.note(&format!("node{node}: {name} is paused"));
                let paused = true;
                self.admin(node, AdminRequest::QueuePause { name, paused })?;
            }
            1 => {
                self.note(&format!("node{node}: {name} goes on"));
                let paused = false;
                self.admin(node, AdminRequest::QueuePause { name, paused })?;
            }
            2 => {
                self.truth.paused_outgoing.insert(node);
                self.note(&format!("node{node}: transmission is paused"));
                let (which, paused) = (Selector::All, true);
                self.admin(node, AdminRequest::OutgoingPause { which, paused })?;
            }
            3 => {
                self.note(&format!("node{node}: transmission goes on"));
                let (which, paused) = (Selector::All, false);
                self.admin(node, AdminRequest::OutgoingPause { which, paused })?;
            }
            4 => {
                let which = Selector::All;
                self.admin(node, AdminRequest::OutgoingRetry { which })?;
            }
            // Where every token is, is known only while nobody throws any away.
            6 if self.scenario.movers > 0 => {}
            5 => {
                self.note(&format!("node{node}: {name} is purged"));
                self.truth.purged.insert((node, queue));
                self.mark_purged(node, |fate| {
                    fate.towards == (node, queue) && !fate.done && fate.dead.is_none()
                });
                self.admin(node, AdminRequest::QueuePurge { name, discard })?;
            }
            6 => {
                self.note(&format!("node{node}: what waits for others is purged"));
                self.mark_purged(node, |fate| fate.node == node && fate.towards.0 != node);
                let which = Selector::All;
                self.admin(node, AdminRequest::OutgoingPurge { which, discard })?;
            }
            _ => {
                self.note(&format!("node{node}: {name} is deleted"));
                self.truth.deleted.insert((node, queue));
                self.mark_purged(node, |fate| fate.towards == (node, queue));
                let force = true;
                let what = AdminRequest::QueueDelete {
                    name,
                    force,
                    discard,
                };
                self.admin(node, what)?;
                let delay = self.draw(1, 3_000_000);
                self.plan(delay, What::Create { node, queue });
            }
        }
        Ok(())
    }

    /// What an operator removes is not lost. What was put and is neither consumed nor dead may be
    /// among it: where exactly it is, only the node knows.
    fn mark_purged(&mut self, node: usize, concerns: impl Fn(&Fate) -> bool) {
        for fate in self.oracle.fates.values_mut() {
            let elsewhere = fate.towards.0 == node && fate.node != node && fate.stored == 0;
            if concerns(fate) && !elsewhere {
                fate.purged = true;
            }
        }
        // What arrived and waits for the disk is in the queue already.
        let Some(running) = &self.machines[node].running else {
            return;
        };
        for op in running.waiting.iter().flat_map(|batch| &batch.ops) {
            if let StoreOp::Put { body, .. } = op
                && let Some(fate) =
                    Put::from_body(body).and_then(|put| self.oracle.fates.get_mut(&put))
                && concerns(fate)
            {
                fate.purged = true;
            }
        }
    }

    pub(super) fn create(&mut self, node: usize, queue: usize) -> Result<(), String> {
        let name: QueueName = queue_name(queue).parse().expect("a valid name");
        if self.machines[node].running.is_some() && self.queue_is_missing(node, queue)? {
            let mut settings = LocalSettings::new(name);
            settings.quota_messages = self.scenario.quota_messages;
            settings.transactional = self.scenario.is_transactional(queue);
            self.note(&format!("node{node}: {} is created", settings.name));
            let reply = self.admin(node, AdminRequest::QueueCreate(settings))?;
            if matches!(reply, Some(AdminReply::Failed { .. })) {
                // An earlier queue of this name is still being deleted.
                self.plan(100_000, What::Create { node, queue });
            }
        }
        Ok(())
    }

    /// The queue was never created, or its creation did not survive.
    fn queue_is_missing(&mut self, node: usize, queue: usize) -> Result<bool, String> {
        Ok(match self.admin(node, AdminRequest::Queues)? {
            Some(AdminReply::Queues(views)) => !views
                .iter()
                .any(|view| view.settings.name.as_str() == queue_name(queue)),
            _ => false,
        })
    }

    pub(super) fn approve(&mut self, node: usize, peer: QmId) -> Result<(), String> {
        if self.machines[node].running.is_none() {
            self.plan(500_000, What::Approve { node, peer });
            return Ok(());
        }
        self.note(&format!("node{node} approves {peer}"));
        let what = AdminRequest::PeerApprove {
            who: peer.to_string(),
            name: None,
        };
        self.admin(node, what)?;
        Ok(())
    }

    pub(super) fn block_some(&mut self) -> Result<(), String> {
        self.plan_fault(self.scenario.block_every_ms, What::Block);
        let node = self.pick(self.scenario.nodes);
        let other = self.pick(self.scenario.nodes);
        if node == other || self.machines[node].running.is_none() {
            return Ok(());
        }
        let peer = self.machines[other].identity.qm;
        self.report.blocks += 1;
        self.truth.blocked.insert((node, other));
        self.note(&format!("node{node} blocks node{other}"));
        let who = peer.to_string();
        self.admin(node, AdminRequest::PeerBlock { who })?;
        let delay = self.draw(10_000, 3_000_000);
        self.plan(delay, What::Approve { node, peer });
        Ok(())
    }

    /// A queue is there and hands out. One whose deletion fails for want of room comes back as it
    /// was, paused perhaps: it is looked at again.
    pub(super) fn put_queue_right(&mut self, node: usize, queue: usize) -> Result<(), String> {
        self.create(node, queue)?;
        let name: QueueName = queue_name(queue).parse().expect("a valid name");
        let paused = false;
        let what = AdminRequest::QueuePause { name, paused };
        if let Some(AdminReply::Failed { .. }) = self.admin(node, what)? {
            self.plan(100_000, What::Unpause { node, queue });
        }
        Ok(())
    }

    /// Everything is created, approved and running again at one machine.
    pub(super) fn put_right(&mut self, node: usize) -> Result<(), String> {
        if self.machines[node].running.is_none() {
            return Ok(());
        }
        for queue in 0..self.scenario.queues {
            self.put_queue_right(node, queue)?;
        }
        if self.scenario.movers > 0 {
            self.put_queue_right(node, self.scenario.token_queue())?;
        }
        if self.scenario.wishes_per_mille > 0 {
            self.create(node, REPORTS)?;
        }
        let (which, paused) = (Selector::All, false);
        self.admin(node, AdminRequest::OutgoingPause { which, paused })?;
        for other in 0..self.machines.len() {
            if self.family(other) != self.family(node) {
                for peer in self.machines[other].spoken() {
                    self.approve(node, peer)?;
                }
            }
        }
        Ok(())
    }

    /// Dead letters count towards what a node may store: somebody looks at them and drops them.
    pub(super) fn tidy(&mut self) -> Result<(), String> {
        self.plan(5_000_000, What::Tidy);
        self.collect_dead_letters()?;
        for node in 0..self.scenario.nodes {
            let name: QueueName = "dead$".parse().expect("a valid name");
            let discard = true;
            self.admin(node, AdminRequest::QueuePurge { name, discard })?;
        }
        Ok(())
    }

    /// Asks a machine why its messages wait, and compares the answer with the world.
    pub(super) fn ask_why(&mut self) -> Result<(), String> {
        if self.may_fail() {
            let delay = self.draw(100_000, 2_000_000);
            self.plan(delay, What::AskWhy);
        }
        let node = self.pick(self.scenario.nodes);
        self.check_quotas(node)?;
        let Some(AdminReply::Outgoing(views)) = self.admin(node, AdminRequest::Outgoing)? else {
            return Ok(());
        };
        for view in views {
            if view.waiting + view.unacknowledged + view.in_doubt == 0 {
                continue;
            }
            let subject = format!("{}/{}", view.remote, view.queue);
            let what = AdminRequest::Why {
                subject: subject.clone(),
            };
            let Some(AdminReply::Why(why)) = self.admin(node, what)? else {
                continue;
            };
            self.report.whys += 1;
            if !self.is_true(node, &view, why.code.name()) {
                return Err(format!(
                    "rule 10: node{node} says of {subject}: {} ({}), which is not so: {view:?}",
                    why.code.name(),
                    why.cause
                ));
            }
        }
        self.ask_about_a_message(node)
    }

    /// A queue holds no more than its quota and what was under way when it was reached.
    fn check_quotas(&mut self, node: usize) -> Result<(), String> {
        let quota = self.scenario.quota_messages;
        let most = quota.saturating_add(self.scenario.window_messages);
        let Some(AdminReply::Queues(views)) = self.admin(node, AdminRequest::Queues)? else {
            return Ok(());
        };
        for view in views {
            // Reports are put whatever the quota of their queue is.
            let reports = view.settings.name.as_str() == queue_name(REPORTS);
            if view.settings.quota_messages == quota
                && view.messages + view.leased > most
                && !reports
            {
                return Err(format!(
                    "rule 8: node{node}: more than {most} messages in {view:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether the cause that a node names for what waits is so.
    fn is_true(&self, node: usize, view: &OutgoingView, code: &str) -> bool {
        let target = view.peer.and_then(|peer| {
            self.machines
                .iter()
                .position(|machine| machine.identity.qm == peer)
        });
        let Some(target) = target else {
            // Never reached so far.
            return !matches!(code, "moving" | "idle" | "no_credit" | "queue_full");
        };
        let apart = self.network.apart_until(node, target);
        let long_apart = apart > self.now
            && self
                .now
                .saturating_sub(self.truth.apart_since(node, target))
                > 2 * PATIENCE_US
            && self.now.saturating_sub(self.truth.heard_at(node, target)) > PATIENCE_US;
        match code {
            "paused" => self.truth.paused_outgoing.contains(&node),
            "pending_approval" => {
                self.scenario.approval || self.truth.blocked.contains(&(target, node))
            }
            "queue_full" => self.scenario.quota_messages < u64::MAX,
            // A link over which nothing gets is given up, also while nothing may be sent on it.
            "no_credit" => {
                let silent = self.network.silent_for(node, target, self.now);
                silent <= SILENCE_US + NOTICED_US
            }
            // What was under way on a session that was just lost moves to the other one of these
            // two, if they have two, until that is lost as well.
            "moving" | "idle" => {
                let last = view
                    .connections
                    .last()
                    .filter(|last| last.event == "closed");
                let wall_us = self.machines[node].now(self.now).wall_us;
                let just_lost =
                    last.is_some_and(|last| wall_us.saturating_sub(last.at_us) <= NOTICED_US);
                !long_apart || just_lost || matches!(view.state, OutgoingState::Paused)
            }
            // What nothing in this world can be.
            "handshake" | "version" | "peer_busy" | "queue_type" | "damaged" | "received"
            | "stream_held" | "empty" | "unknown" => false,
            _ => true,
        }
    }

    /// Of a message that its own node still has to deliver, `why` knows something.
    fn ask_about_a_message(&mut self, node: usize) -> Result<(), String> {
        let waiting = self.oracle.fates.values().find(|fate| {
            fate.node == node
                && fate.durable
                && fate.towards.0 != node
                && !fate.accepted.is_empty()
                && fate.stored == 0
                && fate.dead.is_none()
                && !fate.purged
                && !fate.restarted
        });
        let Some(id) = waiting.and_then(|fate| fate.accepted.first().copied()) else {
            return Ok(());
        };
        let subject = id.to_string();
        if let Some(AdminReply::Why(why)) = self.admin(node, AdminRequest::Why { subject })?
            && why.code.name() == "unknown"
        {
            return Err(format!(
                "rule 10: node{node} knows nothing of {id}, which it has to deliver"
            ));
        }
        Ok(())
    }
}
