//! How the engine's own things lie in the store: names and values of state; heads of messages
//! are in [`head`].
//!
//! Every value begins with a version byte; all integers are little-endian. What cannot be read is
//! reported and left alone, never guessed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Destination, MessageId, QmId, QueueName, Text};

mod answers;
mod head;

pub(crate) use answers::{Answers, decode_answers, encode_answers};
pub use head::StoredMessage;
pub(crate) use head::{DeadReason, HEAD_BYTES, StoredHead};

const VERSION: u8 = 1;
/// What a stream of the store holds, for tools that look into a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredQueue {
    /// The queue; with the node it waits for when it is an outgoing one.
    pub name: String,
    /// Which of its priorities.
    pub priority: u8,
}

impl StoredQueue {
    /// Looks a stream up in a store's keyed state; `None` when nothing there names it.
    #[must_use]
    pub fn read(
        stream: crate::io::StreamId,
        state: &std::collections::BTreeMap<Bytes, Bytes>,
    ) -> Option<Self> {
        let (number, priority) = crate::engine::Engine::queue_of(stream);
        let name = match QueueRecord::decode(state.get(&QueueRecord::key(number))?)? {
            QueueRecord::Local(settings) => settings.name.to_string(),
            QueueRecord::Outgoing { remote, queue, .. } => format!("{remote}/{queue}"),
        };
        Some(Self { name, priority })
    }
}

/// A durable queue: what its number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueueRecord {
    Local(LocalSettings),
    Outgoing {
        remote: RemoteKey,
        queue: QueueName,
        paused: bool,
        /// The identity under which its messages are minted, when the node had two as it was made;
        /// otherwise the first identity of the store, or the former one.
        own: Option<QmId>,
    },
}

/// Settings of a local queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSettings {
    /// Its name.
    pub name: QueueName,
    /// Whether only transactional messages may enter.
    pub transactional: bool,
    /// Bytes of waiting messages.
    pub quota_bytes: u64,
    /// Number of waiting messages.
    pub quota_messages: u64,
    /// Whether receivers are held back.
    pub paused: bool,
    /// Given back this often, a message goes to the subqueue `poison`; 0 for never.
    pub aborts_max: u32,
}

impl LocalSettings {
    /// Settings of a new queue: not transactional, no quota.
    #[must_use]
    pub const fn new(name: QueueName) -> Self {
        Self {
            name,
            transactional: false,
            quota_bytes: u64::MAX,
            quota_messages: u64::MAX,
            paused: false,
            aborts_max: 0,
        }
    }
}

/// A destination node as it was addressed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteKey {
    /// By identity.
    Id(QmId),
    /// By `host:port`, pinned to an identity at first contact.
    Host(String),
}

impl RemoteKey {
    /// A queue of this node, in the form in which an application writes it as a destination.
    #[must_use]
    pub fn destination(&self, queue: &QueueName) -> String {
        let queue = queue.clone();
        match self {
            Self::Id(qm) => Destination::Id { qm: *qm, queue }.to_string(),
            Self::Host(address) => {
                let split = address.rsplit_once(':');
                let Some((host, port)) = split.and_then(|(h, p)| Some((h, p.parse().ok()?))) else {
                    return format!("qm://{address}/{queue}");
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Destination::Host {
                    qm: None,
                    host: host.to_owned(),
                    port,
                    queue,
                }
                .to_string()
            }
        }
    }
}

impl core::fmt::Display for RemoteKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "qm:{id}"),
            Self::Host(host) => write!(f, "qm://{host}"),
        }
    }
}

impl QueueRecord {
    pub(crate) fn key(number: u32) -> Bytes {
        let mut key = BytesMut::from(&b"q/"[..]);
        key.put_u32(number);
        key.freeze()
    }

    pub(crate) fn number_of(key: &Bytes) -> Option<u32> {
        let mut rest = key.strip_prefix(&b"q/"[..])?;
        let number = rest.try_get_u32().ok()?;
        rest.is_empty().then_some(number)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(VERSION);
        match self {
            Self::Local(s) => {
                to.put_u8(0);
                put_bytes(&mut to, s.name.as_bytes());
                to.put_u8(u8::from(s.transactional) | u8::from(s.paused) << 1);
                to.put_u64_le(s.quota_bytes);
                to.put_u64_le(s.quota_messages);
                to.put_u32_le(s.aborts_max);
            }
            Self::Outgoing {
                remote,
                queue,
                paused,
                own,
            } => {
                to.put_u8(1);
                match remote {
                    RemoteKey::Id(id) => {
                        to.put_u8(0);
                        to.put_slice(id.as_bytes());
                    }
                    RemoteKey::Host(host) => {
                        to.put_u8(1);
                        put_bytes(&mut to, host.as_bytes());
                    }
                }
                put_bytes(&mut to, queue.as_bytes());
                to.put_u8(u8::from(*paused) | u8::from(own.is_some()) << 1);
                if let Some(own) = own {
                    to.put_slice(own.as_bytes());
                }
            }
        }
        to.freeze()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let record = match r.try_get_u8().ok()? {
            0 => {
                let name = QueueName::from_bytes(take_bytes(&mut r)?).ok()?;
                let flags = r.try_get_u8().ok()?;
                Self::Local(LocalSettings {
                    name,
                    transactional: flags & 1 != 0,
                    paused: flags & 2 != 0,
                    quota_bytes: r.try_get_u64_le().ok()?,
                    quota_messages: r.try_get_u64_le().ok()?,
                    aborts_max: r.try_get_u32_le().ok()?,
                })
            }
            1 => {
                let remote = match r.try_get_u8().ok()? {
                    0 => RemoteKey::Id(QmId::from_bytes(take_array(&mut r)?)),
                    1 => RemoteKey::Host(take_text(&mut r)?.as_str().to_owned()),
                    _ => return None,
                };
                let queue = QueueName::from_bytes(take_bytes(&mut r)?).ok()?;
                let flags = r.try_get_u8().ok()?;
                let own = if flags & 2 != 0 {
                    Some(QmId::from_bytes(take_array(&mut r)?))
                } else {
                    None
                };
                Self::Outgoing {
                    remote,
                    queue,
                    paused: flags & 1 != 0,
                    own,
                }
            }
            _ => return None,
        };
        r.is_empty().then_some(record)
    }
}

/// A run of consecutive numbers that became consecutive messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) first_id: MessageId,
}

impl Run {
    pub(crate) fn id_of(&self, number: u64) -> Option<MessageId> {
        if !(self.first..=self.last).contains(&number) {
            return None;
        }
        let MessageId {
            incarnation,
            sequence,
        } = self.first_id;
        Some(MessageId {
            incarnation,
            sequence: sequence.checked_add(number - self.first)?,
        })
    }

    /// Grows by the next number and id when both continue the run.
    pub(crate) fn extend(&mut self, number: u64, id: MessageId) -> bool {
        let next = self.last.checked_add(1);
        if next == Some(number) && id.incarnation == self.first_id.incarnation {
            let at = self.first_id.sequence.checked_add(number - self.first);
            if at == Some(id.sequence) {
                self.last = number;
                return true;
            }
        }
        false
    }
}

pub(crate) fn encode_runs<'a>(
    at_us: u64,
    digest: [u8; 16],
    runs: impl ExactSizeIterator<Item = &'a Run>,
) -> Bytes {
    let mut to = BytesMut::with_capacity(32 + runs.len() * 32);
    to.put_u8(VERSION);
    to.put_u64_le(at_us);
    to.put_slice(&digest);
    for run in runs {
        to.put_u64_le(run.first);
        to.put_u64_le(run.last);
        to.put_u64_le(run.first_id.incarnation.0);
        to.put_u64_le(run.first_id.sequence);
    }
    to.freeze()
}

pub(crate) fn decode_runs(value: &Bytes) -> Option<(u64, [u8; 16], Vec<Run>)> {
    let mut r = value.clone();
    if r.try_get_u8().ok()? != VERSION {
        return None;
    }
    let at_us = r.try_get_u64_le().ok()?;
    let digest = take_array(&mut r)?;
    let mut runs = Vec::with_capacity(r.len() / 32);
    while !r.is_empty() {
        let (first, last) = (r.try_get_u64_le().ok()?, r.try_get_u64_le().ok()?);
        let incarnation = qm_wire::Incarnation(r.try_get_u64_le().ok()?);
        let sequence = r.try_get_u64_le().ok()?;
        runs.push(Run {
            first,
            last,
            first_id: MessageId {
                incarnation,
                sequence,
            },
        });
    }
    Some((at_us, digest, runs))
}

pub(crate) fn prefixed(prefix: &[u8], rest: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(prefix.len() + rest.len());
    key.put_slice(prefix);
    key.put_slice(rest);
    key.freeze()
}

pub(crate) fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("names in state are far below 64 KiB");
    to.put_u16_le(len);
    to.put_slice(bytes);
}

pub(crate) fn take_bytes(from: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(from.try_get_u16_le().ok()?);
    (from.len() >= len).then(|| from.split_to(len))
}

pub(crate) fn take_text(from: &mut Bytes) -> Option<Text> {
    Text::from_utf8(take_bytes(from)?, "text").ok()
}

pub(crate) fn take_array<const N: usize>(from: &mut Bytes) -> Option<[u8; N]> {
    let array = *from.first_chunk::<N>()?;
    from.advance(N);
    Some(array)
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        for record in [
            QueueRecord::Local(LocalSettings::new("q".parse().unwrap())),
            QueueRecord::Outgoing {
                remote: RemoteKey::Host("h:1801".to_owned()),
                queue: "q".parse().unwrap(),
                paused: true,
                own: None,
            },
            QueueRecord::Outgoing {
                remote: RemoteKey::Host("h:1801".to_owned()),
                queue: "q".parse().unwrap(),
                paused: true,
                own: Some(QmId::from_bytes([7; 16])),
            },
        ] {
            assert_eq!(QueueRecord::decode(&record.encode()), Some(record));
        }
        assert_eq!(QueueRecord::number_of(&QueueRecord::key(77)), Some(77));
    }

    #[test]
    fn a_run_grows_only_while_numbers_and_ids_continue() {
        let id = |sequence| MessageId {
            incarnation: Incarnation(1),
            sequence,
        };
        let mut run = Run {
            first: 5,
            last: 5,
            first_id: id(10),
        };
        assert!(run.extend(6, id(11)));
        assert!(!run.extend(8, id(13)));
        assert!(!run.extend(7, id(14)));
        assert_eq!(run.id_of(6), Some(id(11)));
        assert_eq!(run.id_of(7), None);
        let value = encode_runs(9, [3; 16], [run].iter());
        assert_eq!(decode_runs(&value), Some((9, [3; 16], vec![run])));
    }
}
