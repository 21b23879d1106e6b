//! What decoding may allocate, counted by an allocator of its own: W-LIM-1 says that a length is
//! compared with its limit and with the bytes that are there before anything is allocated.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::path::Path;

use allocation_counter::{AllocationInfo, measure};
use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{
    Class, Data, DecodeError, Envelope, Incarnation, MessageId, PeerFrame, QmId, Salt, Tag, Transit,
};

const BODY_LIMIT: usize = 8 << 20;

/// A vector in memory is at most twice as large as on the wire, and what points into the receive
/// buffer shares one small count; an error about a damaged message carries its envelope.
const fn allowed(input_bytes: usize) -> u64 {
    2 * input_bytes as u64 + 1024
}

/// Reads `input` as every kind of reader does and says what the greediest allocated.
fn decode(input: &[u8]) -> AllocationInfo {
    let readers: [fn(Bytes); 5] = [
        |mut bytes| {
            if let Ok(Some(PeerFrame::Data(data))) = PeerFrame::next(&mut bytes, BODY_LIMIT) {
                drop(data.open());
            }
        },
        |mut bytes| drop(ClientFrame::next(&mut bytes, BODY_LIMIT)),
        |mut bytes| drop(NodeFrame::next(&mut bytes, BODY_LIMIT)),
        |bytes| drop(Envelope::decode(&bytes)),
        |bytes| drop(qm_wire::Properties::from_encoded(bytes)),
    ];
    let measured = readers.map(|reader| {
        let bytes = Bytes::copy_from_slice(input);
        measure(|| reader(bytes))
    });
    measured
        .into_iter()
        .max_by_key(|info| info.bytes_total)
        .unwrap()
}

/// The same with the checksum put right.
fn decode_sealed(kind: u8, flags: u16, body: &[u8]) -> AllocationInfo {
    let mut frame = vec![b'Q', b'M', 1, kind];
    frame.extend(flags.to_le_bytes());
    frame.extend([0, 0]);
    frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    frame.extend([0; 4]);
    frame.extend(body);
    let mut from = Bytes::copy_from_slice(&frame);
    let peer = PeerFrame::next(&mut from, BODY_LIMIT).err();
    let mut from = Bytes::copy_from_slice(&frame);
    let client = ClientFrame::next(&mut from, BODY_LIMIT).err();
    let mut from = Bytes::copy_from_slice(&frame);
    let node = NodeFrame::next(&mut from, BODY_LIMIT).err();
    for wrong in [peer, client, node].into_iter().flatten() {
        if let DecodeError::Checksum { expected, .. } = wrong {
            frame[12..16].copy_from_slice(&expected.to_le_bytes());
        }
    }
    decode(&frame)
}

#[test]
fn every_vector_stays_within_the_bound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1");
    let mut vectors = 0;
    for folder in [folder.clone(), folder.join("invalid")] {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|kind| kind != "hex") {
                continue;
            }
            let digits: String = fs::read_to_string(&path)
                .unwrap()
                .split_whitespace()
                .collect();
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            let info = decode(&bytes);
            assert!(
                info.bytes_total <= allowed(bytes.len()),
                "{}: {info:?}",
                path.display()
            );
            vectors += 1;
        }
    }
    assert!(vectors > 100);
}

/// The largest counts and lengths announced, with nothing behind them.
#[test]
fn an_announcement_allocates_nothing() {
    for kind in 0..=0x8f_u8 {
        for zeros in 0..80 {
            for count in [[0xff, 0xff], [0x00, 0x10], [0x00, 0x04], [0x00, 0x01]] {
                let mut body = vec![0; zeros];
                body.extend(count);
                body.extend([0; 30]);
                let info = decode_sealed(kind, 0, &body);
                assert!(
                    info.bytes_total <= allowed(body.len()),
                    "{kind:#x} {zeros} {info:?}"
                );
            }
        }
    }
}

/// A message is handed on as slices of the receive buffer: its body is not copied once.
#[test]
fn a_large_body_is_not_copied() {
    let body = Bytes::from(vec![7; 4 << 20]);
    let id = MessageId {
        incarnation: Incarnation(1),
        sequence: 1,
    };
    let (source, salt) = (QmId::from_bytes([1; 16]), Salt([2; 16]));
    let queue = "orders".parse().unwrap();
    let mut envelope = Envelope::new(source, id, salt, Class::Recoverable, queue);
    envelope.label = "a label".into();
    envelope.body_bytes = 4 << 20;
    let mut encoded = BytesMut::new();
    envelope.encode(&mut encoded).unwrap();
    let data = Data {
        number: 1,
        tag: Tag::compute(&encoded, &salt, &body),
        transit: Transit::direct(1, 1),
        envelope: encoded.freeze(),
        body,
    };
    let mut lane = BytesMut::new();
    data.encode(&mut lane);
    let mut arrived = lane.freeze();
    let info = measure(|| {
        let frame = PeerFrame::next(&mut arrived, BODY_LIMIT).unwrap().unwrap();
        let PeerFrame::Data(data) = frame else {
            panic!("a data frame was sent")
        };
        assert_eq!(data.open().unwrap().label.as_str(), "a label");
    });
    // One count for the slices that share the buffer.
    assert!(info.bytes_total <= 64, "{info:?}");
}

proptest! {
    #[test]
    fn arbitrary_input_stays_within_the_bound(
        kind: u8,
        flags: u16,
        body in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let info = decode_sealed(kind, flags, &body);
        prop_assert!(info.bytes_total <= allowed(body.len()), "{:?}", info);
    }

    /// As many items as fit, which is where a vector in memory exceeds its bytes on the wire.
    #[test]
    fn full_lists_stay_within_the_bound(which in 0..8_usize, items in 1..4096_u16) {
        let (kind, head, item) = [
            (0x01, 26, 8),
            (0x20, 9, 16),
            (0x21, 17, 24),
            (0x22, 16, 25),
            (0x23, 17, 24),
            (0x24, 16, 27),
            (0x25, 0, 18),
            (0x45, 0, 18),
        ][which];
        let mut body = BytesMut::new();
        if kind == 0x01 {
            body.put_slice(&[1, 0, 1, 0]);
        }
        body.put_bytes(0, head - body.len());
        body.put_u16_le(items);
        for number in 1..=u64::from(items) {
            let mut bytes = vec![0; item];
            bytes[..8].copy_from_slice(&(number * 2).to_le_bytes());
            if item >= 16 {
                bytes[8..16].copy_from_slice(&(number * 2).to_le_bytes());
            }
            if kind == 0x24 {
                bytes[24] = 3;
            }
            body.put_slice(&bytes);
        }
        let info = decode_sealed(kind, 0, &body);
        prop_assert!(info.bytes_total <= allowed(body.len()), "{:#x} {:?}", kind, info);
    }
}

/// A batch as it arrives: frames behind each other in one buffer.
fn batch(messages: u64, body_bytes: usize) -> BytesMut {
    let (source, salt) = (QmId::from_bytes([1; 16]), Salt([2; 16]));
    let body = Bytes::from(vec![7; body_bytes]);
    let mut lane = BytesMut::new();
    for number in 1..=messages {
        let id = MessageId {
            incarnation: Incarnation(1),
            sequence: number,
        };
        let queue = "orders".parse().unwrap();
        let mut envelope = Envelope::new(source, id, salt, Class::Recoverable, queue);
        envelope.label = "a label of twenty-eight char".into();
        let items = [("amount", "12.50"), ("currency", "EUR"), ("till", "3")];
        envelope.properties = qm_wire::Properties::new(items).unwrap();
        envelope.body_bytes = u32::try_from(body_bytes).unwrap();
        let mut encoded = BytesMut::new();
        envelope.encode(&mut encoded).unwrap();
        let data = Data {
            number,
            tag: Tag::compute(&encoded, &salt, &body),
            transit: Transit::direct(1, 1),
            envelope: encoded.freeze(),
            body: body.clone(),
        };
        data.encode(&mut lane);
    }
    lane
}

/// The receive path allocates once for a buffer, to count who shares it, and never for a message;
/// every body and text lies where it arrived.
#[test]
fn nothing_is_allocated_for_a_message_on_the_receive_path() {
    for messages in [1, 10, 300] {
        let lane = batch(messages, 100);
        let mut arrived = lane.freeze();
        let range = arrived.as_ptr_range();
        let within = |bytes: &[u8]| {
            let part = bytes.as_ptr_range();
            range.start <= part.start && part.end <= range.end
        };
        let mut seen = 0;
        let info = measure(|| {
            while let Some(frame) = PeerFrame::next(&mut arrived, BODY_LIMIT).unwrap() {
                let PeerFrame::Data(data) = frame else {
                    panic!("data frames were sent")
                };
                let envelope = data.open().unwrap();
                assert!(within(&data.body) && within(&data.envelope));
                assert!(within(envelope.label.as_bytes()));
                assert!(within(envelope.queue.as_bytes()));
                assert!(within(envelope.properties.as_encoded()));
                let view = Envelope::view(&data.envelope).unwrap();
                assert!(within(view.label.as_bytes()));
                seen += 1;
            }
        });
        assert_eq!(seen, messages);
        assert!(info.count_total <= 1, "{messages} messages: {info:?}");
    }
}

/// Writing into a buffer that has room allocates nothing either.
#[test]
fn nothing_is_allocated_for_a_message_that_is_written_into_room() {
    let lane = batch(1, 100);
    let frame = PeerFrame::next(&mut lane.freeze(), BODY_LIMIT).unwrap();
    let Some(PeerFrame::Data(data)) = frame else {
        panic!("a data frame was sent")
    };
    let envelope = data.open().unwrap();
    let mut to = BytesMut::with_capacity(8192);
    let info = measure(|| {
        envelope.encode(&mut to).unwrap();
        data.encode(&mut to);
    });
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// The bound that the documentation states, for every kind: at most twice the frame and 64 bytes.
#[test]
fn a_frame_never_costs_more_than_twice_its_bytes() {
    for kind in qm_wire::FrameKind::ALL {
        for items in [2_u16, 256] {
            // Bytes that count up, so that ordered lists are ordered wherever they begin.
            for head in 0..50 {
                let mut body: Vec<u8> = vec![0; head];
                body.extend(items.to_le_bytes());
                for at in 0..usize::from(items).min(256) {
                    let byte = u8::try_from(at).unwrap();
                    body.extend([byte, 0, 0, 0, 0, 0, 0, 0, byte, 0, 0, 0, 0, 0, 0, 0]);
                    body.extend([0; 8]);
                }
                let info = decode_sealed(kind.code(), 0, &body);
                let bound = 2 * (body.len() as u64 + 16) + 64;
                assert!(info.bytes_total <= bound, "{kind:?} {items}: {info:?}");
            }
        }
    }
}
