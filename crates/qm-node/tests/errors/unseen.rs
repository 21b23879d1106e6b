//! What a command cannot see, or that nobody sees what it prints: neither is a success.

use std::io::{PipeWriter, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Running, ended, eventually, fed, qm};

/// The caller of a check may know no more of the node than its socket, and have no directory.
#[test]
fn the_disk_that_is_judged_is_the_one_of_the_node() {
    let node = Running::start();
    let moved = node.home.path().join("moved");
    let socket = moved.join("node.sock").display().to_string();
    let seen = |socket: &str, command: &str| {
        let args = ["--data", "elsewhere", "--socket", socket, command];
        let output = ended(&mut qm(node.home.path(), &args));
        let code = output.status.code().unwrap();
        (code, String::from_utf8(output.stdout).unwrap())
    };
    let here = node.data().join("node.sock").display().to_string();
    let (_, line) = seen(&here, "check");
    assert!(line.contains(" disk="), "{line}");
    let (_, found) = seen(&here, "doctor");
    assert!(!found.contains("cannot be measured"), "{found}");
    // Where the node is in sight and its disk is not.
    std::fs::rename(node.data(), &moved).unwrap();
    let (code, line) = seen(&socket, "check");
    let (doubted, found) = seen(&socket, "doctor");
    std::fs::rename(&moved, node.data()).unwrap();
    let reason = format!("the disk of {} cannot be measured: ", node.data().display());
    assert!(line.contains(&reason), "{line}");
    assert!(!line.contains(" disk="), "{line}");
    assert_eq!(code, 1, "{line}");
    let problem = format!("problem\tdisk_room\t{}\t{reason}", node.data().display());
    assert!(found.contains(&problem), "{found}");
    assert_eq!(doubted, 1, "{found}");
}

/// `dead resend --all | head`: more than one request's worth, and nobody reads to the end.
#[test]
fn dead_letters_are_all_dealt_with_though_nobody_reads_on() {
    const LETTERS: u64 = 600;
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    let short = ["send", "orders", "--lines", "-", "--time-to-be-received"];
    let lines = "x\n".repeat(usize::try_from(LETTERS).unwrap());
    let sent = fed(
        node.command(&[&short[..], &["1ms"]].concat()),
        lines.as_bytes(),
    );
    assert!(sent.status.success(), "{sent:?}");
    let dead = || -> u64 {
        let status = node.done(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["dead_letters"].as_u64().unwrap()
    };
    eventually(&node, || (dead() == LETTERS).then_some(()));
    let mut command = node.command(&["dead", "drop", "--all", "--yes"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Gone before the first line.
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(dead(), 0);
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with its test.
struct Silent(Child);

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A stopped terminal, or a pager: whoever reads the log holds up neither the node nor its end.
#[test]
fn a_node_whose_log_nobody_reads_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (unread, log) = std::io::pipe().unwrap();
    fill(&log);
    let mut run = qm(home.path(), &Running::RUN);
    run.stdout(Stdio::null()).stderr(log);
    let mut node = Silent(run.spawn().unwrap());
    drop(run);
    let begun = Instant::now();
    let asked = |args: &[&str]| {
        let mut command = qm(home.path(), &[&["--data", "node"], args].concat());
        ended(&mut command).status.success()
    };
    while !asked(&["queue", "create", "orders"]) {
        assert!(begun.elapsed() < PATIENCE, "it does not start");
    }
    assert!(asked(&["send", "orders", "x"]) && asked(&["receive", "orders"]));
    let pid = node.0.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.unwrap().success());
    let begun = Instant::now();
    let end = loop {
        if let Some(end) = node.0.try_wait().unwrap() {
            break end;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(end.success(), "{end}");
    drop(unread);
}

/// Writes into a pipe until it takes nothing any more.
fn fill(pipe: &PipeWriter) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(pipe).unwrap();
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).unwrap();
    let mut to = pipe;
    for bytes in [&[b'.'; 4096][..], b"."] {
        while to.write(bytes).is_ok() {}
    }
    fcntl_setfl(pipe, flags).unwrap();
}
