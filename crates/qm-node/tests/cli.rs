//! The program as scripts meet it: exit codes, what goes where, JSON documents.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use expect_test::{Expect, expect};
use tempfile::TempDir;

/// A command that sees nothing of the machine it runs on.
fn qm(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm-node"));
    command.env_clear().env("HOME", home).args(args);
    // Small files, so that a node is there at once.
    command.env("QM_STORE__SEGMENT_BYTES", "1MiB");
    command.env("QM_STORE__RESERVE_BYTES", "1MiB");
    command.env("QM_LIMITS__BODY_BYTES", "64KiB");
    command.stdin(Stdio::null()).current_dir(home);
    command
}

fn output(home: &Path, args: &[&str]) -> Output {
    qm(home, args).output().unwrap()
}

fn fed(home: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = qm(home, args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The exit code, and what was printed on each stream.
fn ended(output: &Output) -> (i32, String, String) {
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

/// A node that runs for as long as the test.
struct Running {
    home: TempDir,
    child: Child,
}

impl Running {
    fn start() -> Self {
        Self::start_with_bodies_of("64KiB")
    }

    /// A node that takes bodies up to this size.
    fn start_with_bodies_of(bytes: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let args = [
            "--json",
            "--data",
            "node",
            "run",
            "--listen",
            "127.0.0.1:0",
            "--name",
            "till",
        ];
        let mut command = qm(home.path(), &args);
        command.env("QM_LIMITS__BODY_BYTES", bytes);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert!(
            ready.contains(r#""schema":"qm.node/1","name":"till""#),
            "{ready}"
        );
        Self { home, child }
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        self.feed(args, b"")
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> (i32, String, String) {
        ended(&fed(
            self.home.path(),
            &[&["--data", "node"], args].concat(),
            input,
        ))
    }

    /// Runs what must succeed.
    fn done(&self, args: &[&str]) -> String {
        let (code, out, error) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{error}");
        out
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if asked.is_err() {
            drop(self.child.kill());
        }
        drop(self.child.wait());
    }
}

/// Hides what differs from run to run.
fn redacted(json: &str) -> String {
    let mut document: serde_json::Value = serde_json::from_str(json).unwrap();
    hide(&mut document);
    serde_json::to_string_pretty(&document).unwrap()
}

fn hide(value: &mut serde_json::Value) {
    const HIDDEN: &[&str] = &[
        "id",
        "source",
        "tag",
        "sent_at",
        "arrived_at",
        "qm",
        "fingerprint",
        "listen",
        "addresses",
        "socket",
        "data",
        "pid",
        "version",
        "incarnation",
        "uptime_ms",
        "resident_bytes",
        "heap_bytes",
        "elapsed_ms",
        "messages_per_s",
        "local_bytes",
        "bytes",
        "lookup_id",
        "oldest_age_ms",
    ];
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                if HIDDEN.contains(&name.as_str()) {
                    *value = "…".into();
                } else {
                    hide(value);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

fn check_golden(json: &str, golden: &Expect) {
    golden.assert_eq(&redacted(json));
}

#[test]
fn what_is_typed_wrong_exits_with_2() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("bad.toml"), "[dedup]\nsise = 1\n").unwrap();
    for args in [
        &["send"][..],
        &["queue", "lst"],
        &["send", "q", "x", "--priority", "9"],
        &["run", "--listen", "nonsense"],
        &["config", "check", "bad.toml"],
        &["--config", "missing.toml", "status"],
        &["errors", "nosuch"],
        &["--data", "none", "identity", "show"],
    ] {
        let (code, out, error) = ended(&output(home.path(), args));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {error}");
        assert!(error.contains("error"), "{args:?}: {error}");

        let (code, out, error) = ended(&output(home.path(), &[&["--json"], args].concat()));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {error}");
        let document: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert_eq!(document["schema"], "qm.error/1");
        for field in ["code", "cause", "fix"] {
            assert!(
                document[field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{error}"
            );
        }
    }
    let (code, _, error) = ended(&output(home.path(), &["config", "check", "bad.toml"]));
    assert_eq!(code, 2);
    expect![[r#"
        error [config]: bad.toml:2:1: there is no key `dedup.sise`
            sise = 1
            ^
          fix: did you mean `dedup.size`?
    "#]]
    .assert_eq(&error);
}

#[test]
fn without_a_node_it_exits_with_5_and_says_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    for args in [
        &["status"][..],
        &["send", "q", "x"],
        &["receive", "q"],
        &["queue", "list"],
    ] {
        let (code, out, error) = ended(&output(home.path(), args));
        assert_eq!((code, out.as_str()), (5, ""), "{args:?}");
        assert!(
            error.contains("[not_running]") && error.contains("qm-node run"),
            "{error}"
        );
    }
}

#[test]
fn paper_needs_no_node() {
    let home = tempfile::tempdir().unwrap();
    for (args, beginning) in [
        (&["completions", "bash"][..], "_qm__node()"),
        (&["completions", "fish"], "# Print an optspec"),
        (&["man"], ".ie \\n(.g .ds Aq"),
        (&["config", "example"], "# Configuration of qm-node."),
        (
            &["errors", "8003"],
            "name\tqueue_quota_exceeded\ncode\t8003\nexit\t4\n",
        ),
        (&["errors"], "-\tusage\t2\t"),
        (&["--version"], "qm-node "),
        (&["config", "check"], "there is no configuration file"),
    ] {
        let (code, out, error) = ended(&output(home.path(), args));
        assert_eq!((code, error.as_str()), (0, ""), "{args:?}");
        assert!(
            out.starts_with(beginning),
            "{args:?}: {}",
            &out[..out.len().min(80)]
        );
    }
}

#[test]
fn init_makes_an_identity_once() {
    let home = tempfile::tempdir().unwrap();
    let first = ended(&output(
        home.path(),
        &["--data", "node", "init", "--name", "till"],
    ));
    let again = ended(&output(home.path(), &["--data", "node", "init"]));
    assert_eq!((first.0, again.0), (0, 0));
    assert_eq!(first.1, again.1);
    assert!(first.1.starts_with("name\ttill\nidentity\t"));
    let shown = ended(&output(
        home.path(),
        &["--data", "node", "identity", "show"],
    ));
    assert_eq!(shown.1.lines().nth(1), first.1.lines().nth(1));
    assert!(shown.1.ends_with("running\tno\n"));
}

#[test]
fn messages_go_in_and_out() {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    let id = node.done(&["send", "orders", "three apples"]);
    assert!(
        id.trim().split_once('-').is_some_and(|(_, n)| n == "1"),
        "{id}"
    );
    node.done(&[
        "send",
        "orders",
        "grüße",
        "--label",
        "l",
        "--correlation-id",
        "c",
        "--property",
        "a=b",
        "--time-to-be-received",
        "1h",
        "--content-type",
        "text/plain",
        "--response-queue",
        "answers",
    ]);
    let (code, _, _) = node.feed(&["send", "orders"], b"\x00\xff\n");
    assert_eq!(code, 0);

    let peeked = node.done(&["peek", "orders", "--json"]);
    assert_eq!(peeked.lines().count(), 3);
    let second = peeked.lines().nth(1).unwrap();
    let second = second.replace(
        &second[second.find("\"time_to_be_received_left_ms\"").unwrap()
            ..second.find("\"label\"").unwrap()],
        "",
    );
    check_golden(
        &second,
        &expect![[r#"
        {
          "abort_count": 0,
          "arrived_at": "…",
          "body": "grüße",
          "body_bytes": 7,
          "class": "recoverable",
          "content_type": "text/plain",
          "correlation_id": "c",
          "id": "…",
          "label": "l",
          "lookup_id": "…",
          "priority": 3,
          "properties": {
            "a": "b"
          },
          "queue": "orders",
          "response_queue": "answers",
          "schema": "qm.message/1",
          "sent_at": "…",
          "source": "…",
          "tag": "…"
        }"#]],
    );
    assert!(
        peeked
            .lines()
            .nth(2)
            .unwrap()
            .ends_with(r#""body_bytes":3,"body_base64":"AP8K"}"#)
    );

    assert_eq!(node.done(&["receive", "orders"]), "three apples\n");
    assert_eq!(
        node.done(&["receive", "orders", "--output", "raw"]),
        "grüße"
    );
    let raw = fed(
        node.home.path(),
        &["--data", "node", "receive", "orders", "--output", "raw"],
        b"",
    );
    assert_eq!(raw.stdout, b"\x00\xff\n");

    let (code, out, error) = node.run(&["receive", "orders"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(
        error.contains("there is no message in queue orders"),
        "{error}"
    );
    let (code, _, error) = node.run(&["--quiet", "receive", "orders", "--wait", "50ms"]);
    assert_eq!((code, error.as_str()), (3, ""));
    let (code, _, error) = node.run(&["send", "nosuch", "x"]);
    assert_eq!(code, 4);
    assert!(error.contains("[8000 bad_destination_queue]") && error.contains("queue create"));
    let (code, _, error) = node.run(&["receive", "nosuch", "--json"]);
    assert_eq!(code, 4);
    assert!(
        error.contains(r#""code":"not_found","outcome":"9013""#),
        "{error}"
    );
}

#[test]
fn lines_go_through_in_order_and_once_per_key() {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    let input: String = (1..=5_000).map(|n| format!("{n}\n")).collect();
    let args = ["send", "orders", "--lines", "-", "--idempotency-key", "k"];
    for summary in [
        "5000 accepted in ",
        "5000 accepted (5000 of them before) in ",
    ] {
        let (code, out, error) = node.feed(&args, input.as_bytes());
        assert_eq!((code, out.as_str()), (0, ""), "{error}");
        assert!(error.starts_with(summary), "{error}");
    }
    assert_eq!(node.done(&["receive", "orders", "--count", "5000"]), input);
    assert_eq!(node.run(&["receive", "orders"]).0, 3);

    let (code, _, _) = node.feed(&["send", "orders", "--lines", "-", "--null"], b"a\nb\0\0c");
    assert_eq!(code, 0);
    assert_eq!(
        node.done(&["receive", "orders", "--count", "3"]),
        "a\nb\n\nc\n"
    );

    node.done(&["queue", "set", "orders", "--quota-messages", "2"]);
    let args = [
        "send",
        "orders",
        "--lines",
        "-",
        "--json",
        "--fail-when-full",
    ];
    let (code, out, error) = node.feed(&args, b"1\n2\n3\n");
    assert_eq!(code, 4);
    assert!(
        error.starts_with(
            r#"{"schema":"qm.error/1","code":"queue_quota_exceeded","outcome":"8003","cause":"#
        ) && error.lines().next().unwrap().ends_with(r#""line":3}"#),
        "{error}"
    );
    check_golden(
        &out,
        &expect![[r#"
        {
          "accepted": 2,
          "bytes": "…",
          "elapsed_ms": "…",
          "ended": {},
          "messages_per_s": "…",
          "open": 0,
          "rejected": {
            "queue_quota_exceeded": 1
          },
          "repeated": 0,
          "schema": "qm.send_summary/1",
          "unknown": 0
        }"#]],
    );
}

#[test]
fn bodies_become_files() {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    node.feed(&["send", "orders", "--lines", "-"], b"a\nb\n");
    std::fs::create_dir(node.home.path().join("out")).unwrap();
    let paths = node.done(&["receive", "orders", "--count", "2", "--out-dir", "out"]);
    let bodies: Vec<String> = paths
        .lines()
        .map(|path| std::fs::read_to_string(node.home.path().join(path)).unwrap())
        .collect();
    assert_eq!(bodies, ["a", "b"]);
    // What cannot be written stays in its queue.
    node.done(&["send", "orders", "c"]);
    assert_eq!(
        node.run(&["receive", "orders", "--out-dir", "missing"]).0,
        1
    );
    assert_eq!(node.done(&["receive", "orders", "--wait", "5s"]), "c\n");
    // A body over the limit is refused before it is read whole.
    std::fs::write(node.home.path().join("big"), vec![b'x'; 65_537]).unwrap();
    let (code, _, error) = node.run(&["send", "orders", "--file", "big"]);
    assert_eq!(code, 4);
    assert!(error.contains("9002 body_over_limit"), "{error}");
}

#[test]
fn queues_are_operated_and_documents_keep_their_fields() {
    let node = Running::start();
    node.done(&["queue", "create", "orders", "--quota-bytes", "1MiB"]);
    let (code, _, error) = node.run(&["queue", "create", "ORDERS"]);
    assert_eq!(code, 4);
    assert!(error.contains("exists"), "{error}");
    check_golden(
        &node.done(&["queue", "show", "orders", "--json"]),
        &expect![[r#"
            {
              "arrived": 0,
              "bytes": "…",
              "full": false,
              "leased": 0,
              "max_aborts": 0,
              "messages": 0,
              "name": "orders",
              "oldest_age_ms": "…",
              "paused": false,
              "quota_bytes": 1048576,
              "quota_messages": null,
              "received": 0,
              "schema": "qm.queue/1",
              "transactional": false,
              "waiting_receivers": 0
            }"#]],
    );
    node.feed(&["send", "orders", "--lines", "-"], b"a\nb\n");
    node.done(&["queue", "pause", "orders"]);
    let (code, _, error) = node.run(&["receive", "orders"]);
    assert_eq!(code, 3);
    assert!(
        error.contains("is paused") && error.contains("queue resume orders"),
        "{error}"
    );
    let why = node.done(&["why", "orders"]);
    assert!(
        why.starts_with("receivers are held back by the operator\n  fix: "),
        "{why}"
    );
    node.done(&["queue", "resume", "orders"]);

    for verb in ["purge", "delete"] {
        let (code, _, error) = node.run(&["queue", verb, "orders"]);
        assert_eq!(code, 2);
        assert!(error.contains("[needs_yes]"), "{error}");
        let would = node.done(&["queue", verb, "orders", "--dry-run"]);
        assert!(
            would.starts_with("would ") && would.contains("2 messages"),
            "{would}"
        );
    }
    assert_eq!(node.run(&["queue", "delete", "orders", "--yes"]).0, 4);
    let done = node.done(&["queue", "purge", "orders", "--yes", "--json"]);
    assert_eq!(
        done,
        concat!(
            r#"{"schema":"qm.done/1","count":2,"dead_letters":2,"discarded":0,"#,
            r#""uncertain":0,"left":0}"#,
            "\n"
        )
    );
    node.done(&["queue", "delete", "orders", "--yes"]);
    assert_eq!(node.run(&["dead", "drop", "--all"]).0, 2, "it asks");
    assert_eq!(
        node.done(&["dead", "list", "--reason", "c001"])
            .lines()
            .count(),
        2
    );
    node.done(&["dead", "drop", "--all", "--reason", "queue_purged", "--yes"]);
    assert_eq!(node.done(&["dead", "list"]), "");
    let left = node.done(&["queue", "list"]);
    assert!(left.starts_with("dead$\t0\t"), "{left}");

    check_golden(
        &node.done(&["status", "--json"]),
        &expect![[r#"
            {
              "clients": 1,
              "counters": {
                "accepted": 2,
                "acknowledged": 0,
                "acks_not_held": 0,
                "acks_routed": 0,
                "acks_unverified": 0,
                "dead_letters": 2,
                "delivered": 0,
                "discarded": 0,
                "duplicates": 0,
                "finals": 0,
                "finals_confirmed": 0,
                "finals_forgotten": 0,
                "finals_heard": 0,
                "finals_unknown": 0,
                "given_back": 0,
                "journalled": 0,
                "letters_confirmed": 0,
                "letters_dropped": 2,
                "letters_uncertain": 0,
                "letters_unconfirmed": 0,
                "letters_withdrawn": 0,
                "misbehaved": 0,
                "own_twins": 0,
                "poisoned": 0,
                "purged": 2,
                "queried": 0,
                "received": 0,
                "refused": 0,
                "rejected": 0,
                "repeated_requests": 0,
                "reports": 0,
                "reports_lost": 0,
                "resent": 0,
                "retransmitted": 0,
                "transactions_committed": 0,
                "transactions_timed_out": 0,
                "transmitted": 0,
                "twins_seen": 0,
                "twins_unasked": 0,
                "uncertain_by_forgetting": 0,
                "uncertain_by_limit": 0,
                "uncertain_by_refusal": 0,
                "uncertain_by_restart": 0,
                "unreadable": 0,
                "voids": 0
              },
              "dead_letters": 0,
              "express_bytes": 0,
              "express_bytes_max": 67108864,
              "incarnation": "…",
              "local_bytes": "…",
              "local_messages": 0,
              "missing_records": 0,
              "name": "till",
              "node": {
                "addresses": "…",
                "data": "…",
                "fingerprint": "…",
                "listen": "…",
                "name": "till",
                "pid": "…",
                "qm": "…",
                "schema": "qm.node/1",
                "socket": "…",
                "version": "…"
              },
              "outgoing_bytes": 0,
              "outgoing_messages": 0,
              "pending_peers": 0,
              "qm": "…",
              "quarantined": 0,
              "resident_bytes": "…",
              "schema": "qm.status/1",
              "sessions": 0,
              "stopping": false,
              "store_full": false,
              "store_full_by": null,
              "stored_bytes": 0,
              "stored_bytes_max": 68719476736,
              "unconfirmed_ms": null,
              "uptime_ms": "…"
            }"#]],
    );
    check_golden(
        &node.done(&["dedup", "--json"]),
        &expect![[r#"
        {
          "aborted": 0,
          "contended": 0,
          "duplicates": 0,
          "effective_window_ms": null,
          "entries": 0,
          "evicted": 0,
          "evicted_young": 0,
          "fresh": 0,
          "heap_bytes": "…",
          "in_flight": 0,
          "oldest_age_ms": "…",
          "purged": 0,
          "refused": 0,
          "schema": "qm.dedup/1",
          "size": 10000
        }"#]],
    );
    check_golden(
        &node.done(&["routes", "--json"]),
        &expect![[r#"
        {
          "conflicts": 0,
          "displaced": 0,
          "expired": 0,
          "failed": 0,
          "learned": 0,
          "refused": 0,
          "rows": 0,
          "schema": "qm.route_stats/1",
          "switches": 0
        }"#]],
    );
    check_golden(
        &node.done(&["identity", "show", "--json"]),
        &expect![[r#"
        {
          "data": "…",
          "fingerprint": "…",
          "name": "till",
          "qm": "…",
          "running": true,
          "schema": "qm.identity/1"
        }"#]],
    );
    check_golden(
        &node.run(&["why", "nosuch", "--json"]).1,
        &expect![[r#"
            {
              "cause": "nothing here is called nosuch",
              "code": "unknown",
              "evidence": [],
              "fix": "see: qm-node outgoing list, qm-node queue list, qm-node peers list",
              "schema": "qm.why/1",
              "subject": "nosuch"
            }"#]],
    );
}

#[test]
fn two_nodes_deliver_after_approval() {
    let (a, b) = (Running::start(), Running::start());
    b.done(&["queue", "create", "in"]);
    let status: serde_json::Value = serde_json::from_str(&b.done(&["status", "--json"])).unwrap();
    let address = status["node"]["listen"].as_str().unwrap().to_owned();
    let to = format!("qm://{address}/in");
    let (code, id, error) = a.run(&["send", &to, "one", "--wait", "delivered", "--timeout", "2s"]);
    assert_eq!((code, id.trim().is_empty()), (3, false), "{error}");
    assert!(
        error.contains("has not approved") && error.contains("peers approve"),
        "{error}"
    );

    let peers = b.done(&["peers", "list", "--json"]);
    let peer: serde_json::Value = serde_json::from_str(&peers).unwrap();
    assert_eq!(peer["approval"], "pending");
    let qm = peer["qm"].as_str().unwrap().to_owned();
    b.done(&["peers", "approve", &qm[..8], "--name", "alpha"]);
    assert_eq!(b.done(&["receive", "in", "--wait", "10s"]), "one\n");
    a.done(&[
        "send",
        &to,
        "two",
        "--wait",
        "delivered",
        "--timeout",
        "10s",
    ]);

    a.done(&["peers", "add", "hub", &address]);
    a.done(&[
        "send",
        "hub/in",
        "three",
        "--wait",
        "delivered",
        "--timeout",
        "10s",
    ]);
    assert_eq!(b.done(&["receive", "in", "--count", "2"]), "two\nthree\n");
    let listed = a.done(&["outgoing", "list"]);
    assert!(
        listed.starts_with(&format!("{to}\tconnected\t0\t0\t0\t0\t3\t")),
        "{listed}"
    );

    a.done(&["outgoing", "pause", "hub"]);
    a.done(&["send", "hub/in", "four"]);
    let (code, out, _) = a.run(&["outgoing", "purge", "--all", "--dry-run"]);
    assert_eq!(
        (code, out),
        (
            0,
            format!(
                "would remove what waits for {to} (1 waiting); they become dead letters, unless \
                 their senders wished none\n"
            )
        )
    );
    a.done(&["outgoing", "purge", "hub/in", "--yes"]);
    a.done(&["outgoing", "resume", "--all", "--yes"]);
    assert_eq!(b.run(&["receive", "in", "--wait", "100ms"]).0, 3);
    assert_eq!(b.run(&["peers", "block", "alpha"]).0, 2);
    b.done(&["peers", "block", "alpha", "--yes"]);
    assert_eq!(
        b.done(&["peers", "list"]).split('\t').nth(1),
        Some("blocked")
    );
}

#[test]
fn what_was_printed_is_settled_when_interrupted() {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    node.feed(&["send", "orders", "--lines", "-"], b"a\nb\n");
    let args = ["--data", "node", "receive", "orders", "--follow"];
    let mut follow = qm(node.home.path(), &args);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(follow.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    let interrupted = Command::new("kill")
        .args(["-INT", &follow.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((first + &rest).as_str(), "a\nb\n");
    assert_eq!(follow.wait().unwrap().code(), Some(0));
    assert_eq!(node.run(&["receive", "orders"]).0, 3);
}

#[test]
fn a_second_node_is_refused_and_says_why() {
    let node = Running::start();
    let (code, _, error) = node.run(&["run", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(error.contains("fix: "), "{error}");
}

/// What the other side refuses ends here with its reason, and can be sent again.
#[test]
fn refusals_of_the_other_side_become_dead_letters_with_their_reason() {
    let a = Running::start();
    let b = Running::start_with_bodies_of("32KiB");
    b.done(&["queue", "create", "secret-stock"]);
    let status: serde_json::Value = serde_json::from_str(&b.done(&["status", "--json"])).unwrap();
    let address = status["node"]["listen"].as_str().unwrap().to_owned();
    a.done(&["peers", "add", "hub", &address]);
    let (code, _, _) = a.run(&[
        "send",
        "hub/orders",
        "x",
        "--wait",
        "delivered",
        "--timeout",
        "2s",
    ]);
    assert_eq!(code, 3, "it waits for approval");
    b.done(&["peers", "approve", "till"]);

    // A queue that is not there: 8000, and nothing of the other side's queues is told.
    let wait = ["--wait", "delivered", "--timeout", "20s"];
    let (code, _, error) = a.run(&[&["send", "hub/nowhere", "lost"][..], &wait].concat());
    assert_eq!(code, 4, "{error}");
    assert!(
        error.contains("8000") && !error.contains("secret"),
        "{error}"
    );
    // A body over the destination's limit: 9002.
    let large = "x".repeat(40 << 10);
    let to = ["send", "hub/secret-stock", "--file", "-"];
    let (code, _, error) = a.feed(&[&to[..], &wait].concat(), large.as_bytes());
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("9002"), "{error}");

    let letters = a.done(&["dead", "list", "--json"]);
    let reasons: Vec<String> = letters
        .lines()
        .map(|line| {
            let letter: serde_json::Value = serde_json::from_str(line).unwrap();
            letter["outcome"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(reasons, ["8000", "8000", "9002"]);
    let lost = a.done(&["dead", "list", "--destination", "hub/nowhere"]);
    let id = lost.split('\t').next().unwrap();
    let why: serde_json::Value = serde_json::from_str(&a.done(&["why", id, "--json"])).unwrap();
    assert_eq!(why["code"], "unknown_queue");
    assert!(a.done(&["dead", "show", id]).ends_with("\nlost\n"));

    // Made good there, sent again here: there once, and traced on both sides.
    b.done(&["queue", "create", "nowhere"]);
    let resent = a.done(&["dead", "resend", id]);
    let new = resent.split('\t').nth(1).unwrap();
    assert_eq!(b.done(&["receive", "nowhere", "--wait", "10s"]), "lost\n");
    let trace: serde_json::Value =
        serde_json::from_str(&b.done(&["trace", new, "--json"])).unwrap();
    assert_eq!(trace["state"], "received");
    let (code, out, _) = a.run(&["trace", id]);
    assert_eq!(code, 0);
    assert!(out.starts_with("resent: ") && out.contains(new), "{out}");
    assert_eq!(
        b.run(&["receive", "nowhere", "--wait", "100ms"]).0,
        3,
        "once"
    );

    // Monitoring and the doctor see what is left, and a node that is gone.
    let (code, line, _) = a.run(&["check", "--warn-disk", "101", "--crit-disk", "101"]);
    assert_eq!(code, 1, "{line}");
    assert!(
        line.starts_with("QM WARNING - ") && line.contains(" | dead_letters=2;1;1000;0 "),
        "{line}"
    );
    // All that is wrong is named.
    let (_, line, _) = a.run(&["check", "--warn-disk", "0", "--crit-disk", "101"]);
    for wrong in ["dead_letters is 2", "store is ", "disk is "] {
        assert!(line.contains(wrong), "{line}");
    }
    let snapshot = a.done(&["top", "--interval", "100ms"]);
    assert!(snapshot.starts_with("node\ttill\tok\t"), "{snapshot}");
    assert!(snapshot.contains("\nqueue\tdead$\t2\t"), "{snapshot}");
    let findings = a.run(&["doctor"]).1;
    assert!(
        findings.contains("notice\tdead_letters\tdead$\t2 messages"),
        "{findings}"
    );
    let nobody = tempfile::tempdir().unwrap();
    let (code, out, _) = ended(&fed(nobody.path(), &["--data", "none", "doctor"], b""));
    assert_eq!(code, 1);
    assert!(
        out.contains("problem\tnot_running\t") && out.contains("problem\tno_data\t"),
        "{out}"
    );
    let (code, out, _) = ended(&fed(nobody.path(), &["--data", "none", "check"], b""));
    assert_eq!(code, 2);
    assert!(out.starts_with("QM CRITICAL - no node answers"), "{out}");
}
