//! Several sessions with one peer: which stay, and for how long.

use qm_wire::{Entry, Incarnation, MessageId, Outcome, PeerFrame, QmId, Query, Tag};

use crate::engine::Engine;
use crate::io::{Lane, LinkId};
use crate::limits::SILENT_RIVAL_MS;

impl Engine {
    /// Of two sessions with the same life of a peer only one stays: the one dialled by the node
    /// with the lower id, or the newer when the same node dialled both. Sessions with different
    /// lives both stay: that may be a restart seen late, or two clones, and neither may starve the
    /// other.
    ///
    /// The newest has just been heard. An older one may have ended at the other side, with the news
    /// lost: it wins only once it has given a sign, or the peer, which has no other session, would
    /// be turned away until QUIC's idle timeout.
    pub(crate) fn supersede(&mut self, newest: LinkId, peer: QmId, incarnation: Incarnation) {
        for rival in self.rivals(newest, peer, incarnation) {
            if self.loser(newest, rival) == Some(rival) {
                self.end_session(rival, Outcome::SUPERSEDED, "another session took over");
            } else {
                self.doubt(rival);
            }
        }
    }

    /// Other open sessions with the same life of a peer.
    fn rivals(&self, link: LinkId, peer: QmId, incarnation: Incarnation) -> Vec<LinkId> {
        let own = self.sessions.get(&link).map(|session| session.own);
        let links = self.by_peer.get(&peer).into_iter().flatten();
        links
            .copied()
            .filter(|other| *other != link)
            .filter(|other| {
                self.sessions.get(other).is_some_and(|s| {
                    s.opened && Some(s.own) == own && s.incarnation() == Some(incarnation)
                })
            })
            .collect()
    }

    /// Which of two sessions with one life of a peer has to go.
    fn loser(&self, newer: LinkId, older: LinkId) -> Option<LinkId> {
        let (new, old) = (self.sessions.get(&newer)?, self.sessions.get(&older)?);
        let lower = new.own < new.peer;
        let newer_stays = new.dialled == old.dialled || new.dialled == lower;
        Some(if newer_stays { older } else { newer })
    }

    /// Asks the sessions with other lives of a peer for a sign.
    ///
    /// After a restart the old connection is still there: where an address translator gave the
    /// peer another place, no packet on it is answered any more, and only QUIC's idle timeout
    /// would end it. Whatever is in flight on it would wait as long. A clone, however, answers.
    pub(crate) fn doubt_other_lives(&mut self, newest: LinkId, peer: QmId, life: Incarnation) {
        let links = self.by_peer.get(&peer).into_iter().flatten();
        let others: Vec<_> = links
            .copied()
            .filter(|link| *link != newest)
            .filter(|link| {
                self.sessions
                    .get(link)
                    .is_some_and(|s| s.opened && s.incarnation().is_some_and(|other| other != life))
            })
            .collect();
        for link in others {
            self.doubt(link);
        }
    }

    /// Asks a session for a sign of life, and gives it a short time.
    fn doubt(&mut self, link: LinkId) {
        // A question whose answer changes nothing: sequences begin with one.
        let nobody = Entry {
            id: MessageId {
                incarnation: self.incarnation,
                sequence: 0,
            },
            tag: Tag([0; 8]),
        };
        if let Some(session) = self.sessions.get_mut(&link) {
            let question = Query {
                source: session.own,
                void: false,
                entries: vec![nobody],
            };
            session.push(Lane::Control, &PeerFrame::Query(question));
            self.busy_sessions.insert(link);
            self.expect_sign(link, SILENT_RIVAL_MS);
        }
    }

    /// Something was asked on this session: it must be heard within this time.
    pub(crate) fn expect_sign(&mut self, link: LinkId, within_ms: u64) {
        let until = self.now.at.plus_ms(within_ms);
        if let Some(session) = self.sessions.get_mut(&link) {
            let until = session
                .sign_until
                .map_or(until, |earlier| earlier.min(until));
            session.sign_until = Some(until);
            self.arm_session(link, until);
        }
    }

    /// Something was heard: the session lives, and younger ones that must give way to it do.
    pub(crate) fn heard(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if session.sign_until.take().is_none() {
            return;
        }
        let peer = session.peer;
        let Some(life) = session.incarnation() else {
            return;
        };
        for rival in self.rivals(link, peer, life) {
            if rival > link && self.loser(rival, link) == Some(rival) {
                self.end_session(rival, Outcome::SUPERSEDED, "another session took over");
            }
        }
    }

    /// Ends a session that was asked and is silent.
    pub(crate) fn end_silent(&mut self, link: LinkId) {
        let text = "it was asked, and nothing was heard on this session";
        self.end_session(link, Outcome::IDLE, text);
    }
}
