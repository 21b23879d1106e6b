//! Transactions: what is handed over and when, lost connections, answers that are asked for again.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use qm_client::{
    Class, Message, Outcome, Priority, QueueName, ReceiveError, ReceiveOptions, SendError,
    Transaction, TransactionError, Verdict,
};
use qm_wire::local::{ClientFrame, EndTransaction, NodeFrame, TransactionEnded};
use tokio::time::timeout;

use crate::support::{Link, Node, delivery, id};

const SHORT: Duration = Duration::from_millis(50);

fn queue() -> QueueName {
    "orders".parse().unwrap()
}

async fn end(link: &mut Link) -> EndTransaction {
    match link.next().await {
        Some(ClientFrame::EndTransaction(end)) => end,
        other => panic!("the end of a transaction was expected: {other:?}"),
    }
}

async fn committed(link: &mut Link, end: EndTransaction, repeated: bool) {
    link.send(NodeFrame::TransactionEnded(TransactionEnded {
        sequence: end.sequence,
        transaction: end.transaction,
        committed: Some(id(200)),
        repeated,
        outcome: None,
        text: qm_client::Text::EMPTY,
    }))
    .await;
}

async fn aborted(link: &mut Link, end: EndTransaction, outcome: Outcome) {
    link.send(NodeFrame::TransactionEnded(TransactionEnded {
        sequence: end.sequence,
        transaction: end.transaction,
        committed: None,
        repeated: false,
        outcome: Some(outcome),
        text: "not now".into(),
    }))
    .await;
}

#[tokio::test]
async fn nothing_leaves_before_the_commit_and_then_all_of_it() {
    let mut node = Node::new();
    // Parts of a transaction do not count towards the window (W-LOC-8).
    node.hello.window_messages = 1;
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    for body in ["a", "b", "c"] {
        transaction.send(Message::new("hub/orders", body)).unwrap();
    }
    assert!(timeout(SHORT, link.next()).await.is_err());
    let script = async {
        for (sequence, body) in [(1, "a"), (2, "b"), (3, "c")] {
            let put = link.put().await;
            assert_eq!((put.sequence, put.transaction), (sequence, Some(1)));
            assert_eq!(put.body, body);
        }
        let end = end(&mut link).await;
        assert_eq!((end.sequence, end.transaction, end.commit), (4, 1, true));
        committed(&mut link, end, false).await;
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    let done = done.unwrap();
    assert_eq!(done.ids(), [id(197), id(198), id(199)]);
    assert!(!done.repeated());
    // What comes later counts on.
    let script = async {
        assert_eq!(link.put().await.sequence, 5);
        link.accept_puts(5, 1).await;
    };
    let (sent, ()) = tokio::join!(client.send(Message::new("q", "d")), script);
    assert_eq!(sent.unwrap(), id(105));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_and_the_puts_are_not_repeated() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let script = async {
        link.put().await;
        let first = end(&mut link).await;
        drop(link);
        let mut link = node.accept().await;
        let again = end(&mut link).await;
        assert_eq!(again, first);
        committed(&mut link, again, true).await;
        link
    };
    let (done, _link) = tokio::join!(transaction.commit(), script);
    let done = done.unwrap();
    assert_eq!((done.ids(), done.repeated()), (&[id(199)][..], true));
}

#[tokio::test]
async fn what_only_sends_is_handed_over_again_when_the_connection_took_it() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let script = async {
        link.put().await;
        let first = end(&mut link).await;
        drop(link);
        let mut link = node.accept().await;
        let again = end(&mut link).await;
        assert_eq!(again, first);
        aborted(&mut link, again, Outcome::TRANSACTION_ABORTED).await;
        let put = link.put().await;
        assert_eq!((put.sequence, put.transaction), (3, Some(2)));
        let second = end(&mut link).await;
        assert_eq!((second.sequence, second.transaction), (4, 2));
        committed(&mut link, second, false).await;
        link
    };
    let (done, _link) = tokio::join!(transaction.commit(), script);
    assert_eq!(done.unwrap().ids(), [id(199)]);
}

#[tokio::test]
async fn what_the_node_does_not_commit_says_why() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let script = async {
        link.put().await;
        let end = end(&mut link).await;
        aborted(&mut link, end, Outcome::STORE_FULL).await;
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    let error = done.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the transaction was not committed: 9006 store_full, not now"
    );
}

#[tokio::test]
async fn what_was_received_goes_with_its_connection() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let options = ReceiveOptions::new();
    let script = async {
        let receive = link.receive().await;
        assert_eq!(receive.transaction, Some(1));
        link.deliver(receive.request, 42, "hello").await;
        link.done(receive.request, 1).await;
        link
    };
    let queue = queue();
    let (received, link) = tokio::join!(transaction.receive(&queue, &options), script);
    assert_eq!(received.unwrap().unwrap().body(), "hello");
    drop(link);
    let mut link = node.accept().await;
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let again = transaction.receive(&queue, &options).await.unwrap_err();
    assert!(matches!(
        again,
        ReceiveError::Refused { outcome, .. } if outcome == Outcome::TRANSACTION_ABORTED
    ));
    let error = transaction.commit().await.unwrap_err();
    assert!(
        matches!(error, TransactionError::Disconnected(_)),
        "{error}"
    );
    // Nothing of it reaches the node: there it would begin a transaction without the receive.
    assert!(timeout(SHORT, link.next()).await.is_err());
}

#[tokio::test]
async fn a_dropped_transaction_gives_back_what_it_received() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let options = ReceiveOptions::new();
    let script = async {
        let receive = link.receive().await;
        link.deliver(receive.request, 42, "hello").await;
        link.done(receive.request, 1).await;
    };
    let queue = queue();
    let (received, ()) = tokio::join!(transaction.receive(&queue, &options), script);
    assert!(received.unwrap().is_some());
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    drop(transaction);
    let end = end(&mut link).await;
    assert_eq!((end.sequence, end.transaction, end.commit), (1, 1, false));
    // One that did nothing says nothing.
    client.begin().abort().await;
    assert!(client.begin().commit().await.unwrap().ids().is_empty());
    assert!(timeout(SHORT, link.next()).await.is_err());
}

/// Commits while the answer to a cancelled receive is under way, and shows that what it brings is
/// given back before the node is told to commit.
async fn commit_behind_a_message(mut transaction: Transaction, link: &mut Link, request: u64) {
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let script = async {
        assert!(timeout(SHORT, link.next()).await.is_err());
        link.deliver(request, 42, "late").await;
        link.done(request, 1).await;
        let settle = link.settle().await;
        assert_eq!(
            (settle.verdict, &settle.ranges[..]),
            (Verdict::GiveBack, &[(42, 42)][..])
        );
        assert_eq!(link.put().await.body, "a");
        let end = end(link).await;
        assert!(end.commit);
        committed(link, end, false).await;
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    assert_eq!(done.unwrap().ids(), [id(199)]);
}

#[tokio::test]
async fn what_comes_for_a_cancelled_receive_is_given_back_before_the_commit() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let (queue, options) = (queue(), ReceiveOptions::new().wait(Duration::MAX));
    let receive = tokio::select! {
        _ = transaction.receive(&queue, &options) => panic!("nothing was delivered"),
        receive = link.receive() => receive,
    };
    let stop = link.receive().await;
    assert_eq!((stop.request, stop.wait_ms), (receive.request, 0));
    commit_behind_a_message(transaction, &mut link, receive.request).await;
}

#[tokio::test]
async fn it_is_given_back_also_when_it_was_asked_for_without_a_connection() {
    let node = Node::new();
    let (client, link) = node.client().await;
    drop(link);
    // It has noticed when it dials again, and is not connected before it is greeted.
    let stream = node.accept_raw().await;
    let mut transaction = client.begin();
    let (queue, options) = (queue(), ReceiveOptions::new().wait(Duration::MAX));
    let (mut link, request) = {
        let mut receiving = pin!(transaction.receive(&queue, &options));
        assert!(timeout(Duration::ZERO, &mut receiving).await.is_err());
        let mut link = node.greet(stream).await;
        let request = tokio::select! {
            _ = &mut receiving => panic!("nothing was delivered"),
            receive = link.receive() => receive.request,
        };
        (link, request)
    };
    assert_eq!(link.receive().await.request, request);
    commit_behind_a_message(transaction, &mut link, request).await;
}

#[tokio::test]
async fn a_commit_does_not_wait_for_a_receive_that_went_with_its_connection() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let (queue, options) = (queue(), ReceiveOptions::new().wait(Duration::MAX));
    tokio::select! {
        _ = transaction.receive(&queue, &options) => panic!("nothing was delivered"),
        _ = link.receive() => {}
    }
    let script = async {
        link.receive().await;
        assert!(timeout(SHORT, link.next()).await.is_err());
        drop(link);
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    let error = done.unwrap_err();
    assert!(
        matches!(error, TransactionError::Disconnected(_)),
        "{error}"
    );
}

#[tokio::test]
async fn what_came_with_a_damaged_message_is_not_committed() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let options = ReceiveOptions::new();
    let script = async {
        let receive = link.receive().await;
        link.deliver(receive.request, 41, "sound").await;
        let mut damaged = delivery(receive.request, 42, "body");
        damaged.body = Bytes::from_static(b"boby");
        link.send(NodeFrame::Delivery(damaged)).await;
        link.done(receive.request, 2).await;
    };
    let queue = queue();
    let (received, ()) = tokio::join!(transaction.receive_batch(&queue, &options), script);
    let error = received.unwrap_err();
    assert!(
        matches!(error, ReceiveError::Damaged { lookup: 42, .. }),
        "{error}"
    );
    let script = async {
        let settle = link.settle().await;
        assert_eq!(
            (settle.verdict, &settle.ranges[..]),
            (Verdict::GiveBack, &[(41, 42)][..])
        );
        let end = end(&mut link).await;
        committed(&mut link, end, false).await;
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    done.unwrap();
}

/// A client whose window has room for one message, which is taken; and a transaction that received.
async fn with_a_full_window(node: &mut Node) -> (qm_client::Client, Link, Transaction) {
    node.hello.window_messages = 1;
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let options = ReceiveOptions::new();
    let script = async {
        let receive = link.receive().await;
        link.deliver(receive.request, 42, "hello").await;
        link.done(receive.request, 1).await;
    };
    let queue = queue();
    let (received, ()) = tokio::join!(transaction.receive(&queue, &options), script);
    assert!(received.unwrap().is_some());
    let _ticket = client.put(Message::new("hub/orders", "a")).await.unwrap();
    assert_eq!(link.put().await.sequence, 1);
    (client, link, transaction)
}

/// The transaction is aborted as soon as the window has room, and takes none of it for ever.
async fn aborted_behind_the_window(client: &qm_client::Client, mut link: Link) {
    link.accept_puts(1, 1).await;
    let first = end(&mut link).await;
    assert_eq!((first.sequence, first.commit), (2, false));
    link.send(NodeFrame::TransactionEnded(TransactionEnded {
        sequence: 2,
        transaction: first.transaction,
        committed: None,
        repeated: false,
        outcome: None,
        text: qm_client::Text::EMPTY,
    }))
    .await;
    let _ticket = client.put(Message::new("hub/orders", "b")).await.unwrap();
    let third = client.put(Message::new("hub/orders", "c"));
    assert!(timeout(SHORT, third).await.is_err());
    assert_eq!(link.put().await.sequence, 3);
}

#[tokio::test]
async fn a_transaction_is_aborted_also_when_the_window_is_full() {
    let mut node = Node::new();
    let (client, link, transaction) = with_a_full_window(&mut node).await;
    drop(transaction);
    aborted_behind_the_window(&client, link).await;
    let mut node = Node::new();
    let (client, link, transaction) = with_a_full_window(&mut node).await;
    assert!(timeout(SHORT, transaction.abort()).await.is_err());
    aborted_behind_the_window(&client, link).await;
}

#[tokio::test]
async fn what_the_abort_gave_back_is_not_given_back_again() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut transaction = client.begin();
    let (queue, options) = (queue(), ReceiveOptions::new().wait(Duration::MAX));
    let receiving = timeout(SHORT, transaction.receive(&queue, &options));
    assert!(receiving.await.is_err());
    drop(transaction);
    let request = link.receive().await.request;
    link.receive().await;
    assert!(!end(&mut link).await.commit);
    // It crossed the abort; by now another application may have it.
    link.deliver(request, 42, "late").await;
    link.done(request, 1).await;
    assert!(timeout(SHORT, link.next()).await.is_err());
}

#[tokio::test]
async fn a_node_that_stays_away_leaves_the_outcome_open() {
    let mut node = Node::new();
    let builder = qm_client::Client::builder().reconnect_for(Duration::from_millis(100));
    let (client, mut link) = node.client_with(builder).await;
    let mut transaction = client.begin();
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let script = async {
        link.put().await;
        end(&mut link).await;
        node.stop();
        drop(link);
    };
    let (done, ()) = tokio::join!(transaction.commit(), script);
    let error = done.unwrap_err();
    assert!(
        matches!(error, TransactionError::OutcomeUnknown(_)),
        "{error}"
    );
    let mut transaction = client.begin();
    transaction.send(Message::new("hub/orders", "a")).unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert!(
        matches!(error, TransactionError::Disconnected(_)),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_when_it_is_added() {
    let node = Node::new();
    let (client, _link) = node.client().await;
    let mut transaction = client.begin();
    let large = vec![0; (4 << 20) + 1];
    let error = transaction.send(Message::new("q", large)).unwrap_err();
    assert!(matches!(error, SendError::TooLarge { .. }));
    let first = Message::new("q", "").class(Class::Transactional);
    let error = transaction.send(first.priority(Priority::DEFAULT));
    assert!(matches!(error, Err(SendError::Invalid(_))));
    assert_eq!(transaction.sent(), 0);
}
