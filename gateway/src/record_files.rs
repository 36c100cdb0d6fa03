//! Files of records: a sink, the upload of its files, and their metrics.
//!
//! - *In*: `record_files` of the settings.
//! - *Out*: the sink, metrics, the problem of uploads.
//! - *Never*: a file that a thread of the data path writes or sends.

use std::io;
use std::sync::Arc;

use config::settings::{RecordFiles as Settings, RecordUpload};
use files::{Counters, FolderOptions, UploadSettings, Uploads};
use lens::observe::Samples;
use objects::{Bucket, BucketOptions, Credentials};
use observatory::Sink;
use plan::clock;
use serde_json::Value;

/// The counts of the sink and of the uploads, if there are any.
#[derive(Clone, Default)]
pub(crate) struct RecordFiles {
    files: Option<Arc<Counters>>,
    uploads: Option<Uploads>,
}

/// The sink of the settings.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordFiles, Option<Box<dyn Sink>>)> {
    let Some(folder) = &settings.path else { return Ok((RecordFiles::default(), None)) };
    let counters = Arc::<Counters>::default();
    let options = FolderOptions {
        format: settings.format,
        max_size: settings.rotate_size,
        interval: settings.rotate_interval,
        // A file that waits for its upload is not removed by its age.
        keep: settings.keep.filter(|_| settings.upload.is_none()),
    };
    let bucket = settings.upload.as_ref().map(bucket).transpose()?;
    let sink = files::sink(folder, options, counters.clone(), clock::wall_us)?;
    let files = Some(counters);
    let (Some(bucket), Some(upload)) = (bucket, &settings.upload) else {
        return Ok((RecordFiles { files, uploads: None }, Some(Box::new(sink))));
    };
    let (prefix, keep, max_waiting) = (upload.url.prefix(), settings.keep, upload.max_waiting);
    let settings = UploadSettings { prefix, keep, max_waiting };
    let (sink, uploads) = files::uploaded(sink, folder, bucket, settings)?;
    Ok((RecordFiles { files, uploads: Some(uploads) }, Some(sink)))
}

/// The bucket of the settings; values that they do not have come from the environment.
fn bucket(upload: &RecordUpload) -> io::Result<Bucket> {
    // Credentials of the settings are used as a whole.
    let is_replaced = |name: &str| {
        upload.keys.is_some() && matches!(name, "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY")
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|_| !is_replaced(name));
    let mut options = BucketOptions::from_variables(&upload.url, variable, clock::wall_us)
        .map_err(io::Error::other)?;
    options.endpoint = upload.endpoint.clone().or(options.endpoint);
    options.region = upload.region.clone().unwrap_or(options.region);
    options.ca = upload.ca.clone().or(options.ca);
    options.timeout = upload.timeout;
    if let Some((access_key, secret_key)) = &upload.keys {
        options.credentials = Some(Credentials {
            access_key: access_key.reveal().to_owned(),
            secret_key: secret_key.reveal().to_owned(),
            session_token: upload.session_token.as_ref().map(|token| token.reveal().to_owned()),
        });
    }
    Bucket::new(options).map_err(io::Error::other)
}

impl RecordFiles {
    /// Why uploads fail.
    pub(crate) fn problem(&self) -> Option<String> {
        self.uploads.as_ref()?.problem()
    }

    /// The uploads, for `/api/sinks`.
    pub(crate) fn row(&self) -> Option<Value> {
        self.uploads.as_ref().map(Uploads::row)
    }

    /// Adds its counts to `samples`.
    pub(crate) fn observe(&self, samples: &mut Samples) {
        let Some(counters) = &self.files else { return };
        let removed = counters.removed() + self.uploads.as_ref().map_or(0, Uploads::removed);
        samples.counts(&[
            ("llm_lens_record_files_completed_total", counters.completed()),
            ("llm_lens_record_files_failures_total", counters.failures()),
            ("llm_lens_record_files_removed_total", removed),
        ]);
        self.uploads.iter().for_each(|uploads| uploads.observe(samples));
    }
}
