//! Commands that do not reach their node, or are told no.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use bytes::{Bytes, BytesMut};
use qm_wire::local::{AdminReply, ClientFrame, NodeFrame, NodeHello};
use qm_wire::{Incarnation, QmId};

use crate::support::{Running, ended, fails, is_root, qm, shows, unprivileged};

/// Something that listens at the socket of a home, and what it does with one connection.
fn listening(home: &Path, answer: impl FnOnce(UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(home.join("s")).unwrap();
    thread::spawn(move || answer(listener.accept().unwrap().0));
}

fn hello(protocol: u16) -> BytesMut {
    let hello = NodeHello {
        protocol,
        node: QmId::from_bytes([1; 16]),
        incarnation: Incarnation(5),
        name: "fake".into(),
        body_bytes_max: 4 << 20,
        window_messages: 64,
        window_bytes: 1 << 20,
    };
    let mut bytes = BytesMut::new();
    NodeFrame::Hello(hello).encode(&mut bytes);
    bytes
}

const STATUS: [&str; 4] = ["--json", "--socket", "s", "status"];

#[test]
fn without_a_node_there_is_a_word_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    shows(qm(home.path(), &STATUS), "not_running");
    // What a killed node leaves.
    drop(UnixListener::bind(home.path().join("s")).unwrap());
    let (cause, fix) = fails(&ended(&mut qm(home.path(), &STATUS)), "not_running");
    assert!(
        cause.ends_with("Connection refused (os error 111)"),
        "{cause}"
    );
    assert!(fix.contains("`qm-node run`"), "{fix}");
}

#[test]
fn the_socket_of_somebody_else_is_no_missing_node() {
    if !is_root() {
        return;
    }
    let node = Running::start();
    crate::support::allow(&node.data(), 0o755);
    let args = ["--json", "--data", "node", "status"];
    let command = unprivileged(node.home.path(), &args);
    shows(command, "no_permission");
}

#[test]
fn whoever_else_listens_is_found_out() {
    let home = tempfile::tempdir().unwrap();
    listening(home.path(), |mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    fails(&ended(&mut qm(home.path(), &STATUS)), "not_a_node");

    let home = tempfile::tempdir().unwrap();
    listening(home.path(), |mut stream| {
        let mut frame = BytesMut::new();
        NodeFrame::Fate(qm_wire::local::Fate {
            runs: vec![(1, 1, qm_wire::Outcome::RECEIVED)],
        })
        .encode(&mut frame);
        stream.write_all(&frame).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    shows(qm(home.path(), &STATUS), "not_a_node");
}

#[test]
fn a_node_of_another_version_is_named_with_both() {
    let home = tempfile::tempdir().unwrap();
    listening(home.path(), |mut stream| {
        stream.write_all(&hello(9)).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    shows(qm(home.path(), &STATUS), "local_version");
}

#[test]
fn a_node_that_hangs_up_is_named() {
    let home = tempfile::tempdir().unwrap();
    listening(home.path(), drop);
    shows(qm(home.path(), &STATUS), "connection");
}

#[test]
fn a_node_that_does_not_answer_is_not_waited_for_without_end() {
    let home = tempfile::tempdir().unwrap();
    listening(home.path(), |mut stream| {
        drop(stream.read_to_end(&mut Vec::new()));
    });
    shows(qm(home.path(), &STATUS), "no_answer");
}

#[test]
fn an_answer_that_is_not_understood_is_named() {
    let home = tempfile::tempdir().unwrap();
    listening(home.path(), |mut stream| {
        stream.write_all(&hello(1)).unwrap();
        // The greeting and the request; its number is the first one.
        let mut read = [0; 4096];
        let mut request = None;
        let mut seen = BytesMut::new();
        while request.is_none() {
            let n = stream.read(&mut read).unwrap();
            assert_ne!(n, 0, "no request came");
            seen.extend_from_slice(&read[..n]);
            request = request_in(&seen);
        }
        let reply = AdminReply {
            request: request.unwrap(),
            ok: true,
            json: Bytes::from_static(b"{}"),
        };
        let mut frame = BytesMut::new();
        NodeFrame::AdminReply(reply).encode(&mut frame);
        stream.write_all(&frame).unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    });
    shows(qm(home.path(), &STATUS), "not_understood");
}

/// The number of the administrative request among whole frames.
fn request_in(bytes: &[u8]) -> Option<u64> {
    let mut rest = Bytes::copy_from_slice(bytes);
    while let Ok(Some(frame)) = ClientFrame::next(&mut rest, 1 << 20) {
        if let ClientFrame::Admin(admin) = frame {
            return Some(admin.request);
        }
    }
    None
}
