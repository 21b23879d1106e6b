//! Looking through a queue for peeks and for messages that are picked out.

use std::collections::BTreeMap;

use qm_wire::local::{NodeFrame, ReceiveMode};

use crate::backlog::{Backlog, Message};
use crate::engine::{Engine, LoadFor};
use crate::io::{ConnId, Output, StoredRecord};
use crate::loading::LOAD_BYTES;
use crate::picking::Picks;
use crate::queues::{lookup_of, split_lookup};
use crate::receiving::{Handing, To};
use crate::time::Timestamp;

/// Records looked at at a time.
const SCAN_RECORDS: usize = 256;

/// A look through a queue, in memory and on disk, page by page.
#[derive(Debug)]
pub(crate) struct ScanJob {
    pub(crate) conn: ConnId,
    pub(crate) queue: u32,
    pub(crate) picks: Box<Picks>,
    /// Until when it waits for the first message.
    pub(crate) until: Timestamp,
    /// Something it may have passed came back meanwhile.
    pub(crate) again: bool,
    /// Priority being looked at.
    pub(crate) priority: u8,
    /// Next position there.
    pub(crate) from: u64,
    /// What is under way to the disk lies from here on, when the read under way was asked for.
    pub(crate) settled_to: u64,
    pub(crate) found: u32,
    pub(crate) found_bytes: u64,
    /// What it takes.
    pub(crate) handing: Handing,
}

impl Engine {
    /// Continues a scan with the next page of its priority.
    pub(crate) fn scan(&mut self, mut job: Box<ScanJob>) {
        let (stream, most) = if let Some(lookup) = job.picks.receive.lookup {
            let (priority, position) = split_lookup(lookup);
            (job.priority, job.from) = (priority, position);
            (Self::stream_of(job.queue, priority), 1)
        } else {
            let seen = job.picks.seen.get(&job.priority);
            job.from = job.from.max(seen.copied().unwrap_or(0));
            (Self::stream_of(job.queue, job.priority), SCAN_RECORDS)
        };
        let queue = self.locals.get(&job.queue);
        let lane = queue.and_then(|queue| queue.lanes.get(&job.priority));
        job.settled_to = lane.map_or(0, Backlog::settled_to);
        let from = job.from;
        self.start_load(stream, from, most, LOAD_BYTES, LoadFor::Scan(job));
    }

    pub(crate) fn on_scanned(&mut self, mut job: Box<ScanJob>, records: Vec<StoredRecord>) {
        if !self.clients.is_connected(job.conn) {
            return;
        }
        // A page may end early: by its bytes, or before a record that is damaged.
        let page_end = match (job.picks.receive.lookup, records.last()) {
            (Some(_), _) => job.from,
            (None, Some(last)) => last.position,
            (None, None) => u64::MAX,
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
            let resident = lane.resident_from(job.from);
            for message in resident.take_while(|message| message.position <= page_end) {
                // Also of what the disk cannot read any more.
                if lane.may_take(message.position) {
                    page.insert(message.position, message.clone());
                }
            }
        }
        for (position, message) in page {
            let lookup = lookup_of(priority, position);
            if job
                .picks
                .receive
                .lookup
                .is_some_and(|wanted| wanted != lookup)
            {
                continue;
            }
            let Some(queue) = self.locals.get(&number) else {
                break;
            };
            if queue.leased.contains_key(&lookup) || queue.leaving.contains(&lookup) {
                continue;
            }
            if !job.picks.wants(lookup, &message, self.now.at) {
                continue;
            }
            job.found_bytes += message.credit();
            job.found += 1;
            if job.picks.receive.mode == ReceiveMode::Peek {
                let delivery = self.delivery(job.picks.receive.request, lookup, &message);
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
                    request: job.picks.receive.request,
                    transaction: job.picks.receive.transaction,
                    in_turn: false,
                };
                self.lease(to, &mut job.handing, number, priority, message);
            } else {
                job.found -= 1;
            }
            if job.found >= job.picks.receive.messages_max.max(1)
                || job.found_bytes >= u64::from(job.picks.receive.bytes_max)
            {
                return self.scan_done(job);
            }
        }
        if job.picks.receive.lookup.is_some() {
            return self.scan_done(job);
        }
        if page_end != u64::MAX {
            job.from = page_end + 1;
            return self.scan(job);
        }
        let seen = job.picks.seen.entry(job.priority).or_default();
        *seen = (*seen).max(job.settled_to);
        if job.priority > 0 {
            job.priority -= 1;
            job.from = 0;
            return self.scan(job);
        }
        self.scan_done(job);
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

    pub(crate) fn may_scan_take(&self, job: &ScanJob) -> bool {
        let transaction = job.picks.receive.transaction;
        self.clients.may_lease(job.conn)
            && transaction.is_none_or(|number| self.may_take(job.conn, number).is_ok())
    }

    fn scan_done(&mut self, job: Box<ScanJob>) {
        if job.found == 0 && self.may_wait_on(&job) {
            return self.wait_for_picked(*job);
        }
        let (conn, request) = (job.conn, job.picks.receive.request);
        self.end_handing(conn, job.handing, request, job.found, None, String::new());
    }
}
