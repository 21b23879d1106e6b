//! What must hold, and who noticed that it did not.
//!
//! 1. *Accepted is not a lie*: when an application is told that a recoverable message is accepted,
//!    the message is on the disk of its node, flushed.
//! 2. *Acknowledged is not a lie*: when a sender settles a message by the destination's word, the
//!    destination has had it to its class: flushed on its disk, or in its memory. An application
//!    that follows its message is told of an arrival only after one.
//! 3. *Nothing is lost*: every accepted message is consumed, or is a dead letter, or was dropped
//!    as its sender wished, or an operator purged the queue in which it may have waited: which ones
//!    exactly a purge met, only the node knows. An express message may also be gone with the
//!    memory of a machine that died; an orderly stop loses none, unless its disk is full.
//! 4. *Nothing is delivered twice*, neither stored nor consumed, as long as the destination can
//!    remember. Exempt, and counted: a log that forgot the arrival before a restart, a duplicate
//!    cache of fewer than a thousand entries or none, and express messages over a restart.
//! 5. *The local hop is exactly once*: one put, or one key, of an application becomes one message,
//!    however often it is repeated over broken connections and restarts; express puts only while
//!    the node lives: repeated to a later life they are another message, with a fate of its own.
//! 6. *Order*: recoverable messages of one application, queue and priority reach the queue in the
//!    order in which they were put. Not looked at: in scenarios that lose or repeat buffers on
//!    living links or in which disks fill up or fail, and for applications that put a message again
//!    behind later ones, because it was refused or because they lost their memory. Within one
//!    receive request, lookup ids rise, and with them what is behind: priorities, then arrival.
//! 7. *It ends*: once the faults stop and operators have put right what they did, every queue
//!    drains within twenty virtual minutes.
//! 8. The engine's own audit holds after every step: what it counts as waiting, in memory, leased
//!    and in flight is what is there, and no peer sends beyond its credit. From time to time: no
//!    queue holds more than its quota and a window. A message of an
//!    application is kept in memory beside its copy on disk only while there is room; other limits
//!    of memory are not looked at.
//! 9. *A dead letter tells the truth*: its reason is so, and what is dead at its sender was not
//!    delivered, unless the sender says that it may have been (`uncertain`), the destination may
//!    have forgotten it, or it is express and a machine died. Purged, deleted and purged in transit
//!    are taken at their word.
//! 10. *What waits has a cause*, and the cause that `why` names can be so in the world.
//! 11. Nobody well-behaved is accused: no peer, no application, no store.
//! 12. *Peers get what they are owed at once*: a duplicate is acknowledged again, and a routed ack
//!     for what is not held is answered, unless the session ends.
//! 13. *A transaction happens whole or not at all*: none of its messages is on a disk before its
//!     commit was asked for, none is seen in a queue when its application was told that it was
//!     aborted; once one is seen or its application is told so, what it took does not come back. At
//!     the end every token that transactions moved between queues of several machines left the
//!     world once, in a last transaction, or is a dead letter.
//! 14. *An end is told as it was*: how a message ended at its destination is on the disk there
//!     before a word of it leaves, in the commit in which the message left its queue; it is so in
//!     the world; it never changes, and is kept until the sender has it on its own disk, before
//!     which the sender does not say so. What is reported in an administration queue was wished, is
//!     so, is said once, and is handed to an application; nothing is reported of one message that
//!     excludes something else. When the faults are over, every wait for the end of a message ends,
//!     and everything that was wished was reported. Exempt from what must be there in the end, and
//!     from *once*: express messages over a crash, and what may be two messages by rule 4 or 9.
//! 15. *The journal holds what left*: a copy is there only of a message that wished it and that its
//!     destination has to its class, once, and never beside the message itself; at the end of every
//!     one but express ones that a machine lost, and those that had been dead letters in doubt.

pub mod aside;
pub mod clones;
mod deals;
mod ends;
#[cfg(test)]
mod tests;
mod undone;

use std::collections::{BTreeMap, BTreeSet};

use qm_engine::StreamId;
use qm_wire::{AckWishes, MessageId, Outcome, QmId};

pub use deals::Token;
pub use ends::Kept;
pub use undone::Before;
use undone::order_of;

/// Name of a message in the oracle's books: who put it and as which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Put {
    /// The application.
    pub application: u32,
    /// Its number there, from 1.
    pub number: u64,
}

impl Put {
    /// A body that carries this name and is at least so long.
    #[must_use]
    pub fn to_body(self, bytes: usize) -> Vec<u8> {
        let mut body = format!("{}:{} ", self.application, self.number).into_bytes();
        body.resize(body.len().max(bytes), b'.');
        body
    }

    /// The name that a body carries.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let name = body.split(|byte| *byte == b' ').next()?;
        let (application, number) = core::str::from_utf8(name).ok()?.split_once(':')?;
        Some(Self {
            application: application.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// Which queue of the world: machine and number there; a number beyond the queues of a machine
/// stands for a queue that does not exist.
pub type Place = (usize, usize);

/// What the oracle knows of one put.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are independent marks in a book, not a state"
)]
pub struct Fate {
    /// Whether it was recoverable or transactional.
    pub durable: bool,
    /// Whether it was transactional.
    pub transactional: bool,
    /// Whether its class is not that of its queue.
    pub mistyped: bool,
    /// The machine it was put at.
    pub node: usize,
    /// Where it was sent.
    pub towards: Place,
    /// With which priority.
    pub priority: u8,
    /// World time of the put, microseconds.
    pub put_at: u64,
    /// Its time to reach the queue and to be received, where it has them.
    pub times_ms: [Option<u64>; 2],
    /// Whether its body is larger than its destination admits.
    pub oversized: bool,
    /// Whether it may be refused by a queue that is full.
    pub fails_when_full: bool,
    /// Whether its queue was full when it came and it was refused for that, or its queue was gone.
    pub turned_away: bool,
    /// Whether it wishes no dead letter.
    pub careless: bool,
    /// The ids it was accepted under.
    pub accepted: BTreeSet<MessageId>,
    /// Whether its application was told that it was refused, and will not put it again.
    pub refused: bool,
    /// Whether its application forgot it before it knew.
    pub abandoned: bool,
    /// How often it entered its destination queue.
    pub stored: u64,
    /// The ids it entered under: one, but for express puts that outlived their node.
    pub stored_as: BTreeSet<MessageId>,
    /// Whether an application that had it in its hands said that it is done with it.
    pub done: bool,
    /// Whether its receiver rejected it.
    pub rejected: bool,
    /// Whether its receiver consumed it, as far as it told its node.
    pub taken: bool,
    /// What its application wishes to be reported.
    pub wishes: AckWishes,
    /// Whether it wishes a copy in the journal.
    pub journal: bool,
    /// The end that its application was told of last.
    pub told_end: Option<Outcome>,
    /// Whether its sender ever declared it dead.
    pub was_dead: bool,
    /// How often an application was told that it consumed it.
    pub consumed: u64,
    /// Declared dead, and by which machine.
    pub dead: Option<(usize, Outcome)>,
    /// The id it was declared dead under.
    pub dead_as: Option<MessageId>,
    /// All machines that declared it dead: its sender may, and its destination.
    pub dead_at: BTreeSet<usize>,
    /// Whether that machine said that it may have been delivered all the same.
    pub dead_uncertain: bool,
    /// Whether its dead letter is on disk.
    pub dead_kept: bool,
    /// Whether that machine restarted since, without the letter on disk: then it may not know.
    pub dead_doubtful: bool,
    /// Express, and a machine crashed that may have held it.
    pub mortal: bool,
    /// Its destination may have forgotten that it has it.
    pub forgotten: bool,
    /// An operator may have purged it.
    pub purged: bool,
    /// A machine that held it restarted: its clock may have gone too far.
    pub restarted: bool,
}

impl Fate {
    /// Whether it is one message, and its destination can tell when that comes again.
    const fn is_exact(&self) -> bool {
        // An express put whose answer was lost is repeated to a later life of its node, which does
        // not know that the stop of the earlier one wrote it down (rule 5).
        let repeated = !self.durable && self.restarted;
        self.transactional || !self.mortal && !self.forgotten && !repeated
    }

    /// Whether two ids of this put may be two messages: express, and of two lives of their node.
    fn are_apart(&self, one: MessageId, other: MessageId) -> bool {
        !self.durable && one.incarnation != other.incarnation
    }
}

/// A machine's word that a message ended without being received.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The machine.
    pub node: usize,
    /// World time, microseconds.
    pub now: u64,
    /// The reason.
    pub outcome: Outcome,
    /// Whether it says that the message may have been delivered all the same.
    pub uncertain: bool,
}

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// All puts.
    pub fates: BTreeMap<Put, Fate>,
    /// Which put became which message.
    pub names: BTreeMap<MessageId, Put>,
    /// Messages flushed at each node, by source and id.
    durable: Vec<BTreeSet<(QmId, MessageId)>>,
    /// Messages that entered a queue of each node in whatever way, and in which of its lives.
    arrived: Vec<BTreeMap<(QmId, MessageId), u64>>,
    /// Of these, what the node's log did not remember at its last start.
    forgot: Vec<BTreeSet<(QmId, MessageId)>>,
    /// What each node's current life stored of arrivals and told nobody of, and what the books said
    /// before.
    untold: Vec<BTreeMap<(StreamId, u64), Before>>,
    /// How many of those were taken out again.
    pub undone: u64,
    /// Last put that entered a queue, by application, destination, priority.
    last: BTreeMap<(u32, Place, u8), u64>,
    /// Applications that put messages again behind later ones, after a refusal.
    pub disordered: BTreeSet<u32>,
    /// Whether single buffers are lost on living links, or disks turn batches away.
    pub gaps: bool,
    /// Whether duplicates of what is not transactional are left alone.
    pub keeps_duplicates: bool,
    /// Duplicates that rule 4 allows.
    pub duplicates_allowed: u64,
    deals: deals::Deals,
    ends: ends::Ends,
}

/// Stands for the priority of transactional messages, which have none.
const STREAM: u8 = 8;

impl Oracle {
    /// Whether a message is for the machine that it was put at, and was to be on its disk.
    #[must_use]
    pub fn is_durable_here(&self, put: Put) -> bool {
        let fate = self.fates.get(&put);
        fate.is_some_and(|fate| fate.durable && fate.towards.0 == fate.node)
    }

    /// The destination of a dead message confirmed that it will not take it.
    ///
    /// # Errors
    /// Rule 9.
    pub fn death_confirmed(&mut self, id: MessageId) -> Result<(), String> {
        let put = self.names.get(&id).copied();
        let Some((put, fate)) = put.and_then(|put| Some((put, self.fates.get_mut(&put)?))) else {
            return Ok(());
        };
        fate.dead_uncertain = false;
        // What was put twice, to two lives of its node, is two messages.
        let itself = |stored: &MessageId| !fate.are_apart(*stored, id);
        if fate.stored_as.iter().any(itself) {
            return Err(format!(
                "rule 9: {put:?} ({id}) was confirmed dead and was delivered"
            ));
        }
        Ok(())
    }

    /// Books for this many machines.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            durable: vec![BTreeSet::new(); nodes],
            arrived: vec![BTreeMap::new(); nodes],
            forgot: vec![BTreeSet::new(); nodes],
            untold: vec![BTreeMap::new(); nodes],
            ends: ends::Ends::new(nodes),
            ..Self::default()
        }
    }

    /// A commit of a node put this message on its disk, flushed.
    pub fn flushed(&mut self, node: usize, source: QmId, id: MessageId) {
        self.durable[node].insert((source, id));
    }

    /// A node starts anew with what its log remembers of arrivals; `crash` says that it lost its
    /// memory.
    pub fn starts(&mut self, node: usize, remembered: &BTreeSet<(QmId, MessageId)>) {
        self.untold[node].clear();
        self.forgot[node] = self.arrived[node]
            .keys()
            .filter(|key| !remembered.contains(key))
            .copied()
            .collect();
        for key in &self.forgot[node] {
            if let Some(fate) = self
                .names
                .get(&key.1)
                .and_then(|put| self.fates.get_mut(put))
            {
                fate.forgotten = true;
            }
        }
    }

    /// Recovery found a message; a commit that nobody confirmed may have put it there.
    pub fn found(&mut self, node: usize, life: u64, source: QmId, id: MessageId, own: bool) {
        self.flushed(node, source, id);
        if !own && !self.arrived[node].contains_key(&(source, id)) {
            self.arrived[node].insert((source, id), life);
            let put = self.names.get(&id);
            if let Some(fate) = put.and_then(|put| self.fates.get_mut(put)) {
                fate.stored += 1;
                fate.stored_as.insert(id);
            }
        }
    }

    /// A machine's process ended, orderly or not.
    pub fn ended(&mut self, node: usize, orderly: bool) {
        for fate in self.fates.values_mut() {
            let here = fate.node == node || fate.towards.0 == node;
            if here {
                fate.restarted = true;
                let declared = fate.dead.is_some_and(|(at, _)| at == node);
                fate.dead_doubtful |= declared && !fate.dead_kept;
                fate.mortal |= !fate.durable && !orderly;
            }
        }
    }

    /// An application is told that its put was accepted.
    ///
    /// # Errors
    /// Rules 1 and 5.
    pub fn accepted(
        &mut self,
        put: Put,
        node: usize,
        source: QmId,
        id: MessageId,
    ) -> Result<(), String> {
        let Some(fate) = self.fates.get_mut(&put) else {
            return Err(format!("rule 5: {put:?} was accepted and never put"));
        };
        if fate.durable && !self.durable[node].contains(&(source, id)) {
            return Err(format!(
                "rule 1: {put:?} was accepted as {id} before it was on disk"
            ));
        }
        self.names.insert(id, put);
        fate.accepted.insert(id);
        let twice = |other: &MessageId| *other != id && !fate.are_apart(*other, id);
        if fate.accepted.iter().any(twice) {
            return Err(format!("rule 5: {put:?} became {:?}", fate.accepted));
        }
        Ok(())
    }

    /// A sender settles a message because its destination said that it has it.
    ///
    /// # Errors
    /// Rule 2.
    pub fn acknowledged(&mut self, source: QmId, id: MessageId) -> Result<(), String> {
        let key = (source, id);
        let safe = match self.names.get(&id).and_then(|put| self.fates.get_mut(put)) {
            Some(fate) => {
                let at = fate.towards.0;
                let itself = fate.dead_as == Some(id);
                if itself && fate.dead.is_some_and(|(by, _)| by == fate.node) {
                    // It was dead and is not: delivered wins.
                    fate.dead = None;
                    fate.dead_at.remove(&fate.node);
                    fate.dead_uncertain = false;
                }
                self.durable[at].contains(&key)
                    || (!fate.durable && self.arrived[at].contains_key(&key))
            }
            // An express message whose application never heard the answer.
            None => self.arrived.iter().any(|at| at.contains_key(&key)),
        };
        if safe {
            Ok(())
        } else {
            Err(format!(
                "rule 2: {id} was acknowledged and its destination never had it safe"
            ))
        }
    }

    /// A message entered a queue of its destination, to its class.
    ///
    /// # Errors
    /// Rules 4, 6, 9 and 13.
    pub fn stored(
        &mut self,
        node: usize,
        life: u64,
        source: QmId,
        id: MessageId,
        put: Option<Put>,
    ) -> Result<(), String> {
        let key = (source, id);
        let before = self.arrived[node].insert(key, life);
        if let Some(put) = put {
            self.names.insert(id, put);
        }
        let put = put.or_else(|| self.names.get(&id).copied());
        if let Some(put) = put {
            self.deal_seen(put)?;
        }
        let mut fate = put.and_then(|put| self.fates.get_mut(&put));
        let durable = fate.as_ref().is_some_and(|fate| fate.durable);
        if let Some(earlier) = before {
            // No cache and no log has a part in what is transactional.
            let exact = fate.as_ref().is_some_and(|fate| fate.transactional);
            let allowed = self.keeps_duplicates
                || self.forgot[node].contains(&key)
                || (!durable && earlier != life);
            if !allowed || exact {
                return Err(format!("rule 4: {put:?} ({id}) entered node{node} twice"));
            }
            self.duplicates_allowed += 1;
        }
        let Some((put, fate)) = put.zip(fate.as_mut()) else {
            return Ok(());
        };
        fate.stored += 1;
        fate.stored_as.insert(id);
        fate.forgotten |= before.is_some();
        if fate.towards.0 != node {
            return Err(format!("rule 9: {put:?} ({id}) was stored at node{node}"));
        }
        let other = fate.dead_as.is_some_and(|dead| fate.are_apart(dead, id));
        if let Some((at, outcome)) = fate.dead
            && !other
            && !fate.dead_doubtful
            && !fate.dead_uncertain
            && at != node
            && (fate.transactional || !fate.forgotten && !fate.mortal && !self.keeps_duplicates)
        {
            return Err(format!(
                "rule 9: {put:?} ({id}) was delivered and is dead at node{at}: {outcome}"
            ));
        }
        let in_order = fate.durable && before.is_none() && (fate.transactional || !self.gaps);
        if in_order && !self.disordered.contains(&put.application) {
            let last = self.last.entry(order_of(put, fate)).or_insert(0);
            // What was turned away alone comes again when that was lost.
            if put.number < *last && !fate.turned_away {
                return Err(format!(
                    "rule 6: {put:?} ({id}) was stored at node{node} after number {last}: {fate:?}"
                ));
            }
            *last = put.number.max(*last);
        }
        Ok(())
    }

    /// A destination refuses a message because its queue is full, or because an operator deleted
    /// it: it may be there again when the message comes once more.
    pub fn turned_away(&mut self, id: MessageId, is_gone: bool) {
        let put = self.names.get(&id);
        if let Some(fate) = put.and_then(|put| self.fates.get_mut(put)) {
            fate.turned_away |= (fate.fails_when_full || is_gone) && !fate.transactional;
        }
    }

    /// A dead letter is on disk.
    pub fn dead_letter(&mut self, node: usize, put: Put, id: MessageId, outcome: Outcome) {
        if let Some(fate) = self.fates.get_mut(&put) {
            // Whether its destination was asked, the node that died meanwhile could not say.
            let untold = fate.transactional && !fate.dead_at.contains(&node);
            fate.dead_uncertain |= untold;
            fate.dead = Some((node, outcome));
            fate.dead_as = Some(id);
            fate.dead_at.insert(node);
            fate.was_dead |= fate.node == node;
            fate.dead_kept = true;
            fate.dead_doubtful = false;
        }
    }

    /// Recovery found a dead letter; a commit that nobody confirmed may have put it there, of which
    /// its node could not say whether it is certain.
    pub fn letter_found(&mut self, node: usize, put: Put, id: MessageId, outcome: Outcome) {
        let known = |fate: &Fate| fate.dead_at.contains(&node);
        if self.fates.get(&put).is_some_and(|fate| !known(fate)) {
            self.dead_letter(node, put, id, outcome);
            if let Some(fate) = self.fates.get_mut(&put) {
                fate.dead_uncertain = true;
            }
        }
    }

    /// A machine declares a message dead.
    ///
    /// # Errors
    /// Rules 9 and 13.
    pub fn died(
        &mut self,
        id: MessageId,
        end: Ended,
        reason_holds: impl FnOnce(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        let Ended {
            node,
            now,
            outcome,
            uncertain,
        } = end;
        if let Some(put) = self.names.get(&id).copied() {
            self.deal_seen(put)?;
        }
        let Some((put, fate)) = self
            .names
            .get(&id)
            .and_then(|put| self.fates.get_mut(put).map(|fate| (*put, fate)))
        else {
            return Ok(());
        };
        if outcome == Outcome::QUEUE_PURGED && fate.dead_at.contains(&node) {
            // Its dead letter is purged: that it died was judged when it did.
            return Ok(());
        }
        fate.dead = Some((node, outcome));
        fate.dead_as = Some(id);
        fate.dead_at.insert(node);
        fate.was_dead |= fate.node == node;
        fate.dead_doubtful = false;
        fate.dead_uncertain = uncertain;
        let waited_ms = now.saturating_sub(fate.put_at) / 1_000;
        let over = |limit: Option<u64>| {
            limit.is_some_and(|limit| fate.restarted || waited_ms + 1 >= limit)
        };
        let holds = match outcome {
            // On its way either time may run out.
            Outcome::REACH_QUEUE_EXPIRED => over(fate.times_ms[0]) || over(fate.times_ms[1]),
            Outcome::RECEIVE_EXPIRED => over(fate.times_ms[1]) && fate.towards.0 == node,
            Outcome::BODY_TOO_LARGE => fate.oversized,
            Outcome::QUOTA_EXCEEDED => fate.fails_when_full,
            Outcome::REJECTED_BY_RECEIVER => fate.rejected,
            Outcome::NOT_TRANSACTIONAL_QUEUE => fate.mistyped && fate.transactional,
            Outcome::NOT_TRANSACTIONAL_MESSAGE => fate.mistyped && !fate.transactional,
            other => reason_holds(fate, other),
        };
        if !holds {
            return Err(format!(
                "rule 9: {put:?} ({id}) is dead at node{node} and it is not so: {outcome}; {fate:?}"
            ));
        }
        // It had been on its way to the disk when the operator purged its queue.
        fate.purged |= outcome == Outcome::QUEUE_PURGED && fate.towards.0 == node;
        let itself = |stored: &MessageId| !fate.are_apart(*stored, id);
        let delivered = fate.stored_as.iter().any(itself) && fate.towards.0 != node;
        let knows = fate.transactional || !fate.forgotten && !fate.mortal && !self.keeps_duplicates;
        if delivered && !uncertain && knows {
            return Err(format!(
                "rule 9: {put:?} ({id}) is dead at node{node} and was delivered: {outcome}"
            ));
        }
        Ok(())
    }

    /// An application is told that it consumed a message.
    ///
    /// # Errors
    /// Rule 4.
    pub fn consumed(&mut self, put: Put) -> Result<(), String> {
        let Some(fate) = self.fates.get_mut(&put) else {
            return Ok(());
        };
        fate.consumed += 1;
        let strict = fate.is_exact() && (fate.transactional || !self.keeps_duplicates);
        if strict && fate.consumed > fate.stored.max(1) {
            return Err(format!("rule 4: {put:?} was consumed twice"));
        }
        Ok(())
    }

    /// An application gets a message into its hands.
    ///
    /// # Errors
    /// Rules 4 and 13.
    pub fn handed_out(&mut self, put: Put) -> Result<(), String> {
        let Some(fate) = self.fates.get_mut(&put) else {
            return Err(format!("rule 11: {put:?} was delivered and never put"));
        };
        let strict = fate.is_exact() && (fate.transactional || !self.keeps_duplicates);
        if strict && fate.consumed > 0 && fate.stored <= 1 {
            return Err(format!("rule 4: {put:?} was consumed and came back"));
        }
        self.deal_seen(put)
    }

    /// At the end, after the last fault and a bounded time.
    ///
    /// # Errors
    /// Rules 3, 13, 14 and 15.
    pub fn finish(&self) -> Result<(), String> {
        for (put, fate) in &self.fates {
            if Self::is_open(fate) {
                return Err(format!("rule 3: {put:?} {fate:?} was accepted and is lost"));
            }
        }
        self.finish_deals()?;
        self.finish_ends()
    }

    fn is_open(fate: &Fate) -> bool {
        !fate.accepted.is_empty()
            && !fate.done
            && fate.consumed == 0
            && (fate.dead.is_none() || fate.dead_doubtful && !fate.careless)
            && !fate.purged
            && !fate.mortal
    }

    /// Accepted puts of which nothing is known yet.
    #[must_use]
    pub fn open(&self) -> usize {
        self.fates.values().filter(|f| Self::is_open(f)).count() + self.open_deals()
    }
}
