//! What happened to a message, as far as this node knows.

use qm_wire::{MessageId, Outcome, QmId};

use crate::admin::{AdminReply, TraceView};
use crate::engine::Engine;
use crate::history::What;
use crate::io::ConnId;
use crate::seek::{Asks, Found};
use crate::time::spoken;

impl Engine {
    pub(crate) fn admin_trace(
        &mut self,
        conn: ConnId,
        request: u64,
        subject: &str,
    ) -> Option<AdminReply> {
        match subject.parse::<MessageId>() {
            Ok(id) => self.seek(conn, request, Asks::Trace, subject, id),
            Err(error) => Some(AdminReply::Failed {
                outcome: Outcome::BAD_REQUEST,
                cause: format!("{subject:?}: {error}"),
                fix: "qm-node send prints the id of a message, qm-node peek shows it".to_owned(),
            }),
        }
    }

    pub(crate) fn trace(&self, id: MessageId, found: &Found) -> TraceView {
        let mine =
            id.incarnation == self.incarnation || self.prior_incarnations.contains(&id.incarnation);
        let noted = self.history.source_of(id);
        let source = match found {
            Found::Dead(letter) => Some(letter.source),
            _ => noted.or_else(|| mine.then_some(self.me.qm)),
        };
        let (state, now) = self.state_of(id, found);
        let complete = self.history.knows_beginning(id)
            || (id.incarnation == self.incarnation && self.history.is_whole());
        let (remembered, remembered_max) = self.history.size();
        TraceView {
            id,
            source,
            state,
            now,
            events: self.remembered(id),
            complete,
            remembered_since_us: self.history.since_us(),
            remembered,
            remembered_max,
            ask: self.whom_to_ask(id, source, found),
        }
    }

    /// Whether this node minted the message, in this life or in one that is not forgotten.
    pub(crate) fn is_mine(&self, id: MessageId) -> bool {
        if id.incarnation == self.incarnation {
            return id.sequence < self.next_sequence;
        }
        self.prior_incarnations.contains(&id.incarnation)
    }

    fn out_title(&self, queue: u32) -> String {
        self.outs.get(&queue).map_or_else(String::new, |out| {
            let view = self.outgoing_view(out);
            let node = view.peer_name.unwrap_or_else(|| view.remote.to_string());
            format!("{node}/{}", view.queue)
        })
    }

    fn state_of(&self, id: MessageId, found: &Found) -> (&'static str, String) {
        match found {
            Found::Flying {
                queue,
                link,
                sent_ms,
                ..
            } => (
                "transmitted",
                format!(
                    "transmitted to {} on {link} {sent_ms} ms ago, not acknowledged yet",
                    self.out_title(*queue)
                ),
            ),
            Found::Doubt { queue } => (
                "in_doubt",
                format!(
                    "it may have reached {}, which is asked before it is sent again",
                    self.out_title(*queue)
                ),
            ),
            Found::Outgoing { queue, .. } => (
                "waiting",
                format!(
                    "waits here to be transmitted to {}; `qm-node why {id}` says why",
                    self.out_title(*queue)
                ),
            ),
            Found::Local { queue, .. } => (
                "in_queue",
                format!("in queue {} of this node", self.local_destination(*queue)),
            ),
            Found::Leased {
                queue,
                conn,
                since_ms,
            } => (
                "leased",
                format!(
                    "from queue {}, in the hands of {} for {}",
                    self.local_destination(*queue),
                    self.clients.title(*conn),
                    spoken(*since_ms)
                ),
            ),
            Found::Dead(letter) => (
                "dead",
                format!(
                    "a dead letter here: {}{}",
                    letter.outcome,
                    if letter.uncertain {
                        ", although it may have been delivered"
                    } else {
                        ""
                    }
                ),
            ),
            Found::Nowhere { all } => self.state_of_gone(id, *all),
        }
    }

    fn state_of_gone(&self, id: MessageId, all: bool) -> (&'static str, String) {
        match self.history.end_of(id).map(|(_, what)| what) {
            _ if self.awaits_end_of(id).is_some() => {
                let there = self.awaits_end_of(id).map(|peer| self.peer_title(peer));
                let there = there.unwrap_or_default();
                (
                    "awaiting_end",
                    format!("{there} has it, stored to its class; what becomes of it there is awaited"),
                )
            }
            Some(What::EndedThere { peer, outcome }) => {
                let there = self.peer_title(peer);
                let text = format!("{outcome}, at {there}");
                let received = outcome == Outcome::RECEIVED;
                (if received { "received" } else { "ended_there" }, text)
            }
            Some(What::Acknowledged { peer }) => {
                let there = peer.map_or_else(|| "its destination".to_owned(), |p| self.peer_title(p));
                ("delivered", format!("{there} has it, stored to its class"))
            }
            Some(What::Received) => (
                "received",
                "an application of this node consumed it".to_owned(),
            ),
            Some(What::Dead { outcome, .. }) => {
                ("gone", format!("{outcome}, and no dead letter is here"))
            }
            Some(What::ResentAs { id }) => {
                ("resent", format!("sent again as message {id}"))
            }
            Some(What::LetterDropped) => {
                ("gone", "its dead letter was dropped by an operator".to_owned())
            }
            Some(What::Refused { outcome, .. }) => (
                "refused",
                format!("{outcome}; its sender has it as a dead letter"),
            ),
            _ if !all => (
                "not_found",
                "not in memory, and not among the messages on disk that were looked through; there are more"
                    .to_owned(),
            ),
            _ if self.is_mine(id) => (
                "settled",
                "accepted by this node and no longer here: delivered, received or removed; which of them is no longer remembered"
                    .to_owned(),
            ),
            _ => ("unknown", "not here, and nothing is remembered of it".to_owned()),
        }
    }

    fn whom_to_ask(&self, id: MessageId, source: Option<QmId>, found: &Found) -> Vec<String> {
        let mut ask = Vec::new();
        let destination = match found {
            Found::Flying { queue, .. } | Found::Doubt { queue } => self
                .outs
                .get(queue)
                .and_then(|out| self.remotes.get(&out.remote))
                .and_then(|remote| remote.peer()),
            Found::Nowhere { .. } => match self.history.end_of(id) {
                Some((_, What::Acknowledged { peer })) => peer,
                Some((_, What::EndedThere { peer, .. })) => Some(peer),
                _ => self.awaits_end_of(id),
            },
            _ => None,
        };
        if let Some(peer) = destination {
            let name = self.peer_title(peer);
            ask.push(format!("on {name}, run: qm-node trace {id}"));
        }
        match source {
            Some(source) if !self.is_own(source) => {
                let name = self.peer_title(source);
                ask.push(format!(
                    "where it was sent, on {name}, run: qm-node trace {id}"
                ));
            }
            None => ask.push(format!(
                "on the node that accepted it, run: qm-node trace {id}"
            )),
            Some(_) => {}
        }
        if ask.is_empty() && matches!(found, Found::Nowhere { .. }) {
            ask.push(format!(
                "on the node it was sent to, run: qm-node trace {id}"
            ));
        }
        ask
    }
}
