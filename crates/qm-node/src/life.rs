//! A node's life: open what it owns, run, reopen after the disk failed, close in order.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_engine::limits::{FLIGHT_BYTES_MAX, LEASE_BYTES_MAX};
use qm_engine::{Engine, Identity, Recovered, Roles, Seal, TokenKey};
use qm_store::{Fs, LogOptions, StoreError};
use qm_transport::{BindError, Endpoint, EndpointConfig, NodeKey};
use qm_wire::Incarnation;
use qm_wire::limits::{FRAME_HEADER_BYTES, data_frame_bytes};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::Instrument as _;

use crate::adapter::{Disk, Opened};
use crate::clock::{NodeClock, SavedClock};
use crate::data_lock::DataLock;
use crate::driver::{Driver, Ended, GATHERED_BYTES_MAX};
use crate::entropy::SystemEntropy;
use crate::health::StoreHealth;
use crate::identity_file;
use crate::info::NodeInfo;
use crate::keys::NodeKeys;
use crate::local::{self, LocalEvent, LocalSocket, Window};
use crate::reading::Pace;
use crate::run::{NodeConfig, RunError, applications_max, store_cause};
use crate::{store_tools, sysprep};

/// Beginnings of the names of values that a store has when its node met a peer: tokens that were
/// given and held, peers, and what was asked and answered.
const MET_PEERS: [&[u8]; 4] = [b"token/", b"ledger/", b"peer/", b"heir/"];
/// Directory of the log inside the data directory.
pub(crate) const STORE_DIR: &str = "store";
/// The largest segment a store may have.
const SEGMENT_BYTES_MAX: u32 = 2 << 30;
/// The store may fail this often within [`PATIENCE`].
const FAILURES_MAX: usize = 5;
/// See [`FAILURES_MAX`].
const PATIENCE: Duration = Duration::from_secs(600);
/// First pause before the store is reopened; doubles with every failure.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a store is tried again that cannot be opened for want of room.
const ROOM_PAUSE: Duration = Duration::from_secs(2);
/// What somebody unknown may have in flight towards this node: greetings and acks.
const STRANGER_WINDOW_BYTES: u32 = 64 << 10;
/// Longest time for the goodbye to peers.
const GOODBYE: Duration = Duration::from_millis(2_500);
/// After the network was closed, its port can be busy for a moment.
const REBIND: Duration = Duration::from_secs(5);

/// What a data directory holds, the disk apart.
pub(crate) struct Owned {
    recovered: Recovered,
    store_id: [u8; 16],
    keys: NodeKeys,
    name: String,
    created: bool,
    health: Arc<StoreHealth>,
    /// Until the node has ended.
    _lock: DataLock,
}

impl Owned {
    pub(crate) fn info(
        &self,
        config: &NodeConfig,
        incarnation: Incarnation,
        listen: SocketAddr,
    ) -> NodeInfo {
        let key = self.keys.current();
        NodeInfo {
            name: self.name.clone(),
            qm: key.qm_id(),
            public_key: key.public_key(),
            fingerprint: key.fingerprint(),
            incarnation,
            listen,
            addresses: addresses(listen),
            socket: config.socket.clone(),
            // For whoever looks from another directory than the node was started in.
            data: std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone()),
            created: self.created,
            trust: config.engine.trust,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            network_failed: None,
            health: Arc::clone(&self.health),
        }
    }
}

/// Opens the data directory: its lock, the store, then the identity.
pub(crate) fn own(config: &NodeConfig, fs: Arc<dyn Fs>) -> Result<(Disk, Owned), RunError> {
    let data = &config.data;
    let is_begun = sysprep::is_prepared(data) || sysprep::is_exporting(data);
    if !config.create && !is_begun && !NodeKeys::exist(data)? {
        return Err(RunError::NotInitialised { data: data.clone() });
    }
    identity_file::create_data_dir(data)?;
    // Before anything is erased: another start may be at work here, or a node.
    let lock = DataLock::take(data)?;
    sysprep::finish(data)?;
    store_tools::check_interrupted(data)?;
    let health = Arc::new(StoreHealth::default());
    let (disk, recovered, store_id) = Disk::open(
        fs,
        &data.join(STORE_DIR),
        store_options(config),
        Pace::of(config.scrub_bytes_per_second),
        &health,
    )?;
    let used = !recovered.streams.is_empty() || !recovered.state.is_empty();
    let roles = roles_of(data, &recovered)?;
    let unused = is_unused(&recovered) && roles.is_none();
    let (keys, created) = match NodeKeys::open(data, roles)? {
        Some(keys) if unused && is_copied(config, &keys, &recovered) => {
            let keys = keys.replace()?;
            tracing::warn!(
                event = "identity_replaced",
                qm = %keys.current().qm_id(),
                "this directory was copied from another machine, and no peer ever met its node: \
                 a new identity was made"
            );
            (keys, true)
        }
        Some(keys) if !unused && roles.is_none() && is_of_another(&keys, &recovered) => {
            return Err(RunError::KeyMissing { data: data.clone() });
        }
        Some(keys) => (keys, false),
        None if !used => {
            let keys = NodeKeys::create(data)?;
            sysprep::begin(data)?;
            (keys, true)
        }
        None => return Err(RunError::KeyMissing { data: data.clone() }),
    };
    let kept = identity_file::load_name(data)?;
    let wished = config.name.as_deref().map(identity_file::tidy_name);
    let wished = wished.filter(|name| !name.is_empty());
    let name = wished
        .or_else(|| kept.clone())
        .unwrap_or_else(identity_file::host_name);
    if kept.as_ref() != Some(&name) {
        identity_file::save_name(data, &name)?;
    }
    Ok((
        disk,
        Owned {
            recovered,
            store_id,
            keys,
            name,
            created,
            health,
            _lock: lock,
        },
    ))
}

/// Whether the node of a store met no peer and holds no message: nobody misses its identity.
fn is_unused(recovered: &Recovered) -> bool {
    let met = |key: &Bytes| MET_PEERS.iter().any(|prefix| key.starts_with(prefix));
    let live = recovered.streams.values().any(|s| s.live_records > 0);
    !live && recovered.recent.is_empty() && !recovered.state.keys().any(met)
}

/// Whether the store has seals, and none under the identity of this key: then its own key is gone,
/// as when the store alone was put back after its key was erased. A store that knows of changes
/// names its keys, and one without seals cannot tell.
fn is_of_another(keys: &NodeKeys, recovered: &Recovered) -> bool {
    let mut owners = recovered.state.keys().filter_map(|key| Seal::owner(key));
    let own = keys.current().qm_id();
    owners.clone().next().is_some() && !owners.any(|qm| qm == own)
}

/// Whether this is another machine than the one that the identity was made on.
fn is_copied(config: &NodeConfig, keys: &NodeKeys, recovered: &Recovered) -> bool {
    let key = keys.current();
    let seals = crate::seals::read(key, &config.machine_ids);
    crate::seals::differ(key, &recovered.state, &seals)
}

/// Authenticates the tokens that an identity gives to peers.
pub(crate) fn token_key(key: &NodeKey) -> TokenKey {
    TokenKey::new(key.derive(b"qm-token"))
}

/// Which key is which, as the store says.
fn roles_of(data: &Path, recovered: &Recovered) -> Result<Option<Roles>, RunError> {
    Roles::read(&recovered.state).map_err(|what| {
        let path = data.join(STORE_DIR);
        RunError::Store(StoreError::Foreign { path, what })
    })
}

/// The store's options, with segments as large as the largest body asks for.
pub(crate) fn store_options(config: &NodeConfig) -> LogOptions {
    let mut options = config.store.clone();
    options.segment_bytes = segment_bytes(config);
    options
}

/// Segments hold the largest batch the loop can gather.
pub(crate) fn segment_bytes(config: &NodeConfig) -> u32 {
    const PAGE: usize = 4096;
    // Longer bodies have files of their own.
    let body = config.store.side_file_bytes;
    let frame = frame_bytes_max(config).min(data_frame_bytes(body));
    let batch = GATHERED_BYTES_MAX.saturating_add(frame.saturating_mul(2));
    let wanted = batch.div_ceil(PAGE).saturating_mul(PAGE);
    let wanted = u32::try_from(wanted)
        .unwrap_or(u32::MAX)
        .min(SEGMENT_BYTES_MAX);
    config.store.segment_bytes.max(wanted)
}

fn frame_bytes_max(config: &NodeConfig) -> usize {
    data_frame_bytes(usize::try_from(config.engine.body_bytes_max).unwrap_or(usize::MAX))
}

/// Lets a connection leave unread whatever the engine gives it at once, and as much again for what
/// comes with it. Else its next frame would end it, and so each time that the message is tried.
fn make_room(config: &mut NodeConfig, frame_bytes_max: usize) {
    let frame = u64::try_from(frame_bytes_max).unwrap_or(u64::MAX);
    let twice = |held: u64| held.saturating_add(frame).saturating_mul(2);
    let transport = &mut config.transport;
    let in_flight = twice(FLIGHT_BYTES_MAX);
    transport.unread_bytes_max = transport.unread_bytes_max.max(in_flight);
    transport.unread_bytes_total_max = transport.unread_bytes_total_max.max(in_flight);
    let local = &mut config.local;
    let leased = usize::try_from(twice(LEASE_BYTES_MAX)).unwrap_or(usize::MAX);
    local.unread_bytes_max = local.unread_bytes_max.max(leased);
    local.unread_bytes_total_max = local.unread_bytes_total_max.max(leased);
}

/// Runs a node until it is told to stop.
pub(crate) async fn serve(
    config: NodeConfig,
    fs: Arc<dyn Fs>,
    stop: &Notify,
    ready: impl FnOnce(&NodeInfo),
) -> Result<(), RunError> {
    let (disk, owned) = own(&config, Arc::clone(&fs))?;
    // The beginning of the identity tells the nodes of one process apart.
    let qm = owned.keys.current().qm_id().to_string();
    let qm = qm.get(..8).unwrap_or(&qm);
    let span = tracing::info_span!("node", qm);
    live(config, &fs, disk, owned, stop, ready)
        .instrument(span)
        .await
}

async fn live(
    mut config: NodeConfig,
    fs: &Arc<dyn Fs>,
    mut disk: Disk,
    mut owned: Owned,
    stop: &Notify,
    ready: impl FnOnce(&NodeInfo),
) -> Result<(), RunError> {
    let socket = LocalSocket::bind(&config.socket, config.local.mode)?;
    config.engine.name.clone_from(&owned.name);
    config.engine.host = identity_file::host_name();
    config.transport.listen = config.listen;
    let frame_bytes_max = frame_bytes_max(&config);
    config.transport.max_frame_bytes = frame_bytes_max.saturating_add(FRAME_HEADER_BYTES);
    make_room(&mut config, frame_bytes_max);
    // Anybody may dial: until the engine knows that a peer may send, it gets little memory.
    config
        .transport
        .stranger_window_bytes
        .get_or_insert(STRANGER_WINDOW_BYTES);

    let saved = owned.recovered.state.get(SavedClock::KEY);
    let clock = NodeClock::start(saved.and_then(|value| SavedClock::decode(value)));
    let (applications, mut local_events) = local::channel();
    let mut start = Some((socket, applications, ready));
    let mut server = None;
    let mut failures = VecDeque::new();
    let ended = loop {
        let (network, network_events) = mpsc::unbounded_channel();
        let endpoint = bind(&config.transport, &owned.keys, network, failures.is_empty()).await?;
        let listen = endpoint.local_addr().map_err(|source| BindError::Io {
            listen: config.listen,
            source,
        })?;
        // A port that was chosen freely is kept over failures of the disk.
        config.transport.listen = listen;
        config.engine.listen_port = listen.port();
        config.engine.seals = crate::seals::read(owned.keys.current(), &config.machine_ids);
        let mut engine = Engine::new(
            config.engine.clone(),
            Identity {
                qm: owned.keys.current().qm_id(),
                public_key: owned.keys.current().public_key(),
                store_id: owned.store_id,
                token_key: token_key(owned.keys.current()),
            },
            std::mem::take(&mut owned.recovered),
            Box::new(SystemEntropy),
            clock.now(),
        );
        if let Some(former) = owned.keys.former() {
            engine.set_former_token_key(token_key(former));
        }
        let info = owned.info(&config, engine.incarnation(), listen);
        if let Some((socket, applications, ready)) = start.take() {
            let window = Window {
                // Twice what was announced: a client that keeps to it is never held back.
                messages: 2 * usize::try_from(config.engine.client_window_messages).unwrap_or(0),
                bytes: 2 * usize::try_from(config.engine.client_window_bytes).unwrap_or(0),
                frame_bytes_max,
            };
            let conns = Arc::new(AtomicU64::new(1));
            let mut limits = config.local.clone();
            limits.connections = applications_max(limits.connections);
            let serving = socket.serve(limits, window, conns, applications);
            server = Some(tokio::spawn(serving.in_current_span()));
            log_start(&info);
            ready(&info);
        }
        let mut driver = Driver::new(
            engine,
            (endpoint, owned.keys.clone()),
            config.transport.clone(),
            disk,
            clock,
            info,
        );
        let ended = driver.run(network_events, &mut local_events, stop).await;
        let endpoint;
        (disk, owned.keys, endpoint) = driver.end();
        if !matches!(ended, Ended::StoreFailed { .. }) {
            stop_serving(server.take()).await;
        }
        if let Some(endpoint) = endpoint
            && timeout(GOODBYE, endpoint.shutdown()).await.is_err()
        {
            tracing::debug!("a peer did not take the goodbye in time");
        }
        disk.close().await;
        let cause = match ended {
            Ended::Stopped => break Ok(()),
            Ended::StoppedUnfinished { cause } => {
                tracing::error!(event = "stop_unfinished", %cause, "not all was written");
                break Err(RunError::StopUnfinished { cause });
            }
            Ended::StoreFailed { cause } => cause,
        };
        match reopen(&config, fs, &owned.health, cause, &mut failures, stop).await {
            Ok(Some((reopened, recovered, store_id))) => {
                disk = reopened;
                // What was changed before the failure may be on disk or not.
                let data = &config.data;
                let roles = roles_of(data, &recovered)?;
                let keys = NodeKeys::open(data, roles)?;
                owned.keys = keys.ok_or_else(|| RunError::KeyMissing { data: data.clone() })?;
                owned.recovered = recovered;
                owned.store_id = store_id;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        skip_stale(&mut local_events);
    };
    stop_serving(server).await;
    // The last answers are written by the connections' own tasks.
    tokio::task::yield_now().await;
    tracing::info!(
        event = "stopped",
        ok = ended.is_ok(),
        "the node has stopped"
    );
    ended
}

/// Takes no more applications; the socket's file is gone when this returns.
async fn stop_serving(server: Option<JoinHandle<()>>) {
    if let Some(server) = server {
        server.abort();
        drop(server.await);
    }
}

/// Recovers the store after a failure; `None` when the node is told to stop meanwhile.
async fn reopen(
    config: &NodeConfig,
    fs: &Arc<dyn Fs>,
    health: &Arc<StoreHealth>,
    mut cause: String,
    failures: &mut VecDeque<Instant>,
    stop: &Notify,
) -> Result<Option<Opened>, RunError> {
    let mut is_full = false;
    loop {
        let now = Instant::now();
        // A full disk is not broken: whoever makes room there finds the node waiting for it.
        if !is_full {
            failures.push_back(now);
        }
        while failures
            .front()
            .is_some_and(|first| now.duration_since(*first) > PATIENCE)
        {
            failures.pop_front();
        }
        let count = failures.len();
        if count >= FAILURES_MAX {
            tracing::error!(event = "store_given_up", %cause, failures = count, "the store failed");
            let failures = u32::try_from(count).unwrap_or(u32::MAX);
            return Err(RunError::StoreFailed { failures, cause });
        }
        let exponent = u32::try_from(count).unwrap_or(u32::MAX).saturating_sub(1);
        let mut pause = REOPEN_PAUSE.saturating_mul(2_u32.saturating_pow(exponent));
        if is_full {
            pause = ROOM_PAUSE;
        }
        tracing::error!(
            event = "store_failed",
            %cause,
            failures = count,
            pause_ms = pause.as_millis(),
            "the store failed; it is reopened by recovery"
        );
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.notified() => return Ok(None),
        }
        match Disk::open(
            Arc::clone(fs),
            &config.data.join(STORE_DIR),
            store_options(config),
            Pace::of(config.scrub_bytes_per_second),
            health,
        ) {
            Ok(opened) => {
                tracing::warn!(event = "store_reopened", "the store is open again");
                return Ok(Some(opened));
            }
            Err(error) => {
                cause = store_cause(&error);
                is_full = RunError::from(error).code() == "disk_full";
            }
        }
    }
}

/// What connections of the life before the failure still said.
fn skip_stale(events: &mut mpsc::Receiver<LocalEvent>) {
    let mut skipped = 0_usize;
    while let Ok(event) = events.try_recv() {
        // One that has just said hello would wait for ever.
        if let LocalEvent::Opened(conn) = event {
            conn.close();
        }
        skipped += 1;
    }
    tracing::debug!(skipped, "requests of before the failure are forgotten");
}

/// Opens the network; when it is not the first one of this process, its port may be busy for a
/// moment.
pub(crate) async fn bind(
    config: &EndpointConfig,
    keys: &NodeKeys,
    events: mpsc::UnboundedSender<qm_transport::Event>,
    first: bool,
) -> Result<Endpoint, RunError> {
    let began = Instant::now();
    loop {
        match Endpoint::bind(config.clone(), keys.current(), events.clone()).await {
            Ok(endpoint) => {
                endpoint.set_keys(&keys.held())?;
                return Ok(endpoint);
            }
            Err(BindError::AddressInUse { .. }) if !first && began.elapsed() < REBIND => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What peers can try to reach this node. Found without sending anything: the system is asked
/// which of its addresses it would use towards the network.
fn addresses(listen: SocketAddr) -> Vec<String> {
    let port = listen.port();
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let mut found = Vec::new();
    let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        // TEST-NET-1 (RFC 5737): routed outwards, used by nobody.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    if let Ok(address) = outward
        && let IpAddr::V4(ip) = address.ip()
        && !ip.is_unspecified()
    {
        found.push(format!("{ip}:{port}"));
    }
    let host = identity_file::host_name();
    if !host.is_empty() {
        found.push(format!("{host}:{port}"));
    }
    found
}

fn log_start(info: &NodeInfo) {
    tracing::info!(
        event = "started",
        name = %info.name,
        incarnation = %info.incarnation,
        listen = %info.listen,
        socket = %info.socket.display(),
        data = %info.data.display(),
        created = info.created,
        "the node runs"
    );
}

#[cfg(test)]
mod tests;
