//! Destination names: where a message shall go, as people write it.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::codec::DecodeError;
use crate::id::QmId;
use crate::limits::NAME_BYTES_MAX;
use crate::queue_name::QueueName;

/// Where a message shall go.
///
/// | written | means |
/// |---|---|
/// | `queue` | a queue of this node |
/// | `peer/queue` | by the address book |
/// | `qm://host[:port]/queue` | by host name or IP address, IPv6 in brackets |
/// | `qm://<QMId>@host[:port]/queue` | the same, and only if this queue manager answers there |
/// | `qm:<QMId>/queue` | a queue manager wherever it is |
///
/// `queue` may be `queue:subqueue`. `%` and two hexadecimal digits stand for a byte that may not
/// stand there itself (RFC 3986, section 2.1). As input only, MSMQ's direct format names are
/// understood, with or without `FormatName:` in front: `DIRECT=TCP:ip\private$\queue`,
/// `DIRECT=OS:host\private$\queue;subqueue`, where `.` is this node.
///
/// What is printed is read back as the same value:
///
/// ```
/// use qm_wire::Destination;
/// let to: Destination = r"FormatName:DIRECT=OS:Hub\private$\till 3;poison".parse().unwrap();
/// assert_eq!(to.to_string(), "qm://hub/till%203:poison");
/// assert_eq!(to.to_string().parse(), Ok(to));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// A queue of this node.
    Local {
        /// The queue.
        queue: QueueName,
    },
    /// A queue of a node in the address book.
    Peer {
        /// Its name there.
        peer: String,
        /// The queue.
        queue: QueueName,
    },
    /// A queue of the node at an address.
    Host {
        /// Who must answer there; `None` for whoever was met there first.
        qm: Option<QmId>,
        /// Host name or IP address, in lower case and without brackets.
        host: String,
        /// UDP port.
        port: u16,
        /// The queue.
        queue: QueueName,
    },
    /// A queue of a known queue manager, wherever it is.
    Id {
        /// The queue manager.
        qm: QmId,
        /// The queue.
        queue: QueueName,
    },
}

impl Destination {
    /// The port of a host named without one: that of MSMQ, over UDP.
    pub const PORT_DEFAULT: u16 = 1801;

    /// The queue on the destination node.
    #[must_use]
    pub const fn queue(&self) -> &QueueName {
        match self {
            Self::Local { queue }
            | Self::Peer { queue, .. }
            | Self::Host { queue, .. }
            | Self::Id { queue, .. } => queue,
        }
    }
}

/// The forms an error repeats.
const FORMS: &str = "write a destination as `queue`, `peer/queue`, `qm://host[:port]/queue`, \
                     `qm://<QMId>@host[:port]/queue` or `qm:<QMId>/queue`";

/// Why a text is not a destination. Offsets are bytes into the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Nothing was given.
    #[error("the destination is empty; {FORMS}")]
    Empty,
    /// The text ends before a queue is named.
    #[error("no queue is named at byte {offset} of the destination; {FORMS}")]
    MissingQueue {
        /// Where the queue was expected.
        offset: usize,
    },
    /// The queue's name breaks a rule.
    #[error("the queue name at byte {offset} of the destination is wrong: {reason}; {FORMS}")]
    Queue {
        /// Where.
        offset: usize,
        /// Which rule.
        reason: Box<str>,
    },
    /// The peer's name breaks a rule.
    #[error("the peer name at byte {offset} of the destination is wrong: {reason}; {FORMS}")]
    Peer {
        /// Where.
        offset: usize,
        /// Which rule.
        reason: &'static str,
    },
    /// The host breaks a rule.
    #[error("the host at byte {offset} of the destination is wrong: {reason}; {FORMS}")]
    Host {
        /// Where.
        offset: usize,
        /// Which rule.
        reason: &'static str,
    },
    /// The port is no number from 1 to 65535.
    #[error("the port at byte {offset} of the destination is no number from 1 to 65535; {FORMS}")]
    Port {
        /// Where.
        offset: usize,
    },
    /// The identity is no QMId.
    #[error(
        "there is no QMId at byte {offset} of the destination; copy it as `qm-node identity show` \
         or `qm-node peers list` prints it; {FORMS}"
    )]
    QmId {
        /// Where.
        offset: usize,
    },
    /// A percent sign is not followed by two hexadecimal digits, or what they say is not UTF-8.
    #[error(
        "the escape at byte {offset} of the destination is wrong: `%` takes two hexadecimal \
         digits, and the bytes must be UTF-8; {FORMS}"
    )]
    Escape {
        /// Where.
        offset: usize,
    },
    /// A URL of another scheme.
    #[error("the destination is a URL, but not one that begins with `qm://`; {FORMS}")]
    Scheme,
    /// A name of MSMQ's that has no counterpart.
    #[error(
        "the MSMQ name is not understood at byte {offset}: {reason}; of MSMQ's names \
         `DIRECT=TCP:ip\\private$\\queue` and `DIRECT=OS:host\\private$\\queue` are accepted; \
         {FORMS}"
    )]
    Msmq {
        /// Where.
        offset: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

impl AddressError {
    /// Where the mistake is, in bytes; `None` when the text as a whole is none.
    #[must_use]
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Empty | Self::Scheme => None,
            Self::MissingQueue { offset }
            | Self::Queue { offset, .. }
            | Self::Peer { offset, .. }
            | Self::Host { offset, .. }
            | Self::Port { offset }
            | Self::QmId { offset }
            | Self::Escape { offset }
            | Self::Msmq { offset, .. } => Some(*offset),
        }
    }
}

impl FromStr for Destination {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let whole = Part { text, offset: 0 };
        if is_msmq(text) {
            return parse_msmq(whole);
        }
        if let Some(rest) = whole.after_prefix("qm://") {
            return parse_url(rest);
        }
        if text.contains("://") {
            return Err(AddressError::Scheme);
        }
        if let Some(offset) = text.find('\\') {
            let reason = "a path with backslashes needs `DIRECT=OS:` in front";
            return Err(AddressError::Msmq { offset, reason });
        }
        if let Some(rest) = whole.after_prefix("qm:") {
            if let Some((qm, queue)) = rest.split_at_byte('/') {
                let (qm, queue) = (parse_qm_id(qm)?, parse_queue(queue)?);
                return Ok(Self::Id { qm, queue });
            }
            // Too long for a subqueue, so nothing valid is refused here.
            if parse_qm_id(rest).is_ok() {
                let offset = text.len();
                return Err(AddressError::MissingQueue { offset });
            }
        }
        match whole.split_at_byte('/') {
            Some((peer, queue)) => {
                let (peer, queue) = (parse_peer(peer)?, parse_queue(queue)?);
                Ok(Self::Peer { peer, queue })
            }
            None => parse_queue(whole).map(|queue| Self::Local { queue }),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { queue } => write_shielded(f, queue.as_str(), &[]),
            Self::Peer { peer, queue } => {
                write_shielded(f, peer, PEER_RESERVED)?;
                write!(f, "/{queue}")
            }
            Self::Host {
                qm,
                host,
                port,
                queue,
            } => {
                f.write_str("qm://")?;
                if let Some(qm) = qm {
                    write!(f, "{qm}@")?;
                }
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(host)?;
                }
                if *port != Self::PORT_DEFAULT {
                    write!(f, ":{port}")?;
                }
                f.write_char('/')?;
                write_escaped(f, queue.as_str(), URL_RESERVED)
            }
            Self::Id { qm, queue } => {
                write!(f, "qm:{qm}/")?;
                write_escaped(f, queue.as_str(), URL_RESERVED)
            }
        }
    }
}

/// What a queue's name may contain but the path of a URL may not (RFC 3986, section 3.3). Letters
/// outside ASCII stay as they are (RFC 3987), so that a name remains readable and within its
/// limit.
const URL_RESERVED: &[char] = &[' ', '[', ']', '^', '`', '{', '}'];

/// What separates in a name with a peer.
const PEER_RESERVED: &[char] = &['/', '\\', ':', '%'];

/// Prefixes of MSMQ's names.
const MSMQ_PREFIXES: [&str; 2] = ["formatname:", "direct="];

fn is_msmq(text: &str) -> bool {
    MSMQ_PREFIXES.iter().any(|p| prefix_len(text, p).is_some())
}

/// Length of `prefix` if `text` begins with it, in whatever case.
fn prefix_len(text: &str, prefix: &str) -> Option<usize> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(prefix.len())
}

fn write_escape(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    let mut utf8 = [0; 4];
    for byte in c.encode_utf8(&mut utf8).bytes() {
        write!(f, "%{byte:02X}")?;
    }
    Ok(())
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str, reserved: &[char]) -> fmt::Result {
    for c in text.chars() {
        if reserved.contains(&c) {
            write_escape(f, c)?;
        } else {
            f.write_char(c)?;
        }
    }
    Ok(())
}

/// Writes a name that stands first, so that it is not taken for one of MSMQ's.
fn write_shielded(f: &mut fmt::Formatter<'_>, text: &str, reserved: &[char]) -> fmt::Result {
    let mut rest = text.chars();
    if is_msmq(text)
        && let Some(first) = rest.next()
    {
        write_escape(f, first)?;
    }
    write_escaped(f, rest.as_str(), reserved)
}

/// A part of the text that knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Part<'a> {
    fn after_prefix(self, prefix: &str) -> Option<Self> {
        let n = prefix_len(self.text, prefix)?;
        Some(self.split_at(n).1)
    }

    /// Both sides of the first `separator`, an ASCII character.
    fn split_at_byte(self, separator: char) -> Option<(Self, Self)> {
        self.split_around(self.text.find(separator)?)
    }

    /// Both sides of the ASCII character at `at`.
    fn split_around(self, at: usize) -> Option<(Self, Self)> {
        let (left, right) = self.split_at(at);
        let (_separator, right) = right.split_at(1);
        Some((left, right))
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (left, right) = self.text.split_at_checked(at).unwrap_or((self.text, ""));
        let offset = self.offset.saturating_add(left.len());
        let left = Self { text: left, ..self };
        (
            left,
            Part {
                text: right,
                offset,
            },
        )
    }

    const fn end(self) -> usize {
        self.offset.saturating_add(self.text.len())
    }

    /// The text with its escapes resolved.
    fn unescape(self) -> Result<Cow<'a, str>, AddressError> {
        if !self.text.contains('%') {
            return Ok(Cow::Borrowed(self.text));
        }
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let skipped = self.text.len().saturating_sub(rest.len());
            if *first == b'%' {
                let offset = self.offset.saturating_add(skipped);
                let (byte, after) = parse_escape(after).ok_or(AddressError::Escape { offset })?;
                bytes.push(byte);
                rest = after;
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        String::from_utf8(bytes)
            .map(Cow::Owned)
            .map_err(|_not_utf8| {
                let at = self.text.find('%').unwrap_or_default();
                let offset = self.offset.saturating_add(at);
                AddressError::Escape { offset }
            })
    }
}

fn parse_escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<2>()?;
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    let byte = high?.checked_mul(16)?.checked_add(low?)?;
    Some((u8::try_from(byte).ok()?, rest))
}

fn parse_queue(part: Part<'_>) -> Result<QueueName, AddressError> {
    if part.text.is_empty() {
        let offset = part.offset;
        return Err(AddressError::MissingQueue { offset });
    }
    let name = part.unescape()?;
    queue_from(&name, part)
}

/// Checks a name that came from `part`.
fn queue_from(name: &str, part: Part<'_>) -> Result<QueueName, AddressError> {
    name.parse::<QueueName>().map_err(|error| {
        let mut at = 0;
        let reason = match error {
            DecodeError::Invalid { value: 0, .. } => "a part of it is empty".into(),
            DecodeError::Invalid { value: 0x20, .. } => {
                "a space begins or ends a part of it".into()
            }
            DecodeError::Invalid { value, .. } => {
                let c = u32::try_from(value).ok().and_then(char::from_u32);
                let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
                // The last one: of two colons the second is wrong.
                at = part.text.rfind(c).unwrap_or(0);
                format!("{c:?} may not stand in it").into()
            }
            DecodeError::OverLimit { limit, .. } => {
                format!("a part of it is longer than {limit} characters").into()
            }
            DecodeError::Text { .. } => "it contains a control character".into(),
            other => other.to_string().into(),
        };
        let offset = part.offset.saturating_add(at);
        AddressError::Queue { offset, reason }
    })
}

fn parse_peer(part: Part<'_>) -> Result<String, AddressError> {
    let wrong = |at: usize, reason| AddressError::Peer {
        offset: part.offset.saturating_add(at),
        reason,
    };
    if let Some(at) = part.text.find(':') {
        return Err(wrong(at, "`:` may not stand in it, write `%3A`"));
    }
    let peer = part.unescape()?;
    if peer.is_empty() {
        return Err(wrong(0, "it is empty"));
    }
    if peer.len() > NAME_BYTES_MAX {
        return Err(wrong(0, "it is longer than 255 bytes"));
    }
    if peer.chars().any(char::is_control) {
        return Err(wrong(0, "it contains a control character"));
    }
    if peer.starts_with(' ') || peer.ends_with(' ') {
        return Err(wrong(0, "it begins or ends with a space"));
    }
    Ok(peer.into_owned())
}

fn parse_qm_id(part: Part<'_>) -> Result<QmId, AddressError> {
    const HYPHENATED_CHARS: usize = 36;
    let id = part.text.parse().ok();
    id.filter(|_| part.text.len() == HYPHENATED_CHARS)
        .ok_or(AddressError::QmId {
            offset: part.offset,
        })
}

/// What follows `qm://`.
fn parse_url(rest: Part<'_>) -> Result<Destination, AddressError> {
    let offset = rest.end();
    let missing = AddressError::MissingQueue { offset };
    let (authority, queue) = rest.split_at_byte('/').ok_or(missing)?;
    let (qm, address) = match authority.split_at_byte('@') {
        Some((qm, address)) => (Some(parse_qm_id(qm)?), address),
        None => (None, authority),
    };
    let (host, port) = match address.after_prefix("[") {
        Some(inside) => {
            let (host, after) = inside.split_at_byte(']').ok_or(AddressError::Host {
                offset: address.offset,
                reason: "the bracket is not closed",
            })?;
            let host = host.text.parse::<Ipv6Addr>().map_err(|_reason| {
                let reason = "what stands in brackets is no IPv6 address";
                AddressError::Host {
                    offset: host.offset,
                    reason,
                }
            })?;
            let port = match after.after_prefix(":") {
                Some(port) => Some(port),
                None if after.text.is_empty() => None,
                None => {
                    let reason = "only `:port` may follow the bracket";
                    return Err(AddressError::Host {
                        offset: after.offset,
                        reason,
                    });
                }
            };
            (host.to_string(), port)
        }
        None => match address.split_at_byte(':') {
            Some((_, port)) if port.text.contains(':') => {
                return Err(AddressError::Host {
                    offset: address.offset,
                    reason: "an IPv6 address must stand in brackets",
                });
            }
            Some((host, port)) => (parse_host(host)?, Some(port)),
            None => (parse_host(address)?, None),
        },
    };
    let port = port.map_or(Ok(Destination::PORT_DEFAULT), parse_port)?;
    let queue = parse_queue(queue)?;
    Ok(Destination::Host {
        qm,
        host,
        port,
        queue,
    })
}

fn parse_port(part: Part<'_>) -> Result<u16, AddressError> {
    let digits = part.text.bytes().all(|b| b.is_ascii_digit());
    let port = part.text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or(AddressError::Port {
        offset: part.offset,
    })
}

/// A host name (RFC 1123, section 2.1, and the underscore of Windows names) or an IPv4 address.
fn parse_host(part: Part<'_>) -> Result<String, AddressError> {
    let wrong = |at: usize, reason| AddressError::Host {
        offset: part.offset.saturating_add(at),
        reason,
    };
    let host = part.text;
    if host.is_empty() {
        return Err(wrong(0, "it is empty"));
    }
    if host.len() > 253 {
        return Err(wrong(0, "it is longer than 253 characters"));
    }
    let strange = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if let Some(at) = host.find(strange) {
        let reason = if host.is_ascii() {
            "only letters, digits, `-`, `_` and `.` may stand in it"
        } else {
            "an international name is written in its ASCII form, `xn--…`"
        };
        return Err(wrong(at, reason));
    }
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    if labels
        .clone()
        .any(|label| label.is_empty() || label.len() > 63)
    {
        return Err(wrong(0, "between its dots stand 1 to 63 characters"));
    }
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    // No top-level domain is a number, so this was meant to be an address.
    if labels.next_back().is_some_and(number) && host.parse::<Ipv4Addr>().is_err() {
        return Err(wrong(0, "it is no IPv4 address"));
    }
    Ok(host.to_ascii_lowercase())
}

/// `[FormatName:]DIRECT=TCP:…` and `…OS:…`.
fn parse_msmq(whole: Part<'_>) -> Result<Destination, AddressError> {
    let wrong = |part: Part<'_>, reason| AddressError::Msmq {
        offset: part.offset,
        reason,
    };
    let name = whole.after_prefix("formatname:").unwrap_or(whole);
    let Some(direct) = name.after_prefix("direct=") else {
        return Err(wrong(name, "only `DIRECT=` names a machine and a queue"));
    };
    let tcp = direct.after_prefix("tcp:");
    let Some(path) = tcp.or_else(|| direct.after_prefix("os:")) else {
        return Err(wrong(direct, "only `TCP:` and `OS:` are understood"));
    };
    let offset = path.end();
    let missing = AddressError::MissingQueue { offset };
    let (host, queue) = path.split_at_byte('\\').ok_or(missing)?;
    let queue = queue.after_prefix("private$\\").unwrap_or(queue);
    let (name, subqueue) = match queue.split_at_byte(';') {
        Some((name, subqueue)) => (name, Some(subqueue)),
        None => (queue, None),
    };
    let system = ["journal", "deadletter", "deadxact", "xactonly"];
    if let Some(subqueue) = subqueue
        && system.iter().any(|s| subqueue.text.eq_ignore_ascii_case(s))
    {
        return Err(wrong(
            subqueue,
            "a machine's system queues take no messages",
        ));
    }
    let queue = match subqueue {
        None => queue_from(name.text, name)?,
        Some(subqueue) => queue_from(&format!("{}:{}", name.text, subqueue.text), name)?,
    };
    if tcp.is_none() && host.text == "." {
        return Ok(Destination::Local { queue });
    }
    let host = if tcp.is_some() {
        let bare = host
            .text
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'));
        let address = bare.unwrap_or(host.text).parse::<IpAddr>();
        let reason = "behind `TCP:` stands an IP address";
        address.map_err(|_reason| wrong(host, reason))?.to_string()
    } else {
        parse_host(host)?
    };
    Ok(Destination::Host {
        qm: None,
        host,
        port: Destination::PORT_DEFAULT,
        queue,
    })
}

#[cfg(test)]
mod tests;
