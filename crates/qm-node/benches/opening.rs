//! How long the opening of a session takes: a message of two nodes that opens one, with tokens on
//! disk at both ends, beside a message in an open session and what one flush takes. What the
//! connection below takes, the benchmark `handshake` of qm-transport compares.
//!
//! `cargo bench -p qm-node --bench opening`, optionally with the number of rounds behind `--`.
//! Everything is at one machine, over the loopback interface; the contenders take turns.
#![expect(clippy::print_stdout, reason = "a benchmark reports to its user")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use qm_client::blocking::Client;
use qm_client::{Message, ReceiveOptions};
use qm_engine::Trust;
use qm_node::{Node, QueueManager, TestNode};

/// Messages over the session that is open, in each round.
const IN_SESSION: usize = 5;

fn main() {
    let rounds = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(100);
    let hub = TestNode::start().unwrap();
    let at_hub = Client::connect(hub.socket()).unwrap();
    at_hub
        .admin(r#"{"do":"queue.create","name":"orders"}"#)
        .unwrap();

    let mut took = Took::default();
    for round in 0..=rounds {
        let flush = flush();

        let dir = tempfile::tempdir().unwrap();
        let till = till(dir.path());
        let first = carry(&till, &hub, &at_hub);
        let open: Vec<Duration> = (0..IN_SESSION)
            .map(|_| carry(&till, &hub, &at_hub))
            .collect();
        till.shutdown().unwrap();
        let again = self::till(dir.path());
        let known = carry(&again, &hub, &at_hub);
        again.shutdown().unwrap();

        // The first round warms up.
        if round > 0 {
            took.flush.push(flush);
            took.first.push(first);
            took.known.push(known);
            took.open.extend(open);
        }
    }
    took.report(rounds);
}

#[derive(Default)]
struct Took {
    flush: Vec<Duration>,
    first: Vec<Duration>,
    known: Vec<Duration>,
    open: Vec<Duration>,
}

impl Took {
    fn report(mut self, rounds: usize) {
        println!("{rounds} rounds, times in milliseconds: lower quartile, median, upper quartile");
        say("a flush of 4 KiB to the disk", &mut self.flush);
        say("message in an open session", &mut self.open);
        say("message that opens one, peer unknown", &mut self.first);
        say("message that opens one, peer known", &mut self.known);
    }
}

fn say(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |quarter: usize| {
        let index = took.len() * quarter / 4;
        took.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    println!("{what:<48} {:>7.2} {:>7.2} {:>7.2}", at(1), at(2), at(3));
}

/// What the disk takes to make one small write durable.
fn flush() -> Duration {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 4096]).unwrap();
    file.sync_data().unwrap();
    file.write_all(&[7; 4096]).unwrap();
    let start = Instant::now();
    file.sync_data().unwrap();
    start.elapsed()
}

fn till(data: &Path) -> Node {
    QueueManager::builder(data)
        .listen(loopback())
        .trust(Trust::Any)
        .configure(|config| {
            config.store.segment_bytes = 1 << 20;
            config.store.reserve_bytes = 1 << 20;
        })
        .start()
        .unwrap()
}

/// From the application at one node to the application at the other.
fn carry(from: &Node, to: &Node, at_to: &Client) -> Duration {
    let at_from = Client::connect(from.socket()).unwrap();
    let message = Message::new(format!("qm://{}/orders", to.listen()), "two teas");
    let wait = ReceiveOptions::new().wait(Duration::from_secs(30));
    let start = Instant::now();
    at_from.send(message).unwrap();
    let delivery = at_to.receive(&"orders".parse().unwrap(), &wait).unwrap();
    let took = start.elapsed();
    at_to.wait(delivery.unwrap().consume()).unwrap();
    took
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
