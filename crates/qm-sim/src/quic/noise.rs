//! Datagrams that no machine of the world made.

use bytes::{BufMut, Bytes, BytesMut};
use qm_engine::{Entropy, SeededEntropy};

/// Longest datagram of noise.
const BYTES_MAX: u64 = 1_400;
/// Datagrams that begin a connection are padded to this (RFC 9000, section 14.1).
const INITIAL_BYTES: usize = 1_200;

/// One datagram: other protocols, QUIC of other versions, and what looks like ours at first.
pub(crate) fn datagram(random: &mut SeededEntropy) -> Bytes {
    let mut bytes = BytesMut::new();
    match random.next_u64() % 5 {
        0 => {}
        // A first packet of version 1, and of a version nobody knows: answered by the versions.
        1 => header(&mut bytes, 0xc0, 1, random),
        2 => header(&mut bytes, 0xc0, 0x1a2a_3a4a, random),
        // An answer to something that was never asked, in other versions.
        3 => {
            header(&mut bytes, 0x80, 0, random);
            bytes.put_u32(0x6b33_43cf);
        }
        // A packet of a connection long gone: answered by a reset.
        _ => bytes.put_u8(0x40 | random.next_u64().to_le_bytes()[0] & 0x3f),
    }
    let long = matches!(bytes.first(), Some(0xc0));
    let length = usize::try_from(random.next_u64() % BYTES_MAX).unwrap_or(0);
    let mut rest = vec![0; if long { INITIAL_BYTES } else { length }];
    random.fill(&mut rest);
    bytes.put_slice(&rest);
    bytes.freeze()
}

/// A long header with random connection ids.
fn header(bytes: &mut BytesMut, first: u8, version: u32, random: &mut SeededEntropy) {
    bytes.put_u8(first);
    bytes.put_u32(version);
    for _ in 0..2 {
        bytes.put_u8(8);
        bytes.put_u64(random.next_u64());
    }
}
