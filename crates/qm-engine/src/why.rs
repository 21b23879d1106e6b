//! Why is this not moving? One line of cause, then the evidence.

use qm_wire::{MessageId, Outcome, QueueName};

use crate::admin::{AdminReply, Cause, ConnectionEvent, OutgoingState, Selector, WhyView};
use crate::engine::Engine;
use crate::history::What;
use crate::io::ConnId;
use crate::outgoing::{OutQueue, Remote};
use crate::peers::Approval;
use crate::quarantine::is_quarantine;
use crate::seek::{Asks, Found};
use crate::session::Session;
use crate::stream::standing::WENT_BACK;
use crate::time::spoken;

/// Connection events shown as evidence.
const EVENTS_SHOWN: usize = 3;
/// A disk that has not confirmed a write for so long is worth a word.
pub(crate) const DISK_SLOW_MS: u64 = 2_000;

/// A cause with its sentence and what to do about it.
struct Reason(Cause, String, Option<String>);

impl Engine {
    pub(crate) fn admin_why(
        &mut self,
        conn: ConnId,
        request: u64,
        subject: &str,
    ) -> Option<AdminReply> {
        match subject.parse::<MessageId>() {
            Ok(id) => self.seek(conn, request, Asks::Why, subject, id),
            Err(_a_name) => Some(AdminReply::Why(self.why(subject))),
        }
    }

    fn why(&self, subject: &str) -> WhyView {
        let name = subject.parse::<QueueName>().ok();
        // A queue of this node by its own name; those of others have their node's before it.
        if let Some(view) = name.and_then(|name| self.why_queue(subject, &name)) {
            return view;
        }
        let numbers = self.select_outgoing(&Selector::Name(subject.to_owned()));
        let stuck = numbers
            .iter()
            .filter_map(|number| self.outs.get(number))
            .max_by_key(|out| (out.has_work() || out.in_flight > 0, out.waiting().0));
        if let Some(out) = stuck {
            return self.why_outgoing(subject, out);
        }
        let named = self.peers.names.contains_key(&subject.to_lowercase());
        let own = || self.why_own(subject).filter(|_| !named);
        if let Some(view) = own().or_else(|| self.why_peer(subject)) {
            return view;
        }
        view(
            subject,
            Reason(
                Cause::Unknown,
                format!("nothing here is called {subject}"),
                Some(
                    "see: qm-node outgoing list, qm-node queue list, qm-node peers list".to_owned(),
                ),
            ),
            vec![],
        )
    }

    /// A peer to which nothing was ever sent.
    fn why_peer(&self, subject: &str) -> Option<WhyView> {
        let entry = self.peers.names.get(&subject.to_lowercase());
        let remote = entry
            .and_then(|entry| self.find_remote(&entry.remote))
            .and_then(|number| self.remotes.get(&number));
        let peer = match remote.and_then(Remote::peer) {
            Some(peer) => Some(peer),
            None => match self.peers.find(subject).as_slice() {
                [peer] if self.peers.known.contains_key(peer) => Some(*peer),
                _ => None,
            },
        };
        if remote.is_none() && peer.is_none() {
            return None;
        }
        let open = peer.is_some_and(|peer| self.is_connected(peer));
        let pending = peer.is_some_and(|peer| self.peers.approval(peer) == Approval::Pending);
        let blocked = peer.is_some_and(|peer| self.peers.approval(peer) == Approval::Blocked);
        let reason = if blocked {
            self.blocked_here(subject)
        } else if pending {
            let qm = peer.map(|peer| peer.to_string()).unwrap_or_default();
            Reason(
                Cause::PendingApproval,
                format!("{subject} is not approved to send to this node"),
                Some(format!("qm-node peers approve {qm}")),
            )
        } else if open {
            Reason(
                Cause::Idle,
                format!("a session with {subject} is open and nothing waits for it"),
                None,
            )
        } else {
            Reason(
                Cause::Idle,
                format!("nothing waits for {subject}, so no connection is made"),
                None,
            )
        };
        let events = self.connections_with(peer, remote.map(|remote| &remote.key));
        let mut evidence = self.shown(&events);
        evidence.extend(peer.and_then(|peer| self.twin_evidence(peer)));
        Some(view(subject, reason, evidence))
    }

    pub(crate) fn why_message(&self, subject: &str, id: MessageId, found: &Found) -> WhyView {
        match found {
            Found::Flying {
                queue,
                peer,
                link,
                sent_ms,
            } => {
                let there = self.peer_title(*peer);
                let reason = Reason(
                    Cause::WaitingForAck,
                    format!(
                        "transmitted to {there} {} ago, not acknowledged yet",
                        spoken(*sent_ms)
                    ),
                    Some(format!(
                        "it is asked for by itself; see: qm-node why {}",
                        self.destination_of(*queue)
                    )),
                );
                let on = format!("peer {peer} on {link}");
                view(subject, reason, vec![on])
            }
            Found::Doubt { queue } => {
                let Some(out) = self.outs.get(queue) else {
                    return unknown(subject);
                };
                let mut view = self.why_outgoing(subject, out);
                let text = "it may have been transmitted; its destination is asked before it is sent again";
                if matches!(view.code, Cause::Moving | Cause::Idle) {
                    view.code = Cause::InDoubt;
                    text.clone_into(&mut view.cause);
                    view.fix = None;
                } else {
                    view.evidence.insert(0, text.to_owned());
                }
                view
            }
            Found::Outgoing {
                queue,
                priority,
                position,
            } => {
                let Some(out) = self.outs.get(queue) else {
                    return unknown(subject);
                };
                let mut view = self.why_outgoing(subject, out);
                let ahead = lanes_ahead(
                    out.lanes.iter().map(|(p, lane)| (*p, &lane.backlog)),
                    *priority,
                    *position,
                );
                self.set_behind(&mut view, ahead, out.in_flight);
                view
            }
            Found::Local {
                queue,
                priority,
                position,
            } => {
                let Some(local) = self.locals.get(queue) else {
                    return unknown(subject);
                };
                let name = local.settings.name.clone();
                let Some(mut view) = self.why_queue(subject, &name) else {
                    return unknown(subject);
                };
                let lanes = local.lanes.iter().map(|(p, lane)| (*p, lane));
                let ahead = lanes_ahead(lanes, *priority, *position);
                self.set_behind(&mut view, ahead, local.leased.len() as u64);
                view.evidence
                    .insert(0, format!("it waits in queue {name} of this node"));
                view
            }
            Found::Leased {
                queue,
                conn,
                since_ms,
            } => {
                let holder = self.clients.title(*conn);
                let reason = Reason(
                    Cause::Leased,
                    format!(
                        "{holder} holds it for {} and has not settled it",
                        spoken(*since_ms)
                    ),
                    Some(
                        "it comes back when that application gives it back, ends or loses its connection"
                            .to_owned(),
                    ),
                );
                let from = format!("from queue {} of this node", self.local_destination(*queue));
                view(subject, reason, vec![from])
            }
            Found::Dead(letter) => {
                let fix = format!(
                    "qm-node errors {:04X}; then: qm-node dead resend {id}{}",
                    letter.outcome.0,
                    if letter.uncertain { " --force" } else { "" }
                );
                let mut evidence = vec![
                    format!("original destination {}", letter.destination),
                    format!("dead for {}", spoken(letter.age_ms)),
                ];
                evidence.extend(
                    letter
                        .by
                        .map(|by| format!("by the word of {}", self.peer_title(by))),
                );
                if letter.uncertain {
                    evidence.push("it may have been delivered all the same".to_owned());
                }
                let reason = Reason(
                    Cause::of_death(letter.outcome),
                    format!(
                        "it is a dead letter of this node: {} ({})",
                        letter.outcome.describe(),
                        letter.outcome
                    ),
                    Some(fix),
                );
                view(subject, reason, evidence)
            }
            Found::Nowhere { all } => self.why_gone(subject, id, *all),
        }
    }

    /// What became of a message that is not here any more.
    fn why_gone(&self, subject: &str, id: MessageId, all: bool) -> WhyView {
        let trace = Some(format!("qm-node trace {id}"));
        let end = self.history.end_of(id).map(|(_, what)| what);
        if let Some(view) = self.why_awaited(subject, id) {
            return view;
        }
        let reason = match end {
            Some(What::EndedThere { peer, outcome }) => {
                let there = self.peer_title(peer);
                let cause = if outcome == Outcome::RECEIVED {
                    Cause::Received
                } else {
                    Cause::of_death(outcome)
                };
                let text = format!("at {there}: {} ({outcome})", outcome.describe());
                Reason(cause, text, trace)
            }
            Some(What::Acknowledged { peer }) => {
                let there =
                    peer.map_or_else(|| "its destination".to_owned(), |p| self.peer_title(p));
                let fix = format!("on {there}, run: qm-node why {id}");
                Reason(Cause::Delivered, format!("{there} has it"), Some(fix))
            }
            Some(What::Received) => Reason(
                Cause::Received,
                "an application of this node consumed it".to_owned(),
                trace,
            ),
            Some(What::Dead { outcome, .. } | What::Refused { outcome, .. }) => Reason(
                Cause::of_death(outcome),
                format!(
                    "{} ({outcome}); no dead letter of it is here",
                    outcome.describe()
                ),
                trace,
            ),
            Some(What::ResentAs { id }) => Reason(
                Cause::Settled,
                format!("it was sent again as message {id}"),
                Some(format!("qm-node why {id}")),
            ),
            Some(What::LetterDropped) => Reason(
                Cause::Purged,
                "its dead letter was dropped by an operator".to_owned(),
                trace,
            ),
            _ if !all => Reason(
                Cause::Unknown,
                "it is not in memory and not among the messages on disk that were looked through"
                    .to_owned(),
                Some(
                    "ask about its queue or destination: qm-node queue list, qm-node outgoing list"
                        .to_owned(),
                ),
            ),
            _ if self.is_mine(id) => Reason(
                Cause::Settled,
                "it was accepted here and is settled: delivered, received or removed".to_owned(),
                trace,
            ),
            _ => Reason(
                Cause::Unknown,
                "no message of this id is here".to_owned(),
                Some("ask the node that accepted it, or that it was sent to".to_owned()),
            ),
        };
        view(subject, reason, vec![])
    }

    /// A message that arrived elsewhere, and of which somebody waits to hear how it ends there.
    fn why_awaited(&self, subject: &str, id: MessageId) -> Option<WhyView> {
        let peer = self.awaits_end_of(id)?;
        let awaited = self.awaiting.get(id)?;
        let there = self.peer_title(peer);
        let text =
            format!("{there} has it, and nobody has received it there yet, as far as is known");
        let fix = Some(format!("on {there}, run: qm-node why {id}"));
        let since = self.now.at.ms_since(awaited.at);
        let mut evidence = vec![format!("its end there is awaited for {}", spoken(since))];
        if !self.is_connected(peer) {
            evidence.push(format!("there is no session with {there} that could tell"));
        }
        Some(view(
            subject,
            Reason(Cause::AwaitingEnd, text, fix),
            evidence,
        ))
    }

    /// When the queue moves, a message in it waits for those before it.
    fn set_behind(&self, view: &mut WhyView, ahead: (u64, u64, bool), busy: u64) {
        let (higher, older, exact) = ahead;
        let at_least = if exact { "" } else { "at least " };
        if higher + older + busy > 0 {
            let line = format!(
                "before it: {at_least}{older} older, {higher} of higher priority, {busy} under way"
            );
            if matches!(view.code, Cause::Moving) && higher + older > 0 {
                view.code = Cause::Behind;
                view.cause = format!(
                    "{at_least}{} messages are before it: {older} older, {higher} of higher priority",
                    higher + older
                );
                view.fix = None;
            } else {
                view.evidence.insert(0, line);
            }
        }
    }

    fn why_queue(&self, subject: &str, name: &QueueName) -> Option<WhyView> {
        let queue = self
            .locals
            .values()
            .find(|queue| queue.settings.name == *name)?;
        let (messages, bytes) = queue.waiting();
        let missing: u64 = queue.lanes.values().map(|lane| lane.missing()).sum();
        let oldest_lease = queue.leased.values().min_by_key(|held| held.since);
        let reason = if queue.deleting {
            Reason(
                Cause::Deleting,
                "the queue is being deleted; its messages become dead letters".to_owned(),
                None,
            )
        } else if self.stopping {
            stopping()
        } else if queue.settings.paused {
            Reason(
                Cause::QueuePaused,
                "receivers are held back by the operator".to_owned(),
                Some(format!("qm-node queue resume {name}")),
            )
        } else if let Some(reason) = self.disk_reason() {
            reason
        } else if missing > 0 && missing >= messages {
            damaged(missing)
        } else if queue.is_full() {
            Reason(
                Cause::QuotaHere,
                "the queue is at its quota; senders wait".to_owned(),
                Some(format!(
                    "receive from it, or raise its quota: qm-node queue set {name} --quota-messages N"
                )),
            )
        } else if self.holds_back(name) {
            Reason(
                Cause::Moving,
                "messages that another machine has as well are being set aside; receivers wait for that"
                    .to_owned(),
                None,
            )
        } else if messages > 0 && is_quarantine(name) {
            let queue = name.without_subqueue();
            Reason(
                Cause::NoReceiver,
                format!(
                    "{messages} messages of {queue} are set aside: the machine that kept this node's former identity has them as well"
                ),
                Some(format!(
                    "qm-node quarantine drop {queue}, or quarantine release {queue} if this machine is to deal with them"
                )),
            )
        } else if messages > 0 && queue.waiting_receivers() == 0 && queue.leased.is_empty() {
            Reason(
                Cause::NoReceiver,
                format!("{} and no application receives", waiting(messages)),
                Some(format!("qm-node receive {name}")),
            )
        } else if let Some(held) = oldest_lease.filter(|_| queue.waiting_receivers() == 0) {
            Reason(
                Cause::Leased,
                format!(
                    "{} in the hands of applications, the oldest for {} with {}",
                    messages_of(queue.leased.len() as u64),
                    spoken(self.now.at.ms_since(held.since)),
                    self.clients.title(held.conn)
                ),
                Some(
                    "they come back when the application gives them back or its connection ends"
                        .to_owned(),
                ),
            )
        } else if messages == 0 && queue.leased.is_empty() {
            Reason(Cause::Empty, "the queue is empty".to_owned(), None)
        } else {
            Reason(
                Cause::Moving,
                "messages are being received".to_owned(),
                None,
            )
        };
        let mut evidence = vec![
            format!("{} ({bytes} bytes)", waiting(messages)),
            format!("{} in the hands of applications", queue.leased.len()),
            format!(
                "{} arrived, {} received since the start",
                queue.arrived, queue.received
            ),
        ];
        evidence.extend(self.quarantine_evidence(name));
        if missing > 0 {
            evidence.push(format!(
                "{missing} records cannot be read: qm-node store check"
            ));
        }
        Some(view(subject, reason, evidence))
    }

    /// The newest events of connections, with how long ago they were, for people who look for a
    /// pattern.
    fn shown(&self, events: &[ConnectionEvent]) -> Vec<String> {
        let from = events.len().saturating_sub(EVENTS_SHOWN);
        let ago = |at_us| spoken(self.now.wall_us.saturating_sub(at_us) / 1_000);
        let events = events.iter().skip(from);
        events
            .map(|event| {
                let ago = ago(event.at_us);
                format!("connection, {ago} ago: {}: {}", event.event, event.text)
            })
            .collect()
    }

    fn why_outgoing(&self, subject: &str, out: &OutQueue) -> WhyView {
        let shown_as = self.outgoing_view(out);
        let remote = self.remotes.get(&out.remote);
        let reason = self.outgoing_reason(out, remote);
        let mut evidence = vec![format!(
            "{} wait ({} bytes), {} unacknowledged, {} in doubt, {} acknowledged since the start",
            shown_as.waiting,
            shown_as.waiting_bytes,
            shown_as.unacknowledged,
            shown_as.in_doubt,
            shown_as.acknowledged
        )];
        if let Some(peer) = shown_as.peer {
            evidence.push(format!("peer identity {peer}"));
        }
        if let Some(ms) = shown_as.retry_in_ms {
            evidence.push(format!("next dial in {}", spoken(ms)));
        }
        evidence.extend(
            shown_as
                .last_error
                .map(|error| format!("last error: {error}")),
        );
        if let Some(by) = self.full_by().filter(|_| reason.0 != Cause::StoreFull) {
            evidence.push(by.sentence().to_owned());
        }
        evidence.extend(self.shown(&shown_as.connections));
        evidence.extend(shown_as.peer.and_then(|peer| self.twin_evidence(peer)));
        evidence.extend(self.twin_evidence(self.me.qm));
        evidence.extend(self.former_evidence(out));
        view(subject, reason, evidence)
    }

    /// What of this node's own disk holds messages.
    fn disk_reason(&self) -> Option<Reason> {
        if let Some(by) = self.full_by() {
            return Some(Reason(
                Cause::StoreFull,
                format!("{}: nothing new is accepted", by.sentence()),
                Some("receive, purge, or make room: qm-node doctor".to_owned()),
            ));
        }
        let ms = self.commits.oldest_ms(self.now.at)?;
        (ms >= DISK_SLOW_MS).then(|| {
            Reason(
                Cause::DiskSlow,
                format!(
                    "the disk of this node has not confirmed a write for {}",
                    spoken(ms)
                ),
                Some(
                    "look at the disk: is it overloaded or failing? See: qm-node doctor".to_owned(),
                ),
            )
        })
    }

    /// Without a network no peer is to blame.
    fn network_reason(&self) -> Option<Reason> {
        let what = self.network_failed.as_ref()?;
        Some(Reason(
            Cause::NetworkFailed,
            format!("this node has no network: {what}"),
            Some(
                "bring the address up, or set another one with --listen and start anew; it is tried again until then"
                    .to_owned(),
            ),
        ))
    }

    fn blocked_here(&self, name: &str) -> Reason {
        Reason(
            Cause::BlockedHere,
            format!("{name} is blocked by the operator of this node"),
            Some(format!("qm-node peers approve {name}")),
        )
    }

    fn outgoing_reason(&self, out: &OutQueue, remote: Option<&Remote>) -> Reason {
        let view = self.outgoing_view(out);
        let name = view.peer_name.unwrap_or_else(|| view.remote.to_string());
        let busy = out.has_work() || out.in_flight > 0;
        if self.stopping {
            return stopping();
        }
        if out.paused {
            return Reason(
                Cause::Paused,
                "transmission is paused by the operator".to_owned(),
                Some(format!("qm-node outgoing resume {name}")),
            );
        }
        if !busy {
            return Reason(Cause::Idle, "nothing waits".to_owned(), None);
        }
        let peer = remote.and_then(Remote::peer);
        if peer.is_some_and(|peer| self.peers.approval(peer) == Approval::Blocked) {
            return self.blocked_here(&name);
        }
        if let Some(held) = out.stream.as_ref().and_then(|stream| stream.held.as_ref()) {
            let destination = format!("{name}/{}", out.queue);
            return Reason(
                Cause::StreamHeld,
                format!(
                    "the transactional stream stands: {} ({})",
                    held.text, held.outcome
                ),
                Some(if held.text == WENT_BACK {
                    format!(
                        "what waits from before the backup may have arrived. Where it must not come twice: qm-node outgoing purge {destination}, until nothing is left (all of it becomes dead letters, but for what was sent without that wish), then qm-node stream rebase {destination}, then qm-node dead resend --force of what {name} never got; the rebase alone sends all of it"
                    )
                } else {
                    format!(
                        "restore what {name} lost, or begin the stream anew, which sends what is not acknowledged and gives up what is lost: qm-node stream rebase {destination}"
                    )
                }),
            );
        }
        let missing: u64 = out.lanes.values().map(|lane| lane.backlog.missing()).sum();
        if missing > 0 && missing >= out.waiting().0 && out.in_flight + out.doubtful() == 0 {
            return damaged(missing);
        }
        if let Some(reason) = self.network_reason() {
            return reason;
        }
        let approve = Some(format!(
            "on {name}, run: qm-node peers approve {}",
            self.me.qm
        ));
        match self.outgoing_state(out) {
            OutgoingState::PendingApproval => Reason(
                Cause::PendingApproval,
                format!("{name} has not approved this node"),
                approve,
            ),
            OutgoingState::QueueFull => Reason(
                Cause::QueueFull,
                format!("queue {} on {name} is at its quota", out.queue),
                Some(format!(
                    "receive from it there, or raise its quota: qm-node queue set {} --quota-messages N",
                    out.queue
                )),
            ),
            OutgoingState::NoCredit => Reason(
                Cause::NoCredit,
                format!("{name} takes no messages at the moment: its disk is full or slow"),
                Some(format!("on {name}, run: qm-node doctor")),
            ),
            OutgoingState::Connected => self.connected_reason(out, remote, &name),
            OutgoingState::Connecting => Reason(
                Cause::Connecting,
                format!("a connection to {name} is being made"),
                None,
            ),
            OutgoingState::NoAddress => Reason(
                Cause::NoAddress,
                format!("no address is known for {name}"),
                Some(format!(
                    "qm-node peers add NAME HOST[:PORT], or wait until {name} connects"
                )),
            ),
            OutgoingState::Waiting | OutgoingState::Idle | OutgoingState::Paused => {
                self.unreached_reason(remote, &name, approve)
            }
        }
    }

    /// A session is open and takes messages: what do they wait for?
    fn connected_reason(&self, out: &OutQueue, remote: Option<&Remote>, name: &str) -> Reason {
        let session = remote
            .and_then(|remote| self.sending_session(remote.own, remote.peer()?))
            .and_then(|link| self.sessions.get(&link));
        if let Some(session) = session
            && let Some(ms) = self.silent_ms(session)
        {
            return Reason(
                Cause::WaitingForAck,
                format!(
                    "{name} has acknowledged nothing for {ms} ms; it may be slow, or gone without a word"
                ),
                Some(format!(
                    "nothing to do: it is asked, and dialled again when the connection is given up; is {name} running?"
                )),
            );
        }
        if out.in_flight == 0 && out.doubtful() > 0 {
            return Reason(
                Cause::InDoubt,
                format!(
                    "{name} is asked which of {} messages it has",
                    out.doubtful()
                ),
                None,
            );
        }
        if let Some(reason) = self.disk_reason().filter(|r| r.0 == Cause::DiskSlow) {
            return reason;
        }
        Reason(
            Cause::Moving,
            "messages are being transmitted".to_owned(),
            None,
        )
    }

    /// For how long a peer has owed an acknowledgement, when that is longer than usual.
    fn silent_ms(&self, session: &Session) -> Option<u64> {
        let oldest = session.flights.values().map(|flight| flight.sent).min()?;
        let ms = self.now.at.ms_since(oldest.max(session.last_ack));
        // Half of the time after which it is asked for: acks usually take an eighth of that.
        (ms >= session.ack_wait_ms(&self.config) / 2).then_some(ms)
    }

    fn unreached_reason(
        &self,
        remote: Option<&Remote>,
        name: &str,
        approve: Option<String>,
    ) -> Reason {
        let failure = remote.and_then(|remote| remote.last_failure);
        let end = remote
            .and_then(Remote::peer)
            .and_then(|peer| self.connections.end_of(peer));
        let what = remote
            .and_then(|remote| remote.last_error.clone())
            .unwrap_or_else(|| "there is no connection".to_owned());
        if let Some(failure) = failure {
            let cause = Cause::from(failure);
            return Reason(
                cause,
                format!("{name} cannot be reached: {what}"),
                fix_of(cause, name, remote),
            );
        }
        if remote.and_then(Remote::peer) == Some(self.me.qm) {
            return Reason(
                Cause::Disconnected,
                format!("{name} is this node itself: {what}"),
                Some(format!(
                    "name queues of this node without it; qm-node outgoing purge {name} gives up what waits"
                )),
            );
        }
        match end {
            Some(Outcome::BLOCKED) => Reason(
                Cause::Blocked,
                format!("{name} has blocked this node"),
                approve,
            ),
            Some(Outcome::BUSY) => Reason(
                Cause::PeerBusy,
                format!("too many peers await approval at {name}"),
                approve,
            ),
            Some(Outcome::STOPPING) => Reason(
                Cause::PeerStopping,
                format!("{name} was stopped by its operator"),
                Some(format!("start it: qm-node run; on {name}, or wait")),
            ),
            Some(Outcome::VERSION) => Reason(
                Cause::Version,
                format!("{name} speaks no version of the protocol that this node speaks"),
                fix_of(Cause::Version, name, remote),
            ),
            Some(Outcome::WRONG_IDENTITY) => Reason(
                Cause::WrongIdentity,
                format!("{name} expected another queue manager: {what}"),
                fix_of(Cause::WrongIdentity, name, remote),
            ),
            Some(Outcome::QUOTA_EXCEEDED) => Reason(
                Cause::QueueFull,
                format!("a queue on {name} is at its quota"),
                Some("receive from it there, or raise its quota".to_owned()),
            ),
            Some(Outcome::STORE_FULL) => Reason(
                Cause::NoCredit,
                format!("the disk of {name} is full"),
                Some(format!("on {name}, run: qm-node doctor")),
            ),
            _ => Reason(
                Cause::Disconnected,
                format!("{name} cannot be reached: {what}"),
                Some(format!("qm-node outgoing retry {name} dials now")),
            ),
        }
    }

    fn destination_of(&self, queue: u32) -> String {
        self.outs.get(&queue).map_or_else(String::new, |out| {
            let remote = self.remotes.get(&out.remote);
            remote.map_or_else(String::new, |remote| remote.key.destination(&out.queue))
        })
    }
}

/// Messages before a position: of higher priorities, of its own; and whether all were counted.
fn lanes_ahead<'a>(
    lanes: impl Iterator<Item = (u8, &'a crate::backlog::Backlog)>,
    priority: u8,
    position: u64,
) -> (u64, u64, bool) {
    let (mut higher, mut older, mut exact) = (0, 0, true);
    for (of, lane) in lanes {
        if of > priority {
            higher += lane.messages;
        } else if of == priority {
            older += lane.resident().filter(|m| m.position < position).count() as u64;
            exact = lane.is_resident() || position < lane.resident_to();
        }
    }
    (higher, older, exact)
}

fn view(subject: &str, Reason(code, cause, fix): Reason, evidence: Vec<String>) -> WhyView {
    WhyView {
        subject: subject.to_owned(),
        code,
        cause,
        fix,
        evidence,
    }
}

fn unknown(subject: &str) -> WhyView {
    let reason = Reason(Cause::Unknown, "it has just left".to_owned(), None);
    view(subject, reason, vec![])
}

fn stopping() -> Reason {
    Reason(
        Cause::Stopping,
        "this node is stopping".to_owned(),
        Some("start it again: qm-node run".to_owned()),
    )
}

fn damaged(count: u64) -> Reason {
    Reason(
        Cause::Damaged,
        format!("{count} records on the disk of this node cannot be read and were passed over"),
        Some("stop the node, then: qm-node store check".to_owned()),
    )
}

/// `1 message`, `2 messages`.
fn messages_of(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

/// `1 message waits`, `2 messages wait`.
fn waiting(count: u64) -> String {
    let verb = if count == 1 { "waits" } else { "wait" };
    format!("{} {verb}", messages_of(count))
}

fn fix_of(cause: Cause, name: &str, remote: Option<&Remote>) -> Option<String> {
    Some(match cause {
        Cause::Unresolved => {
            format!("correct the host name of {name}: qm-node peers add NAME HOST[:PORT]")
        }
        Cause::Refused => format!("start qm on {name}, or correct its port"),
        Cause::Unreachable => format!("check the network and that UDP reaches the port of {name}"),
        Cause::WrongIdentity => {
            let pinned = remote
                .and_then(Remote::peer)
                .map_or_else(|| name.to_owned(), |peer| peer.to_string());
            format!("if {name} was replaced on purpose: qm-node peers forget {pinned}")
        }
        Cause::Version => format!("upgrade the older of the two: this node or {name}"),
        Cause::Handshake => "something else listens at this port, or another version".to_owned(),
        _ => return None,
    })
}
