//! Messages whose fate somebody waits for, also after a repeated request.

use std::collections::BTreeSet;

use qm_wire::local::{Follow, Put};
use qm_wire::{ClientId, MessageId, Outcome};

use super::{Clients, Followed};
use crate::awaited::Wait;
use crate::commits::Then;
use crate::engine::Engine;
use crate::limits::FOLLOWED_MAX;
use crate::time::Timestamp;

/// How often room is looked for at the limit, milliseconds: it takes a walk over all of them.
const UNFOLLOW_MS: u64 = 1_000;

impl Clients {
    /// Whether so many more messages may be followed. At the limit those are let go whose
    /// applications have no connection: one that comes back repeats its requests, and follows the
    /// messages again.
    pub(super) fn may_follow(&mut self, messages: usize, now: Timestamp) -> bool {
        let has_room = |clients: &Self| clients.followed.len() <= FOLLOWED_MAX - messages;
        if messages > FOLLOWED_MAX {
            return false;
        }
        if !has_room(self) && self.next_unfollow <= now {
            self.next_unfollow = now.plus_ms(UNFOLLOW_MS);
            self.unfollow_gone();
        }
        has_room(self)
    }

    fn unfollow_gone(&mut self) {
        let states = &self.states;
        let here = |client: &ClientId| states.get(client).is_some_and(|state| state.conn.is_some());
        self.followed.retain(|_, followed| here(&followed.client));
    }
}

impl Engine {
    /// Tells whoever follows a message what became of it on its way.
    pub(crate) fn tell_fate(&mut self, id: MessageId, outcome: Outcome) {
        let Some(followed) = self.clients.followed.get(&id).copied() else {
            return;
        };
        let last = !outcome.is_positive()
            || outcome == Outcome::RECEIVED
            || followed.follow == Follow::Delivered;
        if last {
            self.clients.followed.remove(&id);
        }
        self.push_fate(followed.client, followed.sequence, outcome);
    }

    /// The same of an end that is in what is gathered for the disk: who is told of it must not see
    /// it undone by a crash.
    pub(crate) fn tell_end(&mut self, id: MessageId, outcome: Outcome) {
        if !self.clients.followed.contains_key(&id) {
            return;
        }
        if crate::broken!(self, settle_before_durable) {
            return self.tell_fate(id, outcome);
        }
        self.commits.after_settling(Then::Ended { id, outcome });
    }

    fn push_fate(&mut self, client: ClientId, sequence: u64, outcome: Outcome) {
        let Some(conn) = self
            .clients
            .states
            .get(&client)
            .and_then(|state| state.conn)
        else {
            return;
        };
        let fates = self.clients.fates.entry(conn).or_default();
        if let Some((_, last, same)) = fates.last_mut()
            && *same == outcome
            && last.checked_add(1) == Some(sequence)
        {
            *last = sequence;
            return;
        }
        fates.push((sequence, sequence, outcome));
    }

    /// The message of a repeated request is followed again. Where it is by now is looked up once
    /// for all of a batch.
    pub(super) fn follow_again(&mut self, client: ClientId, put: &Put, id: MessageId) {
        if put.follow == Follow::None {
            return;
        }
        let sequence = put.sequence;
        let now = self.now.at;
        if self.clients.followed.contains_key(&id) || self.clients.may_follow(1, now) {
            let followed = Followed {
                client,
                sequence,
                follow: put.follow,
            };
            self.clients.followed.insert(id, followed);
            self.clients.followed_again.insert(id);
        }
    }

    /// Tells what became of messages that are followed again and are not here any more. With
    /// `unsure` also of those that might have been on disk when they were looked for.
    pub(crate) fn look_after_followed(&mut self, unsure: bool) {
        let mut ids = core::mem::take(&mut self.clients.followed_again);
        if unsure {
            ids.append(&mut self.clients.followed_unsure);
        }
        ids.retain(|id| self.clients.followed.contains_key(id));
        if ids.is_empty() {
            return;
        }
        ids.retain(
            |id| match self.awaiting.get(*id).map(|awaited| awaited.wait) {
                Some(Wait::Open) => {
                    self.tell_fate(*id, Outcome::REACHED_QUEUE);
                    false
                }
                Some(Wait::Ended(outcome)) => {
                    self.tell_end(*id, outcome);
                    false
                }
                Some(Wait::Doubt(_)) | None => true,
            },
        );
        let (held, all) = self.ids_in_memory();
        let ends = self.history.ends_of(&ids);
        for id in ids.difference(&held) {
            match ends.get(id) {
                Some(outcome) => self.tell_end(*id, *outcome),
                // It may wait on disk: then its fate will come, or is looked for again.
                None if !all => {
                    self.clients.followed_unsure.insert(*id);
                }
                None => self.tell_fate(*id, Outcome::NOT_FOUND),
            }
        }
    }

    /// The messages of this node that are in memory, and whether none is on disk only.
    fn ids_in_memory(&self) -> (BTreeSet<MessageId>, bool) {
        let mut held: BTreeSet<MessageId> = self.doubts.keys().copied().collect();
        held.extend(self.commits.dying());
        held.extend(self.asks.ids());
        // What left its stream is judged by the answer for its place.
        let streams = self.outs.values().filter_map(|out| out.stream.as_ref());
        held.extend(streams.flat_map(|stream| stream.chain.skips().map(|skip| skip.entry.id)));
        let mut all = true;
        for session in self.sessions.values() {
            held.extend(session.flights.values().map(|flight| flight.message.id));
        }
        for lane in self.outs.values().flat_map(|out| out.lanes.values()) {
            held.extend(lane.backlog.resident().map(|message| message.id));
            all &= lane.backlog.is_resident();
        }
        for (number, queue) in &self.locals {
            if self.is_aside(*number) {
                continue;
            }
            held.extend(queue.leased.values().map(|leased| leased.message.id));
            for lane in queue.lanes.values() {
                held.extend(lane.resident().map(|message| message.id));
                all &= lane.is_resident();
            }
        }
        (held, all)
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::super::answers::ClientState;
    use super::*;
    use crate::io::ConnId;

    /// At the limit; each second message is of an application that is gone.
    fn full() -> Clients {
        let mut clients = Clients::default();
        let [here, gone] = [1, 2].map(|client| ClientId([client; 16]));
        let state = ClientState {
            conn: Some(ConnId(1)),
            ..ClientState::default()
        };
        clients.states.insert(here, state);
        clients.states.insert(gone, ClientState::default());
        for sequence in 0..FOLLOWED_MAX as u64 {
            let incarnation = Incarnation(1);
            let id = MessageId {
                incarnation,
                sequence,
            };
            let followed = Followed {
                client: if sequence % 2 == 0 { here } else { gone },
                sequence,
                follow: Follow::Received,
            };
            clients.followed.insert(id, followed);
        }
        clients
    }

    #[test]
    fn at_the_limit_those_are_let_go_whose_applications_are_gone() {
        let mut clients = full();
        assert!(!clients.may_follow(FOLLOWED_MAX + 1, Timestamp(0)));
        assert!(clients.may_follow(1, Timestamp(0)));
        assert_eq!(clients.followed.len(), FOLLOWED_MAX / 2);
        let left = FOLLOWED_MAX / 2;
        assert!(clients.may_follow(left, Timestamp(0)));
        assert!(!clients.may_follow(left + 1, Timestamp(0)));
    }
}
