//! Access to pages and changes: the guard of the admin listener.
//!
//! - *In*: requests with their [`Connection`], `admin.auth` of the settings in force.
//! - *Out*: 401, 403 or 429, or the page, for which the request has a [`Caller`]. A line of the
//!   audit log for each change.
//! - *Never*: a page without a check, except [`is_public`]; a change without the operator's header
//!   or for a page of another site; a token in a log.

mod audit;
mod session;
pub use session::routes as session_routes;

use std::net::IpAddr;
use std::sync::Arc;

use admin_auth::{Access, Denial, Grant};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use config::Settings;
use config::settings::AdminRole;
use pipeline::shared::Shared;
use plan::clock;
use plan::forwarded::{self, Peer};

use crate::params::ApiError;

/// Header that a change requires. A page of another site cannot set it.
pub const OPERATOR: &str = "x-llm-lens-operator";
/// Path of the session.
pub const SESSION: &str = "/api/session";

/// The connection of a request; in the extensions of the request.
#[derive(Clone, Default)]
pub struct Connection {
    /// Its other end.
    pub peer: Option<IpAddr>,
    /// Records progress, so that the connection is not closed while an answer is awaited.
    pub progress: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Connection {
    /// Keep the connection open for a while longer.
    pub(crate) fn keep(&self) {
        if let Some(progress) = &self.progress {
            progress();
        }
    }
}

/// The client of a page; in the extensions of the request.
#[derive(Clone, Debug)]
pub struct Caller {
    shared: Arc<Shared>,
    access: Arc<Access>,
    /// `None`: the listener has no authentication.
    grant: Option<Grant>,
    /// Its address, behind trusted proxies too.
    pub(crate) client: Option<IpAddr>,
    /// Its browser uses https, as a trusted proxy states.
    is_secure: bool,
}

impl Caller {
    /// Whether the client may still read. It may not if its token was removed or its session has
    /// ended.
    pub fn is_valid(&self) -> bool {
        let plan = self.shared.plan.load();
        let settings = plan.settings.admin.auth.as_ref();
        match &self.grant {
            Some(grant) => self.access.is_valid(settings, grant, clock::now()),
            // Authentication was added.
            None => settings.is_none(),
        }
    }

    /// What it may do.
    fn role(&self) -> AdminRole {
        self.grant.as_ref().map_or(AdminRole::Operator, |grant| grant.role)
    }

    /// Checks that it may read what is stored of prompts and answers.
    ///
    /// # Errors
    /// Its role is viewer.
    pub(crate) fn require_operator(&self) -> Result<(), ApiError> {
        match self.role() {
            AdminRole::Operator => Ok(()),
            AdminRole::Viewer => Err(ApiError::denied(Denial::Role)),
        }
    }

    /// What its calls are counted by: its token, else its address.
    pub(crate) fn key(&self) -> String {
        match (&self.grant, self.client) {
            (Some(grant), _) => format!("token {}", grant.name),
            (None, Some(client)) => client.to_string(),
            (None, None) => String::new(),
        }
    }

    /// The name of its token.
    fn name(&self) -> Option<&str> {
        self.grant.as_ref().map(|grant| &*grant.name)
    }
}

/// What the guard needs.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The state of the process.
    pub shared: Arc<Shared>,
    /// Sessions and failed attempts.
    pub access: Arc<Access>,
}

/// Authenticates a request, checks that a change may be made, and records it.
pub async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let has_auth = gate.shared.plan.load().settings.admin.auth.is_some();
    let caller = match gate.caller(&request) {
        Ok(caller) => caller,
        Err(denial) => return gate.refuse(denial),
    };
    if is_change && let Err(refusal) = gate.check_change(&request, &caller) {
        if let Refusal::Role = refusal {
            audit::record(&caller, request.method(), request.uri(), audit::Outcome::Role);
        }
        return refusal.into_response(&gate);
    }
    let change = is_change.then(|| (request.method().clone(), request.uri().clone()));
    let is_page = !is_public(request.method(), request.uri(), request.headers());
    request.extensions_mut().insert(caller.clone());
    let mut answer = next.run(request).await;
    if has_auth && is_page && !answer.headers().contains_key(header::CACHE_CONTROL) {
        let value = HeaderValue::from_static("no-store");
        answer.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    // The page of the session records by itself, because it knows the token's name.
    if let Some((method, uri)) = change.filter(|(_, uri)| uri.path() != SESSION) {
        audit::record(&caller, &method, &uri, audit::Outcome::Status(answer.status()));
    }
    answer
}

/// Paths that are served without authentication: probes, which have no credential; the dashboard,
/// whose files hold no data and which has to show the sign-in; signing in.
fn is_public(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match uri.path() {
        "/livez" | "/healthz" | "/readyz" => reads,
        "/" => reads && dashboard_is_wanted(headers),
        SESSION => *method == Method::POST,
        path => reads && path.starts_with("/dashboard/"),
    }
}

/// Whether the client is a browser that opens a page: it gets the dashboard, and others a list.
pub fn dashboard_is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// Why a change is refused.
enum Refusal {
    NoHeader,
    CrossSite,
    Role,
}

impl Refusal {
    fn into_response(self, gate: &Gate) -> Response {
        match self {
            Refusal::NoHeader => {
                let message = format!("the header {OPERATOR} is required, with any value");
                ApiError::bad(OPERATOR, message).into_response()
            }
            Refusal::CrossSite => gate.refuse(gate.access.deny(Denial::CrossSite)),
            Refusal::Role => gate.refuse(gate.access.deny(Denial::Role)),
        }
    }
}

impl Gate {
    /// The client of a request.
    fn caller(&self, request: &Request) -> Result<Caller, Denial> {
        let plan = self.shared.plan.load();
        let headers = request.headers();
        let peer = peer(request, &plan.settings);
        let client = client(&plan.settings, &peer, headers);
        let auth = plan.settings.admin.auth.as_ref();
        let auth = auth.filter(|_| !is_public(request.method(), request.uri(), headers));
        let authenticate = |auth| self.access.authenticate(auth, headers, client, clock::now());
        Ok(Caller {
            shared: self.shared.clone(),
            access: self.access.clone(),
            grant: auth.map(authenticate).transpose()?,
            client,
            is_secure: peer.trusted && has_forwarded(headers, "x-forwarded-proto", "https"),
        })
    }

    /// Whether a request may make a change.
    fn check_change(&self, request: &Request, caller: &Caller) -> Result<(), Refusal> {
        let headers = request.headers();
        if !headers.contains_key(OPERATOR) {
            return Err(Refusal::NoHeader);
        }
        let peer = peer(request, &self.shared.plan.load().settings);
        let host = headers.get("x-forwarded-host").filter(|_| peer.trusted);
        if admin_auth::is_cross_site(headers, host.and_then(|host| host.to_str().ok())) {
            return Err(Refusal::CrossSite);
        }
        // Each role may sign in and out.
        if caller.role() < AdminRole::Operator && request.uri().path() != SESSION {
            return Err(Refusal::Role);
        }
        Ok(())
    }

    fn refuse(&self, denial: Denial) -> Response {
        ApiError::denied(denial).into_response()
    }
}

fn peer(request: &Request, settings: &Settings) -> Peer {
    let peer = request.extensions().get::<Connection>().and_then(|connection| connection.peer);
    let trusted = peer.is_some_and(|peer| settings.is_trusted(peer));
    Peer { address: peer, trusted, ..Peer::default() }
}

fn client(settings: &Settings, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    let values: Vec<&[u8]> =
        headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
    forwarded::client_of(settings, peer, values.into_iter().rev())
}

/// Whether the last value of a list field is `wanted`.
fn has_forwarded(headers: &HeaderMap, name: &str, wanted: &str) -> bool {
    let last = headers.get_all(name).iter().next_back().and_then(|value| value.to_str().ok());
    let last = last.and_then(|value| value.rsplit(',').next());
    last.is_some_and(|value| value.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_the_dashboard_and_signing_in_are_public() {
        let browser =
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("text/html"))]);
        let is_public = |method, path: &str, headers: &HeaderMap| {
            is_public(&method, &path.parse().expect("a path"), headers)
        };
        for path in ["/healthz", "/readyz?backends=ignore", "/livez", "/dashboard/main.js"] {
            assert!(is_public(Method::GET, path, &HeaderMap::new()), "{path}");
            assert!(!is_public(Method::POST, path, &HeaderMap::new()), "{path}");
        }
        assert!(is_public(Method::GET, "/", &browser));
        assert!(is_public(Method::POST, SESSION, &HeaderMap::new()));
        for path in ["/", "/metrics", "/api/settings", SESSION, "/dashboard", "/healthz/", "/x"] {
            assert!(!is_public(Method::GET, path, &HeaderMap::new()), "{path}");
        }
        for path in ["/api/settings", "/metrics", "//healthz", "/api/../healthz"] {
            assert!(!is_public(Method::GET, path, &browser), "{path}");
        }
        assert!(!is_public(Method::DELETE, SESSION, &browser));
    }

    #[test]
    fn browsers_get_the_page_and_programs_the_list_of_paths() {
        let wanted = |accept: &'static str| {
            let value = HeaderValue::from_static(accept);
            dashboard_is_wanted(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        assert!(wanted("text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!wanted("*/*") && !wanted("application/json"));
        assert!(!dashboard_is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn the_last_proxy_states_the_scheme() {
        for (value, want) in [("https", true), ("http, HTTPS", true), ("https, http", false)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-proto", HeaderValue::from_static(value));
            assert_eq!(has_forwarded(&headers, "x-forwarded-proto", "https"), want, "{value}");
        }
        assert!(!has_forwarded(&HeaderMap::new(), "x-forwarded-proto", "https"));
    }
}
