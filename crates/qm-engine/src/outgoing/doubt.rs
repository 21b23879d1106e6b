//! Messages that may have been transmitted before: none is sent again before its destination, which
//! is asked, has said that it does not have it.

use qm_wire::{Entry, QmId};

use super::Remote;
use crate::backlog::Message;
use crate::engine::{Engine, Timer};
use crate::expiry::TOGETHER_MS;
use crate::history::What;
use crate::room::STORE_RETRY_MS;
use crate::time::Timestamp;

impl Engine {
    /// A message that may have been transmitted: it is asked for, not sent again.
    pub(crate) fn put_in_doubt(&mut self, number: u32, priority: u8, message: Message) {
        let id = message.id;
        let position = message.position;
        // What waits before it has its place before it.
        self.place_before_leaving(number, &message);
        self.place_in_stream(number, &message);
        self.puts_to_work(number);
        if let Some(out) = self.outs.get_mut(&number) {
            if id.incarnation != self.incarnation {
                self.prior_incarnations.insert(id.incarnation);
            }
            if let Some(lane) = out.lanes.get_mut(&priority) {
                let mut message = message;
                message.transmitted = true;
                let source = message.source;
                // A full disk may have just refused its letter.
                let due = match message.reach_deadline() {
                    due if due <= self.now.at => self.now.at.plus_ms(STORE_RETRY_MS),
                    due => due,
                };
                lane.doubt_deadline = lane.doubt_deadline.min(due);
                lane.doubt_bytes = lane.doubt_bytes.saturating_add(message.credit());
                lane.doubt.insert(position, message);
                self.doubts.insert(id, (number, priority, position));
                let peer = self.remotes.get(&out.remote).and_then(Remote::peer);
                self.note(source, id, What::InDoubt { peer });
                if due != Timestamp::NEVER {
                    self.arm(due.max(self.now.at.plus_ms(TOGETHER_MS)), Timer::Expiry);
                }
            }
        }
    }

    /// Takes a message out of doubt that ends here, whatever became of it.
    pub(crate) fn give_up_doubt(
        &mut self,
        number: u32,
        priority: u8,
        position: u64,
    ) -> Option<Message> {
        let lane = self.outs.get_mut(&number)?.lanes.get_mut(&priority)?;
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&message.id);
        Some(message)
    }

    /// Takes a message out of doubt when tag and destination are right.
    pub(crate) fn take_doubt(&mut self, peer: QmId, entry: &Entry) -> Option<(u32, u8, Message)> {
        let (number, priority, position) = *self.doubts.get(&entry.id)?;
        let out = self.outs.get_mut(&number)?;
        // W-USE-1: only the queue manager a message was sent to may speak about it.
        let of = self.remotes.get(&out.remote).and_then(Remote::peer);
        if of != Some(peer) && !self.heirs.succeeded(peer, of) {
            return None;
        }
        let lane = out.lanes.get_mut(&priority)?;
        if lane.doubt.get(&position)?.tag != entry.tag {
            return None;
        }
        let message = lane.doubt.remove(&position)?;
        lane.doubt_bytes = lane.doubt_bytes.saturating_sub(message.credit());
        self.doubts.remove(&entry.id);
        Some((number, priority, message))
    }
}
