//! Durable effects for a queue manager: a segmented, checksummed log with group commit
#![forbid(unsafe_code)]
