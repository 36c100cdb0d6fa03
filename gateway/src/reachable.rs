//! Whether backends accept connections: for the log at the start, and for `/readyz`.
//!
//! - *In*: the plan, states of backends.
//! - *Out*: log lines; why the gateway is not ready.
//! - *Never*: a connection to a backend whose state is known by health checks or recent requests.

use std::sync::Arc;
use std::time::Duration;

use config::settings::Backend;
use futures_util::StreamExt;
use futures_util::stream;
use pipeline::shared::Shared;
use plan::{PlannedRoute, clock};
use routing::health::State;
use tokio::task::JoinSet;
use transport::{Upstream, dial_tcp};

/// Connections that are made at a time.
const AT_A_TIME: usize = 16;
/// Timeout for connecting at the start, for backends without a timeout of their own.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for connecting on behalf of `/readyz`: kubelets wait for one second by default.
const READY_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection in this time is evidence that the backend is up.
const RECENT: Duration = Duration::from_secs(5);

/// Which backends must be up for `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// One of any route.
    Any,
    /// One of every route.
    EveryRoute,
    /// None.
    Ignore,
}

impl Needed {
    /// The value of the parameter `backends` of `/readyz`.
    pub(crate) fn from_param(word: Option<&str>) -> Option<Self> {
        match word {
            None | Some("any") => Some(Needed::Any),
            Some("every_route") => Some(Needed::EveryRoute),
            Some("ignore") => Some(Needed::Ignore),
            Some(_) => None,
        }
    }
}

/// Write a line for each backend that does not accept connections when the gateway starts.
pub(crate) async fn log_unreachable(shared: &Shared) {
    let plan = shared.plan.load_full();
    let timeout = plan.settings.timeouts.connect;
    let timeout = if timeout.is_zero() { START_TIMEOUT } else { timeout };
    let dials = plan.routable().iter().map(|upstream| async move {
        if let Err(error) = dial(upstream, timeout).await {
            let (backend, url) = (&upstream.backend.name, url(&upstream.backend));
            tracing::warn!(%backend, url, error, "backend does not accept connections yet");
        }
    });
    stream::iter(dials).for_each_concurrent(AT_A_TIME, |dial| dial).await;
}

/// Why the gateway cannot verify tokens yet.
pub(crate) fn without_keys(shared: &Shared) -> Option<String> {
    let plan = shared.plan.load();
    let issuer = plan.jwks.as_ref()?.pending()?;
    Some(format!("the keys of issuer {issuer} have not been fetched"))
}

/// Why the gateway is not ready.
pub(crate) async fn unready(shared: &Shared, needed: Needed) -> Option<String> {
    if needed == Needed::Ignore {
        return None;
    }
    let plan = shared.plan.load_full();
    let mut reasons = Vec::new();
    for route in &plan.routes {
        match (down(route).await, needed) {
            (None, Needed::Any) => return None,
            (None, _) => {}
            (Some(reason), Needed::EveryRoute) => return Some(reason),
            (Some(reason), _) => reasons.push(reason),
        }
    }
    (!reasons.is_empty()).then(|| reasons.join("\n"))
}

/// Why a route has no backend that is up. Of many backends, the first ones are examined.
async fn down(route: &PlannedRoute) -> Option<String> {
    // Dropped as soon as one backend is up.
    let mut examined = JoinSet::new();
    for upstream in route.pools.iter().flat_map(|pool| &pool.upstreams).take(AT_A_TIME) {
        examined.spawn(problem(upstream.clone()));
    }
    let mut problems = Vec::new();
    while let Some(examined) = examined.join_next().await {
        problems.push(examined.ok()??);
    }
    problems.sort();
    let name = &route.route.name;
    Some(match &*problems {
        [] => format!("route {name} has no backends"),
        _ => format!("no backend of route {name} is up: {}", problems.join(", ")),
    })
}

/// Why a backend is down.
async fn problem(upstream: Arc<Upstream>) -> Option<String> {
    let (now, name) = (clock::now(), &upstream.backend.name);
    match upstream.member.health().state(now) {
        State::Unhealthy => return Some(format!("{name} fails its health checks")),
        State::Ejected => return Some(format!("{name} is ejected")),
        State::Healthy | State::HalfOpen | State::Backoff => {}
    }
    let is_known = upstream.backend.health.is_some()
        || upstream.member.measured_ago(now).is_some_and(|ago| ago < RECENT);
    if is_known {
        return None;
    }
    let error = dial(&upstream, READY_TIMEOUT).await.err()?;
    Some(format!("{name} does not accept connections ({error})"))
}

async fn dial(upstream: &Upstream, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, dial_tcp(upstream)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

/// The URL of a backend.
pub(crate) fn url(backend: &Backend) -> String {
    let scheme = if backend.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{}", backend.authority, backend.prefix)
}
