//! Messages on their way to other nodes: the remotes, and the queues where messages for them wait.
//!
//! [`transmitting`] is how they are sent, [`doubt`] what becomes of those that may have been sent
//! before, [`turns`] how their destination is asked, [`departure`] how each leaves its queue for
//! good.

mod departure;
mod doubt;
mod transmitting;
mod turns;

use std::collections::BTreeMap;

use qm_wire::{Class, QmId, QueueName};

use crate::backlog::{Backlog, Message};
use crate::engine::Engine;
use crate::io::{DialFailure, LinkId};
use crate::limits::QUEUES_MAX;
use crate::record::RemoteKey;
use crate::stream::sending::OutStream;
use crate::time::Timestamp;

pub(crate) use turns::{DoubtsAsked, STORING_MS};

/// Messages read from disk at a time.
const LOAD_RECORDS: usize = 1_024;
/// Bytes read from disk at a time.
const LOAD_BYTES: usize = 1 << 20;

/// A destination node as addressed.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The identity of this node under which it is spoken to.
    pub(crate) own: QmId,
    pub(crate) key: RemoteKey,
    pub(crate) pin: Option<QmId>,
    pub(crate) queues: BTreeMap<QueueName, u32>,
    /// Those of them that have work, and some that had: whenever something may leave, only these
    /// are looked at. See [`Engine::puts_to_work`].
    pub(crate) at_work: BTreeMap<QueueName, u32>,
    pub(crate) state: DialState,
    pub(crate) backoff_ms: u64,
    pub(crate) turn: usize,
    pub(crate) last_error: Option<String>,
    pub(crate) last_failure: Option<DialFailure>,
}

/// Where the next connection stands.
#[derive(Debug)]
pub(crate) enum DialState {
    Idle,
    Dialing { address: String },
    Waiting { until: Timestamp },
}

impl Remote {
    pub(crate) const fn new(own: QmId, key: RemoteKey, pin: Option<QmId>) -> Self {
        Self {
            own,
            key,
            pin,
            queues: BTreeMap::new(),
            at_work: BTreeMap::new(),
            state: DialState::Idle,
            backoff_ms: 0,
            turn: 0,
            last_error: None,
            last_failure: None,
        }
    }

    /// The only queue manager that may speak about what waits here.
    pub(crate) const fn peer(&self) -> Option<QmId> {
        self.pin
    }
}

/// The messages for one queue of one remote.
#[derive(Debug)]
pub(crate) struct OutQueue {
    pub(crate) remote: u32,
    pub(crate) queue: QueueName,
    pub(crate) paused: bool,
    pub(crate) lanes: BTreeMap<u8, OutLane>,
    pub(crate) in_flight: u64,
    pub(crate) acknowledged: u64,
    /// Messages that ended here and that the destination is asked for.
    pub(crate) asked: u64,
    /// Of its transactional messages, once there was one.
    pub(crate) stream: Option<OutStream>,
    /// Whether its remote has it among those at work.
    at_work: bool,
    /// Since when maintenance finds no work for it.
    pub(crate) idle_since: Option<Timestamp>,
}

/// One priority of an outgoing queue.
#[derive(Debug)]
pub(crate) struct OutLane {
    pub(crate) backlog: Backlog,
    /// Messages that may have been transmitted before, by position; none is sent again before the
    /// destination said that it does not have it.
    pub(crate) doubt: BTreeMap<u64, Message>,
    doubt_bytes: u64,
    /// Before this time none of them expires.
    pub(crate) doubt_deadline: Timestamp,
    /// Messages of this priority in flight, and on which session: all on one, because two
    /// sessions are not ordered among themselves.
    flying: (u64, Option<LinkId>),
}

impl OutLane {
    pub(crate) const fn new(backlog: Backlog) -> Self {
        Self {
            backlog,
            doubt: BTreeMap::new(),
            doubt_bytes: 0,
            doubt_deadline: Timestamp::NEVER,
            flying: (0, None),
        }
    }

    /// Whether messages are in flight on another session than this one.
    pub(crate) fn flies_elsewhere(&self, link: LinkId) -> bool {
        self.flying.0 > 0 && self.flying.1 != Some(link)
    }
}

impl OutQueue {
    pub(crate) fn has_work(&self) -> bool {
        self.lanes
            .values()
            .any(|lane| !lane.backlog.is_empty() || !lane.doubt.is_empty())
            || self.skipping() > 0
            || self.asked > 0
    }

    /// Whether there is something to do for it when something may leave, now or later. What a
    /// stream needs does not show in the queue.
    fn may_work(&self) -> bool {
        self.has_work() || self.stream.is_some()
    }

    /// Whether transactional messages of it may still be on their way.
    pub(crate) fn holds_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| {
            self.has_work() || self.in_flight > 0 || !stream.leaving.is_empty()
        })
    }

    pub(crate) fn waiting(&self) -> (u64, u64) {
        self.lanes.values().fold((0, 0), |(messages, bytes), lane| {
            (messages + lane.backlog.messages, bytes + lane.backlog.bytes)
        })
    }

    /// Transactional messages in doubt.
    pub(crate) fn doubtful_in_stream(&self) -> u64 {
        let doubts = self.lanes.values().flat_map(|lane| lane.doubt.values());
        doubts.filter(|m| m.class == Class::Transactional).count() as u64
    }

    pub(crate) fn doubtful(&self) -> u64 {
        self.lanes
            .values()
            .map(|lane| lane.doubt.len() as u64)
            .sum()
    }
}

impl Engine {
    /// The outgoing queue for a queue of a remote, made durable with its first message. `own`: the
    /// identity under which its messages are minted.
    pub(crate) fn out_queue(&mut self, own: QmId, key: &RemoteKey, queue: &QueueName) -> u32 {
        let remote = self.remote_as(own, key);
        let known = self.remotes.get(&remote).and_then(|r| r.queues.get(queue));
        if let Some(number) = known.copied() {
            if let Some(out) = self.outs.get_mut(&number) {
                out.idle_since = None;
            }
            return number;
        }
        let number = self.next_queue;
        self.next_queue += 1;
        let queue = queue.detach();
        let paused = self
            .sibling_of(own, key, &queue)
            .is_some_and(|out| out.paused);
        self.insert_out_queue(number, remote, queue, paused);
        self.record_queue(number);
        if own != self.me.qm {
            self.make_siblings();
        }
        number
    }

    /// Whether another queue may be made, here or towards a remote.
    pub(crate) fn may_add_queue(&self) -> bool {
        // Each priority of a queue is a stream, numbered in 32 bits and never again.
        self.locals.len() + self.outs.len() < QUEUES_MAX && self.next_queue < u32::MAX / 8
    }

    pub(crate) fn is_out_queue(&self, key: &RemoteKey, queue: &QueueName) -> bool {
        let remote = self
            .find_remote(key)
            .as_ref()
            .and_then(|number| self.remotes.get(number));
        remote.is_some_and(|remote| remote.queues.contains_key(queue))
    }

    pub(crate) fn insert_out_queue(
        &mut self,
        number: u32,
        remote: u32,
        queue: QueueName,
        paused: bool,
    ) {
        if let Some(remote) = self.remotes.get_mut(&remote) {
            remote.queues.insert(queue.clone(), number);
        }
        let lanes = BTreeMap::new();
        let out = OutQueue {
            remote,
            queue,
            paused,
            lanes,
            in_flight: 0,
            acknowledged: 0,
            asked: 0,
            stream: None,
            at_work: false,
            idle_since: None,
        };
        self.outs.insert(number, out);
        self.puts_to_work(number);
    }

    /// Something for it to do comes: it is looked at whenever something may leave. What gives an
    /// outgoing queue work calls this, or is refused by the audit.
    pub(crate) fn puts_to_work(&mut self, number: u32) {
        if let Some(out) = self.outs.get_mut(&number)
            && !core::mem::replace(&mut out.at_work, true)
            && let Some(remote) = self.remotes.get_mut(&out.remote)
        {
            remote.at_work.insert(out.queue.clone(), number);
        }
    }

    /// Those of them that have nothing to do are looked at no more.
    fn rest(&mut self, numbers: &[u32]) {
        for number in numbers {
            if let Some(out) = self.outs.get_mut(number)
                && !out.may_work()
                && let Some(remote) = self.remotes.get_mut(&out.remote)
            {
                out.at_work = false;
                remote.at_work.remove(&out.queue);
            }
        }
    }

    /// That no outgoing queue is forgotten that has work.
    pub(crate) fn audit_work(&self) -> Result<(), String> {
        for (number, out) in &self.outs {
            let remote = self.remotes.get(&out.remote);
            let listed = remote.and_then(|remote| remote.at_work.get(&out.queue)) == Some(number);
            if listed != out.at_work || (out.may_work() && !listed) {
                return Err(format!(
                    "outgoing queue {number}: has work: {}, listed so: {listed}, noted so: {}",
                    out.may_work(),
                    out.at_work
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn out_lane(&mut self, number: u32, priority: u8) -> Option<&mut OutLane> {
        let stream = Self::stream_of(number, priority);
        let first = self.first_position;
        self.puts_to_work(number);
        self.outs.get_mut(&number).map(|out| {
            out.lanes
                .entry(priority)
                .or_insert_with(|| OutLane::new(Backlog::new(stream, first)))
        })
    }

    /// Wakes whatever may move messages of this outgoing queue.
    pub(crate) fn nudge_out(&mut self, number: u32) {
        let Some(remote_number) = self.outs.get(&number).map(|out| out.remote) else {
            return;
        };
        let Some(remote) = self.remotes.get(&remote_number) else {
            return;
        };
        let own = remote.own;
        if let Some(peer) = remote.peer()
            && self.by_peer.contains_key(&peer)
        {
            // Also when only the other identity has a session: its messages wait for these.
            self.busy_peers.insert(peer);
            if self.has_session(own, peer) {
                return;
            }
        }
        self.want_connection(remote_number);
    }

    /// The outgoing queues with work for a peer whose messages are minted under one of this node's
    /// identities.
    pub(crate) fn queues_towards(&self, own: QmId, peer: QmId) -> Vec<u32> {
        self.remotes
            .values()
            .filter(|remote| remote.own == own && remote.peer() == Some(peer))
            .flat_map(|remote| remote.at_work.values().copied())
            .collect()
    }

    /// The same, those without work too.
    pub(crate) fn all_queues_towards(&self, own: QmId, peer: QmId) -> Vec<u32> {
        self.remotes
            .values()
            .filter(|remote| remote.own == own && remote.peer() == Some(peer))
            .flat_map(|remote| remote.queues.values().copied())
            .collect()
    }
}
