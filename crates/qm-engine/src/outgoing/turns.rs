//! Questions about what may have been transmitted before (W-USE-7).
//!
//! However much is in doubt, on a session at most one query's entries wait for their answers; the
//! next ones are asked about when those are answered, by turns. What is not answered within the
//! query interval is asked about again when its turn comes, so that a destination that answers some
//! messages never does not keep the others from being asked about.

use std::collections::BTreeMap;

use qm_wire::limits::ENTRIES_MAX;
use qm_wire::{Entry, Known, MessageId, PeerFrame, QmId, Query};

use crate::engine::Engine;
use crate::history::What;
use crate::io::{Lane, LinkId};
use crate::limits::SILENT_SESSION_MS;
use crate::time::Timestamp;

/// After so long a destination is asked again about what it said it is just storing.
pub(crate) const STORING_MS: u64 = 1_000;

/// A message in doubt: its outgoing queue, priority and position.
type DoubtAt = (u32, u8, u64);

/// What a peer is being asked about on one session.
#[derive(Debug, Default)]
pub(crate) struct DoubtsAsked {
    /// Until when their answers are waited for.
    until: BTreeMap<MessageId, Timestamp>,
    /// The last one that was asked about.
    last: Option<DoubtAt>,
    /// Whether there were more than fitted.
    more: bool,
}

impl DoubtsAsked {
    /// A peer answered.
    pub(crate) fn answered(&mut self, id: MessageId, known: Known, now: Timestamp) {
        if known != Known::InFlight {
            self.until.remove(&id);
        } else if let Some(until) = self.until.get_mut(&id) {
            *until = (*until).min(now.plus_ms(STORING_MS));
        }
    }

    /// Whether another query can be filled well.
    pub(crate) fn wants_more(&self) -> bool {
        self.more && self.until.len() <= ENTRIES_MAX / 2
    }
}

impl Engine {
    /// Asks a peer for what is in doubt towards it, as much as one query takes.
    pub(crate) fn query_doubts(&mut self, own: QmId, peer: QmId) {
        let Some(link) = self.sending_session(own, peer) else {
            return;
        };
        let entries = self.next_doubts(link, own, peer);
        self.send_query(link, &entries);
        self.look_at_doubts_again(link);
        self.query_ended(own, peer);
    }

    /// The entries whose turn it is; they count as asked about.
    fn next_doubts(&mut self, link: LinkId, own: QmId, peer: QmId) -> Vec<Entry> {
        let now = self.now.at;
        let again = now.plus_ms(self.config.query_interval_ms);
        let mut lanes: Vec<(u32, u8)> = Vec::new();
        for number in self.queues_towards(own, peer) {
            let out = self.outs.get(&number).into_iter();
            let doubtful = out
                .flat_map(|out| &out.lanes)
                .filter(|(_, lane)| !lane.doubt.is_empty());
            lanes.extend(doubtful.map(|(priority, _)| (number, *priority)));
        }
        lanes.sort_unstable();
        let Some(session) = self.sessions.get_mut(&link) else {
            return Vec::new();
        };
        let asked = &mut session.doubts_asked;
        let doubts = &self.doubts;
        asked
            .until
            .retain(|id, until| *until > now && doubts.contains_key(id));
        let room = ENTRIES_MAX.saturating_sub(asked.until.len());
        // Behind the last one, then from the beginning up to it.
        let last = asked.last;
        let turns = [
            last.map(|last| (last, true)),
            last.map(|last| (last, false)),
        ];
        let turns = if last.is_some() {
            &turns[..]
        } else {
            &[None][..]
        };
        let mut found: Vec<(DoubtAt, Entry)> = Vec::new();
        asked.more = false;
        'turns: for turn in turns {
            for (number, priority) in &lanes {
                let lane = self
                    .outs
                    .get(number)
                    .and_then(|out| out.lanes.get(priority));
                let span = span_of((*number, *priority), *turn);
                let (Some(lane), Some((from, to))) = (lane, span) else {
                    continue;
                };
                for (position, message) in lane.doubt.range(from..=to) {
                    if asked.until.contains_key(&message.id) {
                        continue;
                    }
                    if found.len() >= room {
                        asked.more = true;
                        break 'turns;
                    }
                    found.push(((*number, *priority, *position), message.entry()));
                }
            }
        }
        asked.last = found.last().map(|(at, _)| *at).or(last);
        let entries: Vec<Entry> = found.into_iter().map(|(_, entry)| entry).collect();
        asked
            .until
            .extend(entries.iter().map(|entry| (entry.id, again)));
        entries
    }

    /// Plans when what was asked about, and is not answered, is asked about again.
    fn look_at_doubts_again(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if let Some(first) = session.doubts_asked.until.values().min().copied() {
            session.next_query = session.next_query.min(first);
            self.arm_session(link, first);
        }
    }

    /// A peer has answered: the next ones are asked about.
    pub(crate) fn query_more_doubts(&mut self, link: LinkId, own: QmId, peer: QmId) {
        let session = self.sessions.get(&link);
        if session.is_some_and(|session| session.doubts_asked.wants_more()) {
            self.query_doubts(own, peer);
        }
    }

    /// Asks what became of these messages.
    pub(crate) fn send_query(&mut self, link: LinkId, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let interval = self.config.query_interval_ms;
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let me = session.own;
        for chunk in entries.chunks(ENTRIES_MAX) {
            let query = Query {
                source: me,
                void: false,
                entries: chunk.to_vec(),
            };
            session.push(Lane::Control, &PeerFrame::Query(query));
        }
        let peer = session.peer;
        for entry in entries {
            self.note(me, entry.id, What::Queried { peer });
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let next_query = self.now.at.plus_ms(interval);
        session.next_query = next_query;
        self.counters.queried += entries.len() as u64;
        self.arm_session(link, next_query);
        self.expect_sign(link, SILENT_SESSION_MS);
        self.busy_sessions.insert(link);
    }

    /// Asks for what has been unacknowledged for too long, first after the ack wait, then at the
    /// query interval.
    pub(crate) fn query_overdue(&mut self, link: LinkId) {
        let now = self.now.at;
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        if !session.may_send()
            || (session.next_query != Timestamp::NEVER && now < session.next_query)
        {
            return;
        }
        let (own, peer) = (session.own, session.peer);
        let wait_ms = session.ack_wait_ms(&self.config);
        let mut entries: Vec<Entry> = session
            .flights
            .values()
            .take(ENTRIES_MAX)
            .filter(|flight| flight.sent.plus_ms(wait_ms) <= now)
            .map(|flight| flight.message.entry())
            .collect();
        if self.sending_session(own, peer) == Some(link) {
            entries.extend(self.next_doubts(link, own, peer));
        } else if let Some(session) = self.sessions.get_mut(&link) {
            // They are asked about on the session that took over: looked for here, what is overdue
            // would be looked at again at once, without end.
            session.doubts_asked = DoubtsAsked::default();
        }
        if let Some(session) = self.sessions.get_mut(&link) {
            session.next_query = Timestamp::NEVER;
        }
        self.send_query(link, &entries);
        self.look_at_doubts_again(link);
        if self.sending_session(own, peer) == Some(link) && self.query_ended(own, peer) {
            let next_query = now.plus_ms(self.config.query_interval_ms);
            if let Some(session) = self.sessions.get_mut(&link) {
                session.next_query = session.next_query.min(next_query);
            }
            self.arm_session(link, next_query);
        }
    }
}

/// Which positions of a lane are looked at in a turn: those behind the last one that was asked
/// about, or those up to it.
fn span_of(lane: (u32, u8), turn: Option<(DoubtAt, bool)>) -> Option<(u64, u64)> {
    let Some(((number, priority, position), behind)) = turn else {
        return Some((0, u64::MAX));
    };
    match (lane.cmp(&(number, priority)), behind) {
        (core::cmp::Ordering::Less, false) | (core::cmp::Ordering::Greater, true) => {
            Some((0, u64::MAX))
        }
        (core::cmp::Ordering::Equal, true) => Some((position.checked_add(1)?, u64::MAX)),
        (core::cmp::Ordering::Equal, false) => Some((0, position)),
        _ => None,
    }
}
