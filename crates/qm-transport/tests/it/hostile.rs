//! Peers that hold a valid key and misuse it.

use bytes::{BufMut, Bytes, BytesMut};
use qm_transport::{CloseReason, EndpointConfig, FramingError, Lane};

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
    let found = [0xAA; 4];
    assert_eq!(
        here,
        CloseReason::Misbehaved(FramingError::NotAFrame { found })
    );
    assert!(matches!(there, CloseReason::Accused { reason } if reason.contains("no frame header")));
}

#[tokio::test]
async fn an_oversize_frame_ends_the_link() {
    let mut header = BytesMut::from(&frame(b"")[..8]);
    header.put_u32_le(u32::MAX);
    header.put_u32_le(0);
    let (here, there) = misbehave(Lane::Bulk, header.freeze()).await;
    let max_frame_bytes = EndpointConfig::default().max_frame_bytes;
    let frame_bytes = u64::from(u32::MAX) + 16;
    let error = FramingError::TooLong {
        frame_bytes,
        max_frame_bytes,
    };
    assert_eq!(here, CloseReason::Misbehaved(error));
    assert!(matches!(there, CloseReason::Accused { .. }));
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
    let reason = good.closed(to_bad).await;
    assert_eq!(
        reason,
        CloseReason::Misbehaved(FramingError::Version { found: 2 })
    );
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
