//! The thread that reads messages back: what the engine asks for, and in between, gently, whether
//! what waits on the disk is still what was written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use qm_engine::{LoadId, StoredRecord, StreamId};
use qm_store::{Fs, Reader, Scrub, StoreError, adapter, read_around};
use tokio::sync::mpsc;

use crate::adapter::DiskEvent;
use crate::health::{Claimed, StoreHealth};
use crate::run::store_cause;

/// Bytes of messages that the background verification reads at a time, at most.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// A read that the engine asked for.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: LoadId,
    pub(crate) stream: StreamId,
    pub(crate) from: u64,
    pub(crate) records_max: usize,
    pub(crate) bytes_max: usize,
}

/// How fast what waits is verified in the background.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// 0 turns it off.
    pub(crate) bytes_per_second: u64,
    /// From the start of the node to the first round: starting has the disk for itself.
    pub(crate) first_after: Duration,
    /// From the end of a round to the next one.
    pub(crate) every: Duration,
}

impl Pace {
    pub(crate) const fn of(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            first_after: Duration::from_secs(10 * 60),
            every: Duration::from_secs(24 * 60 * 60),
        }
    }

    /// How long a step of so many bytes keeps the disk to itself.
    fn pause(&self, bytes: u64) -> Duration {
        let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_second.max(1);
        Duration::from_micros(micros).max(Duration::from_millis(10))
    }
}

/// See the module.
pub(crate) struct Reading {
    pub(crate) reader: Reader,
    pub(crate) tell: mpsc::UnboundedSender<DiskEvent>,
    pub(crate) health: Arc<StoreHealth>,
    pub(crate) fs: Arc<dyn Fs>,
    /// Where damaged records are kept.
    pub(crate) aside: PathBuf,
    pub(crate) pace: Pace,
}

impl Reading {
    /// Works until nobody asks any more.
    pub(crate) fn run(self, asked: &Receiver<Load>) {
        let mut scrub = Scrub::new(self.reader.clone());
        let is_on = self.pace.bytes_per_second > 0;
        let mut due = Instant::now() + self.pace.first_after;
        loop {
            let load = if is_on {
                // Requests come first: a step is made only while nobody asks.
                asked.recv_timeout(due.saturating_duration_since(Instant::now()))
            } else {
                asked.recv().map_err(|_gone| RecvTimeoutError::Disconnected)
            };
            match load {
                Ok(load) => {
                    let event = match self.read(&load) {
                        Ok(records) => DiskEvent::Loaded {
                            load: load.id,
                            records,
                        },
                        Err(error) => DiskEvent::Failed {
                            cause: store_cause(&error),
                        },
                    };
                    if self.tell.send(event).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => due = Instant::now() + self.scrub(&mut scrub),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One step of verification; returns when the next is due.
    fn scrub(&self, scrub: &mut Scrub) -> Duration {
        let bytes = STEP_BYTES.min(self.pace.bytes_per_second);
        match scrub.step(usize::try_from(bytes).unwrap_or(usize::MAX)) {
            Ok(step) => {
                for error in &step.damaged {
                    let claimed = self.claimed(error);
                    if self.health.damaged(error, &claimed, None) {
                        tracing::error!(
                            event = "record_damaged",
                            %error,
                            source = claimed.source,
                            id = claimed.id,
                            "a waiting message is damaged on disk; see qm-node store check"
                        );
                    }
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now_us = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(0));
                self.health.scrubbed(&step, now_us);
                if step.is_round_done {
                    tracing::debug!(event = "scrub_done", "what waits on disk was verified");
                    self.pace.every
                } else {
                    self.pace.pause(step.bytes)
                }
            }
            // Whoever needs the store hears of it; here it is tried again later.
            Err(error) => {
                tracing::debug!(event = "scrub_failed", %error, "nothing could be verified");
                self.pace.first_after.max(Duration::from_secs(1))
            }
        }
    }

    /// Reads on behind damaged records: their bytes are moved aside, and the engine is told that
    /// they wait no longer.
    fn read(&self, load: &Load) -> Result<Vec<StoredRecord>, StoreError> {
        let stream = adapter::stream_of(load.stream);
        let mut from = load.from;
        loop {
            let read = self
                .reader
                .read(stream, from, load.records_max, load.bytes_max);
            let error = match read {
                Ok(records) => return Ok(adapter::records_of(records)),
                Err(error) => error,
            };
            let StoreError::Damaged {
                record: Some((_, position)),
                ..
            } = &error
            else {
                return Err(error);
            };
            let position = *position;
            let claimed = self.claimed(&error);
            let moved = self.set_aside(stream, position);
            let set_aside = moved.is_ok();
            let moved_to = match &moved {
                Ok(path) => Some(path.display().to_string()),
                Err(cause) => {
                    tracing::error!(
                        event = "record_not_moved",
                        %cause,
                        "a damaged record could not be kept elsewhere; it stays in the store"
                    );
                    None
                }
            };
            tracing::error!(
                event = "record_damaged",
                %error,
                source = claimed.source,
                id = claimed.id,
                moved_to,
                "a stored message is damaged and was passed over; see qm-node store check"
            );
            self.health.damaged(&error, &claimed, moved_to);
            let told = self.tell.send(DiskEvent::Damaged {
                load: load.id,
                position,
                set_aside,
            });
            let Some(next) = position.checked_add(1).filter(|_| told.is_ok()) else {
                return Ok(Vec::new());
            };
            from = next;
        }
    }

    /// What the head of a damaged record says of itself.
    fn claimed(&self, error: &StoreError) -> Claimed {
        let StoreError::Damaged {
            record: Some((stream, position)),
            ..
        } = error
        else {
            return Claimed::default();
        };
        let raw = self.reader.raw(*stream, *position).ok().flatten();
        raw.map(|raw| Claimed::by(&raw.head)).unwrap_or_default()
    }

    /// Keeps the bytes of a damaged record in a file of their own, durably; a body that has a file
    /// is copied beside it, if it is there.
    fn set_aside(&self, stream: qm_store::StreamId, position: u64) -> Result<PathBuf, StoreError> {
        let name = format!("stream-{}-position-{position}", stream.0);
        let path = self.aside.join(format!("{name}.record"));
        let io_error = |source: io::Error| StoreError::Io {
            action: "keep a damaged record in",
            path: path.clone(),
            source: Arc::new(source),
        };
        let raw = self.reader.raw(stream, position)?;
        let raw = raw.ok_or_else(|| io_error(io::ErrorKind::NotFound.into()))?;
        let keep = || {
            self.fs.create_dir_all(&self.aside)?;
            if let Some(body) = &raw.body_file {
                self.copy(body, &self.aside.join(format!("{name}.body")))?;
            }
            let file = self.fs.open(&path, true)?;
            file.write_at(&raw.bytes, 0)?;
            file.sync_data()?;
            self.fs.sync_dir(&self.aside)
        };
        keep().map_err(io_error)?;
        Ok(path)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let from = match self.fs.open_read(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            from => from?,
        };
        let to = self.fs.open(to, true)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            // Zeros where the disk gives nothing: what is around it may be worth keeping.
            let filled = read_around(from.as_ref(), &mut buffer, at)?.filled;
            if filled == 0 {
                return to.sync_data();
            }
            to.write_at(&buffer[..filled], at)?;
            at += filled as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use qm_store::{Batch, Log, LogOptions, Op, SimFs};

    use super::*;

    /// Damage deep in a backlog is told without anybody asking for the message.
    #[test]
    fn damage_is_found_in_the_background_and_told_once() {
        let fs = Arc::new(SimFs::new());
        let dir = Path::new("/data/store");
        let options = LogOptions {
            segment_bytes: 64 << 10,
            reserve_bytes: 0,
            ..LogOptions::default()
        };
        let mut salt = 0;
        let salts = Box::new(move || {
            salt += 1;
            salt
        });
        let disk: Arc<dyn Fs> = Arc::clone(&fs) as Arc<dyn Fs>;
        let (mut log, _) = Log::open(Arc::clone(&disk), dir, options, salts).unwrap();
        let put = |position: u8| Op::Put {
            stream: qm_store::StreamId(8),
            position: position.into(),
            head: "head".into(),
            body: vec![position; 500].into(),
        };
        log.commit(&[Batch::from((1..20).map(put).collect::<Vec<_>>())])
            .unwrap();
        let (mut segment, mut page) = (PathBuf::new(), 0);
        let hit = fs.list(dir).unwrap().iter().any(|name| {
            let path = dir.join(name);
            let content = fs.content(&path).unwrap();
            let at = content.windows(500).position(|part| part == [7; 500]);
            let last = content.windows(500).position(|part| part == [12; 500]);
            if let Some(last) = last {
                (segment, page) = (path.clone(), last as u64);
            }
            at.is_some_and(|at| fs.flip(&path, at as u64 + 3, 1))
        });
        assert!(hit);
        let health = Arc::new(StoreHealth::default());
        let (tell, mut told) = mpsc::unbounded_channel();
        let reading = Reading {
            reader: log.reader(),
            tell,
            health: Arc::clone(&health),
            fs: disk,
            aside: "/data/damaged".into(),
            pace: Pace {
                bytes_per_second: 1 << 20,
                first_after: Duration::ZERO,
                every: Duration::ZERO,
            },
        };
        let (ask, asked) = channel();
        let thread = std::thread::spawn(move || reading.run(&asked));
        let until = Instant::now() + Duration::from_secs(20);
        // Rounds are counted, and told to nobody.
        while health.document().is_none_or(|found| found.scrub_rounds < 2) {
            assert!(Instant::now() < until, "{:?}", health.document());
            std::thread::sleep(Duration::from_millis(5));
        }
        let found = health.document().unwrap();
        assert_eq!(found.damaged_records, 1, "met in every round, told once");
        assert_eq!((found.damages[0].stream, found.damages[0].position), (8, 7));
        assert_eq!(found.damages[0].moved_to, None);
        assert!(found.scrubbed_records >= 36 && found.last_scrub_at.is_some());
        // Its turn comes: it is moved aside, and told before what is behind it.
        let load = Load {
            id: LoadId(3),
            stream: StreamId(8),
            from: 7,
            records_max: 2,
            bytes_max: 1 << 20,
        };
        ask.send(load).unwrap();
        let event = told.blocking_recv().unwrap();
        assert!(
            matches!(
                event,
                DiskEvent::Damaged {
                    load: LoadId(3),
                    position: 7,
                    set_aside: true
                }
            ),
            "{event:?}"
        );
        let event = told.blocking_recv().unwrap();
        let DiskEvent::Loaded { records, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(
            records.iter().map(|r| r.position).collect::<Vec<_>>(),
            [8, 9]
        );
        let found = health.document().unwrap();
        let moved_to = found.damages[0].moved_to.clone().unwrap();
        let kept = fs.content(Path::new(&moved_to)).unwrap();
        assert_eq!(kept.len(), 32 + 504);
        // The rest stands in one page, and the disk cannot read it any more: each in its turn.
        assert!(fs.spoil(&segment, page..page + 1));
        let load = Load {
            id: LoadId(4),
            stream: StreamId(8),
            from: 12,
            records_max: 1,
            bytes_max: 1 << 20,
        };
        ask.send(load).unwrap();
        let event = told.blocking_recv().unwrap();
        assert!(
            matches!(
                event,
                DiskEvent::Damaged {
                    position: 12,
                    set_aside: true,
                    ..
                }
            ),
            "{event:?}"
        );
        drop(ask);
        thread.join().unwrap();
    }
}
