//! The same queue on different stores.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use qm_store::{Applied, Batch, Fs, Log, LogOptions, Op, RealFs, StreamId};
use redb::{ReadableDatabase, TableDefinition};

pub(crate) const BODY_BYTES: usize = 200;
static BODY: [u8; BODY_BYTES] = [7; BODY_BYTES];
const RAW_BYTES: u64 = 64 * 1024 * 1024;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("queue");

/// A queue whose commits put some messages and remove as many of the oldest.
pub(crate) trait Queue {
    fn name(&self) -> &'static str;
    /// One durable commit.
    fn commit(&mut self, count: u64, removes: bool);
    /// How long opening takes after a process that just ended, if that means anything.
    fn reopen(self: Box<Self>) -> Option<Duration>;
}

/// Which positions a commit puts and removes.
#[derive(Default)]
struct Window {
    first: u64,
    next: u64,
    /// What the commit before put, when nothing shall wait.
    recent: VecDeque<u64>,
}

impl Window {
    fn step(&mut self, count: u64, removes: bool) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        let put = self.next..self.next + count;
        self.next += count;
        let gone = if removes {
            let gone = self.first..(self.first + self.recent.pop_front().unwrap_or(0));
            self.recent.push_back(count);
            gone
        } else {
            0..0
        };
        self.first += gone.end - gone.start;
        (put, gone)
    }
}

/// A preallocated file, one write and one flush a commit, from the start again when it is full.
pub(crate) struct Raw {
    file: Arc<dyn qm_store::File>,
    at: u64,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(dir: &Path) -> Self {
        RealFs.create_dir_all(dir).expect("a directory");
        let file = RealFs.open(&dir.join("raw"), true).expect("a file");
        file.allocate(0, RAW_BYTES).expect("room");
        file.sync_data().expect("a flush");
        let (at, bytes) = (0, Vec::new());
        Self { file, at, bytes }
    }
}

impl Queue for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn commit(&mut self, count: u64, _removes: bool) {
        let bytes = usize::try_from(count).expect("small") * (BODY_BYTES + 32) + 72;
        self.bytes.resize(bytes, 7);
        if self.at + bytes as u64 > RAW_BYTES {
            self.at = 0;
        }
        self.file.write_at(&self.bytes, self.at).expect("a write");
        self.file.sync_data().expect("a flush");
        self.at += bytes as u64;
    }

    fn reopen(self: Box<Self>) -> Option<Duration> {
        None
    }
}

pub(crate) struct Qm {
    dir: PathBuf,
    log: Log,
    window: Window,
}

/// Unpredictable enough for a benchmark's salts.
pub(crate) fn open(dir: &Path) -> (Log, qm_store::Recovered) {
    let mut salt = u64::from(std::process::id());
    let salts = Box::new(move || {
        salt = salt
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        salt
    });
    Log::open(Arc::new(RealFs), dir, LogOptions::default(), salts).expect("the log opens")
}

pub(crate) fn put(position: u64, head_bytes: usize) -> Batch {
    Batch::from(vec![Op::Put {
        stream: StreamId(0),
        position,
        head: Bytes::from_static(&BODY[..head_bytes]),
        body: Bytes::from_static(&BODY),
    }])
}

impl Qm {
    pub(crate) fn new(dir: &Path) -> Self {
        let (log, _) = open(dir);
        Self {
            dir: dir.to_owned(),
            log,
            window: Window::default(),
        }
    }
}

impl Queue for Qm {
    fn name(&self) -> &'static str {
        "qm"
    }

    fn commit(&mut self, count: u64, removes: bool) {
        let (puts, gone) = self.window.step(count, removes);
        let mut batches: Vec<Batch> = puts.map(|at| put(at, 0)).collect();
        if !gone.is_empty() {
            batches[0].ops.push(Op::Remove {
                stream: StreamId(0),
                first: gone.start,
                last: gone.end - 1,
            });
        }
        let answers = self.log.commit(&batches).expect("the commit succeeds");
        assert!(answers.iter().all(|answer| *answer == Applied::Done));
    }

    fn reopen(self: Box<Self>) -> Option<Duration> {
        let Self { dir, log, .. } = *self;
        drop(log);
        let start = Instant::now();
        let (log, _) = open(&dir);
        let head = log.reader().read(StreamId(0), 0, 1, 1 << 20);
        assert_eq!(head.expect("the head is whole").len(), 1);
        Some(start.elapsed())
    }
}

pub(crate) struct Redb {
    path: PathBuf,
    database: redb::Database,
    window: Window,
}

impl Redb {
    pub(crate) fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let path = dir.join("queue.redb");
        let database = redb::Database::create(&path).expect("redb opens");
        Self {
            path,
            database,
            window: Window::default(),
        }
    }
}

impl Queue for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn commit(&mut self, count: u64, removes: bool) {
        let (puts, gone) = self.window.step(count, removes);
        let write = self.database.begin_write().expect("a transaction");
        {
            let mut table = write.open_table(TABLE).expect("a table");
            for at in puts {
                table.insert(at, &BODY[..]).expect("an insertion");
            }
            for at in gone {
                table.remove(at).expect("a removal");
            }
        }
        write.commit().expect("the commit succeeds");
    }

    fn reopen(self: Box<Self>) -> Option<Duration> {
        let Self { path, database, .. } = *self;
        drop(database);
        let start = Instant::now();
        let database = redb::Database::open(&path).expect("redb opens");
        let read = database.begin_read().expect("a transaction");
        let table = read.open_table(TABLE).expect("a table");
        let head = redb::ReadableTable::first(&table).expect("a read");
        assert!(head.is_some());
        Some(start.elapsed())
    }
}

pub(crate) struct Fjall {
    dir: PathBuf,
    database: Database,
    queue: Keyspace,
    window: Window,
}

impl Fjall {
    pub(crate) fn new(dir: &Path) -> Self {
        let (database, queue) = open_fjall(dir);
        Self {
            dir: dir.to_owned(),
            database,
            queue,
            window: Window::default(),
        }
    }
}

fn open_fjall(dir: &Path) -> (Database, Keyspace) {
    let database = Database::builder(dir).open().expect("fjall opens");
    let queue = database
        .keyspace("queue", KeyspaceCreateOptions::default)
        .expect("a keyspace");
    (database, queue)
}

impl Queue for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn commit(&mut self, count: u64, removes: bool) {
        let (puts, gone) = self.window.step(count, removes);
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for at in puts {
            batch.insert(&self.queue, at.to_be_bytes(), &BODY[..]);
        }
        for at in gone {
            batch.remove(&self.queue, at.to_be_bytes());
        }
        batch.commit().expect("the commit succeeds");
    }

    fn reopen(self: Box<Self>) -> Option<Duration> {
        let Self {
            dir,
            database,
            queue,
            ..
        } = *self;
        drop((queue, database));
        let start = Instant::now();
        let (_database, queue) = open_fjall(&dir);
        assert!(queue.first_key_value().is_some());
        Some(start.elapsed())
    }
}
