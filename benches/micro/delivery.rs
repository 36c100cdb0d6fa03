//! The cost of a record on its way to a destination: in memory, and through a spill.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lens::record::Outcome;
use lens::{Record, Tick};
use observatory::{
    DeliveryError, DeliverySettings, DeliverySink, Destination, Group, NumberedRecord, Observatory,
    RecordKey, SeriesKey, Sink as _, SinkCounts, SpillSettings, WhenFull,
};

/// Half of the queue of each of two workers: the pump wakes up.
const RECORDS: u64 = 4096;

/// Accepts or refuses all batches.
struct Constant(Result<(), DeliveryError>);

impl Destination for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn deliver(&mut self, _: &[NumberedRecord], _: Duration) -> Result<(), DeliveryError> {
        self.0.clone()
    }
}

fn settings(spill: Option<SpillSettings>) -> DeliverySettings {
    DeliverySettings {
        batch: 512,
        queue: 16_384,
        linger: Duration::ZERO,
        timeout: Duration::from_secs(10),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(30),
        spill,
    }
}

/// A record of about a kilobyte, as a streamed answer leaves it.
fn record() -> Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "0198b6c4-8d7e-7cc3-9a5c-b8e4aa72ab1b", "started_at": "2026-01-02T03:04:05.678901Z", "route": "chat",
        "backend": "gpu-7", "dialect": "openai_chat", "endpoint": "/v1/chat/completions", "caller": "search", "owner": "team",
        "model_requested": "m1", "model_answered": "m1", "http_status": 200, "stream": true, "outcome": "ok", "finish_reasons": ["stop"],
        "usage": {"prompt_tokens": 512, "completion_tokens": 200, "estimated": false}, "events": 203, "content_events": 200,
        "bytes_from_client": 4000, "bytes_to_client": 50_000, "sent_us": 300, "engine_us": 900_000, "engine_ttft_us": 20_000,
        "client_ttft_us": 20_500, "tpot_us": 8_000.4,
        "marks_us": {"first_byte": {"arrival": 1, "written": 2}, "first_token": {"arrival": 3, "written": 4}, "last_token": {"arrival": 5, "written": 6}},
        "itl_us": {"count": 199, "mean": 8000.4, "p50": 8000, "p90": 9000, "p99": 12_000, "max": 30_000},
        "ledger_us": {"await_token": 80_000, "gateway": 20_000}, "total_us": 100_000
    }))
    .expect("a record")
}

fn wait(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

pub(crate) fn delivery(c: &mut Criterion) {
    let mut group = c.benchmark_group("records");
    group.throughput(Throughput::Elements(RECORDS));
    in_memory(&mut group);
    through_a_spill(&mut group);
    group.finish();
}

type Benches<'c> = criterion::BenchmarkGroup<'c, criterion::measurement::WallTime>;

/// Series, pump, queue and sender included.
fn in_memory(group: &mut Benches<'_>) {
    let sink = DeliverySink::start(Constant(Ok(())), settings(None)).expect("starts");
    let observatory = Observatory::new(2, 1000, vec![Box::new(sink)]);
    let counts = observatory.sinks().last().expect("a sink").clone();
    let (id, _gauges) = observatory.group(Group {
        route: "chat".into(),
        backend: "gpu-7".into(),
        provider: "vllm".into(),
        operation: "chat",
        models: Vec::new().into(),
        labels: Vec::new().into(),
        server: "127.0.0.1:8000".into(),
    });
    let key = SeriesKey { group: id, model: 0, outcome: Outcome::Ok };
    let (record, mut sent) = (record(), 0);
    group.bench_function("from workers to a destination in memory", |b| {
        b.iter(|| {
            for worker in 0..RECORDS as usize {
                observatory.finished(worker, key, record.clone(), Tick(1));
            }
            sent += RECORDS;
            wait(|| counts.delivered() + counts.dropped() >= sent);
        });
    });
    assert_eq!(counts.dropped(), 0);
}

/// Written and synced, while the destination is unavailable.
fn through_a_spill(group: &mut Benches<'_>) {
    let path = std::env::temp_dir().join(format!("llm-lens-spill-{}", std::process::id()));
    let down = DeliveryError::Retryable { why: "down".into(), after: None };
    let spill = SpillSettings {
        path: path.clone(),
        max_size: 64 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
    };
    let mut sink = DeliverySink::start(Constant(Err(down)), settings(Some(spill))).expect("starts");
    let counts = sink.own_counts().expect("it counts");
    let records: Vec<Arc<Record>> = (0..RECORDS).map(|_| Arc::new(record())).collect();
    let first = RecordKey { instance: "i".into(), epoch: 1, sequence: 0 };
    let mut sent = 0;
    group.bench_function("written to a spill and synced", |b| {
        b.iter(|| {
            let _ = sink.deliver_numbered(&first.plus(sent), &records);
            sent += RECORDS;
            wait(|| queued(&counts) < RECORDS);
        });
    });
    drop(sink);
    remove(path);
}

fn queued(counts: &SinkCounts) -> u64 {
    counts.delivery().map_or(0, observatory::DeliveryCounts::queued)
}

fn remove(path: PathBuf) {
    let _ = std::fs::remove_dir_all(path);
}
