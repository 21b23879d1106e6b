#![no_main]
//! See `qm_fuzz::frame_stream`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::frame_stream(data));
