//! Nodes as processes of their own, for the commands that try them out: the same program, in a
//! directory that goes away with them.

use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qm_client::Client;
use qm_node::admin_json::{DoneDocument, NodeDocument, Request};
use qm_wire::QueueName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::PlaceArgs;
use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::node::{Node, from_client};

/// How long a node may take until socket and port are open.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to stop in order.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Bytes of a failed node's log that are shown.
const LOG_SHOWN_BYTES: usize = 600;
/// Bytes of a Unix socket's path that every supported system takes.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// The name of the one that sends, at itself and at the other.
const SENDER: &str = "sender";
/// The name of the one that receives.
const RECEIVER: &str = "receiver";

/// A directory that is removed when it is dropped, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Workplace {
    path: PathBuf,
    keep: bool,
}

impl Workplace {
    pub(super) fn new(args: &PlaceArgs) -> Result<Self, Failure> {
        let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let base = std::path::absolute(&base).map_err(|e| Failure::io(base.display(), &e))?;
        let number =
            getrandom::u64().map_err(|e| Failure::of("io", format!("no random bytes: {e}")))?;
        let path = base.join(format!("qm-{number:016x}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| Failure::io(format!("{} cannot be made", path.display()), &e))?;
        let keep = args.keep;
        let place = Self { path, keep };
        // Nothing of the user's configuration shall change what is shown or measured.
        place.write("qm-node.toml", b"")?;
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    /// Says where it is when it stays.
    pub(super) fn tell(&self, out: &Output) {
        if self.keep {
            out.note(&format!("kept: {}", self.path.display()));
        }
    }

    /// Whether flushing a file here costs nothing, because there is no disk below.
    pub(super) fn is_memory(&self) -> bool {
        #[cfg(target_os = "linux")]
        {
            const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
            rustix::fs::statfs(&self.path).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC)
        }
        #[cfg(not(target_os = "linux"))]
        false
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.path.join(name);
        std::fs::write(&path, bytes).map_err(|e| Failure::io(path.display(), &e))
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            crate::output::complain(&format!("{} stays: {error}", self.path.display()));
        }
    }
}

/// A process that is killed when it is dropped, from its first moment on: whoever waits for it to
/// start or to stop may be interrupted.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that was waited for already.
        let _killed = self.0.kill().is_ok();
        let _ended = self.0.wait().is_ok();
    }
}

/// A node in a process of its own, killed when it is dropped.
#[derive(Debug)]
pub(super) struct NodeProcess {
    name: &'static str,
    place: PathBuf,
    child: Option<Running>,
    document: NodeDocument,
}

impl NodeProcess {
    /// Starts a new node on a free loopback port, trusting nobody, and waits until it is ready.
    pub(super) async fn start(place: &Workplace, name: &'static str) -> Result<Self, Failure> {
        let (child, document) = launch(place.path(), name, "127.0.0.1:0").await?;
        Ok(Self {
            name,
            place: place.path().to_owned(),
            child: Some(child),
            document,
        })
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`], at its former address.
    pub(super) async fn start_again(&mut self) -> Result<(), Failure> {
        self.kill();
        let (child, document) = launch(&self.place, self.name, &self.document.listen).await?;
        self.child = Some(child);
        self.document = document;
        Ok(())
    }

    /// SIGKILL: nothing of the process runs afterwards.
    pub(super) fn kill(&mut self) {
        drop(self.child.take());
    }

    /// SIGTERM, and waits for the orderly end.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(pid) = i32::try_from(child.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
        }
        let mut waited = Duration::ZERO;
        while waited < STOP_MAX {
            if matches!(child.0.try_wait(), Ok(Some(_))) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            waited += Duration::from_millis(10);
        }
        drop(child);
        let cause = format!(
            "the {} did not stop within {} s",
            self.name,
            STOP_MAX.as_secs()
        );
        Err(Failure::of("trial", cause))
    }

    /// Where its applications reach it.
    pub(super) fn socket(&self) -> &str {
        &self.document.socket
    }

    /// An application of the node.
    pub(super) async fn connect(&self, program: &str) -> Result<Client, Failure> {
        let client = Client::builder()
            .program(program)
            .followed_max(FOLLOWED_MAX)
            .connect(self.socket())
            .await;
        client.map_err(|error| from_client(&error))
    }

    /// Its operator.
    pub(super) async fn operate(&self) -> Result<Node, Failure> {
        let client = self.connect("operator").await?;
        Ok(Node { client })
    }

    /// Processor time that the process has used; `None` where the system does not tell.
    pub(super) fn cpu(&self) -> Option<Duration> {
        let stat = self.proc_file("stat")?;
        // proc_pid_stat(5): fields 14 and 15; the name of field 2 may contain anything.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        let us = user.saturating_add(system).saturating_mul(1_000_000);
        Some(Duration::from_micros(us / ticks_per_s.max(1)))
    }

    /// Memory of the process now; `None` where the system does not tell.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory it has had.
    pub(super) fn resident_bytes_max(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    /// Bytes of disk that its files occupy.
    pub(super) fn disk_bytes(&self) -> u64 {
        occupied(&self.place.join(self.name))
    }

    fn memory(&self, field: &str) -> Option<u64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    }

    fn proc_file(&self, file: &str) -> Option<String> {
        let pid = self.child.as_ref()?.0.id();
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
    }
}

/// Messages whose fate one client may follow at a time.
pub(super) const FOLLOWED_MAX: usize = 262_144;

async fn launch(
    place: &Path,
    name: &'static str,
    listen: &str,
) -> Result<(Running, NodeDocument), Failure> {
    let data = place.join(name);
    let socket = data.join("node.sock");
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let cause = format!("{} is too long for a socket", socket.display());
        return Err(Failure::usage(
            cause,
            "choose a shorter directory with --dir",
        ));
    }
    let program = std::env::current_exe()
        .map_err(|e| Failure::io("the path of this program is not known", &e))?;
    let log_path = place.join(format!("{name}.log"));
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|e| Failure::io(log_path.display(), &e))?;

    let mut command = Command::new(&program);
    command.arg("--json");
    command.arg("--config").arg(place.join("qm-node.toml"));
    command.arg("--data").arg(&data);
    command.arg("--socket").arg(&socket);
    command.args([
        "run", "--listen", listen, "--name", name, "--trust", "approve",
    ]);
    // Single settings such as QM_DEDUP__SIZE may be tried; what names the user's node may not.
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("QM_") && !text.contains("__") {
            command.env_remove(&variable);
        }
    }
    // A group of its own: Ctrl-C is for this process, which ends the others in its own order.
    command.process_group(0);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let child = command
        .spawn()
        .map_err(|e| Failure::io(format!("{} cannot be started", program.display()), &e))?;
    let mut child = Running(child);

    let ready = first_line(&mut child.0);
    let line = tokio::time::timeout(READY_MAX, ready).await;
    let document = match &line {
        Ok(Some(line)) => serde_json::from_str(line).ok(),
        _ => None,
    };
    let Some(document) = document else {
        drop(child);
        let why = if line.is_err() {
            "was not ready in time"
        } else {
            "ended"
        };
        let cause = format!("the {name} {why}: {}", end_of(&log_path));
        return Err(Failure::of("trial", cause));
    };
    Ok((child, document))
}

/// The first line that a child prints; `None` when it ended instead.
async fn first_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (tell, told) = oneshot::channel();
    // A thread, because reading a pipe blocks; it ends with the line or with the child.
    let reader = std::thread::Builder::new().name("ready".to_owned());
    let reading = reader.spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_ok_and(|bytes| bytes > 0) {
            // Nobody listens any more when the time had run out.
            let _told = tell.send(line).is_ok();
        }
    });
    reading.ok()?;
    told.await.ok()
}

fn end_of(log: &Path) -> String {
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| file.read_to_string(&mut text));
    if read.is_err() || text.trim().is_empty() {
        return "its log is empty".to_owned();
    }
    let from = text.len().saturating_sub(LOG_SHOWN_BYTES);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at));
    let end = text.get(from.unwrap_or_default()..).unwrap_or_default();
    end.trim().replace('\n', " | ")
}

fn occupied(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied(&entry.path()),
        // Blocks of 512 bytes, whatever those of the file system are: stat(3type).
        Ok(metadata) => metadata.blocks().saturating_mul(512),
        Err(_gone) => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Two nodes that know each other: the sender has a name and address for the receiver, and the
/// receiver has approved the sender by its identity.
#[derive(Debug)]
pub(super) struct Pair {
    // The processes end before their directory goes: fields are dropped in their order.
    pub(super) sender: NodeProcess,
    pub(super) receiver: NodeProcess,
    pub(super) place: Workplace,
}

impl Pair {
    /// Starts both, makes the queue at the receiver: for transactional messages or for others.
    pub(super) async fn start(
        place: Workplace,
        queue: &QueueName,
        transactional: bool,
    ) -> Result<Self, Failure> {
        let (sender, receiver) = tokio::join!(
            NodeProcess::start(&place, SENDER),
            NodeProcess::start(&place, RECEIVER)
        );
        let pair = Self {
            sender: sender?,
            receiver: receiver?,
            place,
        };
        pair.introduce(queue, transactional).await?;
        Ok(pair)
    }

    /// The queue as the sender's applications address it.
    pub(super) fn destination(queue: &QueueName) -> String {
        format!("{RECEIVER}/{queue}")
    }

    async fn introduce(&self, queue: &QueueName, transactional: bool) -> Result<(), Failure> {
        let receiver = self.receiver.operate().await?;
        let create = Request::QueueCreate {
            name: queue.clone(),
            transactional,
            quota_bytes: None,
            quota_messages: None,
            max_aborts: 0,
        };
        let _created: DoneDocument = receiver.ask(&create).await?;
        let approve = Request::PeersAdd {
            name: SENDER.to_owned(),
            address: None,
            qm: Some(self.sender.document.qm),
            keep_connected: false,
        };
        let _approved: DoneDocument = receiver.ask(&approve).await?;
        let sender = self.sender.operate().await?;
        let name = Request::PeersAdd {
            name: RECEIVER.to_owned(),
            address: Some(self.receiver.document.listen.clone()),
            qm: Some(self.receiver.document.qm),
            keep_connected: false,
        };
        let _named: DoneDocument = sender.ask(&name).await?;
        receiver.client.close().await;
        sender.client.close().await;
        Ok(())
    }
}

/// Does the work unless somebody ends the program, and cleans up in either case: what the work
/// holds is dropped.
pub(super) async fn unless_interrupted(
    work: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::io("signals cannot be handled", &e));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(interrupted()),
        _ = terminate.recv() => Err(interrupted()),
        _ = hang_up.recv() => Err(interrupted()),
    }
}

fn interrupted() -> Failure {
    Failure::of("aborted", "interrupted").with_fix("the nodes were ended; start it again")
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many a second; 0 for no time at all.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    count
        .saturating_mul(1_000_000)
        .checked_div(us)
        .unwrap_or_default()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
        assert_eq!(per_second(500, Duration::ZERO), 0);
    }

    #[test]
    fn a_workplace_goes_unless_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let args = PlaceArgs {
            dir: Some(dir.path().to_owned()),
            keep: false,
        };
        let place = Workplace::new(&args).unwrap();
        let path = place.path().to_owned();
        place.write("file", &[7; 5000]).unwrap();
        assert!(occupied(&path) >= 5000);
        drop(place);
        assert!(!path.exists());

        let mut place = Workplace::new(&args).unwrap();
        let path = place.path().to_owned();
        place.keep();
        drop(place);
        assert!(path.exists());
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(end_of(&log), "its log is empty");
        std::fs::write(&log, format!("{}\nlast\n", "ü".repeat(LOG_SHOWN_BYTES))).unwrap();
        let end = end_of(&log);
        assert!(
            end.ends_with("ü | last") && end.len() < LOG_SHOWN_BYTES + 3,
            "{end}"
        );
    }
}
