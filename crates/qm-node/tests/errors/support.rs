//! Commands that see nothing of the machine, and the table that their errors must keep to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::skeleton::skeleton;

/// Longest time that a command which must fail may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A user without any privilege.
const NOBODY: u32 = 65_534;

pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_qm-node")
}

/// Settings that let a node start at once on a small disk.
pub(crate) const SMALL: [(&str, &str); 3] = [
    ("QM_STORE__SEGMENT_BYTES", "1MiB"),
    ("QM_STORE__RESERVE_BYTES", "1MiB"),
    ("QM_LIMITS__BODY_BYTES", "64KiB"),
];

fn prepared(mut command: Command, home: &Path) -> Command {
    command.env_clear().envs(SMALL).env("HOME", home);
    command.stdin(Stdio::null()).current_dir(home);
    command
}

/// A command of the program.
pub(crate) fn qm(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    prepared(command, home)
}

/// The same after a shell has changed what a process may do; `$QM` is the program.
pub(crate) fn shell(home: &Path, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    let mut command = prepared(command, home);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("QM", binary()).env("PATH", path);
    command
}

/// The same as a user without privileges, who owns the directory.
pub(crate) fn unprivileged(home: &Path, args: &[&str]) -> Command {
    if !is_root() {
        return qm(home, args);
    }
    // The build directory may be nobody's business.
    let copy = home.join("qm-node");
    if !copy.exists() && std::fs::hard_link(binary(), &copy).is_err() {
        std::fs::copy(binary(), &copy).unwrap();
    }
    chown(home, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = Command::new(copy);
    command.args(args).uid(NOBODY).gid(NOBODY);
    prepared(command, home)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A row of the table.
struct Row {
    exit: i32,
    example: Option<String>,
}

fn table() -> &'static BTreeMap<String, Row> {
    static TABLE: OnceLock<BTreeMap<String, Row>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let listed = Command::new(binary()).args(["errors", "--json"]).output();
        let rows = String::from_utf8(listed.unwrap().stdout).unwrap();
        rows.lines()
            .map(|row| {
                let row: Value = serde_json::from_str(row).unwrap();
                let exit = i32::try_from(row["exit"].as_i64().unwrap()).unwrap();
                let example = row["example"].as_str().map(str::to_owned);
                (
                    row["code"].as_str().unwrap().to_owned(),
                    Row { exit, example },
                )
            })
            .collect()
    })
}

/// Runs a command with `--json` among its arguments: the cause and fix it must fail with, in the
/// words of the example in the table.
pub(crate) fn shows(mut command: Command, code: &str) -> (String, String) {
    let (cause, fix) = fails(&ended(&mut command), code);
    let example = table()[code].example.as_deref().unwrap();
    assert_eq!(skeleton(&cause), skeleton(example), "{cause}");
    (cause, fix)
}

/// The cause and fix that a command ended with, under this code and its exit code.
pub(crate) fn fails(output: &Output, code: &str) -> (String, String) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    // A node logs before it fails.
    let last = error.lines().last().unwrap_or_default();
    let document: Value = serde_json::from_str(last)
        .unwrap_or_else(|_| panic!("no document: {error} {}", output.status));
    assert_eq!(document["schema"], "qm.error/1", "{error}");
    assert_eq!(document["code"], code, "{error}");
    assert_eq!(output.status.code(), Some(table()[code].exit), "{error}");
    let text = |field: &str| document[field].as_str().unwrap().to_owned();
    let (cause, fix) = (text("cause"), text("fix"));
    assert!(!cause.is_empty() && !fix.is_empty(), "{error}");
    // For people, not for programmers: no values in the debugger's form.
    for sign in ["Some(", "Err(", "Os {", " { ", "\\\""] {
        assert!(!cause.contains(sign) && !fix.contains(sign), "{error}");
    }
    (cause, fix)
}

/// A node that runs for as long as the test.
pub(crate) struct Running {
    pub(crate) home: TempDir,
    pub(crate) listen: String,
    pub(crate) identity: String,
    child: Option<Child>,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With settings of its own.
    pub(crate) fn start_with(variables: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = qm(home.path(), &Self::RUN);
        command.envs(variables.iter().copied());
        Self::of(home, command)
    }

    pub(crate) const RUN: [&str; 8] = [
        "--json",
        "--data",
        "node",
        "run",
        "--listen",
        "127.0.0.1:0",
        "--trust",
        "any",
    ];

    /// A node that some command starts.
    pub(crate) fn of(home: TempDir, mut command: Command) -> Self {
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap_or_else(|_| {
            panic!(
                "{}",
                std::fs::read_to_string(home.path().join("log")).unwrap()
            )
        });
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        Self {
            listen: text("listen"),
            identity: text("qm"),
            home,
            child: Some(child),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("node")
    }

    /// A command to this node.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        qm(self.home.path(), &[&["--data", "node"], args].concat())
    }

    /// What a command that succeeds prints.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {error}", args.first());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends it in order; its home stays.
    pub(crate) fn stop(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = child.id().to_string();
        if Command::new("kill").args(["-TERM", &pid]).status().is_err() {
            drop(child.kill());
        }
        drop(child.wait());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks until there is an answer: what happens in another process is seen by asking only.
pub(crate) fn eventually<T>(node: &Running, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How a command ends, as it must within the time of a test.
pub(crate) fn ended(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output().unwrap()));
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        drop(Command::new("kill").args(["-KILL", &pid]).status());
        let output = told.recv().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        panic!("it did not end: {command:?}: {error}")
    })
}

/// Runs a command with something to read.
pub(crate) fn fed(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A thread, because a command may end before it has read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}
