//! Requirements of the wire specification against everything that cites them.
//!
//! The wire crate's own tests hold the bytes to the specification. This check looks at the whole
//! repository, because rules of behaviour are kept by the engine, the transport and the node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, bail};

use crate::repo;

const SPEC: &str = "crates/qm-wire/SPEC.md";

pub(crate) fn run() -> anyhow::Result<()> {
    let spec = fs::read_to_string(SPEC).with_context(|| format!("reading {SPEC}"))?;
    let mut cited = BTreeMap::new();
    for path in repo::files()? {
        let is_ours = path.ends_with(".rs") || path.ends_with(".toml") || path.ends_with(".md");
        if !is_ours || path.starts_with("xtask/") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        for id in ids(&text) {
            cited
                .entry(id)
                .or_insert_with(BTreeSet::new)
                .insert(path.clone());
        }
    }
    let (requirements, faults) = compare(&spec, &cited);
    for fault in &faults {
        println!("error: {fault}");
    }
    if !faults.is_empty() {
        bail!("spec: {} faults", faults.len());
    }
    println!("spec: {requirements} requirements; each MUST is cited by code or tests");
    Ok(())
}

/// How many requirements the specification has, and what is wrong with the citations.
fn compare(spec: &str, cited: &BTreeMap<String, BTreeSet<String>>) -> (usize, Vec<String>) {
    let requirements = requirements(spec);
    let mut faults = Vec::new();
    if requirements.is_empty() {
        faults.push(format!("{SPEC} defines no requirement"));
    }
    for (id, places) in cited {
        if !requirements.contains_key(id) {
            let places: Vec<_> = places.iter().map(String::as_str).collect();
            let places = places.join(", ");
            faults.push(format!("{id} is cited, but not in {SPEC}: {places}"));
        }
    }
    for (id, text) in &requirements {
        let is_cited = cited
            .get(id)
            .is_some_and(|places| places.iter().any(|path| path.ends_with(".rs")));
        if text.contains("MUST") && !is_cited {
            faults.push(format!(
                "{id} says MUST, and neither code nor test cites it"
            ));
        }
    }
    (requirements.len(), faults)
}

/// Every requirement with its text: from its bold id to the next one, or to an empty line.
fn requirements(spec: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open: Option<String> = None;
    for line in spec.lines() {
        if let Some(id) = line.strip_prefix("**").and_then(|rest| ids(rest).next()) {
            open = Some(id);
        } else if line.is_empty() {
            open = None;
        }
        if let Some(id) = &open {
            let text: &mut String = found.entry(id.clone()).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found
}

/// Every requirement id in a text: `W-`, capitals, `-`, digits.
fn ids(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("W-").filter_map(|(at, start)| {
        let rest = text.get(at + start.len()..)?;
        let area: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        let rest = rest.get(area.len()..)?.strip_prefix('-')?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let complete = !area.is_empty() && !number.is_empty();
        complete.then(|| format!("W-{area}-{number}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
**W-FRM-1** A frame MUST end.
It has a body.
**W-FRM-2** It MAY be short.

MUST, says W-FRM-1.
";

    fn cites(id: &str, path: &str) -> BTreeMap<String, BTreeSet<String>> {
        [(id.to_owned(), BTreeSet::from([path.to_owned()]))].into()
    }

    #[test]
    fn ids_are_read_from_the_middle_of_a_text() {
        let found: Vec<_> = ids("see W-ACK-3, (W-FRM-12) and W-3 or W-X-").collect();
        assert_eq!(found, ["W-ACK-3", "W-FRM-12"]);
    }

    #[test]
    fn a_requirement_ends_at_the_next_one_or_at_an_empty_line() {
        let found = requirements(TEXT);
        assert_eq!(
            found["W-FRM-1"],
            "**W-FRM-1** A frame MUST end.\nIt has a body.\n"
        );
        assert_eq!(found["W-FRM-2"], "**W-FRM-2** It MAY be short.\n");
    }

    #[test]
    fn a_must_needs_code_that_cites_it() {
        assert_eq!(compare(TEXT, &cites("W-FRM-1", "a.rs")), (2, Vec::new()));
        assert_eq!(compare(TEXT, &cites("W-FRM-1", "a.md")).1.len(), 1);
        assert_eq!(compare(TEXT, &BTreeMap::new()).1.len(), 1);
    }

    #[test]
    fn a_cited_requirement_exists() {
        let faults = compare(TEXT, &cites("W-FRM-3", "a.rs")).1;
        assert!(
            faults.iter().any(|fault| fault.contains("W-FRM-3")),
            "{faults:?}"
        );
    }
}
