//! How a node is started and stopped: as the daemon, or inside another process.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qm_engine::EngineConfig;
use qm_store::{LogOptions, RealFs, StoreError};
use qm_transport::{BindError, EndpointConfig};
use qm_wire::{Incarnation, QmId};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::identity_file::{self, IdentityError};
use crate::info::NodeInfo;
use crate::life;
use crate::local::{LocalError, LocalLimits};

/// Port of queue managers, the same number as MSMQ's.
pub const DEFAULT_PORT: u16 = 1801;
/// Name of the local socket inside the data directory, unless configured otherwise.
const SOCKET_FILE: &str = "node.sock";
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
    /// The local socket's limits.
    pub local: LocalLimits,
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
            local: LocalLimits::default(),
            create: true,
        }
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
    #[error("{} holds a store but no identity.key: the messages have lost their sender", data.display())]
    KeyMissing {
        /// The data directory.
        data: PathBuf,
    },
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened; see [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed while the node ran, and reopening it did not help.
    #[error("the store failed {failures} times, last: {cause}")]
    StoreFailed {
        /// How often within the window of patience.
        failures: u32,
        /// The last failure.
        cause: String,
    },
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
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

impl RunError {
    /// A stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotInitialised { .. } => "not_initialised",
            Self::KeyMissing { .. } => "identity_key_missing",
            Self::Identity(IdentityError::NotAKey { .. }) => "identity_key_damaged",
            Self::Identity(_) => "data_dir",
            Self::Store(StoreError::Locked { .. }) => "data_dir_locked",
            Self::Store(StoreError::NewerFormat { .. }) => "store_newer",
            Self::Store(StoreError::Damaged { .. }) => "store_damaged",
            Self::Store(StoreError::Foreign { .. }) => "store_foreign",
            Self::Store(StoreError::Options { .. }) => "store_options",
            Self::Store(_) => "store_io",
            Self::StoreFailed { .. } => "store_failed",
            Self::Bind(BindError::AddressInUse { .. }) => "port_in_use",
            Self::Bind(BindError::AddressNotAvailable { .. }) => "address_not_available",
            Self::Bind(BindError::PermissionDenied { .. }) => "port_permission",
            Self::Bind(_) => "listen",
            Self::Local(LocalError::PathTooLong { .. }) => "socket_path_too_long",
            Self::Local(LocalError::InUse { .. }) => "socket_in_use",
            Self::Local(_) => "socket",
            Self::System { .. } => "system",
            Self::Panicked => "panicked",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::NotInitialised { .. } => {
                "run `qm-node init`, or name the right directory with --data".to_owned()
            }
            Self::KeyMissing { .. } => "put identity.key back from a backup; to begin anew, move \
                the directory away"
                .to_owned(),
            Self::Identity(IdentityError::NotAKey { path }) => {
                format!(
                    "put {} back from a backup; it is never replaced by itself",
                    path.display()
                )
            }
            Self::Identity(_) => "check that the directory exists, belongs to the user who runs \
                the node, and is not on a read-only disk; choose it with --data"
                .to_owned(),
            Self::Store(error) => store_fix(error).to_owned(),
            Self::StoreFailed { .. } => "look at the disk (kernel log, SMART, mount options), \
                then start the node again: recovery tells what survived"
                .to_owned(),
            Self::Bind(BindError::AddressInUse { .. }) => {
                "stop the other process, or choose another port with --listen".to_owned()
            }
            Self::Bind(_) => "choose another address with --listen".to_owned(),
            Self::Local(LocalError::PathTooLong { .. }) => {
                "choose a shorter path with --socket, or `socket` in the configuration".to_owned()
            }
            Self::Local(LocalError::InUse { .. }) => {
                "stop the other node, or choose another path with --socket".to_owned()
            }
            Self::Local(LocalError::NotASocket { .. }) => {
                "move the file away, or choose another path with --socket".to_owned()
            }
            Self::Local(_) => {
                "check the permissions of the directory, or choose another path with --socket"
                    .to_owned()
            }
            Self::System { .. } => {
                "raise the limits of the process (ulimit -n, ulimit -u)".to_owned()
            }
            Self::Panicked => {
                "report this with the log; the store recovers at the next start".to_owned()
            }
        }
    }

    /// Exit code of the process: 2 for what the configuration can mend, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotInitialised { .. }
            | Self::Bind(BindError::Config { .. })
            | Self::Local(LocalError::PathTooLong { .. } | LocalError::NotASocket { .. })
            | Self::Store(StoreError::Options { .. }) => 2,
            _ => 1,
        }
    }
}

const fn store_fix(error: &StoreError) -> &'static str {
    match error {
        StoreError::Locked { .. } => {
            "use the node that runs, stop it, or choose another directory with --data"
        }
        StoreError::NewerFormat { .. } => {
            "install the version that wrote the data directory, or a later one"
        }
        StoreError::Damaged { .. } => {
            "run `qm-node store check` to see what is affected; put the directory back from a \
             backup, or give up the damaged part with `qm-node store repair`"
        }
        StoreError::Foreign { .. } => "move the named file out of the store's directory",
        StoreError::Options { .. } => "correct the `store` settings of the configuration",
        _ => "check that the disk is there, writable and not full, and who owns the directory",
    }
}

/// Runs a node on the calling thread until SIGTERM or SIGINT.
///
/// The first signal ends it in order, within seconds: what it gathered is committed, peers hear a
/// goodbye. The second one ends the process at once with exit code 1. `ready` is called once,
/// when socket and port are open.
///
/// # Errors
/// [`RunError`]: what, where, and what to do.
pub fn run(config: NodeConfig, ready: impl FnOnce(&NodeInfo)) -> Result<(), RunError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let stop = Arc::new(Notify::new());
        let mut terminate = listen_for(SignalKind::terminate())?;
        let mut interrupt = listen_for(SignalKind::interrupt())?;
        let signalled = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if asked {
                    tracing::warn!(event = "stop_forced", "stopped at once by a second signal");
                    std::process::exit(1);
                }
                asked = true;
                tracing::info!(
                    event = "stop_asked",
                    "stopping; a second signal stops at once"
                );
                signalled.notify_one();
            }
        });
        life::serve(config, Arc::new(RealFs), &stop, ready).await
    })
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
                let runtime = runtime()?;
                runtime.block_on(life::serve(config, Arc::new(RealFs), &asked, |info| {
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

fn runtime() -> Result<Runtime, RunError> {
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

fn listen_for(kind: SignalKind) -> Result<Signal, RunError> {
    signal(kind).map_err(|source| RunError::System {
        what: "signal handler",
        source,
    })
}
