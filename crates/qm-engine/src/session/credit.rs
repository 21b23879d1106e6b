//! What each side may transmit: credit in messages and bytes, and queues that are closed a while.

use qm_wire::{Credit, PeerFrame, QueueState};

use crate::engine::Engine;
use crate::io::{Lane, LinkId};

impl Engine {
    /// Lets the peer transmit as much as the window has room for. Never less than before.
    pub(crate) fn grant_credit(&mut self, link: LinkId) {
        if self.stopping || !self.may_grant() {
            return;
        }
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if !session.opened || session.peer_pending {
            return;
        }
        let settled = Credit {
            messages: session
                .arrived
                .messages
                .saturating_sub(session.unsettled.messages),
            bytes: session
                .arrived
                .bytes
                .saturating_sub(session.unsettled.bytes),
        };
        let target = Credit {
            messages: settled.messages.saturating_add(self.config.window_messages),
            bytes: settled.bytes.saturating_add(self.config.window_bytes),
        };
        // Half a window at a time keeps the control lane quiet; the first grant is always sent.
        let gain_messages = target.messages.saturating_sub(session.granted.messages);
        let gain_bytes = target.bytes.saturating_sub(session.granted.bytes);
        if gain_messages >= self.config.window_messages.div_ceil(2)
            || gain_bytes >= self.config.window_bytes.div_ceil(2)
        {
            session.granted = Credit {
                messages: session.granted.messages.max(target.messages),
                bytes: session.granted.bytes.max(target.bytes),
            };
            let frame = PeerFrame::Credit(session.granted);
            session.push(Lane::Control, &frame);
            self.busy_sessions.insert(link);
        }
    }

    pub(crate) fn on_credit(&mut self, link: LinkId, credit: Credit) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        session.credit.messages = session.credit.messages.max(credit.messages);
        session.credit.bytes = session.credit.bytes.max(credit.bytes);
        // Credit is what approval looks like from the other side.
        session.pending = false;
        let peer = session.peer;
        self.busy_peers.insert(peer);
        self.look_for_approval(link);
    }

    pub(crate) fn on_queue_state(&mut self, link: LinkId, state: QueueState) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let peer = session.peer;
        let used = self
            .remotes
            .values()
            .any(|remote| remote.peer() == Some(peer) && remote.queues.contains_key(&state.queue));
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        if state.open {
            session.closed_queues.remove(&state.queue);
        } else if used {
            session.closed_queues.insert(state.queue.detach());
        }
        let peer = session.peer;
        self.busy_peers.insert(peer);
    }
}
