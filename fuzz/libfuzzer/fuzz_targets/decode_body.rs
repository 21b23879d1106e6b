#![no_main]
//! See `qm_fuzz::decode_body`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::decode_body(data));
