use expect_test::{Expect, expect};
use qm_engine::LocalSettings;
use qm_engine::admin::{DeadFilter, Selector};
use qm_wire::{Incarnation, QmId};

use super::*;

fn node() -> NodeInfo {
    NodeInfo {
        name: "till-17".to_owned(),
        qm: QmId::from_bytes([0x11; 16]),
        public_key: [0x42; 32],
        fingerprint: "a".repeat(52),
        incarnation: Incarnation(0x51),
        listen: "[::]:1801".parse().unwrap(),
        addresses: vec!["till-17:1801".to_owned()],
        socket: "/run/qm/node.sock".into(),
        data: "/var/lib/qm".into(),
        created: false,
        trust: qm_engine::Trust::Approve,
        pid: 4711,
        version: "0.1.0",
        network_failed: None,
        health: std::sync::Arc::default(),
    }
}

fn queue(name: &str) -> QueueDocument {
    QueueDocument {
        schema: "qm.queue/1".into(),
        name: name.parse().unwrap(),
        messages: 7,
        bytes: 900,
        leased: 1,
        waiting_receivers: 0,
        arrived: 9,
        received: 2,
        transactional: false,
        paused: true,
        full: false,
        quota_bytes: Some(1 << 20),
        quota_messages: None,
        max_aborts: 5,
        oldest_age_ms: Some(61_000),
    }
}

/// The request reads as `expected` and its own JSON reads back as the same.
fn check(json: &str, expected: AdminRequest) {
    assert_eq!(
        decode_request(json.as_bytes()).unwrap().request,
        expected,
        "{json}"
    );
    let request: Request = serde_json::from_str(json).unwrap();
    let again = serde_json::to_vec(&request).unwrap();
    assert_eq!(decode_request(&again).unwrap().request, expected, "{json}");
}

fn check_golden(document: &impl Serialize, golden: &Expect) {
    golden.assert_eq(&serde_json::to_string_pretty(document).unwrap());
}

#[test]
fn every_request_is_understood() {
    let name = || "orders".parse().unwrap();
    check(r#"{"do":"status"}"#, AdminRequest::Status);
    check(r#"{"do":"queue.list"}"#, AdminRequest::Queues);
    check(r#"{"do":"queue.list","after":"a"}"#, AdminRequest::Queues);
    check(
        r#"{"do":"queue.show","name":"orders"}"#,
        AdminRequest::Queues,
    );
    check(
        r#"{"do":"queue.create","name":"orders"}"#,
        AdminRequest::QueueCreate(LocalSettings::new(name())),
    );
    check(
        r#"{"do":"queue.create","name":"orders","transactional":true,"quota_messages":5}"#,
        AdminRequest::QueueCreate(LocalSettings {
            transactional: true,
            quota_messages: 5,
            ..LocalSettings::new(name())
        }),
    );
    check(
        r#"{"do":"queue.set","name":"orders","transactional":false,"quota_bytes":9,"quota_messages":null,"paused":true,"max_aborts":3}"#,
        AdminRequest::QueueSet(LocalSettings {
            quota_bytes: 9,
            paused: true,
            aborts_max: 3,
            ..LocalSettings::new(name())
        }),
    );
    check(
        r#"{"do":"queue.delete","name":"orders"}"#,
        AdminRequest::QueueDelete {
            name: name(),
            force: false,
            discard: false,
        },
    );
    check(
        r#"{"do":"quarantine.release","name":"orders:quarantine"}"#,
        AdminRequest::QuarantineRelease {
            name: "orders:quarantine".parse().unwrap(),
        },
    );
    check(
        r#"{"do":"queue.purge","name":"orders","discard":true}"#,
        AdminRequest::QueuePurge {
            name: name(),
            discard: true,
        },
    );
    check(
        r#"{"do":"queue.pause","name":"orders"}"#,
        AdminRequest::QueuePause {
            name: name(),
            paused: true,
        },
    );
    check(
        r#"{"do":"queue.resume","name":"orders"}"#,
        AdminRequest::QueuePause {
            name: name(),
            paused: false,
        },
    );
    check(r#"{"do":"outgoing.list"}"#, AdminRequest::Outgoing);
    check(
        r#"{"do":"outgoing.pause","which":"hub/orders"}"#,
        AdminRequest::OutgoingPause {
            which: Selector::Name("hub/orders".to_owned()),
            paused: true,
        },
    );
    check(
        r#"{"do":"outgoing.resume","all":true}"#,
        AdminRequest::OutgoingPause {
            which: Selector::All,
            paused: false,
        },
    );
    check(
        r#"{"do":"outgoing.retry","all":true}"#,
        AdminRequest::OutgoingRetry {
            which: Selector::All,
        },
    );
    check(
        r#"{"do":"outgoing.purge","which":"hub"}"#,
        AdminRequest::OutgoingPurge {
            discard: false,
            which: Selector::Name("hub".to_owned()),
        },
    );
    check(r#"{"do":"peers.list"}"#, AdminRequest::Peers);
    check(
        r#"{"do":"peers.add","name":"hub","address":"hub.example:1801","keep_connected":true}"#,
        AdminRequest::PeerAdd {
            name: "hub".to_owned(),
            address: Some("hub.example:1801".to_owned()),
            qm: None,
            keep_connected: true,
        },
    );
    check(
        r#"{"do":"peers.add","name":"hub","qm":"11111111-1111-1111-1111-111111111111"}"#,
        AdminRequest::PeerAdd {
            name: "hub".to_owned(),
            address: None,
            qm: Some(QmId::from_bytes([0x11; 16])),
            keep_connected: false,
        },
    );
    let who = || "3f".to_owned();
    check(
        r#"{"do":"peers.approve","who":"3f"}"#,
        AdminRequest::PeerApprove {
            who: who(),
            name: None,
        },
    );
    check(
        r#"{"do":"peers.block","who":"3f"}"#,
        AdminRequest::PeerBlock { who: who() },
    );
    check(
        r#"{"do":"peers.forget","who":"3f"}"#,
        AdminRequest::PeerForget { who: who() },
    );
    check(r#"{"do":"routes"}"#, AdminRequest::Routes);
    check(r#"{"do":"stream.list"}"#, AdminRequest::Streams);
    check(
        r#"{"do":"stream.rebase","which":"hub/orders","dry_run":true}"#,
        AdminRequest::StreamRebase {
            which: Selector::Name("hub/orders".to_owned()),
            dry_run: true,
        },
    );
    check(r#"{"do":"dedup"}"#, AdminRequest::Dedup);
    check(
        r#"{"do":"dead.list","after":"7","reason":"8000","destination":"hub","older_than_ms":5,"id":"0a"}"#,
        AdminRequest::DeadList {
            filter: DeadFilter {
                outcome: Some(Outcome::BAD_DESTINATION_QUEUE),
                destination: Some("hub".to_owned()),
                older_than_ms: Some(5),
                id: Some("0a".to_owned()),
            },
            after: Some(7),
        },
    );
    check(
        r#"{"do":"dead.resend","positions":[3],"force":true,"to":"other"}"#,
        AdminRequest::DeadResend {
            positions: vec![3],
            force: true,
            to: Some("other".to_owned()),
        },
    );
    check(
        r#"{"do":"dead.drop","positions":[3,4]}"#,
        AdminRequest::DeadDrop {
            positions: vec![3, 4],
        },
    );
    let subject = || "0000000000000051-7".to_owned();
    check(
        r#"{"do":"trace","subject":"0000000000000051-7"}"#,
        AdminRequest::Trace { subject: subject() },
    );
    check(
        r#"{"do":"why","subject":"orders"}"#,
        AdminRequest::Why {
            subject: "orders".to_owned(),
        },
    );
}

#[test]
fn a_wrong_request_is_refused_with_what_is_accepted() {
    for (json, hint) in [
        (r#"{"do":"queue.sow","name":"q"}"#, "queue.show"),
        (
            r#"{"do":"queue.show","name":"q","force":true}"#,
            "unknown field `force`",
        ),
        (r#"{"do":"status","name":"q"}"#, "unknown field `name`"),
        (
            r#"{"do":"outgoing.purge","wich":"q"}"#,
            "unknown field `wich`",
        ),
        (r#"{"do":"queue.show"}"#, "missing field `name`"),
        (r#"{"do":"queue.show","name":"a/b"}"#, "queue name"),
        (r#"{"do":"outgoing.purge"}"#, "either `which` or"),
        (
            r#"{"do":"outgoing.purge","which":"q","all":true}"#,
            "either `which` or",
        ),
        (
            r#"{"do":"queue.set","name":"q","transactional":false,"quota_bytes":null,"paused":false}"#,
            "missing field `quota_messages`",
        ),
        (r#"{"name":"q"}"#, "`do`"),
        ("", "EOF"),
    ] {
        let error = decode_request(json.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(hint), "{json}: {error}");
        let answer: ErrorDocument = serde_json::from_slice(&encode_error(&error)).unwrap();
        assert_eq!(
            (answer.code.as_str(), answer.outcome.as_deref()),
            ("bad_request", Some("9012"))
        );
    }
    assert_eq!(
        Which::named("a").selector().unwrap(),
        Selector::Name("a".to_owned())
    );
}

#[test]
fn replies_without_views_have_their_documents() {
    let (ok, json) = encode_reply(&AdminReply::Done { count: 3 }, &Shape::default(), &node());
    assert!(ok);
    expect![[r#"{"schema":"qm.done/1","count":3}"#]].assert_eq(&String::from_utf8(json).unwrap());
    let failed = AdminReply::Failed {
        outcome: Outcome::NOT_FOUND,
        cause: "no such queue".to_owned(),
        fix: "make it".to_owned(),
    };
    let (ok, json) = encode_reply(&failed, &Shape::default(), &node());
    assert!(!ok);
    expect![[r#"{"schema":"qm.error/1","code":"not_found","outcome":"9013","cause":"no such queue","fix":"make it"}"#]].assert_eq(&String::from_utf8(json).unwrap());
    let (ok, json) = encode_reply(&AdminReply::Queues(Vec::new()), &Shape::default(), &node());
    assert!(ok);
    expect![[r#"{"schema":"qm.list/1","items":[]}"#]].assert_eq(&String::from_utf8(json).unwrap());
}

#[test]
fn documents_keep_their_fields() {
    check_golden(
        &queue("orders"),
        &expect![[r#"
            {
              "schema": "qm.queue/1",
              "name": "orders",
              "messages": 7,
              "bytes": 900,
              "leased": 1,
              "waiting_receivers": 0,
              "arrived": 9,
              "received": 2,
              "transactional": false,
              "paused": true,
              "full": false,
              "quota_bytes": 1048576,
              "quota_messages": null,
              "max_aborts": 5,
              "oldest_age_ms": 61000
            }"#]],
    );
    check_golden(
        &NodeDocument::new(&node()),
        &expect![[r#"
        {
          "schema": "qm.node/1",
          "name": "till-17",
          "qm": "11111111-1111-1111-1111-111111111111",
          "fingerprint": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
          "listen": "[::]:1801",
          "addresses": [
            "till-17:1801"
          ],
          "socket": "/run/qm/node.sock",
          "data": "/var/lib/qm",
          "version": "0.1.0",
          "pid": 4711
        }"#]],
    );
    let mut stats = qm_cache::DedupStats::default();
    stats.capacity = 10_000;
    stats.hits = 2;
    stats.oldest_age_ms = Some(1_500);
    check_golden(
        &DedupDocument::new(&stats),
        &expect![[r#"
        {
          "schema": "qm.dedup/1",
          "size": 10000,
          "entries": 0,
          "in_flight": 0,
          "duplicates": 2,
          "fresh": 0,
          "contended": 0,
          "refused": 0,
          "aborted": 0,
          "purged": 0,
          "evicted": 0,
          "evicted_young": 0,
          "oldest_age_ms": 1500,
          "effective_window_ms": null,
          "heap_bytes": 0
        }"#]],
    );
    let mut stats = qm_cache::RouteStats::default();
    stats.rows = 1;
    check_golden(
        &RouteStatsDocument::new(&stats),
        &expect![[r#"
        {
          "schema": "qm.route_stats/1",
          "rows": 1,
          "learned": 0,
          "conflicts": 0,
          "switches": 0,
          "failed": 0,
          "expired": 0,
          "displaced": 0,
          "refused": 0
        }"#]],
    );
    check_golden(
        &OutgoingDocument {
            schema: "qm.outgoing/1".into(),
            destination: "qm://hub/orders".to_owned(),
            remote: "qm://hub:1801".to_owned(),
            queue: "orders".parse().unwrap(),
            peer: None,
            peer_name: Some("hub".to_owned()),
            state: "waiting".to_owned(),
            waiting: 3,
            waiting_bytes: 300,
            unacknowledged: 0,
            in_doubt: 0,
            retry_in_ms: Some(400),
            last_error: Some("refused".to_owned()),
            acknowledged: 12,
            oldest_age_ms: None,
            connections: vec![],
        },
        &expect![[r#"
            {
              "schema": "qm.outgoing/1",
              "destination": "qm://hub/orders",
              "remote": "qm://hub:1801",
              "queue": "orders",
              "peer": null,
              "peer_name": "hub",
              "state": "waiting",
              "waiting": 3,
              "waiting_bytes": 300,
              "unacknowledged": 0,
              "in_doubt": 0,
              "retry_in_ms": 400,
              "last_error": "refused",
              "acknowledged": 12,
              "oldest_age_ms": null
            }"#]],
    );
    check_golden(
        &PeerDocument {
            schema: "qm.peer/1".into(),
            name: None,
            announced_name: "hub".to_owned(),
            host: "hub.example".to_owned(),
            qm: Some(QmId::from_bytes([0x22; 16])),
            addresses: vec!["192.0.2.7:1801".to_owned()],
            approval: "pending".to_owned(),
            keep_connected: false,
            connected: true,
            incarnation: Some(Incarnation(0x51)),
            last_seen: Some(rfc3339(1_700_000_000_000_000)),
            connections: vec![],
            twins: None,
            succeeds: None,
            succeeded_by: None,
        },
        &expect![[r#"
            {
              "schema": "qm.peer/1",
              "name": null,
              "announced_name": "hub",
              "host": "hub.example",
              "qm": "22222222-2222-2222-2222-222222222222",
              "addresses": [
                "192.0.2.7:1801"
              ],
              "approval": "pending",
              "keep_connected": false,
              "connected": true,
              "incarnation": "0000000000000051",
              "last_seen": "2023-11-14T22:13:20.000000Z"
            }"#]],
    );
    check_golden(
        &RouteDocument {
            schema: "qm.route/1".into(),
            qm: QmId::from_bytes([0x22; 16]),
            incarnation: Incarnation(0x51),
            candidates: vec!["link 3".to_owned()],
        },
        &expect![[r#"
            {
              "schema": "qm.route/1",
              "qm": "22222222-2222-2222-2222-222222222222",
              "incarnation": "0000000000000051",
              "candidates": [
                "link 3"
              ]
            }"#]],
    );
    check_golden(
        &WhyDocument {
            schema: "qm.why/1".into(),
            subject: "qm://hub/orders".to_owned(),
            code: "refused".to_owned(),
            cause: "nothing listens at hub:1801".to_owned(),
            fix: None,
            evidence: vec!["3 messages wait".to_owned()],
        },
        &expect![[r#"
            {
              "schema": "qm.why/1",
              "subject": "qm://hub/orders",
              "code": "refused",
              "cause": "nothing listens at hub:1801",
              "fix": null,
              "evidence": [
                "3 messages wait"
              ]
            }"#]],
    );
    check_golden(
        &StatusDocument {
            schema: "qm.status/1".into(),
            name: "till-17".to_owned(),
            qm: QmId::from_bytes([0x11; 16]),
            incarnation: Incarnation(0x51),
            uptime_ms: 61_000,
            local_messages: 7,
            local_bytes: 900,
            outgoing_messages: 3,
            outgoing_bytes: 300,
            dead_letters: 0,
            sessions: 1,
            pending_peers: 0,
            quarantined: 0,
            clients: 2,
            stopping: false,
            store_full: false,
            store_full_by: None,
            stored_bytes: 1_200,
            stored_bytes_max: 64 << 30,
            express_bytes: 0,
            express_bytes_max: 64 << 20,
            unconfirmed_ms: None,
            missing_records: 0,
            store_health: None,
            network_failed: None,
            resident_bytes: 1_200,
            twins: vec![],
            parted: vec![],
            branched: vec![],
            own_store_went_back: vec![],
            former: None,
            counters: CountersDocument::default(),
            node: NodeDocument::new(&node()),
        },
        &expect![[r#"
            {
              "schema": "qm.status/1",
              "name": "till-17",
              "qm": "11111111-1111-1111-1111-111111111111",
              "incarnation": "0000000000000051",
              "uptime_ms": 61000,
              "local_messages": 7,
              "local_bytes": 900,
              "outgoing_messages": 3,
              "outgoing_bytes": 300,
              "dead_letters": 0,
              "sessions": 1,
              "pending_peers": 0,
              "quarantined": 0,
              "clients": 2,
              "stopping": false,
              "store_full": false,
              "store_full_by": null,
              "stored_bytes": 1200,
              "stored_bytes_max": 68719476736,
              "express_bytes": 0,
              "express_bytes_max": 67108864,
              "unconfirmed_ms": null,
              "missing_records": 0,
              "resident_bytes": 1200,
              "counters": {
                "accepted": 0,
                "refused": 0,
                "transmitted": 0,
                "retransmitted": 0,
                "acknowledged": 0,
                "delivered": 0,
                "received": 0,
                "given_back": 0,
                "duplicates": 0,
                "repeated_requests": 0,
                "transactions_committed": 0,
                "transactions_timed_out": 0,
                "dead_letters": 0,
                "discarded": 0,
                "rejected": 0,
                "acks_not_held": 0,
                "acks_unverified": 0,
                "acks_routed": 0,
                "queried": 0,
                "misbehaved": 0,
                "purged": 0,
                "resent": 0,
                "letters_dropped": 0,
                "poisoned": 0,
                "unreadable": 0,
                "letters_unconfirmed": 0,
                "letters_confirmed": 0,
                "letters_withdrawn": 0,
                "letters_uncertain": 0,
                "uncertain_by_restart": 0,
                "uncertain_by_forgetting": 0,
                "uncertain_by_refusal": 0,
                "uncertain_by_limit": 0,
                "voids": 0,
                "finals": 0,
                "finals_confirmed": 0,
                "finals_forgotten": 0,
                "twins_seen": 0,
                "own_twins": 0,
                "twins_unasked": 0,
                "finals_heard": 0,
                "finals_unknown": 0,
                "journalled": 0,
                "reports": 0,
                "reports_lost": 0
              },
              "node": {
                "schema": "qm.node/1",
                "name": "till-17",
                "qm": "11111111-1111-1111-1111-111111111111",
                "fingerprint": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "listen": "[::]:1801",
                "addresses": [
                  "till-17:1801"
                ],
                "socket": "/run/qm/node.sock",
                "data": "/var/lib/qm",
                "version": "0.1.0",
                "pid": 4711
              }
            }"#]],
    );
}

#[test]
fn a_listing_is_sorted_filtered_and_paged() {
    let shape = |only: Option<&str>, after: Option<&str>| Shape {
        only: only.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    let names = |json: &[u8]| -> (Vec<String>, Option<String>) {
        let list: List<QueueDocument> = serde_json::from_slice(json).unwrap();
        let names = list.items.iter().map(|queue| queue.name.to_string());
        (names.collect(), list.after)
    };
    let all = || ["b", "C", "a"].into_iter().map(queue);
    let (ok, json) = listing(all(), None, &shape(None, None));
    assert!(ok);
    assert_eq!(
        names(&json),
        (vec!["a".to_owned(), "b".to_owned(), "C".to_owned()], None)
    );
    let (_, json) = listing(all(), None, &shape(None, Some("a")));
    assert_eq!(names(&json), (vec!["b".to_owned(), "C".to_owned()], None));

    let (ok, json) = listing(all(), None, &shape(Some("c"), None));
    assert!(ok);
    let one: QueueDocument = serde_json::from_slice(&json).unwrap();
    assert_eq!(one, queue("C"));
    let (ok, json) = listing(all(), None, &shape(Some("d"), None));
    assert!(!ok);
    let error: ErrorDocument = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (error.code.as_str(), error.cause.as_str()),
        ("not_found", "there is no queue `d` on this node")
    );
}

#[test]
fn many_pages_make_the_whole_listing_and_each_fits_a_frame() {
    let all = || (0..20_000).map(|n| queue(&format!("queue-{n:05}")));
    let (mut seen, mut shape, mut pages) = (Vec::new(), Shape::default(), 0);
    loop {
        let (ok, json) = listing(all(), None, &shape);
        assert!(ok && json.len() <= qm_wire::limits::ADMIN_BYTES_MAX);
        let list: List<QueueDocument> = serde_json::from_slice(&json).unwrap();
        seen.extend(list.items);
        pages += 1;
        shape.after = list.after;
        if shape.after.is_none() {
            break;
        }
    }
    assert!(pages > 2);
    assert_eq!(seen, all().collect::<Vec<_>>());
}

#[test]
fn a_former_identity_with_many_destinations_fits_a_frame() {
    const ALL: u64 = 20_000;
    let destination = |n: u64| FormerDestinationDocument {
        remote: format!("{n}.{}", "x".repeat(240)),
        peer: Some(QmId::from_bytes([0x11; 16])),
        name: Some(format!("node-{n}")),
        switched: n.is_multiple_of(2),
        waiting: n,
        pending: true,
    };
    let former = FormerDocument {
        qm: QmId::from_bytes([0x11; 16]),
        fingerprint: String::new(),
        since: String::new(),
        because: String::new(),
        waiting: ALL,
        erased_in_ms: None,
        open: 0,
        destinations: (0..ALL).map(destination).collect(),
        unlisted: 0,
    }
    .cut();
    let json = serde_json::to_vec(&former).unwrap();
    assert!(
        json.len() <= qm_wire::limits::ADMIN_BYTES_MAX / 2,
        "{}",
        json.len()
    );
    let listed = u64::try_from(former.destinations.len()).unwrap();
    assert_eq!((former.open, listed + former.unlisted), (ALL / 2, ALL));
    // What holds most up comes first.
    assert_eq!(former.destinations[0].waiting, ALL - 1);
    assert!(former.destinations.iter().all(|d| !d.switched));
    assert!(
        former
            .sentence()
            .ends_with("10000 destinations have not approved the new identity")
    );
}

#[test]
fn destinations_are_printed_as_send_takes_them() {
    use qm_engine::RemoteKey;
    use qm_wire::Destination;
    for (remote, printed) in [
        (RemoteKey::Host("hub:1801".to_owned()), "qm://hub/a%20b"),
        (
            RemoteKey::Host("hub:1802".to_owned()),
            "qm://hub:1802/a%20b",
        ),
        (
            RemoteKey::Host("[::1]:1802".to_owned()),
            "qm://[::1]:1802/a%20b",
        ),
        (
            RemoteKey::Id(QmId::from_bytes([0x11; 16])),
            "qm:11111111-1111-1111-1111-111111111111/a%20b",
        ),
    ] {
        let found = remote.destination(&"a b".parse().unwrap());
        assert_eq!(found, printed);
        assert!(found.parse::<Destination>().is_ok());
    }
}
