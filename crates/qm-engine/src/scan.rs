//! Looking through a queue for peeks and for messages that are picked out.

use std::collections::BTreeMap;

use qm_wire::Envelope;
use qm_wire::local::{NodeFrame, Receive, ReceiveMode};

use crate::backlog::Message;
use crate::engine::{Engine, LoadFor};
use crate::io::{ConnId, Output, StoredRecord};
use crate::loading::LOAD_BYTES;
use crate::queues::lookup_of;
use crate::receiving::{Handing, To};

/// Records looked at at a time.
const SCAN_RECORDS: usize = 256;

/// A look through a queue, in memory and on disk, page by page.
#[derive(Debug)]
pub(crate) struct ScanJob {
    pub(crate) conn: ConnId,
    pub(crate) queue: u32,
    pub(crate) receive: Receive,
    /// Priority being looked at.
    pub(crate) priority: u8,
    /// Next position there.
    pub(crate) from: u64,
    pub(crate) found: u32,
    pub(crate) found_bytes: u64,
    /// What it takes.
    pub(crate) handing: Handing,
}

impl Engine {
    /// Continues a scan with the next page of its priority.
    pub(crate) fn scan(&mut self, job: Box<ScanJob>) {
        let stream = Self::stream_of(job.queue, job.priority);
        let (from, most) = (
            job.from,
            if job.receive.lookup.is_some() {
                1
            } else {
                SCAN_RECORDS
            },
        );
        self.start_load(stream, from, most, LOAD_BYTES, LoadFor::Scan(job));
    }

    pub(crate) fn on_scanned(&mut self, mut job: Box<ScanJob>, records: Vec<StoredRecord>) {
        if !self.clients.is_connected(job.conn) {
            return;
        }
        let wanted = if job.receive.lookup.is_some() {
            1
        } else {
            SCAN_RECORDS
        };
        let page_full = records.len() >= wanted;
        let page_end = if page_full {
            records.last().map_or(u64::MAX, |r| r.position)
        } else {
            u64::MAX
        };
        let (number, priority) = (job.queue, job.priority);
        let mut page: BTreeMap<u64, Message> = BTreeMap::new();
        for record in records {
            let position = record.position;
            if let Some(mut message) = self.message_of(record) {
                message.aborts = self.handed_before(number, priority, position);
                page.insert(position, message);
            }
        }
        if let Some(lane) = self
            .locals
            .get(&number)
            .and_then(|q| q.lanes.get(&priority))
        {
            for message in lane.resident() {
                let inside = (job.from..=page_end).contains(&message.position);
                if inside && !message.class.is_durable() {
                    page.insert(message.position, message.clone());
                } else if let Some(stored) = page.get_mut(&message.position) {
                    stored.aborts = message.aborts;
                }
            }
        }
        for (position, message) in page {
            let lookup = lookup_of(priority, position);
            if job.receive.lookup.is_some_and(|wanted| wanted != lookup) {
                continue;
            }
            let Some(queue) = self.locals.get(&number) else {
                break;
            };
            if queue.leased.contains_key(&lookup) || queue.leaving.contains(&lookup) {
                continue;
            }
            let correlation = &job.receive.correlation_id;
            if !correlation.is_empty() {
                let envelope = Envelope::decode(&message.envelope);
                if !envelope.is_ok_and(|envelope| envelope.correlation_id == *correlation) {
                    continue;
                }
            }
            job.found_bytes += message.credit();
            job.found += 1;
            if job.receive.mode == ReceiveMode::Peek {
                let delivery = self.delivery(job.receive.request, lookup, &message);
                let frame = NodeFrame::Delivery(delivery);
                self.outputs.push_back(Output::Client {
                    conn: job.conn,
                    frame,
                });
            } else if !self.may_scan_take(&job) {
                job.found -= 1;
                return self.scan_done(job);
            } else if let Some(message) = self.take_at(number, priority, message) {
                let to = To {
                    conn: job.conn,
                    request: job.receive.request,
                    transaction: job.receive.transaction,
                    in_turn: false,
                };
                self.lease(to, &mut job.handing, number, priority, message);
            } else {
                job.found -= 1;
            }
            if job.found >= job.receive.messages_max.max(1)
                || job.found_bytes >= u64::from(job.receive.bytes_max)
            {
                return self.scan_done(job);
            }
        }
        if job.receive.lookup.is_some() {
            return self.scan_done(job);
        }
        if page_full {
            job.from = page_end + 1;
        } else if job.priority > 0 {
            job.priority -= 1;
            job.from = 0;
        } else {
            return self.scan_done(job);
        }
        self.scan(job);
    }

    /// Takes a message out of turn, wherever it is.
    pub(crate) fn take_at(&mut self, number: u32, priority: u8, read: Message) -> Option<Message> {
        if self.quarantine.holds(number) {
            return None;
        }
        let stopping = self.stopping;
        let queue = self
            .locals
            .get_mut(&number)
            .filter(|queue| !queue.deleting && !stopping)?;
        let lane = queue.lanes.get_mut(&priority)?;
        if let Some(message) = lane.take(read.position) {
            self.release(&message);
            return Some(message);
        }
        lane.take_ahead(read.position, read.credit())
            .then_some(read)
    }

    fn may_scan_take(&self, job: &ScanJob) -> bool {
        let transaction = job.receive.transaction;
        self.clients.may_lease(job.conn)
            && transaction.is_none_or(|number| self.may_take(job.conn, number).is_ok())
    }

    fn scan_done(&mut self, job: Box<ScanJob>) {
        let (conn, request) = (job.conn, job.receive.request);
        self.end_handing(conn, job.handing, request, job.found, None, String::new());
    }
}
