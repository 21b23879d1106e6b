//! Moving what is live takes little of each commit, and an idle log gives the disk back.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qm_store::{File, Fs, Log, LogOptions, SimFs};

use crate::common::*;

/// Counts what is written into segments.
#[derive(Debug)]
struct Counting {
    fs: SimFs,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Counted {
    file: Arc<dyn File>,
    written: Arc<AtomicU64>,
}

impl Fs for Counting {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.fs.list(dir)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        let file = self.fs.open(path, create)?;
        let is_segment = path.extension().is_some_and(|e| e == "seg" || e == "new");
        if !is_segment {
            return Ok(file);
        }
        let written = Arc::clone(&self.written);
        Ok(Arc::new(Counted { file, written }))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.fs.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fs.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }
}

impl File for Counted {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.allocate(from, to)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

/// Blocks in front of the first group, seals and voided headers.
const FRAME_BYTES: u64 = 12 * 1024 + 4096;

#[test]
fn no_commit_carries_more_than_its_pace() {
    let written = Arc::new(AtomicU64::new(0));
    let fs = Arc::new(Counting {
        fs: SimFs::new(),
        written: Arc::clone(&written),
    });
    let options = LogOptions {
        segment_bytes: 512 * 1024,
        ..small()
    };
    let (mut log, _) = open(&fs, options).unwrap();
    let mut random = Random(11);
    let mut live: Vec<u64> = Vec::new();
    let (mut at, mut total, mut most) = (0u64, 0u64, 0u64);
    // Three of four records go at once; the others are spread over every segment and go slowly.
    for step in 0..6000u64 {
        let mut ops = Vec::new();
        for n in 0..4 {
            at += 1;
            ops.push(put(0, at, "", vec![step as u8; 900]));
            if n == 0 {
                live.push(at);
            } else {
                ops.push(remove(0, at, at));
            }
        }
        while live.len() > 1500 {
            let gone = live.swap_remove(random.below(live.len() as u64) as usize);
            ops.push(remove(0, gone, gone));
        }
        let group: u64 = 32 + ops.len() as u64 * 40 + 4 * 900;
        let before = written.load(Ordering::Relaxed);
        log.commit(&[batch(ops)]).unwrap();
        let extra = (written.load(Ordering::Relaxed) - before).saturating_sub(group);
        total += extra;
        most = most.max(extra);
        assert!(
            extra <= (2 * group).max(64 * 1024) + FRAME_BYTES,
            "step {step}: {extra} beside {group}"
        );
    }
    let usage = log.usage();
    assert!(most > 16 * 1024, "records must move: {most}, {usage:?}");
    // Each byte written costs less than one byte moved.
    assert!(total < 6000 * 3800, "{total}");
    let allowed = 2 * usage.live_bytes + 8 * 512 * 1024;
    assert!(usage.segments * 512 * 1024 <= allowed, "{usage:?}");
}

fn tidied(log: &mut Log) {
    let mut steps = 0;
    while log.tidy(true).unwrap() {
        steps += 1;
        assert!(steps < 5000, "tidying does not end: {:?}", log.usage());
    }
}

#[test]
fn an_idle_log_gives_the_disk_back_after_a_drain() {
    let fs = Arc::new(SimFs::new());
    let options = LogOptions {
        segment_bytes: 128 * 1024,
        spare_segments_max: 4,
        recent_puts: 10,
        ..small()
    };
    let (mut log, _) = open(&fs, options.clone()).unwrap();
    let mut model = Model::default();
    let mut commit = |log: &mut Log, ops: Vec<qm_store::Op>| {
        let one = batch(ops);
        log.commit(std::slice::from_ref(&one)).unwrap();
        model.apply(&one);
    };
    for at in 1..3000u64 {
        let mut ops = vec![put(0, at, "", vec![at as u8; 900])];
        // State and a few messages stay in every segment.
        if at % 60 == 0 {
            ops.push(set(at.to_le_bytes(), "stays"));
            ops.push(put(1, at, "", vec![7; 500]));
        }
        commit(&mut log, ops);
    }
    let full = log.usage();
    assert!(full.segments > 20, "{full:?}");
    for at in 0..30u64 {
        commit(&mut log, vec![remove(0, at * 100, at * 100 + 99)]);
    }
    tidied(&mut log);
    let usage = log.usage();
    // What is live and the segment being written; the reserve and one spare.
    assert!(usage.segments <= 3, "{usage:?}");
    assert_eq!(usage.spare_segments, 2, "{usage:?}");
    let state = model.state.clone();
    assert!(Model::read(&log.reader(), 2, state) == model);
    drop(log);
    fs.crash(4);
    let (log, recovered) = open(&fs, options).unwrap();
    assert!(Model::read(&log.reader(), 2, recovered.state) == model);
}

#[test]
fn a_first_start_takes_the_reserve_and_one_segment() {
    let fs = Arc::new(SimFs::new());
    let (log, _) = open(&fs, LogOptions::default()).unwrap();
    let usage = log.usage();
    assert_eq!(usage.disk_bytes, 96 << 20, "{usage:?}");
    assert_eq!(usage.spare_segments, 3, "{usage:?}");
}
