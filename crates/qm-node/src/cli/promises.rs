//! Commands and options that texts promise must exist: in errors, advice, help and documentation.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::Cli;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files below a directory of the repository, in order.
fn files(below: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![repository().join(below)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Everything that people read: sources without their tests, and documentation.
fn texts() -> Vec<(PathBuf, String)> {
    let crates = [
        "qm-node",
        "qm-client",
        "qm-engine",
        "qm-transport",
        "qm-store",
        "qm-wire",
    ];
    let sources = crates
        .iter()
        .flat_map(|name| files(&format!("crates/{name}/src"), "rs"))
        .filter(|path| !path.ends_with("tests.rs") && !path.ends_with("cli/promises.rs"));
    let mut paths: Vec<PathBuf> = sources.chain(files("docs", "md")).collect();
    let readme = |dir: &str| repository().join(dir).join("README.md");
    paths.extend(crates.iter().map(|name| readme(&format!("crates/{name}"))));
    paths.push(readme("."));
    paths.extend(
        ["SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|n| repository().join(n)),
    );
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        let text = text.split("#[cfg(test)]\nmod tests {").next()?.to_owned();
        // A string over several lines goes on behind the backslash.
        Some((path, unfolded(&text)))
    };
    paths.into_iter().filter_map(read).collect()
}

/// A text whose strings and doc comments are on one line each.
fn unfolded(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let comment = |line: &str| line.trim_start().starts_with("///");
        match lines.last_mut() {
            Some(last) if last.ends_with('\\') => {
                last.pop();
                last.push_str(line.trim_start());
            }
            Some(last) if comment(last) && comment(line) => {
                last.push_str(line.trim_start().trim_start_matches('/'));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// The commands that a text tells people to type: behind a backtick, a quote or a colon, or at
/// the beginning of a line.
fn commands(text: &str) -> Vec<&str> {
    const NAME: &str = "qm-node ";
    let mut found = Vec::new();
    for line in text.lines() {
        for (at, _) in line.match_indices(NAME) {
            let before = &line[..at];
            let beginning = before.is_empty()
                || ["`", "\"", ": ", "$ ", ", "]
                    .iter()
                    .any(|sign| before.ends_with(sign));
            let rest = &line[at + NAME.len()..];
            let end = rest.find(['`', '"', ';', '#', ')', ',', '>', '\'']);
            let rest = &rest[..end.unwrap_or(rest.len())];
            let rest = rest.split("  ").next().unwrap_or(rest);
            let first = rest.chars().next().unwrap_or(' ');
            if beginning && (first.is_ascii_lowercase() || first == '-') {
                found.push(rest);
            }
        }
    }
    found
}

/// What of a command there is not.
fn missing(typed: &str) -> Option<String> {
    let root = Cli::command();
    let mut command = &root;
    let mut words = typed.split_whitespace();
    while let Some(word) = words.next() {
        // `[--json]`, `pause|resume`, `--quota-bytes=…`, the end of a sentence.
        let word = word.trim_matches(|c| matches!(c, '[' | ']' | '.' | ':' | '…' | '&'));
        if word == "help" || word == "|" {
            return None;
        }
        if let Some(option) = word.strip_prefix("--") {
            let has_value = option.contains('=');
            let option = option.split(['=', '|', '<']).next().unwrap_or(option);
            let known = |command: &clap::Command| {
                command
                    .get_arguments()
                    .any(|arg| arg.get_long() == Some(option))
            };
            if !(option.is_empty()
                || known(command)
                || known(&root)
                || ["help", "version"].contains(&option))
            {
                return Some(format!("`{}` has no option --{option}", command.get_name()));
            }
            let mut arguments = command.get_arguments().chain(root.get_arguments());
            let of_option = arguments.find(|arg| arg.get_long() == Some(option));
            if !has_value && of_option.is_some_and(|arg| arg.get_action().takes_values()) {
                words.next();
            }
            continue;
        }
        let is_name = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !command.has_subcommands() || word.is_empty() {
            continue;
        }
        let mut next = None;
        for name in word.split('|') {
            if !is_name(name) {
                break;
            }
            next = command.find_subcommand(name);
            // `bench` alone is a command as well as the beginning of others.
            if next.is_none() && command.is_args_conflicts_with_subcommands_set() {
                break;
            }
            if next.is_none() {
                return Some(format!("`{}` has no command {name}", command.get_name()));
            }
        }
        match next {
            Some(found) => command = found,
            None => return None,
        }
    }
    None
}

#[test]
fn every_command_that_a_text_names_exists() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in texts() {
        for typed in commands(&text) {
            seen += 1;
            if let Some(missing) = missing(typed) {
                wrong.push(format!("{}: qm-node {typed}: {missing}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "only {seen} commands were found");
}

/// Options in the words of errors and advice, which stand without their command.
#[test]
fn every_option_that_an_error_names_exists() {
    fn options(command: &clap::Command, all: &mut Vec<String>) {
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        all.extend(longs.map(str::to_owned));
        command.get_subcommands().for_each(|sub| options(sub, all));
    }
    let mut known = vec!["help".to_owned(), "version".to_owned()];
    options(&Cli::command(), &mut known);
    let mut texts: Vec<String> = Vec::new();
    for row in crate::commands::all_codes() {
        texts.extend([
            row.fix.to_owned(),
            row.example.unwrap_or_default().to_owned(),
        ]);
    }
    texts.extend(self::texts().into_iter().filter_map(|(path, text)| {
        let source = path.extension().is_some_and(|e| e == "rs");
        source.then_some(text)
    }));
    let mut seen = 0;
    for text in texts {
        for line in text.lines().filter(|line| !line.contains("cargo ")) {
            for (at, _) in line.match_indices("--") {
                let before = line[..at].chars().next_back().unwrap_or(' ');
                let rest = &line[at + 2..];
                let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
                let name = &rest[..end.unwrap_or(rest.len())];
                if before == '-' || name.is_empty() || name.starts_with('-') {
                    continue;
                }
                seen += 1;
                assert!(
                    known.iter().any(|option| option == name),
                    "--{name}: {line}"
                );
            }
        }
    }
    assert!(seen > 50, "only {seen} options were found");
}

#[test]
fn promises_that_are_not_kept_are_found() {
    for (typed, wrong) in [
        ("run --trust any", None),
        ("queue set orders --quota-bytes none", None),
        ("outgoing pause|resume|retry|purge DEST", None),
        ("--json --data DIR status", None),
        ("bench outage", None),
        ("nosuch", Some("`qm-node` has no command nosuch")),
        ("queue shw", Some("`queue` has no command shw")),
        ("queue set q --quota", Some("`set` has no option --quota")),
        (
            "outgoing pause|halt",
            Some("`outgoing` has no command halt"),
        ),
    ] {
        assert_eq!(missing(typed).as_deref(), wrong, "{typed}");
    }
    let found =
        commands("see `qm-node status`, or: qm-node why X; a qm-node that runs\nqm-node run  # it");
    assert_eq!(found, ["status", "why X", "run"]);
}
