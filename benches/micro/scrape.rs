//! A scrape of 200 routes with 10 backends each, after four streams by each of four workers.

use criterion::{BatchSize, Criterion};
use lens::record::Outcome;
use lens::{Record, Tick};
use observatory::{Format, Group, Observatory, SeriesKey};

const ROUTES: usize = 200;
const BACKENDS: usize = 10;
const WORKERS: usize = 4;

pub(crate) fn scrape(c: &mut Criterion) {
    let observatory = observed();
    let mut group = c.benchmark_group("a scrape of 2,000 routes x backends");
    for (name, format) in
        [("text, classic buckets", Format::Text), ("protobuf, native histograms", Format::Protobuf)]
    {
        println!(
            "{name}: {:.1} MB",
            observatory.prometheus(format, Vec::new()).iter().map(Vec::len).sum::<usize>() as f64
                / 1e6
        );
        group.sample_size(20).bench_function(name, |b| {
            b.iter_batched(
                Vec::new,
                |more| observatory.prometheus(format, more),
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

fn observed() -> Observatory {
    let observatory = Observatory::new(WORKERS, 1, Vec::new());
    for (route, backend) in
        (0..ROUTES).flat_map(|route| (0..BACKENDS).map(move |backend| (route, backend)))
    {
        let (group, _) = observatory.group(Group {
            route: format!("route-{route}").into(),
            backend: format!("backend-{backend}").into(),
            provider: "vllm".into(),
            operation: "chat",
            models: ["meta-llama/Llama-3.1-8B".to_owned()].into(),
            labels: [].into(),
            server: "10.0.0.1:8000".into(),
        });
        let key = SeriesKey { group, model: 1, outcome: Outcome::Ok };
        for (worker, step) in (0..WORKERS).flat_map(|worker| (0..4).map(move |step| (worker, step)))
        {
            let spread = 1_000 * (1 + (route + backend + worker) as u64 % 50) + 137 * step;
            observatory.gaps(
                worker,
                key,
                (1..30).map(|i| spread + i * 500),
                (1..30).map(|i| spread + i * 510),
            );
            observatory.finished(worker, key, record(spread), Tick(1));
        }
    }
    observatory
}

/// A stream with all marks of a chat.
fn record(spread: u64) -> Record {
    let mark = |at: u64| serde_json::json!({"arrival": 300 + at, "write": 320 + at});
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "endpoint": "/v1/chat/completions", "stream": true,
        "model_requested": "m", "outcome": "ok", "bytes_from_client": 900, "bytes_to_client": 9_000, "events": 32, "content_events": 30,
        "engine_us": 90_000 + spread, "engine_ttft_us": 20_000 + spread, "client_ttft_us": 20_500 + spread, "tpot_us": 8_000.4, "sent_us": 300,
        "marks_us": {"first_byte": mark(spread), "first_event": mark(spread + 10), "role": mark(spread + 10), "content": mark(20_000 + spread),
            "first_token": mark(20_000 + spread), "last_token": mark(90_000 + spread)},
        "usage": {"prompt_tokens": 100, "completion_tokens": 30, "estimated": false},
        "ledger_us": {"await_token": 80_000, "gateway": 200, "connect": 300}, "total_us": 90_900 + spread
    }))
    .expect("a record")
}
