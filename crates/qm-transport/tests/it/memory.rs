//! Real endpoints on the simulated network and tokio's paused clock.

use std::time::Duration;

use qm_transport::memory::{Faults, Network};
use qm_transport::{CloseReason, DialError, EndpointConfig, Event, Lane};
use tokio::time::Instant;

use crate::support::{Node, connect, frame, numbered, numbers};

/// Sends 2000 frames each way over a bad network; returns the network's digest and the time taken.
async fn bad_network(seed: u64) -> (u64, u128) {
    let network = Network::new(seed);
    network.set_faults(Faults {
        loss_per_mille: 100,
        duplicate_per_mille: 50,
        reorder_per_mille: 50,
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(15),
        ..Faults::default()
    });
    let start = Instant::now();
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    for batch in 0..20 {
        a.endpoint.send(
            to_b,
            Lane::Priority(4),
            numbered(batch * 100..(batch + 1) * 100, 200),
        );
        b.endpoint.send(
            to_a,
            Lane::Priority(2),
            numbered(batch * 100..(batch + 1) * 100, 100),
        );
    }
    for node in [&mut a, &mut b] {
        let mut next = 0;
        while next < 2000 {
            for number in numbers(node.received().await.2) {
                assert_eq!(number, next);
                next += 1;
            }
        }
    }
    a.endpoint.close(to_b, 0, "");
    b.closed(to_a).await;
    a.closed(to_b).await;
    assert!(network.stats().lost > 10, "{:?}", network.stats());
    (network.trace(), start.elapsed().as_micros())
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_in_order_over_a_bad_network() {
    for seed in 0..10 {
        bad_network(seed).await;
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(bad_network(seed))
    };
    let first = run(7);
    for _ in 0..4 {
        assert_eq!(run(7), first);
    }
    assert_ne!(run(8).0, first.0);
}

#[tokio::test(start_paused = true)]
async fn nat_rebinding_keeps_the_link() {
    let network = Network::new(1);
    let mut branch = Node::memory(1, &network).await;
    let mut hub = Node::memory(2, &network).await;
    let bound = branch.endpoint.local_addr().unwrap();
    network
        .rebind(bound, "203.0.113.7:1001".parse().unwrap())
        .unwrap();
    branch
        .endpoint
        .dial(1, &hub.address(), Some(hub.key.qm_id()));
    let (to_branch, remote) = match hub.told().await {
        Event::Connected { link, remote, .. } => (link, remote),
        other => panic!("{other:?}"),
    };
    assert_eq!(remote.to_string(), "203.0.113.7:1001");
    let to_hub = branch.connected().await;

    network
        .rebind(bound, "203.0.113.7:2002".parse().unwrap())
        .unwrap();
    branch
        .endpoint
        .send(to_hub, Lane::Control, frame(b"from the new address"));
    let mut moved = None;
    let mut heard = None;
    while moved.is_none() || heard.is_none() {
        match hub.told().await {
            Event::AddressChanged { link, remote } => moved = Some((link, remote)),
            Event::Received { link, frames, .. } => heard = Some((link, frames)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        moved,
        Some((to_branch, "203.0.113.7:2002".parse().unwrap()))
    );
    assert_eq!(heard, Some((to_branch, frame(b"from the new address"))));
    hub.endpoint
        .send(to_branch, Lane::Control, frame(b"and back"));
    assert_eq!(branch.received().await.2, frame(b"and back"));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_link_follows_its_peer_too() {
    let network = Network::new(1);
    let mut branch = Node::memory(1, &network).await;
    let mut hub = Node::memory(2, &network).await;
    let (_, to_branch) = connect(&mut branch, &mut hub).await;
    let bound = branch.endpoint.local_addr().unwrap();
    network
        .rebind(bound, "203.0.113.7:2002".parse().unwrap())
        .unwrap();
    // Nobody sends; keep-alives find the new way, and the hub learns of it.
    match hub.told().await {
        Event::AddressChanged { link, .. } => assert_eq!(link, to_branch),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_link_stays_and_a_cut_one_times_out() {
    let network = Network::new(1);
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(a.told_now().is_none() && b.told_now().is_none());
    // One direction suffices: a hears nothing more.
    let (at_a, at_b) = (
        a.endpoint.local_addr().unwrap(),
        b.endpoint.local_addr().unwrap(),
    );
    network.cut(at_b, at_a);
    let start = Instant::now();
    assert_eq!(a.closed(to_b).await, CloseReason::TimedOut);
    assert!(
        start.elapsed() <= Duration::from_secs(45),
        "{:?}",
        start.elapsed()
    );
    // b learns of it when its next packet is answered by a's stateless reset, or by silence.
    network.mend(at_b, at_a);
    assert!(matches!(
        b.closed(to_a).await,
        CloseReason::TimedOut | CloseReason::Reset
    ));
    connect(&mut a, &mut b).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_and_restarted_node_is_noticed_at_the_next_packet() {
    let network = Network::new(1);
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    network.unplug(b.endpoint.local_addr().unwrap());
    drop(b);
    let mut b = Node::memory(2, &network).await;
    let start = Instant::now();
    a.endpoint
        .send(to_b, Lane::Priority(0), numbered(0..10, 100));
    assert_eq!(a.closed(to_b).await, CloseReason::Reset);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    connect(&mut a, &mut b).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_close_is_lost_ends_soon_on_the_other_side_too() {
    let network = Network::new(1);
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, to_a) = connect(&mut a, &mut b).await;
    a.endpoint.send(to_b, Lane::Control, frame(b"goodbye"));
    b.received().await;
    a.endpoint.close(to_b, 7, "bye");
    // The end of the lane is there, the close is not: one packet, and nobody repeats it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (at_a, at_b) = (
        a.endpoint.local_addr().unwrap(),
        b.endpoint.local_addr().unwrap(),
    );
    network.cut(at_a, at_b);
    let start = Instant::now();
    assert_eq!(b.closed(to_a).await, CloseReason::Reset);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    a.closed(to_b).await;
}

#[tokio::test(start_paused = true)]
async fn dialling_nothing_times_out_and_names_are_resolved() {
    let network = Network::new(1);
    let mut a = Node::memory(1, &network).await;
    let b = Node::memory(2, &network).await;
    a.endpoint.dial(1, "10.9.9.9:7000", None);
    let remote = "10.9.9.9:7000".parse().unwrap();
    assert_eq!(a.dial_failed().await, DialError::Timeout { remote });
    a.endpoint.dial(2, "hub.example:7000", None);
    assert!(matches!(a.dial_failed().await, DialError::Resolve { .. }));
    network.name("hub.example:7000", b.endpoint.local_addr().unwrap());
    a.endpoint.dial(3, "hub.example:7000", Some(b.key.qm_id()));
    a.connected().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_bounded_when_the_peer_is_gone() {
    let network = Network::new(1);
    let config = EndpointConfig::default();
    let flush = config.flush_timeout;
    let mut a = Node::memory_with(1, &network, config).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    network.unplug(b.endpoint.local_addr().unwrap());
    a.endpoint.send(to_b, Lane::Bulk, numbered(0..1000, 1000));
    let start = Instant::now();
    a.endpoint.shutdown().await;
    assert!(start.elapsed() <= 3 * flush, "{:?}", start.elapsed());
    assert_eq!(a.closed(to_b).await, CloseReason::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn datagrams_above_the_paths_limit_do_not_stop_the_link() {
    let network = Network::new(3);
    network.set_faults(Faults {
        mtu: 1250,
        ..Faults::default()
    });
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    a.endpoint.send(to_b, Lane::Bulk, numbered(0..1000, 1000));
    let mut next = 0;
    while next < 1000 {
        next += numbers(b.received().await.2).count();
    }
    assert!(
        network.stats().blocked > 0,
        "the search for a larger size has met the limit"
    );
}

#[tokio::test(start_paused = true)]
async fn when_bandwidth_is_short_the_higher_priority_goes_first() {
    let network = Network::new(5);
    let delay = Duration::from_millis(50);
    network.set_faults(Faults {
        delay_min: delay,
        delay_max: delay,
        ..Faults::default()
    });
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (to_b, _) = connect(&mut a, &mut b).await;
    let lanes = [
        Lane::Bulk,
        Lane::Priority(1),
        Lane::Priority(6),
        Lane::Control,
    ];
    for lane in lanes {
        a.endpoint.send(to_b, lane, numbered(0..500, 1000));
    }
    let mut received = std::collections::BTreeMap::new();
    let mut finished = Vec::new();
    while finished.len() < lanes.len() {
        let (_, lane, frames) = b.received().await;
        let count = received.entry(lane).or_insert(0);
        *count += numbers(frames).count();
        if *count == 500 {
            finished.push(lane);
        }
        let lower = received.get(&Lane::Bulk).copied().unwrap_or(0);
        assert!(finished.len() >= 3 || lower < 100, "{received:?}");
    }
    assert_eq!(
        finished,
        [
            Lane::Control,
            Lane::Priority(6),
            Lane::Priority(1),
            Lane::Bulk
        ]
    );
}

/// What happened to one node, in order; the bytes of frames count by length only.
async fn live(mut node: Node, hub: &str) -> (Vec<String>, Node) {
    let mut story = Vec::new();
    let (mut dials, mut sent) = (1, 0);
    node.endpoint.dial(dials, hub, None);
    let end = Instant::now() + Duration::from_secs(36);
    loop {
        let event = tokio::select! {
            biased;
            () = tokio::time::sleep_until(end) => return (story, node),
            event = node.told() => event,
        };
        match &event {
            Event::Connected {
                link,
                dial: Some(_),
                ..
            } => {
                node.endpoint
                    .send(*link, Lane::Control, numbered(0..1, 100));
            }
            Event::Received { link, frames, .. } => {
                // An endless conversation, with another thread of it now and then.
                sent += 1;
                let more = if sent % 100 == 0 { 2 } else { 1 };
                for thread in 0..more {
                    let lane = Lane::Priority(u8::try_from((sent + thread) % 8).unwrap());
                    let length = frames.len() * 7 + usize::from(lane != Lane::Priority(0));
                    node.endpoint
                        .send(*link, lane, numbered(0..1, length % 3000));
                }
            }
            Event::DialFailed { .. } | Event::Closed { .. } => {
                dials += 1;
                let wait = Duration::from_millis(500 + 100 * (dials % 5));
                tokio::time::sleep(wait).await;
                node.endpoint.dial(dials, hub, None);
            }
            _ => {}
        }
        story.push(format!("{:?} {event:?}", end - Instant::now()));
    }
}

/// Answers what a hub hears with the same frames, for some time.
async fn echo(mut hub: Node, time: Duration) -> (Vec<String>, Node) {
    let mut story = Vec::new();
    let end = Instant::now() + time;
    loop {
        let event = tokio::select! {
            biased;
            () = tokio::time::sleep_until(end) => return (story, hub),
            event = hub.told() => event,
        };
        story.push(format!("{:?} {event:?}", end - Instant::now()));
        if let Event::Received {
            link, lane, frames, ..
        } = event
        {
            hub.endpoint.send(link, lane, frames);
        }
    }
}

/// Five nodes around a hub, with every kind of fault, for 36 seconds.
async fn troubled_hub(seed: u64) -> (u64, Vec<Vec<String>>) {
    let network = Network::new(seed);
    network.set_faults(Faults {
        loss_per_mille: 20,
        duplicate_per_mille: 10,
        reorder_per_mille: 10,
        delay_min: Duration::from_millis(20),
        delay_max: Duration::from_millis(40),
        ..Faults::default()
    });
    let seconds = Duration::from_secs;
    let config = EndpointConfig {
        idle_timeout: seconds(6),
        keep_alive: seconds(2),
        handshake_timeout: seconds(3),
        ..EndpointConfig::default()
    };
    let hub = Node::memory_with(100, &network, config.clone()).await;
    let (hub_name, hub_at) = (hub.address(), hub.endpoint.local_addr().unwrap());
    let first_life = tokio::spawn(echo(hub, seconds(24)));
    let mut lives = Vec::new();
    for number in 1..6 {
        let node = Node::memory_with(number, &network, config.clone()).await;
        let hub_name = hub_name.clone();
        lives.push(tokio::spawn(async move { live(node, &hub_name).await }));
    }
    let at = |number: u8| std::net::SocketAddr::from(([10, 0, 0, number], 7000));
    tokio::time::sleep(seconds(3)).await;
    network.cut(at(1), hub_at);
    network
        .rebind(at(2), "203.0.113.7:2002".parse().unwrap())
        .unwrap();
    tokio::time::sleep(seconds(15)).await;
    network.mend(at(1), hub_at);
    network.set_path(
        hub_at,
        at(3),
        Some(Faults {
            loss_per_mille: 500,
            ..Faults::default()
        }),
    );
    let (first_story, hub) = first_life.await.unwrap();
    network.unplug(hub_at);
    drop(hub);
    let hub = Node::memory_with(100, &network, config).await;
    let (second_story, hub) = echo(hub, seconds(12)).await;
    let mut stories = vec![first_story, second_story];
    for life in lives {
        let (story, node) = life.await.unwrap();
        stories.push(story);
        node.endpoint.shutdown().await;
    }
    hub.endpoint.shutdown().await;
    (network.trace(), stories)
}

#[test]
fn a_troubled_network_repeats_itself_event_by_event() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(troubled_hub(seed))
    };
    for seed in 1..4 {
        let (trace, stories) = run(seed);
        let again = run(seed);
        assert_eq!(again.1, stories, "seed {seed}");
        assert_eq!(again.0, trace, "seed {seed}");
        let told = stories.iter().flatten();
        for kind in ["Connected", "Received", "Closed", "AddressChanged"] {
            let count = told.clone().filter(|event| event.contains(kind)).count();
            assert!(count > 0, "seed {seed} has no {kind}");
        }
    }
}
