//! The seeds made from the golden vectors of the wire format keep up with them, and reach every
//! decoder. `QM_BLESS=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use qm_wire::local::{
    ClientFrame, ClientHello, EndTransaction, NodeFrame, Put, Receive, Settle, Verdict,
};
use qm_wire::{Class, ClientId, FrameKind, Priority};

/// Seeds by target and file name.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every vector: name, who reads it, whether it is valid, bytes.
fn vectors() -> Vec<(String, String, bool, Vec<u8>)> {
    let valid = here().join("../crates/qm-wire/vectors/v1");
    let mut paths: Vec<PathBuf> = [valid.clone(), valid.join("invalid")]
        .iter()
        .flat_map(|folder| {
            fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().path())
        })
        .filter(|path| path.extension().is_some_and(|kind| kind == "hex"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let about = fs::read_to_string(path.with_extension("toml")).unwrap();
            let reader = about
                .lines()
                .find_map(|line| line.strip_prefix("reader = \"")?.strip_suffix('"'))
                .unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let digits: String = text.split_whitespace().collect();
            let bytes = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let is_valid = path.parent() == Some(valid.as_path());
            (name, reader.to_owned(), is_valid, bytes)
        })
        .collect()
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    // The first byte chooses the link.
    let mut streams = BTreeMap::from([("peer", vec![6]), ("client", vec![7]), ("node", vec![8])]);
    let mut session = Vec::new();
    for (name, reader, is_valid, bytes) in vectors() {
        // What is invalid would end the stream.
        if is_valid && let Some(stream) = streams.get_mut(reader.as_str()) {
            stream.extend(&bytes);
        }
        // Kind, flags and body of what has a whole header.
        if reader != "envelope"
            && let Some(([_, _, _, kind, f0, f1, ..], body)) = bytes.split_first_chunk::<16>()
        {
            let bare = [&[*kind, *f0, *f1], body].concat();
            seeds.insert(("decode_body", name.clone()), bare);
        }
        match reader.as_str() {
            "peer" | "open" => {
                seeds.insert(("decode_peer_frame", name), bytes);
            }
            "client" | "node" => {
                if is_valid && reader == "client" {
                    session.push((!name.contains("hello"), bytes.clone()));
                }
                seeds.insert(("decode_local_frame", name), bytes);
            }
            "envelope" => {
                seeds.insert(("envelope_round_trip", name.clone()), bytes.clone());
                seeds.insert(("envelope_differential", name), bytes);
            }
            other => panic!("{name} is for {other}"),
        }
    }
    for (link, stream) in streams {
        seeds.insert(("frame_stream", format!("every_{link}_frame")), stream);
    }
    session.sort();
    let session = session.into_iter().flat_map(|(_, bytes)| bytes).collect();
    seeds.insert(("local_session", "every_frame".to_owned()), session);
    for (name, frames) in sessions() {
        let mut bytes = BytesMut::new();
        for (at, frame) in (0..).zip(frames) {
            frame.encode(&mut bytes);
            // Requests that bring nothing give the disk time.
            for n in 1..10 {
                let request = 100 * at + n;
                ClientFrame::Receive(Receive::new(request, "full".parse().unwrap()))
                    .encode(&mut bytes);
            }
        }
        seeds.insert(("local_session", name.to_owned()), bytes.to_vec());
    }
    seeds
}

/// Applications that get what they ask for: a search begins behind what takes several right frames.
fn sessions() -> Vec<(&'static str, Vec<ClientFrame>)> {
    let hello = || {
        ClientFrame::Hello(ClientHello {
            protocol: 1,
            client: ClientId([1; 16]),
            program: "seed".into(),
        })
    };
    let put = |sequence, transaction| {
        let mut put = Put::new(sequence, "ledger", vec![7; 10].into());
        put.class = Class::Transactional;
        put.priority = Priority::LOWEST;
        put.transaction = transaction;
        ClientFrame::Put(put)
    };
    let receive = |at, transaction| {
        let mut receive = Receive::new(100 * at, "ledger".parse().unwrap());
        receive.messages_max = 1;
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 1_000;
        receive.transaction = transaction;
        ClientFrame::Receive(receive)
    };
    let settle = |request, verdict| {
        ClientFrame::Settle(Settle {
            request,
            queue: "ledger".parse().unwrap(),
            verdict,
            ranges: vec![(0, u64::MAX)],
        })
    };
    let end = |sequence, transaction, commit| {
        ClientFrame::EndTransaction(EndTransaction {
            sequence,
            transaction,
            commit,
        })
    };
    let settled = [Verdict::GiveBack, Verdict::Consume, Verdict::Reject];
    let mut settling = vec![hello()];
    for (n, verdict) in (1..).zip(settled) {
        let frames = [put(n, None), receive(3 * n - 1, None), settle(n, verdict)];
        settling.extend(frames);
    }
    let transactions = vec![
        hello(),
        put(1, Some(1)),
        put(2, Some(1)),
        end(3, 1, true),
        receive(4, Some(2)),
        put(4, Some(2)),
        end(5, 2, true),
        receive(7, Some(3)),
        end(6, 3, false),
    ];
    vec![("settling", settling), ("transactions", transactions)]
}

#[test]
fn every_vector_is_a_seed() {
    for ((target, name), bytes) in seeds() {
        let path = here().join("seeds").join(target).join(name);
        if std::env::var_os("QM_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(
            fs::read(&path).unwrap_or_default() == bytes,
            "{} is old",
            path.display()
        );
    }
}

/// A search begins in every decoder, not in front of it: each has a seed that it reads, and, cut to
/// nothing behind its flags, one that it refuses.
#[test]
fn the_seeds_reach_every_decoder() {
    let (mut read, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for file in fs::read_dir(here().join("seeds/decode_body")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        for input in [&bytes[..], &bytes[..3]] {
            match qm_fuzz::kind_of_body(input) {
                Some(kind) => read.insert(kind),
                None => FrameKind::from_code(input[0]).is_some_and(|kind| refused.insert(kind)),
            };
        }
    }
    let all: BTreeSet<_> = FrameKind::ALL.iter().copied().collect();
    let missing: Vec<_> = all.difference(&read).collect();
    assert!(missing.is_empty(), "no seed is read as {missing:?}");
    let missing: Vec<_> = all.difference(&refused).collect();
    assert!(missing.is_empty(), "nothing is refused as {missing:?}");
}

/// The checksums of a session are put right, whatever was changed.
#[test]
fn the_seeds_of_a_session_settle_and_commit() {
    let of = |name: &str, change: fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(here().join("seeds/local_session").join(name)).unwrap();
        change(&mut bytes);
        qm_fuzz::answers_in_session(&bytes)
    };
    let settled = |answers: &[NodeFrame]| {
        let settled = answers.iter().filter_map(|answer| match answer {
            NodeFrame::Settled(settled) => Some(settled.messages),
            _ => None,
        });
        settled.collect::<Vec<_>>()
    };
    let committed = |answers: &[NodeFrame]| {
        let ended = answers.iter().filter_map(|answer| match answer {
            NodeFrame::TransactionEnded(ended) => Some(ended.committed.is_some()),
            _ => None,
        });
        ended.collect::<Vec<_>>()
    };
    let keep: fn(&mut Vec<u8>) = |_| {};
    // Another program, whose name stands in the first frame: its checksum is wrong now.
    let other: fn(&mut Vec<u8>) = |bytes| {
        let at = bytes.windows(4).position(|four| four == b"seed").unwrap();
        bytes[at..at + 4].copy_from_slice(b"weed");
    };
    for change in [keep, other] {
        assert_eq!(settled(&of("settling", change)), [1; 3]);
        assert_eq!(committed(&of("transactions", change)), [true, true, false]);
    }
}

/// A search of the engine begins where peers say everything, and hear every answer.
#[test]
fn the_seeds_of_the_engine_say_every_kind_of_frame() {
    let [mut said, mut heard] = [BTreeSet::new(), BTreeSet::new()];
    for file in fs::read_dir(here().join("seeds/engine_ops")).unwrap() {
        let kinds = qm_fuzz::kinds_in_ops(&fs::read(file.unwrap().path()).unwrap());
        let [of_peers, of_engine] = kinds;
        said.extend(of_peers);
        heard.extend(of_engine);
    }
    let missing = |found: &BTreeSet<FrameKind>, wanted: &dyn Fn(FrameKind) -> bool| {
        let all = FrameKind::ALL.iter().copied();
        let missing = all.filter(|kind| wanted(*kind) && !found.contains(kind));
        missing.collect::<Vec<_>>()
    };
    assert_eq!(missing(&said, &FrameKind::is_between_nodes), []);
    // The engine announces no large bodies and asks nobody for his queues; and a mark follows from
    // more messages than a seed has.
    let never = [
        FrameKind::Evicted,
        FrameKind::ForkPoints,
        FrameKind::Announce,
        FrameKind::BodyWanted,
        FrameKind::BodyPart,
        FrameKind::RemoteRequest,
    ];
    let answers = |kind: FrameKind| kind.is_between_nodes() && !never.contains(&kind);
    assert_eq!(missing(&heard, &answers), []);
}
