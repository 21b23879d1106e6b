//! Receiving, settling, peeking.

use std::time::Duration;

use bytes::Bytes;
use qm_client::{
    Client, ClientError, Delivery, Outcome, QueueName, ReceiveError, ReceiveOptions, SettleError,
    Verdict,
};
use qm_wire::INFINITE_MS;
use qm_wire::limits::CLIENT_REQUESTS_MAX;
use qm_wire::local::{AdminReply, ClientFrame, NodeFrame, ReceiveDone, ReceiveMode, Settled};
use tokio::time::timeout;

use crate::support::{Link, Node, delivery};

const SHORT: Duration = Duration::from_millis(50);

fn queue() -> QueueName {
    "orders".parse().unwrap()
}

/// Lets the client receive `lookups` in one batch.
async fn batch(client: &Client, link: &mut Link, lookups: &[u64]) -> Vec<Delivery> {
    let options = ReceiveOptions::new().limit(u32::try_from(lookups.len()).unwrap());
    let script = async {
        let receive = link.receive().await;
        for lookup in lookups {
            link.deliver(receive.request, *lookup, "body").await;
        }
        link.done(receive.request, receive.messages_max).await;
    };
    let queue = queue();
    let (deliveries, ()) = tokio::join!(client.receive_batch(&queue, &options), script);
    deliveries.unwrap()
}

#[tokio::test]
async fn a_received_message_is_consumed() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new()
        .wait(Duration::from_secs(9))
        .correlation_id("c")
        .after(3);
    let script = async {
        let receive = link.receive().await;
        assert_eq!((receive.messages_max, receive.mode), (1, ReceiveMode::Take));
        assert_eq!(
            (&*receive.correlation_id, receive.after),
            (&b"c"[..], Some(3))
        );
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
    assert_eq!((delivery.label(), delivery.abort_count()), ("a label", 0));
    assert_eq!(delivery.time_to_be_received_left(), None);
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

#[tokio::test]
async fn no_message_in_time_is_no_error() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new().wait(SHORT);
    let script = async {
        let receive = link.receive().await;
        // Later than the node should: its word counts, not the clock of the client.
        tokio::time::pause();
        tokio::time::advance(SHORT * 2).await;
        tokio::time::resume();
        link.done(receive.request, 0).await;
    };
    let (delivery, ()) = tokio::join!(client.receive(&queue, &options), script);
    assert!(delivery.unwrap().is_none());
}

#[tokio::test]
async fn a_refused_receive_says_why() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new();
    let script = async {
        let request = link.receive().await.request;
        let done = ReceiveDone {
            request,
            messages: 0,
            outcome: Some(Outcome::NOT_FOUND),
            text: "no queue `orders`".into(),
        };
        link.send(NodeFrame::ReceiveDone(done)).await;
    };
    let (delivery, ()) = tokio::join!(client.receive(&queue, &options), script);
    let error = delivery.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the queue manager refused to hand out messages: 9013 not_found, no queue `orders`"
    );
    let none = ReceiveOptions::new().limit(0);
    let error = client.receive_batch(&queue, &none).await.unwrap_err();
    assert!(matches!(error, ReceiveError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn verdicts_travel_together() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut deliveries = batch(&client, &mut link, &[1, 2, 3, 5, 8, 9]).await;
    drop(deliveries.pop());
    let rejected = deliveries.pop().unwrap().reject();
    let consumed: Vec<_> = deliveries.into_iter().map(Delivery::consume).collect();
    let mut settles = Vec::new();
    for _ in 0..3 {
        let settle = link.settle().await;
        link.settled(settle.request, 1).await;
        settles.push((settle.verdict, settle.ranges));
    }
    assert_eq!(
        settles,
        [
            (Verdict::Consume, vec![(1, 3), (5, 5)]),
            (Verdict::GiveBack, vec![(9, 9)]),
            (Verdict::Reject, vec![(8, 8)]),
        ]
    );
    rejected.await.unwrap();
    for settling in consumed {
        settling.await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_lease_is_told_to_whom_it_concerns() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let deliveries = batch(&client, &mut link, &[1, 2, 3]).await;
    let script = async {
        let settle = link.settle().await;
        let settled = Settled {
            request: settle.request,
            messages: 2,
            outcome: Some(Outcome::LEASE_LOST),
            text: "the lease ran out".into(),
            lost: vec![(2, 2)],
        };
        link.send(NodeFrame::Settled(settled)).await;
    };
    let (results, ()) = tokio::join!(client.settle(deliveries, Verdict::Consume), script);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(
        matches!(results[1], Err(SettleError::LeaseLost { lookup: 2, .. })),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_refused_settle_is_told() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let deliveries = batch(&client, &mut link, &[1]).await;
    let script = async {
        let settle = link.settle().await;
        let settled = Settled {
            request: settle.request,
            messages: 0,
            outcome: Some(Outcome::STORE_FAILED),
            text: "".into(),
            lost: vec![],
        };
        link.send(NodeFrame::Settled(settled)).await;
    };
    let (results, ()) = tokio::join!(client.settle(deliveries, Verdict::Consume), script);
    assert!(
        matches!(results[0], Err(SettleError::Refused { .. })),
        "{results:?}"
    );
}

#[tokio::test]
async fn what_the_disk_refused_is_told_beside_a_lost_lease() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let deliveries = batch(&client, &mut link, &[1, 2]).await;
    let script = async {
        let settle = link.settle().await;
        let settled = Settled {
            request: settle.request,
            messages: 0,
            outcome: Some(Outcome::STORE_FULL),
            text: "the disk is full".into(),
            lost: vec![(1, 1)],
        };
        link.send(NodeFrame::Settled(settled)).await;
    };
    let (results, ()) = tokio::join!(client.settle(deliveries, Verdict::Reject), script);
    assert!(
        matches!(results[0], Err(SettleError::LeaseLost { lookup: 1, .. })),
        "{results:?}"
    );
    assert!(
        matches!(
            results[1],
            Err(SettleError::Refused { outcome, .. }) if outcome == Outcome::STORE_FULL
        ),
        "{results:?}"
    );
}

#[tokio::test]
async fn many_verdicts_go_in_requests_of_bounded_size() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let lookups: Vec<u64> = (0..1500).map(|n| n * 2).collect();
    let deliveries = batch(&client, &mut link, &lookups).await;
    let script = async {
        let mut sizes = Vec::new();
        for _ in 0..2 {
            let settle = link.settle().await;
            sizes.push(settle.ranges.len());
            link.settled(settle.request, u32::try_from(settle.ranges.len()).unwrap())
                .await;
        }
        sizes
    };
    let (results, sizes) = tokio::join!(client.settle(deliveries, Verdict::Consume), script);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(sizes, [1024, 476]);
}

#[tokio::test]
async fn a_lease_does_not_outlive_its_connection() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut deliveries = batch(&client, &mut link, &[7, 8, 9]).await;
    let in_doubt = deliveries.pop().unwrap().consume();
    assert_eq!(link.settle().await.ranges, [(9, 9)]);
    drop(link);
    let error = in_doubt.await.unwrap_err();
    assert!(
        matches!(error, SettleError::OutcomeUnknown { lookup: 9, .. }),
        "{error}"
    );
    let mut link = node.accept().await;
    // The same message, leased anew: the old delivery must not settle it.
    let again = batch(&client, &mut link, &[7]).await;
    let error = deliveries.remove(0).consume().await.unwrap_err();
    assert!(
        matches!(error, SettleError::LeaseLost { lookup: 7, .. }),
        "{error}"
    );
    drop(deliveries);
    let script = async {
        let settle = link.settle().await;
        assert_eq!(
            (settle.verdict, &settle.ranges[..]),
            (Verdict::Consume, &[(7, 7)][..])
        );
        link.settled(settle.request, 1).await;
    };
    let (results, ()) = tokio::join!(client.settle(again, Verdict::Consume), script);
    assert!(results[0].is_ok());
}

#[tokio::test]
async fn a_receive_is_asked_again_on_a_new_connection() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new().wait(Duration::MAX).limit(2);
    let script = async {
        let receive = link.receive().await;
        assert_eq!(receive.wait_ms, INFINITE_MS);
        // Half of the batch is lost with its connection.
        link.deliver(receive.request, 1, "void").await;
        drop(link);
        let mut link = node.accept().await;
        let receive = link.receive().await;
        link.deliver(receive.request, 1, "one").await;
        link.deliver(receive.request, 2, "two").await;
        link.done(receive.request, 2).await;
        link
    };
    let (deliveries, mut link) = tokio::join!(client.receive_batch(&queue, &options), script);
    let deliveries = deliveries.unwrap();
    let bodies: Vec<_> = deliveries.iter().map(|d| d.body().clone()).collect();
    assert_eq!(bodies, ["one", "two"]);
    drop(deliveries);
    let settle = link.settle().await;
    assert_eq!(
        (settle.verdict, &settle.ranges[..]),
        (Verdict::GiveBack, &[(1, 2)][..])
    );
}

#[tokio::test]
async fn a_dropped_receive_stops_waiting_and_gives_back_what_came() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new().wait(Duration::MAX);
    assert!(
        timeout(SHORT, client.receive(&queue, &options))
            .await
            .is_err()
    );
    let receive = link.receive().await;
    let stop = link.receive().await;
    assert_eq!((stop.request, stop.wait_ms), (receive.request, 0));
    // It crossed the node's answer.
    link.deliver(receive.request, 4, "late").await;
    link.done(receive.request, 1).await;
    let settle = link.settle().await;
    assert_eq!(
        (settle.verdict, &settle.ranges[..]),
        (Verdict::GiveBack, &[(4, 4)][..])
    );
    link.settled(settle.request, 1).await;
    // The number is free again; the next request takes another.
    let script = async {
        let next = link.receive().await;
        assert!(next.request > settle.request);
        link.done(next.request, 0).await;
    };
    let options = ReceiveOptions::new();
    let (none, ()) = tokio::join!(client.receive(&queue, &options), script);
    assert!(none.unwrap().is_none());
}

#[tokio::test]
async fn peeking_pages_and_leases_nothing() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let script = async {
        for (after, lookups) in [(None, [1, 2]), (Some(2), [3, 4])] {
            let receive = link.receive().await;
            assert_eq!((receive.mode, receive.after), (ReceiveMode::Peek, after));
            assert_eq!(receive.wait_ms, 0);
            for lookup in lookups {
                link.deliver(receive.request, lookup, "body").await;
            }
            link.done(receive.request, 2).await;
        }
        assert!(
            timeout(SHORT, link.next()).await.is_err(),
            "nothing is to be settled"
        );
    };
    let look = async {
        let first = client.peek(&queue, &ReceiveOptions::new()).await.unwrap();
        let last = first.last().unwrap().lookup_id();
        let options = ReceiveOptions::new().after(last);
        let second = client.peek(&queue, &options).await.unwrap();
        first
            .iter()
            .chain(&second)
            .map(|m| m.lookup_id())
            .collect::<Vec<_>>()
    };
    let (seen, ()) = tokio::join!(look, script);
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_damaged_message_is_told_and_does_not_keep_others_back() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new();
    let damaged = |request, lookup| {
        let mut delivery = delivery(request, lookup, "body");
        delivery.body = Bytes::from_static(b"boby");
        NodeFrame::Delivery(delivery)
    };
    let script = async {
        let request = link.receive().await.request;
        link.send(damaged(request, 1)).await;
        link.deliver(request, 2, "fine").await;
        link.done(request, 2).await;
        // The next request overtakes the verdict on the last.
        let request = link.receive().await.request;
        let settle = link.settle().await;
        assert_eq!(
            (settle.verdict, &settle.ranges[..]),
            (Verdict::GiveBack, &[(1, 1)][..])
        );
        link.settled(settle.request, 1).await;
        link.send(damaged(request, 1)).await;
        link.done(request, 1).await;
        link.settle().await
    };
    let application = async {
        let sound = client.receive_batch(&queue, &options).await.unwrap();
        assert_eq!(sound.len(), 1);
        let error = client.receive(&queue, &options).await.unwrap_err();
        assert!(
            matches!(error, ReceiveError::Damaged { lookup: 1, .. }),
            "{error}"
        );
        sound
    };
    let (_sound, settle) = tokio::join!(application, script);
    assert_eq!(settle.ranges, [(1, 1)]);
}

#[tokio::test]
async fn deliveries_flow_in_order_and_end_with_the_client() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut deliveries = client
        .deliveries(&queue(), &ReceiveOptions::new().limit(4))
        .unwrap();
    let other = client.clone();
    let script = async {
        let (mut lookup, mut leased) = (0, 0_i64);
        loop {
            match link.next().await {
                Some(ClientFrame::Receive(receive)) if receive.wait_ms == INFINITE_MS => {
                    assert_eq!(receive.messages_max, 2);
                    if lookup >= 20 {
                        // Nothing more is there; this one waits.
                        continue;
                    }
                    for _ in 0..2 {
                        lookup += 1;
                        leased += 1;
                        link.deliver(receive.request, lookup, "body").await;
                    }
                    assert!(leased <= 5, "{leased} are leased at once");
                    link.done(receive.request, 2).await;
                }
                Some(ClientFrame::Receive(receive)) => link.done(receive.request, 0).await,
                Some(ClientFrame::Settle(settle)) => {
                    let n = settle.ranges.iter().map(|(a, b)| b - a + 1).sum::<u64>();
                    leased -= i64::try_from(n).unwrap();
                    link.settled(settle.request, u32::try_from(n).unwrap())
                        .await;
                }
                Some(other) => panic!("{other:?}"),
                None => return leased,
            }
        }
    };
    let application = async move {
        for expected in 1..=20 {
            let delivery = deliveries.next().await.unwrap().unwrap();
            assert_eq!(delivery.lookup_id(), expected);
            delivery.consume().await.unwrap();
        }
        assert!(timeout(SHORT, deliveries.next()).await.is_err());
        other.close().await;
        assert!(deliveries.next().await.is_none());
    };
    let ((), leased) = tokio::join!(application, script);
    assert_eq!(leased, 0);
}

#[tokio::test]
async fn a_receive_does_not_outwait_a_node_that_is_away() {
    let mut node = Node::new();
    let (client, mut link) = node.client().await;
    let queue = queue();
    let options = ReceiveOptions::new().wait(SHORT * 4);
    let script = async {
        link.receive().await;
        node.stop();
        drop(link);
    };
    let (delivery, ()) = tokio::join!(client.receive(&queue, &options), script);
    let error = delivery.unwrap_err();
    assert!(
        matches!(
            error,
            ReceiveError::Disconnected(ClientError::HungUp { .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn as_many_waiting_receives_as_there_may_be_hold_nothing_else_up() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let held = batch(&client, &mut link, &[1]).await.pop().unwrap();
    let waiting = |wait| {
        let client = client.clone();
        tokio::spawn(async move {
            let options = ReceiveOptions::new().wait(wait);
            client.receive(&queue(), &options).await
        })
    };
    let mut all = Vec::new();
    for _ in 0..CLIENT_REQUESTS_MAX {
        all.push(waiting(Duration::MAX));
        link.receive().await;
    }
    // One more is not sent, and does not outwait its time.
    let late = timeout(SHORT * 10, waiting(SHORT)).await.unwrap();
    let error = late.unwrap().unwrap_err();
    assert!(
        matches!(error, ReceiveError::Refused { outcome, .. } if outcome == Outcome::BUSY),
        "{error}"
    );
    let next = waiting(Duration::MAX);
    assert!(timeout(SHORT, link.next()).await.is_err());
    let script = async {
        let settle = timeout(SHORT * 10, link.settle()).await.unwrap();
        link.settled(settle.request, 1).await;
    };
    let (settled, ()) = tokio::join!(held.consume(), script);
    settled.unwrap();
    let script = async {
        match timeout(SHORT * 10, link.next()).await.unwrap() {
            Some(ClientFrame::Admin(admin)) => {
                let (request, ok, json) = (admin.request, true, Bytes::from_static(b"{}"));
                link.send(NodeFrame::AdminReply(AdminReply { request, ok, json }))
                    .await;
            }
            other => panic!("an administrative request was expected: {other:?}"),
        }
    };
    let (answer, ()) = tokio::join!(client.admin("{}"), script);
    answer.unwrap();
    // One of them is cancelled; its answer makes room for the one that waits here.
    all.remove(7).abort();
    let stop = timeout(SHORT * 10, link.receive()).await.unwrap();
    assert_eq!(stop.wait_ms, 0);
    link.done(stop.request, 0).await;
    let sent = timeout(SHORT * 10, link.receive()).await.unwrap();
    link.deliver(sent.request, 2, "body").await;
    link.done(sent.request, 1).await;
    assert!(next.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_large_body_comes_whole() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let body: Vec<u8> = (0..5_u32 << 20)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let queue = queue();
    let options = ReceiveOptions::new().wait(Duration::MAX);
    let script = async {
        let request = link.receive().await.request;
        link.send(NodeFrame::Delivery(delivery(request, 1, body.clone())))
            .await;
        link.done(request, 1).await;
    };
    let (found, ()) = tokio::join!(client.receive(&queue, &options), script);
    assert_eq!(*found.unwrap().unwrap().body(), body);
}
