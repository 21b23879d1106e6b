//! Why is this not moving? One line of cause, then the evidence.

use qm_wire::{MessageId, QueueName};

use crate::admin::{OutgoingState, Selector, WhyView};
use crate::engine::Engine;
use crate::io::DialFailure;
use crate::outgoing::OutQueue;

impl Engine {
    pub(crate) fn why(&self, subject: &str) -> WhyView {
        if let Ok(id) = subject.parse::<MessageId>() {
            return self.why_message(subject, id);
        }
        let numbers = self.select_outgoing(&Selector::Name(subject.to_owned()));
        let stuck = numbers
            .iter()
            .filter_map(|number| self.outs.get(number))
            .max_by_key(|out| (out.has_work(), out.waiting().0));
        if let Some(out) = stuck {
            return self.why_outgoing(subject, out);
        }
        if let Ok(name) = subject.parse::<QueueName>()
            && let Some(view) = self.why_queue(subject, &name)
        {
            return view;
        }
        WhyView {
            subject: subject.to_owned(),
            code: "unknown",
            cause: format!("nothing here is called {subject}"),
            fix: Some("see: qm-node outgoing list, qm-node queue list".to_owned()),
            evidence: vec![],
        }
    }

    fn why_message(&self, subject: &str, id: MessageId) -> WhyView {
        if let Some((number, _, _)) = self.doubts.get(&id)
            && let Some(out) = self.outs.get(number)
        {
            let mut view = self.why_outgoing(subject, out);
            view.evidence.insert(
                0,
                "it may have been transmitted; its destination is asked before it is sent again"
                    .to_owned(),
            );
            return view;
        }
        for session in self.sessions.values() {
            let flight = session
                .flights
                .values()
                .find(|flight| flight.message.id == id);
            if let Some(flight) = flight {
                let age = self.now.at.ms_since(flight.sent);
                return WhyView {
                    subject: subject.to_owned(),
                    code: "unacknowledged",
                    cause: format!("transmitted {age} ms ago, not acknowledged yet"),
                    fix: None,
                    evidence: vec![format!("peer {} on {}", session.peer, session.link)],
                };
            }
        }
        let held = self.outs.values().find(|out| {
            out.lanes
                .values()
                .any(|lane| lane.backlog.resident().any(|m| m.id == id))
        });
        if let Some(out) = held {
            return self.why_outgoing(subject, out);
        }
        for queue in self.locals.values() {
            let here = queue
                .lanes
                .values()
                .any(|lane| lane.resident().any(|m| m.id == id));
            if here {
                return WhyView {
                    subject: subject.to_owned(),
                    code: "in_queue",
                    cause: format!("it waits in queue {} of this node", queue.settings.name),
                    fix: Some(format!(
                        "receive it: qm-node receive {}",
                        queue.settings.name
                    )),
                    evidence: vec![],
                };
            }
        }
        let (code, cause) =
            if id.incarnation == self.incarnation && id.sequence < self.next_sequence {
                (
                    "settled_or_on_disk",
                    "it is settled, or waits on disk behind what is in memory",
                )
            } else {
                ("unknown", "no message of this id is in memory here")
            };
        WhyView {
            subject: subject.to_owned(),
            code,
            cause: cause.to_owned(),
            fix: Some("see: qm-node outgoing list, qm-node peek dead$".to_owned()),
            evidence: vec![],
        }
    }

    fn why_queue(&self, subject: &str, name: &QueueName) -> Option<WhyView> {
        let number = self.local_names.get(name)?;
        let queue = self.locals.get(number)?;
        let (messages, bytes) = queue.waiting();
        let (code, cause, fix) = if queue.settings.paused {
            (
                "paused",
                "receivers are held back by the operator".to_owned(),
                Some(format!("qm-node queue resume {name}")),
            )
        } else if queue.is_full() {
            (
                "queue_full",
                "the queue is at its quota; senders wait".to_owned(),
                Some(format!(
                    "receive from it, or raise its quota: qm-node queue set {name}"
                )),
            )
        } else if messages > 0 && queue.waiting_receivers() == 0 {
            (
                "no_receiver",
                format!("{messages} messages wait and no application receives"),
                Some(format!("qm-node receive {name}")),
            )
        } else if messages == 0 && queue.leased.is_empty() {
            ("empty", "the queue is empty".to_owned(), None)
        } else {
            ("moving", "messages are being received".to_owned(), None)
        };
        Some(WhyView {
            subject: subject.to_owned(),
            code,
            cause,
            fix,
            evidence: vec![
                format!("{messages} messages ({bytes} bytes) wait"),
                format!("{} in the hands of applications", queue.leased.len()),
                format!(
                    "{} arrived, {} received since the start",
                    queue.arrived, queue.received
                ),
            ],
        })
    }

    fn why_outgoing(&self, subject: &str, out: &OutQueue) -> WhyView {
        let view = self.outgoing_view(out);
        let remote = self.remotes.get(&out.remote);
        let name = view
            .peer_name
            .clone()
            .unwrap_or_else(|| view.remote.to_string());
        let error = view.last_error.clone();
        let failure = remote.and_then(|remote| remote.last_failure);
        let (code, cause, fix) = match self.outgoing_state(out) {
            OutgoingState::Paused => (
                "paused",
                "transmission is paused by the operator".to_owned(),
                Some(format!("qm-node outgoing resume {name}")),
            ),
            OutgoingState::PendingApproval => (
                "pending_approval",
                format!("{name} has not approved this node"),
                Some(format!(
                    "on {name}, run: qm-node peers approve {}",
                    self.me.qm
                )),
            ),
            OutgoingState::QueueFull => (
                "queue_full",
                format!("queue {} on {name} is at its quota", out.queue),
                Some(format!(
                    "receive from it there, or raise its quota: qm-node queue set {}",
                    out.queue
                )),
            ),
            OutgoingState::NoCredit => (
                "no_credit",
                format!("{name} takes no messages at the moment: its disk is full or slow"),
                Some(format!("on {name}, run: qm-node status")),
            ),
            OutgoingState::Connected if out.has_work() || out.in_flight > 0 => {
                ("moving", "messages are being transmitted".to_owned(), None)
            }
            OutgoingState::Connected => ("idle", "nothing waits".to_owned(), None),
            OutgoingState::Connecting => (
                "connecting",
                format!("a connection to {name} is being made"),
                None,
            ),
            OutgoingState::NoAddress => (
                "no_address",
                format!("no address is known for {name}"),
                Some(format!(
                    "qm-node peers add NAME HOST[:PORT], or wait until {name} connects"
                )),
            ),
            OutgoingState::Waiting | OutgoingState::Idle if out.has_work() => {
                let code = failure.map_or("disconnected", DialFailure::name);
                let what = error
                    .clone()
                    .unwrap_or_else(|| "there is no connection".to_owned());
                let fix = if what.contains("blocked") {
                    Some(format!(
                        "on {name}, run: qm-node peers approve {}",
                        self.me.qm
                    ))
                } else {
                    fix_of(failure, &name)
                };
                (code, format!("{name} cannot be reached: {what}"), fix)
            }
            OutgoingState::Waiting | OutgoingState::Idle => {
                ("idle", "nothing waits".to_owned(), None)
            }
        };
        let mut evidence = vec![format!(
            "{} wait ({} bytes), {} unacknowledged, {} in doubt, {} acknowledged since the start",
            view.waiting, view.waiting_bytes, view.unacknowledged, view.in_doubt, view.acknowledged
        )];
        if let Some(peer) = view.peer {
            evidence.push(format!("peer identity {peer}"));
        }
        if let Some(ms) = view.retry_in_ms {
            evidence.push(format!("next dial in {ms} ms"));
        }
        evidence.extend(error.map(|error| format!("last error: {error}")));
        if self.store_full {
            evidence.push("the disk of this node is full".to_owned());
        }
        WhyView {
            subject: subject.to_owned(),
            code,
            cause,
            fix,
            evidence,
        }
    }
}

fn fix_of(failure: Option<DialFailure>, name: &str) -> Option<String> {
    Some(match failure? {
        DialFailure::Unresolved => "check the host name and the resolver".to_owned(),
        DialFailure::Refused | DialFailure::Unreachable => {
            format!("check that qm-node runs on {name} and that UDP reaches it")
        }
        DialFailure::WrongIdentity => {
            format!("if the machine was replaced on purpose: qm-node peers forget {name}")
        }
        DialFailure::Handshake => format!("see the log of {name}"),
        DialFailure::Version => {
            "something else listens at this port, or another version".to_owned()
        }
    })
}
