//! Whether there is room for what an application hands over.

use qm_wire::local::Put;
use qm_wire::{MessageFlags, Outcome};

use crate::destination::Target;
use crate::engine::Engine;
use crate::limits::QUEUES_MAX;

/// What of the memory for express messages a node's own applications may use. The rest is for
/// arrivals, which leave when they are received: two nodes that are full of messages for each other
/// would otherwise wait for each other for ever.
const fn own_share(limit: u64) -> u64 {
    limit - limit / 8
}

impl Engine {
    pub(super) fn check_room(
        &mut self,
        put: &Put,
        target: &Target,
    ) -> Result<(), (Outcome, String)> {
        let bytes = put.body.len() as u64;
        if put.class.is_durable() {
            if self.disk_refuses() {
                let text = "the disk is full; make room or wait until messages have left";
                return Err((Outcome::STORE_FULL, text.to_owned()));
            }
            if !self.may_store(bytes) {
                let text = format!(
                    "waiting messages fill what limits.store_bytes allows: {} of {} bytes; wait until receivers have made room",
                    self.stored_bytes, self.config.store_bytes_max
                );
                return Err((Outcome::STORE_FULL, text));
            }
        } else {
            let most = own_share(self.config.express_bytes_max as u64);
            if (self.express_bytes as u64).saturating_add(bytes) > most {
                crate::reached!(self, ExpressRefused);
                let text = format!(
                    "waiting express messages fill the {most} bytes of memory that this node's own applications may use"
                );
                return Err((Outcome::STORE_FULL, text));
            }
        }
        if matches!(target, Target::Remote(..))
            && put.flags.contains(MessageFlags::JOURNAL)
            && self.is_journal_full()
        {
            let text = "the journal queue journal$ is at its quota; receive or purge it, or send without a copy";
            return Err((Outcome::QUOTA_EXCEEDED, text.to_owned()));
        }
        if let Target::Remote(key, queue) = target
            && !self.may_add_queue()
            && !self.is_out_queue(key, queue)
        {
            let text = format!("this node has {QUEUES_MAX} queues and may not have more");
            return Err((Outcome::BUSY, text));
        }
        if let Target::Local(number) = target
            && let Some(queue) = self.locals.get(number)
            && queue.is_full()
        {
            let text = format!("queue {} is at its quota", queue.settings.name);
            return Err((Outcome::QUOTA_EXCEEDED, text));
        }
        Ok(())
    }
}
