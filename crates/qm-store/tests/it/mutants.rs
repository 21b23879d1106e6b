//! The tests must be able to fail: each rule of the log is broken in turn, and the workload named
//! for it notices.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use qm_store::breaks::Break;
use qm_store::{Applied, File, Fs, LogOptions, Reader, SimFs, StreamId};

use crate::caches::{spoiled_hints, spoiled_pages};
use crate::campaign::{Extent, Row, failing, power_cuts};
use crate::check::tiny_options;
use crate::common::*;
use crate::crash::life;
use crate::missing::removed_segment;
use crate::sides::lives_with_bodies;
use crate::workloads::*;

/// What notices a broken rule: its name, and what it said if it did.
type Notices = (&'static str, fn(Break) -> Option<String>);

/// The workload that must notice. Whoever adds a rule names one here.
fn workload_for(fault: Break) -> Notices {
    match fault {
        Break::IgnoreBatchEnd => ("power cuts, several streams", |fault| {
            cuts(batches(), fault)
        }),
        Break::ConstantSalt
        | Break::IgnoreMarkDependencies
        | Break::ForgetReplaced
        | Break::AppendAfterTornTail
        | Break::SkipSeal
        | Break::SkipVoid => ("lives of many power cuts", lives),
        Break::ReportBeforeSync => ("power cuts, plain", |fault| cuts(plain(), fault)),
        Break::SkipRewrite => ("failing operations, plain", |fault| {
            failures(plain(), fault)
        }),
        Break::RewriteWithoutHeader => ("failing operations, short among long", |fault| {
            failures(short_among_long(1), fault)
        }),
        Break::ShowBeforeSync => ("a reader beside a flush", reader_beside_a_flush),
        Break::ReserveForPuts => ("a store filled and drained", fill_and_drain),
        Break::CopyWithoutSync => ("power cuts, full disk", |fault| cuts(reserve(), fault)),
        Break::SkipVoidAgain => ("failing operations, short among long", |fault| {
            failures(short_among_long(1), fault)
        }),
        Break::SkipDirSync => ("power cuts, plain", |fault| cuts(plain(), fault)),
        Break::ServeUnchecked => ("a flipped bit", flipped_bit),
        Break::SkipBodySync | Break::SkipBodyName | Break::RemoveBodyFirst => (
            "lives of many power cuts, with bodies in files",
            lives_with_bodies,
        ),
        Break::SkipListing => ("a segment file that is removed", removed_segment),
        Break::EmptyBeforeListing | Break::SkipListingSync => {
            ("power cuts, short among long", |fault| {
                cuts(short_among_long(1), fault)
            })
        }
        Break::TrustHints => ("spoiled hints", spoiled_hints),
        Break::TrustPages => ("damaged pages", spoiled_pages),
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    let mut survivors = Vec::new();
    println!("| broken rule | noticed by | how |\n|---|---|---|");
    for fault in Break::ALL {
        let (name, notices) = workload_for(*fault);
        match catch_unwind(AssertUnwindSafe(|| notices(*fault))) {
            Ok(None) => {
                println!("| {fault:?} | {name} | SURVIVES |");
                survivors.push(*fault);
            }
            Ok(Some(how)) => println!("| {fault:?} | {name} | {} |", in_short(&how)),
            Err(_) => println!("| {fault:?} | {name} | a panic |"),
        }
    }
    assert!(survivors.is_empty(), "nobody notices {survivors:?}");
}

/// The same tests find nothing when no rule is broken: what they notice is the broken rule.
#[test]
fn nothing_is_noticed_when_no_rule_is_broken() {
    assert_eq!(look_beside_a_flush(small()), None);
    assert_eq!(fill_and_drain_with(reserve_options()), None);
    assert_eq!(flip_with(tiny_options()), None);
}

fn in_short(text: &str) -> String {
    let line = text.replace(['\n', '|'], " ");
    line.chars().take(120).collect()
}

fn broken(workload: Workload, fault: Break) -> Workload {
    workload.with(|options| options.breaks = vec![fault])
}

fn first_of(rows: Vec<Row>) -> Option<String> {
    rows.into_iter().flat_map(|row| row.examples).next()
}

fn cuts(workload: Workload, fault: Break) -> Option<String> {
    let workload = broken(workload, fault);
    first_of(power_cuts(&workload, Extent::UNTIL_NOTICED, false))
}

fn failures(workload: Workload, fault: Break) -> Option<String> {
    let workload = broken(workload, fault);
    first_of(failing(&workload, Extent::UNTIL_NOTICED))
}

fn lives(fault: Break) -> Option<String> {
    let options = || LogOptions {
        breaks: vec![fault],
        ..small()
    };
    (0..300).find_map(|seed| {
        catch_unwind(|| life(seed, options(), 40))
            .unwrap_or_else(|_| Err("a panic".to_owned()))
            .err()
    })
}

/// A disk on which somebody looks at the store while it flushes.
#[derive(Debug)]
struct Watched {
    disk: Arc<SimFs>,
    eyes: Arc<Mutex<Eyes>>,
}

#[derive(Debug, Default)]
struct Eyes {
    reader: Option<Reader>,
    /// The most records that were seen while a flush ran.
    seen: usize,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn File>,
    eyes: Arc<Mutex<Eyes>>,
}

impl Fs for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(WatchedFile {
            file: self.disk.open(path, create)?,
            eyes: Arc::clone(&self.eyes),
        }))
    }
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.disk.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

impl File for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut eyes = self.eyes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = &eyes.reader {
            let records = reader.read(StreamId(0), 0, 10, 1 << 20).unwrap();
            eyes.seen = eyes.seen.max(records.len());
        }
        drop(eyes);
        self.file.sync_data()
    }
    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.allocate(from, to)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

fn reader_beside_a_flush(fault: Break) -> Option<String> {
    look_beside_a_flush(LogOptions {
        breaks: vec![fault],
        ..small()
    })
}

fn look_beside_a_flush(options: LogOptions) -> Option<String> {
    let eyes = Arc::new(Mutex::new(Eyes::default()));
    let fs = Arc::new(Watched {
        disk: Arc::new(SimFs::new()),
        eyes: Arc::clone(&eyes),
    });
    let (mut log, _) = open(&fs, options).unwrap();
    eyes.lock().unwrap().reader = Some(log.reader());
    log.commit(&[batch([put(0, 1, "", "body")])]).unwrap();
    let seen = eyes.lock().unwrap().seen;
    (seen > 0).then(|| format!("{seen} record was served before it was on disk"))
}

fn reserve_options() -> LogOptions {
    LogOptions {
        disk_bytes_max: Some(6 * 20 * 1024),
        ..small()
    }
}

fn fill_and_drain(fault: Break) -> Option<String> {
    fill_and_drain_with(LogOptions {
        breaks: vec![fault],
        ..reserve_options()
    })
}

/// A full store must take every removal.
fn fill_and_drain_with(options: LogOptions) -> Option<String> {
    let (mut log, _) = open(&Arc::new(SimFs::new()), options).unwrap();
    let mut at = 0;
    loop {
        at += 1;
        let one = batch([put(0, at, "", vec![1; 900])]);
        if log.commit(&[one]).unwrap() == [Applied::Full] {
            break;
        }
    }
    (1..at)
        .rev()
        .filter(|at| at % 2 == 0)
        .find(|at| log.commit(&[batch([remove(0, *at, *at)])]).unwrap() != [Applied::Done])
        .map(|at| format!("the removal of {at} was turned away"))
}

fn flipped_bit(fault: Break) -> Option<String> {
    flip_with(LogOptions {
        breaks: vec![fault],
        ..tiny_options()
    })
}

fn flip_with(options: LogOptions) -> Option<String> {
    let fs = Arc::new(SimFs::new());
    let (mut log, _) = open(&fs, options).unwrap();
    log.commit(&[batch([put(0, 1, "head", "0123456789abcdef")])])
        .unwrap();
    let hit = fs.list(&dir()).unwrap().iter().any(|name| {
        let path = dir().join(name);
        let content = fs.content(&path).unwrap();
        let at = content
            .windows(16)
            .position(|part| part == b"0123456789abcdef");
        at.is_some_and(|at| fs.flip(&path, at as u64 + 3, 1))
    });
    assert!(hit);
    let read = log.reader().read(StreamId(0), 0, 1, 100);
    read.ok()
        .map(|records| format!("{:?} was served", records[0].body))
}
