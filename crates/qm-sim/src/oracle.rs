//! What must hold, and who noticed that it did not.
//!
//! 1. *Accepted is not a lie*: when an application is told that a recoverable message is accepted,
//!    the message is on the disk of its node, flushed.
//! 2. *Acknowledged is not a lie*: when a sender settles a recoverable message by the destination's
//!    word, the destination has had it on its disk, flushed; an express one at least in memory.
//! 3. *Nothing is lost*: every accepted recoverable message is received, or is in a dead-letter
//!    queue with a reason. Express messages may be lost only when a machine died in the run.
//! 4. *Nothing is stored twice* at its destination: a recoverable message only when machines died
//!    and their logs had been too short to remember it, an express one only when a machine died.
//! 5. *The local hop is exactly once*: one put of an application becomes one message, however often
//!    it is repeated over broken connections and restarts; express puts only while the node lives.
//! 6. *Order*: messages of one application to one queue, of one priority and recoverable, reach the
//!    queue in the order in which they were put, unless single buffers are lost on a living link
//!    or a full disk turned some of them away.
//! 7. *It ends*: once the faults stop, every queue drains within a bounded time.
//! 8. The engine's own audit holds after every step.
//! 9. *A lookup id names one message* of its queue for ever, restarts or not, express ones too.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::{MessageId, QmId};

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

/// What the oracle knows of one put.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// Whether it was recoverable.
    pub durable: bool,
    /// The machine it was put at.
    pub node: usize,
    /// Where it was sent and with which priority.
    pub towards: (usize, u8),
    /// The ids it was accepted under.
    pub accepted: BTreeSet<MessageId>,
    /// Whether its application was told that it was refused.
    pub refused: bool,
    /// How often it entered its destination queue.
    pub stored: u64,
    /// How often an application had it in its hands.
    pub seen: u64,
    /// How often an application was told that it consumed it.
    pub consumed: u64,
    /// Whether a dead letter was found.
    pub dead: bool,
}

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// All puts.
    pub fates: BTreeMap<Put, Fate>,
    /// Messages flushed at each node, by source and id.
    durable: Vec<BTreeSet<(QmId, MessageId)>>,
    /// Messages that entered a queue of each node in whatever way.
    arrived: Vec<BTreeSet<(QmId, MessageId)>>,
    /// Last put that entered a queue, by application, destination, priority.
    last: BTreeMap<(u32, usize, u8), u64>,
    /// Applications that put messages again behind later ones, after a refusal.
    pub disordered: BTreeSet<u32>,
    /// Whether a machine died.
    pub died: bool,
    /// Whether logs are so short that they forget consumed messages soon.
    pub forgetful: bool,
    /// Whether single buffers are lost on living links, or disks turn batches away.
    pub gaps: bool,
    /// What was handed out under each lookup id of each node.
    places: BTreeMap<(usize, u64), Put>,
}

impl Oracle {
    /// Books for this many machines.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            durable: vec![BTreeSet::new(); nodes],
            arrived: vec![BTreeSet::new(); nodes],
            ..Self::default()
        }
    }

    /// A commit of a node put this message on its disk, flushed.
    pub fn flushed(&mut self, node: usize, source: QmId, id: MessageId) {
        self.durable[node].insert((source, id));
        self.arrived[node].insert((source, id));
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
            return Err(format!("{put:?} was accepted and never put"));
        };
        if fate.durable && !self.durable[node].contains(&(source, id)) {
            return Err(format!(
                "rule 1: {put:?} was accepted as {id} before it was on disk"
            ));
        }
        fate.accepted.insert(id);
        if fate.accepted.len() > 1 && (fate.durable || !self.died) {
            return Err(format!("rule 5: {put:?} became {:?}", fate.accepted));
        }
        Ok(())
    }

    /// A sender settles a message because its destination said that it has it.
    ///
    /// # Errors
    /// Rule 2.
    pub fn acknowledged(
        &self,
        durable: bool,
        source: QmId,
        id: MessageId,
        destination: usize,
    ) -> Result<(), String> {
        let books = if durable {
            &self.durable
        } else {
            &self.arrived
        };
        if books[destination].contains(&(source, id)) {
            Ok(())
        } else {
            Err(format!(
                "rule 2: {id} was acknowledged and node{destination} never had it safe"
            ))
        }
    }

    /// A message entered a queue of its destination.
    ///
    /// # Errors
    /// Rules 4 and 6.
    pub fn stored(
        &mut self,
        node: usize,
        source: QmId,
        id: MessageId,
        put: Put,
    ) -> Result<(), String> {
        let first = !self.arrived[node].contains(&(source, id));
        let Some(fate) = self.fates.get_mut(&put) else {
            return Err(format!("{put:?} was stored and never put"));
        };
        fate.stored += 1;
        if !first && ((fate.durable && !self.forgetful) || !self.died) {
            return Err(format!(
                "rule 4: {put:?} ({id}) was stored twice at node{node}"
            ));
        }
        if fate.durable && first && !self.gaps && !self.disordered.contains(&put.application) {
            let key = (put.application, node, fate.towards.1);
            let last = self.last.entry(key).or_insert(0);
            if put.number < *last {
                return Err(format!(
                    "rule 6: {put:?} ({id}) was stored at node{node} after number {last}"
                ));
            }
            *last = put.number;
        }
        Ok(())
    }

    /// An application is handed a message of its queue.
    ///
    /// # Errors
    /// Rule 9.
    pub fn handed_out(&mut self, node: usize, lookup: u64, put: Put) -> Result<(), String> {
        match self.places.insert((node, lookup), put) {
            Some(before) if before != put => Err(format!(
                "rule 9: node{node} gave {before:?} and {put:?} the lookup id {lookup}"
            )),
            _ => Ok(()),
        }
    }

    /// At the end, after the last fault and a bounded time.
    ///
    /// # Errors
    /// Rule 3.
    pub fn finish(&self) -> Result<(), String> {
        for (put, fate) in &self.fates {
            if fate.accepted.is_empty() || fate.seen > 0 || fate.dead {
                continue;
            }
            if fate.durable || !self.died {
                return Err(format!("rule 3: {put:?} {fate:?} was accepted and is lost"));
            }
        }
        Ok(())
    }

    /// Accepted puts that were neither received nor found dead.
    #[must_use]
    pub fn open(&self) -> usize {
        let open = |fate: &&Fate| {
            !fate.accepted.is_empty()
                && fate.seen == 0
                && !fate.dead
                && (fate.durable || !self.died)
        };
        self.fates.values().filter(open).count()
    }
}
