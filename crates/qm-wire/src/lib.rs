//! The wire format of qm: identities, message envelope, frames, limits and reject codes
#![forbid(unsafe_code)]
