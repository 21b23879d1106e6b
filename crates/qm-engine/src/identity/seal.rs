//! Whether the identity is on the machine it was made on: a hint, never evidence.

use bytes::{Bytes, BytesMut};
use qm_wire::QmId;

use crate::engine::Engine;
use crate::io::{Event, Recovered};

const SEAL: &[u8] = b"seal/";

/// Something by which a machine is known, under the node's key: of it nothing can be read but
/// whether it is the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Where it comes from, a short word: each source is compared with itself.
    pub source: &'static str,
    /// HMAC by the node's private key over what the source says.
    pub value: [u8; 32],
}

impl Seal {
    /// Under which name a store keeps the seal of a source.
    #[must_use]
    pub fn name(qm: QmId, source: &str) -> Bytes {
        let mut key = BytesMut::from(SEAL);
        key.extend_from_slice(qm.as_bytes());
        key.extend_from_slice(source.as_bytes());
        key.freeze()
    }

    /// Under whose identity a store keeps this value, if it is a seal.
    #[must_use]
    pub fn owner(name: &[u8]) -> Option<QmId> {
        let rest = name.strip_prefix(SEAL)?;
        rest.first_chunk().map(|qm| QmId::from_bytes(*qm))
    }
}

impl Engine {
    /// Compares the machine's seals with those kept; a source that is new is kept. A source that
    /// says nothing now, because of lesser rights for instance, says nothing.
    pub(crate) fn compare_seals(&mut self, recovered: &Recovered) {
        for seal in self.config.seals.clone() {
            let key = Seal::name(self.me.qm, seal.source);
            match recovered.state.get(&key) {
                Some(kept) => self.moved |= *kept != seal.value[..],
                None => self.commits.set(key, Bytes::copy_from_slice(&seal.value)),
            }
        }
        if self.moved {
            self.event(Event::Moved);
        }
    }
}
