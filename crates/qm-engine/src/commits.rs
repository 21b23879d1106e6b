//! What waits for the disk: changes gathered into batches, and what to do once they are durable.
//!
//! Two batches are gathered side by side. One only gives room back (settlements, state), the other
//! puts messages. A full disk refuses the second and lets the first pass, so a full node drains.

use std::collections::VecDeque;

use bytes::Bytes;
use qm_cache::Ticket as DedupTicket;
use qm_wire::local::Settled;
use qm_wire::{Class, ClientId, Entry, MessageId, MessageKey, Outcome, QmId, Rank};

use crate::admin::{AdminReply, LetterFate};
use crate::backlog::Message;
use crate::clients::Commit;
use crate::dead::{End, Resent};
use crate::handed::HandOut;
use crate::identity::handshake::held_key;
use crate::io::{ConnId, LinkId, RefusalsKnown, StoreOp, StreamId, Ticket};
use crate::jobs::JobId;
use crate::kept::{Kept, Refused, is_setting, name_of};
use crate::record::RemoteKey;
use crate::reidentify::Former;
use crate::reports::{ReportKey, With};
use crate::stream::receiving::InPlace;
use crate::time::Timestamp;
use crate::undone::Undone;

/// A message that ended otherwise than by being delivered or received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Died {
    pub(crate) source: QmId,
    pub(crate) id: MessageId,
    pub(crate) end: End,
    pub(crate) kept: bool,
}

/// One message put into a queue, to be confirmed or undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutAt {
    pub(crate) queue: u32,
    pub(crate) priority: u8,
    pub(crate) position: u64,
    pub(crate) credit: u64,
}

/// Where a message came from that is moved.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) local: bool,
    pub(crate) queue: u32,
    pub(crate) priority: u8,
    pub(crate) message: Message,
}

/// What happens when a batch is durable.
#[derive(Debug)]
pub(crate) enum Then {
    /// A message of this node's applications is safe.
    Accepted {
        put: PutAt,
        id: MessageId,
        client: ClientId,
        sequence: u64,
        idempotency: Option<([u8; 16], u64)>,
        local: bool,
        class: Class,
        /// It belongs to a transaction, whose end is the answer.
        transaction: bool,
    },
    /// An express message is on disk because the node stops.
    Spilled { local: bool, put: PutAt },
    /// A transaction is on disk, after its messages.
    Committed(Box<Commit>),
    /// What a transaction took is removed: number of the queue and lookup id.
    Left(Vec<(u32, u64)>),
    /// Nothing is left of a transaction that the disk had taken out of order.
    Uncommitted(Box<Commit>),
    /// Messages may be handed out: how often they were is on disk.
    HandOut(Box<HandOut>),
    /// How far a stream was handed out is on disk.
    Marked { stream: StreamId, below: u64 },
    /// A request was answered before or in this batch: answer again.
    Repeated {
        client: ClientId,
        sequence: u64,
        id: MessageId,
        key: ([u8; 16], u64),
    },
    /// A message from a peer is safe.
    Arrived {
        put: PutAt,
        link: LinkId,
        number: u64,
        source: QmId,
        entry: Entry,
        reservation: Option<DedupTicket>,
        acked: bool,
        /// Its place in a stream, when it is transactional.
        place: Option<InPlace>,
    },
    /// A skip from a peer is recorded.
    SkipTaken {
        link: LinkId,
        source: QmId,
        place: InPlace,
    },
    /// A skip of this node stands in the place of a message without a dead letter.
    Skipping { number: u32, position: u64 },
    /// A message that ended here without a dead letter is asked for.
    Asking { id: MessageId },
    /// How a message of a peer ended is on disk.
    Final { key: MessageKey },
    /// How a message of this node ended elsewhere is on disk: to be confirmed where it was told.
    FinalHeard {
        link: LinkId,
        source: QmId,
        entry: Entry,
        /// It was not known before.
        first: bool,
    },
    /// What an application is to hear of a message is noted.
    Report { key: ReportKey, with: With },
    /// It is in its queue.
    Reported { key: ReportKey, put: PutAt },
    /// A message has left and its copy is in the journal.
    Journalled { put: PutAt, from: Box<Origin> },
    /// Messages are never to be taken: their sender may hear so.
    Voided {
        link: LinkId,
        source: QmId,
        entries: Vec<Entry>,
    },
    /// A dead letter is safe, or a message is in its poison queue; refused, it is where it was.
    DeadLetter {
        put: PutAt,
        from: Option<Origin>,
        /// Of a dead letter, whose and why.
        died: Option<Died>,
    },
    /// A list of arrivals is on disk with this many keys.
    Listed { number: u64, keys: usize },
    /// The number of this life is safe.
    LifeBegun,
    /// What a peer presented is remembered: up to this change of what is known of it.
    LedgerKept {
        link: LinkId,
        ends: (QmId, QmId),
        changes: u64,
    },
    /// This node's rank among copies of it is safe, and the lives in which it was shown, until so
    /// many changes of them.
    RankKept { rank: Rank, shown: u64 },
    /// The token that a peer gave is safe.
    TokenStored { own: QmId, peer: QmId },
    /// The roles of this node's keys are safe.
    Reidentified(Box<Former>),
    /// A destination is spoken to under the new identity from now on.
    Switched(RemoteKey),
    /// Nothing of the former identity is left on disk but its key.
    FormerGone(QmId),
    /// A dead letter was sent again: the new message and the letter's removal.
    Resent(Box<Resent>),
    /// A dead letter is dropped.
    LetterGone { job: JobId, fate: LetterFate },
    /// Everything that a purge took out is settled.
    Emptied { local: bool, number: u32 },
    /// Everything that was to be moved out of a local queue is where it belongs.
    Moved(u32),
    /// Nothing is left of a message that the disk had taken out of order.
    Undone(Box<Undone>),
    /// A rejected delivery has its dead letter; refused, it is back in its queue.
    Rejected { conn: ConnId, request: u64 },
    /// Deliveries are gone. `putting`: with letters, and back in their queue when these are
    /// refused.
    Settled {
        conn: ConnId,
        settled: Settled,
        putting: bool,
    },
    /// A message left a queue for good: whoever follows it may hear so.
    Ended { id: MessageId, outcome: Outcome },
    /// What an operator asked for is on disk: the answer.
    Told {
        conn: ConnId,
        request: u64,
        reply: Box<AdminReply>,
    },
}

impl Then {
    /// Whether it is told that the disk refused a batch that gives room back. Whatever else waits
    /// for such a batch waits on: it is handed over again.
    const fn reverts(&self) -> bool {
        matches!(
            self,
            Self::TokenStored { .. }
                | Self::LedgerKept { .. }
                | Self::RankKept { .. }
                | Self::Reidentified(_)
                | Self::Told { .. }
        )
    }

    /// The name of what is void then: memory does not have it either.
    fn void_name(&self) -> Option<Bytes> {
        match self {
            Self::TokenStored { own, peer } => Some(held_key(*own, *peer)),
            _ => None,
        }
    }
}

/// What an operation takes in a store beside its contents, about.
pub(crate) const OP_BYTES: usize = 48;

#[derive(Debug, Default)]
struct Gathering {
    ops: Vec<StoreOp>,
    bytes: usize,
    then: Vec<Then>,
    /// See [`Waiting::overtakes`].
    overtakes: bool,
    /// Refusals that were known when this was begun.
    refusals_known: u64,
}

impl Gathering {
    const fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.then.is_empty()
    }
}

/// A batch for the store.
pub(crate) struct Sealed {
    pub(crate) ticket: Ticket,
    pub(crate) ops: Vec<StoreOp>,
    pub(crate) refusals_known: RefusalsKnown,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    settling: Gathering,
    putting: Gathering,
    last: u64,
    /// Batches that the store refused, and how many of them were settling ones.
    refusals: u64,
    settling_refusals: u64,
    waiting: VecDeque<Waiting>,
    /// Settling batches among them.
    settling_waiting: usize,
    /// The place of the last settling batch. See [`Kept`].
    last_place: u64,
    /// Settling batches that the store refused, and those that are behind them.
    again: Refused,
    /// They are handed over again even if there is nothing else.
    tries_again: bool,
    /// Among them are some that the store never saw.
    unseen: bool,
}

/// A batch that was handed over.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    since: Timestamp,
    /// An earlier batch was refused: what this one puts would overtake it.
    overtakes: bool,
    /// Whether it needed room for messages.
    puts: bool,
    then: Vec<Then>,
    /// When it gives room back: refused, it is handed over again as it is. Its place among these.
    settles: Option<u64>,
    bytes: usize,
}

/// A batch that is on disk.
#[derive(Debug)]
pub(crate) struct Durable {
    /// Whether it overtook a batch that was refused.
    pub(crate) overtakes: bool,
    /// Whether it needed room for messages.
    pub(crate) puts: bool,
    pub(crate) then: Vec<Then>,
}

impl Commits {
    /// Adds a change that gives room back or is small.
    pub(crate) fn settle(&mut self, op: StoreOp) {
        if let (
            StoreOp::Remove {
                stream,
                first,
                last,
            },
            Some(StoreOp::Remove {
                stream: same,
                first: low,
                last: high,
            }),
        ) = (&op, self.settling.ops.last_mut())
            && stream == same
            && *first == high.saturating_add(1)
        {
            debug_assert!(*low <= *first, "ranges grow upwards");
            *high = *last;
            return;
        }
        self.settling.bytes += OP_BYTES;
        self.settling.ops.push(op);
    }

    pub(crate) fn set(&mut self, key: Bytes, value: Bytes) {
        self.settling.bytes += OP_BYTES + key.len() + value.len();
        self.settling.ops.push(StoreOp::Set { key, value });
    }

    pub(crate) fn unset(&mut self, key: Bytes) {
        self.settling.bytes += OP_BYTES + key.len();
        self.settling.ops.push(StoreOp::Unset { key });
    }

    /// Whether anything that gives room back was refused and is not handed over again yet.
    pub(crate) const fn keeps_refused(&self) -> bool {
        !self.again.is_empty()
    }

    /// Whether the disk has not confirmed all that gives room back and was handed over.
    pub(crate) const fn settles_under_way(&self) -> bool {
        self.keeps_refused() || self.settling_waiting > 0
    }

    /// What was refused is handed over again, also if nothing else is.
    pub(crate) const fn try_again(&mut self) {
        self.tries_again = !self.again.is_empty();
    }

    /// Adds a change of small named values.
    pub(crate) fn change(&mut self, op: StoreOp) {
        match op {
            StoreOp::Set { key, value } => self.set(key, value),
            StoreOp::Unset { key } => self.unset(key),
            op => self.settle(op),
        }
    }

    pub(crate) fn after_settling(&mut self, then: Then) {
        self.settling.then.push(then);
    }

    /// Adds a message, or a change that must stand or fall with messages of this batch.
    pub(crate) fn put(&mut self, op: StoreOp) {
        self.begin_putting();
        self.putting.bytes += match &op {
            StoreOp::Put { head, body, .. } => OP_BYTES + head.len() + body.len(),
            StoreOp::Set { key, value } => OP_BYTES + key.len() + value.len(),
            StoreOp::Unset { key } => OP_BYTES + key.len(),
            StoreOp::Remove { .. } => OP_BYTES,
        };
        self.putting.ops.push(op);
    }

    pub(crate) fn after_putting(&mut self, then: Then) {
        self.begin_putting();
        self.putting.then.push(then);
    }

    /// Counts bytes that the batch with the messages will have when it is closed.
    pub(crate) const fn expect(&mut self, bytes: usize) {
        self.putting.bytes = self.putting.bytes.saturating_add(bytes);
    }

    fn begin_putting(&mut self) {
        if self.putting.is_empty() {
            self.putting.refusals_known = self.refusals;
        }
    }

    /// Whether the batch that gives room back, and the one that puts messages, has such a change.
    pub(crate) fn any(&self, change: impl Fn(&StoreOp) -> bool) -> (bool, bool) {
        let any = |batch: &Gathering| batch.ops.iter().any(&change);
        (any(&self.settling), any(&self.putting))
    }

    /// Bytes of the larger batch gathered so far.
    pub(crate) fn gathered_bytes(&self) -> usize {
        self.putting.bytes.max(self.settling.bytes)
    }

    /// Messages whose dead letters are on their way to the disk.
    pub(crate) fn dying(&self) -> impl Iterator<Item = MessageId> {
        let waiting = self.waiting.iter().flat_map(|batch| &batch.then);
        let dying = |then: &Then| match then {
            Then::DeadLetter { died, .. } => died.map(|died| died.id),
            _ => None,
        };
        waiting.chain(&self.putting.then).filter_map(dying)
    }

    /// Outgoing queues into which something comes back if the disk refuses what is on its way.
    pub(crate) fn left_queues(&self) -> impl Iterator<Item = u32> {
        let waiting = self.waiting.iter().flat_map(|batch| &batch.then);
        let left = |then: &Then| match then {
            Then::DeadLetter {
                from: Some(from), ..
            } => (!from.local).then_some(from.queue),
            Then::Journalled { from, .. } => Some(from.queue),
            _ => None,
        };
        waiting.chain(&self.putting.then).filter_map(left)
    }

    /// Who waits for the disk, in whatever batch; for audits.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = &Then> {
        let gathered = [&self.settling, &self.putting];
        let gathered = gathered.into_iter().flat_map(|batch| &batch.then);
        let waiting = self.waiting.iter().flat_map(|batch| &batch.then);
        gathered.chain(waiting).chain(self.again.waiting())
    }

    /// Batches at the disk.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn has_puts(&self) -> bool {
        !self.putting.ops.is_empty() || !self.putting.then.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.has_puts() && self.settling.is_empty() && !self.tries_again
    }

    /// Closes the batches gathered so far.
    pub(crate) fn seal(&mut self, now: Timestamp) -> impl Iterator<Item = Sealed> + use<> {
        let mut sealed = Vec::new();
        let Gathering {
            ops, bytes, then, ..
        } = core::mem::take(&mut self.settling);
        let settling = !ops.is_empty() || !then.is_empty();
        self.last_place += u64::from(settling);
        let settling = settling.then_some(Kept {
            place: self.last_place,
            bytes,
            ops,
            then,
        });
        if self.again.is_empty() {
            sealed.extend(settling.map(|batch| self.seal_settling(now, batch)));
        } else {
            self.unseen |= settling.is_some();
            settling.into_iter().for_each(|batch| self.again.add(batch));
            if self.settling_waiting == 0 {
                (self.tries_again, self.unseen) = (false, false);
                for batch in self.again.take() {
                    sealed.push(self.seal_settling(now, batch));
                }
            }
        }
        if !self.putting.is_empty() {
            let putting = core::mem::take(&mut self.putting);
            self.last += 1;
            let ticket = Ticket(self.last);
            self.waiting.push_back(Waiting {
                ticket,
                since: now,
                overtakes: putting.overtakes,
                puts: putting
                    .ops
                    .iter()
                    .any(|op| matches!(op, StoreOp::Put { .. })),
                then: putting.then,
                settles: None,
                bytes: putting.bytes,
            });
            // What is kept was gathered before it, and is not at the disk.
            let stays = !self.again.is_empty();
            let known = if stays { 0 } else { putting.refusals_known };
            sealed.push(Sealed {
                ticket,
                ops: putting.ops,
                refusals_known: RefusalsKnown::All(known),
            });
        }
        sealed.into_iter()
    }

    fn seal_settling(&mut self, now: Timestamp, batch: Kept) -> Sealed {
        self.last += 1;
        self.settling_waiting += 1;
        let ticket = Ticket(self.last);
        self.waiting.push_back(Waiting {
            ticket,
            since: now,
            overtakes: false,
            puts: false,
            then: batch.then,
            settles: Some(batch.place),
            bytes: batch.bytes,
        });
        Sealed {
            ticket,
            ops: batch.ops,
            refusals_known: RefusalsKnown::Settling(self.settling_refusals),
        }
    }

    /// The next batch that is durable when everything up to `ticket` is.
    pub(crate) fn durable(&mut self, ticket: Ticket) -> Option<Durable> {
        if self.waiting.front()?.ticket > ticket {
            return None;
        }
        let batch = self.waiting.pop_front()?;
        self.settling_waiting -= usize::from(batch.settles.is_some());
        Some(Durable {
            overtakes: batch.overtakes,
            puts: batch.puts,
            then: batch.then,
        })
    }

    /// Takes out a batch that was refused. What gives room back is kept, with who waits for it;
    /// what is returned is to be taken back.
    pub(crate) fn refused(&mut self, ticket: Ticket, mut ops: Vec<StoreOp>) -> Option<Vec<Then>> {
        self.refusals += 1;
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.ticket == ticket)?;
        self.overtaken(at);
        let batch = self.waiting.remove(at)?;
        let Some(place) = batch.settles else {
            return Some(batch.then);
        };
        self.settling_refusals += 1;
        self.settling_waiting -= 1;
        // What the store never saw is not to wait for time to pass.
        self.tries_again |= self.unseen && self.settling_waiting == 0;
        let (reverts, then): (Vec<_>, Vec<_>) = batch.then.into_iter().partition(Then::reverts);
        let void: Vec<Bytes> = reverts.iter().filter_map(Then::void_name).collect();
        let changes_identity = |then: &Then| matches!(then, Then::Reidentified(_));
        let only_settings = reverts.iter().any(changes_identity);
        ops.retain(|op| match name_of(op) {
            Some(name) => !void.contains(name) && (!only_settings || is_setting(name)),
            None => !only_settings,
        });
        self.again.add(Kept {
            place,
            bytes: batch.bytes,
            ops,
            then,
        });
        Some(reverts)
    }

    /// What comes behind this place was taken in before anybody could hear of a refusal.
    fn overtaken(&mut self, at: usize) {
        for later in self.waiting.iter_mut().skip(at) {
            later.overtakes = true;
        }
        self.putting.overtakes |= !self.putting.then.is_empty();
    }

    /// A batch that was durable is undone: what comes behind it overtakes that, too.
    pub(crate) fn undone(&mut self) {
        self.overtaken(0);
    }

    /// Whether a batch is gathered, or at the disk, that follows a refused one.
    pub(crate) fn has_overtaking(&self) -> bool {
        self.putting.overtakes || self.waiting.iter().any(|batch| batch.overtakes)
    }

    /// For how long the oldest batch has waited for the disk, milliseconds.
    pub(crate) fn oldest_ms(&self, now: Timestamp) -> Option<u64> {
        self.waiting.front().map(|first| now.ms_since(first.since))
    }
}

#[cfg(test)]
mod tests;
