//! Nodes that cannot start.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{
    Running, allow, ended, eventually, fails, is_root, qm, shell, shows, unprivileged,
};

/// A node on a free port, in the directory `node` of its home.
const RUN: [&str; 8] = Running::RUN;

/// The file of a home's store that holds these bytes, and where.
fn file_with(home: &Path, bytes: &[u8]) -> (PathBuf, usize) {
    let files = fs::read_dir(home.join("node/store")).unwrap();
    files
        .map(|entry| entry.unwrap().path())
        .find_map(|path| {
            let content = fs::read(&path).unwrap();
            let at = content
                .windows(bytes.len())
                .position(|part| part == bytes)?;
            Some((path, at))
        })
        .unwrap()
}

#[test]
fn a_data_directory_in_use_names_the_process() {
    let node = Running::start();
    let socket = node.home.path().join("other.sock");
    let mut second = node.command(&["--json", "run", "--listen", "127.0.0.1:0"]);
    second.arg("--socket").arg(socket);
    let (cause, _) = shows(second, "data_dir_locked");
    assert!(
        cause.starts_with(&format!("process {} ", node.pid())),
        "{cause}"
    );
    assert!(cause.ends_with(node.data().to_str().unwrap()), "{cause}");
    shows(node.command(&["--json", "init"]), "data_dir_locked");
}

#[test]
fn a_port_in_use_names_the_process() {
    let node = Running::start();
    let home = tempfile::tempdir().unwrap();
    for data in ["a", "b"] {
        let args = ["--json", "--data", data, "run", "--listen", &node.listen];
        let (cause, _) = shows(qm(home.path(), &args), "port_in_use");
        assert!(cause.contains(&node.listen), "{cause}");
        assert!(
            cause.contains(&format!("process {} ", node.pid())),
            "{cause}"
        );
    }
    // The failed start leaves no socket behind.
    assert!(!home.path().join("a/node.sock").exists());
}

#[test]
fn a_socket_in_use_names_the_process() {
    let node = Running::start();
    let socket = node.data().join("node.sock");
    let home = tempfile::tempdir().unwrap();
    let mut second = qm(home.path(), &RUN);
    second.arg("--socket").arg(&socket);
    let (cause, _) = shows(second, "socket_in_use");
    assert!(
        cause.starts_with(&format!("process {} ", node.pid())),
        "{cause}"
    );
    // It is still the first one's.
    node.done(&["status"]);
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let home = tempfile::tempdir().unwrap();
    // TEST-NET-1 (RFC 5737).
    let args = ["--json", "--data", "a", "run", "--listen", "192.0.2.7:1801"];
    shows(qm(home.path(), &args), "address_not_available");
    let first: u16 = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .map_or(1024, |text| text.trim().parse().unwrap());
    if first > 80 {
        let args = ["--json", "--data", "b", "run", "--listen", "127.0.0.1:80"];
        shows(unprivileged(home.path(), &args), "port_permission");
    }
}

#[test]
fn a_stale_socket_is_no_obstacle_and_another_file_is() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("node")).unwrap();
    let socket = home.path().join("node/node.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let command = qm(home.path(), &RUN);
    let home = Running::of(home, command).stop();

    fs::write(&socket, "precious").unwrap();
    shows(qm(home.path(), &RUN), "not_a_socket");
    assert_eq!(fs::read(&socket).unwrap(), b"precious");

    fs::write(home.path().join("file"), "").unwrap();
    let args = [&RUN[..], &["--socket", "file/run/node.sock"]].concat();
    shows(qm(home.path(), &args), "socket");

    let long = format!("{}/node.sock", "x".repeat(120));
    let args = [&RUN[..], &["--socket", &long]].concat();
    let (_, fix) = fails(&ended(&mut qm(home.path(), &args)), "socket_path_too_long");
    assert!(fix.contains("--socket"), "{fix}");
}

#[test]
fn data_directories_that_cannot_be_are_named() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    let run = |data: &str| {
        let args = ["--json", "--data", data, "run", "--listen", "127.0.0.1:0"];
        qm(home.path(), &args)
    };
    shows(run("file/qm"), "data_dir");
    let mut missing = qm(
        home.path(),
        &["--json", "--data", "none", "identity", "show"],
    );
    let (cause, _) = fails(&ended(&mut missing), "not_initialised");
    assert!(cause.ends_with("/none holds no node"), "{cause}");
    // Missing parents are made.
    let made = qm(home.path(), &["--data", "a/b/c", "init"])
        .output()
        .unwrap();
    assert!(made.status.success());
}

#[test]
fn what_belongs_to_somebody_else_is_named() {
    let home = tempfile::tempdir().unwrap();
    let closed = home.path().join("closed");
    fs::create_dir(&closed).unwrap();
    allow(&closed, 0o555);
    let args = [
        "--json",
        "--data",
        "closed/qm",
        "run",
        "--listen",
        "127.0.0.1:0",
    ];
    let mut run = unprivileged(home.path(), &args);
    let (cause, _) = fails(&ended(&mut run), "no_permission");
    assert!(cause.contains("closed/qm: Permission denied"), "{cause}");
    if is_root() {
        // A node that root has made, started by somebody else.
        assert!(
            qm(home.path(), &["--data", "node", "init"])
                .output()
                .unwrap()
                .status
                .success()
        );
        allow(&home.path().join("node"), 0o755);
        let mut run = unprivileged(home.path(), &RUN);
        let (cause, _) = fails(&ended(&mut run), "no_permission");
        assert!(cause.contains("node/store"), "{cause}");
    }
    allow(&closed, 0o755);
}

#[test]
fn a_read_only_file_system_is_named() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("node")).unwrap();
    let own = "mount --bind node node 2>/dev/null && mount -o remount,bind,ro node 2>/dev/null";
    let probe = shell(home.path(), &format!("exec unshare -rm sh -c '{own}'")).status();
    if !probe.is_ok_and(|status| status.success()) {
        // No right to mount: `what_the_system_refuses_has_one_code_wherever_it_happens` remains.
        return;
    }
    let run = RUN.join(" ");
    let script = format!("exec unshare -rm sh -c '{own} && exec \"$QM\" {run}'");
    shows(shell(home.path(), &script), "read_only");
}

#[test]
fn a_full_disk_at_the_start_is_named() {
    let home = tempfile::tempdir().unwrap();
    let run = RUN.join(" ");
    // Files of at most 256 KiB, and no signal at that limit.
    let script = format!("trap '' XFSZ; ulimit -f 512; exec \"$QM\" {run}");
    let (cause, _) = fails(&ended(&mut shell(home.path(), &script)), "disk_full");
    assert!(cause.contains("node/store"), "{cause}");
    // With room again it starts on what is there.
    let command = qm(home.path(), &RUN);
    drop(Running::of(home, command));
}

#[test]
fn too_few_files_are_named() {
    let home = tempfile::tempdir().unwrap();
    let run = RUN.join(" ");
    let fails = |files: u32, run: &str| {
        let script = format!("ulimit -n {files}; exec \"$QM\" {run}");
        let output = ended(&mut shell(home.path(), &script));
        let (cause, fix) = fails(&output, "too_many_files");
        assert!(cause.contains("Too many open files"), "{cause}");
        assert!(fix.contains("ulimit -n"), "{fix}");
    };
    for files in [4, 5, 6, 8, 12, 20, 30] {
        fails(files, &run);
    }
    for files in [4, 6, 10] {
        fails(files, "--json status");
        fails(files, "--json init");
    }
    let script = format!("ulimit -n 48; exec \"$QM\" {run}");
    let command = shell(home.path(), &script);
    drop(Running::of(home, command));
}

#[test]
fn a_missing_or_foreign_key_is_named_and_stays() {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    let home = node.stop();
    let key = home.path().join("node/identity.key");
    let kept = fs::read(&key).unwrap();
    fs::write(&key, "").unwrap();
    shows(qm(home.path(), &RUN), "identity_key_damaged");
    let identity = ["--json", "--data", "node", "identity", "show"];
    shows(qm(home.path(), &identity), "identity_key_damaged");
    assert_eq!(fs::read(&key).unwrap(), b"");
    fs::remove_file(&key).unwrap();
    shows(qm(home.path(), &RUN), "identity_key_missing");
    assert!(!key.exists());

    // Readable by others: mended, with a word in the log.
    fs::write(&key, kept).unwrap();
    allow(&key, 0o644);
    let command = qm(home.path(), &RUN);
    let node = Running::of(home, command);
    eventually(&node, || {
        node.log().contains("readable by others").then_some(())
    });
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// The checksum of the store's format, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = (sum & 1).wrapping_neg();
            sum = (sum >> 1) ^ (0x82f6_3b78 & carry);
        }
    }
    !sum
}

/// The home of a node that holds two messages and does not run.
fn with_messages() -> TempDir {
    let node = Running::start();
    node.done(&["queue", "create", "orders"]);
    for body in ["apples", "pears"] {
        node.done(&["send", "orders", body]);
    }
    node.stop()
}

#[test]
fn a_damaged_store_names_file_and_place() {
    let home = with_messages();
    // A value of the node's own, not a message: nothing can be told without it.
    let (file, at) = file_with(home.path(), b"lives");
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 0xff;
    fs::write(&file, damaged).unwrap();
    let (cause, fix) = shows(qm(home.path(), &RUN), "store_damaged");
    assert!(
        cause.contains(file.file_name().unwrap().to_str().unwrap()),
        "{cause}"
    );
    assert!(
        fix.contains("store check") && fix.contains("store repair"),
        "{fix}"
    );

    // Both copies of the head, with a version of the future.
    let mut newer = whole.clone();
    for copy in [0, 4096] {
        newer[copy + 8] = 9;
        let sum = crc32c(&newer[copy..copy + 60]);
        newer[copy + 60..copy + 64].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(&file, newer).unwrap();
    shows(qm(home.path(), &RUN), "store_newer");

    // Nothing was touched: with the bytes back it runs.
    fs::write(&file, whole).unwrap();
    let command = qm(home.path(), &RUN);
    let node = Running::of(home, command);
    assert_eq!(
        node.done(&["receive", "orders", "--count", "2"]),
        "apples\npears\n"
    );
}

#[test]
fn one_damaged_message_does_not_hold_up_the_others() {
    let home = with_messages();
    let (file, at) = file_with(home.path(), b"apples");
    let mut content = fs::read(&file).unwrap();
    content[at] ^= 1;
    fs::write(&file, content).unwrap();
    let command = qm(home.path(), &RUN);
    let node = Running::of(home, command);
    assert_eq!(node.done(&["receive", "orders", "--wait", "5s"]), "pears\n");
    eventually(&node, || {
        let log = node.log();
        (log.contains("record_damaged") && log.contains("error=segment 1 ")).then_some(())
    });
}

#[test]
fn a_file_of_another_store_is_named() {
    let (mine, other) = (with_messages(), with_messages());
    let (file, _) = file_with(other.path(), b"apples");
    let name = file.file_name().unwrap().to_str().unwrap();
    let later = name.replace("0000000", "0000007");
    assert_ne!(name, later);
    fs::copy(&file, mine.path().join("node/store").join(later)).unwrap();
    shows(qm(mine.path(), &RUN), "store_foreign");
}
