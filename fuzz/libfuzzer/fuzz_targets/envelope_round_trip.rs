#![no_main]
//! See `qm_fuzz::envelope_round_trip`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| qm_fuzz::envelope_round_trip(data));
