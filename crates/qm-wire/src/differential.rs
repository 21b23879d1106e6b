//! Both codecs of the envelope side by side. Not part of the public interface.

use bytes::{Bytes, BytesMut};

use crate::envelope::{by_hand, compact};
use crate::{DecodeError, Envelope, EnvelopeView};

/// What each codec reads, the codec by hand first.
pub fn decode(encoded: &Bytes) -> (Result<Envelope, DecodeError>, Option<Envelope>) {
    (
        by_hand::view(encoded).map(|view| view.shared(encoded)),
        compact::read(encoded).map(|view| view.shared(encoded)),
    )
}

/// What each codec writes for an envelope that passed [`Envelope::check`], the one by hand first.
#[must_use]
pub fn encode(envelope: &Envelope) -> (BytesMut, BytesMut) {
    let (mut ours, mut theirs) = (BytesMut::new(), BytesMut::new());
    by_hand::encode(envelope, &mut ours);
    compact::encode(envelope, &mut theirs);
    (ours, theirs)
}

/// What the codec by hand reads; what the other reads is [`Envelope::view`].
///
/// # Errors
/// As [`Envelope::view`].
pub fn view_by_hand(encoded: &[u8]) -> Result<EnvelopeView<'_>, DecodeError> {
    by_hand::view(encoded)
}

/// Appends what the codec by hand writes for an envelope that passed [`Envelope::check`].
pub fn encode_by_hand(envelope: &Envelope, to: &mut BytesMut) {
    by_hand::encode(envelope, to);
}
