#![no_main]
//! See `qm_fuzz::local_session`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::local_session(data));
