//! Text that points into a received buffer.

use alloc::string::String;
use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

use crate::codec::DecodeError;

/// Whether all bytes are printable ASCII, which nearly every text is: such a text keeps every rule
/// of texts. Eight bytes at a time.
#[inline]
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    const SPACES: u64 = u64::from_le_bytes([0x20; 8]);
    const DELETES: u64 = u64::from_le_bytes([0x7f; 8]);
    // Bit 7 of a byte of the result is set when that byte is below 0x20, is 0x7f, or is not ASCII.
    // A borrow can only come from a byte that is wrong itself.
    let wrong = |chunk: &[u8; 8]| {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(SPACES);
        let delete = (word ^ DELETES).wrapping_sub(ONES);
        (word | control | delete) & HIGH
    };
    let (chunks, _) = bytes.as_chunks::<8>();
    // The end overlaps what was looked at before; a short text is its two ends.
    let end = match (bytes.last_chunk::<8>(), bytes.first_chunk::<4>()) {
        (Some(last), _) => wrong(last),
        (None, Some([a, b, c, d])) => match bytes.last_chunk::<4>() {
            Some([e, f, g, h]) => wrong(&[*a, *b, *c, *d, *e, *f, *g, *h]),
            None => 0,
        },
        (None, None) => bytes.iter().fold(0, |all, byte| {
            all | wrong(&[*byte, b' ', b' ', b' ', b' ', b' ', b' ', b' '])
        }),
    };
    chunks.iter().fold(end, |all, chunk| all | wrong(chunk)) == 0
}

/// Whether a text contains a control character, line feed and tab excepted on demand (W-TXT-2,
/// W-TXT-3).
fn has_control(text: &str, breaks_allowed: bool) -> bool {
    let wrong = |c: char| c.is_control() && !(breaks_allowed && (c == '\n' || c == '\t'));
    text.chars().any(wrong)
}

/// Checks bytes as text: UTF-8 without control characters, line feed and tab excepted on demand.
#[inline]
pub(crate) fn check_text(
    bytes: &[u8],
    breaks_allowed: bool,
    what: &'static str,
) -> Result<(), DecodeError> {
    if is_plain(bytes) {
        return Ok(());
    }
    check_characters(bytes, breaks_allowed, what)
}

/// The same for a text that is not all printable ASCII.
fn check_characters(
    bytes: &[u8],
    breaks_allowed: bool,
    what: &'static str,
) -> Result<(), DecodeError> {
    match core::str::from_utf8(bytes) {
        Ok(text) if !has_control(text, breaks_allowed) => Ok(()),
        _ => Err(DecodeError::Text { what }),
    }
}

/// UTF-8 text borrowed from an encoded message, checked.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextView<'a>(&'a [u8]);

impl<'a> TextView<'a> {
    /// Takes bytes that were checked as a text before.
    pub(crate) const fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The text; like [`Text::as_str`] it is validated once more at each call.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        core::str::from_utf8(self.0).unwrap_or_default()
    }

    /// The bytes that carry the text.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether it is absent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq<str> for TextView<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for TextView<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for TextView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for TextView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// UTF-8 text in a [`Bytes`]: cloning shares, decoding borrows from the receive buffer.
///
/// A text made from a string may contain control characters that the wire does not admit:
/// [`Envelope::check`](crate::Envelope::check) reports them, hello and goodbye replace them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The empty text, which on the wire means "absent" (W-TXT-4).
    pub const EMPTY: Self = Self(Bytes::new());

    /// Takes bytes that must be UTF-8 without control characters other than line feed and tab
    /// (W-TXT-1, W-TXT-2).
    ///
    /// # Errors
    /// [`DecodeError::Text`] naming `what`.
    pub fn from_utf8(bytes: Bytes, what: &'static str) -> Result<Self, DecodeError> {
        check_text(&bytes, true, what)?;
        Ok(Self(bytes))
    }

    /// Takes bytes that must be UTF-8 without any control character: names that are shown in
    /// lists, where a line feed or a tab would forge a row (W-TXT-3).
    ///
    /// # Errors
    /// [`DecodeError::Text`] naming `what`.
    pub fn line_from_utf8(bytes: Bytes, what: &'static str) -> Result<Self, DecodeError> {
        check_text(&bytes, false, what)?;
        Ok(Self(bytes))
    }

    /// Checks what [`Text::from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check(&self, what: &'static str) -> Result<(), DecodeError> {
        check_text(&self.0, true, what)
    }

    /// Checks what [`Text::line_from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check_line(&self, what: &'static str) -> Result<(), DecodeError> {
        check_text(&self.0, false, what)
    }

    /// Takes bytes that were checked as a text before.
    pub(crate) const fn trusted(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The text.
    ///
    /// UTF-8 is validated once more at each call, which costs about 10 ns for an ASCII label: keep
    /// the result in a loop. The only other way is unsafe code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Every constructor checked or began with a string, so the default is never taken.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes that carry the text.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Owned by itself, no longer holding the receive buffer alive.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_is_printable_ascii_at_every_place() {
        for byte in 0..=u8::MAX {
            for length in 1..20 {
                for at in 0..length {
                    let mut bytes = vec![b'~'; length];
                    bytes[at] = byte;
                    assert_eq!(is_plain(&bytes), (0x20..0x7f).contains(&byte), "{bytes:x?}");
                }
            }
        }
        assert!(is_plain(b""));
    }

    proptest! {
        /// The short cut decides nothing: what it lets through, the rules do too.
        #[test]
        fn the_short_cut_is_what_the_rules_say(bytes: Vec<u8>, breaks: bool) {
            let ruled = String::from_utf8(bytes.clone()).ok().is_some_and(|text| {
                !text.chars().any(|c| c.is_control() && !(breaks && "\t\n".contains(c)))
            });
            prop_assert_eq!(check_text(&bytes, breaks, "text").is_ok(), ruled);
            let plain = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
            prop_assert_eq!(is_plain(&bytes), plain);
        }
    }
}
