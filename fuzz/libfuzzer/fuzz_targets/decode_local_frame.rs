#![no_main]
//! See `qm_fuzz::decode_local_frame`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::decode_local_frame(data));
