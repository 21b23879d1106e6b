//! A real process on a real disk, killed without warning.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use qm_store::{Committer, Completion, LogOptions, RealFs, StreamId};

use crate::common::*;

const DIR: &str = "QM_STORE_KILL_DIR";
/// Records removed behind the newest.
const KEPT: u64 = 50;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 256 * 1024,
        reserve_bytes: 128 * 1024,
        ..LogOptions::default()
    }
}

/// The process that is killed; does nothing when it is run as an ordinary test.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let salt = u64::from(std::process::id());
    let (log, recovered) = open_at(&Arc::new(RealFs), Path::new(&dir), options(), salt).unwrap();
    let first = recovered
        .streams
        .get(&StreamId(0))
        .map_or(1, |stream| stream.next_position);
    let out = std::sync::Mutex::new(std::io::stdout());
    let (told, tell) = std::sync::mpsc::sync_channel(64);
    let committer = Committer::spawn(log, move |completion| {
        let Completion::Done(at) = completion else {
            panic!("{completion:?}")
        };
        let mut out = out.lock().unwrap();
        writeln!(out, "done {at}").unwrap();
        out.flush().unwrap();
        told.send(()).unwrap();
    })
    .unwrap();
    // As many under way as the channel holds.
    for at in first.. {
        if at > first + 60 {
            tell.recv().unwrap();
        }
        let body = vec![at as u8; at as usize % 3000];
        let mut ops = vec![
            put(0, at, at.to_le_bytes(), body),
            set("newest", at.to_le_bytes()),
        ];
        if at > KEPT {
            ops.push(remove(0, 0, at - KEPT));
        }
        committer.submit(at, batch(ops));
    }
}

#[test]
fn nothing_reported_done_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(u64::from(std::process::id()));
    let mut newest = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = 20 + random.below(400);
        let mut reported = BTreeSet::new();
        while let Some(Ok(line)) = lines.next() {
            // The test harness may print on the same line.
            let Some(at) = line
                .split("done ")
                .nth(1)
                .and_then(|at| at.parse::<u64>().ok())
            else {
                continue;
            };
            reported.insert(at);
            wanted -= 1;
            if wanted == 0 {
                child.kill().unwrap();
                break;
            }
        }
        // What it still said before it died counts as well.
        for line in lines.map_while(Result::ok) {
            reported.extend(
                line.strip_prefix("done ")
                    .and_then(|at| at.parse::<u64>().ok()),
            );
        }
        child.wait().unwrap();
        assert_eq!(wanted, 0, "the child ended by itself in round {round}");
        let salt = random.next();
        let (log, recovered) = open_at(&Arc::new(RealFs), dir.path(), options(), salt).unwrap();
        let last = *reported.last().unwrap();
        assert!(last > newest, "round {round}");
        let found = all(&log.reader(), 0);
        newest = found.last().unwrap().0;
        assert!(
            newest >= last,
            "round {round}: {last} was reported, {newest} survived"
        );
        let expected: Vec<u64> = (newest.saturating_sub(KEPT - 1).max(1)..=newest).collect();
        assert_eq!(
            found.iter().map(|record| record.0).collect::<Vec<_>>(),
            expected
        );
        for (at, head, body) in found {
            assert_eq!(head, at.to_le_bytes().as_slice());
            assert_eq!(body, vec![at as u8; at as usize % 3000]);
        }
        assert_eq!(
            recovered.state[b"newest".as_slice()],
            newest.to_le_bytes().as_slice()
        );
        if round % 2 == 0 {
            log.close();
        }
    }
}
