use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn record(number: u64) -> Arc<Record> {
    let record = json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r",
        "endpoint": "/v1/chat/completions", "dialect": "openai-chat", "stream": true, "outcome": "ok",
        "bytes_from_client": 10, "bytes_to_client": 20, "ledger_us": {}, "total_us": 1_000,
        "trace_id": format!("{number:032x}"), "span_id": format!("{number:016x}"),
        "provider": "vllm", "server": ""
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

fn settings(max_queued: &str) -> Settings {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", max_queued),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let variables: BTreeMap<String, String> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Settings::new(variables, &crate::FileSettings::default()).0.expect("an exporter")
}

fn sample(exporter: &Exporter, name: &str) -> f64 {
    let mut samples = Samples::default();
    exporter.observe(Tick(0), &mut samples);
    samples.into_vec().iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

#[test]
fn the_queue_is_bounded_and_what_does_not_fit_is_counted() {
    let exporter = Exporter::new(settings("3")).unwrap();
    let mut sink = exporter.sink();
    let batch: Vec<_> = (1..=5).map(record).collect();
    let error = sink.deliver(&batch).unwrap_err();
    assert_eq!(error.lost, 2, "{error}");
    assert_eq!(sample(&exporter, "llm_lens_otlp_queued_spans"), 3.0);
    assert_eq!(sample(&exporter, "llm_lens_otlp_dropped_total"), 2.0);
    // A sink that never started ends at once.
    sink.flush();
}

#[test]
fn records_without_ids_and_unsampled_traces_are_not_queued() {
    let mut unsampled = settings("100");
    if let Some(traces) = &mut unsampled.traces {
        traces.sampler.share = 0.0;
    }
    let exporter = Exporter::new(unsampled).unwrap();
    let mut sink = exporter.sink();
    let mut without = (*record(1)).clone();
    without.trace = None;
    assert_eq!(sink.deliver(&[record(2), Arc::new(without)]), Ok(()));
    assert_eq!(sample(&exporter, "llm_lens_otlp_queued_spans"), 0.0);
    assert_eq!(sample(&exporter, "llm_lens_otlp_unsampled_traces_total"), 1.0);
}

#[test]
fn batches_are_whole_traces() {
    let span = || Span::default();
    let mut queue = Queue::default();
    for spans in [2, 2, 5, 1] {
        queue.traces.push_back((0..spans).map(|_| span()).collect());
        queue.spans += spans;
    }
    let sizes: Vec<usize> =
        std::iter::from_fn(|| Some(queue.take(4).len()).filter(|n| *n > 0)).collect();
    assert_eq!((sizes, queue.spans), (vec![4, 5, 1], 0));
}

#[test]
fn each_process_is_an_instance() {
    let id = |resource: &Resource| {
        let pair = resource.attributes.iter().find(|pair| pair.key == "service.instance.id");
        format!("{:?}", pair.expect("it has one").value)
    };
    let settings = settings("1");
    assert_ne!(id(&resource(&settings)), id(&resource(&settings)));
}
