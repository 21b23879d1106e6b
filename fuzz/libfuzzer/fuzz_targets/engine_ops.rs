#![no_main]
//! See `qm_fuzz::engine_ops`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::engine_ops(data));
