#![no_main]
//! See `qm_fuzz::envelope_differential`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::envelope_differential(data));
