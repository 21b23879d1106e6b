//! The log, the log of the loud and the reservations together: who wins a key.

use super::{Admit, DedupConfig, Ticket};
use crate::Key;
use crate::inflight::{InFlight, Rival};
use crate::key::Source;
use crate::log::{Found, Linked, Log, Scan, Single, Tickets};
use crate::owners::Owners;
use crate::sync::{AtomicBool, Ordering, is_mutant};

/// Below this capacity owners have no shares.
const SHARED_CAPACITY_MIN: usize = 512;

/// Too many reservations are outstanding.
pub(super) struct Refused;

pub(super) struct Tables<K> {
    pub(super) log: Log<K>,
    /// The keys of owners that are over their share.
    pub(super) loud: Option<Log<K>>,
    pub(super) in_flight: InFlight<K>,
    /// Whether a key was ever reserved: until then insertions need not look for rivals.
    pub(super) reserves: AtomicBool,
}

impl<K: Key> Tables<K> {
    pub(super) fn new(config: &DedupConfig, due_ticks: u64, owner_key: u64) -> Self {
        let due_ticks = if due_ticks == 0 { u64::MAX } else { due_ticks };
        let shared = K::OWNER_WORDS > 0
            && config.owner_share_percent < 100
            && config.capacity >= SHARED_CAPACITY_MIN
            && config.in_flight_max > 0;
        let owners = shared.then(|| {
            let share = config.capacity / 100 * usize::from(config.owner_share_percent);
            Owners::new(K::OWNER_WORDS, share, owner_key)
        });
        Self {
            log: Log::new(config.capacity, due_ticks, owners),
            // Smaller, it would forget what is among the newest: two busy peers push each other in.
            loud: shared.then(|| Log::new(config.capacity, due_ticks, None)),
            in_flight: InFlight::new(config.in_flight_max),
            reserves: AtomicBool::new(false),
        }
    }

    pub(super) fn logs(&self) -> impl Iterator<Item = &Log<K>> {
        std::iter::once(&self.log).chain(&self.loud)
    }

    /// The log of the loud, if the owner of this key may have keys there.
    #[inline]
    fn loud_log_of(&self, key: impl Source) -> Option<&Log<K>> {
        if K::OWNER_WORDS == 0 {
            return None;
        }
        let loud = self.loud.as_ref()?;
        self.log
            .owners()
            .is_some_and(|owners| owners.is_loud(key))
            .then_some(loud)
    }

    /// Looks for a key in both logs.
    #[inline]
    pub(super) fn scan(&self, key: impl Source, hash: u64) -> Scan {
        let scan = self.log.scan(key, self.log.place(hash));
        self.scan_loud(scan, key, hash)
    }

    /// Looks again where an earlier look did not find the key.
    #[inline]
    pub(super) fn rescan(&self, before: Scan, key: impl Source, hash: u64) -> Scan {
        let scan = self.log.rescan(before, key, self.log.place(hash));
        self.scan_loud(scan, key, hash)
    }

    #[inline]
    fn scan_loud(&self, mut scan: Scan, key: impl Source, hash: u64) -> Scan {
        if scan.found == Found::Absent
            && let Some(loud) = self.loud_log_of(key)
        {
            let loud = loud.scan(key, loud.place(hash));
            scan.found = loud.found;
            scan.sibling |= loud.sibling;
        }
        scan
    }

    /// Reserves a key unless it is known.
    pub(super) fn reserve(&self, key: impl Source, hash: u64) -> Result<Admit<Ticket>, Refused> {
        let Self {
            log,
            in_flight,
            reserves,
            ..
        } = self;
        let tail = if is_mutant("turned_over") {
            log.tail()
        } else {
            0
        };
        let scan = self.scan(key, hash);
        match scan.found {
            Found::Absent => {}
            Found::Tentative => return Ok(Admit::InFlight),
            Found::Committed => return Ok(Admit::Duplicate),
        }
        if !reserves.load(Ordering::Relaxed) {
            reserves.store(true, Ordering::Relaxed);
        }
        let Some(held) = in_flight.publish(key, hash) else {
            return if in_flight.holds(key, hash) {
                Ok(Admit::InFlight)
            } else {
                Err(Refused)
            };
        };
        // From here on every rival either sees what was published, or is seen.
        if !is_mutant("no_order") {
            log.order(log.place(hash), scan.head);
        }
        let rival = if is_mutant("turned_over") && log.tail() - tail > log.window() as u64 {
            Rival::None // evicted with the whole window since the look
        } else {
            in_flight.contend(Some(held), key, hash)
        };
        // After the look for rivals: one that has gone since has committed (or aborted) before.
        let found = match rival {
            Rival::Some => Found::Tentative,
            Rival::None if is_mutant("no_rescan") => scan.found,
            Rival::None => self.rescan(scan, key, hash).found,
        };
        let lost = match found {
            Found::Absent if in_flight.confirm(held) => {
                let sibling = scan.sibling;
                return Ok(Admit::Fresh(Ticket {
                    held: Some(held),
                    hash,
                    sibling,
                }));
            }
            Found::Committed => Admit::Duplicate,
            // Whoever held it and holds it no more may as well have aborted.
            _ if is_mutant("gone_committed")
                && rival == Rival::Some
                && !in_flight.holds(key, hash) =>
            {
                Admit::Duplicate
            }
            Found::Absent | Found::Tentative => Admit::InFlight,
        };
        in_flight.release(held);
        Ok(lost)
    }

    /// Enters a key whose reservation is held.
    pub(super) fn remember(&self, key: impl Source, hash: u64, tick: u64) {
        let log = match (&self.loud, self.log.owners()) {
            (Some(loud), Some(owners)) if self.log.would_push_out_others(key) => {
                owners.mark_loud(key);
                loud
            }
            _ => &self.log,
        };
        let place = log.place(hash);
        let head = log.head(place);
        if let Ok(linked) = log.insert(key, place, tick, false, head, &mut Single) {
            log.settle(&linked, true);
        }
    }

    /// Enters a key unless it is known; what was known.
    #[inline(always)]
    pub(super) fn insert(
        &self,
        key: impl Source,
        hash: u64,
        tick: u64,
        tickets: &mut impl Tickets,
    ) -> Found {
        let Self {
            log,
            in_flight,
            reserves,
            ..
        } = self;
        if K::OWNER_WORDS > 0 && self.loud.is_some() {
            // Which log a key goes to depends on the moment: who holds its reservation decides.
            return match self.reserve(key, hash) {
                Ok(Admit::Fresh(ticket)) => {
                    self.remember(key, hash, tick);
                    ticket
                        .held
                        .into_iter()
                        .for_each(|held| in_flight.release(held));
                    Found::Absent
                }
                Ok(Admit::Duplicate) => Found::Committed,
                Ok(Admit::InFlight) | Err(Refused) => Found::Tentative,
            };
        }
        let place = log.place(hash);
        let head = log.head(place);
        let found = log.scan_from(head, key, place).found;
        if found != Found::Absent {
            return found;
        }
        match log.insert(key, place, tick, true, head, tickets) {
            Ok(linked) => {
                if reserves.load(Ordering::Relaxed) {
                    let found = self.gives_way(&linked, key, hash);
                    log.settle(&linked, found == Found::Absent);
                    return found;
                }
                log.settle(&linked, true);
                Found::Absent
            }
            Err(found) => found,
        }
    }

    /// To what a tentative entry has to give way, if to anything.
    fn gives_way(&self, linked: &Linked<'_>, key: impl Source, hash: u64) -> Found {
        // Linking has ordered this thread against the reservers of the bucket.
        if !is_mutant("no_rivals") && self.in_flight.contend(None, key, hash) == Rival::Some {
            return Found::Tentative;
        }
        // One who held a reservation when this entry was linked may have committed it since.
        if is_mutant("no_second_look") {
            return Found::Absent;
        }
        self.log.scan_above(linked, key, self.log.place(hash))
    }

    /// Forgets what is due; says how many keys that were.
    pub(super) fn purge(&self, tick: u64) -> usize {
        self.logs().map(|log| log.purge(tick)).sum()
    }
}
