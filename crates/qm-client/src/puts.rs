//! Puts that the node has not answered, and messages that are followed.
//!
//! Pure state: what arrives and what is lost comes in, answers go out through channels.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use qm_wire::local::{
    Accepted, ClientFrame, EndTransaction, Fate, Follow, NodeHello, Put, Refused, TransactionEnded,
};
use qm_wire::{Class, MessageId, Outcome};
use tokio::sync::{oneshot, watch};

use crate::error::{ClientError, SendError, Violation};

/// What is known of a followed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not there yet.
    Waiting,
    /// The destination node has it.
    Delivered,
    /// An application received it.
    Received,
    /// It ended otherwise.
    Ended(Outcome),
    /// Nothing more will be heard.
    Unknown,
}

/// The message's id, and whether the node had accepted the message before.
pub(crate) type Answer = Result<(MessageId, bool), SendError>;

/// How a transaction ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// As the node says. `again` says that it was asked on another connection than the one that
    /// carried the transaction: what was not committed was aborted with that.
    Told {
        ended: TransactionEnded,
        again: bool,
    },
    /// The connection was lost before it carried the end: nothing happened.
    NotSent(ClientError),
    /// The end was sent, and no answer will come.
    Unknown(ClientError),
}

#[derive(Debug)]
struct Pending {
    what: What,
    /// What it counts against the window.
    bytes: u64,
    /// Whether any connection carried it: from then on only the node knows what became of it.
    transmitted: bool,
}

#[derive(Debug)]
enum What {
    Put {
        put: Put,
        answer: oneshot::Sender<Answer>,
    },
    /// A put of a transaction, whose end is its answer.
    Part(Put),
    /// The end of a transaction, which so many puts precede.
    End {
        end: EndTransaction,
        parts: u64,
        again: bool,
        answer: Option<oneshot::Sender<Ended>>,
    },
}

impl Pending {
    /// Whether it counts towards the node's window: parts of a transaction do not (W-LOC-8).
    const fn counts(&self) -> bool {
        !matches!(self.what, What::Part(_))
    }

    /// Whether the application waited for room for it, which is free again with its answer.
    const fn is_reserved(&self) -> bool {
        match &self.what {
            What::Put { .. } => true,
            What::Part(_) => false,
            What::End { end, .. } => end.commit,
        }
    }
}

#[derive(Debug)]
struct Followed {
    until: Follow,
    accepted: bool,
    progress: watch::Sender<Progress>,
}

/// What a batch of answers released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Puts {
    /// Sequence of the first slot.
    first: u64,
    /// Unanswered puts by sequence; answered ones leave a hole until they are at the front.
    slots: VecDeque<Option<Pending>>,
    /// Sequence of the first put that the present connection has not carried.
    unsent: u64,
    /// Puts that the present connection carried and that are unanswered.
    in_flight: Freed,
    followed: BTreeMap<u64, Followed>,
    freed: Freed,
    /// Number of the last transaction.
    last_transaction: u64,
}

impl Puts {
    pub(crate) const fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            unsent: 1,
            in_flight: Freed {
                messages: 0,
                bytes: 0,
            },
            followed: BTreeMap::new(),
            freed: Freed {
                messages: 0,
                bytes: 0,
            },
            last_transaction: 0,
        }
    }

    /// A number for a new transaction.
    pub(crate) fn begin(&mut self) -> u64 {
        self.last_transaction = self.last_transaction.saturating_add(1);
        self.last_transaction
    }

    /// Takes the puts of a transaction in, and its end; `bytes` is what the caller reserved for the
    /// end. An abort reserves nothing: it cannot wait for room.
    pub(crate) fn push_transaction(
        &mut self,
        transaction: u64,
        puts: Vec<Put>,
        commit: bool,
        bytes: u64,
        answer: Option<oneshot::Sender<Ended>>,
    ) {
        let parts = puts.len() as u64;
        for mut put in puts {
            put.sequence = self.next();
            put.transaction = Some(transaction);
            self.slots.push_back(Some(Pending {
                what: What::Part(put),
                bytes: 0,
                transmitted: false,
            }));
        }
        let end = EndTransaction {
            sequence: self.next(),
            transaction,
            commit,
        };
        self.slots.push_back(Some(Pending {
            what: What::End {
                end,
                parts,
                again: false,
                answer,
            },
            bytes,
            transmitted: false,
        }));
    }

    fn next(&self) -> u64 {
        self.first.saturating_add(self.slots.len() as u64)
    }

    /// Whether every put is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn followed(&self) -> usize {
        self.followed.len()
    }

    /// Takes a put in; `bytes` is what the caller reserved for it. Returns its sequence.
    pub(crate) fn push(
        &mut self,
        mut put: Put,
        bytes: u64,
        answer: oneshot::Sender<Answer>,
    ) -> u64 {
        let sequence = self.next();
        put.sequence = sequence;
        self.slots.push_back(Some(Pending {
            what: What::Put { put, answer },
            bytes,
            transmitted: false,
        }));
        sequence
    }

    /// Reports what becomes of the put just pushed.
    pub(crate) fn follow(&mut self, sequence: u64, until: Follow) -> watch::Receiver<Progress> {
        let (progress, observer) = watch::channel(Progress::Waiting);
        let followed = Followed {
            until,
            accepted: false,
            progress,
        };
        self.followed.insert(sequence, followed);
        observer
    }

    /// Nobody looks at this put's fate any more.
    pub(crate) fn unfollow(&mut self, sequence: u64) {
        self.followed.remove(&sequence);
    }

    /// Appends the next put if the node's window has room for it.
    pub(crate) fn write_next(&mut self, node: &NodeHello, to: &mut BytesMut) -> bool {
        loop {
            let Some(index) = self.unsent.checked_sub(self.first) else {
                self.unsent = self.first;
                continue;
            };
            let slot = usize::try_from(index)
                .ok()
                .and_then(|at| self.slots.get_mut(at));
            let Some(slot) = slot else { return false };
            let Some(pending) = slot else {
                self.unsent = self.unsent.saturating_add(1);
                continue;
            };
            let bytes = self.in_flight.bytes.saturating_add(pending.bytes);
            let alone = self.in_flight.messages == 0;
            let full = self.in_flight.messages as u64 >= u64::from(node.window_messages);
            if pending.counts() && !alone && (full || bytes > u64::from(node.window_bytes)) {
                return false;
            }
            match &pending.what {
                What::Put { put, .. } | What::Part(put) => put.encode(to),
                What::End { end, .. } => ClientFrame::EndTransaction(*end).encode(to),
            }
            pending.transmitted = true;
            if pending.counts() {
                self.in_flight.messages = self.in_flight.messages.saturating_add(1);
                self.in_flight.bytes = bytes;
            }
            self.unsent = self.unsent.saturating_add(1);
            return true;
        }
    }

    pub(crate) fn on_accepted(&mut self, run: &Accepted) -> Result<(), Violation> {
        if run.last_sequence() >= self.unsent {
            return Err(Violation::AnsweredUnsent {
                sequence: run.last_sequence(),
            });
        }
        // What lies before the first slot was answered earlier; the loop is bounded by our slots.
        for sequence in run.first_sequence.max(self.first)..=run.last_sequence() {
            let (Some(pending), Some(id)) = (self.take(sequence), run.id_of(sequence)) else {
                continue;
            };
            if let Some(followed) = self.followed.get_mut(&sequence) {
                followed.accepted = true;
            }
            if let What::Put { answer, .. } = pending.what {
                // Nobody waits when the ticket was dropped.
                let _nobody = answer.send(Ok((id, run.repeated)));
            }
        }
        self.trim();
        Ok(())
    }

    pub(crate) fn on_refused(&mut self, refused: &Refused) -> Result<(), Violation> {
        let sequence = refused.sequence;
        if sequence >= self.unsent {
            return Err(Violation::AnsweredUnsent { sequence });
        }
        if let Some(pending) = self.take(sequence) {
            self.followed.remove(&sequence);
            if let What::Put { answer, .. } = pending.what {
                let _nobody = answer.send(Err(SendError::Rejected {
                    outcome: refused.outcome,
                    text: refused.text.detach(),
                }));
            }
        }
        self.trim();
        Ok(())
    }

    pub(crate) fn on_transaction_ended(
        &mut self,
        ended: TransactionEnded,
    ) -> Result<(), Violation> {
        let sequence = ended.sequence;
        let is_end = |slot: &Option<Pending>| match slot.as_ref().map(|pending| &pending.what) {
            Some(What::End { end, .. }) => end.transaction == ended.transaction,
            _ => false,
        };
        if sequence < self.first {
            return Ok(());
        }
        if sequence >= self.unsent || !self.slot(sequence).is_some_and(|slot| is_end(slot)) {
            return Err(Violation::AnsweredUnsent { sequence });
        }
        if let Some(Pending {
            what:
                What::End {
                    parts,
                    again,
                    answer,
                    ..
                },
            ..
        }) = self.take(sequence)
        {
            self.take_parts(sequence, parts);
            let _nobody = answer.map(|answer| answer.send(Ended::Told { ended, again }));
        }
        self.trim();
        Ok(())
    }

    /// Takes the puts out that precede the end of their transaction.
    fn take_parts(&mut self, end: u64, parts: u64) {
        for sequence in end.saturating_sub(parts).max(self.first)..end {
            if let Some(slot) = self.slot(sequence) {
                *slot = None;
            }
        }
    }

    pub(crate) fn on_fate(&mut self, fate: &Fate) {
        for (first, last, outcome) in &fate.runs {
            let mut done = Vec::new();
            for (sequence, followed) in self.followed.range_mut(first..=last) {
                let progress = match *outcome {
                    Outcome::REACHED_QUEUE => Progress::Delivered,
                    Outcome::RECEIVED => Progress::Received,
                    other => Progress::Ended(other),
                };
                // One that has reached its end is no longer here, so this takes nothing back.
                followed.progress.send_replace(progress);
                if progress != Progress::Delivered || followed.until == Follow::Delivered {
                    done.push(*sequence);
                }
            }
            for sequence in done {
                self.followed.remove(&sequence);
            }
        }
    }

    /// The connection ended: everything unanswered is to be sent again. Not so the puts of a
    /// transaction, which ended with it: of one whose end was sent, the end is asked for again.
    pub(crate) fn on_lost(&mut self, reason: &ClientError) {
        self.unsent = self.first;
        self.in_flight = Freed::default();
        for sequence in self.first..self.next() {
            let Some(Some(pending)) = self.slot(sequence) else {
                continue;
            };
            let transmitted = pending.transmitted;
            let What::End { parts, again, .. } = &mut pending.what else {
                continue;
            };
            *again = true;
            let parts = *parts;
            self.take_parts(sequence, parts);
            if !transmitted {
                self.end_unsaid(sequence, reason);
            }
        }
        self.trim();
    }

    /// The end of a transaction will not be answered.
    fn end_unsaid(&mut self, sequence: u64, reason: &ClientError) {
        let Some(pending) = self.take(sequence) else {
            return;
        };
        if let What::End {
            answer: Some(answer),
            parts,
            ..
        } = pending.what
        {
            self.take_parts(sequence, parts);
            let reason = reason.clone();
            let _nobody = answer.send(if pending.transmitted {
                Ended::Unknown(reason)
            } else {
                Ended::NotSent(reason)
            });
        }
    }

    /// The node lives anew: it forgot whom to tell fates, and what it had in memory only.
    pub(crate) fn on_restarted(&mut self, reason: &ClientError) {
        self.fail_where(
            |pending| match &pending.what {
                What::Put { put, .. } => pending.transmitted && put.class == Class::Express,
                What::Part(_) | What::End { .. } => false,
            },
            |_| SendError::OutcomeUnknown(reason.clone()),
        );
        self.forget_accepted();
    }

    /// The same life of the node answers again. What it said of accepted messages meanwhile, it
    /// said to nobody.
    pub(crate) fn on_reconnected(&mut self) {
        self.forget_accepted();
    }

    /// Nothing more will be heard of followed messages whose puts are answered: those that are
    /// not are put again, and followed by that.
    fn forget_accepted(&mut self) {
        self.followed.retain(|_, followed| {
            if followed.accepted {
                followed.progress.send_replace(Progress::Unknown);
            }
            !followed.accepted
        });
    }

    /// Nothing unanswered will ever be answered.
    pub(crate) fn fail_all(&mut self, reason: &ClientError) {
        for sequence in self.first..self.next() {
            let slot = self.slot(sequence).and_then(|slot| slot.as_ref());
            if slot.is_some_and(|pending| matches!(pending.what, What::End { .. })) {
                self.end_unsaid(sequence, reason);
            }
        }
        self.fail_where(
            |_| true,
            |pending| {
                if pending.transmitted {
                    SendError::OutcomeUnknown(reason.clone())
                } else {
                    SendError::Disconnected(reason.clone())
                }
            },
        );
    }

    /// Nothing more will be heard of any followed message.
    pub(crate) fn forget_followed(&mut self) {
        for followed in self.followed.values() {
            followed.progress.send_replace(Progress::Unknown);
        }
        self.followed.clear();
    }

    /// What was released since the last call.
    pub(crate) fn take_freed(&mut self) -> Freed {
        std::mem::take(&mut self.freed)
    }

    fn fail_where(
        &mut self,
        which: impl Fn(&Pending) -> bool,
        error: impl Fn(&Pending) -> SendError,
    ) {
        let end = self.first.saturating_add(self.slots.len() as u64);
        for sequence in self.first..end {
            if self
                .slot(sequence)
                .is_some_and(|slot| slot.as_ref().is_some_and(&which))
                && let Some(pending) = self.take(sequence)
            {
                self.followed.remove(&sequence);
                let error = error(&pending);
                if let What::Put { answer, .. } = pending.what {
                    let _nobody = answer.send(Err(error));
                }
            }
        }
        self.trim();
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Option<Pending>> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }

    /// Takes an unanswered put out and releases what it held.
    fn take(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.slot(sequence)?.take()?;
        if !pending.counts() {
            return Some(pending);
        }
        if pending.is_reserved() {
            self.freed.messages = self.freed.messages.saturating_add(1);
            self.freed.bytes = self.freed.bytes.saturating_add(pending.bytes);
        }
        if sequence < self.unsent {
            self.in_flight.messages = self.in_flight.messages.saturating_sub(1);
            self.in_flight.bytes = self.in_flight.bytes.saturating_sub(pending.bytes);
        }
        Some(pending)
    }

    fn trim(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first = self.first.saturating_add(1);
        }
        self.unsent = self.unsent.max(self.first);
    }
}

#[cfg(test)]
mod tests;
