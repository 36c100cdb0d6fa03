//! `/api/playground`: sends a chat of the dashboard through the gateway's own listener.
//!
//! - *In*: a chat, and the key that its sender has.
//! - *Out*: the answer of the gateway, as it arrives. Authentication, limits, guardrails and
//!   routing apply as to any client, because the request comes over a listener.
//! - *Never*: a credential of the gateway; a call for a viewer, or where the admin listener is
//!   exposed without `admin.auth`; more than [`MAX_SENDING`] calls at a time, or two of one client.

mod answer;
mod connect;
mod listener;
pub use listener::Listening;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use config::Settings;
use config::settings::{Pattern, Route};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pipeline::shared::Shared;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::access::{Caller, Connection};
use crate::page::json_response;
use crate::params::{ApiError, Params};

/// Maximum bytes of a call.
const MAX_BODY: usize = 256 << 10;
/// Maximum calls at a time.
const MAX_SENDING: usize = 4;
/// The API that is called.
const PATH: &str = "/v1/chat/completions";
/// What a route's conditions on any value get.
const ANY: &str = "playground";

/// Clients with a call.
static SENDING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The pages of the playground; `listeners` are those of clients.
pub fn routes(listeners: Arc<[Listening]>) -> MethodRouter<Arc<Shared>> {
    get(show).post(send).layer(Extension(listeners))
}

/// A call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    /// The route that the request shall match; `None`: whichever it matches.
    #[serde(default)]
    route: Option<String>,
    /// The key, as a client would send it.
    #[serde(default)]
    key: Option<String>,
    /// The body of the request.
    request: Map<String, Value>,
}

/// What can be called, or why nothing can.
async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(listeners): Extension<Arc<[Listening]>>,
    params: Params,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    let plan = shared.plan.load();
    let chosen = permitted(&shared).and_then(|()| listener::choose(&listeners));
    let (listener, problem) = match &chosen {
        Ok(listener) => (Some(listener.url()), None),
        Err(error) => (None, Some(error.message())),
    };
    let settings = &plan.settings;
    let routes = settings.routes.iter().filter(|route| matches_path(route));
    let routes: Vec<_> = routes.map(|route| &route.name).collect();
    Ok(json_response(&json!({
        "problem": problem,
        "listener": listener,
        "routes": routes,
        "models": models(settings),
    })))
}

async fn send(
    State(shared): State<Arc<Shared>>,
    Extension(listeners): Extension<Arc<[Listening]>>,
    Extension(caller): Extension<Caller>,
    Extension(connection): Extension<Connection>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    params.check(&[])?;
    permitted(&shared)?;
    let listener = listener::choose(&listeners)?;
    let address = listener.target();
    let permit = Permit::take(&caller)?;
    let call = read(request.into_body()).await?;
    let request = compose(&shared.plan.load().settings, &call, &caller, &address.to_string())?;
    let failed = |why: String| {
        ApiError::bad_gateway(format!("the listener {address} does not answer: {why}"))
    };
    let socket = connect::connect(listener).await.map_err(failed)?;
    let (mut sender, driver) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| failed(error.to_string()))?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a call of the playground failed");
        }
    }));
    let running = answer::Running { caller, connection, _permit: permit, _driver: driver };
    let got = running.wait_for(sender.send_request(request)).await?;
    Ok(answer::forward(got.map_err(|error| failed(error.to_string()))?, running))
}

/// Whether the playground is on: the listener has authentication, or only this machine reaches it.
fn permitted(shared: &Shared) -> Result<(), ApiError> {
    // The address needs a restart, so that of the start is in force.
    let is_exposed = shared.started_with.admin.is_exposed();
    if is_exposed && shared.plan.load().settings.admin.auth.is_none() {
        return Err(ApiError::forbidden(
            "the playground is off, because other machines can reach the admin listener; set admin.auth".into(),
        ));
    }
    Ok(())
}

/// Names of models in the settings: those that backends declare and routes match exactly.
fn models(settings: &Settings) -> BTreeSet<&str> {
    let patterns = settings.routes.iter().flat_map(|route| &route.models);
    let exact = patterns.filter_map(|pattern| match pattern {
        Pattern::Exact(name) => Some(name.as_str()),
        Pattern::Prefix(_) => None,
    });
    exact.chain(settings.declared_models()).collect()
}

fn matches_path(route: &Route) -> bool {
    route.path.as_ref().is_none_or(|path| path.matches(PATH))
}

async fn read(body: Body) -> Result<Call, ApiError> {
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
        ApiError::too_large(format!("the body cannot be read, or is over {MAX_BODY} bytes"))
    })?;
    // The key must not be in the error.
    serde_json::from_slice(&bytes).map_err(|_| {
        let form = "{\"request\": {...}, \"route\": NAME, \"key\": KEY}, both of them optional";
        ApiError::bad("", format!("the body must be {form}"))
    })
}

/// The request that a client would send to match the route.
fn compose(
    settings: &Settings,
    call: &Call,
    caller: &Caller,
    address: &str,
) -> Result<hyper::Request<Full<Bytes>>, ApiError> {
    let name = call.route.as_deref();
    let route = name.map(|name| {
        let found = settings.routes.iter().find(|route| *route.name == *name);
        let found = found.filter(|route| matches_path(route));
        found.ok_or_else(|| {
            ApiError::bad("route", format!("the route {name:?} does not exist or has another path"))
        })
    });
    let route = route.transpose()?;
    let host = route.and_then(|route| route.hosts.first());
    let host = host.map_or_else(|| address.to_owned(), |host| host.replacen('*', ANY, 1));
    let mut request = hyper::Request::post(PATH)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream, application/json")
        .header(header::USER_AGENT, "llm-lens-playground");
    for (name, value) in route.into_iter().flat_map(|route| &route.headers) {
        request = request.header(name, value.as_deref().unwrap_or(ANY));
    }
    // The limits by address are those of the client if the listener trusts loopback.
    if let Some(client) = caller.client {
        request = request.header("x-forwarded-for", client.to_string());
    }
    if let Some(key) = &call.key {
        let wrong =
            |_| ApiError::bad("key", "the key has characters that a field cannot have".into());
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(wrong)?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let body = serde_json::to_vec(&call.request).map_err(|_| ApiError::internal())?;
    request.body(Full::new(body.into())).map_err(|_| ApiError::internal())
}

/// A client's call; dropped at its end.
struct Permit(String);

impl Permit {
    fn take(caller: &Caller) -> Result<Self, ApiError> {
        let client = caller.key();
        let mut sending = SENDING.lock();
        if sending.contains(&client) {
            return Err(ApiError::too_many(
                "your previous request is still running; stop it first",
            ));
        }
        if sending.len() >= MAX_SENDING {
            return Err(ApiError::too_many(
                "others are using the playground; try again in a moment",
            ));
        }
        sending.insert(client.clone());
        Ok(Permit(client))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        SENDING.lock().remove(&self.0);
    }
}
