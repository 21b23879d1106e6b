//! Receiving, settling, peeking.

use std::time::Duration;

use qm_client::ReceiveOptions;
use qm_wire::local::Verdict;

use crate::support::Node;

#[tokio::test]
async fn a_received_message_is_consumed() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = "orders".parse().unwrap();
    let options = ReceiveOptions::new().wait(Duration::from_secs(9));
    let script = async {
        let receive = link.receive().await;
        assert_eq!(receive.messages_max, 1);
        assert!(receive.wait_ms > 8_000 && receive.wait_ms <= 9_000);
        link.deliver(receive.request, 42, "hello").await;
        link.done(receive.request, 1).await;
    };
    let (delivery, ()) = tokio::join!(client.receive(&queue, &options), script);
    let delivery = delivery.unwrap().unwrap();
    assert_eq!(
        (&**delivery.body(), delivery.lookup_id()),
        (&b"hello"[..], 42)
    );
    assert_eq!(delivery.label(), "a label");
    let script = async {
        let settle = link.settle().await;
        assert_eq!(
            (settle.verdict, &settle.ranges[..]),
            (Verdict::Consume, &[(42, 42)][..])
        );
        link.settled(settle.request, 1).await;
    };
    let (consumed, ()) = tokio::join!(delivery.consume(), script);
    consumed.unwrap();
}
