//! Transactional streams: the chain of links in which a sender's messages for one queue stand,
//! what is said about places in it, and a message that left it otherwise than by delivery.

use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};

use crate::ack::{ENTRY_BYTES, put_entry, read_entry};
use crate::codec::{DecodeError, Reader, put_count, put_line, put_short};
use crate::id::{Entry, QmId, Tag};
use crate::limits::{
    ACK_RANGES_MAX, ANSWER_TEXT_BYTES_MAX, ENTRIES_MAX, LEAVES_MAX, QUEUE_NAME_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::queue_name::QueueName;
use crate::siphash::sip_128;
use crate::text::Text;

/// Names a stream: random, drawn when a sender first uses a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

/// Link of a transactional stream: a hash over the message's tag and position, keyed with its
/// predecessor (W-STR-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub [u8; 16]);

/// Where a message stands in its stream (W-STR-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The stream.
    pub stream: StreamId,
    /// 1, 2, 3 … in this stream.
    pub position: u64,
    /// The sender's oldest unsettled position: the receiver forgets no link from here on
    /// (W-STR-4).
    pub low: u64,
    /// The link before this one.
    pub previous: Link,
}

/// A message that left its stream otherwise than by delivery, so that nothing behind it waits for
/// ever (W-STR-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Its place.
    pub place: Place,
    /// The message.
    pub entry: Entry,
    /// Why it left.
    pub outcome: Outcome,
    /// Its destination queue.
    pub queue: QueueName,
}

/// A run of one branch of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The stream.
    pub stream: StreamId,
    /// First position.
    pub first: u64,
    /// Last position.
    pub last: u64,
    /// Link of the last.
    pub link: Link,
}

/// Runs are stored in order (W-STR-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderAck {
    /// Whether they had been stored before.
    pub duplicate: bool,
    /// The runs, 1 to [`ACK_RANGES_MAX`].
    pub runs: Vec<Run>,
}

/// One link of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkAt {
    /// The stream.
    pub stream: StreamId,
    /// Position of the link.
    pub position: u64,
    /// The link.
    pub link: Link,
}

/// Links that were taken as skips (W-STR-7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The links.
    pub links: Vec<LinkAt>,
}

/// The link before a message is not known: where the sender may go on (W-STR-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The stream.
    pub stream: StreamId,
    /// Position and link of the newest of each branch, at most [`LEAVES_MAX`]; none when nothing
    /// of the stream is known.
    pub leaves: Vec<(u64, Link)>,
    /// Its queue.
    pub queue: QueueName,
}

/// A stream stands until an operator decides (W-STR-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The stream.
    pub stream: StreamId,
    /// The position that cannot be taken.
    pub position: u64,
    /// The link before it, which is not known.
    pub previous: Link,
    /// Why.
    pub outcome: Outcome,
    /// One sentence for the other side's operator.
    pub text: Text,
}

impl Link {
    /// The link before position 1 (W-STR-2). The queue's name counts without its case.
    #[must_use]
    pub fn start(sender: &QmId, stream: &StreamId, queue: &QueueName) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"qm-stream");
        hasher.update(sender.as_bytes());
        hasher.update(&stream.0);
        let mut utf8 = [0; 4];
        for c in queue.folded() {
            hasher.update(c.encode_utf8(&mut utf8).as_bytes());
        }
        let mut link = [0; 16];
        hasher.finalize_xof().fill(&mut link);
        Self(link)
    }

    /// The link behind this one, of the message or skip with this tag at this position
    /// (W-STR-2).
    #[must_use]
    pub fn next(&self, tag: Tag, position: u64) -> Self {
        let tag = u64::from_le_bytes(tag.0);
        Self(sip_128(self.0, [tag, position]))
    }
}

impl Place {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_slice(&self.stream.0);
        to.put_u64_le(self.position);
        to.put_u64_le(self.low);
        to.put_slice(&self.previous.0);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId(r.array("stream id")?),
            position: r.u64("position in a stream")?,
            low: r.u64("oldest unsettled position")?,
            previous: Link(r.array("previous link")?),
        })
    }

    /// W-STR-1.
    pub(crate) const fn check(&self) -> Result<(), DecodeError> {
        // A position of 0 leaves no room for low.
        if self.low == 0 || self.low > self.position {
            return Err(DecodeError::Invalid {
                what: "oldest unsettled position",
                value: self.low,
            });
        }
        Ok(())
    }
}

impl Skip {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        self.place.write(to);
        put_entry(to, &self.entry);
        to.put_u16_le(self.outcome.0);
        put_short(to, self.queue.as_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let place = Place::read(r)?;
        place.check()?;
        Ok(Self {
            place,
            entry: read_entry(r)?,
            outcome: Outcome(r.u16("outcome")?),
            queue: QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?,
        })
    }

    /// Its own link, the one the message would have had.
    #[must_use]
    pub fn link(&self) -> Link {
        self.place
            .previous
            .next(self.entry.tag, self.place.position)
    }
}

impl OrderAck {
    pub(crate) fn write(&self, to: &mut BytesMut, runs: &[Run]) {
        to.put_u8(u8::from(self.duplicate));
        put_count(to, runs.len());
        for run in runs {
            to.put_slice(&run.stream.0);
            to.put_u64_le(run.first);
            to.put_u64_le(run.last);
            to.put_slice(&run.link.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let duplicate = r.bool("duplicate flag")?;
        let runs = r.list((1, ACK_RANGES_MAX), 48, "acknowledged runs", |r| {
            let run = Run {
                stream: StreamId(r.array("stream id")?),
                first: r.ordinal("acknowledged run")?,
                last: r.u64("acknowledged run")?,
                link: Link(r.array("link")?),
            };
            // W-STR-6.
            if run.first > run.last {
                return Err(DecodeError::Invalid {
                    what: "acknowledged run",
                    value: run.first,
                });
            }
            Ok(run)
        })?;
        Ok(Self { duplicate, runs })
    }
}

impl Skipped {
    pub(crate) fn write(to: &mut BytesMut, links: &[LinkAt]) {
        put_count(to, links.len());
        for at in links {
            to.put_slice(&at.stream.0);
            to.put_u64_le(at.position);
            to.put_slice(&at.link.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let links = r.list((1, ENTRIES_MAX), 40, "skipped links", |r| {
            Ok(LinkAt {
                stream: StreamId(r.array("stream id")?),
                position: r.ordinal("position in a stream")?,
                link: Link(r.array("link")?),
            })
        })?;
        Ok(Self { links })
    }
}

impl Need {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_slice(&self.stream.0);
        let leaves = self.leaves.get(..LEAVES_MAX).unwrap_or(&self.leaves);
        put_count(to, leaves.len());
        for (position, link) in leaves {
            to.put_u64_le(*position);
            to.put_slice(&link.0);
        }
        put_short(to, self.queue.as_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId(r.array("stream id")?),
            leaves: r.list((0, LEAVES_MAX), 24, "leaves of a stream", |r| {
                let position = r.ordinal("position in a stream")?;
                Ok((position, Link(r.array("link")?)))
            })?,
            queue: QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?,
        })
    }
}

impl Hold {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_slice(&self.stream.0);
        to.put_u64_le(self.position);
        to.put_slice(&self.previous.0);
        to.put_u16_le(self.outcome.0);
        put_line(to, &self.text, ANSWER_TEXT_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: StreamId(r.array("stream id")?),
            position: r.ordinal("position in a stream")?,
            previous: Link(r.array("previous link")?),
            outcome: Outcome(r.u16("outcome")?),
            text: r.line(ANSWER_TEXT_BYTES_MAX, "hold text")?,
        })
    }
}

const _: () = assert!(ENTRY_BYTES == 24, "SPEC.md, section 8");

#[cfg(test)]
mod tests {
    use super::*;

    fn start(queue: &str) -> Link {
        let queue = queue.parse().unwrap();
        Link::start(&QmId::from_bytes([1; 16]), &StreamId([2; 16]), &queue)
    }

    /// W-STR-2: two copies that go on from one link part as soon as their messages differ.
    #[test]
    fn links_depend_on_all_that_came_before() {
        let (tag, other) = (Tag([3; 8]), Tag([4; 8]));
        let one = start("Orders").next(tag, 1);
        assert_eq!(one, start("orders").next(tag, 1), "case does not count");
        assert_ne!(one, start("order").next(tag, 1));
        assert_ne!(one, start("orders").next(other, 1));
        assert_ne!(one, start("orders").next(tag, 2));
        assert_ne!(
            one.next(other, 2),
            start("orders").next(other, 1).next(other, 2)
        );
    }
}
