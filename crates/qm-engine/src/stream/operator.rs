//! What operators see of streams, and the decision that only they make.

use qm_wire::{QmId, QueueName, StreamId};

use crate::admin::{AdminReply, Selector};
use crate::engine::Engine;

/// What `stream list` shows of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamView {
    /// Whether messages arrive here; they leave otherwise.
    pub incoming: bool,
    /// The node at the other end, once known.
    pub peer: Option<QmId>,
    /// Its name, as operators know it.
    pub peer_name: String,
    /// The destination queue.
    pub queue: QueueName,
    /// The stream's id.
    pub stream: StreamId,
    /// The newest position with a link.
    pub position: u64,
    /// Outgoing: the oldest position not settled. Incoming: the same as far as its sender told.
    pub low: u64,
    /// Outgoing: messages that have a place and are not settled.
    pub unsettled: u64,
    /// Outgoing: skips that are not answered for.
    pub skips: u64,
    /// Incoming: links remembered.
    pub links: u64,
    /// Incoming: branches; more than one when the sender was cloned or went back to a backup.
    pub branches: u64,
    /// Why it stands, when it does.
    pub held: Option<String>,
}

impl Engine {
    pub(crate) fn stream_views(&self) -> AdminReply {
        let mut views = Vec::new();
        for out in self.outs.values() {
            let Some(stream) = &out.stream else { continue };
            let remote = self.remotes.get(&out.remote);
            let peer = remote.and_then(crate::outgoing::Remote::peer);
            let view = self.outgoing_view(out);
            let title = view.peer_name.unwrap_or_else(|| view.remote.to_string());
            views.push(StreamView {
                incoming: false,
                peer,
                peer_name: title,
                queue: out.queue.clone(),
                stream: stream.chain.id(),
                position: stream.chain.head().position,
                low: stream.chain.low(),
                unsettled: stream.chain.unsettled().len() as u64,
                skips: stream.chain.skips().len() as u64,
                links: 0,
                branches: 0,
                held: stream
                    .held
                    .as_ref()
                    .map(|held| format!("{} ({})", held.text, held.outcome)),
            });
        }
        for ((source, id), stream) in &self.ins.streams {
            let leaves = stream.branches.leaves(1);
            views.push(StreamView {
                incoming: true,
                peer: Some(*source),
                peer_name: self.peer_title(*source),
                queue: stream.queue.clone(),
                stream: *id,
                position: leaves.first().map_or(0, |(position, _)| *position),
                low: stream.low,
                unsettled: 0,
                skips: 0,
                links: stream.branches.links() as u64,
                branches: stream.branches.count() as u64,
                held: stream
                    .held
                    .as_ref()
                    .map(|(outcome, text)| format!("{text} ({outcome})")),
            });
        }
        AdminReply::Streams(views)
    }

    /// Begins outgoing streams anew: what is not settled is linked behind nothing. What the
    /// destination still knows by name is not sent again.
    pub(crate) fn rebase_streams(&mut self, which: &Selector, dry_run: bool) -> AdminReply {
        let numbers = self.select_outgoing(which);
        let streams: Vec<u32> = numbers
            .into_iter()
            .filter(|number| {
                let stream = self.outs.get(number).and_then(|out| out.stream.as_ref());
                // Of all streams those that stand; a named one whatever it does.
                stream.is_some_and(|s| matches!(which, Selector::Name(_)) || s.held.is_some())
            })
            .collect();
        if streams.is_empty()
            && let Selector::Name(name) = which
        {
            return AdminReply::Failed {
                outcome: qm_wire::Outcome::NOT_FOUND,
                cause: format!("there is no transactional stream towards {name}"),
                fix: "see: qm-node stream list".to_owned(),
            };
        }
        let (mut messages, mut uncertain) = (0, 0);
        for number in &streams {
            let Some(out) = self.outs.get(number) else {
                continue;
            };
            uncertain += out.skipping();
            messages += out.waiting().0 + out.in_flight + out.doubtful();
            if !dry_run {
                let (peer, queue) = (self.peer_of(*number), out.queue.clone());
                self.reroot_stream(*number);
                self.event(crate::io::Event::StreamRerooted {
                    peer,
                    queue,
                    text: "its operator began it anew".to_owned(),
                });
            }
        }
        AdminReply::Rebased {
            streams: streams.len() as u64,
            messages,
            uncertain,
        }
    }
}
