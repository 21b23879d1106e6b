//! Definitions of queues on disk.
//!
//! They are written with what gives room back, which a disk refuses only when it has nothing left
//! at all, and goes to the disk again in front of all else: what later batches put into a queue
//! would otherwise belong to none after a restart.

use crate::engine::Engine;
use crate::io::StoreOp;
use crate::record::QueueRecord;

impl Engine {
    /// Writes down what is known of a queue, or that it is gone.
    pub(crate) fn record_queue(&mut self, number: u32) {
        match self.record_of(number) {
            Some(record) => self.commits.set(QueueRecord::key(number), record.encode()),
            None => {
                for priority in 0..8 {
                    self.commits.settle(StoreOp::Remove {
                        stream: Self::stream_of(number, priority),
                        first: 0,
                        last: u64::MAX,
                    });
                }
                self.commits.unset(QueueRecord::key(number));
            }
        }
    }

    fn record_of(&self, number: u32) -> Option<QueueRecord> {
        if let Some(queue) = self.locals.get(&number) {
            return Some(QueueRecord::Local(queue.settings.clone()));
        }
        let out = self.outs.get(&number)?;
        let remote = self.remotes.get(&out.remote)?;
        Some(QueueRecord::Outgoing {
            remote: remote.key.clone(),
            queue: out.queue.clone(),
            paused: out.paused,
            own: self.recorded_own(remote.own),
        })
    }
}
