//! Administrative requests: what an operator sees and does.

use qm_wire::{Outcome, QmId, QueueName};

use crate::admin::{
    AdminReply, AdminRequest, OutgoingState, OutgoingView, PeerView, QueueView, RouteView,
    Selector, StatusView,
};
use crate::backlog::Backlog;
use crate::engine::{Engine, Route};
use crate::io::StoreOp;
use crate::limits::QUEUES_MAX;
use crate::outgoing::{DialState, OutQueue, Remote};
use crate::peers::{Approval, BookEntry, name_key, peer_key, pin_key};
use crate::queues::DEAD_QUEUE;
use crate::record::{LocalSettings, QueueRecord, RemoteKey};

fn failed(outcome: Outcome, cause: String, fix: &str) -> AdminReply {
    AdminReply::Failed {
        outcome,
        cause,
        fix: fix.to_owned(),
    }
}

const fn done(count: u64) -> AdminReply {
    AdminReply::Done { count }
}

impl Engine {
    pub(crate) fn on_admin(&mut self, request: AdminRequest) -> AdminReply {
        match request {
            AdminRequest::Status => AdminReply::Status(Box::new(self.status())),
            AdminRequest::Queues => {
                AdminReply::Queues(self.locals.values().map(Self::queue_view).collect())
            }
            AdminRequest::QueueCreate(settings) => self.admin_create(settings),
            AdminRequest::QueueSet(settings) => self.admin_set(settings),
            AdminRequest::QueueDelete { name, force } => self.admin_delete(&name, force),
            AdminRequest::QueuePurge { name } => self.admin_purge(&name),
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
            AdminRequest::OutgoingPurge { which } => {
                self.for_selected(&which, Self::purge_outgoing)
            }
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
            AdminRequest::Dedup => AdminReply::Dedup(Box::new(self.dedup.stats())),
            AdminRequest::Why { subject } => AdminReply::Why(self.why(&subject)),
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
            pending_peers: self
                .peers
                .known
                .values()
                .filter(|record| record.approval == Approval::Pending)
                .count() as u64,
            clients: self.clients.connected() as u64,
            store_full: self.store_full,
            resident_bytes: (self.resident_bytes + self.express_bytes) as u64,
        };
        for queue in self.locals.values() {
            let (messages, bytes) = queue.waiting();
            if queue.settings.name.as_str() == DEAD_QUEUE {
                view.dead_letters += messages;
            } else {
                view.local_messages += messages;
                view.local_bytes += bytes;
            }
        }
        for out in self.outs.values() {
            let (messages, bytes) = out.waiting();
            view.outgoing_messages += messages + out.in_flight + out.doubtful();
            view.outgoing_bytes += bytes;
        }
        view
    }

    fn queue_view(queue: &crate::queues::LocalQueue) -> QueueView {
        let (messages, bytes) = queue.waiting();
        QueueView {
            settings: queue.settings.clone(),
            messages,
            bytes,
            leased: queue.leased.len() as u64,
            waiting_receivers: queue.waiting_receivers() as u64,
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
            unacknowledged: out.in_flight,
            in_doubt: out.doubtful(),
            retry_in_ms: remote.and_then(|r| self.retry_in_ms(r)),
            last_error: remote.and_then(|r| r.last_error.clone()),
            acknowledged: out.acknowledged,
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
            .collect();
        if let Some(session) = sessions.iter().rev().find(|s| s.opened) {
            return if session.pending {
                OutgoingState::PendingApproval
            } else if session.closed_queues.contains(&out.queue) {
                OutgoingState::QueueFull
            } else if session.sent.messages >= session.credit.messages {
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
                    connected: self.sending_session(*qm).is_some(),
                    incarnation: record.incarnation,
                    last_seen_us: record.last_seen_us,
                }
            })
            .collect();
        for entry in self.peers.names.values() {
            if let RemoteKey::Host(host) = &entry.remote {
                let pin = self
                    .remote_keys
                    .get(&entry.remote)
                    .and_then(|number| self.remotes.get(number))
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
        if settings.transactional {
            let cause = "this version does not offer transactional queues".to_owned();
            return failed(
                Outcome::UNSUPPORTED,
                cause,
                "create it without --transactional",
            );
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
        let record = QueueRecord::Local(queue.settings.clone());
        self.commits.set(QueueRecord::key(number), record.encode());
        self.busy_queues.insert(number);
        self.reopen_if_room(number);
        done(1)
    }

    fn admin_delete(&mut self, name: &QueueName, force: bool) -> AdminReply {
        let Some(number) = self.local_names.get(name).copied() else {
            return Self::no_queue(name);
        };
        let Some(queue) = self.locals.get(&number) else {
            return Self::no_queue(name);
        };
        let waiting = queue.waiting().0 + queue.leased.len() as u64;
        if name.is_system() {
            let cause = format!("{name} belongs to the system");
            return failed(Outcome::ACCESS_DENIED, cause, "purge it instead");
        }
        if waiting > 0 && !force {
            let cause = format!("queue {name} holds {waiting} messages");
            return failed(
                Outcome::BAD_REQUEST,
                cause,
                "receive or purge them first, or use --force",
            );
        }
        self.purge_local(number);
        for priority in 0..8 {
            let stream = Self::stream_of(number, priority);
            self.commits.settle(StoreOp::Remove {
                stream,
                first: 0,
                last: u64::MAX,
            });
        }
        self.commits.unset(QueueRecord::key(number));
        self.drop_receivers(number);
        self.local_names.remove(name);
        self.locals.remove(&number);
        self.tell_open(name);
        done(waiting)
    }

    fn admin_purge(&mut self, name: &QueueName) -> AdminReply {
        match self.local_names.get(name).copied() {
            Some(number) => {
                let count = self.purge_local(number);
                self.reopen_if_room(number);
                done(count)
            }
            None => Self::no_queue(name),
        }
    }

    /// Removes what waits and is visible; messages in the hands of applications stay theirs.
    fn purge_local(&mut self, number: u32) -> u64 {
        // What was put before the purge goes to disk before it.
        self.seal();
        let Some(queue) = self.locals.get_mut(&number) else {
            return 0;
        };
        let (count, bytes) = queue.waiting();
        let mut removals = Vec::new();
        let mut released = Vec::new();
        for lane in queue.lanes.values_mut() {
            let leased_below = lane.next_position();
            released.extend(lane.resident().cloned());
            lane.purge(true);
            if leased_below > 0 {
                removals.push((lane.stream, leased_below - 1));
            }
        }
        for message in &released {
            self.release(message);
        }
        for (stream, last) in removals {
            self.commits.settle(StoreOp::Remove {
                stream,
                first: 0,
                last,
            });
        }
        self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
        count
    }

    fn purge_outgoing(&mut self, number: u32) -> u64 {
        self.seal();
        let Some(out) = self.outs.get_mut(&number) else {
            return 0;
        };
        let mut count = 0;
        let mut bytes = 0;
        let mut removals = Vec::new();
        let mut released = Vec::new();
        for lane in out.lanes.values_mut() {
            count += lane.backlog.messages;
            bytes += lane.backlog.bytes;
            released.extend(lane.backlog.resident().cloned());
            // What was transmitted stays until its destination has spoken.
            let kept: Vec<u64> = lane.doubt.keys().copied().collect();
            removals.push((lane.backlog.stream, lane.backlog.next_position(), kept));
            // What is in flight or in doubt stays until its destination has spoken.
            lane.backlog.purge(false);
        }
        let in_flight: Vec<_> = self
            .sessions
            .values()
            .flat_map(|session| session.flights.values())
            .filter(|flight| flight.queue == number)
            .map(|flight| {
                (
                    Self::stream_of(number, flight.priority),
                    flight.message.position,
                )
            })
            .collect();
        for message in &released {
            self.release(message);
        }
        for (stream, next, mut kept) in removals {
            kept.extend(
                in_flight
                    .iter()
                    .filter(|(s, _)| *s == stream)
                    .map(|(_, p)| *p),
            );
            kept.sort_unstable();
            let mut first = 0;
            for position in kept.into_iter().chain([next]) {
                if first < position {
                    self.commits.settle(StoreOp::Remove {
                        stream,
                        first,
                        last: position - 1,
                    });
                }
                first = position + 1;
            }
        }
        self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
        count
    }

    fn pause_outgoing(&mut self, number: u32, paused: bool) {
        let Some(out) = self.outs.get_mut(&number) else {
            return;
        };
        out.paused = paused;
        let queue = out.queue.clone();
        let Some(remote) = self.remotes.get(&out.remote) else {
            return;
        };
        let record = QueueRecord::Outgoing {
            remote: remote.key.clone(),
            queue,
            paused,
        };
        self.commits.set(QueueRecord::key(number), record.encode());
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
            let cause = format!("no outgoing queue is called {name}");
            return failed(Outcome::NOT_FOUND, cause, "see: qm-node outgoing list");
        }
        let mut count = 0;
        for number in numbers {
            count += act(self, number);
        }
        done(count)
    }

    fn for_peer(&mut self, who: &str, mut act: impl FnMut(&mut Self, QmId)) -> AdminReply {
        let named = self.peers.names.get(&who.to_lowercase()).and_then(|entry| {
            let number = self.remote_keys.get(&entry.remote)?;
            self.remotes.get(number).and_then(Remote::peer)
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
        if let Some(qm) = qm {
            self.approve(qm, Some(&name));
            if let (Some(record), Some(address)) = (self.peers.known.get_mut(&qm), address) {
                record.learn_address(address);
            }
            self.save_peer(qm);
        }
        let pinned = self
            .remote_keys
            .get(&remote)
            .and_then(|number| self.remotes.get(number))
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
        self.for_peer(who, |engine, peer| {
            engine.peers.known.remove(&peer);
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
                engine.end_session(link, Outcome::BLOCKED, "the operator removed this peer");
            }
        })
    }

    /// The next queue manager that answers at this address is taken for the right one.
    fn unpin(&mut self, key: &RemoteKey) {
        let RemoteKey::Host(host) = key else { return };
        self.commits.unset(pin_key(host));
        if let Some(number) = self.remote_keys.get(key).copied() {
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

    /// Whole-state rules that hold between any two inputs.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit(&self) -> Result<(), String> {
        let locals = self.locals.values().flat_map(|queue| queue.lanes.values());
        let outs = self
            .outs
            .values()
            .flat_map(|out| out.lanes.values().map(|lane| &lane.backlog));
        locals.chain(outs).try_for_each(Backlog::audit)?;
        self.audit_leases()?;
        for (id, (number, priority, position)) in &self.doubts {
            let held = self
                .outs
                .get(number)
                .and_then(|out| out.lanes.get(priority))
                .is_some_and(|lane| lane.doubt.get(position).is_some_and(|m| m.id == *id));
            if !held {
                return Err(format!("message {id} is listed in doubt and is not held"));
            }
        }
        for session in self.sessions.values() {
            if session.arrived.messages > session.granted.messages {
                return Err(format!("{}: more arrived than was granted", session.link));
            }
            if session.flights.len() as u64 > session.sent.messages {
                return Err(format!("{}: more in flight than was sent", session.link));
            }
        }
        for (number, out) in &self.outs {
            let flights = self
                .sessions
                .values()
                .flat_map(|session| session.flights.values())
                .filter(|flight| flight.queue == *number)
                .count() as u64;
            if flights != out.in_flight {
                return Err(format!(
                    "outgoing queue {number}: {flights} in flight, counted {}",
                    out.in_flight
                ));
            }
        }
        Ok(())
    }
}
