//! Administrative requests that take more than one step: they read the disk or wait for it, and
//! are answered when the last step is done.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::{AdminReply, DeadLetterView, LetterFate, PurgeTally};
use crate::commits::Then;
use crate::dead::DeadScan;
use crate::engine::Engine;
use crate::io::{ConnId, Output};
use crate::seek::Seek;

/// Names a job in what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(u64);

/// A request that is being worked on.
#[derive(Debug)]
struct Job {
    /// Who is answered; nobody when the node does it by itself.
    asked: Option<(ConnId, u64)>,
    work: Work,
}

/// What a job does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Looks through the dead letters.
    DeadList(DeadScan),
    /// Resends or drops dead letters; how many are not decided yet.
    Dead { open: usize, fates: Vec<LetterFate> },
    /// Empties queues; those that are not empty yet, by side and number.
    Purge {
        open: BTreeSet<(bool, u32)>,
        tally: PurgeTally,
    },
    /// Moves messages out of a quarantine.
    Release,
    /// Looks for a message on disk.
    Seek(Box<Seek>),
}

/// All requests that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    last: u64,
    open: BTreeMap<JobId, Job>,
}

impl Engine {
    /// Begins a job; its answer comes with [`Engine::end_job`].
    pub(crate) fn begin_job(&mut self, conn: ConnId, request: u64, work: Work) -> JobId {
        self.insert_job(Some((conn, request)), work)
    }

    /// Begins something that takes more than one step and that nobody asked for.
    pub(crate) fn begin_own_job(&mut self, work: Work) -> JobId {
        self.insert_job(None, work)
    }

    fn insert_job(&mut self, asked: Option<(ConnId, u64)>, work: Work) -> JobId {
        self.jobs.last += 1;
        let id = JobId(self.jobs.last);
        let job = Job { asked, work };
        self.jobs.open.insert(id, job);
        id
    }

    pub(crate) fn job(&mut self, id: JobId) -> Option<&mut Work> {
        self.jobs.open.get_mut(&id).map(|job| &mut job.work)
    }

    /// Answers the request of a job.
    pub(crate) fn end_job(&mut self, id: JobId, reply: AdminReply) {
        let job = self.jobs.open.remove(&id);
        if let Some((conn, request)) = job.and_then(|job| job.asked) {
            self.outputs.push_back(Output::Admin {
                conn,
                request,
                reply,
            });
        }
    }

    /// The same when what is gathered for the disk is there: a crash would undo it.
    pub(crate) fn end_job_on_disk(&mut self, id: JobId, reply: AdminReply) {
        let job = self.jobs.open.remove(&id);
        if let Some((conn, request)) = job.and_then(|job| job.asked) {
            let reply = Box::new(reply);
            self.commits.after_settling(Then::Told {
                conn,
                request,
                reply,
            });
        }
    }

    /// One letter of a job is decided; the last one answers the request.
    pub(crate) fn letter_decided(&mut self, id: JobId, fate: LetterFate) {
        let Some(Work::Dead { open, fates }) = self.job(id) else {
            return;
        };
        fates.push(fate);
        *open = open.saturating_sub(1);
        if *open == 0 {
            let mut fates = core::mem::take(fates);
            fates.sort_by_key(|fate| fate.position);
            self.end_job(id, AdminReply::LetterFates(fates));
        }
    }

    /// Letters that a listing found; with no `after` there are no more.
    pub(crate) fn letters_found(
        &mut self,
        id: JobId,
        letters: Vec<DeadLetterView>,
        after: Option<u64>,
    ) {
        self.end_job(id, AdminReply::DeadLetters { letters, after });
    }
}
