//! What a command prints: data on standard output, everything else on standard error.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::exit::Failure;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
    /// Standard error is a terminal.
    pub(crate) error_terminal: bool,
    pub(crate) colour: bool,
}

/// `qm.note/1`.
#[derive(Debug, Serialize)]
struct Note<'a> {
    schema: &'static str,
    note: &'a str,
}

impl Output {
    pub(crate) fn of_process(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            terminal: io::stdout().is_terminal(),
            error_terminal: io::stderr().is_terminal(),
            // https://no-color.org: set and not empty.
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Aligned tables with heads also on a pipe, for reports that scripts read as documents.
    pub(crate) const fn for_people(self) -> Self {
        Self {
            colour: self.colour && self.terminal,
            terminal: true,
            ..self
        }
    }

    /// A document on a line of its own.
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(document)
            .expect("documents have string keys and no failing serializer");
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Documents with `--json`, else a table.
    pub(crate) fn list<T: Serialize, const N: usize>(
        &self,
        items: &[T],
        columns: [Column; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        if self.json {
            return items.iter().try_for_each(|item| self.document(item));
        }
        let rows: Vec<[String; N]> = items.iter().map(row).collect();
        self.bytes(table(&columns, &rows, self.terminal, self.terminal && self.colour).as_bytes())
    }

    /// Names and values: aligned on a terminal, tab-separated on a pipe.
    pub(crate) fn facts(&self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let rows: Vec<[String; 2]> = facts
            .iter()
            .map(|(name, value)| [(*name).to_owned(), value.clone()])
            .collect();
        let columns = [Column::left(""), Column::left("")];
        self.bytes(table(&columns, &rows, self.terminal, false).as_bytes())
    }

    /// Data, as it is.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|e| stdout_failed(&e))
    }

    pub(crate) fn line(&self, line: &str) -> Result<(), Failure> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// A remark for people, unless `--quiet`; with `--json` a document, as everything on standard
    /// error is then.
    pub(crate) fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.json {
            let schema = "qm.note/1";
            self.complaint(&Note { schema, note: text });
        } else {
            complain(text);
        }
    }

    /// A document on standard error.
    pub(crate) fn complaint(&self, document: &impl Serialize) {
        let document = serde_json::to_string(document);
        complain(&document.expect("documents have string keys and no failing serializer"));
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            self.complaint(&failure.document());
            return;
        }
        self.told(failure);
        failure.more.iter().for_each(|more| self.told(more));
    }

    fn told(&self, failure: &Failure) {
        let (red, plain) = if self.colour && self.error_terminal {
            ("\x1b[1;31m", "\x1b[0m")
        } else {
            ("", "")
        };
        let word = failure
            .outcome
            .map_or_else(|| failure.code.clone(), |o| o.to_string());
        let cause = printable(&failure.cause);
        let excerpt = failure.excerpt.as_deref();
        let excerpt = excerpt.map_or_else(String::new, |(line, column)| pointed_at(line, *column));
        complain(&format!(
            "{red}error{plain} [{word}]: {cause}\n{excerpt}  fix: {}",
            printable(&failure.fix)
        ));
    }

    /// Asks before something is destroyed.
    ///
    /// # Errors
    /// When the answer is no, or nobody can be asked.
    pub(crate) fn confirm(&self, what: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && self.error_terminal) {
            return Err(Failure::of(
                "needs_yes",
                format!("this would {what}, and nobody can be asked"),
            ));
        }
        let mut error = io::stderr().lock();
        let asked = write!(error, "This will {what}. Go on? [y/N] ").and_then(|()| error.flush());
        asked.map_err(|e| Failure::io("the question cannot be asked", &e))?;
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|e| Failure::io("the answer cannot be read", &e))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::of("aborted", "the answer was not yes"))
    }
}

/// A line with a caret below the character at `column`. Of a long line only what is around it.
fn pointed_at(line: &str, column: usize) -> String {
    const BEFORE: usize = 60;
    const AFTER: usize = 30;
    let first = column.saturating_sub(BEFORE);
    let part = |from: usize, to: usize| -> String {
        let characters = line.chars().skip(from).take(to.saturating_sub(from));
        printable(&characters.collect::<String>())
    };
    let (before, after) = (part(first, column), part(column, column + AFTER));
    let cut = if first > 0 { "…" } else { "" };
    let pad = " ".repeat(width(cut) + width(&before));
    format!("    {cut}{before}{after}\n    {pad}^\n")
}

/// Standard output is gone or full. A reader that has seen enough is no error of ours, but the
/// command ends.
pub(crate) fn stdout_failed(error: &io::Error) -> Failure {
    let failure = Failure::io("standard output cannot be written", error);
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure {
            code: READER_GONE.to_owned(),
            ..failure
        };
    }
    failure
}

/// Code of the failure that is told to nobody.
pub(crate) const READER_GONE: &str = "reader_gone";

/// Writes to standard error; when that is gone there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    let mut error = io::stderr().lock();
    let _told = writeln!(error, "{text}").is_ok();
}

/// `1 message`, `2 messages`.
pub(crate) fn messages(count: u64) -> String {
    counted(count, "message", "messages")
}

/// A number with the word for one or for several.
pub(crate) fn counted(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    head: &'static str,
    right: bool,
}

impl Column {
    pub(crate) const fn left(head: &'static str) -> Self {
        Self { head, right: false }
    }

    /// For numbers.
    pub(crate) const fn right(head: &'static str) -> Self {
        Self { head, right: true }
    }
}

fn table<const N: usize>(
    columns: &[Column; N],
    rows: &[[String; N]],
    terminal: bool,
    colour: bool,
) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    if !terminal {
        return rows
            .iter()
            .map(|row| format!("{}\n", row.join("\t")))
            .collect();
    }
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(n, column)| {
            let cells = rows.iter().filter_map(|row| row.get(n));
            cells
                .map(|cell| width(cell))
                .chain([width(column.head)])
                .max()
                .unwrap_or_default()
        })
        .collect();
    let line = |cells: &[String]| {
        let mut line = String::new();
        for ((cell, column), width_max) in cells.iter().zip(columns).zip(&widths) {
            let pad = " ".repeat(width_max - width(cell));
            let (before, after) = if column.right {
                (pad.as_str(), "")
            } else {
                ("", pad.as_str())
            };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        line.trim_end().to_owned()
    };
    let heads: Vec<String> = columns
        .iter()
        .map(|column| column.head.to_owned())
        .collect();
    let mut text = String::new();
    if heads.iter().any(|head| !head.is_empty()) {
        let head = line(&heads);
        text.push_str(&if colour {
            format!("\x1b[1m{head}\x1b[0m\n")
        } else {
            format!("{head}\n")
        });
    }
    for row in &rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    text
}

/// Columns a text takes, near enough for names: one a character.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text in which nothing can move the cursor or forge a row: control characters are escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn cells(rows: &[[&str; 2]]) -> Vec<[String; 2]> {
        rows.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn tables_suit_their_reader() {
        let columns = [Column::left("QUEUE"), Column::right("MESSAGES")];
        let rows = cells(&[["orders", "7"], ["a\tb\u{1b}[2J", "1200"]]);
        expect![[r"
            QUEUE          MESSAGES
            orders                7
            a\tb\u{1b}[2J      1200
        "]]
        .assert_eq(&table(&columns, &rows, true, false));
        assert_eq!(
            table(&columns, &rows, false, true),
            "orders\t7\na\\tb\\u{1b}[2J\t1200\n"
        );
        assert!(table(&columns, &rows, true, true).starts_with("\x1b[1mQUEUE"));
        assert_eq!(table(&columns, &[], false, false), "");
    }

    #[test]
    fn a_caret_stands_below_what_is_wrong() {
        let shown = |line: &str, column| pointed_at(line, column);
        assert_eq!(
            shown("qm://hub:x/q", 9),
            "    qm://hub:x/q\n             ^\n"
        );
        assert_eq!(shown("grüß/\n", 5), "    grüß/\\n\n         ^\n");
        assert_eq!(shown("q", 1), "    q\n     ^\n");
        let long = shown(&"x".repeat(1_000), 500);
        let lines: Vec<_> = long.lines().collect();
        assert_eq!(lines[0].chars().count(), 4 + 1 + 60 + 30);
        assert_eq!(lines[1].chars().count(), 4 + 1 + 60 + 1);
    }

    #[test]
    fn letters_of_all_scripts_stay_readable() {
        assert_eq!(printable("Grüße, 世界"), "Grüße, 世界");
        assert_eq!(printable("a\u{202e}b\r\n"), "a\\u{202e}b\\r\\n");
    }
}
