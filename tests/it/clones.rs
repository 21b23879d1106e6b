//! A machine that was used is copied, and both run: real nodes, real keys, loopback.

use serde_json::{Value, json};

use crate::support::{TestNode, eventually, receive, send, texts};

/// The alarms of a node: each an identity with its machines.
fn twins(node: &TestNode) -> Vec<Value> {
    let status = node.admin(&json!({"do": "status"}));
    status["twins"].as_array().cloned().unwrap_or_default()
}

/// Where an alarm says that machines are.
fn lives(twin: &Value) -> Vec<String> {
    let machines = twin["machines"].as_array().unwrap();
    let mut lives: Vec<String> = machines
        .iter()
        .map(|machine| machine["incarnation"].as_str().unwrap().to_owned())
        .collect();
    lives.sort();
    lives
}

#[test]
fn a_copied_data_directory_is_told_to_its_operators_and_to_the_hub() {
    let (hub, mut till) = (TestNode::start("hub"), TestNode::start("till"));
    hub.create_queue("orders");
    send(&till.client(), &hub.queue("orders"), 0..10);
    assert_eq!(receive(&hub.client(), "orders", 10), texts(0..10));
    till.stop();
    let copy = till.copy();
    till.go_on();
    assert!(twins(&hub).is_empty(), "a restart is no copy");

    send(&till.client(), &hub.queue("orders"), 10..20);
    send(&copy.client(), &hub.queue("orders"), 20..30);
    let life = |node: &TestNode| {
        let status = node.admin(&json!({"do": "status"}));
        status["incarnation"].as_str().unwrap().to_owned()
    };
    let mut both = vec![life(&till), life(&copy)];
    both.sort();
    for node in [&hub, &till, &copy] {
        let twin = eventually("the copies are noticed", || twins(node).pop());
        assert_eq!(lives(&twin), both, "{twin}");
        assert_eq!(twin["qm"], till.admin(&json!({"do": "status"}))["qm"]);
    }
    let hub_id = hub.admin(&json!({"do": "status"}))["qm"].clone();
    for node in [&till, &copy] {
        assert_eq!(twins(node)[0]["told_by"], hub_id);
    }

    // Nothing of it holds up a message.
    let mut arrived = receive(&hub.client(), "orders", 20);
    arrived.sort();
    let mut sent = texts(10..30);
    sent.sort();
    assert_eq!(arrived, sent);
}
