//! What is known of damage on the disk while a node runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use qm_engine::StoredMessage;
use qm_store::{Reader, RecoveryNote, Scrubbed, StoreError};
use serde::{Deserialize, Serialize};

use crate::admin_json::rfc3339;

/// Damaged records that are named one by one.
const DAMAGES_MAX: usize = 100;

/// Shared by the thread that reads and by whoever answers operators.
#[derive(Debug, Default)]
pub(crate) struct StoreHealth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By stream and position.
    damages: BTreeMap<(u32, u64), DamagedRecordDocument>,
    unlisted: u64,
    verified_bytes: u64,
    verified_records: u64,
    rounds: u64,
    last_round_us: Option<u64>,
    found_at_start: Vec<String>,
}

/// Who minted a damaged message, and its id, as far as its head can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) source: Option<String>,
    pub(crate) id: Option<String>,
}

impl Claimed {
    /// What a head says that no checksum vouches for.
    pub(crate) fn by(head: &Bytes) -> Self {
        let stored = StoredMessage::read(head);
        let envelope = stored.as_ref().map(|stored| &stored.envelope);
        Self {
            source: envelope.map(|envelope| envelope.source.to_string()),
            id: envelope.map(|envelope| envelope.id.to_string()),
        }
    }
}

/// What a running node knows of damage in its store. Missing as long as nothing was verified in
/// the background and no damage was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreHealthDocument {
    /// Damaged records that were met since the node started.
    pub damaged_records: u64,
    /// The first of them.
    pub damages: Vec<DamagedRecordDocument>,
    /// Bytes of messages that were verified in the background.
    pub scrubbed_bytes: u64,
    /// Messages that were verified in the background.
    pub scrubbed_records: u64,
    /// How often everything was gone through.
    pub scrub_rounds: u64,
    /// When that was done last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scrub_at: Option<String>,
    /// What opening the store found that an operator should look at, damaged messages apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found_at_start: Vec<String>,
}

/// A damaged record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DamagedRecordDocument {
    /// The file it stands in.
    pub file: String,
    /// Where it begins there.
    pub offset: u64,
    /// Sequence number of the segment.
    pub segment: u64,
    /// Number of its stream in the store.
    pub stream: u32,
    /// Its position there.
    pub position: u64,
    /// What is wrong.
    pub what: String,
    /// Who minted the message, when that is readable. No checksum vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its id, when that is readable. No checksum vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The file its bytes were moved to when its turn came and it could not be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
}

impl StoreHealth {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store was opened, and that found something.
    pub(crate) fn opened(&self, notes: &[RecoveryNote], reader: &Reader) {
        for note in notes {
            match note {
                RecoveryNote::TornTail { .. } | RecoveryNote::ReserveIncomplete => {}
                RecoveryNote::DamagedRecord {
                    segment,
                    path,
                    offset,
                    stream,
                    position,
                } => {
                    // It may have been removed since; then nobody waits for it.
                    let Ok(Some(raw)) = reader.raw(*stream, *position) else {
                        continue;
                    };
                    let error = StoreError::Damaged {
                        segment: *segment,
                        path: path.clone(),
                        offset: *offset,
                        what: "the checksum of its content does not match",
                        record: Some((*stream, *position)),
                    };
                    self.damaged(&error, &Claimed::by(&raw.head), None);
                }
                RecoveryNote::BodyMissing {
                    path,
                    stream,
                    position,
                } => {
                    let raw = reader.raw(*stream, *position).ok().flatten();
                    let claimed = raw.map(|raw| Claimed::by(&raw.head));
                    let error = StoreError::Damaged {
                        segment: 0,
                        path: path.clone(),
                        offset: 0,
                        what: "its body file is missing",
                        record: Some((*stream, *position)),
                    };
                    self.damaged(&error, &claimed.unwrap_or_default(), None);
                }
                other => {
                    let mut state = self.state();
                    if state.found_at_start.len() < DAMAGES_MAX {
                        state.found_at_start.push(other.to_string());
                    }
                }
            }
        }
    }

    /// A damaged record was met; returns whether it was unknown so far.
    pub(crate) fn damaged(
        &self,
        error: &StoreError,
        claimed: &Claimed,
        moved_to: Option<String>,
    ) -> bool {
        let StoreError::Damaged {
            segment,
            path,
            offset,
            what,
            record: Some((stream, position)),
        } = error
        else {
            return false;
        };
        let mut state = self.state();
        let key = (stream.0, *position);
        if let Some(known) = state.damages.get_mut(&key) {
            if moved_to.is_some() {
                known.moved_to = moved_to;
            }
            return false;
        }
        if state.damages.len() >= DAMAGES_MAX {
            state.unlisted += 1;
            return true;
        }
        let document = DamagedRecordDocument {
            file: path.display().to_string(),
            offset: *offset,
            segment: *segment,
            stream: stream.0,
            position: *position,
            what: (*what).to_owned(),
            source: claimed.source.clone(),
            id: claimed.id.clone(),
            moved_to,
        };
        state.damages.insert(key, document);
        true
    }

    /// A step of the background verification was made.
    pub(crate) fn scrubbed(&self, step: &Scrubbed, now_us: u64) {
        let mut state = self.state();
        state.verified_bytes += step.bytes;
        state.verified_records += step.records;
        if step.is_round_done {
            state.rounds += 1;
            state.last_round_us = Some(now_us);
        }
    }

    pub(crate) fn document(&self) -> Option<StoreHealthDocument> {
        let state = self.state();
        let damaged_records = state.damages.len() as u64 + state.unlisted;
        let is_quiet = damaged_records + state.rounds + state.verified_records == 0;
        if is_quiet && state.found_at_start.is_empty() {
            return None;
        }
        Some(StoreHealthDocument {
            damaged_records,
            damages: state.damages.values().cloned().collect(),
            scrubbed_bytes: state.verified_bytes,
            scrubbed_records: state.verified_records,
            scrub_rounds: state.rounds,
            last_scrub_at: state.last_round_us.map(rfc3339),
            found_at_start: state.found_at_start.clone(),
        })
    }
}
