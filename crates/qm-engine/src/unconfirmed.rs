//! Dead letters of messages that may have been transmitted: unconfirmed until the destination has
//! said that it will not take them, uncertain when it can no longer know.
//!
//! The destination's word is the last: what it delivered all the same is no dead letter.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use qm_wire::{Entry, MessageId, Outcome, QueueName};

use crate::engine::Engine;
use crate::history::What;
use crate::io::{Event, StoreOp, StreamId, StreamSummary};
use crate::queues::{DEAD_QUEUE, lookup_of};
use crate::record::prefixed;

/// What is open about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// Its destination is being asked.
    Unconfirmed,
    /// Nobody can say any more.
    Uncertain,
}

/// Dead letters about which something is open, by their positions.
pub(crate) type OpenLetters = BTreeMap<u64, Open>;

const LETTER: &[u8] = b"letter/";

fn letter_key(position: u64) -> Bytes {
    prefixed(LETTER, &position.to_be_bytes())
}

fn letter_value(open: Open) -> Bytes {
    let mut to = BytesMut::with_capacity(2);
    to.put_u8(1);
    to.put_u8(match open {
        Open::Unconfirmed => 1,
        Open::Uncertain => 2,
    });
    to.freeze()
}

impl Engine {
    /// A dead letter is put whose message may have been delivered.
    pub(crate) fn letter_opens(&mut self, position: u64) {
        self.open_letters.insert(position, Open::Unconfirmed);
        self.counters.letters_unconfirmed += 1;
        let (key, value) = (letter_key(position), letter_value(Open::Unconfirmed));
        self.commits.put(StoreOp::Set { key, value });
    }

    /// The disk refused it.
    pub(crate) fn letter_reverts(&mut self, position: u64) {
        if self.open_letters.remove(&position).is_some() {
            self.commits.unset(letter_key(position));
        }
    }

    /// A letter goes in the batch that puts, and what is noted of it goes along. Here that stays
    /// known until it is on disk: refused, the letter is where it was.
    pub(crate) fn letter_leaves(&mut self, position: u64) {
        if self.open_letters.contains_key(&position) {
            let key = letter_key(position);
            self.commits.put(StoreOp::Unset { key });
        }
    }

    /// Nothing is open about a letter any more, because it is confirmed, or because it goes.
    pub(crate) fn letter_closes(&mut self, position: u64) -> bool {
        let open = self.open_letters.remove(&position).is_some();
        if open {
            self.commits.unset(letter_key(position));
        }
        open
    }

    /// The destination will not take the message: it is certainly dead.
    pub(crate) fn letter_certain(&mut self, letter: Option<u64>, id: MessageId) {
        self.counters.letters_confirmed += 1;
        if let Some(position) = letter {
            self.letter_closes(position);
        }
        self.death_stands(id);
        self.event(Event::DeathConfirmed { id });
    }

    /// The destination can no longer know whether it has the message.
    pub(crate) fn letter_uncertain(&mut self, letter: Option<u64>, id: MessageId) {
        self.counters.letters_uncertain += 1;
        crate::reached!(self, LetterUncertain);
        if let Some(position) = letter {
            self.note_letter_uncertain(position);
        }
        self.death_stands(id);
        self.event(Event::DeathUncertain { id });
    }

    /// Nobody can say any more whether the message of a letter arrived.
    pub(crate) fn note_letter_uncertain(&mut self, position: u64) {
        if let Some(open) = self.open_letters.get_mut(&position)
            && core::mem::replace(open, Open::Uncertain) != Open::Uncertain
        {
            self.commits
                .set(letter_key(position), letter_value(Open::Uncertain));
        }
    }

    /// The destination has a message that ended here: its dead letter goes.
    pub(crate) fn was_delivered(&mut self, number: u32, entry: Entry, letter: Option<(u64, u64)>) {
        let peer = self.peer_of(number);
        if let Some(out) = self.outs.get_mut(&number) {
            out.acknowledged += 1;
        }
        self.counters.acknowledged += 1;
        self.counters.letters_withdrawn += 1;
        let me = self.own_of(number);
        self.note(me, entry.id, What::Acknowledged { peer });
        self.event(Event::Acknowledged { id: entry.id });
        self.doubted_arrived(entry.id);
        self.tell_fate(entry.id, Outcome::REACHED_QUEUE);
        if let Some((position, bytes)) = letter {
            self.withdraw_letter(position, bytes);
        }
    }

    /// Whether this dead letter is in an application's hands, or in a commit that sends it again.
    pub(crate) fn is_letter_held(&mut self, position: u64) -> bool {
        if self.letters_resent.contains(&position) {
            return true;
        }
        let number = self.dead_queue();
        let queue = self.locals.get(&number);
        queue.is_some_and(|queue| queue.leased.contains_key(&lookup_of(0, position)))
    }

    fn withdraw_letter(&mut self, position: u64, bytes: u64) {
        if !self.open_letters.contains_key(&position) {
            // It was dropped or sent again meanwhile.
            return;
        }
        let number = self.dead_queue();
        let Some(queue) = self.locals.get_mut(&number) else {
            return;
        };
        let Some(lane) = queue.lanes.get_mut(&0) else {
            return;
        };
        if let Some(message) = lane.take(position) {
            self.release(&message);
        } else if !lane.take_ahead(position, bytes) {
            return;
        }
        self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
        self.letter_closes(position);
        self.commits.settle(StoreOp::Remove {
            stream: Self::stream_of(number, 0),
            first: position,
            last: position,
        });
        self.reopen_if_room(number);
    }

    /// Drops what is noted of letters that are no longer stored: an earlier version left it behind
    /// when a letter was received.
    pub(crate) fn drop_stale_letters(&mut self, streams: &BTreeMap<StreamId, StreamSummary>) {
        let name: QueueName = DEAD_QUEUE.parse().expect("the name follows the rules");
        let number = self.local_names.get(&name);
        let stored = number.and_then(|number| streams.get(&Self::stream_of(*number, 0)));
        let stored = stored.filter(|summary| summary.live_records > 0);
        let stored = stored.map_or(0..0, |s| s.first_live..s.next_position);
        let open = self.open_letters.keys();
        let gone: Vec<_> = open.copied().filter(|at| !stored.contains(at)).collect();
        for position in gone {
            self.letter_closes(position);
            self.seal_if_large();
        }
    }

    /// Reads what is open about a letter back. Returns whether the value was understood.
    pub(crate) fn recover_letter(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let position = <[u8; 8]>::try_from(key.strip_prefix(LETTER)?).ok();
        let open = match value.as_ref() {
            [1, 1] => Some(Open::Unconfirmed),
            [1, 2] => Some(Open::Uncertain),
            _ => None,
        };
        let known = position.map(u64::from_be_bytes).zip(open);
        self.open_letters.extend(known);
        Some(known.is_some())
    }
}
