//! Group commit: one thread owns the store, everything waiting shares a flush.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::StoreError;
use crate::log::Log;
use crate::store::Store;
use crate::types::{Applied, Batch, Refusal};

/// What became of a submitted batch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Completion {
    /// Durable, and visible to readers.
    Done(u64),
    /// No room; nothing of it was done. See [`Applied::Full`].
    Full {
        /// Its ticket.
        ticket: u64,
        /// As it was submitted.
        batch: Batch,
        /// Whether a limit of the store had no room, and not the disk.
        limited: bool,
    },
    /// What was answered with [`Completion::Full`] last would find room now.
    HasRoom,
    /// Nothing is written any more, until [`Committer::release`].
    Held,
    /// It breaks a rule; nothing of it was done. The batch is as it was submitted.
    Refused(u64, Refusal, Batch),
    /// The outcome is unknown, and every later batch fails the same way until the store is
    /// opened again.
    Failed(u64, StoreError),
    /// The committer's thread died of a fault of its own. What was submitted and not answered has
    /// an unknown outcome, and nothing will be answered any more.
    Died,
}

impl Completion {
    /// The ticket it answers, if it is an answer.
    #[must_use]
    pub const fn ticket(&self) -> Option<u64> {
        match self {
            Self::Done(ticket)
            | Self::Full { ticket, .. }
            | Self::Refused(ticket, ..)
            | Self::Failed(ticket, _) => Some(*ticket),
            Self::HasRoom | Self::Held | Self::Died => None,
        }
    }
}

/// How long nothing must have come before the disk is tidied for a long pause: what is made up
/// and given back for every short one would cost more than it saves.
const QUIET: Duration = Duration::from_secs(2);

/// What to do when nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Go on with something else.
    None,
    /// Wait, but not long.
    Some,
    /// Wait until something comes.
    Endless,
}

/// Owns a store on a thread of its own and commits what is submitted to it.
///
/// While a flush runs batches gather; the next commit takes all of them. Completions come on the
/// committer's thread in the order of submission. Dropping it waits until everything submitted
/// is answered; [`Committer::shutdown`] also gives the store back.
#[derive(Debug)]
pub struct Committer<S: Store + 'static = Log> {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<S>>,
}

#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: Vec<u64>,
    batches: Vec<Batch>,
    asleep: bool,
    /// Nothing shall be written.
    held: bool,
    /// That nothing is written is still to be told.
    tell_held: bool,
    closed: bool,
}

impl<S: Store + 'static> Committer<S> {
    /// Starts the thread. `on_done` runs on it between commits: it should hand on, not work.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn spawn(
        store: S,
        mut on_done: impl FnMut(Completion) + Send + 'static,
    ) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("qm-store-commit".into())
            .spawn(move || {
                // Nothing of the store is used after a panic, only its owner told: he would wait
                // for ever for what he submitted.
                let ran = catch_unwind(AssertUnwindSafe(|| run(store, &own, &mut on_done)));
                ran.unwrap_or_else(|panic| {
                    on_done(Completion::Died);
                    resume_unwind(panic)
                })
            })?;
        Ok(Self {
            desk,
            thread: Some(thread),
        })
    }

    /// Hands a batch over; never waits for the disk. The ticket comes back in its completion.
    pub fn submit(&self, ticket: u64, batch: Batch) {
        let mut waiting = self.desk.lock();
        waiting.tickets.push(ticket);
        waiting.batches.push(batch);
        let asleep = waiting.asleep;
        drop(waiting);
        if asleep {
            self.desk.arrived.notify_one();
        }
    }

    /// Lets nothing be written, nor the disk be tidied, once [`Completion::Held`] has come: what is
    /// submitted from then on waits. Only [`release`](Self::release) and the end of the committer
    /// let it go on.
    pub fn hold(&self) {
        let mut waiting = self.desk.lock();
        (waiting.held, waiting.tell_held) = (true, true);
        drop(waiting);
        self.desk.arrived.notify_one();
    }

    /// Takes [`hold`](Self::hold) back.
    pub fn release(&self) {
        let mut waiting = self.desk.lock();
        (waiting.held, waiting.tell_held) = (false, false);
        drop(waiting);
        self.desk.arrived.notify_one();
    }

    /// Batches submitted and not yet taken into a commit: a measure for holding senders back.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.desk.lock().batches.len()
    }

    /// Commits and answers everything submitted, stops the thread and gives the store back.
    ///
    /// # Panics
    /// When the committer's thread panicked, in the store or in `on_done`.
    #[must_use]
    pub fn shutdown(mut self) -> S {
        self.close();
        let thread = self
            .thread
            .take()
            .expect("invariant: only shutdown and drop take it");
        match thread.join() {
            Ok(store) => store,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn close(&self) {
        self.desk.lock().closed = true;
        self.desk.arrived.notify_one();
    }
}

impl<S: Store + 'static> Drop for Committer<S> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.close();
            // A panic was reported by the thread already.
            drop(thread.join());
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_held(&self) -> bool {
        let waiting = self.lock();
        waiting.held && !waiting.closed
    }

    /// Waits as long as nothing shall be written, and tells that it does.
    fn rest(&self, mut tell: impl FnMut()) {
        let mut waiting = self.lock();
        while waiting.held && !waiting.closed {
            if std::mem::take(&mut waiting.tell_held) {
                drop(waiting);
                tell();
                waiting = self.lock();
            } else {
                waiting = self
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Swaps what waits into the given buffers; false when nothing will come any more. What it
    /// returns is empty when nothing came in time.
    fn take(&self, tickets: &mut Vec<u64>, batches: &mut Vec<Batch>, patience: Patience) -> bool {
        let mut waiting = self.lock();
        let mut in_time = patience != Patience::None;
        while in_time && waiting.batches.is_empty() && !waiting.closed && !waiting.held {
            waiting.asleep = true;
            if patience == Patience::Endless {
                waiting = self
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            } else {
                let (woken, timeout) = self
                    .arrived
                    .wait_timeout(waiting, QUIET)
                    .unwrap_or_else(PoisonError::into_inner);
                waiting = woken;
                in_time = !timeout.timed_out();
            }
            waiting.asleep = false;
        }
        std::mem::swap(&mut waiting.tickets, tickets);
        std::mem::swap(&mut waiting.batches, batches);
        !(batches.is_empty() && waiting.closed)
    }
}

fn run<S: Store>(mut store: S, desk: &Desk, mut on_done: impl FnMut(Completion)) -> S {
    let (mut tickets, mut batches) = (Vec::new(), Vec::new());
    let mut patience = Patience::None;
    let mut quiet = false;
    loop {
        if desk.is_held() {
            desk.rest(|| on_done(Completion::Held));
            quiet = false;
        }
        if !desk.take(&mut tickets, &mut batches, patience) {
            break;
        }
        if batches.is_empty() {
            // It was quiet for a while, or it was quiet already.
            quiet |= patience == Patience::Some;
        } else {
            quiet = false;
            let outcome = store.commit(&batches);
            let submitted = tickets.drain(..).zip(batches.drain(..));
            match outcome {
                Ok(answers) => {
                    let limited = store.is_limited();
                    for ((ticket, batch), answer) in submitted.zip(answers) {
                        on_done(match answer {
                            Applied::Done => Completion::Done(ticket),
                            Applied::Full => Completion::Full {
                                ticket,
                                batch,
                                limited,
                            },
                            Applied::Refused(why) => Completion::Refused(ticket, why, batch),
                        });
                    }
                }
                Err(error) => {
                    for (ticket, _) in submitted {
                        on_done(Completion::Failed(ticket, error.clone()));
                    }
                }
            }
        }
        if desk.is_held() {
            continue;
        }
        // An error here fails the next commit, which has somebody to tell.
        let more = store.tidy(quiet).unwrap_or(false);
        let lacks_room = match store.has_room_again() {
            Ok(Some(true)) => {
                on_done(Completion::HasRoom);
                false
            }
            Ok(lacks) => lacks.is_some(),
            Err(_) => false,
        };
        patience = match (more, quiet && !lacks_room) {
            (true, _) => Patience::None,
            // On a full disk it is looked again: others may make room there.
            (false, false) => Patience::Some,
            (false, true) => Patience::Endless,
        };
    }
    store
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::{MemoryStore, Reader, Usage};

    /// A store whose housekeeping never ends.
    struct Untidy {
        store: MemoryStore,
        steps: Arc<AtomicUsize>,
    }

    impl Store for Untidy {
        fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, StoreError> {
            self.store.commit(batches)
        }

        fn reader(&self) -> Reader {
            self.store.reader()
        }

        fn usage(&self) -> Usage {
            self.store.usage()
        }

        fn tidy(&mut self, _idle: bool) -> Result<bool, StoreError> {
            self.steps.fetch_add(1, Ordering::SeqCst);
            Ok(true)
        }
    }

    #[test]
    fn a_store_that_is_held_neither_commits_nor_tidies_until_it_is_released() {
        let steps = Arc::new(AtomicUsize::new(0));
        let store = Untidy {
            store: MemoryStore::default(),
            steps: Arc::clone(&steps),
        };
        let (tell, told) = mpsc::channel();
        let committer = Committer::spawn(store, move |done| tell.send(done).unwrap()).unwrap();
        let next = || told.recv_timeout(Duration::from_secs(60));
        let taken = || steps.load(Ordering::SeqCst);
        for ticket in 1..4 {
            committer.hold();
            assert!(matches!(next(), Ok(Completion::Held)));
            let before = taken();
            committer.submit(ticket, Batch::default());
            let early = told.recv_timeout(Duration::from_millis(100));
            assert!(early.is_err(), "{early:?}");
            assert_eq!(taken(), before, "it stands still");
            committer.release();
            assert!(matches!(next(), Ok(Completion::Done(done)) if done == ticket));
            while taken() == before {
                std::thread::yield_now();
            }
        }
        // Its end does not wait for a release.
        committer.hold();
        committer.submit(9, Batch::default());
        drop(committer);
        let answered = told.iter().filter_map(|done| done.ticket());
        assert_eq!(answered.collect::<Vec<_>>(), [9]);
    }
}
