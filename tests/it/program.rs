//! The program as people run it: nodes as processes, and commands beside them.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use qm_client::blocking::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{admin, binary, free_port, slow_tests};

/// Longest time to wait for one thing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A node of the real program, on a data directory that outlives it.
pub(crate) struct Program {
    home: TempDir,
    name: &'static str,
    pub(crate) listen: SocketAddr,
    /// The network namespace it runs in; that of the test without one.
    pub(crate) namespace: Option<String>,
    /// Whom it takes messages from.
    trust: &'static str,
    /// Settings besides those of every test, as the environment names them.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    child: Option<Child>,
    identity: String,
    admin: Option<Client>,
}

impl Program {
    /// A node on a free port of the loopback interface.
    pub(crate) fn start(name: &'static str) -> Self {
        Self::start_at(name, free_port(), None)
    }

    /// The same for one that takes messages from those only whom its operator approves.
    pub(crate) fn approving(name: &'static str) -> Self {
        let mut program = Self::prepare(name, free_port());
        program.trust = "approve";
        program.launch();
        program
    }

    pub(crate) fn start_at(
        name: &'static str,
        listen: SocketAddr,
        namespace: Option<String>,
    ) -> Self {
        let mut program = Self::prepare(name, listen);
        program.namespace = namespace;
        program.launch();
        program
    }

    /// A node that does not run yet.
    pub(crate) fn prepare(name: &'static str, listen: SocketAddr) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            name,
            listen,
            namespace: None,
            trust: "any",
            settings: Vec::new(),
            child: None,
            identity: String::new(),
            admin: None,
        }
    }

    /// Starts on the data directory as it is, and waits until the node says that it runs.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let listen = self.listen.to_string();
        let mut command =
            self.command(&["--json", "run", "--trust", self.trust, "--listen", &listen]);
        command.args(["--name", self.name]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        self.child = Some(child);
        // A thread, because a read has no deadline; it ends with the line or the process.
        let (to, from) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            drop(BufReader::new(stdout).read_line(&mut line));
            drop(to.send(line));
        });
        let line = from.recv_timeout(PATIENCE).unwrap_or_default();
        let node: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{} does not start:\n{}", self.name, self.log()));
        node["qm"].as_str().unwrap().clone_into(&mut self.identity);
    }

    /// SIGKILL: nothing is flushed, nobody hears a goodbye.
    pub(crate) fn kill(&mut self) {
        self.admin = None;
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, as a service manager ends it.
    pub(crate) fn stop(&mut self) {
        self.admin = None;
        let mut child = self.child.take().expect("it runs");
        terminate(&child);
        let status = child.wait().unwrap();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.log());
    }

    /// Another machine with what is on this one's disk now; it does not run yet.
    pub(crate) fn copy(&self) -> Self {
        let mut copy = Self::prepare(self.name, free_port());
        copy.trust = self.trust;
        copy.settings.clone_from(&self.settings);
        copy_all(&self.data(), &copy.data());
        copy
    }

    /// A signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs"), name);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("node")
    }

    /// A file of the test beside the data directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A queue of this node, by the address of the node.
    pub(crate) fn queue(&self, name: &str) -> String {
        format!("qm://{}/{name}", self.listen)
    }

    /// A queue of this node, by the identity of the node, which says nothing of where it is.
    pub(crate) fn queue_by_identity(&self, name: &str) -> String {
        format!("qm:{}/{name}", self.identity)
    }

    /// A command to this node that sees nothing else of the machine; errors go to the log.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        let program = BINARY.get_or_init(binary);
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path);
        command.env("HOME", self.home.path());
        if !slow_tests() {
            // Many nodes share a small disk.
            command.env("QM_LIMITS__BODY_BYTES", "64KiB");
            command.env("QM_STORE__SEGMENT_BYTES", "1MiB");
            command.env("QM_STORE__RESERVE_BYTES", "1MiB");
        }
        command.envs(self.settings.iter().copied());
        command.arg("--data").arg(self.data()).args(args);
        command.stdin(Stdio::null());
        command.stderr(appended(&self.file("log")));
        command
    }

    /// What a command that succeeds prints.
    pub(crate) fn done(&self, args: &[&str]) -> Vec<u8> {
        let Output { status, stdout, .. } = self.command(args).output().unwrap();
        assert!(
            status.success(),
            "{}: {args:?}: {status}\n{}",
            self.name,
            self.log()
        );
        stdout
    }

    /// The document that a command prints.
    pub(crate) fn document(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.done(&[&["--json"], args].concat())).unwrap()
    }

    /// What `status` shows, without starting a process.
    pub(crate) fn status(&mut self) -> Value {
        self.ask(&json!({"do": "status"}))
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        let socket = self.data().join("node.sock");
        let client = self
            .admin
            .get_or_insert_with(|| Client::connect(socket).unwrap());
        admin(client, request)
    }

    /// A sum of `status`.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap()
    }

    /// The end of what node and commands said.
    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        let file = File::open(self.file("log"));
        drop(file.and_then(|mut file| file.read_to_end(&mut text)));
        let end = text.len().saturating_sub(4_000);
        String::from_utf8_lossy(&text[end..]).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            report(&format!("log of {}:\n{}", self.name, self.log()));
        }
    }
}

/// A command that runs beside the test, with its output in a file.
pub(crate) struct Application {
    args: Vec<String>,
    output: PathBuf,
    input: Option<Arc<Feed>>,
    child: Child,
    /// How often it was started.
    pub(crate) starts: u32,
}

impl Application {
    pub(crate) fn start(node: &Program, args: &[&str], output: &Path) -> Self {
        Self::start_with(node, args, output, None)
    }

    /// The same with standard input.
    pub(crate) fn start_with(
        node: &Program,
        args: &[&str],
        output: &Path,
        input: Option<Arc<Feed>>,
    ) -> Self {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        Self {
            child: spawn(node, &args, output, input.as_ref()),
            args,
            output: output.to_owned(),
            input,
            starts: 1,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Starts it again; its output goes on where it stopped, its input begins anew.
    pub(crate) fn start_again(&mut self, node: &Program) {
        assert!(self.ended().is_some(), "it runs still");
        self.child = spawn(node, &self.args, &self.output, self.input.as_ref());
        self.starts += 1;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself, as it must: with success.
    pub(crate) fn finish(&mut self, node: &Program) {
        let what = self.args.join(" ");
        let status = eventually(&what, || self.ended());
        assert!(status.success(), "{what}: {status}\n{}", node.log());
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(node: &Program, args: &[String], output: &Path, input: Option<&Arc<Feed>>) -> Child {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = node.command(&args);
    let Some(feed) = input.cloned() else {
        return command.stdout(appended(output)).spawn().unwrap();
    };
    command.stdin(Stdio::piped()).stdout(appended(output));
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || feed.pour(stdin));
    child
}

/// Standard input that goes on only as far as the test lets it.
pub(crate) struct Feed {
    bytes: Vec<u8>,
    open: Mutex<usize>,
    opened: Condvar,
}

impl Feed {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            open: Mutex::new(0),
            opened: Condvar::new(),
        })
    }

    /// Lets the first so many bytes through.
    pub(crate) fn open_to(&self, end: usize) {
        *self.open.lock().unwrap() = end;
        self.opened.notify_all();
    }

    /// Ends with the bytes, or with the reader.
    fn pour(&self, mut to: ChildStdin) {
        let mut from = 0;
        while from < self.bytes.len() {
            let open = self.open.lock().unwrap();
            let open = self.opened.wait_while(open, |end| *end <= from).unwrap();
            let end = self.bytes.len().min(*open);
            drop(open);
            if to.write_all(&self.bytes[from..end]).is_err() {
                return;
            }
            from = end;
        }
    }
}

fn appended(path: &Path) -> File {
    let mut options = File::options();
    options.create(true).append(true).open(path).unwrap()
}

fn terminate(child: &Child) {
    signal(child, "TERM");
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let status = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(status.unwrap().success(), "no process {pid}");
}

/// What operators type: `cp -a`.
pub(crate) fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.unwrap().success(), "cannot copy {}", from.display());
}

/// Waits until something is there, looking often: what a test waits for here passes by.
pub(crate) fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, Duration::from_millis(2), probe)
        .unwrap_or_else(|| panic!("not in time: {what}"))
}

/// Looks again after each pause until something is there, or not for that long.
pub(crate) fn within<T>(
    patience: Duration,
    pause: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if began.elapsed() >= patience {
            return None;
        }
        std::thread::sleep(pause);
    }
}

/// Tells a figure to whoever runs the tests with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures are for people")]
pub(crate) fn report(text: &str) {
    eprintln!("{text}");
}

/// So many a second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a figure for people"
)]
pub(crate) fn rate(count: usize, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()) as u64
}
