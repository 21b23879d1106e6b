//! What can go wrong, said so that an operator knows what to do next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::types::StreamId;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused. While opening or reading, nothing was changed by it.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// An earlier write or flush failed, so the outcome of the commit it belonged to is unknown
    /// and what memory says may differ from what the disk says.
    #[error("the store stopped after an error: {cause}; reopen it, recovery tells what survived")]
    Failed {
        /// The first error, in words.
        cause: Arc<str>,
    },
    /// Another process has this data directory open.
    #[error("another process holds {}; stop it, or choose another data directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A segment was written by a newer version of this software.
    #[error(
        "{} has format version {found}, this version reads up to {supported}; install the newer \
         version that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The segment file.
        path: PathBuf,
        /// The version in its header.
        found: u32,
        /// The newest version this build reads.
        supported: u32,
    },
    /// Bytes that were durable once no longer match their checksum.
    #[error(
        "segment {segment} ({}) is damaged at offset {offset}: {what}; {}",
        path.display(),
        advice(record.as_ref())
    )]
    Damaged {
        /// Sequence number of the segment.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// Where in the file the damage was met.
        offset: u64,
        /// What was found there.
        what: &'static str,
        /// The record, when it is known which one it was.
        record: Option<(StreamId, u64)>,
    },
    /// Segments that were in use are not there, or nothing is left in their files.
    #[error(
        "segment {segment} ({}) is missing: {what}{}; put the file back, restore a backup of the \
         directory, or open it with the option `salvage`, which goes on without it",
        path.display(),
        and_others(*others)
    )]
    Missing {
        /// Sequence number of the first of them.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// What is there instead.
        what: &'static str,
        /// How many more are missing.
        others: usize,
    },
    /// A segment file does not belong here: another store's, or a second copy of one of ours.
    #[error("{} does not belong to this store: {what}; move it out of the directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why it cannot belong here.
        what: &'static str,
    },
    /// The options contradict themselves.
    #[error("store options: {what}")]
    Options {
        /// Which, and what would be right.
        what: &'static str,
    },
}

const fn advice(record: Option<&(StreamId, u64)>) -> &'static str {
    match record {
        Some(_) => "the other records are served; remove this one, or restore a backup",
        None => {
            "restore a backup of the directory, or open it with the option `salvage`, which keeps \
             what can be read"
        }
    }
}

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(", and {others} more are missing"),
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}
