//! Writing a lane: many small pieces in, few large ones out.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::WriteError;
use tokio::sync::mpsc;

use super::Link;
use crate::lane::Lane;

/// What is queued for a lane goes to QUIC in pieces of about this size: its send buffer looks
/// through its pieces one by one, so that many small ones cost quadratic time.
const FLUSH_BYTES: usize = 64 << 10;
/// A piece of at least this size is not worth a copy to make it larger.
const LARGE_BYTES: usize = 16 << 10;

/// One of the writers that `State::writers` counts, until it is dropped.
pub(super) struct Writer(pub(super) Arc<Link>);

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writers -= 1;
        let last = state.writers == 0;
        drop(state);
        if last {
            self.0.changed.notify_one();
        }
    }
}

/// Writes a lane until its queue is closed and the peer has everything, or the connection ends.
pub(super) async fn write_lane(
    writer: Writer,
    lane: Lane,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
) {
    let link = &writer.0;
    // The error is the connection's end, which the supervisor reports.
    let _ended: Result<(), WriteError> = async {
        let mut stream = link.connection.open_uni().await?;
        // The stream was opened a moment ago: it cannot be closed.
        stream
            .set_priority(lane.stream_priority())
            .map_err(|_e| WriteError::ClosedStream)?;
        let mut preamble = Some(lane.index());
        let mut next = None;
        while let Some(first) = match next.take() {
            Some(kept) => Some(kept),
            None => queue.recv().await,
        } {
            let (piece, kept) = gather(first, preamble.take(), &mut queue);
            next = kept;
            let bytes = piece.frame_bytes;
            for bytes in piece.chunks.into_iter().flatten() {
                stream.write_chunk(bytes).await?;
            }
            link.written(lane, bytes);
        }
        stream.finish().map_err(|_e| WriteError::ClosedStream)?;
        // Resolves when the peer has acknowledged everything; `stopped` is the end of the lane.
        drop(stream.stopped().await);
        Ok(())
    }
    .await;
}

/// What goes to QUIC at once.
struct Piece {
    /// One chunk, or the lane's preamble before a large one.
    chunks: [Option<Bytes>; 2],
    /// Bytes of it that count as queued.
    frame_bytes: u64,
}

/// Puts what is queued into one piece, up to [`FLUSH_BYTES`]; also returns what did not fit.
fn gather(
    first: Bytes,
    preamble: Option<u8>,
    queue: &mut mpsc::UnboundedReceiver<Bytes>,
) -> (Piece, Option<Bytes>) {
    let mut frame_bytes = first.len();
    let piece = |chunks, frame_bytes: usize| Piece {
        chunks,
        frame_bytes: frame_bytes as u64,
    };
    if frame_bytes >= LARGE_BYTES {
        let preamble = preamble.map(|index| Bytes::copy_from_slice(&[index]));
        return (piece([preamble, Some(first)], frame_bytes), None);
    }
    let mut more = queue.try_recv().ok();
    if more.is_none() && preamble.is_none() {
        return (piece([Some(first), None], frame_bytes), None);
    }
    let capacity = if more.is_some() {
        FLUSH_BYTES
    } else {
        frame_bytes
    };
    let mut buffer = BytesMut::with_capacity(1 + capacity);
    buffer.extend(preamble);
    buffer.extend_from_slice(&first);
    let mut kept = None;
    while let Some(frames) = more {
        if frame_bytes + frames.len() > FLUSH_BYTES {
            kept = Some(frames);
            break;
        }
        frame_bytes += frames.len();
        buffer.extend_from_slice(&frames);
        more = queue.try_recv().ok();
    }
    (piece([Some(buffer.freeze()), None], frame_bytes), kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(lengths: &[usize]) -> mpsc::UnboundedReceiver<Bytes> {
        let (sender, queue) = mpsc::unbounded_channel();
        for (number, length) in (0_u8..).zip(lengths) {
            sender.send(Bytes::from(vec![number; *length])).unwrap();
        }
        queue
    }

    /// Takes everything, as a writer does; returns the lengths handed to QUIC.
    fn drain(lengths: &[usize]) -> Vec<Vec<usize>> {
        let mut queue = queue(lengths);
        let mut preamble = Some(7);
        let (mut pieces, mut bytes, mut next) = (Vec::new(), Vec::new(), None);
        while let Some(first) = next.take().or_else(|| queue.try_recv().ok()) {
            let (piece, kept) = gather(first, preamble.take(), &mut queue);
            next = kept;
            let chunks: Vec<Bytes> = piece.chunks.into_iter().flatten().collect();
            pieces.push(chunks.iter().map(Bytes::len).collect());
            bytes.extend(chunks.concat());
        }
        let expected: Vec<u8> = (0_u8..)
            .zip(lengths)
            .flat_map(|(number, length)| vec![number; *length])
            .collect();
        assert_eq!(bytes.first(), Some(&7));
        assert!(bytes[1..] == expected, "the same bytes in the same order");
        pieces
    }

    #[test]
    fn small_pieces_are_put_together_and_large_ones_left_alone() {
        assert_eq!(drain(&[100]), [[101]]);
        assert_eq!(drain(&[100; 3]), [[301]]);
        assert_eq!(drain(&[70_000, 10, 20]), [vec![1, 70_000], vec![30]]);
        assert_eq!(drain(&[10, 70_000, 20]), [vec![11], vec![70_000], vec![20]]);
        assert_eq!(
            drain(&[15_000; 9]),
            [vec![60_001], vec![60_000], vec![15_000]]
        );
    }
}
