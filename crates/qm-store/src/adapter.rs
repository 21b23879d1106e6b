//! Between the engine's vocabulary and the store's, the same for a node and for a simulation.

use qm_engine::{StoreOp, StoredRecord};

use crate::types::{Batch, Op, Record, Recovered, RefusalsKnown, StreamId, StreamSummary};

/// The batch that makes these effects durable, all or nothing. It overtakes nothing that was
/// refused and that the engine did not know of when it gathered them.
#[must_use]
pub fn batch_of(ops: Vec<StoreOp>, refusals_known: qm_engine::RefusalsKnown) -> Batch {
    Batch {
        ops: ops.into_iter().map(op_of).collect(),
        refusals_known: Some(match refusals_known {
            qm_engine::RefusalsKnown::All(known) => RefusalsKnown::All(known),
            qm_engine::RefusalsKnown::Settling(known) => RefusalsKnown::Settling(known),
        }),
    }
}

/// The effects of a batch that was refused, as the engine handed them over.
#[must_use]
pub fn effects_of(batch: Batch) -> Vec<StoreOp> {
    batch.ops.into_iter().map(effect_of).collect()
}

/// What recovery found, as the engine is told.
#[must_use]
pub fn recovered_of(found: Recovered) -> qm_engine::Recovered {
    let streams = found.streams.into_iter();
    qm_engine::Recovered {
        streams: streams
            .map(|(stream, summary)| (id_of(stream), summary_of(summary)))
            .collect(),
        state: found.state,
        recent: found
            .recent
            .into_iter()
            .map(|put| (id_of(put.stream), put.head))
            .collect(),
    }
}

/// Records read back, as the engine is told.
#[must_use]
pub fn records_of(records: Vec<Record>) -> Vec<StoredRecord> {
    let told = |Record {
                    position,
                    head,
                    body,
                }| StoredRecord {
        position,
        head,
        body,
    };
    records.into_iter().map(told).collect()
}

/// The store's name of an engine's stream.
#[must_use]
pub const fn stream_of(stream: qm_engine::StreamId) -> StreamId {
    StreamId(stream.0)
}

const fn id_of(stream: StreamId) -> qm_engine::StreamId {
    qm_engine::StreamId(stream.0)
}

fn op_of(op: StoreOp) -> Op {
    match op {
        StoreOp::Put {
            stream,
            position,
            head,
            body,
        } => Op::Put {
            stream: stream_of(stream),
            position,
            head,
            body,
        },
        StoreOp::Remove {
            stream,
            first,
            last,
        } => Op::Remove {
            stream: stream_of(stream),
            first,
            last,
        },
        StoreOp::Set { key, value } => Op::Set { key, value },
        StoreOp::Unset { key } => Op::Unset { key },
    }
}

fn effect_of(op: Op) -> StoreOp {
    match op {
        Op::Put {
            stream,
            position,
            head,
            body,
        } => StoreOp::Put {
            stream: id_of(stream),
            position,
            head,
            body,
        },
        Op::Remove {
            stream,
            first,
            last,
        } => StoreOp::Remove {
            stream: id_of(stream),
            first,
            last,
        },
        Op::Set { key, value } => StoreOp::Set { key, value },
        Op::Unset { key } => StoreOp::Unset { key },
    }
}

/// Bytes of a record beside head and body: its header, and the padding on average.
const FRAMING_BYTES: u64 = crate::format::RECORD_BYTES as u64 + 3;

fn summary_of(summary: StreamSummary) -> qm_engine::StreamSummary {
    qm_engine::StreamSummary {
        next_position: summary.next_position,
        // In a drained stream whatever comes next is the first.
        first_live: summary.first_live.unwrap_or(summary.next_position),
        live_records: summary.live_records,
        // Heads and bodies, without the framing that the engine knows nothing of.
        live_bytes: summary
            .live_bytes
            .saturating_sub(summary.live_records.saturating_mul(FRAMING_BYTES)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Applied, MemoryStore, RecentPut, Store as _};

    #[test]
    fn effects_come_back_as_the_engine_left_them() {
        let mut store = MemoryStore::new();
        let stream = qm_engine::StreamId(9);
        let put = |position, body: &'static [u8]| StoreOp::Put {
            stream,
            position,
            head: Bytes::from_static(b"head"),
            body: Bytes::from_static(body),
        };
        let set = StoreOp::Set {
            key: "k".into(),
            value: "v".into(),
        };
        let ops = vec![put(3, b"a"), put(5, b"b"), put(7, b"c"), set];
        let remove = StoreOp::Remove {
            stream,
            first: 0,
            last: 4,
        };
        let unset = StoreOp::Unset {
            key: "never".into(),
        };
        let known = qm_engine::RefusalsKnown::All(0);
        let batches = [ops, vec![remove], vec![unset]].map(|ops| {
            let batch = batch_of(ops.clone(), known);
            assert_eq!(
                effects_of(batch.clone()),
                ops,
                "as it comes back when refused"
            );
            batch
        });
        assert_eq!(store.commit(&batches).unwrap(), [Applied::Done; 3]);

        let found = recovered_of(store.recovered());
        let summary = found.streams[&stream];
        assert_eq!(
            (
                summary.first_live,
                summary.live_records,
                summary.next_position
            ),
            (5, 2, 8)
        );
        assert_eq!(found.state, [("k".into(), "v".into())].into());

        let records = records_of(
            store
                .reader()
                .read(stream_of(stream), 6, 10, 1 << 20)
                .unwrap(),
        );
        let last = StoredRecord {
            position: 7,
            head: Bytes::from_static(b"head"),
            body: Bytes::from_static(b"c"),
        };
        assert_eq!(records, [last]);
    }

    #[test]
    fn a_drained_stream_begins_where_it_goes_on_and_recent_heads_keep_their_order() {
        let summary = StreamSummary {
            next_position: 12,
            first_live: None,
            ..Default::default()
        };
        let put = |position| {
            let head = Bytes::copy_from_slice(&[position]);
            RecentPut {
                stream: StreamId(9),
                position: position.into(),
                head,
            }
        };
        let found = Recovered {
            streams: [(StreamId(9), summary)].into(),
            recent: vec![put(11), put(10)],
            ..Recovered::default()
        };
        let told = recovered_of(found);
        let stream = qm_engine::StreamId(9);
        assert_eq!(told.streams[&stream].first_live, 12);
        let heads = [
            (stream, Bytes::from_static(&[11])),
            (stream, Bytes::from_static(&[10])),
        ];
        assert_eq!(told.recent, heads);
    }
}
