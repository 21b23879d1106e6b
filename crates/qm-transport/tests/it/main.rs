//! The transport as a whole: two and more real endpoints, over loopback and in memory.

mod hostile;
mod loopback;
mod memory;
#[cfg(test)]
mod support;
