//! The qm-node program: the daemon, and the commands to use and operate it.
#![forbid(unsafe_code)]

#[expect(
    clippy::doc_markdown,
    reason = "its doc comments are help texts, printed as they are"
)]
mod cli;
mod commands;
mod config;
mod exit;
mod logging;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use self::cli::Cli;
use self::exit::{Exit, Failure};
use self::output::{Output, READER_GONE};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let out = Output::of_process(cli.common.json, cli.common.quiet);
    match commands::execute(&cli, &out) {
        Ok(exit) => exit.code(),
        // Whoever read our output has seen enough.
        Err(failure) if failure.code == READER_GONE => Exit::Done.code(),
        Err(failure) => {
            if failure.exit != Exit::Nothing || !out.quiet {
                out.failure(&failure);
            }
            failure.exit.code()
        }
    }
}

/// Help and version go where they belong; what is wrong with the command line is an error like
/// any other.
fn refuse(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    let asked_for_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if json && !asked_for_help {
        let text = error.render().to_string();
        let (cause, fix) = text.split_once("\n\n").unwrap_or((&text, ""));
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let fix = fix.replace("For more information, try '--help'.", "");
        let (cause, fix) = (line(cause.trim_start_matches("error: ")), line(&fix));
        let known = "`qm-node help COMMAND` shows what is possible".to_owned();
        let fix = if fix.is_empty() { known } else { fix };
        let failure = Failure::usage(cause, fix);
        Output::of_process(true, false).failure(&failure);
    } else if error.print().is_err() {
        return Exit::Failed.code();
    }
    if asked_for_help {
        Exit::Done.code()
    } else {
        Exit::Usage.code()
    }
}
