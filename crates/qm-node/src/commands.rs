//! What each command does.

mod bench;
mod caches;
mod configuration;
mod dead;
mod demo;
mod health;
mod identity;
mod lab;
mod message;
mod node;
mod outgoing;
mod paper;
mod peers;
mod processes;
mod quarantine;
mod queue;
mod receive;
mod run;
mod send;
mod send_lines;
mod status;
mod still;
mod store;
mod stream;
mod top;
mod trace;
mod transaction;
mod why;

use std::future::Future;

use crate::cli::{Cli, Command, ConfigCommand, IdentityCommand};
use crate::config::{Settings, Surroundings};
use crate::exit::{Exit, Failure};
use crate::output::Output;

#[cfg(test)]
pub(crate) use self::paper::all_codes;

use self::node::Node;

/// Files that a command opens at a time: its socket, its input or output, the runtime's own.
const COMMAND_FILES: usize = 16;

/// Does what the command line says.
///
/// # Errors
/// [`Failure`] with the exit code, cause and fix.
pub(crate) fn execute(cli: &Cli, out: &Output) -> Result<Exit, Failure> {
    // Commands that need neither configuration nor node come first: they work wherever.
    match &cli.command {
        Command::Errors { code } => return paper::errors(code.as_deref(), out),
        Command::Completions { shell } => return paper::completions(*shell, out),
        Command::Config(ConfigCommand::Example) => {
            out.bytes(crate::config::example().as_bytes())?;
            return Ok(Exit::Done);
        }
        Command::Man { dir } => return paper::man(dir.as_deref(), out),
        // These start nodes of their own, which must not be configured as the user's.
        Command::Demo(args) => return block_on(demo::demo(args, out)),
        Command::Bench(args) => return block_on(bench::bench(args, out)),
        Command::Lab(command) => return lab::lab(command, out),
        _ => {}
    }
    let around = Surroundings::of_process();
    let mut flags = cli.flags();
    if let Command::Config(ConfigCommand::Check { file: Some(file) }) = &cli.command {
        flags.config = Some(file.clone());
    }
    let settings = Settings::load(&around, &flags).map_err(Failure::from);
    // These tell a wrong configuration as one of the things that are wrong.
    match &cli.command {
        Command::Doctor(args) => return block_on(health::doctor(settings, *args, out)),
        Command::Check(args) => return block_on(health::check(settings, args, out)),
        _ => {}
    }
    let settings = settings?;
    match &cli.command {
        Command::Run(_) => run::run(&settings, out),
        Command::Init(_) => run::init(&settings, out),
        Command::Store(command) => store::store(&settings, command, out),
        Command::Config(ConfigCommand::Show) => configuration::show(&settings, out),
        Command::Config(ConfigCommand::Check { .. } | ConfigCommand::Example) => {
            configuration::check(&settings, out)
        }
        Command::Identity(IdentityCommand::Sysprep {
            purge,
            export,
            confirm,
        }) => {
            let waiting = identity::Waits {
                purge: *purge,
                export: export.clone(),
            };
            identity::sysprep(&settings, waiting, *confirm, out)
        }
        Command::Identity(IdentityCommand::Show) => block_on(identity::show(&settings, out)),
        command => block_on(with_node(command, &settings, out)),
    }
}

async fn with_node(command: &Command, settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    // A wrong command is told before the node is looked for.
    let source = match command {
        Command::Send(args) => Some(send::Source::of(args)?),
        _ => None,
    };
    let node = Node::connect(settings).await?;
    let done = match command {
        Command::Status => status::status(&node, out).await,
        Command::Top(args) => top::top(&node, args, out).await,
        Command::Send(args) => send::send(&node, args, source, out).await,
        Command::Receive(args) if args.transaction => {
            transaction::receive_for_command(&node, args, out).await
        }
        Command::Receive(args) => receive::receive(&node, args, out).await,
        Command::Peek(args) => receive::peek(&node, args, out).await,
        Command::Queue(command) => queue::queue(&node, command, out).await,
        Command::Outgoing(command) => outgoing::outgoing(&node, command, out).await,
        Command::Peers(command) => peers::peers(&node, command, out).await,
        Command::Stream(command) => stream::stream(&node, command, out).await,
        Command::Identity(command) => identity::change(&node, command, out).await,
        Command::Freeze { for_ms } => still::freeze(&node, *for_ms, out).await,
        Command::Thaw => still::thaw(&node, out).await,
        Command::Quarantine(command) => quarantine::quarantine(&node, command, out).await,
        Command::Routes => caches::routes(&node, out).await,
        Command::Dedup => caches::dedup(&node, out).await,
        Command::Dead(command) => dead::dead(&node, command, out).await,
        Command::Why { subject } => why::why(&node, subject, out).await,
        Command::Trace { id } => trace::trace(&node, id, out).await,
        _ => Ok(Exit::Done),
    };
    // What was settled or sent last must have left before the process does.
    node.client.close().await;
    done
}

/// Runs a command that talks to the node.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    qm_node::check_files_left(COMMAND_FILES).map_err(|error| run::from_run(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| Failure::io("the command cannot start", &e))?;
    runtime.block_on(command)
}
