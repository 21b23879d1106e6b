//! Fuzz targets of qm as plain functions: a libFuzzer binary is three lines around one of them,
//! and an ordinary test replays the checked-in inputs without libFuzzer.
//!
//! A target panics when a promise is broken. It never panics on what a peer may legally or
//! illegally send.
#![forbid(unsafe_code)]

mod cache;
mod engine;
mod node;
mod store;
mod wire;

// The configuration is read by the program of qm-node, not by its library.
#[path = "../../crates/qm-node/src"]
#[allow(dead_code, reason = "the program uses all of it")]
mod program {
    pub(crate) mod config;
    pub(crate) mod logging;
}
use program::{config, logging};

pub use cache::dedup_ops;
pub use engine::{answers_in_session, engine_ops, kinds_in_ops, local_session};
pub use node::{admin_json, config_parse};
pub use store::{store_damage, store_recover};
pub use wire::{
    address_parse, decode_body, decode_local_frame, decode_part, decode_peer_frame,
    envelope_differential, envelope_round_trip, frame_stream, kind_of_body,
};

/// A target: its name, as the folders of its inputs have it, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("decode_peer_frame", decode_peer_frame),
    ("decode_local_frame", decode_local_frame),
    ("decode_body", decode_body),
    ("decode_part", decode_part),
    ("frame_stream", frame_stream),
    ("envelope_round_trip", envelope_round_trip),
    ("envelope_differential", envelope_differential),
    ("address_parse", address_parse),
    ("dedup_ops", dedup_ops),
    ("store_recover", store_recover),
    ("store_damage", store_damage),
    ("engine_ops", engine_ops),
    ("local_session", local_session),
    ("config_parse", config_parse),
    ("admin_json", admin_json),
];
