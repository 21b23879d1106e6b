//! The client against a scripted node over a real socket.

mod connecting;
mod receiving;
mod sending;
mod support;
