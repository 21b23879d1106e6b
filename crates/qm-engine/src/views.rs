//! Administrative requests: what an operator sees and does.

use qm_wire::{Outcome, QmId, QueueName};

use crate::admin::{
    AdminReply, AdminRequest, OutgoingState, OutgoingView, PeerView, QueueView, RouteView,
    Selector, StatusView,
};
use crate::backlog::Backlog;
use crate::dead::LetterDo;
use crate::engine::{Engine, Route};
use crate::io::ConnId;
use crate::limits::QUEUES_MAX;
use crate::outgoing::{DialState, OutQueue, Remote};
use crate::peers::{Approval, BookEntry, name_key, peer_key, pin_key};
use crate::queues::DEAD_QUEUE;
use crate::record::{LocalSettings, RemoteKey};
use crate::time::Timestamp;

pub(crate) fn failed(outcome: Outcome, cause: String, fix: &str) -> AdminReply {
    AdminReply::Failed {
        outcome,
        cause,
        fix: fix.to_owned(),
    }
}

const fn done(count: u64) -> AdminReply {
    AdminReply::Done { count }
}

/// Age of the oldest of the messages in memory.
fn oldest_ms<'a>(lanes: impl Iterator<Item = &'a Backlog>, now: Timestamp) -> Option<u64> {
    lanes
        .filter_map(|lane| lane.resident().next())
        .map(|message| now.ms_since(message.at))
        .max()
}

impl Engine {
    /// Requests that take more than one step are answered later and give nothing here.
    pub(crate) fn on_admin(
        &mut self,
        conn: ConnId,
        request: u64,
        what: AdminRequest,
    ) -> Option<AdminReply> {
        match what {
            AdminRequest::QueueDelete {
                name,
                force,
                discard,
            } => self.admin_delete(conn, request, &name, force, discard),
            AdminRequest::QueuePurge { name, discard } => {
                let Some(number) = self.local_names.get(&name).copied() else {
                    return Some(Self::no_queue(&name));
                };
                self.purge_queue(conn, request, number, discard, false)
            }
            AdminRequest::Freeze { for_ms } => {
                self.outputs.push_back(crate::io::Output::Freeze {
                    conn,
                    request,
                    for_ms,
                });
                None
            }
            // Whoever drives this engine hears it when there is something to thaw.
            AdminRequest::Thaw => Some(done(0)),
            AdminRequest::QuarantineRelease { name } => {
                self.release_quarantine(conn, request, &name)
            }
            AdminRequest::OutgoingPurge { which, discard } => {
                self.purge_selected(conn, request, &which, discard)
            }
            AdminRequest::DeadList { filter, after } => {
                self.dead_list(conn, request, filter, after);
                None
            }
            AdminRequest::DeadResend {
                positions,
                force,
                to,
            } => self.dead_do(conn, request, &positions, &LetterDo::Resend { force, to }),
            AdminRequest::DeadDrop { positions } => {
                self.dead_do(conn, request, &positions, &LetterDo::Drop)
            }
            AdminRequest::Remint { because } => {
                let begun = self.reidentify(&because, Some((conn, request)));
                begun.err().map(|reply| *reply)
            }
            AdminRequest::Reclaim => {
                let begun = self.reclaim(Some((conn, request)));
                begun.err().map(|reply| *reply)
            }
            AdminRequest::Why { subject } => self.admin_why(conn, request, &subject),
            AdminRequest::Trace { subject } => self.admin_trace(conn, request, &subject),
            other => Some(self.answer_at_once(other)),
        }
    }

    fn answer_at_once(&mut self, request: AdminRequest) -> AdminReply {
        match request {
            AdminRequest::Status => AdminReply::Status(Box::new(self.status())),
            AdminRequest::Queues => {
                let queues = self.locals.values().filter(|queue| !queue.deleting);
                AdminReply::Queues(queues.map(|queue| self.queue_view(queue)).collect())
            }
            AdminRequest::QueueCreate(settings) => self.admin_create(settings),
            AdminRequest::QueueSet(settings) => self.admin_set(settings),
            AdminRequest::QueuePause { name, paused } => {
                let Some(settings) = self.local_settings(&name) else {
                    return Self::no_queue(&name);
                };
                self.admin_set(LocalSettings { paused, ..settings })
            }
            AdminRequest::Outgoing => AdminReply::Outgoing(
                self.outs
                    .values()
                    .map(|out| self.outgoing_view(out))
                    .collect(),
            ),
            AdminRequest::OutgoingPause { which, paused } => {
                self.for_selected(&which, |engine, number| {
                    engine.pause_outgoing(number, paused);
                    1
                })
            }
            AdminRequest::OutgoingRetry { which } => self.for_selected(&which, |engine, number| {
                let remote = engine.outs.get(&number).map(|out| out.remote);
                if let Some(remote) = remote {
                    engine.retry_now(remote);
                }
                1
            }),
            AdminRequest::Peers => AdminReply::Peers(self.peer_views()),
            AdminRequest::PeerAdd {
                name,
                address,
                qm,
                keep_connected,
            } => self.admin_peer_add(name, address, qm, keep_connected),
            AdminRequest::PeerApprove {
                name: Some(name), ..
            } if name.is_empty()
                || name.len() > qm_wire::limits::NAME_BYTES_MAX
                || name.contains(['/', ':', '@', ' ']) =>
            {
                let cause = "this is no name for a peer".to_owned();
                failed(
                    Outcome::BAD_REQUEST,
                    cause,
                    "use letters, digits, dots and dashes",
                )
            }
            AdminRequest::PeerApprove { who, name } => {
                self.for_peer(&who, |engine, peer| engine.approve(peer, name.as_deref()))
            }
            AdminRequest::PeerBlock { who } => self.for_peer(&who, Self::block),
            AdminRequest::PeerForget { who } => self.admin_forget(&who),
            AdminRequest::Routes => self.routes_view(),
            AdminRequest::Identity => self.identity_view(),
            AdminRequest::Streams => self.stream_views(),
            AdminRequest::StreamRebase { which, dry_run } => self.rebase_streams(&which, dry_run),
            AdminRequest::Dedup => AdminReply::Dedup(Box::new(self.dedup.stats())),
            // Those that take more than one step were taken out before.
            _ => failed(
                Outcome::UNSUPPORTED,
                "this request is not known".to_owned(),
                "use the qm-node command of the node's own version",
            ),
        }
    }

    fn status(&self) -> StatusView {
        let mut view = StatusView {
            qm: self.me.qm,
            incarnation: self.incarnation,
            name: self.config.name.clone(),
            uptime_ms: self.now.at.ms_since(self.started),
            counters: self.counters,
            local_messages: 0,
            local_bytes: 0,
            outgoing_messages: 0,
            outgoing_bytes: 0,
            dead_letters: 0,
            sessions: self.sessions.values().filter(|s| s.opened).count() as u64,
            quarantined: self.quarantined(),
            pending_peers: self
                .peers
                .known
                .values()
                .filter(|record| record.approval == Approval::Pending)
                .count() as u64,
            clients: self.clients.connected() as u64,
            stopping: self.stopping,
            stored_bytes: self.stored_bytes,
            stored_bytes_max: self.config.store_bytes_max,
            express_bytes: self.express_bytes as u64,
            express_bytes_max: self.config.express_bytes_max as u64,
            unconfirmed_ms: self.commits.oldest_ms(self.now.at),
            missing_records: 0,
            full_by: self.full_by(),
            resident_bytes: (self.resident_bytes + self.express_bytes) as u64,
            twins: self.twin_views(),
            parted: self.parted_views(),
            branched: self.branched.views(),
            went_back: self.branched.went_back(),
            former: self.former_view(),
        };
        for queue in self.locals.values() {
            let (messages, bytes) = queue.waiting();
            view.missing_records += queue.lanes.values().map(Backlog::missing).sum::<u64>();
            if queue.settings.name.as_str() == DEAD_QUEUE {
                view.dead_letters += messages;
            } else {
                view.local_messages += messages;
                view.local_bytes += bytes;
            }
        }
        for out in self.outs.values() {
            let (messages, bytes) = out.waiting();
            let lanes = out.lanes.values();
            view.missing_records += lanes.map(|lane| lane.backlog.missing()).sum::<u64>();
            view.outgoing_messages += messages + out.in_flight + out.doubtful();
            view.outgoing_bytes += bytes;
        }
        view
    }

    fn queue_view(&self, queue: &crate::queues::LocalQueue) -> QueueView {
        let (messages, bytes) = queue.waiting();
        QueueView {
            settings: queue.settings.clone(),
            messages,
            bytes,
            leased: queue.leased.len() as u64,
            waiting_receivers: queue.waiting_receivers() as u64,
            oldest_ms: oldest_ms(queue.lanes.values(), self.now.at),
            full: queue.is_full(),
            arrived: queue.arrived,
            received: queue.received,
        }
    }

    pub(crate) fn outgoing_view(&self, out: &OutQueue) -> OutgoingView {
        let (waiting, waiting_bytes) = out.waiting();
        let remote = self.remotes.get(&out.remote);
        let peer = remote.and_then(Remote::peer);
        OutgoingView {
            remote: remote.map_or_else(|| RemoteKey::Host(String::new()), |r| r.key.clone()),
            queue: out.queue.clone(),
            peer,
            peer_name: remote
                .and_then(|r| self.peers.name_of(&r.key, r.pin))
                .map(|entry| entry.name.clone()),
            state: self.outgoing_state(out),
            waiting,
            waiting_bytes,
            oldest_ms: oldest_ms(out.lanes.values().map(|lane| &lane.backlog), self.now.at),
            unacknowledged: out.in_flight,
            in_doubt: out.doubtful(),
            retry_in_ms: remote.and_then(|r| self.retry_in_ms(r)),
            last_error: remote.and_then(|r| r.last_error.clone()),
            acknowledged: out.acknowledged,
            connections: remote.map_or_else(Vec::new, |r| self.connections_of(r)),
        }
    }

    pub(crate) fn outgoing_state(&self, out: &OutQueue) -> OutgoingState {
        if out.paused {
            return OutgoingState::Paused;
        }
        let Some(remote) = self.remotes.get(&out.remote) else {
            return OutgoingState::Idle;
        };
        let links = remote.peer().and_then(|peer| self.by_peer.get(&peer));
        let sessions: Vec<_> = links
            .into_iter()
            .flatten()
            .filter_map(|link| self.sessions.get(link))
            .filter(|session| session.own == remote.own)
            .collect();
        if let Some(session) = sessions.iter().rev().find(|s| s.opened) {
            return if session.pending {
                OutgoingState::PendingApproval
            } else if session.closed_queues.contains(&out.queue) {
                OutgoingState::QueueFull
            } else if session.flights.is_empty() && session.sent.messages >= session.credit.messages
            {
                // With messages in flight it is their acks that are waited for, not credit.
                OutgoingState::NoCredit
            } else {
                OutgoingState::Connected
            };
        }
        match remote.state {
            _ if !sessions.is_empty() => OutgoingState::Connecting,
            DialState::Dialing { .. } => OutgoingState::Connecting,
            DialState::Waiting { .. } => OutgoingState::Waiting,
            DialState::Idle if out.has_work() => OutgoingState::NoAddress,
            DialState::Idle => OutgoingState::Idle,
        }
    }

    pub(crate) fn peer_views(&self) -> Vec<PeerView> {
        let mut views: Vec<PeerView> = self
            .peers
            .known
            .iter()
            .map(|(qm, record)| {
                let entry = self.entry_of_peer(*qm);
                PeerView {
                    name: entry.map(|entry| entry.name.clone()),
                    announced_name: record.announced_name.clone(),
                    host: record.host.clone(),
                    qm: Some(*qm),
                    addresses: record.addresses.clone(),
                    approval: record.approval.name(),
                    keep_connected: entry.is_some_and(|entry| entry.keep_connected),
                    connected: self.is_connected(*qm),
                    incarnation: record.incarnation,
                    last_seen_us: record.last_seen_us,
                    connections: self.connections_with(Some(*qm), None),
                    twins: self.twins.alarms.view(*qm),
                    succeeds: self.heirs.predecessor(*qm),
                    succeeded_by: Some(self.heirs.of(*qm)).filter(|heir| heir != qm),
                }
            })
            .collect();
        for entry in self.peers.names.values() {
            if let RemoteKey::Host(host) = &entry.remote {
                let pin = self
                    .find_remote(&entry.remote)
                    .and_then(|number| self.remotes.get(&number))
                    .and_then(Remote::peer);
                if pin.is_none() {
                    views.push(PeerView {
                        name: Some(entry.name.clone()),
                        announced_name: String::new(),
                        host: String::new(),
                        qm: None,
                        addresses: vec![host.clone()],
                        approval: "known",
                        keep_connected: entry.keep_connected,
                        connected: false,
                        incarnation: None,
                        last_seen_us: 0,
                        connections: self.connections_with(None, Some(&entry.remote)),
                        twins: None,
                        succeeds: None,
                        succeeded_by: None,
                    });
                }
            }
        }
        views
    }

    fn routes_view(&self) -> AdminReply {
        let mut rows = Vec::new();
        for session in self.sessions.values() {
            let Some(incarnation) = session.incarnation() else {
                continue;
            };
            let candidates = self
                .routes
                .candidates(&(session.peer, incarnation), self.now.at.as_ms())
                .into_iter()
                .map(|route| match route {
                    Route::Session(link) => format!("session on {link} with {}", session.remote),
                    Route::Address(address) => address,
                })
                .collect();
            rows.push(RouteView {
                qm: session.peer,
                incarnation,
                candidates,
            });
        }
        AdminReply::Routes {
            stats: self.routes.stats(),
            rows,
        }
    }

    pub(crate) fn no_queue(name: &QueueName) -> AdminReply {
        let cause = format!("there is no queue {name}");
        failed(Outcome::NOT_FOUND, cause, "see: qm-node queue list")
    }

    pub(crate) fn no_outgoing(name: &str) -> AdminReply {
        let cause = format!("no outgoing queue is called {name}");
        failed(Outcome::NOT_FOUND, cause, "see: qm-node outgoing list")
    }

    pub(crate) fn local_settings(&self, name: &QueueName) -> Option<LocalSettings> {
        let number = self.local_names.get(name)?;
        self.locals.get(number).map(|queue| queue.settings.clone())
    }

    fn admin_create(&mut self, settings: LocalSettings) -> AdminReply {
        let name = &settings.name;
        if name.is_system() {
            let cause = format!("{name}: names with $ belong to the system");
            return failed(Outcome::BAD_REQUEST, cause, "choose another name");
        }
        if self.local_names.contains_key(name) {
            let cause = format!("queue {name} exists");
            return failed(
                Outcome::BAD_REQUEST,
                cause,
                "change it with: qm-node queue set",
            );
        }
        if !self.may_add_queue() {
            let cause = format!("this node has {QUEUES_MAX} queues and may not have more");
            return failed(Outcome::BUSY, cause, "delete queues that are not used");
        }
        if self.is_being_deleted(name) {
            let cause = format!("a queue {name} is just being deleted");
            return failed(Outcome::BUSY, cause, "try again in a moment");
        }
        self.create_queue(settings);
        done(1)
    }

    fn admin_set(&mut self, settings: LocalSettings) -> AdminReply {
        let Some(number) = self.local_names.get(&settings.name).copied() else {
            return Self::no_queue(&settings.name);
        };
        let Some(queue) = self.locals.get_mut(&number) else {
            return Self::no_queue(&settings.name);
        };
        if settings.transactional != queue.settings.transactional {
            let cause = "whether a queue is transactional is decided when it is created".to_owned();
            return failed(Outcome::BAD_REQUEST, cause, "create another queue");
        }
        let name = queue.settings.name.clone();
        queue.settings = LocalSettings { name, ..settings };
        self.record_queue(number);
        self.busy_queues.insert(number);
        self.reopen_if_room(number);
        done(1)
    }

    /// Answered at once when it cannot be done, else when the last message is buried.
    fn admin_delete(
        &mut self,
        conn: ConnId,
        request: u64,
        name: &QueueName,
        force: bool,
        discard: bool,
    ) -> Option<AdminReply> {
        let Some(number) = self.local_names.get(name).copied() else {
            return Some(Self::no_queue(name));
        };
        let Some(queue) = self.locals.get(&number) else {
            return Some(Self::no_queue(name));
        };
        let waiting = queue.waiting().0 + queue.leased.len() as u64;
        if name.is_system() {
            let cause = format!("{name} belongs to the system");
            return Some(failed(Outcome::ACCESS_DENIED, cause, "purge it instead"));
        }
        if waiting > 0 && !force {
            let cause = format!("queue {name} holds {waiting} messages");
            return Some(failed(
                Outcome::BAD_REQUEST,
                cause,
                "receive or purge them first, or use --force",
            ));
        }
        if self.quarantine.concerns(number) {
            let cause = format!("messages are just being moved out of or into queue {name}");
            return Some(failed(Outcome::BUSY, cause, "try again"));
        }
        self.purge_queue(conn, request, number, discard, true)
    }

    fn pause_outgoing(&mut self, number: u32, paused: bool) {
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        out.paused = paused;
        self.record_queue(number);
        self.nudge_out(number);
    }

    /// Outgoing queues that a word of the operator names.
    pub(crate) fn select_outgoing(&self, which: &Selector) -> Vec<u32> {
        let matches = |out: &OutQueue| match which {
            Selector::All => true,
            Selector::Name(name) => {
                let wanted = name.to_lowercase();
                let view = self.outgoing_view(out);
                let queue = view.queue.to_string().to_lowercase();
                let mut names = vec![view.remote.to_string().to_lowercase()];
                names.extend(view.peer_name.map(|name| name.to_lowercase()));
                names.extend(view.peer.map(|peer| peer.to_string()));
                names.iter().any(|name| {
                    *name == wanted || format!("{name}/{queue}") == wanted || queue == wanted
                })
            }
        };
        self.outs
            .iter()
            .filter(|(_, out)| matches(out))
            .map(|(number, _)| *number)
            .collect()
    }

    fn for_selected(
        &mut self,
        which: &Selector,
        mut act: impl FnMut(&mut Self, u32) -> u64,
    ) -> AdminReply {
        let numbers = self.select_outgoing(which);
        if numbers.is_empty()
            && let Selector::Name(name) = which
        {
            return Self::no_outgoing(name);
        }
        let mut count = 0;
        for number in numbers {
            count += act(self, number);
        }
        done(count)
    }

    fn for_peer(&mut self, who: &str, mut act: impl FnMut(&mut Self, QmId)) -> AdminReply {
        let named = self.peers.names.get(&who.to_lowercase()).and_then(|entry| {
            let number = self.find_remote(&entry.remote)?;
            self.remotes.get(&number).and_then(Remote::peer)
        });
        let found = named.map_or_else(|| self.peers.find(who), |peer| vec![peer]);
        match found.as_slice() {
            [peer] => {
                act(self, *peer);
                done(1)
            }
            [] => {
                let cause = format!("no peer is called {who}");
                failed(Outcome::NOT_FOUND, cause, "see: qm-node peers list")
            }
            several => {
                let list: Vec<_> = several.iter().map(ToString::to_string).collect();
                let cause = format!("{who} may be {}", list.join(" or "));
                failed(Outcome::BAD_REQUEST, cause, "write more of the id")
            }
        }
    }

    fn block(&mut self, peer: QmId) {
        if let Some(record) = self.peers.known.get_mut(&peer) {
            record.approval = Approval::Blocked;
        }
        self.save_peer(peer);
        let links: Vec<_> = self
            .by_peer
            .get(&peer)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for link in links {
            self.end_session(link, Outcome::BLOCKED, "the operator blocked this peer");
        }
    }

    fn admin_peer_add(
        &mut self,
        name: String,
        address: Option<String>,
        qm: Option<QmId>,
        keep_connected: bool,
    ) -> AdminReply {
        let long = |text: &str| text.len() > qm_wire::limits::NAME_BYTES_MAX;
        if address.as_deref().is_some_and(long) {
            let cause = "the address is too long".to_owned();
            return failed(
                Outcome::BAD_REQUEST,
                cause,
                "qm-node peers add NAME HOST[:PORT]",
            );
        }
        if name.is_empty() || long(&name) || name.contains(['/', ':', '@', ' ']) {
            let cause = format!("{name:?} is no name for a peer");
            return failed(
                Outcome::BAD_REQUEST,
                cause,
                "use letters, digits, dots and dashes",
            );
        }
        let remote = match (&address, qm) {
            (_, Some(qm)) => RemoteKey::Id(qm),
            (Some(address), None) => RemoteKey::Host(address.clone()),
            (None, None) => {
                let cause = "neither an address nor an identity was given".to_owned();
                return failed(
                    Outcome::BAD_REQUEST,
                    cause,
                    "qm-node peers add NAME HOST[:PORT]",
                );
            }
        };
        if qm == Some(self.me.qm) {
            let cause = "that is the identity of this node".to_owned();
            let fix = "send to its queues by their names alone";
            return failed(Outcome::BAD_REQUEST, cause, fix);
        }
        if let Some(qm) = qm {
            self.approve(qm, Some(&name));
            if let (Some(record), Some(address)) = (self.peers.known.get_mut(&qm), address) {
                record.learn_address(address);
            }
            self.save_peer(qm);
        }
        let pinned = self
            .find_remote(&remote)
            .and_then(|number| self.remotes.get(&number))
            .and_then(Remote::peer);
        self.write_name(BookEntry {
            name,
            remote,
            keep_connected,
            approve: true,
        });
        if let Some(peer) = pinned {
            // Met before: it is approved now, not at its next contact.
            self.approve(peer, None);
        }
        done(1)
    }

    fn admin_forget(&mut self, who: &str) -> AdminReply {
        if let Some(entry) = self.peers.names.remove(&who.to_lowercase()) {
            self.commits.unset(name_key(&entry.name));
            self.unpin(&entry.remote);
            return done(1);
        }
        let mine = who.parse() == Ok(self.me.qm);
        if mine && (self.forget_alarm(self.me.qm) | self.forget_parted(self.me.qm)) {
            // The machine that had this node's identity has none any more, says its operator.
            return done(1);
        }
        self.for_peer(who, |engine, peer| {
            engine.peers.known.remove(&peer);
            engine.forget_alarm(peer);
            engine.forget_parted(peer);
            engine.forget_branches(peer);
            engine.forget_partings(peer);
            engine.forget_met(peer);
            engine.forget_untold(peer);
            engine.commits.unset(peer_key(peer));
            let keys: Vec<_> = engine
                .remotes
                .values()
                .filter(|remote| remote.pin == Some(peer))
                .map(|remote| remote.key.clone())
                .collect();
            for key in keys {
                engine.unpin(&key);
            }
            let links: Vec<_> = engine
                .by_peer
                .get(&peer)
                .into_iter()
                .flatten()
                .copied()
                .collect();
            for link in links {
                // Not *blocked*, for that would make dead letters of what waits there.
                engine.end_session(link, Outcome::SUPERSEDED, "the operator removed this peer");
            }
            engine.forget_tokens(peer);
            engine.forget_heirs(peer);
        })
    }

    /// The next queue manager that answers at this address is taken for the right one.
    fn unpin(&mut self, key: &RemoteKey) {
        let RemoteKey::Host(host) = key else { return };
        self.commits.unset(pin_key(host));
        let owns = self.owns();
        let numbers = owns.map(|own| self.remote_keys.get(&(own, key.clone())).copied());
        for number in numbers.into_iter().flatten().collect::<Vec<_>>() {
            let doubtful = self
                .remotes
                .get(&number)
                .into_iter()
                .flat_map(|remote| remote.queues.values())
                .filter_map(|queue| self.outs.get(queue))
                .any(|out| out.doubtful() > 0 || out.in_flight > 0);
            // What may have reached the old one is settled by the old one alone.
            if !doubtful && let Some(remote) = self.remotes.get_mut(&number) {
                remote.pin = None;
                remote.last_error = None;
            }
            self.retry_now(number);
        }
    }
}
