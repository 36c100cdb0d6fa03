//! The pages of the aggregator.
//!
//! - *In*: the parameters of `/api/stats` and `/api/sketches` of a gateway.
//! - *Out*: the same documents, with the gateways that they are of.
//! - *Never*: figures without the number of gateways; a parameter that is ignored; a page for
//!   another `Host`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use stats::{Dimension, Filter, Rows, Sketches, Window, WindowCells};
use tokio::sync::Semaphore;

use crate::members::{Members, Read};

/// Requests that read the gateways at a time.
const MAX_READS: usize = 4;
/// The window without a parameter.
const DEFAULT_WINDOW: Window = Window::FiveMinutes;

/// What pages need.
pub(crate) struct Served {
    pub(crate) members: Members,
    /// Names in `Host`, besides addresses and loopback names.
    pub(crate) hosts: Vec<String>,
    reads: Semaphore,
}

type Params = Query<BTreeMap<String, String>>;

/// An error: its status, and what to do.
struct PageError(StatusCode, String);

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"message": self.1, "param": null}}).to_string();
        (self.0, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

pub(crate) fn router(members: Members, hosts: Vec<String>) -> Router {
    let served = Arc::new(Served { members, hosts, reads: Semaphore::new(MAX_READS) });
    Router::new()
        .route("/", get(INDEX))
        .route("/livez", get("ok\n"))
        .route("/readyz", get(ready))
        .route("/api/stats", get(statistics))
        .route("/api/sketches", get(sketches))
        .layer(middleware::from_fn_with_state(served.clone(), guard))
        .with_state(served)
}

/// Ready when there is a gateway to read: one that does not answer is named in the answers.
async fn ready(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    match served.members.resolve().await {
        (urls, _) if !urls.is_empty() => (StatusCode::OK, format!("{} gateways\n", urls.len())),
        (_, problems) => {
            let told: Vec<_> =
                problems.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, format!("no gateway: {}\n", told.join("; ")))
        }
    }
}

async fn statistics(
    State(served): State<Arc<Served>>,
    headers: HeaderMap,
    Query(params): Params,
) -> Result<Response, PageError> {
    let (window, filter) = selected(&params, true)?;
    let by = params.get("by").map_or("route", String::as_str);
    let by = Dimension::parse_list(by).map_err(|why| bad(format!("by {why}")))?;
    let by = stats::distinct(by);
    let read = served.read(window, &headers).await?;
    let mut rows = Rows::new();
    for cells in &read.windows {
        stats::group(&mut rows, cells, &by, &filter);
    }
    let groups = stats::rows_json(&rows, &by);
    let covered = covered(&read.windows);
    let windows = json!([{"window": window.name(), "covered_s": covered, "groups": groups}]);
    Ok(document(json!({"gateways": gateways(&read), "windows": windows})))
}

async fn sketches(
    State(served): State<Arc<Served>>,
    headers: HeaderMap,
    Query(params): Params,
) -> Result<Response, PageError> {
    let (window, filter) = selected(&params, false)?;
    let read = served.read(window, &headers).await?;
    let mut merged = WindowCells { seconds: covered(&read.windows), ..WindowCells::default() };
    for (labels, cell) in read.windows.iter().flat_map(|cells| &cells.series) {
        merged.series.entry(labels.clone()).or_default().merge(cell);
    }
    let sketches = Sketches::new(window, &merged, &filter);
    let mut sketches = serde_json::to_value(sketches)
        .map_err(|error| PageError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // Readers of sketches take no notice of it.
    sketches["gateways"] = gateways(&read);
    Ok(document(sketches))
}

impl Served {
    /// Read the gateways with the caller's token. At least one must answer.
    async fn read(&self, window: Window, headers: &HeaderMap) -> Result<Read, PageError> {
        let busy = "other requests are reading the gateways; try again in a moment";
        let _permit = self
            .reads
            .try_acquire()
            .map_err(|_| PageError(StatusCode::TOO_MANY_REQUESTS, busy.into()))?;
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer "));
        let read = self.members.read(window, token).await;
        if read.windows.is_empty() {
            let told: Vec<_> =
                read.problems.iter().take(5).map(|(url, why)| format!("{url}: {why}")).collect();
            let told = format!("no gateway could be read: {}", told.join("; "));
            return Err(PageError(StatusCode::BAD_GATEWAY, told));
        }
        Ok(read)
    }
}

/// The window and the filter of a query.
fn selected(
    params: &BTreeMap<String, String>,
    is_grouped: bool,
) -> Result<(Window, Filter), PageError> {
    let mut filter = Filter { labels: Vec::new(), outcome: None };
    for (name, value) in params {
        match Dimension::from_name(name) {
            Some(dimension) => filter.labels.push((dimension, value.clone())),
            None if name == "window" || (is_grouped && name == "by") => {}
            None => return Err(bad(format!("unknown parameter {name:?}"))),
        }
    }
    let window = params.get("window").map_or(Ok(DEFAULT_WINDOW), |name| Window::from_name(name));
    Ok((window.map_err(|why| bad(format!("window {why}")))?, filter))
}

fn bad(message: String) -> PageError {
    PageError(StatusCode::BAD_REQUEST, message)
}

/// The longest time that a gateway covers.
fn covered(windows: &[WindowCells]) -> f64 {
    windows.iter().map(|cells| cells.seconds).fold(0.0, f64::max)
}

/// How many gateways a document is of.
fn gateways(read: &Read) -> Value {
    let problem = |(url, problem): &(String, String)| json!({"gateway": url, "problem": problem});
    let problems: Vec<Value> = read.problems.iter().map(problem).collect();
    json!({"read": read.windows.len(), "of": read.gateways, "problems": problems})
}

fn document(value: Value) -> Response {
    let fields = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (fields, value.to_string()).into_response()
}

/// Refuses other hosts: a web page could let its own name resolve to this listener (DNS rebinding).
async fn guard(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_served = |host: &HeaderValue| {
        host.to_str().is_ok_and(|host| admin_auth::is_served(host, &served.hosts))
    };
    let authority = request.uri().authority();
    let is_target =
        authority.is_none_or(|host| admin_auth::is_served(host.as_str(), &served.hosts));
    if is_target && hosts.all(is_served) {
        return next.run(request).await;
    }
    let told = "the aggregator does not serve this host; use an IP address or localhost, or add \
                the name with --host";
    PageError(StatusCode::MISDIRECTED_REQUEST, told.into()).into_response()
}

const INDEX: &str = "\
/api/stats      merged statistics (?window=1m|5m|15m|start&by=route,backend,operation,model,owner
                and filters by each of them, such as &route=NAME)
/api/sketches   the same as sketches: `llm-lens stats URL` prints them as a table
/readyz         200 if there is a gateway
/livez          liveness
";
