//! How a node is started and stopped: as the daemon, or inside another process.

use std::net::{Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qm_engine::EngineConfig;
use qm_store::{LogOptions, RealFs, StoreError};
use qm_transport::{BindError, EndpointConfig};
use qm_wire::{Incarnation, QmId};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};

use crate::errors::{ErrorCode, code_of_io};
use crate::holder::{self, Holder};
use crate::identity_file::{self, IdentityError};
use crate::info::NodeInfo;
use crate::life;
use crate::local::{LocalError, LocalLimits};
use crate::stop_signals::stop_on_signals;

/// Port of queue managers, the same number as MSMQ's.
pub const DEFAULT_PORT: u16 = 1801;
/// Name of the local socket inside the data directory, unless configured otherwise.
const SOCKET_FILE: &str = "node.sock";
/// Files of a node without applications and peers, a few spare ones among them: sockets, the
/// runtime's own, and those of the store that are open at a time.
const NODE_FILES: usize = 32;
/// The same of whoever listens for signals.
const SIGNAL_FILES: usize = 8;
/// Applications that may be connected however low the limit of open files is.
const APPLICATIONS_MIN: usize = 2;
/// Files that a node may have open, if the operating system lets it: all applications and more.
const FILES_MAX: u64 = 65_536;
/// Threads that may resolve names at a time; each lives as long as its query.
const RESOLVERS_MAX: usize = 4;

/// Where a node keeps its things, where it listens, and how it behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Identity and store; created when missing.
    pub data: PathBuf,
    /// The local socket. Default `node.sock` in the data directory.
    pub socket: PathBuf,
    /// UDP address for peers; port 0 takes any free one. Default `[::]:1801`.
    pub listen: SocketAddr,
    /// Display name; kept for later starts. `None` takes the kept one, else the host's name.
    pub name: Option<String>,
    /// The protocol. `name`, `host` and `listen_port` are filled in by the node.
    pub engine: EngineConfig,
    /// The network. `listen` and `max_frame_bytes` are filled in by the node.
    pub transport: EndpointConfig,
    /// The disk. `segment_bytes` is raised when the largest body asks for it.
    pub store: LogOptions,
    /// Bytes of waiting messages that are verified a second in the background, once a day; 0 for
    /// none. Default 1 MiB.
    pub scrub_bytes_per_second: u64,
    /// The local socket's limits.
    pub local: LocalLimits,
    /// Where the operating system tells which machine this is, by the name of the source; the
    /// default are those of Linux. What cannot be read says nothing.
    pub machine_ids: Vec<(&'static str, PathBuf)>,
    /// Whether a data directory without an identity gets one. Default `true`.
    pub create: bool,
}

impl NodeConfig {
    /// Defaults for a node that keeps its things in `data`.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        Self {
            socket: data.join(SOCKET_FILE),
            data,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)),
            name: None,
            engine: EngineConfig::default(),
            transport: EndpointConfig::default(),
            store: LogOptions::default(),
            scrub_bytes_per_second: 1 << 20,
            local: LocalLimits::default(),
            machine_ids: crate::seals::sources(),
            create: true,
        }
    }

    /// Size of a file of the store: the one that is set, or more when the largest body asks for
    /// it.
    #[must_use]
    pub fn segment_bytes(&self) -> u32 {
        life::segment_bytes(self)
    }
}

/// What a data directory says about its node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IdentityInfo {
    /// Identity.
    pub qm: QmId,
    /// The key behind it.
    pub public_key: [u8; 32],
    /// What operators compare.
    pub fingerprint: String,
    /// Display name.
    pub name: String,
}

/// Why a node did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no identity and none is to be made.
    #[error("{} holds no node", data.display())]
    NotInitialised {
        /// The data directory.
        data: PathBuf,
    },
    /// The store belongs to an identity whose key is gone.
    #[error("{} holds a store but not the key of its node: the messages have lost their sender", data.display())]
    KeyMissing {
        /// The data directory.
        data: PathBuf,
    },
    /// Another process uses the data directory.
    #[error("{} uses the data directory {}", somebody(.holder.as_ref()), data.display())]
    DataInUse {
        /// The data directory.
        data: PathBuf,
        /// Who, where the operating system tells.
        holder: Option<Holder>,
    },
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened; see [`StoreError`].
    #[error("{}", store_cause(.0))]
    Store(#[source] StoreError),
    /// The store failed while the node ran, and reopening it did not help.
    #[error("the store failed {failures} times, last: {cause}")]
    StoreFailed {
        /// How often within the window of patience.
        failures: u32,
        /// The last failure.
        cause: String,
    },
    /// The node was told to stop, and the disk did not take all that was to be written.
    #[error("{cause}")]
    StopUnfinished {
        /// What was in the way.
        cause: String,
    },
    /// Another process has the port.
    #[error("UDP address {listen} is in use by {}", somebody(.holder.as_ref()))]
    PortInUse {
        /// The address that was asked for.
        listen: SocketAddr,
        /// Who, where the operating system tells.
        holder: Option<Holder>,
    },
    /// See [`BindError`].
    #[error("{}", bind_cause(.0))]
    Bind(#[source] BindError),
    /// See [`LocalError`].
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The operating system gives no threads, timers or signals.
    #[error("cannot start the node's {what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A thread of the node ended by panic, which is a defect.
    #[error("the node's thread panicked")]
    Panicked,
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Locked { path } => Self::DataInUse {
                holder: holder::of_file(&path),
                // The lock lies in the store, the store in the data directory.
                data: path.ancestors().nth(2).unwrap_or(&path).to_owned(),
            },
            other => Self::Store(other),
        }
    }
}

impl From<BindError> for RunError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::AddressInUse { listen } => Self::PortInUse {
                listen,
                holder: holder::of_udp(listen),
            },
            other => Self::Bind(other),
        }
    }
}

/// The process, or whoever it is.
pub(crate) fn somebody(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another process".to_owned(), Holder::to_string)
}

/// What is wrong, without the advice that a library gives with it.
pub(crate) fn store_cause(error: &StoreError) -> String {
    match error {
        StoreError::NewerFormat {
            path,
            found,
            supported,
        } => format!(
            "{} has format version {found}, this version reads up to {supported}",
            path.display()
        ),
        StoreError::Damaged {
            segment,
            path,
            offset,
            what,
            ..
        } => format!(
            "segment {segment} ({}) is damaged at offset {offset}: {what}",
            path.display()
        ),
        StoreError::Missing {
            segment,
            path,
            what,
            others,
        } => {
            let others = match others {
                0 => String::new(),
                others => format!(", and {others} more are missing"),
            };
            format!(
                "segment {segment} ({}) is missing: {what}{others}",
                path.display()
            )
        }
        StoreError::Foreign { path, what } => {
            format!("{} does not belong to this store: {what}", path.display())
        }
        StoreError::Failed { cause } => format!("the store stopped after an error: {cause}"),
        other => other.to_string(),
    }
}

/// The same for the network.
fn bind_cause(error: &BindError) -> String {
    match error {
        BindError::AddressNotAvailable { listen } => {
            format!("UDP address {listen} does not belong to this machine")
        }
        BindError::PermissionDenied { listen } => {
            format!("no permission for UDP address {listen}")
        }
        other => other.to_string(),
    }
}

impl RunError {
    /// Its row in the table of errors.
    fn known(&self) -> &'static ErrorCode {
        ErrorCode::named(self.code()).expect("invariant: the table has a row for every code here")
    }

    /// A stable word, one of [`errors::ALL`](crate::errors::ALL).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotInitialised { .. } => "not_initialised",
            Self::KeyMissing { .. } => "identity_key_missing",
            Self::DataInUse { .. } => "data_dir_locked",
            Self::Identity(IdentityError::NotAKey { .. }) => "identity_key_damaged",
            Self::Identity(IdentityError::Io { source, .. }) => code_of_io(source, "data_dir"),
            Self::Identity(IdentityError::Entropy(_)) | Self::Bind(BindError::Entropy) => "system",
            Self::Store(StoreError::NewerFormat { .. }) => "store_newer",
            Self::Store(StoreError::Damaged { .. } | StoreError::Missing { .. }) => "store_damaged",
            Self::Store(StoreError::Foreign { .. }) => "store_foreign",
            Self::Store(StoreError::Options { .. }) => "store_options",
            Self::Store(StoreError::Io { source, .. }) => code_of_io(source, "store_io"),
            Self::Store(_) => "store_io",
            Self::StoreFailed { .. } => "store_given_up",
            Self::StopUnfinished { .. } => "stop_unfinished",
            Self::PortInUse { .. } => "port_in_use",
            Self::Bind(BindError::AddressNotAvailable { .. }) => "address_not_available",
            Self::Bind(BindError::PermissionDenied { .. }) => "port_permission",
            Self::Bind(BindError::Config { .. }) => "network_options",
            Self::Bind(BindError::Io { source, .. }) => code_of_io(source, "listen"),
            Self::Bind(_) => "listen",
            Self::Local(LocalError::PathTooLong { .. }) => "socket_path_too_long",
            Self::Local(LocalError::NotASocket { .. }) => "not_a_socket",
            Self::Local(LocalError::InUse { .. }) => "socket_in_use",
            Self::Local(LocalError::Io { source, .. }) => code_of_io(source, "socket"),
            Self::System { source, .. } => code_of_io(source, "system"),
            Self::Panicked => "panicked",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        self.known().fix.to_owned()
    }

    /// Exit code of the process: 2 for what the configuration can mend, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.known().exit
    }
}

/// Runs a node on the calling thread until SIGTERM, SIGINT or SIGHUP.
///
/// The first signal ends it in order, within seconds: what it gathered is committed, peers hear a
/// goodbye. The second one ends the process at once with exit code 1. A SIGHUP that was ignored
/// when the process began, as nohup(1) does, stays ignored. `ready` is called once, when socket and
/// port are open.
///
/// # Errors
/// [`RunError`]: what, where, and what to do.
pub fn run(config: NodeConfig, ready: impl FnOnce(&NodeInfo)) -> Result<(), RunError> {
    raise_file_limit();
    check_files_left(SIGNAL_FILES + NODE_FILES)?;
    let stop = Arc::new(Notify::new());
    stop_on_signals(Arc::clone(&stop))?;
    on_runtime(life::serve(config, Arc::new(RealFs), &stop, ready))
}

/// Runs a node to its end, and does not wait for names that are still looked up: the resolver may
/// take minutes, and nobody wants its answer any more. All else has ended with the node.
fn on_runtime(node: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let runtime = runtime()?;
    // A panic is a defect, and still ends with a word and the exit code that the tables name.
    let served = catch_unwind(AssertUnwindSafe(|| runtime.block_on(node)));
    runtime.shutdown_background();
    served.unwrap_or(Err(RunError::Panicked))
}

/// Creates data directory, identity and store without running.
///
/// Does nothing to what exists; [`NodeInfo::created`] tells whether the identity is new.
///
/// # Errors
/// [`RunError`]; [`StoreError::Locked`] for a data directory whose node runs.
pub fn init(config: &NodeConfig) -> Result<NodeInfo, RunError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let (disk, owned) = life::own(config, Arc::new(RealFs))?;
        disk.close().await;
        Ok(owned.info(config, Incarnation(0), config.listen))
    })
}

/// Reads who the node of a data directory is, whether or not it runs.
///
/// # Errors
/// [`RunError::NotInitialised`] when there is none, [`RunError::Identity`] when it is unreadable.
pub fn identity(data: &Path) -> Result<IdentityInfo, RunError> {
    let key = identity_file::load_key(data)?;
    let key = key.ok_or_else(|| RunError::NotInitialised {
        data: data.to_owned(),
    })?;
    let name = identity_file::load_name(data)?.unwrap_or_else(identity_file::host_name);
    Ok(IdentityInfo {
        qm: key.qm_id(),
        public_key: key.public_key(),
        fingerprint: key.fingerprint(),
        name,
    })
}

/// A queue manager inside this process, on a thread of its own.
///
/// Dropping it stops it in order and waits for that.
///
/// ```
/// use qm_node::{Node, NodeConfig};
///
/// let dir = tempfile::tempdir()?;
/// let mut config = NodeConfig::new(dir.path());
/// config.listen = "127.0.0.1:0".parse()?;
/// let node = Node::start(config)?;
/// assert_ne!(node.listen().port(), 0);
/// node.shutdown()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    info: NodeInfo,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Node {
    /// Starts a node and returns when its socket and port are open.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start(config: NodeConfig) -> Result<Self, RunError> {
        let stop = Arc::new(Notify::new());
        let (tell, told) = oneshot::channel();
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("qm-node".to_owned())
            .spawn(move || {
                on_runtime(life::serve(config, Arc::new(RealFs), &asked, |info| {
                    // Nobody waits any more only if the starting thread panicked.
                    drop(tell.send(info.clone()));
                }))
            });
        let thread = thread.map_err(|source| RunError::System {
            what: "thread",
            source,
        })?;
        if let Ok(info) = told.blocking_recv() {
            return Ok(Self {
                info,
                stop,
                thread: Some(thread),
            });
        }
        match thread.join() {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(RunError::Panicked),
        }
    }

    /// What it is.
    #[must_use]
    pub const fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// Its identity.
    #[must_use]
    pub const fn qm_id(&self) -> QmId {
        self.info.qm
    }

    /// Where peers reach it.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.info.listen
    }

    /// Where applications reach it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.info.socket
    }

    /// Stops it in order: what it gathered is committed, peers hear a goodbye.
    ///
    /// # Errors
    /// [`RunError`] that ended the node, possibly long before.
    pub fn shutdown(mut self) -> Result<(), RunError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), RunError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.stop.notify_one();
        thread.join().unwrap_or(Err(RunError::Panicked))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(event = "node_failed", %error, "the node had ended with an error");
        }
    }
}

/// The limit that shells and services start with is often low for a node with many applications,
/// and a process may raise it as far as its operator allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(FILES_MAX, |most| most.min(FILES_MAX));
    if limit.current.is_some_and(|current| current < allowed) {
        limit.current = Some(allowed);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays");
        }
    }
}

/// How many applications may be connected at a time so that the node keeps files for itself: a
/// store or a network without one would fail, an application can come again.
pub(crate) fn applications_max(wished: usize) -> usize {
    use rustix::process::{Resource, getrlimit};
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    // The store's segments want files as the applications do.
    let room = (limit.saturating_sub(NODE_FILES + SIGNAL_FILES) / 2).max(APPLICATIONS_MIN);
    if room < wished {
        tracing::warn!(
            event = "few_files",
            limit,
            applications = room,
            wished,
            "the limit of open files leaves room for fewer applications; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    wished.min(room)
}

/// Whether this process may open so many files more. Asked before a runtime is made, which ends
/// the process in the middle of its own preparations when they run out.
///
/// # Errors
/// [`RunError::System`] with what the operating system said.
pub fn check_files_left(wanted: usize) -> Result<(), RunError> {
    let pairs: Result<Vec<_>, _> = (0..wanted.div_ceil(2))
        .map(|_| std::os::unix::net::UnixStream::pair())
        .collect();
    pairs.map(drop).map_err(|source| RunError::System {
        what: "first files",
        source,
    })
}

fn runtime() -> Result<Runtime, RunError> {
    check_files_left(NODE_FILES)?;
    // One thread for network, engine and applications: they share caches and need no locks. The
    // blocking threads only resolve names.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVERS_MAX)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|source| RunError::System {
            what: "runtime",
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_name_that_is_still_looked_up_holds_up_no_end() {
        let begun = Instant::now();
        // The answer to the look-up, which comes when the test is over.
        let (answer, answers) = std::sync::mpsc::channel::<()>();
        let ended = on_runtime(async move {
            let (tell, begins) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                tell.send(()).unwrap();
                assert!(answers.recv_timeout(Duration::from_secs(30)).is_err());
            });
            begins.await.unwrap();
            Ok(())
        });
        ended.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(25), "{took:?}");
        drop(answer);
    }
}
