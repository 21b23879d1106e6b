//! Taking messages, and looking at them.

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qm_client::{Delivery, ReceiveError, ReceiveOptions, Received, Settling};
use qm_node::admin_json::{QueueDocument, Request};
use qm_wire::{INFINITE_MS, Outcome, QueueName};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Filter, Form, PeekArgs, PeekForm, ReceiveArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, complain, messages, stdout_failed};

use super::message::{MessageDocument, for_terminal, preview};
use super::node::{Node, from_receive, from_settle};

/// Messages asked for at once: enough that the commit of their removal is shared by many.
const BATCH_MESSAGES: u64 = 256;

pub(crate) async fn receive(
    node: &Node,
    args: &ReceiveArgs,
    out: &Output,
) -> Result<Exit, Failure> {
    let mut left = match args.count {
        _ if args.follow => u64::MAX,
        Some(count) => count,
        None => 1,
    };
    let wait = wait_of(args);
    let sink = match &args.out_dir {
        Some(dir) => Sink::Files(dir),
        None if out.json => Sink::Stream(Form::Json),
        None => Sink::Stream(args.output),
    };
    let mut stop = Stop::listen()?;
    let mut settling: Vec<Settling> = Vec::new();
    let mut received = 0_u64;
    let mut failed = None;
    while left > 0 {
        let limit = u32::try_from(left.min(BATCH_MESSAGES)).unwrap_or(u32::MAX);
        let options = filtered(&args.filter).limit(limit).wait(wait);
        let batch = tokio::select! {
            biased;
            () = stop.wanted() => break,
            batch = node.client.receive_batch(&args.queue, &options) => batch,
        };
        let batch = match batch {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => batch,
            Err(error) => {
                failed = Some(not_had(&error, &args.queue));
                break;
            }
        };
        // What cannot be printed is given back by being dropped.
        if let Err(failure) = sink.write(&args.queue, batch.iter().map(|d| &**d), out) {
            failed = Some(failure);
            break;
        }
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        (left, received) = (left.saturating_sub(count), received.saturating_add(count));
        // The answers of one batch are awaited while the next is on its way.
        let next = batch.into_iter().map(Delivery::consume).collect();
        if let Err(failure) = settled(std::mem::replace(&mut settling, next), out).await {
            failed = Some(failure);
            break;
        }
        if args.filter.lookup_id.is_some() {
            break;
        }
    }
    settled(settling, out).await?;
    match failed {
        Some(failure) => Err(failure),
        None if received == 0 && !args.follow => {
            Err(nothing(node, &args.queue, &args.filter).await)
        }
        None => Ok(Exit::Done),
    }
}

/// How long to wait for the next message.
pub(super) const fn wait_of(args: &ReceiveArgs) -> Duration {
    match args.wait {
        Some(ms) => duration(ms),
        None if args.follow || args.count.is_some() => Duration::MAX,
        None => Duration::ZERO,
    }
}

pub(crate) async fn peek(node: &Node, args: &PeekArgs, out: &Output) -> Result<Exit, Failure> {
    let mut left = args.count;
    let mut after = args.after;
    let mut rows: Vec<Received> = Vec::new();
    let mut seen = 0_u64;
    let form = match args.output {
        _ if out.json => Some(Form::Json),
        PeekForm::Table => None,
        PeekForm::Text => Some(Form::Text),
        PeekForm::Raw => Some(Form::Raw),
        PeekForm::Json => Some(Form::Json),
    };
    while left > 0 {
        let limit = u32::try_from(left.min(BATCH_MESSAGES)).unwrap_or(u32::MAX);
        let mut options = filtered(&args.filter).limit(limit);
        if let Some(after) = after {
            options = options.after(after);
        }
        let page = node.client.peek(&args.queue, &options).await;
        let page = page.map_err(|error| not_had(&error, &args.queue))?;
        let Some(last) = page.last() else { break };
        after = Some(last.lookup_id());
        let count = u64::try_from(page.len()).unwrap_or(u64::MAX);
        (left, seen) = (left.saturating_sub(count), seen.saturating_add(count));
        match form {
            Some(form) => Sink::Stream(form).write(&args.queue, page.iter(), out)?,
            None => rows.extend(page),
        }
        if args.filter.lookup_id.is_some() {
            break;
        }
    }
    if seen == 0 {
        return Err(nothing(node, &args.queue, &args.filter).await);
    }
    if form.is_none() {
        table(&rows, out)?;
    }
    if let (0, Some(after), None) = (left, after, args.filter.lookup_id) {
        out.note(&format!("the next page: --after {after}"));
    }
    Ok(Exit::Done)
}

/// Where messages go before they are settled.
#[derive(Clone, Copy)]
enum Sink<'a> {
    Stream(Form),
    Files(&'a Path),
}

impl Sink<'_> {
    /// Hands messages over so that a crash of this process can no longer lose them.
    fn write<'m>(
        self,
        queue: &QueueName,
        messages: impl Iterator<Item = &'m Received>,
        out: &Output,
    ) -> Result<(), Failure> {
        match self {
            Self::Stream(form) => {
                let mut to = BufWriter::with_capacity(1 << 16, io::stdout().lock());
                for message in messages {
                    write_one(&mut to, form, queue, message, out).map_err(|e| stdout_failed(&e))?;
                }
                to.flush().map_err(|e| stdout_failed(&e))
            }
            Self::Files(dir) => {
                for message in messages {
                    let path = save(dir, message).map_err(|(path, error)| {
                        Failure::io(format!("{} cannot be written", path.display()), &error)
                    })?;
                    let path = path.display().to_string();
                    if out.json {
                        out.document(&MessageDocument::new(queue, message).in_file(path))?;
                    } else {
                        out.line(&path)?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn write_one(
    to: &mut impl io::Write,
    form: Form,
    queue: &QueueName,
    message: &Received,
    out: &Output,
) -> io::Result<()> {
    match form {
        Form::Text if out.terminal => writeln!(to, "{}", for_terminal(message.body())),
        Form::Text => {
            to.write_all(message.body())?;
            to.write_all(b"\n")
        }
        Form::Raw => to.write_all(message.body()),
        Form::Json => {
            serde_json::to_writer(&mut *to, &MessageDocument::new(queue, message))?;
            to.write_all(b"\n")
        }
    }
}

/// Writes a body to a file of its own, on disk under its final name or not at all.
fn save(dir: &Path, message: &Received) -> Result<PathBuf, (PathBuf, io::Error)> {
    let name = format!("{}-{}", message.lookup_id(), message.id());
    let path = dir.join(&name);
    let unfinished = dir.join(format!(".{name}.part"));
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(message.body())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) => {
            // On a full disk what is unfinished would only make it worse.
            let _removed = std::fs::remove_file(&unfinished).is_ok();
            Err((path, error))
        }
    }
}

/// Waits until messages are removed from their queue. Those that were printed and are not are
/// told one by one.
async fn settled(settling: Vec<Settling>, out: &Output) -> Result<(), Failure> {
    let mut first = None;
    for one in settling {
        if let Err(error) = one.await {
            if first.is_none() {
                first = Some(from_settle(&error));
            } else if !out.quiet {
                complain(&error.to_string());
            }
        }
    }
    first.map_or(Ok(()), Err)
}

pub(super) fn filtered(filter: &Filter) -> ReceiveOptions {
    let mut options = ReceiveOptions::new();
    if let Some(lookup) = filter.lookup_id {
        options = options.lookup(lookup);
    }
    if let Some(id) = &filter.correlation_id {
        options = options.correlation_id(id.clone().into_bytes());
    }
    options
}

/// Messages that could not be had. Queues that come into being by themselves are empty before.
pub(super) fn not_had(error: &ReceiveError, queue: &QueueName) -> Failure {
    let failure = from_receive(error);
    let by_itself = queue.is_system() || queue.subqueue().is_some();
    if by_itself && failure.outcome == Some(Outcome::NOT_FOUND) {
        return Failure::of("nothing", failure.cause).with_fix(failure.fix);
    }
    failure
}

/// Why there was nothing: messages that are there and not for us are worth a word.
pub(super) async fn nothing(node: &Node, queue: &QueueName, filter: &Filter) -> Failure {
    if filter.lookup_id.is_some() || filter.correlation_id.is_some() {
        return Failure::of("nothing", format!("no message in queue {queue} matches"))
            .with_fix(format!("`qm-node peek {queue}` shows what is there"));
    }
    let request = Request::QueueShow {
        name: queue.clone(),
    };
    match node.ask::<QueueDocument>(&request).await {
        Ok(state) if state.paused && state.messages > 0 => {
            let cause = format!(
                "queue {queue} is paused and holds {}",
                messages(state.messages)
            );
            Failure::of("nothing", cause).with_fix(format!("`qm-node queue resume {queue}`"))
        }
        Ok(state) if state.leased > 0 => {
            let cause = format!(
                "{} of queue {queue} in the hands of applications, and no other there",
                messages(state.leased)
            );
            Failure::of("nothing", cause)
        }
        _ => Failure::of("nothing", format!("there is no message in queue {queue}")),
    }
}

fn table(messages: &[Received], out: &Output) -> Result<(), Failure> {
    let columns = [
        Column::right("LOOKUP ID"),
        Column::left("MESSAGE ID"),
        Column::left("CLASS"),
        Column::right("PRIORITY"),
        Column::left("ARRIVED"),
        Column::right("ABORTS"),
        Column::right("BYTES"),
        Column::left("LABEL"),
        Column::left("BODY"),
    ];
    let chars_max = if out.terminal { 40 } else { 200 };
    // Received is no document, so the rows are not printed with `--json`, which never gets here.
    let rows: Vec<[String; 9]> = messages
        .iter()
        .map(|message| {
            let envelope = message.envelope();
            [
                message.lookup_id().to_string(),
                message.id().to_string(),
                envelope.class.name().to_owned(),
                envelope.priority.get().to_string(),
                qm_node::admin_json::rfc3339(message.arrived_at_us()),
                message.abort_count().to_string(),
                message.body().len().to_string(),
                if envelope.label.is_empty() {
                    "-".to_owned()
                } else {
                    envelope.label.to_string()
                },
                preview(message.body(), chars_max),
            ]
        })
        .collect();
    out.list(&rows, columns, Clone::clone)
}

const fn duration(ms: u64) -> Duration {
    if ms == INFINITE_MS {
        Duration::MAX
    } else {
        Duration::from_millis(ms)
    }
}

/// The wish to end: what is printed is settled first.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(super) fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::io("signals cannot be handled", &e));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    pub(super) async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
