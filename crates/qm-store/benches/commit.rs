//! Commits against a raw preallocated file in the same run, memory of the index, time to open.
//!
//! `cargo bench -p qm-store` (`QM_BENCH_DIR` chooses the disk, `QM_BENCH_SECONDS` the time each
//! side of a comparison gets). On a shared machine only the ratios mean anything.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_store::{Applied, Batch, Fs, Log, LogOptions, Op, RealFs, StreamId};

const BODY_BYTES: usize = 200;
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

fn main() {
    let parent = std::env::var_os("QM_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let dir = tempfile::tempdir_in(parent).expect("a directory to work in");
    println!(
        "{:>10} {:>12} {:>12} {:>7}",
        "a commit", "raw msg/s", "log msg/s", "ratio"
    );
    for count in [1, 16, 256] {
        compare(&dir.path().join(format!("compare-{count}")), count);
    }
    for backlog in [1_000_000, 3_000_000] {
        fill_and_open(&dir.path().join(format!("fill-{backlog}")), backlog);
    }
}

fn seconds() -> Duration {
    let seconds = std::env::var("QM_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(6.0))
}

/// Unpredictable enough for a benchmark's salts.
fn open(dir: &Path) -> (Log, qm_store::Recovered) {
    let mut salt = u64::from(std::process::id());
    let salts = Box::new(move || {
        salt = salt
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        salt
    });
    Log::open(Arc::new(RealFs), dir, LogOptions::default(), salts).expect("the log opens")
}

/// A preallocated file, one write and one flush a commit, from the start again when it is full.
struct Raw {
    file: Arc<dyn qm_store::File>,
    at: u64,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(dir: &Path, commit_bytes: usize) -> Self {
        RealFs.create_dir_all(dir).expect("a directory");
        let file = RealFs.open(&dir.join("raw"), true).expect("a file");
        file.allocate(0, SEGMENT_BYTES).expect("room");
        file.sync_data().expect("a flush");
        Self {
            file,
            at: 0,
            bytes: vec![7; commit_bytes],
        }
    }

    fn commit(&mut self) {
        if self.at + self.bytes.len() as u64 > SEGMENT_BYTES {
            self.at = 0;
        }
        self.file.write_at(&self.bytes, self.at).expect("a write");
        self.file.sync_data().expect("a flush");
        self.at += self.bytes.len() as u64;
    }
}

/// Messages go as soon as they came: every commit removes what the one before put.
struct Queue {
    log: Log,
    body: Bytes,
    next: u64,
    batches: Vec<Batch>,
}

impl Queue {
    fn commit(&mut self, count: u64) {
        self.batches.clear();
        for at in 0..count {
            let mut ops = Vec::with_capacity(2);
            ops.push(Op::Put {
                stream: StreamId(0),
                position: self.next,
                head: Bytes::new(),
                body: self.body.clone(),
            });
            if at == 0 && self.next >= count {
                let (first, last) = (self.next - count, self.next - 1);
                ops.push(Op::Remove {
                    stream: StreamId(0),
                    first,
                    last,
                });
            }
            self.next += 1;
            self.batches.push(Batch { ops });
        }
        let answers = self.log.commit(&self.batches).expect("the commit succeeds");
        assert!(answers.iter().all(|answer| *answer == Applied::Done));
        black_box(answers);
    }
}

/// Turns of a tenth of a second each, so that both sides meet the same weather.
fn compare(dir: &Path, count: u64) {
    let commit_bytes = usize::try_from(count).expect("small") * (BODY_BYTES + 32) + 32 + 40;
    let mut raw = Raw::new(&dir.join("raw"), commit_bytes);
    let (log, _) = open(&dir.join("log"));
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let mut queue = Queue {
        log,
        body,
        next: 0,
        batches: Vec::new(),
    };
    let turn = Duration::from_millis(100);
    let (mut spent, mut done) = ([Duration::ZERO; 2], [0u64; 2]);
    while spent[0] < seconds() {
        for side in [0, 1] {
            let start = Instant::now();
            while start.elapsed() < turn {
                match side {
                    0 => raw.commit(),
                    _ => queue.commit(count),
                }
                done[side] += count;
            }
            spent[side] += start.elapsed();
        }
    }
    let rate = |side: usize| done[side] as f64 / spent[side].as_secs_f64();
    println!(
        "{count:>10} {:>12.0} {:>12.0} {:>7.2}",
        rate(0),
        rate(1),
        rate(1) / rate(0)
    );
    queue.log.close();
}

fn fill_and_open(dir: &Path, backlog: u64) {
    let (mut log, _) = open(dir);
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let start = Instant::now();
    for chunk in 0..backlog / 1000 {
        let put = |at| Op::Put {
            stream: StreamId(0),
            position: chunk * 1000 + at,
            head: Bytes::from_static(&[1; 40]),
            body: body.clone(),
        };
        let batches: Vec<Batch> = (0..1000).map(|at| Batch { ops: vec![put(at)] }).collect();
        log.commit(&batches).expect("the commit succeeds");
    }
    let filled = start.elapsed();
    let usage = log.usage();
    println!(
        "{backlog} waiting: filled in {:.2} s, {:.1} index bytes and {:.0} disk bytes a message \
         ({} segments and {} spares)",
        filled.as_secs_f64(),
        usage.index_bytes as f64 / backlog as f64,
        usage.disk_bytes as f64 / backlog as f64,
        usage.segments,
        usage.spare_segments,
    );
    drop(log);
    for kind in ["after a crash", "closed in order"] {
        let start = Instant::now();
        let (log, recovered) = open(dir);
        let opened = start.elapsed();
        assert_eq!(recovered.streams[&StreamId(0)].live_records, backlog);
        assert_eq!(recovered.recent.len(), 10_000);
        println!("  opened {kind} in {:.3} s", opened.as_secs_f64());
        log.close();
    }
    let (log, _) = open(dir);
    let reader = log.reader();
    let start = Instant::now();
    let mut from = 0;
    loop {
        let page = reader
            .read(StreamId(0), from, 256, 1 << 20)
            .expect("the page is whole");
        let Some(last) = page.last() else { break };
        from = last.position + 1;
    }
    let read = start.elapsed();
    println!(
        "  read back at {:.0} msg/s (file cache warm)",
        backlog as f64 / read.as_secs_f64()
    );
    println!("  resident memory {}", resident());
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or("VmHWM: unknown");
    line.trim_start_matches("VmHWM:").trim().to_owned() + " at most so far"
}
