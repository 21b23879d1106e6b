//! Whose turn it is: what brings nothing may not take much of the loop's time.
//!
//! One thread serves all peers and applications. A peer whose frames settle nothing and deliver
//! nothing, or an application that asks for lists without end, is served from an allowance of time
//! that fills slowly; when it is used up, the rest waits. Time is what the thread worked
//! ([`work_time`]): on a busy machine nobody pays for what others do. What waits keeps its place in
//! the budget of its link, so that reading pauses, and QUIC stops the peer.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_engine::LinkId;
use qm_engine::admin::Counters;
use qm_transport::{Held, Lane};
use qm_wire::QmId;

/// Share of the loop's time for what one peer sends and what brings nothing, microseconds a second.
const PEER_SHARE_US: u64 = 50_000;
/// What may be used at once: greetings and questions after an outage come together.
const PEER_BURST_US: u64 = 250_000;
/// The same for all peers together.
const PEERS_SHARE_US: u64 = 150_000;
/// See [`PEERS_SHARE_US`].
const PEERS_BURST_US: u64 = 500_000;
/// A peer that used less than this lately is not held back for what others did.
const BLAMELESS_US: u64 = 20_000;
/// Share of the loop's time for administrative requests.
const ADMIN_SHARE_US: u64 = 150_000;
/// What they may use at once.
const ADMIN_BURST_US: u64 = 300_000;
/// Time that a message settled or delivered is worth.
const WORTH_US: u64 = 100;
/// Peers whose use is remembered; those without a link and with a full allowance are forgotten.
const PEERS_MAX: usize = 4_096;
/// A peer that is held back is told of in the log this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Time that fills up slowly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    left_us: i64,
    share_us: u64,
    burst_us: u64,
    at: Instant,
}

impl Allowance {
    fn new(share_us: u64, burst_us: u64, now: Instant) -> Self {
        Self {
            left_us: signed(burst_us),
            share_us,
            burst_us,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed_us = micros(now.saturating_duration_since(self.at));
        let gained = passed_us.saturating_mul(self.share_us) / 1_000_000;
        if gained == 0 {
            return;
        }
        self.left_us = self
            .left_us
            .saturating_add(signed(gained))
            .min(signed(self.burst_us));
        self.at = now;
    }

    fn spend(&mut self, us: u64) {
        self.left_us = self.left_us.saturating_sub(signed(us));
    }

    const fn is_used_up(&self) -> bool {
        self.left_us <= 0
    }

    fn used_us(&self) -> u64 {
        u64::try_from(signed(self.burst_us).saturating_sub(self.left_us)).unwrap_or(0)
    }
}

/// Time that this thread has worked, from an arbitrary beginning.
pub(crate) fn work_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What counts as useful, or useless, of what a peer sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    arrived: u64,
    settled: u64,
    useless: u64,
}

impl Tally {
    pub(crate) const fn of(counters: &Counters) -> Self {
        Self {
            arrived: counters.arrived,
            settled: counters.acknowledged + counters.dead_letters + counters.discarded,
            useless: counters.duplicates + counters.rejected + counters.misbehaved,
        }
    }

    /// How much of the time spent between two tallies brought nothing.
    fn wasted_us(self, after: Self, lane: Lane, spent_us: u64) -> u64 {
        if !matches!(lane, Lane::Control | Lane::Ack) {
            // One message that is not wanted does not make the others of its run useless.
            let useless = after.useless.saturating_sub(self.useless);
            let arrived = after.arrived.saturating_sub(self.arrived).max(1);
            return spent_us.saturating_mul(useless.min(arrived)) / arrived;
        }
        let worth = after
            .settled
            .saturating_sub(self.settled)
            .saturating_mul(WORTH_US);
        spent_us.saturating_sub(worth)
    }
}

/// Frames of a link that wait.
type Waiting = VecDeque<(Lane, Bytes, Held)>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Fairness {
    peers: BTreeMap<QmId, (Allowance, Option<Instant>)>,
    links: BTreeMap<LinkId, QmId>,
    waiting: BTreeMap<LinkId, Waiting>,
    all: Allowance,
    pub(crate) admin: Admin,
}

/// The allowance of administrative requests.
#[derive(Debug)]
pub(crate) struct Admin(Allowance);

impl Admin {
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        self.0.refill(now);
        !self.0.is_used_up()
    }

    pub(crate) fn spend(&mut self, time: Duration) {
        self.0.spend(micros(time));
    }
}

impl Fairness {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            waiting: BTreeMap::new(),
            all: Allowance::new(PEERS_SHARE_US, PEERS_BURST_US, now),
            admin: Admin(Allowance::new(ADMIN_SHARE_US, ADMIN_BURST_US, now)),
        }
    }

    pub(crate) fn opened(&mut self, link: LinkId, peer: QmId) {
        self.links.insert(link, peer);
        let now = Instant::now();
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let linked = |peer: &QmId| self.links.values().any(|of| of == peer);
            self.peers.retain(|peer, (allowance, _)| {
                allowance.refill(now);
                allowance.used_us() > 0 || linked(peer)
            });
        }
        if self.peers.len() < PEERS_MAX {
            self.peers
                .entry(peer)
                .or_insert_with(|| (Allowance::new(PEER_SHARE_US, PEER_BURST_US, now), None));
        }
    }

    /// What waited of a link that is gone is as good as lost on the way.
    pub(crate) fn closed(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.waiting.remove(&link);
    }

    /// Whether frames of this link must wait; then they do, and `None` is returned.
    pub(crate) fn admit(
        &mut self,
        link: LinkId,
        lane: Lane,
        frames: Bytes,
        held: Held,
    ) -> Option<(Bytes, Held)> {
        if !self.waiting.contains_key(&link) && self.may_go(link, Instant::now()) {
            return Some((frames, held));
        }
        self.waiting
            .entry(link)
            .or_default()
            .push_back((lane, frames, held));
        None
    }

    fn may_go(&mut self, link: LinkId, now: Instant) -> bool {
        self.all.refill(now);
        let all_used_up = self.all.is_used_up();
        let peer = self.links.get(&link);
        let Some((allowance, _)) = peer.and_then(|peer| self.peers.get_mut(peer)) else {
            // One of too many to be told apart: they share what all have.
            return !all_used_up;
        };
        allowance.refill(now);
        !allowance.is_used_up() && (!all_used_up || allowance.used_us() < BLAMELESS_US)
    }

    /// Takes time that brought nothing from the allowances.
    pub(crate) fn charge(
        &mut self,
        link: LinkId,
        lane: Lane,
        (before, after): (Tally, Tally),
        spent: Duration,
    ) {
        let wasted_us = before.wasted_us(after, lane, micros(spent));
        if wasted_us == 0 {
            return;
        }
        self.all.spend(wasted_us);
        let Some(peer) = self.links.get(&link) else {
            return;
        };
        let Some((allowance, told)) = self.peers.get_mut(peer) else {
            return;
        };
        allowance.spend(wasted_us);
        let now = Instant::now();
        if allowance.is_used_up() && told.is_none_or(|told| now - told >= TELL_EVERY) {
            *told = Some(now);
            tracing::warn!(
                event = "peer_held_back",
                %peer,
                "a peer sends much that settles and delivers nothing; it is served slowly"
            );
        }
    }

    /// The next frames whose turn has come, one run of each link in turn.
    pub(crate) fn next_due(
        &mut self,
        behind: Option<LinkId>,
    ) -> Option<(LinkId, Lane, Bytes, Held)> {
        let now = Instant::now();
        let from = behind.map_or(0, |LinkId(link)| link.saturating_add(1));
        let links: Vec<LinkId> = self
            .waiting
            .range(LinkId(from)..)
            .map(|(l, _)| *l)
            .collect();
        for link in links {
            if !self.may_go(link, now) {
                continue;
            }
            let waiting = self.waiting.get_mut(&link)?;
            let next = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&link);
            }
            if let Some((lane, frames, held)) = next {
                return Some((link, lane, frames, held));
            }
        }
        None
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_fills_with_time_up_to_its_burst() {
        let began = Instant::now();
        let mut allowance = Allowance::new(50_000, 250_000, began);
        allowance.spend(300_000);
        assert!(allowance.is_used_up());
        allowance.refill(began + Duration::from_secs(1));
        assert!(allowance.is_used_up(), "a debt is paid back first");
        allowance.refill(began + Duration::from_secs(2));
        assert!(!allowance.is_used_up());
        allowance.refill(began + Duration::from_secs(1_000));
        assert_eq!(allowance.used_us(), 0);
        // However often it is looked at.
        let mut often = Allowance::new(50_000, 250_000, began);
        often.spend(250_000);
        for us in 0..100_000 {
            often.refill(began + Duration::from_micros(us));
        }
        assert!(often.left_us >= 4_900, "{}", often.left_us);
    }

    #[test]
    fn what_settles_or_delivers_is_free_and_the_rest_is_charged() {
        let tally = |arrived, settled, useless| Tally {
            arrived,
            settled,
            useless,
        };
        let before = tally(20, 10, 5);
        let message = Lane::Priority(3);
        assert_eq!(before.wasted_us(tally(30, 10, 5), message, 900), 0);
        assert_eq!(before.wasted_us(tally(30, 10, 6), message, 900), 90);
        assert_eq!(before.wasted_us(tally(30, 10, 15), message, 900), 900);
        assert_eq!(before.wasted_us(tally(20, 10, 6), message, 900), 900);
        assert_eq!(before.wasted_us(tally(20, 10, 5), Lane::Ack, 900), 900);
        assert_eq!(before.wasted_us(tally(20, 15, 5), Lane::Ack, 900), 400);
    }

    #[test]
    fn a_peer_that_only_costs_waits_and_a_blameless_one_does_not() {
        let mut fair = Fairness::new();
        let (bad, good) = (LinkId(1), LinkId(2));
        fair.opened(bad, QmId::from_bytes([1; 16]));
        fair.opened(good, QmId::from_bytes([2; 16]));
        let nothing = Tally {
            arrived: 0,
            settled: 0,
            useless: 0,
        };
        fair.charge(bad, Lane::Ack, (nothing, nothing), Duration::from_secs(2));
        let now = Instant::now();
        assert!(!fair.may_go(bad, now));
        assert!(fair.all.is_used_up());
        assert!(fair.may_go(good, now));
        assert!(fair.may_go(bad, now + Duration::from_secs(60)));
    }

    #[test]
    fn the_use_of_so_many_peers_is_counted_and_further_ones_share_what_all_have() {
        let mut fair = Fairness::new();
        let peer = |n: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_le_bytes());
            QmId::from_bytes(id)
        };
        for n in 0..=PEERS_MAX as u64 {
            fair.opened(LinkId(n), peer(n));
        }
        assert_eq!(fair.peers.len(), PEERS_MAX);
        let further = LinkId(PEERS_MAX as u64);
        let now = Instant::now();
        assert!(fair.may_go(further, now));
        let nothing = Tally {
            arrived: 0,
            settled: 0,
            useless: 0,
        };
        let wasted = Duration::from_secs(2);
        fair.charge(LinkId(0), Lane::Ack, (nothing, nothing), wasted);
        assert!(!fair.may_go(further, now), "all have used it up");
        assert!(
            fair.may_go(LinkId(1), now),
            "a blameless one that is counted"
        );
    }
}
