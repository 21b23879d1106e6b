//! Queues of this node: what arrived waits here until an application consumes it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use qm_wire::local::{
    Delivery, NodeFrame, Receive, ReceiveDone, ReceiveMode, Settle, Settled, Verdict,
};
use qm_wire::{Envelope, Outcome, PeerFrame, QueueName, QueueState, Text};

use crate::backlog::{Backlog, Message, left_ms};
use crate::commits::{Died, Origin, PutAt, Then};
use crate::dead::End;
use crate::engine::{Engine, LoadFor, Timer};
use crate::history::What;
use crate::io::{ConnId, Event, Lane, LinkId, LoadId, Output, StoreOp, StoredRecord};
use crate::record::{DeadReason, LocalSettings, QueueRecord, StoredHead};
use crate::scan::ScanJob;
use crate::time::Timestamp;
use crate::unoffered::NO_TRANSACTIONS;

/// Name of the queue of undeliverable messages.
pub(crate) const DEAD_QUEUE: &str = "dead$";

const LOAD_RECORDS: usize = 1_024;
pub(crate) const LOAD_BYTES: usize = 1 << 20;

/// A delivery in the hands of an application.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) conn: ConnId,
    pub(crate) since: Timestamp,
    pub(crate) priority: u8,
    pub(crate) message: Message,
}

/// An application that waits for messages.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) conn: ConnId,
    request: u64,
    messages_max: u32,
    bytes_max: u32,
    until: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalQueue {
    pub(crate) settings: LocalSettings,
    pub(crate) lanes: BTreeMap<u8, Backlog>,
    pub(crate) leased: BTreeMap<u64, Leased>,
    pub(crate) waiters: VecDeque<Waiter>,
    /// When the waiters are looked at next.
    timer: Timestamp,
    pub(crate) leased_bytes: u64,
    pub(crate) arrived: u64,
    pub(crate) received: u64,
    told_full: bool,
    /// Its messages are being buried; then it goes.
    pub(crate) deleting: bool,
}

/// Requests for messages that wait for the first commit of a life; more come back empty.
const EARLY_RECEIVES_MAX: usize = 4_096;

/// The lookup id of a message: order of lookup ids is order of delivery.
pub(crate) const fn lookup_of(priority: u8, position: u64) -> u64 {
    ((7 - priority as u64) << 60) | position
}

const fn split_lookup(lookup: u64) -> (u8, u64) {
    let rank = (lookup >> 60) as u8;
    (7_u8.saturating_sub(rank), lookup & ((1 << 60) - 1))
}

impl LocalQueue {
    pub(crate) const fn new(settings: LocalSettings) -> Self {
        Self {
            settings,
            lanes: BTreeMap::new(),
            leased: BTreeMap::new(),
            waiters: VecDeque::new(),
            timer: Timestamp::NEVER,
            leased_bytes: 0,
            arrived: 0,
            received: 0,
            told_full: false,
            deleting: false,
        }
    }

    /// Messages and bytes that wait, leased ones not counted.
    pub(crate) fn waiting(&self) -> (u64, u64) {
        self.lanes.values().fold((0, 0), |(messages, bytes), lane| {
            (messages + lane.messages, bytes + lane.bytes)
        })
    }

    /// Bytes that are in the store, leased ones included; express messages are not.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let leased = self.leased.values().map(|held| held.message.stored_bytes());
        let waiting = self.lanes.values().map(Backlog::stored_bytes);
        leased.chain(waiting).sum()
    }

    pub(crate) fn waiting_receivers(&self) -> usize {
        self.waiters.len()
    }

    /// Connections and requests of the applications that wait; none waits afterwards.
    pub(crate) fn take_waiters(&mut self) -> Vec<(ConnId, u64)> {
        self.waiters
            .drain(..)
            .map(|waiter| (waiter.conn, waiter.request))
            .collect()
    }

    /// Whether the quota is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.is_over_by(0, 0)
    }

    /// Whether the quota is exceeded by more than this.
    pub(crate) fn is_over_by(&self, messages: u64, bytes: u64) -> bool {
        let (have, have_bytes) = self.waiting();
        have + self.leased.len() as u64 >= self.settings.quota_messages.saturating_add(messages)
            || have_bytes + self.leased_bytes >= self.settings.quota_bytes.saturating_add(bytes)
    }
}

impl Engine {
    /// Puts a message into a local queue: into the next batch when it is durable, visible at once
    /// when not.
    pub(crate) fn put_local(&mut self, number: u32, priority: u8, message: Message) -> PutAt {
        let durable = message.class.is_durable();
        let credit = message.credit();
        let cost = message.cost();
        let keep = self.may_keep(cost);
        let deadline = message.receive_deadline();
        let stream = Self::stream_of(number, priority);
        let first = self.first_position;
        let stored = durable.then(|| (self.head_of(&message, None), message.body.clone()));
        let position = match self.locals.get_mut(&number) {
            Some(queue) => {
                queue.arrived += 1;
                let lane = queue
                    .lanes
                    .entry(priority)
                    .or_insert_with(|| Backlog::new(stream, first));
                let (position, held) = lane.push(message, keep);
                if held == 0 {
                    crate::reached!(self, LeftOnDisk);
                }
                self.hold(durable, held);
                position
            }
            None => 0,
        };
        if let Some((head, body)) = stored {
            self.commits.put(StoreOp::Put {
                stream,
                position,
                head,
                body,
            });
            self.stored_bytes = self.stored_bytes.saturating_add(credit);
        }
        self.watch(true, number, priority, deadline);
        self.busy_queues.insert(number);
        PutAt {
            queue: number,
            priority,
            position,
            credit,
        }
    }

    pub(crate) fn head_of(&self, message: &Message, dead: Option<DeadReason>) -> Bytes {
        StoredHead {
            tag: message.tag,
            at_us: message.at.0,
            wall_us: message.wall_us,
            reach_left_ms: message.reach_left_ms,
            receive_left_ms: message.receive_left_ms,
            dead,
            envelope: message.envelope.clone(),
        }
        .encode()
    }

    /// Keeps an undeliverable message, in one batch with its removal from where it was. Dead
    /// letters are always durable, whatever the message's class.
    pub(crate) fn put_dead_letter(
        &mut self,
        message: &Message,
        end: End,
        destination: &str,
        removal: Option<StoreOp>,
        from: Option<Origin>,
    ) -> Option<u64> {
        let number = self.dead_queue();
        let stream = Self::stream_of(number, 0);
        let reason = DeadReason {
            outcome: end.outcome,
            destination: destination.into(),
            uncertain: end.uncertain,
            by: end.by,
        };
        let died = Died {
            source: message.source,
            id: message.id,
            end,
            kept: true,
        };
        let mut message = message.clone();
        message.class = qm_wire::Class::Recoverable;
        message.at = self.now.at;
        message.wall_us = self.now.wall_us;
        message.receive_left_ms = qm_wire::INFINITE_MS;
        let head = self.head_of(&message, Some(reason));
        let body = message.body.clone();
        let credit = message.credit();
        let keep = self.may_keep(message.cost());
        let first = self.first_position;
        let queue = self.locals.get_mut(&number)?;
        queue.arrived += 1;
        let lane = queue
            .lanes
            .entry(0)
            .or_insert_with(|| Backlog::new(stream, first));
        let (position, held) = lane.push(message, keep);
        self.hold(true, held);
        self.stored_bytes = self.stored_bytes.saturating_add(credit);
        self.commits.put(StoreOp::Put {
            stream,
            position,
            head,
            body,
        });
        if let Some(removal) = removal {
            self.commits.put(removal);
        }
        let put = PutAt {
            queue: number,
            priority: 0,
            position,
            credit,
        };
        self.commits.after_putting(Then::DeadLetter {
            put,
            from,
            died: Some(died),
        });
        // Counted at once: a peer whose refusals bring letters is not one that brings nothing.
        self.counters.dead_letters += 1;
        if end.unconfirmed {
            self.letter_opens(position);
        }
        Some(position)
    }

    /// Whether this is the queue of undeliverable messages.
    pub(crate) fn is_dead_queue(&self, number: u32) -> bool {
        self.locals
            .get(&number)
            .is_some_and(|queue| queue.settings.name.as_str() == DEAD_QUEUE)
    }

    pub(crate) fn dead_queue(&mut self) -> u32 {
        let name: QueueName = DEAD_QUEUE.parse().expect("the name follows the rules");
        match self.local_names.get(&name) {
            Some(number) => *number,
            None => self.create_queue(LocalSettings::new(name)),
        }
    }

    pub(crate) fn create_queue(&mut self, settings: LocalSettings) -> u32 {
        let number = self.next_queue;
        self.next_queue += 1;
        let record = QueueRecord::Local(settings.clone());
        self.commits.set(QueueRecord::key(number), record.encode());
        self.local_names.insert(settings.name.clone(), number);
        self.locals.insert(number, LocalQueue::new(settings));
        number
    }

    /// Tells the sender on this link to hold messages for a full queue back.
    pub(crate) fn tell_full(&mut self, link: LinkId, number: u32) {
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        let name = queue.settings.name.clone();
        let first = !core::mem::replace(&mut queue.told_full, true);
        if let Some(session) = self.sessions.get_mut(&link)
            && session.told_full.insert(name.clone())
        {
            let state = QueueState {
                queue: name.clone(),
                open: false,
            };
            session.push(Lane::Control, &PeerFrame::QueueState(state));
            self.busy_sessions.insert(link);
        }
        if first {
            self.event(Event::QueueFull {
                queue: name,
                full: true,
            });
        }
    }

    /// A new session begins with the state of the full queues, before any credit.
    pub(crate) fn tell_full_queues(&mut self, link: LinkId) {
        let approved = self
            .sessions
            .get(&link)
            .is_some_and(|session| !session.peer_pending);
        if approved {
            let told = self.locals.iter().filter(|(_, queue)| queue.told_full);
            for number in told.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.tell_full(link, number);
            }
        }
    }

    /// Tells every session that was told otherwise that messages for a queue may come.
    pub(crate) fn tell_open(&mut self, name: &QueueName) {
        for (link, session) in &mut self.sessions {
            if session.told_full.remove(name) {
                let state = QueueState {
                    queue: name.clone(),
                    open: true,
                };
                session.push(Lane::Control, &PeerFrame::QueueState(state));
                self.busy_sessions.insert(*link);
            }
        }
    }

    /// Lets senders go on once a tenth of the quota is free.
    pub(crate) fn reopen_if_room(&mut self, number: u32) {
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        if !queue.told_full {
            return;
        }
        let (messages, bytes) = queue.waiting();
        let settings = &queue.settings;
        if messages > settings.quota_messages - settings.quota_messages / 10
            || bytes > settings.quota_bytes - settings.quota_bytes / 10
            || queue.is_full()
        {
            return;
        }
        queue.told_full = false;
        crate::reached!(self, QueueReopened);
        let name = queue.settings.name.clone();
        self.tell_open(&name);
        self.event(Event::QueueFull {
            queue: name,
            full: false,
        });
    }

    pub(crate) fn on_receive(&mut self, conn: ConnId, receive: Receive) {
        if !self.life_begun {
            // The lookup ids of this life might come again in the next one.
            if self.early_receives.len() < EARLY_RECEIVES_MAX {
                self.early_receives.push((conn, receive));
                return;
            }
            return self.receive_done(conn, receive.request, 0, None, String::new());
        }
        if !self.is_new_receive(conn, receive.request) && !self.forget_waiter(conn, &receive) {
            // Its answer is on its way.
            return;
        }
        self.clients.receive_taken(conn);
        if receive.transaction.is_some() {
            let (outcome, text) = (Some(Outcome::UNSUPPORTED), NO_TRANSACTIONS.to_owned());
            return self.receive_done(conn, receive.request, 0, outcome, text);
        }
        let Some(number) = self.local_names.get(&receive.queue).copied() else {
            let text = format!(
                "there is no queue {}; create it with: qm-node queue create {}",
                receive.queue, receive.queue
            );
            return self.receive_done(conn, receive.request, 0, Some(Outcome::NOT_FOUND), text);
        };
        let filtered = receive.lookup.is_some() || !receive.correlation_id.is_empty();
        if receive.mode == ReceiveMode::Peek || filtered {
            let (priority, from) = match receive.lookup {
                Some(lookup) => split_lookup(lookup),
                None => receive.after.map_or((7, 0), |after| {
                    let (priority, position) = split_lookup(after);
                    (priority, position + 1)
                }),
            };
            let job = ScanJob {
                conn,
                queue: number,
                receive,
                priority,
                from,
                found: 0,
                found_bytes: 0,
            };
            return self.scan(Box::new(job));
        }
        let until = match receive.wait_ms {
            0 => self.now.at,
            wait => self.now.at.plus_ms(wait),
        };
        let waiter = Waiter {
            conn,
            request: receive.request,
            messages_max: receive.messages_max.max(1),
            bytes_max: receive.bytes_max,
            until,
        };
        if let Some(queue) = self.locals.get_mut(&number) {
            queue.waiters.push_back(waiter);
        }
        self.arm_receivers(number, until);
        self.busy_queues.insert(number);
    }

    /// A second request under the number of one that waits takes its place. Returns whether there
    /// was one.
    fn forget_waiter(&mut self, conn: ConnId, receive: &Receive) -> bool {
        let number = self.local_names.get(&receive.queue);
        let Some(queue) = number.and_then(|number| self.locals.get_mut(number)) else {
            return false;
        };
        let before = queue.waiters.len();
        queue
            .waiters
            .retain(|w| w.conn != conn || w.request != receive.request);
        let gone = before - queue.waiters.len();
        for _ in 0..gone {
            self.clients.receive_answered(conn);
        }
        gone > 0
    }

    pub(crate) fn receive_done(
        &mut self,
        conn: ConnId,
        request: u64,
        messages: u32,
        outcome: Option<Outcome>,
        text: String,
    ) {
        self.clients.receive_answered(conn);
        let text = Text::from(text);
        let frame = NodeFrame::ReceiveDone(ReceiveDone {
            request,
            messages,
            outcome,
            text,
        });
        self.outputs.push_back(Output::Client { conn, frame });
    }

    /// Hands messages to the applications that wait for them.
    pub(crate) fn serve_receivers(&mut self, number: u32) {
        loop {
            let Some(queue) = self.locals.get_mut(&number) else {
                return;
            };
            let now = self.now.at;
            let clients = &self.clients;
            let Some(at) = queue
                .waiters
                .iter()
                .position(|waiter| clients.may_lease(waiter.conn) || waiter.until <= now)
            else {
                return;
            };
            let Some(waiter) = queue.waiters.get(at) else {
                return;
            };
            let (conn, request) = (waiter.conn, waiter.request);
            let (most, most_bytes) = (waiter.messages_max, u64::from(waiter.bytes_max));
            let until = waiter.until;
            if !self.clients.may_lease(conn) {
                queue.waiters.remove(at);
                let text = "too much is held unsettled; settle some of it first".to_owned();
                self.receive_done(conn, request, 0, Some(Outcome::BUSY), text);
                continue;
            }
            let mut handed = 0_u32;
            let mut handed_bytes = 0;
            while handed < most
                && (handed == 0 || handed_bytes < most_bytes)
                && self.clients.may_lease(conn)
            {
                let Some((priority, message)) = self.next_message(number) else {
                    break;
                };
                handed += 1;
                handed_bytes += message.credit();
                self.lease(conn, request, number, priority, message);
            }
            let waits_for_disk = handed == 0 && self.is_reading(number);
            if handed == 0 && (until > self.now.at || waits_for_disk) {
                return;
            }
            if let Some(queue) = self.locals.get_mut(&number) {
                queue.waiters.remove(at);
            }
            self.receive_done(conn, request, handed, None, String::new());
        }
    }

    /// Whether messages of a queue wait on disk and are being read.
    fn is_reading(&self, number: u32) -> bool {
        self.loads.values().any(
            |load| matches!(load, LoadFor::Backlog { queue, local: true, .. } if *queue == number),
        )
    }

    /// The first message by priority, then arrival; expired ones are buried on the way.
    fn next_message(&mut self, number: u32) -> Option<(u8, Message)> {
        let queue = self.locals.get(&number)?;
        // What a stop saves waits for the next start.
        if queue.settings.paused || queue.deleting || self.stopping {
            return None;
        }
        for rank in 0..8_u8 {
            let priority = if crate::broken!(self, ignore_priority) {
                rank
            } else {
                7 - rank
            };
            loop {
                let lane = self.locals.get_mut(&number)?.lanes.get_mut(&priority);
                let Some(message) = lane.and_then(Backlog::pop) else {
                    break;
                };
                self.release(&message);
                self.refill_local(number, priority);
                if message.receive_deadline() > self.now.at {
                    return Some((priority, message));
                }
                let end = End::here(self.me.qm, Outcome::RECEIVE_EXPIRED);
                self.bury_local(number, priority, &message, end);
            }
            self.refill_local(number, priority);
            let lane = self.locals.get(&number)?.lanes.get(&priority);
            if lane.is_some_and(|lane| !lane.is_empty()) {
                // Messages of this priority wait for the disk: lower ones do not overtake them.
                return None;
            }
        }
        None
    }

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

    pub(crate) fn lease(
        &mut self,
        conn: ConnId,
        request: u64,
        number: u32,
        priority: u8,
        message: Message,
    ) {
        let lookup = lookup_of(priority, message.position);
        let delivery = self.delivery(request, lookup, &message);
        self.outputs.push_back(Output::Client {
            conn,
            frame: NodeFrame::Delivery(delivery),
        });
        self.clients.leased(conn, message.credit());
        let client = self.clients.client_of(conn);
        self.note(message.source, message.id, What::HandedOut { client });
        let since = self.now.at;
        if let Some(queue) = self.locals.get_mut(&number) {
            queue.leased_bytes = queue.leased_bytes.saturating_add(message.credit());
            queue.leased.insert(
                lookup,
                Leased {
                    conn,
                    since,
                    priority,
                    message,
                },
            );
        }
    }

    pub(crate) fn delivery(&self, request: u64, lookup: u64, message: &Message) -> Delivery {
        Delivery {
            request,
            lookup,
            arrived_at_us: message.wall_us,
            abort_count: message.aborts,
            be_received_left_ms: left_ms(message.receive_left_ms, message.at, self.now.at),
            tag: message.tag,
            envelope: message.envelope.clone(),
            body: message.body.clone(),
        }
    }

    pub(crate) fn on_settle(&mut self, conn: ConnId, settle: &Settle) {
        let number = self.local_names.get(&settle.queue).copied();
        let mut held = Vec::new();
        let mut lost = Vec::new();
        for (first, last) in &settle.ranges {
            let mut next = *first;
            if let Some(queue) = number.and_then(|number| self.locals.get(&number)) {
                let leased = queue.leased.range(*first..=*last);
                for (lookup, _) in leased.filter(|(_, leased)| leased.conn == conn) {
                    if next < *lookup {
                        lost.push((next, lookup - 1));
                    }
                    held.push(*lookup);
                    next = lookup.saturating_add(1);
                }
            }
            if next <= *last {
                lost.push((next, *last));
            }
        }
        lost.truncate(qm_wire::limits::ACK_RANGES_MAX);
        let (outcome, text) = if lost.is_empty() {
            (None, Text::EMPTY)
        } else {
            let text = "some of these deliveries are not held by this connection any more";
            (Some(Outcome::LEASE_LOST), text.into())
        };
        let messages = u32::try_from(held.len()).unwrap_or(u32::MAX);
        let mut durable = false;
        if let Some(number) = number {
            for lookup in held {
                durable |= self.settle_one(number, lookup, settle.verdict);
            }
        }
        let settled = Settled {
            request: settle.request,
            messages,
            outcome,
            text,
            lost,
        };
        if durable && !crate::broken!(self, settle_before_durable) {
            self.commits.after_settling(Then::Settled { conn, settled });
        } else {
            self.outputs.push_back(Output::Client {
                conn,
                frame: NodeFrame::Settled(settled),
            });
        }
    }

    /// Returns whether the disk must confirm it.
    pub(crate) fn settle_one(&mut self, number: u32, lookup: u64, verdict: Verdict) -> bool {
        let Some(queue) = self.locals.get_mut(&number) else {
            return false;
        };
        let Some(Leased {
            conn,
            priority,
            message,
            ..
        }) = queue.leased.remove(&lookup)
        else {
            return false;
        };
        queue.leased_bytes = queue.leased_bytes.saturating_sub(message.credit());
        if self.clients.unleased(conn, message.credit()) {
            let waited = self
                .locals
                .iter()
                .filter(|(_, q)| q.waiting_receivers() > 0);
            self.busy_queues.extend(waited.map(|(number, _)| *number));
        }
        let Some(queue) = self.locals.get_mut(&number) else {
            return false;
        };
        let durable = message.class.is_durable();
        match verdict {
            Verdict::Consume => {
                queue.received += 1;
                self.counters.received += 1;
                self.note(message.source, message.id, What::Received);
                if durable {
                    self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
                    let stream = Self::stream_of(number, priority);
                    let (first, last) = (message.position, message.position);
                    self.commits.settle(StoreOp::Remove {
                        stream,
                        first,
                        last,
                    });
                }
                self.reopen_if_room(number);
                self.tell_received(message.id);
                durable
            }
            Verdict::GiveBack => {
                self.give_back(number, priority, message);
                false
            }
            Verdict::Reject if self.is_dead_queue(number) => {
                // A dead letter is not buried again: it keeps its own reason.
                self.give_back(number, priority, message);
                false
            }
            Verdict::Reject => {
                let end = End::here(self.me.qm, Outcome::REJECTED_BY_RECEIVER);
                self.bury_local(number, priority, &message, end);
                false
            }
        }
    }

    /// A delivery comes back: to its place, or to the poison subqueue when it came back too often.
    fn give_back(&mut self, number: u32, priority: u8, mut message: Message) {
        self.counters.given_back += 1;
        message.aborts += 1;
        let aborts = message.aborts;
        self.note(message.source, message.id, What::GivenBack { aborts });
        let limit = self
            .locals
            .get(&number)
            .map_or(0, |queue| queue.settings.aborts_max);
        if limit != 0 && message.aborts >= limit && self.move_to_poison(number, priority, &message)
        {
            return;
        }
        let durable = message.class.is_durable();
        let lane = self
            .locals
            .get_mut(&number)
            .and_then(|q| q.lanes.get_mut(&priority));
        if let Some(cost) = lane.map(|lane| lane.give_back(message)) {
            self.hold(durable, cost);
        }
        self.busy_queues.insert(number);
    }

    fn move_to_poison(&mut self, number: u32, priority: u8, message: &Message) -> bool {
        let Some(queue) = self.locals.get(&number) else {
            return false;
        };
        let name = &queue.settings.name;
        if name.subqueue().is_some() || name.is_system() {
            return false;
        }
        let Ok(poison) = format!("{name}:poison").parse::<QueueName>() else {
            return false;
        };
        let target = match self.local_names.get(&poison) {
            Some(number) => *number,
            None => self.create_queue(LocalSettings::new(poison)),
        };
        self.counters.poisoned += 1;
        self.note(message.source, message.id, What::Poisoned);
        let mut moved = message.clone();
        moved.aborts = 0;
        let put = self.put_local(target, priority, moved);
        if message.class.is_durable() {
            self.stored_bytes = self.stored_bytes.saturating_sub(message.credit());
            let stream = Self::stream_of(number, priority);
            let (first, last) = (message.position, message.position);
            self.commits.put(StoreOp::Remove {
                stream,
                first,
                last,
            });
            let from = Some(Origin {
                local: true,
                queue: number,
                priority,
                message: message.clone(),
            });
            let died = None;
            self.commits
                .after_putting(Then::DeadLetter { put, from, died });
        }
        true
    }

    /// One timer a queue, whatever the number of requests.
    fn arm_receivers(&mut self, number: u32, until: Timestamp) {
        if let Some(queue) = self.locals.get_mut(&number)
            && until > self.now.at
            && until < queue.timer
        {
            queue.timer = until;
            self.arm(until, Timer::Receivers(number));
        }
    }

    pub(crate) fn on_receivers_timer(&mut self, number: u32) {
        let now = self.now.at;
        if self
            .locals
            .get(&number)
            .is_none_or(|queue| queue.timer > now)
        {
            return;
        }
        let mut done = Vec::new();
        if let Some(queue) = self.locals.get_mut(&number) {
            queue.waiters.retain(|waiter| {
                let due = waiter.until <= now;
                if due {
                    done.push((waiter.conn, waiter.request));
                }
                !due
            });
        }
        for (conn, request) in done {
            self.receive_done(conn, request, 0, None, String::new());
        }
        let next = self.locals.get_mut(&number).and_then(|queue| {
            queue.timer = Timestamp::NEVER;
            queue.waiters.iter().map(|waiter| waiter.until).min()
        });
        if let Some(next) = next {
            self.arm_receivers(number, next);
        }
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
                for (_, message) in messages.iter_mut().filter(|_| local) {
                    self.drop_orphan(queue, priority, message);
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
