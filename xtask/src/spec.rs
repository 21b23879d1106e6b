//! Requirements of the wire specification against everything that cites them, and the golden
//! vectors against a second implementation.
//!
//! The wire crate's own tests hold the bytes to the specification. This check looks at the whole
//! repository, because rules of behaviour are kept by the engine, the transport and the node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, bail};

use crate::repo::{self, Program};

const SPEC: &str = "crates/qm-wire/SPEC.md";
const PYTHON: &str = "crates/qm-wire/python/check.py";

/// Requirements that no code or no test can cite, each with its reason. One that is cited after
/// all may not stand here.
const EXCEPTIONS: &[(&str, Lacks, &str)] = &[
    (
        "W-VER-5",
        Lacks::Both,
        "a rule for whoever changes the document",
    ),
    ("W-SES-7", Lacks::Both, NO_LEDGER),
    (
        "W-RMT-2",
        Lacks::Both,
        "the engine answers remote requests as not offered",
    ),
];

const NO_LEDGER: &str = "the engine keeps no ledger of branch tokens";

/// What an exception does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Code,
    Test,
    Both,
}

/// Who cites a requirement.
#[derive(Clone, Debug, Default)]
struct Citations {
    code: BTreeSet<String>,
    tests: BTreeSet<String>,
    prose: BTreeSet<String>,
}

/// Requirements first, then the vectors with the Python codec, which was written from the
/// specification alone.
pub(crate) fn run() -> anyhow::Result<()> {
    let spec = fs::read_to_string(SPEC).with_context(|| format!("reading {SPEC}"))?;
    let mut cited = BTreeMap::new();
    for path in repo::files()? {
        if path.starts_with("xtask/") || path == SPEC {
            continue;
        }
        let is_ours = [".rs", ".toml", ".md", ".py"]
            .iter()
            .any(|end| path.ends_with(end));
        if is_ours {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            note(&mut cited, &path, &text);
        }
    }
    let (requirements, faults) = compare(&spec, &cited, EXCEPTIONS);
    for fault in &faults {
        println!("error: {fault}");
    }
    if !faults.is_empty() {
        bail!("spec: {} faults", faults.len());
    }
    println!(
        "spec: {requirements} requirements, each cited by code and by tests, {} exceptions with a reason",
        EXCEPTIONS.len()
    );
    Program::new("python3")
        .args([PYTHON])
        .run()
        .context("the vectors, read and written by Python 3.11 or later")
}

/// Sorts what a file cites: tests are files and modules of tests, vectors and fuzz targets.
fn note(cited: &mut BTreeMap<String, Citations>, path: &str, text: &str) {
    let is_test = path.contains("/tests/")
        || path.starts_with("tests/")
        || path.starts_with("fuzz/")
        || path.contains("/vectors/")
        || path.ends_with("/tests.rs");
    let (code, tests) = if is_test {
        ("", text)
    } else {
        text.split_at(text.find("#[cfg(test)]").unwrap_or(text.len()))
    };
    for id in ids(code) {
        let places = cited.entry(id).or_default();
        let kind = if path.ends_with(".rs") {
            &mut places.code
        } else {
            &mut places.prose
        };
        kind.insert(path.to_owned());
    }
    for id in ids(tests) {
        cited.entry(id).or_default().tests.insert(path.to_owned());
    }
}

/// How many requirements the specification has, and what is wrong with the citations.
fn compare(
    spec: &str,
    cited: &BTreeMap<String, Citations>,
    exceptions: &[(&str, Lacks, &str)],
) -> (usize, Vec<String>) {
    let requirements = requirements(spec);
    let mut faults = Vec::new();
    if requirements.is_empty() {
        faults.push(format!("{SPEC} defines no requirement"));
    }
    for (id, places) in cited {
        if !requirements.contains_key(id) {
            let places = places.code.iter().chain(&places.tests).chain(&places.prose);
            let places: Vec<_> = places.map(String::as_str).collect();
            let places = places.join(", ");
            faults.push(format!("{id} is cited, but not in {SPEC}: {places}"));
        }
    }
    for id in ids(spec).collect::<BTreeSet<_>>() {
        if !requirements.contains_key(&id) {
            faults.push(format!("{SPEC} cites {id}, which it does not define"));
        }
    }
    let nowhere = Citations::default();
    for id in requirements.keys() {
        let places = cited.get(id).unwrap_or(&nowhere);
        let excused = exceptions.iter().find(|(excused, _, _)| excused == id);
        let lacks = excused.map(|(_, lacks, _)| *lacks);
        for (what, found, excuses) in [
            ("code", !places.code.is_empty(), [Lacks::Code, Lacks::Both]),
            ("test", !places.tests.is_empty(), [Lacks::Test, Lacks::Both]),
        ] {
            let is_excused = lacks.is_some_and(|lacks| excuses.contains(&lacks));
            if !found && !is_excused {
                faults.push(format!("no {what} cites {id}"));
            } else if found && is_excused {
                faults.push(format!("{id} is excused from {what}, which cites it"));
            }
        }
    }
    for (id, _, _) in exceptions {
        if !requirements.contains_key(*id) {
            faults.push(format!("{id} is excused, but not in {SPEC}"));
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

    /// What a file at this path that cites these requirements adds up to.
    fn cites(files: &[(&str, &str)]) -> BTreeMap<String, Citations> {
        let mut cited = BTreeMap::new();
        for (path, text) in files {
            note(&mut cited, path, text);
        }
        cited
    }

    /// Both requirements with code and test.
    const WHOLE: &[(&str, &str)] = &[
        (
            "crates/a/src/a.rs",
            "// W-FRM-1\n#[cfg(test)]\nmod tests { /* W-FRM-2 */ }",
        ),
        ("crates/a/src/b.rs", "// W-FRM-2"),
        ("crates/a/vectors/v1/x.toml", "requirement = \"W-FRM-1\""),
    ];

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
    fn a_requirement_needs_code_and_test() {
        assert_eq!(compare(TEXT, &cites(WHOLE), &[]), (2, Vec::new()));
        for (missing, without) in WHOLE.iter().enumerate() {
            let mut files = WHOLE.to_vec();
            files.remove(missing);
            let faults = compare(TEXT, &cites(&files), &[]).1;
            assert!(!faults.is_empty(), "without {without:?}");
        }
        let prose = [("docs/a.md", "W-FRM-1 W-FRM-2")];
        assert_eq!(compare(TEXT, &cites(&prose), &[]).1.len(), 4);
    }

    #[test]
    fn an_exception_excuses_what_it_names_and_goes_when_it_is_not_needed() {
        let exception = [("W-FRM-2", Lacks::Test, "a reason")];
        let without = [
            ("crates/a/src/a.rs", "// W-FRM-1, W-FRM-2"),
            ("crates/a/tests/a.rs", "// W-FRM-1"),
        ];
        assert_eq!(compare(TEXT, &cites(&without), &exception).1, [""; 0]);
        assert_eq!(compare(TEXT, &cites(WHOLE), &exception).1.len(), 1);
        let unknown = [("W-FRM-9", Lacks::Both, "a reason")];
        assert_eq!(compare(TEXT, &cites(WHOLE), &unknown).1.len(), 1);
    }

    #[test]
    fn a_cited_requirement_exists() {
        let mut files = WHOLE.to_vec();
        files.push(("docs/a.md", "W-FRM-3"));
        let faults = compare(TEXT, &cites(&files), &[]).1;
        assert!(
            matches!(&faults[..], [fault] if fault.contains("W-FRM-3")),
            "{faults:?}"
        );
    }
}
