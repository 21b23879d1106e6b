//! The demonstration as its users start it: two processes, one killed in the middle.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::expect;
use serde_json::Value;

fn qm(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm-node"));
    command.env_clear().env("HOME", home).args(args);
    // Small files, so that a node is there at once.
    command.env("QM_STORE__SEGMENT_BYTES", "1MiB");
    command.env("QM_STORE__RESERVE_BYTES", "1MiB");
    command.env("QM_LIMITS__BODY_BYTES", "64KiB");
    // A node of the user must not be in the way.
    command
        .env("QM_DATA", "/nonexistent")
        .env("QM_LISTEN", "256.0.0.1:1");
    command.stdin(Stdio::null()).current_dir(home);
    command
}

/// What lies in a directory, by name.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The names of a document's fields, one a line, with those of objects within.
fn shape(document: &Value, depth: usize) -> String {
    let mut text = String::new();
    for (name, value) in document.as_object().unwrap() {
        writeln!(text, "{}{name}", "  ".repeat(depth)).unwrap();
        if value.is_object() {
            text.push_str(&shape(value, depth + 1));
        }
    }
    text
}

#[test]
fn every_line_survives_the_crash_of_the_receiver() {
    let home = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|n| format!("line {n}\n\n")).collect();
    std::fs::write(home.path().join("text"), &text[..text.len() - 1]).unwrap();
    std::fs::create_dir(home.path().join("nodes")).unwrap();
    let run = qm(home.path(), &["demo", "text", "--json", "--dir", "nodes"])
        .output()
        .unwrap();
    let error = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(0), "{error}");
    let document: Value = serde_json::from_slice(&run.stdout).unwrap();
    for field in ["lines", "sent", "accepted", "delivered", "received"] {
        // Every second line is empty, the last one too: without its own line feed it is none.
        assert_eq!(document[field], 5999, "{field}: {document}");
    }
    for field in ["missing", "unexpected"] {
        assert_eq!(document[field], 0, "{field}: {document}");
    }
    for field in ["order_kept", "byte_identical", "intact"] {
        assert_eq!(document[field], true, "{field}: {document}");
    }
    assert!(
        document["crash"]["after_lines"].as_u64().unwrap() >= 2999,
        "{document}"
    );
    assert!(error.contains("SIGKILL"), "{error}");
    assert_eq!(
        names(&home.path().join("nodes")),
        [""; 0],
        "the directory is cleaned"
    );
    expect![[r#"
        accepted
        accepted_per_s
        byte_identical
        bytes
        crash
          after_lines
          away_ms
          first_message_ms
          ready_ms
          waiting
        delivered
        duplicates_removed
        elapsed_ms
        intact
        lines
        missing
        order_kept
        queried
        received
        received_again
        received_per_s
        retransmitted
        schema
        sent
        text
        unexpected
    "#]]
    .assert_eq(&shape(&document, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn whoever_ends_it_leaves_nothing_behind() {
    type Moment = fn(&[u32], &[u32]) -> bool;
    let moments: [(&str, Moment); 5] = [
        ("the first node starts", |_, now| !now.is_empty()),
        ("both start", |_, now| now.len() == 2),
        ("one is killed", |before, now| {
            before.len() == 2 && now.len() < 2
        }),
        // `begun` keeps those of the first life.
        ("it starts again", |before, now| {
            before.len() == 2 && now.iter().any(|pid| !before.contains(pid))
        }),
        ("it ran for long", |before, _| before.len() == 2),
    ];
    // Enough for the signal to come in the middle; a crash comes after half of the text.
    let short = "a line\n".repeat(2_000);
    let long = "a line of some length, as lines are\n".repeat(500_000);
    for (number, (name, reached)) in moments.into_iter().enumerate() {
        let text = if number < 4 { &short } else { &long };
        let late = if number < 4 { 0 } else { 1_000 };
        let args = ["demo", "text", "--dir", "nodes"];
        interrupt(name, &args, text, reached, late);
    }
    let stream = ["bench", "--dir", "nodes", "--duration", "20s"];
    interrupt("a bench starts", &stream, "", moments[0].1, 0);
    interrupt("a bench has started both", &stream, "", moments[1].1, 0);
    let outage = ["bench", "outage", "--dir", "nodes", "--messages", "20000"];
    interrupt("a node is stopped", &outage, "", moments[2].1, 0);
}

/// Interrupts it at a moment that is seen from outside: given the processes of the first two
/// nodes, and those that there are.
#[cfg(target_os = "linux")]
fn interrupt(
    name: &str,
    args: &[&str],
    text: &str,
    reached: fn(&[u32], &[u32]) -> bool,
    late_ms: u64,
) {
    use std::time::{Duration, Instant};

    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("text"), text).unwrap();
    let nodes = home.path().join("nodes");
    std::fs::create_dir(&nodes).unwrap();
    let mut command = qm(home.path(), args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let mut first = Vec::new();
    loop {
        let now = processes_below(&nodes);
        if first.len() < 2 && now.len() == 2 {
            first.clone_from(&now);
        }
        if reached(&first, &now) {
            break;
        }
        let runs = child.try_wait().unwrap().is_none();
        let patient = runs && begun.elapsed() < Duration::from_secs(60);
        assert!(patient, "{name}: {now:?} after {first:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    // What has no sign that is seen from outside comes so long after what has one.
    std::thread::sleep(Duration::from_millis(late_ms));
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{name}: {error}");
    assert!(error.contains("[aborted]: interrupted"), "{name}: {error}");
    assert_eq!(processes_below(&nodes), [0; 0], "{name}: {error}");
    assert_eq!(names(&nodes), [""; 0], "{name}: {error}");
}

/// The processes whose command line names a path in this directory.
#[cfg(target_os = "linux")]
fn processes_below(dir: &Path) -> Vec<u32> {
    let dir = format!("{}/", dir.display());
    let names_it = |pid: &u32| {
        // A process between its fork and its program still has the command line of the one that
        // starts it, which names the directory without the stroke.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&dir)
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(names_it).collect()
}

#[test]
fn a_wrong_text_is_told_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("empty"), "").unwrap();
    for (file, code) in [("none", 1), ("empty", 2)] {
        let run = qm(home.path(), &["demo", file, "--dir", "."])
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(code));
        assert_eq!(names(home.path()), ["empty"]);
    }
}
