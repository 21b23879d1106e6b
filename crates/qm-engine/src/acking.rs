//! Acks, refusals, questions and answers: what a peer may say about which message.
//!
//! W-USE-1 stands above everything here: a peer is heard only about messages
//! that were sent to it, and an entry is only the message if id and tag both match.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_cache::KeyState;
use qm_wire::{
    Answer, DecodeError, Entry, Incarnation, Known, MessageId, MessageKey, NotHeld, OpenError,
    Outcome, PeerFrame, QmId, Query, Refusal, Reject, RoutedAck, SessionAck, Tag, TagHash,
};

use crate::backlog::Message;
use crate::dead::Doubt;
use crate::engine::{ArrivalKey, Engine, Route, RouteKey};
use crate::history::What;
use crate::io::{Event, Lane, LinkId};
use crate::limits::{OWED_LIVES_MAX, OWED_LIVES_PER_PEER_MAX, OWED_MAX, OWED_TOTAL_MAX};
use crate::outgoing::STORING_MS;
use crate::session::Flight;
use crate::voids::Voiding;

/// Up to so many entries are looked for one by one among the messages in flight; for more an index
/// is made, which costs as much as some dozens of such looks.
const LOOKED_FOR_MAX: usize = 32;

impl Engine {
    pub(crate) fn on_received(&mut self, link: LinkId, mut frames: Bytes) {
        let limit = qm_wire::limits::data_frame_bytes(self.config.body_bytes_max as usize);
        self.heard(link);
        if let Some(session) = self.sessions.get_mut(&link) {
            session.refresh_routes(self.now.at.as_ms());
        }
        while self.sessions.contains_key(&link) {
            match PeerFrame::next(&mut frames, limit) {
                Ok(Some(frame)) => self.on_frame(link, frame),
                Ok(None) if frames.is_empty() => return,
                Ok(None) => return self.misbehaved(link, "a frame is cut short"),
                Err(error @ DecodeError::Version { .. }) => {
                    return self.end_session(link, Outcome::VERSION, &error.to_string());
                }
                Err(error) => return self.misbehaved(link, &error.to_string()),
            }
        }
    }

    fn on_frame(&mut self, link: LinkId, frame: PeerFrame) {
        let opened = self
            .sessions
            .get(&link)
            .is_some_and(|session| session.opened);
        match frame {
            PeerFrame::Hello(hello) => return self.on_hello(link, hello),
            PeerFrame::Welcome(welcome) => return self.on_welcome(link, welcome),
            PeerFrame::Goodbye(goodbye) => return self.on_goodbye(link, &goodbye),
            PeerFrame::Ignored { .. } => return,
            // The peer opens when it has my welcome, which may be before I have its own: lanes
            // are not ordered among themselves.
            PeerFrame::Credit(credit) => return self.on_credit(link, credit),
            PeerFrame::QueueState(state) => return self.on_queue_state(link, state),
            _ if !opened && self.sessions.get(&link).is_none_or(|s| s.hello.is_none()) => {
                return self.misbehaved(link, "a frame before the handshake");
            }
            _ => {}
        }
        match frame {
            PeerFrame::Data(data) => self.on_data(link, data),
            PeerFrame::SessionAck(ack) => self.on_session_ack(link, &ack),
            PeerFrame::RoutedAck(ack) => self.on_routed_ack(link, &ack),
            PeerFrame::NotHeld(not_held) => self.on_not_held(link, not_held),
            PeerFrame::Query(query) => self.on_query(link, &query),
            PeerFrame::Answer(answer) => self.on_answer(link, answer),
            PeerFrame::Reject(reject) => self.on_reject(link, &reject),
            PeerFrame::Skip(skip) => self.on_skip(link, &skip),
            PeerFrame::OrderAck(ack) => self.on_order_ack(link, &ack),
            PeerFrame::Skipped(skipped) => self.on_skipped(link, &skipped),
            PeerFrame::Need(need) => self.on_need(link, &need),
            PeerFrame::Hold(hold) => self.on_hold(link, &hold),
            PeerFrame::Evicted(evicted) => self.on_evicted(link, &evicted),
            PeerFrame::Final(told) => self.on_final(link, &told),
            PeerFrame::FinalConfirm(confirm) => self.on_final_confirm(link, &confirm),
            frame @ (PeerFrame::Confirm(_)
            | PeerFrame::Challenge(_)
            | PeerFrame::ChallengeOk(_)
            | PeerFrame::Twin(_)
            | PeerFrame::Ask(_)
            | PeerFrame::Claim(_)
            | PeerFrame::Succession(_)
            | PeerFrame::Parted(_)) => self.on_identity_frame(link, frame),
            frame => self.on_unoffered(link, frame),
        }
    }

    /// Applies an ack that came on the session of the transmissions it names.
    fn on_session_ack(&mut self, link: LinkId, ack: &SessionAck) {
        #[cfg(feature = "__breaks")]
        if self.config.breaks.ack_by_position {
            return self.apply_by_position(link, ack);
        }
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        // A few bytes can name a window: only what is held of it is looked at.
        let held = || {
            ack.ranges
                .iter()
                .flat_map(|(first, last)| session.flights.range(*first..=*last))
        };
        let named: u64 = ack
            .ranges
            .iter()
            .map(|(first, last)| (last - first).saturating_add(1))
            .fold(0, u64::saturating_add);
        let mut hash = TagHash::default();
        let mut count: u64 = 0;
        for (_, flight) in held() {
            hash.push(flight.message.tag);
            count += 1;
        }
        if count != named || hash.finish() != ack.tag_hash {
            self.counters.acks_unverified += 1;
            crate::reached!(self, AckUnverified);
            if count == 0 {
                // It came late: a query was quicker.
                return;
            }
            // Not applied by position or in part: what it names and I hold is asked for instead.
            let entries: Vec<_> = held().map(|(_, flight)| flight.message.entry()).collect();
            return self.ask_instead(link, peer, &entries);
        }
        for number in ack.numbers() {
            self.settle_flight(link, number);
        }
        self.busy_peers.insert(peer);
    }

    /// An ack that names what is in flight does not fit it. Asking costs far more than such an ack:
    /// once a second, and a peer that goes on with it is no good peer.
    fn ask_instead(&mut self, link: LinkId, peer: QmId, entries: &[Entry]) {
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if !session.unverified.admits(now) {
            return self.misbehaved(link, "too many acks that do not fit what they name");
        }
        if session
            .asked_instead
            .is_some_and(|asked| now.ms_since(asked) < 1_000)
        {
            return;
        }
        session.asked_instead = Some(now);
        self.event(Event::AckUnverified { peer });
        self.send_query(link, entries);
    }

    /// A transmission is settled, one way or another.
    pub(crate) fn take_flight(&mut self, link: LinkId, number: u64) -> Option<Flight> {
        let session = self.sessions.get_mut(&link)?;
        let flight = session.flights.remove(&number)?;
        session.flight_bytes = session.flight_bytes.saturating_sub(flight.message.credit());
        self.landed(flight.queue, flight.priority);
        Some(flight)
    }

    pub(crate) fn settle_flight(&mut self, link: LinkId, number: u64) {
        let Some(flight) = self.take_flight(link, number) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&link) {
            session.ack_came(self.now.at.ms_since(flight.sent));
            session.last_ack = self.now.at;
        }
        self.settle_delivered(flight.queue, flight.priority, &flight.message);
    }

    /// A peer said of a message that it arrived: it leaves, when it is still here.
    pub(crate) fn settle_held(
        &mut self,
        peer: QmId,
        entry: &Entry,
        flights: &BTreeMap<MessageId, (LinkId, u64, Tag)>,
    ) {
        match flights.get(&entry.id) {
            Some((at, number, tag)) if *tag == entry.tag => {
                crate::reached!(self, FinalBeforeAck);
                self.settle_flight(*at, *number);
            }
            _ => {
                if let Some((number, priority, message)) = self.take_doubt(peer, entry) {
                    self.settle_delivered(number, priority, &message);
                }
            }
        }
    }

    #[cfg(feature = "__breaks")]
    fn apply_by_position(&mut self, link: LinkId, ack: &SessionAck) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        let oldest: Vec<_> = session
            .flights
            .keys()
            .copied()
            .take(ack.numbers().count())
            .collect();
        for number in oldest {
            self.settle_flight(link, number);
        }
        self.busy_peers.insert(peer);
    }

    /// Message numbers of the entries in flight towards a peer, over all its sessions: at least of
    /// those that are asked for. What an ack of one entry costs does not grow with the window more
    /// than a glance at each message does: peers may send nothing else.
    pub(crate) fn flights_by_id<'a>(
        &self,
        peer: QmId,
        wanted: impl ExactSizeIterator<Item = &'a Entry> + Clone,
    ) -> BTreeMap<MessageId, (LinkId, u64, Tag)> {
        let mut index = BTreeMap::new();
        let few = wanted.len() <= LOOKED_FOR_MAX;
        for link in self.by_peer.get(&peer).into_iter().flatten() {
            if let Some(session) = self.sessions.get(link) {
                for (number, flight) in &session.flights {
                    if few && !wanted.clone().any(|entry| entry.id == flight.message.id) {
                        continue;
                    }
                    index.insert(flight.message.id, (*link, *number, flight.message.tag));
                }
            }
        }
        index
    }

    /// Applies an ack off its session to exactly the entries held; the rest is answered (W-USE-4).
    fn on_routed_ack(&mut self, link: LinkId, ack: &RoutedAck) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        if !self.is_own(ack.source) {
            return self.misbehaved(link, "a routed ack for another queue manager");
        }
        let flights = self.flights_by_id(peer, ack.entries.iter());
        let mut not_held = Vec::new();
        for entry in &ack.entries {
            match flights.get(&entry.id) {
                Some((link, number, tag)) if *tag == entry.tag => {
                    crate::reached!(self, RoutedAckApplied);
                    self.settle_flight(*link, *number);
                    continue;
                }
                _ => {}
            }
            if let Some((number, priority, message)) = self.take_doubt(peer, entry) {
                crate::reached!(self, RoutedAckApplied);
                self.settle_delivered(number, priority, &message);
            } else if self.ended_acknowledged(peer, entry) {
                crate::reached!(self, RoutedAckApplied);
            } else if !ack.duplicate {
                not_held.push((*entry, self.ever_mine(entry)));
            }
        }
        if !not_held.is_empty() && !crate::broken!(self, silent_not_held) {
            let entries = not_held.len();
            let foreign_incarnation = not_held.iter().any(|(_, mine)| !mine);
            self.counters.acks_not_held += entries as u64;
            self.event(Event::AckNotHeld {
                peer,
                entries,
                foreign_incarnation,
            });
            crate::reached!(self, NotHeldSent);
            let frame = NotHeld {
                source: ack.source,
                entries: not_held,
            };
            if let Some(session) = self.sessions.get_mut(&link) {
                session.push(Lane::Ack, &PeerFrame::NotHeld(frame));
                self.busy_sessions.insert(link);
            }
        }
        self.busy_peers.insert(peer);
    }

    pub(crate) fn ever_mine(&self, entry: &Entry) -> bool {
        entry.id.incarnation == self.incarnation
            || self.prior_incarnations.contains(&entry.id.incarnation)
    }

    /// A candidate does not hold these messages: try the next, for these entries only (W-USE-5).
    fn on_not_held(&mut self, link: LinkId, not_held: NotHeld) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let peer = session.peer;
        if not_held.source != peer {
            return self.misbehaved(link, "not-held about another queue manager's messages");
        }
        let mut by_life: BTreeMap<RouteKey, Vec<Entry>> = BTreeMap::new();
        for (entry, _) in not_held.entries {
            let source = peer;
            if self.final_not_held(link, MessageKey { source, entry }) {
                continue;
            }
            // Only what is really here can be owed.
            let key = ArrivalKey(MessageKey { source, entry });
            if self.dedup.probe(key) != Some(KeyState::Committed)
                && !self.arrived_lately(peer, &entry)
            {
                continue;
            }
            by_life
                .entry((peer, entry.id.incarnation))
                .or_default()
                .push(entry);
        }
        crate::reached!(self, NotHeldReceived);
        for (key, entries) in by_life {
            crate::reached!(self, AlternativeTried);
            self.routes.failed(&key, &Route::Session(link));
            self.route_acks(key, entries, false);
        }
    }

    /// Sends acks to the newest place where this life of a peer can be reached; without one they
    /// wait for it, or for the peer's own query.
    pub(crate) fn route_acks(&mut self, key: RouteKey, entries: Vec<Entry>, duplicate: bool) {
        let now_ms = self.now.at.as_ms();
        for route in self.routes.candidates(&key, now_ms) {
            match route {
                Route::Session(link) => {
                    let Some(session) = self.sessions.get_mut(&link) else {
                        self.routes.failed(&key, &route);
                        continue;
                    };
                    self.counters.acks_routed += entries.len() as u64;
                    for chunk in entries.chunks(qm_wire::limits::ENTRIES_MAX) {
                        let ack = RoutedAck {
                            source: key.0,
                            duplicate,
                            entries: chunk.to_vec(),
                        };
                        session.push(Lane::Ack, &PeerFrame::RoutedAck(ack));
                    }
                    self.busy_sessions.insert(link);
                    return;
                }
                Route::Address(_) => {
                    // Where it said it listens: dialling it is worth a try.
                    let number = self.remote(&crate::record::RemoteKey::Id(key.0));
                    self.owe(key, entries);
                    self.want_connection(number);
                    return;
                }
            }
        }
        if duplicate {
            return;
        }
        self.owe(key, entries);
    }

    fn owe(&mut self, key: RouteKey, entries: Vec<Entry>) {
        crate::reached!(self, AckOwed);
        if !self.owed.contains_key(&key) {
            let lives = (key.0, Incarnation(0))..=(key.0, Incarnation(u64::MAX));
            if self.owed.len() >= OWED_LIVES_MAX
                || self.owed.range(lives).count() >= OWED_LIVES_PER_PEER_MAX
            {
                // A peer may claim any number of lives; its query finds what is not kept here.
                return;
            }
        }
        let total: usize = self.owed.values().map(Vec::len).sum();
        let owed = self.owed.entry(key).or_default();
        let room = OWED_MAX
            .saturating_sub(owed.len())
            .min(OWED_TOTAL_MAX.saturating_sub(total));
        owed.extend(entries.into_iter().take(room));
    }

    /// A session with this peer is open: acks that waited for one of its lives leave.
    pub(crate) fn pay_owed_acks(&mut self, peer: QmId) {
        let keys: Vec<_> = self
            .owed
            .keys()
            .copied()
            .filter(|(qm, _)| *qm == peer)
            .collect();
        for key in keys {
            let now_ms = self.now.at.as_ms();
            let reachable = self
                .routes
                .candidates(&key, now_ms)
                .iter()
                .any(|route| matches!(route, Route::Session(_)));
            if reachable && let Some(entries) = self.owed.remove(&key) {
                crate::reached!(self, AckPaid);
                self.route_acks(key, entries, false);
            } else {
                // Another life of the same queue manager answered: this one's acks are left to
                // its own query.
                self.owed.remove(&key);
            }
        }
    }

    /// What this node knows of messages that a peer sent it.
    fn on_query(&mut self, link: LinkId, query: &Query) {
        let now = self.now.at;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        // Whoever asks waits for something that may yet come.
        session.last_activity = now;
        let (peer, peer_pending) = (session.peer, session.peer_pending);
        // W-FIN-4: how messages ended, their source may ask also when it has another identity now.
        let former = query.source != peer && !query.void && self.is_or_was(peer, query.source);
        if query.source != peer && !former {
            return self.misbehaved(link, "a query about another queue manager's messages");
        }
        if query.void && peer_pending {
            return self.misbehaved(link, "a void from a peer that awaits approval");
        }
        let mut entries = Vec::with_capacity(query.entries.len());
        let mut voids = Vec::new();
        for entry in &query.entries {
            let message = MessageKey {
                source: query.source,
                entry: *entry,
            };
            if let Some(outcome) = self.finals.of(&message) {
                entries.push((*entry, Known::Outcome(outcome)));
                continue;
            }
            if former {
                entries.push((*entry, Known::Unknown));
                continue;
            }
            let key = ArrivalKey(message);
            if let Some(known) = self.known_in_streams(peer, entry) {
                crate::reached!(self, AnsweredFromStream);
                entries.push((*entry, known));
                continue;
            }
            let known = match self.dedup.probe(key) {
                Some(KeyState::Committed) => {
                    crate::reached!(self, AnsweredDelivered);
                    Known::Delivered
                }
                Some(KeyState::Reserved) => {
                    crate::reached!(self, AnsweredInFlight);
                    Known::InFlight
                }
                None if self.arrived_lately(peer, entry) => {
                    crate::reached!(self, AnsweredDelivered);
                    Known::Delivered
                }
                // W-USE-8; nobody mints sequence 0.
                None if query.void && entry.id.sequence > 0 => match self.void(message) {
                    Voiding::Begun => {
                        voids.push(*entry);
                        continue;
                    }
                    Voiding::Done => Known::Outcome(Outcome::VOIDED),
                    Voiding::Pending => Known::InFlight,
                    Voiding::Full => Known::Unknown,
                },
                None if self.voids.is_pending(&message) => Known::InFlight,
                None if self.voids.has(&message) => Known::Outcome(Outcome::VOIDED),
                None => {
                    crate::reached!(self, AnsweredUnknown);
                    Known::Unknown
                }
            };
            entries.push((*entry, known));
        }
        self.after_voiding(link, peer, voids);
        self.answer_query(link, query.source, entries);
    }

    /// The destination's word on messages in doubt (W-USE-7).
    fn on_answer(&mut self, link: LinkId, answer: Answer) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let (own, peer) = (session.own, session.peer);
        if !self.is_own(answer.source) && !self.awaits_finals_as(answer.source) {
            return self.misbehaved(link, "an answer for another queue manager");
        }
        let flights = self.flights_by_id(peer, answer.entries.iter().map(|(entry, _)| entry));
        let now = self.now.at;
        for (entry, known) in answer.entries {
            if let Some(session) = self.sessions.get_mut(&link) {
                session.doubts_asked.answered(entry.id, known, now);
            }
            if self.answer_ended(link, &entry, known) {
                continue;
            }
            if self.answer_awaited(link, answer.source, &entry, known) {
                // A full disk took that it arrived, and not that it left.
                self.settle_held(peer, &entry, &flights);
                continue;
            }
            if let Some((at, number, tag)) = flights.get(&entry.id)
                && *tag == entry.tag
            {
                self.on_answer_in_flight(link, *at, *number, known);
                continue;
            }
            match known {
                Known::InFlight => {
                    // It is being stored; its ack will come, or the next query finds it.
                    crate::reached!(self, DoubtInFlight);
                    if let Some(session) = self.sessions.get_mut(&link) {
                        let soon = self.now.at.plus_ms(STORING_MS);
                        session.next_query = session.next_query.min(soon);
                        self.arm_session(link, soon);
                    }
                }
                Known::Delivered => {
                    if let Some((number, priority, message)) = self.take_doubt(peer, &entry) {
                        crate::reached!(self, DoubtDelivered);
                        self.settle_delivered(number, priority, &message);
                    }
                }
                Known::Unknown => {
                    if let Some((number, priority, message)) = self.take_doubt(peer, &entry) {
                        crate::reached!(self, DoubtUnknown);
                        self.note(message.source, message.id, What::UnknownThere { peer });
                        self.send_again(number, priority, message);
                    }
                }
                Known::Outcome(outcome) => {
                    if let Some((number, priority, message)) = self.take_doubt(peer, &entry) {
                        self.ended_there(link, (number, priority), &message, outcome);
                    }
                }
            }
        }
        self.query_more_doubts(link, own, peer);
        self.query_ended(own, peer);
        self.query_more_awaited(link);
        self.busy_peers.insert(peer);
    }

    fn on_answer_in_flight(&mut self, asked: LinkId, at: LinkId, number: u64, known: Known) {
        match known {
            Known::Delivered => {
                crate::reached!(self, FlightDelivered);
                self.settle_flight(at, number);
            }
            Known::InFlight => {}
            // The frame may still be on its way on another lane of a live session: only when it
            // was sent on the very session that answers, and long ago, is it lost.
            Known::Unknown => {
                let wait_ms = self
                    .sessions
                    .get(&at)
                    .map_or(0, |session| session.ack_wait_ms(&self.config));
                let overdue = self
                    .sessions
                    .get(&at)
                    .and_then(|s| s.flights.get(&number))
                    .is_some_and(|flight| flight.sent.plus_ms(wait_ms) <= self.now.at);
                if asked != at || !overdue {
                    return;
                }
                let Some(flight) = self.take_flight(at, number) else {
                    return;
                };
                let mut message = flight.message;
                message.transmitted = true;
                crate::reached!(self, FlightUnknown);
                if let Some(session) = self.sessions.get(&at) {
                    let peer = session.peer;
                    self.note(message.source, message.id, What::UnknownThere { peer });
                }
                self.send_again(flight.queue, flight.priority, message);
            }
            Known::Outcome(outcome) => {
                let Some(flight) = self.take_flight(at, number) else {
                    return;
                };
                let at = (flight.queue, flight.priority);
                self.ended_there(asked, at, &flight.message, outcome);
            }
        }
    }

    /// An answer says how a message ended at its destination, or that it will not be taken.
    fn ended_there(
        &mut self,
        link: LinkId,
        (number, priority): (u32, u8),
        message: &Message,
        outcome: Outcome,
    ) {
        if outcome.is_of_arrived() {
            self.settle_delivered(number, priority, message);
            if let Some(peer) = self.sessions.get(&link).map(|session| session.peer) {
                self.final_heard(link, peer, message.source, &message.entry(), outcome);
            }
            return;
        }
        let unsure = self.unsure_of(link, &message.entry());
        if let Some(unsure) = unsure {
            self.count_unsure(unsure);
        }
        let doubt = unsure.map_or(Doubt::None, |_| Doubt::Stays);
        self.bury(number, priority, message, outcome, doubt);
    }

    /// Valid only on the session of the transmission it answers, which is this one (W-USE-9).
    fn on_reject(&mut self, link: LinkId, reject: &Reject) {
        let arrived = |refusal: &Refusal| refusal.outcome.is_of_arrived();
        if reject.refusals.iter().any(arrived) {
            return self.misbehaved(link, "a refusal of what it says had arrived");
        }
        let mut calls_all_damaged = false;
        for refusal in &reject.refusals {
            let Some(session) = self.sessions.get(&link) else {
                return;
            };
            let matches = session
                .flights
                .get(&refusal.number)
                .is_some_and(|flight| flight.message.tag == refusal.tag);
            #[cfg(feature = "__breaks")]
            if !matches && self.believe_late(link, refusal) {
                continue;
            }
            if !matches {
                self.counters.acks_unverified += 1;
                crate::reached!(self, RefusalStale);
                continue;
            }
            let Some(flight) = self.take_flight(link, refusal.number) else {
                continue;
            };
            let mut message = flight.message;
            if refusal.outcome == Outcome::DAMAGED && is_whole(&message) {
                // Damaged on the way, not here: send it again.
                crate::reached!(self, DamagedOnTheWay);
                message.transmitted = true;
                self.send_again(flight.queue, flight.priority, message);
                let now = self.now.at;
                let session = self.sessions.get_mut(&link);
                calls_all_damaged |= session.is_some_and(|s| !s.called_damaged.admits(now));
            } else {
                // Of an earlier transmission it says nothing. Whoever is refused as a sender may
                // have been let in then, and is not told.
                let doubt = match self.may_be_there(&message) {
                    false => Doubt::None,
                    true if refusal.outcome == Outcome::ACCESS_DENIED => {
                        self.counters.uncertain_by_refusal += 1;
                        Doubt::Stays
                    }
                    true => Doubt::Asks,
                };
                let (queue, priority) = (flight.queue, flight.priority);
                self.bury(queue, priority, &message, refusal.outcome, doubt);
            }
        }
        if calls_all_damaged {
            return self.misbehaved(link, "whole messages called damaged, again and again");
        }
        if let Some(session) = self.sessions.get(&link) {
            self.busy_peers.insert(session.peer);
        }
    }
}

/// Whether a message's tag still matches its content.
fn is_whole(message: &Message) -> bool {
    let data = qm_wire::Data {
        number: 1,
        tag: message.tag,
        transit: qm_wire::Transit::direct(0, 0),
        envelope: message.envelope.clone(),
        body: message.body.clone(),
    };
    !matches!(
        data.view(),
        Err(OpenError::Damaged(_) | OpenError::Envelope(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, entry, qm};

    fn entries(count: usize) -> Vec<Entry> {
        (0..count as u64).map(entry).collect()
    }

    #[test]
    fn one_life_is_owed_so_many_acks_and_all_together_so_many() {
        let mut engine = engine();
        let life = |n: usize| (qm(n), Incarnation(1));
        engine.owe(life(0), entries(OWED_MAX - 1));
        engine.owe(life(0), entries(2));
        assert_eq!(engine.sizes().owed_acks, OWED_MAX);
        for n in 1..=OWED_TOTAL_MAX / OWED_MAX {
            engine.owe(life(n), entries(OWED_MAX));
        }
        assert_eq!(engine.sizes().owed_acks, OWED_TOTAL_MAX);
    }

    #[test]
    fn so_many_lives_are_owed_acks() {
        let mut engine = engine();
        for n in 0..=OWED_LIVES_MAX {
            engine.owe((qm(n), Incarnation(1)), entries(1));
        }
        assert_eq!(engine.sizes().owed_lives, OWED_LIVES_MAX);
        assert_eq!(engine.sizes().owed_acks, OWED_LIVES_MAX);
        engine.owe((qm(0), Incarnation(1)), entries(1));
        assert_eq!(engine.sizes().owed_acks, OWED_LIVES_MAX + 1, "one of them");
    }
}
