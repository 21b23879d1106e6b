#![no_main]
//! See `qm_fuzz::config_parse`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::config_parse(data));
