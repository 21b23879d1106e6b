//! Commands whose node runs: what they are told, and what happens to their streams.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Running, ended, eventually, fails, fed, qm, shell, shows};

fn with_queue() -> Running {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    node
}

fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill")
        .args([name, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn what_destroys_is_confirmed() {
    let node = with_queue();
    fed(node.command(&["send", "orders", "--lines", "-"]), b"a\nb\n");
    let purge = ["--json", "queue", "purge", "orders"];
    let (cause, _) = fails(&ended(&mut node.command(&purge)), "needs_yes");
    assert!(cause.contains("2 messages from queue orders"), "{cause}");
    node.done(&["peers", "add", "hub", "hub.invalid"]);
    shows(
        node.command(&["--json", "peers", "block", "hub"]),
        "needs_yes",
    );
    node.done(&["queue", "purge", "orders", "--dry-run"]);
    assert_eq!(node.done(&["receive", "orders", "--count", "2"]), "a\nb\n");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let node = with_queue();
    let missing = node.command(&["--json", "send", "orders", "--file", "invoice.pdf"]);
    shows(missing, "io");
    for args in [
        ["--json", "send", "orders", "--file", "."],
        ["--json", "send", "orders", "--lines", "."],
    ] {
        let (cause, _) = fails(&ended(&mut node.command(&args)), "io");
        assert!(cause.to_lowercase().contains("is a directory"), "{cause}");
    }
    let (cause, _) = fails(
        &ended(&mut node.command(&["--json", "receive", "orders", "--out-dir", "none"])),
        "nothing",
    );
    assert!(cause.contains("orders"), "{cause}");
}

#[test]
fn an_empty_queue_is_nothing() {
    let node = with_queue();
    shows(node.command(&["--json", "receive", "orders"]), "nothing");
    shows(node.command(&["--json", "peek", "orders"]), "nothing");
    let wait = ["--json", "receive", "orders", "--wait", "50ms"];
    shows(node.command(&wait), "nothing");
    let one = ["--json", "receive", "orders", "--lookup-id", "77"];
    let (cause, _) = fails(&ended(&mut node.command(&one)), "nothing");
    assert!(cause.contains("matches"), "{cause}");
}

/// They are there from their first message on; before, nobody is told to make them.
#[test]
fn queues_that_come_into_being_by_themselves_are_empty_before() {
    let node = with_queue();
    for queue in ["dead$", "journal$", "orders:poison"] {
        for command in ["receive", "peek"] {
            let args = ["--json", command, queue];
            let (cause, fix) = fails(&ended(&mut node.command(&args)), "nothing");
            assert!(cause.contains(queue), "{cause}");
            assert!(!fix.contains("create"), "{fix}");
        }
    }
    for queue in ["dead$", "journal$"] {
        let sent = ended(&mut node.command(&["--json", "send", queue, "x"]));
        fails(&sent, "access_denied");
    }
    let drop = ["--json", "quarantine", "drop", "orders", "--yes"];
    fails(&ended(&mut node.command(&drop)), "nothing");
}

#[test]
fn who_does_not_wait_on_has_the_id() {
    let node = with_queue();
    let mut command = node.command(&["send", "orders", "x", "--wait", "received"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut id = String::new();
    out.read_line(&mut id).unwrap();
    // Not an interrupt, which is ignored where the tests run in the background of a shell.
    signal(child.id(), "-TERM");
    child.wait().unwrap();
    assert!(node.done(&["peek", "orders"]).contains(id.trim()), "{id}");
    // And so is told what it waits for.
    let args = "--json send orders y --wait received --timeout 50ms";
    let args: Vec<_> = args.split(' ').collect();
    let (cause, _) = fails(&ended(&mut node.command(&args)), "fate_open");
    assert!(cause.contains("no application receives"), "{cause}");
}

#[test]
fn who_follows_a_queue_and_gets_nothing_ends_in_order() {
    let node = with_queue();
    for more in [&[][..], &["--transaction", "--", "cat"]] {
        let args = [&["receive", "orders", "--follow"], more].concat();
        let mut child = node.command(&args).spawn().unwrap();
        eventually(&node, || {
            let shown = node.done(&["queue", "show", "orders"]);
            shown.contains("waiting receivers\t1").then_some(())
        });
        signal(child.id(), "-INT");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_property_has_one_value() {
    let node = with_queue();
    let args = "--json send orders x --property a=1 --property a=2";
    let args: Vec<_> = args.split(' ').collect();
    let (cause, _) = fails(&ended(&mut node.command(&args)), "usage");
    assert!(cause.contains("`a` is given twice"), "{cause}");
}

/// A node that stands still answers nobody; whoever watches it hears that soon.
#[test]
fn a_node_that_stands_still_is_told_by_check_and_doctor() {
    let node = with_queue();
    node.done(&["freeze", "--for", "1min"]);
    let check = ended(&mut node.command(&["check", "--timeout", "50ms"]));
    let line = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(3), "{line}");
    assert!(
        line.starts_with("QM UNKNOWN - the node has not answered within 50ms"),
        "{line}"
    );
    let doctor = ended(&mut node.command(&["doctor", "--timeout", "50ms"]));
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{found}");
    assert!(
        found.contains("problem\tno_answer\t") && found.contains("qm-node thaw"),
        "{found}"
    );
    node.done(&["thaw"]);
    assert!(node.done(&["queue", "list"]).contains("orders"));
    // An operator who looks for the time of a snapshot finds it.
    eventually(&node, || {
        let log = node.log();
        let told = log
            .lines()
            .find(|line| line.contains("event=\"resumed\""))?;
        assert!(told.contains("it stood still for a snapshot"), "{told}");
        Some(())
    });
}

#[test]
fn a_queue_that_does_not_exist_is_rejected_with_its_code() {
    let node = with_queue();
    for (args, code) in [
        (&["send", "nosuch", "x"][..], "bad_destination_queue"),
        (&["receive", "nosuch"], "not_found"),
        (&["peek", "nosuch"], "not_found"),
        (&["queue", "show", "nosuch"], "not_found"),
        (&["queue", "purge", "nosuch", "--yes"], "not_found"),
        (&["queue", "delete", "nosuch", "--yes"], "not_found"),
        (&["queue", "pause", "nosuch"], "not_found"),
        (
            &["queue", "set", "nosuch", "--quota-messages", "1"],
            "not_found",
        ),
        (&["queue", "create", "orders"], "bad_request"),
        (&["peers", "show", "nosuch"], "not_found"),
        (&["peers", "approve", "nosuch"], "not_found"),
        (&["peers", "forget", "nosuch", "--yes"], "not_found"),
        (&["outgoing", "show", "nosuch"], "not_found"),
        (&["outgoing", "retry", "nosuch"], "not_found"),
        (&["send", "nosuch/orders", "x"], "bad_destination_name"),
    ] {
        let output = ended(&mut node.command(&[&["--json"], args].concat()));
        let (cause, fix) = fails(&output, code);
        assert!(
            cause.contains("nosuch") || cause.contains("orders"),
            "{args:?}: {cause}"
        );
        assert!(!fix.contains("nosuch exists"), "{fix}");
    }
}

#[test]
fn classes_that_do_not_fit_are_rejected() {
    let node = with_queue();
    let args = ["--json", "send", "orders", "x", "--transactional"];
    fails(&ended(&mut node.command(&args)), "not_transactional_queue");
    node.done(&["queue", "create", "books", "--transactional"]);
    let args = ["--json", "send", "books", "x"];
    fails(
        &ended(&mut node.command(&args)),
        "not_transactional_message",
    );
    node.done(&["send", "books", "x", "--transactional"]);
}

#[test]
fn a_sender_hears_how_its_message_ended_at_another_node() {
    let (node, other) = (Running::start(), with_queue());
    let to = format!("qm://{}/orders", other.listen);
    let send = |body: &str| {
        let args = ["--json", "send", &to, body, "--wait", "received"];
        let mut command = node.command(&[&args[..], &["--timeout", "20s"]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let waits = send("apples");
    assert_eq!(
        other.done(&["receive", "orders", "--wait", "10s"]),
        "apples\n"
    );
    let heard = waits.wait_with_output().unwrap();
    let out = String::from_utf8(heard.stdout).unwrap();
    assert_eq!(heard.status.code(), Some(0), "{out}");
    assert!(out.contains("\"state\":\"received\""), "{out}");
    let waits = send("pears");
    let id = eventually(&other, || {
        let peeked = ended(&mut other.command(&["peek", "orders", "--json"]));
        let message = serde_json::from_slice::<serde_json::Value>(&peeked.stdout).ok()?;
        Some(message["id"].as_str().unwrap().to_owned())
    });
    let why = node.done(&["why", &id, "--json"]);
    assert!(why.contains("\"code\":\"awaiting_end\""), "{why}");
    other.done(&["queue", "purge", "orders", "--yes"]);
    fails(&waits.wait_with_output().unwrap(), "queue_purged");
    let trace = node.done(&["trace", &id]);
    assert!(trace.contains("C001 queue_purged"), "{trace}");
}

#[test]
fn an_application_finds_in_its_administration_queue_what_became_of_its_message() {
    let (node, other) = (Running::start(), with_queue());
    let to = format!("qm://{}/orders", other.listen);
    node.done(&["queue", "create", "acks"]);
    let id = node.done(&[
        "send",
        &to,
        "apples",
        "--admin-queue",
        "acks",
        "--ack",
        "receive",
        "--journal",
    ]);
    assert_eq!(
        other.done(&["receive", "orders", "--wait", "10s"]),
        "apples\n"
    );
    let told = node.done(&["receive", "acks", "--json", "--wait", "10s"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["report"], "4000 received", "{told}");
    assert_eq!(told["correlation_id"], id.trim(), "{told}");
    assert_eq!(node.done(&["receive", "journal$"]), "apples\n");
    let args = ["--json", "send", &to, "pears", "--admin-queue", "nowhere"];
    let refused = ended(&mut node.command(&[&args[..], &["--ack", "reach"]].concat()));
    fails(&refused, "bad_destination_queue");
}

#[test]
fn a_dead_letter_says_what_it_died_of() {
    let node = with_queue();
    let args = ["send", "orders", "x", "--time-to-be-received", "50ms"];
    node.done(&args);
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = format!("qm://{}/orders", nobody.local_addr().unwrap());
    node.done(&["send", &far, "y", "--time-to-reach-queue", "50ms"]);
    let dead = eventually(&node, || {
        let dead = node.done(&["dead", "list", "--json"]);
        (dead.lines().count() == 2).then_some(dead)
    });
    for reason in ["time_to_be_received_expired", "time_to_reach_queue_expired"] {
        assert!(dead.contains(reason), "{dead}");
        let known = node.done(&["errors", reason]);
        assert!(known.contains("\nfix\tallow more time"), "{known}");
    }
}

#[test]
fn a_sender_hears_that_its_message_was_rejected() {
    let node = with_queue();
    let args = [
        "--json",
        "send",
        "orders",
        "x",
        "--wait",
        "received",
        "--timeout",
        "20s",
    ];
    let mut command = node.command(&args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let client = qm_client::blocking::Client::connect(node.data().join("node.sock")).unwrap();
    let wait = qm_client::ReceiveOptions::new().wait(Duration::from_secs(10));
    let delivery = client
        .receive(&"orders".parse().unwrap(), &wait)
        .unwrap()
        .unwrap();
    client.wait(delivery.reject()).unwrap();
    fails(&child.wait_with_output().unwrap(), "rejected_by_receiver");
}

#[test]
fn bodies_over_the_limit_are_rejected_wherever_they_come_from() {
    let node = with_queue();
    let big = vec![b'x'; 65_537];
    fs::write(node.home.path().join("big"), &big).unwrap();
    let file = node.command(&["--json", "send", "orders", "--file", "big"]);
    let output = ended(&mut { file });
    fails(&output, "body_over_limit");
    let piped = fed(node.command(&["--json", "send", "orders"]), &big);
    fails(&piped, "body_over_limit");
    let argument = "x".repeat(65_537);
    let output = ended(&mut node.command(&["--json", "send", "orders", &argument]));
    let (cause, _) = fails(&output, "body_over_limit");
    assert!(
        cause.contains("65537") && cause.contains("65536"),
        "{cause}"
    );
    // To the brim.
    node.done(&["send", "orders", &"x".repeat(65_536)]);
}

#[test]
fn a_line_over_the_limit_is_named_and_the_others_go_on() {
    let node = with_queue();
    let mut input = b"one\n".to_vec();
    // Shorter and longer than what is read at once.
    for length in [70_000, 700_000] {
        input.extend(vec![b'x'; length]);
        input.push(b'\n');
    }
    input.extend(b"four\n");
    let output = fed(
        node.command(&["--json", "send", "orders", "--lines", "-"]),
        &input,
    );
    let (cause, _) = fails(&output, "body_over_limit");
    assert!(cause.contains("65536"), "{cause}");
    let error = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(
        lines[0].contains("70000 bytes") && lines[0].ends_with("\"line\":2}"),
        "{error}"
    );
    assert!(
        lines[1].contains("700000 bytes") && lines[1].ends_with("\"line\":3}"),
        "{error}"
    );
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("\"accepted\":2,"), "{summary}");
    assert_eq!(
        node.done(&["receive", "orders", "--count", "2"]),
        "one\nfour\n"
    );
}

#[test]
fn an_interrupted_command_says_what_was_done() {
    let node = with_queue();
    let mut command = node.command(&["--json", "send", "orders", "--lines", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"a\nb\n").unwrap();
    assert_eq!(
        node.done(&["receive", "orders", "--count", "2", "--wait", "10s"]),
        "a\nb\n"
    );
    signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    let (_, fix) = fails(&output, "aborted");
    assert!(fix.contains("--idempotency-key"), "{fix}");
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("\"accepted\":2,"), "{summary}");
    drop(stdin);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let node = with_queue();
    let lines: String = (0..2_000).map(|n| format!("{n}\n")).collect();
    fed(
        node.command(&["send", "orders", "--lines", "-"]),
        lines.as_bytes(),
    );
    for args in [
        &["peek", "orders", "--count", "2000", "--output", "text"][..],
        &["errors"],
        &["config", "example"],
        &["man"],
        &["--help"],
        &["queue", "list"],
    ] {
        let mut command = node.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Gone before the first byte.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
    // A message that nobody read stays.
    let mut command = node.command(&["receive", "orders"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(node.done(&["receive", "orders", "--wait", "5s"]), "0\n");
}

#[test]
fn output_without_room_is_an_error_and_the_message_stays() {
    let node = with_queue();
    node.done(&["send", "orders", &"x".repeat(60_000)]);
    let script = "exec \"$QM\" --json --data node receive orders > /dev/full";
    let (cause, _) = fails(&ended(&mut shell(node.home.path(), script)), "disk_full");
    assert!(cause.contains("standard output"), "{cause}");
    fs::create_dir(node.home.path().join("out")).unwrap();
    // No file may have more than 16 KiB, and there is no signal at that limit.
    let script =
        "trap '' XFSZ; ulimit -f 32; exec \"$QM\" --json --data node receive orders --out-dir out";
    let (cause, _) = fails(&ended(&mut shell(node.home.path(), script)), "disk_full");
    assert!(cause.contains("out/"), "{cause}");
    // Neither settled nor, in part, in the directory.
    let left = fs::read_dir(node.home.path().join("out")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    let body = node.done(&["receive", "orders", "--wait", "5s"]);
    assert_eq!(body.len(), 60_001);
}

#[test]
fn texts_that_are_none_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let script = "exec \"$QM\" --json send orders x --label \"$(printf 'a\\377')\"";
    let (cause, _) = fails(&ended(&mut shell(home.path(), script)), "usage");
    assert!(cause.contains("UTF-8"), "{cause}");
}

#[test]
fn a_fate_that_stays_open_says_what_holds_it_up() {
    let (node, other) = (with_queue(), with_queue());
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = closed.local_addr().unwrap();
    let nobody = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let stranger = "6d7f2a10-0000-8000-8000-000000000001";
    let send = |to: &str| {
        let args = [
            "--json",
            "send",
            to,
            "x",
            "--wait",
            "delivered",
            "--timeout",
            "700ms",
        ];
        fails(&ended(&mut node.command(&args)), "fate_open")
    };
    let refused = send(&format!("qm://{nobody}/orders"));
    assert!(
        refused.0.contains(&format!("{nobody} refuses")),
        "{refused:?}"
    );
    assert!(refused.1.contains(&nobody.to_string()), "{refused:?}");
    let wrong = send(&format!("qm://{stranger}@{}/orders", other.listen));
    assert!(wrong.0.contains(&other.identity), "{wrong:?}");
    assert!(wrong.0.contains(stranger), "{wrong:?}");
    let why = node.done(&[
        "why",
        &format!("qm://{stranger}@{}/orders", other.listen),
        "--json",
    ]);
    assert!(why.contains("\"code\":\"wrong_identity\""), "{why}");
    assert!(wrong.1.contains("peers forget"), "{wrong:?}");
    let paused = {
        let to = format!("qm://{silent}/orders");
        let (cause, _) = send(&to);
        assert!(
            cause.contains("accepted and not yet where it should be"),
            "{cause}"
        );
        node.done(&["outgoing", "pause", &to, "--yes"]);
        send(&to)
    };
    assert!(paused.0.contains("paused by the operator"), "{paused:?}");
    assert!(paused.1.contains("outgoing resume"), "{paused:?}");
}

#[test]
fn a_stranger_is_told_what_to_ask_for() {
    let (node, other) = (with_queue(), {
        let home = tempfile::tempdir().unwrap();
        let args = ["--json", "--data", "node", "run", "--listen", "127.0.0.1:0"];
        let command = qm(home.path(), &args);
        Running::of(home, command)
    });
    other.done(&["queue", "create", "in"]);
    let to = format!("qm://{}/in", other.listen);
    let send = || {
        let args = [
            "--json",
            "send",
            &to,
            "x",
            "--wait",
            "delivered",
            "--timeout",
            "2s",
        ];
        fails(&ended(&mut node.command(&args)), "fate_open")
    };
    let (cause, fix) = send();
    assert!(cause.contains("has not approved this node"), "{cause}");
    let why = node.done(&["why", &to, "--json"]);
    assert!(why.contains("\"code\":\"pending_approval\""), "{why}");
    assert!(
        fix.contains(&format!("peers approve {}", node.identity)),
        "{fix}"
    );
    other.done(&["peers", "block", &node.identity, "--yes"]);
    let (cause, fix) = send();
    assert!(cause.contains("blocked"), "{cause}");
    assert!(fix.contains("peers approve"), "{fix}");
    // By hand, as the words say.
    other.done(&["peers", "approve", &node.identity]);
    node.done(&["outgoing", "retry", &to, "--yes"]);
    let bodies = other.done(&["receive", "in", "--count", "2", "--wait", "10s"]);
    assert_eq!(bodies, "x\nx\n");
}

#[test]
fn foreign_datagrams_hurt_nobody() {
    let node = with_queue();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(&node.listen).unwrap();
    let http = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n";
    for n in 0_u32..2_000 {
        let noise: Vec<u8> = (0..n % 1_400).map(|i| (i * n).to_le_bytes()[1]).collect();
        drop(socket.send(if n % 2 == 0 { http } else { &noise }));
    }
    // QUIC of a version that nobody speaks gets an answer, behind everything that came before it.
    let mut unknown_version = [0; 1200];
    unknown_version[..5].copy_from_slice(&[0xc0, 0x0a, 0x0a, 0x0a, 0x0a]);
    unknown_version[5] = 8;
    unknown_version[14] = 8;
    let patience = Duration::from_millis(200);
    socket.set_read_timeout(Some(patience)).unwrap();
    let answered = (0..100).any(|_| {
        // The noise may have filled the node's buffer: then this is dropped, and asked again.
        socket.send(&unknown_version).unwrap();
        socket.recv(&mut [0; 1500]).is_ok()
    });
    assert!(answered, "the node hears nothing any more");
    node.done(&["send", "orders", "x"]);
    assert_eq!(node.done(&["receive", "orders"]), "x\n");
    assert!(node.log().lines().count() < 20, "{}", node.log());
}

#[test]
fn a_full_store_accepts_nothing_and_drains() {
    for (limit, name) in [
        (("QM_LIMITS__STORE_BYTES", "1MiB"), "limits.store_bytes"),
        (("QM_STORE__DISK_BYTES", "34MiB"), "store.disk_bytes"),
    ] {
        let node = Running::start_with(&[limit]);
        node.done(&["queue", "create", "orders"]);
        let body = "x".repeat(60_000);
        let lines = format!("{body}\n").repeat(400);
        let args = ["--json", "send", "orders", "--lines", "-"];
        let output = fed(node.command(&args), lines.as_bytes());
        let (cause, fix) = fails(&output, "store_full");
        let advice = format!("{cause}; {fix}");
        assert!(
            advice.contains("room") || advice.contains("receivers"),
            "{advice}"
        );
        let one = ["--json", "send", "orders", &body];
        // What is smaller than the refused batch may find room.
        let mut more = 0;
        let status = eventually(&node, || {
            let sent = ended(&mut node.command(&one));
            if sent.status.success() {
                more += 1;
                return None;
            }
            fails(&sent, "store_full");
            let status = node.done(&["status", "--json"]);
            status.contains("\"store_full\":true").then_some(status)
        });
        let by = format!("\"store_full_by\":\"{name}\"");
        assert!(status.contains(&by), "{status}");
        let why = node.done(&["why", "orders"]);
        assert!(why.contains(name), "{why}");
        for question in ["status", "doctor", "check"] {
            let told = ended(&mut node.command(&[question]));
            let told = String::from_utf8(told.stdout).unwrap();
            assert!(told.contains(name), "{question}: {told}");
        }
        eventually(&node, || node.log().contains(name).then_some(()));
        // The reserve lets what is there go out, and then there is room again.
        let summary = String::from_utf8(output.stdout).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        let accepted = summary["accepted"].as_u64().unwrap();
        assert!((10..400).contains(&accepted), "{accepted}");
        let count = (accepted + more).to_string();
        let bodies = node.done(&["receive", "orders", "--count", &count, "--wait", "5s"]);
        assert_eq!(bodies.lines().count() as u64, accepted + more);
        // Segments are emptied behind the receivers' backs, and nobody has to try whether they are.
        eventually(&node, || {
            let status = node.done(&["status", "--json"]);
            (!status.contains("\"store_full\":true")).then_some(())
        });
        node.done(&["send", "orders", &body]);
    }
}

#[test]
fn a_node_out_of_files_lives_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let run = Running::RUN.join(" ");
    let command = shell(home.path(), &format!("ulimit -n 48; exec \"$QM\" {run}"));
    let node = Running::of(home, command);
    node.done(&["queue", "create", "orders"]);
    let socket = node.data().join("node.sock");
    // Connections that say nothing take all that applications may have.
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    }
    let mut late = node.command(&["--json", "status"]);
    let (cause, _) = fails(&ended(&mut late), "connection");
    assert!(cause.contains("ended the connection"), "{cause}");
    drop(held);
    eventually(&node, || {
        let sent = ended(&mut node.command(&["send", "orders", "x"]));
        sent.status.success().then_some(())
    });
    assert_eq!(node.done(&["receive", "orders", "--wait", "5s"]), "x\n");
    let log = eventually(&node, || {
        let log = node.log();
        (log.contains("few_files") && log.contains("too many applications connected"))
            .then_some(log)
    });
    assert!(log.lines().count() < 20, "{log}");
}

#[test]
fn a_low_limit_of_files_is_raised_as_far_as_it_may_be() {
    let home = tempfile::tempdir().unwrap();
    let run = Running::RUN.join(" ");
    let script = format!("ulimit -Sn 48 && ulimit -Hn 300 && exec \"$QM\" {run}");
    let command = shell(home.path(), &script);
    let node = Running::of(home, command);
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["300", "300"]);
}

#[test]
fn a_demonstration_whose_node_does_not_start_tells_why() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("text"), "a\n".repeat(100)).unwrap();
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$QM\" --json demo text --dir .";
    let (cause, _) = fails(&ended(&mut shell(home.path(), script)), "trial");
    assert!(cause.contains("disk_full"), "{cause}");
}

#[test]
fn receiving_goes_on_where_an_interrupt_left_it() {
    let node = with_queue();
    fed(node.command(&["send", "orders", "--lines", "-"]), b"a\nb\n");
    let mut command = node.command(&["receive", "orders", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    out.read_line(&mut printed).unwrap();
    signal(child.id(), "-INT");
    out.read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // What was printed is gone, what was not is there.
    let rest = node.command(&["receive", "orders", "--count", "2", "--wait", "300ms"]);
    let rest = ended(&mut { rest });
    printed.push_str(&String::from_utf8(rest.stdout).unwrap());
    assert_eq!(printed, "a\nb\n");
}
