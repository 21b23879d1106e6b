//! `store check` and `store repair`, and a node that runs over damage.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

fn qm(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm-node"));
    command.env_clear().env("HOME", home);
    command.args(["--data", "node"]).args(args);
    command.env("QM_STORE__SEGMENT_BYTES", "1MiB");
    command.env("QM_STORE__RESERVE_BYTES", "1MiB");
    command.env("QM_LIMITS__BODY_BYTES", "64KiB");
    command.stdin(Stdio::null()).current_dir(home);
    command
}

fn run(home: &Path, args: &[&str]) -> (i32, String, String) {
    let output = qm(home, args).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn done(home: &Path, args: &[&str]) -> String {
    let (code, out, error) = run(home, args);
    assert_eq!(code, 0, "{args:?}: {out}{error}");
    out
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

struct Running(Child);

impl Running {
    fn start(home: &Path) -> Self {
        let args = ["--json", "run", "--listen", "127.0.0.1:0"];
        let log = fs::File::create(home.join("log")).unwrap();
        let mut command = qm(home, &args);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert!(ready.contains("qm.node/1"), "{ready}");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if asked.is_err() {
            drop(self.0.kill());
        }
        drop(self.0.wait());
    }
}

const COUNT: usize = 8;

fn body(number: usize) -> String {
    format!("message {number} {}", "x".repeat(300))
}

/// A stopped node with messages in the queue `orders`; returns their ids.
fn filled(home: &Path) -> Vec<String> {
    let node = Running::start(home);
    done(home, &["queue", "create", "orders"]);
    let ids = (0..COUNT).map(|number| {
        let sent = json(&done(home, &["--json", "send", "orders", &body(number)]));
        sent["id"].as_str().unwrap().to_owned()
    });
    let ids = ids.collect();
    drop(node);
    ids
}

/// Flips a bit in the body of a message, and says in which file and where.
fn damage(home: &Path, number: usize) -> (PathBuf, usize) {
    let body = body(number);
    for entry in fs::read_dir(home.join("node/store")).unwrap() {
        let path = entry.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        let found = content
            .windows(body.len())
            .position(|part| part == body.as_bytes());
        if let Some(at) = found {
            content[at + 100] ^= 4;
            fs::write(&path, content).unwrap();
            return (path, at);
        }
    }
    panic!("message {number} is nowhere");
}

#[test]
fn a_damaged_message_is_named_and_the_rest_is_saved() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (code, _, error) = run(home, &["store", "check"]);
    assert_eq!(code, 2, "{error}");
    let ids = filled(home);

    let checked = json(&done(home, &["--json", "store", "check"]));
    assert_eq!(checked["schema"], "qm.store_check/1");
    assert_eq!(checked["sound"], true);
    assert_eq!(checked["messages"], COUNT);
    assert_eq!(checked["queues"][0]["queue"], "orders");
    let (_, _, note) = run(home, &["store", "repair", "--in-place", "--yes"]);
    assert!(note.contains("nothing was done"), "{note}");

    let (path, _) = damage(home, 3);
    let (code, out, error) = run(home, &["--json", "store", "check"]);
    assert_eq!(code, 1, "{out}{error}");
    assert_eq!(json(&error)["code"], "store_damaged");
    let checked = json(&out);
    assert_eq!(checked["lost_messages"], 1);
    let place = &checked["damages"][0];
    let file = place["file"].as_str().unwrap();
    assert_eq!(Path::new(file).file_name(), path.file_name());
    assert_eq!(place["lost"], "message");
    assert_eq!(place["message"]["queue"], "orders");
    assert_eq!(place["message"]["id"].as_str(), Some(&*ids[3]));
    let (_, out, _) = run(home, &["store", "check"]);
    assert!(out.contains("of orders (id "), "{out}");

    // Without --yes nobody can be asked, and nothing happens.
    let (code, _, error) = run(home, &["store", "repair", "--in-place"]);
    assert_eq!(code, 2, "{error}");
    let dry = done(
        home,
        &["--json", "store", "repair", "--in-place", "--dry-run"],
    );
    assert_eq!(json(&dry)["lost_messages"], 1);
    let damaged = fs::read(&path).unwrap();

    done(home, &["store", "repair", "--out", "saved"]);
    assert!(home.join("saved/00000001.seg").exists());
    assert_eq!(
        fs::read(&path).unwrap(),
        damaged,
        "the original is as it was"
    );
    let (code, _, error) = run(home, &["store", "repair", "--out", "saved"]);
    assert!(code == 1 && error.contains("not empty"), "{error}");

    let repaired = json(&done(
        home,
        &["--json", "store", "repair", "--in-place", "--yes"],
    ));
    assert_eq!(repaired["schema"], "qm.store_repair/1");
    assert_eq!(repaired["messages"], COUNT - 1);
    let kept = home
        .join("node/store.damaged-1")
        .join(path.file_name().unwrap());
    assert_eq!(fs::read(kept).unwrap(), damaged, "the original is kept");
    done(home, &["store", "check"]);

    let node = Running::start(home);
    let (code, _, error) = run(home, &["store", "check"]);
    assert!(code == 1 && error.contains("data_dir_locked"), "{error}");
    let received = done(home, &["receive", "orders", "--count", "7"]);
    let expected: String = (0..COUNT)
        .filter(|number| *number != 3)
        .map(|number| format!("{}\n", body(number)))
        .collect();
    assert_eq!(received, expected);
    drop(node);
}

#[test]
fn a_damaged_message_leaves_its_queue_and_the_queue_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let ids = filled(home);
    damage(home, 0);
    damage(home, 5);
    let node = Running::start(home);
    let received = done(home, &["receive", "orders", "--count", "6"]);
    let expected: String = (0..COUNT)
        .filter(|number| ![0, 5].contains(number))
        .map(|number| format!("{}\n", body(number)))
        .collect();
    assert_eq!(received, expected);
    let queue = json(&done(home, &["--json", "queue", "show", "orders"]));
    assert_eq!(
        queue["messages"], 0,
        "what cannot be served does not wait: {queue}"
    );
    let status = json(&done(home, &["--json", "status"]));
    assert_eq!(status["missing_records"], 0, "{status}");
    let health = &status["store_health"];
    assert_eq!(health["damaged_records"], 2, "{status}");
    let moved_to = health["damages"][0]["moved_to"].as_str().unwrap();
    let kept = fs::read(moved_to).unwrap();
    assert!(
        kept.windows(50).any(|part| part == [b'x'; 50]),
        "its bytes are kept"
    );
    for (damage, number) in health["damages"].as_array().unwrap().iter().zip([0, 5]) {
        assert_eq!(damage["id"].as_str(), Some(&*ids[number]), "{damage}");
    }
    let (code, out, _) = run(home, &["--json", "doctor"]);
    assert_eq!(code, 1, "{out}");
    let findings: Vec<Value> = out.lines().map(json).collect();
    let finding = |code: &str| {
        let found = findings.iter().find(|finding| finding["code"] == code);
        found
            .unwrap_or_else(|| panic!("no {code} in {out}"))
            .clone()
    };
    let damaged = finding("damaged_messages");
    assert_eq!(damaged["level"], "problem");
    let what = damaged["what"].as_str().unwrap();
    assert!(
        what.contains("2 stored messages") && what.contains(&ids[0]),
        "{what}"
    );
    assert!(damaged["fix"].as_str().unwrap().contains("store check"));
    let kept = finding("damaged_kept");
    assert!(
        kept["what"].as_str().unwrap().starts_with("2 damaged"),
        "{kept}"
    );
    let (code, line, _) = run(home, &["check"]);
    assert!(code == 2 && line.starts_with("QM CRITICAL"), "{line}");
    let log = fs::read_to_string(home.join("log")).unwrap();
    for id in [&ids[0], &ids[5]] {
        let named = |line: &str| line.contains("record_damaged") && line.contains(&**id);
        assert!(log.lines().any(named), "{id} in {log}");
    }
    assert!(log.contains("message_damaged"), "{log}");
    assert!(
        log.contains(r#"queue="orders""#) || log.contains(r#""queue":"orders""#),
        "{log}"
    );
    drop(node);
    // They were removed from the store, and do not come back with the next start.
    let (_, out, _) = run(home, &["--json", "store", "check"]);
    assert_eq!(json(&out)["lost_messages"], 0, "{out}");
    let node = Running::start(home);
    let queue = json(&done(home, &["--json", "queue", "show", "orders"]));
    assert_eq!(queue["messages"], 0);
    drop(node);
}

/// Cut between its two renamings a repair leaves no store: nothing new is begun in its place.
#[test]
fn an_interrupted_repair_is_named() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    filled(home);
    fs::rename(home.join("node/store"), home.join("node/store.repaired-1")).unwrap();
    fs::create_dir(home.join("node/store.damaged-1")).unwrap();
    let (code, _, error) = run(home, &["--json", "run", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1, "{error}");
    let told = |line: &str| line.contains("interrupted") && line.contains("store.repaired-1");
    assert!(error.lines().any(told), "{error}");
    assert!(!home.join("node/store").exists());
    fs::rename(home.join("node/store.repaired-1"), home.join("node/store")).unwrap();
    let node = Running::start(home);
    let queue = json(&done(home, &["--json", "queue", "show", "orders"]));
    assert_eq!(queue["messages"], COUNT);
    drop(node);
}

/// A body in a file of its own is kept as well, and the message leaves its queue all the same.
#[test]
fn a_damaged_huge_body_is_set_aside_with_its_record() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let large = |args: &[&str]| {
        let mut command = qm(home, args);
        command.env("QM_LIMITS__BODY_BYTES", "4MiB");
        command
    };
    let start = || {
        let args = ["--json", "run", "--listen", "127.0.0.1:0"];
        let log = fs::File::create(home.join("log")).unwrap();
        let mut child = large(&args)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let out = child.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut ready).unwrap();
        Running(child)
    };
    let node = start();
    done(home, &["queue", "create", "orders"]);
    let body: Vec<u8> = (0..2_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
    fs::write(home.join("body"), &body).unwrap();
    let sent = large(&["send", "orders", "--file", "body"])
        .output()
        .unwrap();
    assert!(sent.status.success(), "{sent:?}");
    done(home, &["send", "orders", "small"]);
    drop(node);
    let files = fs::read_dir(home.join("node/store")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|kind| kind == "body"));
    let file = file.expect("a body in a file of its own");
    let mut content = fs::read(&file).unwrap();
    content[1_000_000] ^= 8;
    fs::write(&file, &content).unwrap();

    let node = start();
    assert_eq!(done(home, &["receive", "orders"]), "small\n");
    let queue = json(&done(home, &["--json", "queue", "show", "orders"]));
    assert_eq!(queue["messages"], 0, "{queue}");
    let status = json(&done(home, &["--json", "status"]));
    let moved_to = status["store_health"]["damages"][0]["moved_to"].as_str();
    let moved_to = PathBuf::from(moved_to.unwrap());
    assert!(moved_to.exists());
    assert_eq!(fs::read(moved_to.with_extension("body")).unwrap(), content);
    drop(node);
    let (code, out, _) = run(home, &["--json", "store", "check"]);
    assert_eq!(
        (code, json(&out)["messages"].as_u64()),
        (0, Some(0)),
        "{out}"
    );
    assert!(!file.exists(), "its room was given back");
}

/// A segment that is gone is named by the node that does not start, and by the check.
#[test]
fn a_segment_that_is_gone_is_named() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    filled(home);
    let (path, _) = damage(home, 3);
    fs::remove_file(&path).unwrap();
    let (code, out, error) = run(home, &["--json", "run", "--listen", "127.0.0.1:0"]);
    assert_eq!((code, &*out), (1, ""), "{error}");
    let name = path.file_name().unwrap().to_str().unwrap();
    let told = |text: &str| text.contains("store_damaged") && text.contains(name);
    assert!(error.lines().any(told), "{error}");
    let (code, out, _) = run(home, &["--json", "store", "check"]);
    assert_eq!(code, 1);
    let places = json(&out)["damages"].clone();
    let file = places[0]["file"].as_str().unwrap().to_owned();
    assert_eq!(Path::new(&file).file_name(), path.file_name(), "{places}");
    assert_eq!(places[0]["what"], "its file is gone");
    let (_, out, _) = run(home, &["store", "check"]);
    assert!(out.contains("its file is gone"), "{out}");
    // What is left is saved, and the node runs again.
    done(home, &["store", "repair", "--in-place", "--yes"]);
    drop(Running::start(home));
}
