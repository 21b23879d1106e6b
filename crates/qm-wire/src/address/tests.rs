use proptest::prelude::*;

use super::*;

const ID: &str = "01234567-89ab-8def-8123-456789abcdef";

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

fn host(qm: Option<&str>, host: &str, port: u16, name: &str) -> Destination {
    Destination::Host {
        qm: qm.map(|id| id.parse().unwrap()),
        host: host.into(),
        port,
        queue: queue(name),
    }
}

#[test]
fn every_form_is_understood_and_printed() {
    let local = |name| Destination::Local { queue: queue(name) };
    let peer = |peer: &str, name| Destination::Peer {
        peer: peer.into(),
        queue: queue(name),
    };
    let id = |name| Destination::Id {
        qm: ID.parse().unwrap(),
        queue: queue(name),
    };
    let cases = [
        ("orders", local("orders"), "orders"),
        ("orders:poison", local("orders:poison"), "orders:poison"),
        ("a b", local("a b"), "a b"),
        ("a%20b", local("a b"), "a b"),
        ("qm", local("qm"), "qm"),
        ("qm:x", local("qm:x"), "qm:x"),
        ("%44IRECT=x", local("DIRECT=x"), "%44IRECT=x"),
        ("hub/orders", peer("hub", "orders"), "hub/orders"),
        ("qm/orders", peer("qm", "orders"), "qm/orders"),
        ("a%2Fb%3a%25/q:s", peer("a/b:%", "q:s"), "a%2Fb%3A%25/q:s"),
        ("Hub 1/orders", peer("Hub 1", "orders"), "Hub 1/orders"),
        ("qm://hub/q", host(None, "hub", 1801, "q"), "qm://hub/q"),
        (
            "QM://HUB:1801/Q",
            host(None, "hub", 1801, "Q"),
            "qm://hub/Q",
        ),
        (
            "qm://hub:9/q:s",
            host(None, "hub", 9, "q:s"),
            "qm://hub:9/q:s",
        ),
        ("qm://h/a%20b", host(None, "h", 1801, "a b"), "qm://h/a%20b"),
        (
            "qm://h/Gr%C3%B6%C3%9Fe",
            host(None, "h", 1801, "Größe"),
            "qm://h/Größe",
        ),
        (
            "qm://10.0.0.1/q",
            host(None, "10.0.0.1", 1801, "q"),
            "qm://10.0.0.1/q",
        ),
        (
            "qm://[FE80::1]/q",
            host(None, "fe80::1", 1801, "q"),
            "qm://[fe80::1]/q",
        ),
        (
            "qm://[::1]:9/q",
            host(None, "::1", 9, "q"),
            "qm://[::1]:9/q",
        ),
        (
            "qm://01234567-89ab-8def-8123-456789abcdef@hub:9/q",
            host(Some(ID), "hub", 9, "q"),
            "qm://01234567-89ab-8def-8123-456789abcdef@hub:9/q",
        ),
        (
            "qm:01234567-89AB-8DEF-8123-456789ABCDEF/q",
            id("q"),
            "qm:01234567-89ab-8def-8123-456789abcdef/q",
        ),
        (
            r"DIRECT=TCP:10.0.0.1\private$\q",
            host(None, "10.0.0.1", 1801, "q"),
            "qm://10.0.0.1/q",
        ),
        (
            r"direct=tcp:[::1]\PRIVATE$\q",
            host(None, "::1", 1801, "q"),
            "qm://[::1]/q",
        ),
        (
            r"DIRECT=TCP:::1\private$\q",
            host(None, "::1", 1801, "q"),
            "qm://[::1]/q",
        ),
        (
            r"DIRECT=OS:Hub\private$\q;s",
            host(None, "hub", 1801, "q:s"),
            "qm://hub/q:s",
        ),
        (
            r"formatname:Direct=Os:hub\q",
            host(None, "hub", 1801, "q"),
            "qm://hub/q",
        ),
        (r"DIRECT=OS:.\private$\q", local("q"), "q"),
    ];
    for (text, value, printed) in cases {
        assert_eq!(text.parse(), Ok(value.clone()), "{text}");
        assert_eq!(value.to_string(), printed);
        assert_eq!(printed.parse(), Ok(value), "{printed}");
    }
}

#[test]
fn every_error_says_where() {
    let queue = |offset, reason: &str| AddressError::Queue {
        offset,
        reason: reason.into(),
    };
    let host = |offset, reason| AddressError::Host { offset, reason };
    let peer = |offset, reason| AddressError::Peer { offset, reason };
    let msmq = |offset, reason| AddressError::Msmq { offset, reason };
    let missing = |offset| AddressError::MissingQueue { offset };
    let long_host = format!("qm://{}/q", "a.".repeat(127));
    let long_queue = "x".repeat(125);
    let long_peer = format!("{}/q", "p".repeat(256));
    let wide = "between its dots stand 1 to 63 characters";
    let odd = "only letters, digits, `-`, `_` and `.` may stand in it";
    let cases: Vec<(&str, AddressError)> = vec![
        ("", AddressError::Empty),
        ("hub/", missing(4)),
        ("qm://hub", missing(8)),
        ("qm://hub/", missing(9)),
        ("qm:01234567-89ab-8def-8123-456789abcdef", missing(39)),
        (r"DIRECT=OS:hub", missing(13)),
        ("a*b", queue(1, "'*' may not stand in it")),
        ("qm://hub/a/b", queue(10, "'/' may not stand in it")),
        ("qm://hub/a?b", queue(10, "'?' may not stand in it")),
        ("a:b:c", queue(3, "':' may not stand in it")),
        ("a:", queue(0, "a part of it is empty")),
        ("hub/ q", queue(4, "a space begins or ends a part of it")),
        ("a\u{7}", queue(0, "it contains a control character")),
        (
            &long_queue,
            queue(0, "a part of it is longer than 124 characters"),
        ),
        ("/q", peer(0, "it is empty")),
        ("a:b/q", peer(1, "`:` may not stand in it, write `%3A`")),
        (" a/q", peer(0, "it begins or ends with a space")),
        ("a%0Ab/q", peer(0, "it contains a control character")),
        (&long_peer, peer(0, "it is longer than 255 bytes")),
        ("qm:///q", host(5, "it is empty")),
        ("qm://a b/q", host(6, odd)),
        (
            "qm://größe/q",
            host(
                7,
                "an international name is written in its ASCII form, `xn--…`",
            ),
        ),
        ("qm://a..b/q", host(5, wide)),
        (&long_host, host(5, "it is longer than 253 characters")),
        ("qm://10.0.0.256/q", host(5, "it is no IPv4 address")),
        (
            "qm://fe80::1/q",
            host(5, "an IPv6 address must stand in brackets"),
        ),
        ("qm://[fe80::1/q", host(5, "the bracket is not closed")),
        (
            "qm://[hub]/q",
            host(6, "what stands in brackets is no IPv6 address"),
        ),
        (
            "qm://[::1]9/q",
            host(10, "only `:port` may follow the bracket"),
        ),
        ("qm://hub:/q", AddressError::Port { offset: 9 }),
        ("qm://hub:0/q", AddressError::Port { offset: 9 }),
        ("qm://hub:+1/q", AddressError::Port { offset: 9 }),
        ("qm://hub:65536/q", AddressError::Port { offset: 9 }),
        ("qm://me@hub/q", AddressError::QmId { offset: 5 }),
        ("qm:me/q", AddressError::QmId { offset: 3 }),
        (
            "qm:0123456789ab8def8123456789abcdef/q",
            AddressError::QmId { offset: 3 },
        ),
        ("50%", AddressError::Escape { offset: 2 }),
        ("hub/a%+1", AddressError::Escape { offset: 5 }),
        ("qm://hub/a%FF", AddressError::Escape { offset: 10 }),
        ("http://hub/q", AddressError::Scheme),
        (
            r".\private$\q",
            msmq(1, "a path with backslashes needs `DIRECT=OS:` in front"),
        ),
        (
            "FormatName:PUBLIC=x",
            msmq(11, "only `DIRECT=` names a machine and a queue"),
        ),
        (
            "DIRECT=HTTP://h/q",
            msmq(7, "only `TCP:` and `OS:` are understood"),
        ),
        (
            r"DIRECT=TCP:hub\private$\q",
            msmq(11, "behind `TCP:` stands an IP address"),
        ),
        (
            r"DIRECT=OS:h\q;Journal",
            msmq(14, "a machine's system queues take no messages"),
        ),
    ];
    for (text, error) in cases {
        let found = text.parse::<Destination>().unwrap_err();
        assert_eq!(found, error, "{text}");
        assert!(found.to_string().contains(FORMS), "{found}");
    }
}

#[test]
fn an_error_reads_well() {
    let error = "qm://hub:x/q".parse::<Destination>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the port at byte 9 of the destination is no number from 1 to 65535; write a \
         destination as `queue`, `peer/queue`, `qm://host[:port]/queue`, \
         `qm://<QMId>@host[:port]/queue` or `qm:<QMId>/queue`"
    );
    let error = r"FormatName:PUBLIC=x".parse::<Destination>().unwrap_err();
    assert!(
        error.to_string().starts_with(
            r"the MSMQ name is not understood at byte 11: only `DIRECT=` names a machine and a queue; of"
        ),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'), "{error}");
}

fn any_queue() -> impl Strategy<Value = QueueName> {
    let part = |max| proptest::collection::vec(any::<char>(), 1..=max);
    let part = move |max| part(max).prop_map(String::from_iter);
    let name = prop_oneof![
        part(124),
        "[a-z ^`{}\\[\\]=$!é]{1,20}",
        "(?i)direct=[a-z]{0,5}"
    ];
    let sub = proptest::option::of(prop_oneof![part(32), "[a-z ]{1,32}"]);
    (name, sub).prop_filter_map("no queue name", |(name, sub)| match sub {
        Some(sub) => format!("{name}:{sub}").parse().ok(),
        None => name.parse().ok(),
    })
}

fn any_destination() -> impl Strategy<Value = Destination> {
    let qm = || any::<[u8; 16]>().prop_map(QmId::from_bytes);
    let host = prop_oneof![
        "([a-z0-9_-]{1,10}\\.){0,3}[a-z][a-z0-9-]{0,10}\\.?",
        any::<Ipv4Addr>().prop_map(|a| a.to_string()),
        any::<Ipv6Addr>().prop_map(|a| a.to_string()),
    ];
    let peer = prop_oneof![
        "[^\\p{Cc} ]([^\\p{Cc}]{0,40}[^\\p{Cc} ])?",
        "(?i)direct=[a-z]{0,5}",
        "formatname:x",
        "qm:x",
    ];
    prop_oneof![
        any_queue().prop_map(|queue| Destination::Local { queue }),
        (peer, any_queue()).prop_map(|(peer, queue)| Destination::Peer { peer, queue }),
        (qm(), any_queue()).prop_map(|(qm, queue)| Destination::Id { qm, queue }),
        (proptest::option::of(qm()), host, 1_u16.., any_queue()).prop_map(
            |(qm, host, port, queue)| Destination::Host {
                qm,
                host,
                port,
                queue
            }
        ),
    ]
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(destination in any_destination()) {
        let printed = destination.to_string();
        let found: Destination = printed.parse().map_err(|e| {
            TestCaseError::fail(format!("{printed}: {e}"))
        })?;
        prop_assert_eq!(&found, &destination);
        prop_assert_eq!(found.queue().as_str(), destination.queue().as_str());
    }

    #[test]
    fn no_text_panics_and_what_is_read_is_printed_as_the_same(text in "\\PC{0,40}") {
        if let Ok(destination) = text.parse::<Destination>() {
            prop_assert_eq!(destination.to_string().parse(), Ok(destination));
        }
    }

    #[test]
    fn nearly_right_texts_do_not_panic_either(
        text in "(qm://|qm:|direct=|formatname:|os:|tcp:|h|q|[0-9]|@|:|/|%|\\\\|;|\\.|\\[|\\]|é){0,12}"
    ) {
        if let Ok(destination) = text.parse::<Destination>() {
            prop_assert_eq!(destination.to_string().parse(), Ok(destination));
        }
    }
}
