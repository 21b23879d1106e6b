//! What is told of the ends of messages, and the copies that are kept of what left (rules 14 and
//! 15).
//!
//! The books follow what is on each disk: how messages of others ended there, which of its own
//! messages a node waits to hear of, what it has decided to report. A word that leaves a node is
//! compared with them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};
use qm_engine::StreamId;
use qm_wire::{AckWishes, Incarnation, MessageId, Outcome, QmId};

use super::{Fate, Oracle, Put};

/// How far a node is with the end of a message, as its disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// It ended here and may have arrived.
    Doubt,
    /// It arrived.
    Open,
    /// Its end is known.
    Ended,
}

/// The books of ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// How messages of others ended, by source and name, as each node's disk says.
    finals: Vec<BTreeMap<(QmId, MessageId), Outcome>>,
    /// The same, whether it is still there or not.
    ever: BTreeSet<(QmId, MessageId, Outcome)>,
    /// The ends for which each node waits, as its disk says.
    waits: Vec<BTreeMap<MessageId, Wait>>,
    /// Ends that a sender has written down.
    noted: BTreeSet<(QmId, MessageId)>,
    /// What each node has decided to report and not put, as its disk says.
    decided: Vec<BTreeSet<Bytes>>,
    /// What was reported of each message, whether that is of one that had arrived, and by which
    /// messages.
    reports: BTreeMap<MessageId, BTreeMap<(bool, u16), BTreeSet<MessageId>>>,
    /// Reports on a disk that nobody was handed.
    unread: BTreeSet<MessageId>,
    read: BTreeSet<MessageId>,
    /// The number of each node's queue of copies.
    journals: Vec<Option<u32>>,
    /// Copies of each message, by their places.
    copies: BTreeMap<MessageId, BTreeSet<(StreamId, u64)>>,
}

/// A message that is on a disk.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The machine.
    pub node: usize,
    /// Where it is.
    pub at: (StreamId, u64),
    /// Who minted it.
    pub source: QmId,
    /// Its name.
    pub id: MessageId,
}

/// The queues of a node are told apart by their numbers.
const fn queue_of(stream: StreamId) -> u32 {
    stream.0 / 8
}

fn read_name(mut name: &[u8]) -> Option<MessageId> {
    Some(MessageId {
        incarnation: Incarnation(name.try_get_u64().ok()?),
        sequence: name.try_get_u64().ok()?,
    })
}

/// Whether an outcome is of a message that had arrived.
fn is_end(outcome: Outcome) -> bool {
    outcome == Outcome::END_UNKNOWN || outcome.is_of_arrived() && outcome != Outcome::REACHED_QUEUE
}

fn wish_of(outcome: Outcome) -> AckWishes {
    match (outcome, is_end(outcome)) {
        (Outcome::REACHED_QUEUE, _) => AckWishes::POSITIVE_ARRIVAL,
        (Outcome::RECEIVED, _) => AckWishes::POSITIVE_RECEIVE,
        (_, true) => AckWishes::NEGATIVE_RECEIVE,
        (_, false) => AckWishes::NEGATIVE_ARRIVAL,
    }
}

impl Ends {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            finals: vec![BTreeMap::new(); nodes],
            waits: vec![BTreeMap::new(); nodes],
            decided: vec![BTreeSet::new(); nodes],
            journals: vec![None; nodes],
            ..Self::default()
        }
    }
}

impl Fate {
    const fn is_local(&self) -> bool {
        self.node == self.towards.0
    }

    /// Whether its end is exactly one, and known to whoever should know it.
    const fn has_one_end(&self) -> bool {
        self.is_exact() && !self.dead_uncertain && !self.dead_doubtful
    }
}

impl Oracle {
    fn fate_of(&self, id: MessageId) -> Option<(Put, &Fate)> {
        let put = *self.names.get(&id)?;
        Some((put, self.fates.get(&put)?))
    }

    /// A named value of a node is on disk, or is there no more. `is_so` tells whether a message may
    /// have ended so in the world.
    ///
    /// # Errors
    /// Rule 14.
    pub fn noted(
        &mut self,
        (node, me): (usize, QmId),
        key: &Bytes,
        value: Option<&Bytes>,
        is_so: impl Fn(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        if let Some(name) = key.strip_prefix(b"final/") {
            self.final_noted(node, name, value, is_so)
        } else if let Some(name) = key.strip_prefix(b"await/") {
            self.wait_noted((node, me), name, value)
        } else {
            if key.starts_with(b"report/") {
                let decided = &mut self.ends.decided[node];
                match value {
                    Some(_) => drop(decided.insert(key.clone())),
                    None => drop(decided.remove(key)),
                }
            }
            Ok(())
        }
    }

    fn final_noted(
        &mut self,
        node: usize,
        mut name: &[u8],
        value: Option<&Bytes>,
        is_so: impl Fn(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        let mut source = [0; 16];
        if name.len() < 32 {
            return Err(format!("rule 11: node{node} wrote an unreadable end"));
        }
        name.copy_to_slice(&mut source);
        let source = QmId::from_bytes(source);
        let id = MessageId {
            incarnation: Incarnation(name.get_u64_le()),
            sequence: name.get_u64_le(),
        };
        let Some(value) = value else {
            self.ends.finals[node].remove(&(source, id));
            let known = self.ends.noted.contains(&(source, id));
            return known.then_some(()).ok_or_else(|| {
                format!(
                    "rule 14: node{node} forgot how {id} ended before its sender had it on disk"
                )
            });
        };
        let mut value = value.clone();
        value.advance(1);
        let outcome = Outcome(value.get_u16_le());
        let before = self.ends.finals[node].insert((source, id), outcome);
        self.ends.ever.insert((source, id, outcome));
        let Some((put, fate)) = self.fate_of(id) else {
            return Ok(());
        };
        if before.is_some_and(|before| before != outcome) {
            return Err(format!(
                "rule 14: {put:?} ({id}) ended twice at node{node}: {before:?}, {outcome}"
            ));
        }
        if fate.towards.0 != node || !is_so(fate, outcome) {
            return Err(format!(
                "rule 14: {put:?} ({id}) ended at node{node} and not so: {outcome}; {fate:?}"
            ));
        }
        Ok(())
    }

    fn wait_noted(
        &mut self,
        (node, me): (usize, QmId),
        name: &[u8],
        value: Option<&Bytes>,
    ) -> Result<(), String> {
        let Some(id) = read_name(name) else {
            return Err(format!("rule 11: node{node} wrote an unreadable wait"));
        };
        let Some(value) = value else {
            let before = self.ends.waits[node].remove(&id);
            let durable = self.fate_of(id).is_some_and(|(_, fate)| fate.durable);
            if before == Some(Wait::Open) && durable {
                return Err(format!(
                    "rule 14: node{node} gave up to wait for the end of {id}, which is on a disk"
                ));
            }
            return Ok(());
        };
        // Behind version, two identities, tag, class, life and two times.
        let mut rest = value.clone();
        if rest.len() < 69 {
            return Err(format!("rule 11: node{node} wrote an unreadable wait"));
        }
        rest.advance(66);
        let wait = rest.get_u8() & 0x0f;
        let outcome = Outcome(rest.get_u16_le());
        let wait = match wait {
            0 => Wait::Open,
            1 => Wait::Doubt,
            _ => Wait::Ended,
        };
        self.ends.waits[node].insert(id, wait);
        if wait == Wait::Ended {
            if !self.ends.ever.contains(&(me, id, outcome)) {
                return Err(format!(
                    "rule 14: node{node} has heard that {id} ended: {outcome}, and it did not"
                ));
            }
            self.ends.noted.insert((me, id));
        }
        Ok(())
    }

    /// A node tells a peer how a message ended.
    ///
    /// # Errors
    /// Rule 14.
    pub fn end_told(
        &self,
        node: usize,
        source: QmId,
        id: MessageId,
        outcome: Outcome,
    ) -> Result<(), String> {
        if is_end(outcome) && !self.ends.ever.contains(&(source, id, outcome)) {
            return Err(format!(
                "rule 14: node{node} tells of {id} what is on no disk: {outcome}"
            ));
        }
        Ok(())
    }

    /// A node tells a peer that it has written an end down.
    ///
    /// # Errors
    /// Rule 14.
    pub fn end_confirmed(&self, node: usize, source: QmId, id: MessageId) -> Result<(), String> {
        if self.ends.noted.contains(&(source, id)) {
            return Ok(());
        }
        Err(format!(
            "rule 14: node{node} says that it has written down how {id} ended, and has not"
        ))
    }

    /// An application is told how a message ended that it follows. `is_so` as for
    /// [`Self::noted`].
    ///
    /// # Errors
    /// Rule 14.
    pub fn end_heard(
        &mut self,
        put: Put,
        outcome: Outcome,
        is_so: impl Fn(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        let Some(fate) = self.fates.get_mut(&put).filter(|_| is_end(outcome)) else {
            return Ok(());
        };
        if !is_so(fate, outcome) {
            return Err(format!(
                "rule 14: the application of {put:?} was told {outcome}, which is not so: {fate:?}"
            ));
        }
        let before = fate.told_end.replace(outcome);
        if before.is_some_and(|before| before != outcome) && fate.has_one_end() {
            return Err(format!(
                "rule 14: the application of {put:?} was told {before:?} and {outcome}"
            ));
        }
        Ok(())
    }

    /// A report about a message of this node is on disk, or in the hands of an application. `is_so`
    /// as for [`Self::noted`].
    ///
    /// # Errors
    /// Rule 14.
    pub fn reported(
        &mut self,
        (node, me): (usize, QmId),
        report: &qm_wire::Envelope,
        is_so: impl Fn(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        let text = core::str::from_utf8(&report.correlation_id).unwrap_or_default();
        let (Some(outcome), Ok(id)) = (report.report, text.parse::<MessageId>()) else {
            return Err(format!("rule 14: a report of node{node} reports nothing"));
        };
        let Some((put, fate)) = self.fate_of(id) else {
            return Err(format!(
                "rule 14: node{node} reports {outcome} of {id}, which nobody put"
            ));
        };
        let told = format!("rule 14: node{node} reports of {put:?} ({id}): {outcome}");
        let durable = fate.durable;
        let key = (me, id);
        let of_end = is_end(outcome);
        let wished = fate.wishes.contains(wish_of(outcome));
        if fate.node != node || !wished {
            return Err(format!("{told}, which nobody wished"));
        }
        let itself = |stored: &MessageId| !fate.are_apart(*stored, id);
        let arrived = fate.is_local() || fate.stored_as.iter().any(itself);
        let holds = if outcome == Outcome::REACHED_QUEUE {
            arrived
        } else if of_end {
            let heard = fate.is_local() || outcome == Outcome::END_UNKNOWN;
            (heard || self.ends.noted.contains(&key)) && is_so(fate, outcome)
        } else {
            // A node that died meanwhile may have kept no letter.
            let dead = fate.dead_at.contains(&node) || fate.careless && fate.restarted;
            dead && !(arrived && fate.has_one_end() && !self.keeps_duplicates)
        };
        if !holds {
            return Err(format!("{told}, which is not so: {fate:?}"));
        }
        // What may be two messages may have two ends.
        let one = durable && fate.has_one_end() && !self.keeps_duplicates;
        let fresh = !self.ends.read.contains(&report.id);
        let reports = self.ends.reports.entry(id).or_default();
        let same = reports.entry((of_end, outcome.0)).or_default();
        same.insert(report.id);
        if same.len() > 1 && (durable || !fate_restarted(&self.fates, put)) {
            return Err(format!("{told}, for the second time"));
        }
        let others = reports.keys().filter(|other| other.0 == of_end);
        if one && others.count() > 1 {
            return Err(format!("{told}, and besides {reports:x?}"));
        }
        if durable && fresh {
            self.ends.unread.insert(report.id);
        }
        Ok(())
    }

    /// A report is in the hands of an application.
    pub fn report_read(&mut self, report: MessageId) {
        self.ends.unread.remove(&report);
        self.ends.read.insert(report);
    }

    /// Which queue of a node is the one of copies, if this value says so.
    pub fn learn_journal(&mut self, node: usize, key: &Bytes, value: &Bytes) {
        if let Some(mut number) = key.strip_prefix(b"q/")
            && value.windows(8).any(|name| name == b"journal$")
            && let Ok(number) = number.try_get_u32()
        {
            self.ends.journals[node] = Some(number);
        }
    }

    /// Whether this is a node's queue of copies.
    #[must_use]
    pub fn is_journal(&self, node: usize, stream: StreamId) -> bool {
        self.ends.journals[node] == Some(queue_of(stream))
    }

    /// A copy of a message is on disk.
    ///
    /// # Errors
    /// Rule 15.
    pub fn copied(&mut self, copy: Kept, put: Put) -> Result<(), String> {
        let Kept {
            node,
            at,
            source,
            id,
        } = copy;
        let places = self.ends.copies.entry(id).or_default();
        places.insert(at);
        let twice = places.len() > 1;
        let key = (source, id);
        let Some(fate) = self.fates.get(&put) else {
            return Err(format!(
                "rule 15: node{node} keeps a copy of {put:?}, never put"
            ));
        };
        let to = fate.towards.0;
        let safe =
            self.durable[to].contains(&key) || !fate.durable && self.arrived[to].contains_key(&key);
        let fault = if !fate.journal || fate.is_local() || fate.node != node {
            "which nobody wished"
        } else if twice {
            "for the second time"
        } else if !safe {
            "which its destination does not have"
        } else {
            return Ok(());
        };
        Err(format!(
            "rule 15: node{node} keeps a copy of {put:?} ({id}), {fault}"
        ))
    }

    /// A node starts with what is on its disk: what ended is in no queue any more, and what has a
    /// copy has left.
    ///
    /// # Errors
    /// Rules 14 and 15.
    pub fn ends_found<'a>(
        &mut self,
        (node, me): (usize, QmId),
        state: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
        live: impl Iterator<Item = (Kept, Put)>,
        is_so: impl Fn(&Fate, Outcome) -> bool,
    ) -> Result<(), String> {
        self.ends.finals[node].clear();
        self.ends.waits[node].clear();
        self.ends.decided[node].clear();
        for (key, value) in state {
            self.learn_journal(node, key, value);
            self.noted((node, me), key, Some(value), &is_so)?;
        }
        let mut waiting = Vec::new();
        for (kept, put) in live {
            if self.is_journal(node, kept.at.0) {
                self.copied(kept, put)?;
            } else {
                waiting.push((kept, put));
            }
        }
        for (kept, put) in waiting {
            let key = (kept.source, kept.id);
            let exact = self.fates.get(&put).is_some_and(Fate::is_exact);
            if self.ends.finals[node].contains_key(&key) && exact && !self.keeps_duplicates {
                return Err(format!(
                    "rule 14: {put:?} ({}) ended at node{node} and is still there",
                    kept.id
                ));
            }
            if kept.source == me && self.ends.copies.contains_key(&kept.id) {
                return Err(format!(
                    "rule 15: {put:?} ({}) has a copy at node{node} and has not left",
                    kept.id
                ));
            }
        }
        Ok(())
    }

    /// A word about an end that should be there and is not, after the last fault.
    #[must_use]
    pub fn open_end(&self) -> Option<String> {
        for (node, waits) in self.ends.waits.iter().enumerate() {
            for (id, wait) in waits.iter().filter(|(_, wait)| **wait != Wait::Ended) {
                // Of what was only in memory nobody may know any more.
                if let Some((put, fate)) = self.fate_of(*id)
                    && fate.is_exact()
                {
                    return Some(format!("node{node} waits for {put:?} ({id}): {wait:?}"));
                }
            }
        }
        for (node, decided) in self.ends.decided.iter().enumerate() {
            if !decided.is_empty() {
                return Some(format!("node{node} has {} reports to put", decided.len()));
            }
        }
        let unread = self.ends.unread.first();
        unread.map(|id| format!("the report {id} was handed to nobody"))
    }

    /// At the end everything that was wished is there.
    ///
    /// # Errors
    /// Rules 14 and 15.
    pub(super) fn finish_ends(&self) -> Result<(), String> {
        for (put, fate) in &self.fates {
            for id in &fate.accepted {
                self.finish_end(*put, fate, *id)?;
            }
        }
        match self.open_end() {
            Some(text) => Err(format!("rule 14: {text}")),
            None => Ok(()),
        }
    }

    /// Whether somebody is yet to hear of an end: it may have been told a moment ago, and not be on
    /// disk yet.
    pub fn owes_ends(&self) -> bool {
        self.finish_ends().is_err()
    }

    fn finish_end(&self, put: Put, fate: &Fate, id: MessageId) -> Result<(), String> {
        if !fate.durable || !fate.has_one_end() || self.keeps_duplicates {
            return Ok(());
        }
        let arrived = fate.is_local() || fate.stored_as.contains(&id);
        let dead_here = fate.dead_at.contains(&fate.node) && !fate.is_local();
        let reports = self.ends.reports.get(&id);
        let told = |of_end: bool| {
            let mut all = reports.into_iter().flatten().map(|(outcome, _)| *outcome);
            let told = all.find(|outcome| outcome.0 == of_end);
            told.map(|(_, outcome)| Outcome(outcome))
        };
        let owed = |text: &str| {
            let reports = reports.map(|reports| reports.keys().collect::<Vec<_>>());
            Err(format!(
                "rule 14: {put:?} ({id}) {text} and nobody was told: {reports:x?}; {fate:?}"
            ))
        };
        let wishes = |wish| fate.wishes.contains(wish);
        if dead_here && fate.dead_kept && !arrived {
            if wishes(AckWishes::NEGATIVE_ARRIVAL) && told(false).is_none() {
                return owed("did not arrive");
            }
        } else if arrived && !dead_here {
            if wishes(AckWishes::POSITIVE_ARRIVAL) && told(false) != Some(Outcome::REACHED_QUEUE) {
                return owed("arrived");
            }
            let dead_there = fate.dead.filter(|(at, _)| *at == fate.towards.0);
            let (wish, due) = match dead_there {
                None => (AckWishes::POSITIVE_RECEIVE, fate.consumed > 0),
                Some(_) => (AckWishes::NEGATIVE_RECEIVE, fate.dead_kept),
            };
            let received = told(true).map(|outcome| outcome == Outcome::RECEIVED);
            if due && wishes(wish) && received != Some(dead_there.is_none()) {
                return owed("ended there");
            }
            // What was purged may have been a dead letter of which the node that died did not say.
            let was_dead = fate.was_dead || fate.purged && fate.restarted;
            if fate.journal && !fate.is_local() && !was_dead && !self.ends.copies.contains_key(&id)
            {
                return Err(format!(
                    "rule 15: {put:?} ({id}) has left and no copy of it was kept: {fate:?}"
                ));
            }
        }
        Ok(())
    }
}

fn fate_restarted(fates: &BTreeMap<Put, Fate>, put: Put) -> bool {
    fates.get(&put).is_some_and(|fate| fate.restarted)
}
