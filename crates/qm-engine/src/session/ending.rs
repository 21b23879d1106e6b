//! How a session ends: a goodbye of either side, a breach of the protocol, a link that is gone.
//! What was in flight on it becomes doubtful.

use bytes::BytesMut;
use qm_wire::{Goodbye, Outcome, PeerFrame};

use crate::connections::With;
use crate::engine::{Engine, Route};
use crate::io::{Event, Lane, LinkId, Output};

impl Engine {
    pub(crate) fn on_goodbye(&mut self, link: LinkId, goodbye: &Goodbye) {
        let text = format!(
            "the peer said goodbye: {} ({})",
            goodbye.text, goodbye.reason
        );
        if let Some(session) = self.sessions.get(&link) {
            let peer = session.peer;
            // One of several machines gives the identity up; it says nothing of the others.
            // W-TWN-5.
            let leaves = goodbye.reason == Outcome::WRONG_IDENTITY && session.opened;
            if leaves {
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.ends = true;
                }
                self.twin_parts(link);
            // A session that gave way to another one says nothing about the peer.
            } else if goodbye.reason != Outcome::SUPERSEDED && goodbye.reason != Outcome::IDLE {
                self.connections.ended(peer, goodbye.reason);
                for remote in self.remotes.values_mut() {
                    if remote.peer() == Some(peer) {
                        remote.last_failure = None;
                    }
                }
            }
        }
        let refused = self.sessions.get(&link).map(|s| (s.own, s.peer));
        if goodbye.reason == Outcome::UNSUPPORTED
            && let Some((_, peer)) = refused
        {
            self.understands_no_succession(peer);
        }
        self.close_link(link, goodbye.reason, "goodbye");
        self.on_closed(link, &text);
        if goodbye.reason == Outcome::BLOCKED
            && let Some((own, peer)) = refused
        {
            self.blocked_by(own, peer);
        }
    }

    /// Says goodbye and closes; everything in flight becomes doubtful.
    pub(crate) fn end_session(&mut self, link: LinkId, reason: Outcome, text: &str) {
        if let Some(session) = self.sessions.get_mut(&link) {
            let frame = PeerFrame::Goodbye(Goodbye {
                reason,
                text: text.into(),
            });
            session.push(Lane::Control, &frame);
            self.flush_session(link);
        }
        self.close_link(link, reason, text);
        self.on_closed(link, text);
    }

    pub(crate) fn misbehaved(&mut self, link: LinkId, text: &str) {
        self.counters.misbehaved += 1;
        if let Some(session) = self.sessions.get(&link) {
            let peer = session.peer;
            self.penalize(peer);
            self.event(Event::PeerMisbehaved {
                peer,
                text: text.to_owned(),
            });
        }
        self.end_session(link, Outcome::PROTOCOL, text);
    }

    /// Closes a link on which no session was begun, with a word that its peer can act on.
    pub(super) fn turn_away(&mut self, link: LinkId, reason: Outcome, text: &str) {
        let frame = PeerFrame::Goodbye(Goodbye {
            reason,
            text: text.into(),
        });
        let mut frames = BytesMut::new();
        frame.encode(&mut frames);
        self.outputs.push_back(Output::Send {
            link,
            lane: Lane::Control,
            frames: frames.freeze(),
        });
        self.close_link(link, reason, text);
    }

    pub(super) fn close_link(&mut self, link: LinkId, reason: Outcome, text: &str) {
        self.outputs.push_back(Output::Close {
            link,
            reason,
            text: text.to_owned(),
        });
    }

    pub(crate) fn on_closed(&mut self, link: LinkId, text: &str) {
        let Some(session) = self.sessions.remove(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        self.busy_sessions.remove(&link);
        if let Some(links) = self.by_peer.get_mut(&peer) {
            links.remove(&link);
            if links.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        self.twins_session_ended(link, (own, peer));
        for life in session.lives() {
            self.routes.failed(&(peer, life), &Route::Session(link));
            if let Some(address) = session.listens_at()
                && !session.peer_pending
            {
                let now_ms = self.now.at.as_ms();
                self.routes
                    .learn((peer, life), Route::Address(address), now_ms);
            }
        }
        self.unsend_skips(link);
        for flight in session.flights.into_values() {
            self.landed(flight.queue, flight.priority);
            if crate::broken!(self, resend_blindly) {
                self.send_again(flight.queue, flight.priority, flight.message);
                continue;
            }
            self.put_in_doubt(flight.queue, flight.priority, flight.message);
        }
        self.note_connection(With::Peer(peer), "closed", text);
        self.event(Event::SessionClosed {
            link,
            peer,
            text: text.to_owned(),
        });
        let lasted_ms = if session.opened {
            self.now.at.ms_since(session.began)
        } else {
            0
        };
        self.disconnected_from(own, peer, lasted_ms, text);
        self.query_doubts(own, peer);
        self.busy_peers.insert(peer);
        self.ask_the_heir(own, peer);
    }
}
