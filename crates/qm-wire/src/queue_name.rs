//! Names of queues: case kept, case ignored in comparison, as in MSMQ.

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use bytes::Bytes;

use crate::codec::{DecodeError, over};
use crate::limits::{QUEUE_NAME_BYTES_MAX, QUEUE_NAME_CHARS_MAX, SUBQUEUE_NAME_CHARS_MAX};
use crate::text::{Text, check_text};

/// Name of a queue on its node, `queue` or `queue:subqueue`.
///
/// At most 124 characters and 32 for the subqueue (W-QUE-1). Case is kept but ignored in
/// comparison, order and hash (W-QUE-4). A name that contains `$` belongs to the system and is
/// only made by nodes (W-QUE-5).
///
/// ```
/// use qm_wire::QueueName;
/// let a: QueueName = "Orders".parse().unwrap();
/// assert_eq!(a, "orders".parse().unwrap());
/// assert!("a/b".parse::<QueueName>().is_err());
/// ```
#[derive(Clone)]
pub struct QueueName(Text);

/// Characters with a meaning in destination names, paths or shells' quoting of them (W-QUE-2).
const RESERVED: &[char] = &[
    '/', '\\', '@', '?', '#', '"', '*', '<', '>', '|', ';', ',', '%',
];

/// Whether a name can hold the byte without a look at its characters: printable ASCII that has no
/// meaning of its own.
const fn is_simple(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
        && !matches!(
            byte,
            b'/' | b'\\'
                | b'@'
                | b'?'
                | b'#'
                | b'"'
                | b'*'
                | b'<'
                | b'>'
                | b'|'
                | b';'
                | b','
                | b'%'
                | b':'
        )
}

/// Every rule of queue names.
#[inline]
pub(crate) fn check_name(bytes: &[u8]) -> Result<(), DecodeError> {
    let ends = (bytes.first(), bytes.last());
    let is_simple = bytes.len() <= QUEUE_NAME_CHARS_MAX
        && bytes.iter().all(|byte| is_simple(*byte))
        && matches!(ends, (Some(first), Some(last)) if *first != b' ' && *last != b' ');
    if is_simple {
        return Ok(());
    }
    check_characters(bytes)
}

/// The same for a name that is not short and plain.
fn check_characters(bytes: &[u8]) -> Result<(), DecodeError> {
    const WHAT: &str = "queue name";
    over(WHAT, bytes.len(), QUEUE_NAME_BYTES_MAX)?;
    check_text(bytes, true, WHAT)?;
    let name = core::str::from_utf8(bytes).unwrap_or_default();
    let (queue, sub) = match name.split_once(':') {
        Some((queue, sub)) => (queue, Some(sub)),
        None => (name, None),
    };
    for (part, limit) in [
        (Some(queue), QUEUE_NAME_CHARS_MAX),
        (sub, SUBQUEUE_NAME_CHARS_MAX),
    ] {
        let Some(part) = part else { continue };
        let chars = part.chars().count();
        if chars == 0 {
            return Err(DecodeError::Invalid {
                what: WHAT,
                value: 0,
            });
        }
        over(WHAT, chars, limit)?;
        if let Some(bad) = part
            .chars()
            .find(|c| *c == ':' || c.is_control() || RESERVED.contains(c))
        {
            return Err(DecodeError::Invalid {
                what: WHAT,
                value: u64::from(u32::from(bad)),
            });
        }
        // W-QUE-3.
        if part.starts_with(' ') || part.ends_with(' ') {
            return Err(DecodeError::Invalid {
                what: WHAT,
                value: u64::from(b' '),
            });
        }
    }
    Ok(())
}

impl QueueName {
    /// Takes text off the wire.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that the name breaks.
    pub fn from_text(text: Text) -> Result<Self, DecodeError> {
        check_name(text.as_bytes())?;
        Ok(Self(text))
    }

    /// Takes bytes that were checked as a queue name before.
    pub(crate) const fn trusted(bytes: Bytes) -> Self {
        Self(Text::trusted(bytes))
    }

    /// Takes bytes off the wire.
    ///
    /// # Errors
    /// [`DecodeError`] naming the rule that the name breaks.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        check_name(&bytes)?;
        Ok(Self::trusted(bytes))
    }

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The bytes as they travel.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        self.0.as_bytes()
    }

    /// The part after the colon.
    #[must_use]
    pub fn subqueue(&self) -> Option<&str> {
        self.as_str().split_once(':').map(|(_, sub)| sub)
    }

    /// Whether the name is the system's (`dead$`, `journal$`).
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.as_str().contains('$')
    }

    /// Owned by itself, no longer holding a receive buffer alive.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self(self.0.detach())
    }

    pub(crate) fn folded(&self) -> impl Iterator<Item = char> + '_ {
        self.as_str().chars().flat_map(char::to_lowercase)
    }
}

impl PartialEq for QueueName {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.as_bytes(), other.as_bytes());
        if ours.is_ascii() && theirs.is_ascii() {
            return ours.eq_ignore_ascii_case(theirs);
        }
        ours == theirs || self.folded().eq(other.folded())
    }
}

impl Eq for QueueName {}

impl PartialOrd for QueueName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueueName {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.as_bytes() == other.as_bytes() {
            return Ordering::Equal;
        }
        self.folded().cmp(other.folded())
    }
}

impl Hash for QueueName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One write of the folded bytes, whichever way they were folded: an ASCII name can equal
        // one with a letter such as the Kelvin sign.
        let mut ascii = [0_u8; QUEUE_NAME_CHARS_MAX + 1 + SUBQUEUE_NAME_CHARS_MAX];
        let bytes = self.as_bytes();
        match ascii.get_mut(..bytes.len()) {
            Some(folded) if bytes.is_ascii() => {
                folded.copy_from_slice(bytes);
                folded.make_ascii_lowercase();
                state.write(folded);
            }
            _ => state.write(self.folded().collect::<String>().as_bytes()),
        }
        state.write_u8(0xff);
    }
}

impl FromStr for QueueName {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_kept_and_ignored() {
        let a: QueueName = "Größe".parse().unwrap();
        let b: QueueName = "GRÖßE".parse().unwrap();
        assert_eq!(a, b);
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(a.as_str(), "Größe");
        let hash = |name: &QueueName| {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(&a), hash(&b));
        let (kelvin, ascii): (QueueName, QueueName) =
            ("\u{212a}".parse().unwrap(), "K".parse().unwrap());
        assert_eq!(kelvin, ascii);
        assert_eq!(kelvin.cmp(&ascii), Ordering::Equal);
        assert_eq!(hash(&kelvin), hash(&ascii));
    }

    /// The short cut for plain names decides nothing.
    #[test]
    fn every_character_is_ruled_on_wherever_it_stands() {
        for c in (0..0x180).filter_map(char::from_u32) {
            let wrong = c.is_control() || c == ':' || RESERVED.contains(&c);
            assert_eq!(
                format!("a{c}b:c").parse::<QueueName>().is_ok(),
                !wrong,
                "{c:?}"
            );
            // Between two characters a colon parts queue and subqueue.
            let wrong = wrong && c != ':';
            assert_eq!(
                format!("a{c}b").parse::<QueueName>().is_ok(),
                !wrong,
                "{c:?}"
            );
            let at_end = format!("a{c}").parse::<QueueName>().is_ok();
            assert_eq!(at_end, !wrong && c != ' ' && c != ':', "{c:?}");
        }
    }

    #[test]
    fn rules_of_names() {
        let ok = "x".repeat(124);
        assert!(ok.parse::<QueueName>().is_ok());
        assert_eq!(
            "orders:poison".parse::<QueueName>().unwrap().subqueue(),
            Some("poison")
        );
        for wrong in [
            "", ":", "a:", ":b", "a:b:c", "a/b", "a\nb", " a", "a ", "50%",
        ] {
            assert!(wrong.parse::<QueueName>().is_err(), "{wrong:?}");
        }
        assert!("x".repeat(125).parse::<QueueName>().is_err());
        assert!(
            format!("q:{}", "s".repeat(33))
                .parse::<QueueName>()
                .is_err()
        );
    }
}
