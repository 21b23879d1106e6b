//! A queue manager inside another program, and one for tests.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use qm_engine::Trust;

use crate::run::{Node, NodeConfig, RunError};

/// Starts queue managers inside this process.
///
/// ```no_run
/// use qm_node::QueueManager;
///
/// let node = QueueManager::builder("/var/lib/till").name("till-17").start()?;
/// println!("{} listens at {}", node.qm_id(), node.listen());
/// // Applications of this process talk to it through `qm_client`, by `node.socket()`.
/// node.shutdown()?;
/// # Ok::<(), qm_node::RunError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct QueueManager;

impl QueueManager {
    /// A queue manager that keeps identity and store in `data`; created when missing.
    pub fn builder(data: impl Into<PathBuf>) -> Builder {
        Builder {
            config: NodeConfig::new(data),
        }
    }
}

/// What a [`QueueManager`] shall be; everything has a default, see [`NodeConfig`].
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    config: NodeConfig,
}

impl Builder {
    /// Its display name; kept in the data directory.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// UDP address for peers; port 0 takes any free one. Default `[::]:1801`.
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen = address;
        self
    }

    /// The socket of applications. Default `node.sock` in the data directory.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.socket = path.into();
        self
    }

    /// Who may send to it. Default [`Trust::Approve`].
    pub const fn trust(mut self, trust: Trust) -> Self {
        self.config.engine.trust = trust;
        self
    }

    /// Everything else.
    pub fn configure(mut self, change: impl FnOnce(&mut NodeConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts it on a thread of its own and returns when socket and port are open.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start(self) -> Result<Node, RunError> {
        Node::start(self.config)
    }
}

/// A node for tests: on a free loopback port, trusting everybody, in a directory that is removed
/// with it.
///
/// ```
/// use qm_client::{Message, ReceiveOptions, blocking::Client};
/// use qm_node::TestNode;
///
/// let node = TestNode::start()?;
/// let client = Client::connect(node.socket())?;
/// client.admin(r#"{"do":"queue.create","name":"orders"}"#)?;
/// client.send(Message::new("orders", "two teas"))?;
/// let delivery = client.receive(&"orders".parse()?, &ReceiveOptions::new())?.unwrap();
/// assert_eq!(&delivery.body()[..], b"two teas");
/// client.wait(delivery.consume())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TestNode {
    // Stopped before its directory goes: fields are dropped in their order.
    node: Node,
    dir: TestDir,
}

impl TestNode {
    /// Starts a node with small limits: bodies of 256 KiB, a store of a few ten megabytes.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start() -> Result<Self, RunError> {
        Self::start_with(|_| {})
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start_with(change: impl FnOnce(&mut NodeConfig)) -> Result<Self, RunError> {
        let dir = TestDir::new()?;
        let builder = QueueManager::builder(&dir.0)
            .name("test")
            .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
            .trust(Trust::Any)
            .configure(|config| {
                config.engine.body_bytes_max = 256 << 10;
                config.store.segment_bytes = 1 << 20;
                config.store.reserve_bytes = 1 << 20;
            })
            .configure(change);
        let node = builder.start()?;
        Ok(Self { node, dir })
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.dir.0
    }
}

impl Deref for TestNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

#[derive(Debug)]
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Result<Self, RunError> {
        let number = getrandom::u64().map_err(crate::IdentityError::Entropy)?;
        let dir = std::env::temp_dir().join(format!("qm-test-{number:016x}"));
        crate::identity_file::create_data_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "a test's directory stays");
        }
    }
}
