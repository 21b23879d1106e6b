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
    use std::io::Read as _;
    use std::time::{Duration, Instant};

    let home = tempfile::tempdir().unwrap();
    // Enough for the signal to come in the middle.
    let text = "a line of some length, as lines are\n".repeat(2_000_000);
    std::fs::write(home.path().join("text"), text).unwrap();
    std::fs::create_dir(home.path().join("nodes")).unwrap();
    let mut command = qm(home.path(), &["demo", "text", "--dir", "nodes"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let nodes = loop {
        let nodes = processes_below(&home.path().join("nodes"));
        if nodes.len() == 2 {
            break nodes;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no two nodes: {nodes:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(status.code(), Some(1), "{error}");
    assert!(error.contains("[aborted]: interrupted"), "{error}");
    assert_eq!(names(&home.path().join("nodes")), [""; 0]);
    assert_eq!(
        processes_below(&home.path().join("nodes")),
        [0; 0],
        "of {nodes:?}"
    );
}

/// The processes whose command line names a path in this directory.
#[cfg(target_os = "linux")]
fn processes_below(dir: &Path) -> Vec<u32> {
    let dir = format!("{}/", dir.display());
    let names_it = |pid: &u32| {
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
