//! The upload of complete files: a sink of files with an uploader behind it.
//!
//! - *In*: the sink of a folder, a bucket.
//! - *Out*: a sink that completes its last file before the uploads end; counts, and the problem of
//!   uploads.
//! - *Never*: a file that is not complete in the bucket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lens::Record;
use lens::observe::Samples;
use objects::{Bucket, UploadCounters, UploadOptions, Uploader};
use observatory::{DeliverySink, RecordKey, Sink, SinkCounts, SinkError};
use serde_json::{Value, json};

use crate::folder::object_name;

/// Interval at which the folder is read for complete files.
const INTERVAL: Duration = Duration::from_secs(1);
/// Wait after the first failed upload, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// What is uploaded, and how long it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadSettings {
    /// What names of objects begin with.
    pub prefix: String,
    /// How long uploaded files stay in the folder `uploaded`; `None`: they are removed at once.
    pub keep: Option<Duration>,
    /// Bytes of files that wait. The oldest are removed beyond it.
    pub max_waiting: u64,
}

/// The counts of uploads.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<UploadCounters>);

/// A sink whose files, those of `folder`, are uploaded to a bucket.
///
/// # Errors
/// The thread cannot be started.
pub fn uploaded(
    sink: DeliverySink,
    folder: &Path,
    bucket: Bucket,
    settings: UploadSettings,
) -> io::Result<(Box<dyn Sink>, Uploads)> {
    let UploadSettings { prefix, keep, max_waiting } = settings;
    let host = RecordKey::first().instance;
    let options = UploadOptions {
        folder: folder.to_owned(),
        object_name: Box::new(move |file| Some(format!("{prefix}{}", object_name(file, &host)?))),
        keep,
        max_waiting,
        interval: INTERVAL,
        backoff: BACKOFF,
    };
    let counters = Arc::<UploadCounters>::default();
    let uploader = Uploader::start(bucket, options, counters.clone())?;
    Ok((Box::new(UploadedFiles { sink, uploader }), Uploads(counters)))
}

/// A sink of files that are uploaded. It completes its last file before the uploads end.
struct UploadedFiles {
    sink: DeliverySink,
    uploader: Uploader,
}

impl Sink for UploadedFiles {
    fn name(&self) -> &'static str {
        self.sink.name()
    }

    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        self.sink.deliver(batch)
    }

    fn deliver_numbered(
        &mut self,
        first: &RecordKey,
        batch: &[Arc<Record>],
    ) -> Result<(), SinkError> {
        self.sink.deliver_numbered(first, batch)
    }

    fn stop(&mut self) {
        self.sink.stop();
    }

    fn flush(&mut self) {
        self.sink.flush();
        self.uploader.end();
    }

    fn own_counts(&self) -> Option<Arc<SinkCounts>> {
        self.sink.own_counts()
    }
}

impl Uploads {
    /// Why uploads fail.
    pub fn problem(&self) -> Option<String> {
        let (problem, waiting) = (self.0.problem()?, self.0.waiting());
        Some(format!("uploads of files of records fail, {waiting} files wait: {problem}"))
    }

    /// A row for `/api/sinks`.
    pub fn row(&self) -> Value {
        json!({
            "sink": "uploads",
            "files": self.0.stored() + self.0.stored_before(),
            "waiting": self.0.waiting(),
            "waiting_bytes": self.0.waiting_bytes(),
            "dropped": self.0.dropped(),
            "last_error": self.0.problem(),
        })
    }

    /// Uploaded files removed because of their age.
    pub fn removed(&self) -> u64 {
        self.0.removed()
    }

    /// Adds its counts to `samples`.
    pub fn observe(&self, samples: &mut Samples) {
        let uploads = &self.0;
        samples.counts(&[
            ("llm_lens_record_upload_dropped_files_total", uploads.dropped()),
            ("llm_lens_record_upload_failures_total", uploads.failures()),
            ("llm_lens_record_upload_sent_bytes_total", uploads.bytes()),
            ("llm_lens_record_upload_waiting_bytes", uploads.waiting_bytes()),
            ("llm_lens_record_upload_waiting_files", uploads.waiting()),
        ]);
        for (result, count) in [("created", uploads.stored()), ("existed", uploads.stored_before())]
        {
            let label = ("result", result);
            samples.push_with("llm_lens_record_upload_files_total", label, count as f64);
        }
    }
}
