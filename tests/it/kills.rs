//! A stream of lines while a part of the way is killed, three times, in the middle.
//!
//! The receiving application is `receive --follow --output json`, so that three kinds of
//! repetition can be told apart:
//!
//! * The same lookup id again: one message of the queue was handed out again, because its removal
//!   was not flushed when the node died. Receiving is at least once.
//! * The same message id under another lookup id: the nodes stored one message twice.
//! * The same line under another message id: it was accepted twice from the application.
//!
//! Only the first is allowed here. What is left without it must be the file, line for line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::lines::{assert_same, text_of_the_repository};
use crate::program::{Application, Feed, Program, eventually, rate, report};
use crate::support::slow_tests;

/// How often something is killed, and at which eighths of the stream.
const KILLS_AT: [usize; 3] = [1, 3, 5];

#[test]
fn the_receiving_node_is_killed_three_times() {
    let mut stream = Stream::start();
    for eighths in KILLS_AT {
        stream.until_received(eighths);
        stream.b.kill();
        stream.b.launch();
    }
    let account = stream.finish("receiving node killed");
    // The sender lived through it all: its sums are those of the whole stream.
    let count = account.lines;
    assert_eq!(stream.a.counter("accepted"), count);
    assert_eq!(stream.a.counter("acknowledged"), count);
    account.assert_exact();
}

#[test]
fn the_sending_node_is_killed_three_times() {
    let mut stream = Stream::start();
    for eighths in KILLS_AT {
        stream.until_delivered(eighths);
        stream.a.kill();
        stream.a.launch();
    }
    let account = stream.finish("sending node killed");
    assert_eq!(stream.b.counter("delivered"), account.lines);
    assert_eq!(account.handed_out_again, 0, "the receiving node lived");
    account.assert_exact();
}

#[test]
fn the_sending_client_is_killed_three_times_and_repeats_with_its_key() {
    let mut stream = Stream::start();
    for eighths in KILLS_AT {
        stream.until_accepted(eighths);
        stream.sending.kill();
        stream.sending.start_again(&stream.a);
    }
    let account = stream.finish("sending client killed");
    assert_eq!(stream.sending.starts, 4);
    assert_eq!(stream.a.counter("accepted"), account.lines);
    assert!(stream.a.counter("repeated_requests") > 0);
    assert_eq!(stream.b.counter("delivered"), account.lines);
    assert_eq!(account.handed_out_again, 0, "the receiving node lived");
    account.assert_exact();
}

/// No cache has a part in it, and neither has the order in which the two die.
#[test]
fn both_nodes_are_killed_three_times_under_transactional_lines() {
    let mut stream = Stream::of(Some("transactional"), 10_000);
    for eighths in KILLS_AT {
        stream.until_received(eighths);
        stream.b.kill();
        stream.b.launch();
        stream.until_received((eighths + 1).min(5));
        stream.a.kill();
        stream.a.launch();
    }
    let account = stream.finish("both nodes killed, transactional");
    account.assert_exact();
    let dedup = stream.b.ask(&json!({"do": "dedup"}));
    assert_eq!(dedup["entries"], 0, "{dedup}");
    let streams = stream.b.ask(&json!({"do": "stream.list"}));
    let view = &streams["items"][0];
    assert_eq!(view["position"], account.lines, "{streams}");
    assert_eq!(view["branches"], 1, "{streams}");
}

/// Lines on their way from one node to the other.
struct Stream {
    a: Program,
    b: Program,
    sending: Application,
    receiving: Application,
    feed: Arc<Feed>,
    count: usize,
    text: Vec<u8>,
    output: PathBuf,
    arrivals: File,
    arrived: usize,
    began: Instant,
    /// Where the stream was at each kill.
    killed_at: Vec<usize>,
}

impl Stream {
    fn start() -> Self {
        Self::of(None, if slow_tests() { 120_000 } else { 16_000 })
    }

    fn of(class: Option<&str>, count: usize) -> Self {
        let (a, b) = (Program::start("a"), Program::start("b"));
        let transactional = class == Some("transactional");
        let create = ["queue", "create", "lines", "--transactional"];
        b.done(&create[..if transactional { 4 } else { 3 }]);
        let output = b.file("output");
        let text = text_of_the_repository(count);
        let feed = Feed::new(text.clone());
        let receive = ["receive", "lines", "--follow", "--output", "json"];
        let receiving = Application::start(&b, &receive, &output);
        let to = b.queue("lines");
        let send = ["--json", "send", &to, "--lines", "-"];
        let class = class.map_or_else(Vec::new, |class| vec!["--class", class]);
        let send = [&send[..], &["--idempotency-key", "one stream"], &class].concat();
        let began = Instant::now();
        let summary = a.file("summary");
        let sending = Application::start_with(&a, &send, &summary, Some(Arc::clone(&feed)));
        let arrivals = File::open(&output).unwrap();
        Self {
            a,
            b,
            sending,
            receiving,
            feed,
            count,
            text,
            output,
            arrivals,
            arrived: 0,
            began,
            killed_at: Vec::new(),
        }
    }

    /// Keeps the applications going: a connection that was lost with messages in hand ends them.
    fn tend(&mut self) {
        if self.receiving.ended().is_some() {
            self.receiving.start_again(&self.b);
        }
        let ended = self.sending.ended();
        if ended.is_some_and(|status| !status.success()) {
            self.sending.start_again(&self.a);
        }
        let mut more = Vec::new();
        self.arrivals.read_to_end(&mut more).unwrap();
        self.arrived += more.iter().filter(|byte| **byte == b'\n').count();
    }

    /// Lets lines go on their way, more than are waited for and never all.
    fn feed(&self, eighths: usize) -> usize {
        let ends = self.text.iter().enumerate();
        let mut ends = ends.filter(|(_, byte)| **byte == b'\n');
        let (last, _) = ends.nth(self.count * (eighths + 2) / 8).unwrap();
        self.feed.open_to(last);
        self.count * eighths / 8
    }

    /// Until the application has so many lines.
    fn until_received(&mut self, eighths: usize) {
        let wanted = self.feed(eighths);
        let received = |stream: &mut Self| stream.arrived;
        self.until("lines are received", wanted, received);
    }

    /// Until the receiving node, which has lived from the beginning, has so many lines.
    fn until_delivered(&mut self, eighths: usize) {
        let wanted = self.feed(eighths);
        let delivered = |stream: &mut Self| stream.b.counter("delivered").try_into().unwrap();
        self.until("lines are delivered", wanted, delivered);
    }

    /// Until the sending node, which has lived from the beginning, has so many lines.
    fn until_accepted(&mut self, eighths: usize) {
        let wanted = self.feed(eighths);
        let accepted = |stream: &mut Self| stream.a.counter("accepted").try_into().unwrap();
        self.until("lines are accepted", wanted, accepted);
    }

    fn until(&mut self, what: &str, wanted: usize, count: impl Fn(&mut Self) -> usize) {
        let at = eventually(what, || {
            self.tend();
            Some(count(self)).filter(|count| *count >= wanted)
        });
        self.killed_at.push(at);
    }

    /// Waits until nothing is on its way any more, and reads what the application has.
    fn finish(&mut self, what: &str) -> Account {
        self.feed.open_to(self.text.len());
        eventually("everything arrives", || {
            self.tend();
            let sent = self.sending.ended().is_some_and(|status| status.success());
            let queue = json!({"do": "queue.show", "name": "lines"});
            let done = sent && self.a.status()["outgoing_messages"] == 0 && {
                let queue = self.b.ask(&queue);
                queue["messages"] == 0 && queue["leased"] == 0
            };
            done.then_some(())
        });
        let took = self.began.elapsed();
        let again = ["receive", "lines", "--wait", "300ms"];
        let again = self.b.command(&again).output().unwrap();
        assert_eq!(again.status.code(), Some(3), "there is more");
        let account = Account::read(&self.output, &self.text);
        self.tell(what, took, &account);
        account
    }

    fn tell(&mut self, what: &str, took: Duration, account: &Account) {
        let sums = |status: &Value| {
            let sums = status["counters"].as_object().unwrap().iter();
            let sums = sums.filter(|(_, sum)| **sum != 0);
            let sums = sums.map(|(name, sum)| format!("{name} {sum}"));
            sums.collect::<Vec<_>>().join(", ")
        };
        let dedup = self.b.ask(&json!({"do": "dedup"}));
        report(&format!(
            "kills: {what} at {:?} of {} lines; done in {took:.2?} ({} a second)\n  \
             {} deliveries, {} handed out again ({} flagged), {} stored again\n  \
             application started {} times, client {} times\n  \
             sender since its last start: {}\n  receiver since its last start: {}\n  \
             duplicate cache: {} removed, {} entries",
            self.killed_at,
            self.count,
            rate(self.count, took),
            account.deliveries,
            account.handed_out_again,
            account.flagged,
            account.stored_again,
            self.receiving.starts,
            self.sending.starts,
            sums(&self.a.status()),
            sums(&self.b.status()),
            dedup["duplicates"],
            dedup["entries"],
        ));
    }
}

/// What the receiving application was handed.
#[derive(Debug)]
struct Account {
    /// Lines of the file.
    lines: u64,
    deliveries: u64,
    /// Deliveries of a message of the queue that had been handed out before.
    handed_out_again: u64,
    /// Of these, the ones with an abort count.
    flagged: u64,
    /// Messages that the nodes stored more than once.
    stored_again: u64,
    /// Whether first occurrences came in the order of the queue.
    in_order: bool,
    /// Whether first occurrences are the file.
    identical: bool,
}

impl Account {
    fn read(output: &Path, text: &[u8]) -> Self {
        let mut first = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let (mut bodies, mut last, mut in_order) = (Vec::new(), None, true);
        let (mut deliveries, mut handed_out_again, mut flagged, mut stored_again) = (0, 0, 0, 0);
        let output = std::fs::read(output).unwrap();
        for line in output.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let message: Value = serde_json::from_slice(line).unwrap();
            let id = message["id"].as_str().unwrap().to_owned();
            let lookup = message["lookup_id"].as_u64().unwrap();
            let body = match &message["body"] {
                Value::String(text) => text.clone().into_bytes(),
                _ => {
                    let text = message["body_base64"].as_str().unwrap();
                    BASE64.decode(text.as_bytes()).unwrap()
                }
            };
            deliveries += 1;
            if let Some(known) = first.get(&lookup) {
                assert_eq!(&id, known, "two messages at one place of the queue");
                handed_out_again += 1;
                flagged += u64::from(message["abort_count"].as_u64().unwrap() > 0);
                continue;
            }
            in_order &= last < Some(lookup);
            last = Some(lookup);
            first.insert(lookup, id.clone());
            if ids.insert(id, lookup).is_some() {
                stored_again += 1;
                continue;
            }
            bodies.extend(body);
            bodies.push(b'\n');
        }
        let account = Self {
            lines: text.iter().filter(|byte| **byte == b'\n').count() as u64,
            deliveries,
            handed_out_again,
            flagged,
            stored_again,
            in_order,
            identical: bodies == text,
        };
        if !account.identical {
            report(&format!("{account:?}"));
            assert_same(text, &bodies);
        }
        account
    }

    /// Everything is there, once and in order, repetitions of the last hop apart.
    fn assert_exact(&self) {
        assert!(self.identical && self.in_order, "{self:?}");
        assert_eq!(self.stored_again, 0, "{self:?}");
        assert_eq!(self.deliveries - self.handed_out_again, self.lines);
    }
}
