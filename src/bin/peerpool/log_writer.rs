//! Where log lines go: to stderr, by a thread of its own.
//!
//! A stderr that is closed, full or not read loses lines and never delays or ends the command.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const MAX_LINES: usize = 1024;
/// The longest part of a line that is written.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// How long the command waits at its end for lines to be written.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Takes log lines from any thread without waiting.
#[derive(Clone)]
pub(super) struct LogWriter {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    taken: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start() -> io::Result<Self> {
        let (lines, queue) = sync_channel(MAX_LINES);
        let counts = Arc::<Counts>::default();
        let counting = Arc::clone(&counts);
        thread::Builder::new().name("log".into()).spawn(move || write_lines(&queue, &counting))?;
        Ok(Self { lines, counts })
    }

    fn take(&self, line: &[u8]) {
        let line = &line[..line.len().min(MAX_LINE_BYTES)];
        match self.lines.try_send(line.to_vec()) {
            Ok(()) => self.counts.taken.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.counts.lost.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Waits for the lines so far, for a moment. Says how many were lost, if stderr takes that.
    pub(super) fn finish(&self) {
        let begun = Instant::now();
        let is_written =
            || self.counts.written.load(Ordering::Relaxed) >= self.counts.taken.load(Ordering::Relaxed);
        while !is_written() && begun.elapsed() < LAST_LINES {
            thread::sleep(Duration::from_millis(1));
        }
        let lost = self.counts.lost.load(Ordering::Relaxed);
        // Behind a writer that is stuck, this would wait for ever.
        if lost > 0 && is_written() {
            super::output::eprint(&format!("{lost} log lines were lost: stderr did not take them"));
        }
    }
}

fn write_lines(queue: &Receiver<Vec<u8>>, counts: &Counts) {
    for line in queue {
        if io::stderr().lock().write_all(&line).is_err() {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        counts.written.fetch_add(1, Ordering::Relaxed);
    }
}

/// The formatter writes each line with one call.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
