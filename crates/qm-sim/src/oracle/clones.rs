//! What must hold when machines are copied or go back in time.
//!
//! A *family* is a machine and its copies. A *line* is what one machine of a family has on its
//! disk and what came of it: a copy begins with a copy of it, a restored backup with the line of
//! its time. The rules of the [oracle](super) that speak of one machine are stated here for one
//! line.
//!
//! 1. *Accepted is not a lie*: as there.
//! 2. *Acknowledged is not a lie*: when a machine settles a message by the destination's word, the
//!    message that *this machine* minted under that name has reached a machine of the
//!    destination's family. That of a copy with the same name does not count. It was told so, in
//!    words that name this message, and whoever says such words has the message itself: that one
//!    of its copies has it does not count.
//! 3. *Nothing is lost*: every accepted recoverable or transactional message is consumed, and what
//!    entered the queues of one line is consumed there, whether others have it or not. Exempt:
//!    nobody has it any more, because every disk that held it went back to before it, and it had
//!    not left; or it arrived and was acknowledged, and every disk that had it went back.
//! 4. *Nothing is delivered twice*: it enters the queues of one line once, from whichever copy of
//!    its sender; and once consumed, it does not come back there. Exempt: a recoverable message
//!    whose arrival the line's log forgot, one that was repeated by its application to a machine
//!    that had gone back to before it, one whose request was unanswered in a memory that was
//!    copied, which each machine answers for itself, express ones, and transactional ones that were
//!    not settled when their stream was begun anew because the destination went back or is copied
//!    itself.
//! 5. *The local hop*: as there, but for what was unanswered when its machine went back.
//! 6. *Order*: transactional messages of one application enter one queue of one line in the order
//!    in which they were put, with the exemption of rule 4 for streams begun anew.
//! 7. *It ends*: twenty virtual minutes after the last fault all copies have delivered what they
//!    had, and whoever is a copy has an identity of its own: exactly one machine of a family has
//!    the one with which it began. Exempt from the second: `on_twin = "alarm-only"`, where every
//!    living copy has the alarm instead, and copies whose only node between lies.
//! 9. *Nothing dies*: no message of these worlds has a reason to become a dead letter. Exempt:
//!    those of streams whose destination lost its store or went back, and those that have little
//!    time. Of which one machine knows from the destination that they are dead, no copy of it
//!    brings them there.
//! 11. *Nobody is accused who is alone*: an alarm about copies, a lost election or a change of
//!     identity concerns an identity that two live machines had; branch evidence an identity that
//!     had copies or went back, on either side; a store that went back likewise. A stream stands
//!     only towards or from such a machine.
//! 12. *People are told*: at whoever took another identity, `identity show` says which it was and
//!     why.
//!
//! 16. *What both hold is set aside at one*: a machine that takes another identity sets nothing
//!     aside but what it and a copy of it had both received when that was made, and hands nothing
//!     out of what every copy had received then, until its operator releases it. Exempt: copies of
//!     a memory, which cannot tell exactly; of what was on its way to the disk when that was
//!     copied, either; and what rule 4 allows to come twice.
//!
//! An express message is known by its full name, from when it is first transmitted: one of a copy
//! with the same id is another one.

use std::collections::{BTreeMap, BTreeSet};

use qm_engine::Event;
use qm_wire::{Entry, MessageId, QmId};

use super::aside::Aside;
use super::{Fate, Put};

/// What one machine has, or had, on its disk.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Which of its messages is which.
    names: BTreeMap<MessageId, Put>,
    /// Its own messages that were flushed.
    held: BTreeSet<Put>,
    /// Messages of others that entered its queues.
    arrived: BTreeSet<Put>,
    /// Of these, what its log did not remember at its last start.
    forgot: BTreeSet<Put>,
    /// Entered twice, as rule 4 allows.
    twice: BTreeSet<Put>,
    /// What its applications were told they consumed.
    consumed: BTreeSet<Put>,
    /// What its applications said they consume, whether they heard an answer or not.
    let_go: BTreeSet<Put>,
    /// Full names of express messages that entered its queues.
    express: BTreeSet<Entry>,
    /// What it settled, but for what its disk still holds.
    settled: BTreeSet<Put>,
    /// Last put that entered a queue, by application and queue.
    last: BTreeMap<(u32, usize), u64>,
}

/// What is known of one put.
#[derive(Clone, Debug, Default)]
struct Book {
    /// The names under which it was accepted.
    accepted: BTreeSet<MessageId>,
    /// It entered some line.
    ever: bool,
    /// Somebody settled it by the destination's word.
    settled: bool,
    /// Unanswered when its machine went back, or was copied with its memory: it may become another
    /// message.
    unsure: bool,
}

/// The books of all families.
#[derive(Clone, Debug, Default)]
pub struct Forks {
    /// Whether others send to the machine that it is about.
    receives: bool,
    lines: Vec<Line>,
    /// The first machine of each machine's family.
    roots: Vec<usize>,
    books: BTreeMap<Put, Book>,
    /// All puts that had a name somewhere.
    named: BTreeMap<MessageId, BTreeSet<Put>>,
    /// Identities that several live machines had.
    shared: BTreeSet<QmId>,
    /// Identities whose disks went back.
    went_back: BTreeSet<QmId>,
    /// Families whose disks went back or are shared.
    odd: BTreeSet<usize>,
    /// Families that lost a store.
    lost: BTreeSet<usize>,
    /// Not settled when their stream was begun anew.
    anew: BTreeSet<Put>,
    /// Certainly dead, says their destination, and at which machine.
    dead: BTreeMap<Put, usize>,
    /// What copies received in common, and what came of it.
    pub aside: Aside,
    /// Arrivals that rule 4 allows twice.
    pub duplicates_allowed: u64,
}

impl Forks {
    /// Books for so many machines, each a family; others send to that which is copied, or not.
    #[must_use]
    pub fn new(nodes: usize, receives: bool) -> Self {
        Self {
            receives,
            lines: vec![Line::default(); nodes],
            roots: (0..nodes).collect(),
            ..Self::default()
        }
    }

    /// The first machine of a machine's family.
    #[must_use]
    pub fn root(&self, node: usize) -> usize {
        self.roots.get(node).copied().unwrap_or(node)
    }

    /// The line of a machine as it is now.
    #[must_use]
    pub fn line(&self, node: usize) -> Line {
        self.lines.get(node).cloned().unwrap_or_default()
    }

    /// What is in a line of messages that are for its machine; `is_local` tells which of its own
    /// are.
    fn received(line: &Line, is_local: impl Fn(Put) -> bool) -> BTreeSet<Put> {
        let own = line.held.iter().filter(|put| is_local(**put));
        own.chain(&line.arrived).copied().collect()
    }

    /// A machine is about to have this line, of a disk of another one that is copied.
    pub fn disk_copied(
        &mut self,
        of: usize,
        copy: usize,
        line: &Line,
        is_local: impl Fn(Put) -> bool,
    ) {
        let received = Self::received(line, is_local);
        self.aside.copied(of, copy, &received);
    }

    /// A machine starts, and these messages are in its queues.
    pub fn finds(&mut self, node: usize, found: &BTreeSet<Put>, is_local: impl Fn(Put) -> bool) {
        let known = Self::received(&self.lines[node], is_local);
        self.aside.starts(node, found, &known);
    }

    /// A machine that took another identity hands a message out.
    ///
    /// # Errors
    /// Rule 16.
    pub fn hands_out(
        &self,
        node: usize,
        put: Put,
        others: impl IntoIterator<Item = usize>,
    ) -> Result<(), String> {
        if self.lines[node].twice.contains(&put) {
            return Ok(());
        }
        self.aside.handed_out(node, put, others)
    }

    /// Another machine of a family begins with this line.
    pub fn copied(&mut self, of: usize, line: Line) {
        self.roots.push(self.root(of));
        self.lines.push(line);
    }

    /// A machine goes back to an earlier line.
    pub fn restored(&mut self, node: usize, line: Line, unanswered: &[Put], identities: &[QmId]) {
        self.lines[node] = line;
        self.odd.insert(self.root(node));
        self.went_back.extend(identities);
        self.may_differ(unanswered);
    }

    /// These may become another message each, at a machine that went back or at a copy.
    pub fn may_differ(&mut self, unanswered: &[Put]) {
        for put in unanswered {
            self.books.entry(*put).or_default().unsure = true;
        }
    }

    /// A machine lost its disk.
    pub fn lost_disk(&mut self, node: usize, unanswered: &[Put], identities: &[QmId]) {
        self.restored(node, Line::default(), unanswered, identities);
        self.lost.insert(self.root(node));
    }

    /// These identities have several live machines.
    pub fn shares(&mut self, node: usize, identities: &[QmId]) {
        self.odd.insert(self.root(node));
        self.shared.extend(identities);
        self.went_back.extend(identities);
    }

    /// A machine began the stream of these messages anew.
    pub fn began_anew(&mut self, node: usize, puts: impl IntoIterator<Item = Put>) {
        let line = &self.lines[node];
        let own = |put: &Put| line.names.values().any(|named| named == put);
        let open = puts.into_iter().filter(|put| !line.settled.contains(put));
        self.anew.extend(open.filter(own));
    }

    /// Whether streams towards or from a machine may stand.
    #[must_use]
    pub fn is_odd(&self, node: usize) -> bool {
        self.odd.contains(&self.root(node))
    }

    /// A machine has a message of its own on its disk, flushed; or its application was told its
    /// name.
    pub fn named(&mut self, node: usize, id: MessageId, put: Put, flushed: bool) {
        let line = &mut self.lines[node];
        line.names.insert(id, put);
        if flushed {
            line.held.insert(put);
            line.settled.remove(&put);
        }
        self.named.entry(id).or_default().insert(put);
    }

    /// Whether a put entered a queue anywhere.
    #[must_use]
    pub fn has_entered(&self, put: Put) -> bool {
        self.books.get(&put).is_some_and(|book| book.ever)
    }

    /// The names under which a put was accepted.
    pub fn accepted_as(&self, put: Put) -> impl Iterator<Item = MessageId> + '_ {
        let book = self.books.get(&put);
        book.into_iter()
            .flat_map(|book| book.accepted.iter().copied())
    }

    /// Which message of a machine has this name.
    #[must_use]
    pub fn line_names(&self, node: usize, id: MessageId) -> Option<Put> {
        self.lines.get(node)?.names.get(&id).copied()
    }

    /// An application is told that its put was accepted.
    ///
    /// # Errors
    /// Rules 1 and 5.
    pub fn accepted(
        &mut self,
        node: usize,
        put: Put,
        id: MessageId,
        fate: &Fate,
    ) -> Result<(), String> {
        let line = &self.lines[node];
        if fate.durable && (!line.held.contains(&put) || line.names.get(&id) != Some(&put)) {
            return Err(format!(
                "rule 1: {put:?} was accepted as {id} before it was on disk"
            ));
        }
        self.named(node, id, put, false);
        let book = self.books.entry(put).or_default();
        book.accepted.insert(id);
        if fate.durable && book.accepted.len() > 1 && !book.unsure {
            return Err(format!("rule 5: {put:?} became {:?}", book.accepted));
        }
        Ok(())
    }

    /// A machine settles a message by its destination's word.
    ///
    /// # Errors
    /// Rule 2.
    pub fn acknowledged(
        &mut self,
        node: usize,
        id: MessageId,
        was_told: impl Fn(Put) -> bool,
    ) -> Result<(), String> {
        let line = &mut self.lines[node];
        let Some(put) = line.names.get(&id).copied() else {
            return Ok(());
        };
        line.settled.insert(put);
        let book = self.books.entry(put).or_default();
        book.settled = true;
        if !book.ever {
            return Err(format!(
                "rule 2: node{node} settled {put:?} ({id}) and its destination never had it"
            ));
        }
        if !was_told(put) {
            return Err(format!(
                "rule 2: node{node} settled {put:?} ({id}) and nobody had told it to"
            ));
        }
        Ok(())
    }

    /// A machine says that a message arrived, to its class.
    ///
    /// # Errors
    /// Rule 2.
    pub fn said(&self, node: usize, put: Put, name: Entry, fate: &Fate) -> Result<(), String> {
        let line = &self.lines[node];
        let there = if fate.durable {
            line.arrived.contains(&put)
        } else {
            line.express.contains(&name)
        };
        if there {
            Ok(())
        } else {
            Err(format!(
                "rule 2: node{node} says that it has {put:?} ({}), and has it not",
                name.id
            ))
        }
    }

    /// Recovery found an arrival, which nobody may have confirmed.
    pub fn found(&mut self, node: usize, put: Put) {
        self.lines[node].arrived.insert(put);
        self.books.entry(put).or_default().ever = true;
    }

    /// A machine starts with what its log remembers of arrivals.
    pub fn starts(&mut self, node: usize, remembered: &BTreeSet<(QmId, MessageId)>) {
        let remembered: BTreeSet<Put> = remembered
            .iter()
            .filter_map(|(_, id)| self.named.get(id))
            .flatten()
            .copied()
            .collect();
        let line = &mut self.lines[node];
        let arrived = line.arrived.iter();
        line.forgot = arrived
            .filter(|put| !remembered.contains(put))
            .copied()
            .collect();
    }

    /// An express message entered a queue, under its full name.
    pub fn entered_in_memory(&mut self, node: usize, put: Put, name: Entry) {
        self.lines[node].express.insert(name);
        self.books.entry(put).or_default().ever = true;
    }

    /// A message entered a queue of a machine, flushed.
    ///
    /// # Errors
    /// Rules 4, 6 and 9.
    pub fn entered(
        &mut self,
        node: usize,
        put: Put,
        id: MessageId,
        fate: &Fate,
    ) -> Result<(), String> {
        let (to, queue) = fate.towards;
        let root = self.root(node);
        if self.root(to) != root {
            return Err(format!("rule 9: {put:?} ({id}) was stored at node{node}"));
        }
        if let Some(at) = self.dead.get(&put) {
            return Err(format!(
                "rule 9: {put:?} ({id}) was confirmed dead at node{at} and entered node{node}"
            ));
        }
        self.named.entry(id).or_default().insert(put);
        let anew = self.anew.contains(&put);
        let book = self.books.entry(put).or_default();
        book.ever = true;
        let line = &mut self.lines[node];
        if !line.arrived.insert(put) {
            let exempt = if fate.transactional {
                anew
            } else {
                line.forgot.contains(&put)
            };
            if !exempt && !book.unsure && fate.durable {
                return Err(format!("rule 4: {put:?} ({id}) entered node{node} twice"));
            }
            line.twice.insert(put);
            self.duplicates_allowed += 1;
            return Ok(());
        }
        if fate.transactional {
            let last = line.last.entry((put.application, queue)).or_insert(0);
            if put.number < *last && !anew && !book.unsure {
                return Err(format!(
                    "rule 6: {put:?} ({id}) entered node{node} after number {last}"
                ));
            }
            *last = put.number.max(*last);
        }
        Ok(())
    }

    /// A machine knows from the destination that a message is dead.
    ///
    /// # Errors
    /// Rule 9.
    pub fn death_confirmed(&mut self, node: usize, id: MessageId) -> Result<(), String> {
        let Some(put) = self.line_names(node, id) else {
            return Ok(());
        };
        if self.has_entered(put) {
            return Err(format!(
                "rule 9: {put:?} ({id}) was confirmed dead at node{node} and was delivered"
            ));
        }
        self.dead.insert(put, node);
        Ok(())
    }

    /// An application of a machine gets a message into its hands.
    ///
    /// # Errors
    /// Rule 4.
    pub fn handed_out(&self, node: usize, put: Put, fate: &Fate) -> Result<(), String> {
        let line = &self.lines[node];
        if fate.durable && line.consumed.contains(&put) && !line.twice.contains(&put) {
            return Err(format!(
                "rule 4: {put:?} was consumed at node{node} and came back"
            ));
        }
        Ok(())
    }

    /// An application of a machine says that it consumes a message.
    pub fn let_go(&mut self, node: usize, put: Put) {
        self.lines[node].let_go.insert(put);
    }

    /// What entered the queues of a machine and nobody got there.
    pub fn kept_back(&self, node: usize) -> impl Iterator<Item = Put> + '_ {
        let line = &self.lines[node];
        let here = line.arrived.difference(&line.consumed);
        here.filter(|put| !line.let_go.contains(put)).copied()
    }

    /// An application of a machine was told that it consumed a message.
    pub fn consumed(&mut self, node: usize, put: Put) {
        self.lines[node].consumed.insert(put);
    }

    /// Whether a put of which nobody said that it was consumed is missing.
    #[must_use]
    pub fn is_missing(&self, put: Put, fate: &Fate) -> bool {
        let Some(book) = self.books.get(&put) else {
            return false;
        };
        if book.accepted.is_empty() || !fate.durable || fate.done || fate.consumed > 0 {
            return false;
        }
        let gone = !book.ever && !self.lines.iter().any(|line| line.held.contains(&put));
        let arrived = || self.lines.iter().any(|line| line.arrived.contains(&put));
        let gone_there = book.ever && book.settled && !arrived();
        !gone && !gone_there
    }

    /// Judges a word about identities.
    ///
    /// # Errors
    /// Rule 11.
    pub fn judge(&self, node: usize, mine: &[QmId], event: &Event) -> Result<(), String> {
        let shared = |qm: &QmId| self.shared.contains(qm);
        let back = |qm: &QmId| self.went_back.contains(qm);
        let odd = |node: usize| self.is_odd(node) || self.lost.contains(&self.root(node));
        let fair = match event {
            Event::TwinSeen { peer, .. } | Event::TwinParted { qm: peer, .. } => shared(peer),
            Event::OwnTwin { .. } | Event::ElectionLost { .. } => mine.iter().any(shared),
            Event::Reidentified { old, .. } => shared(old),
            Event::HistoryBranched { peer, .. } => back(peer) || odd(node),
            Event::OwnHistoryBranched { told_by } => odd(node) || back(told_by),
            Event::OwnStoreWentBack { .. } => odd(node),
            Event::StreamBranched { peer, .. } => back(peer) || odd(node),
            Event::StreamHeld { peer, .. } | Event::StreamRerooted { peer, .. } => {
                self.receives && (odd(node) || peer.is_none_or(|peer| back(&peer)))
            }
            Event::IdentityChanged { pinned, .. } => back(pinned),
            _ => true,
        };
        if fair {
            Ok(())
        } else {
            Err(format!(
                "rule 11: a machine that is alone is accused at node{node}: {event:?}"
            ))
        }
    }

    /// Whether dead letters towards a machine may be.
    #[must_use]
    pub fn may_die(&self, towards: usize) -> bool {
        let root = self.root(towards);
        self.receives && (self.lost.contains(&root) || self.odd.contains(&root))
    }
}
