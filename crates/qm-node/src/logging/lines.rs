//! The way of log lines to whoever reads them, who may stand still: the node must not.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait while they are not read; what comes beyond is lost, and counted.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// How long the end of the node waits for the last lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How often a file that takes nothing at once is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Takes lines and never waits; a thread of its own writes them.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room, or could not be written.
    lost: u64,
    writing: bool,
}

impl Lines {
    /// Lines for a file, written from now on.
    ///
    /// # Errors
    /// When the operating system gives no thread or no second handle of the file.
    pub(crate) fn to(file: impl AsFd) -> io::Result<Self> {
        // A handle of its own: the lock of the standard one would be held while nobody reads, and
        // whoever says something else there would wait for it.
        let file = file.as_fd().try_clone_to_owned()?;
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        thread::Builder::new()
            .name("qm-log".to_owned())
            .spawn(move || own.write_for_ever(&file))?;
        Ok(Self(desk))
    }

    /// Waits until everything is written, though not long.
    pub(crate) fn flush(&self) {
        let until = Instant::now() + LAST_LINES;
        let mut waiting = self.0.lock();
        while !waiting.bytes.is_empty() || waiting.writing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.0.changed.wait_timeout(waiting, left);
            (waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self, file: &OwnedFd) {
        let mut bytes = Vec::new();
        loop {
            let mut waiting = self.lock();
            waiting.writing = false;
            self.changed.notify_all();
            while waiting.bytes.is_empty() {
                waiting = self
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut waiting.bytes, &mut bytes);
            waiting.writing = true;
            drop(waiting);
            let unwritten = write_all(file, &bytes);
            let mut waiting = self.lock();
            waiting.lost += unwritten;
            // Told to whoever reads again; where nothing can be written, this could not be either.
            let lost = match unwritten {
                0 => std::mem::take(&mut waiting.lost),
                _ => 0,
            };
            drop(waiting);
            if lost > 0 {
                tracing::warn!(
                    event = "log_lines_lost",
                    lost,
                    "log lines were lost: they were not read, or could not be written"
                );
            }
            bytes.clear();
        }
    }
}

/// How many lines could not be written.
fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> u64 {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Whoever else has the file may have told it not to wait.
            Err(Errno::AGAIN) => thread::sleep(AGAIN),
            Ok(_) | Err(_) => {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
                return u64::try_from(lines).unwrap_or(u64::MAX);
            }
        }
    }
    0
}

impl io::Write for Lines {
    /// A whole line at a time: so the formatter hands them over.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        if waiting.bytes.len().saturating_add(line.len()) > UNREAD_BYTES_MAX {
            waiting.lost = waiting.lost.saturating_add(1);
        } else {
            waiting.bytes.extend_from_slice(line);
            drop(waiting);
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};

    use super::*;

    #[test]
    fn lines_that_nobody_reads_are_counted_and_hold_nobody_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::to(&writer).unwrap();
        drop(writer);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // More than the pipe and the memory take; nobody reads.
        let said = 4 * UNREAD_BYTES_MAX / line.len();
        for _ in 0..said {
            lines.write_all(&line).unwrap();
        }
        let begun = Instant::now();
        Lines::flush(&lines);
        let took = begun.elapsed();
        assert!(took >= LAST_LINES && took < 20 * LAST_LINES, "{took:?}");
        let lost = lines.0.lock().lost;
        let kept = u64::try_from(said).unwrap() - lost;
        assert!(lost > 0 && kept >= 1024, "{kept} kept, {lost} lost");
        // Whoever reads again has every line that was kept, whole.
        let mut read = vec![0; usize::try_from(kept).unwrap() * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|one| one == line));
        lines.write_all(b"goes on\n").unwrap();
        Lines::flush(&lines);
        let mut after = String::new();
        BufReader::new(&mut reader).read_line(&mut after).unwrap();
        assert_eq!(after, "goes on\n");
    }
}
