#![no_main]
//! See `qm_fuzz::decode_peer_frame`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::decode_peer_frame(data));
