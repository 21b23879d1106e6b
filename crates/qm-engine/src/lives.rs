//! Several sessions with one peer: which stay, and for how long.

use qm_wire::{Entry, Incarnation, MessageId, Outcome, PeerFrame, QmId, Query, Tag};

use crate::engine::Engine;
use crate::io::{Lane, LinkId};
use crate::limits::SILENT_LIFE_MS;

impl Engine {
    /// Of two sessions with the same life of a peer only one stays: the one dialled by the node
    /// with the lower id, or the newer when the same node dialled both. Sessions with different
    /// lives both stay: that may be a restart seen late, or two clones, and neither may starve the
    /// other.
    pub(crate) fn supersede(&mut self, newest: LinkId, peer: QmId, incarnation: Incarnation) {
        let Some(links) = self.by_peer.get(&peer) else {
            return;
        };
        let rivals: Vec<_> = links
            .iter()
            .copied()
            .filter(|link| *link != newest)
            .filter(|link| {
                self.sessions
                    .get(link)
                    .is_some_and(|s| s.opened && s.incarnation() == Some(incarnation))
            })
            .collect();
        let lower = self.me.qm < peer;
        for rival in rivals {
            let (Some(new), Some(old)) = (self.sessions.get(&newest), self.sessions.get(&rival))
            else {
                continue;
            };
            let loser = if new.dialled == old.dialled || new.dialled == lower {
                rival
            } else {
                newest
            };
            self.end_session(loser, Outcome::SUPERSEDED, "another session took over");
            if loser == newest {
                return;
            }
        }
    }

    /// Asks the sessions with other lives of a peer for a sign of life.
    ///
    /// After a restart the old connection is still there: where an address translator gave the
    /// peer another place, no packet on it is answered any more, and only QUIC's idle timeout
    /// would end it. Whatever is in flight on it would wait as long. A clone, however, answers.
    pub(crate) fn doubt_other_lives(
        &mut self,
        newest: LinkId,
        peer: QmId,
        incarnation: Incarnation,
    ) {
        if !self.sessions.contains_key(&newest) {
            return;
        }
        let until = self.now.at.plus_ms(SILENT_LIFE_MS);
        let links = self.by_peer.get(&peer).into_iter().flatten();
        let others: Vec<_> = links
            .copied()
            .filter(|link| {
                self.sessions.get(link).is_some_and(|session| {
                    session.opened
                        && session.doubted_until.is_none()
                        && session
                            .incarnation()
                            .is_some_and(|life| life != incarnation)
                })
            })
            .collect();
        // A question whose answer changes nothing: sequences begin with one.
        let question = Query {
            source: self.me.qm,
            void: false,
            entries: vec![Entry {
                id: MessageId {
                    incarnation: self.incarnation,
                    sequence: 0,
                },
                tag: Tag([0; 8]),
            }],
        };
        for link in others {
            if let Some(session) = self.sessions.get_mut(&link) {
                session.doubted_until = Some(until);
                session.push(Lane::Control, &PeerFrame::Query(question.clone()));
                self.busy_sessions.insert(link);
                self.arm_session(link, until);
            }
        }
    }

    /// Something was heard: the session lives.
    pub(crate) fn believe(&mut self, link: LinkId) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.doubted_until = None;
        }
    }
}
