//! Text that points into a received buffer.

use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

use crate::codec::DecodeError;

/// UTF-8 text in a [`Bytes`]: cloning shares, decoding borrows from the receive buffer.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// The empty text, which on the wire means "absent".
    pub const EMPTY: Self = Self(Bytes::new());

    /// Takes bytes that must be UTF-8 without control characters other than line feed and tab.
    ///
    /// # Errors
    /// [`DecodeError::Text`] naming `what`.
    pub fn from_utf8(bytes: Bytes, what: &'static str) -> Result<Self, DecodeError> {
        match core::str::from_utf8(&bytes) {
            Ok(text)
                if text
                    .chars()
                    .all(|c| !c.is_control() || c == '\n' || c == '\t') =>
            {
                Ok(Self(bytes))
            }
            _ => Err(DecodeError::Text { what }),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).expect("checked when the value was made")
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
