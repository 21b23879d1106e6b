//! Exit codes, a contract with scripts: every command, with a node and without.

use std::collections::BTreeSet;

use crate::support::{Running, ended, qm};

/// A command with what it needs, and its exit codes: when no node runs, and with a node that has
/// the empty queue `orders`, no peers and nothing outgoing.
const COMMANDS: &[(&[&str], i32, i32)] = &[
    // The queue is made first.
    (&["queue", "create", "orders"], 5, 0),
    (&["queue", "create", "orders"], 5, 4),
    (&["queue", "set", "orders", "--quota-messages", "9"], 5, 0),
    (&["queue", "list"], 5, 0),
    (&["queue", "show", "orders"], 5, 0),
    (&["queue", "show", "nosuch"], 5, 4),
    (&["queue", "pause", "orders"], 5, 0),
    (&["queue", "resume", "orders"], 5, 0),
    (&["queue", "purge", "orders", "--dry-run"], 5, 0),
    (&["queue", "purge", "nosuch", "--yes"], 5, 4),
    (&["send", "orders", "x"], 5, 0),
    (&["send", "orders", "x", "--wait", "delivered"], 5, 0),
    (
        &[
            "send",
            "orders",
            "x",
            "--wait",
            "received",
            "--timeout",
            "50ms",
        ],
        5,
        3,
    ),
    (&["send", "nosuch", "x"], 5, 4),
    (&["send", "orders", "--file", "none"], 1, 1),
    (&["send", "a:b:c", "x"], 2, 2),
    (&["peek", "orders"], 5, 0),
    (&["peek", "nosuch"], 5, 4),
    (&["receive", "orders", "--count", "3"], 5, 0),
    (&["receive", "orders"], 5, 3),
    (&["receive", "orders", "--wait", "50ms"], 5, 3),
    (&["receive", "nosuch"], 5, 4),
    (&["status"], 5, 0),
    (&["why", "orders"], 5, 0),
    (&["trace", "19d2f1c55fd1a3b0-17"], 5, 3),
    (&["dead", "list"], 5, 0),
    (&["dead", "show", "19d2f1c55fd1a3b0-17"], 5, 4),
    (&["dead", "resend", "19d2f1c55fd1a3b0-17"], 5, 4),
    (&["dead", "drop", "19d2f1c55fd1a3b0-17", "--yes"], 5, 4),
    (&["freeze", "--for", "100ms"], 5, 0),
    (&["thaw"], 5, 0),
    (&["quarantine", "list"], 5, 0),
    (&["quarantine", "release", "nosuch", "--yes"], 5, 4),
    (&["quarantine", "drop", "nosuch", "--yes"], 5, 4),
    (&["routes"], 5, 0),
    (&["dedup"], 5, 0),
    (&["outgoing", "list"], 5, 0),
    (&["outgoing", "show", "nosuch"], 5, 4),
    (&["outgoing", "pause", "nosuch"], 5, 4),
    (&["outgoing", "resume", "nosuch"], 5, 4),
    (&["outgoing", "retry", "nosuch"], 5, 4),
    (&["outgoing", "purge", "nosuch", "--yes"], 5, 4),
    (&["outgoing", "purge", "--all", "--yes"], 5, 0),
    (&["stream", "list"], 5, 0),
    (
        &[
            "lab",
            "clones",
            "--clones",
            "1",
            "--policy",
            "msmq",
            "--duration",
            "60s",
        ],
        0,
        0,
    ),
    (&["stream", "rebase", "nosuch", "--yes"], 5, 4),
    (&["peers", "list"], 5, 0),
    (&["peers", "add", "hub", "hub.invalid"], 5, 0),
    (&["peers", "show", "hub"], 5, 0),
    (&["peers", "show", "nosuch"], 5, 4),
    (&["peers", "approve", "nosuch"], 5, 4),
    (&["peers", "block", "nosuch", "--yes"], 5, 4),
    (&["peers", "block", "hub"], 5, 2),
    (&["peers", "forget", "hub", "--yes"], 5, 0),
    (&["queue", "delete", "orders"], 5, 2),
    (&["queue", "delete", "orders", "--yes"], 5, 0),
    (&["identity", "reclaim", "--yes"], 5, 4),
    (&["identity", "remint"], 5, 2),
    (&["identity", "remint", "--dry-run"], 5, 0),
    // A second one waits for what waits under the first.
    (&["send", "qm://hub.invalid/orders", "x"], 5, 0),
    (&["identity", "remint", "--yes"], 5, 0),
    (&["identity", "remint", "--yes"], 5, 4),
    (&["identity", "reclaim", "--yes"], 5, 0),
    // Only when no node runs.
    (&["identity", "sysprep", "--yes"], 2, 1),
    // Whether a node runs or not.
    (&["identity", "show"], 2, 0),
    (&["config", "show"], 0, 0),
    (&["config", "check"], 0, 0),
    (&["config", "check", "none.toml"], 2, 2),
    (&["config", "example"], 0, 0),
    (&["errors"], 0, 0),
    (&["errors", "usage"], 0, 0),
    (&["errors", "nosuch"], 2, 2),
    (&["completions", "bash"], 0, 0),
    (&["man"], 0, 0),
    (&["help", "send"], 0, 0),
    (&["--version"], 0, 0),
    // These own the data directory, or do not run.
    (&["store", "check"], 2, 1),
    (&["run", "--listen", "nonsense"], 2, 2),
    (&["run", "--listen", "192.0.2.7:1801"], 1, 1),
    (&["demo", "none.txt"], 1, 1),
    (&["bench", "--size", "x"], 2, 2),
    (&[], 2, 2),
];

/// Commands that have tests of their own: for what they print, and with effects beyond a home.
const ELSEWHERE: &[&str] = &[
    "init",
    "store-repair",
    "bench-backlog",
    "bench-outage",
    "bench-stream",
    "doctor",
    "check",
    "top",
];

fn exit(mut command: std::process::Command) -> (i32, String) {
    let output = ended(&mut command);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), error)
}

#[test]
fn every_command_ends_with_the_code_of_the_contract() {
    let home = tempfile::tempdir().unwrap();
    let node = Running::start();
    for (args, without, with) in COMMANDS {
        let args = [&["--data", "node"], *args].concat();
        let (code, error) = exit(qm(home.path(), &args));
        assert_eq!(code, *without, "no node: {args:?}: {error}");
        let (code, error) = exit(qm(node.home.path(), &args));
        assert_eq!(code, *with, "a node: {args:?}: {error}");
        // An error is told, and success is not mistaken for one. `trace` answers with what it
        // knows, be it nothing; without any command the help is the answer.
        let answered = args.contains(&"trace") || args.len() == 2;
        assert_eq!(
            code != 0,
            error.contains("error [") || answered,
            "{args:?}: {error}"
        );
    }
}

#[test]
fn no_command_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    let made = ended(&mut qm(home.path(), &["man", "--dir", "."]));
    assert!(made.status.success());
    let pages: BTreeSet<String> = std::fs::read_dir(home.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| {
            Some(
                name.strip_prefix("qm-node-")?
                    .strip_suffix(".1")?
                    .to_owned(),
            )
        })
        .collect();
    let leaf = |page: &&String| {
        let below = format!("{page}-");
        !pages.iter().any(|other| other.starts_with(&below))
    };
    let covered = |page: &str| {
        let typed = COMMANDS.iter().any(|(args, _, _)| {
            let words: Vec<&str> = args
                .iter()
                .copied()
                .take_while(|a| !a.starts_with('-'))
                .collect();
            let words = words.join("-");
            words == page || words.starts_with(&format!("{page}-"))
        });
        typed || ELSEWHERE.contains(&page)
    };
    let left: Vec<&String> = pages
        .iter()
        .filter(leaf)
        .filter(|page| !covered(page))
        .collect();
    assert!(left.is_empty(), "no exit codes are tested for {left:?}");
    assert!(pages.len() > 30, "{pages:?}");
}

#[test]
fn what_is_unknown_is_usage_for_every_command() {
    let home = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for (args, _, _) in COMMANDS {
        let Some(command) = args.first().filter(|word| !word.starts_with('-')) else {
            continue;
        };
        if *command == "help" || !seen.insert(*args) {
            continue;
        }
        let args = [*args, &["--nosuch"]].concat();
        let (code, error) = exit(qm(home.path(), &args));
        assert_eq!(code, 2, "{args:?}: {error}");
        assert!(error.starts_with("error ["), "{args:?}: {error}");
        assert!(error.contains("\n  fix: "), "{args:?}: {error}");
    }
}
