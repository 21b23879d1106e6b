//! Applications that wait for messages of their choice: one with a correlation id, one at a lookup
//! id, or any behind another one.
//!
//! A scan looks for them first. When it finds none, the request waits and knows up to where nothing
//! was found. What comes later is looked at in memory where it lies there, so that many who wait on
//! one queue for their replies cost no reads; what comes back is looked at as it does.

use std::collections::BTreeMap;

use qm_wire::Envelope;
use qm_wire::local::{Receive, ReceiveMode};

use crate::backlog::Message;
use crate::engine::{Engine, LoadFor};
use crate::io::ConnId;
use crate::queues::{LocalQueue, lookup_of, split_lookup};
use crate::receiving::{Handing, Waiter};
use crate::scan::ScanJob;
use crate::time::Timestamp;

/// What an application wishes of a queue.
#[derive(Debug)]
pub(crate) struct Picks {
    pub(crate) receive: Receive,
    /// Per priority, the position below which nothing waits that it wishes.
    pub(crate) seen: BTreeMap<u8, u64>,
}

impl Picks {
    pub(crate) const fn new(receive: Receive) -> Self {
        let seen = BTreeMap::new();
        Self { receive, seen }
    }

    /// Where the first one may lie: priority and position.
    fn begins_at(&self) -> (u8, u64) {
        match (self.receive.lookup, self.receive.after) {
            (Some(lookup), _) => split_lookup(lookup),
            (None, Some(after)) => {
                let (priority, position) = split_lookup(after);
                (priority, position + 1)
            }
            (None, None) => (7, 0),
        }
    }

    /// Whether it wishes this message. What is overdue is not handed out, as little as in turn.
    pub(crate) fn wants(&self, lookup: u64, message: &Message, now: Timestamp) -> bool {
        let receive = &self.receive;
        if receive.mode != ReceiveMode::Peek && message.receive_deadline() <= now {
            return false;
        }
        if receive.lookup.is_some_and(|wanted| wanted != lookup)
            || receive.after.is_some_and(|after| lookup <= after)
        {
            return false;
        }
        receive.correlation_id.is_empty()
            || Envelope::decode(&message.envelope)
                .is_ok_and(|envelope| envelope.correlation_id == receive.correlation_id)
    }

    /// Whether a queue may hold something that it wishes; notes how far nothing does.
    fn may_find(&mut self, queue: &LocalQueue, now: Timestamp) -> bool {
        if let Some(lookup) = self.receive.lookup {
            let (priority, position) = split_lookup(lookup);
            let lane = queue.lanes.get(&priority);
            let lane = lane.filter(|lane| lane.may_take(position));
            let message = lane.and_then(|lane| lane.resident_from(position).next());
            return message.is_some_and(|message| self.wants(lookup, message, now));
        }
        let (begin, _) = self.begins_at();
        for (priority, lane) in queue.lanes.range(..=begin) {
            let seen = self.seen.get(priority).copied().unwrap_or(0);
            let to = lane.settled_to();
            if to <= seen {
                continue;
            }
            if !lane.is_resident() {
                return true;
            }
            let fresh = lane.resident_from(seen);
            let mut fresh = fresh.take_while(|message| message.position < to);
            if fresh.any(|message| self.wants(lookup_of(*priority, message.position), message, now))
            {
                return true;
            }
            self.seen.insert(*priority, to);
        }
        false
    }
}

impl Engine {
    /// Looks through a queue for what an application wishes.
    pub(crate) fn begin_scan(
        &mut self,
        conn: ConnId,
        queue: u32,
        picks: Box<Picks>,
        until: Timestamp,
    ) {
        let (priority, from) = picks.begins_at();
        let job = ScanJob {
            conn,
            queue,
            picks,
            until,
            again: false,
            priority,
            from,
            settled_to: 0,
            found: 0,
            found_bytes: 0,
            handing: Handing::default(),
        };
        self.scan(Box::new(job));
    }

    /// Whether a request whose scan found nothing goes on waiting. A peek shows what is there.
    pub(crate) fn may_wait_on(&self, job: &ScanJob) -> bool {
        let queue = self.locals.get(&job.queue);
        job.picks.receive.mode != ReceiveMode::Peek
            && job.until > self.now.at
            && !self.stopping
            && queue.is_some_and(|queue| !queue.deleting)
            && self.may_scan_take(job)
    }

    pub(crate) fn wait_for_picked(&mut self, job: ScanJob) {
        let ScanJob {
            conn,
            queue: number,
            mut picks,
            until,
            again,
            ..
        } = job;
        if again {
            picks.seen.clear();
        }
        let mut waiter = Waiter::new(conn, &picks.receive, until);
        waiter.picks = Some(picks);
        self.wait_for_messages(number, waiter);
        // What came meanwhile.
        self.look_for_picked(number);
    }

    /// Looks again for those whose messages may have come.
    pub(crate) fn look_for_picked(&mut self, number: u32) {
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        let picking = queue.waiters.iter().any(|waiter| waiter.picks.is_some());
        if !picking || queue.deleting || self.stopping || self.quarantine.holds(number) {
            return;
        }
        let mut waiters = core::mem::take(&mut queue.waiters);
        let mut found = Vec::new();
        let (clients, now) = (&self.clients, self.now.at);
        waiters.retain_mut(|waiter| {
            let may = clients.may_lease(waiter.conn);
            let Some(picks) = waiter.picks.as_mut().filter(|_| may) else {
                return true;
            };
            if !picks.may_find(queue, now) {
                return true;
            }
            found.extend(
                waiter
                    .picks
                    .take()
                    .map(|picks| (waiter.conn, picks, waiter.until)),
            );
            false
        });
        queue.waiters = waiters;
        for (conn, picks, until) in found {
            self.begin_scan(conn, number, picks, until);
        }
    }

    /// A message comes back to its place: somebody may have passed it.
    pub(crate) fn pick_again(&mut self, number: u32, priority: u8, message: &Message) {
        let (position, now) = (message.position, self.now.at);
        let lookup = lookup_of(priority, position);
        let waiters = self.locals.get_mut(&number).map(|queue| &mut queue.waiters);
        for waiter in waiters.into_iter().flatten() {
            if let Some(picks) = waiter
                .picks
                .as_mut()
                .filter(|p| p.wants(lookup, message, now))
            {
                let seen = picks.seen.entry(priority).or_default();
                *seen = (*seen).min(position);
            }
        }
        for job in self.scans_of(number) {
            job.again |= job.picks.wants(lookup, message, now);
        }
    }

    /// Whatever was passed is looked at again.
    pub(crate) fn pick_anew(&mut self, number: u32) {
        let waiters = self.locals.get_mut(&number).map(|queue| &mut queue.waiters);
        for picks in waiters
            .into_iter()
            .flatten()
            .filter_map(|w| w.picks.as_mut())
        {
            picks.seen.clear();
        }
        for job in self.scans_of(number) {
            job.again = true;
        }
    }

    /// A request that is being looked for waits until another time.
    pub(crate) fn wait_otherwise(&mut self, conn: ConnId, request: u64, until: Timestamp) {
        for load in self.loads.values_mut() {
            if let LoadFor::Scan(job) = load
                && job.conn == conn
                && job.picks.receive.request == request
            {
                job.until = until;
            }
        }
    }

    fn scans_of(&mut self, number: u32) -> impl Iterator<Item = &mut ScanJob> {
        self.loads.values_mut().filter_map(move |load| match load {
            LoadFor::Scan(job) if job.queue == number => Some(&mut **job),
            _ => None,
        })
    }
}
