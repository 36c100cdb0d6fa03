//! The sinks of records that the settings name, and the recorder of contents.

use std::io;
use std::sync::Arc;

use audit_log::{AuditLog, ChainKey, PublishedHead};
use config::Settings;
use contents::{ContentOptions, Keys, MasterKey, Recorder};
use observatory::{AccessLog, Observatory, Sink, StatisticsSink};
use plan::clock;
use stats::Statistics;

use super::StartError;
use crate::record_files::{self, RecordFiles};
use crate::record_store::{self, RecordStore};
use crate::telemetry::{Certificates, Observed, Otlp};

/// The observatory with its sinks.
pub(super) struct Opened {
    pub(super) observatory: Arc<Observatory>,
    /// Of the records.
    pub(super) statistics: Arc<Statistics>,
    pub(super) record_store: RecordStore,
    pub(super) record_files: RecordFiles,
    /// The head of the audit log, if there is one.
    pub(super) audit_head: Option<PublishedHead>,
    /// Stores prompts and answers, if there is a folder for them.
    pub(super) contents: Option<Arc<Recorder>>,
}

impl Opened {
    /// What has samples, with the certificates of listeners.
    pub(super) fn into_observed(self, certificates: Certificates) -> Observed {
        let Opened { record_store, record_files, audit_head, .. } = self;
        Observed { certificates, record_store, record_files, audit_head, access: Arc::default() }
    }
}

/// Opens the sinks, and the observatory that `workers` deliver to.
pub(super) fn open(settings: &Settings, workers: usize, otlp: &Otlp) -> Result<Opened, StartError> {
    let (record_store, store_sink) = open_store(settings)?;
    let (record_files, files_sink) = open_files(settings)?;
    let statistics = Arc::new(Statistics::new(clock::now()));
    let counting: Box<dyn Sink> = Box::new(StatisticsSink::new(statistics.clone(), clock::now));
    let mut sinks = vec![counting];
    sinks.extend(access_log(settings)?);
    sinks.extend(otlp.sinks()?);
    sinks.extend(store_sink.into_iter().chain(files_sink));
    let traces = otlp.traces().unwrap_or_default();
    let observatory = Observatory::new(workers, settings.limits.records, sinks).with_traces(traces);
    let (contents, log) = (recorder(settings)?, audit_log(settings)?);
    let audit_head = log.as_ref().map(AuditLog::published);
    let observatory = match log {
        Some(log) => observatory.with_audit_log(workers, Box::new(log)),
        None => observatory,
    };
    let observatory = Arc::new(observatory);
    Ok(Opened { observatory, statistics, record_store, record_files, audit_head, contents })
}

/// The access log, if one is configured.
fn access_log(settings: &Settings) -> Result<Option<Box<dyn Sink>>, StartError> {
    let config::settings::AccessLog { file, max_size, keep, .. } = &settings.access_log;
    let Some(path) = file else { return Ok(None) };
    let wrong = |why| StartError::Sink { sink: "access log", path: path.clone(), why };
    let log = AccessLog::open(path, *max_size, *keep).map_err(wrong)?;
    Ok(Some(Box::new(log)))
}

/// The store of records and its sink, if one is configured.
fn open_store(settings: &Settings) -> Result<(RecordStore, Option<Box<dyn Sink>>), StartError> {
    record_store::open(&settings.record_store).map_err(|why| {
        let store = &settings.record_store;
        let spill = store.spill.as_ref().map(|spill| spill.path.clone());
        let path = store.path.clone().or(spill).unwrap_or_default();
        StartError::Sink { sink: "record store", path, why }
    })
}

/// The files of records and their sink, if they are configured.
fn open_files(settings: &Settings) -> Result<(RecordFiles, Option<Box<dyn Sink>>), StartError> {
    record_files::open(&settings.record_files).map_err(|why| {
        let path = settings.record_files.path.clone().unwrap_or_default();
        StartError::Sink { sink: "record files", path, why }
    })
}

/// The recorder of prompts and answers, if there is a folder for them.
fn recorder(settings: &Settings) -> Result<Option<Arc<Recorder>>, StartError> {
    let config::settings::Contents { path, key, previous_keys, keep, max_size, max_text, .. } =
        &settings.contents;
    let (Some(path), Some(key)) = (path, key) else { return Ok(None) };
    let wrong = |why| StartError::Sink { sink: "contents", path: path.clone(), why };
    let read = |key: &str| MasterKey::from_hex(key).map_err(|why| wrong(io::Error::other(why)));
    let previous = previous_keys.iter().flat_map(|keys| keys.reveal().split(','));
    let options = ContentOptions {
        folder: path.clone(),
        keys: Keys {
            current: read(key.reveal())?,
            previous: previous.map(read).collect::<Result<_, _>>()?,
        },
        keep: *keep,
        max_size: *max_size,
        max_text: *max_text,
        wall_us: clock::wall_us,
    };
    Recorder::start(options).map(|recorder| Some(Arc::new(recorder))).map_err(wrong)
}

/// The audit log, if one is configured.
fn audit_log(settings: &Settings) -> Result<Option<AuditLog>, StartError> {
    let config::settings::Audit { file, chain_key, max_size, keep, .. } = &settings.audit;
    let Some(path) = file else { return Ok(None) };
    let wrong = |why| StartError::Sink { sink: "audit log", path: path.clone(), why };
    let key = chain_key.as_ref().map(|key| ChainKey::new(key.reveal().as_bytes()));
    AuditLog::open(path, *max_size, *keep, key).map(Some).map_err(wrong)
}
