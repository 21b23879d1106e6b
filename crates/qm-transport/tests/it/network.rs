//! The simulated network's own faults: what they do, and that QUIC lives with them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use qm_transport::Lane;
use qm_transport::memory::{Faults, Network};
use tokio::time::Instant;

use crate::support::{Node, connect, numbered, numbers};

/// Sends frames from one node to the other and waits until they are there.
async fn send_all(count: u64, body_bytes: usize, from: &mut Node, to: &mut Node) -> Duration {
    let (link, _) = connect(from, to).await;
    let start = Instant::now();
    from.endpoint
        .send(link, Lane::Priority(1), numbered(0..count, body_bytes));
    let mut next = 0;
    while next < count {
        for number in numbers(to.received().await.2) {
            assert_eq!(number, next);
            next += 1;
        }
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn turned_bits_are_noticed_and_made_good() {
    let network = Network::new(4);
    network.set_faults(Faults {
        corrupt_per_mille: 100,
        ..Faults::default()
    });
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    send_all(2000, 200, &mut a, &mut b).await;
    assert!(network.stats().corrupted > 10, "{:?}", network.stats());
}

#[tokio::test(start_paused = true)]
async fn a_narrow_path_takes_its_time_and_drops_what_waits_too_long() {
    let network = Network::new(4);
    network.set_faults(Faults {
        bytes_per_second: 100_000,
        queue_max: Duration::from_millis(100),
        ..Faults::default()
    });
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    // A million bytes.
    let took = send_all(1000, 984, &mut a, &mut b).await;
    assert!(took >= Duration::from_secs(10), "{took:?}");
    assert!(took <= Duration::from_secs(20), "{took:?}");
    assert!(network.stats().overflowed > 0, "{:?}", network.stats());
}

#[tokio::test(start_paused = true)]
async fn datagrams_that_nobody_of_us_sent_change_nothing() {
    let network = Network::new(4);
    let mut a = Node::memory(1, &network).await;
    let mut b = Node::memory(2, &network).await;
    let (at_a, at_b) = (
        a.endpoint.local_addr().unwrap(),
        b.endpoint.local_addr().unwrap(),
    );
    let (link, _) = connect(&mut a, &mut b).await;
    let stranger: SocketAddr = "192.0.2.1:53".parse().unwrap();
    let mut noise = Vec::new();
    for number in 0..400_u32 {
        let length = usize::try_from(number * 7 % 1500).unwrap();
        // Long headers, short headers, other versions of QUIC, and what is none.
        let first = [0xc0, 0x40, 0xff, 0x00][number as usize % 4];
        noise.resize(length, 0);
        noise.fill(number.to_le_bytes()[0]);
        if let Some(byte) = noise.first_mut() {
            *byte = first;
        }
        let bytes = Bytes::copy_from_slice(&noise);
        assert!(network.inject(stranger, at_b, bytes.clone()));
        // The same, as if the peer had sent it.
        assert!(network.inject(at_a, at_b, bytes));
    }
    assert!(!network.inject(at_a, stranger, Bytes::new()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    a.endpoint
        .send(link, Lane::Priority(1), numbered(0..10, 100));
    assert_eq!(numbers(b.received().await.2).count(), 10);
    assert!(b.told_now().is_none() && a.told_now().is_none());
}

/// With seeded TLS the ciphertext repeats itself, so that faults may look at the bytes.
#[cfg(feature = "simulation")]
#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let network = Network::new(seed);
            network.set_faults(Faults {
                corrupt_per_mille: 100,
                loss_per_mille: 50,
                ..Faults::default()
            });
            let mut a = Node::memory(1, &network).await;
            let mut b = Node::memory(2, &network).await;
            send_all(1000, 200, &mut a, &mut b).await;
            // Address tokens hold a date.
            tokio::time::sleep(Duration::from_secs(20)).await;
            (network.trace(), network.trace_bytes())
        })
    };
    for seed in 0..4 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).1, run(2).1);
}
