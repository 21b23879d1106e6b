//! What waits for the disk: changes gathered into batches, and what to do once they are durable.
//!
//! Two batches are gathered side by side. One only gives room back (settlements, state), the other
//! puts messages. A full disk refuses the second and lets the first pass, so a full node drains.

use std::collections::{BTreeSet, VecDeque};

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
use crate::io::{ConnId, LinkId, StoreOp, StreamId, Ticket};
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
    /// See [`crate::Output::Persist`].
    pub(crate) refusals_known: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    settling: Gathering,
    putting: Gathering,
    last: u64,
    /// Batches that the store refused.
    refusals: u64,
    waiting: VecDeque<Waiting>,
    /// Settling batches that it refused.
    again: Refused,
    /// They are handed over again even if there is nothing else.
    tries_again: bool,
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
    /// It gives room back: refused, it is handed over again as it is.
    settles: bool,
    bytes: usize,
    /// All of it then.
    ops: Vec<StoreOp>,
}

impl Waiting {
    fn names(&self) -> impl Iterator<Item = &Bytes> {
        self.ops.iter().filter_map(name_of)
    }
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
        self.tries_again = false;
        if !self.again.is_empty() {
            // Behind what was refused, and in its batch if that does not become too large: the disk
            // may have room for a small one alone.
            let Gathering {
                ops, bytes, then, ..
            } = core::mem::take(&mut self.settling);
            self.again.add(Ticket(self.last + 1), bytes, ops, then);
        }
        for kept in self.again.take() {
            sealed.push(self.seal_again(now, kept));
        }
        for (gathering, settles) in [(&mut self.settling, true), (&mut self.putting, false)] {
            if gathering.is_empty() {
                continue;
            }
            self.last += 1;
            let ticket = Ticket(self.last);
            let ops = core::mem::take(&mut gathering.ops);
            self.waiting.push_back(Waiting {
                ticket,
                since: now,
                overtakes: core::mem::take(&mut gathering.overtakes),
                puts: ops.iter().any(|op| matches!(op, StoreOp::Put { .. })),
                then: core::mem::take(&mut gathering.then),
                settles,
                bytes: core::mem::take(&mut gathering.bytes),
                ops: if settles { ops.clone() } else { Vec::new() },
            });
            sealed.push(Sealed {
                ticket,
                ops,
                refusals_known: (!settles).then_some(gathering.refusals_known),
            });
        }
        sealed.into_iter()
    }

    fn seal_again(&mut self, now: Timestamp, kept: Kept) -> Sealed {
        self.last += 1;
        let ticket = Ticket(self.last);
        let ops = kept.ops();
        self.waiting.push_back(Waiting {
            ticket,
            since: now,
            overtakes: false,
            puts: false,
            then: kept.then,
            settles: true,
            bytes: kept.bytes,
            ops: ops.clone(),
        });
        Sealed {
            ticket,
            ops,
            refusals_known: None,
        }
    }

    /// The next batch that is durable when everything up to `ticket` is.
    pub(crate) fn durable(&mut self, ticket: Ticket) -> Option<Durable> {
        if self.waiting.front()?.ticket > ticket {
            return None;
        }
        let mut batch = self.waiting.pop_front()?;
        if batch.settles
            && let Some(later) = self.again.waits_for(batch.ticket)
        {
            // What would be taken back with the refused one is on disk.
            let then = core::mem::take(&mut batch.then);
            let (stands, waits): (Vec<_>, Vec<_>) = then.into_iter().partition(Then::reverts);
            batch.then = stands;
            later.extend(waits);
        }
        Some(Durable {
            overtakes: batch.overtakes,
            puts: batch.puts,
            then: batch.then,
        })
    }

    /// Takes out a batch that was refused. What gives room back is kept, with who waits for it;
    /// what is returned is to be taken back.
    pub(crate) fn refused(&mut self, ticket: Ticket) -> Option<Vec<Then>> {
        self.refusals += 1;
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.ticket == ticket)?;
        self.overtaken(at);
        let batch = self.waiting.remove(at)?;
        if !batch.settles {
            return Some(batch.then);
        }
        let (reverts, then): (Vec<_>, Vec<_>) = batch.then.into_iter().partition(Then::reverts);
        let mut ops = batch.ops;
        // What a later one says of the same stands: it is on disk then, or kept behind this.
        let later = self.waiting.iter().skip(at).filter(|later| later.settles);
        let mut newer: BTreeSet<&Bytes> = later.flat_map(Waiting::names).collect();
        let void: Vec<Bytes> = reverts.iter().filter_map(Then::void_name).collect();
        newer.extend(&void);
        let changes_identity = |then: &Then| matches!(then, Then::Reidentified(_));
        let only_settings = reverts.iter().any(changes_identity);
        ops.retain(|op| match name_of(op) {
            Some(name) => !newer.contains(name) && (!only_settings || is_setting(name)),
            None => !only_settings,
        });
        self.again.add(ticket, batch.bytes, ops, then);
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
mod tests {
    use super::*;

    #[test]
    fn whatever_is_added_counts() {
        let key = || Bytes::from_static(b"name");
        let mut commits = Commits::default();
        let mut before = 0;
        let mut grew = |commits: &Commits, least: usize| {
            assert!(commits.gathered_bytes() >= before + least);
            before = commits.gathered_bytes();
        };
        commits.unset(key());
        grew(&commits, OP_BYTES + 4);
        commits.change(StoreOp::Unset { key: key() });
        grew(&commits, OP_BYTES + 4);
        commits.set(key(), key());
        grew(&commits, OP_BYTES + 8);
        let mut commits = Commits::default();
        commits.put(StoreOp::Unset { key: key() });
        assert!(commits.gathered_bytes() >= OP_BYTES + 4);
    }

    fn sealed(commits: &mut Commits) -> Vec<(Ticket, Vec<StoreOp>)> {
        let sealed = commits.seal(Timestamp(0));
        sealed.map(|batch| (batch.ticket, batch.ops)).collect()
    }

    /// The numbers of those that a batch which is on disk tells.
    fn told(commits: &mut Commits, ticket: Ticket) -> Vec<u32> {
        let then = commits.durable(ticket).unwrap().then.into_iter();
        then.map(|then| match then {
            Then::Moved(number) => number,
            other => panic!("{other:?}"),
        })
        .collect()
    }

    fn set(key: &'static str, value: &'static str) -> StoreOp {
        let (key, value) = (key.into(), value.into());
        StoreOp::Set { key, value }
    }

    #[test]
    fn what_gives_room_back_and_is_refused_goes_in_front_of_the_next() {
        let mut commits = Commits::default();
        let mut tickets = Vec::new();
        for (number, values) in [
            [set("a", "1"), set("b", "1")],
            [set("b", "2"), set("c", "2")],
        ]
        .into_iter()
        .enumerate()
        {
            values.into_iter().for_each(|op| commits.change(op));
            let number = u32::try_from(number).unwrap();
            commits.after_settling(Then::Moved(number));
            let batch = sealed(&mut commits);
            tickets.push(batch[0].0);
        }
        assert!(commits.refused(tickets[0]).unwrap().is_empty());
        // Of two whose second is on disk the second waits for the first.
        assert!(told(&mut commits, tickets[1]).is_empty());
        // Nothing is handed over until there is something else, or time has passed.
        assert!(commits.is_empty() && commits.keeps_refused());
        commits.put(set("p", "3"));
        let batches = sealed(&mut commits);
        // What the second wrote stands.
        assert_eq!(batches[0].1, [set("a", "1")]);
        assert_eq!(batches[1].1, [set("p", "3")]);
        assert!(commits.refused(batches[0].0).unwrap().is_empty());
        assert!(commits.refused(batches[1].0).unwrap().is_empty());
        assert!(commits.is_empty());
        commits.try_again();
        assert!(!commits.is_empty());
        let batches = sealed(&mut commits);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].1, [set("a", "1")]);
        assert_eq!(told(&mut commits, batches[0].0), [0, 1]);
        assert!(commits.is_empty() && !commits.keeps_refused());
    }

    /// A batch that was refused was not too large for the disk: many of them would be.
    #[test]
    fn refused_batches_are_joined_up_to_a_size() {
        let mut commits = Commits::default();
        let value = || Bytes::from(vec![0; 300 << 10]);
        let tickets: Vec<Ticket> = (0..8_u8)
            .map(|n| {
                commits.set(Bytes::copy_from_slice(&[n]), value());
                sealed(&mut commits)[0].0
            })
            .collect();
        for ticket in tickets {
            commits.refused(ticket);
        }
        commits.try_again();
        let sizes: Vec<_> = sealed(&mut commits)
            .iter()
            .map(|(_, ops)| ops.len())
            .collect();
        assert_eq!(sizes, [3, 3, 2]);
    }

    /// What is on disk is not taken back when what is before it is refused once more.
    #[test]
    fn what_stands_behind_a_refused_batch_is_told_at_once_if_a_refusal_undoes_it() {
        let (own, peer) = (QmId::from_bytes([1; 16]), QmId::from_bytes([2; 16]));
        let mut commits = Commits::default();
        commits.change(set("a", "1"));
        let first = sealed(&mut commits)[0].0;
        commits.set(held_key(own, peer), Bytes::new());
        commits.after_settling(Then::TokenStored { own, peer });
        commits.after_settling(Then::Moved(2));
        let second = sealed(&mut commits)[0].0;
        assert!(commits.refused(first).unwrap().is_empty());
        let then = commits.durable(second).unwrap().then;
        assert!(matches!(then[..], [Then::TokenStored { .. }]), "{then:?}");
        commits.try_again();
        let again = sealed(&mut commits)[0].0;
        assert!(commits.refused(again).unwrap().is_empty());
        commits.try_again();
        let again = sealed(&mut commits)[0].0;
        assert_eq!(told(&mut commits, again), [2]);
    }

    /// The clock alone has another value every second, for as long as the disk has no room.
    #[test]
    fn of_a_name_that_is_refused_again_and_again_one_value_is_kept() {
        let mut commits = Commits::default();
        commits.change(set("a", "1"));
        for _ in 0..100_000 {
            commits.set("clock".into(), Bytes::from(vec![0; 100]));
            for (ticket, ops) in sealed(&mut commits) {
                assert!(ops.len() <= 2, "{}", ops.len());
                commits.refused(ticket);
            }
        }
        // Nor do they count.
        commits.try_again();
        assert_eq!(sealed(&mut commits).len(), 1);
    }

    #[test]
    fn a_token_that_the_disk_refused_is_not_handed_over_again() {
        let (own, peer) = (QmId::from_bytes([1; 16]), QmId::from_bytes([2; 16]));
        let mut commits = Commits::default();
        commits.set(held_key(own, peer), Bytes::new());
        commits.change(set("a", "1"));
        commits.after_settling(Then::TokenStored { own, peer });
        let ticket = sealed(&mut commits)[0].0;
        assert_eq!(commits.refused(ticket).unwrap().len(), 1);
        commits.try_again();
        assert_eq!(sealed(&mut commits)[0].1, [set("a", "1")]);
    }
}
