//! Applications that ask for messages: who waits, who is served, and what is handed out.

use std::collections::BTreeSet;

use qm_wire::local::{Delivery, NodeFrame, Receive, ReceiveDone, ReceiveMode};
use qm_wire::{Outcome, QueueName, Text};

use crate::backlog::{Backlog, Message, left_ms};
use crate::commits::Then;
use crate::dead::End;
use crate::engine::{Engine, LoadFor, Timer};
use crate::handed::HandOut;
use crate::history::What;
use crate::io::{ConnId, StreamId};
use crate::picking::Picks;
use crate::queues::{Leased, lookup_of};
use crate::time::Timestamp;

/// Requests for messages that wait for the first commit of a life; more come back empty.
const EARLY_RECEIVES_MAX: usize = 4_096;

/// An application that waits for messages.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) conn: ConnId,
    pub(crate) request: u64,
    pub(crate) messages_max: u32,
    pub(crate) bytes_max: u32,
    pub(crate) until: Timestamp,
    pub(crate) transaction: Option<u64>,
    /// Which messages it wishes, when not any.
    pub(crate) picks: Option<Box<Picks>>,
}

impl Waiter {
    /// For whatever message comes first.
    pub(crate) fn new(conn: ConnId, receive: &Receive, until: Timestamp) -> Self {
        Self {
            conn,
            request: receive.request,
            messages_max: receive.messages_max.max(1),
            bytes_max: receive.bytes_max,
            until,
            transaction: receive.transaction,
            picks: None,
        }
    }
}

/// For whom a message is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To {
    pub(crate) conn: ConnId,
    pub(crate) request: u64,
    pub(crate) transaction: Option<u64>,
    /// Everything before it was handed out.
    pub(crate) in_turn: bool,
}

/// Messages that one request brings.
#[derive(Debug, Default)]
pub(crate) struct Handing {
    frames: Vec<NodeFrame>,
    /// Streams of messages that are not noted on disk as handed out yet.
    unnoted: BTreeSet<StreamId>,
}

impl Engine {
    pub(crate) fn on_receive(&mut self, conn: ConnId, receive: Receive) {
        if !self.life_begun {
            return self.on_early_receive(conn, receive);
        }
        if !self.is_new_receive(conn, receive.request) && !self.forget_waiter(conn, &receive) {
            // Its answer is on its way.
            return;
        }
        self.begin_receive(conn, receive);
    }

    /// The lookup ids of this life might come again in the next one until it has begun.
    fn on_early_receive(&mut self, conn: ConnId, receive: Receive) {
        let mut early = self.early_receives.iter_mut();
        let asked = early.find(|(c, r)| *c == conn && r.request == receive.request);
        if let Some((_, asked)) = asked {
            *asked = receive;
        } else if !self.is_new_receive(conn, receive.request) {
            // It came back empty.
        } else if self.early_receives.len() < EARLY_RECEIVES_MAX {
            self.early_receives.push((conn, receive));
        } else {
            self.receive_done(conn, receive.request, 0, None, String::new());
        }
    }

    /// Serves a request whose number is its own.
    pub(crate) fn begin_receive(&mut self, conn: ConnId, receive: Receive) {
        self.clients.receive_taken(conn);
        if let Some(transaction) = receive.transaction {
            let begun = if receive.mode == ReceiveMode::Peek {
                let text = "a transaction takes messages; look at them without one";
                Err((Outcome::BAD_REQUEST, text.to_owned()))
            } else {
                self.begin_receiving(conn, transaction)
            };
            if let Err((outcome, text)) = begun {
                return self.receive_done(conn, receive.request, 0, Some(outcome), text);
            }
        }
        let Some(number) = self.local_names.get(&receive.queue).copied() else {
            let text = no_queue_text(&receive.queue);
            return self.receive_done(conn, receive.request, 0, Some(Outcome::NOT_FOUND), text);
        };
        let until = self.waits_until(&receive);
        let picks = receive.lookup.is_some()
            || receive.after.is_some()
            || !receive.correlation_id.is_empty();
        if receive.mode == ReceiveMode::Peek || picks {
            return self.begin_scan(conn, number, Box::new(Picks::new(receive)), until);
        }
        self.wait_for_messages(number, Waiter::new(conn, &receive, until));
        self.busy_queues.insert(number);
    }

    fn waits_until(&self, receive: &Receive) -> Timestamp {
        match receive.wait_ms {
            0 => self.now.at,
            wait => self.now.at.plus_ms(wait),
        }
    }

    pub(crate) fn wait_for_messages(&mut self, number: u32, waiter: Waiter) {
        let until = waiter.until;
        if let Some(queue) = self.locals.get_mut(&number) {
            queue.waiters.push_back(waiter);
        }
        self.arm_receivers(number, until);
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
        if gone == 0 {
            let until = self.waits_until(receive);
            self.wait_otherwise(conn, receive.request, until);
        }
        gone > 0
    }

    /// Requests of a transaction that is over wait no longer. Returns their numbers.
    pub(crate) fn forget_waiters_of(&mut self, conn: ConnId, transaction: u64) -> Vec<u64> {
        let mut forgotten = Vec::new();
        for queue in self.locals.values_mut() {
            queue.waiters.retain(|waiter| {
                let its = waiter.conn == conn && waiter.transaction == Some(transaction);
                forgotten.extend(its.then_some(waiter.request));
                !its
            });
        }
        forgotten
    }

    pub(crate) fn receive_done(
        &mut self,
        conn: ConnId,
        request: u64,
        messages: u32,
        outcome: Option<Outcome>,
        text: String,
    ) {
        self.end_handing(conn, Handing::default(), request, messages, outcome, text);
    }

    /// The end of a receive request, behind the messages that it brings. Those that are not noted
    /// as handed out yet leave when they are.
    pub(crate) fn end_handing(
        &mut self,
        conn: ConnId,
        handing: Handing,
        request: u64,
        messages: u32,
        outcome: Option<Outcome>,
        text: String,
    ) {
        self.clients.receive_answered(conn);
        let text = Text::from(text);
        let mut frames = handing.frames;
        frames.push(NodeFrame::ReceiveDone(ReceiveDone {
            request,
            messages,
            outcome,
            text,
        }));
        let hand_out = HandOut {
            conn,
            frames,
            streams: handing.unnoted,
        };
        if hand_out.streams.is_empty() {
            self.hand_out(hand_out);
        } else {
            self.commits
                .after_settling(Then::HandOut(Box::new(hand_out)));
        }
    }

    /// Hands messages to the applications that wait for them.
    pub(crate) fn serve_receivers(&mut self, number: u32) {
        self.look_for_picked(number);
        loop {
            let Some(queue) = self.locals.get_mut(&number) else {
                return;
            };
            let now = self.now.at;
            let clients = &self.clients;
            let Some(at) = queue.waiters.iter().position(|waiter| {
                waiter.picks.is_none() && (clients.may_lease(waiter.conn) || waiter.until <= now)
            }) else {
                return;
            };
            let Some(waiter) = queue.waiters.get(at) else {
                return;
            };
            let (conn, request) = (waiter.conn, waiter.request);
            let (most, most_bytes) = (waiter.messages_max, u64::from(waiter.bytes_max));
            let (until, transaction) = (waiter.until, waiter.transaction);
            if !self.clients.may_lease(conn) {
                queue.waiters.remove(at);
                let text = "too much is held unsettled; settle some of it first".to_owned();
                self.receive_done(conn, request, 0, Some(Outcome::BUSY), text);
                continue;
            }
            let may_take = transaction.map_or(Ok(()), |number| self.may_take(conn, number));
            if let Err((outcome, text)) = may_take {
                if let Some(queue) = self.locals.get_mut(&number) {
                    queue.waiters.remove(at);
                }
                self.receive_done(conn, request, 0, Some(outcome), text);
                continue;
            }
            let mut handing = Handing::default();
            let mut handed = 0_u32;
            let mut handed_bytes = 0;
            let may_take = |engine: &Self| {
                transaction.is_none_or(|number| engine.may_take(conn, number).is_ok())
            };
            while handed < most
                && may_take(self)
                && (handed == 0 || handed_bytes < most_bytes)
                && self.clients.may_lease(conn)
            {
                let Some((priority, message)) = self.next_message(number) else {
                    break;
                };
                handed += 1;
                handed_bytes += message.credit();
                let to = To {
                    conn,
                    request,
                    transaction,
                    in_turn: true,
                };
                self.lease(to, &mut handing, number, priority, message);
            }
            if handed == 0 && self.is_reading(number) {
                return;
            }
            if handed == 0 && until > self.now.at {
                // Nor is anything there for those behind it: whoever does not wait is told so.
                return self.answer_due(number);
            }
            if let Some(queue) = self.locals.get_mut(&number) {
                queue.waiters.remove(at);
            }
            self.end_handing(conn, handing, request, handed, None, String::new());
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
        if self.quarantine.holds(number) {
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

    pub(crate) fn lease(
        &mut self,
        to: To,
        handing: &mut Handing,
        number: u32,
        priority: u8,
        message: Message,
    ) {
        let To {
            conn,
            request,
            transaction,
            in_turn,
        } = to;
        let position = message.position;
        let lookup = lookup_of(priority, position);
        let delivery = self.delivery(request, lookup, &message);
        handing.frames.push(NodeFrame::Delivery(delivery));
        if message.class.is_durable()
            && !self.note_handed(number, priority, position, message.aborts, in_turn)
        {
            handing.unnoted.insert(Self::stream_of(number, priority));
        }
        if let Some(transaction) = transaction {
            self.taken(conn, transaction, number, lookup);
        }
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
                    transaction,
                    committing: false,
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

    /// Requests whose time is over are answered: nothing came.
    fn answer_due(&mut self, number: u32) {
        let now = self.now.at;
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
        self.answer_due(number);
        let next = self.locals.get_mut(&number).and_then(|queue| {
            queue.timer = Timestamp::NEVER;
            queue.waiters.iter().map(|waiter| waiter.until).min()
        });
        if let Some(next) = next {
            self.arm_receivers(number, next);
        }
    }
}

/// Why nothing can be taken from a queue that is not there.
fn no_queue_text(name: &QueueName) -> String {
    if name.is_system() || name.subqueue().is_some() {
        return format!(
            "queue {name} comes into being with its first message; see: qm-node queue list"
        );
    }
    format!("there is no queue {name}; create it with: qm-node queue create {name}")
}
