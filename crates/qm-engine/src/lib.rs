//! The delivery protocol of qm as pure state machines: no sockets, files, clocks or threads
#![forbid(unsafe_code)]
