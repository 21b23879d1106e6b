//! The commit of a transaction: its messages, the removal of what it received and its answer, in
//! one batch of the store.
//!
//! What was received is not removed in that batch but noted as taken in it, and removed when the
//! batch stands. A disk that took the batch although it had refused an earlier one makes the commit
//! void (see [`undone`](crate::undone)), and a removal could not be taken back. After a crash what
//! is noted counts as removed.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::local::EndTransaction;
use qm_wire::{ClientId, MessageId, MessageKey, Outcome};

use super::transactions::{Refusal, Transaction};
use crate::commits::Then;
use crate::destination::Target;
use crate::engine::Engine;
use crate::io::{ConnId, StoreOp, StreamId};
use crate::limits::TRANSACTION_MESSAGES_MAX;
use crate::queues::split_lookup;
use crate::record::prefixed;
use crate::reports::ReportKey;

/// Names of the values that list what transactions took.
const TAKEN: &[u8] = b"taken/";
const TAKEN_VERSION: u8 = 1;

/// A commit that is on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) client: ClientId,
    pub(crate) end: EndTransaction,
    pub(crate) id: MessageId,
    /// Number of the queue and lookup id of what it received.
    pub(crate) taken: Vec<(u32, u64)>,
    /// Whether what was taken is noted on disk.
    pub(crate) noted: bool,
    /// Of what it received, those whose senders wait to hear so.
    pub(crate) finals: Vec<MessageKey>,
    /// The same of applications of this node.
    pub(crate) reports: Vec<ReportKey>,
}

impl Commit {
    pub(crate) fn taken_key(&self) -> Bytes {
        let mut id = [0; 16];
        let (life, sequence) = id.split_at_mut(8);
        life.copy_from_slice(&self.id.incarnation.0.to_be_bytes());
        sequence.copy_from_slice(&self.id.sequence.to_be_bytes());
        prefixed(TAKEN, &id)
    }
}

/// Runs of positions by stream.
fn encode_taken(positions: &BTreeMap<StreamId, Vec<(u64, u64)>>) -> Bytes {
    let mut to = BytesMut::new();
    to.put_u8(TAKEN_VERSION);
    for (stream, runs) in positions {
        for (first, last) in runs {
            to.put_u32_le(stream.0);
            to.put_u64_le(*first);
            to.put_u64_le(*last);
        }
    }
    to.freeze()
}

fn decode_taken(value: &Bytes) -> Option<Vec<(StreamId, u64, u64)>> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != TAKEN_VERSION {
        return None;
    }
    let mut runs = Vec::with_capacity(r.len() / 20);
    while !r.is_empty() {
        let stream = StreamId(r.try_get_u32_le().ok()?);
        let (first, last) = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
        if first > last || last - first >= TRANSACTION_MESSAGES_MAX as u64 {
            return None;
        }
        runs.push((stream, first, last));
    }
    Some(runs)
}

impl Engine {
    /// Commits a transaction: everything is checked before anything is done. Its answer comes when
    /// it is on disk.
    pub(super) fn commit(
        &mut self,
        conn: ConnId,
        client: ClientId,
        end: EndTransaction,
        found: &Transaction,
    ) -> Result<(), Refusal> {
        if let Some(id) = self.committed_before(found)? {
            if let Some(state) = self.clients.states.get_mut(&client) {
                state.answered.note(end.sequence, id, true);
                self.clients.dirty_clients.insert(client);
            }
            self.answer_end(conn, end, Some(id), true, None);
            return Ok(());
        }
        self.check_taken(conn, end.transaction, found)?;
        let targets = self.check_room_for_all(found)?;
        // All of it lies in one batch, and one batch in one segment of the store.
        if self.commits.gathered_bytes().saturating_add(found.bytes) >= self.config.batch_bytes_max
        {
            self.seal();
        }
        let first = self.next_sequence;
        let mut drafts = Vec::with_capacity(found.puts.len());
        for (sequence, (put, target)) in (first..).zip(found.puts.iter().zip(targets)) {
            drafts.push(self.draft(put, target, sequence)?);
        }
        let messages = drafts.len() as u64;
        // The commit has an id of its own, behind those of its messages: one run of answers covers
        // them all.
        let id = MessageId {
            incarnation: self.incarnation,
            sequence: first.saturating_add(messages),
        };
        self.next_sequence = id.sequence.saturating_add(1);
        for (put, draft) in found.puts.iter().zip(drafts) {
            self.place(conn, client, put, draft);
            if crate::broken!(self, commit_in_parts) {
                self.seal();
            }
        }
        let mut commit = Commit {
            client,
            end,
            id,
            taken: found.taken.iter().copied().collect(),
            noted: false,
            finals: Vec::new(),
            reports: Vec::new(),
        };
        self.note_taken(&mut commit);
        self.note_pending(conn, client, end.sequence, id);
        self.commits
            .after_putting(Then::Committed(Box::new(commit)));
        Ok(())
    }

    /// The id of a commit whose messages have the keys of this one: the same transaction, repeated
    /// by an application that lost itself.
    fn committed_before(&mut self, found: &Transaction) -> Result<Option<MessageId>, Refusal> {
        let mut known = Vec::new();
        for put in &found.puts {
            known.extend(self.known_under_key(put)?);
        }
        let Some(first) = known.first().map(|known| known.id) else {
            return Ok(None);
        };
        if known.iter().any(|known| known.pending) {
            let text = "messages of these idempotency keys are just being stored; try again";
            return Err((Outcome::BUSY, text.to_owned()));
        }
        let id_at = |n: usize| MessageId {
            incarnation: first.incarnation,
            sequence: first.sequence.saturating_add(n as u64),
        };
        let same = known.len() == found.puts.len()
            && found.taken.is_empty()
            && known
                .iter()
                .enumerate()
                .all(|(n, known)| known.id == id_at(n));
        if !same {
            let text = format!(
                "message {first} was accepted under one of these idempotency keys, not with this transaction"
            );
            return Err((Outcome::IDEMPOTENCY_CONFLICT, text));
        }
        self.counters.repeated_requests += 1;
        crate::reached!(self, KeyRepeated);
        Ok(Some(id_at(known.len())))
    }

    /// Whether everything that was received is still there to be taken.
    fn check_taken(
        &self,
        conn: ConnId,
        transaction: u64,
        found: &Transaction,
    ) -> Result<(), Refusal> {
        for (number, lookup) in &found.taken {
            let held = self.locals.get(number).and_then(|q| q.leased.get(lookup));
            let mine = held.is_some_and(|held| {
                held.conn == conn && held.transaction == Some(transaction) && !held.committing
            });
            if !mine {
                let text = "a message that the transaction received is not leased to it any more";
                return Err((Outcome::LEASE_LOST, text.to_owned()));
            }
        }
        Ok(())
    }

    /// Whether there is room for all messages together; where each of them goes.
    fn check_room_for_all(&mut self, found: &Transaction) -> Result<Vec<Target>, Refusal> {
        let mut targets = Vec::with_capacity(found.puts.len());
        let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let mut sum = 0_u64;
        let mut followed = 0;
        for put in &found.puts {
            let target = self.check_put(put)?;
            self.check_room(put, &target)?;
            followed += 1;
            self.check_following(put, followed)?;
            let bytes = put.encoded_len() as u64;
            sum = sum.saturating_add(bytes);
            if let Target::Local(number) = &target {
                let queue = sums.entry(*number).or_default();
                queue.0 += 1;
                queue.1 = queue.1.saturating_add(bytes);
            }
            targets.push(target);
        }
        if sum > 0 && !self.may_store(sum) {
            let text = "there is no room for all messages of the transaction; wait until receivers have made room";
            return Err((Outcome::STORE_FULL, text.to_owned()));
        }
        for (number, (messages, bytes)) in sums {
            let Some(queue) = self.locals.get(&number) else {
                continue;
            };
            let leaving = found.taken.iter().filter(|(from, _)| *from == number);
            let (mut less, mut less_bytes) = (0, 0);
            for held in leaving.filter_map(|(_, lookup)| queue.leased.get(lookup)) {
                less += 1;
                less_bytes += held.message.credit();
            }
            let (more, more_bytes) = (messages - 1, bytes.saturating_sub(1));
            if !queue.has_room_for(more, more_bytes, less, less_bytes) {
                let name = &queue.settings.name;
                let text = format!(
                    "queue {name} has no room for the {messages} messages of the transaction"
                );
                return Err((Outcome::QUOTA_EXCEEDED, text));
            }
        }
        Ok(targets)
    }

    /// Notes what a commit takes, in its batch. Its leases are the commit's from now on: they do
    /// not go back when the connection ends.
    fn note_taken(&mut self, commit: &mut Commit) {
        let mut streams: BTreeMap<StreamId, Vec<(u64, u64)>> = BTreeMap::new();
        for (number, lookup) in &commit.taken {
            let Some(queue) = self.locals.get_mut(number) else {
                continue;
            };
            let Some(held) = queue.leased.get_mut(lookup) else {
                continue;
            };
            held.committing = true;
            let message = held.message.clone();
            let (conn, bytes) = (held.conn, message.credit());
            let durable = message.class.is_durable();
            queue.leased_bytes = queue.leased_bytes.saturating_sub(bytes);
            self.unleased(conn, bytes);
            commit
                .finals
                .extend(self.note_final_taken(*number, &message));
            commit.reports.extend(self.report_taken(*number, &message));
            if durable {
                let (priority, position) = split_lookup(*lookup);
                let runs = streams
                    .entry(Self::stream_of(*number, priority))
                    .or_default();
                match runs.last_mut() {
                    Some((_, last)) if last.checked_add(1) == Some(position) => *last = position,
                    _ => runs.push((position, position)),
                }
            }
        }
        if !streams.is_empty() && !crate::broken!(self, taken_in_memory) {
            commit.noted = true;
            self.commits.put(StoreOp::Set {
                key: commit.taken_key(),
                value: encode_taken(&streams),
            });
        }
    }

    /// A transaction is on disk: what it received goes, and its application hears of it.
    pub(crate) fn committed(&mut self, commit: Commit) {
        for (number, lookup) in &commit.taken {
            if let Some(held) = self.take_committing(*number, *lookup) {
                self.consume(*number, held.priority, &held.message);
                if let Some(queue) = self.locals.get_mut(number)
                    && held.message.class.is_durable()
                {
                    queue.leaving.insert(*lookup);
                }
            }
        }
        // In the batch that removes it: what follows may close that.
        if commit.noted {
            self.commits.unset(commit.taken_key());
            self.commits
                .after_settling(Then::Left(commit.taken.clone()));
        }
        for key in &commit.finals {
            self.final_durable(*key);
        }
        for key in &commit.reports {
            self.place_report(*key);
        }
        self.counters.transactions_committed += 1;
        let Commit {
            client, end, id, ..
        } = commit;
        if let Some(conn) = self.owed(client, end.sequence) {
            self.answer_end(conn, end, Some(id), false, None);
        }
    }

    /// What a transaction took is on disk no more.
    pub(crate) fn left(&mut self, taken: &[(u32, u64)]) {
        for (number, lookup) in taken {
            if let Some(queue) = self.locals.get_mut(number) {
                queue.leaving.remove(lookup);
            }
        }
    }

    /// The disk had no room for a commit: nothing of it happened. Its answer is still owed.
    pub(crate) fn uncommitted(&mut self, commit: &Commit) {
        self.withdraw(commit.client, commit.end.sequence, commit.id, None);
        self.finals_void(&commit.finals);
        self.reports_void(&commit.reports);
        for (number, lookup) in commit.taken.iter().rev() {
            if let Some(held) = self.take_committing(*number, *lookup) {
                self.give_back(*number, held.priority, held.message);
            }
        }
    }

    /// The answer to a commit for which the disk had no room.
    pub(crate) fn refuse_commit(&mut self, client: ClientId, end: EndTransaction) {
        let conn = self.owed(client, end.sequence);
        let text = "the disk is full; make room or wait until messages have left".to_owned();
        self.refuse_end(conn, client, end, (Outcome::STORE_FULL, text));
    }

    fn take_committing(&mut self, number: u32, lookup: u64) -> Option<crate::queues::Leased> {
        let queue = self.locals.get_mut(&number)?;
        queue.leased.get(&lookup).filter(|held| held.committing)?;
        queue.leased.remove(&lookup)
    }

    /// What committed transactions had taken when the node stopped is removed now. Returns whether
    /// the value was understood, `None` when it is another's.
    pub(crate) fn recover_taken(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        if !key.starts_with(TAKEN) {
            return None;
        }
        let Some(runs) = decode_taken(value) else {
            return Some(false);
        };
        for (stream, first, last) in runs {
            let (number, priority) = Self::queue_of(stream);
            let dead = self.is_dead_queue(number);
            let lane = self
                .locals
                .get_mut(&number)
                .and_then(|queue| queue.lanes.get_mut(&priority));
            if let Some(lane) = lane {
                for position in first..=last {
                    lane.take_ahead(position, 0);
                }
                for position in (first..=last).filter(|_| dead) {
                    self.letter_closes(position);
                }
                self.commits.settle(StoreOp::Remove {
                    stream,
                    first,
                    last,
                });
            }
        }
        self.commits.unset(key.clone());
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_read_as_it_was_written() {
        let taken = BTreeMap::from([
            (StreamId(8), vec![(1, 3), (9, 9)]),
            (StreamId(17), vec![(u64::MAX, u64::MAX)]),
        ]);
        let value = encode_taken(&taken);
        let read = decode_taken(&value).unwrap();
        let flat = [
            (StreamId(8), 1, 3),
            (StreamId(8), 9, 9),
            (StreamId(17), u64::MAX, u64::MAX),
        ];
        assert_eq!(read, flat);
        assert_eq!(decode_taken(&value.slice(..value.len() - 1)), None);
        assert_eq!(decode_taken(&Bytes::from_static(&[2])), None);
    }
}
