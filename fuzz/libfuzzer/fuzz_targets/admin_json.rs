#![no_main]
//! See `qm_fuzz::admin_json`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::admin_json(data));
