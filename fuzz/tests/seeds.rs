//! The seeds made from the golden vectors of the wire format keep up with them, and reach every
//! decoder. `QM_BLESS=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use qm_wire::FrameKind;

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
    seeds
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
