//! Sending every line of a stream as a message, many under way at a time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use qm_client::{FateError, PutTicket, SendError};
use qm_wire::Outcome;
use qm_wire::limits::BODY_BYTES_MAX;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::{SendArgs, Until};
use crate::config::units::about_duration;
use crate::exit::{Exit, Failure};
use crate::output::{Output, complain};

use super::node::{Node, from_send};
use super::outgoing::engine_name;
use super::send::{Template, duration, explained};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead.
const CHUNKS_AHEAD: usize = 4;
/// Messages put whose fate is not known. Below what a client follows at once.
const TICKETS_MAX: usize = 32_768;
/// Refused lines that are told one by one.
const TOLD_MAX: u64 = 10;

pub(crate) async fn send_lines(
    node: &Node,
    args: &SendArgs,
    template: &Template,
    read: Box<dyn Read + Send>,
    bytes: Option<u64>,
    out: &Output,
) -> Result<Exit, Failure> {
    let mut lines = lines_of(node, args, read)?;
    let (tickets, mut answers) = mpsc::channel(TICKETS_MAX);
    let mut tally = Tally::new(args, bytes, *out);
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|e| Failure::io("signals cannot be handled", &e))?;
    let both = async {
        let put = put_all(node, template, &mut lines, tickets);
        tokio::join!(collect(&mut answers, &mut tally), put).1
    };
    let ended = tokio::select! {
        ended = both => ended,
        _ = interrupt.recv() => {
            Err(Failure::of("aborted", "interrupted; the lines counted are accepted, later ones may be")
                .with_fix("with --idempotency-key the command can be repeated safely"))
        }
    };
    // That nobody reads is no success of lines that were not sent: it is looked at last.
    let printed = tally.finish(out);
    let resume = |failure: Failure| match &args.idempotency_key {
        Some(_) => failure.with_fix("repeat the command: what was accepted is not accepted twice"),
        None => failure,
    };
    ended.map_err(resume)?;
    match tally.exit() {
        Err(failure) if failure.code == "fate_open" => {
            Err(explained(node, engine_name(&args.to.to_string()), failure).await)
        }
        Err(failure) => Err(resume(failure)),
        Ok(exit) => printed.map(|()| exit),
    }
}

/// Lines of a stream as they come, in chunks.
pub(super) fn lines_of(
    node: &Node,
    args: &SendArgs,
    read: Box<dyn Read + Send>,
) -> Result<mpsc::Receiver<io::Result<Vec<Line>>>, Failure> {
    let separator = if args.null { 0 } else { b'\n' };
    let body_max = node.client.node().body_bytes_max.min(BODY_BYTES_MAX) as usize;
    let (chunks, lines) = mpsc::channel(CHUNKS_AHEAD);
    // A thread, because reading a pipe blocks; it ends with the stream or with the channel.
    let reader = std::thread::Builder::new().name("lines".to_owned());
    reader
        .spawn(move || read_lines(read, separator, body_max, &chunks))
        .map_err(|e| Failure::io("the reader of lines cannot start", &e))?;
    Ok(lines)
}

/// What was put, or why it was not.
type Put = (u64, usize, Result<PutTicket, SendError>);

/// Puts lines until they end, or nothing can be put any more.
async fn put_all(
    node: &Node,
    template: &Template,
    lines: &mut mpsc::Receiver<io::Result<Vec<Line>>>,
    tickets: mpsc::Sender<Put>,
) -> Result<(), Failure> {
    let mut number = 0_u64;
    while let Some(chunk) = lines.recv().await {
        let chunk = chunk.map_err(|e| Failure::io(format!("behind line {number}"), &e))?;
        for line in chunk {
            number = number.saturating_add(1);
            let (length, ticket) = match line {
                Line::Whole(body) => {
                    let length = body.len();
                    let message = template.message(body, Some(number));
                    (length, node.client.put(message).await)
                }
                // As if it had been put: that one is refused, the others go on.
                Line::TooLong { bytes } => {
                    let limit = node.client.node().body_bytes_max;
                    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
                    (length, Err(SendError::TooLarge { bytes, limit }))
                }
            };
            let lost = match &ticket {
                Err(error @ (SendError::Disconnected(_) | SendError::OutcomeUnknown(_))) => {
                    Some(from_send(error))
                }
                _ => None,
            };
            if let Some(failure) = lost {
                return Err(failure);
            }
            // The collector ends only after this side.
            let kept = tickets.send((number, length, ticket)).await;
            kept.map_err(|_gone| Failure::of("connection", "the answers are no longer read"))?;
        }
    }
    Ok(())
}

/// Awaits the answers in the order of the lines.
async fn collect(answers: &mut mpsc::Receiver<Put>, tally: &mut Tally) {
    let mut patience = tally.patience;
    while let Some((number, bytes, ticket)) = answers.recv().await {
        match ticket {
            Ok(mut ticket) => {
                let accepted = ticket.accepted().await;
                tally.accepted(number, bytes, &accepted);
                tally.repeated += u64::from(ticket.repeated() == Some(true));
                if accepted.is_err() || tally.until == Until::Accepted {
                    continue;
                }
                let fate = async {
                    match tally.until {
                        Until::Received => ticket.received().await,
                        _ => ticket.delivered().await,
                    }
                };
                match tokio::time::timeout(patience, fate).await {
                    Ok(fate) => tally.fate(number, fate.err().as_ref()),
                    Err(_elapsed) => {
                        // Whatever is known already of the others is still counted.
                        patience = Duration::ZERO;
                        tally.open = tally.open.saturating_add(1);
                    }
                }
            }
            Err(error) => tally.accepted::<()>(number, bytes, &Err(error)),
        }
    }
}

/// Counts, and tells while counting.
struct Tally {
    started: Instant,
    shown: Instant,
    out: Output,
    until: Until,
    patience: Duration,
    bytes_total: Option<u64>,
    bytes: u64,
    accepted: u64,
    /// Of these, accepted before: by an earlier command with the same key.
    repeated: u64,
    settled: u64,
    open: u64,
    unknown: u64,
    told: u64,
    rejected: BTreeMap<String, u64>,
    ended: BTreeMap<String, u64>,
    first_rejection: Option<Failure>,
    first_unknown: Option<Failure>,
}

/// `qm.send_summary/1`.
#[derive(Debug, Serialize)]
struct SummaryDocument<'a> {
    schema: &'static str,
    accepted: u64,
    /// Of these, accepted before under the same idempotency key, and not again.
    repeated: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    /// By code.
    rejected: &'a BTreeMap<String, u64>,
    /// Accepted and then ended otherwise, by code.
    ended: &'a BTreeMap<String, u64>,
    open: u64,
    unknown: u64,
    bytes: u64,
    elapsed_ms: u64,
    messages_per_s: u64,
}

impl Tally {
    fn new(args: &SendArgs, bytes_total: Option<u64>, out: Output) -> Self {
        let started = Instant::now();
        Self {
            started,
            shown: started,
            out,
            until: args.wait,
            patience: args.timeout.map_or(Duration::MAX, duration),
            bytes_total,
            bytes: 0,
            accepted: 0,
            repeated: 0,
            settled: 0,
            open: 0,
            unknown: 0,
            told: 0,
            rejected: BTreeMap::new(),
            ended: BTreeMap::new(),
            first_rejection: None,
            first_unknown: None,
        }
    }

    fn accepted<T>(&mut self, number: u64, bytes: usize, result: &Result<T, SendError>) {
        // The separator is read as well.
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        match result {
            Ok(_) => self.accepted = self.accepted.saturating_add(1),
            Err(error) => {
                let failure = from_send(error);
                self.tell(number, &failure);
                if failure.exit == Exit::Rejected || failure.exit == Exit::Usage {
                    count(&mut self.rejected, &failure.code);
                    self.first_rejection.get_or_insert(failure);
                } else {
                    self.unknown = self.unknown.saturating_add(1);
                    self.first_unknown.get_or_insert(failure);
                }
            }
        }
        self.progress();
    }

    fn fate(&mut self, number: u64, error: Option<&FateError>) {
        match error {
            None => self.settled = self.settled.saturating_add(1),
            Some(FateError::Ended { outcome, .. }) if *outcome != Outcome::END_UNKNOWN => {
                let failure = Failure::rejected(*outcome, outcome.describe());
                self.tell(number, &failure);
                count(&mut self.ended, &failure.code);
                self.first_rejection.get_or_insert(failure);
            }
            Some(_) => self.open = self.open.saturating_add(1),
        }
        self.progress();
    }

    /// The first refusals one by one; the summary counts them all.
    fn tell(&mut self, number: u64, failure: &Failure) {
        self.told = self.told.saturating_add(1);
        if self.told > TOLD_MAX || self.out.quiet {
            return;
        }
        self.clear_progress();
        if self.out.json {
            let document = failure.document().of_line(number);
            self.out.complaint(&document);
        } else {
            let word = failure
                .outcome
                .map_or_else(|| failure.code.clone(), |o| o.to_string());
            complain(&format!("line {number}: {word}: {}", failure.cause));
        }
        if self.told == TOLD_MAX {
            self.out.note("further refused lines are only counted");
        }
    }

    fn progress(&mut self) {
        let shows = self.out.error_terminal && !self.out.quiet;
        if !shows || self.shown.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.shown = Instant::now();
        let share = match self.bytes_total {
            Some(total) if total > 0 => {
                let percent = self.bytes.saturating_mul(100) / total;
                format!("{:>3} %  ", percent.min(100))
            }
            _ => String::new(),
        };
        let mut error = io::stderr().lock();
        let text = format!("\r{share}{}\x1b[K", self.counts());
        let _shown = error
            .write_all(text.as_bytes())
            .and_then(|()| error.flush())
            .is_ok();
    }

    fn clear_progress(&self) {
        if self.out.error_terminal && !self.out.quiet && self.shown > self.started {
            let mut error = io::stderr().lock();
            let _cleared = error.write_all(b"\r\x1b[K").is_ok();
        }
    }

    fn counts(&self) -> String {
        let mut text = format!("{} accepted", self.accepted);
        if self.repeated > 0 {
            text.push_str(&format!(" ({} of them before)", self.repeated));
        }
        match self.until {
            Until::Accepted => {}
            Until::Delivered => text.push_str(&format!(", {} delivered", self.settled)),
            Until::Received => text.push_str(&format!(", {} received", self.settled)),
        }
        for (counts, word) in [(&self.rejected, "rejected"), (&self.ended, "ended")] {
            for (code, count) in counts {
                text.push_str(&format!(", {count} {word} ({code})"));
            }
        }
        for (count, word) in [(self.open, "open"), (self.unknown, "unknown")] {
            if count > 0 {
                text.push_str(&format!(", {count} {word}"));
            }
        }
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        text.push_str(&format!(
            " in {}, {} a second",
            about_duration(elapsed),
            self.rate()
        ));
        text
    }

    fn rate(&self) -> u64 {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.accepted.saturating_mul(1_000_000) / micros.max(1)
    }

    /// The summary.
    fn finish(&self, out: &Output) -> Result<(), Failure> {
        self.clear_progress();
        if !out.json {
            out.note(&self.counts());
            return Ok(());
        }
        let settled = |until| (self.until == until).then_some(self.settled);
        out.document(&SummaryDocument {
            schema: "qm.send_summary/1",
            accepted: self.accepted,
            repeated: self.repeated,
            delivered: settled(Until::Delivered),
            received: settled(Until::Received),
            rejected: &self.rejected,
            ended: &self.ended,
            open: self.open,
            unknown: self.unknown,
            bytes: self.bytes,
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            messages_per_s: self.rate(),
        })
    }

    /// The worst that happened decides.
    fn exit(self) -> Result<Exit, Failure> {
        if let Some(failure) = self.first_unknown.or(self.first_rejection) {
            return Err(failure);
        }
        if self.open > 0 {
            let cause = format!(
                "{} messages are accepted and not yet where they should be",
                self.open
            );
            return Err(Failure::of("fate_open", cause));
        }
        Ok(Exit::Done)
    }
}

fn count(counts: &mut BTreeMap<String, u64>, code: &str) {
    let count = counts.entry(code.to_owned()).or_default();
    *count = count.saturating_add(1);
}

/// A line without its separator.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Bytes),
    /// Over the limit, and passed over without being kept.
    TooLong {
        bytes: u64,
    },
}

/// Cuts a stream at its separators; what follows the last one is a line too, unless it is empty.
fn read_lines(
    mut from: impl Read,
    separator: u8,
    body_max: usize,
    to: &mpsc::Sender<io::Result<Vec<Line>>>,
) {
    let mut buffer = BytesMut::new();
    let mut searched = 0;
    // Bytes of the present line that were passed over.
    let mut passed = 0_u64;
    let cut = |line: BytesMut, passed: &mut u64| {
        let bytes = passed.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        *passed = 0;
        if bytes > u64::try_from(body_max).unwrap_or(u64::MAX) {
            Line::TooLong { bytes }
        } else {
            Line::Whole(line.freeze())
        }
    };
    loop {
        let filled = buffer.len();
        buffer.resize(filled + CHUNK_BYTES, 0);
        let room = buffer.get_mut(filled..).unwrap_or_default();
        let read = match from.read(room) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                buffer.truncate(filled);
                continue;
            }
            Err(e) => {
                let _heard = to.blocking_send(Err(e)).is_ok();
                return;
            }
        };
        buffer.truncate(filled + read);
        let at_end = read == 0;
        let mut lines = Vec::new();
        while let Some(found) = buffer
            .get(searched..)
            .and_then(|rest| rest.iter().position(|byte| *byte == separator))
        {
            let mut line = buffer.split_to(searched + found + 1);
            line.truncate(searched + found);
            lines.push(cut(line, &mut passed));
            searched = 0;
        }
        searched = buffer.len();
        if at_end && (!buffer.is_empty() || passed > 0) {
            lines.push(cut(buffer.split(), &mut passed));
        }
        if !lines.is_empty() && to.blocking_send(Ok(lines)).is_err() {
            return;
        }
        if at_end {
            return;
        }
        if buffer.len() > body_max {
            passed = passed.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
            buffer.clear();
            searched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out a few bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(to.len());
            let (now, later) = self.0.split_at(n);
            to[..n].copy_from_slice(now);
            self.0 = later;
            Ok(n)
        }
    }

    fn lines(text: &[u8], separator: u8, step: usize) -> Vec<String> {
        let (to, mut from) = mpsc::channel(1_000);
        read_lines(Drops(text, step), separator, 5, &to);
        drop(to);
        let mut all = Vec::new();
        while let Ok(chunk) = from.try_recv() {
            all.extend(chunk.unwrap());
        }
        let shown = all.into_iter().map(|line| match line {
            Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
            Line::TooLong { bytes } => format!("<{bytes} bytes>"),
        });
        shown.collect()
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        for step in [1, 2, 3, 1_000] {
            assert_eq!(lines(b"a\nbb\n\nccc", b'\n', step), ["a", "bb", "", "ccc"]);
            assert_eq!(lines(b"a\r\n", b'\n', step), ["a\r"]);
            assert_eq!(lines(b"a\nb\0c\0", 0, step), ["a\nb", "c"]);
            assert!(lines(b"", b'\n', step).is_empty());
            assert_eq!(lines(b"\n", b'\n', step), [""]);
        }
    }

    #[test]
    fn lines_over_the_limit_are_passed_over_and_the_others_stay() {
        for step in [1, 2, 3, 4, 1_000] {
            for (text, cut) in [
                (&b"12345\n123456\n1\n"[..], &["12345", "<6 bytes>", "1"][..]),
                (b"1234567890123\n1", &["<13 bytes>", "1"]),
                (b"1\n1234567", &["1", "<7 bytes>"]),
                (b"123456", &["<6 bytes>"]),
                (b"123456\n", &["<6 bytes>"]),
            ] {
                assert_eq!(lines(text, b'\n', step), cut, "{step}");
            }
        }
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let (to, mut from) = mpsc::channel(1_000);
        let endless = io::repeat(b'x').take(64 << 20);
        read_lines(endless, b'\n', 1_000, &to);
        let line = from.try_recv().unwrap().unwrap();
        assert_eq!(line, [Line::TooLong { bytes: 64 << 20 }]);
    }
}
