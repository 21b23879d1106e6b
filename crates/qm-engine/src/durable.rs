//! What happens when the store reports a batch durable, or refuses it because the disk is full.

use qm_wire::Outcome;

use crate::backlog::Backlog;
use crate::commits::{PutAt, Then};
use crate::engine::{Engine, Timer};
use crate::io::{Event, Output};

/// How often a full disk is tried again.
const STORE_RETRY_MS: u64 = 1_000;

impl Engine {
    pub(crate) fn on_durable(&mut self, batch: Vec<Then>) {
        for then in batch {
            match then {
                Then::Accepted {
                    put,
                    id,
                    client,
                    sequence,
                    idempotency,
                    local,
                } => {
                    self.put_durable(local, put);
                    if let Some((hash, number)) = idempotency {
                        self.key_durable(hash, number);
                    }
                    self.confirm(client, sequence, id, put, local);
                }
                Then::Repeated {
                    client,
                    sequence,
                    id,
                } => {
                    self.confirm_repeated(client, sequence, id);
                }
                Then::Arrived {
                    put,
                    link,
                    number,
                    source,
                    entry,
                    reservation,
                    acked,
                } => {
                    self.put_durable(true, put);
                    if let Some(reservation) = reservation {
                        self.dedup.commit(reservation);
                    }
                    self.arrived(link, put, number, source, entry, acked);
                }
                Then::DeadLetter { put } => {
                    self.put_durable(true, put);
                    self.busy_queues.insert(put.queue);
                }
                Then::Settled { conn, settled } => {
                    let frame = qm_wire::local::NodeFrame::Settled(settled);
                    self.outputs.push_back(Output::Client { conn, frame });
                }
            }
        }
    }

    fn backlog_of(&mut self, local: bool, put: PutAt) -> Option<&mut Backlog> {
        if local {
            self.locals
                .get_mut(&put.queue)?
                .lanes
                .get_mut(&put.priority)
        } else {
            let lane = self
                .outs
                .get_mut(&put.queue)?
                .lanes
                .get_mut(&put.priority)?;
            Some(&mut lane.backlog)
        }
    }

    fn put_durable(&mut self, local: bool, put: PutAt) {
        if let Some(backlog) = self.backlog_of(local, put) {
            backlog.committed(put.position + 1);
        }
        if !local {
            self.refill_out(put.queue, put.priority);
        }
    }

    /// The disk is full: nothing of the batch was done. Applications are told, peers get no ack
    /// and no credit, so they keep what they have.
    pub(crate) fn on_refused(&mut self, batch: Vec<Then>) {
        for then in batch {
            match then {
                Then::Accepted {
                    put,
                    id,
                    client,
                    sequence,
                    idempotency,
                    local,
                } => {
                    self.put_refused(local, put);
                    self.unaccept(client, sequence, id, idempotency);
                }
                Then::Repeated {
                    client,
                    sequence,
                    id,
                } => {
                    self.unaccept(client, sequence, id, None);
                }
                Then::Arrived {
                    put,
                    link,
                    reservation,
                    ..
                } => {
                    self.put_refused(true, put);
                    if let Some(reservation) = reservation {
                        self.dedup.abort(reservation);
                    }
                    if let Some(session) = self.sessions.get_mut(&link) {
                        let unsettled = &mut session.unsettled;
                        unsettled.messages = unsettled.messages.saturating_sub(1);
                        unsettled.bytes = unsettled.bytes.saturating_sub(put.credit);
                    }
                }
                Then::DeadLetter { put } => {
                    // The removal was refused with it: the message is where it was, on disk, and
                    // is found there at the next start; memory has let go of it.
                    self.put_refused(true, put);
                }
                Then::Settled { conn, mut settled } => {
                    settled.outcome = Some(Outcome::STORE_FULL);
                    settled.text = "the disk is full".into();
                    let frame = qm_wire::local::NodeFrame::Settled(settled);
                    self.outputs.push_back(Output::Client { conn, frame });
                }
            }
        }
        if !self.store_full {
            self.store_full = true;
            self.event(Event::StoreFull { full: true });
        }
        self.arm(self.now.at.plus_ms(STORE_RETRY_MS), Timer::StoreRetry);
    }

    fn put_refused(&mut self, local: bool, put: PutAt) {
        let freed = self
            .backlog_of(local, put)
            .map_or(0, |b| b.refuse(put.position, put.credit));
        self.resident_bytes = self.resident_bytes.saturating_sub(freed);
        self.stored_bytes = self.stored_bytes.saturating_sub(put.credit);
    }
}
