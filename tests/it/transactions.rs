//! Transactions and leases with the real program: commands that are killed in the middle, commands
//! that fail, a node that is killed.

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use qm_client::blocking::Client;
use qm_client::{Message, ReceiveOptions};
use serde_json::Value;

use crate::program::{Program, eventually};

fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("line {n}\n")).collect()
}

fn peek(node: &Program, queue: &str) -> Vec<Value> {
    let Output { stdout, .. } = node
        .command(&["--json", "peek", queue, "--count", "2000"])
        .output()
        .unwrap();
    let text = String::from_utf8(stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn error_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("no error document: {text}"))
}

#[test]
fn a_thousand_lines_are_sent_together_or_not_at_all() {
    let node = Program::start("t");
    node.done(&["queue", "create", "orders"]);
    let args = ["send", "orders", "--lines", "-", "--transaction"];
    let mut sender = node
        .command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = sender.stdin.take().unwrap();
    stdin.write_all(lines(0, 1_000).as_bytes()).unwrap();
    stdin.flush().unwrap();
    eventually("all lines are read, and their end is not there", || {
        (rustix::io::ioctl_fionread(&stdin).unwrap() == 0).then_some(())
    });
    sender.kill().unwrap();
    sender.wait().unwrap();
    drop(stdin);
    assert!(peek(&node, "orders").is_empty());
    let file = node.file("lines");
    std::fs::write(&file, lines(0, 1_000)).unwrap();
    let file = file.to_str().unwrap();
    let key = [
        "send",
        "orders",
        "--lines",
        file,
        "--transaction",
        "--idempotency-key",
        "k",
    ];
    let sent = String::from_utf8(node.done(&key)).unwrap();
    assert_eq!(sent.lines().count(), 1_000);
    // Repeated by another process, the same ids.
    let again = node.document(&key);
    assert_eq!(
        (&again["messages"], &again["repeated"]),
        (&1_000.into(), &true.into())
    );
    assert_eq!(again["ids"][999], sent.lines().last().unwrap());
    let bodies: Vec<_> = peek(&node, "orders")
        .iter()
        .map(|m| m["body"].clone())
        .collect();
    let expected: Vec<Value> = (0..1_000).map(|n| format!("line {n}").into()).collect();
    assert_eq!(bodies, expected);
}

#[test]
fn a_transaction_with_one_bad_message_sends_none() {
    let node = Program::start("t");
    node.done(&["queue", "create", "exact", "--transactional"]);
    let file = node.file("lines");
    std::fs::write(&file, lines(0, 3)).unwrap();
    let file = file.to_str().unwrap();
    // Not the class that the queue takes.
    let args = ["--json", "send", "exact", "--lines", file, "--transaction"];
    let refused = node.command(&args).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(refused.status.code(), Some(4));
    let error = error_of(&refused);
    assert_eq!(error["code"], "not_transactional_message");
    let cause = error["cause"].as_str().unwrap();
    assert!(cause.starts_with("message 1 of the transaction"), "{cause}");
    assert!(peek(&node, "exact").is_empty());
    node.done(&[
        "send",
        "exact",
        "--lines",
        file,
        "--transaction",
        "--transactional",
    ]);
    node.done(&["send", "exact", "alone", "--transactional"]);
    assert_eq!(peek(&node, "exact").len(), 4);
}

#[test]
fn a_command_that_fails_gives_its_message_back_flagged_and_counted() {
    let node = Program::start("t");
    node.done(&["queue", "create", "orders", "--max-aborts", "2"]);
    node.done(&[
        "send",
        "orders",
        "three apples",
        "--label",
        "l",
        "--property",
        "region=north",
    ]);
    let fails = [
        "--json",
        "receive",
        "orders",
        "--transaction",
        "--",
        "false",
    ];
    let failed = node
        .command(&fails)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(error_of(&failed)["code"], "command_failed");
    let back = peek(&node, "orders");
    assert_eq!(
        (&back[0]["body"], &back[0]["abort_count"]),
        (&"three apples".into(), &1.into())
    );
    let script = "cat; echo; echo $MESSAGE_ABORT_COUNT $MESSAGE_LABEL $MESSAGE_PROPERTY_region $MESSAGE_QUEUE";
    let shows = [
        "receive",
        "orders",
        "--transaction",
        "--",
        "sh",
        "-c",
        script,
    ];
    let shown = String::from_utf8(node.done(&shows)).unwrap();
    assert_eq!(shown, "three apples\n1 l north orders\n");
    assert!(peek(&node, "orders").is_empty());
    // Twice is too often for this queue.
    node.done(&["send", "orders", "bad"]);
    for _ in 0..2 {
        node.command(&fails).output().unwrap();
    }
    assert!(peek(&node, "orders").is_empty());
    assert_eq!(peek(&node, "orders:poison")[0]["body"], "bad");
    let missing = [
        "--json",
        "receive",
        "orders:poison",
        "--transaction",
        "--",
        "/no/such/program",
    ];
    let failed = node
        .command(&missing)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(error_of(&failed)["code"], "command_failed");
    assert_eq!(peek(&node, "orders:poison").len(), 1);
}

#[test]
fn a_message_in_the_hands_of_a_killed_command_comes_back() {
    let node = Program::start("t");
    node.done(&["queue", "create", "orders"]);
    node.done(&["send", "orders", "one"]);
    let mark = node.file("running");
    let script = format!("touch {}; exec sleep 60", mark.display());
    let args = [
        "receive",
        "orders",
        "--transaction",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut receiver = node.command(&args).spawn().unwrap();
    eventually("the command runs", || mark.exists().then_some(()));
    assert!(peek(&node, "orders").is_empty(), "nobody else sees it");
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    let taken = node.document(&["receive", "orders", "--wait", "10s"]);
    assert_eq!(
        (&taken["body"], &taken["abort_count"]),
        (&"one".into(), &1.into())
    );
}

#[test]
fn a_redelivery_is_flagged_after_the_node_was_killed() {
    let mut node = Program::start("t");
    node.done(&["queue", "create", "orders"]);
    let socket = node.data().join("node.sock");
    let queue = "orders".parse().unwrap();
    let options = ReceiveOptions::new().wait(Duration::from_secs(10));
    for round in 0..3_u32 {
        let client = Client::connect(&socket).unwrap();
        if round == 0 {
            client.send(Message::new("orders", "one")).unwrap();
        }
        let delivery = client.receive(&queue, &options).unwrap().unwrap();
        assert_eq!(delivery.abort_count(), round);
        node.kill();
        drop(delivery);
        node.launch();
    }
    let client = Client::connect(&socket).unwrap();
    let mut transaction = client.begin();
    let message = transaction.receive(&queue, &options).unwrap().unwrap();
    assert_eq!(message.abort_count(), 3);
    transaction.send(Message::new("orders", "two")).unwrap();
    transaction.commit().unwrap();
    node.kill();
    node.launch();
    let left = peek(&node, "orders");
    assert_eq!(
        left.len(),
        1,
        "the one is gone and the other there: {left:?}"
    );
    assert_eq!(
        (&left[0]["body"], &left[0]["abort_count"]),
        (&"two".into(), &0.into())
    );
}
