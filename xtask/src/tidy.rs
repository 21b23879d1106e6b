//! House rules that neither rustfmt nor clippy knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::repo;

const LINE_CHARS_MAX: usize = 100;
const SOURCE_LINES_WARN: usize = 600;
const SOURCE_LINES_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// What marks an unfinished part or a machine's own path. In two halves, so that this file passes.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("/tmp/bash", "_jobs", "a path of one machine"),
    ("to", "do!(", "an unfinished part"),
    ("unimple", "mented!(", "an unfinished part"),
    ("FIX", "ME", "an unfinished part"),
    ("for", " now", "an unfinished part"),
    ("place", "holder", "an unfinished part"),
    ("not yet imple", "mented", "an unfinished part"),
];

/// Files whose words are searched for what is forbidden.
const PROSE: &[&str] = &["rs", "md", "toml", "sh", "yml", "yaml", "py"];

pub(crate) fn run() -> anyhow::Result<()> {
    let files = repo::files()?;
    let mut findings = Findings::default();
    for path in &files {
        check(path, &mut findings).with_context(|| format!("reading {path}"))?;
    }
    clippy_keys(&files, &mut findings)?;
    dependencies(&files, &mut findings)?;
    findings.errors.extend(crate::limits::check()?);
    findings.errors.extend(crate::delivery::check()?);
    for manifest in ["Cargo.toml", "fuzz/libfuzzer/Cargo.toml"] {
        lock_file(manifest, &mut findings);
    }
    for warning in &findings.warnings {
        println!("warning: {warning}");
    }
    for error in &findings.errors {
        println!("error: {error}");
    }
    if !findings.errors.is_empty() {
        bail!(
            "tidy: {} errors in {} files",
            findings.errors.len(),
            files.len()
        );
    }
    println!(
        "tidy: {} files, {} warnings, no errors",
        files.len(),
        findings.warnings.len()
    );
    Ok(())
}

/// A change of a crate's dependencies belongs into the lock file of either workspace.
fn lock_file(manifest: &str, findings: &mut Findings) {
    let metadata = ["metadata", "--locked", "--format-version", "1"];
    let program = repo::cargo(metadata).args(["--manifest-path", manifest]);
    if !program.succeeds() {
        findings.errors.push(format!(
            "{manifest}: its lock file is out of step; build once without --locked and commit it"
        ));
    }
}

#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

fn check(path: &str, findings: &mut Findings) -> anyhow::Result<()> {
    let bytes = fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        findings.errors.push(format!(
            "{path}: {bytes} bytes; the repository is no file store"
        ));
    }
    let extension = Path::new(path).extension().and_then(|name| name.to_str());
    if path != ".ci/run" && !extension.is_some_and(|extension| PROSE.contains(&extension)) {
        return Ok(());
    }
    let text = fs::read_to_string(path)?;
    words(path, &text, findings);
    match extension {
        Some("rs") => source(path, &text, findings),
        Some("md") => links(path, &text, findings),
        _ => {}
    }
    Ok(())
}

fn words(path: &str, text: &str, findings: &mut Findings) {
    for (number, line) in (1..).zip(text.lines()) {
        let small = line.to_lowercase();
        for (first, second, why) in FORBIDDEN {
            let word = format!("{first}{second}");
            let found = if word.chars().any(char::is_uppercase) {
                line.contains(&word)
            } else {
                small.contains(&word)
            };
            if found {
                findings
                    .errors
                    .push(format!("{path}:{number}: \"{word}\" marks {why}"));
            }
        }
    }
}

fn source(path: &str, text: &str, findings: &mut Findings) {
    let mut open = Open::Nothing;
    for (number, line) in (1..).zip(text.lines()) {
        let chars = code_chars(line, &mut open);
        if chars > LINE_CHARS_MAX {
            findings.errors.push(format!(
                "{path}:{number}: {chars} characters, {LINE_CHARS_MAX} at most"
            ));
        }
    }
    if is_crate_root(path) {
        if !text.starts_with("//!") && !text.starts_with("#![no_main]\n//!") {
            findings
                .errors
                .push(format!("{path}: does not open with //!"));
        }
        if !text.contains("#![forbid(unsafe_code)]") {
            findings
                .errors
                .push(format!("{path}: does not forbid unsafe code"));
        }
    }
    let lines = lines_without_tests(text);
    if !is_test(path) && lines > SOURCE_LINES_MAX {
        findings.errors.push(format!(
            "{path}: {lines} lines without tests, {SOURCE_LINES_MAX} at most; split it"
        ));
    } else if !is_test(path) && lines > SOURCE_LINES_WARN {
        findings.warnings.push(format!(
            "{path}: {lines} lines without tests; more than one idea?"
        ));
    }
}

/// Which string literal goes on in the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Plain,
    Raw,
}

/// The length of a line, where the text of a string literal counts nothing: what people read stays
/// in one piece, so that it can be searched for. Comments count in full.
fn code_chars(line: &str, open: &mut Open) -> usize {
    if *open == Open::Nothing && line.trim_start().starts_with("//") {
        return line.chars().count();
    }
    // Quotes that open nothing.
    let line = line.replace("'\"'", "'_'").replace("'\\\"'", "'__'");
    let mut rest = line.as_str();
    let mut chars = 0;
    loop {
        let end = match *open {
            Open::Nothing => match rest.find('"') {
                Some(start) => {
                    chars += rest[..=start].chars().count();
                    let is_raw = rest[..start].ends_with("r#");
                    *open = if is_raw { Open::Raw } else { Open::Plain };
                    rest = &rest[start + 1..];
                    continue;
                }
                None => return chars + rest.chars().count(),
            },
            Open::Plain => end_of_string(rest),
            Open::Raw => rest.find("\"#"),
        };
        let Some(end) = end else { return chars };
        rest = &rest[end + 1..];
        chars += 1;
        *open = Open::Nothing;
    }
}

/// Where the string ends whose opening quote was read.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, char)| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn is_crate_root(path: &str) -> bool {
    let ours = ["crates/", "fuzz/", "xtask/"];
    ours.iter().any(|folder| path.starts_with(folder))
        && (path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs"))
}

fn is_test(path: &str) -> bool {
    let mut folders = path.split('/');
    folders.any(|name| matches!(name, "tests" | "benches" | "examples" | "tests.rs"))
}

/// Lines up to the test module, which by custom stands last.
fn lines_without_tests(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count()
}

/// Relative links lead to a file of this repository.
fn links(path: &str, text: &str, findings: &mut Findings) {
    let folder = Path::new(path).parent().unwrap_or_else(|| Path::new(""));
    for (number, line) in (1..).zip(text.lines()) {
        for (at, _) in line.match_indices("](") {
            let Some((target, _)) = line.get(at + 2..).and_then(|rest| rest.split_once(')')) else {
                continue;
            };
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !folder.join(file).exists() {
                findings
                    .errors
                    .push(format!("{path}:{number}: the link {target} leads nowhere"));
            }
        }
    }
}

/// A nearer `clippy.toml` replaces the one at the top, so each repeats its keys.
fn clippy_keys(files: &[String], findings: &mut Findings) -> anyhow::Result<()> {
    let keys = |path: &str| -> anyhow::Result<BTreeSet<String>> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let assignments = text
            .lines()
            .filter(|line| line.contains(" = ") && line.ends_with(']'));
        let switches = text.lines().filter(|line| line.ends_with("= true"));
        Ok(assignments.chain(switches).map(str::to_owned).collect())
    };
    let shared = keys("clippy.toml")?;
    if shared.is_empty() {
        bail!("clippy.toml has no keys that could be compared");
    }
    for path in files.iter().filter(|path| path.ends_with("/clippy.toml")) {
        for missing in shared.difference(&keys(path)?) {
            findings
                .errors
                .push(format!("{path}: lacks the shared line `{missing}`"));
        }
    }
    Ok(())
}

/// Each dependency that the workspace declares is used by a member. cargo-deny has the same check,
/// but does not see what stands behind `cfg(loom)`.
fn dependencies(files: &[String], findings: &mut Findings) -> anyhow::Result<()> {
    let manifest = fs::read_to_string("Cargo.toml").context("reading Cargo.toml")?;
    let declared = section(&manifest, "[workspace.dependencies]");
    if declared.is_empty() {
        bail!("Cargo.toml declares no dependencies that could be compared");
    }
    let mut used = BTreeSet::new();
    for path in files.iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let lines = text
            .lines()
            .filter(|line| line.contains("workspace = true"));
        used.extend(
            lines
                .filter_map(|line| line.split([' ', '.']).next())
                .map(str::to_owned),
        );
    }
    for unused in declared.iter().filter(|name| !used.contains(*name)) {
        findings
            .errors
            .push(format!("Cargo.toml: no member uses {unused}"));
    }
    Ok(())
}

/// The keys of one section of a manifest.
fn section(manifest: &str, header: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        // Our own crates may be there for their users only.
        .filter(|(_, value)| !value.contains("path = "))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(path: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        words(path, text, &mut findings);
        source(path, text, &mut findings);
        findings.errors
    }

    #[test]
    fn clean_text_has_no_findings() {
        assert!(errors("crates/x/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n").is_empty());
        assert!(errors("crates/x/src/a.rs", "fn a() {}\n").is_empty());
    }

    #[test]
    fn every_forbidden_word_is_found() {
        for (first, second, _) in FORBIDDEN {
            assert_eq!(
                errors("a.rs", &format!("// x {first}{second} y")).len(),
                1,
                "{first}"
            );
        }
        assert_eq!(errors("a.rs", &format!("// For{}", " Now.")).len(), 1);
    }

    #[test]
    fn long_lines_count_characters() {
        assert!(errors("a.rs", &format!("// {}", "é".repeat(97))).is_empty());
        assert_eq!(errors("a.rs", &format!("// {}", "e".repeat(98))).len(), 1);
    }

    #[test]
    fn strings_stay_in_one_piece_and_comments_do_not() {
        let text = "word ".repeat(30);
        assert!(errors("a.rs", &format!(r#"say("{text}\"{text}");"#)).is_empty());
        assert!(errors("a.rs", &format!("say(r#\"{text}\"{text}\"#);")).is_empty());
        let expected = format!("expect![[r#\"\n{text}\n{text}\"#]];\nlet a = 1;\n");
        assert!(errors("a.rs", &expected).is_empty());
        assert_eq!(errors("a.rs", &format!("{expected}{text}")).len(), 1);
        let wrapped = format!("say(\"a \\\n{text} \\\n {text}\");\nlet a = '\"';\n");
        assert!(errors("a.rs", &wrapped).is_empty());
        assert_eq!(errors("a.rs", &format!("{wrapped}{text}")).len(), 1);
        assert_eq!(errors("a.rs", &format!("/// \"{text}\"")).len(), 1);
        assert_eq!(
            errors("a.rs", &format!(r#"say("{text}"); {text}"#)).len(),
            1
        );
    }

    #[test]
    fn sections_of_a_manifest_end_at_the_next_header() {
        let text = "[a]\nx = 1\n[b]\n# why\ny = { z = 1 }\nour = { path = \"p\" }\nz.workspace = true\n\n[c]\nv = 1\n";
        assert_eq!(section(text, "[b]"), ["y", "z.workspace"]);
    }

    #[test]
    fn crate_roots_say_what_they_are_and_forbid_unsafe_code() {
        assert_eq!(errors("crates/x/src/lib.rs", "fn a() {}\n").len(), 2);
    }

    #[test]
    fn tests_do_not_count_into_the_length_of_a_source_file() {
        let long = "x();\n".repeat(SOURCE_LINES_MAX + 1);
        assert_eq!(errors("crates/x/src/a.rs", &long).len(), 1);
        assert!(errors("crates/x/tests/it/a.rs", &long).is_empty());
        assert!(errors("crates/x/src/a.rs", &format!("#[cfg(test)]\n{long}")).is_empty());
    }

    #[test]
    fn links_lead_somewhere() {
        let mut findings = Findings::default();
        let text = "[a](src/tidy.rs) [b](https://example.org/x) [c](#here)\n[d](gone.md#x)";
        links("Cargo.toml", text, &mut findings);
        assert_eq!(
            findings.errors,
            ["Cargo.toml:2: the link gone.md#x leads nowhere"]
        );
    }
}
