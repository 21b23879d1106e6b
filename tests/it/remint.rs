//! A node takes a new identity while it runs and is under load: real processes, real keys, and a
//! kill in the middle.

use std::time::Duration;

use qm_client::blocking::Client;
use qm_client::{Class, Message, ReceiveOptions};
use serde_json::{Value, json};

use crate::load::{Load, accept};
use crate::program::{Program, eventually};

/// The classes, with the queue that each fills.
const QUEUES: [(Class, &str); 3] = [
    (Class::Transactional, "orders"),
    (Class::Recoverable, "notes"),
    (Class::Express, "ticks"),
];

/// An application that sends one message of each class after the other.
fn sends(node: &Program, peer: &'static str) -> Load {
    Load::start(node, Duration::from_millis(2), move |number| {
        let round = QUEUES.map(|(class, queue)| {
            Message::new(format!("{peer}/{queue}"), number.to_string())
                .class(class)
                .idempotency_key(format!("{queue} {number}"))
        });
        round.to_vec()
    })
}

fn identity(node: &Program) -> Value {
    node.document(&["identity", "show"])
}

/// Receives and consumes everything that is there.
fn receive(node: &Program, queue: &str) -> Vec<u32> {
    let client = Client::connect(node.data().join("node.sock")).unwrap();
    let mut numbers = Vec::new();
    loop {
        let options = ReceiveOptions::new()
            .limit(500)
            .wait(Duration::from_millis(500));
        let deliveries = client.receive_batch(&queue.parse().unwrap(), &options);
        let deliveries = deliveries.unwrap();
        if deliveries.is_empty() {
            return numbers;
        }
        for delivery in deliveries {
            let body = String::from_utf8(delivery.body().to_vec()).unwrap();
            numbers.push(body.parse().unwrap());
            client.wait(delivery.consume()).unwrap();
        }
    }
}

#[test]
fn a_sender_takes_a_new_identity_under_load_and_is_killed_on_the_way() {
    let (mut a, mut b) = (Program::approving("till"), Program::approving("hub"));
    for (class, queue) in QUEUES {
        let kind: &[&str] = if class == Class::Transactional {
            &["--transactional"]
        } else {
            &[]
        };
        b.done(&[&["queue", "create", queue], kind].concat());
    }
    a.done(&["peers", "add", "hub", &b.listen.to_string()]);
    let old = identity(&a)["qm"].as_str().unwrap().to_owned();
    b.done(&["peers", "approve", &old]);

    let sending = sends(&a, "hub");
    sending.go_on(100);
    let changed = a.document(&[
        "identity",
        "remint",
        "--yes",
        "--because",
        "a copy was found",
    ]);
    let new = changed["qm"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    assert_eq!(changed["former"]["qm"], old.as_str());
    sending.go_on(100);

    // Killed while the new identity awaits approval; nothing is held up by that.
    a.kill();
    a.launch();
    sending.go_on(100);
    let delivered = b.counter("delivered");
    eventually("messages arrive under the former identity", || {
        (b.counter("delivered") > delivered).then_some(())
    });
    let now = identity(&a);
    assert_eq!(now["qm"], new.as_str());
    assert_eq!(now["former"]["destinations"][0]["switched"], false);
    let peer = eventually("the new identity asks for approval", || {
        let peers = b.ask(&json!({"do": "peers.list"}));
        let peers = peers["items"].as_array().unwrap();
        peers
            .iter()
            .find(|peer| peer["qm"] == new.as_str())
            .cloned()
    });
    assert_eq!(peer["approval"], "pending");
    assert_eq!(peer["succeeds"], old.as_str());

    b.done(&["peers", "approve", &new]);
    eventually("the destination switches", || {
        let switched = &identity(&a)["former"]["destinations"][0]["switched"];
        (*switched == true).then_some(())
    });
    sending.go_on(50);
    a.kill();
    a.launch();
    sending.go_on(100);
    let count = sending.finish();
    eventually("everything left", || {
        (a.status()["outgoing_messages"] == 0).then_some(())
    });
    assert_eq!(identity(&a)["former"]["destinations"][0]["switched"], true);

    let all: Vec<u32> = (0..count).collect();
    assert_eq!(receive(&b, "orders"), all, "once and in order");
    let mut notes = receive(&b, "notes");
    notes.sort_unstable();
    assert_eq!(notes, all);
    // A kill takes what was in memory alone, and an application repeats what it knows no answer
    // of; but the nodes double nothing of what one life accepted.
    let mut ticks = receive(&b, "ticks");
    ticks.sort_unstable();
    let received = ticks.len();
    ticks.dedup();
    assert!(
        received - ticks.len() <= 2,
        "one of each kill may be sent twice"
    );
    assert!(ticks.len() + 200 > all.len(), "{} of {count}", ticks.len());
    assert_eq!(a.status()["dead_letters"], 0);
}

#[test]
fn what_goes_to_a_node_finds_it_under_its_new_identity() {
    let (mut a, mut b) = (Program::approving("till"), Program::approving("hub"));
    a.done(&["queue", "create", "orders", "--transactional"]);
    b.done(&["peers", "add", "till", &a.listen.to_string()]);
    let hub = identity(&b)["qm"].as_str().unwrap().to_owned();
    a.done(&["peers", "approve", &hub]);
    let send = |b: &Program, numbers: std::ops::Range<u32>| {
        let message = |n: u32| {
            let message = Message::new("till/orders", n.to_string());
            message.class(Class::Transactional)
        };
        accept(&b.data().join("node.sock"), numbers.map(message).collect());
    };
    send(&b, 0..20);
    let old = identity(&a)["qm"].clone();
    let new = a.document(&["identity", "remint", "--yes"])["qm"].clone();
    send(&b, 20..40);
    a.kill();
    a.launch();
    send(&b, 40..60);
    let mut received = Vec::new();
    eventually("all of it arrives", || {
        received.extend(receive(&a, "orders"));
        (received.len() >= 60).then_some(())
    });
    assert_eq!(received, (0..60).collect::<Vec<_>>());
    assert_ne!(old, new);

    // And back: the former key is still there.
    let back = a.document(&["identity", "reclaim", "--yes"]);
    assert_eq!(back["qm"], old);
    a.stop();
    a.launch();
    assert_eq!(identity(&a)["qm"], old);
    send(&b, 60..80);
    let mut received = Vec::new();
    eventually("all of it arrives", || {
        received.extend(receive(&a, "orders"));
        (received.len() >= 20).then_some(())
    });
    assert_eq!(received, (60..80).collect::<Vec<_>>());
    b.stop();
}
