//! The sinks of records that the settings name.

use std::sync::Arc;

use audit_log::{AuditLog, ChainKey, PublishedHead};
use config::Settings;
use observatory::{AccessLog, Observatory, Sink, StatisticsSink};
use plan::clock;
use stats::Statistics;

use super::StartError;
use crate::record_files::{self, RecordFiles};
use crate::record_store::{self, RecordStore};
use crate::telemetry::Otlp;

/// The observatory with its sinks.
pub(super) struct Opened {
    pub(super) observatory: Arc<Observatory>,
    /// Of the records.
    pub(super) statistics: Arc<Statistics>,
    /// The head of the audit log, if there is one.
    pub(super) audit_head: Option<PublishedHead>,
}

/// The observatory with its sinks, of which some are given.
pub(super) fn observatory(
    settings: &Settings,
    workers: usize,
    otlp: &Otlp,
    given: impl IntoIterator<Item = Box<dyn Sink>>,
) -> Result<Opened, StartError> {
    let statistics = Arc::new(Statistics::new(clock::now()));
    let counting: Box<dyn Sink> = Box::new(StatisticsSink::new(statistics.clone(), clock::now));
    let more = otlp.sinks()?.into_iter().chain(given);
    let sinks = [counting].into_iter().chain(sinks(settings)?).chain(more).collect();
    let traces = otlp.traces().unwrap_or_default();
    let observatory = Observatory::new(workers, settings.limits.records, sinks).with_traces(traces);
    let log = audit_log(settings)?;
    let audit_head = log.as_ref().map(AuditLog::published);
    let observatory = match log {
        Some(log) => observatory.with_audit_log(workers, Box::new(log)),
        None => observatory,
    };
    Ok(Opened { observatory: Arc::new(observatory), statistics, audit_head })
}

/// Sinks of records, besides the list of recent ones.
fn sinks(settings: &Settings) -> Result<Vec<Box<dyn Sink>>, StartError> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    let config::settings::AccessLog { file, max_size, keep, .. } = &settings.access_log;
    if let Some(path) = file {
        let wrong = |why| StartError::Sink { sink: "access log", path: path.clone(), why };
        sinks.push(Box::new(AccessLog::open(path, *max_size, *keep).map_err(wrong)?));
    }
    Ok(sinks)
}

/// The store of records and its sink, if one is configured.
pub(super) fn record_store(
    settings: &Settings,
) -> Result<(RecordStore, Option<Box<dyn Sink>>), StartError> {
    record_store::open(&settings.record_store).map_err(|why| {
        let store = &settings.record_store;
        let spill = store.spill.as_ref().map(|spill| spill.path.clone());
        let path = store.path.clone().or(spill).unwrap_or_default();
        StartError::Sink { sink: "record store", path, why }
    })
}

/// The files of records and their sink, if they are configured.
pub(super) fn record_files(
    settings: &Settings,
) -> Result<(RecordFiles, Option<Box<dyn Sink>>), StartError> {
    record_files::open(&settings.record_files).map_err(|why| {
        let path = settings.record_files.path.clone().unwrap_or_default();
        StartError::Sink { sink: "record files", path, why }
    })
}

/// The audit log, if one is configured.
fn audit_log(settings: &Settings) -> Result<Option<AuditLog>, StartError> {
    let config::settings::Audit { file, chain_key, max_size, keep, .. } = &settings.audit;
    let Some(path) = file else { return Ok(None) };
    let wrong = |why| StartError::Sink { sink: "audit log", path: path.clone(), why };
    let key = chain_key.as_ref().map(|key| ChainKey::new(key.reveal().as_bytes()));
    AuditLog::open(path, *max_size, *keep, key).map(Some).map_err(wrong)
}
