//! The node's Ed25519 key: who this queue manager is on every link.

use core::fmt;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;
use qm_wire::{QmId, key_digest};
use ring::hmac;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// PKCS#8 version 1 around an Ed25519 seed (RFC 8410, section 7); the 32 seed bytes follow.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// DER prefix of a `SubjectPublicKeyInfo` that holds an Ed25519 key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The private Ed25519 key of a queue manager.
///
/// A cheap handle: clones share the key. `Debug` prints the public identity only.
///
/// ```
/// let key = qm_transport::NodeKey::generate([7; 32]);
/// let again = qm_transport::NodeKey::from_pkcs8(&key.to_pkcs8()).unwrap();
/// assert_eq!(key.qm_id(), again.qm_id());
/// ```
#[derive(Clone)]
pub struct NodeKey {
    inner: Arc<Inner>,
}

struct Inner {
    seed: [u8; 32],
    public_key: [u8; 32],
    pair: Ed25519KeyPair,
}

/// The bytes are not an Ed25519 private key in PKCS#8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an unencrypted Ed25519 private key in PKCS#8 DER (RFC 8410)")]
pub struct KeyError;

impl NodeKey {
    /// The key made of these 32 bytes, which must come from a cryptographic random source.
    ///
    /// The same seed gives the same key: a simulation passes constants, a node passes the
    /// operating system's entropy.
    ///
    /// # Panics
    ///
    /// Never: every 32 bytes are an Ed25519 seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn generate(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("invariant: any 32 bytes are an Ed25519 seed");
        Self::from_pair(seed, pair)
    }

    /// Reads a key from PKCS#8 DER, version 1 or 2, without encryption.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the bytes are anything else, or hold a public key that does not match.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_reason| KeyError)?;
        // Both versions put the seed at the same place; ring has checked everything before it.
        let seed = der
            .get(PKCS8_PREFIX.len()..PKCS8_PREFIX.len() + 32)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(KeyError)?;
        let read = Self::from_pair(seed, pair);
        // Guards the assumption above: the seed must give the public key that ring computed.
        if Self::generate(seed).public_key() == read.public_key() {
            Ok(read)
        } else {
            Err(KeyError)
        }
    }

    fn from_pair(seed: [u8; 32], pair: Ed25519KeyPair) -> Self {
        let mut public_key = [0; 32];
        public_key.copy_from_slice(pair.public_key().as_ref());
        Self {
            inner: Arc::new(Inner {
                seed,
                public_key,
                pair,
            }),
        }
    }

    /// The private key as PKCS#8 version 1 DER, 48 bytes. Secret: write it to an owner-only file.
    #[must_use]
    pub fn to_pkcs8(&self) -> Vec<u8> {
        let mut der = Vec::with_capacity(PKCS8_PREFIX.len() + 32);
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(&self.inner.seed);
        der
    }

    /// The id under which this key, and nobody else, may speak.
    #[must_use]
    pub fn qm_id(&self) -> QmId {
        QmId::from_ed25519_public_key(&self.inner.public_key)
    }

    /// The public half, 32 bytes.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.inner.public_key
    }

    /// The printable digest that operators compare and allow-lists pin; see [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.inner.public_key)
    }

    /// An Ed25519 signature over `message`.
    ///
    /// TLS 1.3 signatures begin with 64 spaces (RFC 8446, section 4.4.3); a caller's message
    /// begins with its own domain, so that neither can be taken for the other.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.inner.pair.sign(message).as_ref());
        bytes
    }

    /// A secret of 32 bytes that only the holder of this key can compute, one per `label`.
    ///
    /// HMAC-SHA256 keyed by the private key: a pseudo-random function, one block of HKDF.
    #[must_use]
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.inner.seed);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&key, label).as_ref());
        bytes
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let mut der = Vec::with_capacity(SPKI_PREFIX.len() + 32);
        der.extend_from_slice(&SPKI_PREFIX);
        der.extend_from_slice(&self.inner.public_key);
        der
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey")
            .field("qm_id", &self.qm_id())
            .finish_non_exhaustive()
    }
}

/// The full 32-byte digest of a public key ([`qm_wire::key_digest`]) in lower-case base32,
/// 52 characters without padding.
///
/// ```
/// assert_eq!(qm_transport::fingerprint(&[7; 32]).len(), 52);
/// ```
#[must_use]
pub fn fingerprint(public_key: &[u8; 32]) -> String {
    let mut text = BASE32_NOPAD.encode(&key_digest(public_key));
    text.make_ascii_lowercase();
    text
}

/// Whether `signature` over `message` was made by the holder of `public_key`.
#[must_use]
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&signature::ED25519, public_key)
        .verify(message, signature)
        .is_ok()
}

/// The raw key inside an Ed25519 `SubjectPublicKeyInfo`, or `None` for any other DER.
pub(crate) fn public_key_of_spki(der: &[u8]) -> Option<[u8; 32]> {
    der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkcs8_round_trip_and_versions() {
        let key = NodeKey::generate([3; 32]);
        let der = key.to_pkcs8();
        assert_eq!(der.len(), 48);
        assert_eq!(
            NodeKey::from_pkcs8(&der).unwrap().public_key(),
            key.public_key()
        );
        // Version 2 carries the public key as well (RFC 5958).
        let mut v2 = der;
        v2[1] = 0x51;
        v2[4] = 0x01;
        v2.extend_from_slice(&[0x81, 0x21, 0x00]);
        v2.extend_from_slice(&key.public_key());
        assert_eq!(
            NodeKey::from_pkcs8(&v2).unwrap().public_key(),
            key.public_key()
        );
        let last = v2.len() - 1;
        v2[last] ^= 1;
        assert_eq!(NodeKey::from_pkcs8(&v2).err(), Some(KeyError));
        assert_eq!(NodeKey::from_pkcs8(&[]).err(), Some(KeyError));
        assert_eq!(NodeKey::from_pkcs8(&[0x30; 48]).err(), Some(KeyError));
    }

    #[test]
    fn rfc8032_test_1() {
        let seed = data_encoding::HEXLOWER
            .decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap();
        let key = NodeKey::generate(seed.try_into().unwrap());
        assert_eq!(
            data_encoding::HEXLOWER.encode(&key.public_key()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        let signature = key.sign(b"");
        assert!(
            data_encoding::HEXLOWER
                .encode(&signature)
                .starts_with("e5564300c360ac729086e2cc")
        );
        assert!(verify(&key.public_key(), b"", &signature));
        assert!(!verify(&key.public_key(), b"x", &signature));
    }

    #[test]
    fn secrets_differ_by_label_and_do_not_show() {
        let key = NodeKey::generate([9; 32]);
        assert_ne!(key.derive(b"a"), key.derive(b"b"));
        assert_eq!(key.derive(b"a"), NodeKey::generate([9; 32]).derive(b"a"));
        assert!(!format!("{key:?}").contains("9, 9"));
        assert_eq!(public_key_of_spki(&key.spki()), Some(key.public_key()));
    }
}
