//! The documents of the two caches.

use std::borrow::Cow;

use qm_cache::{DedupStats, RouteStats};
use qm_engine::admin::RouteView;
use qm_wire::{Incarnation, QmId};
use serde::{Deserialize, Serialize};

use super::document::{Document, Schema};

/// Where acks for a queue manager's life would go, `qm.route/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteDocument {
    /// `qm.route/1`.
    pub schema: Schema,
    /// The queue manager.
    pub qm: QmId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Sessions and addresses, newest first.
    pub candidates: Vec<String>,
}

impl RouteDocument {
    pub(super) fn new(view: &RouteView) -> Self {
        Self {
            schema: Cow::Borrowed("qm.route/1"),
            qm: view.qm,
            incarnation: view.incarnation,
            candidates: view.candidates.clone(),
        }
    }
}

impl Document for RouteDocument {
    const NOUN: &'static str = "route";
    const NOT_FOUND_FIX: &'static str = "`qm-node routes` shows the routes";

    fn key(&self) -> String {
        format!("{} {}", self.qm, self.incarnation)
    }
}

/// Counters of the ack-route cache, `qm.route_stats/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RouteStatsDocument {
    /// `qm.route_stats/1`.
    pub schema: Schema,
    /// Lives with routes.
    pub rows: u64,
    /// Lives learned.
    pub learned: u64,
    /// Times a further route was learned for a life that had a live one.
    pub conflicts: u64,
    /// Times a life was seen at another of its known routes than the time before.
    pub switches: u64,
    /// Routes dropped because they failed.
    pub failed: u64,
    /// Routes dropped because their lifetime was over.
    pub expired: u64,
    /// Routes dropped because their life had too many.
    pub displaced: u64,
    /// Routes not stored because the cache was full.
    pub refused: u64,
}

impl RouteStatsDocument {
    pub(super) fn new(stats: &RouteStats) -> Self {
        Self {
            schema: Cow::Borrowed("qm.route_stats/1"),
            rows: count(stats.rows),
            learned: stats.learned,
            conflicts: stats.conflicts,
            switches: stats.switches,
            failed: stats.failed,
            expired: stats.expired,
            displaced: stats.displaced,
            refused: stats.refused,
        }
    }
}

/// Counters of the duplicate cache, `qm.dedup/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DedupDocument {
    /// `qm.dedup/1`.
    pub schema: Schema,
    /// Messages that may be remembered; 0 when duplicate removal is off.
    pub size: u64,
    /// Messages remembered.
    pub entries: u64,
    /// Messages being stored.
    pub in_flight: u64,
    /// Duplicates removed.
    pub duplicates: u64,
    /// Messages let through.
    pub fresh: u64,
    /// Arrivals put off because the same message was just being stored.
    pub contended: u64,
    /// Arrivals put off because too many messages were being stored.
    pub refused: u64,
    /// Messages whose storing failed.
    pub aborted: u64,
    /// Entries forgotten because their time was over.
    pub purged: u64,
    /// Entries forgotten because newer ones needed their place.
    pub evicted: u64,
    /// Of `evicted`: those younger than the purge interval. When this rises, the cache is too
    /// small for the traffic.
    pub evicted_young: u64,
    /// Age of the oldest entry.
    pub oldest_age_ms: Option<u64>,
    /// For how long a message is remembered at present.
    pub effective_window_ms: Option<u64>,
    /// Bytes held.
    pub heap_bytes: u64,
}

impl DedupDocument {
    pub(super) fn new(stats: &DedupStats) -> Self {
        Self {
            schema: Cow::Borrowed("qm.dedup/1"),
            size: count(stats.capacity),
            entries: count(stats.len),
            in_flight: count(stats.in_flight),
            duplicates: stats.hits,
            fresh: stats.misses,
            contended: stats.contended,
            refused: stats.refused,
            aborted: stats.aborted,
            purged: stats.purged,
            evicted: stats.evicted,
            evicted_young: stats.evicted_young,
            oldest_age_ms: stats.oldest_age_ms,
            effective_window_ms: stats.effective_window_ms,
            heap_bytes: count(stats.heap_bytes),
        }
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
