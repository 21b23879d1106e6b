//! What machines of a family tell others that they have, and what senders do with it.
//!
//! A word counts for the machine that says it, not for its family: a copy speaks of what is on its
//! own disk. The frames themselves are read, because an event does not tell whose word it was.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::{Entry, Envelope, Known, Link, OrderAck, PeerFrame, StreamId};

use super::manners::frames;
use super::*;

/// A message as it was transmitted.
type Sent = (Entry, Put);

/// See the module.
#[derive(Default)]
pub(super) struct Words {
    /// By the end from which it was sent and its number there.
    sent: BTreeMap<(End, u64), Sent>,
    /// By full name.
    names: BTreeMap<Entry, Put>,
    /// By its link in a stream: the link before it, its position, and what it is.
    places: BTreeMap<(StreamId, Link), (Link, u64, Sent)>,
    /// What each machine was told, by a machine that has it, to have arrived.
    told: BTreeMap<usize, BTreeSet<Put>>,
}

impl Words {
    /// A copy with the memory of a machine knows what that one was told.
    pub(super) fn copied(&mut self, of: usize, copy: usize) {
        let told = self.told.get(&of).cloned().unwrap_or_default();
        self.told.insert(copy, told);
    }

    /// Whether a machine was told that a message arrived.
    pub(super) fn was_told(&self, node: usize, put: Put) -> bool {
        self.told.get(&node).is_some_and(|told| told.contains(&put))
    }

    /// Which message has this full name; known from when it was first transmitted.
    pub(super) fn named(&self, name: &Entry) -> Option<Put> {
        self.names.get(name).copied()
    }

    /// A machine transmits messages.
    fn transmitted(&mut self, from: End, buffer: &Bytes) {
        for frame in frames(buffer) {
            let PeerFrame::Data(data) = frame else {
                continue;
            };
            let id = Envelope::view(&data.envelope).ok().map(|e| e.id);
            let Some((id, put)) = id.zip(Put::from_body(&data.body)) else {
                continue;
            };
            let name = Entry { id, tag: data.tag };
            self.sent.insert((from, data.number), (name, put));
            self.names.insert(name, put);
            if let Some(place) = data.transit.place {
                let link = place.previous.next(data.tag, place.position);
                let here = (place.previous, place.position, (name, put));
                self.places.insert((place.stream, link), here);
            }
        }
    }

    /// The messages of which a buffer says that they arrived; `sender` is the end that had sent
    /// what is acknowledged by number.
    fn arrived(&self, sender: Option<End>, buffer: &Bytes) -> Vec<Sent> {
        let named = |entry: &Entry| Some((*entry, self.named(entry)?));
        let mut arrived = Vec::new();
        for frame in frames(buffer) {
            match frame {
                PeerFrame::SessionAck(ack) => {
                    let numbers = ack.numbers().filter_map(|n| self.sent.get(&(sender?, n)));
                    arrived.extend(numbers.copied());
                }
                PeerFrame::RoutedAck(ack) => arrived.extend(ack.entries.iter().filter_map(named)),
                PeerFrame::Answer(answer) => {
                    let known = answer.entries.iter();
                    let there = known.filter(|(_, known)| *known == Known::Delivered);
                    arrived.extend(there.filter_map(|(entry, _)| named(entry)));
                }
                PeerFrame::OrderAck(ack) => self.runs(&ack, &mut arrived),
                _ => {}
            }
        }
        arrived
    }

    /// What lies in acknowledged runs, from their last link back to their first position.
    fn runs(&self, ack: &OrderAck, arrived: &mut Vec<Sent>) {
        for run in &ack.runs {
            let mut link = run.link;
            while let Some((previous, position, sent)) = self.places.get(&(run.stream, link)) {
                if *position < run.first {
                    break;
                }
                arrived.push(*sent);
                link = *previous;
            }
        }
    }
}

impl World {
    /// A machine sends a buffer: of what it says of others' messages, every word must be so.
    pub(super) fn says_words(&mut self, from: End, buffer: &Bytes) -> Result<(), String> {
        let Some(forks) = &self.forks else {
            return Ok(());
        };
        // A copy writes on connections that its original has, too: nobody reads that.
        let Some(other) = self.network.other(from) else {
            return Ok(());
        };
        self.words.transmitted(from, buffer);
        for (name, put) in self.words.arrived(Some(other), buffer) {
            if let Some(fate) = self.oracle.fates.get(&put) {
                forks.said(from.node, put, name, fate)?;
            }
        }
        Ok(())
    }

    /// A machine is given a buffer.
    pub(super) fn hears_words(&mut self, at: End, buffer: &Bytes) {
        if self.forks.is_none() {
            return;
        }
        let heard = self.words.arrived(Some(at), buffer);
        let told = self.words.told.entry(at.node).or_default();
        told.extend(heard.into_iter().map(|(_, put)| put));
    }
}
