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
use self::exit::Exit;
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
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match error.print() {
            Ok(()) => Exit::Done.code(),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done.code(),
            Err(error) => {
                let failure = output::stdout_failed(&error);
                Output::of_process(false, false).failure(&failure);
                failure.exit.code()
            }
        };
    }
    let json = std::env::args_os().any(|arg| arg == "--json");
    // Nothing was asked for: help is the answer, and an error nevertheless.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && !json {
        let _told = error.print().is_ok();
        return Exit::Usage.code();
    }
    let typed: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let failure = cli::misuse(error, &typed);
    Output::of_process(json, false).failure(&failure);
    failure.exit.code()
}
