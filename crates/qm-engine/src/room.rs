//! Whether this node has room for more messages, and what it is that is full.
//!
//! A full disk is known from what the store refused: it stays full until the store says that there
//! is room, or takes messages again. What may wait is limited as well; that limit counts as reached
//! while the last message that was turned away for it would be turned away again. Operators are
//! told once a second at most, however often the two sides of a limit change.

use crate::engine::{Engine, Timer};
use crate::io::{Event, FullBy};
use crate::queues::LocalQueue;

/// How long until a full disk is tried again.
pub(crate) const STORE_RETRY_MS: u64 = 1_000;

/// How long what the store says of room is kept back: what applications put before they heard of a
/// refusal is refused as well, so that it does not overtake what they put again.
const ROOM_KEPT_BACK_MS: u64 = 50;

/// What is known of room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What refused the last batch with messages, until there is room again.
    disk: Option<FullBy>,
    /// The next message finds out whether that is still so.
    try_disk: bool,
    /// The store said that there is room since.
    found: bool,
    /// Bytes for which the limit of what may wait had no room.
    refused_bytes: Option<u64>,
    /// A peer waits for credit until less waits here.
    credit_withheld: bool,
    /// Whether what arrived takes the peers' part of the memory, and of the store, as far as that
    /// was found since the last look: each session would walk all queues for it.
    peers_parts: [Option<bool>; 2],
    told: Option<FullBy>,
    retry_armed: bool,
}

impl Engine {
    /// What keeps this node from accepting messages, if anything does.
    pub(crate) fn full_by(&self) -> Option<FullBy> {
        let stored = self.room.refused_bytes.map(|_| FullBy::Stored);
        self.room.disk.or(stored)
    }

    /// Whether a message would not find room on the disk, as far as is known.
    pub(crate) const fn disk_refuses(&self) -> bool {
        self.room.disk.is_some() && !self.room.try_disk
    }

    /// The store turned messages away.
    pub(crate) fn disk_refused(&mut self, limited: bool) {
        self.room.try_disk = false;
        self.room.found = false;
        self.room.disk = Some(if limited {
            FullBy::DiskLimit
        } else {
            FullBy::Disk
        });
        self.tell_what_is_full();
        self.arm_store_retry();
    }

    /// The store took messages.
    pub(crate) fn disk_took(&mut self) {
        if self.room.try_disk {
            self.disk_has_room();
        }
    }

    /// The store says that there is room.
    pub(crate) fn on_disk_has_room(&mut self) {
        if self.room.disk.is_some() && !core::mem::replace(&mut self.room.found, true) {
            self.arm(self.now.at.plus_ms(ROOM_KEPT_BACK_MS), Timer::StoreRoom);
        }
    }

    pub(crate) fn on_store_room(&mut self) {
        if !self.room.found {
            return;
        }
        if self.commits.has_overtaking() {
            // What they put is taken out again first.
            self.arm(self.now.at.plus_ms(ROOM_KEPT_BACK_MS), Timer::StoreRoom);
        } else {
            self.disk_has_room();
        }
    }

    fn disk_has_room(&mut self) {
        self.room.found = false;
        self.room.try_disk = false;
        if self.room.disk.take().is_some() {
            self.wake_sessions();
        }
    }

    /// Whether so many bytes more may wait on the disk; it is remembered when they may not.
    pub(crate) fn may_store(&mut self, bytes: u64) -> bool {
        let most = self.config.store_bytes_max;
        if self.stored_bytes.saturating_add(bytes) <= most {
            return true;
        }
        // What never fits says nothing about how full it is.
        if bytes <= most {
            self.room.refused_bytes = Some(bytes);
            self.tell_what_is_full();
            self.arm_store_retry();
        }
        false
    }

    /// Whether peers may transmit, as far as what waits here is concerned. If not, they hear of it
    /// as soon as they may.
    pub(crate) fn may_grant(&mut self) -> bool {
        if self.disk_refuses() {
            return false;
        }
        if self.has_less_than_most() {
            return true;
        }
        self.room.credit_withheld = true;
        crate::reached!(self, CreditWithheld);
        if self.stored_bytes > self.config.store_bytes_max && self.room.refused_bytes.is_none() {
            self.room.refused_bytes = Some(0);
            self.tell_what_is_full();
            self.arm_store_retry();
        }
        false
    }

    fn has_less_than_most(&mut self) -> bool {
        let stored = self.stored_bytes <= self.config.store_bytes_max;
        let express = self.express_bytes <= self.config.express_bytes_max;
        let [in_memory, in_store] = self.room.peers_parts;
        if !express {
            let used = in_memory.unwrap_or_else(|| self.peers_share_of_memory_is_used());
            self.room.peers_parts[0] = Some(used);
            if used {
                crate::reached!(self, PeersPartFull);
                return false;
            }
        }
        if !stored {
            let used = in_store.unwrap_or_else(|| self.peers_share_is_used());
            self.room.peers_parts[1] = Some(used);
            return !used;
        }
        true
    }

    /// Whether what arrived, or ended here, takes the part of the store that is the peers'. What
    /// waits for peers never takes it, however it came to be more than applications may put (an
    /// orderly stop writes express messages down): two nodes that are full of messages for each
    /// other would wait for each other for ever.
    fn peers_share_is_used(&self) -> bool {
        let most = self.config.store_bytes_max;
        let here = self.locals.values().map(LocalQueue::stored_bytes);
        here.sum::<u64>() > most / 8
    }

    /// The same for the memory of express messages: what was under way on a session that was lost
    /// comes back beside what was put in its place.
    fn peers_share_of_memory_is_used(&self) -> bool {
        let most = self.config.express_bytes_max as u64;
        let here = self.locals.values().map(LocalQueue::express_bytes);
        here.sum::<u64>() > most / 8
    }

    /// Once a batch of inputs: what was given back lets others in.
    pub(crate) fn look_for_room(&mut self) {
        self.room.peers_parts = [None; 2];
        if let Some(bytes) = self.room.refused_bytes
            && self.stored_bytes.saturating_add(bytes) <= self.config.store_bytes_max
        {
            self.room.refused_bytes = None;
        }
        if self.room.credit_withheld && self.has_less_than_most() {
            self.room.credit_withheld = false;
            self.wake_sessions();
        }
    }

    /// Looks again in a second whether there is room.
    pub(crate) fn arm_store_retry(&mut self) {
        if !core::mem::replace(&mut self.room.retry_armed, true) {
            self.arm(self.now.at.plus_ms(STORE_RETRY_MS), Timer::StoreRetry);
        }
    }

    pub(crate) fn on_store_retry(&mut self) {
        self.room.retry_armed = false;
        self.commits.try_again();
        self.report_again();
        self.journal_again();
        self.look_for_room();
        self.room.try_disk = self.room.disk.is_some();
        match (self.full_by(), self.room.told) {
            (None, Some(by)) => {
                self.room.told = None;
                self.event(Event::StoreFull { full: false, by });
            }
            (Some(_), _) => {
                self.tell_what_is_full();
                self.arm_store_retry();
            }
            (None, None) => {}
        }
        self.wake_sessions();
    }

    fn tell_what_is_full(&mut self) {
        let full = self.full_by();
        if let Some(by) = full.filter(|_| self.room.told != full) {
            // That it has room again is told by the timer.
            self.room.told = full;
            self.event(Event::StoreFull { full: true, by });
        }
    }

    fn wake_sessions(&mut self) {
        for link in self.sessions.keys() {
            self.busy_sessions.insert(*link);
        }
        // What leaves a copy behind waits for room as well.
        self.busy_peers.extend(self.by_peer.keys());
    }
}
