//! The disk as the loop sees it: nothing here waits. Commits and reads have threads of their own,
//! because flushes and cold reads block.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as sync;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use qm_engine::{LoadId, Recovered, RefusalsKnown, StoreOp, StoredRecord, StreamId, Ticket};
use qm_store::{
    Applied, Committer, Completion, Fs, Log, LogOptions, Op, RecoveryNote, StoreError, adapter,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::health::StoreHealth;
use crate::reading::{Load, Pace, Reading};
use crate::run::store_cause;

/// Name under which the identity of the store is kept in it.
const STORE_ID_KEY: &[u8] = b"store-id";
/// Directory beside the store for records that are damaged.
const ASIDE_DIR: &str = "damaged";
/// Closing the log takes one flush; a disk that hangs must not keep the process.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// What the disk did.
#[derive(Debug)]
pub(crate) enum DiskEvent {
    /// Everything up to this ticket is durable.
    Persisted { ticket: Ticket },
    /// No room: nothing of this ticket was done.
    Refused {
        ticket: Ticket,
        ops: Vec<StoreOp>,
        limited: bool,
    },
    /// There is room again for what was refused last.
    HasRoom,
    /// Nothing is written until [`Disk::release`].
    Held,
    /// Messages were read.
    Loaded {
        load: LoadId,
        records: Vec<StoredRecord>,
    },
    /// A record is damaged; told before what was read behind it.
    Damaged {
        load: LoadId,
        position: u64,
        set_aside: bool,
    },
    /// The store refuses further work until it is opened again.
    Failed { cause: String },
}

/// An open store with its threads.
#[derive(Debug)]
pub(crate) struct Disk {
    committer: Committer<Log>,
    loads: sync::Sender<Load>,
    reading: JoinHandle<()>,
    events: mpsc::UnboundedReceiver<DiskEvent>,
}

/// A store that was opened, what it holds, and its identity.
pub(crate) type Opened = (Disk, Recovered, [u8; 16]);

impl Disk {
    /// Opens the store in a directory by recovery; a new one gets an identity.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: LogOptions,
        pace: Pace,
        health: &Arc<StoreHealth>,
    ) -> Result<Opened, StoreError> {
        let (mut log, found) = Log::open(Arc::clone(&fs), dir, options, Box::new(random_u64))?;
        for note in &found.notes {
            log_note(note);
        }
        health.opened(&found.notes, &log.reader());
        let mut recovered = adapter::recovered_of(found);
        let kept = recovered.state.remove(STORE_ID_KEY);
        let store_id = match kept.and_then(|value| <[u8; 16]>::try_from(&*value).ok()) {
            Some(id) => id,
            None => name_store(&mut log, dir)?,
        };
        let thread_error = |source| StoreError::Io {
            action: "start a thread for",
            path: dir.to_owned(),
            source: Arc::new(source),
        };
        let (tell, events) = mpsc::unbounded_channel();
        let (loads, asked) = sync::channel();
        let reading = Reading {
            reader: log.reader(),
            tell: tell.clone(),
            health: Arc::clone(health),
            fs,
            aside: dir.with_file_name(ASIDE_DIR),
            pace,
        };
        let reading = thread::Builder::new()
            .name("qm-store-read".to_owned())
            .spawn(move || reading.run(&asked))
            .map_err(thread_error)?;
        let committer = Committer::spawn(log, move |completion| {
            // Nobody listens any more while a failed store is being closed.
            drop(tell.send(event_of(completion)));
        });
        let committer = committer.map_err(thread_error)?;
        Ok((
            Self {
                committer,
                loads,
                reading,
                events,
            },
            recovered,
            store_id,
        ))
    }

    /// Answered by [`DiskEvent::Persisted`] or [`DiskEvent::Refused`], in the order of the calls.
    pub(crate) fn persist(&self, ticket: Ticket, ops: Vec<StoreOp>, refusals_known: RefusalsKnown) {
        let batch = adapter::batch_of(ops, refusals_known);
        self.committer.submit(ticket.0, batch);
    }

    /// Lets nothing be written, tidying included; answered by [`DiskEvent::Held`].
    pub(crate) fn hold(&self) {
        self.committer.hold();
    }

    /// Takes [`hold`](Self::hold) back.
    pub(crate) fn release(&self) {
        self.committer.release();
    }

    /// Answered by [`DiskEvent::Loaded`].
    pub(crate) fn load(
        &self,
        id: LoadId,
        stream: StreamId,
        from: u64,
        records_max: usize,
        bytes_max: usize,
    ) {
        let load = Load {
            id,
            stream,
            from,
            records_max,
            bytes_max,
        };
        self.loads
            .send(load)
            .expect("invariant: the reading thread lives as long as the disk");
    }

    /// The next thing the disk did.
    pub(crate) async fn next(&mut self) -> Option<DiskEvent> {
        self.events.recv().await
    }

    /// The same, if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<DiskEvent> {
        self.events.try_recv().ok()
    }

    /// Commits what was handed over, marks the log as closed in order and releases its lock.
    pub(crate) async fn close(self) {
        let Self {
            committer,
            loads,
            reading,
            events,
        } = self;
        drop((loads, events));
        let (tell, told) = oneshot::channel();
        // Not the runtime's blocking pool: the process waits for that when it ends.
        let closing = thread::Builder::new()
            .name("qm-store-close".to_owned())
            .spawn(move || {
                committer.shutdown().close();
                let read = reading.join();
                if tell.send(read.is_ok()).is_err() {
                    tracing::debug!("the store was closed later than anybody waited for");
                }
            });
        let closed = match closing {
            Ok(_) => matches!(timeout(CLOSE_PATIENCE, told).await, Ok(Ok(true))),
            Err(_) => false,
        };
        if !closed {
            tracing::warn!(
                event = "store_close_slow",
                "the store was not closed in order; recovery takes a little longer"
            );
        }
    }
}

fn event_of(completion: Completion) -> DiskEvent {
    match completion {
        Completion::Done(ticket) => DiskEvent::Persisted {
            ticket: Ticket(ticket),
        },
        Completion::Full {
            ticket,
            batch,
            limited,
        } => DiskEvent::Refused {
            ticket: Ticket(ticket),
            ops: adapter::effects_of(batch),
            limited,
        },
        Completion::HasRoom => DiskEvent::HasRoom,
        Completion::Held => DiskEvent::Held,
        // What gives room back is handed over again as it is: it would keep everything behind it
        // from the disk for ever.
        Completion::Refused(_, refusal, batch) if batch.settles() => DiskEvent::Failed {
            cause: format!("what must be written next breaks a rule of the store: {refusal}"),
        },
        Completion::Refused(ticket, refusal, batch) => {
            tracing::error!(event = "batch_refused", ticket, %refusal, "the store refuses a batch");
            DiskEvent::Refused {
                ticket: Ticket(ticket),
                ops: adapter::effects_of(batch),
                limited: false,
            }
        }
        Completion::Failed(_, error) => DiskEvent::Failed {
            cause: store_cause(&error),
        },
        Completion::Died => DiskEvent::Failed {
            cause: "the thread that commits to the store died; its last words are in the log"
                .to_owned(),
        },
        _ => DiskEvent::Failed {
            cause: "the store gave an answer that this node does not know".to_owned(),
        },
    }
}

fn name_store(log: &mut Log, dir: &Path) -> Result<[u8; 16], StoreError> {
    let mut id = [0; 16];
    for part in id.chunks_exact_mut(8) {
        part.copy_from_slice(&random_u64().to_le_bytes());
    }
    let key = Bytes::from_static(STORE_ID_KEY);
    let op = Op::Set {
        key,
        value: Bytes::copy_from_slice(&id),
    };
    match log.commit(&[vec![op].into()])?.as_slice() {
        [Applied::Done] => Ok(id),
        _ => Err(StoreError::Io {
            action: "write the first record in",
            path: dir.to_owned(),
            source: Arc::new(std::io::ErrorKind::StorageFull.into()),
        }),
    }
}

pub(crate) fn random_u64() -> u64 {
    // As for the engine's entropy: the node's key was drawn from it, or could be.
    getrandom::u64().expect("invariant: the system gives random bytes")
}

fn log_note(note: &RecoveryNote) {
    match note {
        RecoveryNote::TornTail { .. } => {
            tracing::info!(event = "store_torn_tail", %note, "recovered after a crash");
        }
        _ => tracing::warn!(event = "store_note", %note, "recovery has something to tell"),
    }
}

#[cfg(test)]
mod tests {
    use qm_store::Refusal;

    use super::*;

    /// What puts is taken back; what gives room back would be handed over for ever.
    #[test]
    fn a_batch_that_keeps_its_place_and_can_never_be_written_ends_the_node() {
        let (bytes, max) = (40 << 20, 32 << 20);
        let refused = |known| {
            let batch = adapter::batch_of(Vec::new(), known);
            event_of(Completion::Refused(
                7,
                Refusal::TooLarge { bytes, max },
                batch,
            ))
        };
        let taken_back = refused(RefusalsKnown::All(0));
        assert!(
            matches!(
                taken_back,
                DiskEvent::Refused {
                    ticket: Ticket(7),
                    ..
                }
            ),
            "{taken_back:?}"
        );
        match refused(RefusalsKnown::Settling(0)) {
            DiskEvent::Failed { cause } => assert!(cause.contains("a segment holds"), "{cause}"),
            other => panic!("{other:?}"),
        }
    }
}
