//! What an offline check tells.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use super::DAMAGES_MAX;
use crate::types::StreamId;

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Sequence number of the segment, when its header can be read.
    pub segment: Option<u64>,
    /// Where in the file it starts.
    pub offset: u64,
    /// How many bytes are in doubt.
    pub bytes: u64,
    /// What was found there.
    pub what: &'static str,
    /// What it costs.
    pub lost: Lost,
}

/// What damage costs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// Nothing: there is another copy, or it was removed already.
    Nothing,
    /// This record, which was live.
    Record(LostRecord),
    /// Nobody knows: records may be missing, and removed ones may be back, because their removals
    /// stood here.
    Unknown {
        /// The record that was probably here: its header no longer matches its checksum either.
        likely: Option<LostRecord>,
    },
}

/// A record that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostRecord {
    /// Its stream.
    pub stream: StreamId,
    /// Its position.
    pub position: u64,
    /// Its head as it stands on the disk, which no checksum vouches for; empty when it is long.
    pub head: Bytes,
}

/// What an offline check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Segments in the log.
    pub segments: u64,
    /// Segments that were in use and are not there.
    pub missing_segments: u64,
    /// Segment files that hold nothing.
    pub empty_segments: u64,
    /// Bytes of the log that were read and verified.
    pub bytes: u64,
    /// Live records that are whole, by stream.
    pub streams: BTreeMap<StreamId, u64>,
    /// Live records that are whole.
    pub records: u64,
    /// Live records that are damaged; each is lost.
    pub lost_records: u64,
    /// Live records that stand before damage of unknown content: they may have been removed.
    pub uncertain_records: u64,
    /// Keyed state.
    pub state: BTreeMap<Bytes, Bytes>,
    /// The last write had not finished: in which file, and where the log ends in it. No damage:
    /// nothing of it was reported done.
    pub unfinished: Option<(PathBuf, u64)>,
    /// Files that an earlier start set aside because it could not read their headers.
    pub set_aside: Vec<PathBuf>,
    /// Every damaged place, as far as they are listed.
    pub damages: Vec<Damage>,
    /// Damaged places beyond those.
    pub unlisted: u64,
}

impl Checked {
    /// Whether every byte is what was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty() && self.unlisted == 0
    }

    /// A live record that counts as whole turned out not to be.
    pub(crate) fn lose(&mut self, damage: Damage) {
        if let Lost::Record(record) = &damage.lost
            && let Some(whole) = self.streams.get_mut(&record.stream)
        {
            *whole = whole.saturating_sub(1);
            self.records = self.records.saturating_sub(1);
            self.lost_records += 1;
        }
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        } else {
            self.unlisted += 1;
        }
    }

    /// Whether damage cost something.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.unlisted > 0
            || self
                .damages
                .iter()
                .any(|damage| damage.lost != Lost::Nothing)
    }
}
