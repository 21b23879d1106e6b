//! Nodes that stop, crash and come back.

use std::path::Path;
use std::time::{Duration, Instant};

use qm_client::Class;
use qm_node::{Node, NodeConfig, RunError};

use crate::support::{
    Process, TestNode, free_port, is_drained, numbered, receive, send, slow_tests, texts,
};

#[test]
fn what_was_accepted_for_an_absent_peer_arrives_when_it_comes_back() {
    let (a, mut b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("orders");
    let sender = a.client();
    send(&sender, &b.queue("orders"), 0..10);
    assert_eq!(receive(&b.client(), "orders", 10), texts(0..10));
    b.stop();
    send(&sender, &b.queue("orders"), 10..40);
    b.go_on();
    assert_eq!(receive(&b.client(), "orders", 30), texts(10..40));
    assert!(is_drained(&b.client(), "orders"));
}

#[test]
fn a_restarted_sender_goes_on_with_what_it_had_accepted() {
    let (mut a, mut b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("orders");
    let to = b.queue("orders");
    b.stop();
    send(&a.client(), &to, 0..30);
    let before = a.node().qm_id();
    a.stop();
    a.go_on();
    assert_eq!(a.node().qm_id(), before);
    b.go_on();
    let receiver = b.client();
    assert_eq!(receive(&receiver, "orders", 30), texts(0..30));
    assert!(is_drained(&receiver, "orders"));
}

#[test]
fn a_backlog_beyond_memory_is_delivered_whole_and_in_order_after_a_restart() {
    if !slow_tests() {
        return;
    }
    let (mut a, mut b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("orders");
    let to = b.queue("orders");
    b.stop();
    // More than a node keeps in memory: 16 MiB.
    send(&a.client(), &to, 0..100_000);
    a.stop();
    a.go_on();
    b.go_on();
    let receiver = b.client();
    assert!(
        receive(&receiver, "orders", 100_000) == texts(0..100_000),
        "lost or out of order"
    );
    assert!(is_drained(&receiver, "orders"));
}

#[test]
fn express_messages_outlive_a_restart_of_the_receiver_while_they_wait_at_the_sender() {
    let (a, mut b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("ticks");
    let to = b.queue("ticks");
    b.stop();
    let sender = a.client();
    for result in sender.send_batch(
        numbered(&to, 0..20)
            .into_iter()
            .map(|m| m.class(Class::Express)),
    ) {
        result.unwrap();
    }
    b.go_on();
    assert_eq!(receive(&b.client(), "ticks", 20), texts(0..20));
}

#[test]
fn stored_messages_are_received_after_a_restart_and_consumed_ones_are_not() {
    let mut a = TestNode::start("a");
    a.create_queue("here");
    send(&a.client(), "here", 0..50);
    assert_eq!(receive(&a.client(), "here", 20), texts(0..20));
    a.stop();
    a.go_on();
    assert_eq!(receive(&a.client(), "here", 30), texts(20..50));
    assert!(is_drained(&a.client(), "here"));
}

#[test]
fn one_data_directory_has_one_node() {
    let a = TestNode::start("a");
    let mut config = a.config();
    config.listen.set_port(0);
    config.socket = config.data.join("other.sock");
    let error = Node::start(config).unwrap_err();
    assert_eq!(error.code(), "data_dir_locked", "{error}");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let a = TestNode::start("a");
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut NodeConfig)| {
        let mut config = NodeConfig::new(dir.path());
        config.listen.set_ip([127, 0, 0, 1].into());
        config.listen.set_port(0);
        change(&mut config);
        Node::start(config).unwrap_err()
    };
    let error = refused(&|config| config.create = false);
    assert_eq!((error.code(), error.exit_code()), ("not_initialised", 2));
    let error = refused(&|config| config.listen = a.node().listen());
    assert_eq!(error.code(), "port_in_use");
    assert!(
        error
            .to_string()
            .contains(&a.node().listen().port().to_string()),
        "{error}"
    );
    let error = refused(&|config| config.socket = Path::new("/tmp").join("x".repeat(200)));
    assert_eq!(
        (error.code(), error.exit_code()),
        ("socket_path_too_long", 2)
    );
    let error = refused(&|config| config.data = "/dev/null/data".into());
    assert_eq!(error.code(), "data_dir", "{error}");
    let error = refused(&|config| config.socket = a.node().socket().to_owned());
    assert_eq!(error.code(), "socket_in_use", "{error}");
}

#[test]
fn a_store_without_its_key_is_not_given_a_new_one() {
    let mut a = TestNode::start("a");
    a.create_queue("here");
    send(&a.client(), "here", 0..1);
    a.stop();
    let key = a.config().data.join("identity.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let error = Node::start(a.config()).unwrap_err();
    assert!(matches!(error, RunError::KeyMissing { .. }), "{error}");
    assert!(!key.exists());
    std::fs::write(&key, kept).unwrap();
    a.go_on();
    assert_eq!(receive(&a.client(), "here", 1), texts(0..1));
}

#[test]
fn a_process_told_to_stop_ends_in_order_within_seconds() {
    if !slow_tests() {
        return;
    }
    let (dir_a, dir_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at_b = free_port();
    let a = Process::start(dir_a.path(), free_port());
    let b = Process::start(dir_b.path(), at_b);
    let create = serde_json::json!({"do": "queue.create", "name": "orders"});
    crate::support::admin(&b.client(), &create);
    send(&a.client(), &format!("qm://{at_b}/orders"), 0..10);
    assert_eq!(receive(&b.client(), "orders", 10), texts(0..10));
    for (process, dir) in [(a, &dir_a), (b, &dir_b)] {
        let began = Instant::now();
        assert_eq!(process.terminate(), Some(0));
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(!dir.path().join("node.sock").exists());
    }
}

#[test]
fn killed_nodes_lose_no_recoverable_message_and_deliver_each_once() {
    if !slow_tests() {
        return;
    }
    let (dir_a, dir_b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (at_a, at_b) = (free_port(), free_port());
    let to = format!("qm://{at_b}/orders");
    let mut a = Process::start(dir_a.path(), at_a);
    let mut b = Process::start(dir_b.path(), at_b);
    crate::support::admin(
        &b.client(),
        &serde_json::json!({"do": "queue.create", "name": "orders"}),
    );
    for round in 0..6 {
        let first = round * 200;
        send(&a.client(), &to, first..first + 200);
        match round % 3 {
            0 => {
                b.kill();
                b = Process::start(dir_b.path(), at_b);
            }
            1 => {
                a.kill();
                a = Process::start(dir_a.path(), at_a);
            }
            _ => {
                a.kill();
                b.kill();
                a = Process::start(dir_a.path(), at_a);
                b = Process::start(dir_b.path(), at_b);
            }
        }
    }
    let receiver = b.client();
    let mut bodies = receive(&receiver, "orders", 1200);
    assert!(is_drained(&receiver, "orders"));
    bodies.sort_unstable_by_key(|text| text.parse::<u32>().unwrap());
    assert_eq!(bodies, texts(0..1200));
}
