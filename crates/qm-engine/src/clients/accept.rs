//! What an application hands over becomes a message: checked, named, put where it belongs.

use bytes::BytesMut;
use qm_wire::local::{Follow, Put};
use qm_wire::{AckWishes, Class, ClientId, Envelope, MessageId, Outcome, QmId, Salt, Tag};

use super::Followed;
use super::answers::hash16;
use super::keys::block_of;
use super::pages::RUN_BYTES;
use crate::backlog::Message;
use crate::commits::{PutAt, Then};
use crate::destination::Target;
use crate::digests::content_digest;
use crate::engine::{Engine, Timer};
use crate::io::{ConnId, StoreOp};
use crate::limits::{REMEMBERED_MAX, REMEMBERED_SLACK_MAX};
use crate::reports::With;

/// A message that was accepted under an idempotency key.
pub(super) struct Known {
    pub(super) id: MessageId,
    /// It is on its way to the disk.
    pub(super) pending: bool,
    hash: [u8; 16],
    number: u64,
}

/// A message that is ready to be put where it belongs.
pub(super) struct Draft {
    pub(super) message: Message,
    target: Target,
}

impl Engine {
    /// A put that comes while the node stops is neither answered nor noted: its application asks
    /// again when the node runs, as after a crash. A refusal would be final, and what the next life
    /// accepts behind it would leave a hole.
    pub(super) fn on_put(&mut self, conn: ConnId, client: ClientId, put: Put) {
        if self.stopping {
            return;
        }
        let sequence = put.sequence;
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        state.touched = self.now.at;
        if sequence <= state.highest {
            return self.answer_again(conn, client, put);
        }
        state.highest = sequence;
        let in_transaction = put.transaction.is_some();
        match self.accept(conn, client, put) {
            Ok(()) => {}
            // The end of the transaction tells (W-LOC-8).
            Err(_) if in_transaction => self.counters.refused += 1,
            Err((outcome, text)) => self.refuse_put(Some(conn), client, sequence, outcome, text),
        }
    }

    pub(super) fn accept(
        &mut self,
        conn: ConnId,
        client: ClientId,
        put: Put,
    ) -> Result<(), (Outcome, String)> {
        if let Some(transaction) = put.transaction {
            return self.take_in(conn, client, transaction, put);
        }
        let target = self.check_put(&put)?;
        if let Some(answered) = self.check_idempotency(conn, client, &put)? {
            return Ok(answered);
        }
        self.check_room(&put, &target)?;
        self.check_following(&put, 1)?;
        let draft = self.draft(&put, target, self.next_sequence)?;
        self.next_sequence += 1;
        self.place(conn, client, &put, draft);
        Ok(())
    }

    /// What can be said of a message without looking at what is full.
    pub(super) fn check_put(&mut self, put: &Put) -> Result<Target, (Outcome, String)> {
        if put.body.len() > self.config.body_bytes_max as usize {
            let (have, most) = (put.body.len(), self.config.body_bytes_max);
            let text = format!("the body has {have} bytes, the limit is {most}");
            return Err((Outcome::BODY_TOO_LARGE, text));
        }
        let target = self.resolve(&put.destination)?;
        self.check_class(put.class, &target)?;
        self.check_final_wish(put, &target)?;
        if put.ack_wishes != AckWishes::NONE && !put.admin_queue.is_empty() {
            self.check_admin_queue(&put.admin_queue)?;
        }
        Ok(target)
    }

    /// Whether this node can wait for what becomes of a message elsewhere, if that is wished.
    fn check_final_wish(&self, put: &Put, target: &Target) -> Result<(), (Outcome, String)> {
        if matches!(target, Target::Local(_)) {
            return Ok(());
        }
        let wishes = put.ack_wishes;
        let wished = wishes.contains(AckWishes::POSITIVE_RECEIVE)
            || wishes.contains(AckWishes::NEGATIVE_RECEIVE);
        let follows = put.follow == Follow::Received;
        if follows && !wished && wishes != AckWishes::NONE {
            let text = "waiting for received asks the destination for what receive acknowledgements tell, too; wish for these (--ack receive), or wait for delivered";
            return Err((Outcome::BAD_REQUEST, text.to_owned()));
        }
        if (wished || follows) && !self.awaiting.has_room() {
            let text = "of too many messages it is not known yet what became of them at their destinations; wait, or send without receive acknowledgements";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        Ok(())
    }

    /// Whether the fates of so many more messages can be followed.
    pub(super) fn check_following(
        &mut self,
        put: &Put,
        messages: usize,
    ) -> Result<(), (Outcome, String)> {
        if put.follow != Follow::None && !self.clients.may_follow(messages, self.now.at) {
            let text = "too many messages are being followed; wait, or send without following";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        Ok(())
    }

    /// Whether a put can be encoded as a message, whatever its sequence will be.
    pub(super) fn check_envelope(
        &self,
        put: &Put,
        target: &Target,
    ) -> Result<(), (Outcome, String)> {
        let id = MessageId {
            incarnation: self.incarnation,
            sequence: self.next_sequence,
        };
        let own = self.minting_for(target);
        // The salt is drawn when the message is made.
        let envelope = self.envelope_of(put, (own, id), Salt([0; 16]), target)?;
        let checked = envelope.check();
        checked.map_err(|error| (Outcome::BAD_REQUEST, error.to_string()))
    }

    /// The message that a put becomes under this sequence; nothing is changed yet.
    pub(super) fn draft(
        &mut self,
        put: &Put,
        target: Target,
        sequence: u64,
    ) -> Result<Draft, (Outcome, String)> {
        let id = MessageId {
            incarnation: self.incarnation,
            sequence,
        };
        let own = self.minting_for(&target);
        let salt = self.batch_salt();
        let envelope = self.envelope_of(put, (own, id), salt, &target)?;
        let mut encoded = BytesMut::new();
        envelope
            .encode(&mut encoded)
            .map_err(|error| (Outcome::BAD_REQUEST, error.to_string()))?;
        let encoded = encoded.freeze();
        let message = Message {
            position: 0,
            source: own,
            id,
            tag: Tag::compute(&encoded, &envelope.salt, &put.body),
            class: put.class,
            flags: put.flags,
            at: match target {
                Target::Local(_) => self.stamp(),
                Target::Remote(..) => self.now.at,
            },
            wall_us: self.now.wall_us,
            reach_left_ms: envelope.time_to_reach_queue_ms,
            receive_left_ms: envelope.time_to_be_received_ms,
            aborts: 0,
            transmitted: false,
            envelope: encoded,
            body: put.body.clone(),
        };
        Ok(Draft { message, target })
    }

    /// Puts a message where it belongs, in the batch being gathered, and notes what is to be
    /// answered.
    pub(super) fn place(&mut self, conn: ConnId, client: ClientId, put: &Put, draft: Draft) {
        let Draft { message, target } = draft;
        let id = message.id;
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
        if local {
            let (durable, with) = match put.class {
                Class::Express => (false, With::Nothing),
                Class::Recoverable | Class::Transactional => (true, With::Acceptance),
            };
            self.report_arrival_here(&message, durable, with);
        }
        let at = match target {
            Target::Local(number) => self.put_local(number, put.priority.get(), message),
            Target::Remote(key, queue) if put.class == Class::Transactional => {
                self.mint_transactional(&key, &queue, message)
            }
            Target::Remote(key, queue) => {
                let number = self.out_queue(message.source, &key, &queue);
                self.put_out(number, put.priority.get(), message)
            }
        };
        if put.class.is_durable() {
            self.note_pending(conn, client, put.sequence, id);
            let sequence = put.sequence;
            let then = Then::Accepted {
                put: at,
                id,
                client,
                sequence,
                idempotency,
                local,
                class: put.class,
                transaction: put.transaction.is_some(),
            };
            self.commits.after_putting(then);
        } else {
            if let Some(state) = self.clients.states.get_mut(&client)
                && state.answered.note(put.sequence, id, false)
            {
                self.clients.dirty_clients.insert(client);
            }
            self.confirm(client, id, at, local, put.class);
            self.answer(conn, put.sequence, id, false);
        }
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
        &self,
        put: &Put,
        (own, id): (QmId, MessageId),
        salt: Salt,
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
        let mut envelope = Envelope::new(own, id, salt, put.class, queue);
        envelope.priority = put.priority;
        envelope.flags = put.flags;
        envelope.ack_wishes = put.ack_wishes;
        if put.follow == Follow::Received
            && put.ack_wishes == AckWishes::NONE
            && matches!(target, Target::Remote(..))
        {
            // So that its destination tells how it ends there.
            envelope.ack_wishes = AckWishes::POSITIVE_RECEIVE.with(AckWishes::NEGATIVE_RECEIVE);
        }
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
        conn: ConnId,
        client: ClientId,
        put: &Put,
    ) -> Result<Option<()>, (Outcome, String)> {
        let Some(Known {
            id,
            pending,
            hash,
            number,
        }) = self.known_under_key(put)?
        else {
            return Ok(None);
        };
        self.counters.repeated_requests += 1;
        crate::reached!(self, KeyRepeated);
        if pending {
            crate::reached!(self, KeyPending);
            // The first one is on its way to the disk: this answer leaves after it.
            self.note_pending(conn, client, put.sequence, id);
            let sequence = put.sequence;
            self.commits.after_putting(Then::Repeated {
                client,
                sequence,
                id,
                key: (hash, number),
            });
        } else {
            if let Some(state) = self.clients.states.get_mut(&client)
                && state.answered.note(put.sequence, id, false)
            {
                self.clients.dirty_clients.insert(client);
            }
            self.follow_again(client, put, id);
            self.answer(conn, put.sequence, id, true);
        }
        Ok(Some(()))
    }

    /// The message that was accepted under the idempotency key of a put, whoever put it.
    pub(super) fn known_under_key(
        &mut self,
        put: &Put,
    ) -> Result<Option<Known>, (Outcome, String)> {
        let Some(key) = &put.idempotency else {
            return Ok(None);
        };
        let hash = hash16(&[&key.key]);
        let number = key.number.unwrap_or(0);
        let block = block_of(hash, number);
        let Some(state) = self.clients.keys.get_mut(&block) else {
            return self.check_forgotten(block).map(|()| None);
        };
        state.touched = self.now.at;
        let Some(id) = state.id_of(number) else {
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
        Ok(Some(Known {
            id,
            pending,
            hash,
            number,
        }))
    }

    fn note_key(&mut self, put: &Put, id: MessageId) -> Option<([u8; 16], u64)> {
        let key = put.idempotency.as_ref()?;
        let hash = hash16(&[&key.key]);
        if self.clients.keys.len() >= REMEMBERED_MAX + REMEMBERED_SLACK_MAX {
            self.arm(self.now.at, Timer::Outcomes);
        }
        let number = key.number.unwrap_or(0);
        let block = block_of(hash, number);
        if let Some(forgotten) = self.clients.room_for_block(block) {
            self.commits.unset(forgotten);
        }
        let state = self.clients.keys.entry(block).or_default();
        state.touched = self.now.at;
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
            if self.clients.dirty_keys.insert(block) {
                self.commits.expect(64 + state.runs.len() * RUN_BYTES);
            }
        }
        Some((hash, number))
    }
}
