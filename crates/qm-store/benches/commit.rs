//! A queue on several stores in one run: a raw preallocated file, this log, redb and fjall.
//!
//! `cargo bench -p qm-store`. `QM_BENCH_DIR` chooses the disk, `QM_BENCH_SECONDS` the time each
//! store gets in a case (0 for none), `QM_BENCH_BACKLOG` what waits in the cases with a backlog,
//! `QM_BENCH_WAITING` (a list) what waits for the measurements of memory and opening, and
//! `QM_BENCH_JSON` a file for the figures. On a shared machine only the ratios mean anything:
//! turns of a tenth of a second alternate, and a ratio is the median of those of all rounds.
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

mod stores;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use qm_store::{Batch, Op, StreamId};
use stores::{Fjall, Qm, Queue, Raw, Redb, open, put};

fn main() {
    let parent = std::env::var_os("QM_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let dir = tempfile::tempdir_in(parent).expect("a directory to work in");
    let mut json = String::new();
    let backlog = number("QM_BENCH_BACKLOG", 1_000_000);
    if !seconds().is_zero() {
        println!(
            "{:>9} {:>9} {:>7} {:>12} {:>7}",
            "waiting", "a commit", "store", "msg/s", "to raw"
        );
        for waiting in [0, backlog] {
            compare(dir.path(), waiting, &mut json);
        }
    }
    let list = std::env::var("QM_BENCH_WAITING").unwrap_or_else(|_| "1000000,3000000".into());
    for waiting in list.split(',').filter_map(|text| text.parse().ok()) {
        wait(
            &dir.path().join(format!("waiting-{waiting}")),
            waiting,
            &mut json,
        );
    }
    if let Some(path) = std::env::var_os("QM_BENCH_JSON") {
        std::fs::write(path, json).expect("the file of figures is written");
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seconds() -> Duration {
    let text = std::env::var("QM_BENCH_SECONDS").ok();
    Duration::from_secs_f64(text.and_then(|text| text.parse().ok()).unwrap_or(6.0))
}

/// All stores with the same number of messages waiting, at 1, 16 and 256 messages a commit.
fn compare(dir: &Path, waiting: u64, json: &mut String) {
    let dir = dir.join(format!("compare-{waiting}"));
    let mut stores: Vec<Box<dyn Queue>> = vec![
        Box::new(Raw::new(&dir.join("raw"))),
        Box::new(Qm::new(&dir.join("qm"))),
        Box::new(Redb::new(&dir.join("redb"))),
        Box::new(Fjall::new(&dir.join("fjall"))),
    ];
    let mut filled = Vec::new();
    for store in &mut stores {
        let start = Instant::now();
        for _ in 0..waiting / 1000 {
            store.commit(1000, false);
        }
        filled.push(start.elapsed().as_secs_f64());
    }
    for count in [1, 16, 256] {
        let turn = Duration::from_millis(100);
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); stores.len()];
        let begun = Instant::now();
        let whole = seconds() * u32::try_from(stores.len()).unwrap_or(1);
        while begun.elapsed() < whole {
            for (store, rates) in stores.iter_mut().zip(&mut rates) {
                let (start, mut done) = (Instant::now(), 0);
                while start.elapsed() < turn {
                    store.commit(count, true);
                    done += count;
                }
                rates.push(done as f64 / start.elapsed().as_secs_f64());
            }
        }
        for (store, own) in stores.iter().zip(&rates) {
            let ratios = own.iter().zip(&rates[0]).map(|(own, raw)| own / raw);
            let (rate, ratio) = (median(own.clone()), median(ratios.collect()));
            let name = store.name();
            println!("{waiting:>9} {count:>9} {name:>7} {rate:>12.0} {ratio:>7.2}");
            _ = writeln!(
                json,
                "{{\"case\":\"commit\",\"waiting\":{waiting},\"a_commit\":{count},\
                 \"store\":\"{name}\",\"msgs_per_s\":{rate:.0},\"to_raw\":{ratio:.3}}}"
            );
        }
    }
    for (store, filled) in stores.into_iter().zip(filled) {
        let name = store.name();
        let Some(opened) = store.reopen() else {
            continue;
        };
        let opened = opened.as_secs_f64();
        println!("{waiting:>9} {name:>17}: filled in {filled:.2} s, opened in {opened:.3} s");
        _ = writeln!(
            json,
            "{{\"case\":\"fill\",\"waiting\":{waiting},\"store\":\"{name}\",\
             \"fill_s\":{filled:.3},\"open_s\":{opened:.4}}}"
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Memory, disk and opening of the log with a backlog.
fn wait(dir: &Path, waiting: u64, json: &mut String) {
    let (mut log, _) = open(dir);
    let start = Instant::now();
    for chunk in 0..waiting / 1000 {
        let batches: Vec<_> = (0..1000).map(|at| put(chunk * 1000 + at, 40)).collect();
        log.commit(&batches).expect("the commit succeeds");
    }
    let fill_s = start.elapsed().as_secs_f64();
    let usage = log.usage();
    let [resident, resident_max] = resident_mib();
    let per = |bytes: u64| bytes as f64 / waiting as f64;
    println!(
        "{waiting} waiting: filled in {fill_s:.2} s; index {:.1} MiB, resident {resident} MiB of \
         the process, {resident_max} at most; \
         disk bytes a message {:.1} in {} segments, {:.1} in {} spares, {:.2} in caches",
        usage.index_bytes as f64 / 1_048_576.0,
        per(usage.disk_bytes - usage.spare_segments * (32 << 20)),
        usage.segments,
        per(usage.spare_segments * (32 << 20)),
        usage.spare_segments,
        per(usage.cache_bytes),
    );
    drop(log);
    let mut opened = [0.0; 2];
    let mut head_us = [0.0; 2];
    for (at, kind) in ["after a crash", "closed in order"].into_iter().enumerate() {
        let start = Instant::now();
        let (log, recovered) = open(dir);
        opened[at] = start.elapsed().as_secs_f64();
        assert_eq!(recovered.streams[&StreamId(0)].live_records, waiting);
        assert_eq!(recovered.recent.len(), 10_000);
        let start = Instant::now();
        let head = log.reader().read(StreamId(0), 0, 1, 1 << 20);
        head_us[at] = start.elapsed().as_secs_f64() * 1e6;
        assert_eq!(head.expect("the head is whole").len(), 1);
        println!(
            "  opened {kind} in {:.3} s, its head read in {:.0} us, {} MiB resident",
            opened[at],
            head_us[at],
            resident_mib()[0],
        );
        log.close();
    }
    _ = writeln!(
        json,
        "{{\"case\":\"wait\",\"waiting\":{waiting},\"fill_s\":{fill_s:.3},\"index_bytes\":{},\
         \"resident_mib\":{resident},\"resident_max_mib\":{resident_max},\"disk_bytes\":{},\"cache_bytes\":{},\"open_crash_s\":{:.4},\
         \"open_clean_s\":{:.4},\"head_crash_us\":{:.0},\"head_clean_us\":{:.0}}}",
        usage.index_bytes,
        usage.disk_bytes,
        usage.cache_bytes,
        opened[0],
        opened[1],
        head_us[0],
        head_us[1],
    );
    drain(dir, waiting, json);
}

/// All that waits is removed, a thousand messages a commit, and the log is left alone until it has
/// nothing more to give back.
fn drain(dir: &Path, waiting: u64, json: &mut String) {
    let (mut log, _) = open(dir);
    let full = log.usage().disk_bytes;
    let start = Instant::now();
    for first in (0..waiting).step_by(1000) {
        let last = waiting.min(first + 1000) - 1;
        let stream = StreamId(0);
        let ops = vec![Op::Remove {
            stream,
            first,
            last,
        }];
        log.commit(&[Batch::from(ops)])
            .expect("the commit succeeds");
    }
    let removed = log.usage().disk_bytes;
    let drain_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    while log.tidy(true).expect("tidying succeeds") {}
    let (left, tidy_s) = (log.usage().disk_bytes, start.elapsed().as_secs_f64());
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    println!(
        "  drained in {drain_s:.2} s: of {:.0} MiB of disk {:.0} were left, and {:.0} once it was \
         idle for {tidy_s:.2} s: {:.1} % given back",
        mib(full),
        mib(removed),
        mib(left),
        100.0 * (full - left) as f64 / full as f64,
    );
    _ = writeln!(
        json,
        "{{\"case\":\"drain\",\"waiting\":{waiting},\"drain_s\":{drain_s:.3},\
         \"tidy_s\":{tidy_s:.3},\"full_bytes\":{full},\"removed_bytes\":{removed},\
         \"left_bytes\":{left}}}"
    );
}

/// Memory of this process, now and the most it had.
fn resident_mib() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name));
        let digits = line.and_then(|line| line.split_whitespace().nth(1));
        digits.map_or(0, |text| text.parse::<u64>().unwrap_or(0) / 1024)
    })
}
