//! A disk in memory: what a node was told to keep, and how the node finds it again.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_engine::{Recovered, StoreOp, StoredRecord, StreamId, StreamSummary};

/// What a disk holds.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) records: BTreeMap<(StreamId, u64), StoredRecord>,
    pub(crate) state: BTreeMap<Bytes, Bytes>,
}

impl Disk {
    pub(crate) fn apply(&mut self, ops: Vec<StoreOp>) {
        for op in ops {
            match op {
                StoreOp::Put {
                    stream,
                    position,
                    head,
                    body,
                } => {
                    let record = StoredRecord {
                        position,
                        head,
                        body,
                    };
                    let before = self.records.insert((stream, position), record);
                    assert!(before.is_none(), "a position is used once");
                }
                StoreOp::Remove {
                    stream,
                    first,
                    last,
                } => {
                    // Only what is removed is looked at: with thousands of messages a walk over all
                    // of them for each would take longer than what the engine does.
                    let gone = self.records.range((stream, first)..=(stream, last));
                    for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
                        self.records.remove(&key);
                    }
                }
                StoreOp::Set { key, value } => {
                    self.state.insert(key, value);
                }
                StoreOp::Unset { key } => {
                    self.state.remove(&key);
                }
            }
        }
    }

    /// So many records of a stream and bytes of them at most, from a position on; one in any case.
    pub(crate) fn load(
        &self,
        stream: StreamId,
        from: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Vec<StoredRecord> {
        let mut bytes = 0;
        let records = self.records.range((stream, from)..=(stream, u64::MAX));
        let records = records.map(|(_, record)| record.clone()).take(records_max);
        let fits = |record: &StoredRecord| {
            let first = bytes == 0;
            bytes += record.head.len() + record.body.len();
            first || bytes <= bytes_max
        };
        records.take_while(fits).collect()
    }

    /// What a node is told at its start that finds this disk.
    pub(crate) fn recovered(&self) -> Recovered {
        let mut recovered = Recovered {
            state: self.state.clone(),
            ..Recovered::default()
        };
        for ((stream, position), record) in &self.records {
            let summary = recovered
                .streams
                .entry(*stream)
                .or_insert_with(|| StreamSummary {
                    first_live: *position,
                    ..StreamSummary::default()
                });
            summary.next_position = position + 1;
            summary.live_records += 1;
            summary.live_bytes += (record.head.len() + record.body.len()) as u64;
            recovered.recent.push((*stream, record.head.clone()));
        }
        recovered
    }
}
