//! Application properties: a bounded, sorted, unique list of names and values (W-PRP-1, W-PRP-2).

use alloc::vec::Vec;
use core::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, over};
use crate::limits::{PROPERTIES_BYTES_MAX, PROPERTIES_MAX, PROPERTY_NAME_BYTES_MAX};
use crate::text::check_text;

/// Application properties in encoded form: names strictly ascending by their bytes.
///
/// Kept encoded because a node forwards them without looking; iterate to read. Each property is
/// `name length u8 · name (UTF-8) · value length u16 · value`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Properties(Bytes);

impl Properties {
    /// No properties.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Sorts and encodes properties.
    ///
    /// # Errors
    /// [`DecodeError`] when a name is empty, given twice or not text, or when a limit is exceeded.
    pub fn new<N, V>(items: impl IntoIterator<Item = (N, V)>) -> Result<Self, DecodeError>
    where
        N: AsRef<str>,
        V: AsRef<[u8]>,
    {
        let mut items: Vec<_> = items.into_iter().collect();
        items.sort_by(|a, b| a.0.as_ref().as_bytes().cmp(b.0.as_ref().as_bytes()));
        let mut to = BytesMut::new();
        for (name, value) in &items {
            let (name, value) = (name.as_ref(), value.as_ref());
            let name_bytes = u8::try_from(name.len()).map_err(|_over| DecodeError::OverLimit {
                what: "property name",
                value: name.len() as u64,
                limit: PROPERTY_NAME_BYTES_MAX as u64,
            })?;
            let value_bytes = u16::try_from(value.len()).map_err(|_over| {
                let (value, limit) = (value.len() as u64, PROPERTIES_BYTES_MAX as u64);
                DecodeError::OverLimit {
                    what: "property value",
                    value,
                    limit,
                }
            })?;
            to.put_u8(name_bytes);
            to.put_slice(name.as_bytes());
            to.put_u16_le(value_bytes);
            to.put_slice(value);
        }
        Self::from_encoded(to.freeze())
    }

    /// Takes properties off the wire after checking every rule.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule.
    pub fn from_encoded(encoded: Bytes) -> Result<Self, DecodeError> {
        Self::check(&encoded)?;
        Ok(Self(encoded))
    }

    /// Takes bytes that were checked as properties before.
    pub(crate) const fn trusted(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// Every rule of encoded properties (W-PRP-1, W-PRP-2).
    pub(crate) fn check(encoded: &[u8]) -> Result<(), DecodeError> {
        const WHAT: &str = "application properties";
        over(WHAT, encoded.len(), PROPERTIES_BYTES_MAX)?;
        let mut rest = encoded;
        let mut previous: Option<&[u8]> = None;
        let mut count = 0_usize;
        while !rest.is_empty() {
            let offset = encoded.len().saturating_sub(rest.len());
            let Some((name, _, after)) = split_property(rest) else {
                return Err(DecodeError::Truncated {
                    what: WHAT,
                    offset,
                    needed: property_bytes(rest),
                    had: rest.len(),
                });
            };
            if name.is_empty() {
                return Err(DecodeError::Invalid {
                    what: "property name",
                    value: 0,
                });
            }
            check_text(name, false, "property name")?;
            if previous.is_some_and(|p| p >= name) {
                return Err(DecodeError::NotCanonical { what: WHAT });
            }
            previous = Some(name);
            rest = after;
            count = count.saturating_add(1);
            over(WHAT, count, PROPERTIES_MAX)?;
        }
        Ok(())
    }

    /// Names and values in the order of the names' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        iterate(&self.0)
    }

    /// The value of a property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded form.
    #[must_use]
    pub const fn as_encoded(&self) -> &Bytes {
        &self.0
    }
}

/// Names and values of properties that were checked.
pub(crate) fn iterate(mut rest: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    core::iter::from_fn(move || {
        let (name, value, after) = split_property(rest)?;
        rest = after;
        Some((core::str::from_utf8(name).ok()?, value))
    })
}

/// Bytes of the property at the front, as far as its lengths are there to tell.
fn property_bytes(bytes: &[u8]) -> usize {
    let name = bytes.first().map_or(0, |len| usize::from(*len));
    let value = bytes
        .get(name.saturating_add(1)..)
        .and_then(<[u8]>::first_chunk);
    let value = value.map_or(0, |len| usize::from(u16::from_le_bytes(*len)));
    name.saturating_add(value).saturating_add(3)
}

/// Splits one property off the front: name, value, what follows.
fn split_property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name_len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
    let (value_len, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*value_len)))?;
    Some((name, value, rest))
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (n, v.len())))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_readable() {
        let p = Properties::new([("b", &b"2"[..]), ("a", b"1")]).unwrap();
        assert_eq!(p.iter().map(|(n, _)| n).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(p.get("b"), Some(&b"2"[..]));
        assert_eq!(Properties::from_encoded(p.as_encoded().clone()).unwrap(), p);
    }

    #[test]
    fn duplicates_and_disorder_are_refused() {
        assert!(Properties::new([("a", b"1"), ("a", b"2")]).is_err());
        let wrong = Bytes::from_static(b"\x01b\x00\x00\x01a\x00\x00");
        assert!(matches!(
            Properties::from_encoded(wrong),
            Err(DecodeError::NotCanonical { .. })
        ));
        assert!(Properties::from_encoded(Bytes::from_static(b"\x05ab")).is_err());
    }
}
