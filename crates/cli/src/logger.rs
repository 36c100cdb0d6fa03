//! Log lines on standard error: text for people, JSON for machines.
//!
//! - *In*: events of `tracing`, and of `log`, which libraries use.
//! - *Out*: a line for each, `TIME LEVEL event key=value` or a JSON object. The line of a request
//!   has its `request_id`.
//! - *Never*: a request that waits for standard error; a control character.
//!
//! A thread of its own writes the lines. LineLayer are dropped while its queue is full or standard
//! error is closed; the next line reports how many. tracing-appender does this too, but its
//! shutdown waits without a bound if the output is not read.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::ValueEnum;
use gateway::DROPPED_LOG_LINES;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

/// Maximum bytes of a value. Lists of settings problems are the longest values.
const MAX_VALUE: usize = 8 << 10;
/// Maximum lines in the queue.
const QUEUE: usize = 1024;
/// Maximum time that shutdown waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Modules of pingora that log each failed request or connection as an error. The gateway logs
/// failures itself, with their backend and route. These lines are for debugging.
const VERBOSE_MODULES: [&str; 4] = [
    "pingora_core::apps",
    "pingora_core::connectors",
    "pingora_core::protocols::http",
    "pingora_proxy",
];
/// Module of pingora that accepts connections.
const LISTENING: &str = "pingora_core::services::listening";
/// Crates of this project. Other crates are logged from level `warn`.
const OWN_CRATES: [&str; 14] = [
    "admin_auth",
    "config",
    "filters",
    "gateway",
    "pages",
    "pipeline",
    "plan",
    "relay",
    "traffic",
    "transport",
    "discovery",
    "observatory",
    "testbench",
    "llm_lens",
];

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `TIME LEVEL event key=value`.
    #[default]
    Text,
    /// A JSON object on each line.
    Json,
}

/// Installs the logger for `level` and above. Dropping the guard writes the last lines.
pub(crate) fn install(
    level: LevelFilter,
    format: LogFormat,
    request_id: fn() -> Option<Arc<str>>,
) -> FlushGuard {
    let (queue, entries) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let lost = dropped.clone();
    // Ends with the process: the subscriber holds the sender and is never dropped. If the thread
    // cannot start, nothing is logged.
    let _ =
        std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&entries, &lost));
    let guard = FlushGuard(queue.clone());
    let targets = targets(level);
    let lines = LineLayer { format, request_id, queue, dropped };
    // Both fail only if another logger is installed, which never happens.
    let installed = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(lines.with_filter(targets)),
    );
    if installed.is_ok() {
        let _ = tracing_log::LogTracer::builder().with_max_level(log_level(level)).init();
    }
    guard
}

/// What is logged at `level`.
fn targets(level: LevelFilter) -> Targets {
    let libraries = level.min(LevelFilter::WARN);
    let verbose = if level >= LevelFilter::DEBUG { libraries } else { LevelFilter::OFF };
    Targets::new()
        .with_default(libraries)
        .with_targets(OWN_CRATES.map(|name| (name, level)))
        .with_targets(VERBOSE_MODULES.map(|name| (name, verbose)))
}

enum Entry {
    Line(String),
    /// Acknowledged when all earlier entries are written.
    Flush(SyncSender<()>),
}

/// Dropping it waits, at most [`FLUSH_TIMEOUT`], until the queued lines are written.
pub(crate) struct FlushGuard(SyncSender<Entry>);

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.0.try_send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_lines(entries: &Receiver<Entry>, lost: &AtomicU64) {
    let mut stderr = std::io::stderr();
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                if stderr.write_all(line.as_bytes()).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                    DROPPED_LOG_LINES.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

fn log_level(level: LevelFilter) -> tracing_log::log::LevelFilter {
    use tracing_log::AsLog as _;
    level.min(LevelFilter::WARN).as_log()
}

/// Writes a line for each event.
struct LineLayer {
    format: LogFormat,
    request_id: fn() -> Option<Arc<str>>,
    queue: SyncSender<Entry>,
    /// LineLayer dropped since the last line that reported them.
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut parts = EventFields::default();
        event.record(&mut parts);
        if metadata.target() == LISTENING {
            parts.explain_accept();
        }
        if let Some(id) = (self.request_id)() {
            parts.set("request_id", Value::from(&*id));
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            parts.set("dropped_lines", dropped.into());
        }
        let line = match self.format {
            LogFormat::Text => parts.text(metadata.level()),
            LogFormat::Json => parts.json(metadata.level(), metadata.target()),
        };
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
            DROPPED_LOG_LINES.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Message and fields of an event.
#[derive(Default)]
struct EventFields {
    message: String,
    fields: Map<String, Value>,
}

impl EventFields {
    fn set(&mut self, name: &str, value: Value) {
        // The bridge from `log` adds the source location, which is not logged.
        if !name.starts_with("log.") {
            self.fields.insert(name.to_owned(), value);
        }
    }

    /// Pingora's line about a connection that cannot be accepted, in the words of the gateway.
    fn explain_accept(&mut self) {
        if let Some(error) = self.message.strip_prefix("Accept() failed") {
            let error = Value::from(error.trim());
            self.set("error", error);
            self.message = "a listener cannot accept a connection".to_owned();
        }
    }

    fn text(&self, level: &Level) -> String {
        let mut line = format!("{} {level} ", now());
        // Line breaks are indented, so that no line looks like an entry of its own.
        escape(&self.message, &mut line, "\n  ");
        for (name, value) in &self.fields {
            let _ = write!(line, " {name}=");
            match value {
                Value::String(text)
                    if text.is_empty() || text.contains([' ', '"', '=', '\\', '\n']) =>
                {
                    line.push('"');
                    escape(&text.replace('\\', "\\\\").replace('"', "\\\""), &mut line, "\\n");
                    line.push('"');
                }
                Value::String(text) => escape(text, &mut line, "\\n"),
                other => {
                    let _ = write!(line, "{other}");
                }
            }
        }
        line.push('\n');
        line
    }

    fn json(self, level: &Level, target: &str) -> String {
        let mut line = self.fields;
        line.insert("timestamp".into(), now().into());
        line.insert("level".into(), level.as_str().into());
        line.insert("target".into(), target.into());
        line.insert("message".into(), self.message.into());
        format!("{}\n", Value::Object(line))
    }
}

impl Visit for EventFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let value = bounded(value);
        if field.name() == "message" {
            self.message = value.to_owned()
        } else {
            self.set(field.name(), value.into())
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

fn bounded(value: &str) -> &str {
    value.get(..value.floor_char_boundary(MAX_VALUE)).unwrap_or(value)
}

fn escape(text: &str, line: &mut String, newline: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str(newline),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                line.extend(c.escape_default())
            }
            c => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> EventFields {
        let mut parts =
            EventFields { message: "backend\nejected\x1b[2J".into(), ..EventFields::default() };
        parts.set("backend", "b 0\n\"x\"".into());
        parts.set("count", 3.into());
        parts.set("log.file", "a.rs".into());
        parts
    }

    #[test]
    fn text_entries_cannot_be_forged() {
        let text = parts().text(&Level::WARN);
        let (time, rest) = text.split_once(' ').expect("a time");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{time}");
        assert_eq!(rest, "WARN backend\n  ejected\\u{1b}[2J backend=\"b 0\\n\\\"x\\\"\" count=3\n");
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        let json = parts().json(&Level::ERROR, "gateway");
        assert_eq!(json.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(object["level"], "ERROR");
        assert_eq!(object["message"], "backend\nejected\x1b[2J");
        assert_eq!((&object["backend"], &object["count"]), (&"b 0\n\"x\"".into(), &3.into()));
        assert!(object.get("log.file").is_none());
    }

    #[test]
    fn values_are_quoted_and_fields_cannot_replace_the_level() {
        let mut parts = EventFields::default();
        parts.set("error", "x\\\" level=ERROR".into());
        parts.set("level", "TRACE".into());
        assert!(
            parts.text(&Level::WARN).contains(r#"error="x\\\" level=ERROR""#),
            "{}",
            parts.text(&Level::WARN)
        );
        assert!(parts.json(&Level::WARN, "gateway").contains(r#""level":"WARN""#));
    }

    #[test]
    fn dropped_lines_are_reported_once() {
        let (queue, entries) = sync_channel(1);
        let lines = LineLayer {
            format: LogFormat::Text,
            request_id: || None,
            queue,
            dropped: Arc::default(),
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            (0..4).for_each(|number| tracing::warn!(number, "one"));
            let Ok(Entry::Line(first)) = entries.recv() else { panic!("a line") };
            assert!(first.contains("number=0") && !first.contains("dropped_lines"), "{first}");
            tracing::warn!("two");
            let Ok(Entry::Line(second)) = entries.recv() else { panic!("a line") };
            assert!(second.contains("two dropped_lines=3"), "{second}");
            tracing::warn!("three");
            let Ok(Entry::Line(third)) = entries.recv() else { panic!("a line") };
            assert!(third.ends_with("three\n"), "{third}");
        });
    }

    #[test]
    fn failed_accepts_are_reported_in_our_words() {
        let message = "Accept() failed  AcceptError cause: Too many open files (os error 24)";
        let mut parts = EventFields { message: message.into(), ..EventFields::default() };
        parts.explain_accept();
        let text = parts.text(&Level::ERROR);
        let want = "ERROR a listener cannot accept a connection \
                    error=\"AcceptError cause: Too many open files (os error 24)\"\n";
        assert_eq!(text.split_once(' ').map(|(_, rest)| rest), Some(want));
    }

    #[test]
    fn errors_of_single_requests_in_pingora_are_for_debugging() {
        let at = |level, target| targets(level).would_enable(target, &Level::ERROR);
        for target in ["pingora_core::connectors", "pingora_core::apps::http_app", "pingora_proxy"]
        {
            assert!(!at(LevelFilter::INFO, target), "{target}");
            assert!(at(LevelFilter::DEBUG, target), "{target}");
        }
        assert!(at(LevelFilter::INFO, "pingora_core::services::listening"));
        assert!(at(LevelFilter::INFO, "pipeline::pipeline::attempt"));
        assert!(!at(LevelFilter::OFF, "pipeline"));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "é".repeat(MAX_VALUE);
        assert_eq!(bounded(&long).len(), MAX_VALUE);
        assert_eq!(bounded(&format!("x{long}")).len(), MAX_VALUE - 1);
    }
}
