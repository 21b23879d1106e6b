//! A whole network of qm nodes as a function of one seed
#![forbid(unsafe_code)]
