//! The frames that tell a node from a copy of itself before a session opens: confirm, challenge
//! and its answer.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_short_within};
use crate::limits::TOKEN_BYTES_MAX;

/// The token of a welcome was stored durably; sent after that, never before (W-SES-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The welcome's attempt number.
    pub attempt: u64,
    /// The welcome's token, at least one byte.
    pub token: Bytes,
}

/// Asks for a sign of life on the session on which it comes, or is that sign (W-SES-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Challenge {
    /// The attempt number of the hello that is challenged.
    pub attempt: u64,
    /// Random; the answer repeats it.
    pub challenge: [u8; 16],
}

impl Confirm {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.attempt);
        put_short_within(to, &self.token, TOKEN_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const WHAT: &str = "confirmed token";
        let attempt = r.u64("attempt")?;
        let token = r.short(TOKEN_BYTES_MAX, WHAT)?;
        if token.is_empty() {
            return Err(DecodeError::Invalid {
                what: WHAT,
                value: 0,
            });
        }
        Ok(Self { attempt, token })
    }
}

impl Challenge {
    pub(crate) fn write(self, to: &mut BytesMut) {
        to.put_u64_le(self.attempt);
        to.put_slice(&self.challenge);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            attempt: r.u64("attempt")?,
            challenge: r.array("challenge")?,
        })
    }
}
