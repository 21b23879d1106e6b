//! Messages for a node that is not there: they wait, cost little, and go by themselves.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::lines::{assert_same, text_of_the_repository};
use crate::program::{Program, eventually, rate, report};
use crate::support::{free_port, slow_tests};

#[test]
fn what_was_queued_for_an_absent_peer_is_delivered_once_it_appears() {
    let (count, absent_for) = if slow_tests() {
        (100_000, Duration::from_mins(1))
    } else {
        (2_000, Duration::ZERO)
    };
    let text = text_of_the_repository(count);
    let mut a = Program::start("a");
    let mut b = prepared("b");
    let input = a.file("input");
    std::fs::write(&input, &text).unwrap();
    let send = |a: &Program, to: &str| {
        let file = input.to_str().unwrap();
        let summary = a.document(&["send", to, "--lines", file]);
        assert_eq!(summary["accepted"], count, "{summary}");
        summary
    };

    let gone = Instant::now();
    let summary = send(&a, &b.queue("lines"));
    // It was looked for in vain at least once.
    eventually("a dial that fails", || {
        let told = a.document(&["why", &b.queue("lines")]);
        (told["code"] == "refused").then_some(())
    });
    // How long it is away is what is measured; without `QM_SLOW_TESTS` no longer than that.
    std::thread::sleep(absent_for.saturating_sub(gone.elapsed()));
    let state = a.status();
    assert_eq!(state["outgoing_messages"], count, "{state}");

    let appeared = Instant::now();
    b.launch();
    let (before, last) = delivered(&mut b, 0, count);
    let pause = before - appeared;
    assert_eq!(b.counter("duplicates"), 0);
    receive(&b, &text, count);

    // The same again while both are there, as the measure.
    let began = Instant::now();
    send(&a, &b.queue("lines"));
    let (_, end) = delivered(&mut b, count, count);
    receive(&b, &text, count);
    let (after, live) = (rate(count, last - before), rate(count, end - began));
    report(&format!(
        "outage: {count} messages accepted in {} ms; peer absent for {absent_for:?}; none \
         delivered until {pause:.2?} after its start, all {:.2?} later: {after} a second; with both \
         there from the beginning {live} a second",
        summary["elapsed_ms"],
        last - before,
    ));
    if slow_tests() {
        assert!(after >= live / 2, "{after} a second against {live}");
    }
}

#[test]
fn a_million_waiting_messages_take_little_memory() {
    const BODY_BYTES: usize = 200;
    const RESIDENT_KIB_MAX: u64 = 200 << 10;
    if !slow_tests() {
        return;
    }
    let count = 1_000_000;
    let mut a = Program::start("a");
    let input = a.file("input");
    let mut text = Vec::with_capacity(count * (BODY_BYTES + 1));
    for number in 0..count {
        text.extend(format!("{number:0width$}\n", width = BODY_BYTES).bytes());
    }
    std::fs::write(&input, text).unwrap();
    let to = format!("qm://{}/lines", free_port());

    let before = disk_bytes(&a.data());
    let summary = a.document(&["send", &to, "--lines", input.to_str().unwrap()]);
    assert_eq!(summary["accepted"], count, "{summary}");
    assert_eq!(a.status()["outgoing_messages"], count);
    let (resident, peak) = (memory_kib(&a, "VmRSS:"), memory_kib(&a, "VmHWM:"));
    let disk = disk_bytes(&a.data());
    report(&format!(
        "million: {count} messages of {BODY_BYTES} bytes accepted in {} ms ({} a second); resident \
         {} MiB, at most {} MiB; disk {} MiB ({} before), {} bytes a message",
        summary["elapsed_ms"],
        summary["messages_per_s"],
        resident >> 10,
        peak >> 10,
        disk >> 20,
        before >> 20,
        disk / count as u64,
    ));
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB resident");

    for how in ["SIGTERM", "SIGKILL"] {
        let began = Instant::now();
        if how == "SIGTERM" {
            a.stop();
        } else {
            a.kill();
        }
        let stopped = began.elapsed();
        let began = Instant::now();
        a.launch();
        let started = began.elapsed();
        assert_eq!(a.status()["outgoing_messages"], count);
        let (resident, peak) = (memory_kib(&a, "VmRSS:"), memory_kib(&a, "VmHWM:"));
        report(&format!(
            "million: after {how} (ended in {stopped:.2?}) running again in {started:.2?}; resident \
             {} MiB, at most {} MiB",
            resident >> 10,
            peak >> 10,
        ));
        assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB resident");
    }
}

/// A node that has its queue, has never been seen by anybody, and does not run.
fn prepared(name: &'static str) -> Program {
    let mut node = Program::start(name);
    node.done(&["queue", "create", "lines"]);
    node.stop();
    node.listen = free_port();
    node
}

/// Waits for so many deliveries beyond those before; when none was there last, and when all were.
fn delivered(node: &mut Program, before: usize, count: usize) -> (Instant, Instant) {
    let mut none = Instant::now();
    eventually("all are delivered", || {
        let asked = Instant::now();
        let delivered = usize::try_from(node.counter("delivered")).unwrap() - before;
        if delivered == 0 {
            none = asked;
        }
        (delivered == count).then_some(())
    });
    (none, Instant::now())
}

fn receive(node: &Program, text: &[u8], count: usize) {
    let count = count.to_string();
    let receive = ["receive", "lines", "--count", &count, "--wait", "10s"];
    assert_same(text, &node.done(&receive));
}

/// A line of what Linux tells of the node's memory.
fn memory_kib(node: &Program, name: &str) -> u64 {
    let path = format!("/proc/{}/status", node.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the files below a directory really take.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;

    let entries = std::fs::read_dir(dir).unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    let bytes = entries.map(|entry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => disk_bytes(&entry.path()),
        metadata => metadata.blocks() * 512,
    });
    bytes.sum()
}
