//! Nodes for tests: in this process, or as a process that can be killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qm_client::blocking::Client;
use qm_client::{Message, ReceiveOptions};
use qm_engine::Trust;
use qm_node::{Node, NodeConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::eventually;

/// Longest time anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether tests that kill processes or take long shall run.
pub(crate) fn slow_tests() -> bool {
    std::env::var_os("QM_SLOW_TESTS").is_some_and(|value| value == "1")
}

/// A node of this process with a data directory of its own.
pub(crate) struct TestNode {
    dir: TempDir,
    name: String,
    trust: Trust,
    listen: SocketAddr,
    node: Option<Node>,
}

impl TestNode {
    /// A node that takes messages from everybody.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, Trust::Any)
    }

    pub(crate) fn start_with(name: &str, trust: Trust) -> Self {
        let mut node = Self {
            dir: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            trust,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            node: None,
        };
        node.go_on();
        node
    }

    /// Starts again on the same data directory and port.
    pub(crate) fn go_on(&mut self) {
        assert!(self.node.is_none(), "{} runs already", self.name);
        let node = Node::start(self.config()).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        self.listen = node.listen();
        self.node = Some(node);
    }

    pub(crate) fn config(&self) -> NodeConfig {
        let mut config = NodeConfig::new(self.dir.path());
        config.listen = self.listen;
        config.name = Some(self.name.clone());
        config.engine.trust = self.trust;
        // Small segments: many nodes share a small disk.
        config.engine.body_bytes_max = 256 << 10;
        config.store.segment_bytes = 1 << 20;
        config.store.reserve_bytes = 1 << 20;
        config
    }

    pub(crate) fn stop(&mut self) {
        self.node.take().expect("it runs").shutdown().unwrap();
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.node().socket()).unwrap()
    }

    /// A queue of this node as others address it.
    pub(crate) fn queue(&self, name: &str) -> String {
        format!("qm://{}/{name}", self.listen)
    }

    pub(crate) fn admin(&self, request: &Value) -> Value {
        admin(&self.client(), request)
    }

    pub(crate) fn create_queue(&self, name: &str) {
        self.admin(&json!({"do": "queue.create", "name": name}));
    }
}

/// Asks for something administrative that must succeed.
pub(crate) fn admin(client: &Client, request: &Value) -> Value {
    let answer = client.admin(request.to_string());
    serde_json::from_slice(&answer.unwrap_or_else(|e| panic!("{request}: {e}"))).unwrap()
}

/// A real `qm-node` process.
pub(crate) struct Process {
    child: Child,
    socket: PathBuf,
}

impl Process {
    /// Starts the binary and waits until it answers on its socket.
    pub(crate) fn start(data: &Path, listen: SocketAddr) -> Self {
        let socket = data.join("node.sock");
        let mut command = Command::new(binary());
        command.args(["run", "--trust", "any", "--data"]).arg(data);
        command.arg("--listen").arg(listen.to_string());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Self {
            child: child.spawn().unwrap(),
            socket,
        };
        eventually("the node answers", || Client::connect(&process.socket).ok());
        process
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// SIGTERM, then its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let mut kill = Command::new("kill");
        assert!(
            kill.arg(self.child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap().code()
    }

    /// SIGKILL: nothing is flushed, nobody hears a goodbye.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it was killed before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The binary under test: `QM_NODE_BIN`, or what cargo builds beside this test.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QM_NODE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--quiet",
        "--package",
        "qm-node",
        "--bin",
        "qm-node",
    ]);
    // What cargo tells a test of its package: ring's build script asks for it, and would build
    // everything above ring anew, now and again in the next ordinary build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&name);
        }
    }
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("--target-dir");
    build.arg(profile_dir.parent().unwrap());
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().unwrap().success(),
        "the binary does not build"
    );
    profile_dir.join("qm-node")
}

/// A free UDP port of the loopback interface, for a process that must come back on it.
pub(crate) fn free_port() -> SocketAddr {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap()
}

/// Receives and consumes exactly so many messages; their bodies in the order of arrival.
pub(crate) fn receive(client: &Client, queue: &str, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    let began = Instant::now();
    while bodies.len() < count {
        assert!(
            began.elapsed() < PATIENCE,
            "{} of {count} messages came",
            bodies.len()
        );
        let left = u32::try_from(count - bodies.len()).unwrap();
        let options = ReceiveOptions::new()
            .limit(left)
            .wait(Duration::from_secs(1));
        let deliveries = client.receive_batch(&queue.parse().unwrap(), &options);
        // Settled together: one commit, not one each.
        let mut settlings = Vec::new();
        for delivery in deliveries.unwrap() {
            bodies.push(String::from_utf8(delivery.body().to_vec()).unwrap());
            settlings.push(delivery.consume());
        }
        for settling in settlings {
            client.wait(settling).unwrap();
        }
    }
    bodies
}

/// Whether nothing is in a queue, and nothing comes for a moment.
pub(crate) fn is_drained(client: &Client, queue: &str) -> bool {
    let options = ReceiveOptions::new().wait(Duration::from_millis(300));
    client
        .receive_batch(&queue.parse().unwrap(), &options)
        .unwrap()
        .is_empty()
}

/// Hands numbered messages over; all must be accepted.
pub(crate) fn send(client: &Client, to: &str, numbers: std::ops::Range<u32>) {
    for result in client.send_batch(numbered(to, numbers)) {
        result.unwrap();
    }
}

/// Numbered messages for a destination.
pub(crate) fn numbered(to: &str, numbers: std::ops::Range<u32>) -> Vec<Message> {
    numbers.map(|n| Message::new(to, n.to_string())).collect()
}

/// Their bodies.
pub(crate) fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}
