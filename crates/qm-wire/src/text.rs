//! Text that points into a received buffer.

use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

use crate::codec::DecodeError;

/// Whether a text contains a control character, `breaks` (line feed and tab) excepted on demand
/// (W-TXT-2, W-TXT-3).
pub(crate) fn has_control(text: &str, breaks_allowed: bool) -> bool {
    let wrong = |c: char| c.is_control() && !(breaks_allowed && (c == '\n' || c == '\t'));
    if text.is_ascii() {
        // Several times faster than decoding characters, and nearly every text is of this kind.
        text.bytes().any(|byte| wrong(char::from(byte)))
    } else {
        text.chars().any(wrong)
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
        match core::str::from_utf8(&bytes) {
            Ok(text) if !has_control(text, true) => Ok(Self(bytes)),
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
            Ok(text) if !has_control(text, false) => Ok(Self(bytes)),
            _ => Err(DecodeError::Text { what }),
        }
    }

    /// Checks what [`Text::from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check(&self, what: &'static str) -> Result<(), DecodeError> {
        if has_control(self.as_str(), true) {
            return Err(DecodeError::Text { what });
        }
        Ok(())
    }

    /// Checks what [`Text::line_from_utf8`] checks, for a text that came from a string.
    pub(crate) fn check_line(&self, what: &'static str) -> Result<(), DecodeError> {
        if has_control(self.as_str(), false) {
            return Err(DecodeError::Text { what });
        }
        Ok(())
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
