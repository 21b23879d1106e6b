//! TLS whose randomness comes from a seed: the same run gives the same bytes.
//!
//! What it makes is worthless as a secret, for everybody who sees the datagrams can compute the
//! keys. It exists with the feature `simulation` only and is reached by
//! [`Endpoint::bind_memory`](crate::Endpoint::bind_memory) only.

use core::cell::Cell;

use ring::hmac;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::{Error, NamedGroup, PeerMisbehaved};

use super::random::mix;

/// Length of an X25519 key share (RFC 7748), and of what it gives.
const SHARE_BYTES: usize = 32;

thread_local! {
    // rustls wants its sources for ever; a simulation is one thread, so that its state is one
    // per thread and not one more for every endpoint.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Begins this thread's randomness anew.
pub(super) fn seed(seed: u64) {
    STATE.set(mix(seed ^ 0x715e_ed00));
}

/// `provider` with all its randomness from the seed.
pub(crate) fn seeded(mut provider: CryptoProvider) -> CryptoProvider {
    provider.secure_random = &Seeded;
    provider.kx_groups = vec![&Seeded];
    provider
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        for chunk in bytes.chunks_mut(8) {
            let word = mix(STATE.replace(STATE.get().wrapping_add(1)));
            for (to, from) in chunk.iter_mut().zip(word.to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }
}

/// An exchange of the sizes of X25519 without its secrecy: ring draws private keys from the
/// operating system and from nowhere else.
impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut share = [0; SHARE_BYTES];
        self.fill(&mut share)?;
        Ok(Box::new(Exchange { share }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    share: [u8; SHARE_BYTES],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        if peer.len() != SHARE_BYTES {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        // Both sides must come to the same secret.
        let own: &[u8] = &self.share;
        let (low, high) = if own < peer { (own, peer) } else { (peer, own) };
        let key = hmac::Key::new(hmac::HMAC_SHA256, low);
        Ok(hmac::sign(&key, high).as_ref().into())
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }
}
