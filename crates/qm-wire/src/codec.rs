//! Reading and writing bytes with every length checked first.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use crate::text::Text;

/// Why bytes are not what they claim to be. Carries no text from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("{what} ends early: {needed} bytes needed at offset {offset}, {had} left")]
    Truncated {
        /// The field being read.
        what: &'static str,
        /// Offset of the field in its frame body or envelope.
        offset: usize,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that were left.
        had: usize,
    },
    /// A length or count is over its limit.
    #[error("{what} is {value}, over the limit of {limit}")]
    OverLimit {
        /// The field.
        what: &'static str,
        /// What the input claims.
        value: u64,
        /// The limit, from [`limits`](crate::limits) or configuration.
        limit: u64,
    },
    /// A value is outside what the specification allows.
    #[error("{what} has the invalid value {value}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// The value, or a number that identifies it.
        value: u64,
    },
    /// Text is not UTF-8, or contains a control character where none may be.
    #[error("{what} is not UTF-8, or has a control character")]
    Text {
        /// The field.
        what: &'static str,
    },
    /// Bytes are left over after the last field.
    #[error("{what} has {extra} bytes too many")]
    Trailing {
        /// The structure.
        what: &'static str,
        /// Bytes after its last field.
        extra: usize,
    },
    /// The bytes are valid but not the one canonical form of the value.
    #[error("{what} is not in canonical form")]
    NotCanonical {
        /// The field.
        what: &'static str,
    },
    /// The checksum of a frame does not match.
    #[error("the frame's checksum does not match: {found:08x} instead of {expected:08x}")]
    Checksum {
        /// Computed over the received bytes.
        expected: u32,
        /// Found in the header.
        found: u32,
    },
    /// A hello of versions that this crate does not speak; answered with a goodbye of `9003`
    /// (W-VER-2).
    #[error(
        "the peer speaks protocol versions {lowest} to {highest}, none of which is spoken here"
    )]
    Version {
        /// Lowest version the peer speaks.
        lowest: u16,
        /// Highest version the peer speaks.
        highest: u16,
    },
    /// The frame's kind is neither known nor in the range that may be skipped.
    #[error("frame kind {kind:#04x} is unknown and must not be ignored")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
}

/// Reads fields off the front of a [`Bytes`], each of which must be there in full (W-FRM-6). What
/// it hands out are slices, never copies.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    all: &'a Bytes,
    rest: &'a [u8],
    /// Bytes at the beginning, from which offsets count.
    len: usize,
}

impl<'a> Reader<'a> {
    /// Reads `part` of `all`, which its slices share.
    #[inline]
    pub(crate) const fn new(all: &'a Bytes, part: &'a [u8]) -> Self {
        let len = part.len();
        let rest = part;
        Self { all, rest, len }
    }

    #[inline]
    pub(crate) const fn offset(&self) -> usize {
        self.len.saturating_sub(self.rest.len())
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(DecodeError::Truncated {
                what,
                offset: self.offset(),
                needed: n,
                had: self.rest.len(),
            }),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(DecodeError::Truncated {
                what,
                offset: self.offset(),
                needed: N,
                had: self.rest.len(),
            }),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let [byte] = self.array(what)?;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A slice of the original buffer.
    pub(crate) fn bytes(&mut self, n: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let slice = self.take(n, what)?;
        Ok(self.all.slice_ref(slice))
    }

    /// Bytes behind a 16-bit length.
    pub(crate) fn short(&mut self, limit: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let n = usize::from(self.u16(what)?);
        if n > limit {
            return Err(DecodeError::OverLimit {
                what,
                value: n as u64,
                limit: limit as u64,
            });
        }
        self.bytes(n, what)
    }

    /// A count of fixed-size items, checked against its limit and against the bytes left.
    pub(crate) fn count(
        &mut self,
        limit: usize,
        item_bytes: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let n = usize::from(self.u16(what)?);
        if n > limit {
            return Err(DecodeError::OverLimit {
                what,
                value: n as u64,
                limit: limit as u64,
            });
        }
        let needed = n.saturating_mul(item_bytes);
        if needed > self.remaining() {
            return Err(DecodeError::Truncated {
                what,
                offset: self.offset(),
                needed,
                had: self.remaining(),
            });
        }
        Ok(n)
    }

    /// A list of fixed-size items behind its count, of at least `least` and at most `limit`.
    pub(crate) fn list<T>(
        &mut self,
        (least, limit): (usize, usize),
        item_bytes: usize,
        what: &'static str,
        item: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let n = self.count(limit, item_bytes, what)?;
        if n < least {
            let value = n as u64;
            return Err(DecodeError::Invalid { what, value });
        }
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// One byte that is 0 or 1 (W-FRM-7).
    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Invalid {
                what,
                value: u64::from(other),
            }),
        }
    }

    /// A number that counts from 1.
    pub(crate) fn ordinal(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.u64(what)? {
            0 => Err(DecodeError::Invalid { what, value: 0 }),
            value => Ok(value),
        }
    }

    /// A line of text behind a 16-bit length.
    pub(crate) fn line(&mut self, limit: usize, what: &'static str) -> Result<Text, DecodeError> {
        Text::line_from_utf8(self.short(limit, what)?, what)
    }

    pub(crate) fn rest(&mut self) -> Bytes {
        let slice = core::mem::take(&mut self.rest);
        self.all.slice_ref(slice)
    }

    /// Nothing may be left (W-FRM-6).
    pub(crate) fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { what, extra }),
        }
    }
}

/// Appends bytes behind a 16-bit length, cut to what that length can tell. The types that reach
/// this keep their length in bounds.
pub(crate) fn put_short(to: &mut BytesMut, bytes: &[u8]) {
    put_short_within(to, bytes, usize::from(u16::MAX));
}

/// Appends bytes behind a 16-bit length, cut to `limit`.
pub(crate) fn put_short_within(to: &mut BytesMut, bytes: &[u8], limit: usize) {
    let limit = limit.min(usize::from(u16::MAX));
    let bytes = bytes.get(..limit).unwrap_or(bytes);
    put_count(to, bytes.len());
    to.put_slice(bytes);
}

/// Appends one line of text for people behind a 16-bit length: cut to `limit` at a character,
/// with control characters replaced, because a frame whose text the peer must refuse would cost
/// the session.
pub(crate) fn put_line(to: &mut BytesMut, text: &str, limit: usize) {
    let (limit, mut end) = (limit.min(usize::from(u16::MAX)), 0_usize);
    let fits = |c: &char| {
        end = end.saturating_add(line_char(*c).len_utf8());
        end <= limit
    };
    let line: String = text.chars().take_while(fits).map(line_char).collect();
    put_short_within(to, line.as_bytes(), limit);
}

fn line_char(c: char) -> char {
    if c.is_control() {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

/// Compares a length or count with its limit.
pub(crate) const fn over(
    what: &'static str,
    value: usize,
    limit: usize,
) -> Result<(), DecodeError> {
    if value > limit {
        let (value, limit) = (value as u64, limit as u64);
        return Err(DecodeError::OverLimit { what, value, limit });
    }
    Ok(())
}

/// Appends a count in 16 bits; callers bound it far below the largest.
pub(crate) fn put_count(to: &mut BytesMut, n: usize) {
    to.put_u16_le(u16::try_from(n).unwrap_or(u16::MAX));
}
