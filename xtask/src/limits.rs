//! The table of limits against the code: values, keys and tests that it names are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::repo::files;

const PAGE: &str = "docs/limits.md";
const KEYS: &str = "crates/qm-node/src/config/keys.rs";
/// How a row begins its last cell that names no test, but a reason.
const NO_TEST: &str = "no test: ";
/// Fewer are no reason.
const REASON_WORDS: usize = 5;
/// Crates of which every maximum must have a row: what others can make grow is in them.
const COMPLETE: &[&str] = &[
    "qm-wire",
    "qm-cache",
    "qm-transport",
    "qm-engine",
    "qm-node",
];
/// The programs that an operator starts, beside the node; they grow on nobody's word but his.
const PROGRAMS: &str = "crates/qm-node/src/commands";
/// Maxima without a row, and why.
const EXEMPT: &[(&str, &[(&str, &str)])] = &[
    (
        "they follow from others",
        &[
            ("crates/qm-wire/src/limits.rs", "ENVELOPE_BYTES_MAX"),
            ("crates/qm-wire/src/limits.rs", "DATA_FIXED_BYTES_MAX"),
            ("crates/qm-wire/src/limits.rs", "QUEUE_NAME_BYTES_MAX"),
            ("crates/qm-wire/src/limits.rs", "LABEL_BYTES_MAX"),
            ("crates/qm-engine/src/clients/pages.rs", "PAGES_MAX"),
            ("crates/qm-node/src/driver/freezing.rs", "FREEZE_MAX"),
        ],
    ),
    (
        "numbers and times that nothing reaches or that are cut to these",
        &[
            ("crates/qm-wire/src/hello.rs", "PROTOCOL_MAX"),
            ("crates/qm-cache/src/dedup.rs", "INTERVAL_MAX_MS"),
            ("crates/qm-cache/src/log.rs", "TICKET_MAX"),
            ("crates/qm-engine/src/recover.rs", "LIFE_MAX"),
            ("crates/qm-node/src/driver.rs", "SLEEP_MAX"),
            ("crates/qm-transport/src/config.rs", "MTU_MAX"),
        ],
    ),
    (
        "they choose between two ways to do the same, or how much is written at once",
        &[
            ("crates/qm-engine/src/acking.rs", "LOOKED_FOR_MAX"),
            ("crates/qm-engine/src/arrivals.rs", "PUTS_MAX"),
            ("crates/qm-engine/src/stream/branches.rs", "NAMED_MAX"),
            ("crates/qm-engine/src/stream/branches.rs", "RUN_LINKS_MAX"),
        ],
    ),
    (
        "the operator's own words, files and system",
        &[
            ("crates/qm-engine/src/reidentify.rs", "BECAUSE_BYTES_MAX"),
            ("crates/qm-node/src/config.rs", "FILE_BYTES_MAX"),
            ("crates/qm-node/src/config/file.rs", "MISTAKES_MAX"),
            ("crates/qm-node/src/config/file.rs", "NAME_BYTES_MAX"),
            (
                "crates/qm-node/src/config/rules.rs",
                "SOCKET_PATH_BYTES_MAX",
            ),
            ("crates/qm-node/src/health.rs", "DAMAGES_MAX"),
            ("crates/qm-node/src/identity_file.rs", "KEY_BYTES_MAX"),
            ("crates/qm-node/src/life.rs", "FAILURES_MAX"),
            ("crates/qm-node/src/life.rs", "SEGMENT_BYTES_MAX"),
            ("crates/qm-node/src/local.rs", "PATH_BYTES_MAX"),
            ("crates/qm-node/src/seals.rs", "ID_BYTES_MAX"),
            ("crates/qm-node/src/signals.rs", "MESSAGES_MAX"),
            ("crates/qm-node/src/signals.rs", "MESSAGE_BYTES_MAX"),
        ],
    ),
    (
        "they are in models, simulations and tests only",
        &[
            ("crates/qm-cache/src/modelled.rs", "CHANGES_MAX"),
            ("crates/qm-engine/src/late.rs", "LATE_MAX"),
            ("crates/qm-engine/src/identity/model.rs", "SESSIONS_MAX"),
            ("crates/qm-engine/src/identity/model.rs", "RESTARTS_MAX"),
            ("crates/qm-engine/src/identity/rivals_model.rs", "TURNS_MAX"),
        ],
    ),
];

/// What is wrong with the table.
pub(crate) fn check() -> anyhow::Result<Vec<String>> {
    let page = fs::read_to_string(PAGE).with_context(|| format!("reading {PAGE}"))?;
    let keys = fs::read_to_string(KEYS).with_context(|| format!("reading {KEYS}"))?;
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for (number, line) in (1..).zip(page.lines()) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, limit, key, place, _, test] = *cells.as_slice() else {
            continue;
        };
        if !place.starts_with('`') {
            continue;
        }
        let mut complain = |problem: String| wrong.push(format!("{PAGE}:{number}: {problem}"));
        let (name, file) = name_and_file(place);
        named.insert((file.to_owned(), name.to_owned()));
        let source = fs::read_to_string(file).unwrap_or_default();
        match (value_in(&source, name), value_of(limit)) {
            (Some(code), Some(said)) if code == said => {}
            (Some(code), _) => complain(format!("{name} is {code} in {file}, not {limit}")),
            (None, _) => complain(format!("{file} has no value {name} that can be read")),
        }
        let key = key.trim_matches('`');
        if !key.is_empty() && !keys.contains(&format!("\"{key}\", Kind::")) {
            complain(format!("there is no key {key}"));
        }
        shown_by(test).into_iter().for_each(complain);
    }
    wrong.extend(without_row(&named)?);
    Ok(wrong)
}

/// What is wrong with the last cell of a row: it names tests, or says why there is none.
fn shown_by(cell: &str) -> Vec<String> {
    if let Some(reason) = cell.strip_prefix(NO_TEST) {
        let none = reason.split_whitespace().count() < REASON_WORDS;
        let wrong = none.then(|| "the reason for no test is no sentence".to_owned());
        return wrong.into_iter().collect();
    }
    let tests = cell.split(", ").map(name_and_file);
    let missing = tests.filter(|(name, file)| !is_there(name, file));
    missing
        .map(|(name, file)| format!("there is no test {name} in {file:?}"))
        .collect()
}

/// Whether a file has a test, or a folder of golden vectors a vector.
fn is_there(name: &str, place: &str) -> bool {
    if Path::new(place).is_dir() {
        return Path::new(place).join(name).with_extension("hex").is_file();
    }
    let source = fs::read_to_string(place).unwrap_or_default();
    source.contains(&format!("fn {name}("))
}

/// Maxima in the code that have neither a row nor a reason, and reasons for what is not there.
fn without_row(named: &BTreeSet<(String, String)>) -> anyhow::Result<Vec<String>> {
    let exempt = EXEMPT.iter().flat_map(|(_, maxima)| maxima.iter());
    let mut exempt: BTreeSet<(String, String)> = exempt
        .map(|(file, name)| ((*file).to_owned(), (*name).to_owned()))
        .collect();
    let mut wrong = Vec::new();
    for file in files()? {
        let is_of = |name: &&str| file.starts_with(&format!("crates/{name}/src/"));
        let is_complete = COMPLETE.iter().any(is_of) && !file.starts_with(PROGRAMS);
        if !file.ends_with(".rs") || !is_complete {
            continue;
        }
        let source = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        for name in source.lines().filter_map(maximum) {
            let of = (file.clone(), name.to_owned());
            match (named.contains(&of), exempt.remove(&of)) {
                (true, false) | (false, true) => {}
                (true, true) => wrong.push(format!("{PAGE}: {name} of {file} needs no reason")),
                (false, false) => wrong.push(format!("{PAGE}: {name} of {file} has no row")),
            }
        }
    }
    wrong.extend(
        exempt
            .iter()
            .map(|(file, name)| format!("xtask/src/limits.rs: {file} has no {name} any more")),
    );
    Ok(wrong)
}

/// The name of the constant that a line declares, if it tells of a maximum.
fn maximum(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let rest = match line.strip_prefix("pub") {
        Some(rest) => rest.split_once("const ")?.1,
        None => line.strip_prefix("const ")?,
    };
    let (name, _) = rest.split_once(':')?;
    let is_name = name
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    (is_name && (name.ends_with("_MAX") || name.contains("_MAX_"))).then_some(name)
}

/// "`NAME` in `file`".
fn name_and_file(cell: &str) -> (&str, &str) {
    let (name, file) = cell.split_once(" in ").unwrap_or((cell, ""));
    (name.trim_matches('`'), file.trim_matches('`'))
}

/// The value of a constant, or of a field in a `Default`.
fn value_in(source: &str, name: &str) -> Option<u64> {
    source.lines().find_map(|line| {
        let line = line.trim();
        let constant = line
            .split_once("const ")
            .and_then(|(_, rest)| rest.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_once('='))
            .map(|(_, value)| value.trim_end_matches(';'));
        let field = line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(':'))
            .map(|value| value.trim_end_matches(','));
        computed(constant.or(field)?)
    })
}

/// Numbers, products and shifts; spans as milliseconds; a constant of the wire's by its value.
fn computed(expression: &str) -> Option<u64> {
    let text = expression.trim();
    for (unit, factor) in [("secs", 1_000), ("millis", 1)] {
        if let Some(rest) = text.strip_prefix(&format!("Duration::from_{unit}(")) {
            return Some(computed(rest.trim_end_matches(')'))? * factor);
        }
    }
    if let Some((value, by)) = text.split_once("<<") {
        return Some(computed(value)? << computed(by)?);
    }
    if text.contains('*') {
        return text
            .split('*')
            .try_fold(1, |product: u64, part| product.checked_mul(computed(part)?));
    }
    text.replace('_', "").parse().ok()
}

/// A limit as the page writes it: bytes, milliseconds or microseconds.
fn value_of(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let factor = match unit {
        "" | "B" | "ms" | "us" => 1,
        "KiB" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" => 1 << 30,
        "s" => 1_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_code_and_the_page_write_them() {
        let source = "pub const A_MAX: u64 = 16 << 20;\n    b: 24 * 60 * 60 * 1_000,\n\
            const C: Duration = Duration::from_secs(10);";
        assert_eq!(value_in(source, "A_MAX"), value_of("16 MiB"));
        assert_eq!(value_in(source, "b"), value_of("24 h"));
        assert_eq!(value_in(source, "C"), value_of("10 s"));
        assert_eq!(value_in(source, "D"), None);
        assert_eq!(value_of("many"), None);
    }

    #[test]
    fn a_row_names_its_tests_or_says_why_there_is_none() {
        let here = "`a_row_names_its_tests_or_says_why_there_is_none` in `src/limits.rs`";
        assert!(shown_by(here).is_empty());
        assert!(shown_by(&format!("{here}, {here}")).is_empty());
        assert_eq!(
            shown_by(&format!("{here}, `nothing` in `src/limits.rs`")).len(),
            1
        );
        assert!(shown_by("no test: QUIC holds the peer to it").is_empty());
        for bad in [
            "–",
            "",
            "no test: ",
            "no test: later",
            "`nothing` in `src/limits.rs`",
        ] {
            assert_eq!(shown_by(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn maxima_are_found_wherever_they_are_declared() {
        for line in [
            "pub const A_MAX: u64 = 1;",
            "    pub(super) const A_MAX: usize = 8;",
            "const A_MAX: u8 = 4;",
        ] {
            assert_eq!(maximum(line), Some("A_MAX"));
        }
        assert_eq!(maximum("const A_MAX_MS: u64 = 4;"), Some("A_MAX_MS"));
        assert_eq!(maximum("const A_MIN: u64 = 4;"), None);
        assert_eq!(maximum("pub fn a(x: u64) -> u64 { A_MAX }"), None);
        assert_eq!(maximum("pub const fn a_max(x: u8) -> u8 {"), None);
    }
}
