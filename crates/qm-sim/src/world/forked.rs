//! What machines of a family tell and store, and whether it was right: the books are
//! [`Forks`].

use std::collections::BTreeSet;

use qm_wire::Entry;

use super::*;
use crate::scenario::Case;

impl World {
    /// What a machine with copies, or one that is alone, tells. `None` when it is judged as in
    /// other worlds.
    pub(super) fn observe_forked(
        &mut self,
        node: usize,
        event: &Event,
    ) -> Option<Result<(), String>> {
        let mine = self.machines[node].identities();
        let forks = self.forks.as_mut()?;
        if let Err(text) = forks.judge(node, &mine, event) {
            return Some(Err(text));
        }
        match event {
            Event::Acknowledged { id } => {
                self.manners.settled(node, *id);
                let words = &self.words;
                let was_told = |put| words.was_told(node, put);
                return Some(forks.acknowledged(node, *id, was_told));
            }
            Event::DuplicateRemoved { .. } => return None,
            Event::Delivered { id, tag, .. } => {
                let name = Entry { id: *id, tag: *tag };
                let put = self.words.named(&name);
                let fates = &self.oracle.fates;
                let express = |put: &Put| fates.get(put).is_some_and(|fate| !fate.durable);
                if let Some(put) = put.filter(express) {
                    forks.entered_in_memory(node, put, name);
                }
            }
            Event::DeathConfirmed { id } => return Some(forks.death_confirmed(node, *id)),
            Event::Dead { id, outcome, .. } => {
                let over = matches!(
                    *outcome,
                    Outcome::REACH_QUEUE_EXPIRED | Outcome::VOIDED | Outcome::PURGED_IN_TRANSIT
                );
                let put = forks.line_names(node, *id);
                let fate = put.and_then(|put| self.oracle.fates.get(&put));
                if over && fate.is_some_and(|fate| fate.times_ms[0].is_some()) {
                    return Some(Ok(()));
                }
                let towards = forks.line_names(node, *id).and_then(|put| {
                    let fate = self.oracle.fates.get_mut(&put)?;
                    fate.purged |= forks.may_die(fate.towards.0);
                    Some((put, fate.towards.0))
                });
                if towards.is_none_or(|(_, to)| !forks.may_die(to)) {
                    return Some(Err(format!(
                        "rule 9: {towards:?} ({id}) is dead at node{node} and has no reason to: {outcome}"
                    )));
                }
            }
            Event::StreamHeld { .. } => {
                self.report.held += 1;
                let delay = self.draw(100_000, 2_000_000);
                // Whoever sends decides.
                for other in 0..self.machines.len() {
                    self.plan(delay, What::Clone(CloneStep::Rebase { node: other }));
                }
            }
            Event::StreamRerooted { peer, queue, .. } => {
                let machines = &self.machines;
                let is_it = |to: usize| {
                    let of = machines.iter().enumerate();
                    let mut family = of.filter(|(node, _)| forks.root(*node) == to);
                    peer.is_none_or(|qm| family.any(|(_, m)| m.identities().contains(&qm)))
                };
                let fates = self.oracle.fates.iter();
                let towards = fates.filter(|(_, fate)| {
                    let (to, number) = fate.towards;
                    fate.transactional && queue.as_str() == queue_name(number) && is_it(to)
                });
                let towards: Vec<Put> = towards.map(|(put, _)| *put).collect();
                forks.began_anew(node, towards);
            }
            Event::TwinSeen { .. } | Event::OwnTwin { .. } => self.report.alarms += 1,
            Event::HistoryBranched { .. } | Event::StreamBranched { .. } => {
                self.report.branched += 1;
            }
            Event::OwnStoreWentBack { .. } => self.report.went_back += 1,
            Event::Reidentified { .. } => {
                self.report.parted += 1;
                self.copying.parted.push(node);
                // What waits for the note that it is handed out was lent before.
                let lent = self.machines[node].lent();
                self.copying.lent.extend(lent);
            }
            Event::PeerMisbehaved { peer, .. } if self.is_hostile(*peer) => {}
            Event::PeerMisbehaved { .. } | Event::PeerPending { .. } | Event::Unreadable { .. } => {
                return None;
            }
            _ => {}
        }
        Some(Ok(()))
    }

    /// What a durable batch of a machine of a family says of messages.
    pub(super) fn read_forked_batch(&mut self, node: usize, ops: &[StoreOp]) -> Result<(), String> {
        for (at, op) in ops.iter().enumerate() {
            let StoreOp::Put { head, body, .. } = op else {
                continue;
            };
            let moved = is_moved(ops, at);
            let stored = StoredMessage::read(head).zip(Put::from_body(body));
            let Some((stored, put)) = stored else {
                return Err(format!("rule 11: node{node} stored what nobody sent"));
            };
            let (source, id) = (stored.envelope.source, stored.envelope.id);
            let own = self.machines[node].identities().contains(&source);
            let aside = |stream| self.machines[node].is_quarantine(stream);
            let towards = moved.map(|(from, to)| (aside(from), aside(to)));
            let exact = self.case().is_some_and(|case| !case.copies_memory());
            let (Some(forks), Some(fate)) = (&mut self.forks, self.oracle.fates.get(&put)) else {
                continue;
            };
            match towards.filter(|_| exact) {
                Some((false, true)) => forks.aside.set_aside(node, put)?,
                Some((true, false)) => forks.aside.released(node, put),
                _ => {}
            }
            if own {
                forks.named(node, id, put, true);
                let text = format!("node{node} stores {put:?} as {id}");
                self.note(&text);
            } else if moved.is_some() {
                let text = format!("node{node} moves {put:?} to another queue of its own");
                self.note(&text);
            } else if stored.dead.is_none() && stored.envelope.class.is_durable() {
                forks.entered(node, put, id, fate)?;
                let text = format!("node{node} takes {put:?} as {id}");
                self.note(&text);
            }
        }
        Ok(())
    }

    /// A machine of a family starts with what was found.
    pub(super) fn found_forked(&mut self, node: usize, found: &crate::machine::Found) {
        let mine = self.machines[node].identities();
        let Some(forks) = &mut self.forks else { return };
        let here: BTreeSet<Put> = found.named.iter().map(|(_, _, put)| *put).collect();
        forks.finds(node, &here, |put| self.oracle.is_durable_here(put));
        for (_, stored, put) in &found.named {
            let id = stored.envelope.id;
            if mine.contains(&stored.envelope.source) {
                forks.named(node, id, *put, true);
            } else if stored.dead.is_none() {
                forks.found(node, *put);
            }
        }
        forks.starts(node, &found.remembered);
    }

    /// What an engine hands to an application: nothing of what every copy has, at one that took
    /// another identity.
    pub(super) fn judge_delivery(&self, conn: ConnId, frame: &NodeFrame) -> Result<(), String> {
        let Some(forks) = &self.forks else {
            return Ok(());
        };
        let exact = self.case().is_some_and(|case| !case.copies_memory());
        let (Some(at), NodeFrame::Delivery(delivery)) = (self.conns.get(&conn), frame) else {
            return Ok(());
        };
        let node = at.node;
        let machine = &self.machines[node];
        let (Some(put), true) = (Put::from_body(&delivery.body), exact) else {
            return Ok(());
        };
        let durable = self.oracle.fates.get(&put).is_some_and(|fate| fate.durable);
        if !durable || machine.identity.qm == machine.first_identity() {
            return Ok(());
        }
        if self.copying.lent.contains(&(conn, delivery.lookup)) {
            return Ok(());
        }
        let root = self.family(node);
        let others = (0..self.machines.len()).filter(|other| *other != node);
        let family = others.filter(|other| self.family(*other) == root && !self.is_gone(*other));
        forks.hands_out(node, put, family)
    }

    /// The operator of a copy lets it deal with what its original has as well: here nobody minds
    /// that both do.
    pub(super) fn release_what_is_aside(&mut self, node: usize) -> Result<(), String> {
        for queue in 0..self.scenario.queues {
            let name = format!("{}:{}", queue_name(queue), qm_engine::QUARANTINE);
            let name = name.parse().expect("a valid name");
            self.admin(node, AdminRequest::QuarantineRelease { name })?;
        }
        Ok(())
    }

    /// Whether whoever is a copy has an identity of its own, or its operator knows.
    pub(super) fn identities_are_settled(&mut self) -> Result<bool, String> {
        let Some(clones) = self.clones() else {
            return Ok(true);
        };
        let family: Vec<usize> = (0..self.machines.len())
            .filter(|node| self.family(*node) == clones.victim && !self.is_gone(*node))
            .collect();
        if family.iter().any(|n| self.machines[*n].running.is_none()) {
            return Ok(false);
        }
        let mut identities: Vec<QmId> = family
            .iter()
            .map(|node| self.machines[*node].identity.qm)
            .collect();
        identities.sort_unstable();
        identities.dedup();
        match clones.case {
            Case::AlarmOnly => {
                for node in family {
                    let known = self.status(node)?;
                    if known.is_none_or(|status| status.twins.is_empty()) {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Case::LyingRelay => Ok(true),
            _ => Ok(identities.len() == family.len()),
        }
    }

    /// At the end: nobody lost an identity that nobody else has, and people are told.
    pub(super) fn judge_identities(&mut self) -> Result<(), String> {
        let Some(clones) = self.clones() else {
            return Ok(());
        };
        let first = self.machines[clones.victim].first_identity();
        let living = (0..self.machines.len())
            .filter(|node| self.family(*node) == clones.victim && !self.is_gone(*node));
        let keep: Vec<usize> = living
            .filter(|node| self.machines[*node].identity.qm == first)
            .collect();
        let one = matches!(clones.case, Case::AlarmOnly | Case::LyingRelay) || keep.len() == 1;
        if keep.is_empty() || !one {
            return Err(format!(
                "rule 7: {keep:?} have the identity {first} with which node{} began",
                clones.victim
            ));
        }
        for node in self.copying.parted.clone() {
            let Some(AdminReply::Identity(view)) = self.admin(node, AdminRequest::Identity)? else {
                continue;
            };
            if view.former.is_none_or(|former| former.because.is_empty()) {
                return Err(format!(
                    "rule 12: node{node} took another identity and does not say why"
                ));
            }
        }
        Ok(())
    }
}

/// From where to where a record went that lay in another queue of its machine: it is removed there
/// in the same breath.
fn is_moved(ops: &[StoreOp], at: usize) -> Option<(StreamId, StreamId)> {
    match (&ops[at], ops.get(at + 1)) {
        (
            StoreOp::Put { stream: to, .. },
            Some(StoreOp::Remove {
                stream,
                first,
                last,
            }),
        ) if to != stream && first == last => Some((*stream, *to)),
        _ => None,
    }
}
