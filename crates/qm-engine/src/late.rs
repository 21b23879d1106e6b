//! Refusals that come late, for the simulation: what W-USE-9 forbids, to see that it is noticed.

use qm_wire::{QmId, Refusal, Tag};

use crate::dead::Doubt;
use crate::engine::Engine;
use crate::io::LinkId;
use crate::time::Timestamp;

/// How long a refusal is held back before it is told, again and again. Its sender asks before.
const HELD_BACK_MS: u64 = 2_000;
/// Refusals that are held back.
const LATE_MAX: usize = 64;

/// A refusal that is told later than it should.
#[derive(Debug)]
pub(crate) struct Late {
    due: Timestamp,
    peer: QmId,
    link: LinkId,
    refusal: Refusal,
}

impl Engine {
    const fn has_late_refusals(&self) -> bool {
        self.config.breaks.late_refusals || self.config.breaks.forget_refusals
    }

    /// Takes a refusal that should leave with what is gathered. Returns whether it was taken.
    pub(crate) fn hold_back(&mut self, peer: QmId, link: LinkId, refusal: Refusal) -> bool {
        if !self.has_late_refusals() {
            return false;
        }
        if self.late.len() >= LATE_MAX {
            self.late.remove(0);
        }
        let due = self.now.at.plus_ms(HELD_BACK_MS);
        self.late.push(Late {
            due,
            peer,
            link,
            refusal,
        });
        true
    }

    /// Tells what was held back: with routes on any session, else on its own.
    pub(crate) fn tell_late(&mut self, link: LinkId) {
        let now = self.now.at;
        let routed = self.config.breaks.late_refusals;
        let Some(session) = self.sessions.get_mut(&link).filter(|s| s.opened) else {
            return;
        };
        let due = self.late.iter().filter(|late| {
            late.due <= now && late.peer == session.peer && (routed || late.link == link)
        });
        session.refusals.extend(due.map(|late| late.refusal));
    }

    /// Believes a refusal by its tag, wherever the message is by now. Returns whether any is.
    pub(crate) fn believe_late(&mut self, link: LinkId, refusal: &Refusal) -> bool {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else {
            return false;
        };
        if !self.has_late_refusals() {
            return false;
        }
        if let Some((at, number)) = self.flight_with_tag(peer, refusal.tag)
            && let Some(flight) = self.take_flight(at, number)
        {
            self.bury(
                flight.queue,
                flight.priority,
                &flight.message,
                refusal.outcome,
                Doubt::None,
            );
            return true;
        }
        let doubtful = self
            .outs
            .values()
            .flat_map(|out| out.lanes.values())
            .flat_map(|lane| lane.doubt.values())
            .find(|message| message.tag == refusal.tag)
            .map(crate::backlog::Message::entry);
        if let Some((number, priority, message)) =
            doubtful.and_then(|entry| self.take_doubt(peer, &entry))
        {
            self.bury(number, priority, &message, refusal.outcome, Doubt::None);
            return true;
        }
        false
    }

    fn flight_with_tag(&self, peer: QmId, tag: Tag) -> Option<(LinkId, u64)> {
        self.by_peer.get(&peer)?.iter().find_map(|link| {
            let flights = &self.sessions.get(link)?.flights;
            let found = flights.iter().find(|(_, flight)| flight.message.tag == tag);
            found.map(|(number, _)| (*link, *number))
        })
    }
}
