//! The golden vectors in `vectors/v1`, checked both ways. `QM_BLESS=1` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{DecodeError, Envelope, Link, PeerFrame, QmId, Salt, StreamId, Tag, key_digest};

use crate::catalogue::identity::{SUCCESSION, claim, fork_points, parted};
use crate::catalogue::{Invalid, Reader, Valid, Value, full_envelope, ignorable, invalid, valid};
use crate::layout::hex;

/// Largest body of a frame that carries a message, as the vectors assume it.
const BODY_LIMIT: usize = 1 << 20;

fn blessing() -> bool {
    std::env::var_os("QM_BLESS").is_some()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1")
}

/// Decodes one frame, or an envelope, that fills `bytes`.
fn decode(reader: Reader, bytes: &[u8]) -> Result<Option<Value>, String> {
    let mut from = Bytes::copy_from_slice(bytes);
    let wrong = |wrong: DecodeError| format!("{wrong:?}\n{wrong}");
    let value = match reader {
        Reader::Peer => PeerFrame::next(&mut from, BODY_LIMIT)
            .map_err(wrong)?
            .map(Value::Peer),
        Reader::Client => ClientFrame::next(&mut from, BODY_LIMIT)
            .map_err(wrong)?
            .map(Value::Client),
        Reader::Node => NodeFrame::next(&mut from, BODY_LIMIT)
            .map_err(wrong)?
            .map(Value::Node),
        Reader::Envelope => Some(Value::Envelope(Envelope::decode(&from).map_err(wrong)?)),
        Reader::Open => {
            let frame = PeerFrame::next(&mut from, BODY_LIMIT).map_err(wrong)?;
            let Some(PeerFrame::Data(data)) = frame else {
                panic!("a data frame was expected: {frame:?}");
            };
            let opened = data.open().map_err(|wrong| format!("Damaged\n{wrong}"))?;
            Some(Value::Envelope(opened))
        }
    };
    Ok(value)
}

/// Hexadecimal digits in rows of 16 bytes.
fn hex_rows(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|row| hex(row) + "\n").collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    digits
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)).unwrap(),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn explain_valid(vector: &Valid) -> String {
    let mut text = format!(
        "about = {}\nreader = {}\n\n# name, bytes as they travel, meaning\nfields = [\n",
        quoted(vector.about),
        quoted(&format!("{:?}", vector.value.reader()).to_lowercase()),
    );
    for row in vector.value.rows().0 {
        let (name, bytes, value) = (
            quoted(&row.name),
            quoted(&hex(&row.bytes)),
            quoted(&row.value),
        );
        writeln!(text, "  [{name}, {bytes}, {value}],").unwrap();
    }
    text.push_str("]\n");
    text
}

fn explain_invalid(vector: &Invalid) -> String {
    let wrong = decode(vector.reader, &vector.bytes).expect_err(vector.name);
    let (error, message) = wrong.split_once('\n').unwrap();
    let kind = error.split_once(' ').map_or(error, |(kind, _)| kind);
    format!(
        "about = {}\nrequirement = {}\nreader = {}\nerror = {}\nmessage = {}\n",
        quoted(vector.about),
        quoted(vector.requirement),
        quoted(&format!("{:?}", vector.reader).to_lowercase()),
        quoted(kind),
        quoted(message),
    )
}

/// Compares a file with what it should be; writes it when blessing.
fn check(path: &Path, expected: &str) {
    if blessing() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        found,
        expected,
        "{} is not what the code does",
        path.display()
    );
}

/// W-FRM-1, W-FRM-7 and every byte table: bytes to value, value to bytes, and the second encoder.
#[test]
fn valid_vectors_are_read_and_written() {
    for vector in valid() {
        let path = folder().join(vector.name);
        let bytes = vector.value.encode();
        assert_eq!(
            hex(&vector.value.rows().bytes()),
            hex(&bytes),
            "{}",
            vector.name
        );
        check(&path.with_extension("hex"), &hex_rows(&bytes));
        check(&path.with_extension("toml"), &explain_valid(&vector));
        let stored = from_hex(&fs::read_to_string(path.with_extension("hex")).unwrap());
        let read = decode(vector.value.reader(), &stored);
        assert_eq!(read, Ok(Some(vector.value)), "{}", vector.name);
    }
}

/// W-VER-3, W-VER-4: what a later version may send to this one.
#[test]
fn what_may_be_ignored_is_ignored() {
    for (vector, bytes) in ignorable() {
        let path = folder().join(vector.name);
        check(&path.with_extension("hex"), &hex_rows(&bytes));
        let about = quoted(vector.about);
        let text = format!("about = {about}\nreader = \"peer\"\nwritten = false\n");
        check(&path.with_extension("toml"), &text);
        assert_eq!(decode(Reader::Peer, &bytes), Ok(Some(vector.value)));
    }
}

/// Each rule by a vector that breaks it alone.
#[test]
fn invalid_vectors_are_refused_with_the_expected_error() {
    for vector in invalid() {
        let path = folder().join("invalid").join(vector.name);
        check(&path.with_extension("hex"), &hex_rows(&vector.bytes));
        check(&path.with_extension("toml"), &explain_invalid(&vector));
        let stored = from_hex(&fs::read_to_string(path.with_extension("hex")).unwrap());
        assert_eq!(stored, vector.bytes);
    }
}

/// W-ID-1, W-TAG-1, W-TAG-3: values that are computed.
#[test]
fn computed_values_are_the_published_ones() {
    let key = [7; 32];
    let digest = key_digest(&key);
    let id = QmId::from_ed25519_public_key(&key);
    let mut text = format!(
        "# The identity of an Ed25519 public key (W-ID-1)\n[qm_id]\npublic_key = {}\ndigest = {}\n\
         id = {}\n\n",
        quoted(&hex(&key)),
        quoted(&hex(&digest)),
        quoted(&id.to_string()),
    );
    let envelope = full_envelope();
    let encoded = Value::Envelope(envelope.clone()).encode();
    let Salt(salt) = envelope.salt;
    write!(
        text,
        "# The tag of a message (W-TAG-1); the envelope is that of envelope_full.hex\n[tag]\n\
         salt = {}\nbody = {}\ntag = {}\n\n",
        quoted(&hex(&salt)),
        quoted("hello"),
        quoted(&Tag::compute(&encoded, &envelope.salt, b"hello").to_string()),
    )
    .unwrap();
    text.push_str(
        "# The same over bodies of these lengths, whose bytes are 7 times their index, modulo 256\n[tags]\n",
    );
    for length in BODY_LENGTHS {
        let body: Vec<u8> = (0..length).map(|at| (at * 7).to_le_bytes()[0]).collect();
        let tag = Tag::compute(&encoded, &envelope.salt, &body);
        writeln!(text, "{length} = {}", quoted(&tag.to_string())).unwrap();
    }
    text.push_str(
        "\n# The tag over so many bytes instead of an envelope, 7 times their index, modulo 251, with an\n\
         # empty body and a salt of zeros: what is hashed is 24 bytes longer\n\
         [envelope_tags]\n",
    );
    for length in ENVELOPE_LENGTHS {
        let envelope: Vec<u8> = (0..length)
            .map(|at| (at * 7 % 251).to_le_bytes()[0])
            .collect();
        let tag = Tag::compute(&envelope, &Salt([0; 16]), b"");
        writeln!(text, "{length} = {}", quoted(&tag.to_string())).unwrap();
    }
    text.push_str(
        "\n# The tag of the envelope of envelope_full.hex with the body \"hello\" under other salts: 16 bytes\n\
         # that are all zero, the bytes 0 to 15, and all ones\n[salts]\n",
    );
    for salt in [
        [0; 16],
        core::array::from_fn(|at| at.to_le_bytes()[0]),
        [0xff; 16],
    ] {
        let tag = Tag::compute(&encoded, &Salt(salt), b"hello");
        writeln!(text, "{} = {}", hex(&salt), quoted(&tag.to_string())).unwrap();
    }
    text.push_str(
        "\n# The hash over so many tags in a session ack (W-TAG-3), as it travels; the first tag is\n\
         # eight bytes 0, the next eight bytes 1, and so on\n[tag_hashes]\n",
    );
    for count in [1_usize, 2, 3, 16, 17, 30, 31, 300] {
        let tags = (0..count).map(|n| Tag([n.to_le_bytes()[0]; 8]));
        let hash = hex(&qm_wire::tag_hash(tags).to_le_bytes());
        writeln!(text, "{count} = {}", quoted(&hash)).unwrap();
    }
    links(&mut text, &id);
    signed(&mut text);
    check(&folder().join("computed.toml"), &text);
}

/// W-STR-2: links from the start of a stream on.
fn links(text: &mut String, sender: &QmId) {
    let (stream, queue) = (StreamId([0x57; 16]), "Größe:poison");
    let start = Link::start(sender, &stream, &queue.parse().unwrap());
    write!(
        text,
        "\n# Links of a stream of the identity above (W-STR-2): the first, then tag and link of each\n\
         # position\n[links]\nstream = {}\nqueue = {}\nstart = {}\nnext = [\n",
        quoted(&hex(&stream.0)),
        quoted(queue),
        quoted(&hex(&start.0)),
    )
    .unwrap();
    let mut link = start;
    for (position, tag) in (1..).zip([Tag([1; 8]), Tag([2; 8]), Tag([1; 8])]) {
        link = link.next(tag, position);
        let (tag, link) = (quoted(&tag.to_string()), quoted(&hex(&link.0)));
        writeln!(text, "  [{tag}, {link}],").unwrap();
    }
    text.push_str("]\n");
}

/// W-TWN-2, W-TWN-6, W-SUC-1: what is signed in the vectors of these names.
fn signed(text: &mut String) {
    text.push_str(
        "\n# What is signed in the vectors of these names (W-TWN-2, W-TWN-6, W-SUC-1)\n[signed]\n",
    );
    for (name, bytes) in [
        ("claim", claim().signed_bytes()),
        ("fork_points", fork_points().signed_bytes()),
        ("succession", SUCCESSION.signed_bytes()),
        ("parted", parted().signed_bytes()),
    ] {
        writeln!(text, "{name} = {}", quoted(&hex(&bytes))).unwrap();
    }
}

/// Lengths on both sides of every threshold of the body's hash.
const BODY_LENGTHS: [usize; 22] = [
    0, 1, 3, 4, 8, 9, 16, 17, 32, 33, 100, 128, 129, 160, 240, 241, 512, 1024, 1025, 2048, 2049,
    5000,
];

/// Every length modulo 8, and both sides of where its lowest byte begins anew.
const ENVELOPE_LENGTHS: [usize; 15] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 104, 231, 232, 1000, 32739, 65535];

/// A vector that nobody checks any more would lie in wait for the next implementation.
#[test]
fn no_vector_is_left_over() {
    let mut expected: BTreeSet<String> = BTreeSet::from(["computed.toml".to_owned()]);
    for vector in valid() {
        expected.extend(["hex", "toml"].map(|kind| format!("{}.{kind}", vector.name)));
    }
    for (vector, _) in ignorable() {
        expected.extend(["hex", "toml"].map(|kind| format!("{}.{kind}", vector.name)));
    }
    for vector in invalid() {
        expected.extend(["hex", "toml"].map(|kind| format!("invalid/{}.{kind}", vector.name)));
    }
    let mut found = BTreeSet::new();
    for (folder, prefix) in [(folder(), ""), (folder().join("invalid"), "invalid/")] {
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                let name = format!("{prefix}{}", file.file_name().display());
                if blessing() && !expected.contains(&name) {
                    fs::remove_file(file.path()).unwrap();
                } else {
                    found.insert(name);
                }
            }
        }
    }
    // While blessing, other tests are still writing.
    if !blessing() {
        let (left_over, missing) = (found.difference(&expected), expected.difference(&found));
        assert_eq!(left_over.count(), 0, "{found:?}");
        assert_eq!(missing.count(), 0, "{found:?}");
    }
}
