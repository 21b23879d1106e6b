//! Log lines of the daemon, on standard error.

mod lines;

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

pub(crate) use self::lines::Lines;
use crate::config::{LogFormat, Settings};

/// Understands a filter such as `info,qm_node=debug`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    // To the filter a word alone is a module, and a mistyped level would silence all others.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let words = text.split(',').map(str::trim);
    let alone = |word: &&str| !word.is_empty() && !word.contains(['=', '[', ':', '_']);
    let wrong = |word: &&str| {
        let level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        !level && word.parse::<u8>().is_err()
    };
    if let Some(word) = words.filter(alone).find(wrong) {
        let levels = LEVELS.join(", ");
        return Err(format!("`{word}` is no level: those are {levels}"));
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("`{text}`: {error}"))
}

/// Log lines appear as long as this is there; its end waits a moment for the last ones.
#[derive(Debug)]
pub(crate) struct Logging(Lines);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Lets log lines appear from here on.
///
/// # Errors
/// What is wrong with the filter.
pub(crate) fn start(settings: &Settings, written: Lines, colour: bool) -> Result<Logging, String> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.log)?)
        .with_writer(written.clone())
        // It tells of a line that cannot be written on the same standard error, and panics there:
        // a full disk under the log, or a reader that is gone, must not end a node.
        .log_internal_errors(false)
        .with_ansi(colour && stderr().is_terminal());
    let started = match settings.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| error.to_string())?;
    Ok(Logging(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_one_of_those_there_are() {
        for good in [
            "info",
            "WARN",
            "info,qm_node=debug",
            "qm_node::life",
            "off,quinn=trace",
            "3",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("inof", "inof"),
            ("info, debg", "debg"),
            ("qm_node=loud", "level filter"),
        ] {
            let told = filter(bad).map(|_filter| ()).unwrap_err();
            assert!(told.contains(word), "{told}");
        }
    }
}
