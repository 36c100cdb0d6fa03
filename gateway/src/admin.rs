//! The admin listener: metrics, health, recent requests, settings.
//!
//! - *In*: requests of people and scrapers.
//! - *Out*: text and JSON. Secrets are masked by their type.
//! - *Never*: a page before `pages::access` has admitted the request; the threads of the data path.
//!   Connections are served on the control thread, and pages are built on blocking threads, so that
//!   health checks wait for neither.

mod audit;
mod connections;
mod drain;
mod host;
#[cfg(feature = "sqlite")]
mod records;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use pages::access::{self, Gate};
use pages::contents;
use pages::playground::{self, Listening};
use pages::{ApiError, Params, json_page, json_response, off_thread};
use pages::{live, requests, routing, settings, sinks, statistics, usage};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use pipeline::shared::Shared;
use plan::clock;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::listeners::peer_address;
use crate::reachable::{self, Needed};
use crate::record_files::RecordFiles;
use crate::telemetry::{self, Observed, Otlp};
use connections::Connections;

/// Expositions built at a time. They do not wait for pages.
const MAX_SCRAPES: usize = 2;
static SCRAPES: Semaphore = Semaphore::const_new(MAX_SCRAPES);

/// The app of the operator's listener.
pub(crate) struct AdminApp {
    shared: Arc<Shared>,
    router: Router,
    connections: Connections,
}

impl AdminApp {
    /// An app for `shared`, the other components, the exporter, and the listeners of clients. It
    /// notifies `drain` when the operator requests a drain.
    pub(crate) fn new(
        shared: Arc<Shared>,
        parts: (Observed, Otlp),
        listeners: Arc<[Listening]>,
        drain: Arc<Notify>,
    ) -> Self {
        let router = router(shared.clone(), parts, listeners, drain);
        AdminApp { shared, router, connections: Connections::default() }
    }

    /// Whether `admin.allow` and `admin.deny` admit the peer. A peer that is not admitted is
    /// counted.
    fn admits(&self, io: &Stream) -> bool {
        let plan = self.shared.plan.load();
        let denied = peer_address(io).filter(|address| !plan.settings.admin.admits(*address));
        if let Some(address) = denied {
            tracing::debug!(%address, "admin connection denied");
            self.shared.client_limits.denied_connections.fetch_add(1, Ordering::Relaxed);
        }
        denied.is_none()
    }
}

#[async_trait]
impl ServerApp for AdminApp {
    async fn process_new(self: &Arc<Self>, io: Stream, _: &ShutdownWatch) -> Option<Stream> {
        if self.admits(&io) {
            let peer = peer_address(&io);
            self.connections.serve(io, peer, self.router.clone()).await;
        }
        None
    }
}

fn router(
    shared: Arc<Shared>,
    (observed, otlp): (Observed, Otlp),
    listeners: Arc<[Listening]>,
    drain: Arc<Notify>,
) -> Router {
    let router = Router::new();
    #[cfg(feature = "sqlite")]
    let router = records::add_pages(router, observed.record_store.queries());
    let audit_head = observed.audit_head.clone();
    let gate = Gate { shared: shared.clone(), access: observed.access.clone() };
    let (files, uploads) = (observed.record_files.clone(), observed.record_files.clone());
    let ready = move |shared: State<Arc<Shared>>, params: Params| ready(shared, params, files);
    let sinks = move |shared: &Shared, _: &Params| {
        let rows = sinks::sinks(shared).into_iter().chain(uploads.row());
        Ok(json!({"sinks": rows.collect::<Vec<_>>()}))
    };
    let metrics = move |shared: State<Arc<Shared>>, headers: HeaderMap| {
        metrics(shared, headers, (observed.clone(), otlp.clone()))
    };
    router
        .route("/", get(index))
        .route(dashboard::PATH, get(dashboard_file))
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .route("/livez", get("ok\n"))
        .route("/readyz", get(ready))
        .route("/api/drain", post(drain::page(drain)))
        .route("/api/routes", json_page(&[], routes))
        .route("/api/routes/explain", json_page(routing::EXPLAIN_PARAMS, routing::explain))
        .route("/api/routes/release", post(release))
        .route("/api/requests", json_page(requests::PARAMS, requests::requests))
        .route("/api/requests/{unique_id}/contents", get(contents::contents))
        .route("/api/guardrails", json_page(&["route"], guardrails))
        .route(
            "/api/backends",
            json_page(&[], |shared, _| Ok(json!({"backends": routing::backends(shared)}))),
        )
        .route("/api/usage", json_page(usage::PARAMS, usage::usage))
        .route("/api/limits", json_page(&[], usage::limits))
        .route("/api/stats", json_page(statistics::PARAMS, statistics::stats))
        .route("/api/sketches", json_page(statistics::SKETCHES_PARAMS, statistics::sketches))
        .route("/api/objectives", json_page(&["route"], statistics::objectives))
        .route("/api/live", get(live::live))
        .route("/api/sinks", json_page(&[], sinks))
        .route("/api/audit", audit::page(audit_head))
        .route("/api/session", access::session_routes())
        .route("/api/playground", playground::routes(listeners))
        .route("/api/settings", json_page(&[], settings::settings))
        .route("/api/settings/check", post(settings::check))
        .fallback(async || ApiError::not_found("not found; GET / lists all paths"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn_with_state(gate, access::guard))
        .layer(middleware::from_fn_with_state(shared.clone(), host::guard))
        .with_state(shared)
}

/// The dashboard for browsers, a list of all paths for others.
async fn index(headers: HeaderMap) -> Response {
    if access::dashboard_is_wanted(&headers) { dashboard::page() } else { INDEX.into_response() }
}

async fn dashboard_file(Path(name): Path<String>) -> Result<Response, ApiError> {
    dashboard::file(&name).ok_or_else(|| ApiError::not_found("the dashboard has no such file"))
}

async fn metrics(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    (observed, otlp): (Observed, Otlp),
) -> Result<Response, ApiError> {
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = observatory::Format::negotiate(accept);
    off_thread(&SCRAPES, move || {
        let samples = telemetry::samples(&shared, &observed, &otlp);
        let parts = shared.observatory.prometheus(format, samples);
        let length: usize = parts.iter().map(Vec::len).sum();
        let body = Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, Infallible>)));
        let mut response = ([(header::CONTENT_TYPE, format.content_type())], body).into_response();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        Ok(response)
    })
    .await
}

async fn ready(
    State(shared): State<Arc<Shared>>,
    params: Params,
    files: RecordFiles,
) -> Result<(StatusCode, String), ApiError> {
    let needed = Needed::from_param(params.get("backends")).ok_or_else(|| {
        ApiError::bad("backends", "backends must be any, every_route or ignore".into())
    })?;
    if shared.is_draining() {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "draining\n".into()));
    }
    let reason = match reachable::without_keys(&shared) {
        None => reachable::unready(&shared, needed).await,
        reason => reason,
    };
    Ok(match reason {
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        None => (StatusCode::OK, ready_text(&shared, &files)),
    })
}

/// A sink that is unavailable is named; requests are served without it.
fn ready_text(shared: &Shared, files: &RecordFiles) -> String {
    let sinks = shared.observatory.sink_problems().into_iter().chain(files.problem());
    let lines: Vec<String> = std::iter::once("ready".to_owned()).chain(sinks).collect();
    lines.join("\n") + "\n"
}

async fn release(State(shared): State<Arc<Shared>>, params: Params) -> Result<Response, ApiError> {
    params.check(&["route", "share"])?;
    routing::release(&shared, &params).map(|done| json_response(&done))
}

fn routes(shared: &Shared, _: &Params) -> Result<Value, ApiError> {
    let now = clock::now();
    let up = Duration::from_nanos(now.nanos_since(shared.started));
    Ok(json!({"routes": shared.observatory.overview(now, up)}))
}

fn guardrails(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    Ok(json!({"routes": shared.observatory.guardrails(params.get("route"))}))
}

const INDEX: &str = "\
/metrics            Prometheus text, OpenMetrics or protobuf, as the scraper accepts it
/healthz, /livez    liveness
/readyz             readiness: 503 while draining, or if no backend of any route is up
                    (?backends=every_route|ignore)
/api/routes         counts, rates, percentiles and ledger shares by route and backend
/api/requests       recent records, newest first
                    (?limit=N&id=ID&route=NAME&outcome=NAME&slower_than=500ms)
/api/requests/UNIQUE_ID/contents
                    prompt and answer of a route with store_contents: GET with
                    x-llm-lens-operator: YOUR-NAME, which the audit log keeps
/api/records        stored records, newest first, by pages (record_store)
                    (?limit=N&after=CURSOR&id=ID&from=1h&to=TIME&route=NAME&backend=NAME
                    &model=NAME&caller=NAME&owner=NAME&outcome=NAME&error_code=NAME&status=N
                    &stream=true&slower_than=5s&ttft_over=1s)
/api/facets         values in stored records, with counts
                    (?fields=route,model&from=1d&to=TIME&limit=N)
/api/charts         rates, tokens, cost and percentiles over time
                    (?from=6h&to=TIME&step=1m&by=NAME&series=N&route=NAME&backend=NAME
                    &model=NAME, or &owner=NAME, or &outcome=NAME)
/api/routes/explain where a request would go now, and why
                    (?route=NAME&prompt_tokens=N&output_tokens=N&tools=true&header=true
                    &findings=true)
/api/routes/release sets the share of a route's canary: POST with x-llm-lens-operator
                    (?route=NAME&share=0..1)
/api/drain          drains and ends the gateway, as TERM does: POST with x-llm-lens-operator
/api/backends       state, load and latency of backends
/api/guardrails     cost of guardrails: by route, phase, filter and percentile (?route=NAME)
/api/usage          usage and its cost (?by=owner,key,model&per=day|month&from=2026-01-31)
/api/limits         counts of rate limits, and the accounts that have used most
/api/stats          requests, rates and percentiles of the last minutes
                    (?window=1m|5m|15m|start&by=route,backend,operation,model,owner and filters
                    by each of them, such as &route=NAME)
/api/sketches       the same as sketches that `llm-lens stats --merge` merges
/api/objectives     error budgets and burn rates of the objectives (?route=NAME)
/api/live           records and seconds as server-sent events or over a WebSocket
                    (?route=NAME&backend=NAME&model=NAME&outcome=NAME&events=record,second
                    &after=ID, or Last-Event-ID)
/api/sinks          records delivered and dropped by each sink
/api/audit          the last line of the audit log's chain, for `llm-lens audit verify --head`
/api/session        the token in use; POST with a token as JSON signs in, DELETE signs out
/api/playground     what the playground can call; POST sends a chat through a listener
/api/settings       the settings in force, secrets masked, and the last reload
/api/settings/check what a settings file would do: POST its text with x-llm-lens-operator
";
