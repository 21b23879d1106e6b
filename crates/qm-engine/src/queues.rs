//! Queues of this node: what arrived waits here until an application consumes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use qm_wire::{PeerFrame, QueueName, QueueState};

use crate::backlog::{Backlog, Message};
use crate::commits::{Died, Origin, PutAt, Then};
use crate::dead::End;
use crate::engine::Engine;
use crate::handed::Handed;
use crate::io::{ConnId, Event, Lane, LinkId, StoreOp};
use crate::receiving::Waiter;
use crate::record::{DeadReason, LocalSettings, StoredHead};
use crate::time::Timestamp;

/// Name of the queue of undeliverable messages.
pub(crate) const DEAD_QUEUE: &str = "dead$";

/// A delivery in the hands of an application.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) conn: ConnId,
    pub(crate) since: Timestamp,
    pub(crate) priority: u8,
    /// The transaction that received it.
    pub(crate) transaction: Option<u64>,
    /// That is being committed: it is the connection's no more.
    pub(crate) committing: bool,
    pub(crate) message: Message,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalQueue {
    pub(crate) settings: LocalSettings,
    pub(crate) lanes: BTreeMap<u8, Backlog>,
    pub(crate) leased: BTreeMap<u64, Leased>,
    pub(crate) waiters: VecDeque<Waiter>,
    /// When the waiters are looked at next.
    pub(crate) timer: Timestamp,
    pub(crate) leased_bytes: u64,
    /// What committed transactions took and the disk has not removed yet.
    pub(crate) leaving: BTreeSet<u64>,
    /// How often messages of each priority were handed out.
    pub(crate) handed: BTreeMap<u8, Handed>,
    pub(crate) arrived: u64,
    pub(crate) received: u64,
    told_full: bool,
    /// Its messages are being buried; then it goes.
    pub(crate) deleting: bool,
}

/// The lookup id of a message: order of lookup ids is order of delivery.
pub(crate) const fn lookup_of(priority: u8, position: u64) -> u64 {
    ((7 - priority as u64) << 60) | position
}

/// What [`lookup_of`] was made from.
pub(crate) const fn split_lookup(lookup: u64) -> (u8, u64) {
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
            leaving: BTreeSet::new(),
            handed: BTreeMap::new(),
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

    /// Bytes of express messages that wait.
    pub(crate) fn express_bytes(&self) -> u64 {
        self.lanes.values().map(Backlog::express_bytes).sum()
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

    /// Whether so many more messages and bytes may come when so many of those in the hands of
    /// applications go.
    pub(crate) fn has_room_for(
        &self,
        messages: u64,
        bytes: u64,
        less: u64,
        less_bytes: u64,
    ) -> bool {
        let (have, have_bytes) = self.waiting();
        let leased = (self.leased.len() as u64).saturating_sub(less);
        let leased_bytes = self.leased_bytes.saturating_sub(less_bytes);
        have + leased + messages < self.settings.quota_messages
            && have_bytes + leased_bytes + bytes < self.settings.quota_bytes
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
            self.mark_awaited(number, priority, position);
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
        self.local_names.insert(settings.name.clone(), number);
        self.locals.insert(number, LocalQueue::new(settings));
        self.record_queue(number);
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
}
