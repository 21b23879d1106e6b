//! A real text travels line by line and comes out as it went in.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::program::{Application, Program, rate, report};
use crate::support::slow_tests;

#[test]
fn every_line_of_a_file_arrives_in_order_byte_for_byte() {
    let count = if slow_tests() { 120_000 } else { 10_000 };
    let text = text_of_the_repository(count);
    let (a, b) = (Program::start("a"), Program::start("b"));
    b.done(&["queue", "create", "lines"]);
    let (input, output) = (a.file("input"), b.file("output"));
    std::fs::write(&input, &text).unwrap();

    let began = Instant::now();
    let wanted = count.to_string();
    let receive = ["receive", "lines", "--count", &wanted];
    let mut receiving = Application::start(&b, &receive, &output);
    let file = input.to_str().unwrap();
    let summary = a.document(&["send", &b.queue("lines"), "--lines", file]);
    assert_eq!(summary["accepted"], count, "{summary}");
    receiving.finish(&b);
    let took = began.elapsed();

    assert_same(&text, &std::fs::read(&output).unwrap());
    let again = b.command(&["receive", "lines", "--wait", "300ms"]).output();
    assert_eq!(again.unwrap().status.code(), Some(3), "there is more");
    report(&format!(
        "lines: {count} lines, {} bytes, identical and in order in {took:.2?}: {} a second; \
         accepted in {} ms",
        text.len(),
        rate(count, took),
        summary["elapsed_ms"]
    ));
}

/// So many lines, made from the sources and documents of this repository, with what real files
/// have as well: empty lines, long ones, other scripts, bytes that are no text.
pub(crate) fn text_of_the_repository(lines: usize) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    find(root, &mut files);
    let sources: Vec<u8> = files
        .iter()
        .flat_map(|file| std::fs::read(file).unwrap())
        .collect();
    let sources: Vec<&[u8]> = sources.split(|byte| *byte == b'\n').collect();
    assert!(sources.len() > 1_000, "{} is no repository", root.display());

    let bytes: Vec<u8> = (0..=u8::MAX).filter(|byte| *byte != b'\n').collect();
    let mut text = Vec::new();
    for number in 0..lines {
        // From the second pass on, numbers tell equal lines apart.
        let pass = number / sources.len();
        match (number % 1_000, sources[number % sources.len()]) {
            (100, _) => {}
            (200, _) => text.extend("long line, ".repeat(3_600).as_bytes()),
            (300, _) => text.extend("žluťoučký kůň, съешь ещё, 日本語, 🦀\u{202e}\r".as_bytes()),
            (400, _) => text.extend(&bytes),
            (500, _) => text.push(0),
            (_, line) if pass == 0 => text.extend(line),
            (_, line) => {
                text.extend(number.to_string().as_bytes());
                text.push(b' ');
                text.extend(line);
            }
        }
        text.push(b'\n');
    }
    text
}

/// Sources and documents below a directory, in the order of their names.
fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy();
        let extension = path.extension().unwrap_or_default();
        if name.starts_with('.') || name == "target" {
            continue;
        } else if path.is_dir() {
            find(&path, files);
        } else if ["rs", "md", "toml"].iter().any(|known| extension == *known) {
            files.push(path);
        }
    }
}

/// Compares, and says where the first difference is instead of printing megabytes.
pub(crate) fn assert_same(expected: &[u8], found: &[u8]) {
    let mut expected = expected.split(|byte| *byte == b'\n');
    let mut found = found.split(|byte| *byte == b'\n');
    for number in 1.. {
        match (expected.next(), found.next()) {
            (None, None) => return,
            (one, other) => {
                let text = |line: Option<&[u8]>| line.map(String::from_utf8_lossy).map(cut);
                assert!(
                    one == other,
                    "line {number}: expected {:?}, found {:?}",
                    text(one),
                    text(other)
                );
            }
        }
    }
}

fn cut(line: std::borrow::Cow<'_, str>) -> String {
    line.chars().take(120).collect()
}
