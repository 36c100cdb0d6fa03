//! Export to an OpenTelemetry collector, over HTTP.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kit::client::PATIENCE;
use kit::engine::{Seen, Step};
use kit::{Engine, Gateway, sse};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
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

fn is_traces(seen: &Seen) -> bool {
    seen.head.starts_with("POST /v1/traces ")
}

/// All spans that a collector got.
fn spans(collector: &Engine) -> Vec<Span> {
    let bodies = collector.seen().into_iter().filter(is_traces);
    bodies
        .map(|seen| ExportTraceServiceRequest::decode(&*seen.body).expect("spans"))
        .flat_map(|message| message.resource_spans)
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans)
        .collect()
}

/// All metrics that a collector got.
fn metrics(collector: &Engine) -> Vec<Metric> {
    let bodies = collector.seen().into_iter().filter(|seen| !is_traces(seen));
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
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env("OTEL_METRIC_EXPORT_INTERVAL", "200");
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
        .wait_until(|gateway| {
            counted(gateway, "llm_lens_otlp_dropped_total", "reason=\"rejected\"")
        })
        .await;
    for code in ["code=\"http_503\"", "code=\"connection\""] {
        assert!(counted(&gateway, "llm_lens_otlp_failures_total", code), "{code}");
    }
    let traces: Vec<Seen> = collector.seen().into_iter().filter(is_traces).collect();
    assert!(traces[1].at - traces[0].at >= Duration::from_millis(990), "Retry-After");
    assert!(traces.windows(2).all(|pair| pair[0].body == pair[1].body), "the same spans again");
    assert!(gateway.stderr().contains("one span too many"), "{}", gateway.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_exports_what_waits() {
    let engine = Engine::start(|_| sse::chat_answer()).await;
    let collector = Engine::start(|_| ok()).await;
    let late = [("OTEL_BSP_SCHEDULE_DELAY", "3600000"), ("OTEL_METRIC_EXPORT_INTERVAL", "3600000")];
    let mut gateway = gateway(&collector, &one_backend(&engine), &late).await;
    let mut client = gateway.client().await;
    client.post(PATH, "x-request-id: last\r\n", BODY).await;
    client.answer().await;
    drop(client);
    gateway.record("last").await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.ended(PATIENCE).await.is_some());
    assert!(spans(&collector).iter().any(|span| span.name == "POST chat"));
    assert!(metrics(&collector).iter().any(|metric| metric.name == "llm_lens.requests"));
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
    assert!(gateway.stderr().contains("otlp: spans lost at the end"), "{}", gateway.stderr());
}
