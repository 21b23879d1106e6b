//! What happened lately to messages, for `trace`: a ring in memory, bounded by count and bytes.
//!
//! It tells and decides nothing. What it no longer holds it says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_wire::{Class, ClientId, MessageId, Outcome, QmId};

use crate::admin::TraceEvent;
use crate::engine::Engine;
use crate::io::LinkId;

/// Something that happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Accepted {
        class: Class,
        client: ClientId,
    },
    Transmitted {
        peer: QmId,
        link: LinkId,
        again: bool,
    },
    InDoubt {
        peer: Option<QmId>,
    },
    Queried {
        peer: QmId,
    },
    UnknownThere {
        peer: QmId,
    },
    Acknowledged {
        peer: Option<QmId>,
    },
    Arrived {
        peer: QmId,
        class: Class,
    },
    Duplicate {
        peer: QmId,
    },
    Refused {
        peer: QmId,
        outcome: Outcome,
    },
    HandedOut {
        client: Option<ClientId>,
    },
    GivenBack {
        aborts: u32,
    },
    Received,
    Poisoned,
    Quarantined,
    Released,
    Dead {
        outcome: Outcome,
        kept: bool,
        /// It had ended before: this is the end of its dead letter, or of its copy.
        aside: bool,
    },
    ResentAs {
        id: MessageId,
    },
    ResentFrom {
        source: QmId,
        id: MessageId,
    },
    LetterDropped,
    /// It had arrived, and ended so at its destination.
    EndedThere {
        peer: QmId,
        outcome: Outcome,
    },
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    wall_us: u64,
    source: QmId,
    id: MessageId,
    what: What,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    ring: VecDeque<Noted>,
    max: usize,
    forgotten: bool,
}

impl History {
    pub(crate) fn new(events_max: usize, bytes_max: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            max: events_max.min(bytes_max / size_of::<Noted>()),
            forgotten: false,
        }
    }

    fn note(&mut self, noted: Noted) {
        if self.max == 0 {
            self.forgotten = true;
            return;
        }
        if self.ring.len() >= self.max {
            self.ring.pop_front();
            self.forgotten = true;
        }
        self.ring.push_back(noted);
    }

    /// Events remembered, and how many are at most.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.ring.len() as u64, self.max as u64)
    }

    /// Wall clock of the oldest event.
    pub(crate) fn since_us(&self) -> Option<u64> {
        self.ring.front().map(|noted| noted.wall_us)
    }

    /// Whether nothing was forgotten since the start.
    pub(crate) const fn is_whole(&self) -> bool {
        !self.forgotten
    }

    /// Who minted the message of this id, if that is remembered.
    pub(crate) fn source_of(&self, id: MessageId) -> Option<QmId> {
        self.of(id).next().map(|noted| noted.source)
    }

    /// Whether the first thing that happened to the message here is remembered.
    pub(crate) fn knows_beginning(&self, id: MessageId) -> bool {
        self.of(id).next().is_some_and(|noted| {
            matches!(
                noted.what,
                What::Accepted { .. } | What::Arrived { .. } | What::ResentFrom { .. }
            )
        })
    }

    fn of(&self, id: MessageId) -> impl DoubleEndedIterator<Item = &Noted> {
        self.ring.iter().filter(move |noted| noted.id == id)
    }

    /// How messages ended that a sender asks for again. How their dead letters and copies ended is
    /// no end of theirs.
    pub(crate) fn ends_of(&self, ids: &BTreeSet<MessageId>) -> BTreeMap<MessageId, Outcome> {
        let mut ends = BTreeMap::new();
        for noted in self.ring.iter().filter(|noted| ids.contains(&noted.id)) {
            let outcome = match noted.what {
                What::Acknowledged { .. } => Outcome::REACHED_QUEUE,
                // Behind its death it is the letter that was received.
                What::Received
                    if ends
                        .get(&noted.id)
                        .is_some_and(|end| *end != Outcome::REACHED_QUEUE) =>
                {
                    continue;
                }
                What::Received => Outcome::RECEIVED,
                What::Dead {
                    outcome,
                    aside: false,
                    ..
                }
                | What::EndedThere { outcome, .. } => outcome,
                _ => continue,
            };
            ends.insert(noted.id, outcome);
        }
        ends
    }

    /// How the message ended here, if it did: the newest event that ends it.
    pub(crate) fn end_of(&self, id: MessageId) -> Option<(u64, What)> {
        self.of(id).next_back().and_then(|noted| {
            let ends = matches!(
                noted.what,
                What::Acknowledged { .. }
                    | What::Received
                    | What::Dead { .. }
                    | What::EndedThere { .. }
                    | What::ResentAs { .. }
                    | What::LetterDropped
                    | What::Refused { .. }
            );
            ends.then_some((noted.wall_us, noted.what))
        })
    }
}

impl Engine {
    /// Remembers what happened to a message.
    pub(crate) fn note(&mut self, source: QmId, id: MessageId, what: What) {
        let wall_us = self.now.wall_us;
        self.history.note(Noted {
            wall_us,
            source,
            id,
            what,
        });
    }

    /// What is remembered of a message, in words, oldest first.
    pub(crate) fn remembered(&self, id: MessageId) -> Vec<TraceEvent> {
        self.history
            .of(id)
            .map(|noted| {
                let (event, text) = self.told(noted.what);
                TraceEvent {
                    at_us: noted.wall_us,
                    event,
                    text,
                }
            })
            .collect()
    }

    /// A queue manager as people know it.
    pub(crate) fn peer_title(&self, peer: QmId) -> String {
        if self.is_own(peer) {
            return "this node".to_owned();
        }
        let name = self.entry_of_peer(peer).map(|entry| entry.name.clone());
        let announced = || {
            let record = self.peers.known.get(&peer)?;
            let name = &record.announced_name;
            (!name.is_empty()).then(|| name.clone())
        };
        name.or_else(announced).unwrap_or_else(|| peer.to_string())
    }

    fn told(&self, what: What) -> (&'static str, String) {
        let peer = |qm: Option<QmId>| {
            qm.map_or_else(|| "its destination".to_owned(), |qm| self.peer_title(qm))
        };
        match what {
            What::Accepted { class, client } => (
                "accepted",
                format!("accepted as {} from client {client}", class.name()),
            ),
            What::Transmitted {
                peer: to,
                link,
                again,
            } => (
                "transmitted",
                format!(
                    "transmitted{} to {} on {link}",
                    if again { " again" } else { "" },
                    peer(Some(to))
                ),
            ),
            What::InDoubt { peer: to } => (
                "in_doubt",
                format!(
                    "the connection went before {} acknowledged it; it is asked for before it is sent again",
                    peer(to)
                ),
            ),
            What::Queried { peer: to } => (
                "queried",
                format!("{} was asked whether it has it", peer(Some(to))),
            ),
            What::UnknownThere { peer: to } => (
                "unknown_there",
                format!("{} does not have it: it will be sent again", peer(Some(to))),
            ),
            What::Acknowledged { peer: by } => (
                "acknowledged",
                format!("{} has it, stored to its class", peer(by)),
            ),
            What::Arrived { peer: from, class } => (
                "arrived",
                format!(
                    "arrived from {} and was stored as {}",
                    peer(Some(from)),
                    class.name()
                ),
            ),
            What::Duplicate { peer: from } => (
                "duplicate",
                format!("a repeated copy from {} was removed", peer(Some(from))),
            ),
            What::Refused {
                peer: from,
                outcome,
            } => (
                "refused",
                format!("refused to {}: {outcome}", peer(Some(from))),
            ),
            What::HandedOut { client } => (
                "handed_out",
                client.map_or_else(
                    || "handed to an application".to_owned(),
                    |client| format!("handed to client {client}"),
                ),
            ),
            What::GivenBack { aborts } => (
                "given_back",
                format!("given back unread; that was time {aborts}"),
            ),
            What::Received => ("received", "an application consumed it".to_owned()),
            What::Poisoned => (
                "poisoned",
                "given back too often: moved to the subqueue poison".to_owned(),
            ),
            What::Quarantined => (
                "quarantined",
                "another machine has it as well: moved to the subqueue quarantine".to_owned(),
            ),
            What::Released => (
                "released",
                "released from the quarantine by the operator".to_owned(),
            ),
            What::Dead { outcome, kept, .. } => (
                "dead",
                format!(
                    "{outcome}; {}",
                    if kept {
                        "kept as a dead letter"
                    } else {
                        "kept nowhere, as was wished"
                    }
                ),
            ),
            What::ResentAs { id } => ("resent_as", format!("sent again as message {id}")),
            What::ResentFrom { source, id } => (
                "resent_from",
                format!(
                    "made of the dead letter of message {id} of {}",
                    peer(Some(source))
                ),
            ),
            What::EndedThere { peer: by, outcome } => (
                "ended_there",
                format!("{}: {outcome}, by the word of its node", peer(Some(by))),
            ),
            What::LetterDropped => (
                "letter_dropped",
                "its dead letter was dropped by an operator".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    #[test]
    fn the_ring_is_bounded_by_count_and_by_bytes() {
        let noted = |sequence| Noted {
            wall_us: sequence,
            source: QmId::from_bytes([0; 16]),
            id: MessageId {
                incarnation: Incarnation(1),
                sequence,
            },
            what: What::Received,
        };
        let mut by_count = History::new(3, usize::MAX);
        let mut by_bytes = History::new(usize::MAX, 2 * size_of::<Noted>());
        for n in 0..5 {
            by_count.note(noted(n));
            by_bytes.note(noted(n));
        }
        assert_eq!((by_count.size(), by_count.since_us()), ((3, 3), Some(2)));
        assert_eq!((by_bytes.size(), by_bytes.since_us()), ((2, 2), Some(3)));
        assert!(!by_count.is_whole());
        let mut none = History::new(0, 0);
        none.note(noted(1));
        assert_eq!((none.size(), none.is_whole()), ((0, 0), false));
        assert!(
            size_of::<Noted>() <= 96,
            "the limit in bytes is told in events"
        );
    }

    #[test]
    fn the_end_of_a_letter_or_a_copy_is_not_the_end_of_its_message() {
        let id = |sequence| MessageId {
            incarnation: Incarnation(1),
            sequence,
        };
        let dead = |outcome, kept, aside| What::Dead {
            outcome,
            kept,
            aside,
        };
        let expired = dead(Outcome::RECEIVE_EXPIRED, true, false);
        let purged = dead(Outcome::QUEUE_PURGED, false, true);
        let mut history = History::new(16, usize::MAX);
        for (sequence, what) in [
            (1, expired),
            (1, purged),
            (2, expired),
            (2, What::Received),
            (3, What::Acknowledged { peer: None }),
            (3, purged),
            (4, dead(Outcome::QUEUE_PURGED, false, false)),
            (5, What::Received),
            // Its letter is all that is remembered.
            (6, purged),
        ] {
            history.note(Noted {
                wall_us: 0,
                source: QmId::from_bytes([0; 16]),
                id: id(sequence),
                what,
            });
        }
        let ends = history.ends_of(&(1..=6).map(id).collect());
        let expected = [
            (1, Outcome::RECEIVE_EXPIRED),
            (2, Outcome::RECEIVE_EXPIRED),
            (3, Outcome::REACHED_QUEUE),
            (4, Outcome::QUEUE_PURGED),
            (5, Outcome::RECEIVED),
        ];
        let expected = expected.map(|(sequence, outcome)| (id(sequence), outcome));
        assert_eq!(ends, BTreeMap::from(expected));
    }
}
