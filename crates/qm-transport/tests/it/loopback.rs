//! Real sockets on the loopback interface.

use std::collections::BTreeMap;
use std::time::Duration;

use qm_transport::{
    BindError, CloseReason, DialError, Endpoint, EndpointConfig, Event, Lane, Limits, NodeKey,
};
use qm_wire::limits::FRAME_BODY_BYTES_DEFAULT;
use tokio::sync::mpsc;

use crate::support::{Node, connect, frame, numbered, numbers};

#[tokio::test]
async fn both_know_each_other_by_key() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    a.endpoint.dial(7, &b.address(), None);
    match b.told().await {
        Event::Connected {
            peer,
            public_key,
            dial,
            remote,
            ..
        } => {
            assert_eq!(peer, a.key.qm_id());
            assert_eq!(public_key, a.key.public_key());
            assert_eq!(dial, None);
            assert_eq!(remote, a.endpoint.local_addr().unwrap());
        }
        other => panic!("{other:?}"),
    }
    match a.told().await {
        Event::Connected {
            peer, dial, remote, ..
        } => {
            assert_eq!(peer, b.key.qm_id());
            assert_eq!(dial, Some(7));
            assert_eq!(remote, b.endpoint.local_addr().unwrap());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hundred_thousand_frames_in_order_on_several_lanes() {
    const LANES: [Lane; 5] = [
        Lane::Priority(0),
        Lane::Priority(3),
        Lane::Priority(7),
        Lane::Bulk,
        Lane::Ack,
    ];
    const PER_LANE: u64 = 20_000;
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, _) = connect(&mut a, &mut b).await;
    for batch in 0..PER_LANE / 100 {
        for lane in LANES {
            a.endpoint
                .send(to_b, lane, numbered(batch * 100..(batch + 1) * 100, 84));
        }
    }
    let mut next = BTreeMap::new();
    while next.values().sum::<u64>() < PER_LANE * 5 {
        let (_, lane, frames) = b.received().await;
        let expected = next.entry(lane).or_insert(0);
        for number in numbers(frames) {
            assert_eq!(number, *expected, "on {lane:?}");
            *expected += 1;
        }
    }
    assert!(LANES.iter().all(|lane| next.get(lane) == Some(&PER_LANE)));
    assert_eq!(a.endpoint.queued_bytes(to_b), 0);
}

#[tokio::test]
async fn both_directions_over_one_link() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    for number in 0..100 {
        a.endpoint
            .send(to_b, Lane::Control, numbered(number..number + 1, 8));
        let (link, lane, frames) = b.received().await;
        assert_eq!((link, lane), (to_a, Lane::Control));
        b.endpoint.send(to_a, Lane::Ack, frames);
        let (link, lane, frames) = a.received().await;
        assert_eq!((link, lane), (to_b, Lane::Ack));
        assert_eq!(numbers(frames).collect::<Vec<_>>(), [number]);
    }
}

#[tokio::test]
async fn the_largest_frame_passes() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, _) = connect(&mut a, &mut b).await;
    let body: Vec<u8> = (0_u8..251).cycle().take(FRAME_BODY_BYTES_DEFAULT).collect();
    let sent = frame(&body);
    a.endpoint.send(to_b, Lane::Bulk, sent.clone());
    let (_, lane, frames) = b.received().await;
    assert_eq!(lane, Lane::Bulk);
    assert!(frames == sent);
}

/// Two keys: the one that the dialler expects is proven, and it dials under the one it is told.
#[tokio::test]
async fn an_endpoint_with_two_keys_proves_the_one_that_is_meant() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (old, new) = (b.key.clone(), NodeKey::generate([9; 32]));
    let both = [new.clone(), old.clone()];
    b.endpoint.set_keys(&both).unwrap();
    let ids = |event: Event| match event {
        Event::Connected { peer, own, .. } => (peer, own),
        other => panic!("{other:?}"),
    };
    let me = a.key.qm_id();
    for (dial, expected, proven) in [
        (1, Some(old.qm_id()), old.qm_id()),
        (2, Some(new.qm_id()), new.qm_id()),
        (3, None, new.qm_id()),
    ] {
        a.endpoint.dial(dial, &b.address(), expected);
        assert_eq!(ids(a.told().await), (proven, me));
        assert_eq!(ids(b.told().await), (me, proven));
    }
    for own in [old.qm_id(), new.qm_id()] {
        b.endpoint.dial_as(4, own, &a.address(), Some(me));
        assert_eq!(ids(b.told().await), (me, own));
        assert_eq!(ids(a.told().await), (own, me));
    }
    // A key that was given up is proven to nobody, and not dialled with.
    b.endpoint.set_keys(std::slice::from_ref(&new)).unwrap();
    a.endpoint.dial(5, &b.address(), Some(old.qm_id()));
    let error = a.dial_failed().await;
    assert!(matches!(error, DialError::WrongIdentity { .. }), "{error}");
    b.endpoint.dial_as(6, old.qm_id(), &a.address(), Some(me));
    let error = b.dial_failed().await;
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn wrong_identity_is_named() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let expected = NodeKey::generate([3; 32]).qm_id();
    a.endpoint.dial(5, &b.address(), Some(expected));
    let remote = b.endpoint.local_addr().unwrap();
    let found = b.key.qm_id();
    assert_eq!(
        a.dial_failed().await,
        DialError::WrongIdentity {
            remote,
            expected,
            found
        }
    );
    // The other side saw a handshake that failed, not a link.
    a.endpoint.shutdown().await;
    b.endpoint.shutdown().await;
    assert!(b.told_now().is_none());
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let mut a = Node::loopback(1).await;
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = free.local_addr().unwrap();
    drop(free);
    a.endpoint.dial(1, &remote.to_string(), None);
    assert_eq!(a.dial_failed().await, DialError::Refused { remote });
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let config = EndpointConfig {
        handshake_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let mut a = Node::loopback_with(1, config).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = silent.local_addr().unwrap();
    a.endpoint.dial(1, &remote.to_string(), None);
    assert_eq!(a.dial_failed().await, DialError::Timeout { remote });
}

#[tokio::test]
async fn bad_addresses_are_explained() {
    let mut a = Node::loopback(1).await;
    for address in [
        "",
        "nowhere",
        "host:",
        ":7000",
        "host.invalid:7000",
        "[::1:7000",
    ] {
        a.endpoint.dial(1, address, None);
        assert!(
            matches!(a.dial_failed().await, DialError::Resolve { .. }),
            "{address}"
        );
    }
    a.endpoint.dial(1, "[::1]:7000", None);
    assert!(matches!(
        a.dial_failed().await,
        DialError::Unreachable { .. }
    ));
}

#[tokio::test]
async fn names_are_resolved() {
    let (mut a, b) = (Node::loopback(1).await, Node::loopback(2).await);
    let port = b.endpoint.local_addr().unwrap().port();
    a.endpoint
        .dial(1, &format!("localhost:{port}"), Some(b.key.qm_id()));
    a.connected().await;
}

#[tokio::test]
async fn a_dual_stack_endpoint_shows_ipv4_as_ipv4() {
    let config = EndpointConfig {
        listen: "[::]:0".parse().unwrap(),
        ..Default::default()
    };
    let (events, mut told) = mpsc::unbounded_channel();
    let key = NodeKey::generate([9; 32]);
    // A machine without IPv6 cannot run this; it has nothing to get wrong either.
    let Ok(hub) = Endpoint::bind(config, &key, events).await else {
        return;
    };
    let port = hub.local_addr().unwrap().port();
    let mut a = Node::loopback(1).await;
    a.endpoint
        .dial(1, &format!("127.0.0.1:{port}"), Some(key.qm_id()));
    a.connected().await;
    match told.recv().await.unwrap() {
        Event::Connected { remote, .. } => assert_eq!(remote, a.endpoint.local_addr().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let a = Node::loopback(1).await;
    let listen = a.endpoint.local_addr().unwrap();
    let config = EndpointConfig {
        listen,
        ..EndpointConfig::default()
    };
    let (events, _told) = mpsc::unbounded_channel();
    let error = Endpoint::bind(config, &a.key, events).await.unwrap_err();
    assert!(
        matches!(error, BindError::AddressInUse { listen: at } if at == listen),
        "{error}"
    );

    let config = EndpointConfig {
        listen: "192.0.2.1:0".parse().unwrap(),
        ..Default::default()
    };
    let (events, _told) = mpsc::unbounded_channel();
    let error = Endpoint::bind(config, &a.key, events).await.unwrap_err();
    assert!(
        matches!(error, BindError::AddressNotAvailable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn close_flushes_and_carries_its_reason() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    for number in 0..1000 {
        a.endpoint
            .send(to_b, Lane::Priority(3), numbered(number..number + 1, 1000));
    }
    a.endpoint.send(to_b, Lane::Control, frame(b"goodbye"));
    a.endpoint.close(to_b, 4711, "maintenance");
    a.endpoint.close(to_b, 1, "a second reason does not count");
    a.endpoint.send(to_b, Lane::Control, frame(b"too late"));
    let reason = CloseReason::Local {
        code: 4711,
        reason: "maintenance".to_owned(),
    };
    assert_eq!(a.closed(to_b).await, reason);
    let (mut messages, mut goodbyes) = (0, 0);
    let reason = loop {
        match b.told().await {
            Event::Received {
                lane: Lane::Priority(3),
                frames,
                ..
            } => {
                messages += numbers(frames).count();
            }
            Event::Received {
                lane: Lane::Control,
                frames,
                ..
            } => {
                assert_eq!(frames, frame(b"goodbye"));
                goodbyes += 1;
            }
            Event::Closed { link, reason } if link == to_a => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((messages, goodbyes), (1000, 1));
    assert_eq!(
        reason,
        CloseReason::Peer {
            code: 4711,
            reason: "maintenance".to_owned()
        }
    );
    assert!(b.told_now().is_none(), "Closed is the last event of a link");
}

#[tokio::test]
async fn shutdown_ends_every_link_and_answers_every_dial() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    a.endpoint.send(to_b, Lane::Control, frame(b"last"));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.endpoint
        .dial(2, &silent.local_addr().unwrap().to_string(), None);
    a.endpoint.shutdown().await;
    a.endpoint.dial(3, &b.address(), None);
    let mut failed = Vec::new();
    let mut closed = None;
    while let Some(event) = a.told_now() {
        match event {
            Event::DialFailed { dial, error } => failed.push((dial, error)),
            Event::Closed { link, reason } => closed = Some((link, reason)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, [(2, DialError::ShutDown), (3, DialError::ShutDown)]);
    assert_eq!(closed, Some((to_b, CloseReason::ShutDown)));
    assert_eq!(b.received().await.2, frame(b"last"));
    assert_eq!(b.closed(to_a).await, CloseReason::PeerShutDown);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_links() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (_, to_a) = connect(&mut a, &mut b).await;
    drop(a.endpoint);
    assert_eq!(b.closed(to_a).await, CloseReason::PeerShutDown);
}

#[tokio::test]
async fn both_dial_at_once_and_get_two_links() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    a.endpoint.dial(1, &b.address(), Some(b.key.qm_id()));
    b.endpoint.dial(1, &a.address(), Some(a.key.qm_id()));
    let at_a = [a.connected().await, a.connected().await];
    let at_b = [b.connected().await, b.connected().await];
    // Both work; which one stays is decided above.
    for link in at_a {
        a.endpoint.send(link, Lane::Control, frame(b"hello"));
    }
    let mut heard = [b.received().await.0, b.received().await.0];
    heard.sort_unstable();
    let mut at_b = at_b;
    at_b.sort_unstable();
    assert_eq!(heard, at_b);
}

#[tokio::test]
async fn a_node_may_dial_itself() {
    let mut a = Node::loopback(1).await;
    a.endpoint.dial(1, &a.address(), Some(a.key.qm_id()));
    let links = [a.connected().await, a.connected().await];
    assert_ne!(links[0], links[1]);
}

#[tokio::test]
async fn links_are_limited_in_all_and_of_one_identity_and_address() {
    for limits in [
        Limits {
            links: 2,
            ..Limits::default()
        },
        Limits {
            links_per_peer: 2,
            ..Limits::default()
        },
        Limits {
            links_per_address: 2,
            ..Limits::default()
        },
    ] {
        let config = EndpointConfig {
            limits,
            ..Default::default()
        };
        let mut b = Node::loopback_with(2, config).await;
        let mut a = Node::loopback(1).await;
        let (first, _) = connect(&mut a, &mut b).await;
        connect(&mut a, &mut b).await;
        a.endpoint.dial(3, &b.address(), None);
        // One that is full turns down callers before it knows who they are.
        match a.told().await {
            Event::DialFailed { .. } => {}
            Event::Connected { link, .. } => {
                let reason = a.closed(link).await;
                let too_many = matches!(reason, CloseReason::PeerTooMany { .. });
                assert!(too_many, "{reason:?}");
            }
            other => panic!("{other:?}"),
        }
        // One that ends makes room for another.
        a.endpoint.close(first, 0, "");
        a.closed(first).await;
        assert!(matches!(b.told().await, Event::Closed { .. }));
        connect(&mut a, &mut b).await;
    }
}

#[tokio::test]
async fn dials_under_way_are_limited() {
    let config = EndpointConfig {
        handshake_timeout: Duration::from_millis(200),
        limits: Limits {
            dials: 1,
            ..Limits::default()
        },
        ..Default::default()
    };
    let mut a = Node::loopback_with(1, config).await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = silent.local_addr().unwrap();
    for _ in 0..2 {
        a.endpoint.dial(1, &remote.to_string(), None);
        a.endpoint.dial(2, &remote.to_string(), None);
        let error = a.dial_failed().await;
        assert!(matches!(error, DialError::TooMany { .. }), "{error:?}");
        // The one under way goes on, and makes room when it ends.
        assert_eq!(a.dial_failed().await, DialError::Timeout { remote });
    }
}

#[tokio::test]
async fn handshakes_under_way_are_limited() {
    let limits = Limits {
        handshakes_per_address: 1,
        ..Limits::default()
    };
    let config = EndpointConfig {
        limits,
        handshake_timeout: Duration::from_millis(300),
        ..Default::default()
    };
    let mut b = Node::loopback_with(2, config).await;
    let mut a = Node::loopback(1).await;
    // Callers beyond half the limit prove their address first, and get in.
    connect(&mut a, &mut b).await;
    for dial in 0..8 {
        a.endpoint.dial(dial, &b.address(), None);
    }
    let (mut connected, mut busy) = (0, 0);
    for _ in 0..8 {
        match a.told().await {
            Event::Connected { .. } => connected += 1,
            Event::DialFailed {
                error: DialError::Busy { .. },
                ..
            } => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        connected >= 1 && busy >= 1,
        "{connected} connected, {busy} busy"
    );
    a.endpoint.dial(9, &b.address(), None);
    a.connected().await;
}

#[tokio::test]
async fn reading_pauses_until_bytes_are_given_back() {
    let config = EndpointConfig {
        received_bytes_max: 256 << 10,
        stream_window_bytes: 256 << 10,
        connection_window_bytes: 3 << 20,
        ..Default::default()
    };
    let mut b = Node::loopback_with(2, config).await;
    let mut a = Node::loopback(1).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    let batches = 400;
    for batch in 0..batches {
        a.endpoint.send(
            to_b,
            Lane::Priority(1),
            numbered(batch * 60..(batch + 1) * 60, 1008),
        );
    }
    // The node holds on to everything: after the limit only steering lanes go on.
    let (mut kept, mut held_bytes) = (Vec::new(), 0);
    while held_bytes < 256 << 10 {
        match b.told().await {
            Event::Received { frames, held, .. } => {
                assert_eq!(held.bytes(), frames.len());
                // The event itself counts as well.
                held_bytes += held.bytes() + 256;
                kept.push((frames, held));
            }
            other => panic!("{other:?}"),
        }
    }
    // Many round trips later there is still nothing new on the message lane.
    for number in 0..50 {
        a.endpoint
            .send(to_b, Lane::Control, numbered(number..number + 1, 8));
        let (_, lane, _) = b.received().await;
        assert_eq!(lane, Lane::Control);
    }
    assert!(held_bytes < (256 << 10) + (128 << 10), "{held_bytes}");
    assert!(
        a.endpoint.queued_bytes(to_b) > 0,
        "the sender sees that its frames stay"
    );
    let mut next = 0;
    for (frames, held) in kept {
        next = numbers(frames).inspect(|_| {}).last().unwrap() + 1;
        drop(held);
    }
    while next < batches * 60 {
        for number in numbers(b.received().await.2) {
            assert_eq!(number, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn full_message_lanes_do_not_hold_back_control() {
    let config = EndpointConfig {
        received_bytes_max: 1,
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 11 * (64 << 10),
        send_window_bytes: 11 * (64 << 10),
        ..Default::default()
    };
    let mut b = Node::loopback_with(2, config.clone()).await;
    let mut a = Node::loopback_with(1, config).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    for priority in 0..8 {
        a.endpoint
            .send(to_b, Lane::Priority(priority), numbered(0..1000, 1000));
    }
    a.endpoint.send(to_b, Lane::Bulk, numbered(0..1000, 1000));
    // What b holds on to stops all nine message lanes, with every window full.
    let mut kept = Vec::new();
    for number in 0..20 {
        a.endpoint
            .send(to_b, Lane::Control, numbered(number..number + 1, 60_000));
        loop {
            match b.told().await {
                Event::Received {
                    lane: Lane::Control,
                    ..
                } => break,
                event @ Event::Received { .. } => kept.push(event),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(a.endpoint.queued_bytes(to_b) > 8_000_000);
    assert!(!kept.is_empty());
}

#[tokio::test]
async fn a_stranger_may_only_steer_until_it_is_trusted() {
    let config = EndpointConfig {
        stranger_window_bytes: Some(64 << 10),
        ..Default::default()
    };
    let mut b = Node::loopback_with(2, config).await;
    let mut a = Node::loopback(1).await;
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    a.endpoint
        .send(to_b, Lane::Priority(3), numbered(0..40, 1000));
    for number in 0..50 {
        a.endpoint
            .send(to_b, Lane::Control, numbered(number..number + 1, 20_000));
        assert_eq!(b.received().await.1, Lane::Control);
    }
    a.endpoint
        .send(to_b, Lane::Priority(3), numbered(40..4000, 1000));
    assert!(b.told_now().is_none());
    b.endpoint.trust(to_a);
    b.endpoint.trust(to_a);
    let mut next = 0;
    while next < 4000 {
        let (_, lane, frames) = b.received().await;
        assert_eq!(lane, Lane::Priority(3));
        for number in numbers(frames) {
            assert_eq!(number, next);
            next += 1;
        }
    }
    let stats = b.endpoint.stats(to_a).unwrap();
    assert_eq!(stats.peer, a.key.qm_id());
    assert!(stats.received_bytes > 5_000_000, "{stats:?}");
    a.endpoint.close(to_b, 0, "");
    b.closed(to_a).await;
    assert_eq!(b.endpoint.stats(to_a), None);
}

/// Many links come and go on several threads; every one begins once and ends once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_come_and_go() {
    const DIALS: u64 = 200;
    let limits = Limits {
        links_per_peer: 1000,
        ..Limits::default()
    };
    let config = EndpointConfig {
        limits,
        ..Default::default()
    };
    let mut b = Node::loopback_with(2, config.clone()).await;
    let mut a = Node::loopback_with(1, config).await;
    for dial in 0..DIALS {
        a.endpoint.dial(dial, &b.address(), Some(b.key.qm_id()));
    }
    let (mut dialled, mut open, mut failed) = (0, BTreeMap::new(), 0);
    while dialled + failed < DIALS || !open.is_empty() {
        match a.told().await {
            Event::Connected { link, dial, .. } => {
                assert!(open.insert(link, dial.unwrap()).is_none());
                dialled += 1;
                for lane in [Lane::Control, Lane::Priority(5), Lane::Bulk] {
                    a.endpoint.send(link, lane, numbered(0..100, 300));
                }
                a.endpoint.close(link, 9, "done");
            }
            Event::DialFailed {
                error: DialError::Busy { .. },
                ..
            } => failed += 1,
            Event::Closed { link, reason } => {
                assert!(open.remove(&link).is_some());
                assert_eq!(
                    reason,
                    CloseReason::Local {
                        code: 9,
                        reason: "done".to_owned()
                    }
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let mut frames_by_link = BTreeMap::new();
    let mut ended = 0;
    while ended < dialled {
        match b.told().await {
            Event::Connected { link, .. } => {
                assert!(frames_by_link.insert(link, 0).is_none());
            }
            Event::Received { link, frames, .. } => {
                *frames_by_link.get_mut(&link).unwrap() += numbers(frames).count();
            }
            Event::Closed { link, reason } => {
                assert_eq!(frames_by_link.remove(&link), Some(300));
                // A loaded machine may lose the one packet that carries the code; the frames,
                // which were acknowledged before it, are all there.
                let expected = CloseReason::Peer {
                    code: 9,
                    reason: "done".to_owned(),
                };
                assert!(
                    reason == expected || reason == CloseReason::Reset,
                    "{reason}"
                );
                ended += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(frames_by_link.is_empty() && b.told_now().is_none());
}

/// Whoever may share its keys with another process does not even say that it goes.
#[tokio::test]
async fn an_abandoned_endpoint_sends_nothing_more() {
    let (mut a, mut b) = (Node::loopback(1).await, Node::loopback(2).await);
    let (to_b, _) = connect(&mut a, &mut b).await;
    a.endpoint.abandon();
    a.endpoint.send(to_b, Lane::Control, numbered(0..3, 84));
    a.endpoint.dial(9, &b.address(), None);
    let heard = tokio::time::timeout(Duration::from_millis(800), b.told()).await;
    assert!(heard.is_err(), "{heard:?}");
}
