//! What buffers between machines say, in words that a person reads in a trace.

use bytes::Bytes;
use qm_engine::ConnId;

use qm_wire::limits::{BODY_BYTES_MAX, data_frame_bytes};
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{Envelope, MessageFlags, PeerFrame};

use crate::oracle::Put;

/// One line for every frame of a buffer. What is no frame ends it.
pub(crate) fn describe(buffer: &Bytes) -> Vec<String> {
    let mut rest = buffer.clone();
    let mut lines = Vec::new();
    while let Ok(Some(frame)) =
        PeerFrame::next(&mut rest, data_frame_bytes(BODY_BYTES_MAX as usize))
    {
        lines.push(match frame {
            PeerFrame::Data(data) => {
                let id = Envelope::decode(&data.envelope).map(|envelope| envelope.id);
                let put = Put::from_body(&data.body);
                match (id, put) {
                    (Ok(id), Some(put)) => format!(
                        "Data #{} {id} tag {} = application {} number {}",
                        data.number, data.tag, put.application, put.number
                    ),
                    _ => format!("Data #{} unreadable", data.number),
                }
            }
            PeerFrame::SessionAck(ack) => format!(
                "SessionAck {:?}{}",
                ack.ranges,
                if ack.duplicate { " duplicates" } else { "" }
            ),
            PeerFrame::Query(query) => {
                let ids: Vec<_> = query.entries.iter().map(|e| e.id.to_string()).collect();
                format!("Query void {} {}", query.void, ids.join(" "))
            }
            PeerFrame::Answer(answer) => {
                let known: Vec<_> = answer
                    .entries
                    .iter()
                    .map(|(entry, known)| format!("{} {known:?}", entry.id))
                    .collect();
                format!("Answer {}", known.join(", "))
            }
            other => format!("{other:?}"),
        });
    }
    lines
}

/// What an application asks of its machine.
pub(crate) fn describe_request(conn: ConnId, frame: &ClientFrame) -> String {
    match frame {
        ClientFrame::Put(put) => {
            let mut wishes = String::new();
            for (flag, wish) in [
                (MessageFlags::FAIL_WHEN_FULL, " fails when full"),
                (MessageFlags::DEAD_LETTER, " dead letter"),
            ] {
                if put.flags.contains(flag) {
                    wishes += wish;
                }
            }
            for (what, time) in [
                ("to reach", put.time_to_reach_queue_ms),
                ("to be received", put.time_to_be_received_ms),
            ] {
                if let Some(ms) = time {
                    wishes += &format!(" {ms} ms {what}");
                }
            }
            format!(
                "{conn:?} > Put {} {:?} {:?}{wishes} to {} = {:?}",
                put.sequence,
                put.class,
                put.priority,
                put.destination,
                Put::from_body(&put.body)
            )
        }
        other => format!("{conn:?} > {other:?}"),
    }
}

/// What its machine says to it.
pub(crate) fn describe_reply(conn: ConnId, frame: &NodeFrame) -> String {
    match frame {
        NodeFrame::Delivery(delivery) => format!(
            "{conn:?} < Delivery {:x} {:?}",
            delivery.lookup,
            Put::from_body(&delivery.body)
        ),
        other => format!("{conn:?} < {other:?}"),
    }
}
