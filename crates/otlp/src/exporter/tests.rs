use std::collections::BTreeMap;

use lens::Record;
use observatory::{DropReason, SinkCounts, WhenFull};
use serde_json::json;

use super::*;

pub(super) fn record(number: u64) -> Arc<Record> {
    let record = json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r",
        "endpoint": "/v1/chat/completions", "dialect": "openai-chat", "stream": true, "outcome": "ok",
        "bytes_from_client": 10, "bytes_to_client": 20, "ledger_us": {}, "total_us": 1_000,
        "trace_id": format!("{number:032x}"), "span_id": format!("{number:016x}"),
        "provider": "vllm", "server": ""
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

/// Settings of a dead collector.
pub(super) fn settings(variables: &[(&str, &str)]) -> Settings {
    let always = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let variables: BTreeMap<String, String> = always
        .iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Settings::new(variables, &crate::FileSettings::default()).0.expect("an exporter")
}

fn sample(exporter: &Exporter, name: &str) -> f64 {
    let mut samples = Samples::default();
    exporter.observe(Tick(0), &mut samples);
    samples.into_vec().iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

fn dropped(counts: &SinkCounts) -> Vec<(DropReason, u64)> {
    counts.dropped_by_reason().filter(|(_, count)| *count > 0).collect()
}

fn traces_sink(exporter: &Exporter) -> (Box<dyn Sink>, Arc<SinkCounts>) {
    let mut sinks = exporter.sinks().unwrap();
    let sink = sinks.remove(0);
    let counts = sink.own_counts().expect("it delivers later");
    (sink, counts)
}

#[test]
fn each_exported_signal_has_a_sink() {
    let names = |variables: &[(&str, &str)]| -> Vec<&str> {
        let exporter = Exporter::new(settings(variables)).unwrap();
        exporter.sinks().unwrap().iter().map(|sink| sink.name()).collect()
    };
    assert_eq!(names(&[]), ["otlp_traces", "otlp_logs"]);
    assert_eq!(names(&[("OTEL_LOGS_EXPORTER", "none")]), ["otlp_traces"]);
    assert_eq!(names(&[("OTEL_TRACES_EXPORTER", "none")]), ["otlp_logs"]);
}

#[test]
fn the_queue_is_bounded_and_what_does_not_fit_is_counted() {
    let few = [("OTEL_BSP_MAX_QUEUE_SIZE", "3"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
    let exporter = Exporter::new(settings(&few)).unwrap();
    let (mut sink, counts) = traces_sink(&exporter);
    let batch: Vec<_> = (1..=5).map(record).collect();
    assert_eq!(sink.deliver(&batch), Ok(()));
    assert_eq!(dropped(&counts), [(DropReason::QueueFull, 2)]);
    sink.stop();
    sink.flush();
    let lost = [(DropReason::QueueFull, 2), (DropReason::Shutdown, 3)];
    assert_eq!(dropped(&counts), lost, "the collector is dead");
    assert!(sample(&exporter, "llm_lens_otlp_failures_total") >= 1.0);
}

#[test]
fn records_without_ids_and_unsampled_traces_are_not_queued() {
    let none = [("OTEL_TRACES_SAMPLER_ARG", "0"), ("OTEL_TRACES_SAMPLER", "traceidratio")];
    let exporter = Exporter::new(settings(&none)).unwrap();
    let (mut sink, counts) = traces_sink(&exporter);
    let mut without = (*record(1)).clone();
    without.trace = None;
    assert_eq!(sink.deliver(&[record(2), Arc::new(without)]), Ok(()));
    assert_eq!(counts.delivery().unwrap().queued(), 0);
    assert_eq!(sample(&exporter, "llm_lens_otlp_unsampled_traces_total"), 1.0);
}

/// The records that a tail decision keeps have the keys that all records together would have.
#[test]
fn each_signal_spills_sampled_records_to_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&[]);
    settings.spill = Some(SpillSettings {
        path: folder.path().join("otlp"),
        max_size: 64 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
    });
    if let Some(traces) = &mut settings.traces {
        traces.sampler.share = 0.5;
    }
    let exporter = Exporter::new(settings).unwrap();
    let mut sinks = exporter.sinks().unwrap();
    // The low half of the trace ids is sampled.
    let batch = [record(1), record(u64::MAX), record(2)];
    sinks.iter_mut().for_each(|sink| sink.deliver(&batch).unwrap());
    let counts: Vec<_> = sinks.iter().filter_map(|sink| sink.own_counts()).collect();
    sinks.iter_mut().for_each(|sink| sink.stop());
    sinks.iter_mut().for_each(|sink| sink.flush());
    let spilled: Vec<u64> =
        counts.iter().map(|counts| counts.delivery().unwrap().spilled()).collect();
    assert_eq!(spilled, [2, 3]);
    for signal in ["traces", "logs"] {
        assert!(folder.path().join("otlp").join(signal).join("ledger").exists(), "{signal}");
    }
    // The next process finds them.
    drop(sinks);
    let waiting: Vec<u64> = exporter
        .sinks()
        .unwrap()
        .iter()
        .map(|sink| sink.own_counts().unwrap().delivery().unwrap().spilled())
        .collect();
    assert_eq!(waiting, [2, 3]);
}

#[test]
fn a_spill_that_cannot_be_used_is_named() {
    let mut settings = settings(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    settings.spill = Some(SpillSettings {
        path: file.path().to_owned(),
        max_size: 64 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
    });
    let error = Exporter::new(settings).unwrap().sinks().err().expect("a file is no folder");
    assert!(error.to_string().starts_with("otlp.spill.path: "), "{error}");
}
