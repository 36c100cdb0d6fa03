//! Log lines on standard error, control characters escaped, cut at a bound.
//!
//! A thread of its own writes them: standard error that is full, closed, or read by nobody holds up no request. Lines that find
//! the queue full are dropped and counted, and the count is written with the next line that can be.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use log::{LevelFilter, Log, Metadata, Record};

/// Longest message of a line, in bytes. A list of settings problems is the longest we write.
const MAX_MESSAGE: usize = 8 << 10;
/// Lines that wait to be written.
const QUEUE: usize = 1024;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_millis(500);

enum Entry {
    Line(String),
    /// Everything before this is written when the other end hears of it.
    Written(SyncSender<()>),
}

struct Logger {
    queue: OnceLock<SyncSender<Entry>>,
    dropped: AtomicU64,
}

static LOGGER: Logger = Logger { queue: OnceLock::new(), dropped: AtomicU64::new(0) };

/// Log from now on, down to that level.
pub(crate) fn install(level: LevelFilter) {
    let (send, receive) = sync_channel(QUEUE);
    let writer = std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&receive));
    if writer.is_ok() && LOGGER.queue.set(send).is_ok() && log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// Ends with the process: the queue's other end is never dropped.
fn write_lines(queue: &Receiver<Entry>) {
    let mut stderr = std::io::stderr();
    while let Ok(entry) = queue.recv() {
        match entry {
            Entry::Line(line) => {
                if stderr.write_all(line.as_bytes()).is_err() {
                    LOGGER.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::Written(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Libraries may warn; what they inform about is not ours to say.
fn is_ours(target: &str) -> bool {
    ["gateway", "relay", "transport", "discovery", "filters", "testbench", "observatory", "llm_lens"]
        .iter()
        .any(|ours| target.starts_with(ours))
}

fn line(record: &Record<'_>) -> String {
    let mut line = String::with_capacity(128);
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let _ = write!(line, "{seconds:.3} {} ", record.level());
    let mut message = record.args().to_string();
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    for c in message.chars() {
        match c {
            // A list of problems keeps its lines, set in so that none can pass for an entry of its own.
            '\n' => line.push_str("\n  "),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most = if is_ours(metadata.target()) { LevelFilter::Trace } else { LevelFilter::Warn };
        metadata.level() <= most.min(log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        let (true, Some(queue)) = (self.enabled(record.metadata()), self.queue.get()) else { return };
        let mut line = line(record);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = write!(line, " ({dropped} lines before this could not be written)");
        }
        line.push('\n');
        if queue.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    /// Wait, within reason, until everything is written.
    fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.get().is_some_and(|q| q.try_send(Entry::Written(done)).is_ok()) {
            let _ = written.recv_timeout(LAST_LINES);
        }
    }
}
