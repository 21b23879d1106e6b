//! Fuzz targets of qm as plain functions: a libFuzzer binary is three lines around one of them,
//! and an ordinary test replays the checked-in inputs without libFuzzer.
//!
//! A target panics when a promise is broken. It never panics on what a peer may legally or
//! illegally send.
#![forbid(unsafe_code)]

mod cache;
mod engine;
mod store;
mod wire;

pub use cache::dedup_ops;
pub use engine::{engine_ops, local_session};
pub use store::store_recover;
pub use wire::{
    address_parse, decode_local_frame, decode_peer_frame, envelope_differential,
    envelope_round_trip, frame_stream,
};

/// A target: its name, as the folders of its inputs have it, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("decode_peer_frame", decode_peer_frame),
    ("decode_local_frame", decode_local_frame),
    ("frame_stream", frame_stream),
    ("envelope_round_trip", envelope_round_trip),
    ("envelope_differential", envelope_differential),
    ("address_parse", address_parse),
    ("dedup_ops", dedup_ops),
    ("store_recover", store_recover),
    ("engine_ops", engine_ops),
    ("local_session", local_session),
];
