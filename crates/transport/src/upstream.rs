//! Backends prepared for requests: their connections, admission and health.
//!
//! - *In*: a backend's settings; a request ready to be sent.
//! - *Out*: a [`Source`](crate::Source) that the relay reads an answer from.
//! - *Never*: a decision about what a failure means for the client; that is the gateway's.
//!
//! HTTP/1.1 uses our own client (`h1.rs`); ADR 0001 has the measurements behind that decision.
//! HTTP/2 uses pingora's client (`h2.rs`).

mod call;
mod connect;
mod h1;
mod h2;
mod kernel;
mod model_list;
mod pool;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::settings::{Backend, Limits};
use lens::Tick;
use parking_lot::Mutex;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use routing::{AttemptResult, Member};
use traffic::AdmissionQueue;

use crate::clock;
use crate::leg::AnswerHead;

pub use call::Call;
pub use connect::{Connection, connect, dial_tcp};
pub use h1::{Edit, Edits, H1Source, Request};
pub use h2::H2Source;
pub use model_list::{ListedModel, ModelList};
pub use pool::limit_idle_connections;
pub use tls::BuildError;

/// The pingora peer of a backend. The host name is resolved here on each call, because pingora
/// would block a worker, cache the result forever, and panic if the name has no address. An IPv4
/// address is preferred, because engines listen on IPv4.
pub async fn peer(upstream: &Upstream) -> std::io::Result<HttpPeer> {
    let backend = &*upstream.backend;
    let addresses = tokio::net::lookup_host((backend.host.as_str(), backend.port)).await?;
    let address = addresses.min_by_key(SocketAddr::is_ipv6).ok_or(std::io::ErrorKind::NotFound)?;
    let name = backend.tls.as_ref().map(|t| t.server_name.clone()).unwrap_or_default();
    let mut peer = HttpPeer::new(address, backend.tls.is_some(), name);
    let version = if backend.http2 { 2 } else { 1 };
    peer.options.set_http_version(version, version);
    peer.options.max_h2_streams = 100;
    peer.options.idle_timeout = Some(h2::IDLE);
    peer.options.ca = upstream.authorities.clone();
    Ok(peer)
}

/// A backend with its connections, admission and health.
#[derive(Debug)]
pub struct Upstream {
    /// Its settings.
    pub backend: Arc<Backend>,
    limits: Limits,
    /// The key of its idle connections; unique in the process.
    number: usize,
    tls: Option<tls::TlsClient>,
    h2: Option<h2::H2Client>,
    /// Certificate authorities from the settings, in pingora's form.
    authorities: Option<Arc<CaType>>,
    in_use: Arc<AtomicUsize>,
    /// Admission queue, if the settings limit its concurrent requests.
    pub queue: Option<Arc<AdmissionQueue>>,
    /// Its health, load and latency, shared by all pools that contain it.
    pub member: Arc<Member>,
    /// Why the last active check failed; `None` when it passed.
    pub last_check: Mutex<Option<String>>,
    /// The models that it lists.
    pub listed: ModelList,
}

static NUMBERS: AtomicUsize = AtomicUsize::new(0);

impl Upstream {
    /// Build a backend. Certificate authorities are read from files, or shared with `another`
    /// backend that has the same TLS settings.
    pub fn build(
        backend: Arc<Backend>,
        limits: Limits,
        another: Option<&Upstream>,
    ) -> Result<Self, BuildError> {
        let (tls, authorities) = match another {
            Some(another) => (another.tls.clone(), another.authorities.clone()),
            None => {
                let tls = backend
                    .tls
                    .as_ref()
                    .map(|tls| tls::TlsClient::build(&backend.name, tls))
                    .transpose()?;
                (tls, h2::authorities(&backend)?)
            }
        };
        let h2 = backend.http2.then(h2::H2Client::build);
        let queue =
            backend.admission.clone().map(|admission| Arc::new(AdmissionQueue::new(admission)));
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(Member::new(backend.name.clone(), backend.weight, clock::now()));
        Ok(Upstream {
            tls,
            h2,
            limits,
            authorities,
            number,
            in_use: Arc::default(),
            queue,
            member,
            last_check: Mutex::default(),
            listed: ModelList::default(),
            backend,
        })
    }

    /// Whether requests wait in its admission queue.
    pub fn is_saturated(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.counts().waiting > 0)
    }

    /// Start a Retry-After backoff if the head has one. A 429 for a credential of the client
    /// concerns only that client.
    pub fn apply_retry_after(&self, head: &AnswerHead, with_credential: bool) {
        if head.status == 429 && with_credential && self.backend.api_key.is_none() {
            return;
        }
        head.retry_after()
            .into_iter()
            .for_each(|span| self.member.health().back_off(span, clock::now()));
    }

    /// Whether an answer with this status is worth an attempt at another backend.
    pub fn is_retryable(&self, status: u16) -> bool {
        // 520 to 530: proxies in front of engines, and Anthropic, report a broken or overloaded
        // backend.
        matches!(status, 429 | 500 | 502..=504 | 520..=530)
            || matches!(status, 401 | 403) && self.backend.api_key.is_some()
    }

    /// The attempt result of an error status. `with_credential`: the request had a credential of
    /// the client.
    pub fn fault(&self, status: u16, with_credential: bool) -> AttemptResult {
        let has_ours = self.backend.api_key.is_some();
        match status {
            // A 429 for a credential of the client concerns only that client.
            429 if with_credential && !has_ours => AttemptResult::Unknown,
            429 => AttemptResult::Overloaded,
            // The gateway's credential has expired or lacks a permission. That of another backend
            // may work.
            401 if has_ours => AttemptResult::Failure,
            403 if has_ours => AttemptResult::Unknown,
            400..=499 => AttemptResult::Success,
            _ => AttemptResult::Failure,
        }
    }

    /// Whether requests wait for it, in the admission queue or, by its engine metrics, in the
    /// engine.
    pub fn has_queue(&self, now: Tick) -> bool {
        self.is_saturated()
            || self
                .member
                .engine_metrics(now)
                .and_then(|signals| signals.waiting)
                .is_some_and(|waiting| waiting >= 1.0)
    }

    /// Take over state from the backend before a reload: the admission queue if its settings are
    /// the same, and health and measurements if it is the same server.
    pub fn after(mut self, before: Option<&Arc<Upstream>>) -> Self {
        let known = before.filter(|before| before.backend.admission == self.backend.admission);
        self.queue = known.and_then(|before| before.queue.clone()).or(self.queue);
        let is_same_server = |before: &Backend| {
            let server = |backend: &Backend| {
                (
                    backend.host.clone(),
                    backend.port,
                    backend.authority.clone(),
                    backend.prefix.clone(),
                )
            };
            server(before) == server(&self.backend) && before.weight == self.backend.weight
        };
        if let Some(before) = before.filter(|before| is_same_server(&before.backend)) {
            self.member = before.member.clone();
        }
        self
    }

    /// Whether all settings that affect its connections are the same.
    pub fn is_same(&self, backend: &Backend, limits: Limits) -> bool {
        self.limits == limits && self.backend.is_same(backend)
    }

    /// A permit for a connection, released when it is dropped; `None` when all are in use.
    pub fn permit(&self) -> Option<ConnectionPermit> {
        let most = self.backend.max_connections;
        let taken = self
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then(|| ConnectionPermit(self.in_use.clone()))
    }
}

/// A permit for one connection; dropping it releases it.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<AtomicUsize>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
