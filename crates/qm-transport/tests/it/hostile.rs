//! Peers that hold a valid key and misuse it.

use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;

use qm_transport::{CloseReason, EndpointConfig, Event, FramingError, Lane, Limits, NodeKey};
use qm_wire::DecodeError;
use qm_wire::limits::{CONTROL_BYTES_MAX, FRAME_BODY_BYTES_DEFAULT};

use crate::support::{Node, connect, frame, numbered, numbers};

/// Opens links from `node` and never reads what comes on them.
async fn deaf(victim: &Node, seed: u8) -> (quinn::Connection, NodeKey) {
    let key = NodeKey::generate([seed; 32]);
    let at = victim.endpoint.local_addr().unwrap();
    (crate::raw::dial_as(&key, at).await.unwrap(), key)
}

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

#[tokio::test]
async fn a_peer_that_does_not_read_is_closed_and_others_are_served() {
    let config = EndpointConfig {
        unread_bytes_max: 4 << 20,
        ..EndpointConfig::default()
    };
    let mut victim = Node::loopback_with(1, config).await;
    let mut good = Node::loopback(2).await;
    let (good_to_victim, to_good) = connect(&mut good, &mut victim).await;
    let (_connection, _key) = deaf(&victim, 3).await;
    let to_deaf = victim.connected().await;
    let mut sent = 0;
    let reason = loop {
        // quinn's own windows take the first 2 MiB of a lane.
        victim
            .endpoint
            .send(to_deaf, Lane::Priority(3), frame(&vec![0; 256 << 10]));
        sent += 1;
        assert!(sent < 200, "nothing bounds it");
        // Its end is awaited as long as the link may take to pass this on.
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(1), victim.told()).await {
            let Event::Closed { link, reason } = told else {
                panic!("{told:?}");
            };
            assert_eq!(link, to_deaf);
            break reason;
        }
    };
    assert!(
        matches!(reason, CloseReason::Unread { bytes } if bytes > 4 << 20),
        "{reason:?}"
    );
    assert_eq!(victim.endpoint.queued_bytes(to_deaf), 0);
    victim
        .endpoint
        .send(to_good, Lane::Control, frame(b"hello"));
    assert_eq!(good.received().await.0, good_to_victim);
}

#[tokio::test]
async fn answers_that_are_not_read_are_bounded_lower_and_all_links_together_too() {
    let config = EndpointConfig {
        unread_bytes_total_max: 8 << 20,
        ..EndpointConfig::default()
    };
    let mut victim = Node::loopback_with(1, config).await;
    let (_first, _) = deaf(&victim, 2).await;
    let to_first = victim.connected().await;
    let (_second, _) = deaf(&victim, 3).await;
    let to_second = victim.connected().await;
    // 2 MiB are in QUIC's hands, 16 more may wait here, a message fewer than of messages.
    let answers = frame(&vec![0; 200 << 10]);
    for _ in 0..120 {
        victim
            .endpoint
            .send(to_first, Lane::Control, answers.clone());
    }
    let reason = victim.closed(to_first).await;
    assert!(matches!(reason, CloseReason::Unread { .. }), "{reason:?}");
    // Of two that together leave too much, the one with more goes.
    let (_third, _) = deaf(&victim, 4).await;
    let to_third = victim.connected().await;
    let message = frame(&vec![0; 1 << 20]);
    for _ in 0..5 {
        victim
            .endpoint
            .send(to_second, Lane::Priority(0), message.clone());
    }
    // QUIC takes its share before the next one's is compared with what is left.
    while victim.endpoint.queued_bytes(to_second) > 9 << 19 {
        tokio::task::yield_now().await;
    }
    for _ in 0..9 {
        victim
            .endpoint
            .send(to_third, Lane::Priority(0), message.clone());
    }
    let reason = victim.closed(to_third).await;
    assert!(matches!(reason, CloseReason::Unread { .. }), "{reason:?}");
    assert!(victim.endpoint.stats(to_second).is_some());
}

/// 2 MiB are in QUIC's hands; what is left is more than 1 MiB, and far from what others may leave.
#[tokio::test]
async fn a_stranger_may_leave_less_unread_than_whoever_is_trusted() {
    let config = EndpointConfig {
        stranger_window_bytes: Some(64 << 10),
        ..EndpointConfig::default()
    };
    let mut victim = Node::loopback_with(1, config).await;
    let (_trusted, _) = deaf(&victim, 2).await;
    let to_trusted = victim.connected().await;
    victim.endpoint.trust(to_trusted);
    let (_stranger, _) = deaf(&victim, 3).await;
    let to_stranger = victim.connected().await;
    let answers = frame(&vec![0; 200 << 10]);
    for _ in 0..17 {
        for link in [to_trusted, to_stranger] {
            victim.endpoint.send(link, Lane::Control, answers.clone());
        }
    }
    let reason = victim.closed(to_stranger).await;
    assert!(matches!(reason, CloseReason::Unread { .. }), "{reason:?}");
    assert!(victim.endpoint.stats(to_trusted).is_some());
    assert!(victim.endpoint.queued_bytes(to_trusted) > 1 << 20);
}

#[tokio::test]
async fn strangers_take_one_anothers_places_and_never_those_of_the_trusted() {
    let config = EndpointConfig {
        stranger_window_bytes: Some(64 << 10),
        limits: Limits {
            strangers: 3,
            ..Limits::default()
        },
        ..EndpointConfig::default()
    };
    let mut victim = Node::loopback_with(1, config).await;
    let mut good = Node::loopback(2).await;
    let (good_to_victim, to_good) = connect(&mut good, &mut victim).await;
    victim.endpoint.trust(to_good);
    let mut open = Vec::new();
    let mut links = Vec::new();
    for seed in 10..20 {
        open.push(deaf(&victim, seed).await);
        let mut closed = 0;
        loop {
            match victim.told().await {
                Event::Connected { link, .. } => {
                    links.push(link);
                    break;
                }
                Event::Closed { .. } => closed += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(closed <= 1);
    }
    let alive = |victim: &Node| {
        let lives = |link: &&qm_transport::LinkId| victim.endpoint.stats(**link).is_some();
        links.iter().filter(lives).count()
    };
    // Each that goes is told of.
    while alive(&victim) > 3 {
        let told = victim.told().await;
        assert!(matches!(told, Event::Closed { .. }), "{told:?}");
    }
    assert_eq!(alive(&victim), 3);
    assert!(
        victim.endpoint.stats(*links.last().unwrap()).is_some(),
        "the newest is let in"
    );
    good.endpoint
        .send(good_to_victim, Lane::Priority(1), frame(b"still here"));
    loop {
        match victim.told().await {
            Event::Received { link, .. } => break assert_eq!(link, to_good),
            Event::Closed { link, .. } => assert_ne!(link, to_good),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn handshakes_that_come_too_fast_wait_and_get_in_by_themselves() {
    let config = EndpointConfig {
        limits: Limits {
            handshakes_per_second_per_address: 2,
            ..Limits::default()
        },
        ..EndpointConfig::default()
    };
    let mut victim = Node::loopback_with(1, config).await;
    let began = tokio::time::Instant::now();
    let mut open = Vec::new();
    for seed in 10..20 {
        open.push(deaf(&victim, seed).await);
        victim.connected().await;
    }
    // Eight at once, then two a second.
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}
