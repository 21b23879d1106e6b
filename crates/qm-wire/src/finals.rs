//! What became of messages after they had arrived, and up to where that may be forgotten.

use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};

use crate::ack::{ENTRY_BYTES, put_entry, read_entry};
use crate::codec::{DecodeError, Reader, put_count};
use crate::id::{Entry, Incarnation, QmId};
use crate::limits::{ENTRIES_MAX, EVICTED_MARKS_MAX};
use crate::outcome::Outcome;

/// Received, or why not (W-FIN-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Final {
    /// The queue manager that minted the messages.
    pub source: QmId,
    /// Each message and what became of it.
    pub entries: Vec<(Entry, Outcome)>,
}

/// Finals were noted; their sender need not keep them any longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalConfirm {
    /// The source that the final named.
    pub source: QmId,
    /// The messages.
    pub entries: Vec<Entry>,
}

/// Up to which sequence of a life arrivals may have been forgotten (W-FIN-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// The queue manager that minted the messages.
    pub source: QmId,
    /// Lives and marks, 1 to [`EVICTED_MARKS_MAX`].
    pub marks: Vec<(Incarnation, u64)>,
}

impl Final {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[(Entry, Outcome)]) {
        to.put_slice(self.source.as_bytes());
        put_count(to, entries.len());
        for (entry, outcome) in entries {
            put_entry(to, entry);
            to.put_u16_le(outcome.0);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let item = ENTRY_BYTES.saturating_add(2);
        Ok(Self {
            source: QmId::from_bytes(r.array("source")?),
            entries: r.list((1, ENTRIES_MAX), item, "number of entries", |r| {
                Ok((read_entry(r)?, Outcome(r.u16("outcome")?)))
            })?,
        })
    }
}

impl FinalConfirm {
    pub(crate) fn write(&self, to: &mut BytesMut, entries: &[Entry]) {
        to.put_slice(self.source.as_bytes());
        put_count(to, entries.len());
        for entry in entries {
            put_entry(to, entry);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            source: QmId::from_bytes(r.array("source")?),
            entries: r.list(
                (1, ENTRIES_MAX),
                ENTRY_BYTES,
                "number of entries",
                read_entry,
            )?,
        })
    }
}

impl Evicted {
    pub(crate) fn write(&self, to: &mut BytesMut, marks: &[(Incarnation, u64)]) {
        to.put_slice(self.source.as_bytes());
        put_count(to, marks.len());
        for (incarnation, sequence) in marks {
            to.put_u64_le(incarnation.0);
            to.put_u64_le(*sequence);
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            source: QmId::from_bytes(r.array("source")?),
            marks: r.list((1, EVICTED_MARKS_MAX), 16, "number of marks", |r| {
                Ok((Incarnation(r.u64("incarnation")?), r.u64("sequence")?))
            })?,
        })
    }
}
