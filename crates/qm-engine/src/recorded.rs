//! Definitions of queues on disk.
//!
//! They are written with what gives room back, which a disk refuses only when it has nothing left
//! at all. A definition that was refused is written again when there is room: what later batches
//! put into its queue would otherwise belong to no queue after a restart.

use crate::commits::Then;
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
        self.commits.after_settling(Then::QueueRecorded(number));
    }

    /// The disk did not even take definitions, or settings: they are tried again.
    pub(crate) fn record_again(&mut self) {
        self.commits.settle_again();
        for number in core::mem::take(&mut self.record_later) {
            self.record_queue(number);
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
