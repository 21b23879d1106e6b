//! Two applications, one at each node: a thread of this process each, with its own connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use qm_client::{Client, Committed, Follow, Message, PutTicket, ReceiveOptions, TransactionError};
use qm_wire::{Class, QueueName, Text};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle as Task, JoinSet};

use crate::exit::Failure;

use super::super::node::{from_receive, from_send};
use super::super::processes::{NodeProcess, Pair, per_second};

/// Without a message for so long the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Puts whose answers are awaited at a time, of those that fill a node.
const TICKETS_MAX: usize = 16_384;
/// Messages that the receiving application has in its hands at a time.
const LEASED_MAX: u32 = 4_096;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) class: Class,
    /// Bytes of a body, at least 8.
    pub(super) size: u32,
    /// Messages sent and not yet received, at most.
    pub(super) in_flight: u32,
    /// Messages that are handed over together, at most `in_flight`; of several transactional ones,
    /// a transaction.
    pub(super) batch: u32,
}

/// Messages that were handed over together, until the node has answered.
enum Unanswered {
    Puts(Vec<PutTicket>),
    Transaction(Task<Result<Committed, TransactionError>>),
}

impl Unanswered {
    async fn accepted(self) -> Result<(), Failure> {
        match self {
            Self::Puts(tickets) => {
                for ticket in tickets {
                    ticket.await.map_err(|e| from_send(&e))?;
                }
            }
            Self::Transaction(task) => {
                let ended = task.await;
                let ended = ended.map_err(|e| Failure::of("trial", e.to_string()))?;
                ended.map_err(|e| Failure::of("trial", e.to_string()))?;
            }
        }
        Ok(())
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Volume {
    Messages(u64),
    Time(Duration),
}

/// What came of sending at full speed.
#[derive(Clone, Debug)]
pub(super) struct Full {
    pub(super) messages: u64,
    pub(super) received: u64,
    /// From the first put to the last acceptance.
    pub(super) accepted_in: Duration,
    /// From the first put to the last receipt.
    pub(super) elapsed: Duration,
    /// Processor time; `None` where the system does not tell.
    pub(super) sender_cpu: Option<Duration>,
    pub(super) receiver_cpu: Option<Duration>,
    /// Of the two applications.
    pub(super) clients_cpu: Duration,
}

impl Full {
    pub(super) fn accepted_per_s(&self) -> u64 {
        per_second(self.messages, self.accepted_in)
    }

    pub(super) fn received_per_s(&self) -> u64 {
        per_second(self.received, self.elapsed)
    }

    /// Microseconds of processor time for a message.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of messages are far below 2^52"
    )]
    pub(super) fn us_per_message(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.received.max(1) as f64
    }
}

/// Times from the call that sends a message, in microseconds, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Vec<u64>);

impl Latencies {
    pub(super) fn of(mut us: Vec<u64>) -> Self {
        us.sort_unstable();
        Self(us)
    }

    /// The time that this share of the messages, in hundredths, did not exceed.
    pub(super) fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(super) fn max(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }
}

/// Hands all of these over to a node, and returns when the last is accepted: how long that took.
pub(super) async fn fill(
    node: &NodeProcess,
    messages: impl Iterator<Item = Message>,
) -> Result<Duration, Failure> {
    let producer = node.connect("bench-sender").await?;
    let mut tickets: VecDeque<PutTicket> = VecDeque::new();
    let started = Instant::now();
    for message in messages {
        tickets.push_back(producer.put(message).await.map_err(|e| from_send(&e))?);
        if tickets.len() >= TICKETS_MAX
            && let Some(oldest) = tickets.pop_front()
        {
            oldest.await.map_err(|e| from_send(&e))?;
        }
    }
    for ticket in tickets {
        ticket.await.map_err(|e| from_send(&e))?;
    }
    let took = started.elapsed();
    producer.close().await;
    Ok(took)
}

/// What came of sending at a pace.
#[derive(Clone, Debug)]
pub(super) struct Paced {
    pub(super) messages: u64,
    /// How many were sent a second; below the pace when the machine cannot hold it.
    pub(super) sent_per_s: u64,
    pub(super) accepted: Latencies,
    pub(super) delivered: Latencies,
    pub(super) received: Latencies,
}

impl Load {
    /// As fast as it goes, and waits until all is received.
    pub(super) async fn run(
        &self,
        pair: &Pair,
        queue: &QueueName,
        volume: Volume,
    ) -> Result<Full, Failure> {
        let producer = pair.sender.connect("bench-sender").await?;
        let consumer = Consumer::start(&pair.receiver, queue, self.in_flight, Bodies::Plain)?;
        let cpu = || (pair.sender.cpu(), pair.receiver.cpu(), own_cpu());
        let before = cpu();
        let started = Instant::now();
        let sent = self
            .send(&producer, queue, volume, &consumer, started)
            .await;
        let (messages, accepted_in) = match sent {
            Ok(sent) => sent,
            // When the receiving application has failed, that is why the sending one did.
            Err(failure) => return Err(consumer.finish(0).await.err().unwrap_or(failure)),
        };
        let counts = consumer.finish(messages).await?;
        let after = cpu();
        producer.close().await;
        let spent =
            |after: Option<Duration>, before| after.zip(before).map(|(a, b)| a.saturating_sub(b));
        Ok(Full {
            messages,
            received: counts.received,
            accepted_in,
            elapsed: counts.last_at.saturating_duration_since(started),
            sender_cpu: spent(after.0, before.0),
            receiver_cpu: spent(after.1, before.1),
            clients_cpu: after.2.saturating_sub(before.2),
        })
    }

    async fn send(
        &self,
        producer: &Client,
        queue: &QueueName,
        volume: Volume,
        consumer: &Consumer,
        started: Instant,
    ) -> Result<(u64, Duration), Failure> {
        let destination = Text::from(Pair::destination(queue));
        let body = Bytes::from(vec![0x5a; self.size as usize]);
        let mut unanswered: VecDeque<Unanswered> = VecDeque::new();
        let unanswered_max = (self.in_flight / self.batch).max(1) as usize;
        let mut messages = 0_u64;
        loop {
            let batch = match volume {
                Volume::Messages(wanted) => wanted.saturating_sub(messages).min(self.batch.into()),
                Volume::Time(time) if started.elapsed() < time => self.batch.into(),
                Volume::Time(_) => 0,
            };
            if batch == 0 {
                break;
            }
            let together = u32::try_from(batch).unwrap_or(self.batch);
            consumer.room(together).await?;
            let message = Message::new(destination.clone(), body.clone()).class(self.class);
            unanswered.push_back(self.hand_over(producer, &message, together).await?);
            messages += batch;
            if unanswered.len() >= unanswered_max
                && let Some(oldest) = unanswered.pop_front()
            {
                oldest.accepted().await?;
            }
        }
        for rest in unanswered {
            rest.accepted().await?;
        }
        Ok((messages, started.elapsed()))
    }

    /// Hands over so many of the same message, together.
    async fn hand_over(
        &self,
        producer: &Client,
        message: &Message,
        together: u32,
    ) -> Result<Unanswered, Failure> {
        // One message alone needs no transaction: it is one, as with MSMQ's MQ_SINGLE_MESSAGE.
        if self.class == Class::Transactional && together > 1 {
            let mut transaction = producer.begin();
            for _ in 0..together {
                let sent = transaction.send(message.clone());
                sent.map_err(|e| from_send(&e))?;
            }
            return Ok(Unanswered::Transaction(tokio::spawn(transaction.commit())));
        }
        let mut tickets = Vec::with_capacity(together as usize);
        for _ in 0..together {
            let put = producer.put(message.clone()).await;
            tickets.push(put.map_err(|e| from_send(&e))?);
        }
        Ok(Unanswered::Puts(tickets))
    }

    /// So many a second, and measures each.
    pub(super) async fn pace(
        &self,
        pair: &Pair,
        queue: &QueueName,
        per_s: u32,
        messages: u64,
    ) -> Result<Paced, Failure> {
        let producer = pair.sender.connect("bench-sender").await?;
        let consumer = Consumer::start(&pair.receiver, queue, ANY_NUMBER, Bodies::Stamped)?;
        let destination = Text::from(Pair::destination(queue));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_s);
        let mut fates = JoinSet::new();
        let started = Instant::now();
        for _ in 0..messages {
            ticks.tick().await;
            let sent_at = Instant::now();
            let mut body = vec![0x5a; self.size as usize];
            let stamp = consumer.stamp(sent_at).to_le_bytes();
            body.iter_mut().zip(stamp).for_each(|(to, byte)| *to = byte);
            let message = Message::new(destination.clone(), body)
                .class(self.class)
                .follow(Follow::Delivered);
            let mut ticket = producer.put(message).await.map_err(|e| from_send(&e))?;
            fates.spawn(async move {
                ticket.accepted().await.map_err(|e| from_send(&e))?;
                let accepted = sent_at.elapsed();
                let delivered = ticket.delivered().await;
                delivered.map_err(|e| Failure::of("trial", e.to_string()))?;
                Ok::<_, Failure>((micros(accepted), micros(sent_at.elapsed())))
            });
        }
        let sent_per_s = per_second(messages, started.elapsed());
        let (mut accepted, mut delivered) = (Vec::new(), Vec::new());
        while let Some(fate) = fates.join_next().await {
            let fate = fate.map_err(|e| Failure::of("trial", e.to_string()))?;
            let (until_accepted, until_delivered) = fate?;
            accepted.push(until_accepted);
            delivered.push(until_delivered);
        }
        let counts = consumer.finish(messages).await?;
        producer.close().await;
        Ok(Paced {
            messages,
            sent_per_s,
            accepted: Latencies::of(accepted),
            delivered: Latencies::of(delivered),
            received: Latencies::of(counts.latencies_us),
        })
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Processor time of this process.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}

/// No bound for what is in flight.
pub(super) const ANY_NUMBER: u32 = u32::MAX >> 4;

/// Whether bodies begin with the time at which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    Plain,
    Stamped,
}

/// The receiving application.
pub(super) struct Consumer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Counts, Failure>>>,
}

struct Shared {
    epoch: Instant,
    received: AtomicU64,
    /// Known when the last one is sent.
    expected: AtomicU64,
    abandoned: AtomicBool,
    /// What may still be sent before more is received.
    room: Semaphore,
}

/// What it got.
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) last_at: Instant,
    /// From the stamps in the bodies.
    pub(super) latencies_us: Vec<u64>,
}

impl Consumer {
    pub(super) fn start(
        node: &NodeProcess,
        queue: &QueueName,
        in_flight: u32,
        bodies: Bodies,
    ) -> Result<Self, Failure> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            received: AtomicU64::new(0),
            expected: AtomicU64::new(u64::MAX),
            abandoned: AtomicBool::new(false),
            room: Semaphore::new(in_flight as usize),
        });
        let (socket, queue) = (node.socket().to_owned(), queue.clone());
        let kept = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("bench-receiver".to_owned());
        let thread = thread.spawn(move || {
            let got = super::super::block_on(async {
                let client = Client::builder()
                    .program("bench-receiver")
                    .connect(&socket)
                    .await;
                let client = client.map_err(|e| super::super::node::from_client(&e))?;
                let counts = consume(&client, &queue, &kept, bodies).await;
                if !kept.abandoned.load(Ordering::Relaxed) {
                    // What was received last is settled before the processes are looked at.
                    client.close().await;
                }
                counts
            });
            // Whoever waits for room must not wait for ever.
            kept.room.close();
            got
        });
        let thread = thread.map_err(|e| Failure::io("the receiver cannot start", &e))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until so many more may be on their way.
    async fn room(&self, messages: u32) -> Result<(), Failure> {
        match self.shared.room.acquire_many(messages).await {
            Ok(room) => {
                room.forget();
                Ok(())
            }
            Err(_closed) => Err(Failure::of("trial", "the receiving application has ended")),
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    fn stamp(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.shared.epoch))
    }

    /// Waits until so many are received.
    pub(super) async fn finish(mut self, expected: u64) -> Result<Counts, Failure> {
        self.shared.expected.store(expected, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined once");
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(counts)) => counts,
            _ => Err(Failure::of("trial", "the receiving application panicked")),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // A thread that nobody waits for any more ends at its next look.
        self.shared.abandoned.store(true, Ordering::Relaxed);
    }
}

async fn consume(
    client: &Client,
    queue: &QueueName,
    shared: &Shared,
    bodies: Bodies,
) -> Result<Counts, Failure> {
    let options = ReceiveOptions::new().limit(LEASED_MAX);
    let deliveries = client.deliveries(queue, &options);
    let mut deliveries = deliveries.map_err(|e| from_receive(&e))?;
    let mut counts = Counts {
        received: 0,
        last_at: Instant::now(),
        latencies_us: Vec::new(),
    };
    let look = Duration::from_millis(20);
    loop {
        if counts.received >= shared.expected.load(Ordering::Relaxed)
            || shared.abandoned.load(Ordering::Relaxed)
        {
            return Ok(counts);
        }
        match tokio::time::timeout(look, deliveries.next()).await {
            Ok(Some(Ok(delivery))) => {
                let now = Instant::now();
                if bodies == Bodies::Stamped {
                    let stamp = delivery.body().first_chunk().copied().unwrap_or_default();
                    let sent_at = Duration::from_micros(u64::from_le_bytes(stamp));
                    let since = now.duration_since(shared.epoch).saturating_sub(sent_at);
                    counts.latencies_us.push(micros(since));
                }
                drop(delivery.consume());
                counts.received += 1;
                counts.last_at = now;
                shared.received.store(counts.received, Ordering::Relaxed);
                shared.room.add_permits(1);
            }
            Ok(Some(Err(error))) => return Err(from_receive(&error)),
            Ok(None) => return Ok(counts),
            Err(_quiet) => {
                let expected = shared.expected.load(Ordering::Relaxed);
                if expected < u64::MAX && counts.last_at.elapsed() > PATIENCE {
                    return Ok(counts);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let latencies = Latencies::of((1..=200).rev().collect());
        assert_eq!(latencies.percentile(50), 100);
        assert_eq!(latencies.percentile(99), 198);
        assert_eq!((latencies.percentile(100), latencies.max()), (200, 200));
        let one = Latencies::of(vec![7]);
        assert_eq!((one.percentile(1), one.percentile(99)), (7, 7));
        assert_eq!(Latencies::default().percentile(99), 0);
    }

    #[test]
    fn own_time_passes() {
        let before = own_cpu();
        let mut sum = 0_u64;
        for n in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum ^ n);
        }
        assert!(own_cpu() > before, "{sum}");
    }
}
