//! From what the store found to an engine that goes on where it was.

use std::collections::BTreeSet;

use bytes::Bytes;
use qm_wire::{Class, Entry, Incarnation, MessageId, MessageKey, QmId, Tag};

use crate::backlog::Backlog;
use crate::commits::Then;
use crate::engine::{ArrivalKey, Engine};
use crate::io::{Event, Recovered};
use crate::outgoing::OutLane;
use crate::queues::LocalQueue;
use crate::record::{QueueRecord, StoredMessage};
use crate::stream::recovery::is_stream_value;
use crate::undone::{UNDONE, undone_key};

impl Engine {
    pub(crate) fn recover(&mut self, recovered: Recovered) {
        let lives = recovered.state.get(LIVES).map(AsRef::as_ref);
        let lives = lives.and_then(|value| <[u8; 4]>::try_from(value).ok());
        self.begin_life(lives.map_or(0, u32::from_le_bytes).saturating_add(1));
        for (key, value) in &recovered.state {
            let understood = match QueueRecord::number_of(key) {
                Some(number) => self.recover_queue(number, QueueRecord::decode(value)),
                None if key == LIVES => true,
                None if is_stream_value(key) => true,
                None => self
                    .recover_life(key)
                    .or_else(|| self.recover_peer(key, value))
                    .or_else(|| self.recover_client(key, value))
                    .or_else(|| self.recover_letter(key, value))
                    .unwrap_or(true),
            };
            if !understood {
                self.event(Event::Unreadable {
                    what: "a stored value",
                });
            }
        }
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
            self.on_receive(conn, receive);
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
            }) => {
                let remote = self.remote(&remote);
                self.insert_out_queue(number, remote, queue, paused);
                true
            }
        }
    }

    /// Fills the duplicate cache from what arrived last, consumed messages included, so that a
    /// restart opens no window for duplicates: from the list the last start wrote, then from the
    /// newest messages in the log. The list is written anew, because the log may forget consumed
    /// messages before their senders heard of their arrival.
    fn recall_arrivals(&mut self, recovered: &Recovered) {
        let mut arrivals: Vec<MessageKey> = Vec::new();
        let mut undone: BTreeSet<MessageKey> = BTreeSet::new();
        for (key, value) in &recovered.state {
            undone.extend(key.strip_prefix(UNDONE).and_then(read_arrival));
            if key.starts_with(ARRIVALS) {
                arrivals.extend(value.chunks_exact(ARRIVAL_BYTES).filter_map(read_arrival));
            }
        }
        let listed = arrivals.len();
        for (_, head) in &recovered.recent {
            let Some(stored) = StoredMessage::read(head) else {
                continue;
            };
            let envelope = stored.envelope;
            if envelope.source == self.me.qm {
                // My own earlier lives: their acks are mine to take.
                self.prior_incarnations.insert(envelope.id.incarnation);
            } else if stored.dead.is_none() && envelope.class != Class::Transactional {
                // Also when its queue was deleted since: its sender may not have heard of the
                // arrival, and the queue may be there again under its name.
                let entry = Entry {
                    id: envelope.id,
                    tag: stored.tag,
                };
                let arrival = MessageKey {
                    source: envelope.source,
                    entry,
                };
                if undone.contains(&arrival) {
                    self.undone_arrivals.insert(arrival);
                } else {
                    arrivals.push(arrival);
                }
            }
        }
        // Those that the log has forgotten need no mark any more.
        for arrival in undone.difference(&self.undone_arrivals) {
            self.commits.unset(undone_key(arrival));
        }
        let news = arrivals.len() > listed;
        arrivals.drain(..arrivals.len().saturating_sub(self.config.dedup_capacity));
        let now_ms = self.now.at.as_ms();
        for key in &arrivals {
            self.dedup.insert_if_absent(ArrivalKey(*key), now_ms);
        }
        if news {
            let mut written = 0_u32;
            for chunk in arrivals.chunks(ARRIVALS_PER_VALUE) {
                let value = chunk.iter().flat_map(arrival_bytes).collect();
                self.commits.set(arrivals_key(written), value);
                written += 1;
                self.seal_if_large();
            }
            for key in recovered
                .state
                .keys()
                .filter(|key| key.starts_with(ARRIVALS))
            {
                if *key >= arrivals_key(written) {
                    self.commits.unset(key.clone());
                }
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

/// Names of the values that list arrivals.
const ARRIVALS: &[u8] = b"arrivals/";
const ARRIVAL_BYTES: usize = 40;
/// Values stay small enough for the smallest segments of a store.
const ARRIVALS_PER_VALUE: usize = 256;

fn arrivals_key(number: u32) -> Bytes {
    crate::record::prefixed(ARRIVALS, &number.to_be_bytes())
}

pub(crate) fn arrival_bytes(key: &MessageKey) -> [u8; ARRIVAL_BYTES] {
    let mut bytes = [0; ARRIVAL_BYTES];
    let Entry { id, tag } = key.entry;
    let parts: [&[u8]; 4] = [
        key.source.as_bytes(),
        &id.incarnation.0.to_le_bytes(),
        &id.sequence.to_le_bytes(),
        &tag.0,
    ];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

fn read_arrival(bytes: &[u8]) -> Option<MessageKey> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let id = MessageId {
        incarnation: Incarnation(u64::from_le_bytes(*incarnation)),
        sequence: u64::from_le_bytes(*sequence),
    };
    let entry = Entry {
        id,
        tag: Tag(rest.try_into().ok()?),
    };
    Some(MessageKey {
        source: QmId::from_bytes(*source),
        entry,
    })
}
