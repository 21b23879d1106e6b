//! Two live copies of one identity: how they find each other over a node between them, which of
//! them keeps the identity, where their histories parted, and what follows an identity.
//!
//! This module knows what is signed, not how: keys and signatures are handed in and out.

use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};

use crate::codec::{DecodeError, Reader, put_count, put_line};
use crate::id::{Incarnation, key_digest};
use crate::limits::{FORK_POINTS_MAX, NAME_BYTES_MAX, PARTED_LIVES_MAX};
use crate::text::Text;

/// Another live session speaks with the receiver's identity: ask it over this relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Twin {
    /// Names the pair of sessions; chosen by the node between them.
    pub relay: [u8; 16],
    /// The life that speaks in the other session.
    pub incarnation: Incarnation,
    /// Seconds for which the node between has had the other session.
    pub known_s: u64,
    /// Where the node between sees the other session (W-TWN-4).
    pub address: Text,
    /// The host name in the other session's hello (W-TWN-4).
    pub host: Text,
}

/// Which of two copies keeps the identity: the higher one, compared in the order of the fields
/// (W-TWN-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// Whether the identity is on the machine it was made for.
    pub sealed: bool,
    /// Seconds the process has served, frozen when it was first asked.
    pub served_s: u64,
    /// Chance.
    pub draw: u64,
}

/// To the other copy: prove that you live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The relay of the [`Twin`] frame.
    pub relay: [u8; 16],
    /// Fresh and random.
    pub challenge: [u8; 32],
    /// The asker's rank.
    pub rank: Rank,
}

/// A course of a store: from its beginning until the next one begins, one process wrote to it
/// (W-TWN-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForkPoint {
    /// Node time of its beginning, microseconds: whatever is stored later is of this course, or of
    /// one that follows.
    pub from_us: u64,
    /// Random bytes that were drawn then.
    pub mark: [u8; 16],
}

/// The proof: signed with the common key over the asker's fresh challenge (W-TWN-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The relay of the ask.
    pub relay: [u8; 16],
    /// The challenge of the ask.
    pub challenge: [u8; 32],
    /// The claimer's life.
    pub incarnation: Incarnation,
    /// Nonce of the claimer's session with the node between.
    pub nonce: [u8; 16],
    /// The claimer's rank.
    pub rank: Rank,
    /// The rank of the ask.
    pub asked_rank: Rank,
    /// Courses of the claimer's store, ascending, the newest at most [`FORK_POINTS_MAX`].
    pub points: Vec<ForkPoint>,
    /// Ed25519 over [`Claim::signed_bytes`].
    pub signature: [u8; 64],
}

/// Narrows the place where two histories parted (W-TWN-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkPoints {
    /// The relay of the ask.
    pub relay: [u8; 16],
    /// The challenge of the ask.
    pub challenge: [u8; 32],
    /// Courses of the sender's store, ascending, 1 to [`FORK_POINTS_MAX`].
    pub points: Vec<ForkPoint>,
    /// Ed25519 over [`ForkPoints::signed_bytes`].
    pub signature: [u8; 64],
}

/// An identity is succeeded by another one; signed with both keys (W-SUC-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Succession {
    /// Ed25519 key of the identity that ends.
    pub old_key: [u8; 32],
    /// Ed25519 key of its successor.
    pub new_key: [u8; 32],
    /// By the old key over [`Succession::signed_bytes`].
    pub old_signature: [u8; 64],
    /// By the new key over the same.
    pub new_signature: [u8; 64],
}

/// A machine has another identity, and left the one that it had to another machine (W-TWN-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parted {
    /// From the identity that it left to the one that it has: here it moves no name.
    pub succession: Succession,
    /// The lives of this machine in which it had the one that it left, ascending, 1 to
    /// [`PARTED_LIVES_MAX`].
    pub lives: Vec<Incarnation>,
    /// By the new key over [`Parted::signed_bytes`].
    pub signature: [u8; 64],
}

const POINT_BYTES: usize = 24;

impl Twin {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_slice(&self.relay);
        to.put_u64_le(self.incarnation.0);
        to.put_u64_le(self.known_s);
        put_line(to, &self.address, NAME_BYTES_MAX);
        put_line(to, &self.host, NAME_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let relay = r.array("relay")?;
        let incarnation = Incarnation(r.u64("incarnation")?);
        let known_s = r.u64("seconds")?;
        let address = r.short(NAME_BYTES_MAX, "address of a twin")?;
        let host = r.short(NAME_BYTES_MAX, "host name")?;
        Ok(Self {
            relay,
            incarnation,
            known_s,
            address: Text::line_from_utf8(address, "address of a twin")?,
            host: Text::line_from_utf8(host, "host name")?,
        })
    }
}

impl Rank {
    fn write(self, to: &mut BytesMut) {
        to.put_u8(u8::from(self.sealed));
        to.put_u64_le(self.served_s);
        to.put_u64_le(self.draw);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sealed: r.bool("seal of a rank")?,
            served_s: r.u64("rank")?,
            draw: r.u64("rank")?,
        })
    }
}

impl Ask {
    pub(crate) fn write(self, to: &mut BytesMut) {
        to.put_slice(&self.relay);
        to.put_slice(&self.challenge);
        self.rank.write(to);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            relay: r.array("relay")?,
            challenge: r.array("challenge")?,
            rank: Rank::read(r)?,
        })
    }
}

fn put_points(to: &mut BytesMut, points: &[ForkPoint]) {
    let points = points.get(..FORK_POINTS_MAX).unwrap_or(points);
    put_count(to, points.len());
    for point in points {
        to.put_u64_le(point.from_us);
        to.put_slice(&point.mark);
    }
}

fn read_points(r: &mut Reader<'_>, least: usize) -> Result<Vec<ForkPoint>, DecodeError> {
    const WHAT: &str = "fork points";
    let points = r.list((least, FORK_POINTS_MAX), POINT_BYTES, WHAT, |r| {
        Ok(ForkPoint {
            from_us: r.u64("beginning of a course")?,
            mark: r.array("mark of a course")?,
        })
    })?;
    // W-TWN-3.
    if points.is_sorted_by(|one, next| one.from_us < next.from_us) {
        Ok(points)
    } else {
        Err(DecodeError::NotCanonical { what: WHAT })
    }
}

/// A domain, then what `write` writes.
fn signed(domain: &[u8], write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::from(domain);
    write(&mut bytes);
    bytes
}

impl Claim {
    fn write_unsigned(&self, to: &mut BytesMut) {
        to.put_slice(&self.relay);
        to.put_slice(&self.challenge);
        to.put_u64_le(self.incarnation.0);
        to.put_slice(&self.nonce);
        self.rank.write(to);
        self.asked_rank.write(to);
        put_points(to, &self.points);
    }

    /// What the claimer signs: everything before the signature, with its domain (W-TWN-2).
    #[must_use]
    pub fn signed_bytes(&self) -> BytesMut {
        signed(b"qm-twin", |to| self.write_unsigned(to))
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        self.write_unsigned(to);
        to.put_slice(&self.signature);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            relay: r.array("relay")?,
            challenge: r.array("challenge")?,
            incarnation: Incarnation(r.u64("incarnation")?),
            nonce: r.array("session nonce")?,
            rank: Rank::read(r)?,
            asked_rank: Rank::read(r)?,
            points: read_points(r, 0)?,
            signature: r.array("signature")?,
        })
    }
}

impl ForkPoints {
    fn write_unsigned(&self, to: &mut BytesMut) {
        to.put_slice(&self.relay);
        to.put_slice(&self.challenge);
        put_points(to, &self.points);
    }

    /// What the sender signs: everything before the signature, with its domain (W-TWN-2).
    #[must_use]
    pub fn signed_bytes(&self) -> BytesMut {
        signed(b"qm-fork", |to| self.write_unsigned(to))
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        self.write_unsigned(to);
        to.put_slice(&self.signature);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            relay: r.array("relay")?,
            challenge: r.array("challenge")?,
            points: read_points(r, 1)?,
            signature: r.array("signature")?,
        })
    }
}

impl Succession {
    /// What both keys sign: the domain and the digests of both keys (W-SUC-1).
    #[must_use]
    pub fn signed_bytes(&self) -> BytesMut {
        signed(b"qm-succession", |to| {
            to.put_slice(&key_digest(&self.old_key));
            to.put_slice(&key_digest(&self.new_key));
        })
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_slice(&self.old_key);
        to.put_slice(&self.new_key);
        to.put_slice(&self.old_signature);
        to.put_slice(&self.new_signature);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let succession = Self {
            old_key: r.array("old key")?,
            new_key: r.array("new key")?,
            old_signature: r.array("signature by the old key")?,
            new_signature: r.array("signature by the new key")?,
        };
        // W-SUC-1.
        if succession.old_key == succession.new_key {
            return Err(DecodeError::Invalid {
                what: "new key, which is the old one,",
                value: 0,
            });
        }
        Ok(succession)
    }
}

impl Parted {
    /// What the new key signs: the domain, the digests of both keys and the lives (W-TWN-6).
    #[must_use]
    pub fn signed_bytes(&self) -> BytesMut {
        signed(b"qm-parted", |to| {
            to.put_slice(&key_digest(&self.succession.old_key));
            to.put_slice(&key_digest(&self.succession.new_key));
            self.write_lives(to);
        })
    }

    fn write_lives(&self, to: &mut BytesMut) {
        let lives = self.lives.get(..PARTED_LIVES_MAX).unwrap_or(&self.lives);
        put_count(to, lives.len());
        for life in lives {
            to.put_u64_le(life.0);
        }
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        self.succession.write(to);
        self.write_lives(to);
        to.put_slice(&self.signature);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const WHAT: &str = "lives of a machine that parted";
        let succession = Succession::read(r)?;
        let lives = r.list((1, PARTED_LIVES_MAX), 8, WHAT, |r| {
            Ok(Incarnation(r.u64("life")?))
        })?;
        if !lives.is_sorted_by(|one, next| one < next) {
            return Err(DecodeError::NotCanonical { what: WHAT });
        }
        Ok(Self {
            succession,
            lives,
            signature: r.array("signature")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W-TWN-1: the seal outweighs any service, service outweighs chance.
    #[test]
    fn ranks_compare_in_the_order_of_their_fields() {
        let rank = |sealed, served_s, draw| Rank {
            sealed,
            served_s,
            draw,
        };
        assert!(rank(true, 0, 0) > rank(false, u64::MAX, u64::MAX));
        assert!(rank(true, 2, 0) > rank(true, 1, u64::MAX));
        assert!(rank(true, 2, 1) > rank(true, 2, 0));
    }
}
