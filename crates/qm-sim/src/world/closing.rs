//! The end of a world: when it is over, what waits if it does not end, and whether the books agree.

use super::*;

impl World {
    /// Whether every application has what it wanted and knows of every message.
    pub(super) fn is_over(&mut self) -> Result<bool, String> {
        if !self.is_quiet()? {
            return Ok(false);
        }
        // What left its queue may still be on its way into the dead-letter queue or into the hands
        // of an application.
        if self.open() > 0 {
            self.collect_dead_letters()?;
        }
        Ok(self.open() == 0)
    }

    /// Whether nothing waits anywhere.
    pub(super) fn is_quiet(&mut self) -> Result<bool, String> {
        if self.may_fail() {
            return Ok(false);
        }
        let gone = |node: usize| self.is_gone(node);
        let idle = self
            .senders
            .iter()
            .all(|s| gone(s.node) || s.is_done(&self.scenario) && s.unanswered.is_empty());
        let idle = idle && self.movers.iter().all(Mover::is_idle);
        if !idle
            || self
                .receivers
                .iter()
                .any(|r| !r.settling.is_empty() || !r.in_hand.is_empty())
        {
            return Ok(false);
        }
        for node in 0..self.machines.len() {
            if self.is_gone(node) {
                continue;
            }
            let Some(status) = self.status(node)? else {
                return Ok(false);
            };
            if status.quarantined > 0 {
                self.release_what_is_aside(node)?;
            }
            if status.outgoing_messages > 0 || status.local_messages > 0 {
                return Ok(false);
            }
        }
        if self.scenario.tells_ends() && self.oracle.owes_ends() {
            return Ok(false);
        }
        self.identities_are_settled()
    }

    /// Accepted puts of which nothing is known yet.
    fn open(&self) -> usize {
        let Some(forks) = &self.forks else {
            return self.oracle.open();
        };
        let fates = self.oracle.fates.iter();
        let lost = fates.filter(|(put, fate)| fate.dead.is_none() && forks.is_missing(**put, fate));
        lost.count() + self.kept_back().count()
    }

    pub(super) fn what_waits(&mut self) -> Result<String, String> {
        let mut text = format!("{} accepted puts are open", self.open());
        if let Some(end) = self.oracle.open_end().filter(|_| self.forks.is_none()) {
            text += &format!("; {end}");
        }
        for sender in &self.senders {
            if !sender.unanswered.is_empty() || !sender.is_done(&self.scenario) {
                text += &format!(
                    "; application {} of node{} has {} unanswered, {} to put again, is {}",
                    sender.number,
                    sender.node,
                    sender.unanswered.len(),
                    sender.again.len(),
                    if sender.conn.is_some() {
                        "connected"
                    } else {
                        "alone"
                    },
                );
                for (sequence, (put, frame)) in sender.unanswered.iter().take(2) {
                    text += &format!(
                        " ({sequence}: {put:?} {:?} {:?} to {})",
                        frame.class, frame.idempotency, frame.destination
                    );
                }
            }
        }
        for node in 0..self.machines.len() {
            match self.admin(node, AdminRequest::Outgoing)? {
                Some(AdminReply::Outgoing(views)) => {
                    for view in views {
                        if view.waiting + view.unacknowledged + view.in_doubt > 0 {
                            text += &format!("; node{node}: {view:?}");
                        }
                    }
                }
                _ => text += &format!("; node{node} is down"),
            }
            if let Some(running) = &self.machines[node].running {
                text += &format!("; node{node}: {:?}", running.engine.sizes());
            }
            if let Some(AdminReply::Queues(views)) = self.admin(node, AdminRequest::Queues)? {
                for view in views.iter().filter(|view| view.messages + view.leased > 0) {
                    text += &format!("; node{node}: {view:?}");
                }
            }
        }
        Ok(text)
    }

    /// Closes the books.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.collect_dead_letters()?;
        self.judge_identities()?;
        if let Err(text) = self.finish() {
            return Err(format!("{text}; {}", self.what_waits()?));
        }
        self.report.virtual_ms = self.now / 1_000;
        self.report.drain_ms = self
            .report
            .virtual_ms
            .saturating_sub(self.scenario.fault_ms);
        for (put, fate) in &mut self.oracle.fates {
            if let Some(forks) = &self.forks {
                fate.accepted.extend(forks.accepted_as(*put));
                self.report.duplicates_allowed = forks.duplicates_allowed;
            }
            self.report.accepted += u64::from(!fate.accepted.is_empty());
            self.report.consumed += u64::from(fate.consumed > 0);
            self.report.refused += u64::from(fate.refused && fate.accepted.is_empty());
        }
        self.report.duplicates_allowed += self.oracle.duplicates_allowed;
        self.report.undone = self.oracle.undone;
        [
            self.report.committed,
            self.report.aborted,
            self.report.ends_unknown,
            self.report.tokens_moved,
        ] = self.oracle.deal_counts();
        for node in 0..self.machines.len() {
            self.keep_counters(node);
        }
        if self.report.reports_lost > 0 {
            let lost = self.report.reports_lost;
            return Err(format!("rule 14: {lost} reports had no queue"));
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), String> {
        let Some(forks) = &self.forks else {
            return self.oracle.finish();
        };
        for (put, fate) in &self.oracle.fates {
            if fate.dead.is_none() && forks.is_missing(*put, fate) {
                return Err(format!("rule 3: {put:?} {fate:?} was accepted and is lost"));
            }
        }
        match self.kept_back().next() {
            Some((node, put)) => Err(format!(
                "rule 3: {put:?} arrived at node{node}, and is lost there"
            )),
            None => Ok(()),
        }
    }

    /// Messages that entered queues of living machines of families, and that nobody got there.
    fn kept_back(&self) -> impl Iterator<Item = (usize, Put)> + '_ {
        let forks = self.forks.iter();
        let of = forks.flat_map(move |forks| {
            let nodes = (0..self.machines.len()).filter(|node| !self.is_gone(*node));
            nodes.flat_map(move |node| forks.kept_back(node).map(move |put| (node, put)))
        });
        of.filter(|(_, put)| self.oracle.fates.get(put).is_some_and(|fate| fate.durable))
    }

    /// Adds what a life of a node counted to the report.
    pub(super) fn keep_counters(&mut self, node: usize) {
        if let Some(running) = &self.machines[node].running {
            let counters = running.engine.counters();
            self.report.duplicates += counters.duplicates;
            self.report.routed_acks += counters.acks_routed;
            self.report.queried += counters.queried;
            self.report.dead_letters += counters.dead_letters;
            self.report.finals += counters.finals;
            self.report.ends_heard += counters.finals_heard;
            self.report.ends_unknown_told += counters.finals_unknown;
            self.report.reports += counters.reports;
            self.report.reports_lost += counters.reports_lost;
            self.report.copies_kept += counters.journalled;
            self.report.reached.add(running.engine.reached());
        }
    }

    /// Dead letters count as found; they are all there is in the stores that is not received.
    pub(super) fn collect_dead_letters(&mut self) -> Result<(), String> {
        for node in 0..self.machines.len() {
            for number in 0..256_u32 {
                for priority in 0..8 {
                    let stream = StreamId(number * 8 + priority);
                    for record in self.machines[node].load(stream, 0, 10_000, usize::MAX)? {
                        let Some(stored) = StoredMessage::read(&record.head) else {
                            continue;
                        };
                        if let Some(outcome) = stored.dead
                            && let Some(put) = Put::from_body(&record.body)
                        {
                            let id = stored.envelope.id;
                            self.oracle.dead_letter(node, put, id, outcome);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
