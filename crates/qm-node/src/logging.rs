//! Log lines of the daemon, on standard error.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// Understands a filter such as `info,qm_node=debug`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("`{text}`: {error}"))
}

/// Lets log lines appear from here on.
///
/// # Errors
/// What is wrong with the filter.
pub(crate) fn start(settings: &Settings, colour: bool) -> Result<(), String> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.log)?)
        .with_writer(stderr)
        .with_ansi(colour && stderr().is_terminal());
    let started = match settings.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| error.to_string())
}
