//! Backends prepared for requests: their connections, admission and health.
//!
//! - *In*: a backend's settings; a request ready to be sent.
//! - *Out*: a [`Source`](crate::Source) that the relay reads an answer from.
//! - *Never*: a decision about what a failure means for the client; that is the gateway's.
//!
//! HTTP/1.1 is our own client (`h1.rs`): ADR 0001 gives the measurements that decided so. HTTP/2 is
//! pingora's (`h2.rs`).

mod call;
mod connect;
mod h1;
mod h2;
mod kernel;
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
pub use connect::{Connection, connect, reach};
pub use h1::{Edit, Edits, H1Source, Request};
pub use h2::H2Source;
pub use tls::BuildError;

/// A backend as pingora names it. Its name is looked up here, each time: pingora would block a
/// worker with it, keep what it got for ever, and panic over a name that has no address. Of several
/// addresses an IPv4 one is taken, which engines listen on.
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

/// A backend made ready.
#[derive(Debug)]
pub struct Upstream {
    /// Its settings.
    pub backend: Arc<Backend>,
    limits: Limits,
    /// The key of its idle connections; unique in the process.
    number: usize,
    tls: Option<tls::Client>,
    h2: Option<h2::Client>,
    /// The operator's authorities, as pingora wants them.
    authorities: Option<Arc<CaType>>,
    in_use: Arc<AtomicUsize>,
    /// Limits its concurrent requests, where its settings do.
    pub queue: Option<Arc<AdmissionQueue>>,
    /// Its health, load and latency, shared by every pool that has it.
    pub member: Arc<Member>,
    /// Why the last active check failed; `None` when it passed.
    pub last_check: Mutex<Option<String>>,
}

static NUMBERS: AtomicUsize = AtomicUsize::new(0);

impl Upstream {
    /// Files of authorities are read, unless there is another that trusts the same.
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
                    .map(|tls| tls::Client::build(&backend.name, tls))
                    .transpose()?;
                (tls, h2::authorities(&backend)?)
            }
        };
        let h2 = backend.http2.then(h2::Client::build);
        let queue = backend.admission.map(|admission| Arc::new(AdmissionQueue::new(admission)));
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
            backend,
        })
    }

    /// Whether requests wait for it already.
    pub fn is_saturated(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.counts().waiting > 0)
    }

    /// Obey `Retry-After`: the backend gets no first attempts meanwhile. A 429 to a credential of
    /// the client's own concerns that client only.
    pub fn heed(&self, head: &AnswerHead, with_credential: bool) {
        if head.status == 429 && with_credential && self.backend.api_key.is_none() {
            return;
        }
        head.retry_after()
            .into_iter()
            .for_each(|span| self.member.health().back_off(span, clock::now()));
    }

    /// Whether another backend might do better than an answer with this status.
    pub fn is_worth_another(&self, status: u16) -> bool {
        // From 520 on: what proxies in front of engines, and Anthropic, call a backend that is
        // broken or has too much to do.
        matches!(status, 429 | 500 | 502..=504 | 520..=530)
            || matches!(status, 401 | 403) && self.backend.api_key.is_some()
    }

    /// The result of an error status for its health. With `with_credential` the request had a
    /// credential of the client.
    pub fn fault(&self, status: u16, with_credential: bool) -> AttemptResult {
        let has_ours = self.backend.api_key.is_some();
        match status {
            // An answer to a credential of the client concerns that client only.
            429 if with_credential && !has_ours => AttemptResult::Unknown,
            429 => AttemptResult::Overloaded,
            // Our credential has expired, or does not permit this; another one may.
            401 if has_ours => AttemptResult::Failure,
            403 if has_ours => AttemptResult::Unknown,
            400..=499 => AttemptResult::Success,
            _ => AttemptResult::Failure,
        }
    }

    /// Whether requests wait for it, here or, by its own word, there.
    pub fn has_queue(&self, now: Tick) -> bool {
        self.is_saturated()
            || self
                .member
                .signals(now)
                .and_then(|signals| signals.waiting)
                .is_some_and(|waiting| waiting >= 1.0)
    }

    /// The same, with the queue of the one before it, if its settings are the same: those that are
    /// in there count on. What is known of it stays where it is the same server.
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

    /// Whether the backend is the same in all that concerns its connections.
    pub fn is_same(&self, backend: &Backend, limits: Limits) -> bool {
        self.limits == limits && self.backend.is_same(backend)
    }

    /// A permit for a connection, released when it is dropped; `None` when all are in use.
    pub fn permit(&self) -> Option<Permit> {
        let most = self.backend.max_connections;
        let taken = self
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then(|| Permit(self.in_use.clone()))
    }
}

/// A place among the connections in use.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
