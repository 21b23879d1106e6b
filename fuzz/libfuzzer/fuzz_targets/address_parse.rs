#![no_main]
//! See `qm_fuzz::address_parse`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::address_parse(data));
