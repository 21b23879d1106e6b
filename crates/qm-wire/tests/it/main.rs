//! What every implementation of the wire format must keep to: golden vectors and properties.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod catalogue;
mod layout;
mod model;
mod spec;
mod strategies;
mod vectors;
