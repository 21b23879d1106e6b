//! What an application asks of its node.

use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, over, put_count, put_line, put_short};
use crate::envelope::INFINITE_MS;
use crate::id::ClientId;
use crate::limits::{
    ACK_RANGES_MAX, ADMIN_BYTES_MAX, CORRELATION_BYTES_MAX, NAME_BYTES_MAX, QUEUE_NAME_BYTES_MAX,
};
use crate::queue_name::QueueName;
use crate::text::Text;

/// First frame of an application on a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Version of the local protocol it speaks.
    pub protocol: u16,
    /// Who it is; the same on every connection of one client, so that repeats are recognised.
    pub client: ClientId,
    /// Name of the program, for operators; cut at
    /// [`NAME_BYTES_MAX`](crate::limits::NAME_BYTES_MAX) bytes.
    pub program: Text,
}

/// Whether a receive request takes messages or only looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReceiveMode {
    /// Lease them to this connection until they are settled.
    #[default]
    Take,
    /// Show them; nothing changes and nothing is to be settled.
    Peek,
}

/// Hand me messages.
///
/// A second one under the number of an unanswered one takes its place: with
/// [`wait_ms`](Self::wait_ms) 0 it is how an application stops waiting. Both together are
/// answered by one [`ReceiveDone`](super::ReceiveDone); when that is already on its way, the
/// second is not answered at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Number of the request.
    pub request: u64,
    /// The queue on this node.
    pub queue: QueueName,
    /// Take or look.
    pub mode: ReceiveMode,
    /// Most messages to deliver, at least 1.
    pub messages_max: u32,
    /// Most bytes of envelopes and bodies to deliver; the first message comes whatever its size.
    pub bytes_max: u32,
    /// How long to wait for the first message, milliseconds or [`INFINITE_MS`]; also for one that
    /// is picked out below. A peek does not wait: it shows what is there.
    pub wait_ms: u64,
    /// Only messages behind this lookup id: the next page of a peek, or what came later.
    pub after: Option<u64>,
    /// Only the message with this lookup id.
    pub lookup: Option<u64>,
    /// Only messages with this correlation id; empty for any.
    pub correlation_id: Bytes,
    /// The transaction that takes them, from 1 (W-LOC-7).
    pub transaction: Option<u64>,
}

/// What shall become of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// They are dealt with: remove them.
    Consume,
    /// Put them back in their place; their abort count rises.
    GiveBack,
    /// They cannot be dealt with: end them as rejected by the receiver.
    Reject,
}

/// Deliveries of this connection are consumed, given back or rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Number of the request.
    pub request: u64,
    /// The queue they came from.
    pub queue: QueueName,
    /// What shall become of them.
    pub verdict: Verdict,
    /// First and last lookup id of each range, ascending, not touching, at least one range. Ids
    /// in a range that are not leased to this connection are left alone.
    pub ranges: Vec<(u64, u64)>,
}

/// An administrative request (W-LOC-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Number of the request.
    pub request: u64,
    /// What is asked, in JSON.
    pub json: Bytes,
}

/// A value behind a byte that says whether it is there.
fn put_optional(to: &mut BytesMut, value: Option<u64>) {
    to.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        to.put_u64_le(value);
    }
}

fn read_optional(r: &mut Reader<'_>, what: &'static str) -> Result<Option<u64>, DecodeError> {
    match r.u8(what)? {
        0 => Ok(None),
        1 => Ok(Some(r.u64(what)?)),
        other => Err(DecodeError::Invalid {
            what,
            value: u64::from(other),
        }),
    }
}

const RANGE: &str = "range of lookup ids";

/// Ranges of lookup ids ascend and do not touch: touching ones have a shorter form (W-LOC-4).
pub(super) fn check_ranges(ranges: &[(u64, u64)]) -> Result<(), DecodeError> {
    over("ranges of lookup ids", ranges.len(), ACK_RANGES_MAX)?;
    let mut end: Option<u64> = None;
    for (first, last) in ranges {
        if first > last {
            let value = *first;
            return Err(DecodeError::Invalid { what: RANGE, value });
        }
        if end.is_some_and(|end| *first <= end.saturating_add(1)) {
            return Err(DecodeError::NotCanonical { what: RANGE });
        }
        end = Some(*last);
    }
    Ok(())
}

pub(super) fn put_ranges(to: &mut BytesMut, ranges: &[(u64, u64)]) {
    put_count(to, ranges.len());
    for (first, last) in ranges {
        to.put_u64_le(*first);
        to.put_u64_le(*last);
    }
}

pub(super) fn read_ranges(r: &mut Reader<'_>) -> Result<Vec<(u64, u64)>, DecodeError> {
    let n = r.count(ACK_RANGES_MAX, 16, "ranges of lookup ids")?;
    let mut ranges = Vec::with_capacity(n);
    for _ in 0..n {
        ranges.push((r.u64(RANGE)?, r.u64(RANGE)?));
    }
    Ok(ranges)
}

impl ClientHello {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u16_le(self.protocol);
        to.put_slice(&self.client.0);
        put_line(to, &self.program, NAME_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol: r.u16("protocol version")?,
            client: ClientId(r.array("client id")?),
            program: r.line(NAME_BYTES_MAX, "program name")?,
        })
    }
}

/// W-LOC-7.
pub(super) fn check_transaction(transaction: Option<u64>) -> Result<(), DecodeError> {
    match transaction {
        Some(0) => Err(DecodeError::Invalid {
            what: "transaction",
            value: 0,
        }),
        _ => Ok(()),
    }
}

impl Receive {
    /// Header flags of a receive: a transaction follows.
    pub(super) const FLAGS: u16 = 1;

    /// Take one message of `queue`, waiting for it without limit.
    #[must_use]
    pub const fn new(request: u64, queue: QueueName) -> Self {
        Self {
            request,
            queue,
            mode: ReceiveMode::Take,
            messages_max: 1,
            bytes_max: u32::MAX,
            wait_ms: INFINITE_MS,
            after: None,
            lookup: None,
            correlation_id: Bytes::new(),
            transaction: None,
        }
    }

    /// Checks every limit that a field's type does not already keep.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.messages_max == 0 {
            return Err(DecodeError::Invalid {
                what: "most messages",
                value: 0,
            });
        }
        check_transaction(self.transaction)?;
        over(
            "correlation id",
            self.correlation_id.len(),
            CORRELATION_BYTES_MAX,
        )
    }

    /// Everything but the transaction, which no other node is told.
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u8(match self.mode {
            ReceiveMode::Take => 0,
            ReceiveMode::Peek => 1,
        });
        to.put_u32_le(self.messages_max);
        to.put_u32_le(self.bytes_max);
        to.put_u64_le(self.wait_ms);
        put_optional(to, self.after);
        put_optional(to, self.lookup);
        put_short(to, self.queue.as_bytes());
        put_short(to, &self.correlation_id);
    }

    pub(super) fn flags(&self) -> u16 {
        if self.transaction.is_some() {
            Self::FLAGS
        } else {
            0
        }
    }

    pub(super) fn write_with_transaction(&self, to: &mut BytesMut) {
        self.write(to);
        if let Some(transaction) = self.transaction {
            to.put_u64_le(transaction);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>, flags: u16) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let mode = match r.u8("receive mode")? {
            0 => ReceiveMode::Take,
            1 => ReceiveMode::Peek,
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Invalid {
                    what: "receive mode",
                    value,
                });
            }
        };
        let receive = Self {
            request,
            mode,
            messages_max: r.u32("most messages")?,
            bytes_max: r.u32("most bytes")?,
            wait_ms: r.u64("time to wait")?,
            after: read_optional(r, "lookup id to start after")?,
            lookup: read_optional(r, "lookup id")?,
            queue: QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?,
            correlation_id: r.short(CORRELATION_BYTES_MAX, "correlation id")?,
            transaction: if flags & Self::FLAGS == 0 {
                None
            } else {
                Some(r.u64("transaction")?)
            },
        };
        receive.check()?;
        Ok(receive)
    }
}

impl Settle {
    /// Checks the rules of [`Settle::ranges`].
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_ranges(&self.ranges)?;
        if self.ranges.is_empty() {
            return Err(DecodeError::Invalid {
                what: "number of settled ranges",
                value: 0,
            });
        }
        Ok(())
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_u8(match self.verdict {
            Verdict::Consume => 0,
            Verdict::GiveBack => 1,
            Verdict::Reject => 2,
        });
        put_short(to, self.queue.as_bytes());
        put_ranges(to, &self.ranges);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = r.u64("request number")?;
        let verdict = match r.u8("verdict")? {
            0 => Verdict::Consume,
            1 => Verdict::GiveBack,
            2 => Verdict::Reject,
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Invalid {
                    what: "verdict",
                    value,
                });
            }
        };
        let queue = QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?;
        let settle = Self {
            request,
            queue,
            verdict,
            ranges: read_ranges(r)?,
        };
        settle.check()?;
        Ok(settle)
    }
}

impl Admin {
    /// Checks the length of the JSON.
    ///
    /// # Errors
    /// The same [`DecodeError`] a node would report.
    pub fn check(&self) -> Result<(), DecodeError> {
        over("administrative request", self.json.len(), ADMIN_BYTES_MAX)
    }

    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.request);
        to.put_slice(&self.json);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let admin = Self {
            request: r.u64("request number")?,
            json: r.rest(),
        };
        admin.check()?;
        Ok(admin)
    }
}
