//! `/api/live`: finished requests and one-second aggregates, as server-sent events or over a
//! WebSocket.
//!
//! - *In*: filters, and the id of the last event that a client has seen before.
//! - *Out*: the events `record`, `second` and `gap`.
//! - *Never*: a queue for a watcher: each reads the shared list of recent records at its own place,
//!   and what it does not read in time is a gap. More than [`MAX_WATCHERS`] watchers. Work for each
//!   request: a watcher wakes every [`WAKE_INTERVAL`].

mod watcher;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use pipeline::shared::Shared;
use plan::clock;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::Caller;
use crate::page::off_thread;
use crate::params::{ApiError, Params};
use crate::{requests, statistics};
use watcher::{Events, Form, Place, Watcher};

/// Maximum watchers at a time, if the limit of open files leaves descriptors for them.
pub const MAX_WATCHERS: usize = 256;
static WATCHERS: Semaphore = Semaphore::const_new(MAX_WATCHERS);
/// Permitted watchers.
static PERMITTED: AtomicUsize = AtomicUsize::new(MAX_WATCHERS);
/// Interval at which a watcher gets events.
pub const WAKE_INTERVAL: Duration = Duration::from_millis(250);
/// Records that all watchers together get in an interval; each gets at least [`MIN_RECORDS`].
const MAX_RECORDS: usize = 2_500;
/// See [`MAX_RECORDS`].
const MIN_RECORDS: usize = 10;
/// Blocks of events built at a time, so that many watchers use one core at most.
static BUILDS: Semaphore = Semaphore::const_new(1);

/// Permit at most so many watchers, for which descriptors are left. Call it before the first one.
pub fn limit_watchers(most: usize) {
    let most = most.min(MAX_WATCHERS);
    let before = PERMITTED.swap(most, Ordering::Relaxed);
    WATCHERS.forget_permits(before.saturating_sub(most));
    WATCHERS.add_permits(most.saturating_sub(before));
}

/// Permitted watchers.
pub fn max_watchers() -> usize {
    PERMITTED.load(Ordering::Relaxed)
}

const PARAMS: &[&str] =
    &["route", "backend", "operation", "model", "owner", "outcome", "events", "after"];

/// Watch finished requests.
///
/// # Errors
/// A wrong parameter; 403 for the WebSocket of another origin; 503 with too many watchers and while
/// the gateway drains.
pub async fn live(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    params.check(PARAMS)?;
    let upgrade = websocket::requested(upgrade, &headers)?;
    let form = if upgrade.is_some() { Form::Lines } else { Form::Sse };
    let mut filter = statistics::label_filter(&shared, &params)?;
    filter.outcome = requests::outcome(&params)?;
    let events = Events::parse(params.get("events"))
        .map_err(|why| ApiError::bad("events", format!("events {why}")))?;
    let place = place(&headers, &params)?;
    if shared.is_draining() {
        return Err(ApiError::unavailable("the gateway is draining".into()));
    }
    let permit = WATCHERS.try_acquire().map_err(|_| {
        let most = max_watchers();
        ApiError::unavailable(format!("{most} watchers are connected; close one of them"))
    })?;
    let second = shared.statistics.open_second(clock::now());
    let recent = shared.observatory.recent_list();
    let watcher = Watcher::new(filter, (events, form), place, recent, second);
    let process = shared.clone();
    let blocks = blocks(Watch { shared, caller, watcher, _permit: permit });
    Ok(match upgrade {
        Some(upgrade) => websocket::answer(upgrade, blocks, move || process.is_draining()),
        None => server_sent_events(blocks),
    })
}

fn server_sent_events(blocks: impl Stream<Item = String> + Send + 'static) -> Response {
    // The first block reaches the client at once, so that it knows that it is connected.
    let first = stream::iter(["retry: 1000\n\n".to_owned()]);
    let body = Body::from_stream(first.chain(blocks).map(Ok::<_, Infallible>));
    let mut response =
        ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body)
            .into_response();
    // nginx would otherwise collect events.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Wait until the streams of all watchers have ended, because the gateway drains: at most a moment,
/// because a watcher that does not read cannot be waited for.
pub async fn ended() {
    let all = u32::try_from(max_watchers()).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(2 * WAKE_INTERVAL, WATCHERS.acquire_many(all)).await;
}

/// The last event that a client has seen. Browsers send it in a field for server-sent events, and
/// can send no field of their own for a WebSocket.
fn place(headers: &HeaderMap, params: &Params) -> Result<Option<Place>, ApiError> {
    let (name, id) = match headers.get("last-event-id") {
        Some(id) => ("last-event-id", id.to_str().unwrap_or_default()),
        None => match params.get("after") {
            Some(id) => ("after", id),
            None => return Ok(None),
        },
    };
    let message = || format!("{name} must be the id of an event of this page");
    Place::parse(id).map(Some).ok_or_else(|| ApiError::bad(name, message()))
}

/// A connected watcher.
struct Watch {
    shared: Arc<Shared>,
    caller: Caller,
    watcher: Watcher,
    _permit: SemaphorePermit<'static>,
}

/// The blocks of events of a watcher, until the gateway drains or its session ends. Nothing is
/// built while the client does not read.
fn blocks(watch: Watch) -> impl Stream<Item = String> + Send + 'static {
    stream::unfold(watch, async |mut watch| {
        loop {
            tokio::time::sleep(WAKE_INTERVAL).await;
            if watch.shared.is_draining() || !watch.caller.is_valid() {
                return None;
            }
            let built = off_thread(&BUILDS, move || Ok(watch.build()));
            let block;
            (watch, block) = built.await.ok()?;
            if !block.is_empty() {
                return Some((block, watch));
            }
        }
    })
}

impl Watch {
    fn build(mut self) -> (Self, String) {
        let watchers = max_watchers().saturating_sub(WATCHERS.available_permits()).max(1);
        let shared = &self.shared;
        let (recent, now) = (shared.observatory.recent_list(), clock::now());
        let clocks = (now, clock::wall_us());
        let max = (MAX_RECORDS / watchers).max(MIN_RECORDS);
        let block = self.watcher.block(recent, &shared.statistics, clocks, max);
        (self, block)
    }
}
