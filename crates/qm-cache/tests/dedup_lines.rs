//! The example `dedup_lines`, as a program that reads and writes.
#![cfg(not(any(loom, miri)))]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Cargo builds the examples of a package before it runs its tests, beside them.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("it is in deps");
    let name = format!("dedup_lines{}", std::env::consts::EXE_SUFFIX);
    folder.join("examples").join(name)
}

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let path = program();
    let mut child = Command::new(&path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            let path = path.display();
            panic!("{path}: {error}; with --test alone, build it first: cargo build -p qm-cache --examples")
        });
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("it reads to the end");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn each_line_is_printed_once_and_in_order() {
    let output = run(&[], b"b\na\nb\n\na\nc\n\n\xff\xfe\nb\n\xff\xfe\n");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"b\na\n\nc\n\xff\xfe\n");
    let said = text(&output.stderr);
    assert_eq!(
        said,
        "5 lines printed, 5 duplicates, 0 forgotten early for want of room\n"
    );
}

/// Two lines are remembered: the third new one pushes the first one out.
#[test]
fn only_the_newest_lines_are_remembered() {
    let output = run(&["2", "600"], b"a\nb\na\nc\nb\na\n");
    assert_eq!(text(&output.stdout), "a\nb\nc\na\n");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("4 lines printed, 2 duplicates, 2 "),
        "{said}"
    );
}

#[test]
fn the_last_line_needs_no_end_and_nothing_is_no_line() {
    assert_eq!(text(&run(&[], b"a\na").stdout), "a\na");
    assert_eq!(text(&run(&[], b"").stdout), "");
}

#[test]
fn an_argument_that_is_no_number_is_named() {
    let output = run(&["many"], b"");
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(
        said.starts_with("dedup_lines: `many` is not a number"),
        "{said}"
    );
}
