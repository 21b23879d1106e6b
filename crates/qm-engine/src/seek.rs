//! Finding a message by its id, wherever it is: in memory first, then on disk page by page.

use qm_wire::{Envelope, MessageId, QmId};

use crate::admin::{AdminReply, DeadLetterView};
use crate::engine::{Engine, LoadFor};
use crate::io::{ConnId, LinkId, StoredRecord, StreamId};
use crate::jobs::{JobId, Work};
use crate::record::StoredHead;

/// Records read from disk for one question at most: it must not read a store of terabytes.
const RECORDS_MAX: u64 = 200_000;
const PAGE_RECORDS: usize = 512;
const PAGE_BYTES: usize = 4 << 20;

/// Where a message is.
#[derive(Debug)]
pub(crate) enum Found {
    /// Transmitted, not settled.
    Flying {
        queue: u32,
        peer: QmId,
        link: LinkId,
        sent_ms: u64,
    },
    /// Its destination is asked whether it has it.
    Doubt { queue: u32 },
    /// It waits to be transmitted.
    Outgoing {
        queue: u32,
        priority: u8,
        position: u64,
    },
    /// It waits in a queue of this node.
    Local {
        queue: u32,
        priority: u8,
        position: u64,
    },
    /// An application holds it.
    Leased {
        queue: u32,
        conn: ConnId,
        since_ms: u64,
    },
    /// It is a dead letter.
    Dead(Box<DeadLetterView>),
    /// It is not here, as far as was looked.
    Nowhere {
        /// Whether everything was looked through.
        all: bool,
    },
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asks {
    #[default]
    Why,
    Trace,
}

/// A search under way.
#[derive(Debug, Default)]
pub(crate) struct Seek {
    asks: Asks,
    subject: String,
    id: Option<MessageId>,
    /// Streams to look through, the next one last; with the position to go on at.
    streams: Vec<(StreamId, u64)>,
    looked: u64,
}

impl Engine {
    /// Looks for a message; the answer comes at once when it is in memory, else later.
    pub(crate) fn seek(
        &mut self,
        conn: ConnId,
        request: u64,
        asks: Asks,
        subject: &str,
        id: MessageId,
    ) -> Option<AdminReply> {
        if let Some(found) = self.find_in_memory(id) {
            return Some(self.sought(asks, subject, id, &found));
        }
        let dead = self.dead_queue();
        let mut streams = Vec::new();
        for (number, queue) in &self.locals {
            if self.is_journal(*number) {
                continue;
            }
            for lane in queue.lanes.values() {
                // The reason of a dead letter is on disk only.
                if *number == dead {
                    streams.push((lane.stream, 0));
                } else if !lane.is_resident() {
                    streams.push((lane.stream, lane.resident_to()));
                }
            }
        }
        for out in self.outs.values() {
            for lane in out
                .lanes
                .values()
                .filter(|lane| !lane.backlog.is_resident())
            {
                streams.push((lane.backlog.stream, lane.backlog.resident_to()));
            }
        }
        // Dead letters first.
        streams.sort_by_key(|(stream, _)| Self::queue_of(*stream).0 == dead);
        let seek = Seek {
            asks,
            subject: subject.to_owned(),
            id: Some(id),
            streams,
            looked: 0,
        };
        let job = self.begin_job(conn, request, Work::Seek(Box::new(seek)));
        self.seek_on(job);
        None
    }

    fn seek_on(&mut self, job: JobId) {
        let Some(Work::Seek(seek)) = self.job(job) else {
            return;
        };
        let next = seek.streams.last().copied();
        match next.filter(|_| seek.looked < RECORDS_MAX) {
            Some((stream, from)) => {
                let what = LoadFor::Seek { job };
                self.start_load(stream, from, PAGE_RECORDS, PAGE_BYTES, what);
            }
            None => {
                let all = next.is_none();
                self.seek_ends(job, &Found::Nowhere { all });
            }
        }
    }

    fn seek_ends(&mut self, job: JobId, found: &Found) {
        let Some(Work::Seek(seek)) = self.job(job) else {
            return;
        };
        let seek = core::mem::take(seek);
        if let Some(id) = seek.id {
            let reply = self.sought(seek.asks, &seek.subject, id, found);
            self.end_job(job, reply);
        }
    }

    /// A page of a search was read.
    pub(crate) fn on_sought(&mut self, job: JobId, records: Vec<StoredRecord>) {
        let Some(Work::Seek(seek)) = self.job(job) else {
            return;
        };
        seek.looked = seek.looked.saturating_add(records.len() as u64);
        let Some(id) = seek.id else { return };
        let Some((stream, _)) = seek.streams.last().copied() else {
            return;
        };
        match records.last() {
            Some(last) => {
                let next = last.position.saturating_add(1);
                if let Some(place) = seek.streams.last_mut() {
                    place.1 = next;
                }
            }
            None => {
                seek.streams.pop();
            }
        }
        let hit = records.into_iter().find(|record| {
            StoredHead::decode(&record.head)
                .and_then(|head| Envelope::decode(&head.envelope).ok())
                .is_some_and(|envelope| envelope.id == id)
        });
        let Some(record) = hit else {
            return self.seek_on(job);
        };
        // It may have been taken into memory while it was read.
        let found = self
            .find_in_memory(id)
            .or_else(|| self.place_of(stream, &record));
        match found {
            Some(found) => self.seek_ends(job, &found),
            None => self.seek_on(job),
        }
    }

    fn place_of(&self, stream: StreamId, record: &StoredRecord) -> Option<Found> {
        let (queue, priority) = Self::queue_of(stream);
        if self.is_dead_queue(queue) {
            let lookup = crate::queues::lookup_of(0, record.position);
            let leased = self.locals.get(&queue)?.leased.contains_key(&lookup);
            return self
                .letter_view(record, leased)
                .map(|view| Found::Dead(Box::new(view)));
        }
        let position = record.position;
        if self.locals.contains_key(&queue) {
            return Some(Found::Local {
                queue,
                priority,
                position,
            });
        }
        self.outs.contains_key(&queue).then_some(Found::Outgoing {
            queue,
            priority,
            position,
        })
    }

    /// Where a message is that is in memory; dead letters are not found so.
    pub(crate) fn find_in_memory(&self, id: MessageId) -> Option<Found> {
        if let Some((queue, _, _)) = self.doubts.get(&id) {
            return Some(Found::Doubt { queue: *queue });
        }
        for session in self.sessions.values() {
            let mut flights = session.flights.values();
            if let Some(flight) = flights.find(|flight| flight.message.id == id) {
                return Some(Found::Flying {
                    queue: flight.queue,
                    peer: session.peer,
                    link: session.link,
                    sent_ms: self.now.at.ms_since(flight.sent),
                });
            }
        }
        for (number, out) in &self.outs {
            for (priority, lane) in &out.lanes {
                if let Some(message) = lane.backlog.resident().find(|m| m.id == id) {
                    return Some(Found::Outgoing {
                        queue: *number,
                        priority: *priority,
                        position: message.position,
                    });
                }
            }
        }
        for (number, queue) in &self.locals {
            let held = queue.leased.values().find(|held| held.message.id == id);
            if let Some(held) = held {
                return Some(Found::Leased {
                    queue: *number,
                    conn: held.conn,
                    since_ms: self.now.at.ms_since(held.since),
                });
            }
            if self.is_aside(*number) {
                continue;
            }
            for (priority, lane) in &queue.lanes {
                if let Some(message) = lane.resident().find(|m| m.id == id) {
                    return Some(Found::Local {
                        queue: *number,
                        priority: *priority,
                        position: message.position,
                    });
                }
            }
        }
        None
    }

    fn sought(&self, asks: Asks, subject: &str, id: MessageId, found: &Found) -> AdminReply {
        match asks {
            Asks::Why => AdminReply::Why(self.why_message(subject, id, found)),
            Asks::Trace => AdminReply::Trace(Box::new(self.trace(id, found))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Cause;
    use crate::io::Output;

    #[test]
    fn so_many_records_are_read_for_a_question_and_the_answer_says_so() {
        for (looked, reads_on) in [(RECORDS_MAX - 1, true), (RECORDS_MAX, false)] {
            let mut engine = crate::testing::engine();
            let seek = Seek {
                asks: Asks::Why,
                subject: "it".to_owned(),
                id: Some(crate::testing::id(1)),
                streams: vec![(Engine::stream_of(1, 0), 0)],
                looked,
            };
            let job = engine.begin_job(ConnId(1), 1, Work::Seek(Box::new(seek)));
            engine.seek_on(job);
            let read = |output: &Output| matches!(output, Output::Load { .. });
            assert_eq!(engine.outputs.iter().any(read), reads_on);
            let told = engine.outputs.iter().find_map(|output| match output {
                Output::Admin {
                    reply: AdminReply::Why(view),
                    ..
                } => Some((
                    view.code,
                    view.cause.contains("not among the messages on disk"),
                )),
                _ => None,
            });
            assert_eq!(told, (!reads_on).then_some((Cause::Unknown, true)));
        }
    }
}
