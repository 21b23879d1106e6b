//! What a node says to an application.

use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use super::request::{check_ranges, put_ranges, read_ranges};
use crate::codec::{DecodeError, Reader, over, put_count, put_line, put_short};
use crate::data::OpenError;
use crate::envelope::Envelope;
use crate::frame::{Cut, FrameKind, put_frame};
use crate::id::{Incarnation, MessageId, QmId, Tag};
use crate::limits::{
    ACK_RANGES_MAX, ADMIN_BYTES_MAX, ANSWER_TEXT_BYTES_MAX, ENVELOPE_BYTES_MAX, FATE_RUNS_MAX,
    NAME_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::text::Text;

/// First frame of a node on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHello {
    /// Version of the local protocol chosen for the connection.
    pub protocol: u16,
    /// The queue manager.
    pub node: QmId,
    /// Its present life. Another one than before means that it was restarted: what it followed
    /// for this client is forgotten, what it accepted durably is not.
    pub incarnation: Incarnation,
    /// Its display name.
    pub name: Text,
    /// Largest message body it accepts.
    pub body_bytes_max: u32,
    /// Puts that may be unanswered, at least 1.
    pub window_messages: u32,
    /// Bytes of put frames that may be unanswered; one larger put may go alone.
    pub window_bytes: u32,
}

/// Puts were accepted to their class: in memory for express, on disk for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Client sequence of the first put of the run.
    pub first_sequence: u64,
    /// Length of the run, at least 1.
    pub count: u32,
    /// Id of the first message; those of the run are consecutive.
    pub first_id: MessageId,
    /// Whether this was said before, about an earlier transmission.
    pub repeated: bool,
}

/// A put was refused; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Client sequence of the put.
    pub sequence: u64,
    /// Why.
    pub outcome: Outcome,
    /// One sentence for people.
    pub text: Text,
}

/// What became of accepted messages that the application asked to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// First and last client sequence of each run, and what became of its messages.
    pub runs: Vec<(u64, u64, Outcome)>,
}

/// A message. The body travels last and outside the frame's checksum; the tag covers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The receive request it answers.
    pub request: u64,
    /// Its lookup id: unique in its queue, rising in the order of arrival.
    pub lookup: u64,
    /// Wall-clock time of arrival, microseconds since the Unix epoch; for people only.
    pub arrived_at_us: u64,
    /// How often it was handed out before and came back.
    pub abort_count: u32,
    /// What is left of the time to be received, milliseconds or
    /// [`INFINITE_MS`](crate::INFINITE_MS).
    pub be_received_left_ms: u64,
    /// Its tag as its sender stored it.
    pub tag: Tag,
    /// The encoded envelope, see [`Envelope::decode`].
    pub envelope: Bytes,
    /// The body.
    pub body: Bytes,
}

/// A receive request is answered; no further delivery of it follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveDone {
    /// Number of the request.
    pub request: u64,
    /// Messages that were delivered.
    pub messages: u32,
    /// `None` when all went well, also when the time to wait ran out.
    pub outcome: Option<Outcome>,
    /// One sentence for people, empty when all went well.
    pub text: Text,
}

/// A settle request is done, to the class of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Number of the request.
    pub request: u64,
    /// Messages that were settled; fewer than named when a lease was lost.
    pub messages: u32,
    /// `None` when all went well.
    pub outcome: Option<Outcome>,
    /// One sentence for people, empty when all went well.
    pub text: Text,
    /// Named lookup ids that were not leased to this connection any more, so that nobody takes
    /// them for settled: ranges as in [`Settle::ranges`](super::Settle::ranges), none when all
    /// went well. What exceeds [`ACK_RANGES_MAX`] is not said, so an application names at most
    /// that many messages at once.
    pub lost: Vec<(u64, u64)>,
}

/// The answer to an administrative request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminReply {
    /// Number of the request.
    pub request: u64,
    /// Whether it was done.
    pub ok: bool,
    /// The answer, or what went wrong, in JSON.
    pub json: Bytes,
}

/// Rejects the sequence 0, which no put carries.
fn sequence(value: u64) -> Result<u64, DecodeError> {
    if value == 0 {
        return Err(DecodeError::Invalid {
            what: "client sequence",
            value,
        });
    }
    Ok(value)
}

/// How a request ended: messages, optional outcome, text.
fn put_end(to: &mut BytesMut, messages: u32, outcome: Option<Outcome>, text: &Text) {
    to.put_u32_le(messages);
    put_why(to, outcome, text);
}

/// An optional outcome and the sentence for people.
pub(super) fn put_why(to: &mut BytesMut, outcome: Option<Outcome>, text: &Text) {
    to.put_u8(u8::from(outcome.is_some()));
    if let Some(outcome) = outcome {
        to.put_u16_le(outcome.0);
    }
    put_line(to, text, ANSWER_TEXT_BYTES_MAX);
}

fn read_end(r: &mut Reader<'_>) -> Result<(u32, Option<Outcome>, Text), DecodeError> {
    let messages = r.u32("number of messages")?;
    let (outcome, text) = read_why(r)?;
    Ok((messages, outcome, text))
}

pub(super) fn read_why(r: &mut Reader<'_>) -> Result<(Option<Outcome>, Text), DecodeError> {
    let outcome = if r.bool("outcome present")? {
        Some(Outcome(r.u16("outcome")?))
    } else {
        None
    };
    Ok((outcome, r.line(ANSWER_TEXT_BYTES_MAX, "answer text")?))
}

impl NodeHello {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u16_le(self.protocol);
        to.put_slice(self.node.as_bytes());
        to.put_u64_le(self.incarnation.0);
        to.put_u32_le(self.body_bytes_max);
        to.put_u32_le(self.window_messages);
        to.put_u32_le(self.window_bytes);
        put_line(to, &self.name, NAME_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let hello = Self {
            protocol: r.u16("protocol version")?,
            node: QmId::from_bytes(r.array("node")?),
            incarnation: Incarnation(r.u64("incarnation")?),
            body_bytes_max: r.u32("largest body")?,
            window_messages: r.u32("window in messages")?,
            window_bytes: r.u32("window in bytes")?,
            name: r.line(NAME_BYTES_MAX, "node name")?,
        };
        if hello.window_messages == 0 {
            return Err(DecodeError::Invalid {
                what: "window in messages",
                value: 0,
            });
        }
        Ok(hello)
    }
}

impl Accepted {
    /// Client sequence of the last put of the run.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        let more = (self.count as u64).saturating_sub(1);
        self.first_sequence.saturating_add(more)
    }

    /// Id of the message put under `sequence`, if the run covers it.
    #[must_use]
    pub const fn id_of(&self, sequence: u64) -> Option<MessageId> {
        let Some(offset) = sequence.checked_sub(self.first_sequence) else {
            return None;
        };
        if offset >= self.count as u64 {
            return None;
        }
        Some(MessageId {
            incarnation: self.first_id.incarnation,
            sequence: self.first_id.sequence.saturating_add(offset),
        })
    }

    pub(crate) fn write(self, to: &mut BytesMut) {
        to.put_u64_le(self.first_sequence);
        to.put_u32_le(self.count);
        to.put_u64_le(self.first_id.incarnation.0);
        to.put_u64_le(self.first_id.sequence);
        to.put_u8(u8::from(self.repeated));
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let first_sequence = sequence(r.u64("client sequence")?)?;
        let count = r.u32("length of the run")?;
        let first_id = MessageId {
            incarnation: Incarnation(r.u64("incarnation")?),
            sequence: r.u64("sequence")?,
        };
        let ends = [first_sequence, first_id.sequence];
        let more = u64::from(count).checked_sub(1);
        if more.is_none_or(|more| ends.iter().any(|end| end.checked_add(more).is_none())) {
            return Err(DecodeError::Invalid {
                what: "length of the run",
                value: u64::from(count),
            });
        }
        Ok(Self {
            first_sequence,
            count,
            first_id,
            repeated: r.bool("repeated flag")?,
        })
    }
}

impl Refused {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.sequence);
        to.put_u16_le(self.outcome.0);
        put_line(to, &self.text, ANSWER_TEXT_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: sequence(r.u64("client sequence")?)?,
            outcome: Outcome(r.u16("outcome")?),
            text: r.line(ANSWER_TEXT_BYTES_MAX, "answer text")?,
        })
    }
}

impl Fate {
    /// Checks that there are runs, not too many, and that none is reversed.
    ///
    /// # Errors
    /// The same [`DecodeError`] a client would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        over("runs of fates", self.runs.len(), FATE_RUNS_MAX)?;
        if self.runs.is_empty() {
            return Err(DecodeError::Invalid {
                what: "number of runs",
                value: 0,
            });
        }
        for (first, last, _) in &self.runs {
            if *first == 0 || first > last {
                return Err(DecodeError::Invalid {
                    what: "run of fates",
                    value: *first,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn write(to: &mut BytesMut, runs: &[(u64, u64, Outcome)]) {
        put_count(to, runs.len());
        for (first, last, outcome) in runs {
            to.put_u64_le(*first);
            to.put_u64_le(*last);
            to.put_u16_le(outcome.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let n = r.count(FATE_RUNS_MAX, 18, "runs of fates")?;
        let mut runs = Vec::with_capacity(n);
        for _ in 0..n {
            let (first, last) = (r.u64("run of fates")?, r.u64("run of fates")?);
            runs.push((first, last, Outcome(r.u16("outcome")?)));
        }
        let fate = Self { runs };
        fate.check()?;
        Ok(fate)
    }
}

impl Delivery {
    /// Appends the frame.
    pub fn encode(&self, to: &mut BytesMut) {
        put_frame(to, FrameKind::Delivery, 0, &self.body, |to| self.write(to));
    }

    /// Everything but the body.
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u64_le(self.lookup);
        to.put_u64_le(self.arrived_at_us);
        to.put_u32_le(self.abort_count);
        to.put_u64_le(self.be_received_left_ms);
        to.put_slice(&self.tag.0);
        put_short(to, &self.envelope);
    }

    pub(crate) fn read(raw: &Cut<'_>) -> Result<Self, DecodeError> {
        raw.check_flags(0)?;
        let mut r = raw.reader();
        let head = Self::read_head(&mut r)?;
        raw.verify(r.offset())?;
        let body = r.rest();
        Ok(Self { body, ..head })
    }

    /// Reads it to the end of a frame whose checksum covers all of it.
    pub(crate) fn read_fields(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head = Self::read_head(r)?;
        let body = r.rest();
        Ok(Self { body, ..head })
    }

    fn read_head(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            request: r.u64("request number")?,
            lookup: r.u64("lookup id")?,
            arrived_at_us: r.u64("time of arrival")?,
            abort_count: r.u32("abort count")?,
            be_received_left_ms: r.u64("time left to be received")?,
            tag: Tag(r.array("tag")?),
            envelope: r.short(ENVELOPE_BYTES_MAX, "envelope")?,
            body: Bytes::new(),
        })
    }

    /// Decodes the envelope and checks that the message is whole.
    ///
    /// # Errors
    /// [`OpenError::Envelope`] for bytes that are no envelope, [`OpenError::Damaged`] when tag or
    /// length does not match.
    pub fn open(&self) -> Result<Envelope, OpenError> {
        let envelope = Envelope::decode(&self.envelope).map_err(OpenError::Envelope)?;
        if envelope.body_bytes as usize != self.body.len()
            || Tag::compute(&self.envelope, &envelope.salt, &self.body) != self.tag
        {
            return Err(OpenError::Damaged(Box::new(envelope)));
        }
        Ok(envelope)
    }
}

impl ReceiveDone {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        put_end(to, self.messages, self.outcome, &self.text);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let (messages, outcome, text) = read_end(r)?;
        Ok(Self {
            request,
            messages,
            outcome,
            text,
        })
    }
}

impl Settled {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        put_end(to, self.messages, self.outcome, &self.text);
        put_ranges(to, self.lost.get(..ACK_RANGES_MAX).unwrap_or(&self.lost));
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let (messages, outcome, text) = read_end(r)?;
        let lost = read_ranges(r)?;
        check_ranges(&lost)?;
        Ok(Self {
            request,
            messages,
            outcome,
            text,
            lost,
        })
    }
}

impl AdminReply {
    /// Checks the length of the JSON.
    ///
    /// # Errors
    /// The same [`DecodeError`] a client would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        over("administrative answer", self.json.len(), ADMIN_BYTES_MAX)
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u8(u8::from(self.ok));
        to.put_slice(&self.json);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let reply = Self {
            request: r.u64("request number")?,
            ok: r.bool("success flag")?,
            json: r.rest(),
        };
        reply.check()?;
        Ok(reply)
    }
}
