//! The main job before the user's eyes: two real nodes, a real text, a crash in the middle.

mod audit;
mod report;
mod text;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_client::{Client, Follow, Message, PutTicket, ReceiveOptions};
use qm_node::admin_json::{CountersDocument, Request, StatusDocument};
use qm_wire::{MessageId, QueueName};
use tokio::sync::{Notify, mpsc};

use crate::cli::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::output::Output;

use self::audit::Verdict;
use self::report::Report;
use self::text::Text;
use super::node::{from_receive, from_send};
use super::processes::{FOLLOWED_MAX, NodeProcess, Pair, Workplace, grouped, unless_interrupted};

/// The queue at the receiver.
const QUEUE: &str = "demo";
/// Messages whose acceptance, and whose delivery, is awaited at a time.
const TICKETS_MAX: usize = FOLLOWED_MAX / 2 - 64;
/// Messages that the receiving application has in its hands at a time.
const LEASED_MAX: u32 = 2_048;
/// How long the killed node stays away, so that what the sender does meanwhile can be seen.
const AWAY: Duration = Duration::from_millis(500);
/// Without any progress for so long the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after the last line messages are awaited that should not be there.
const AFTERMATH: Duration = Duration::from_millis(500);

pub(crate) async fn demo(args: &DemoArgs, out: &Output) -> Result<Exit, Failure> {
    let here =
        std::env::current_dir().map_err(|e| Failure::io("the working directory is gone", &e))?;
    let text = Text::find(args.file.as_deref(), &here)?;
    // The directory too is made only when signals are listened to.
    let work = async { show(&text, Workplace::new(&args.place)?, out).await };
    unless_interrupted(work).await
}

async fn show(text: &Text, place: Workplace, out: &Output) -> Result<Exit, Failure> {
    let lines = text.lines.len() as u64;
    out.note(&format!("text: {} lines, {}", grouped(lines), text.origin));
    if place.is_memory() {
        out.note(&format!(
            "note: {} is in memory, where a flush costs nothing; --dir names a directory on disk",
            place.path().display()
        ));
    }
    out.note("two nodes start, each a process with its own identity and store");
    let queue: QueueName = QUEUE.parse().expect("the name is one");
    let mut pair = Pair::start(place, &queue, false).await?;

    let stage = Stage::new(lines, *out);
    let played = play(text, &queue, &mut pair, &stage).await;
    stage.clear();
    let report = match played {
        Ok(report) => report,
        Err(failure) => {
            pair.place.tell(out);
            return Err(failure);
        }
    };
    report.print(out)?;
    let intact = report.is_intact();
    if !intact {
        pair.place.keep();
    }
    pair.place.tell(out);
    if intact {
        return Ok(Exit::Done);
    }
    Err(Failure::of("not_intact", report.complaint()))
}

/// Everything at once: sending, receiving, the crash, the progress.
async fn play(
    text: &Text,
    queue: &QueueName,
    pair: &mut Pair,
    stage: &Stage,
) -> Result<Report, Failure> {
    let producer = pair.sender.connect("demo-sender").await?;
    let consumer = pair.receiver.connect("demo-receiver").await?;
    let (to_accept, mut accepting) = mpsc::channel(TICKETS_MAX);
    let (to_deliver, mut delivering) = mpsc::channel(TICKETS_MAX);
    let started = Instant::now();
    let sent = async {
        tokio::try_join!(
            put_all(&producer, queue, &text.lines, stage, to_accept),
            accept_all(&mut accepting, stage, to_deliver),
            deliver_all(&mut delivering, stage),
        )
    };
    let crash = crash(&mut pair.receiver, stage);
    let others = async { tokio::try_join!(sent, crash) };
    let received = receive_all(&consumer, queue, stage);
    let (received, others) = {
        tokio::pin!(others, received);
        let mut done = None;
        let received = loop {
            tokio::select! {
                received = &mut received => break received,
                ended = &mut others, if done.is_none() => done = Some(ended?),
                () = stage.show() => {}
            }
        };
        // What was received was delivered; that news may still be on its way.
        let late = async {
            if done.is_none() {
                done = others.await.ok();
            }
        };
        let _in_time = tokio::time::timeout(AFTERMATH * 10, late).await.is_ok();
        (received, done)
    };
    let elapsed = stage.received_at.get().duration_since(started);

    let sender = counters(&pair.sender).await?;
    let receiver = counters(&pair.receiver).await?;
    producer.close().await;
    consumer.close().await;
    let ids = stage.ids.borrow();
    let crash = others.map(|(_, crash)| crash);
    Ok(Report {
        origin: text.origin.clone(),
        lines: text.lines.len() as u64,
        bytes: text.bytes,
        sent: stage.sent.get(),
        accepted: stage.accepted.get(),
        accepted_in: stage.accepted_at.get().duration_since(started),
        delivered: stage.delivered.get(),
        ended: stage.ended.get(),
        received: received.first.len() as u64,
        received_again: stage.again.get(),
        elapsed,
        verdict: Verdict::of(&text.lines, &ids, &received.first),
        duplicates_removed: receiver
            .duplicates
            .saturating_add(crash.as_ref().map_or(0, |crash| crash.before.duplicates)),
        retransmitted: sender.retransmitted,
        queried: sender.queried,
        crash,
        first_after_crash: stage.first_after_crash.get(),
    })
}

/// What is going on, for the progress line and the table.
struct Stage {
    out: Output,
    lines: u64,
    sent: Cell<u64>,
    accepted: Cell<u64>,
    accepted_at: Cell<Instant>,
    delivered: Cell<u64>,
    /// Accepted and then ended otherwise than delivered.
    ended: Cell<u64>,
    received: Cell<u64>,
    received_at: Cell<Instant>,
    again: Cell<u64>,
    /// Of the lines, in their order.
    ids: RefCell<Vec<MessageId>>,
    receiver_is: Cell<&'static str>,
    half: Notify,
    started_again_at: Cell<Option<Instant>>,
    first_after_crash: Cell<Option<Duration>>,
    drawn: Cell<bool>,
    told_at: Cell<Instant>,
}

impl Stage {
    fn new(lines: u64, out: Output) -> Self {
        let now = Cell::new(Instant::now());
        Self {
            out,
            lines,
            sent: Cell::default(),
            accepted: Cell::default(),
            accepted_at: now.clone(),
            delivered: Cell::default(),
            ended: Cell::default(),
            received: Cell::default(),
            received_at: now.clone(),
            again: Cell::default(),
            ids: RefCell::default(),
            receiver_is: Cell::new(""),
            half: Notify::new(),
            started_again_at: Cell::default(),
            first_after_crash: Cell::default(),
            drawn: Cell::default(),
            told_at: now,
        }
    }

    fn took_first(&self) {
        let now = Instant::now();
        self.received.set(self.received.get() + 1);
        self.received_at.set(now);
        if let Some(then) = self.started_again_at.get()
            && self.first_after_crash.get().is_none()
        {
            self.first_after_crash.set(Some(now.duration_since(then)));
            self.receiver_is.set("");
        }
        if self.received.get() >= (self.lines / 2).max(1) {
            self.half.notify_one();
        }
    }

    /// Draws once and waits until it is time to draw again.
    async fn show(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if self.out.quiet {
            return;
        }
        if self.out.error_terminal {
            let mut error = io::stderr().lock();
            let text = format!("\r{}\x1b[K", self.line());
            let drawn = error
                .write_all(text.as_bytes())
                .and_then(|()| error.flush());
            self.drawn.set(drawn.is_ok());
        } else if self.told_at.get().elapsed() >= Duration::from_secs(2) {
            self.told_at.set(Instant::now());
            self.out.note(&self.line());
        }
    }

    fn line(&self) -> String {
        let percent = self.received.get() * 100 / self.lines.max(1);
        format!(
            "{percent:>3} %  {} accepted  {} delivered  {} received  {}",
            grouped(self.accepted.get()),
            grouped(self.delivered.get()),
            grouped(self.received.get()),
            self.receiver_is.get(),
        )
        .trim_end()
        .to_owned()
    }

    fn clear(&self) {
        if self.drawn.take() {
            let _cleared = io::stderr().lock().write_all(b"\r\x1b[K").is_ok();
        }
    }

    /// A remark above the progress line.
    fn remark(&self, text: &str) {
        self.clear();
        self.out.note(text);
    }
}

async fn put_all(
    producer: &Client,
    queue: &QueueName,
    lines: &[Bytes],
    stage: &Stage,
    tickets: mpsc::Sender<PutTicket>,
) -> Result<(), Failure> {
    let destination = qm_wire::Text::from(Pair::destination(queue));
    let key = Bytes::from_static(b"demo");
    for (number, line) in (1..).zip(lines) {
        let message = Message::new(destination.clone(), line.clone())
            .idempotency_number(key.clone(), number)
            .follow(Follow::Delivered);
        let ticket = producer.put(message).await;
        let ticket = ticket.map_err(|error| refused(number, from_send(&error)))?;
        stage.sent.set(number);
        // The other side ends later, or with an error that is told instead.
        if tickets.send(ticket).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn accept_all(
    tickets: &mut mpsc::Receiver<PutTicket>,
    stage: &Stage,
    accepted: mpsc::Sender<PutTicket>,
) -> Result<(), Failure> {
    while let Some(mut ticket) = tickets.recv().await {
        let number = stage.accepted.get() + 1;
        let id = ticket.accepted().await;
        let id = id.map_err(|error| refused(number, from_send(&error)))?;
        stage.ids.borrow_mut().push(id);
        stage.accepted.set(number);
        stage.accepted_at.set(Instant::now());
        if accepted.send(ticket).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn refused(number: u64, failure: Failure) -> Failure {
    Failure {
        cause: format!("line {number}: {}", failure.cause),
        ..failure
    }
}

async fn deliver_all(
    tickets: &mut mpsc::Receiver<PutTicket>,
    stage: &Stage,
) -> Result<(), Failure> {
    while let Some(mut ticket) = tickets.recv().await {
        let count = match ticket.delivered().await {
            Ok(_) => &stage.delivered,
            Err(_) => &stage.ended,
        };
        count.set(count.get() + 1);
    }
    Ok(())
}

/// What came.
#[derive(Debug, Default)]
struct Arrived {
    /// The first arrival of each message.
    first: Vec<(MessageId, Bytes)>,
}

/// Takes messages until all lines are there and nothing follows, or nothing moves any more.
async fn receive_all(consumer: &Client, queue: &QueueName, stage: &Stage) -> Arrived {
    let mut arrived = Arrived::default();
    let mut seen = BTreeSet::new();
    let mut settling = VecDeque::new();
    let options = ReceiveOptions::new().limit(LEASED_MAX);
    let mut deliveries = consumer
        .deliveries(queue, &options)
        .expect("the options are within the limits of the format");
    let mut moved = (stage.accepted.get(), Instant::now());
    loop {
        match tokio::time::timeout(AFTERMATH, deliveries.next()).await {
            Ok(Some(Ok(delivery))) => {
                if seen.insert(delivery.id()) {
                    arrived.first.push((delivery.id(), delivery.body().clone()));
                    stage.took_first();
                } else {
                    stage.again.set(stage.again.get() + 1);
                }
                settling.push_back(delivery.consume());
                if settling.len() >= LEASED_MAX as usize {
                    // A lost answer shows as a message that comes again.
                    drop(settling.pop_front());
                }
                moved.1 = Instant::now();
            }
            Ok(Some(Err(error))) => {
                stage.remark(&from_receive(&error).cause);
                tokio::time::sleep(AFTERMATH).await;
            }
            Ok(None) => return arrived,
            Err(_quiet) => {
                let accepted = stage.accepted.get();
                if accepted > moved.0 {
                    moved = (accepted, Instant::now());
                }
                let complete = stage.received.get() >= stage.lines;
                if complete || moved.1.elapsed() > PATIENCE {
                    return arrived;
                }
            }
        }
    }
}

/// What happened to the receiving node.
#[derive(Debug)]
struct Crash {
    /// Lines received when it was killed.
    after_lines: u64,
    /// Lines accepted by then or before it came back, and not received.
    waiting: u64,
    away: Duration,
    /// From its start until socket and port were open: recovery and all.
    ready_in: Duration,
    /// What it had counted before.
    before: CountersDocument,
}

/// Kills the receiver when half of the text has arrived, and starts it again.
async fn crash(receiver: &mut NodeProcess, stage: &Stage) -> Result<Crash, Failure> {
    stage.half.notified().await;
    let before = counters(receiver).await?;
    receiver.kill();
    let killed_at = Instant::now();
    let after_lines = stage.received.get();
    stage.receiver_is.set("receiver killed");
    stage.remark(&format!(
        "the receiving node is killed (SIGKILL) after {} lines",
        grouped(after_lines)
    ));
    tokio::time::sleep(AWAY).await;
    stage.receiver_is.set("receiver starts again");
    let waiting = stage.accepted.get().saturating_sub(stage.received.get());
    let start = Instant::now();
    receiver.start_again().await?;
    let ready = Instant::now();
    stage.started_again_at.set(Some(ready));
    stage.remark(&format!(
        "it runs again, {} ms after its start",
        ready.duration_since(start).as_millis()
    ));
    Ok(Crash {
        after_lines,
        waiting,
        away: start.duration_since(killed_at),
        ready_in: ready.duration_since(start),
        before,
    })
}

async fn counters(node: &NodeProcess) -> Result<CountersDocument, Failure> {
    let operator = node.operate().await?;
    let status: StatusDocument = operator.ask(&Request::Status {}).await?;
    operator.client.close().await;
    Ok(status.counters)
}
