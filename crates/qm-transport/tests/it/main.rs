//! The transport as a whole: two and more real endpoints, over loopback and in memory.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod loopback;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod network;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod support;
