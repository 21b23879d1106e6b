//! The wire format of qm: identities, message envelope, frames, limits and typed outcomes.
//!
//! Every byte that crosses a link between two queue managers, or between an application and its
//! own node, is described here and in `SPEC.md` beside this crate. It is for whoever reads or
//! writes those bytes: nodes, clients, gateways, analysers. It does no I/O, reads no clock and
//! knows nothing of sessions; the protocol's behaviour lives in `qm-engine`.
//!
//! # Tour
//!
//! A message is an [`Envelope`], encoded once and covered with the body by a [`Tag`], and travels
//! in a [`Data`] frame:
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use qm_wire::*;
//!
//! let me = QmId::from_ed25519_public_key(&[7; 32]);
//! let id = MessageId { incarnation: Incarnation(0x51), sequence: 1 };
//! let body = Bytes::from_static(b"hello");
//! let mut envelope =
//!     Envelope::new(me, id, Salt([9; 16]), Class::Recoverable, "orders".parse().unwrap());
//! envelope.body_bytes = 5;
//! let mut encoded = BytesMut::new();
//! envelope.encode(&mut encoded).unwrap();
//! let encoded = encoded.freeze();
//!
//! let data = Data {
//!     number: 1,
//!     tag: Tag::compute(&encoded, &envelope.salt, &body),
//!     transit: Transit::direct(INFINITE_MS, INFINITE_MS),
//!     envelope: encoded,
//!     body,
//! };
//! let mut lane = BytesMut::new();
//! data.encode(&mut lane);
//!
//! // The other side cuts frames off the lane; texts and body are slices of what arrived.
//! let mut arrived = lane.freeze();
//! let frame = PeerFrame::next(&mut arrived, 1 << 20).unwrap().unwrap();
//! let PeerFrame::Data(data) = frame else { panic!("a data frame was sent") };
//! assert_eq!(data.open().unwrap().id, id);
//! ```
//!
//! Whoever only looks at a message borrows it:
//!
//! ```
//! # use bytes::BytesMut;
//! # use qm_wire::*;
//! # let id = MessageId { incarnation: Incarnation(1), sequence: 1 };
//! # let queue = "orders".parse().unwrap();
//! # let mut envelope =
//! #     Envelope::new(QmId::from_bytes([1; 16]), id, Salt([2; 16]), Class::Express, queue);
//! envelope.label = "order 4711".into();
//! envelope.properties = Properties::new([("till", "3")]).unwrap();
//! let mut encoded = BytesMut::new();
//! envelope.encode(&mut encoded).unwrap();
//! let view = Envelope::view(&encoded).unwrap();
//! assert_eq!(view.label, "order 4711");
//! assert_eq!(view.properties().next(), Some(("till", &b"3"[..])));
//! ```
//!
//! What arrives in pieces is kept until a frame is whole; what can never become one is refused as
//! soon as that shows:
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use qm_wire::{Credit, DecodeError, PeerFrame};
//!
//! let mut lane = BytesMut::new();
//! PeerFrame::Credit(Credit { messages: 8, bytes: 4096 }).encode(&mut lane);
//! let whole = lane.freeze();
//! assert_eq!(PeerFrame::next(&mut whole.slice(..20), 1 << 20), Ok(None));
//! let wrong = PeerFrame::next(&mut Bytes::from_static(b"GET /"), 1 << 20);
//! assert!(matches!(wrong, Err(DecodeError::Invalid { what: "frame magic", .. })));
//! ```
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | frames between nodes | [`PeerFrame`] |
//! | frames between application and node | [`local`] |
//! | identities, names of messages | [`QmId`], [`MessageId`], [`Tag`] |
//! | where messages go | [`Destination`], [`QueueName`] |
//! | why something was refused | [`Outcome`], [`DecodeError`], [`OpenError`] |
//! | every maximum | [`limits`] |
//!
//! # Guarantees
//!
//! * Lengths are checked against [`limits`] before anything is allocated or sliced.
//! * One value has one encoding; every other byte string is refused.
//! * Decoding does not panic, and copies no body and no text. A frame of n bytes never allocates
//!   more than 2 n + 1 KiB, and a message allocates nothing beyond one count for its buffer.
//!
//! # Features
//!
//! * `std` (default): the checksum by the processor's own instruction, where it has one. Without
//!   this and the other features the crate needs no more than `alloc`.
//! * `bincode` (default): the envelope goes through bincode, confined to one private module.
//!   Without it the hand-written codec reads and writes the same bytes.
//! * `serde`: printable identities for configuration and JSON.
//!
//! `bincode` and `serde` imply `std`.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;

mod ack;
mod address;
mod class;
mod codec;
mod crc;
mod data;
mod envelope;
mod finals;
mod handshake;
mod hello;
mod id;
mod large;
mod outcome;
mod peer;
mod properties;
mod queue_name;
mod remote;
mod siphash;
mod stream;
mod text;
mod twin;

#[cfg(feature = "serde")]
mod printable;

#[cfg(feature = "__differential")]
#[doc(hidden)]
pub mod differential;
pub mod frame;
pub mod limits;
pub mod local;

pub use ack::{
    Answer, Known, NotHeld, Query, Refusal, Reject, RoutedAck, SessionAck, TagHash, tag_hash,
};
pub use address::{AddressError, Destination};
pub use codec::DecodeError;
pub use data::{Data, OpenError, Route, Transit, credit_bytes};
pub use envelope::{AckWishes, Class, Envelope, EnvelopeView, INFINITE_MS, MessageFlags, Priority};
pub use finals::{Evicted, Final, FinalConfirm};
pub use frame::FrameKind;
pub use handshake::{Challenge, Confirm};
pub use hello::{
    Credit, Goodbye, Hello, HelloFlags, PROTOCOL_MAX, PROTOCOL_MIN, QueueState, Welcome,
    WelcomeFlags,
};
pub use id::{
    ClientId, Entry, Incarnation, MessageId, MessageKey, ParseIdError, QmId, Salt, Tag, key_digest,
};
pub use large::{Announce, BodyPart, BodyWanted, Wanted};
pub use outcome::Outcome;
pub use peer::PeerFrame;
pub use properties::Properties;
pub use queue_name::{AsQueueName, QueueName, QueueNameView};
pub use remote::{RemoteAnswer, RemoteAsk, RemoteReply, RemoteRequest};
pub use stream::{Hold, Link, LinkAt, Need, OrderAck, Place, Run, Skip, Skipped, StreamId};
pub use text::{Text, TextView};
pub use twin::{Ask, Claim, ForkPoint, ForkPoints, Parted, Rank, Succession, Twin};
