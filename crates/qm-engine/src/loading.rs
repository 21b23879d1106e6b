//! Messages read back from the store into the backlogs they belong to.

use qm_wire::Envelope;

use crate::backlog::Message;
use crate::engine::{Engine, LoadFor};
use crate::io::{Event, LoadId, StoredRecord};
use crate::record::StoredHead;
use crate::time::Timestamp;

const LOAD_RECORDS: usize = 1_024;
pub(crate) const LOAD_BYTES: usize = 1 << 20;

impl Engine {
    pub(crate) fn refill_local(&mut self, number: u32, priority: u8) {
        let room = self.may_keep(LOAD_BYTES);
        let Some(lane) = self
            .locals
            .get_mut(&number)
            .and_then(|q| q.lanes.get_mut(&priority))
        else {
            return;
        };
        let Some(from) = lane.wants_load(LOAD_RECORDS / 4, room) else {
            return;
        };
        lane.load_started();
        let stream = lane.stream;
        let what = LoadFor::Backlog {
            queue: number,
            priority,
            local: true,
        };
        self.start_load(stream, from, LOAD_RECORDS, LOAD_BYTES, what);
    }

    /// A message as read back from the store.
    pub(crate) fn message_of(&mut self, record: StoredRecord) -> Option<Message> {
        let head = StoredHead::decode(&record.head);
        let envelope = head
            .as_ref()
            .and_then(|head| Envelope::decode(&head.envelope).ok());
        let Some((head, envelope)) = head.zip(envelope) else {
            self.counters.unreadable += 1;
            self.event(Event::Unreadable {
                what: "a stored message",
            });
            return None;
        };
        // Whatever lies in the store is durable: dead letters, and express messages that an
        // orderly stop saved.
        let class = envelope.class.max(qm_wire::Class::Recoverable);
        Some(Message {
            position: record.position,
            source: envelope.source,
            id: envelope.id,
            tag: head.tag,
            class,
            flags: envelope.flags,
            at: Timestamp(head.at_us),
            wall_us: head.wall_us,
            reach_left_ms: head.reach_left_ms,
            receive_left_ms: head.receive_left_ms,
            aborts: 0,
            transmitted: false,
            envelope: head.envelope,
            body: record.body,
        })
    }

    pub(crate) fn on_loaded(&mut self, load: LoadId, records: Vec<StoredRecord>) {
        match self.loads.remove(&load) {
            None => {}
            Some(LoadFor::Scan(job)) => self.on_scanned(job, records),
            Some(LoadFor::DeadList { job }) => self.on_letters_read(job, records),
            Some(LoadFor::Dead {
                job,
                position,
                what,
            }) => self.on_letter_read(job, position, what, records),
            Some(LoadFor::Seek { job }) => self.on_sought(job, records),
            Some(LoadFor::Backlog {
                queue,
                priority,
                local,
                ..
            }) => {
                let mut messages: Vec<_> = records
                    .into_iter()
                    .map(|r| (r.position, self.message_of(r)))
                    .collect();
                for (position, message) in messages.iter_mut().filter(|_| local) {
                    self.drop_orphan(queue, priority, message);
                    if let Some(message) = message {
                        message.aborts = self.handed_before(queue, priority, *position);
                    }
                }
                let mut deadline = Timestamp::NEVER;
                for message in messages.iter().filter_map(|(_, message)| message.as_ref()) {
                    deadline = deadline.min(if local {
                        message.receive_deadline()
                    } else {
                        message.reach_deadline()
                    });
                }
                let backlog = if local {
                    self.locals
                        .get_mut(&queue)
                        .and_then(|q| q.lanes.get_mut(&priority))
                } else {
                    self.outs
                        .get_mut(&queue)
                        .and_then(|q| q.lanes.get_mut(&priority))
                        .map(|lane| &mut lane.backlog)
                };
                let Some(backlog) = backlog else { return };
                if !messages.is_empty() {
                    crate::reached!(self, ReadBack);
                }
                let held = backlog.loaded(messages);
                self.hold(true, held);
                self.watch(local, queue, priority, deadline);
                if local {
                    self.busy_queues.insert(queue);
                } else {
                    self.nudge_out(queue);
                }
            }
        }
    }
}
