//! Applications that never give up: they repeat what was not answered under the same key.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qm_client::blocking::Client;
use qm_client::{Class, Message, ReceiveOptions, SendError, Verdict};

use super::books::{Books, body};

/// How many messages an application hands over at once.
const BATCH: u64 = 40;

/// What all applications of a run look at.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nothing new is sent any more; what was begun is brought to its end.
    pub(super) last_orders: AtomicBool,
    /// Everybody goes home.
    pub(super) over: AtomicBool,
    /// Raised to make an application drop its connection in the middle of what it does.
    pub(super) hang_up: AtomicU64,
    pub(super) reconnects: AtomicU64,
}

impl Plan {
    fn connect(&self, socket: &Path) -> Option<Client> {
        while !self.over.load(Ordering::Relaxed) {
            let builder = qm_client::Client::builder()
                .reconnect_for(Duration::from_secs(1))
                .linger(Duration::ZERO);
            if let Ok(client) = Client::connect_with(builder, socket) {
                self.reconnects.fetch_add(1, Ordering::Relaxed);
                return Some(client);
            }
            // Its node is down, and nothing tells an application when it is back.
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Whether somebody asked for a broken connection since the last look.
    fn hangs_up(&self, seen: &mut u64) -> bool {
        let now = self.hang_up.load(Ordering::Relaxed);
        core::mem::replace(seen, now) != now
    }
}

/// Sends one stream until the last orders, and returns when all of it is accepted.
pub(super) fn send(
    plan: &Plan,
    books: &Mutex<Books>,
    stream: usize,
    socket: &Path,
    to: &str,
    pause: Duration,
) {
    let express = books.lock().unwrap().streams[stream].express;
    let key = format!("stream {stream}");
    let (mut next, mut begun) = (1_u64, 1_u64);
    let mut seen = plan.hang_up.load(Ordering::Relaxed);
    let mut client = None;
    while !plan.over.load(Ordering::Relaxed) {
        if !plan.last_orders.load(Ordering::Relaxed) {
            begun = begun.max(next + BATCH);
        } else if next >= begun {
            return;
        }
        if plan.hangs_up(&mut seen) {
            client = None;
        }
        let Some(connected) = client.take().or_else(|| plan.connect(socket)) else {
            return;
        };
        let message = |number| {
            let class = if express {
                Class::Express
            } else {
                Class::Recoverable
            };
            let message = Message::new(to, body(stream, number)).class(class);
            message.idempotency_number(key.as_bytes().to_vec(), number)
        };
        let results = connected.send_batch((next..begun).map(message));
        let mut books = books.lock().unwrap();
        let mut first_open = begun;
        let mut lost = false;
        for (number, result) in (next..).zip(results) {
            match result {
                Ok(id) => books.streams[stream].accepted(number, id),
                Err(error) => {
                    first_open = first_open.min(number);
                    match error {
                        SendError::Rejected { .. } => books.streams[stream].refused = true,
                        _ => lost = true,
                    }
                }
            }
        }
        drop(books);
        next = first_open;
        if !lost {
            client = Some(connected);
        }
        // The pace of this sender.
        std::thread::sleep(pause);
    }
}

/// Receives everything that comes to a node, and consumes it.
pub(super) fn receive(plan: &Plan, books: &Mutex<Books>, node: usize, socket: &Path) {
    let queue = "inbox".parse().unwrap();
    let options = ReceiveOptions::new()
        .limit(200)
        .wait(Duration::from_millis(300));
    let mut seen = plan.hang_up.load(Ordering::Relaxed);
    let mut client = None;
    while let Some(connected) = client.take().or_else(|| plan.connect(socket)) {
        if plan.over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(deliveries) = connected.receive_batch(&queue, &options) else {
            continue;
        };
        {
            let mut books = books.lock().unwrap();
            for delivery in &deliveries {
                books.handed_out(node, delivery.lookup_id(), delivery.body());
            }
        }
        if plan.hangs_up(&mut seen) {
            // With messages in hand: they go back, and come again at the same places.
            continue;
        }
        let settled = connected.settle(deliveries, Verdict::Consume);
        if settled.iter().all(Result::is_ok) {
            client = Some(connected);
        }
    }
}

/// A thread for one of the people above.
pub(super) fn begin(
    plan: &Arc<Plan>,
    books: &Arc<Mutex<Books>>,
    what: impl FnOnce(&Plan, &Mutex<Books>) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let (plan, books) = (Arc::clone(plan), Arc::clone(books));
    std::thread::spawn(move || what(&plan, &books))
}
