//! Messages that may have been transmitted before: none is sent again before its destination, which
//! is asked, has said that it does not have it.

use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{Class, Entry, PeerFrame, QmId, Query};

use super::Remote;
use crate::backlog::Message;
use crate::engine::{Engine, Timer};
use crate::history::What;
use crate::io::{Lane, LinkId};
use crate::limits::SILENT_SESSION_MS;
use crate::time::Timestamp;

impl Engine {
    /// A message that may have been transmitted: it is asked for, not sent again.
    pub(crate) fn put_in_doubt(&mut self, number: u32, priority: u8, message: Message) {
        let id = message.id;
        let position = message.position;
        self.place_in_stream(number, &message);
        if let Some(out) = self.outs.get_mut(&number) {
            if id.incarnation != self.incarnation {
                self.prior_incarnations.insert(id.incarnation);
            }
            if let Some(lane) = out.lanes.get_mut(&priority) {
                let mut message = message;
                message.transmitted = true;
                let source = message.source;
                // The destination of a transactional message judges its time.
                let due = if message.class == Class::Transactional {
                    Timestamp::NEVER
                } else {
                    message.reach_deadline()
                };
                lane.doubt_deadline = lane.doubt_deadline.min(due);
                lane.doubt_bytes = lane.doubt_bytes.saturating_add(message.credit());
                lane.doubt.insert(position, message);
                self.doubts.insert(id, (number, priority, position));
                let peer = self.remotes.get(&out.remote).and_then(Remote::peer);
                self.note(source, id, What::InDoubt { peer });
                if due != Timestamp::NEVER {
                    // A full disk may have just refused its letter.
                    self.arm(due.max(self.now.at.plus_ms(100)), Timer::Expiry);
                }
            }
        }
    }

    /// Takes a message out of doubt that ends here, whatever became of it.
    pub(crate) fn give_up_doubt(
        &mut self,
        number: u32,
        priority: u8,
        position: u64,
    ) -> Option<Message> {
        let lane = self.outs.get_mut(&number)?.lanes.get_mut(&priority)?;
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&message.id);
        Some(message)
    }

    /// Takes a message out of doubt when tag and destination are right.
    pub(crate) fn take_doubt(&mut self, peer: QmId, entry: &Entry) -> Option<(u32, u8, Message)> {
        let (number, priority, position) = *self.doubts.get(&entry.id)?;
        let out = self.outs.get_mut(&number)?;
        // W-USE-1: only the queue manager a message was sent to may speak about it.
        let of = self.remotes.get(&out.remote).and_then(Remote::peer);
        if of != Some(peer) && !self.heirs.succeeded(peer, of) {
            return None;
        }
        let lane = out.lanes.get_mut(&priority)?;
        if lane.doubt.get(&position)?.tag != entry.tag {
            return None;
        }
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&entry.id);
        Some((number, priority, message))
    }

    /// Asks a peer for everything in doubt towards it.
    pub(crate) fn query_doubts(&mut self, own: QmId, peer: QmId) {
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let mut entries = Vec::new();
        for number in self.queues_towards(own, peer) {
            if let Some(out) = self.outs.get(&number) {
                for lane in out.lanes.values() {
                    entries.extend(lane.doubt.values().map(Message::entry));
                }
            }
        }
        self.send_query(link, &entries);
        self.query_ended(own, peer);
    }

    pub(crate) fn send_query(&mut self, link: LinkId, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let interval = self.config.query_interval_ms;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let me = session.own;
        for chunk in entries.chunks(ENTRIES_MAX) {
            let query = Query {
                source: me,
                void: false,
                entries: chunk.to_vec(),
            };
            session.push(Lane::Control, &PeerFrame::Query(query));
        }
        let peer = session.peer;
        for entry in entries {
            self.note(me, entry.id, What::Queried { peer });
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let next_query = self.now.at.plus_ms(interval);
        session.next_query = next_query;
        self.counters.queried += entries.len() as u64;
        self.arm_session(link, next_query);
        self.expect_sign(link, SILENT_SESSION_MS);
        self.busy_sessions.insert(link);
    }

    /// Asks for what has been unacknowledged for too long, first after the ack wait, then at the
    /// query interval.
    pub(crate) fn query_overdue(&mut self, link: LinkId) {
        let now = self.now.at;
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.may_send()
            || (session.next_query != Timestamp::NEVER && now < session.next_query)
        {
            return;
        }
        let (own, peer) = (session.own, session.peer);
        let wait_ms = session.ack_wait_ms(&self.config);
        let mut entries: Vec<Entry> = session
            .flights
            .values()
            .take(ENTRIES_MAX)
            .filter(|flight| flight.sent.plus_ms(wait_ms) <= now)
            .map(|flight| flight.message.entry())
            .collect();
        if self.sending_session(own, peer) == Some(link) {
            for number in self.queues_towards(own, peer) {
                if let Some(out) = self.outs.get(&number) {
                    for lane in out.lanes.values() {
                        entries.extend(lane.doubt.values().map(Message::entry));
                    }
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.next_query = Timestamp::NEVER;
        }
        self.send_query(link, &entries);
        if self.sending_session(own, peer) == Some(link) && self.query_ended(own, peer) {
            let next_query = now.plus_ms(self.config.query_interval_ms);
            if let Some(session) = self.sessions.get_mut(&link) {
                session.next_query = session.next_query.min(next_query);
            }
            self.arm_session(link, next_query);
        }
    }
}
