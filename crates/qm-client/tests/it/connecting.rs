//! Connecting, and what is said when that fails; administration; the blocking facade.

use std::time::Duration;

use qm_client::{
    AdminError, Client, ClientError, Message, ReceiveError, ReceiveOptions, SendError, Violation,
    blocking,
};
use qm_wire::DecodeError;
use qm_wire::local::{AdminReply, ClientFrame, NodeFrame, ReceiveDone};
use tokio::io::AsyncWriteExt;

use crate::support::{Link, Node, delivery, id};

#[tokio::test]
async fn a_missing_node_is_named_with_the_command_that_starts_one() {
    let mut node = Node::new();
    node.stop();
    let error = Client::connect(node.path()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("node.sock") && text.contains("`qm-node run`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_socket_without_a_listener_is_no_node() {
    let mut node = Node::new();
    node.leave_socket();
    let error = Client::connect(node.path()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}

#[tokio::test]
async fn a_path_that_is_too_long_is_said_to_be() {
    let path = format!("/tmp/{}", "x".repeat(200));
    let error = Client::connect(path).await.unwrap_err();
    assert!(matches!(error, ClientError::PathTooLong { .. }), "{error}");
}

#[tokio::test]
async fn the_greeting_names_client_and_node() {
    let node = Node::new();
    let builder = Client::builder().program("till");
    let (client, link) = node.client_with(builder).await;
    assert_eq!((link.hello.protocol, &*link.hello.program), (1, "till"));
    assert_eq!(link.hello.client, client.id());
    let info = client.node();
    assert_eq!((info.id, &*info.name), (node.hello.node, "fake"));
    let (other, link) = node.client().await;
    assert_ne!(link.hello.client, client.id());
    assert_eq!(link.hello.client, other.id());
}

async fn greeted_with(bytes: &[u8]) -> ClientError {
    let node = Node::new();
    let script = async {
        let mut stream = node.accept_raw().await;
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let (client, _stream) = tokio::join!(Client::connect(node.path()), script);
    client.unwrap_err()
}

#[tokio::test]
async fn whatever_else_listens_there_is_found_out() {
    let error = greeted_with(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert!(
        matches!(
            error,
            ClientError::Protocol {
                reason: Violation::Decode(DecodeError::Invalid { .. }),
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("node.sock does not speak the queue manager's local protocol"),
        "{text}"
    );
    let other = qm_wire::local::Fate {
        runs: vec![(1, 1, qm_client::Outcome::RECEIVED)],
    };
    let mut bytes = bytes::BytesMut::new();
    NodeFrame::Fate(other).encode(&mut bytes);
    let error = greeted_with(&bytes).await;
    let no_hello = Violation::NoHello;
    assert!(
        matches!(error, ClientError::Protocol { reason, .. } if reason == no_hello),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_of_another_version_is_found_out() {
    let mut node = Node::new();
    node.hello.protocol = 9;
    let (client, _link) = tokio::join!(Client::connect(node.path()), node.accept());
    let error = client.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Version {
                node: 9,
                client: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_hangs_up_or_says_nothing_is_found_out() {
    let node = Node::new();
    let hang_up = async { drop(node.accept_raw().await) };
    let (client, ()) = tokio::join!(Client::connect(node.path()), hang_up);
    let error = client.unwrap_err();
    assert!(matches!(error, ClientError::HungUp { .. }), "{error}");

    let builder = Client::builder().handshake_timeout(Duration::from_millis(30));
    let (client, _silent) = tokio::join!(builder.connect(node.path()), node.accept_raw());
    let error = client.unwrap_err();
    assert!(
        matches!(error, ClientError::Timeout { after_ms: 30, .. }),
        "{error}"
    );
}

/// What a client says after its node misbehaved in the given way.
async fn after(misbehave: impl AsyncFnOnce(&mut Link)) -> (SendError, SendError, ReceiveError) {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(Message::new("q", "b")).await.unwrap();
    link.put().await;
    misbehave(&mut link).await;
    let unanswered = ticket.await.unwrap_err();
    let later = client.send(Message::new("q", "b")).await.unwrap_err();
    let queue = "q".parse().unwrap();
    let received = client.receive(&queue, &ReceiveOptions::new()).await;
    assert_eq!(link.next().await, None);
    (unanswered, later, received.unwrap_err())
}

#[tokio::test]
async fn a_node_that_breaks_the_protocol_is_left_and_named() {
    let broken = [
        after(async |link: &mut Link| link.send_bytes(b"garbage").await).await,
        after(async |link: &mut Link| {
            link.send_bytes(b"QM\x01\x43\0\0\x01\0\0\0\0\0\0\0\0\0")
                .await;
        })
        .await,
        after(async |link: &mut Link| link.send_bytes(&[b'Q'; 100_000]).await).await,
        // A frame with a wrong checksum.
        after(async |link: &mut Link| {
            let mut frame = b"QM\x01\x48\0\0\0\0\x0F\0\0\0\0\0\0\0".to_vec();
            frame.extend([0; 15]);
            link.send_bytes(&frame).await;
        })
        .await,
        after(async |link: &mut Link| link.accept_puts(1, 2).await).await,
        after(async |link: &mut Link| link.done(7, 0).await).await,
        after(async |link: &mut Link| link.settled(7, 0).await).await,
        after(async |link: &mut Link| link.deliver(7, 1, "b").await).await,
        after(async |link: &mut Link| {
            let hello = Node::new().hello;
            link.send(NodeFrame::Hello(hello)).await;
        })
        .await,
        after(async |link: &mut Link| {
            let reply = AdminReply {
                request: 3,
                ok: true,
                json: "{}".into(),
            };
            link.send(NodeFrame::AdminReply(reply)).await;
        })
        .await,
    ];
    for (unanswered, later, received) in broken {
        let protocol = |error: &ClientError| matches!(error, ClientError::Protocol { .. });
        assert!(
            matches!(&unanswered, SendError::OutcomeUnknown(reason) if protocol(reason)),
            "{unanswered}"
        );
        assert!(
            matches!(&later, SendError::Disconnected(reason) if protocol(reason)),
            "{later}"
        );
        assert!(
            matches!(&received, ReceiveError::Disconnected(reason) if protocol(reason)),
            "{received}"
        );
    }
}

#[tokio::test]
async fn kinds_of_later_versions_are_skipped() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(Message::new("q", "b")).await.unwrap();
    link.put().await;
    let mut frame = b"QM\x01\xF0\0\0\0\0\x01\0\0\0".to_vec();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), b"x");
    frame.extend(checksum.to_le_bytes());
    frame.push(b'x');
    link.send_bytes(&frame).await;
    link.accept_puts(1, 1).await;
    assert_eq!(ticket.await.unwrap(), id(101));
}

#[tokio::test]
async fn administration_is_asked_and_answered() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    for ok in [true, false] {
        let script = async {
            let Some(ClientFrame::Admin(admin)) = link.next().await else {
                panic!("an administrative request was made")
            };
            assert_eq!(admin.json, "{\"ask\":1}");
            let reply = AdminReply {
                request: admin.request,
                ok,
                json: "{\"answer\":2}".into(),
            };
            link.send(NodeFrame::AdminReply(reply)).await;
        };
        let (answer, ()) = tokio::join!(client.admin("{\"ask\":1}"), script);
        match answer {
            Ok(json) if ok => assert_eq!(json, b"{\"answer\":2}"),
            Err(AdminError::Failed { json }) if !ok => assert_eq!(json, b"{\"answer\":2}"),
            other => panic!("{other:?}"),
        }
    }
    let error = client.admin(vec![b' '; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, AdminError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn a_lost_connection_leaves_administration_in_doubt() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let script = async {
        assert!(matches!(link.next().await, Some(ClientFrame::Admin(_))));
        drop(link);
        let mut link = node.accept().await;
        let put = link.put().await;
        assert_eq!(&*put.body, b"after");
        link
    };
    let asked = async {
        let error = client.admin("{}").await.unwrap_err();
        assert!(
            matches!(
                error,
                AdminError::OutcomeUnknown(ClientError::HungUp { .. })
            ),
            "{error}"
        );
        let _ticket = client.put(Message::new("q", "after")).await.unwrap();
    };
    let ((), _link) = tokio::join!(asked, script);
}

/// The facade, with the node in a thread of its own as it would be.
#[test]
fn the_blocking_client_sends_receives_and_closes() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let node = {
        let _context = runtime.enter();
        Node::new()
    };
    let path = node.path().clone();
    let serve = async move {
        let mut link = node.accept().await;
        for sequence in 1..=2 {
            assert_eq!(link.put().await.sequence, sequence);
        }
        link.accept_puts(1, 2).await;
        let receive = link.receive().await;
        link.deliver(receive.request, 1, "one").await;
        link.done(receive.request, 1).await;
        let settle = link.settle().await;
        link.settled(settle.request, 1).await;
        // A peek, then a stream of two.
        let peek = link.receive().await;
        link.send(NodeFrame::Delivery(delivery(peek.request, 2, "two")))
            .await;
        link.done(peek.request, 1).await;
        let first = link.receive().await;
        link.deliver(first.request, 2, "two").await;
        link.deliver(first.request, 3, "three").await;
        link.send(NodeFrame::ReceiveDone(ReceiveDone {
            request: first.request,
            messages: 2,
            outcome: None,
            text: "".into(),
        }))
        .await;
        let mut settled = 0;
        loop {
            match link.next().await {
                Some(ClientFrame::Settle(settle)) => {
                    settled += settle.ranges.iter().map(|(a, b)| b - a + 1).sum::<u64>();
                    link.settled(settle.request, 1).await;
                }
                Some(ClientFrame::Receive(receive)) if receive.wait_ms == 0 => {
                    link.done(receive.request, 0).await;
                }
                Some(_) => {}
                None => return settled,
            }
        }
    };
    let server = std::thread::spawn(move || runtime.block_on(serve));

    let client = blocking::Client::connect(path).unwrap();
    assert_eq!(&*client.node().name, "fake");
    let tickets = ["a", "b"].map(|body| client.put(Message::new("q", body)).unwrap());
    for (n, ticket) in (101..).zip(tickets) {
        assert_eq!(client.wait(ticket).unwrap(), id(n));
    }
    let queue = "orders".parse().unwrap();
    let options = ReceiveOptions::new().wait(Duration::from_secs(5));
    let delivery = client.receive(&queue, &options).unwrap().unwrap();
    assert_eq!(&**delivery.body(), b"one");
    client.wait(delivery.consume()).unwrap();
    let seen = client.peek(&queue, &options).unwrap();
    assert_eq!((seen.len(), seen[0].lookup_id()), (1, 2));
    let bodies: Vec<_> = client
        .deliveries(&queue, &options)
        .unwrap()
        .take(2)
        .map(|delivery| {
            let delivery = delivery.unwrap();
            let body = delivery.body().clone();
            client.wait(delivery.consume()).unwrap();
            body
        })
        .collect();
    assert_eq!(bodies, ["two", "three"]);
    drop(client);
    assert_eq!(server.join().unwrap(), 2);
}
