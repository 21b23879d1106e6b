//! Prints each line of standard input once, in order, remembering the newest lines only.
//!
//! Unlike `sort -u` it prints at once and in order; unlike `awk '!seen[$0]++'` its memory is
//! bounded, so it can sit at the end of a log for ever:
//!
//! ```sh
//! tail -F app.log | cargo run --release -p qm-cache --example dedup_lines -- 100000 600
//! ```
//!
//! Arguments: lines remembered (default 10,000) and for how many seconds (default 1,800).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;
use std::time::Instant;

use qm_cache::{Admit, DedupCache, DedupConfig, KeyedSipHasher};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the lines has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _told = writeln!(io::stderr(), "dedup_lines: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let capacity = argument(1, 10_000)?;
    let seconds = argument(2, 1800)?;
    let config = DedupConfig {
        purge_interval_ms: seconds.saturating_mul(1000),
        ..DedupConfig::with_capacity(usize::try_from(capacity).map_err(io::Error::other)?)
    };
    // 128 bits under secret keys: no two lines of any log fall together by accident, and nobody
    // can make them.
    let (high, low) = (secret(), secret());
    let cache = DedupCache::<(u64, u64)>::new(config, secret());
    let start = Instant::now();

    let mut input = io::stdin().lock();
    let mut output = BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let now_ms = u64::try_from(start.elapsed().as_millis()).map_err(io::Error::other)?;
        let key = (digest(high, &line), digest(low, &line));
        if let Admit::Fresh(reservation) = cache.admit(key, now_ms) {
            output.write_all(&line)?;
            // Written first: should writing fail, the line has not been swallowed.
            reservation.commit();
        }
        line.clear();
    }
    output.flush()?;
    let stats = cache.stats();
    writeln!(
        io::stderr(),
        "{} lines printed, {} duplicates, {} forgotten early for want of room",
        stats.misses,
        stats.hits,
        stats.evicted_young
    )
}

fn argument(at: usize, default: u64) -> io::Result<u64> {
    std::env::args().nth(at).map_or(Ok(default), |text| {
        text.parse()
            .map_err(|e| io::Error::other(format!("`{text}` is not a number: {e}")))
    })
}

/// Random words from where the standard library takes its own.
fn secret() -> [u64; 2] {
    std::array::from_fn(|_| RandomState::new().build_hasher().finish())
}

fn digest(key: [u64; 2], line: &[u8]) -> u64 {
    let mut hasher = KeyedSipHasher::new(key).build_hasher();
    hasher.write(line);
    hasher.finish()
}
