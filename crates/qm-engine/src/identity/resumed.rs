//! A process that may have been resumed from a snapshot: hints by which nobody is judged.
//!
//! What it costs when the hint is wrong is a reconnect, so every hint is followed.

use qm_wire::limits::PRIOR_INCARNATIONS_MAX;

use crate::engine::Engine;
use crate::io::{Event, LinkId, Output};
use crate::outgoing::DialState;

impl Engine {
    /// Drops all connections without sending anything on them, whose keys another process may have,
    /// and mints under another life's name from now on.
    pub(crate) fn on_resumed(&mut self, why: &'static str) {
        if self.stopping {
            return;
        }
        // What is to be sent on links was sealed for none of those that come.
        self.outputs.retain(|output| {
            !matches!(
                output,
                Output::Send { .. }
                    | Output::Close { .. }
                    | Output::Trust { .. }
                    | Output::Dial { .. }
            )
        });
        self.outputs.push_back(Output::Abandon);
        if self.prior_incarnations.len() < PRIOR_INCARNATIONS_MAX {
            self.begin_incarnation();
        }
        self.begin_course_at_sign();
        self.event(Event::Resumed { why });
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            self.on_closed(link, why);
        }
        self.dials.clear();
        let dialing = self
            .remotes
            .iter()
            .filter(|(_, remote)| matches!(remote.state, DialState::Dialing { .. }));
        for number in dialing.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.back_off(number);
        }
    }
}
