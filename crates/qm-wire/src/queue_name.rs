//! Names of queues: case kept, case ignored in comparison, as in MSMQ.

use alloc::string::String;
use core::borrow::Borrow;
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

/// [`is_simple`] of every byte: a look is cheaper than the comparisons.
const SIMPLE: [bool; 256] = {
    let mut simple = [false; 256];
    let mut rest: &mut [bool] = &mut simple;
    let mut byte = 0_u8;
    while let Some((this, others)) = rest.split_first_mut() {
        *this = is_simple(byte);
        byte = byte.wrapping_add(1);
        rest = others;
    }
    simple
};

/// Every rule of queue names.
#[inline]
pub(crate) fn check_name(bytes: &[u8]) -> Result<(), DecodeError> {
    let ends = (bytes.first(), bytes.last());
    let is_simple = bytes.len() <= QUEUE_NAME_CHARS_MAX
        && bytes
            .iter()
            .all(|byte| SIMPLE.get(usize::from(*byte)) == Some(&true))
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

    /// The queue of which this is a subqueue; itself when it is none.
    #[must_use]
    pub fn without_subqueue(&self) -> Self {
        let bytes = self.0.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        // What stands before the colon follows the rules as well.
        Self::trusted(bytes.slice(..colon.unwrap_or(bytes.len())))
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

    /// The name, borrowed.
    #[must_use]
    pub fn as_view(&self) -> QueueNameView<'_> {
        QueueNameView(self.as_bytes())
    }

    pub(crate) fn folded(&self) -> impl Iterator<Item = char> + '_ {
        folded(self.as_bytes())
    }
}

/// The name of a queue borrowed from an encoded message, checked; compared as [`QueueName`]s are.
///
/// A map of queue names is asked with it by way of [`AsQueueName`], without a name of its own:
///
/// ```
/// # use bytes::BytesMut;
/// # use qm_wire::*;
/// # use std::collections::BTreeMap;
/// # let id = MessageId { incarnation: Incarnation(1), sequence: 1 };
/// # let queue = "ORDERS".parse().unwrap();
/// # let envelope =
/// #     Envelope::new(QmId::from_bytes([1; 16]), id, Salt([2; 16]), Class::Express, queue);
/// # let mut encoded = BytesMut::new();
/// # envelope.encode(&mut encoded).unwrap();
/// let queues = BTreeMap::from([("orders".parse::<QueueName>().unwrap(), 7)]);
/// let view = Envelope::view(&encoded).unwrap();
/// assert_eq!(queues.get(&view.queue as &dyn AsQueueName), Some(&7));
/// ```
#[derive(Clone, Copy)]
pub struct QueueNameView<'a>(&'a [u8]);

impl<'a> QueueNameView<'a> {
    /// Takes bytes that were checked as a queue name before.
    pub(crate) const fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The name as it was given; validated as UTF-8 once more at each call.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        core::str::from_utf8(self.0).unwrap_or_default()
    }

    /// The bytes as they travel.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether the name is the system's (`dead$`, `journal$`).
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.contains(&b'$')
    }

    /// The name to be kept: it shares `buffer` if it lies there, and is copied otherwise.
    #[must_use]
    pub fn kept_in(&self, buffer: &Bytes) -> QueueName {
        let (all, this) = (buffer.as_ptr_range(), self.0.as_ptr_range());
        let lies_there = all.start <= this.start && this.end <= all.end;
        QueueName::trusted(if lies_there {
            buffer.slice_ref(self.0)
        } else {
            Bytes::copy_from_slice(self.0)
        })
    }
}

/// A queue name, owned or borrowed: what a map of queue names is asked with.
pub trait AsQueueName {
    /// The name.
    fn queue_name(&self) -> QueueNameView<'_>;
}

impl AsQueueName for QueueName {
    fn queue_name(&self) -> QueueNameView<'_> {
        self.as_view()
    }
}

impl AsQueueName for QueueNameView<'_> {
    fn queue_name(&self) -> QueueNameView<'_> {
        *self
    }
}

impl<'a> Borrow<dyn AsQueueName + 'a> for QueueName {
    fn borrow(&self) -> &(dyn AsQueueName + 'a) {
        self
    }
}

/// The characters of a checked name in lower case.
fn folded(bytes: &[u8]) -> impl Iterator<Item = char> + '_ {
    let name = core::str::from_utf8(bytes).unwrap_or_default();
    name.chars().flat_map(char::to_lowercase)
}

impl PartialEq for QueueNameView<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.0.is_ascii() && other.0.is_ascii() {
            return self.0.eq_ignore_ascii_case(other.0);
        }
        self.0 == other.0 || folded(self.0).eq(folded(other.0))
    }
}

impl Ord for QueueNameView<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.0.is_ascii() && other.0.is_ascii() {
            let lower = |byte: &u8| byte.to_ascii_lowercase();
            return self.0.iter().map(lower).cmp(other.0.iter().map(lower));
        }
        if self.0 == other.0 {
            return Ordering::Equal;
        }
        folded(self.0).cmp(folded(other.0))
    }
}

impl Hash for QueueNameView<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One write of the folded bytes, whichever way they were folded: an ASCII name can equal
        // one with a letter such as the Kelvin sign.
        let mut ascii = [0_u8; QUEUE_NAME_CHARS_MAX + 1 + SUBQUEUE_NAME_CHARS_MAX];
        match ascii.get_mut(..self.0.len()) {
            Some(lower) if self.0.is_ascii() => {
                lower.copy_from_slice(self.0);
                lower.make_ascii_lowercase();
                state.write(lower);
            }
            _ => state.write(folded(self.0).collect::<String>().as_bytes()),
        }
        state.write_u8(0xff);
    }
}

impl fmt::Display for QueueNameView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for QueueNameView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for QueueNameView<'_> {
    fn eq(&self, other: &str) -> bool {
        *self == QueueNameView(other.as_bytes())
    }
}

impl PartialEq<&str> for QueueNameView<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == QueueNameView(other.as_bytes())
    }
}

/// Equality, order and hash as those of what has the name, which a map relies on.
macro_rules! compared_by_name {
    ($type:ty, $name:ident) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.$name() == other.$name()
            }
        }

        impl Eq for $type {}

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                self.$name().cmp(&other.$name())
            }
        }

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.$name().hash(state);
            }
        }
    };
}

compared_by_name!(QueueName, as_view);
compared_by_name!(dyn AsQueueName + '_, queue_name);

impl Eq for QueueNameView<'_> {}

impl PartialOrd for QueueNameView<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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

    /// Owned or borrowed, ASCII or not: one equality, one order, one hash (W-QUE-4).
    #[test]
    fn a_borrowed_name_finds_what_the_owned_one_does() {
        let names = [
            "a",
            "B",
            "aB",
            "Ab",
            "b\u{e4}",
            "B\u{c4}",
            "k",
            "\u{212a}",
            "k\u{212a}",
            "z",
        ];
        let owned: Vec<QueueName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let hash = |name: &dyn AsQueueName| {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            name.hash(&mut hasher);
            hasher.finish()
        };
        for a in &owned {
            for b in &owned {
                let slow = a.folded().cmp(b.folded());
                assert_eq!(a.cmp(b), slow, "{a} {b}");
                assert_eq!(a.as_view().cmp(&b.as_view()), slow);
                assert_eq!(a == b, slow.is_eq());
                assert_eq!(a.as_view() == b.as_view(), slow.is_eq());
                assert_eq!(hash(a) == hash(&b.as_view()), slow.is_eq());
            }
        }
        let tree: std::collections::BTreeMap<QueueName, usize> =
            owned.iter().cloned().zip(0..).collect();
        let table: std::collections::HashMap<QueueName, usize> =
            owned.iter().cloned().zip(0..).collect();
        for name in &owned {
            let view = name.as_view();
            let shared = view.kept_in(name.as_bytes());
            assert_eq!(shared.as_bytes().as_ptr(), name.as_bytes().as_ptr());
            assert_eq!(view.kept_in(&Bytes::from_static(b"else")), *name);
            assert_eq!(tree.get(&view as &dyn AsQueueName), tree.get(name));
            assert_eq!(table.get(&view as &dyn AsQueueName), table.get(name));
        }
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
