//! Transactions of applications: puts and receives that happen together or not at all.
//!
//! Until the commit a transaction is memory: its puts are kept as they came and seen by nobody,
//! what it received is leased (W-LOC-7). It belongs to the connection on which it began and ends
//! with it (W-LOC-8), so a crash of the application, of the node or of the line between them
//! leaves nothing of it. What the commit does is in [`commit`](super::commit).

use std::collections::BTreeSet;

use qm_wire::local::{EndTransaction, NodeFrame, Put, TransactionEnded, Verdict};
use qm_wire::{Class, ClientId, MessageId, Outcome, Text};

use super::answers::hash16;
use crate::engine::{Engine, Timer};
use crate::io::{ConnId, Output};
use crate::limits::{
    TRANSACTION_BYTES_TOTAL_MAX, TRANSACTION_MESSAGES_MAX, TRANSACTIONS_MAX,
    TRANSACTIONS_PER_CONNECTION_MAX,
};
use crate::time::Timestamp;

/// What a message takes in a batch beside its frame, at most: its stored head's own fields, its
/// name in the store, its share of the answers.
const MESSAGE_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// When it is aborted at the latest.
    deadline: Timestamp,
    pub(super) puts: Vec<Put>,
    /// What the puts will take in a batch for the store.
    pub(super) bytes: usize,
    /// What it received: number of the queue and lookup id.
    pub(super) taken: BTreeSet<(u32, u64)>,
    /// Idempotency keys that its puts carry.
    keys: BTreeSet<KeyNumber>,
    /// Why it can only be aborted.
    doomed: Option<(Outcome, String)>,
}

impl Transaction {
    fn len(&self) -> usize {
        self.puts.len().saturating_add(self.taken.len())
    }
}

/// Hash of an idempotency key, and a number under it.
type KeyNumber = ([u8; 16], u64);

/// An application's mistake or a limit, in a word and a sentence.
pub(super) type Refusal = (Outcome, String);

fn not_open(transaction: u64) -> Refusal {
    let text = format!(
        "transaction {transaction} is not open on this connection: it was aborted, or too many are; nothing of it happened"
    );
    (Outcome::TRANSACTION_ABORTED, text)
}

fn too_large() -> Refusal {
    let text = format!(
        "a transaction holds at most {TRANSACTION_MESSAGES_MAX} messages, sent and received; commit smaller ones"
    );
    (Outcome::TRANSACTION_TOO_LARGE, text)
}

impl Engine {
    /// Finds a transaction of a connection, or begins it.
    fn open_transaction(
        &mut self,
        conn: ConnId,
        client: ClientId,
        transaction: u64,
    ) -> Result<&mut Transaction, Refusal> {
        let deadline = self.now.at.plus_ms(self.config.transaction_ms_max);
        let key = (conn, transaction);
        if !self.clients.transactions.contains_key(&key) {
            let last = self
                .clients
                .states
                .get_mut(&client)
                .map(|state| &mut state.last_transaction);
            let Some(last) = last.filter(|last| **last < transaction) else {
                return Err(not_open(transaction));
            };
            let range = (conn, 0)..=(conn, u64::MAX);
            let open = self.clients.transactions.range(range).count();
            if open >= TRANSACTIONS_PER_CONNECTION_MAX
                || self.clients.transactions.len() >= TRANSACTIONS_MAX
            {
                let text = "too many transactions are open; commit or abort some first";
                return Err((Outcome::BUSY, text.to_owned()));
            }
            *last = transaction;
            self.arm(deadline, Timer::Transaction(conn, transaction));
        }
        let begun = self.clients.transactions.entry(key).or_insert(Transaction {
            deadline,
            puts: Vec::new(),
            bytes: 0,
            taken: BTreeSet::new(),
            keys: BTreeSet::new(),
            doomed: None,
        });
        Ok(begun)
    }

    /// Takes a put into its transaction. One that is refused leaves it to be aborted.
    pub(super) fn take_in(
        &mut self,
        conn: ConnId,
        client: ClientId,
        transaction: u64,
        put: Put,
    ) -> Result<(), Refusal> {
        if self
            .open_transaction(conn, client, transaction)?
            .doomed
            .is_some()
        {
            return Ok(());
        }
        let checked = self.check_taken_in(conn, transaction, &put);
        let found = self.clients.transactions.get_mut(&(conn, transaction));
        match (checked, found) {
            (Ok((bytes, key)), Some(found)) => {
                found.bytes = found.bytes.saturating_add(bytes);
                found.keys.extend(key);
                found.puts.push(put);
                let sum = &mut self.clients.transaction_bytes;
                *sum = sum.saturating_add(bytes);
                Ok(())
            }
            (Err((outcome, text)), Some(found)) => {
                let which = found.puts.len().saturating_add(1);
                let text = format!("message {which} of the transaction: {text}");
                found.doomed = Some((outcome, text.clone()));
                Err((outcome, text))
            }
            (_, None) => Ok(()),
        }
    }

    /// Whether a put may be in its transaction; what it takes in a batch, and its key.
    fn check_taken_in(
        &mut self,
        conn: ConnId,
        transaction: u64,
        put: &Put,
    ) -> Result<(usize, Option<KeyNumber>), Refusal> {
        if put.class == Class::Express {
            let text = "a transaction is kept on disk: send its messages as recoverable or transactional ones";
            return Err((Outcome::BAD_REQUEST, text.to_owned()));
        }
        let target = self.check_put(put)?;
        self.check_room(put, &target)?;
        // What cannot be encoded is told now, not at the commit, which makes the message.
        self.check_envelope(put, &target)?;
        let bytes = put.encoded_len().saturating_add(MESSAGE_BYTES);
        let key = put.idempotency.as_ref();
        let key = key.map(|key| (hash16(&[&key.key]), key.number.unwrap_or(0)));
        let Some(found) = self.clients.transactions.get(&(conn, transaction)) else {
            return Err(not_open(transaction));
        };
        if found.len() >= TRANSACTION_MESSAGES_MAX {
            return Err(too_large());
        }
        let most = self.config.batch_bytes_max;
        if !found.puts.is_empty() && found.bytes.saturating_add(bytes) > most {
            let text = format!(
                "a transaction of several messages holds at most {most} bytes; commit smaller ones"
            );
            return Err((Outcome::TRANSACTION_TOO_LARGE, text));
        }
        if self.clients.transaction_bytes.saturating_add(bytes) > TRANSACTION_BYTES_TOTAL_MAX {
            let text = "the open transactions of all applications fill the memory for them; commit or try again later";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        if key.is_some_and(|key| found.keys.contains(&key)) {
            let text = "this transaction has a message under this idempotency key already";
            return Err((Outcome::IDEMPOTENCY_CONFLICT, text.to_owned()));
        }
        Ok((bytes, key))
    }

    /// Whether a transaction may receive; begins it when it is new.
    pub(crate) fn begin_receiving(
        &mut self,
        conn: ConnId,
        transaction: u64,
    ) -> Result<(), Refusal> {
        let Some(client) = self.clients.client_of(conn) else {
            let text = "a transaction before the hello";
            return Err((Outcome::BAD_REQUEST, text.to_owned()));
        };
        match &self.open_transaction(conn, client, transaction)?.doomed {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }

    /// Whether a transaction may receive one more message.
    pub(crate) fn may_take(&self, conn: ConnId, transaction: u64) -> Result<(), Refusal> {
        match self.clients.transactions.get(&(conn, transaction)) {
            None => Err(not_open(transaction)),
            Some(found) if found.len() >= TRANSACTION_MESSAGES_MAX => Err(too_large()),
            Some(_) => Ok(()),
        }
    }

    /// A message was handed out to a transaction.
    pub(crate) fn taken(&mut self, conn: ConnId, transaction: u64, number: u32, lookup: u64) {
        if let Some(found) = self.clients.transactions.get_mut(&(conn, transaction)) {
            found.taken.insert((number, lookup));
        }
    }

    /// A message was given back that a transaction had received.
    pub(crate) fn untaken(&mut self, conn: ConnId, transaction: u64, number: u32, lookup: u64) {
        if let Some(found) = self.clients.transactions.get_mut(&(conn, transaction)) {
            found.taken.remove(&(number, lookup));
        }
    }

    /// One that comes while the node stops is not answered, as a put is not: the transaction ends
    /// with the connection, and whoever asks for its end in the next life is told that.
    pub(super) fn on_end_transaction(&mut self, conn: ConnId, end: EndTransaction) {
        if self.stopping {
            return;
        }
        let Some(client) = self.clients.client_of(conn) else {
            return self.close_client(conn, "the end of a transaction before the hello");
        };
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        state.touched = self.now.at;
        if end.sequence <= state.highest {
            return self.end_again(conn, client, end);
        }
        state.highest = end.sequence;
        state.last_transaction = state.last_transaction.max(end.transaction);
        let found = self.take_transaction(conn, end.transaction);
        if !end.commit {
            if let Some(found) = found {
                self.give_back_taken(conn, &found);
            }
            return self.answer_end(conn, end, None, false, None);
        }
        let Some(found) = found else {
            return self.refuse_end(Some(conn), client, end, not_open(end.transaction));
        };
        let done = match found.doomed.clone() {
            Some(refusal) => Err(refusal),
            None => self.commit(conn, client, end, &found),
        };
        if let Err(refusal) = done {
            self.give_back_taken(conn, &found);
            self.refuse_end(Some(conn), client, end, refusal);
        }
    }

    /// An end seen before: the answer it got then, or none while it is being stored. What was not
    /// committed then never will be, whatever still arrives on an older connection.
    fn end_again(&mut self, conn: ConnId, client: ClientId, end: EndTransaction) {
        let Some(state) = self.clients.states.get_mut(&client) else {
            return;
        };
        if let Some(asked) = state.pending.get_mut(&end.sequence) {
            *asked = conn;
            return;
        }
        self.counters.repeated_requests += 1;
        crate::reached!(self, RequestRepeated);
        let id = state.answered.id_of(end.sequence);
        if id.is_some() || !end.commit {
            return self.answer_end(conn, end, id, true, None);
        }
        let refused = state
            .refusals
            .iter()
            .find(|(refused, _)| *refused == end.sequence);
        let refusal = match refused {
            Some((_, outcome)) => (*outcome, "refused before, for the same reason".to_owned()),
            None if end.sequence < state.answered.forgotten_below() => {
                let text = "the answer to this old request is no longer kept";
                (Outcome::BAD_REQUEST, text.to_owned())
            }
            None => not_open(end.transaction),
        };
        self.answer_end(conn, end, None, true, Some(refusal));
    }

    /// Remembers that a transaction was not committed, and tells it where its end came last if that
    /// connection lives.
    pub(crate) fn refuse_end(
        &mut self,
        conn: Option<ConnId>,
        client: ClientId,
        end: EndTransaction,
        refusal: Refusal,
    ) {
        self.counters.refused += 1;
        self.remember_refusal_of(client, end.sequence, refusal.0);
        if let Some(conn) = conn {
            self.answer_end(conn, end, None, false, Some(refusal));
        }
    }

    pub(super) fn answer_end(
        &mut self,
        conn: ConnId,
        end: EndTransaction,
        committed: Option<MessageId>,
        repeated: bool,
        refusal: Option<Refusal>,
    ) {
        let (outcome, text) = refusal.map_or((None, Text::EMPTY), |(outcome, text)| {
            (Some(outcome), Text::from(text))
        });
        let frame = NodeFrame::TransactionEnded(TransactionEnded {
            sequence: end.sequence,
            transaction: end.transaction,
            committed,
            repeated,
            outcome,
            text,
        });
        self.outputs.push_back(Output::Client { conn, frame });
    }

    /// A transaction is open no more; what it received is still leased. Requests that wait for
    /// messages for it are answered.
    fn take_transaction(&mut self, conn: ConnId, transaction: u64) -> Option<Transaction> {
        let found = self.clients.transactions.remove(&(conn, transaction))?;
        let timer = Timer::Transaction(conn, transaction);
        self.timers.remove(&(found.deadline, timer));
        let sum = &mut self.clients.transaction_bytes;
        *sum = sum.saturating_sub(found.bytes);
        let (outcome, text) = not_open(transaction);
        for request in self.forget_waiters_of(conn, transaction) {
            self.receive_done(conn, request, 0, Some(outcome), text.clone());
        }
        Some(found)
    }

    fn give_back_taken(&mut self, conn: ConnId, found: &Transaction) {
        for (number, lookup) in found.taken.iter().rev() {
            let held = self.locals.get(number).and_then(|q| q.leased.get(lookup));
            if held.is_some_and(|held| held.conn == conn && !held.committing) {
                self.settle_one(*number, *lookup, Verdict::GiveBack);
            }
        }
    }

    /// A transaction has been open for as long as one may.
    pub(crate) fn on_transaction_timer(&mut self, conn: ConnId, transaction: u64) {
        let Some(found) = self.take_transaction(conn, transaction) else {
            return;
        };
        self.counters.transactions_timed_out += 1;
        self.give_back_taken(conn, &found);
    }

    /// The connection is gone, and with it its transactions. What they received is given back with
    /// everything else that the connection held.
    pub(super) fn drop_transactions(&mut self, conn: ConnId) {
        let range = (conn, 0)..=(conn, u64::MAX);
        let open: Vec<_> = self
            .clients
            .transactions
            .range(range)
            .map(|(key, _)| key.1)
            .collect();
        for transaction in open {
            self.take_transaction(conn, transaction);
        }
    }

    /// Whether every open transaction is of a connection that is there, and what they take is what
    /// is counted.
    pub(crate) fn audit_transactions(&self) -> Result<(), String> {
        let open = &self.clients.transactions;
        let bytes: usize = open.values().map(|found| found.bytes).sum();
        if bytes != self.clients.transaction_bytes {
            let counted = self.clients.transaction_bytes;
            return Err(format!(
                "transactions take {bytes} bytes, counted {counted}"
            ));
        }
        match open
            .keys()
            .find(|(conn, _)| !self.clients.is_connected(*conn))
        {
            Some((conn, number)) => Err(format!(
                "transaction {number} of connection {} outlived it",
                conn.0
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::local::{ClientFrame, ClientHello};

    use super::*;
    use crate::io::{Input, Output};
    use crate::time::Now;

    #[test]
    fn the_messages_of_all_open_transactions_take_so_many_bytes() {
        for (spare, outcome) in [(1 << 20, None), (10, Some(Outcome::BUSY))] {
            let mut engine = crate::testing::engine();
            engine.create_queue(crate::LocalSettings::new("orders".parse().unwrap()));
            engine.clients.transaction_bytes = TRANSACTION_BYTES_TOTAL_MAX - spare;
            let mut put = Put::new(1, "orders", bytes::Bytes::from_static(b"x"));
            put.transaction = Some(7);
            let hello = ClientHello {
                protocol: 1,
                client: ClientId([7; 16]),
                program: "test".into(),
            };
            let end = EndTransaction {
                sequence: 2,
                transaction: 7,
                commit: true,
            };
            let conn = ConnId(1);
            for frame in [
                ClientFrame::Hello(hello),
                ClientFrame::Put(put),
                ClientFrame::EndTransaction(end),
            ] {
                engine.handle(Now::default(), Input::Client { conn, frame });
            }
            let mut ended = None;
            while let Some(output) = engine.poll(Now::default()) {
                match output {
                    Output::Persist { ticket, .. } => {
                        engine.handle(Now::default(), Input::Persisted { ticket });
                    }
                    Output::Client {
                        frame: NodeFrame::TransactionEnded(told),
                        ..
                    } => ended = Some(told),
                    _ => {}
                }
            }
            let ended = ended.unwrap();
            assert_eq!(
                (ended.committed.is_none(), ended.outcome),
                (spare == 10, outcome)
            );
        }
    }
}
