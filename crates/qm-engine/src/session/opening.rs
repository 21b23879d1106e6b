//! How a session begins: both say hello, each welcomes the other, and once both proofs are
//! confirmed everything is said and asked that waited for a session.

use std::net::SocketAddr;

use bytes::Bytes;
use qm_wire::{Hello, Outcome, PROTOCOL_MAX, PROTOCOL_MIN, PeerFrame, QmId, Welcome, WelcomeFlags};

use super::Session;
use crate::connections::With;
use crate::engine::{Engine, Route};
use crate::identity::handshake::SessionTokens;
use crate::io::{Event, Lane, LinkId, Output};
use crate::peers::Approval;

impl Engine {
    pub(crate) fn on_connected(
        &mut self,
        link: LinkId,
        (own, peer): (QmId, QmId),
        public_key: &[u8; 32],
        remote: SocketAddr,
        dial: Option<u64>,
    ) {
        let dialled = dial.is_some();
        if let Some(dial) = dial
            && !self.dial_succeeded(dial, peer)
        {
            self.close_link(
                link,
                Outcome::WRONG_IDENTITY,
                "another queue manager was expected",
            );
            return;
        }
        if self.stopping {
            self.close_link(link, Outcome::STOPPING, "the node is stopping");
            return;
        }
        if !self.is_own(own) {
            // Its key was erased, or given up, while the connection was made.
            let text = "this node has not got that identity any more";
            self.close_link(link, Outcome::WRONG_IDENTITY, text);
            return;
        }
        if let Some(left_ms) = self.penalty_left_ms(peer) {
            let text = format!(
                "this peer broke the protocol; it is let in again in {left_ms} milliseconds"
            );
            self.close_link(link, Outcome::BUSY, &text);
            return self.disconnected_from(own, peer, 0, &text);
        }
        let approval = self.meet(peer, public_key);
        if approval == Approval::Blocked {
            self.turn_away(link, Outcome::BLOCKED, "this peer is blocked");
            return self.disconnected_from(own, peer, 0, "this peer is blocked here");
        }
        if approval == Approval::Overflow {
            self.turn_away(link, Outcome::BUSY, "too many peers await approval");
            return self.disconnected_from(own, peer, 0, "too many peers await approval here");
        }
        if approval == Approval::Approved {
            self.outputs.push_back(Output::Trust { link });
        }
        self.next_attempt += 1;
        let attempt = self.next_attempt;
        let hello = (attempt, self.incarnation);
        let mut session = Session::new(link, (own, peer), remote, dialled, self.now.at, hello);
        let token = self.token_for(own, peer);
        session.tokens = SessionTokens::new(token.clone());
        let priors: Vec<_> = self
            .prior_incarnations
            .iter()
            .copied()
            .take(qm_wire::limits::PRIOR_INCARNATIONS_MAX)
            .collect();
        session.push(
            Lane::Control,
            &PeerFrame::Hello(Hello {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL_MAX,
                incarnation: self.incarnation,
                prior_incarnations: priors,
                attempt,
                token,
                listen_port: self.config.listen_port,
                body_bytes_max: self.config.body_bytes_max,
                flags: self.hello_flags(own),
                enrolment: Bytes::new(),
                name: self.config.name.as_str().into(),
                host: self.config.host.as_str().into(),
            }),
        );
        self.sessions.insert(link, session);
        self.by_peer.entry(peer).or_default().insert(link);
        self.twins_session_began(link, (own, peer));
        self.busy_sessions.insert(link);
        self.arm_session(link, self.now.at.plus_ms(self.config.handshake_timeout_ms));
    }

    pub(crate) fn on_hello(&mut self, link: LinkId, mut hello: Hello) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if session.hello.is_some() {
            return self.misbehaved(link, "a second hello on one session");
        }
        let peer = session.peer;
        let protocol = PROTOCOL_MAX.min(hello.protocol_max);
        if protocol < hello.protocol_min || protocol < PROTOCOL_MIN {
            let text = format!(
                "no common protocol version: the peer speaks {} to {}, this node {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                hello.protocol_min, hello.protocol_max
            );
            return self.end_session(link, Outcome::VERSION, &text);
        }
        let other = self.said_here(link, &hello);
        if self.is_own(peer) && (hello.incarnation == self.incarnation || other.is_some()) {
            // Both ends, or the other hello would be heard without this one.
            for end in [Some(link), other].into_iter().flatten() {
                self.end_session(end, Outcome::WRONG_IDENTITY, "this node dialled itself");
            }
            return;
        }
        let remote = session.remote;
        self.look_for_own_copy(link, &hello);
        let newly_pending = self.peers.announced(peer, &hello, remote, self.now.wall_us);
        let pending = self.peers.approval(peer) == Approval::Pending;
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce);
        if newly_pending {
            let name = hello.name.as_str().to_owned();
            self.event(Event::PeerPending { peer, name });
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.peer_pending = pending;
        session.tokens.nonce = nonce;
        session.tokens.protocol = protocol;
        let token = core::mem::take(&mut hello.token);
        session.hello = Some(hello);
        self.save_peer(peer);
        self.on_presented(link, &token);
    }

    /// The session on which this process said that hello itself, in its present life or in one that
    /// ended since: the other end of a connection to itself.
    fn said_here(&self, link: LinkId, hello: &Hello) -> Option<LinkId> {
        let said = |session: &&Session| {
            session.link != link
                && self.is_own(session.peer)
                && session.attempt == hello.attempt
                && session.told_life == hello.incarnation
        };
        self.sessions
            .values()
            .find(said)
            .map(|session| session.link)
    }

    pub(crate) fn on_welcome(&mut self, link: LinkId, welcome: Welcome) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let first = session.welcome.as_ref();
        let repeated = first.is_some();
        let same =
            |first: &Welcome| first.nonce == welcome.nonce && first.store_id == welcome.store_id;
        if welcome.attempt != session.attempt || !first.is_none_or(same) {
            return self.misbehaved(link, "a welcome that answers no hello of this session");
        }
        let branched = welcome.flags.contains(WelcomeFlags::BRANCHED);
        let token = welcome.token.clone();
        if !repeated {
            session.pending = welcome.flags.contains(WelcomeFlags::PENDING);
            session.welcome = Some(welcome);
        }
        self.take_token(link, &token, branched, repeated);
    }

    /// Opens the session once both hellos are answered, and both answers confirmed.
    pub(crate) fn try_open(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let confirmed = session.tokens.confirmed && session.tokens.peer_confirmed;
        if session.opened || session.hello.is_none() || session.welcome.is_none() || !confirmed {
            return;
        }
        session.opened = true;
        session.last_activity = self.now.at;
        let (own, peer) = (session.own, session.peer);
        let Some(hello) = session.hello.as_ref() else {
            return;
        };
        let incarnation = hello.incarnation;
        self.event(Event::SessionOpened {
            link,
            peer,
            incarnation,
        });
        self.connections.opened(peer);
        if let Some(session) = self.sessions.get(&link) {
            let who = if session.dialled {
                "dialled"
            } else {
                "answered"
            };
            let text = format!(
                "session {who}, peer at {}, life {incarnation}",
                session.remote
            );
            self.note_connection(With::Peer(peer), "opened", &text);
        }
        self.meet_life(peer, incarnation);
        self.supersede(link, peer, incarnation);
        self.doubt_other_lives(link, peer, incarnation);
        if !self.sessions.contains_key(&link) {
            return;
        }
        self.look_for_twins(link, peer);
        self.ask_own_copy(link);
        self.learn_routes(link);
        let store = self
            .sessions
            .get(&link)
            .and_then(|session| session.welcome.as_ref())
            .map(|welcome| welcome.store_id);
        if let Some(store) = store {
            self.meet_store(link, peer, store);
        }
        self.tell_full_queues(link);
        self.grant_credit(link);
        self.pay_owed_acks(peer);
        self.connected_to(own, peer);
        self.query_doubts(own, peer);
        self.query_awaited(own, peer);
        self.tell_finals(link, peer);
        self.tell_succession(link);
        self.tell_parted(link);
        self.tell_who_parted(link);
        self.look_for_approval(link);
        self.busy_peers.insert(peer);
        self.arm_session(link, self.now.at.plus_ms(self.config.idle_session_ms));
    }

    /// Acknowledgements for what a peer sent go where it is. Nothing is taken from one that is
    /// pending, so it has no rows.
    pub(crate) fn learn_routes(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.opened || session.peer_pending {
            return;
        }
        let (peer, lives) = (session.peer, session.lives());
        let now_ms = self.now.at.as_ms();
        let mut routes = Vec::new();
        for life in lives {
            // The address was for the time without a session.
            for route in self.routes.candidates(&(peer, life), now_ms) {
                if matches!(route, Route::Address(_)) {
                    self.routes.failed(&(peer, life), &route);
                }
            }
            let key = (peer, life);
            let (_, route) = self.routes.learn_handle(key, Route::Session(link), now_ms);
            routes.extend(route);
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.routes = routes;
        }
    }
}
