//! Reading a lane: chunks in, runs of whole frames out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use qm_wire::limits::{CONTROL_BYTES_MAX, FRAME_HEADER_BYTES};
use quinn::{ReadError, RecvStream};
use tokio::sync::mpsc;

use super::{Link, tell};
use crate::event::Event;
use crate::framing::{FrameCutter, FramingError};
use crate::lane::Lane;

/// Chunks taken from QUIC at once; a chunk is one datagram's share, so this is about 64 KiB.
const CHUNKS: usize = 48;

/// Reads a lane until it or the connection ends; an error is the peer's fault.
pub(super) async fn read_lane(
    link: Arc<Link>,
    mut stream: RecvStream,
    events: mpsc::UnboundedSender<Event>,
) -> Result<(), FramingError> {
    let Some(lane) = open_lane(&link, &mut stream).await? else {
        return Ok(());
    };
    let message_bytes = link.max_frame_bytes.saturating_sub(FRAME_HEADER_BYTES);
    let (budget, body_limit) = if lane.is_steering() {
        (&link.steering, CONTROL_BYTES_MAX)
    } else {
        (&link.messages, message_bytes)
    };
    if !lane.is_steering() && !link.until_trusted().await {
        return Ok(());
    }
    let mut cutter = FrameCutter::new(body_limit);
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    loop {
        if budget.is_full() {
            tokio::select! {
                biased;
                () = budget.room() => {}
                // Nobody waits for the node to make room once the link is gone.
                _ = link.connection.closed() => return Ok(()),
            }
        }
        let read = match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => chunks.get_mut(..count).unwrap_or_default(),
            Ok(None) => return cutter.finish(),
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, link = link.id.0, "reading a lane failed");
                return Ok(());
            }
        };
        let run = cutter.push(read)?;
        read.fill(Bytes::new());
        link.tell_if_moved(&events);
        if let Some(frames) = run {
            let held = budget.hold(frames.len());
            let link = link.id;
            tell(
                &events,
                Event::Received {
                    link,
                    lane,
                    frames,
                    held,
                },
            );
        }
    }
}

/// Reads the preamble. `None` if the lane or the connection ended before it.
async fn open_lane(link: &Link, stream: &mut RecvStream) -> Result<Option<Lane>, FramingError> {
    let Ok(Some(chunk)) = stream.read_chunk(1, true).await else {
        return Ok(None);
    };
    let Some(&index) = chunk.bytes.first() else {
        return Ok(None);
    };
    let lane = Lane::from_index(index).ok_or(FramingError::UnknownLane { found: index })?;
    let bit = 1_u32 << index;
    if link.opened.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        return Err(FramingError::LaneTwice { index });
    }
    Ok(Some(lane))
}
