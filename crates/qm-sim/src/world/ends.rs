//! Ends of messages, reports of them, and copies: what nodes write and say of these (rules 14 and
//! 15).

use qm_wire::local::Delivery;
use qm_wire::{Envelope, Known, PeerFrame};

use super::*;
use crate::oracle::Kept;

impl World {
    /// Whether a message may have ended so, by what happened in the world. Which messages an
    /// operator met, only the node knows.
    pub(super) fn is_so(now: u64, truth: &Truth, fate: &Fate, outcome: Outcome) -> bool {
        let waited_ms = now.saturating_sub(fate.put_at) / 1_000;
        match outcome {
            Outcome::RECEIVED => fate.taken,
            Outcome::REJECTED_BY_RECEIVER => fate.rejected,
            Outcome::RECEIVE_EXPIRED => {
                fate.times_ms[1].is_some_and(|limit| fate.restarted || waited_ms + 1 >= limit)
            }
            Outcome::QUEUE_PURGED => truth.purged.contains(&fate.towards),
            Outcome::QUEUE_DELETED => truth.deleted.contains(&fate.towards),
            // It was in the memory of a life that is over.
            Outcome::END_UNKNOWN => !fate.durable && fate.restarted,
            _ => false,
        }
    }

    /// What a durable batch says of ends, and of queues.
    pub(super) fn read_values(&mut self, node: usize, ops: &[StoreOp]) -> Result<(), String> {
        if !self.scenario.tells_ends() {
            return Ok(());
        }
        let me = self.machines[node].identity.qm;
        let (now, truth) = (self.now, &self.truth);
        for op in ops {
            let (key, value) = match op {
                StoreOp::Set { key, value } => (key, Some(value)),
                StoreOp::Unset { key } => (key, None),
                _ => continue,
            };
            if let Some(value) = value {
                self.oracle.learn_journal(node, key, value);
            }
            self.oracle.noted((node, me), key, value, |fate, outcome| {
                Self::is_so(now, truth, fate, outcome)
            })?;
        }
        Ok(())
    }

    /// A report is on a disk, or in somebody's hands.
    pub(super) fn read_report(&mut self, node: usize, report: &Envelope) -> Result<(), String> {
        let me = self.machines[node].identity.qm;
        let (now, truth) = (self.now, &self.truth);
        self.oracle.reported((node, me), report, |fate, outcome| {
            Self::is_so(now, truth, fate, outcome)
        })
    }

    /// What a node starts with.
    pub(super) fn read_found(
        &mut self,
        node: usize,
        found: &crate::machine::Found,
    ) -> Result<(), String> {
        if !self.scenario.tells_ends() {
            return Ok(());
        }
        let me = self.machines[node].identity.qm;
        for (_, stored, put) in &found.named {
            if let Some(outcome) = stored.dead {
                let id = stored.envelope.id;
                self.oracle.letter_found(node, *put, id, outcome);
            }
        }
        let (now, truth) = (self.now, &self.truth);
        let live = found
            .named
            .iter()
            .filter(|(_, stored, _)| stored.dead.is_none());
        let live = live.map(|(at, stored, put)| {
            let (source, id) = (stored.envelope.source, stored.envelope.id);
            let kept = Kept {
                node,
                at: *at,
                source,
                id,
            };
            (kept, *put)
        });
        let state = found.state.iter();
        self.oracle
            .ends_found((node, me), state, live, |fate, outcome| {
                Self::is_so(now, truth, fate, outcome)
            })?;
        for report in &found.reports {
            self.read_report(node, report)?;
        }
        Ok(())
    }

    /// What a node says of ends to a peer.
    pub(super) fn hear_ends(&self, node: usize, lane: Lane, buffer: &Bytes) -> Result<(), String> {
        if !self.scenario.tells_ends() || matches!(lane, Lane::Priority(_)) {
            return Ok(());
        }
        for frame in manners::frames(buffer) {
            match frame {
                PeerFrame::Final(told) => {
                    for (entry, outcome) in &told.entries {
                        self.oracle
                            .end_told(node, told.source, entry.id, *outcome)?;
                    }
                }
                PeerFrame::Answer(answer) => {
                    for (entry, known) in &answer.entries {
                        if let Known::Outcome(outcome) = known {
                            self.oracle
                                .end_told(node, answer.source, entry.id, *outcome)?;
                        }
                    }
                }
                PeerFrame::FinalConfirm(confirm) => {
                    for entry in &confirm.entries {
                        self.oracle.end_confirmed(node, confirm.source, entry.id)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An application gets a report or a copy into its hands: by which name it settles it.
    pub(super) fn gets_aside(
        &mut self,
        node: usize,
        queue: usize,
        delivery: &Delivery,
    ) -> Result<Put, String> {
        let envelope = Envelope::decode(&delivery.envelope)
            .map_err(|error| format!("rule 11: node{node} delivered no envelope: {error}"))?;
        if queue == REPORTS {
            self.read_report(node, &envelope)?;
            self.oracle.report_read(envelope.id);
            self.report.reports_read += 1;
        } else {
            self.report.copies_read += 1;
        }
        Ok(Put {
            application: u32::MAX,
            number: envelope.id.sequence,
        })
    }
}
