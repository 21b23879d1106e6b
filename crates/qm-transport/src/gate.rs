//! Who may begin a handshake: each costs this node far more than the packet that asks for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use quinn::Incoming;
use tokio::time::Instant;

use crate::config::Limits;
use crate::endpoint::Shared;

/// Addresses whose recent handshakes are counted at a time. Beyond, only the sum counts.
const ADDRESSES_MAX: usize = 4_096;
/// So many seconds of its rate an address, or all of them, may use at once.
const BURST_SECONDS: u32 = 4;

/// What to do with an incoming handshake.
pub(crate) enum Gate {
    Open,
    ProveAddress,
    Shut,
    /// Too fast: it is not answered, and comes again by itself.
    Later,
}

/// Whose an address is: hosts have an IPv6 network of 64 bits to themselves.
pub(crate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How many handshakes began lately.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    all: Option<Bucket>,
    by_address: BTreeMap<IpAddr, Bucket>,
}

/// Fills with time, up to a burst; every handshake takes one out.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_second: u32, now: Instant) -> Self {
        Self {
            left: f64::from(per_second) * f64::from(BURST_SECONDS),
            at: now,
        }
    }

    fn refill(&mut self, per_second: u32, now: Instant) {
        let gained = now.duration_since(self.at).as_secs_f64() * f64::from(per_second);
        let most = f64::from(per_second) * f64::from(BURST_SECONDS);
        self.left = (self.left + gained).min(most);
        self.at = now;
    }
}

impl Rates {
    /// Whether another handshake may begin; counts it when it may.
    fn take(&mut self, address: IpAddr, limits: &Limits, now: Instant) -> bool {
        let per_address = limits.handshakes_per_second_per_address;
        if self.by_address.len() >= ADDRESSES_MAX && !self.by_address.contains_key(&address) {
            // An address that is full again is as good as one that was never seen.
            self.by_address.retain(|_, bucket| {
                bucket.refill(per_address, now);
                bucket.left < f64::from(per_address) * f64::from(BURST_SECONDS)
            });
        }
        let all = self
            .all
            .get_or_insert_with(|| Bucket::full(limits.handshakes_per_second, now));
        all.refill(limits.handshakes_per_second, now);
        if all.left < 1.0 {
            return false;
        }
        if self.by_address.len() < ADDRESSES_MAX || self.by_address.contains_key(&address) {
            let one = self
                .by_address
                .entry(address)
                .or_insert_with(|| Bucket::full(per_address, now));
            one.refill(per_address, now);
            if one.left < 1.0 {
                return false;
            }
            one.left -= 1.0;
        }
        all.left -= 1.0;
        true
    }
}

impl Shared {
    /// Decides about a handshake from this origin, and counts it when it may begin.
    pub(crate) fn gate(&self, incoming: &Incoming, address: IpAddr) -> Gate {
        let limits = &self.config.limits;
        let mut table = self.table();
        let from_address = table
            .handshakes_by_address
            .get(&address)
            .copied()
            .unwrap_or(0);
        let full = table.handshakes >= limits.handshakes
            || from_address >= limits.handshakes_per_address
            || table.links.len() >= limits.links;
        if table.shut_down || full {
            return Gate::Shut;
        }
        let busy = table.handshakes >= limits.handshakes / 2
            || from_address >= limits.handshakes_per_address / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            return Gate::ProveAddress;
        }
        if !table.rates.take(address, limits, Instant::now()) {
            return Gate::Later;
        }
        table.handshakes += 1;
        table
            .handshakes_by_address
            .insert(address, from_address + 1);
        Gate::Open
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_address_uses_up_its_rate_and_not_that_of_others() {
        let limits = Limits {
            handshakes_per_second: 100,
            handshakes_per_second_per_address: 10,
            ..Limits::default()
        };
        let (mut rates, began) = (Rates::default(), Instant::now());
        let (loud, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let begun = (0..1_000)
            .filter(|_| rates.take(loud, &limits, began))
            .count();
        assert_eq!(begun, 40);
        assert!(rates.take(other, &limits, began));
        let later = began + Duration::from_secs(1);
        let begun = (0..1_000)
            .filter(|_| rates.take(loud, &limits, later))
            .count();
        assert_eq!(begun, 10);
        // All together have a rate, too, and the table of addresses an end.
        let much_later = later + Duration::from_secs(100);
        let many = (0..100_000_u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let begun = many
            .filter(|from| rates.take(*from, &limits, much_later))
            .count();
        assert_eq!(begun, 400);
        assert!(rates.by_address.len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_host_with_a_whole_network_is_one_origin() {
        let one: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let two: IpAddr = "2001:db8:1:2:ffff::1".parse().unwrap();
        let other: IpAddr = "2001:db8:1:3::1".parse().unwrap();
        assert_eq!(origin(one), origin(two));
        assert_ne!(origin(one), origin(other));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(origin(mapped), IpAddr::from([10, 0, 0, 1]));
    }
}
