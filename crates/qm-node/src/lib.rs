//! The qm queue manager: daemon and command line
#![forbid(unsafe_code)]
