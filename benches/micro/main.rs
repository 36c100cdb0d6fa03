//! Microbenchmarks: the cost of one event, one request, one head, without a socket.
//!
//! `cargo bench -p llm-lens-benches --bench micro`. The targets are in `docs/performance.md`.

mod delivery;
mod guards;
#[path = "routing.rs"]
mod routing_bench;
mod scrape;
mod traffic;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use http1::head::{self, HeadLimits};
use lens::{Ledger, Series, State, StreamLens, Tick, Timing};
use wire::{Dialect, Event, EventVisitor, Framing, Kinds, Reader, ReaderLimits, RequestFacts};

/// A chat event of about 250 bytes, as vLLM writes it.
const EVENT: &str = "data: {\"id\":\"chatcmpl-9a5cb8e4aa72ab1b9a5cb8e4\",\"object\":\"chat.completion.chunk\",\"created\":1795316390,\"model\":\"meta-llama/Llama-3.1-8B\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" something\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n";

fn framing(c: &mut Criterion) {
    let stream = EVENT.repeat(64);
    let mut group = c.benchmark_group("framing");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("sse, 64 events in a read", |b| {
        b.iter(|| {
            let mut decoder = wire::sse::Decoder::new(1 << 20);
            let mut frames = 0;
            decoder.feed(black_box(stream.as_bytes()), |_| frames += 1);
            assert_eq!(frames, 64);
        });
    });
    group.finish();
}

fn classify(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one chat event of 250 bytes, framing included", |b| {
        let mut reader = Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        b.iter(|| reader.feed(black_box(EVENT.as_bytes()), &mut ()));
    });
    // A new reader has no known shape of an event: it scans the first one.
    group.bench_function("the same, scanned", |b| {
        let fresh = || Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default());
        b.iter_batched_ref(
            fresh,
            |reader| reader.feed(black_box(EVENT.as_bytes()), &mut ()),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn marks(c: &mut Criterion) {
    let mut group = c.benchmark_group("marks");
    group.throughput(Throughput::Elements(1));
    group.bench_function("ledger and stream marks of one event, arrival and write", |b| {
        let mut lens = StreamLens::new(true, 1_000_000_000);
        let mut ledger = Ledger::open(State::AwaitToken, Tick(0));
        let mut series = Series::default();
        let event = token_event();
        let (mut now, mut bytes) = (0, 0);
        b.iter(|| {
            now += 10_000_000;
            bytes += event.end as u64;
            ledger.switch(State::Gateway, Tick(now));
            lens.begin_read(Tick(now));
            lens.at(bytes - event.end as u64);
            lens.event(black_box(&event));
            lens.written(bytes, Tick(now + 5_000));
            ledger.switch(State::AwaitToken, Tick(now + 5_000));
            if lens.needs_flush() {
                let (itl, client) = lens.drain_gaps();
                itl.for_each(|gap| series.record(Timing::Itl, gap));
                client.for_each(|gap| series.record(Timing::ClientItl, gap));
            }
        });
    });
    group.finish();
}

/// An event as reported by the reader.
fn token_event() -> Event {
    struct Last(Option<Event>);
    impl EventVisitor for Last {
        fn event(&mut self, event: &Event) {
            self.0 = Some(*event);
        }
    }
    let mut last = Last(None);
    Reader::new(Dialect::OpenAiChat, Framing::Sse, ReaderLimits::default())
        .feed(EVENT.as_bytes(), &mut last);
    let event = last.0.expect("one event");
    assert!(event.kinds.has(Kinds::CONTENT));
    event
}

fn facts(c: &mut Criterion) {
    let text = "The sea is wide, deep and cold; ships cross it slowly. ".repeat(300);
    let body = format!(
        "{{\"model\":\"m\",\"stream\":true,\"messages\":[{{\"role\":\"system\",\"content\":\"Be kind.\"}},{{\"role\":\"user\",\"content\":\"{text}\"}}],\"max_tokens\":64}}"
    );
    let mut group = c.benchmark_group("request facts");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("a body of 16 KiB", |b| {
        b.iter(|| RequestFacts::scan(black_box(body.as_bytes())).expect("valid"))
    });
    group.finish();
}

fn heads(c: &mut Criterion) {
    let head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nuser-agent: OpenAI/Python 1.99\r\naccept: application/json\r\ncontent-type: application/json\r\nauthorization: Bearer sk-0123456789\r\nx-stainless-lang: python\r\nx-stainless-os: Linux\r\ncontent-length: 512\r\n\r\n";
    c.bench_function("a request head of nine fields", |b| {
        b.iter(|| {
            let end = head::find_end(black_box(head), 0, HeadLimits::default())
                .expect("valid")
                .expect("whole");
            let mut fields = head::field_buffer();
            head::parse_request(&head[..end], &mut fields, HeadLimits::default())
                .expect("valid")
                .len
        });
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    framing(&mut criterion);
    classify(&mut criterion);
    marks(&mut criterion);
    facts(&mut criterion);
    heads(&mut criterion);
    guards::prompts(&mut criterion);
    guards::streams(&mut criterion);
    routing_bench::choice(&mut criterion);
    traffic::identity(&mut criterion);
    traffic::decision(&mut criterion);
    scrape::scrape(&mut criterion);
    delivery::delivery(&mut criterion);
    criterion.final_summary();
}
