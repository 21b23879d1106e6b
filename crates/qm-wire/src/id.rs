//! Identities: who speaks, in which life, about which message.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// DER prefix of a `SubjectPublicKeyInfo` that holds a 32-byte Ed25519 key (RFC 8410, section 4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Domain separation of the queue manager's identity (SPEC.md, requirement W-ID-1).
const QM_ID_DOMAIN: &[u8] = b"qm-id-v1";

/// Identity of a queue manager: a `UUIDv8` (RFC 9562, section 5.8) computed from its public key.
///
/// Because the id is a hash of the key, a peer that proved possession of the key in the TLS
/// handshake cannot speak under any other id. Printed in the usual hyphenated form.
///
/// ```
/// let id = qm_wire::QmId::from_ed25519_public_key(&[7; 32]);
/// assert_eq!(id.to_string().parse::<qm_wire::QmId>().unwrap(), id);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QmId([u8; 16]);

impl QmId {
    /// The id of the queue manager that holds this Ed25519 public key.
    #[must_use]
    pub fn from_ed25519_public_key(public_key: &[u8; 32]) -> Self {
        let digest = key_digest(public_key);
        let mut head = [0_u8; 16];
        for (to, from) in head.iter_mut().zip(digest) {
            *to = from;
        }
        Self(*Uuid::new_v8(head).as_bytes())
    }

    /// The id with these 16 bytes, as read from the wire or from disk.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes as they travel.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The same value as a [`Uuid`].
    #[must_use]
    pub const fn as_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.0)
    }
}

/// The full 32-byte digest a key is pinned by; its first half, stamped as `UUIDv8`, is the
/// [`QmId`].
///
/// Allow-lists compare this digest, never the 122 bits of the id alone (W-ID-2).
#[must_use]
pub fn key_digest(public_key: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(QM_ID_DOMAIN);
    hash.update(ED25519_SPKI_PREFIX);
    hash.update(public_key);
    hash.finalize().into()
}

impl fmt::Display for QmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_uuid().hyphenated().fmt(f)
    }
}

impl fmt::Debug for QmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for QmId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let id = Uuid::try_parse(text).map_err(|_reason| ParseIdError { what: "a QMId" })?;
        Ok(Self(*id.as_bytes()))
    }
}

/// One life of a queue manager: 64 random bits drawn at every start of the process.
///
/// Two clones of one machine share the [`QmId`] but not the incarnation (W-ID-3). Printed as 16
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_hex(text, "an incarnation").map(Self)
    }
}

/// Exactly sixteen hexadecimal digits.
fn parse_hex(text: &str, what: &'static str) -> Result<u64, ParseIdError> {
    if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ParseIdError { what });
    }
    u64::from_str_radix(text, 16).map_err(|_reason| ParseIdError { what })
}

/// Identity of a message among all that one [`QmId`] ever minted. Never changes: not on
/// retransmission, not on restart (W-ID-4). Printed as `<incarnation>-<sequence>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The life of the queue manager in which the message was accepted.
    pub incarnation: Incarnation,
    /// Position among the messages accepted in that life, from 1, over all destinations.
    pub sequence: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.incarnation, self.sequence)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = ParseIdError {
            what: "a message id",
        };
        let (incarnation, sequence) = text.split_once('-').ok_or(wrong)?;
        let incarnation = parse_hex(incarnation, wrong.what).map(Incarnation)?;
        if !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong);
        }
        let sequence = sequence.parse().map_err(|_reason| wrong)?;
        Ok(Self {
            incarnation,
            sequence,
        })
    }
}

/// A text that is not an identity of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not {what}; copy the id as printed by a command")]
pub struct ParseIdError {
    what: &'static str,
}

/// Eight bytes that separate different messages minted under one id by two memory clones, and
/// the end-to-end checksum of a message. See [`Tag::compute`](crate::Tag::compute).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 8]);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Tag {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_hex(text, "a tag").map(|tag| Self(tag.to_be_bytes()))
    }
}

/// Sixteen random bytes drawn after a message's body was accepted, so that nobody who chooses
/// bodies can aim at a tag. One draw serves a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; 16]);

/// What an acknowledgement off the session, a query or an answer names: a message and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The message.
    pub id: MessageId,
    /// Its tag; an entry with another tag is another message.
    pub tag: Tag,
}

/// The full name of a message as seen by its receiver; the key of duplicate removal (W-ID-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey {
    /// The queue manager that minted the message.
    pub source: QmId,
    /// Its id and tag.
    pub entry: Entry,
}

/// Identity of an application's connection library instance, random, kept while it retries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qm_id_is_a_uuid_version_8_of_the_key_digest() {
        let key = [0x42; 32];
        let id = QmId::from_ed25519_public_key(&key);
        assert_eq!(id.as_uuid().get_version_num(), 8);
        assert_eq!(id.as_bytes()[..6], key_digest(&key)[..6]);
    }

    #[test]
    fn printed_ids_parse_back_and_others_are_refused() {
        let id = MessageId {
            incarnation: Incarnation(0xdead_beef),
            sequence: 42,
        };
        assert_eq!(id.to_string(), "00000000deadbeef-42");
        assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        let tag = Tag([1, 2, 3, 4, 5, 6, 7, 0xff]);
        assert_eq!(tag.to_string(), "01020304050607ff");
        assert_eq!(tag.to_string().parse::<Tag>().unwrap(), tag);
        assert!("0x020304050607ff".parse::<Tag>().is_err());
        assert_eq!(
            "00000000deadbeef".parse::<Incarnation>().unwrap(),
            id.incarnation
        );
        assert!("+0000000deadbeef".parse::<Incarnation>().is_err());
        for wrong in [
            "",
            "1-1",
            "00000000deadbeef-+1",
            "00000000deadbeef-18446744073709551616",
            "00000000deadbeef",
            "00000000deadbeef-",
            "+0000000deadbeef-1",
        ] {
            assert!(wrong.parse::<MessageId>().is_err(), "{wrong}");
        }
    }
}
