//! The values that go into the store and come out of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;

/// Longest head of a [`Op::Put`], in bytes: 64 KiB and a little room for what wraps it.
pub const HEAD_BYTES_MAX: usize = 64 * 1024 + 256;
/// Longest key of [`Op::Set`] and [`Op::Unset`], in bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// Names a run of records with strictly rising 64-bit positions; gaps are allowed.
///
/// The caller allocates ids; the store gives them no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// One durable effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Append a record.
    Put {
        /// Which run it belongs to.
        stream: StreamId,
        /// Its place there; higher than every position put in this stream before.
        position: u64,
        /// Small leading part, at most [`HEAD_BYTES_MAX`]; recovery hands the newest heads back.
        head: Bytes,
        /// The rest, at most 1 GiB. Head, body and 64 bytes must fit one segment, unless the body
        /// is long enough for a file of its own.
        body: Bytes,
    },
    /// Remove every record of the stream with a position in `first..=last` that was put before
    /// this operation. Positions that hold nothing are allowed.
    Remove {
        /// Which run.
        stream: StreamId,
        /// Lowest position removed.
        first: u64,
        /// Highest position removed.
        last: u64,
    },
    /// Give a key a value, replacing the old one.
    Set {
        /// At most [`KEY_BYTES_MAX`].
        key: Bytes,
        /// Small: it is handed back whole at recovery.
        value: Bytes,
    },
    /// Remove a key; harmless when it is not set.
    Unset {
        /// At most [`KEY_BYTES_MAX`].
        key: Bytes,
    },
}

/// Operations that happen together or not at all, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The operations.
    pub ops: Vec<Op>,
    /// Of how many refusals of this store its submitter knows, if order matters to it.
    ///
    /// Batches are submitted ahead of the answers to earlier ones. When an earlier one was refused
    /// and a later, smaller one is taken, records overtake those that are put again, and whoever
    /// wanted order has to take them out, if it lives that long. A value may also speak for records
    /// of an earlier batch. A batch that knows of fewer refusals than there were is therefore
    /// turned away like the earlier one, whatever is in it. `None`: it is taken whenever there is
    /// room.
    pub refusals_known: Option<RefusalsKnown>,
}

/// Of which refusals the submitter of a batch has counted how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalsKnown {
    /// Of all batches.
    All(u64),
    /// Of batches that have this: they keep their order, and pass the others.
    Settling(u64),
}

/// Refusals since a store was opened. See [`Batch::refusals_known`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    all: u64,
    settling: u64,
}

impl Refusals {
    /// Whether the submitter of a batch does not know of all that count for it.
    pub(crate) const fn are_unknown_to(&self, batch: &Batch) -> bool {
        match batch.refusals_known {
            Some(RefusalsKnown::All(known)) => known < self.all,
            Some(RefusalsKnown::Settling(known)) => known < self.settling,
            None => false,
        }
    }

    /// Counts the answer to a batch.
    pub(crate) fn count(&mut self, batch: &Batch, answer: Applied) {
        if answer == Applied::Done {
            return;
        }
        self.all += 1;
        if let Some(RefusalsKnown::Settling(_)) = batch.refusals_known {
            self.settling += 1;
        }
    }
}

impl Batch {
    /// Whether it keeps its place among the batches that give room back: refused, it will be handed
    /// over again before all that follow.
    #[must_use]
    pub const fn settles(&self) -> bool {
        matches!(self.refusals_known, Some(RefusalsKnown::Settling(_)))
    }

    /// Whether the batch adds records, and so may be turned away when there is no room.
    #[must_use]
    pub fn has_puts(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Put { .. }))
    }
}

impl From<Vec<Op>> for Batch {
    fn from(ops: Vec<Op>) -> Self {
        Self {
            ops,
            refusals_known: None,
        }
    }
}

/// What became of one batch of a commit that returned `Ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// Durable, and visible to readers.
    Done,
    /// There is no room for it, or it would overtake what was refused, and nothing of it was done.
    /// Batches without `Put` that have no place in an order meet this only when the reserve itself
    /// is used up.
    Full,
    /// The batch breaks a rule and nothing of it was done; it will never succeed as it is.
    Refused(Refusal),
}

/// The rule a refused batch breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The batch is larger than a segment can hold.
    #[error("the batch needs {bytes} bytes, a segment holds {max}")]
    TooLarge {
        /// Encoded size of the batch.
        bytes: u64,
        /// The most that fits.
        max: u64,
    },
    /// A head is longer than [`HEAD_BYTES_MAX`].
    #[error("a head has {bytes} bytes, the limit is {HEAD_BYTES_MAX}")]
    HeadTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A key is longer than [`KEY_BYTES_MAX`].
    #[error("a key has {bytes} bytes, the limit is {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A position does not lie above the positions put before in its stream.
    #[error("{stream}: position {position} does not follow {last}")]
    NotRising {
        /// The stream.
        stream: StreamId,
        /// The position asked for.
        position: u64,
        /// The highest position put before.
        last: u64,
    },
    /// A range ends before it starts.
    #[error("{stream}: range {first}..={last} is reversed")]
    Reversed {
        /// The stream.
        stream: StreamId,
        /// Its start.
        first: u64,
        /// Its end.
        last: u64,
    },
}

/// A live record, as read back; its checksum was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the stream.
    pub position: u64,
    /// As put.
    pub head: Bytes,
    /// As put.
    pub body: Bytes,
}

/// Part of the body of a live record; its checksums were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPart {
    /// The bytes.
    pub bytes: Bytes,
    /// Length of the whole body.
    pub body_bytes: u64,
}

/// A live record as it stands on the disk; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawRecord {
    /// All its bytes in the segment, header and padding included.
    pub bytes: Bytes,
    /// Its head among them; empty when its length is nonsense.
    pub head: Bytes,
    /// The file with its body, if that is not among the bytes. It may be missing.
    pub body_file: Option<PathBuf>,
}

/// What the store holds and what it costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Records put and not removed.
    pub live_records: u64,
    /// Bytes these take, heads, bodies and framing.
    pub live_bytes: u64,
    /// Keys set.
    pub state_keys: u64,
    /// Segments that belong to the log, the one being written included.
    pub segments: u64,
    /// Preallocated empty segments, the reserve included.
    pub spare_segments: u64,
    /// Bytes of all segment files and bodies.
    pub disk_bytes: u64,
    /// Bodies in files of their own.
    pub side_files: u64,
    /// Bytes of these bodies; live bytes count them as well.
    pub side_bytes: u64,
    /// Bytes of files beside these that only save time: hints and cold parts of the index.
    pub cache_bytes: u64,
    /// Bytes the index holds in memory (allocated, without the allocator's own overhead).
    pub index_bytes: u64,
}

/// What recovery knows about a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// One above the highest position put that the log still shows. Positions whose records were
    /// removed and reclaimed leave no trace: keep a counter in a [`Op::Set`] where it matters.
    pub next_position: u64,
    /// Lowest live position, if any record is live.
    pub first_live: Option<u64>,
    /// Live records.
    pub live_records: u64,
    /// Bytes they take, framing included.
    pub live_bytes: u64,
}

/// Identity of a recently put record, for filling a duplicate cache after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentPut {
    /// Its stream.
    pub stream: StreamId,
    /// Its position.
    pub position: u64,
    /// Its head.
    pub head: Bytes,
}

/// Something recovery met that an operator should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryNote {
    /// The last write had not finished. It was never reported done; what it held in full was
    /// kept, the rest dropped.
    TornTail {
        /// Sequence number of the segment.
        segment: u64,
        /// Where the log now ends in it.
        offset: u64,
    },
    /// The body of a record is damaged. The record stays in its stream; reading it is an error,
    /// removing it works.
    DamagedRecord {
        /// Sequence number of the segment.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// Its stream.
        stream: StreamId,
        /// Its position.
        position: u64,
    },
    /// The disk could not read part of a segment file. What of the log stood there is told by the
    /// other notes and by reading; in the file written last, what was reported done just before
    /// the end may have stood there and is gone.
    Unreadable {
        /// Sequence number of the segment.
        segment: u64,
        /// Its file.
        path: PathBuf,
        /// Where it starts.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// Bytes were skipped because `salvage` was set. What they held is lost: records may be
    /// missing, and removed records may have come back.
    DamagedRange {
        /// Sequence number of the segment.
        segment: u64,
        /// Where the damage starts.
        offset: u64,
        /// How many bytes were skipped.
        bytes: u64,
    },
    /// One of the two copies of a segment's header was unreadable; the other was used.
    DamagedHeader {
        /// The segment file.
        path: PathBuf,
    },
    /// Neither copy of a header could be read, so the file was set aside under a new name. After
    /// a power cut this is a segment whose very first write did not finish, and then nothing is
    /// lost; otherwise keep the file for repair.
    SetAside {
        /// Its new name.
        path: PathBuf,
    },
    /// A segment that was in use is not there, and the log was opened all the same because
    /// `salvage` was set. Records are missing, and removed ones may have come back.
    MissingSegment {
        /// Its sequence number.
        segment: u64,
        /// Its file.
        path: PathBuf,
    },
    /// The list of the segments in use is gone or cannot be read. It was made anew from the
    /// segments there are; whether one was missing cannot be told.
    ManifestLost {
        /// Its file.
        path: PathBuf,
    },
    /// The file with the body of a record is not there. The record stays in its stream; reading
    /// it is an error, removing it works.
    BodyMissing {
        /// The file.
        path: PathBuf,
        /// The record's stream.
        stream: StreamId,
        /// Its position.
        position: u64,
    },
    /// There was no room to complete the reserve; records are turned away until there is.
    ReserveIncomplete,
}

impl fmt::Display for RecoveryNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { segment, offset } => {
                write!(
                    f,
                    "the last write was cut short: segment {segment} ends at {offset}"
                )
            }
            Self::DamagedRecord {
                segment,
                path,
                offset,
                stream,
                position,
            } => write!(
                f,
                "{stream} position {position} is damaged (segment {segment}, {}, offset {offset})",
                path.display()
            ),
            Self::Unreadable {
                segment,
                path,
                offset,
                bytes,
            } => write!(
                f,
                "the disk cannot read {bytes} bytes of segment {segment} ({}) from offset \
                 {offset}: replace the disk",
                path.display()
            ),
            Self::DamagedRange {
                segment,
                offset,
                bytes,
            } => write!(
                f,
                "skipped {bytes} damaged bytes of segment {segment} from offset {offset}: records \
                 may be missing, removed ones may be back"
            ),
            Self::DamagedHeader { path } => {
                write!(f, "{}: one copy of the header is damaged", path.display())
            }
            Self::SetAside { path } => {
                write!(
                    f,
                    "a segment without a readable header was set aside: {}",
                    path.display()
                )
            }
            Self::MissingSegment { segment, path } => write!(
                f,
                "segment {segment} ({}) is missing: records are lost, removed ones may be back",
                path.display()
            ),
            Self::ManifestLost { path } => write!(
                f,
                "the list of segments ({}) could not be read and was made anew: whether a segment \
                 is missing cannot be told",
                path.display()
            ),
            Self::BodyMissing {
                path,
                stream,
                position,
            } => write!(
                f,
                "{stream} position {position} has lost its body: {} is missing",
                path.display()
            ),
            Self::ReserveIncomplete => {
                write!(
                    f,
                    "no room for the reserve: no records are accepted until there is"
                )
            }
        }
    }
}

/// What opening a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Every stream the log still mentions.
    pub streams: BTreeMap<StreamId, StreamSummary>,
    /// Every key that is set.
    pub state: BTreeMap<Bytes, Bytes>,
    /// The newest records still in the log, live or removed, oldest first; at most
    /// `recent_puts` of them.
    pub recent: Vec<RecentPut>,
    /// What an operator should hear of.
    pub notes: Vec<RecoveryNote>,
    /// Whether the store was closed in order (also true for a new one).
    pub clean: bool,
}
