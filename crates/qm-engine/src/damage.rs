//! Stored messages that the disk gives back damaged.

use crate::backlog::Backlog;
use crate::engine::{Engine, LoadFor};
use crate::io::{Event, LoadId, StoreOp};

impl Engine {
    /// The message is lost and its queue goes on. What looks through a queue passes it over; it
    /// leaves when its turn comes.
    pub(crate) fn on_damaged(&mut self, load: LoadId, position: u64, set_aside: bool) {
        let Some(LoadFor::Backlog {
            queue,
            priority,
            local,
            ..
        }) = self.loads.get(&load)
        else {
            return;
        };
        let (number, priority, local) = (*queue, *priority, *local);
        let waited = if local {
            let lane = self.locals.get_mut(&number);
            let lane = lane.and_then(|queue| queue.lanes.get_mut(&priority));
            lane.is_some_and(|lane: &mut Backlog| lane.lost(position))
        } else {
            let lane = self.outs.get_mut(&number);
            let lane = lane.and_then(|out| out.lanes.get_mut(&priority));
            lane.is_some_and(|lane| lane.backlog.lost(position))
        };
        if !waited {
            return;
        }
        if set_aside {
            self.commits.settle(StoreOp::Remove {
                stream: Self::stream_of(number, priority),
                first: position,
                last: position,
            });
        }
        let queue = self.name_of(number, local);
        self.event(Event::MessageDamaged {
            queue,
            priority,
            position,
            removed: set_aside,
        });
        if local {
            self.reopen_if_room(number);
        }
    }

    fn name_of(&self, number: u32, local: bool) -> String {
        if local {
            let queue = self.locals.get(&number);
            return queue.map_or_else(String::new, |queue| queue.settings.name.to_string());
        }
        self.outs.get(&number).map_or_else(String::new, |out| {
            let remote = self.remotes.get(&out.remote);
            let remote = remote.map_or_else(String::new, |remote| remote.key.to_string());
            format!("{remote}/{}", out.queue)
        })
    }
}
