//! Both codecs of the envelope side by side. Not part of the public interface.

use bytes::{Bytes, BytesMut};

use crate::envelope::{by_hand, compact};
use crate::{DecodeError, Envelope};

/// What each codec reads, the codec by hand first.
pub fn decode(encoded: &Bytes) -> (Result<Envelope, DecodeError>, Option<Envelope>) {
    (by_hand::decode(encoded), compact::read(encoded))
}

/// What each codec writes for an envelope that passed [`Envelope::check`], the one by hand first.
#[must_use]
pub fn encode(envelope: &Envelope) -> (BytesMut, BytesMut) {
    let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
    by_hand::encode(envelope, &mut ours);
    compact::encode(envelope, &mut theirs);
    (ours, theirs)
}
