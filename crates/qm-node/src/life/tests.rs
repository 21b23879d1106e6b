use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::thread;

use bytes::BytesMut;
use qm_client::blocking::Client;
use qm_client::{Message, ReceiveOptions, SendError};
use qm_engine::Trust;
use qm_store::{Fault, SimFs};
use qm_wire::local::{ClientFrame, ClientHello, Put};
use qm_wire::{Class, ClientId, Outcome};
use tempfile::TempDir;

use super::*;

mod large;

/// A node on a simulated disk.
struct Simulated {
    fs: Arc<SimFs>,
    socket: std::path::PathBuf,
    stop: Arc<Notify>,
    ended: Receiver<Result<(), RunError>>,
    _dir: TempDir,
}

fn start(change: impl FnOnce(&mut NodeConfig)) -> Simulated {
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::new(dir.path());
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.engine.trust = Trust::Any;
    config.engine.body_bytes_max = 64 << 10;
    config.store.segment_bytes = 1 << 20;
    config.store.reserve_bytes = 1 << 20;
    change(&mut config);
    let socket = config.socket.clone();
    let fs = Arc::new(SimFs::new());
    let disk = Arc::clone(&fs);
    let stop = Arc::new(Notify::new());
    let asked = Arc::clone(&stop);
    let (tell_ready, ready) = std::sync::mpsc::channel();
    let (tell_ended, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let served = runtime.block_on(serve(config, disk, &asked, |_| {
            tell_ready.send(()).unwrap();
        }));
        tell_ended.send(served).unwrap();
    });
    ready.recv().unwrap();
    Simulated {
        fs,
        socket,
        stop,
        ended,
        _dir: dir,
    }
}

fn create_queue(client: &Client) {
    client.admin(r#"{"do":"queue.create","name":"q"}"#).unwrap();
}

/// Bodies of the messages in the queue.
fn peek(client: &Client) -> Vec<Vec<u8>> {
    let options = ReceiveOptions::new().limit(1000);
    let seen = client.peek(&"q".parse().unwrap(), &options).unwrap();
    seen.iter().map(|message| message.body().to_vec()).collect()
}

#[test]
fn a_failed_flush_is_survived_by_recovery_and_nothing_accepted_is_lost_or_doubled() {
    let node = start(|_| {});
    let client = Client::connect(&node.socket).unwrap();
    create_queue(&client);
    let first_life = client.node().incarnation;
    let mut accepted: Vec<Vec<u8>> = Vec::new();
    for round in 0..3_u8 {
        for number in 0..10_u8 {
            let body = vec![round, number];
            if number == 5 {
                // The flush or the write of one of the next commits.
                let next = node.fs.operations() + u64::from(round);
                node.fs.inject(Fault::FailAt(next));
            }
            // The client connects again by itself and repeats what has no answer.
            client.send(Message::new("q", body.clone())).unwrap();
            accepted.push(body);
        }
    }
    assert_eq!(peek(&client), accepted);
    assert_ne!(client.node().incarnation, first_life);
    node.stop.notify_one();
    node.ended.recv().unwrap().unwrap();
}

#[test]
fn a_disk_that_stays_broken_ends_the_node_with_the_cause() {
    let node = start(|_| {});
    let impatient = qm_client::Client::builder().reconnect_for(Duration::from_secs(1));
    let client = Client::connect_with(impatient, &node.socket).unwrap();
    create_queue(&client);
    node.fs.inject(Fault::FailWrites);
    let sending = thread::spawn(move || client.send(Message::new("q", "never")));
    let error = node
        .ended
        .recv_timeout(Duration::from_secs(30))
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code(), "store_given_up");
    // Advice stands in the fix, not in the cause as well.
    assert!(!error.to_string().contains("reopen it"), "{error}");
    assert!(error.fix().contains("recovery tells"), "{}", error.fix());
    assert!(error.to_string().contains("could not"), "{error}");
    assert!(sending.join().unwrap().is_err());
    assert!(!node.socket.exists());
}

/// On file systems that write elsewhere, and on thin volumes, also what exists can find no room.
#[test]
fn a_store_that_cannot_be_opened_for_want_of_room_waits_for_it() {
    let node = start(|_| {});
    let patient = qm_client::Client::builder().reconnect_for(Duration::from_secs(60));
    let client = Client::connect_with(patient, &node.socket).unwrap();
    create_queue(&client);
    node.fs.inject(Fault::FullForAllFrom(node.fs.operations()));
    let sending = thread::spawn(move || {
        client.send(Message::new("q", "late")).unwrap();
        peek(&client)
    });
    // Five failures take three seconds and end a node.
    let ended = node.ended.recv_timeout(Duration::from_secs(8));
    assert!(ended.is_err(), "{ended:?}");
    assert!(!sending.is_finished());
    node.fs.heal();
    assert_eq!(sending.join().unwrap(), [b"late"]);
    node.stop.notify_one();
    node.ended.recv().unwrap().unwrap();
}

/// Who asked for the end gets it, and is told what was in the way.
#[test]
fn a_disk_that_fails_while_the_node_stops_keeps_it_from_nothing() {
    let node = start(|_| {});
    let client = Client::connect(&node.socket).unwrap();
    create_queue(&client);
    client
        .send(Message::new("q", "kept").class(Class::Express))
        .unwrap();
    // Express messages are written when the node stops, and not before.
    node.fs.inject(Fault::FailWrites);
    node.stop.notify_one();
    let ended = node.ended.recv_timeout(Duration::from_secs(30)).unwrap();
    let error = ended.unwrap_err();
    assert_eq!(error.code(), "stop_unfinished");
    assert!(error.to_string().contains("could not"), "{error}");
    assert!(error.fix().contains("express messages"), "{}", error.fix());
    assert!(!node.socket.exists());
}

#[test]
fn a_node_that_stops_on_a_full_disk_says_how_many_express_messages_that_costs() {
    // More than what the store holds ready.
    const MESSAGES: u64 = 1_500;
    let node = start(|config| config.engine.express_bytes_max = 256 << 20);
    let client = Client::connect(&node.socket).unwrap();
    create_queue(&client);
    let body = vec![7; 60 << 10];
    for _ in 0..MESSAGES {
        client
            .send(Message::new("q", body.clone()).class(Class::Express))
            .unwrap();
    }
    node.fs.set_capacity(Some(0));
    node.stop.notify_one();
    let ended = node.ended.recv_timeout(Duration::from_secs(30)).unwrap();
    let error = ended.unwrap_err();
    assert_eq!(error.code(), "stop_unfinished");
    let said = error.to_string();
    let lost = said.split(' ').find_map(|word| word.parse::<u64>().ok());
    assert!(
        lost.is_some_and(|lost| (1..=MESSAGES).contains(&lost)),
        "{said}"
    );
}

/// As when an interface comes up later than its machine wakes.
#[test]
fn a_node_whose_address_is_gone_for_a_while_loses_nothing_and_comes_back() {
    let node = start(|_| {});
    let client = Client::connect(&node.socket).unwrap();
    create_queue(&client);
    client
        .send(Message::new("q", "kept").class(Class::Express))
        .unwrap();
    let status = || -> serde_json::Value {
        let answer = client.admin(r#"{"do":"status"}"#).unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    let listen = status()["node"]["listen"].as_str().unwrap().to_owned();
    let freeze = r#"{"do":"node.freeze","for_ms":600000}"#;
    client.admin(freeze).unwrap();
    // The port is free as soon as the old network has ended.
    let in_the_way = loop {
        match UdpSocket::bind(&listen) {
            Ok(socket) => break socket,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    };
    client.admin(r#"{"do":"node.thaw"}"#).unwrap();
    while status()["network_failed"].is_null() {}
    assert_eq!(peek(&client), [b"kept"]);
    // Nobody is to blame for it but this node, and nothing is being dialled.
    client.send(Message::new("qm://b/orders", "waits")).unwrap();
    let why = || -> serde_json::Value {
        let answer = client.admin(r#"{"do":"why","subject":"qm://b:1801/orders"}"#);
        serde_json::from_slice(&answer.unwrap()).unwrap()
    };
    let said = why();
    assert_eq!(said["code"], "network_failed", "{said}");
    drop(in_the_way);
    while !status()["network_failed"].is_null() {}
    assert_ne!(why()["code"], "network_failed");
    assert_eq!(status()["node"]["listen"].as_str(), Some(&*listen));
    assert_eq!(peek(&client), [b"kept"]);
    node.stop.notify_one();
    let ended = node.ended.recv_timeout(Duration::from_secs(30)).unwrap();
    ended.unwrap();
}

#[test]
fn a_full_disk_refuses_with_its_reason_and_can_be_drained() {
    let node = start(|_| {});
    let client = Client::connect(&node.socket).unwrap();
    create_queue(&client);
    node.fs.set_capacity(Some(80 << 20));
    let body = vec![7; 60 << 10];
    let mut accepted = 0_usize;
    let refused = loop {
        match client.send(Message::new("q", body.clone())) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 4000, "the disk never fills");
    };
    assert!(
        matches!(&refused, SendError::Rejected { outcome, .. } if *outcome == Outcome::STORE_FULL),
        "{refused:?}"
    );
    let queue = "q".parse().unwrap();
    let mut received = 0_usize;
    loop {
        let batch = client
            .receive_batch(&queue, &ReceiveOptions::new().limit(64))
            .unwrap();
        if batch.is_empty() {
            break;
        }
        received += batch.len();
        let settlings: Vec<_> = batch
            .into_iter()
            .map(|delivery| delivery.consume())
            .collect();
        for settling in settlings {
            client.wait(settling).unwrap();
        }
    }
    assert_eq!(received, accepted);
    node.stop.notify_one();
    node.ended.recv().unwrap().unwrap();
}

/// A directory on a machine of this name.
fn on_machine(dir: &Path, machine: &str) -> NodeConfig {
    let id = dir.join("machine-id");
    std::fs::write(&id, machine).unwrap();
    let mut config = NodeConfig::new(dir.join("node"));
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.engine.body_bytes_max = 64 << 10;
    config.store.segment_bytes = 1 << 20;
    config.store.reserve_bytes = 1 << 20;
    config.machine_ids = vec![("machine-id", id)];
    config
}

/// Starts a node on a machine, lets it do something, and stops it. Who it was.
fn ran(dir: &Path, machine: &str, does: impl FnOnce(&Client)) -> qm_wire::QmId {
    let node = crate::run::Node::start(on_machine(dir, machine)).unwrap();
    let qm = node.qm_id();
    let client = Client::connect(node.socket()).unwrap();
    does(&client);
    client.close();
    node.shutdown().unwrap();
    qm
}

/// A golden image whose node was started and never used.
#[test]
fn a_copy_of_a_node_that_met_nobody_is_a_new_node() {
    let dir = tempfile::tempdir().unwrap();
    let image = ran(dir.path(), "image", create_queue);
    assert_eq!(ran(dir.path(), "image", |_| ()), image, "a restart is none");
    let instance = ran(dir.path(), "instance", |client| {
        // What the image had configured is there.
        client.admin(r#"{"do":"queue.show","name":"q"}"#).unwrap();
    });
    assert_ne!(instance, image);
    assert_eq!(ran(dir.path(), "instance", |_| ()), instance);
}

#[test]
fn a_node_that_was_used_stays_who_it_is_wherever_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let image = ran(dir.path(), "image", |client| {
        create_queue(client);
        client.send(Message::new("q", "kept")).unwrap();
    });
    assert_eq!(ran(dir.path(), "instance", |_| ()), image);
    // One that met a peer.
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let peer = crate::run::Node::start(on_machine(other.path(), "other")).unwrap();
    let met = ran(dir.path(), "image", |client| {
        let address = peer.listen();
        let add = format!(
            r#"{{"do":"peers.add","name":"b","address":"{address}","keep_connected":true}}"#
        );
        client.admin(add).unwrap();
        let peers = || {
            let peers = client.admin(r#"{"do":"peers.list"}"#).unwrap();
            String::from_utf8_lossy(&peers).into_owned()
        };
        let begun = Instant::now();
        while !peers().contains(r#""event":"opened""#) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", peers());
        }
    });
    assert_eq!(ran(dir.path(), "instance", |_| ()), met);
    peer.shutdown().unwrap();
}

/// A store that was put back from a backup taken before a change of identity, after the key of that
/// time was erased: it is not run under a key that is none of its own.
#[test]
fn a_used_store_is_not_run_under_the_key_of_another() {
    let [dir, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let owner = ran(dir.path(), "machine", |client| {
        create_queue(client);
        client.send(Message::new("q", "kept")).unwrap();
    });
    ran(other.path(), "machine", |_| ());
    let key = |dir: &Path| dir.join("node").join(identity_file::KEY_FILE);
    let kept = std::fs::read(key(dir.path())).unwrap();
    std::fs::copy(key(other.path()), key(dir.path())).unwrap();
    let error = crate::run::Node::start(on_machine(dir.path(), "machine"));
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(error, RunError::KeyMissing { .. }), "{error}");
    std::fs::write(key(dir.path()), kept).unwrap();
    assert_eq!(ran(dir.path(), "machine", |_| ()), owner);
}

/// Every file below a directory, with what it holds.
fn contents(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn a_node_that_is_frozen_writes_and_says_nothing_and_then_goes_on() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let trusting = |dir: &Path| {
        let mut config = on_machine(dir, "here");
        config.engine.trust = Trust::Any;
        crate::run::Node::start(config).unwrap()
    };
    let (node, peer) = (trusting(dir.path()), trusting(other.path()));
    let began = Instant::now();
    let there = Client::connect(peer.socket()).unwrap();
    create_queue(&there);
    let client = Client::connect(node.socket()).unwrap();
    let address = peer.listen();
    let add = format!(r#"{{"do":"peers.add","name":"b","address":"{address}"}}"#);
    client.admin(add).unwrap();
    client.send(Message::new("b/q", "one")).unwrap();
    let arrives = |body: &str| {
        let options = ReceiveOptions::new().wait(Duration::from_secs(20));
        let delivery = there.receive(&"q".parse().unwrap(), &options).unwrap();
        let delivery = delivery.unwrap_or_else(|| panic!("{body} never arrived"));
        assert_eq!(&**delivery.body(), body.as_bytes());
        there.wait(delivery.consume()).unwrap();
    };
    arrives("one");
    let asked = |client: &Client, what: &str| -> serde_json::Value {
        let answer = client.admin(format!(r#"{{"do":"{what}"}}"#)).unwrap();
        serde_json::from_slice(&answer).unwrap()
    };
    let life = || asked(&client, "status")["incarnation"].clone();
    // The life that the other node speaks with, and how often a connection was opened.
    let spoken_with = || {
        let peer = asked(&there, "peers.list")["items"][0].clone();
        let connections = peer["connections"].as_array().unwrap();
        let opened = connections.iter().filter(|one| one["event"] == "opened");
        (peer["incarnation"].clone(), opened.count())
    };
    let (first_life, (known, opened)) = (life(), spoken_with());
    assert_eq!(known, first_life);
    client
        .admin(r#"{"do":"node.freeze","for_ms":60000}"#)
        .unwrap();
    let store = dir.path().join("node").join(STORE_DIR);
    let before = contents(&store);
    let socket = node.socket().to_owned();
    let sending = thread::spawn(move || {
        let client = Client::connect(&socket).unwrap();
        client.send(Message::new("b/q", "two")).unwrap();
        client.close();
    });
    // Meanwhile a node that stands still would have done as much as the other one does now.
    there
        .admin(r#"{"do":"queue.create","name":"clock"}"#)
        .unwrap();
    for number in 0..200 {
        there
            .send(Message::new("clock", number.to_string()))
            .unwrap();
    }
    assert!(!sending.is_finished(), "nothing is accepted");
    let after = contents(&store);
    let changed = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) != Some(bytes));
    let changed: Vec<_> = changed.map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "nothing is written: {changed:?}");
    assert_eq!(after.len(), before.len(), "nothing is made");
    // Whoever thaws it may come while it stands still.
    let thawing = Client::connect(node.socket()).unwrap();
    let thawed = thawing.admin(r#"{"do":"node.thaw"}"#).unwrap();
    let thawed = String::from_utf8_lossy(&thawed).into_owned();
    assert!(thawed.contains(r#""count":1"#), "{thawed}");
    sending.join().unwrap();
    arrives("two");
    // It speaks under another life, on a connection whose keys are in no snapshot.
    let second_life = life();
    assert_ne!(second_life, first_life);
    let (known, again) = spoken_with();
    assert_eq!(known, second_life);
    assert!(again > opened, "{again} after {opened}");
    // And by itself, when nobody does.
    client
        .admin(r#"{"do":"node.freeze","for_ms":300}"#)
        .unwrap();
    client.send(Message::new("b/q", "three")).unwrap();
    arrives("three");
    // Nothing was begun anew but the network.
    let status = client.admin(r#"{"do":"status"}"#).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let up = status["uptime_ms"].as_u64().unwrap();
    let since = u64::try_from(began.elapsed().as_millis()).unwrap();
    assert!(up + 500 > since, "{up} of {since} ms");
    for client in [there, client, thawing] {
        client.close();
    }
    node.shutdown().unwrap();
    peer.shutdown().unwrap();
}

/// Puts of a transaction have no answer of their own, so no window stops them.
#[test]
fn a_frozen_node_keeps_little_of_what_an_application_goes_on_saying() {
    let dir = tempfile::tempdir().unwrap();
    let node = crate::run::Node::start(on_machine(dir.path(), "here")).unwrap();
    let client = Client::connect(node.socket()).unwrap();
    create_queue(&client);
    client
        .admin(r#"{"do":"node.freeze","for_ms":60000}"#)
        .unwrap();
    let mut talker = UnixStream::connect(node.socket()).unwrap();
    talker
        .set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let mut bytes = BytesMut::new();
    let hello = ClientHello {
        protocol: 1,
        client: ClientId([1; 16]),
        program: "talker".into(),
    };
    ClientFrame::Hello(hello).encode(&mut bytes);
    let (mut said, mut refused) = (0, None);
    for sequence in 1..1024 {
        let mut put = Put::new(sequence, "q", vec![7; 64 << 10].into());
        put.transaction = Some(1);
        ClientFrame::Put(put).encode(&mut bytes);
        match talker.write_all(&bytes.split()) {
            Ok(()) => said += 64 << 10,
            Err(error) => {
                refused = Some(error.kind());
                break;
            }
        }
    }
    assert_eq!(
        refused,
        Some(std::io::ErrorKind::WouldBlock),
        "{said} bytes"
    );
    assert!(said < 8 << 20, "{said} bytes");
    let thawed = client.admin(r#"{"do":"node.thaw"}"#).unwrap();
    assert!(String::from_utf8_lossy(&thawed).contains(r#""count":1"#));
    client.send(Message::new("q", "goes on")).unwrap();
    client.close();
    node.shutdown().unwrap();
}
