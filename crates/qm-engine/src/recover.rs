//! From what the store found to an engine that goes on where it was.

use bytes::Bytes;
use qm_cache::Admit;
use qm_wire::{Entry, Envelope, Incarnation, MessageKey};

use crate::backlog::Backlog;
use crate::engine::{ArrivalKey, Engine};
use crate::io::{Event, Recovered};
use crate::outgoing::OutLane;
use crate::queues::LocalQueue;
use crate::record::{QueueRecord, StoredHead};

impl Engine {
    pub(crate) fn recover(&mut self, recovered: Recovered) {
        for (key, value) in &recovered.state {
            let understood = match QueueRecord::number_of(key) {
                Some(number) => self.recover_queue(number, QueueRecord::decode(value)),
                None => self
                    .recover_life(key)
                    .or_else(|| self.recover_peer(key, value))
                    .or_else(|| self.recover_client(key, value))
                    .unwrap_or(true),
            };
            if !understood {
                self.event(Event::Unreadable {
                    what: "a stored value",
                });
            }
        }
        for (stream, summary) in &recovered.streams {
            let (number, priority) = Self::queue_of(*stream);
            let backlog = Backlog::recovered(*stream, *summary);
            self.stored_bytes = self.stored_bytes.saturating_add(summary.live_bytes);
            if let Some(queue) = self.locals.get_mut(&number) {
                queue.lanes.insert(priority, backlog);
            } else if let Some(out) = self.outs.get_mut(&number) {
                let doubt = std::collections::BTreeMap::new();
                out.lanes.insert(priority, OutLane { backlog, doubt });
            } else if summary.live_records > 0 {
                self.event(Event::Unreadable {
                    what: "a stream of no known queue",
                });
            }
            self.next_queue = self.next_queue.max(number + 1);
        }
        self.recall_arrivals(&recovered);
        let locals: Vec<_> = self.locals.keys().copied().collect();
        for number in locals {
            for priority in 0..8 {
                self.refill_local(number, priority);
            }
        }
        let outs: Vec<_> = self.outs.keys().copied().collect();
        for number in outs {
            for priority in 0..8 {
                self.refill_out(number, priority);
            }
        }
        self.connect_kept();
    }

    fn recover_life(&mut self, key: &Bytes) -> Option<bool> {
        let life = <[u8; 8]>::try_from(key.strip_prefix(&b"life/"[..])?).ok();
        self.prior_incarnations
            .extend(life.map(|life| Incarnation(u64::from_be_bytes(life))));
        Some(life.is_some())
    }

    fn recover_queue(&mut self, number: u32, record: Option<QueueRecord>) -> bool {
        self.next_queue = self.next_queue.max(number + 1);
        match record {
            None => false,
            Some(QueueRecord::Local(settings)) => {
                self.local_names.insert(settings.name.clone(), number);
                self.locals.insert(number, LocalQueue::new(settings));
                true
            }
            Some(QueueRecord::Outgoing {
                remote,
                queue,
                paused,
            }) => {
                let remote = self.remote(&remote);
                self.insert_out_queue(number, remote, queue, paused);
                true
            }
        }
    }

    /// Fills the duplicate cache from the newest messages in the log, consumed ones included, so
    /// that a restart opens no window for duplicates.
    fn recall_arrivals(&mut self, recovered: &Recovered) {
        let now_ms = self.now.at.as_ms();
        for (stream, head) in &recovered.recent {
            let Some(head) = StoredHead::decode(head) else {
                continue;
            };
            let Ok(envelope) = Envelope::decode(&head.envelope) else {
                continue;
            };
            let (number, _) = Self::queue_of(*stream);
            if envelope.source == self.me.qm {
                // My own earlier lives: their acks are mine to take.
                self.prior_incarnations.insert(envelope.id.incarnation);
                continue;
            }
            if head.dead.is_some() || !self.locals.contains_key(&number) {
                continue;
            }
            let entry = Entry {
                id: envelope.id,
                tag: head.tag,
            };
            let key = ArrivalKey(MessageKey {
                source: envelope.source,
                entry,
            });
            if let Admit::Fresh(ticket) = self.dedup.admit_ticket(key, now_ms) {
                self.dedup.commit(ticket);
            }
        }
    }
}
