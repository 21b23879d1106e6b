#![no_main]
//! See `qm_fuzz::dedup_ops`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::dedup_ops(data));
