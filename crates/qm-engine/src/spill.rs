//! An orderly stop loses nothing: express messages go to disk once, as if they were recoverable.

use qm_wire::Class;

use crate::backlog::Message;
use crate::commits::Then;
use crate::engine::Engine;

impl Engine {
    /// Called when all sessions have ended, so nothing is in flight.
    pub(crate) fn spill_express(&mut self) {
        let mut freed = 0;
        // Of those that no application holds.
        let mut local: Vec<(u32, u8, Message)> = Vec::new();
        let mut held: Vec<(u32, u8, Message)> = Vec::new();
        for (number, queue) in &mut self.locals {
            for (priority, lane) in &mut queue.lanes {
                let waiting = lane.drain_express();
                freed += waiting.iter().map(Message::cost).sum::<usize>();
                local.extend(waiting.into_iter().map(|m| (*number, *priority, m)));
            }
            // What an application holds would come back when its connection goes, which is after
            // this. It is told that it does not hold it any more: settled now, it would be
            // consumed and come again with the next start.
            let express: Vec<u64> = queue
                .leased
                .iter()
                .filter(|(_, leased)| !leased.message.class.is_durable() && !leased.committing)
                .map(|(lookup, _)| *lookup)
                .collect();
            for leased in express
                .iter()
                .filter_map(|lookup| queue.leased.remove(lookup))
            {
                let bytes = leased.message.credit();
                queue.leased_bytes = queue.leased_bytes.saturating_sub(bytes);
                self.clients.unleased(leased.conn, bytes);
                held.push((*number, leased.priority, leased.message));
            }
        }
        let mut outgoing: Vec<(u32, u8, Message)> = Vec::new();
        for (number, out) in &mut self.outs {
            for (priority, lane) in &mut out.lanes {
                let waiting = lane.backlog.drain_express();
                freed += waiting.iter().map(Message::cost).sum::<usize>();
                let doubtful = lane
                    .doubt
                    .values()
                    .filter(|m| !m.class.is_durable())
                    .cloned();
                let all: Vec<_> = doubtful.chain(waiting).collect();
                outgoing.extend(all.into_iter().map(|m| (*number, *priority, m)));
            }
        }
        self.express_bytes = self.express_bytes.saturating_sub(freed);
        // In a new place these would be behind what is purged. What was held when the purge began
        // is left by it.
        local.retain(|(number, priority, message)| {
            !self.purge_spilled((true, *number, *priority), message)
        });
        for (number, priority, mut message) in local.into_iter().chain(held) {
            message.class = Class::Recoverable;
            crate::reached!(self, ExpressSpilled);
            let put = self.put_local(number, priority, message);
            self.commits
                .after_putting(Then::Spilled { local: true, put });
            self.seal_if_large();
        }
        for (number, priority, mut message) in outgoing {
            self.doubts.remove(&message.id);
            if let Some(lane) = self.out_lane(number, priority) {
                lane.doubt.remove(&message.position);
            }
            if self.purge_spilled((false, number, priority), &message) {
                continue;
            }
            message.class = Class::Recoverable;
            crate::reached!(self, ExpressSpilled);
            let put = self.put_out(number, priority, message);
            let local = false;
            self.commits.after_putting(Then::Spilled { local, put });
            self.seal_if_large();
        }
    }
}
