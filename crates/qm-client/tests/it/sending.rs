//! Puts: answers, the window, lost connections, fates.

use std::time::Duration;

use qm_client::{
    Class, Client, ClientError, FateError, Follow, Incarnation, Message, Outcome, QmId, SendError,
};
use qm_wire::local::{Accepted, Fate, NodeFrame, Refused};
use tokio::time::timeout;

use crate::support::{Node, id};

const SHORT: Duration = Duration::from_millis(50);

fn message(body: &'static str) -> Message {
    Message::new("hub/orders", body)
}

#[tokio::test]
async fn an_accepted_message_has_an_id() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let sent = message("hello").label("l").property("k", "v");
    let script = async {
        let put = link.put().await;
        assert_eq!(
            (put.sequence, &*put.destination, &*put.body),
            (1, "hub/orders", &b"hello"[..])
        );
        assert_eq!(
            (&*put.label, put.properties.get("k")),
            ("l", Some(&b"v"[..]))
        );
        link.accept_puts(1, 1).await;
    };
    let (sent, ()) = tokio::join!(client.send(sent), script);
    assert_eq!(sent.unwrap(), id(101));
}

#[tokio::test]
async fn a_refused_message_says_why_and_others_are_not_affected() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let tickets = [
        client.put(message("a")).await,
        client.put(message("b")).await,
    ];
    let [a, b] = tickets.map(Result::unwrap);
    link.put().await;
    link.put().await;
    let refused = Refused {
        sequence: 1,
        outcome: Outcome::BAD_DESTINATION_NAME,
        text: "no such peer: hub".into(),
    };
    link.send(NodeFrame::Refused(refused)).await;
    link.accept_puts(2, 1).await;
    let error = a.await.unwrap_err();
    assert!(
        matches!(&error, SendError::Rejected { outcome, .. } if *outcome == Outcome::BAD_DESTINATION_NAME),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "the queue manager refused the message: 9005 bad_destination_name, no such peer: hub"
    );
    assert_eq!(b.await.unwrap(), id(102));
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let script = async {
        for sequence in 1..=3 {
            assert_eq!(link.put().await.sequence, sequence);
        }
        link.accept_puts(3, 1).await;
        link.accept_puts(1, 2).await;
    };
    let long = Message::new("q", "").label("x".repeat(250));
    let messages = [message("1"), long, message("2"), message("3")];
    let (sent, ()) = tokio::join!(client.send_batch(messages), script);
    let found: Vec<_> = sent.iter().map(|r| r.as_ref().ok().copied()).collect();
    assert_eq!(found, [Some(id(101)), None, Some(id(102)), Some(id(103))]);
    assert!(matches!(sent[1], Err(SendError::Invalid(_))));
}

#[tokio::test]
async fn unanswered_puts_are_repeated_under_their_number_on_a_new_connection() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut tickets = Vec::new();
    for body in ["a", "b", "c"] {
        tickets.push(client.put(message(body)).await.unwrap());
    }
    for _ in 0..3 {
        link.put().await;
    }
    link.accept_puts(2, 1).await;
    assert_eq!((&mut tickets[1]).await.unwrap(), id(102));
    let first = link.hello.client;
    drop(link);

    let mut link = node.accept().await;
    assert_eq!(link.hello.client, first);
    assert_eq!(
        (link.put().await.sequence, link.put().await.sequence),
        (1, 3)
    );
    let repeated = |first_sequence| Accepted {
        first_sequence,
        count: 1,
        first_id: id(100 + first_sequence),
        repeated: true,
    };
    link.send(NodeFrame::Accepted(repeated(1))).await;
    link.send(NodeFrame::Accepted(repeated(3))).await;
    assert_eq!((&mut tickets[0]).await.unwrap(), id(101));
    assert_eq!((&mut tickets[2]).await.unwrap(), id(103));
    let ticket = client.put(message("d")).await.unwrap();
    assert_eq!(link.put().await.sequence, 4);
    link.accept_puts(4, 1).await;
    assert_eq!(ticket.await.unwrap(), id(104));
}
