//! The loop of a running node: whatever happens outside goes into the engine, whatever the engine
//! wants happens.
//!
//! Everything that is ready is taken at once, then the engine is asked once. So batches form by
//! themselves: the busier the node, the more a write, a commit and an ack cover.

mod freezing;
mod network;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_engine::admin::AdminReply;
use qm_engine::{ConnId, DialFailure, Engine, Input, Lane, LinkId, Output, Timestamp};
use qm_transport::{CloseReason, DialError, Endpoint, EndpointConfig, Event as NetworkEvent, Held};
use qm_wire::QmId;
use qm_wire::local::{self as wire, ClientFrame, NodeFrame};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::adapter::{Disk, DiskEvent};
use crate::admin_json::{self, Shape};
use crate::clock::NodeClock;
use crate::events;
use crate::fair::{Fairness, Tally, work_time};
use crate::info::NodeInfo;
use crate::keys::NodeKeys;
use crate::life::token_key;
use crate::local::{Conn, LocalEvent};
use crate::log_rate;
use crate::signals::Signals;
use freezing::{Freeze, HeldBack};
use network::{Dial, Renewal};

pub use freezing::FREEZE_MS_MAX;

/// Inputs that are handled before the engine is asked what follows from them.
const BATCH_INPUTS: usize = 1024;
/// Bytes of messages that are handled before the engine is asked; the last one may exceed it. A
/// batch of the store must fit one of its segments.
pub(crate) const GATHERED_BYTES_MAX: usize = 16 << 20;
/// Longest sleep: node time goes on while the machine sleeps, timers do not.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// What waits for its turn is looked at this often.
const WAITING_LOOK: Duration = Duration::from_millis(10);
/// A stopping node commits what it gathered as long as the disk commits something within this
/// time: a slow disk may have all of the express messages to write.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why the loop ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// It was told to, and the disk did not take all that was to be written.
    StoppedUnfinished {
        /// What was in the way.
        cause: String,
    },
    /// The store refuses further work.
    StoreFailed {
        /// Its first error.
        cause: String,
    },
}

/// See the module.
pub(crate) struct Driver {
    engine: Engine,
    /// `None` between one network and the next.
    endpoint: Option<Endpoint>,
    /// Sign what the engine says of this node's identity.
    keys: NodeKeys,
    disk: Disk,
    clock: NodeClock,
    info: NodeInfo,
    conns: BTreeMap<ConnId, Arc<Conn>>,
    /// Connections with something to write.
    written: BTreeSet<ConnId>,
    /// Whose frames wait because they brought nothing.
    fair: Fairness,
    /// Requests of applications that ask for more than the loop has time for.
    asking: BTreeMap<ConnId, VecDeque<ClientFrame>>,
    /// How answers to administrative requests are to look.
    shapes: BTreeMap<(ConnId, u64), Shape>,
    /// Received bytes that are not yet dealt with.
    held: Vec<Held>,
    /// Bytes of what was handled since the engine was last asked.
    gathered_bytes: usize,
    /// Batches at the disk.
    commits: usize,
    /// Connections that were closed from here.
    closed: u64,
    /// Who asked that this node stands still.
    freezing: Option<Freeze>,
    /// While it does, what is to be written afterwards.
    held_back: Option<Vec<HeldBack>>,
    /// How the network is begun anew, and signs that it has to be.
    network: Renewal,
    signals: Signals,
    failed: Option<String>,
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        (endpoint, keys): (Endpoint, NodeKeys),
        config: EndpointConfig,
        disk: Disk,
        clock: NodeClock,
        info: NodeInfo,
    ) -> Self {
        Self {
            engine,
            endpoint: Some(endpoint),
            keys,
            disk,
            clock,
            info,
            conns: BTreeMap::new(),
            written: BTreeSet::new(),
            fair: Fairness::new(),
            asking: BTreeMap::new(),
            shapes: BTreeMap::new(),
            held: Vec::new(),
            gathered_bytes: 0,
            commits: 0,
            closed: 0,
            freezing: None,
            held_back: None,
            network: Renewal::new(config),
            signals: Signals::watch(),
            failed: None,
        }
    }

    /// Runs until `stop`, and then until what was gathered is on disk.
    pub(crate) async fn run(
        &mut self,
        mut network: mpsc::UnboundedReceiver<NetworkEvent>,
        local: &mut mpsc::Receiver<LocalEvent>,
        stop: &Notify,
    ) -> Ended {
        let mut stop_at: Option<Timestamp> = None;
        self.drain();
        loop {
            if let Some(cause) = self.failed.take() {
                // Who asked for the end is not served by a store that is opened again.
                return match stop_at {
                    Some(_) => Ended::StoppedUnfinished { cause },
                    None => Ended::StoreFailed { cause },
                };
            }
            let until = match stop_at {
                Some(_) if self.commits == 0 => return self.stopped(),
                Some(at) if at <= self.clock.now().at => {
                    let cause = format!(
                        "the node was to stop, and the disk wrote nothing for {} s; {} commits were left",
                        STOP_PATIENCE.as_secs(),
                        self.commits
                    );
                    return Ended::StoppedUnfinished { cause };
                }
                Some(at) => at.min(self.engine.next_deadline()),
                None => self.engine.next_deadline(),
            };
            let until = match self.network.due {
                true => until.min(self.network.again_at),
                false => until,
            };
            let pause = self.pause(until);
            let commits = self.commits;
            tokio::select! {
                biased;
                () = stop.notified(), if stop_at.is_none() => {
                    stop_at = Some(self.clock.now().at + STOP_PATIENCE);
                    self.handle(Input::Stop);
                }
                Some(event) = self.disk.next() => self.on_disk(event),
                Some(event) = network.recv() => self.on_network(event),
                Some(event) = local.recv() => { self.on_local(event); }
                () = sleep(pause) => self.handle(Input::Tick),
            }
            self.take_ready(&mut network, local);
            if self.commits < commits && stop_at.is_some() {
                stop_at = Some(self.clock.now().at + STOP_PATIENCE);
            }
            self.serve_waiting();
            self.look_for_signs();
            self.drain();
            if let Some(freeze) = self.freezing.take() {
                self.stand_still(freeze, local, stop).await;
                self.drain();
            }
            if self.network.due && self.network.again_at <= self.clock.now().at {
                match self.renew_network().await {
                    Ok(renewed) => network = renewed,
                    // An interface may come up later than the node wakes: nothing is given up.
                    Err(error) => self.network_failed(&error),
                }
            }
            // Lets the connections' tasks read and write, however busy this loop is.
            tokio::task::yield_now().await;
        }
    }

    /// Everything that was gathered is on disk, or was refused.
    fn stopped(&self) -> Ended {
        match self.engine.spills_refused() {
            0 => Ended::Stopped,
            lost => Ended::StoppedUnfinished {
                cause: format!("the disk had no room for {lost} express messages"),
            },
        }
    }

    /// Closes the applications' connections and gives the disk back.
    pub(crate) fn end(self) -> (Disk, NodeKeys, Option<Endpoint>) {
        for conn in self.conns.values() {
            conn.close();
        }
        (self.disk, self.keys, self.endpoint)
    }

    fn pause(&self, until: Timestamp) -> Duration {
        let left_us = until.0.saturating_sub(self.clock.now().at.0);
        let most = if self.fair.is_waiting() || !self.asking.is_empty() {
            WAITING_LOOK
        } else {
            SLEEP_MAX
        };
        Duration::from_micros(left_us).min(most)
    }

    fn handle(&mut self, input: Input) {
        self.engine.handle(self.clock.now(), input);
    }

    fn take_ready(
        &mut self,
        network: &mut mpsc::UnboundedReceiver<NetworkEvent>,
        local: &mut mpsc::Receiver<LocalEvent>,
    ) {
        let mut taken = 0;
        while taken < BATCH_INPUTS && self.gathered_bytes < GATHERED_BYTES_MAX {
            let before = taken;
            // In turn, so that no source keeps the others waiting.
            if let Some(event) = self.disk.try_next() {
                self.on_disk(event);
                taken += 1;
            }
            if let Ok(event) = network.try_recv() {
                self.on_network(event);
                taken += 1;
            }
            if let Ok(event) = local.try_recv() {
                taken += self.on_local(event);
            }
            if taken == before {
                return;
            }
        }
    }

    fn on_disk(&mut self, event: DiskEvent) {
        match event {
            DiskEvent::Persisted { ticket } => {
                self.commits = self.commits.saturating_sub(1);
                self.handle(Input::Persisted { ticket });
            }
            DiskEvent::Refused {
                ticket,
                ops,
                limited,
            } => {
                self.commits = self.commits.saturating_sub(1);
                self.handle(Input::PersistRefused {
                    ticket,
                    ops,
                    limited,
                });
            }
            DiskEvent::HasRoom => self.handle(Input::DiskHasRoom),
            // Whoever asked for it waits for it.
            DiskEvent::Held => {}
            DiskEvent::Damaged {
                load,
                position,
                set_aside,
            } => self.handle(Input::Damaged {
                load,
                position,
                set_aside,
            }),
            DiskEvent::Loaded { load, records } => self.handle(Input::Loaded { load, records }),
            DiskEvent::Failed { cause } => {
                self.failed.get_or_insert(cause);
            }
        }
    }

    fn on_network(&mut self, event: NetworkEvent) {
        let input = match event {
            NetworkEvent::Connected {
                link,
                peer,
                public_key,
                own,
                remote,
                dial,
            } => {
                let link = self.link_here(link);
                self.fair.opened(link, peer);
                Input::Connected {
                    link,
                    peer,
                    public_key,
                    own,
                    remote,
                    dial,
                }
            }
            NetworkEvent::DialFailed { dial, error } => {
                let failure = dial_failure(&error);
                Input::DialFailed {
                    dial,
                    failure,
                    text: error.to_string(),
                }
            }
            NetworkEvent::Received {
                link,
                lane,
                frames,
                held,
            } => {
                let link = self.link_here(link);
                if let Some((frames, held)) = self.fair.admit(link, lane, frames, held) {
                    self.receive(link, lane, frames, held);
                }
                return;
            }
            NetworkEvent::Closed { link, reason } => {
                let link = self.link_here(link);
                self.fair.closed(link);
                Input::Closed {
                    link,
                    text: close_text(reason),
                }
            }
            NetworkEvent::AddressChanged { link, remote } => {
                tracing::info!(event = "peer_moved", link = link.0, %remote, "a peer changed its address");
                return;
            }
            _ => return,
        };
        self.handle(input);
    }

    /// Hands frames of a peer over, and notes what that brought.
    fn receive(&mut self, link: LinkId, lane: qm_transport::Lane, frames: Bytes, held: Held) {
        self.held.push(held);
        self.gathered_bytes += frames.len();
        let before = Tally::of(self.engine.counters());
        let began = work_time();
        self.handle(Input::Received { link, frames });
        let after = Tally::of(self.engine.counters());
        let spent = work_time().saturating_sub(began);
        self.fair.charge(link, lane, (before, after), spent);
    }

    /// Serves those whose turn has come among those that wait.
    fn serve_waiting(&mut self) {
        let mut served = None;
        while self.gathered_bytes < GATHERED_BYTES_MAX {
            let Some((link, lane, frames, held)) = self.fair.next_due(served) else {
                break;
            };
            served = Some(link);
            self.receive(link, lane, frames, held);
        }
        let asking: Vec<ConnId> = self.asking.keys().copied().collect();
        for conn in asking {
            let Some(mut frames) = self.asking.remove(&conn) else {
                continue;
            };
            if self.conns.contains_key(&conn) {
                self.serve_client(conn, &mut frames);
            }
        }
    }

    /// Serves an application's frames; those that wait for the time of administrative requests are
    /// kept, and no further ones are read from it meanwhile.
    fn serve_client(&mut self, conn: ConnId, frames: &mut VecDeque<ClientFrame>) {
        while let Some(frame) = frames.pop_front() {
            // Closed meanwhile, by the engine or because it reads nothing.
            let Some(known) = self.conns.get(&conn) else {
                return;
            };
            if !matches!(frame, ClientFrame::Admin(_)) {
                self.on_client(conn, frame);
                continue;
            }
            let began = work_time();
            if !self.fair.admin.may_ask(Instant::now()) {
                known.hold_back(true);
                frames.push_front(frame);
                self.asking.insert(conn, core::mem::take(frames));
                return;
            }
            self.on_client(conn, frame);
            // The answer is made when the engine is asked, and is most of the work.
            self.look_for_signs();
            self.drain_once();
            self.fair.admin.spend(work_time().saturating_sub(began));
        }
        if let Some(conn) = self.conns.get(&conn) {
            conn.hold_back(false);
        }
    }

    /// Returns how many inputs it was.
    fn on_local(&mut self, event: LocalEvent) -> usize {
        match event {
            LocalEvent::Opened(conn) => {
                self.conns.insert(conn.id(), conn);
                1
            }
            LocalEvent::Frames {
                conn,
                frames,
                bytes,
                ..
            } => {
                let count = frames.len();
                self.gathered_bytes += bytes;
                match self.asking.get_mut(&conn) {
                    Some(asking) => asking.extend(frames),
                    None => self.serve_client(conn, &mut frames.into()),
                }
                count
            }
            LocalEvent::Closed { conn } => {
                if self.conns.remove(&conn).is_some() {
                    self.forget_client(conn);
                }
                1
            }
        }
    }

    fn on_client(&mut self, conn: ConnId, frame: ClientFrame) {
        let admin = match frame {
            ClientFrame::Admin(admin) => admin,
            ClientFrame::Ignored { .. } => return,
            frame => return self.handle(Input::Client { conn, frame }),
        };
        let request = admin.request;
        match admin_json::decode_request(&admin.json) {
            Ok(asked) => {
                self.shapes.insert((conn, request), asked.shape);
                self.handle(Input::Admin {
                    conn,
                    request,
                    what: asked.request,
                });
            }
            Err(error) => self.answer(conn, request, false, admin_json::encode_error(&error)),
        }
    }

    fn forget_client(&mut self, conn: ConnId) {
        self.written.remove(&conn);
        self.asking.remove(&conn);
        self.shapes.retain(|(of, _), _| *of != conn);
        self.handle(Input::ClientClosed { conn });
    }

    /// In every round: what was made before a snapshot is not to be sent by two machines.
    fn look_for_signs(&mut self) {
        if let Some(why) = self.signals.look(&self.clock.now()) {
            self.handle(Input::Resumed { why });
        }
    }

    fn drain(&mut self) {
        while self.drain_once() {}
        self.flush_written();
        self.held.clear();
        self.gathered_bytes = 0;
    }

    fn flush_written(&mut self) {
        for conn in std::mem::take(&mut self.written) {
            if let Some(conn) = self.conns.get(&conn) {
                conn.flush();
            }
        }
    }

    /// Whether the engine got new inputs on the way and must be asked again.
    fn drain_once(&mut self) -> bool {
        let now = self.clock.now();
        let closed = self.closed;
        while let Some(output) = self.engine.poll(now) {
            match output {
                Output::Send { link, lane, frames } => {
                    if let Some((endpoint, link)) = self.link_there(link) {
                        endpoint.send(link, network_lane(lane), frames);
                    }
                }
                Output::Close { link, reason, text } => {
                    if let Some((endpoint, link)) = self.link_there(link) {
                        endpoint.close(link, u32::from(reason.0), &text);
                    }
                }
                Output::Trust { link } => {
                    if let Some((endpoint, link)) = self.link_there(link) {
                        endpoint.trust(link);
                    }
                }
                Output::Freeze {
                    conn,
                    request,
                    for_ms,
                } => {
                    self.freezing = Some(Freeze {
                        conn,
                        request,
                        for_ms,
                    });
                }
                Output::Abandon => self.abandon_network(),
                Output::Dial {
                    dial,
                    address,
                    expected,
                    own,
                } => self.dial(Dial {
                    dial,
                    own,
                    address,
                    expected,
                }),
                Output::Persist {
                    ticket,
                    ops,
                    refusals_known,
                } => match &mut self.held_back {
                    Some(held_back) => held_back.push((ticket, ops, refusals_known)),
                    None => {
                        self.commits += 1;
                        self.disk.persist(ticket, ops, refusals_known);
                    }
                },
                Output::Load {
                    load,
                    stream,
                    from,
                    records_max,
                    bytes_max,
                } => {
                    self.disk.load(load, stream, from, records_max, bytes_max);
                }
                Output::Client { conn, frame } => self.push(conn, &frame),
                Output::Admin {
                    conn,
                    request,
                    reply,
                } => self.on_reply(conn, request, &reply),
                Output::CloseClient { conn, text } => self.close_client(conn, &text),
                Output::Sign { sign, bytes } => {
                    let signature = self.keys.current().sign(&bytes);
                    self.handle(Input::Signed { sign, signature });
                }
                Output::Verify {
                    verify,
                    key,
                    bytes,
                    signature,
                } => {
                    let good = qm_transport::verify(&key, &bytes, &signature);
                    self.handle(Input::Verified { verify, good });
                }
                Output::Succeed { old_key, new_key } => {
                    let input = match self.keys.succeed(&old_key, new_key.as_ref()) {
                        Ok((succession, new)) => Input::Succeeded {
                            succession,
                            token_key: token_key(&new),
                        },
                        Err(error) => Input::NotSucceeded {
                            text: error.to_string(),
                        },
                    };
                    self.handle(input);
                }
                Output::Keys { current, former } => self.change_keys(current, former),
                Output::Event(event) => events::log(&event),
                _ => tracing::error!(
                    event = "output_unknown",
                    "the engine asks for something new"
                ),
            }
        }
        self.closed != closed
    }

    /// The roles of the keys are durable: the network and the data directory follow.
    fn change_keys(&mut self, current: QmId, former: Option<QmId>) {
        if let Err(error) = self.keys.assume(current, former) {
            // What is left over is put in order at the next start.
            tracing::error!(event = "keys_not_arranged", %error, "the files of the keys could not be put in order");
        }
        let held = self.keys.held();
        let set = self.endpoint.as_ref().map(|e| e.set_keys(&held));
        if let Some(Err(error)) = set {
            self.failed.get_or_insert_with(|| error.to_string());
        }
        let key = self.keys.current();
        self.info.qm = key.qm_id();
        self.info.public_key = key.public_key();
        self.info.fingerprint = key.fingerprint();
    }

    fn on_reply(&mut self, conn: ConnId, request: u64, reply: &AdminReply) {
        let shape = self.shapes.remove(&(conn, request)).unwrap_or_default();
        let (ok, json) = admin_json::encode_reply(reply, &shape, &self.info);
        self.answer(conn, request, ok, json);
    }

    fn answer(&mut self, conn: ConnId, request: u64, ok: bool, json: Vec<u8>) {
        let reply = wire::AdminReply {
            request,
            ok,
            json: json.into(),
        };
        self.push(conn, &NodeFrame::AdminReply(reply));
    }

    fn push(&mut self, id: ConnId, frame: &NodeFrame) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if conn.push(frame) {
            self.written.insert(id);
        } else {
            self.close_client(id, "it leaves too many answers unread");
        }
    }

    fn close_client(&mut self, id: ConnId, text: &str) {
        if let Some(conn) = self.conns.remove(&id) {
            if log_rate::admits("client_closed") {
                tracing::warn!(
                    event = "client_closed",
                    conn = id.0,
                    reason = text,
                    "connection closed"
                );
            }
            conn.close();
            self.closed += 1;
            self.forget_client(id);
        }
    }
}

const fn network_lane(lane: Lane) -> qm_transport::Lane {
    match lane {
        Lane::Control => qm_transport::Lane::Control,
        Lane::Ack => qm_transport::Lane::Ack,
        Lane::Priority(priority) => qm_transport::Lane::Priority(priority),
    }
}

const fn dial_failure(error: &DialError) -> DialFailure {
    match error {
        DialError::Resolve { .. } => DialFailure::Unresolved,
        DialError::Refused { .. } | DialError::Busy { .. } => DialFailure::Refused,
        DialError::WrongIdentity { .. } => DialFailure::WrongIdentity,
        DialError::Version { .. } => DialFailure::Version,
        DialError::Tls { .. } => DialFailure::Handshake,
        _ => DialFailure::Unreachable,
    }
}

/// A peer that closed on purpose has said why; its sentence says more than ours about it.
fn close_text(reason: CloseReason) -> String {
    match reason {
        CloseReason::Local { reason, .. } | CloseReason::Peer { reason, .. }
            if !reason.is_empty() =>
        {
            reason
        }
        other => other.to_string(),
    }
}
