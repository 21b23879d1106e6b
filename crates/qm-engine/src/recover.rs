//! From what the store found to an engine that goes on where it was.

use bytes::Bytes;
use qm_wire::Incarnation;

use crate::backlog::Backlog;
use crate::commits::Then;
use crate::engine::Engine;
use crate::io::{Event, Recovered};
use crate::outgoing::OutLane;
use crate::queues::LocalQueue;
use crate::record::QueueRecord;
use crate::reidentify::is_identity_value;
use crate::stream::recovery::is_stream_value;

impl Engine {
    pub(crate) fn recover(&mut self, recovered: Recovered) {
        let lives = recovered.state.get(LIVES).map(AsRef::as_ref);
        let lives = lives.and_then(|value| <[u8; 4]>::try_from(value).ok());
        self.begin_life(lives.map_or(0, u32::from_le_bytes).saturating_add(1));
        // Who this node was, and who its peers were, decides what other values mean.
        self.recover_identities(&recovered.state);
        self.compare_seals(&recovered);
        if !self.recover_courses(&recovered) {
            self.event(Event::Unreadable {
                what: "a stored value of the store's courses",
            });
        }
        for (key, value) in &recovered.state {
            let understood = match QueueRecord::number_of(key) {
                Some(number) => self.recover_queue(number, QueueRecord::decode(value)),
                None if key == LIVES || is_identity_value(key) => true,
                None if Self::is_courses_value(key) => true,
                None if is_stream_value(key) => true,
                None => self
                    .recover_life(key)
                    .or_else(|| self.recover_token(key, value))
                    .or_else(|| self.recover_branched(key, value))
                    .or_else(|| self.recover_rank(key, value))
                    .or_else(|| self.recover_alarm(key, value))
                    .or_else(|| self.recover_peer(key, value))
                    .or_else(|| self.recover_client(key, value))
                    .or_else(|| self.recover_letter(key, value))
                    .or_else(|| self.recover_ask(key, value))
                    .or_else(|| self.recover_void(key, value))
                    .or_else(|| self.recover_final(key, value))
                    .or_else(|| self.recover_awaited(key, value))
                    .or_else(|| self.recover_report(key, value))
                    .or_else(|| self.recover_met(key, value))
                    .unwrap_or(true),
            };
            if !understood {
                self.event(Event::Unreadable {
                    what: "a stored value",
                });
            }
        }
        self.order_voids();
        self.order_finals();
        self.count_asks();
        self.remember_met();
        self.drop_stale_letters(&recovered.streams);
        for _ in 0..self.recover_streams(&recovered) {
            self.event(Event::Unreadable {
                what: "a stored value of a transactional stream",
            });
        }
        for (stream, summary) in &recovered.streams {
            let (number, priority) = Self::queue_of(*stream);
            let backlog = Backlog::recovered(*stream, *summary, self.first_position);
            self.stored_bytes = self.stored_bytes.saturating_add(summary.live_bytes);
            if let Some(queue) = self.locals.get_mut(&number) {
                queue.lanes.insert(priority, backlog);
            } else if let Some(out) = self.outs.get_mut(&number) {
                out.lanes.insert(priority, OutLane::new(backlog));
            } else if summary.live_records > 0 {
                self.event(Event::Unreadable {
                    what: "a stream of no known queue",
                });
            }
            self.next_queue = self.next_queue.max(number + 1);
        }
        for (key, value) in &recovered.state {
            let understood = self
                .recover_taken(key, value)
                .or_else(|| self.recover_handed(key, value));
            if understood == Some(false) {
                self.event(Event::Unreadable {
                    what: "a stored value",
                });
            }
        }
        self.recall_arrivals(&recovered);
        let locals: Vec<_> = self.locals.keys().copied().collect();
        for number in locals {
            for priority in 0..8 {
                self.refill_local(number, priority);
            }
        }
        let outs: Vec<_> = self.outs.keys().copied().collect();
        for number in outs {
            for priority in 0..8 {
                self.refill_out(number, priority);
            }
        }
        self.begin_rest_anew();
        self.end_left_doubts();
        self.place_reports();
        self.quarantine_inherited();
        self.make_siblings();
        self.connect_kept();
    }

    /// Gives this life positions that no other has, and makes that durable: the store forgets what
    /// was consumed, and express messages were never in it, but a lookup id names one message for
    /// ever.
    pub(crate) fn begin_life(&mut self, life: u32) {
        self.life = life;
        let life = u64::from(life).min(LIFE_MAX);
        self.first_position = life << LIFE_POSITION_BITS;
        self.commits.set(
            Bytes::from_static(LIVES),
            Bytes::copy_from_slice(&self.life.to_le_bytes()),
        );
        self.commits.after_settling(Then::LifeBegun);
    }

    /// The number of this life is on disk: messages may be handed out.
    pub(crate) fn on_life_begun(&mut self) {
        self.life_begun = true;
        for (conn, receive) in core::mem::take(&mut self.early_receives) {
            self.begin_receive(conn, receive);
        }
    }

    fn recover_life(&mut self, key: &Bytes) -> Option<bool> {
        let life = <[u8; 8]>::try_from(key.strip_prefix(&b"life/"[..])?).ok();
        self.prior_incarnations
            .extend(life.map(|life| Incarnation(u64::from_be_bytes(life))));
        Some(life.is_some())
    }

    fn recover_queue(&mut self, number: u32, record: Option<QueueRecord>) -> bool {
        self.next_queue = self.next_queue.max(number + 1);
        match record {
            None => false,
            Some(QueueRecord::Local(settings)) => {
                self.local_names.insert(settings.name.clone(), number);
                self.locals.insert(number, LocalQueue::new(settings));
                true
            }
            Some(QueueRecord::Outgoing {
                remote,
                queue,
                paused,
                own,
            }) => {
                let own = own.unwrap_or_else(|| self.former().unwrap_or(self.me.qm));
                let remote = self.remote_as(own, &remote);
                self.insert_out_queue(number, remote, queue, paused);
                true
            }
        }
    }
}

/// Name of the value that counts the lives of this queue manager.
const LIVES: &[u8] = b"lives";
/// Positions have 60 bits: 2^36 of each life for every priority of every queue, in 2^24 lives.
const LIFE_POSITION_BITS: u32 = 36;
/// Lives beyond share the positions of the last; only then may a lookup id come again.
const LIFE_MAX: u64 = (1 << 24) - 1;
