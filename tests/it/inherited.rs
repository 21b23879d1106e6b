//! A receiver is copied while messages wait in its queues: real processes. What both copies hold is
//! set aside at the one that takes another identity, nothing else is, and who parted is told.

use qm_client::{Class, Message};
use serde_json::Value;

use crate::copies::{drain, hub_and_till, qm, receive, send, text, told};
use crate::load::accept;
use crate::program::{Program, eventually};

fn bodies(letter: char, count: u32) -> Vec<String> {
    (0..count).map(|n| format!("{letter} {n}")).collect()
}

/// Messages from an application of the machine itself, into its own queues.
fn own(node: &Program, letter: char) {
    let message = |body: String, class, queue: &str| Message::new(queue, body).class(class);
    let put = |body: String| {
        vec![
            message(body.clone(), Class::Transactional, "orders"),
            message(body, Class::Recoverable, "notes"),
        ]
    };
    for body in bodies(letter, 3) {
        accept(&node.data().join("node.sock"), put(body));
    }
}

fn aside(node: &Program) -> Vec<(String, u64)> {
    let list = text(node, &["--json", "quarantine", "list"]);
    let item = |line: &str| {
        let item: Value = serde_json::from_str(line).unwrap();
        let name = item["name"].as_str().unwrap().to_owned();
        (name, item["messages"].as_u64().unwrap())
    };
    list.lines().map(item).collect()
}

/// Two machines with one identity, of which the loser, the second, holds six that both have and
/// three of its own in each queue; and the node between.
fn parted(running: bool) -> (Program, Program, Program) {
    let (mut hub, till) = hub_and_till(&[]);
    let old = qm(&hub);
    till.done(&["queue", "create", "replies"]);
    hub.done(&["peers", "add", "till", &till.listen.to_string()]);
    let mut till = [till];
    send(&till[0], 'i', 0..6);
    drain(&mut till);
    let copy = if running {
        hub.signal("STOP");
        let copy = hub.copy();
        hub.signal("CONT");
        copy
    } else {
        hub.stop();
        let copy = hub.copy();
        hub.launch();
        copy
    };
    let mut machines = [hub, copy];
    own(&machines[0], 'a');
    machines[1].launch();
    own(&machines[1], 'c');
    // Both have a session with the till.
    for machine in &machines {
        let reply = Message::new("till/replies", "here").class(Class::Recoverable);
        accept(&machine.data().join("node.sock"), vec![reply]);
    }
    eventually("one takes an identity of its own", || {
        let mut kept = machines.iter_mut().map(|node| node.status()["qm"] == old);
        (kept.by_ref().filter(|kept| *kept).count() == 1).then_some(())
    });
    let loser = machines
        .iter_mut()
        .position(|node| node.status()["qm"] != old);
    if loser == Some(0) {
        machines.swap(0, 1);
    }
    let [till] = till;
    let [winner, loser] = machines;
    (till, winner, loser)
}

fn check_aside(winner: &Program, loser: &mut Program) {
    eventually("what both have is set aside", || {
        (loser.status()["quarantined"] == 12).then_some(())
    });
    assert_eq!(
        aside(loser),
        [
            ("notes:quarantine".to_owned(), 6),
            ("orders:quarantine".to_owned(), 6)
        ]
    );
    assert_eq!(aside(winner), []);
    for (command, says) in [
        (["--json", "status"].as_slice(), "\"quarantined\":12"),
        (&["doctor"], "quarantine drop"),
        (
            &["why", "orders"],
            "6 that another machine has as well are set aside",
        ),
        (&["quarantine", "list"], "orders"),
    ] {
        let said = text(loser, command);
        assert!(said.contains(says), "{command:?}: {said}");
        assert!(
            !text(winner, command).contains(says),
            "{command:?} of the winner"
        );
    }
    told(loser, 0, "quarantined");
    // What only one of them received stays where it was.
    let mine = receive(loser, "orders");
    let letter = mine[0].chars().next().unwrap();
    assert_eq!(mine, bodies(letter, 3));
    assert_eq!(receive(loser, "notes"), bodies(letter, 3));
    let theirs = if letter == 'a' { 'c' } else { 'a' };
    for queue in ["orders", "notes"] {
        let all = [bodies('i', 6), bodies(theirs, 3)].concat();
        assert_eq!(receive(winner, queue), all, "{queue}");
    }
}

#[test]
fn what_both_copies_of_a_stopped_receiver_hold_is_set_aside_at_one() {
    let (_till, winner, mut loser) = parted(false);
    check_aside(&winner, &mut loser);

    // It lies there over a restart, until the operator decides.
    loser.kill();
    loser.launch();
    assert_eq!(loser.status()["quarantined"], 12);
    assert!(receive(&loser, "orders").is_empty());
    let refused = loser.command(&["quarantine", "drop", "nosuch", "--yes"]);
    let mut refused = refused;
    assert_eq!(refused.status().unwrap().code(), Some(4));
    loser.done(&["quarantine", "drop", "notes", "--yes"]);
    loser.done(&["quarantine", "release", "orders", "--yes"]);
    assert_eq!(receive(&loser, "orders"), bodies('i', 6));
    assert!(receive(&loser, "notes").is_empty());
    assert_eq!(loser.status()["quarantined"], 0);
    assert!(!text(&loser, &["doctor"]).contains("quarantine drop"));
}

#[test]
fn who_parted_is_told_where_the_identity_is_kept_and_where_the_alarm_was() {
    let (mut till, mut winner, mut loser) = parted(true);
    check_aside(&winner, &mut loser);
    let old = qm(&winner);
    let place = loser.listen.to_string();
    for (node, asked) in [(&mut till, old.as_str()), (&mut winner, "till/replies")] {
        eventually("the alarm ends", || {
            let status = node.status();
            let told = status["parted"][0]["qm"] == old.as_str();
            (told && status["twins"].is_null()).then_some(())
        });
        node.stop();
        node.launch();
        assert_eq!(
            node.status()["parted"][0]["qm"],
            old.as_str(),
            "over a restart"
        );
        for command in [
            ["--json", "status"].as_slice(),
            &["doctor"],
            &["why", asked],
        ] {
            let said = text(node, command);
            assert!(said.contains(&place), "{command:?}: {said}");
        }
        assert!(text(node, &["--json", "doctor"]).contains("copy_parted"));
        told(node, 0, "twin_parted");
    }
    let shown = winner.document(&["identity", "show"]);
    assert_eq!(shown["parted"]["machines"][0]["address"], place.as_str());
    // Forgotten, it is told no more.
    winner.done(&["peers", "forget", &old, "--yes"]);
    assert!(!text(&winner, &["--json", "doctor"]).contains("copy_parted"));
}
