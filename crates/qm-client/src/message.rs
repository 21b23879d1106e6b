//! What an application hands to its node.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use qm_wire::local::{Follow, IdempotencyKey, Put};
use qm_wire::{
    AckWishes, Class, DecodeError, Destination, INFINITE_MS, MessageFlags, Priority, Properties,
    Text,
};

/// A message to send: where to, the body, and the properties that differ from the defaults.
///
/// Recoverable, priority 3, times as the node's configuration says, kept in the dead-letter queue
/// when it cannot be delivered.
///
/// ```
/// use std::time::Duration;
/// use qm_client::Message;
///
/// let message = Message::new("qm://hub/orders", "three apples")
///     .label("order 17")
///     .property("region", "north")
///     .time_to_reach_queue(Duration::from_secs(3600));
/// ```
#[derive(Clone)]
#[must_use]
pub struct Message {
    put: Put,
    priority: Option<Priority>,
    properties: Vec<(Box<str>, Bytes)>,
}

impl Message {
    /// A message for a destination as people write it, see [`Destination`]; the node answers
    /// with `bad_destination_name` when it does not understand.
    pub fn new(destination: impl Into<Text>, body: impl Into<Bytes>) -> Self {
        Self {
            put: Put::new(1, destination, body.into()),
            priority: None,
            properties: Vec::new(),
        }
    }

    /// A message for a destination that was understood already.
    pub fn to(destination: &Destination, body: impl Into<Bytes>) -> Self {
        Self::new(destination.to_string(), body)
    }

    /// Delivery class.
    pub const fn class(mut self, class: Class) -> Self {
        self.put.class = class;
        self
    }

    /// Priority; transactional messages have none, and giving them one is an error.
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// What the application calls the message, at most 249 characters.
    pub fn label(mut self, label: impl Into<Text>) -> Self {
        self.put.label = label.into();
        self
    }

    /// What the message answers, at most 256 bytes.
    pub fn correlation_id(mut self, id: impl Into<Bytes>) -> Self {
        self.put.correlation_id = id.into();
        self
    }

    /// Where answers should go.
    pub fn response_queue(mut self, queue: impl Into<Text>) -> Self {
        self.put.response_queue = queue.into();
        self
    }

    /// Which acknowledgements are wanted, and in which queue of this node they should be put:
    /// messages of which [`Received::report`](crate::Received::report) tells what became of this
    /// one. The queue must be there, and not transactional.
    pub fn admin_queue(mut self, queue: impl Into<Text>, wishes: AckWishes) -> Self {
        self.put.admin_queue = queue.into();
        self.put.ack_wishes = wishes;
        self
    }

    /// Media type of the body.
    pub fn content_type(mut self, content_type: impl Into<Text>) -> Self {
        self.put.content_type = content_type.into();
        self
    }

    /// W3C trace context: `traceparent`, then optionally a line feed and `tracestate`.
    pub fn trace_context(mut self, context: impl Into<Text>) -> Self {
        self.put.trace_context = context.into();
        self
    }

    /// One more application property.
    pub fn property(mut self, name: impl Into<Box<str>>, value: impl Into<Bytes>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// How long the message may take to its destination queue; [`Duration::MAX`] is for ever.
    pub fn time_to_reach_queue(mut self, time: Duration) -> Self {
        self.put.time_to_reach_queue_ms = Some(millis(time));
        self
    }

    /// How long the message may take until an application receives it; [`Duration::MAX`] is for
    /// ever.
    pub fn time_to_be_received(mut self, time: Duration) -> Self {
        self.put.time_to_be_received_ms = Some(millis(time));
        self
    }

    /// Whether to keep the message in the dead-letter queue when it cannot be delivered. On
    /// unless switched off.
    pub const fn dead_letter(self, on: bool) -> Self {
        self.flag(MessageFlags::DEAD_LETTER, on)
    }

    /// Whether to keep a copy in the node's journal queue.
    pub const fn journal(self, on: bool) -> Self {
        self.flag(MessageFlags::JOURNAL, on)
    }

    /// Whether a full destination queue refuses the message instead of letting it wait.
    pub const fn fail_when_full(self, on: bool) -> Self {
        self.flag(MessageFlags::FAIL_WHEN_FULL, on)
    }

    /// The application's own name of the message, 1 to 128 bytes: the node accepts one message
    /// per key within its window, so that a process that died before it saw the answer may send
    /// again.
    pub fn idempotency_key(mut self, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        let number = self
            .put
            .idempotency
            .and_then(|idempotency| idempotency.number);
        self.put.idempotency = Some(IdempotencyKey { key, number });
        self
    }

    /// The same for one of a series that shares the key, such as a line of a file.
    pub fn idempotency_number(mut self, key: impl Into<Bytes>, number: u64) -> Self {
        self.put.idempotency = Some(IdempotencyKey {
            key: key.into(),
            number: Some(number),
        });
        self
    }

    /// How far the ticket tells what becomes of the message, see
    /// [`PutTicket`](crate::PutTicket).
    pub const fn follow(mut self, follow: Follow) -> Self {
        self.put.follow = follow;
        self
    }

    const fn flag(mut self, flag: MessageFlags, on: bool) -> Self {
        let bits = self.put.flags.bits();
        let bits = if on {
            bits | flag.bits()
        } else {
            bits & !flag.bits()
        };
        if let Ok(flags) = MessageFlags::from_bits(bits) {
            self.put.flags = flags;
        }
        self
    }

    /// The frame, every rule of the format checked.
    pub(crate) fn into_put(self) -> Result<Put, DecodeError> {
        let mut put = self.put;
        put.priority = self.priority.unwrap_or(match put.class {
            Class::Transactional => Priority::LOWEST,
            Class::Express | Class::Recoverable => Priority::DEFAULT,
        });
        if !self.properties.is_empty() {
            put.properties = Properties::new(self.properties)?;
        }
        put.check()?;
        Ok(put)
    }
}

/// Shows no body: bodies do not belong into logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("destination", &self.put.destination)
            .field("class", &self.put.class)
            .field("label", &self.put.label)
            .field("body_bytes", &self.put.body.len())
            .finish_non_exhaustive()
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(INFINITE_MS)
}
