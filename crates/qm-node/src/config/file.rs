//! The configuration file: TOML to keys and texts, each with its place.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::keys::{KEYS, Key};

/// Mistakes of a file that are told; the rest would only repeat them.
const MISTAKES_MAX: usize = 20;
/// A longer name is no mistyped key.
const NAME_BYTES_MAX: usize = 64;
/// Characters of a value that an error repeats.
const SHOWN_CHARS: usize = 60;

/// A value of a file.
pub(super) struct FileValue {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) place: Place,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// From 1.
    pub(crate) line: usize,
    /// Characters from 1.
    pub(crate) column: usize,
    /// The line itself.
    pub(crate) text: String,
}

impl Place {
    /// With the column, for what is wrong there.
    pub(super) fn exact(&self) -> String {
        format!("{}:{}:{}", self.path.display(), self.line, self.column)
    }

    pub(super) fn excerpt(&self) -> (String, usize) {
        // A line that ends in CR and LF may be wrong at its CR, which is not shown.
        let shown = self.text.chars().count();
        (self.text.clone(), self.column.saturating_sub(1).min(shown))
    }
}

/// A file that is read.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(path: &'a Path, text: &'a str) -> Self {
        let feeds = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            path,
            text,
            lines: std::iter::once(0).chain(feeds).collect(),
        }
    }

    /// The line, from 1, in which a byte stands.
    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at)
    }

    fn place(&self, at: usize) -> Place {
        let line = self.line(at);
        let line_at = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(..at).unwrap_or(self.text);
        let rest = self.text.get(line_at..).unwrap_or_default();
        Place {
            path: self.path.to_owned(),
            line,
            column: before.get(line_at..).unwrap_or_default().chars().count() + 1,
            text: rest.lines().next().unwrap_or_default().to_owned(),
        }
    }

    fn wrong(&self, at: usize, problem: &str, fix: String) -> ConfigError {
        let place = self.place(at);
        ConfigError {
            excerpt: Some(place.excerpt()),
            ..ConfigError::new(format!("{}: {problem}", place.exact()), fix)
        }
    }

    /// A value as it is written, shortened.
    fn written(&self, span: Range<usize>) -> String {
        shortened(self.text.get(span).unwrap_or_default())
    }

    fn leaf(
        &self,
        name: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<FileValue, ConfigError> {
        let Some(key) = Key::named(name) else {
            let problem = format!("there is no key `{}`", shortened(name));
            return Err(self.wrong(at, &problem, accepted(name)));
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            _ => {
                let written = self.written(value.span());
                let problem = format!("`{name}`: `{written}` has the wrong kind");
                let fix = format!("`{name}` is {}", key.kind.describe());
                return Err(self.wrong(value.span().start, &problem, fix));
            }
        };
        Ok(FileValue {
            key: key.name,
            text,
            place: self.place(value.span().start),
        })
    }
}

/// The beginning of a text's first line.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Reads a file's text: the values that can be read, and what is wrong with the rest, both in the
/// order of the file.
pub(super) fn parse(path: &Path, text: &str) -> (Vec<FileValue>, Vec<ConfigError>) {
    let source = Source::new(path, text);
    // What comes behind a broken line can be read, and its mistakes are told as well.
    let (table, broken) = DeTable::parse_recoverable(text);
    let mut broken: Vec<(usize, String)> = broken
        .into_iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().to_owned())
        })
        .collect();
    broken.sort_by_key(|(at, _)| *at);
    // One slip can break several rules of TOML.
    broken.dedup_by_key(|(at, _)| source.line(*at));
    let broken_lines: BTreeSet<usize> = broken.iter().map(|(at, _)| source.line(*at)).collect();
    let mut errors: Vec<(usize, ConfigError)> = broken
        .into_iter()
        .take(MISTAKES_MAX)
        .map(|(at, message)| {
            let fix = "correct the line; the file is TOML (https://toml.io)".to_owned();
            (at, source.wrong(at, &message, fix))
        })
        .collect();
    let mut values = Vec::new();
    let mut leaf = |name: &str, at: usize, value: &Spanned<DeValue<'_>>| {
        // What a broken line seems to say is not worth an error of its own.
        if errors.len() >= MISTAKES_MAX || broken_lines.contains(&source.line(at)) {
            return;
        }
        match source.leaf(name, at, value) {
            Ok(value) => values.push(value),
            Err(error) => errors.push((at, error)),
        }
    };
    let mut strangers = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let section = name.get_ref();
        let DeValue::Table(inner) = value.get_ref() else {
            leaf(section, at, value);
            continue;
        };
        let prefix = format!("{section}.");
        if !KEYS.iter().any(|key| key.name.starts_with(&prefix)) {
            strangers.push((at, section.to_string()));
            continue;
        }
        for (name, value) in inner {
            let key = format!("{section}.{}", name.get_ref());
            leaf(&key, name.span().start, value);
        }
    }
    for (at, section) in strangers.into_iter().take(MISTAKES_MAX) {
        let headed = text.get(..at).is_some_and(|before| before.ends_with('['));
        let blurred = !broken_lines.is_empty() && !headed;
        if !blurred && !broken_lines.contains(&source.line(at)) {
            let problem = format!("there is no section [{}]", shortened(&section));
            errors.push((at, source.wrong(at, &problem, accepted_section(&section))));
        }
    }
    values.sort_by_key(|value| (value.place.line, value.place.column));
    errors.sort_by_key(|(at, _)| *at);
    let mut errors: Vec<ConfigError> = errors.into_iter().map(|(_, error)| error).collect();
    errors.truncate(MISTAKES_MAX);
    (values, errors)
}

/// What may stand where `wrong` stands: the key meant, or the keys of its section.
pub(super) fn accepted(wrong: &str) -> String {
    // A key of a section that stands outside of it.
    let stray: Vec<&str> = KEYS
        .iter()
        .map(|key| key.name)
        .filter(|name| name.split_once('.').is_some_and(|(_, last)| last == wrong))
        .collect();
    if let [name] = &*stray {
        return format!("did you mean `{name}`?");
    }
    if let Some(name) = nearest(wrong, KEYS.iter().map(|key| key.name)) {
        return format!("did you mean `{name}`?");
    }
    let section = wrong
        .split_once('.')
        .map(|(section, _)| format!("{section}."));
    let in_section = |key: &&Key| section.as_ref().is_some_and(|s| key.name.starts_with(s));
    let mut names: Vec<&str> = KEYS.iter().filter(in_section).map(|key| key.name).collect();
    if names.is_empty() {
        names = KEYS.iter().map(|key| key.name).collect();
    }
    format!("accepted keys: {}", names.join(", "))
}

fn accepted_section(wrong: &str) -> String {
    let mut sections: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| Some(key.name.split_once('.')?.0))
        .collect();
    sections.dedup();
    match nearest(wrong, sections.iter().copied()) {
        Some(name) => format!("did you mean [{name}]?"),
        None => format!("accepted sections: {}", sections.join(", ")),
    }
}

/// The one that a typing mistake or two away is meant.
fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if wrong.len() > NAME_BYTES_MAX {
        return None;
    }
    let (distance, name) = names.map(|name| (distance(name, wrong), name)).min()?;
    (distance <= 2).then_some(name)
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            let best = (above + 1).min(left + 1).min(corner + usize::from(x != y));
            (corner, left) = (above, best);
            *cell = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
