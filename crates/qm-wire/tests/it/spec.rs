//! SPEC.md against code, tests and vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use qm_wire::frame::FrameKind;
use qm_wire::{Outcome, limits};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> String {
    fs::read_to_string(root().join("SPEC.md")).unwrap()
}

/// Every requirement id in a text: `W-`, capitals, `-`, digits.
fn ids(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("W-").filter_map(|(at, _)| {
        let rest = &text[at + 2..];
        let area: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        let digits = rest[area.len()..].strip_prefix('-')?;
        let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
        (!area.is_empty() && !number.is_empty()).then(|| format!("W-{area}-{number}"))
    })
}

/// The ids that the files of a folder cite, and where.
fn cited(folder: &Path, into: &mut BTreeMap<String, String>) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            cited(&path, into);
        } else if path.file_name().is_some_and(|name| name != "spec.rs") {
            for id in ids(&fs::read_to_string(&path).unwrap()) {
                into.insert(id, path.display().to_string());
            }
        }
    }
}

fn defined() -> BTreeSet<String> {
    let mut defined = BTreeSet::new();
    for line in spec().lines().filter_map(|line| line.strip_prefix("**")) {
        let id = ids(line).next().unwrap();
        assert!(defined.insert(id.clone()), "{id} is defined twice");
    }
    defined
}

#[test]
fn every_cited_requirement_exists() {
    let defined = defined();
    let mut found = BTreeMap::new();
    for folder in ["src", "tests", "vectors"] {
        cited(&root().join(folder), &mut found);
    }
    found.extend(ids(&spec()).map(|id| (id, "SPEC.md".to_owned())));
    for (id, place) in found {
        assert!(
            defined.contains(&id),
            "{place} cites {id}, which SPEC.md does not define"
        );
    }
}

/// W-OUT-1.
#[test]
fn the_table_of_outcomes_is_complete() {
    let spec = spec();
    for outcome in Outcome::ALL {
        let (name, text) = (outcome.name().unwrap(), outcome.describe());
        let row = format!("| `{:04X}` | {name} | {text} |", outcome.0);
        assert!(spec.contains(&row), "{row}");
    }
    let rows = spec.lines().filter(|line| {
        let code = line.strip_prefix("| `").and_then(|line| line.get(..5));
        code.is_some_and(|code| code.ends_with('`') && u16::from_str_radix(&code[..4], 16).is_ok())
    });
    assert_eq!(rows.count(), Outcome::ALL.len());
    assert!(
        Outcome::ALL
            .iter()
            .filter(|outcome| outcome.is_positive())
            .count()
            == 2
    );
}

#[test]
fn the_table_of_kinds_is_complete() {
    let spec = spec();
    for kind in FrameKind::ALL {
        assert!(
            spec.contains(&format!("| `{:02x}` |", kind.code())),
            "{kind:?}"
        );
    }
}

#[test]
fn the_limits_are_those_of_the_specification() {
    let spec = spec();
    let with_commas = |n: usize| match (n / 1000, n % 1000) {
        (0, n) => n.to_string(),
        (thousands, rest) if n >= 10_000 => format!("{thousands},{rest:03}"),
        _ => n.to_string(),
    };
    for (row, value) in [
        ("envelope", limits::ENVELOPE_BYTES_MAX),
        ("body of a control frame", limits::CONTROL_BYTES_MAX),
        ("correlation id", limits::CORRELATION_BYTES_MAX),
        (
            "address (destination, response and administration queue)",
            limits::ADDRESS_BYTES_MAX,
        ),
        ("content type", limits::CONTENT_TYPE_BYTES_MAX),
        ("trace context", limits::TRACE_CONTEXT_BYTES_MAX),
        ("property name", limits::PROPERTY_NAME_BYTES_MAX),
        (
            "entries of a routed ack, not-held, query, answer, reject, skipped, final or final confirm",
            limits::ENTRIES_MAX,
        ),
        (
            "ranges of a session ack, runs of an order ack",
            limits::ACK_RANGES_MAX,
        ),
        (
            "messages one session ack spans",
            usize::try_from(limits::WINDOW_MESSAGES_MAX).unwrap(),
        ),
        (
            "prior incarnations in a hello, marks of an evicted frame",
            limits::PRIOR_INCARNATIONS_MAX,
        ),
        ("leaves in a need", limits::LEAVES_MAX),
        (
            "points of a claim or of fork points",
            limits::FORK_POINTS_MAX,
        ),
        ("lives in a parted frame", limits::PARTED_LIVES_MAX),
        ("enrolment token", limits::ENROLMENT_BYTES_MAX),
        ("node name, host name, program name", limits::NAME_BYTES_MAX),
        ("token", limits::TOKEN_BYTES_MAX),
        (
            "goodbye text, hold text, answer text",
            limits::GOODBYE_TEXT_BYTES_MAX,
        ),
        ("hops", usize::from(limits::HOPS_MAX)),
        ("idempotency key", limits::IDEMPOTENCY_KEY_BYTES_MAX),
        ("runs of a fate frame", limits::FATE_RUNS_MAX),
    ] {
        let row = format!("| {row} | {} |", with_commas(value));
        assert!(spec.contains(&row), "{row}");
    }
    for text in [
        format!(
            "| label | {} characters, {} bytes |",
            limits::LABEL_CHARS_MAX,
            limits::LABEL_BYTES_MAX
        ),
        format!(
            "| queue name, subqueue | {}, {} characters |",
            limits::QUEUE_NAME_CHARS_MAX,
            limits::SUBQUEUE_NAME_CHARS_MAX
        ),
        format!("together at most {} bytes", limits::QUEUE_NAME_BYTES_MAX),
        format!(
            "| properties | {}, together {} bytes |",
            limits::PROPERTIES_MAX,
            with_commas(limits::PROPERTIES_BYTES_MAX)
        ),
    ] {
        assert!(spec.contains(&text), "{text}");
    }
    assert_eq!(limits::BODY_BYTES_MAX, 1 << 30);
    assert_eq!(limits::BODY_BYTES_DEFAULT, 4 << 20);
    assert_eq!(limits::ADMIN_BYTES_MAX, 1 << 20);
    assert_eq!(limits::BODY_PART_BYTES_MAX, 1 << 20);
    assert_eq!(limits::EVICTED_MARKS_MAX, limits::PRIOR_INCARNATIONS_MAX);
    assert_eq!(
        limits::ANSWER_TEXT_BYTES_MAX,
        limits::GOODBYE_TEXT_BYTES_MAX
    );
    assert_eq!(limits::FRAME_HEADER_BYTES, 16);
}
