//! Lock-free duplicate cache and ack-route cache, with the clock handed in
#![forbid(unsafe_code)]
