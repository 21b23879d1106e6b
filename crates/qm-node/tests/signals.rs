//! How the program ends when it is told to, whatever it is doing and whoever reads its log.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

/// Longest time to wait for one thing.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(home: &Path, program: &mut Command) -> Child {
    program
        .args(["--json", "run", "--data"])
        .arg(home.join("data"))
        .args(["--listen", "127.0.0.1:0"])
        .env_clear()
        .env("HOME", home)
        // Small files, so that a node is there at once.
        .env("QM_STORE__SEGMENT_BYTES", "1MiB")
        .env("QM_STORE__RESERVE_BYTES", "1MiB")
        .env("QM_LIMITS__BODY_BYTES", "64KiB")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn qm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_qm-node"))
}

fn is_ready(child: &mut Child) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().expect("it says that it runs").unwrap();
    // What it says later is nobody's business, and must find a reader.
    std::thread::spawn(move || lines.for_each(drop));
}

fn tell(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Its exit code; the node is killed when it does not end.
fn ended(mut child: Child) -> Option<i32> {
    let node = Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait().unwrap()));
    if let Ok(status) = told.recv_timeout(PATIENCE) {
        return status.code();
    }
    kill_process(node, Signal::KILL).unwrap();
    panic!("it did not end");
}

/// As with `qm-node run 2>&1 | head`.
#[test]
fn it_stops_when_nobody_reads_its_log_any_more() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = tempfile::tempdir().unwrap();
        let mut child = node(home.path(), qm().stderr(Stdio::piped()));
        is_ready(&mut child);
        drop(child.stderr.take());
        tell(&child, signal);
        assert_eq!(ended(child), Some(0), "{signal:?}");
    }
}

/// As when the reader of the log is stopped: it lives and does not read, so that every line waits.
#[test]
fn the_second_signal_is_heard_while_its_log_stands_still() {
    let home = tempfile::tempdir().unwrap();
    let (reader, log) = std::io::pipe().unwrap();
    // Of its own, so that only this end does not wait.
    let mut filler = File::options()
        .write(true)
        .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap())
        .open(format!("/proc/self/fd/{}", log.as_raw_fd()))
        .unwrap();
    let mut child = node(home.path(), qm().stderr(log));
    is_ready(&mut child);
    for size in [4_096, 1] {
        let full = loop {
            if let Err(error) = filler.write_all(&vec![b'x'; size]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    tell(&child, Signal::TERM);
    // Of another kind: two of one kind are one signal, as signal(7) says, while nobody heard the
    // first, and there is no log here that would tell when it was heard.
    tell(&child, Signal::INT);
    assert_eq!(ended(child), Some(1));
    drop(reader);
}

/// As when the log lies on a disk that is full.
#[test]
fn it_runs_and_stops_when_its_log_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut child = node(home.path(), qm().stderr(full));
    is_ready(&mut child);
    tell(&child, Signal::TERM);
    assert_eq!(ended(child), Some(0));
}

/// As when its terminal is closed.
#[test]
fn it_stops_in_order_when_its_terminal_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let mut child = node(home.path(), qm().stderr(Stdio::null()));
    is_ready(&mut child);
    // Tests that were started with nohup hand that on; the next test is about it.
    let ignored = has(&child, "SigIgn:", Signal::HUP);
    tell(&child, if ignored { Signal::TERM } else { Signal::HUP });
    assert_eq!(ended(child), Some(0));
    assert!(!home.path().join("data/node.sock").exists());
}

#[test]
fn it_stays_when_its_terminal_is_gone_and_it_was_started_with_nohup() {
    let home = tempfile::tempdir().unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    shell.arg(env!("CARGO_BIN_EXE_qm-node"));
    let mut child = node(home.path(), shell.stderr(Stdio::null()));
    is_ready(&mut child);
    // What is ignored never reaches it.
    assert!(has(&child, "SigIgn:", Signal::HUP) && !has(&child, "SigCgt:", Signal::HUP));
    tell(&child, Signal::HUP);
    tell(&child, Signal::TERM);
    assert_eq!(ended(child), Some(0));
}

/// A start that waits for its disk hears the second signal.
#[test]
fn the_second_signal_ends_it_while_it_starts() {
    let home = tempfile::tempdir().unwrap();
    let init = qm()
        .args(["init", "--data"])
        .arg(home.path().join("data"))
        .output()
        .unwrap();
    assert!(init.status.success());
    // Reading it does not end before somebody writes.
    let name = home.path().join("data/name");
    std::fs::remove_file(&name).unwrap();
    let made = Command::new("mkfifo").arg(&name).status().unwrap();
    assert!(made.success());
    let mut child = node(home.path(), qm().stderr(Stdio::piped()));
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let since = Instant::now();
    // It is heard whenever the listener is there; before, the first one ends it as any program.
    while !has(&child, "SigCgt:", Signal::TERM) {
        assert!(since.elapsed() < PATIENCE, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    tell(&child, Signal::TERM);
    let mut said = String::new();
    log.read_line(&mut said).unwrap();
    assert!(said.contains("a second signal stops at once"), "{said}");
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    tell(&child, Signal::TERM);
    assert_eq!(ended(child), Some(1));
}

/// Whether a signal is among those that a line of its status names, as proc(5) says.
fn has(child: &Child, line: &str, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status.lines().find_map(|said| said.strip_prefix(line));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & 1 << (signal.as_raw() - 1) != 0
}
