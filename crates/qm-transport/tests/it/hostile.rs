//! Peers that hold a valid key and misuse it.

use bytes::{BufMut, Bytes, BytesMut};
use qm_transport::{CloseReason, FramingError, Lane};
use qm_wire::DecodeError;
use qm_wire::limits::{CONTROL_BYTES_MAX, FRAME_BODY_BYTES_DEFAULT};

use crate::support::{Node, connect, frame, numbered, numbers};

/// Sends `frames`, which need not be any, and returns how the link ends on both sides.
async fn misbehave(lane: Lane, frames: Bytes) -> (CloseReason, CloseReason) {
    let (mut bad, mut good) = (Node::loopback(1).await, Node::loopback(2).await);
    let mut other = Node::loopback(3).await;
    let (to_good, to_bad) = connect(&mut bad, &mut good).await;
    let (other_to_good, _) = connect(&mut other, &mut good).await;
    bad.endpoint.send(to_good, lane, frames);
    let reasons = (good.closed(to_bad).await, bad.closed(to_good).await);
    // Nobody else suffers, and the same peer may come again.
    other
        .endpoint
        .send(other_to_good, Lane::Control, frame(b"still here"));
    assert_eq!(good.received().await.2, frame(b"still here"));
    connect(&mut bad, &mut good).await;
    reasons
}

#[tokio::test]
async fn garbage_ends_the_link() {
    let (here, there) = misbehave(Lane::Priority(2), Bytes::from(vec![0xAA; 5000])).await;
    let error = DecodeError::Invalid {
        what: "frame magic",
        value: 0xAA,
    };
    assert_eq!(here, CloseReason::Misbehaved(FramingError::Header(error)));
    assert!(matches!(there, CloseReason::Accused { reason } if reason.contains("frame magic")));
}

#[tokio::test]
async fn an_oversize_frame_ends_the_link() {
    let mut header = BytesMut::from(&frame(b"")[..8]);
    header.put_u32_le(u32::MAX);
    header.put_u32_le(0);
    let (here, there) = misbehave(Lane::Bulk, header.freeze()).await;
    let limit = FRAME_BODY_BYTES_DEFAULT as u64;
    let error = DecodeError::OverLimit {
        what: "frame length",
        value: u32::MAX.into(),
        limit,
    };
    assert_eq!(here, CloseReason::Misbehaved(FramingError::Header(error)));
    assert!(matches!(there, CloseReason::Accused { .. }));
}

#[tokio::test]
async fn a_message_too_large_for_a_steering_lane_ends_the_link() {
    let (here, _) = misbehave(Lane::Control, frame(&vec![0; CONTROL_BYTES_MAX + 1])).await;
    assert!(matches!(
        here,
        CloseReason::Misbehaved(FramingError::Header(_))
    ));
}

#[tokio::test]
async fn frames_before_the_garbage_are_delivered() {
    let (mut bad, mut good) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_good, to_bad) = connect(&mut bad, &mut good).await;
    bad.endpoint.send(to_good, Lane::Ack, numbered(0..100, 50));
    assert_eq!(numbers(good.received().await.2).next(), Some(0));
    bad.endpoint.send(
        to_good,
        Lane::Ack,
        Bytes::from_static(b"QM\x02 a later version"),
    );
    let error = DecodeError::Invalid {
        what: "frame version",
        value: 2,
    };
    let reason = CloseReason::Misbehaved(FramingError::Header(error));
    assert_eq!(good.closed(to_bad).await, reason);
}

#[tokio::test]
async fn a_lane_that_ends_inside_a_frame_is_misbehaviour() {
    let (mut bad, mut good) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_good, to_bad) = connect(&mut bad, &mut good).await;
    bad.endpoint
        .send(to_good, Lane::Control, frame(&[1; 100]).slice(..50));
    bad.endpoint.close(to_good, 0, "");
    let error = FramingError::Truncated { missing_bytes: 66 };
    assert_eq!(good.closed(to_bad).await, CloseReason::Misbehaved(error));
}
