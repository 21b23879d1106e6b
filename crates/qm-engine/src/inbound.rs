//! A message from a peer: checked, compared with what came before, stored, and only then
//! remembered and acknowledged.

use qm_cache::{Admit, Ticket as DedupTicket};
use qm_wire::{
    AsQueueName, Class, Data, Entry, Envelope, EnvelopeView, MessageFlags, MessageKey, OpenError,
    Outcome, QmId, Refusal,
};

use crate::backlog::Message;
use crate::commits::{PutAt, Then};
use crate::engine::{ArrivalKey, Engine};
use crate::history::What;
use crate::identity::BranchEvidence;
use crate::io::{Event, LinkId, StoreOp};
use crate::undone::undone_key;

impl Engine {
    pub(crate) fn on_data(&mut self, link: LinkId, data: Data) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let peer = session.peer;
        let bytes = data.credit_bytes();
        self.counters.arrived += 1;
        session.last_activity = self.now.at;
        // Numbers tell an ack what it names: each must be new. Lanes are not ordered among
        // themselves, so only a bound can be checked here (W-USE-10).
        if data.number > session.granted.messages || session.peer_pending {
            return self.misbehaved(link, "a message beyond the credit granted");
        }
        session.arrived.messages += 1;
        session.arrived.bytes = session.arrived.bytes.saturating_add(bytes);
        // One oversized message may come alone, beyond the bytes.
        let allowed = session.granted.bytes.saturating_add(bytes);
        if session.arrived.messages > session.granted.messages || session.arrived.bytes > allowed {
            return self.misbehaved(link, "more messages than the credit granted");
        }
        session.unsettled.messages += 1;
        session.unsettled.bytes = session.unsettled.bytes.saturating_add(bytes);
        self.busy_sessions.insert(link);

        // Looked at where it lies: what is kept of the message is its bytes.
        let envelope = match data.view() {
            Ok(envelope) => envelope,
            Err(OpenError::Damaged(_)) => return self.refuse(link, &data, Outcome::DAMAGED),
            Err(error) => return self.misbehaved(link, &error.to_string()),
        };
        if envelope.source != peer {
            return self.refuse(link, &data, Outcome::ACCESS_DENIED);
        }
        if data.body.len() > self.config.body_bytes_max as usize {
            return self.refuse(link, &data, Outcome::BODY_TOO_LARGE);
        }
        if envelope.class == Class::Transactional {
            return self.on_stream_data(link, peer, &data, &envelope);
        }
        self.admit(link, peer, &data, &envelope);
    }

    fn admit(&mut self, link: LinkId, peer: QmId, data: &Data, envelope: &EnvelopeView<'_>) {
        let entry = Entry {
            id: envelope.id,
            tag: if crate::broken!(self, ignore_tag) {
                qm_wire::Tag([0; 8])
            } else {
                data.tag
            },
        };
        let key = ArrivalKey(MessageKey {
            source: peer,
            entry,
        });
        let reservation = match self.dedup.admit_ticket(key, self.now.at.as_ms()) {
            Admit::Duplicate => return self.acknowledge_again(link, peer, data, envelope.id),
            Admit::InFlight => {
                // Being stored: that copy will be acknowledged. This transmission is answered by
                // the sender's query.
                crate::reached!(self, DuplicateInFlight);
                return self.settle_arrival(link, data);
            }
            Admit::Fresh(reservation) => {
                if reservation.has_sibling() {
                    crate::reached!(self, BranchedByTag);
                    self.note_branch(peer, BranchEvidence::Tag);
                }
                reservation
            }
        };
        if self.arrived_lately(peer, &entry) {
            // Pushed out of the cache by what others sent meanwhile.
            crate::reached!(self, DuplicateBeyondCache);
            self.dedup.abort(reservation);
            return self.acknowledge_again(link, peer, data, envelope.id);
        }
        if self.is_being_voided(peer, data, envelope) {
            self.dedup.abort(reservation);
            return self.settle_arrival(link, data);
        }
        if let Some(outcome) = self.refusal_of(peer, data, envelope) {
            self.dedup.abort(reservation);
            return self.refuse(link, data, outcome);
        }
        let Some(number) = self
            .local_names
            .get(&envelope.queue as &dyn AsQueueName)
            .copied()
        else {
            self.dedup.abort(reservation);
            return self.refuse(link, data, Outcome::BAD_DESTINATION_QUEUE);
        };
        if !self.admit_by_quota(link, number) {
            return self.dedup.abort(reservation);
        }
        let message = Message {
            position: 0,
            source: peer,
            id: envelope.id,
            tag: data.tag,
            class: envelope.class,
            flags: envelope.flags,
            at: self.stamp(),
            wall_us: self.now.wall_us,
            reach_left_ms: data.transit.reach_queue_left_ms,
            receive_left_ms: data.transit.be_received_left_ms,
            aborts: 0,
            transmitted: false,
            envelope: data.envelope.clone(),
            body: data.body.clone(),
        };
        self.take_arrival(link, data, number, message, envelope, reservation);
    }

    /// Whether this is among the newest arrivals of the peer, which others do not push out.
    pub(crate) fn arrived_lately(&self, peer: QmId, entry: &Entry) -> bool {
        self.recent.contains(peer, entry) && !crate::broken!(self, forget_recent)
    }

    /// What is here already is acknowledged once more and not stored (W-USE-6).
    fn acknowledge_again(&mut self, link: LinkId, peer: QmId, data: &Data, id: qm_wire::MessageId) {
        self.counters.duplicates += 1;
        self.note(peer, id, What::Duplicate { peer });
        self.event(Event::DuplicateRemoved { source: peer, id });
        self.settle_arrival(link, data);
        crate::reached!(self, DuplicateAcknowledged);
        if crate::broken!(self, silent_duplicates) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.duplicate_acks.push((data.number, data.tag));
        }
    }

    /// Whether a queue takes what is under way, although it may be full; if not, the session ends.
    pub(crate) fn admit_by_quota(&mut self, link: LinkId, number: u32) -> bool {
        let Some(queue) = self.locals.get(&number) else {
            return false;
        };
        if !queue.is_full() || crate::broken!(self, ignore_quota) {
            return true;
        }
        let over = queue.is_over_by(self.config.window_messages, self.config.window_bytes);
        let text = format!("queue {} is at its quota", queue.settings.name);
        self.tell_full(link, number);
        if over {
            // The sender cannot have seen yet that the queue is full. Taking some of what is under
            // way and not the rest would break the order: the session ends, and the next one begins
            // with the queue's state.
            crate::reached!(self, QueueOverrun);
            self.end_session(link, Outcome::QUOTA_EXCEEDED, &text);
        }
        !over
    }

    /// Why this message cannot enter its queue, if it cannot.
    fn refusal_of(&self, peer: QmId, data: &Data, envelope: &EnvelopeView<'_>) -> Option<Outcome> {
        if let Some(outcome) = self.remembered_refusal(peer, data, envelope) {
            return Some(outcome);
        }
        if self.is_voided(peer, data, envelope) {
            return Some(Outcome::VOIDED);
        }
        // Forwarded messages and those that queue managers make are for a later version.
        if data.transit.route.is_some() || envelope.report.is_some() {
            return Some(Outcome::UNSUPPORTED);
        }
        let Some(queue) = self
            .local_names
            .get(&envelope.queue as &dyn AsQueueName)
            .and_then(|number| self.locals.get(number))
        else {
            return Some(Outcome::BAD_DESTINATION_QUEUE);
        };
        if envelope.queue.is_system() {
            return Some(Outcome::ACCESS_DENIED);
        }
        if queue.settings.transactional {
            return Some(Outcome::NOT_TRANSACTIONAL_MESSAGE);
        }
        if data.transit.is_over() {
            return Some(Outcome::REACH_QUEUE_EXPIRED);
        }
        if queue.settings.quota_bytes < data.credit_bytes()
            || (queue.is_full() && envelope.flags.contains(MessageFlags::FAIL_WHEN_FULL))
        {
            return Some(Outcome::QUOTA_EXCEEDED);
        }
        None
    }

    /// W-USE-9: what was refused once is refused again while a session lives that was open then.
    pub(crate) fn remembered_refusal(
        &self,
        peer: QmId,
        data: &Data,
        envelope: &EnvelopeView<'_>,
    ) -> Option<Outcome> {
        if crate::broken!(self, forget_refusals) {
            return None;
        }
        let entry = Entry {
            id: envelope.id,
            tag: data.tag,
        };
        self.by_peer
            .get(&peer)?
            .iter()
            .filter_map(|link| self.sessions.get(link))
            .find_map(|session| session.refused.get(&entry).copied())
    }

    /// W-USE-8: its sender gave it up, and was promised that it is not taken.
    pub(crate) fn is_voided(&self, peer: QmId, data: &Data, envelope: &EnvelopeView<'_>) -> bool {
        let entry = Entry {
            id: envelope.id,
            tag: data.tag,
        };
        self.voids.has(&MessageKey {
            source: peer,
            entry,
        })
    }

    /// The same, while that promise is on its way to the disk: this transmission is answered by the
    /// sender's query.
    pub(crate) fn is_being_voided(
        &self,
        peer: QmId,
        data: &Data,
        envelope: &EnvelopeView<'_>,
    ) -> bool {
        let entry = Entry {
            id: envelope.id,
            tag: data.tag,
        };
        self.voids.is_pending(&MessageKey {
            source: peer,
            entry,
        })
    }

    fn take_arrival(
        &mut self,
        link: LinkId,
        data: &Data,
        number: u32,
        message: Message,
        envelope: &EnvelopeView<'_>,
        reservation: DedupTicket,
    ) {
        let entry = message.entry();
        let (source, durable) = (message.source, message.class.is_durable());
        let priority = envelope.priority.get();
        let put = self.put_local(number, priority, message);
        let mut reservation = Some(reservation);
        #[cfg_attr(
            not(feature = "__breaks"),
            expect(unused_mut, reason = "a break sets it")
        )]
        let mut acked = false;
        #[cfg(feature = "__breaks")]
        {
            if self.config.breaks.remember_before_stored
                && let Some(reservation) = reservation.take()
            {
                self.dedup.commit(reservation);
            }
            if self.config.breaks.ack_before_durable
                && durable
                && let Some(session) = self.sessions.get_mut(&link)
            {
                session.acks.push((data.number, data.tag));
                acked = true;
            }
        }
        if durable {
            let number = data.number;
            let arrival = MessageKey { source, entry };
            if self.undone_arrivals.contains(&arrival) {
                self.commits.put(StoreOp::Unset {
                    key: undone_key(&arrival),
                });
            }
            self.commits.after_putting(Then::Arrived {
                put,
                link,
                number,
                source,
                entry,
                reservation,
                acked,
                place: None,
            });
        } else {
            if let Some(reservation) = reservation.take() {
                self.remember_arrival(reservation, source, entry.id);
            }
            self.recent.insert(source, entry);
            self.note_arrival(source, entry.id, Class::Express);
            self.arrived(link, put, data.number, source, entry, acked);
        }
    }

    /// It is stored to its class: a copy that comes again is known.
    pub(crate) fn remember_arrival(
        &mut self,
        reservation: DedupTicket,
        source: QmId,
        id: qm_wire::MessageId,
    ) {
        self.dedup.commit(reservation);
        let now_ms = self.now.at.as_ms();
        self.forgotten
            .arrived((source, id.incarnation), id.sequence, now_ms);
    }

    pub(crate) fn note_arrival(&mut self, peer: QmId, id: qm_wire::MessageId, class: Class) {
        self.note(peer, id, What::Arrived { peer, class });
    }

    /// A message is stored to its class: remembered, shown, acknowledged; in that order (W-USE-2).
    /// On the session it came on, or by route when that has gone (W-USE-3).
    pub(crate) fn arrived(
        &mut self,
        link: LinkId,
        put: PutAt,
        number: u64,
        source: QmId,
        entry: Entry,
        acked: bool,
    ) {
        self.counters.delivered += 1;
        self.event(Event::Delivered {
            source,
            id: entry.id,
            tag: entry.tag,
        });
        match self.sessions.get_mut(&link) {
            Some(session) => {
                session.unsettled.messages = session.unsettled.messages.saturating_sub(1);
                session.unsettled.bytes = session.unsettled.bytes.saturating_sub(put.credit);
                if !acked {
                    session.acks.push((number, entry.tag));
                }
                self.busy_sessions.insert(link);
            }
            None => self.route_acks((source, entry.id.incarnation), vec![entry], false),
        }
        self.busy_queues.insert(put.queue);
    }

    /// A transmission needs no more room.
    pub(crate) fn settle_arrival(&mut self, link: LinkId, data: &Data) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.unsettled.messages = session.unsettled.messages.saturating_sub(1);
            session.unsettled.bytes = session.unsettled.bytes.saturating_sub(data.credit_bytes());
        }
    }

    pub(crate) fn refuse(&mut self, link: LinkId, data: &Data, outcome: Outcome) {
        self.settle_arrival(link, data);
        self.counters.rejected += 1;
        if outcome == Outcome::VOIDED {
            crate::reached!(self, VoidedRefused);
        }
        let id = Envelope::view(&data.envelope)
            .ok()
            .map(|envelope| envelope.id);
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let peer = session.peer;
        let refusal = Refusal {
            number: data.number,
            tag: data.tag,
            outcome,
        };
        #[cfg(feature = "__breaks")]
        if self.hold_back(peer, link, refusal) {
            if let Some(id) = id
                && let Some(session) = self.sessions.get_mut(&link)
            {
                session.remember_refusal(Entry { id, tag: data.tag }, outcome);
            }
            return;
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.refusals.push(refusal);
        if let Some(id) = id
            && outcome != Outcome::DAMAGED
        {
            session.remember_refusal(Entry { id, tag: data.tag }, outcome);
            self.note(peer, id, What::Refused { peer, outcome });
        }
    }
}
