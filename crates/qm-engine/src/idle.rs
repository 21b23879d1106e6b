//! Outgoing queues that nobody has used for a while go. Applications make them by naming
//! destinations, a new one for each reply perhaps, and there may be only so many.

use crate::engine::Engine;
use crate::limits::OUT_QUEUE_IDLE_MS;
use crate::outgoing::OutQueue;

impl OutQueue {
    /// Whether nothing would be lost with it. What it knows of a transactional stream stays.
    fn is_idle(&self) -> bool {
        !self.has_work() && self.in_flight == 0 && self.stream.is_none() && !self.paused
    }
}

impl Engine {
    /// Forgets outgoing queues without work; the last one of a destination keeps what is known of
    /// that.
    pub(crate) fn forget_idle_queues(&mut self) {
        let now = self.now.at;
        // What waits for the disk for so long, or comes back from it, may belong to any of them. A
        // node with two identities has each queue twice.
        let slow = self.commits.oldest_ms(now).unwrap_or(0) >= OUT_QUEUE_IDLE_MS;
        let later = !self.journal_later.is_empty() || self.commits.keeps_refused();
        if slow || later || self.former().is_some() {
            return;
        }
        let mut idle = Vec::new();
        for (number, out) in &mut self.outs {
            if !out.is_idle() || self.purges.contains_key(&(false, *number)) {
                out.idle_since = None;
                continue;
            }
            let since = *out.idle_since.get_or_insert(now);
            if now.ms_since(since) >= OUT_QUEUE_IDLE_MS {
                idle.push(*number);
            }
        }
        for number in idle {
            let Some(out) = self.outs.get(&number) else {
                continue;
            };
            let Some(remote) = self.remotes.get_mut(&out.remote) else {
                continue;
            };
            if remote.queues.len() < 2 {
                continue;
            }
            remote.queues.remove(&out.queue);
            remote.at_work.remove(&out.queue);
            self.outs.remove(&number);
            self.record_queue(number);
            self.seal_if_large();
        }
    }
}
