//! Answers to requests of applications, kept in the commit of what they answer, and given again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use qm_wire::limits::FATE_RUNS_MAX;
use qm_wire::local::{Accepted, Fate, NodeFrame, Put, Refused};
use qm_wire::{Class, ClientId, MessageId, Outcome, Text};

use super::keys::{block_of, name_of};
use super::pages::{Changes, Pages, Saving, named, remove_number, without};
use crate::commits::PutAt;
use crate::engine::Engine;
use crate::history::What;
use crate::io::{ConnId, Event, Output, StoreOp};
use crate::limits::{CLIENT_REFUSALS_MAX, REMEMBERED_MAX};
use crate::record::{Run, decode_answers, encode_runs};
use crate::time::Timestamp;

/// What is remembered of one application.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    pub(super) conn: Option<ConnId>,
    pub(super) highest: u64,
    pub(super) answered: Pages,
    pub(super) refusals: VecDeque<(u64, Outcome)>,
    /// Accepted and not durable yet, and the connection on which each was asked for last: only
    /// there the application knows what is answered (W-LOC-2).
    pub(super) pending: BTreeMap<u64, ConnId>,
    pub(super) touched: Timestamp,
    /// Highest number of a transaction that it began.
    pub(super) last_transaction: u64,
}

pub(super) fn hash16(parts: &[&[u8]]) -> [u8; 16] {
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
    /// A request seen before: the answer it got then, or none while it is being stored.
    pub(super) fn answer_again(&mut self, conn: ConnId, client: ClientId, put: Put) {
        let sequence = put.sequence;
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        if let Some(asked) = state.pending.get_mut(&sequence) {
            *asked = conn;
            return;
        }
        self.counters.repeated_requests += 1;
        crate::reached!(self, RequestRepeated);
        if let Some(id) = state.answered.id_of(sequence) {
            self.follow_again(client, &put, id);
            return self.answer(conn, sequence, id, true);
        }
        if put.transaction.is_some() {
            // The end of its transaction is its answer.
            return;
        }
        let refused = state
            .refusals
            .iter()
            .find(|(refused, _)| *refused == sequence)
            .map(|(_, outcome)| *outcome);
        if let Some(outcome) = refused {
            let text = "refused before, for the same reason".to_owned();
            return self.send_refusal(conn, sequence, outcome, text);
        }
        if sequence >= state.answered.forgotten_below() {
            // All that was accepted is remembered from here on: this one never was, its refusal
            // fell with an earlier life of the node.
            if let Err((outcome, text)) = self.accept(conn, client, put) {
                self.refuse_put(Some(conn), client, sequence, outcome, text);
            }
            return;
        }
        let text = "the answer to this old request is no longer kept; an idempotency key makes repeating safe";
        self.send_refusal(conn, sequence, Outcome::BAD_REQUEST, text.to_owned());
    }

    /// Refuses a request for good, and tells so where it came last if that connection lives.
    pub(super) fn refuse_put(
        &mut self,
        conn: Option<ConnId>,
        client: ClientId,
        sequence: u64,
        outcome: Outcome,
        text: String,
    ) {
        self.counters.refused += 1;
        self.remember_refusal_of(client, sequence, outcome);
        if let Some(conn) = conn {
            self.send_refusal(conn, sequence, outcome, text);
        }
    }

    pub(super) fn remember_refusal_of(
        &mut self,
        client: ClientId,
        sequence: u64,
        outcome: Outcome,
    ) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            if state.refusals.len() >= CLIENT_REFUSALS_MAX {
                state.refusals.pop_front();
            }
            state.refusals.push_back((sequence, outcome));
        }
    }

    fn send_refusal(&mut self, conn: ConnId, sequence: u64, outcome: Outcome, text: String) {
        let text = Text::from(text);
        let frame = NodeFrame::Refused(Refused {
            sequence,
            outcome,
            text,
        });
        self.outputs.push_back(Output::Client { conn, frame });
    }

    pub(super) fn note_pending(
        &mut self,
        conn: ConnId,
        client: ClientId,
        sequence: u64,
        id: MessageId,
    ) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.answered.note(sequence, id, true);
            state.pending.insert(sequence, conn);
            if self.clients.dirty_clients.insert(client) {
                // So that a batch is closed before the answers make it too large.
                self.commits.expect(state.answered.dirty_bytes());
            }
        }
    }

    /// A request is not on its way to the disk any more. Returns the connection on which it is to
    /// be answered, when it lives: on another one the application has yet to repeat it.
    pub(crate) fn owed(&mut self, client: ClientId, sequence: u64) -> Option<ConnId> {
        let state = self.clients.states.get_mut(&client)?;
        let conn = state.pending.remove(&sequence)?;
        self.clients.is_connected(conn).then_some(conn)
    }

    /// Adds the answers of this batch to it.
    ///
    /// What is stored must never speak for a message that may yet be refused. So while something
    /// is pending an answer goes with messages, in batches that are refused when an earlier one
    /// was, and waits if there are none. What is left to say after an earlier batch was refused
    /// leaves everything out that is pending, because it will be refused as well, and goes with the
    /// removals, which need no room.
    pub(crate) fn save_clients(&mut self) {
        let puts = self.commits.has_puts();
        if crate::broken!(self, answer_apart) && puts {
            // With the next batch that puts nothing.
            return;
        }
        let overtaking = self.commits.has_overtaking();
        let Changes {
            mut values,
            mut corrections,
            mut removals,
        } = Changes::default();
        for client in core::mem::take(&mut self.clients.dirty_clients) {
            let Some(state) = self.clients.states.get_mut(&client) else {
                continue;
            };
            let saving = Saving {
                puts,
                safe: state.pending.is_empty(),
                overtaking,
            };
            let pending = state.pending.keys();
            let (changes, later) = state.answered.save(client, state.touched, saving, pending);
            values.extend(changes.values);
            corrections.extend(changes.corrections);
            removals.extend(changes.removals);
            if later {
                self.clients.dirty_clients.insert(client);
            }
        }
        for block in core::mem::take(&mut self.clients.dirty_keys) {
            let Some(state) = self.clients.keys.get_mut(&block) else {
                continue;
            };
            let safe = state.pending.is_empty();
            let stale = core::mem::take(&mut state.stale) && overtaking;
            let encode = |runs: &[Run]| encode_runs(state.touched.0, state.digest, runs.iter());
            if stale && (puts || !safe) {
                let runs = without(&state.runs, state.pending.iter());
                corrections.push((name_of(block), encode(&runs)));
            }
            if puts || safe {
                values.push((name_of(block), encode(&state.runs)));
                state.dirty = false;
            } else {
                self.clients.dirty_keys.insert(block);
            }
        }
        values.extend(self.clients.digests.take_dirty());
        for (key, value) in corrections {
            self.commits.set(key, value);
        }
        for (key, value) in values {
            if puts {
                self.commits.put(StoreOp::Set { key, value });
            } else {
                self.commits.set(key, value);
            }
        }
        for key in removals {
            if puts {
                self.commits.put(StoreOp::Unset { key });
            } else {
                self.commits.unset(key);
            }
        }
    }

    /// An application's message is safe to its class.
    pub(crate) fn confirm(
        &mut self,
        client: ClientId,
        id: MessageId,
        put: PutAt,
        local: bool,
        class: Class,
    ) {
        self.counters.accepted += 1;
        self.note(self.me.qm, id, What::Accepted { class, client });
        self.event(Event::Accepted { id });
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
            .get(&block_of(hash, number))
            .is_some_and(|state| state.runs.iter().any(|run| run.id_of(number) == Some(id)));
        if !held {
            return self.unaccept(client, sequence, id, None);
        }
        if let Some(conn) = self.owed(client, sequence) {
            self.answer(conn, sequence, id, true);
        }
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
            state.answered.withdraw(sequence);
        }
        if let Some((hash, number)) = key
            && let Some(state) = self.clients.keys.get_mut(&block_of(hash, number))
        {
            state.pending.remove(&number);
            state.runs = remove_number(state.runs.drain(..), number);
        }
        self.clients.followed.remove(&id);
        // A later batch may have stored the answer that is void now.
        self.clients.dirty_clients.insert(client);
        self.correct_key(key);
    }

    /// What is stored of a client, and of a key, is written anew.
    pub(crate) fn correct(&mut self, client: ClientId, key: Option<([u8; 16], u64)>) {
        if let Some(state) = self.clients.states.get_mut(&client) {
            state.answered.doubt();
            self.clients.dirty_clients.insert(client);
        }
        self.correct_key(key);
    }

    fn correct_key(&mut self, key: Option<([u8; 16], u64)>) {
        if let Some((hash, number)) = key
            && let Some(state) = self.clients.keys.get_mut(&block_of(hash, number))
        {
            state.dirty = true;
            state.stale = true;
            self.clients.dirty_keys.insert(block_of(hash, number));
        }
    }

    pub(crate) fn refuse_for_room(&mut self, client: ClientId, sequence: u64) {
        let conn = self.owed(client, sequence);
        let text = "the disk is full; make room or wait until messages have left".to_owned();
        self.refuse_put(conn, client, sequence, Outcome::STORE_FULL, text);
    }

    /// The message under an idempotency key is durable.
    pub(crate) fn key_durable(&mut self, hash: [u8; 16], number: u64) {
        if let Some(state) = self.clients.keys.get_mut(&block_of(hash, number)) {
            state.pending.remove(&number);
        }
    }

    pub(crate) fn answer(&mut self, conn: ConnId, sequence: u64, id: MessageId, repeated: bool) {
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
            for chunk in fates.chunks(FATE_RUNS_MAX) {
                let frame = NodeFrame::Fate(Fate {
                    runs: chunk.to_vec(),
                });
                self.outputs.push_back(Output::Client { conn, frame });
            }
        }
    }

    /// Forgets answers and keys that were not asked for within their time. Not while a request is
    /// being taken: it may close a batch.
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
                self.clients.dirty_clients.remove(&client);
                if let Some(state) = self.clients.states.remove(&client) {
                    for name in state.answered.names(client) {
                        self.commits.unset(name);
                    }
                }
                self.seal_if_large();
            }
        }
        self.purge_keys();
    }

    /// Reads a client's answers or a key back. Returns whether the value was understood.
    pub(crate) fn recover_client(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        if let Some(understood) = self.clients.digests.recover(key, value) {
            return Some(understood);
        }
        let Some(page) = named(key) else {
            return self.recover_key(key, value);
        };
        let (Some((client, page)), Some(answers)) = (page, decode_answers(value)) else {
            return Some(false);
        };
        let state = self.clients.states.entry(client).or_default();
        state.touched = state.touched.max(Timestamp(answers.at_us));
        state.highest = state.highest.max(state.answered.recover(page, answers));
        Some(true)
    }
}
