//! What a machine owes its peers, and whether it pays at once (rule 12).
//!
//! Questions heal what an answer would have told, only later: nothing is lost when it is missing,
//! so no other rule notices. Here the frames themselves are compared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use qm_engine::LinkId;
use qm_wire::limits::{BODY_BYTES_MAX, data_frame_bytes};
use qm_wire::{Class, Envelope, MessageId, Outcome, PeerFrame};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// Where each message came last at a machine, but for transactional ones: link and number.
    newest: BTreeMap<(usize, MessageId), (LinkId, u64)>,
    /// Duplicates that are to be acknowledged again: machine, link and number.
    duplicates: BTreeSet<(usize, LinkId, u64)>,
    /// Messages that a routed ack named and that were neither settled nor answered.
    not_held: BTreeSet<(usize, LinkId, MessageId)>,
    /// Links that machines closed themselves: with QUIC, frames of other lanes still come on them.
    closed: BTreeSet<(usize, LinkId)>,
    /// Whether queues of this world can be full, and messages may wish to fail then, or operators
    /// delete queues.
    may_turn_away: bool,
}

pub(super) fn frames(buffer: &Bytes) -> impl Iterator<Item = PeerFrame> {
    let mut rest = buffer.clone();
    core::iter::from_fn(move || {
        PeerFrame::next(&mut rest, data_frame_bytes(BODY_BYTES_MAX as usize)).ok()?
    })
}

impl Manners {
    pub(super) fn new(may_turn_away: bool) -> Self {
        Self {
            may_turn_away,
            ..Self::default()
        }
    }

    /// Messages that a machine turns away with this buffer because their queue is full, or is not
    /// there (`true`).
    pub(super) fn turned_away(
        &self,
        node: usize,
        link: LinkId,
        buffer: &Bytes,
    ) -> Vec<(MessageId, bool)> {
        if !self.may_turn_away {
            return Vec::new();
        }
        let refusals = frames(buffer).flat_map(|frame| match frame {
            PeerFrame::Reject(reject) => reject.refusals,
            _ => Vec::new(),
        });
        let of_queue = refusals.filter_map(|refusal| match refusal.outcome {
            Outcome::QUOTA_EXCEEDED => Some((refusal, false)),
            Outcome::BAD_DESTINATION_QUEUE => Some((refusal, true)),
            _ => None,
        });
        of_queue
            .flat_map(|(refusal, is_gone)| {
                let at = (link, refusal.number);
                let newest = self.newest.iter();
                let these = newest.filter(move |((of, _), on)| *of == node && **on == at);
                these.map(move |((_, id), _)| (*id, is_gone))
            })
            .collect()
    }

    /// A machine is given what came on a link.
    /// `asks_about` tells whether it asks what became of a message: an ack answers that.
    pub(super) fn hears(
        &mut self,
        node: usize,
        link: LinkId,
        buffer: &Bytes,
        asks_about: impl Fn(MessageId) -> bool,
    ) {
        if self.closed.contains(&(node, link)) {
            return;
        }
        for frame in frames(buffer) {
            match frame {
                PeerFrame::Data(data) => {
                    if let Ok(envelope) = Envelope::view(&data.envelope)
                        && envelope.class != Class::Transactional
                    {
                        let at = (link, data.number);
                        self.newest.insert((node, envelope.id), at);
                    }
                }
                PeerFrame::RoutedAck(ack) if !ack.duplicate => {
                    let entries = ack.entries.iter().map(|entry| entry.id);
                    let held = entries.filter(|id| !asks_about(*id));
                    let named = held.map(|id| (node, link, id));
                    self.not_held.extend(named);
                }
                _ => {}
            }
        }
    }

    /// A machine sends something on a link.
    pub(super) fn says(&mut self, node: usize, link: LinkId, buffer: &Bytes) {
        if self.duplicates.is_empty() && self.not_held.is_empty() {
            return;
        }
        for frame in frames(buffer) {
            match frame {
                PeerFrame::SessionAck(ack) if ack.duplicate => {
                    for number in ack.numbers() {
                        self.duplicates.remove(&(node, link, number));
                    }
                }
                PeerFrame::NotHeld(not_held) => {
                    for (entry, _) in &not_held.entries {
                        self.not_held.remove(&(node, link, entry.id));
                    }
                }
                _ => {}
            }
        }
    }

    /// A machine removed a message that it has already.
    pub(super) fn removed(&mut self, node: usize, id: MessageId) {
        let newest = self.newest.get(&(node, id));
        let owed = newest.map(|(link, number)| (node, *link, *number));
        self.duplicates.extend(owed);
    }

    /// A machine settled a message.
    pub(super) fn settled(&mut self, node: usize, id: MessageId) {
        self.not_held
            .retain(|(at, _, other)| (*at, *other) != (node, id));
    }

    /// A link of a machine is gone, and what was owed on it.
    pub(super) fn parted(&mut self, node: usize, link: LinkId) {
        self.newest
            .retain(|(at, _), (on, _)| (*at, *on) != (node, link));
        let elsewhere = |at: &usize, on: &LinkId| (*at, *on) != (node, link);
        self.duplicates.retain(|(at, on, _)| elsewhere(at, on));
        self.not_held.retain(|(at, on, _)| elsewhere(at, on));
    }

    /// A machine closes a link: it hears nothing on it any more.
    pub(super) fn closes(&mut self, node: usize, link: LinkId) {
        self.parted(node, link);
        self.closed.insert((node, link));
    }

    /// A machine begins a life.
    pub(super) fn begins(&mut self, node: usize) {
        self.newest.retain(|(at, _), _| *at != node);
        self.duplicates.retain(|(at, ..)| *at != node);
        self.not_held.retain(|(at, ..)| *at != node);
        self.closed.retain(|(at, _)| *at != node);
    }

    /// A machine has said everything that it has to say.
    ///
    /// # Errors
    /// Rule 12.
    pub(super) fn check(&self, node: usize) -> Result<(), String> {
        if let Some((_, link, number)) = self.duplicates.iter().find(|(at, ..)| *at == node) {
            return Err(format!(
                "rule 12: node{node} had #{number} of {link} already and did not say so again"
            ));
        }
        if let Some((_, link, id)) = self.not_held.iter().find(|(at, ..)| *at == node) {
            return Err(format!(
                "rule 12: node{node} does not hold {id} and did not say so on {link}"
            ));
        }
        Ok(())
    }
}
