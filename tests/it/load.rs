//! Applications that hand messages over for as long as they are needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use qm_client::Message;
use qm_client::blocking::Client;

use crate::program::{Program, eventually};

/// An application that sends one round of messages after the other, and repeats under their keys
/// what it was not answered.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Rounds are numbered from 0; between two it waits a little.
    pub(crate) fn start(
        node: &Program,
        pause: Duration,
        round: impl Fn(u32) -> Vec<Message> + Send + 'static,
    ) -> Self {
        let socket: PathBuf = node.data().join("node.sock");
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU32::new(0));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&accepted));
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !until.load(Ordering::Relaxed) {
                accept(&socket, round(number));
                number += 1;
                count.store(number, Ordering::Relaxed);
                // A load of a known rate: without it the processor is the application's.
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            accepted,
            thread,
        }
    }

    fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more rounds are accepted.
    pub(crate) fn go_on(&self, rounds: u32) {
        let until = self.accepted() + rounds;
        eventually("messages are accepted", || {
            (self.accepted() >= until).then_some(())
        });
    }

    /// Ends it. So many rounds were accepted.
    pub(crate) fn finish(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Hands messages over until the node has taken them, however often it dies.
pub(crate) fn accept(socket: &Path, messages: Vec<Message>) {
    eventually("the node takes messages", || {
        let client = Client::connect(socket).ok()?;
        let sent = client.send_batch(messages.clone());
        sent.into_iter().all(|sent| sent.is_ok()).then_some(())
    });
}
