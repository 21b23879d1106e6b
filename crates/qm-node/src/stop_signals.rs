//! The signals that end a node.
//!
//! They are listened for on a thread of their own: a start that waits for its disk, or a node that
//! is busy, hears them too, and so does one whose log nobody reads any more.

use std::sync::{Arc, mpsc};
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::run::RunError;

/// SIGHUP among the bits of `SigIgn` in proc(5).
const HANGUP_BIT: u64 = 1;

/// From now on the first SIGTERM, SIGINT or SIGHUP notifies `stop`, and the second one ends the
/// process at once with exit code 1. A hangup that was ignored when the process began stays
/// ignored, as nohup(1) wishes.
///
/// # Errors
/// No thread, or no handler.
pub(crate) fn stop_on_signals(stop: Arc<Notify>) -> Result<(), RunError> {
    let (tell, told) = mpsc::channel();
    let listener = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(|source| RunError::System {
                what: "runtime",
                source,
            });
        let listened = runtime.and_then(|runtime| {
            let inside = runtime.enter();
            let signals = Signals::listen()?;
            drop(inside);
            Ok((signals, runtime))
        });
        match listened {
            Ok((mut signals, runtime)) => {
                // Nobody waits only if the starting thread panicked.
                drop(tell.send(Ok(())));
                runtime.block_on(signals.obey(&stop));
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    thread::Builder::new()
        .name("qm-node-signals".to_owned())
        .spawn(listener)
        .map_err(|source| RunError::System {
            what: "thread",
            source,
        })?;
    told.recv().unwrap_or(Err(RunError::Panicked))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> Result<Self, RunError> {
        let hangup = (!is_hangup_ignored()).then(|| listen_for(SignalKind::hangup()));
        Ok(Self {
            terminate: listen_for(SignalKind::terminate())?,
            interrupt: listen_for(SignalKind::interrupt())?,
            hangup: hangup.transpose()?,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }

    async fn obey(&mut self, stop: &Notify) {
        self.next().await;
        stop.notify_one();
        // Not here: a reader of the log that stands still must not keep the second one waiting.
        // Where no thread is to be had any more nothing is said, and the node stops all the same.
        let told = thread::Builder::new().spawn(|| {
            tracing::info!(
                event = "stop_asked",
                "stopping; a second signal stops at once"
            );
        });
        drop(told);
        self.next().await;
        std::process::exit(1);
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, RunError> {
    signal(kind).map_err(|source| RunError::System {
        what: "signal handler",
        source,
    })
}

fn is_hangup_ignored() -> bool {
    // Where proc(5) is not mounted nobody can tell, and a hangup ends the node in order.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & HANGUP_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        assert!(ignores_hangup(
            "Name:\tqm-node\nSigIgn:\t0000000000001001\n"
        ));
        for not in ["SigIgn:\t0000000000001000\n", "SigIgn:\tmany\n", ""] {
            assert!(!ignores_hangup(not), "{not}");
        }
    }
}
