//! The table of limits against the code: values, keys and tests that it names are there.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context;

const PAGE: &str = "docs/limits.md";
const KEYS: &str = "crates/qm-node/src/config/keys.rs";
/// Files of which every maximum must have a row.
const COMPLETE: &[&str] = &[
    "crates/qm-wire/src/limits.rs",
    "crates/qm-engine/src/limits.rs",
];
/// Maxima that follow from others.
const DERIVED: &[&str] = &[
    "ENVELOPE_BYTES_MAX",
    "DATA_FIXED_BYTES_MAX",
    "QUEUE_NAME_BYTES_MAX",
    "LABEL_BYTES_MAX",
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
        named.insert(name.to_owned());
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
        if test != "–" {
            let (name, file) = name_and_file(test);
            let source = fs::read_to_string(file).unwrap_or_default();
            if !source.contains(&format!("fn {name}(")) {
                complain(format!("{file} has no test {name}"));
            }
        }
    }
    for file in COMPLETE {
        let source = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        for name in source.lines().filter_map(constant) {
            if name.ends_with("_MAX") && !DERIVED.contains(&name) && !named.contains(name) {
                wrong.push(format!("{PAGE}: {name} of {file} has no row"));
            }
        }
    }
    Ok(wrong)
}

fn constant(line: &str) -> Option<&str> {
    Some(line.strip_prefix("pub const ")?.split_once(':')?.0)
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
}
