//! Every maximum of the wire format in one place, each with its reason.
//!
//! A decoder compares a length with its limit before it allocates or slices anything
//! (SPEC.md, requirement W-LIM-1). Nodes may configure smaller values, never larger ones
//! (W-LIM-2).

/// Bytes of the fixed frame header.
pub const FRAME_HEADER_BYTES: usize = 16;

/// Largest message body the format can carry: 1 GiB. A larger transfer belongs in a file store;
/// the limit keeps every length in 32 bits and every buffer addressable on 32-bit machines.
pub const BODY_BYTES_MAX: u32 = 1 << 30;

/// Default limit for a message body: 4 MiB, the value MSMQ users know.
pub const BODY_BYTES_DEFAULT: u32 = 4 << 20;

/// Largest encoded envelope (immutable part): its length travels in 16 bits.
pub const ENVELOPE_BYTES_MAX: usize = u16::MAX as usize;

/// Largest body of a frame that carries no message: bounds what a control frame can cost before
/// it is understood. Room for [`ENTRIES_MAX`] entries of the widest kind.
pub const CONTROL_BYTES_MAX: usize = 256 << 10;

/// Bytes of a data frame's body before the envelope: session number, tag, lengths, transit part,
/// for transactional messages their place, for forwarded ones previous hop and destination.
pub const DATA_FIXED_BYTES_MAX: usize = 36 + 48 + 16 + 2 + ADDRESS_BYTES_MAX;

/// Largest body of a data frame whose message body has `body_bytes`.
#[must_use]
pub const fn data_frame_bytes(body_bytes: usize) -> usize {
    (DATA_FIXED_BYTES_MAX + ENVELOPE_BYTES_MAX).saturating_add(body_bytes)
}

/// Largest frame body at the default body limit.
pub const FRAME_BODY_BYTES_DEFAULT: usize = data_frame_bytes(BODY_BYTES_DEFAULT as usize);

/// Characters of a queue name, as in MSMQ.
pub const QUEUE_NAME_CHARS_MAX: usize = 124;

/// Characters of a subqueue name, as in MSMQ.
pub const SUBQUEUE_NAME_CHARS_MAX: usize = 32;

/// Bytes of a queue name with its subqueue: four bytes a character and the separator.
pub const QUEUE_NAME_BYTES_MAX: usize = 4 * (QUEUE_NAME_CHARS_MAX + 1 + SUBQUEUE_NAME_CHARS_MAX);

/// Characters of a label, as in MSMQ.
pub const LABEL_CHARS_MAX: usize = 249;

/// Bytes of a label: four bytes a character.
pub const LABEL_BYTES_MAX: usize = 4 * LABEL_CHARS_MAX;

/// Bytes of a correlation id: room for a printed message id or a UUID with a prefix.
pub const CORRELATION_BYTES_MAX: usize = 256;

/// Bytes of a queue address inside an envelope (response and administration queue).
pub const ADDRESS_BYTES_MAX: usize = 1024;

/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Bytes of a W3C trace context (`traceparent`, a line feed, `tracestate`).
pub const TRACE_CONTEXT_BYTES_MAX: usize = 640;

/// Application properties of one message.
pub const PROPERTIES_MAX: usize = 64;

/// Bytes of a property's name.
pub const PROPERTY_NAME_BYTES_MAX: usize = 255;

/// Bytes of all application properties of one message in encoded form.
pub const PROPERTIES_BYTES_MAX: usize = 32 << 10;

/// Entries of one routed ack, query, answer, reject or not-held frame: the size of a window.
pub const ENTRIES_MAX: usize = 4096;

/// Ranges of one session ack. A receiver with more splits them over several frames.
pub const ACK_RANGES_MAX: usize = 1024;

/// Messages a session may have in flight: the range of numbers one ack may span.
pub const WINDOW_MESSAGES_MAX: u64 = 4096;

/// Past incarnations announced in a hello. A node with more announces the newest.
pub const PRIOR_INCARNATIONS_MAX: usize = 256;

/// Lives of a machine that left an identity to another machine, in one frame: those in which it met
/// copies of it.
pub const PARTED_LIVES_MAX: usize = 16;

/// Bytes of an enrolment token: a signed grant of another authority.
pub const ENROLMENT_BYTES_MAX: usize = 512;

/// Bytes of one part of a large body: other lanes get their turn between two parts.
pub const BODY_PART_BYTES_MAX: usize = 1 << 20;

/// Bytes of a body part's frame body before the part.
pub const BODY_PART_FIXED_BYTES: usize = 32;

/// Newest links of the branches of one stream that a need lists.
pub const LEAVES_MAX: usize = 8;

/// Points of a claim or of a fork-points frame: four rounds find a commit among four thousand
/// million.
pub const FORK_POINTS_MAX: usize = 256;

/// Lives of a source for which one evicted frame tells its mark.
pub const EVICTED_MARKS_MAX: usize = 256;

/// Bytes of a node's display name or host name.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a handshake token.
pub const TOKEN_BYTES_MAX: usize = 128;

/// Bytes of the human-readable part of a goodbye.
pub const GOODBYE_TEXT_BYTES_MAX: usize = 512;

/// Hops a message may travel before it is rejected with outcome `8005`.
pub const HOPS_MAX: u8 = 15;

/// Bytes of the JSON of an administrative request or answer on the local socket: a page of a
/// listing. Longer listings are paged.
pub const ADMIN_BYTES_MAX: usize = 1 << 20;

/// Bytes of an administrative frame's body before the JSON.
pub const ADMIN_FIXED_BYTES: usize = 9;

/// Bytes of a remote request or answer before the body of the frame inside.
pub const REMOTE_FIXED_BYTES: usize = 9;

/// Bytes of an idempotency key: room for a UUID or a file name with its date.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Runs of one fate frame: the size of a window, each message with another fate.
pub const FATE_RUNS_MAX: usize = 4096;

/// Bytes of the sentence for people in an answer to an application.
pub const ANSWER_TEXT_BYTES_MAX: usize = 512;

/// Receive requests that one application may have unanswered: they wait as long as it likes, so
/// this bounds what a node keeps for it.
pub const CLIENT_REQUESTS_MAX: usize = 256;
