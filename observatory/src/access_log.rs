//! The access log: appends a JSON line for each finished request to a file. Off by default.
//!
//! - *In*: records.
//! - *Out*: time, request, route, backend, outcome, sizes, tokens, duration.
//! - *Never*: a prompt, an answer, or a credential.

use std::io;
use std::path::Path;
use std::sync::Arc;

use lens::Record;
use serde::Serialize;

use crate::rotating_file::RotatingFile;
use crate::sink::{Sink, SinkError};

/// Writes the access log.
#[derive(Debug)]
pub struct AccessLog {
    file: RotatingFile,
}

/// A line of the access log.
#[derive(Serialize)]
struct Line<'r> {
    /// Wall-clock time of the first byte of the request, RFC 3339 in UTC.
    #[serde(with = "lens::record::rfc3339")]
    started_at: u64,
    id: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'r str>,
    endpoint: &'r str,
    route: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'r str>,
    status: Option<u16>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'r str>,
    stream: bool,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    /// Whether `input_tokens` is estimated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    input_estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    /// Whether `output_tokens` is estimated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_us: Option<u64>,
    total_us: u64,
}

impl AccessLog {
    /// Opens or creates the file. It rotates before it exceeds `max_size` bytes and keeps `keep`
    /// rotated files.
    ///
    /// # Errors
    /// The I/O error.
    pub fn open(path: &Path, max_size: u64, keep: usize) -> io::Result<Self> {
        Ok(AccessLog { file: RotatingFile::open(path.to_owned(), max_size, keep)? })
    }
}

impl Sink for AccessLog {
    fn name(&self) -> &'static str {
        "access_log"
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        let (mut lost, mut why) = (0, String::new());
        self.file.reopen_if_moved();
        for record in batch {
            let written =
                serde_json::to_vec(&line(record)).map_err(io::Error::from).and_then(|mut line| {
                    line.push(b'\n');
                    self.file.write(&line)
                });
            if let Err(error) = written {
                lost += 1;
                why = format!("{}: {error}", self.file.path().display());
            }
        }
        if lost == 0 { Ok(()) } else { Err(SinkError { lost, why }) }
    }
}

fn line(record: &Record) -> Line<'_> {
    let usage = record.usage.as_ref();
    Line {
        started_at: record.started_at,
        id: &record.id,
        trace_id: record.trace_id.as_deref(),
        caller: record.caller.as_deref(),
        endpoint: &record.endpoint,
        route: &record.route,
        backend: record.backend.as_deref(),
        model: record.model_requested.as_deref(),
        status: record.http_status,
        outcome: record.outcome.name(),
        error_code: record.error_code.as_deref(),
        stream: record.stream,
        bytes_in: record.bytes_from_client,
        bytes_out: record.bytes_to_client,
        input_tokens: usage.and_then(|usage| usage.prompt_tokens),
        input_estimated: usage.is_some_and(|usage| usage.prompt_estimated),
        output_tokens: usage.and_then(|usage| usage.completion_tokens),
        estimated: usage.is_some_and(|usage| usage.estimated),
        ttft_us: record.client_ttft_us,
        total_us: record.total_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::record;

    #[test]
    fn each_record_is_a_line_and_a_full_disk_is_counted() {
        let path =
            std::env::temp_dir().join(format!("llm-lens-access-{}.jsonl", std::process::id()));
        let mut log = AccessLog::open(&path, 1 << 20, 1).unwrap();
        let mut estimated = record("m\n2", "timeout");
        estimated.usage.as_mut().unwrap().estimated = true;
        let batch = [Arc::new(record("m1", "ok")), Arc::new(estimated)];
        assert_eq!(log.deliver(&batch), Ok(()));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].get("estimated"), &lines[1]["estimated"]), (None, &true.into()));
        assert_eq!((&lines[1]["model"], &lines[1]["outcome"]), (&"m\n2".into(), &"timeout".into()));
        // A file that was removed or renamed is created again.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.deliver(&batch[..1]), Ok(()));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        std::fs::remove_file(path).unwrap();
        let mut full = AccessLog::open(Path::new("/dev/full"), 1 << 20, 1).unwrap();
        assert!(matches!(full.deliver(&batch), Err(SinkError { lost: 2, .. })));
    }
}
