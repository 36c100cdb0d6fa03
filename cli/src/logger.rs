//! Log lines on standard error: one line each, control characters escaped, cut at a bound.
//!
//! Standard error that is full or closed is no reason to stop: what cannot be written is dropped and counted, and the count
//! is written with the next line that can be.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

/// Longest message of a line, in bytes. A list of settings problems is the longest we write.
const MAX_MESSAGE: usize = 8 << 10;

struct Logger {
    dropped: AtomicU64,
}

static LOGGER: Logger = Logger { dropped: AtomicU64::new(0) };

/// Log from now on, down to that level.
pub(crate) fn install(level: LevelFilter) {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// Libraries may warn; what they inform about is not ours to say.
fn is_ours(target: &str) -> bool {
    ["gateway", "testbench", "observatory", "llm_lens"].iter().any(|room| target.starts_with(room))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most = if is_ours(metadata.target()) { LevelFilter::Trace } else { LevelFilter::Warn };
        metadata.level() <= most.min(log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
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
                '\n' => line.push_str("\n  "),
                c if c.is_control() => line.extend(c.escape_default()),
                c => line.push(c),
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = write!(line, " ({dropped} lines before this could not be written)");
        }
        line.push('\n');
        if std::io::stderr().write_all(line.as_bytes()).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}
