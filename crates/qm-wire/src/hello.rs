//! The first frames of a session and those that govern it: hello, welcome, credit, queue state,
//! goodbye.

use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_count, put_line, put_short, put_short_within};
use crate::envelope::bit_set;
use crate::id::Incarnation;
use crate::limits::{
    ENROLMENT_BYTES_MAX, GOODBYE_TEXT_BYTES_MAX, NAME_BYTES_MAX, PRIOR_INCARNATIONS_MAX,
    QUEUE_NAME_BYTES_MAX, TOKEN_BYTES_MAX,
};
use crate::outcome::Outcome;
use crate::queue_name::QueueName;
use crate::text::Text;

/// Lowest protocol version this crate speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// Highest protocol version this crate speaks.
pub const PROTOCOL_MAX: u16 = 1;

bit_set! {
    /// What a hello says of its sender's identity (W-SES-2).
    HelloFlags, "hello flags", {
        /// A former identity that only sends what it still holds.
        DRAINING = 1,
        /// The machine changed under the identity; a hint, never evidence.
        MOVED = 2,
    }
}

/// First frame of each side on a new connection (W-SES-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version the sender speaks.
    pub protocol_min: u16,
    /// Highest protocol version the sender speaks.
    pub protocol_max: u16,
    /// The sender's present life.
    pub incarnation: Incarnation,
    /// Earlier lives whose messages the sender still holds, newest first: acks for them belong
    /// here too. What exceeds [`PRIOR_INCARNATIONS_MAX`] is not sent.
    pub prior_incarnations: Vec<Incarnation>,
    /// Number of this attempt at this peer, rising within the incarnation; an answer to an older
    /// attempt is void.
    pub attempt: u64,
    /// Branch token received from this peer earlier; empty when none is held.
    pub token: Bytes,
    /// UDP port at which the sender accepts connections, 0 when it does not listen.
    pub listen_port: u16,
    /// Largest message body the sender takes.
    pub body_bytes_max: u32,
    /// Draining or moved.
    pub flags: HelloFlags,
    /// A grant by which the peer may approve the sender by itself; empty when there is none.
    pub enrolment: Bytes,
    /// Display name of the sender's node.
    pub name: Text,
    /// Host name, a hint for operators.
    pub host: Text,
}

bit_set! {
    /// What a welcome says beside its fields (W-SES-2).
    WelcomeFlags, "welcome flags", {
        /// The sender of the hello awaits approval: no credit, nothing is transmitted.
        PENDING = 1,
        /// The history of the sender of the hello has branched.
        BRANCHED = 2,
    }
}

/// Answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Pending or branched.
    pub flags: WelcomeFlags,
    /// Protocol version chosen for the session: the highest both speak.
    pub protocol: u16,
    /// The answerer's present life.
    pub incarnation: Incarnation,
    /// The hello's attempt number.
    pub attempt: u64,
    /// Randomness of the answerer that names this session.
    pub nonce: [u8; 16],
    /// Identity of the answerer's store; another one means that its history is lost.
    pub store_id: [u8; 16],
    /// Fresh branch token; empty when the answerer keeps no ledger.
    pub token: Bytes,
}

/// Absolute totals that the peer may have transmitted on this session, so a lost or repeated
/// frame changes nothing (W-SES-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Messages since the session opened.
    pub messages: u64,
    /// Bytes of their envelopes and bodies since the session opened.
    pub bytes: u64,
}

/// Whether a destination queue accepts messages (W-SES-4). Sent when it changes; a queue never
/// mentioned accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// The queue on the sender of this frame.
    pub queue: QueueName,
    /// Whether messages for it may be transmitted.
    pub open: bool,
}

/// The session ends (W-SES-5); the reason is for counters, logs and `why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Typed reason.
    pub reason: Outcome,
    /// One sentence for the other side's operator.
    pub text: Text,
}

impl Hello {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u16_le(self.protocol_min);
        to.put_u16_le(self.protocol_max);
        to.put_u64_le(self.incarnation.0);
        to.put_u64_le(self.attempt);
        to.put_u16_le(self.listen_port);
        to.put_u32_le(self.body_bytes_max);
        to.put_u8(self.flags.bits());
        let priors = self.prior_incarnations.get(..PRIOR_INCARNATIONS_MAX);
        let priors = priors.unwrap_or(&self.prior_incarnations);
        put_count(to, priors.len());
        for prior in priors {
            to.put_u64_le(prior.0);
        }
        put_short_within(to, &self.token, TOKEN_BYTES_MAX);
        put_short_within(to, &self.enrolment, ENROLMENT_BYTES_MAX);
        put_line(to, &self.name, NAME_BYTES_MAX);
        put_line(to, &self.host, NAME_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol_min = r.u16("lowest protocol version")?;
        let protocol_max = r.u16("highest protocol version")?;
        // W-VER-1.
        if protocol_min > protocol_max {
            let value = u64::from(protocol_min);
            return Err(DecodeError::Invalid {
                what: "lowest protocol version",
                value,
            });
        }
        // W-VER-6: a later version may lay out the rest in another way.
        if protocol_min > PROTOCOL_MAX || protocol_min < PROTOCOL_MIN {
            return Err(DecodeError::Version {
                lowest: protocol_min,
                highest: protocol_max,
            });
        }
        let incarnation = Incarnation(r.u64("incarnation")?);
        let attempt = r.u64("attempt")?;
        let listen_port = r.u16("listen port")?;
        let body_bytes_max = r.u32("largest body")?;
        let flags = HelloFlags::from_bits(r.u8("hello flags")?)?;
        let priors = r.count(PRIOR_INCARNATIONS_MAX, 8, "prior incarnations")?;
        let mut prior_incarnations = Vec::with_capacity(priors);
        for _ in 0..priors {
            prior_incarnations.push(Incarnation(r.u64("prior incarnation")?));
        }
        let token = r.short(TOKEN_BYTES_MAX, "token")?;
        let enrolment = r.short(ENROLMENT_BYTES_MAX, "enrolment token")?;
        let name = Text::line_from_utf8(r.short(NAME_BYTES_MAX, "node name")?, "node name")?;
        let host = Text::line_from_utf8(r.short(NAME_BYTES_MAX, "host name")?, "host name")?;
        Ok(Self {
            protocol_min,
            protocol_max,
            incarnation,
            prior_incarnations,
            attempt,
            token,
            listen_port,
            body_bytes_max,
            flags,
            enrolment,
            name,
            host,
        })
    }
}

impl Welcome {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u8(self.flags.bits());
        to.put_u16_le(self.protocol);
        to.put_u64_le(self.incarnation.0);
        to.put_u64_le(self.attempt);
        to.put_slice(&self.nonce);
        to.put_slice(&self.store_id);
        put_short_within(to, &self.token, TOKEN_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            flags: WelcomeFlags::from_bits(r.u8("welcome flags")?)?,
            protocol: r.u16("protocol version")?,
            incarnation: Incarnation(r.u64("incarnation")?),
            attempt: r.u64("attempt")?,
            nonce: r.array("session nonce")?,
            store_id: r.array("store id")?,
            token: r.short(TOKEN_BYTES_MAX, "token")?,
        })
    }
}

impl Credit {
    pub(crate) fn write(self, to: &mut BytesMut) {
        to.put_u64_le(self.messages);
        to.put_u64_le(self.bytes);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            messages: r.u64("credit in messages")?,
            bytes: r.u64("credit in bytes")?,
        })
    }
}

impl QueueState {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u8(u8::from(self.open));
        put_short(to, self.queue.as_bytes());
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let open = match r.u8("queue state")? {
            0 => false,
            1 => true,
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Invalid {
                    what: "queue state",
                    value,
                });
            }
        };
        let queue = QueueName::from_bytes(r.short(QUEUE_NAME_BYTES_MAX, "queue name")?)?;
        Ok(Self { queue, open })
    }
}

impl Goodbye {
    pub(crate) fn write(&self, to: &mut BytesMut) {
        to.put_u16_le(self.reason.0);
        put_line(to, &self.text, GOODBYE_TEXT_BYTES_MAX);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let reason = Outcome(r.u16("reason")?);
        let text = r.short(GOODBYE_TEXT_BYTES_MAX, "goodbye text")?;
        Ok(Self {
            reason,
            text: Text::line_from_utf8(text, "goodbye text")?,
        })
    }
}
