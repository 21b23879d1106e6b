//! Whole-state rules that hold between any two inputs, for tests and the simulation.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use bytes::Bytes;
use qm_wire::{Class, Link, MessageKey, QmId, Rank, StreamId};

use crate::backlog::Backlog;
use crate::commits::Then;
use crate::engine::Engine;
use crate::finals::final_key;
use crate::io::ConnId;
use crate::limits::{BRANCHES_MAX, SKIPS_OPEN_MAX, STREAMS_PER_PEER_MAX};
use crate::outgoing::OutQueue;
use crate::stream::receiving::InKey;
use crate::voids::void_key;

/// What one audit knows of those before it, because it may only rise.
#[derive(Clone, Debug, Default)]
pub struct Risen {
    /// The rank that the disk has, and of which identity.
    rank: Option<(QmId, Rank)>,
    /// Of streams that leave: the oldest position that is not settled, and the newest given.
    leaving: BTreeMap<StreamId, (u64, u64)>,
    /// Of streams that arrive: what the sender has settled, and the newest position on disk.
    arriving: BTreeMap<InKey, (u64, u64)>,
}

impl Risen {
    /// Another life begins on the same disk.
    pub fn begin_life(&mut self) {
        self.leaving.clear();
        self.arriving.clear();
    }
}

/// What the disk was asked to take and has not answered for.
#[derive(Default)]
struct UnderWay {
    voids: BTreeSet<MessageKey>,
    finals: BTreeSet<MessageKey>,
    /// Skips by the queue and where their message lay, or by their position.
    letters: BTreeSet<(u32, u64)>,
    skips: BTreeSet<(u32, u64)>,
    /// What stands at links of streams that arrive.
    places: BTreeSet<(InKey, u64, Link)>,
    /// Ranks, and how often the lives changed that were shown with them.
    ranks: BTreeSet<(Rank, u64)>,
}

impl UnderWay {
    fn note(&mut self, then: &Then) {
        match then {
            Then::Voided {
                source, entries, ..
            } => {
                let key = |entry| MessageKey {
                    source: *source,
                    entry,
                };
                self.voids.extend(entries.iter().copied().map(key));
            }
            Then::Final { key } => drop(self.finals.insert(*key)),
            Then::Committed(commit) => self.finals.extend(&commit.finals),
            Then::RankKept { rank, shown } => drop(self.ranks.insert((*rank, *shown))),
            Then::Skipping { number, position } => {
                self.skips.insert((*number, *position));
            }
            Then::DeadLetter {
                from: Some(from), ..
            } if !from.local => {
                self.letters.insert((from.queue, from.message.position));
            }
            Then::Arrived {
                source,
                place: Some(place),
                ..
            }
            | Then::SkipTaken { source, place, .. } => {
                let key = (*source, place.stream);
                self.places.insert((key, place.position, place.link));
            }
            _ => {}
        }
    }
}

impl Engine {
    /// All rules.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_counts()?;
        self.audit_promises()
    }

    /// What is counted is there.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit_counts(&self) -> Result<(), String> {
        self.backlogs().try_for_each(Backlog::audit)?;
        self.audit_memory()?;
        self.audit_leases()?;
        self.audit_transactions()?;
        self.audit_work()?;
        self.audit_outgoing()
    }

    /// Streams, what others were told or will be, and identity: it takes longer.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit_promises(&self) -> Result<(), String> {
        let under_way = LazyCell::new(|| {
            let mut under_way = UnderWay::default();
            for then in self.commits.under_way().chain(self.ins.skips()) {
                under_way.note(then);
            }
            under_way
        });
        self.audit_leaving(&under_way)?;
        self.audit_arriving(&under_way)?;
        self.voids.audit(|key| under_way.voids.contains(key))?;
        self.finals.audit(|key| under_way.finals.contains(key))?;
        self.awaiting.audit()?;
        self.twins.audit()?;
        self.election.audit(|rank| under_way.ranks.contains(rank))
    }

    /// What must not go back from one audit to the next.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit_since(&self, risen: &mut Risen) -> Result<(), String> {
        if let Some(rank) = self.election.rank() {
            let before = risen.rank.replace((self.me.qm, rank));
            let before = before.filter(|(of, _)| *of == self.me.qm);
            if let Some((_, before)) = before.filter(|(_, before)| rank < *before) {
                return Err(format!("its rank went down from {before:?} to {rank:?}"));
            }
        }
        let mut leaving = BTreeMap::new();
        for stream in self.outs.values().filter_map(|out| out.stream.as_ref()) {
            let chain = &stream.chain;
            leaving.insert(chain.id(), (chain.low(), chain.head().position));
        }
        let arriving = self.ins.streams.iter().map(|(key, stream)| {
            let at = (stream.low, stream.branches.stored_to());
            (*key, at)
        });
        let arriving: BTreeMap<InKey, (u64, u64)> = arriving.collect();
        let sank = |before: Option<&(u64, u64)>, now: &(u64, u64)| {
            before.is_some_and(|before| now.0 < before.0 || now.1 < before.1)
        };
        for (id, now) in &leaving {
            let before = risen.leaving.get(id);
            if sank(before, now) {
                return Err(format!(
                    "stream {id:?} went back from {before:?} to {now:?}"
                ));
            }
        }
        for ((source, id), now) in &arriving {
            let before = risen.arriving.get(&(*source, *id));
            if sank(before, now) {
                return Err(format!(
                    "stream {id:?} of {source} went back from {before:?} to {now:?}"
                ));
            }
        }
        (risen.leaving, risen.arriving) = (leaving, arriving);
        Ok(())
    }

    /// Names of the values that the disk must have, because others may have been told so.
    #[must_use]
    pub fn told_names(&self) -> Vec<Bytes> {
        let voids = self.voids.durable().map(void_key);
        let finals = self.finals.durable().map(final_key);
        voids.chain(finals).collect()
    }

    /// What is in the hands of applications, or about to be: connections and lookup ids.
    pub fn lent(&self) -> impl Iterator<Item = (ConnId, u64)> {
        let queues = self.locals.values();
        queues.flat_map(|queue| queue.leased.iter().map(|(id, leased)| (leased.conn, *id)))
    }

    fn backlogs(&self) -> impl Iterator<Item = &Backlog> {
        let locals = self.locals.values().flat_map(|queue| queue.lanes.values());
        let outs = self.outs.values();
        let outs = outs.flat_map(|out| out.lanes.values().map(|lane| &lane.backlog));
        locals.chain(outs)
    }

    /// What is accounted for in memory is what waits there.
    fn audit_memory(&self) -> Result<(), String> {
        let (mut durable, mut express) = (0, 0);
        for message in self.backlogs().flat_map(Backlog::resident) {
            if message.class.is_durable() {
                durable += message.cost();
            } else {
                express += message.cost();
            }
        }
        for (name, held, counted) in [
            ("recoverable", durable, self.resident_bytes),
            ("express", express, self.express_bytes),
        ] {
            if held != counted {
                return Err(format!(
                    "{held} bytes of {name} messages wait in memory, counted {counted}"
                ));
            }
        }
        Ok(())
    }

    /// What is in doubt and in flight is what is counted so.
    fn audit_outgoing(&self) -> Result<(), String> {
        for (id, (number, priority, position)) in &self.doubts {
            let held = self
                .outs
                .get(number)
                .and_then(|out| out.lanes.get(priority))
                .is_some_and(|lane| lane.doubt.get(position).is_some_and(|m| m.id == *id));
            if !held {
                return Err(format!("message {id} is listed in doubt and is not held"));
            }
        }
        let mut flights: BTreeMap<u32, u64> = BTreeMap::new();
        for session in self.sessions.values() {
            if session.arrived.messages > session.granted.messages {
                return Err(format!("{}: more arrived than was granted", session.link));
            }
            if session.flights.len() as u64 > session.sent.messages {
                return Err(format!("{}: more in flight than was sent", session.link));
            }
            if session.skips_open > 2 * SKIPS_OPEN_MAX {
                return Err(format!("{}: more skips than may be open", session.link));
            }
            let listed = self.by_peer.get(&session.peer);
            if listed.is_none_or(|links| !links.contains(&session.link)) {
                return Err(format!("{} is not listed at its peer", session.link));
            }
            for flight in session.flights.values() {
                *flights.entry(flight.queue).or_default() += 1;
            }
        }
        let listed: usize = self.by_peer.values().map(BTreeSet::len).sum();
        if listed != self.sessions.len() {
            let there = self.sessions.len();
            return Err(format!("{there} sessions, {listed} listed"));
        }
        for (number, out) in &self.outs {
            let there = flights.get(number).copied().unwrap_or(0);
            if there != out.in_flight {
                return Err(format!(
                    "outgoing queue {number}: {there} in flight, counted {}",
                    out.in_flight
                ));
            }
        }
        Ok(())
    }

    /// Streams that leave.
    fn audit_leaving(&self, under_way: &impl Deref<Target = UnderWay>) -> Result<(), String> {
        let mut streams = 0;
        for (number, out) in &self.outs {
            let wrong = |text: String| format!("stream of outgoing queue {number}: {text}");
            let Some(stream) = &out.stream else { continue };
            streams += 1;
            let chain = &stream.chain;
            if self.stream_ids.get(&chain.id()) != Some(number) {
                return Err(wrong("it is not listed".to_owned()));
            }
            chain.audit().map_err(wrong)?;
            if chain.sent_skips() > SKIPS_OPEN_MAX {
                return Err(wrong(format!("{} skips are open", chain.sent_skips())));
            }
            for skip in chain.skips().filter(|skip| !skip.durable) {
                let (at, position) = (skip.mark.at, skip.mark.position);
                let goes = under_way.letters.contains(&(*number, at))
                    || under_way.skips.contains(&(*number, position));
                if !goes {
                    return Err(wrong(format!(
                        "the skip at {position} is neither on disk nor on its way"
                    )));
                }
            }
            for placed in chain.unsettled() {
                let Some((link, sent)) = placed.flight else {
                    continue;
                };
                let session = self.sessions.get(&link);
                let flight = session.and_then(|session| session.flights.get(&sent));
                let at = flight.map(|flight| (flight.queue, flight.message.position));
                if at != Some((*number, placed.mark.at)) {
                    let position = placed.mark.position;
                    return Err(wrong(format!("position {position} is not in flight")));
                }
            }
        }
        if streams != self.stream_ids.len() {
            let listed = self.stream_ids.len();
            return Err(format!("{streams} streams leave, {listed} are listed"));
        }
        for (number, out) in &self.outs {
            if let Some(id) = out.passed_over() {
                return Err(format!("queue {number}: {id} waits and was passed over"));
            }
        }
        for session in self.sessions.values() {
            let flights = session.flights.iter();
            for (sent, flight) in flights.filter(|(_, f)| f.message.class == Class::Transactional) {
                let out = self.outs.get(&flight.queue);
                if out.is_none_or(|out| !out.flies((session.link, *sent), flight.message.position))
                {
                    return Err(format!(
                        "{}: {} is in flight without a place",
                        session.link, flight.message.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Streams that arrive.
    fn audit_arriving(&self, under_way: &impl Deref<Target = UnderWay>) -> Result<(), String> {
        let mut of_peer: BTreeMap<QmId, usize> = BTreeMap::new();
        for (key, stream) in &self.ins.streams {
            let wrong = |text: String| format!("stream {:?} of {}: {text}", key.1, key.0);
            let count = of_peer.entry(key.0).or_default();
            *count += 1;
            if *count > STREAMS_PER_PEER_MAX || stream.branches.count() > BRANCHES_MAX {
                return Err(wrong("there are too many of them".to_owned()));
            }
            stream.branches.audit().map_err(wrong)?;
            let mut open = stream.branches.open();
            if let Some((position, _)) =
                open.find(|(at, link)| !under_way.places.contains(&(*key, *at, *link)))
            {
                return Err(wrong(format!(
                    "position {position} is neither on disk nor on its way"
                )));
            }
        }
        Ok(())
    }
}

impl OutQueue {
    /// Whether what lies at `at` is in flight there, as its stream knows it.
    fn flies(&self, flight: (crate::io::LinkId, u64), at: u64) -> bool {
        let chain = self.stream.as_ref().map(|stream| &stream.chain);
        let placed = chain.and_then(|chain| chain.placed_at(at));
        placed.is_some_and(|placed| placed.flight == Some(flight))
    }
}
