//! Connection ids from a seed, so that a simulated network can repeat them.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use ring::hmac;

/// Long enough that ids of a former life of the node are not given out again by chance.
const CID_BYTES: usize = 8;
/// The longest that QUIC allows.
const FIRST_ID_BYTES: usize = 20;

/// Makes unpredictable connection ids from a secret seed.
///
/// Every id counts as possibly ours (the trait's default `validate`): the endpoint answers packets
/// for unknown ids with a stateless reset, at most one in 20 ms, smaller than what it answers.
/// That is what tells a peer within one round trip that this node was restarted.
#[derive(Debug)]
pub(crate) struct CidGenerator {
    key: hmac::Key,
    count: u64,
}

impl CidGenerator {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
            count: 0,
        }
    }
}

/// Makes the ids under which dials address a peer before it has given one of its own: unpredictable
/// (RFC 9000, section 7.2), from the same secret seed.
pub(crate) fn first_ids(seed: &[u8; 32]) -> impl Fn() -> ConnectionId + Send + Sync + 'static {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let count = AtomicU64::new(0);
    move || {
        let mut context = hmac::Context::with_key(&key);
        context.update(b"first id");
        let count = count.fetch_add(1, Ordering::Relaxed);
        context.update(&count.to_le_bytes());
        let digest = context.sign();
        ConnectionId::new(digest.as_ref().get(..FIRST_ID_BYTES).unwrap_or_default())
    }
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        let digest = hmac::sign(&self.key, &self.count.to_le_bytes());
        ConnectionId::new(digest.as_ref().get(..CID_BYTES).unwrap_or_default())
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_repeat_with_the_seed_and_never_within_one() {
        let (mut one, mut same) = (CidGenerator::new(&[1; 32]), CidGenerator::new(&[1; 32]));
        let ids: Vec<_> = (0..100).map(|_| one.generate_cid()).collect();
        assert!(ids.iter().all(|id| *id == same.generate_cid()));
        assert_eq!(ids.first().unwrap().len(), CID_BYTES);
        let distinct: std::collections::BTreeSet<Vec<u8>> =
            ids.iter().map(|id| id.to_vec()).collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn first_ids_repeat_with_the_seed_and_never_within_one() {
        let (one, same, other) = (
            first_ids(&[1; 32]),
            first_ids(&[1; 32]),
            first_ids(&[2; 32]),
        );
        let mut distinct = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let id = one();
            assert_eq!(id, same());
            distinct.insert(id.to_vec());
            distinct.insert(other().to_vec());
        }
        assert_eq!(distinct.len(), 200);
    }
}
