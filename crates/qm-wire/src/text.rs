//! Text that points into a received buffer.

use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

use crate::codec::DecodeError;

/// Control characters that no text may contain (W-TXT-2).
fn forbidden(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
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
        match core::str::from_utf8(&bytes) {
            Ok(text) if text.chars().all(|c| !forbidden(c)) => Ok(Self(bytes)),
            _ => Err(DecodeError::Text { what }),
        }
    }

    /// Takes bytes that must be UTF-8 without any control character: names that are shown in
    /// lists, where a line feed or a tab would forge a row (W-TXT-3).
    ///
    /// # Errors
    /// [`DecodeError::Text`] naming `what`.
    pub fn line_from_utf8(bytes: Bytes, what: &'static str) -> Result<Self, DecodeError> {
        match core::str::from_utf8(&bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(Self(bytes)),
            _ => Err(DecodeError::Text { what }),
        }
    }

    /// Checks what [`Text::from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.as_str().chars().any(forbidden) {
            return Err(DecodeError::Text { what });
        }
        Ok(())
    }

    /// Checks what [`Text::line_from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check_line(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.as_str().chars().any(char::is_control) {
            return Err(DecodeError::Text { what });
        }
        Ok(())
    }

    /// The text.
    ///
    /// UTF-8 is validated once more at each call: a few nanoseconds for a label, where the only
    /// other way is unsafe code.
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
