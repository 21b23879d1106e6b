//! The configuration file: TOML to keys and texts, each with its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::keys::{KEYS, Key};

/// A value of a file.
pub(super) struct FileValue {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) line: usize,
}

/// Reads a file's text.
///
/// # Errors
/// [`ConfigError`] with file and line for what is no TOML, no key, or no kind of value that a key
/// could have.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<FileValue>, ConfigError> {
    let line_of = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        ConfigError {
            cause: format!("{}:{line}: {}", path.display(), error.message()),
            fix: "correct the line; the file is TOML (https://toml.io)".to_owned(),
        }
    })?;
    let mut values = Vec::new();
    for (name, value) in table.get_ref() {
        let place = |at: usize| format!("{}:{}", path.display(), line_of(at));
        let at = name.span().start;
        let section = name.get_ref();
        let DeValue::Table(inner) = value.get_ref() else {
            values.push(leaf(section, value, at, &place)?);
            continue;
        };
        let prefix = format!("{section}.");
        if !KEYS.iter().any(|key| key.name.starts_with(&prefix)) {
            return Err(ConfigError {
                cause: format!("{}: there is no section [{section}]", place(at)),
                fix: accepted(section),
            });
        }
        for (name, value) in inner {
            let key = format!("{section}.{}", name.get_ref());
            values.push(leaf(&key, value, name.span().start, &place)?);
        }
    }
    for value in &mut values {
        value.line = line_of(value.line);
    }
    // In the order of the file, so that the first mistake is told first.
    values.sort_by_key(|value| value.line);
    Ok(values)
}

/// What may stand where `wrong` stands: the key meant, or the keys of its section.
pub(super) fn accepted(wrong: &str) -> String {
    let nearest = KEYS
        .iter()
        .map(|key| (distance(key.name, wrong), key.name))
        .min();
    if let Some((distance, name)) = nearest
        && distance <= 2
    {
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

fn leaf(
    name: &str,
    value: &Spanned<DeValue<'_>>,
    at: usize,
    place: &impl Fn(usize) -> String,
) -> Result<FileValue, ConfigError> {
    let Some(key) = Key::named(name) else {
        return Err(ConfigError {
            cause: format!("{}: there is no key `{name}`", place(at)),
            fix: accepted(name),
        });
    };
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        _ => {
            return Err(ConfigError {
                cause: format!("{}: `{name}` has a value of the wrong kind", place(at)),
                fix: format!("`{name}` is {}", key.kind.describe()),
            });
        }
    };
    Ok(FileValue {
        key: key.name,
        text,
        line: at,
    })
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
