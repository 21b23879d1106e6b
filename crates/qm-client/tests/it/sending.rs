//! Puts: answers, the window, lost connections, fates.

use std::time::Duration;

use qm_client::{
    Class, Client, ClientError, FateError, Follow, Incarnation, Message, Outcome, QmId, SendError,
};
use qm_wire::local::{Accepted, ClientFrame, Fate, NodeFrame, Refused};
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
        matches!(
            &error,
            SendError::Rejected { outcome, .. } if *outcome == Outcome::BAD_DESTINATION_NAME
        ),
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

#[tokio::test]
async fn a_full_window_makes_puts_wait() {
    let mut node = Node::new();
    node.hello.window_messages = 2;
    let (client, mut link) = node.client().await;
    let _a = client.put(message("a")).await.unwrap();
    let _b = client.put(message("b")).await.unwrap();
    let mut third = Box::pin(client.put(message("c")));
    assert!(timeout(SHORT, &mut third).await.is_err());
    assert_eq!(
        (link.put().await.sequence, link.put().await.sequence),
        (1, 2)
    );
    link.accept_puts(1, 1).await;
    let _c = third.await.unwrap();
    assert_eq!(link.put().await.sequence, 3);
}

#[tokio::test]
async fn the_window_counts_bytes_and_lets_one_large_put_go_alone() {
    let mut node = Node::new();
    node.hello.window_bytes = 1000;
    let (client, mut link) = node.client().await;
    let body = |n: usize| Message::new("q", vec![7; n]);
    let _a = client.put(body(600)).await.unwrap();
    let mut second = Box::pin(client.put(body(600)));
    assert!(timeout(SHORT, &mut second).await.is_err());
    link.put().await;
    link.accept_puts(1, 1).await;
    let _b = second.await.unwrap();
    link.put().await;
    link.accept_puts(2, 1).await;
    let large = client.put(body(100_000)).await.unwrap();
    let mut small = Box::pin(client.put(body(1)));
    assert!(timeout(SHORT, &mut small).await.is_err());
    assert_eq!(link.put().await.body.len(), 100_000);
    link.accept_puts(3, 1).await;
    assert_eq!(large.await.unwrap(), id(103));
    let _small = small.await.unwrap();
}

#[tokio::test]
async fn a_put_that_waited_in_vain_was_not_sent() {
    let mut node = Node::new();
    node.hello.window_messages = 1;
    let (client, mut link) = node.client().await;
    let first = client.put(message("a")).await.unwrap();
    assert!(
        timeout(SHORT, client.put(message("dropped")))
            .await
            .is_err()
    );
    link.put().await;
    link.accept_puts(1, 1).await;
    first.await.unwrap();
    let _second = client.put(message("b")).await.unwrap();
    let put = link.put().await;
    assert_eq!((put.sequence, &*put.body), (2, &b"b"[..]));
}

/// A node that came back with a smaller window gets no more than it can take.
#[tokio::test]
async fn repeats_keep_the_window_of_the_new_connection() {
    let mut node = Node::new();
    let (client, mut link) = node.client().await;
    let mut tickets = Vec::new();
    for body in ["a", "b", "c"] {
        tickets.push(client.put(message(body)).await.unwrap());
    }
    link.put().await;
    drop(link);
    node.hello.window_messages = 1;
    let mut link = node.accept().await;
    for sequence in 1..=3 {
        assert_eq!(link.put().await.sequence, sequence);
        assert!(timeout(SHORT, link.next()).await.is_err());
        link.accept_puts(sequence, 1).await;
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

#[tokio::test]
async fn when_the_node_stays_away_what_was_handed_over_has_an_unknown_outcome() {
    let mut node = Node::new();
    node.hello.window_messages = 1;
    let builder = Client::builder().reconnect_for(SHORT);
    let (client, mut link) = node.client_with(builder).await;
    let mut handed_over = client.put(message("a")).await.unwrap();
    link.put().await;
    let second = client.clone();
    let waiting = tokio::spawn(async move { second.put(message("b")).await });
    node.stop();
    drop(link);
    let error = handed_over.accepted().await.unwrap_err();
    assert!(
        matches!(
            &error,
            SendError::OutcomeUnknown(ClientError::NotRunning { .. })
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("may or may not have been accepted"),
        "{error}"
    );
    // Told again when asked again.
    assert!(matches!(
        handed_over.accepted().await,
        Err(SendError::OutcomeUnknown(_))
    ));
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(
            &error,
            SendError::Disconnected(ClientError::NotRunning { .. })
        ),
        "{error}"
    );
    let error = client.send(message("c")).await.unwrap_err();
    assert!(error.to_string().contains("`qm-node run`"), "{error}");

    node.start();
    let mut link = node.accept().await;
    // Until the client has noticed, it says that the node is away.
    let ticket = loop {
        match client.put(message("d")).await {
            Ok(ticket) => break ticket,
            Err(SendError::Disconnected(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    let put = link.put().await;
    assert_eq!((put.sequence, &*put.body), (2, &b"d"[..]));
    link.accept_puts(2, 1).await;
    assert_eq!(ticket.await.unwrap(), id(102));
}

/// Transmitted or not is what decides, not whether there was a connection.
#[tokio::test]
async fn what_was_never_transmitted_is_known_not_to_be_sent() {
    let mut node = Node::new();
    let builder = Client::builder().reconnect_for(Duration::ZERO);
    let (client, link) = node.client_with(builder).await;
    node.stop();
    drop(link);
    // The client may or may not have noticed when this is put.
    let error = match client.put(message("a")).await {
        Ok(ticket) => ticket.await.unwrap_err(),
        Err(error) => error,
    };
    match error {
        SendError::Disconnected(_) | SendError::OutcomeUnknown(_) => {}
        other => panic!("{other}"),
    }
    let error = client.send(message("b")).await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Disconnected(ClientError::NotRunning { .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_restart_forgets_express_messages_and_whom_to_tell() {
    let mut node = Node::new();
    let (client, mut link) = node.client().await;
    let express = client
        .put(message("a").class(Class::Express))
        .await
        .unwrap();
    let durable = client.put(message("b")).await.unwrap();
    let mut followed = client
        .put(message("c").follow(Follow::Delivered))
        .await
        .unwrap();
    for _ in 0..3 {
        link.put().await;
    }
    link.accept_puts(3, 1).await;
    followed.accepted().await.unwrap();
    drop(link);
    node.hello.incarnation = Incarnation(6);
    let mut link = node.accept().await;
    let error = express.await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::OutcomeUnknown(ClientError::Restarted { .. })
        ),
        "{error}"
    );
    assert_eq!(link.put().await.sequence, 2);
    link.accept_puts(2, 1).await;
    durable.await.unwrap();
    let error = followed.delivered().await.unwrap_err();
    assert!(
        matches!(error, FateError::Unknown { id: found } if found == id(103)),
        "{error}"
    );
}

#[tokio::test]
async fn another_node_at_the_socket_gets_nothing_of_what_the_first_may_have() {
    let mut node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(message("a")).await.unwrap();
    link.put().await;
    drop(link);
    node.hello.node = QmId::from_bytes([2; 16]);
    let mut link = node.accept().await;
    let error = ticket.await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::OutcomeUnknown(ClientError::OtherNode { .. })
        ),
        "{error}"
    );
    let _ticket = client.put(message("b")).await.unwrap();
    let put = link.put().await;
    assert_eq!((put.sequence, &*put.body), (2, &b"b"[..]));
    assert_eq!(client.node().id, QmId::from_bytes([2; 16]));
}

#[tokio::test]
async fn a_followed_message_tells_its_fate() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let mut received = client
        .put(message("a").follow(Follow::Received))
        .await
        .unwrap();
    let mut delivered = client
        .put(message("b").follow(Follow::Delivered))
        .await
        .unwrap();
    let mut expired = client
        .put(message("c").follow(Follow::Delivered))
        .await
        .unwrap();
    let mut plain = client.put(message("d")).await.unwrap();
    for follow in [
        Follow::Received,
        Follow::Delivered,
        Follow::Delivered,
        Follow::None,
    ] {
        assert_eq!(link.put().await.follow, follow);
    }
    link.accept_puts(1, 4).await;
    assert!(timeout(SHORT, received.delivered()).await.is_err());
    let expiry = Outcome::REACH_QUEUE_EXPIRED;
    let runs = vec![(1, 2, Outcome::REACHED_QUEUE), (3, u64::MAX, expiry)];
    link.send(NodeFrame::Fate(Fate { runs })).await;
    assert_eq!(received.delivered().await.unwrap(), id(101));
    assert_eq!(delivered.delivered().await.unwrap(), id(102));
    let error = expired.delivered().await.unwrap_err();
    assert!(
        matches!(
            error,
            FateError::Ended { id: found, outcome } if found == id(103) && outcome == expiry
        ),
        "{error}"
    );
    assert!(timeout(SHORT, received.received()).await.is_err());
    assert!(matches!(
        delivered.received().await,
        Err(FateError::NotFollowed)
    ));
    assert!(matches!(
        plain.delivered().await,
        Err(FateError::NotFollowed)
    ));
    let runs = vec![(1, 1, Outcome::RECEIVED)];
    link.send(NodeFrame::Fate(Fate { runs })).await;
    assert_eq!(received.received().await.unwrap(), id(101));
    assert_eq!(received.delivered().await.unwrap(), id(101));
}

#[tokio::test]
async fn too_many_followed_messages_are_refused_until_tickets_go() {
    let node = Node::new();
    let builder = Client::builder().followed_max(1);
    let (client, _link) = node.client_with(builder).await;
    let followed = || message("a").follow(Follow::Delivered);
    let ticket = client.put(followed()).await.unwrap();
    let error = client.put(followed()).await.unwrap_err();
    assert!(
        matches!(error, SendError::TooManyFollowed { limit: 1 }),
        "{error}"
    );
    drop(ticket);
    let _ticket = client.put(followed()).await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_here() {
    let mut node = Node::new();
    node.hello.body_bytes_max = 10;
    let (client, _link) = node.client().await;
    let error = client
        .send(Message::new("q", "eleven bytes"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            SendError::TooLarge {
                bytes: 12,
                limit: 10
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_message_that_breaks_the_format_is_refused_here() {
    let node = Node::new();
    let (client, _link) = node.client().await;
    let wrong = [
        Message::new("", "b"),
        Message::new("a\nb", "b"),
        message("b").label("x".repeat(250)),
        message("b").correlation_id(vec![0; 257]),
        message("b").idempotency_key(""),
        message("b").property("", "v"),
        message("b").property("k", "v").property("k", "w"),
        message("b")
            .class(Class::Transactional)
            .priority(qm_client::Priority::DEFAULT),
    ];
    for message in wrong {
        let text = format!("{message:?}");
        let error = client.send(message).await.unwrap_err();
        assert!(matches!(error, SendError::Invalid(_)), "{text}: {error}");
    }
}

#[tokio::test]
async fn every_property_arrives() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let sent = message("b")
        .class(Class::Express)
        .priority(qm_client::Priority::new(7).unwrap())
        .label("label")
        .correlation_id("c")
        .response_queue("answers")
        .admin_queue("acks", qm_client::AckWishes::POSITIVE_RECEIVE)
        .content_type("text/plain")
        .trace_context("00-1")
        .property("k", "v")
        .time_to_reach_queue(Duration::from_millis(1500))
        .time_to_be_received(Duration::MAX)
        .dead_letter(false)
        .journal(true)
        .fail_when_full(true)
        .idempotency_number("run", 4)
        .follow(Follow::Received);
    let _ticket = client.put(sent).await.unwrap();
    let put = link.put().await;
    assert_eq!((put.class, put.priority.get()), (Class::Express, 7));
    assert_eq!((&*put.label, &*put.correlation_id), ("label", &b"c"[..]));
    assert_eq!(
        (&*put.response_queue, &*put.admin_queue),
        ("answers", "acks")
    );
    assert_eq!(put.ack_wishes, qm_client::AckWishes::POSITIVE_RECEIVE);
    assert_eq!(
        (&*put.content_type, &*put.trace_context),
        ("text/plain", "00-1")
    );
    assert_eq!(put.properties.get("k"), Some(&b"v"[..]));
    assert_eq!(put.time_to_reach_queue_ms, Some(1500));
    assert_eq!(put.time_to_be_received_ms, Some(qm_wire::INFINITE_MS));
    let wishes = qm_wire::MessageFlags::JOURNAL.with(qm_wire::MessageFlags::FAIL_WHEN_FULL);
    assert_eq!(put.flags, wishes);
    let idempotency = put.idempotency.unwrap();
    assert_eq!(
        (&*idempotency.key, idempotency.number),
        (&b"run"[..], Some(4))
    );
    assert_eq!(put.follow, Follow::Received);
    let _ticket = client
        .put(message("t").class(Class::Transactional))
        .await
        .unwrap();
    assert_eq!(link.put().await.priority.get(), 0);
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let body: Vec<u8> = (0..4_u32 << 20)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let ticket = client.put(Message::new("q", body.clone())).await.unwrap();
    assert_eq!(link.put().await.body, body);
    link.accept_puts(1, 1).await;
    ticket.await.unwrap();
}

/// A node that loses its connection at every turn still accepts each message once, in order.
#[tokio::test]
async fn lost_connections_neither_lose_nor_double_nor_reorder() {
    const MESSAGES: u64 = 300;
    let mut node = Node::new();
    node.hello.window_messages = 16;
    let (client, mut link) = node.client().await;
    let script = async {
        let (mut seed, mut accepted) = (7_u32, Vec::<u64>::new());
        let mut reconnects = 0;
        let mut answered = 0;
        while answered < MESSAGES {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let put = match seed >> 29 {
                // Before the put is read, so that it is lost in the socket.
                0 => None,
                _ => link.next().await,
            };
            let Some(ClientFrame::Put(put)) = put else {
                drop(link);
                link = node.accept().await;
                reconnects += 1;
                continue;
            };
            let sequence = put.sequence;
            let repeated = accepted.contains(&sequence);
            if !repeated {
                accepted.push(sequence);
            }
            if (seed >> 26) & 7 == 0 {
                // After it was accepted and before the answer left.
                drop(link);
                link = node.accept().await;
                reconnects += 1;
                continue;
            }
            let run = Accepted {
                first_sequence: sequence,
                count: 1,
                first_id: id(sequence),
                repeated,
            };
            link.send(NodeFrame::Accepted(run)).await;
            answered = answered.max(sequence);
        }
        (accepted, reconnects, link)
    };
    let application = async {
        let mut tickets = Vec::new();
        for n in 1..=MESSAGES {
            let body = n.to_string();
            tickets.push(client.put(Message::new("q", body)).await.unwrap());
        }
        for (n, ticket) in (1..).zip(tickets) {
            assert_eq!(ticket.await.unwrap(), id(n));
        }
    };
    let ((accepted, reconnects, _link), ()) = tokio::join!(script, application);
    assert_eq!(accepted, (1..=MESSAGES).collect::<Vec<_>>());
    assert!(reconnects > 20, "{reconnects}");
}

#[tokio::test]
async fn closing_waits_for_the_answers_that_are_due() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(message("a")).await.unwrap();
    {
        let mut closing = std::pin::pin!(client.close());
        // The put has left, and its answer has not come: that keeps the connection open.
        tokio::select! {
            biased;
            () = &mut closing => panic!("closed before the answer"),
            _ = link.put() => {}
        }
        tokio::select! {
            biased;
            () = &mut closing => panic!("closed before the answer"),
            () = tokio::task::yield_now() => {}
        }
        let script = async {
            link.accept_puts(1, 1).await;
            assert_eq!(link.next().await, None);
        };
        tokio::join!(closing, script);
    }
    assert_eq!(ticket.await.unwrap(), id(101));
    let error = client.send(message("b")).await.unwrap_err();
    assert!(
        matches!(error, SendError::Disconnected(ClientError::Closed)),
        "{error}"
    );
    client.close().await;
}

#[tokio::test]
async fn closing_does_not_wait_for_ever() {
    let node = Node::new();
    let builder = Client::builder().linger(SHORT);
    let (client, mut link) = node.client_with(builder).await;
    let ticket = client.put(message("a")).await.unwrap();
    link.put().await;
    client.close().await;
    let error = ticket.await.unwrap_err();
    assert!(
        matches!(error, SendError::OutcomeUnknown(ClientError::Closed)),
        "{error}"
    );
}

/// Closing while the node restarts: what is unanswered is still brought to an end.
#[tokio::test]
async fn closing_connects_again_for_what_is_unanswered() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(message("a")).await.unwrap();
    link.put().await;
    drop(link);
    let script = async {
        let mut link = node.accept().await;
        assert_eq!(link.put().await.sequence, 1);
        link.accept_puts(1, 1).await;
        assert_eq!(link.next().await, None);
    };
    tokio::join!(client.close(), script);
    assert_eq!(ticket.await.unwrap(), id(101));
}

#[tokio::test]
async fn a_dropped_client_hangs_up_when_its_puts_are_answered() {
    let node = Node::new();
    let (client, mut link) = node.client().await;
    let ticket = client.put(message("a")).await.unwrap();
    drop(client);
    link.put().await;
    link.accept_puts(1, 1).await;
    assert_eq!(ticket.await.unwrap(), id(101));
    assert_eq!(link.next().await, None);
}

/// Tasks on several threads share one client; each put gets the answer that is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_tasks_share_a_client() {
    const TASKS: u64 = 6;
    const EACH: u64 = 200;
    let mut node = Node::new();
    node.hello.window_messages = 32;
    let (client, mut link) = node.client().await;
    let script = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for sequence in 1..=TASKS * EACH {
            let put = link.put().await;
            assert_eq!(put.sequence, sequence);
            bodies.push(String::from_utf8(put.body.to_vec()).unwrap());
            link.accept_puts(sequence, 1).await;
        }
        (bodies, link)
    });
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            for n in 0..EACH {
                let body = format!("{task}-{n}");
                sent.push((
                    client.send(Message::new("q", body.clone())).await.unwrap(),
                    body,
                ));
            }
            sent
        }));
    }
    let mut sent = Vec::new();
    for task in tasks {
        sent.extend(task.await.unwrap());
    }
    let (bodies, _link) = script.await.unwrap();
    for (found, body) in sent {
        let index = usize::try_from(found.sequence - 101).unwrap();
        assert_eq!(bodies[index], body);
    }
}

/// A program that drops its runtime and keeps its client is told, and does not wait for ever.
#[test]
fn a_torn_down_runtime_ends_the_client() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (client, ticket, _node) = first.block_on(async {
        let node = Node::new();
        let (client, mut link) = node.client().await;
        let ticket = client.put(message("a")).await.unwrap();
        link.put().await;
        (client, ticket, node)
    });
    drop(first);
    let error = runtime().block_on(ticket).unwrap_err();
    assert!(
        matches!(error, SendError::OutcomeUnknown(ClientError::Closed)),
        "{error}"
    );
    let error = runtime().block_on(client.send(message("b"))).unwrap_err();
    assert!(
        matches!(error, SendError::Disconnected(ClientError::Closed)),
        "{error}"
    );
}
