//! Puts that the node has not answered, and messages that are followed.
//!
//! Pure state: what arrives and what is lost comes in, answers go out through channels.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use qm_wire::local::{Accepted, Fate, Follow, NodeHello, Put, Refused};
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

#[derive(Debug)]
struct Pending {
    put: Put,
    /// What it counts against the window.
    bytes: u64,
    /// Whether any connection carried it: from then on only the node knows what became of it.
    transmitted: bool,
    answer: oneshot::Sender<Answer>,
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
        }
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
        let sequence = self.first.saturating_add(self.slots.len() as u64);
        put.sequence = sequence;
        self.slots.push_back(Some(Pending {
            put,
            bytes,
            transmitted: false,
            answer,
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
            if !alone && (full || bytes > u64::from(node.window_bytes)) {
                return false;
            }
            pending.put.encode(to);
            pending.transmitted = true;
            self.in_flight.messages = self.in_flight.messages.saturating_add(1);
            self.in_flight.bytes = bytes;
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
            // Nobody waits when the ticket was dropped.
            let _nobody = pending.answer.send(Ok((id, run.repeated)));
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
            let _nobody = pending.answer.send(Err(SendError::Rejected {
                outcome: refused.outcome,
                text: refused.text.detach(),
            }));
        }
        self.trim();
        Ok(())
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

    /// The connection ended: everything unanswered is to be sent again.
    pub(crate) fn on_lost(&mut self) {
        self.unsent = self.first;
        self.in_flight = Freed::default();
    }

    /// The node lives anew: it forgot whom to tell fates, and what it had in memory only.
    pub(crate) fn on_restarted(&mut self, reason: &ClientError) {
        self.fail_where(
            |pending| pending.transmitted && pending.put.class == Class::Express,
            |_| SendError::OutcomeUnknown(reason.clone()),
        );
        self.followed.retain(|_, followed| {
            if followed.accepted {
                followed.progress.send_replace(Progress::Unknown);
            }
            !followed.accepted
        });
    }

    /// Nothing unanswered will ever be answered.
    pub(crate) fn fail_all(&mut self, reason: &ClientError) {
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
                let _nobody = pending.answer.send(Err(error));
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
        self.freed.messages = self.freed.messages.saturating_add(1);
        self.freed.bytes = self.freed.bytes.saturating_add(pending.bytes);
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
