//! An application that moves coins from its node to another, for the test of money in `it/`:
//! `mover SOCKET TO SEED`.
//!
//! It ends when its standard input does, and may be killed at any moment: what it has to tell it
//! prints, a line each. `seen LOOKUP COIN MOVES ABORTS` names what
//! it received, `moved` a commit that was answered, `unknown` one whose answer never came.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qm_client::{Class, Client, Message, QueueName, ReceiveOptions, TransactionError};
use qm_engine::{Entropy, SeededEntropy};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, to, seed] = arguments.as_slice() else {
        panic!("usage: mover SOCKET TO SEED");
    };
    let over = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            over.store(true, Ordering::Relaxed);
        }
    });
    let mut mover = Mover {
        socket: PathBuf::from(socket),
        to: to.clone(),
        entropy: SeededEntropy::new(seed.parse().expect("a seed is a number")),
        over,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    while !mover.over.load(Ordering::Relaxed) {
        runtime.block_on(mover.work());
    }
}

/// A line that is out before this returns.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("somebody listens");
}

struct Mover {
    socket: PathBuf,
    to: String,
    entropy: SeededEntropy,
    over: Arc<AtomicBool>,
}

impl Mover {
    async fn work(&mut self) {
        let queue: QueueName = "money".parse().expect("a name of a queue");
        let options = ReceiveOptions::new().wait(Duration::from_millis(100));
        let Ok(client) = Client::connect(&self.socket).await else {
            // The node is down, and nothing tells an application when it is back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        };
        while !self.over.load(Ordering::Relaxed) {
            let mut transaction = client.begin();
            let coin = match transaction.receive(&queue, &options).await {
                Ok(Some(coin)) => coin,
                Ok(None) => continue,
                Err(_lost) => {
                    // The client connects again by itself; nothing tells when.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let body = std::str::from_utf8(coin.body()).expect("a coin is text");
            let (number, moves) = body.split_once(' ').expect("a coin has its moves");
            let moves: u64 = moves.parse().expect("moves are a number");
            let (lookup, aborts) = (coin.lookup_id(), coin.abort_count());
            say(&format!("seen {lookup} {number} {moves} {aborts}"));
            let body = format!("{number} {}", moves + 1);
            for to in [self.to.as_str(), "ledger"] {
                let message = Message::new(to.to_owned(), body.clone());
                transaction
                    .send(message.class(Class::Transactional))
                    .expect("a coin is small");
            }
            if self.entropy.next_u64().is_multiple_of(16) {
                transaction.abort().await;
                continue;
            }
            match transaction.commit().await {
                Ok(_) => say("moved"),
                Err(TransactionError::OutcomeUnknown(_)) => say("unknown"),
                // Nothing happened; the coin comes again.
                Err(_) => {}
            }
        }
        client.close().await;
    }
}
