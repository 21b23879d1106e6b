//! Two nodes of one process on loopback: what is sent at one is received at the other.

use qm_client::{Class, Follow, Message, Outcome, SendError};
use qm_engine::Trust;
use serde_json::json;

use crate::program::eventually;
use crate::support::{TestNode, admin, is_drained, numbered, receive, send, texts};

#[test]
fn messages_of_every_ordinary_class_arrive_once_and_in_order() {
    let (a, b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("orders");
    let (sender, receiver) = (a.client(), b.client());
    for (round, class) in [Class::Recoverable, Class::Express].into_iter().enumerate() {
        let first = u32::try_from(round).unwrap() * 500;
        let messages = numbered(&b.queue("orders"), first..first + 500);
        for result in sender.send_batch(messages.into_iter().map(|m| m.class(class))) {
            result.unwrap();
        }
        assert_eq!(receive(&receiver, "orders", 500), texts(first..first + 500));
    }
    assert!(is_drained(&receiver, "orders"));
}

#[test]
fn a_local_queue_needs_no_network() {
    let a = TestNode::start("a");
    a.create_queue("here");
    let client = a.client();
    send(&client, "here", 0..100);
    assert_eq!(receive(&client, "here", 100), texts(0..100));
    assert!(is_drained(&client, "here"));
}

#[test]
fn the_sender_hears_when_a_message_is_delivered() {
    let (a, b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("orders");
    let sender = a.client();
    let message = Message::new(b.queue("orders"), "hello").follow(Follow::Delivered);
    let mut ticket = sender.put(message).unwrap();
    let accepted = sender.wait(ticket.accepted()).unwrap();
    assert_eq!(sender.wait(ticket.delivered()).unwrap(), accepted);
    // Not before: the message is there when the sender hears of it.
    assert_eq!(
        b.admin(&json!({"do": "queue.show", "name": "orders"}))["messages"],
        1
    );
}

#[test]
fn large_bodies_travel_whole() {
    let (a, b) = (TestNode::start("a"), TestNode::start("b"));
    b.create_queue("files");
    let (sender, receiver) = (a.client(), b.client());
    let body = |n: u32| {
        char::from(b'a' + u8::try_from(n).unwrap())
            .to_string()
            .repeat(200_000)
    };
    for n in 0..20 {
        sender
            .send(Message::new(b.queue("files"), body(n)))
            .unwrap();
    }
    let expected: Vec<_> = (0..20).map(body).collect();
    assert!(receive(&receiver, "files", 20) == expected, "bodies differ");

    let limit = b.config().engine.body_bytes_max as usize;
    let refused = sender.send(Message::new(b.queue("files"), vec![0; limit + 1]));
    assert!(
        matches!(refused, Err(SendError::TooLarge { .. })),
        "{refused:?}"
    );
}

#[test]
fn both_directions_share_one_connection() {
    let (a, b) = (TestNode::start("a"), TestNode::start("b"));
    a.create_queue("replies");
    b.create_queue("orders");
    let (at_a, at_b) = (a.client(), b.client());
    send(&at_a, &b.queue("orders"), 0..50);
    assert_eq!(receive(&at_b, "orders", 50), texts(0..50));
    send(&at_b, &a.queue("replies"), 0..50);
    assert_eq!(receive(&at_a, "replies", 50), texts(0..50));
}

#[test]
fn an_unknown_sender_waits_for_approval_and_loses_nothing() {
    let a = TestNode::start("a");
    let b = TestNode::start_with("b", Trust::Approve);
    b.create_queue("orders");
    let (sender, receiver) = (a.client(), b.client());
    send(&sender, &b.queue("orders"), 0..20);
    let waiting = json!({"do": "outgoing.list"});
    eventually("the sender knows that it awaits approval", || {
        let list = admin(&sender, &waiting);
        (list["items"][0]["state"] == "pending_approval").then_some(())
    });
    assert!(is_drained(&receiver, "orders"));
    let who = a.node().qm_id().to_string();
    b.admin(&json!({"do": "peers.approve", "who": who, "name": "branch"}));
    assert_eq!(receive(&receiver, "orders", 20), texts(0..20));
    assert!(is_drained(&receiver, "orders"));
}

#[test]
fn a_message_for_a_queue_that_does_not_exist_ends_with_its_reason() {
    let (a, b) = (TestNode::start("a"), TestNode::start("b"));
    let sender = a.client();
    let message = Message::new(b.queue("nowhere"), "hello").follow(Follow::Delivered);
    let mut ticket = sender.put(message).unwrap();
    sender.wait(ticket.accepted()).unwrap();
    let error = sender.wait(ticket.delivered()).unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains(&format!("{:?}", Outcome::BAD_DESTINATION_QUEUE)),
        "{text}"
    );
}
