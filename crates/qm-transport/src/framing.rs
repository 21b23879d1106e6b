//! Cutting a lane's bytes into whole frames, with every length checked before it is believed.

use bytes::{Bytes, BytesMut};
use qm_wire::DecodeError;
use qm_wire::frame::frame_len;
use qm_wire::limits::FRAME_HEADER_BYTES;

/// Why a peer's bytes are not frames. Ends the link, never the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// The bytes where a frame must begin are no frame header, or one this node does not accept.
    #[error(
        "no acceptable frame header: {0}; the peer is no qm node, speaks another version, \
         or may send larger messages than this node accepts"
    )]
    Header(#[from] DecodeError),
    /// The lane ended inside a frame.
    #[error("the lane ended {missing_bytes} bytes before the end of a frame")]
    Truncated {
        /// Bytes that were still to come.
        missing_bytes: usize,
    },
    /// A stream announced a lane that does not exist.
    #[error("a stream announced lane {found}, which does not exist")]
    UnknownLane {
        /// The preamble byte found.
        found: u8,
    },
    /// A second stream announced a lane that is already open.
    #[error("a second stream announced lane {index}")]
    LaneTwice {
        /// The preamble byte.
        index: u8,
    },
}

/// Collects a lane's bytes and gives them back as runs of whole frames.
///
/// Every byte is copied once, out of the datagram buffer into a buffer of the frames' own size.
/// Slices of the datagram buffer would save that copy (a few per cent of a message's cost), but a
/// datagram buffer holds up to 64 KiB, so that a peer could pin a thousand times the bytes that
/// its frames are accounted for.
#[derive(Debug)]
pub(crate) struct FrameCutter {
    body_limit: usize,
    /// Bytes since the last run; begins with the first frame that is not complete.
    pending: BytesMut,
    /// Length of `pending` at which that frame is complete, or can be measured.
    wanted: usize,
}

impl FrameCutter {
    /// For frames whose body has at most `body_limit` bytes, less for those without a message.
    pub(crate) fn new(body_limit: usize) -> Self {
        Self {
            body_limit,
            pending: BytesMut::new(),
            wanted: FRAME_HEADER_BYTES,
        }
    }

    /// Takes the next bytes of the lane; returns the frames they complete, if any.
    pub(crate) fn push(&mut self, chunks: &[Bytes]) -> Result<Option<Bytes>, FramingError> {
        let incoming: usize = chunks.iter().map(Bytes::len).sum();
        // Never more than what has really arrived: an announced length costs nothing.
        self.pending.reserve(incoming);
        for chunk in chunks {
            self.pending.extend_from_slice(chunk);
        }
        if self.pending.len() < self.wanted && self.pending.len() >= FRAME_HEADER_BYTES {
            return Ok(None);
        }
        let whole = self.measure()?;
        if whole == 0 {
            return Ok(None);
        }
        let rest = BytesMut::from(self.pending.get(whole..).unwrap_or_default());
        let mut run = core::mem::replace(&mut self.pending, rest);
        run.truncate(whole);
        Ok(Some(run.freeze()))
    }

    /// The end of the lane: nothing may be left over.
    pub(crate) fn finish(&self) -> Result<(), FramingError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let missing_bytes = self.wanted.saturating_sub(self.pending.len());
        Err(FramingError::Truncated { missing_bytes })
    }

    /// Length of the whole frames at the front; sets `wanted` for the one behind them.
    fn measure(&mut self) -> Result<usize, FramingError> {
        let mut whole = 0;
        loop {
            let rest = self.pending.get(whole..).unwrap_or_default();
            let Some(length) = frame_len(rest, self.body_limit)? else {
                self.wanted = FRAME_HEADER_BYTES;
                return Ok(whole);
            };
            if rest.len() < length {
                self.wanted = length;
                return Ok(whole);
            }
            whole += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qm_wire::FrameKind;
    use qm_wire::frame::{HEADER_VERSION, MAGIC};

    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = HEADER_VERSION;
        bytes[3] = FrameKind::Data.code();
        bytes[8..12].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn refuses_what_is_no_frame() {
        let check = |bytes: &[u8]| {
            FrameCutter::new(84)
                .push(&[Bytes::copy_from_slice(bytes)])
                .unwrap_err()
        };
        let header = |error| matches!(error, FramingError::Header(_));
        // The first wrong byte suffices.
        assert!(header(check(b"x")));
        let mut other = frame(b"");
        other[2] = 2;
        assert!(header(check(&other)));
        let over = DecodeError::OverLimit {
            what: "frame length",
            value: 85,
            limit: 84,
        };
        assert_eq!(check(&frame(&[0; 85])), FramingError::Header(over));
        let mut huge = frame(b"");
        huge[8..12].copy_from_slice(&[0xff; 4]);
        assert!(header(check(&huge)));
    }

    #[test]
    fn a_length_alone_allocates_nothing() {
        let mut cutter = FrameCutter::new(1 << 30);
        let mut header = frame(b"");
        header[8..12].copy_from_slice(&((1_u32 << 30) - 16).to_le_bytes());
        assert_eq!(cutter.push(&[Bytes::from(header)]), Ok(None));
        assert!(cutter.pending.capacity() < 1024);
        let missing_bytes = (1 << 30) - 16;
        assert_eq!(
            cutter.finish(),
            Err(FramingError::Truncated { missing_bytes })
        );
    }

    proptest! {
        /// However the bytes are cut on the way, the same frames come out, whole and in order.
        #[test]
        fn any_chunking_gives_the_same_frames(
            bodies in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..80),
                0..40,
            ),
            cuts in proptest::collection::vec(1_usize..200, 1..60),
            group in 1_usize..5,
        ) {
            let sent: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
            let mut chunks = Vec::new();
            let mut rest = sent.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, behind) = rest.split_at((*cut).min(rest.len()));
                chunks.push(Bytes::copy_from_slice(chunk));
                rest = behind;
            }
            let mut cutter = FrameCutter::new(80);
            let mut received = Vec::new();
            for group in chunks.chunks(group) {
                if let Some(run) = cutter.push(group).unwrap() {
                    let mut alone = FrameCutter::new(80);
                    let cut = alone.push(std::slice::from_ref(&run)).unwrap();
                    prop_assert_eq!(cut, Some(run.clone()));
                    prop_assert_eq!(alone.finish(), Ok(()));
                    received.extend_from_slice(&run);
                }
            }
            prop_assert_eq!(cutter.finish(), Ok(()));
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn garbage_never_panics(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let mut cutter = FrameCutter::new(1000);
            for chunk in chunks {
                if cutter.push(&[Bytes::from(chunk)]).is_err() { break; }
            }
        }
    }
}
