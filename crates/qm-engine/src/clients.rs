//! The local hop: what applications hand over is accepted exactly once, whatever is repeated.
//!
//! A request carries (client id, sequence). Its answer is stored in the same commit as the message
//! and kept, so a client that lost the reply asks again and gets the same answer. An idempotency
//! key does the same for an application that lost itself: it names the message, not the request.

mod followed;
mod room;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use qm_wire::local::{Accepted, ClientFrame, Fate, Follow, NodeFrame, NodeHello, Put, Refused};
use qm_wire::{Class, ClientId, Envelope, MessageId, Outcome, Tag, Text};

use crate::backlog::Message;
use crate::commits::{PutAt, Then};
use crate::destination::Target;
use crate::digests::{Digests, content_digest};
use crate::engine::Engine;
use crate::history::What;
use crate::io::{ConnId, Event, Output, StoreOp};
use crate::limits::{
    CLIENT_REFUSALS_MAX, CLIENT_RUNS_MAX, FOLLOWED_MAX, KEY_RUNS_MAX, REMEMBERED_MAX,
    REMEMBERED_SLACK_MAX,
};
use crate::record::{Run, decode_runs, encode_runs, prefixed};
use crate::time::Timestamp;
use crate::unoffered::NO_TRANSACTIONS;

/// Version of the protocol between an application and its node.
const LOCAL_PROTOCOL: u16 = 1;

/// One connection of an application.
#[derive(Debug, Default)]
pub(crate) struct Conn {
    client: Option<ClientId>,
    /// What the application calls itself.
    program: String,
    /// Highest number of a receive request: numbers rise on a connection.
    last_receive: Option<u64>,
    /// Receive requests without an answer.
    pub(crate) receives: usize,
    /// Messages held unsettled, and their bytes.
    pub(crate) leases: usize,
    pub(crate) lease_bytes: u64,
}

/// What is remembered of one application.
#[derive(Debug, Default)]
struct ClientState {
    conn: Option<ConnId>,
    highest: u64,
    runs: VecDeque<Run>,
    refusals: VecDeque<(u64, Outcome)>,
    /// Accepted and not durable yet.
    pending: BTreeSet<u64>,
    /// Below this sequence answers were forgotten.
    forgotten_below: u64,
    touched: Timestamp,
    dirty: bool,
}

/// What is remembered of one idempotency key.
#[derive(Debug, Default)]
struct KeyState {
    runs: Vec<Run>,
    digest: [u8; 16],
    /// Numbers whose messages are not durable yet.
    pending: BTreeSet<u64>,
    touched: Timestamp,
    dirty: bool,
    durable: bool,
}

/// A message whose fate its sender wants to know.
#[derive(Clone, Copy, Debug)]
struct Followed {
    client: ClientId,
    sequence: u64,
    follow: Follow,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    states: BTreeMap<ClientId, ClientState>,
    keys: BTreeMap<[u8; 16], KeyState>,
    followed: BTreeMap<MessageId, Followed>,
    /// Of these, those whose whereabouts are looked up with the next batch.
    followed_again: BTreeSet<MessageId>,
    /// Those that were not found, while messages were on disk that were not looked through.
    followed_unsure: BTreeSet<MessageId>,
    answers: BTreeMap<ConnId, Vec<Accepted>>,
    fates: BTreeMap<ConnId, Vec<(u64, u64, Outcome)>>,
    /// Bytes of the messages that all applications hold unsettled.
    pub(crate) lease_bytes: u64,
    digests: Digests,
    dirty_clients: BTreeSet<ClientId>,
    dirty_keys: BTreeSet<[u8; 16]>,
}

impl Clients {
    pub(crate) fn is_connected(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    /// The client of a connection, once it said hello.
    pub(crate) fn client_of(&self, conn: ConnId) -> Option<ClientId> {
        self.conns.get(&conn).and_then(|conn| conn.client)
    }

    /// An application as people know it.
    pub(crate) fn title(&self, conn: ConnId) -> String {
        match self.conns.get(&conn) {
            Some(Conn {
                client: Some(client),
                program,
                ..
            }) if !program.is_empty() => format!("application {program:?} (client {client})"),
            Some(Conn {
                client: Some(client),
                ..
            }) => format!("client {client}"),
            _ => format!("connection {}", conn.0),
        }
    }

    pub(crate) fn connected(&self) -> usize {
        self.conns.len()
    }

    /// Clients, keys and followed messages.
    pub(crate) fn remembered(&self) -> (usize, usize, usize) {
        (self.states.len(), self.keys.len(), self.followed.len())
    }
}

impl ClientState {
    fn note(&mut self, sequence: u64, id: MessageId) {
        if self
            .runs
            .back_mut()
            .is_some_and(|run| run.extend(sequence, id))
        {
            return;
        }
        if self.runs.len() >= CLIENT_RUNS_MAX
            && let Some(oldest) = self.runs.pop_front()
        {
            self.forgotten_below = self.forgotten_below.max(oldest.last.saturating_add(1));
        }
        self.runs.push_back(Run {
            first: sequence,
            last: sequence,
            first_id: id,
        });
    }
}

impl KeyState {
    fn note(&mut self, number: u64, id: MessageId) {
        if !self
            .runs
            .last_mut()
            .is_some_and(|run| run.extend(number, id))
        {
            self.runs.push(Run {
                first: number,
                last: number,
                first_id: id,
            });
        }
    }
}

/// Takes one number out of runs, as if it had never been answered.
fn remove_number(runs: impl Iterator<Item = Run>, number: u64) -> Vec<Run> {
    let mut kept = Vec::new();
    for run in runs {
        let Some(id) = run.id_of(number) else {
            kept.push(run);
            continue;
        };
        if run.first < number {
            kept.push(Run {
                last: number - 1,
                ..run
            });
        }
        if number < run.last {
            let first_id = MessageId {
                incarnation: id.incarnation,
                sequence: id.sequence.saturating_add(1),
            };
            kept.push(Run {
                first: number + 1,
                last: run.last,
                first_id,
            });
        }
    }
    kept
}

fn client_key(client: ClientId) -> Bytes {
    prefixed(b"client/", &client.0)
}

fn idempotency_key(hash: [u8; 16]) -> Bytes {
    prefixed(b"idem/", &hash)
}

fn hash16(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut hash = [0; 16];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

impl Engine {
    pub(crate) fn on_client(&mut self, conn: ConnId, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello(hello) => {
                let client = hello.client;
                if self
                    .clients
                    .conns
                    .get(&conn)
                    .is_some_and(|c| c.client.is_some())
                {
                    return self.close_client(conn, "a second hello on one connection");
                }
                let known = self.clients.conns.entry(conn).or_default();
                known.client = Some(client);
                known.program = hello.program.as_str().to_owned();
                let state = self.clients.states.entry(client).or_default();
                state.conn = Some(conn);
                state.touched = self.now.at;
                let frame = NodeFrame::Hello(NodeHello {
                    protocol: LOCAL_PROTOCOL,
                    node: self.me.qm,
                    incarnation: self.incarnation,
                    name: self.config.name.as_str().into(),
                    body_bytes_max: self.config.body_bytes_max,
                    window_messages: self.config.client_window_messages,
                    window_bytes: self.config.client_window_bytes,
                });
                self.outputs.push_back(Output::Client { conn, frame });
                if self.clients.states.len() >= REMEMBERED_MAX + REMEMBERED_SLACK_MAX {
                    self.purge_outcomes();
                }
            }
            ClientFrame::Put(put) => match self.clients.conns.get(&conn).and_then(|c| c.client) {
                Some(client) => {
                    self.on_put(client, put);
                }
                None => self.close_client(conn, "a message before the hello"),
            },
            ClientFrame::Receive(receive) => {
                let waiting = self.clients.conns.entry(conn).or_default().receives;
                if waiting >= qm_wire::limits::CLIENT_REQUESTS_MAX {
                    return self.close_client(conn, "too many receive requests without an answer");
                }
                self.on_receive(conn, receive);
            }
            ClientFrame::Settle(settle) => self.on_settle(conn, &settle),
            ClientFrame::EndTransaction(end) => self.refuse_transaction(conn, end),
            _ => self.close_client(conn, "a frame that the engine does not take"),
        }
    }

    /// Whether this number was not used by an earlier receive request of the connection.
    pub(crate) fn is_new_receive(&mut self, conn: ConnId, request: u64) -> bool {
        let last = &mut self.clients.conns.entry(conn).or_default().last_receive;
        let new = last.is_none_or(|last| request > last);
        *last = Some(last.map_or(request, |last| last.max(request)));
        new
    }

    fn close_client(&mut self, conn: ConnId, text: &str) {
        self.outputs.push_back(Output::CloseClient {
            conn,
            text: text.to_owned(),
        });
    }

    pub(crate) fn on_client_closed(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.conns.remove(&conn).and_then(|c| c.client)
            && let Some(state) = self.clients.states.get_mut(&client)
            && state.conn == Some(conn)
        {
            state.conn = None;
            state.touched = self.now.at;
        }
        self.clients.answers.remove(&conn);
        self.clients.fates.remove(&conn);
        self.early_receives.retain(|(waiting, _)| *waiting != conn);
        self.release_leases(conn);
    }

    fn on_put(&mut self, client: ClientId, put: Put) {
        let sequence = put.sequence;
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        state.touched = self.now.at;
        if sequence <= state.highest {
            return self.answer_again(client, &put);
        }
        state.highest = sequence;
        match self.accept(client, &put) {
            Ok(()) => {}
            Err((outcome, text)) => self.refuse_put(client, sequence, outcome, text),
        }
    }

    /// A request seen before: the answer it got then, or none while it is being stored.
    fn answer_again(&mut self, client: ClientId, put: &Put) {
        let sequence = put.sequence;
        let Some(state) = self.clients.states.get(&client) else {
            return;
        };
        if state.pending.contains(&sequence) {
            return;
        }
        self.counters.repeated_requests += 1;
        crate::reached!(self, RequestRepeated);
        if let Some(id) = state.runs.iter().rev().find_map(|run| run.id_of(sequence)) {
            self.follow_again(client, put, id);
            return self.answer(client, sequence, id, true);
        }
        let refused = state
            .refusals
            .iter()
            .find(|(refused, _)| *refused == sequence);
        if let Some((_, outcome)) = refused {
            let text = "refused before, for the same reason".to_owned();
            return self.send_refusal(client, sequence, *outcome, text);
        }
        if sequence >= state.forgotten_below {
            // All that was accepted is remembered from here on: this one never was, its refusal
            // fell with an earlier life of the node.
            if let Err((outcome, text)) = self.accept(client, put) {
                self.refuse_put(client, sequence, outcome, text);
            }
            return;
        }
        let text = "the answer to this old request is no longer kept; an idempotency key makes repeating safe";
        self.send_refusal(client, sequence, Outcome::BAD_REQUEST, text.to_owned());
    }

    fn refuse_put(&mut self, client: ClientId, sequence: u64, outcome: Outcome, text: String) {
        self.counters.refused += 1;
        if let Some(state) = self.clients.states.get_mut(&client) {
            if state.refusals.len() >= CLIENT_REFUSALS_MAX {
                state.refusals.pop_front();
            }
            state.refusals.push_back((sequence, outcome));
        }
        self.send_refusal(client, sequence, outcome, text);
    }

    fn send_refusal(&mut self, client: ClientId, sequence: u64, outcome: Outcome, text: String) {
        let Some(conn) = self
            .clients
            .states
            .get(&client)
            .and_then(|state| state.conn)
        else {
            return;
        };
        let text = Text::from(text);
        let frame = NodeFrame::Refused(Refused {
            sequence,
            outcome,
            text,
        });
        self.outputs.push_back(Output::Client { conn, frame });
    }

    fn accept(&mut self, client: ClientId, put: &Put) -> Result<(), (Outcome, String)> {
        if self.stopping {
            return Err((Outcome::STOPPING, "the node is stopping".to_owned()));
        }
        if put.transaction.is_some() {
            return Err((Outcome::UNSUPPORTED, NO_TRANSACTIONS.to_owned()));
        }
        if put.body.len() > self.config.body_bytes_max as usize {
            let (have, most) = (put.body.len(), self.config.body_bytes_max);
            let text = format!("the body has {have} bytes, the limit is {most}");
            return Err((Outcome::BODY_TOO_LARGE, text));
        }
        let target = self.resolve(&put.destination)?;
        self.check_class(put.class, &target)?;
        if put.follow == Follow::Received && matches!(target, Target::Remote(..)) {
            let text = "this version tells when a message was received only for queues of this node; wait for delivered";
            return Err((Outcome::UNSUPPORTED, text.to_owned()));
        }
        if let Some(answered) = self.check_idempotency(client, put)? {
            return Ok(answered);
        }
        self.check_room(put, &target)?;
        if put.follow != Follow::None && self.clients.followed.len() >= FOLLOWED_MAX {
            let text = "too many messages are being followed; wait, or send without following";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        let id = MessageId {
            incarnation: self.incarnation,
            sequence: self.next_sequence,
        };
        let envelope = self.envelope_of(put, id, &target)?;
        let mut encoded = BytesMut::new();
        envelope
            .encode(&mut encoded)
            .map_err(|error| (Outcome::BAD_REQUEST, error.to_string()))?;
        let encoded = encoded.freeze();
        self.next_sequence += 1;
        let message = Message {
            position: 0,
            source: self.me.qm,
            id,
            tag: Tag::compute(&encoded, &envelope.salt, &put.body),
            class: put.class,
            flags: put.flags,
            at: self.now.at,
            wall_us: self.now.wall_us,
            reach_left_ms: envelope.time_to_reach_queue_ms,
            receive_left_ms: envelope.time_to_be_received_ms,
            aborts: 0,
            transmitted: false,
            envelope: encoded,
            body: put.body.clone(),
        };
        let idempotency = self.note_key(put, id);
        if put.follow != Follow::None {
            let followed = Followed {
                client,
                sequence: put.sequence,
                follow: put.follow,
            };
            self.clients.followed.insert(id, followed);
        }
        let local = matches!(target, Target::Local(_));
        let at = match target {
            Target::Local(number) => self.put_local(number, put.priority.get(), message),
            Target::Remote(key, queue) if put.class == Class::Transactional => {
                self.mint_transactional(&key, &queue, message)
            }
            Target::Remote(key, queue) => {
                let number = self.out_queue(&key, &queue);
                self.put_out(number, put.priority.get(), message)
            }
        };
        if put.class.is_durable() {
            self.note_pending(client, put.sequence, id);
            let sequence = put.sequence;
            let then = Then::Accepted {
                put: at,
                id,
                client,
                sequence,
                idempotency,
                local,
            };
            self.commits.after_putting(then);
        } else {
            if let Some(state) = self.clients.states.get_mut(&client) {
                state.note(put.sequence, id);
            }
            self.confirm(client, put.sequence, id, at, local, put.class);
        }
        Ok(())
    }

    pub(crate) fn put_out(&mut self, number: u32, priority: u8, message: Message) -> PutAt {
        let durable = message.class.is_durable();
        let credit = message.credit();
        let keep = self.may_keep(message.cost());
        let deadline = message.reach_deadline();
        let stored = durable.then(|| (self.head_of(&message, None), message.body.clone()));
        if message.class == Class::Transactional {
            self.begin_stream(number);
        }
        let Some(lane) = self.out_lane(number, priority) else {
            return PutAt {
                queue: number,
                priority,
                position: 0,
                credit,
            };
        };
        let (position, held) = lane.backlog.push(message, keep);
        let stream = lane.backlog.stream;
        self.hold(durable, held);
        if let Some((head, body)) = stored {
            self.commits.put(StoreOp::Put {
                stream,
                position,
                head,
                body,
            });
            self.stored_bytes = self.stored_bytes.saturating_add(credit);
        }
        self.watch(false, number, priority, deadline);
        PutAt {
            queue: number,
            priority,
            position,
            credit,
        }
    }

    fn envelope_of(
        &mut self,
        put: &Put,
        id: MessageId,
        target: &Target,
    ) -> Result<Envelope, (Outcome, String)> {
        let queue = match target {
            Target::Remote(_, queue) => queue.clone(),
            Target::Local(number) => match self.locals.get(number) {
                Some(queue) => queue.settings.name.clone(),
                None => {
                    return Err((
                        Outcome::BAD_DESTINATION_QUEUE,
                        "the queue is gone".to_owned(),
                    ));
                }
            },
        };
        let salt = self.batch_salt();
        let mut envelope = Envelope::new(self.me.qm, id, salt, put.class, queue);
        envelope.priority = put.priority;
        envelope.flags = put.flags;
        envelope.ack_wishes = put.ack_wishes;
        envelope.sent_at_us = self.now.wall_us;
        envelope.time_to_reach_queue_ms = put.time_to_reach_queue_ms.unwrap_or(match put.class {
            Class::Express => self.config.express_reach_queue_ms,
            Class::Recoverable | Class::Transactional => self.config.recoverable_reach_queue_ms,
        });
        envelope.time_to_be_received_ms =
            put.time_to_be_received_ms.unwrap_or(qm_wire::INFINITE_MS);
        envelope.body_bytes = u32::try_from(put.body.len()).unwrap_or(u32::MAX);
        envelope.label = put.label.clone();
        envelope.correlation_id = put.correlation_id.clone();
        envelope.response_queue = put.response_queue.clone();
        envelope.admin_queue = put.admin_queue.clone();
        envelope.content_type = put.content_type.clone();
        envelope.trace_context = put.trace_context.clone();
        envelope.properties = put.properties.clone();
        Ok(envelope)
    }

    /// Answers a message that was accepted before under its idempotency key.
    fn check_idempotency(
        &mut self,
        client: ClientId,
        put: &Put,
    ) -> Result<Option<()>, (Outcome, String)> {
        let Some(key) = &put.idempotency else {
            return Ok(None);
        };
        let hash = hash16(&[&key.key]);
        let Some(state) = self.clients.keys.get_mut(&hash) else {
            return Ok(None);
        };
        state.touched = self.now.at;
        let number = key.number.unwrap_or(0);
        let known = state.runs.iter().any(|run| run.id_of(number).is_some());
        let grows = state
            .runs
            .last()
            .is_some_and(|run| run.last.checked_add(1) == Some(number));
        if !known && !grows && state.runs.len() >= KEY_RUNS_MAX {
            let text = "this idempotency key has too many gaps to remember; use another one";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        let Some(id) = state.runs.iter().rev().find_map(|run| run.id_of(number)) else {
            return Ok(None);
        };
        let same = match key.number {
            None => state.digest == hash16(&[put.destination.as_bytes(), &put.body]),
            Some(number) => {
                let digest = content_digest(hash, &put.destination, &put.body);
                self.clients.digests.admits(hash, number, digest)
            }
        };
        if !same {
            let text = format!("message {id} was accepted under this key with other content");
            return Err((Outcome::IDEMPOTENCY_CONFLICT, text));
        }
        let pending = state.pending.contains(&number);
        self.counters.repeated_requests += 1;
        crate::reached!(self, KeyRepeated);
        if pending {
            crate::reached!(self, KeyPending);
            // The first one is on its way to the disk: this answer leaves after it.
            self.note_pending(client, put.sequence, id);
            let sequence = put.sequence;
            self.commits.after_putting(Then::Repeated {
                client,
                sequence,
                id,
                key: (hash, number),
            });
        } else {
            if let Some(state) = self.clients.states.get_mut(&client) {
                state.note(put.sequence, id);
            }
            self.follow_again(client, put, id);
            self.answer(client, put.sequence, id, true);
        }
        Ok(Some(()))
    }

    fn note_key(&mut self, put: &Put, id: MessageId) -> Option<([u8; 16], u64)> {
        let key = put.idempotency.as_ref()?;
        let hash = hash16(&[&key.key]);
        if self.clients.keys.len() >= REMEMBERED_MAX + REMEMBERED_SLACK_MAX {
            self.purge_outcomes();
        }
        let state = self.clients.keys.entry(hash).or_default();
        state.touched = self.now.at;
        let number = key.number.unwrap_or(0);
        if key.number.is_none() {
            state.digest = hash16(&[put.destination.as_bytes(), &put.body]);
        }
        state.note(number, id);
        if key.number.is_some() {
            let digest = content_digest(hash, &put.destination, &put.body);
            let durable = put.class.is_durable();
            if let Some(forgotten) = self.clients.digests.note(hash, number, digest, durable) {
                self.commits.unset(forgotten);
            }
        }
        // The key of an express message must not outlive the message: it stays in memory too.
        if put.class.is_durable() {
            state.pending.insert(number);
            state.durable = true;
            state.dirty = true;
            self.clients.dirty_keys.insert(hash);
        }
        Some((hash, number))
    }

    fn note_pending(&mut self, client: ClientId, sequence: u64, id: MessageId) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.note(sequence, id);
            state.pending.insert(sequence);
            state.dirty = true;
            self.clients.dirty_clients.insert(client);
        }
    }

    /// Adds the answers of this batch to it; corrections after a refusal need no room.
    pub(crate) fn save_clients(&mut self) {
        if crate::broken!(self, answer_apart) && self.commits.has_puts() {
            // With the next batch that puts nothing.
            return;
        }
        let mut values = Vec::new();
        for client in core::mem::take(&mut self.clients.dirty_clients) {
            if let Some(state) = self.clients.states.get_mut(&client) {
                state.dirty = false;
                let value = encode_runs(state.touched.0, [0; 16], state.runs.iter());
                values.push((client_key(client), value));
            }
        }
        for hash in core::mem::take(&mut self.clients.dirty_keys) {
            if let Some(state) = self.clients.keys.get_mut(&hash) {
                state.dirty = false;
                let value = encode_runs(state.touched.0, state.digest, state.runs.iter());
                values.push((idempotency_key(hash), value));
            }
        }
        values.extend(self.clients.digests.take_dirty());
        for (key, value) in values {
            if self.commits.has_puts() {
                self.commits.put(StoreOp::Set { key, value });
            } else {
                self.commits.set(key, value);
            }
        }
    }

    /// An application's message is safe to its class.
    pub(crate) fn confirm(
        &mut self,
        client: ClientId,
        sequence: u64,
        id: MessageId,
        put: PutAt,
        local: bool,
        class: Class,
    ) {
        self.counters.accepted += 1;
        self.note(self.me.qm, id, What::Accepted { class, client });
        self.event(Event::Accepted { id });
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.pending.remove(&sequence);
        }
        self.answer(client, sequence, id, false);
        if local {
            self.busy_queues.insert(put.queue);
            self.tell_fate(id, Outcome::REACHED_QUEUE);
        } else {
            self.nudge_out(put.queue);
        }
    }

    /// The batch behind the first message of a repeated one is durable. Whether the first one is,
    /// its key tells: a refused message is not remembered.
    pub(crate) fn confirm_repeated(
        &mut self,
        client: ClientId,
        sequence: u64,
        id: MessageId,
        (hash, number): ([u8; 16], u64),
    ) {
        let held = self
            .clients
            .keys
            .get(&hash)
            .is_some_and(|state| state.runs.iter().any(|run| run.id_of(number) == Some(id)));
        if !held {
            return self.unaccept(client, sequence, id, None);
        }
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        state.pending.remove(&sequence);
        self.answer(client, sequence, id, true);
    }

    /// The batch was refused: the request was never accepted.
    pub(crate) fn unaccept(
        &mut self,
        client: ClientId,
        sequence: u64,
        id: MessageId,
        key: Option<([u8; 16], u64)>,
    ) {
        self.withdraw(client, sequence, id, key);
        self.refuse_for_room(client, sequence);
    }

    /// Takes back what was noted of a request; its answer is still owed.
    pub(crate) fn withdraw(
        &mut self,
        client: ClientId,
        sequence: u64,
        id: MessageId,
        key: Option<([u8; 16], u64)>,
    ) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.runs = remove_number(state.runs.drain(..), sequence).into();
        }
        if let Some((hash, number)) = key
            && let Some(state) = self.clients.keys.get_mut(&hash)
        {
            state.pending.remove(&number);
            state.runs = remove_number(state.runs.drain(..), number);
        }
        self.clients.followed.remove(&id);
        // A later batch may have stored the answer that is void now.
        self.correct(client, key.map(|(hash, _)| hash));
    }

    /// What is stored of a client, and of a key, is written anew.
    pub(crate) fn correct(&mut self, client: ClientId, key: Option<[u8; 16]>) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.dirty = true;
            self.clients.dirty_clients.insert(client);
        }
        if let Some(hash) = key
            && let Some(state) = self.clients.keys.get_mut(&hash)
        {
            state.dirty = true;
            self.clients.dirty_keys.insert(hash);
        }
    }

    pub(crate) fn refuse_for_room(&mut self, client: ClientId, sequence: u64) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.pending.remove(&sequence);
        }
        let text = "the disk is full; make room or wait until messages have left".to_owned();
        self.refuse_put(client, sequence, Outcome::STORE_FULL, text);
    }

    /// The message under an idempotency key is durable.
    pub(crate) fn key_durable(&mut self, hash: [u8; 16], number: u64) {
        if let Some(state) = self.clients.keys.get_mut(&hash) {
            state.pending.remove(&number);
        }
    }

    fn answer(&mut self, client: ClientId, sequence: u64, id: MessageId, repeated: bool) {
        let Some(conn) = self
            .clients
            .states
            .get(&client)
            .and_then(|state| state.conn)
        else {
            return;
        };
        let answers = self.clients.answers.entry(conn).or_default();
        if let Some(last) = answers.last_mut()
            && last.repeated == repeated
            && last.first_sequence.checked_add(u64::from(last.count)) == Some(sequence)
            && last.first_id.incarnation == id.incarnation
            && last.first_id.sequence.checked_add(u64::from(last.count)) == Some(id.sequence)
        {
            last.count += 1;
            return;
        }
        answers.push(Accepted {
            first_sequence: sequence,
            count: 1,
            first_id: id,
            repeated,
        });
    }

    /// Sends the answers and fates of this batch.
    pub(crate) fn flush_clients(&mut self) {
        for (conn, answers) in core::mem::take(&mut self.clients.answers) {
            for accepted in answers {
                let frame = NodeFrame::Accepted(accepted);
                self.outputs.push_back(Output::Client { conn, frame });
            }
        }
        for (conn, fates) in core::mem::take(&mut self.clients.fates) {
            for chunk in fates.chunks(CLIENT_RUNS_MAX) {
                let frame = NodeFrame::Fate(Fate {
                    runs: chunk.to_vec(),
                });
                self.outputs.push_back(Output::Client { conn, frame });
            }
        }
    }

    /// Forgets answers and keys that were not asked for within their time.
    pub(crate) fn purge_outcomes(&mut self) {
        let now = self.now.at;
        let retention = self.config.outcome_retention_ms;
        let old = |touched: Timestamp| now.ms_since(touched) > retention;
        let mut clients: Vec<_> = self
            .clients
            .states
            .iter()
            .filter(|(_, state)| state.conn.is_none() && state.pending.is_empty())
            .map(|(client, state)| (state.touched, *client))
            .collect();
        clients.sort_unstable();
        let surplus = self.clients.states.len().saturating_sub(REMEMBERED_MAX);
        for (n, (touched, client)) in clients.into_iter().enumerate() {
            if n < surplus || old(touched) {
                self.clients.states.remove(&client);
                self.clients.dirty_clients.remove(&client);
                self.commits.unset(client_key(client));
            }
        }
        let mut keys: Vec<_> = self
            .clients
            .keys
            .iter()
            .filter(|(_, state)| state.pending.is_empty())
            .map(|(hash, state)| (state.touched, *hash))
            .collect();
        let known = |key: &[u8; 16]| self.clients.keys.contains_key(key);
        for key in self.clients.digests.keys_without(known) {
            for forgotten in self.clients.digests.forget(key) {
                self.commits.unset(forgotten);
            }
        }
        keys.sort_unstable();
        let surplus = self.clients.keys.len().saturating_sub(REMEMBERED_MAX);
        for (n, (touched, hash)) in keys.into_iter().enumerate() {
            if n < surplus || old(touched) {
                let durable = self
                    .clients
                    .keys
                    .remove(&hash)
                    .is_some_and(|state| state.durable);
                self.clients.dirty_keys.remove(&hash);
                if durable {
                    self.commits.unset(idempotency_key(hash));
                }
                for forgotten in self.clients.digests.forget(hash) {
                    self.commits.unset(forgotten);
                }
            }
        }
    }

    /// Reads a client's answers or a key back. Returns whether the value was understood.
    pub(crate) fn recover_client(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        if let Some(understood) = self.clients.digests.recover(key, value) {
            return Some(understood);
        }
        let (client, id) = match (
            key.strip_prefix(&b"client/"[..]),
            key.strip_prefix(&b"idem/"[..]),
        ) {
            (Some(id), _) => (true, id),
            (_, Some(id)) => (false, id),
            _ => return None,
        };
        let Some((id, (at, digest, runs))) = <[u8; 16]>::try_from(id).ok().zip(decode_runs(value))
        else {
            return Some(false);
        };
        let touched = Timestamp(at);
        if client {
            let highest = runs.iter().map(|run| run.last).max().unwrap_or(0);
            let oldest = runs.first().map_or(0, |run| run.first);
            let forgotten_below = if runs.len() < CLIENT_RUNS_MAX {
                0
            } else {
                oldest
            };
            let runs = runs.into();
            let state = ClientState {
                highest,
                runs,
                forgotten_below,
                touched,
                ..ClientState::default()
            };
            self.clients.states.insert(ClientId(id), state);
        } else if !crate::broken!(self, forget_keys) {
            let state = KeyState {
                runs,
                digest,
                touched,
                durable: true,
                ..KeyState::default()
            };
            self.clients.keys.insert(id, state);
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    #[test]
    fn a_number_taken_out_splits_its_run() {
        let id = |sequence| MessageId {
            incarnation: Incarnation(1),
            sequence,
        };
        let run = Run {
            first: 1,
            last: 3,
            first_id: id(10),
        };
        let kept = remove_number([run].into_iter(), 2);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept.iter().find_map(|r| r.id_of(3)), Some(id(12)));
        assert_eq!(kept.iter().find_map(|r| r.id_of(2)), None);
    }
}
