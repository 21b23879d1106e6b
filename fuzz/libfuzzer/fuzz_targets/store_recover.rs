#![no_main]
//! See `qm_fuzz::store_recover`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::store_recover(data));
