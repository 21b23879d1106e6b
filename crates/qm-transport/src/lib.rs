//! Frames between queue managers over QUIC, with raw public keys as identities
#![forbid(unsafe_code)]
