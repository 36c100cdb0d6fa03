//! Export to an OpenTelemetry collector, over HTTP.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::client::PATIENCE;
use kit::engine::{Seen, Step};
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

const PATH: &str = "/v1/chat/completions";
const BODY: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a secret prompt"}]}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn ok() -> Vec<Step> {
    vec![Step::text("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]
}

fn is_of(seen: &Seen, signal: &str) -> bool {
    seen.head.starts_with(&format!("POST /v1/{signal} "))
}

fn is_traces(seen: &Seen) -> bool {
    is_of(seen, "traces")
}

/// All spans that a collector got.
fn spans(collector: &Engine) -> Vec<Span> {
    spans_of(collector.seen())
}

fn spans_of(seen: Vec<Seen>) -> Vec<Span> {
    seen.into_iter()
        .filter(is_traces)
        .map(|seen| ExportTraceServiceRequest::decode(&*seen.body).expect("spans"))
        .flat_map(|message| message.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

/// All log records that a collector got.
fn logs_of(seen: Vec<Seen>) -> Vec<LogRecord> {
    seen.into_iter()
        .filter(|seen| is_of(seen, "logs"))
        .map(|seen| ExportLogsServiceRequest::decode(&*seen.body).expect("logs"))
        .flat_map(|message| message.resource_logs)
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect()
}

/// The text of an attribute; empty if it is absent.
fn word(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

/// All metrics that a collector got.
fn metrics(collector: &Engine) -> Vec<Metric> {
    let bodies = collector.seen().into_iter().filter(|seen| is_of(seen, "metrics"));
    bodies
        .map(|seen| ExportMetricsServiceRequest::decode(&*seen.body).expect("metrics"))
        .flat_map(|message| message.resource_metrics)
        .flat_map(|resource| resource.scope_metrics)
        .flat_map(|scope| scope.metrics)
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `traceparent` that an engine got, by its parts.
fn traceparent(seen: &Seen) -> Vec<String> {
    let line = seen.head.lines().find_map(|line| line.strip_prefix("traceparent: "));
    line.expect("a traceparent").split('-').map(str::to_owned).collect()
}

async fn gateway(collector: &Engine, settings: &str, variables: &[(&str, &str)]) -> Gateway {
    let text = format!("otlp: {{endpoint: \"{}\"}}\n{settings}", collector.url());
    Gateway::with_command(&text, |command| {
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_BLRP_SCHEDULE_DELAY", "50");
        command.env("OTEL_METRIC_EXPORT_INTERVAL", "200");
        command.envs(variables.iter().copied());
    })
    .await
}

fn one_backend(engine: &Engine) -> String {
    format!(
        "backends: [{{name: b, url: \"{}\"}}]\nroutes: [{{name: chat, backend: b}}]\n",
        engine.url()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_a_part_of_its_clients_trace_and_of_the_metrics() {
    let engine = Engine::start(|_| sse::stream(3, 2)).await;
    let collector = Engine::start(|_| ok()).await;
    let gateway = gateway(&collector, &one_backend(&engine), &[]).await;
    let mut client = gateway.client().await;
    let fields = format!(
        "authorization: Bearer sk-credential\r\nx-request-id: traced\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n"
    );
    client.post(PATH, &fields, BODY).await;
    client.answer().await;
    gateway.wait_until(|_| spans(&collector).len() >= 2).await;
    let spans = spans(&collector);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect("it is there");
    let (server, call) = (named("POST chat"), named("chat m"));
    assert_eq!(hex(&server.parent_span_id), PARENT);
    assert_eq!(call.parent_span_id, server.span_id);
    // The engine's spans are children of the call's.
    let upstream = traceparent(&engine.seen()[0]);
    assert_eq!(upstream, ["00", TRACE, &hex(&call.span_id), "01"]);
    assert!(server.start_time_unix_nano <= call.start_time_unix_nano);
    assert!(call.end_time_unix_nano <= server.end_time_unix_nano);
    assert_eq!(call.events[0].name, "llm_lens.first_token");
    let is_exported = |name: &str| metrics(&collector).iter().any(|metric| metric.name == name);
    for name in [
        "gen_ai.client.operation.duration",
        "gen_ai.server.time_to_first_token",
        "llm_lens.client_ttft",
        "llm_lens.otlp_exported",
    ] {
        gateway.wait_until(|_| is_exported(name)).await;
    }
    assert!(!is_exported("gen_ai.client.inference.duration"));
    gateway.wait_until(|_| !logs_of(collector.seen()).is_empty()).await;
    let log = &logs_of(collector.seen())[0];
    assert_eq!(log.event_name, "gen_ai.client.inference.operation.details");
    assert_eq!((hex(&log.trace_id), &log.span_id), (TRACE.to_owned(), &call.span_id));
    assert_eq!((&*log.severity_text, log.flags), ("INFO", 1));
    assert_eq!(word(&log.attributes, "llm_lens.request.id"), "traced");
    assert_eq!(word(&log.attributes, "gen_ai.request.model"), "m");
    let all: Vec<u8> = collector.seen().into_iter().flat_map(|seen| seen.body).collect();
    let text = String::from_utf8_lossy(&all);
    assert!(!text.contains("secret prompt") && !text.contains("sk-credential"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_have_their_own_spans_and_a_new_trace_begins_without_a_parent() {
    let broken = Engine::start(|_| sse::json(503, "{}")).await;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let collector = Engine::start(|_| ok()).await;
    let settings = format!(
        "backends: [{{name: x, url: \"{}\"}}, {{name: b, url: \"{}\"}}]
pools: [{{name: p, backends: [x, b], balance: round_robin}}]
routes: [{{name: chat, pool: p, retries: {{min_per_second: 10}}}}]
",
        broken.url(),
        engine.url()
    );
    let gateway = gateway(&collector, &settings, &[]).await;
    let mut client = gateway.client().await;
    // Round robin: one of the first two requests begins with the broken backend.
    for id in ["one", "two"] {
        client.post(PATH, &format!("x-request-id: {id}\r\n"), BODY).await;
        client.answer().await;
    }
    gateway.wait_until(|_| !broken.seen().is_empty() && spans(&collector).len() >= 5).await;
    let failed = traceparent(&broken.seen()[0]);
    let spans = spans(&collector);
    let span = spans.iter().find(|span| hex(&span.span_id) == failed[2]).expect("the attempt");
    let backend = span.attributes.iter().find(|pair| pair.key == "llm_lens.backend");
    assert!(format!("{backend:?}").contains("\"x\""), "{span:?}");
    let answered = engine.seen().iter().map(traceparent).find(|parent| parent[1] == failed[1]);
    let answered = answered.expect("the second attempt is in the same trace");
    assert!(answered[2] != failed[2] && answered[3] == "01", "{answered:?}");
    let server = spans.iter().find(|span| span.span_id == spans_parent(&spans, &failed[2]));
    assert!(server.expect("the request's span").parent_span_id.is_empty());
}

fn spans_parent(spans: &[Span], id: &str) -> Vec<u8> {
    let span = spans.iter().find(|span| hex(&span.span_id) == id);
    span.expect("it is there").parent_span_id.clone()
}

/// The collector is overloaded, breaks a connection, and refuses a part: requests are served, each
/// fault is counted, and the spans arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_collector_loses_nothing_silently() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let collector = Engine::start(|seen: &Seen| {
        if !is_traces(seen) {
            return ok();
        }
        match TURN.fetch_add(1, Ordering::Relaxed) {
            0 => vec![Step::text(
                "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 4\r\n\r\nbusy",
            )],
            1 => vec![Step::Reset],
            2 => {
                let message = ExportTraceServiceResponse {
                    partial_success: Some(ExportTracePartialSuccess {
                        rejected_spans: 1,
                        error_message: "one span too many".into(),
                    }),
                }
                .encode_to_vec();
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", message.len());
                vec![Step::text(head), Step::Write(message)]
            }
            _ => ok(),
        }
    })
    .await;
    let gateway = gateway(&collector, &one_backend(&engine), &[]).await;
    let mut client = gateway.client().await;
    client.post(PATH, "", BODY).await;
    assert_eq!(client.answer().await.status, 200);
    let counted = |gateway: &Gateway, name: &str, filter: &str| gateway.metric(name, filter) >= 1.0;
    gateway
        .wait_until(|gateway| counted(gateway, "llm_lens_otlp_rejected_total", "signal=\"traces\""))
        .await;
    let refused = "sink=\"otlp_traces\",reason=\"rejected\"";
    assert_eq!(gateway.metric("llm_lens_sink_dropped_records_total", refused), 1.0);
    for code in ["code=\"http_503\"", "code=\"connection\""] {
        assert!(counted(&gateway, "llm_lens_otlp_failures_total", code), "{code}");
    }
    let traces: Vec<Seen> = collector.seen().into_iter().filter(is_traces).collect();
    assert!(traces[1].at - traces[0].at >= Duration::from_millis(990), "Retry-After");
    assert!(traces.windows(2).all(|pair| pair[0].body == pair[1].body), "the same spans again");
    gateway.wait_for_log("one span too many").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_exports_what_waits() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let collector = Engine::start(|_| ok()).await;
    let late = [
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "3600000"),
    ];
    let mut gateway = gateway(&collector, &one_backend(&engine), &late).await;
    let mut client = gateway.client().await;
    client.post(PATH, "x-request-id: last\r\n", BODY).await;
    client.answer().await;
    drop(client);
    gateway.record("last").await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).await.is_some());
    assert!(spans(&collector).iter().any(|span| span.name == "POST chat"));
    assert_eq!(logs_of(collector.seen()).len(), 1);
    assert!(metrics(&collector).iter().any(|metric| metric.name == "llm_lens.requests"));
}

/// The collector is dead, the gateway is killed, and both come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_spill_a_dead_collector_and_a_killed_gateway_lose_no_request() {
    const CLIENTS: usize = 4;
    const EACH: usize = 15;
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let is_dead = Arc::new(AtomicBool::new(true));
    let accepted = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let (dead, kept) = (is_dead.clone(), accepted.clone());
    let collector = Engine::start(move |seen: &Seen| {
        if dead.load(Ordering::SeqCst) {
            return vec![Step::Reset];
        }
        kept.lock().expect("no test panicked in here").push(seen.clone());
        ok()
    })
    .await;
    let spill = kit::gateway::folder().join("otlp");
    let settings = format!(
        "otlp: {{endpoint: \"{}\", metrics: false, spill: {{path: {spill:?}}}}}\n{}",
        collector.url(),
        one_backend(&engine)
    );
    let mut gateway = Gateway::with_settings(&settings).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = gateway.client().await;
        clients.spawn(async move {
            for turn in 0..EACH {
                client.post(PATH, &format!("x-request-id: {number}-{turn}\r\n"), BODY).await;
                assert_eq!(client.answer().await.status, 200);
            }
        });
    }
    clients.join_all().await;
    let all = (CLIENTS * EACH) as f64;
    for sink in ["sink=\"otlp_traces\"", "sink=\"otlp_logs\""] {
        gateway.wait_until(|g| g.metric("llm_lens_sink_spilled_records", sink) == all).await;
        let open = format!("{sink},state=\"closed\"");
        gateway.wait_until(|g| g.metric("llm_lens_sink_state", &open) == 0.0).await;
    }
    assert!(gateway.get("/readyz").1.contains("otlp_traces is unavailable"));
    gateway.signal(Signal::SIGKILL);
    assert!(gateway.ended(PATIENCE).await.is_some());
    is_dead.store(false, Ordering::SeqCst);
    let gateway = Gateway::with_settings(&settings).await;
    let want: BTreeSet<String> = (0..CLIENTS)
        .flat_map(|number| (0..EACH).map(move |turn| format!("{number}-{turn}")))
        .collect();
    let seen = || accepted.lock().expect("no test panicked in here").clone();
    let ids = |attributes: Vec<Vec<KeyValue>>| -> BTreeSet<String> {
        let ids = attributes.iter().map(|all| word(all, "llm_lens.request.id"));
        ids.filter(|id| !id.is_empty()).collect()
    };
    let traced = || ids(spans_of(seen()).into_iter().map(|span| span.attributes).collect());
    let logged = || ids(logs_of(seen()).into_iter().map(|log| log.attributes).collect());
    gateway.wait_until(|_| traced() == want && logged() == want).await;
    for sink in ["sink=\"otlp_traces\"", "sink=\"otlp_logs\""] {
        gateway.wait_until(|g| g.metric("llm_lens_sink_spilled_records", sink) == 0.0).await;
        assert_eq!(gateway.metric("llm_lens_sink_records_total", sink), all, "{sink}");
        assert_eq!(gateway.metric("llm_lens_sink_dropped_records_total", sink), 0.0, "{sink}");
    }
}

/// The engine's own times are spans below the call, and within it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_times_are_spans_below_its_call() {
    let engine = Engine::start(|_| {
        vec![
            Step::text(sse::STREAM_HEAD),
            Step::ms(120),
            Step::chunk(sse::content("x")),
            Step::ms(50),
            Step::chunk(sse::content("y")),
            Step::chunk(sse::finish()),
            Step::chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2},\"metrics\":{\"queue_time_ms\":40,\"time_to_first_token_ms\":60,\"generation_time_ms\":50}}\n\n"),
            Step::chunk(sse::done()),
            Step::end(),
        ]
    })
    .await;
    let collector = Engine::start(|_| ok()).await;
    let gateway = gateway(&collector, &one_backend(&engine), &[]).await;
    let mut client = gateway.client().await;
    client.post(PATH, "x-request-id: split\r\n", BODY).await;
    client.answer().await;
    gateway.wait_until(|_| !spans(&collector).is_empty()).await;
    let spans = spans(&collector);
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect("it is there");
    let call = named("chat m");
    let first_token = call.events[0].time_unix_nano;
    let parts =
        ["queue", "prefill", "decode"].map(|part| named(&format!("llm_lens.engine.{part}")));
    for span in parts {
        assert_eq!(span.parent_span_id, call.span_id);
        assert!(span.start_time_unix_nano >= call.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= call.end_time_unix_nano);
    }
    let millis = |span: &Span| (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000;
    assert_eq!((millis(parts[0]), millis(parts[1])), (40, 60));
    assert_eq!(parts[1].end_time_unix_nano, first_token);
    let (status, record) = gateway.get("/api/requests?id=split");
    assert!(status == 200 && record.contains("\"prefill_us\":60000"), "{record}");
}

/// A collector that never answers delays neither requests nor the end of the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_collector_delays_nothing() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let collector = Engine::start(|_| vec![Step::Hang]).await;
    let mut gateway = gateway(&collector, &one_backend(&engine), &[]).await;
    let mut client = gateway.client().await;
    for _ in 0..20 {
        client.post(PATH, "", BODY).await;
        assert_eq!(client.answer().await.status, 200);
    }
    drop(client);
    gateway.wait_until(|_| !collector.seen().is_empty()).await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).await.is_some());
    gateway.wait_for_log("records lost at shutdown").await;
}
