//! The operator's listener: metrics, health, what routes and requests do, which settings are in force.
//!
//! - *In*: GET requests of people and scrapers.
//! - *Out*: text and JSON. Secrets are masked by their type.
//! - *Never*: a change of anything but the share of a new version; the data path's threads: this runs on the main one.

mod routing;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use observatory::Sample;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pipeline::clock;
use pipeline::shared::Shared;
use serde_json::json;
use tokio::sync::Semaphore;
use traffic::{Apart, LimitCounts, Line, ShedReason, Totals};

/// Connections served at a time; more wait.
const MOST_CONNECTIONS: usize = 64;
/// A client that takes longer for its head is cut.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Records that `/api/requests` gives when nobody says how many.
const DEFAULT_LIMIT: usize = 100;

/// The app of the operator's listener.
pub(crate) struct AdminApp {
    shared: Arc<Shared>,
    places: Semaphore,
}

impl AdminApp {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        AdminApp { shared, places: Semaphore::new(MOST_CONNECTIONS) }
    }

    /// Serve one connection to its end.
    async fn serve(&self, io: Stream) {
        let Ok(_place) = self.places.acquire().await else { return };
        let service = service_fn(|request| answer(self.shared.clone(), request));
        let served =
            http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(TokioIo::new(io), service);
        if let Err(e) = served.await {
            tracing::debug!(error = %e, "admin connection failed");
        }
    }
}

#[async_trait]
impl ServerApp for AdminApp {
    async fn process_new(self: &Arc<Self>, io: Stream, _: &ShutdownWatch) -> Option<Stream> {
        self.serve(io).await;
        None
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if (request.method(), request.uri().path()) == (&Method::POST, "/api/routes/release") {
        return Ok(match routing::release(&shared, &request) {
            Ok(done) => json(StatusCode::OK, &done),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        });
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".into()));
    }
    Ok(match request.uri().path() {
        "/metrics" => text(StatusCode::OK, observatory::CONTENT_TYPE, shared.observatory.prometheus(samples(&shared))),
        "/healthz" => text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" if shared.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".into()),
        "/readyz" => text(StatusCode::OK, "text/plain", "ready\n".into()),
        "/api/routes" => {
            let now = clock::now();
            let up = Duration::from_nanos(now.nanos_since(shared.started));
            json(StatusCode::OK, &json!({"routes": shared.observatory.overview(now, up)}))
        }
        "/api/requests" => match limit(request.uri().query()) {
            Ok(limit) => json(StatusCode::OK, &json!({"requests": shared.observatory.recent(limit)})),
            Err(why) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": "limit"}})),
        },
        "/api/security" => {
            let route = parameter(request.uri().query(), "route");
            json(StatusCode::OK, &json!({"routes": shared.observatory.security(route)}))
        }
        "/api/routes/explain" => match routing::explain(&shared, request.uri().query()) {
            Ok(explained) => json(StatusCode::OK, &explained),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        },
        "/api/backends" => json(StatusCode::OK, &json!({"backends": routing::backends(&shared)})),
        "/api/usage" => match usage(&shared, request.uri().query()) {
            Ok(usage) => json(StatusCode::OK, &usage),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        },
        "/api/sinks" => json(StatusCode::OK, &json!({"sinks": sinks(&shared)})),
        "/api/settings" => json(StatusCode::OK, &json!({"settings": shared.plan.load().settings})),
        "/" => text(StatusCode::OK, "text/plain", INDEX.into()),
        _ => json(StatusCode::NOT_FOUND, &json!({"error": {"message": "not found; GET / lists what is here"}})),
    })
}

/// What became of the records of each sink.
fn sinks(shared: &Shared) -> Vec<serde_json::Value> {
    let row = |counts: &Arc<observatory::SinkCounts>| json!({"sink": counts.name, "records": counts.delivered(), "dropped": counts.dropped(), "trouble": counts.trouble()});
    shared.observatory.sinks().iter().map(row).collect()
}

/// Sums of what was used, by what the query tells apart.
fn usage(shared: &Shared, query: Option<&str>) -> Result<serde_json::Value, (&'static str, String)> {
    let mut apart = Apart::default();
    for word in parameter(query, "by").unwrap_or("owner").split(',') {
        match word {
            "owner" => apart.owner = true,
            "key" => apart.key = true,
            "model" => apart.model = true,
            _ => return Err(("by", format!("by must name owner, key or model, not {word:?}"))),
        }
    }
    apart.months = match parameter(query, "per") {
        None | Some("day") => false,
        Some("month") => true,
        Some(other) => return Err(("per", format!("per must be day or month, not {other:?}"))),
    };
    let date = |text: &str| text.parse().map_err(|_| ("from", format!("from must be a date such as 2026-01-31, not {text:?}")));
    let from = parameter(query, "from").map(date).transpose()?;
    let line = |(line, totals): (Line, Totals)| {
        let mut row = json!({"requests": totals.requests, "input_tokens": totals.input_tokens, "cached_tokens": totals.cached_tokens,
            "output_tokens": totals.output_tokens, "reasoning_tokens": totals.reasoning_tokens, "cost": totals.cost()});
        if let (Some(row), Ok(serde_json::Value::Object(names))) = (row.as_object_mut(), serde_json::to_value(line)) {
            row.extend(names);
        }
        row
    };
    let rows: Vec<_> = shared.spend.lines(apart, from).into_iter().map(line).collect();
    Ok(json!({"currency": "USD", "usage": rows}))
}

/// What limits keep count of.
fn samples(shared: &Shared) -> Vec<Sample> {
    let plan = shared.plan.load();
    let mut samples = Vec::new();
    for LimitCounts { limit, refused, ended, warned, accounts } in plan.rate_limits.counts() {
        let labels = vec![("limit", limit.name.to_string()), ("of", limit.of.name().to_owned())];
        for (name, value) in [
            ("llm_lens_limited_requests_total", refused),
            ("llm_lens_limited_streams_total", ended),
            ("llm_lens_limit_warnings_total", warned),
            ("llm_lens_limit_accounts", accounts as u64),
        ] {
            samples.push(Sample { name, labels: labels.clone(), value: value as f64 });
        }
    }
    for (name, count) in [
        ("llm_lens_refused_connections_total", &shared.client_limits.refused_connections),
        ("llm_lens_refused_addresses_total", &shared.client_limits.refused_requests),
    ] {
        samples.push(Sample { name, labels: Vec::new(), value: count.load(Ordering::Relaxed) as f64 });
    }
    if let Some(store) = &plan.store {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (name, value) in [
            ("llm_lens_store_up", f64::from(u8::from(store.is_there()))),
            ("llm_lens_store_answers_total", load(&store.answered)),
            ("llm_lens_store_failures_total", load(&store.failed)),
            ("llm_lens_store_fallbacks_total", load(&store.without)),
        ] {
            samples.push(Sample { name, labels: Vec::new(), value });
        }
    }
    for upstream in plan.placed() {
        let Some(counts) = upstream.turnstile.as_ref().map(|turnstile| turnstile.counts()) else { continue };
        let labels = vec![("backend", upstream.backend.name.to_string())];
        for (name, value) in [
            ("llm_lens_queue_depth", counts.waiting),
            ("llm_lens_admitted_in_flight", counts.in_flight),
            ("llm_lens_admitted_tokens", counts.tokens),
            ("llm_lens_admission_cap", counts.cap),
            ("llm_lens_admitted_requests_total", counts.admitted),
            ("llm_lens_queued_requests_total", counts.queued),
        ] {
            samples.push(Sample { name, labels: labels.clone(), value: value as f64 });
        }
        for (reason, shed) in ShedReason::ALL.iter().zip(counts.shed) {
            let labels = vec![labels[0].clone(), ("reason", reason.name().to_owned())];
            samples.push(Sample { name: "llm_lens_shed_requests_total", labels, value: shed as f64 });
        }
    }
    routing::samples(shared, &mut samples);
    samples
}

const INDEX: &str = "\
/metrics            Prometheus text
/healthz            the process lives
/readyz             it takes requests (503 while draining)
/api/routes         counts, rates of the last minute, percentiles and ledger shares by route and backend
/api/requests       the last records, newest first (?limit=N)
/api/routes/explain where a request would go now, and why (?route=NAME&prompt_tokens=N&output_tokens=N&tools=true)
/api/routes/release POST with x-llm-lens-operator: the share of a route's candidate (?route=NAME&share=0..1)
/api/backends       which are well, why not, how busy and how fast they are
/api/security       what guards cost: by route, phase, filter and percentile (?route=NAME)
/api/usage          who used what and what it cost (?by=owner,key,model&per=day|month&from=2026-01-31)
/api/sinks          where records go, and what was lost on the way
/api/settings       the settings in force, secrets masked
";

fn limit(query: Option<&str>) -> Result<usize, String> {
    parameter(query, "limit").map_or(Ok(DEFAULT_LIMIT), |v| v.parse().map_err(|_| format!("limit must be a whole number, not {v:?}")))
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    text(status, "application/json", value.to_string())
}
