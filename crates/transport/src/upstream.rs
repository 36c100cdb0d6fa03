//! The upstream end: backends, their connections, and what comes back over them.
//!
//! - *In*: a backend's settings; a request ready to be sent.
//! - *Out*: a [`Source`] that the relay reads an answer from.
//! - *Never*: a decision about what a failure means for the client. That is the relay's and `respond.rs`'s.
//!
//! HTTP/1.1 is our own client (`h1.rs`): ADR 0001 gives the measurements that decided so. HTTP/2 is pingora's (`h2.rs`).

mod call;
mod connect;
pub(crate) mod h1;
mod h2;
mod kernel;
mod mirror;
mod pool;
mod race;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use config::settings::{Backend, Limits};
use traffic::Turnstile;
use lens::Tick;
use parking_lot::Mutex;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use routing::{Ended, Member};
use wire::Framing;
use wire::http1::BodyError;

use crate::clock;
use crate::plan::BuildError;

pub(crate) use call::Call;
pub(crate) use connect::{connect, reach};
pub(crate) use h1::H1Source;
pub(crate) use h2::H2Source;
pub(crate) use mirror::{Mirror, Mirrored};
pub(crate) use race::{News, Race, Reads, Second, SecondPlan, Switch};

/// A backend as pingora names it. Its name is looked up here, each time: pingora would block a worker with it, keep what it got
/// for ever, and panic over a name that has no address. Of several addresses an IPv4 one is taken, which engines listen on.
pub(crate) async fn peer(upstream: &Upstream) -> std::io::Result<HttpPeer> {
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
pub(crate) struct Upstream {
    pub(crate) backend: Arc<Backend>,
    limits: Limits,
    /// The key of its idle connections; unique in the process.
    number: usize,
    tls: Option<tls::Client>,
    h2: Option<h2::Client>,
    /// The operator's authorities, as pingora wants them.
    authorities: Option<Arc<CaType>>,
    in_use: Arc<AtomicUsize>,
    /// Who may go to it, where somebody has to wait.
    pub(crate) turnstile: Option<Arc<Turnstile>>,
    /// What is known of it.
    pub(crate) member: Arc<Member>,
    /// What was wrong when it was checked last, for its operator.
    pub(crate) last_check: Mutex<Option<String>>,
}

static NUMBERS: AtomicUsize = AtomicUsize::new(0);

impl Upstream {
    /// Files of authorities are read, unless there is another that trusts the same.
    pub(crate) fn build(backend: Arc<Backend>, limits: Limits, another: Option<&Upstream>) -> Result<Self, BuildError> {
        let (tls, authorities) = match another {
            Some(another) => (another.tls.clone(), another.authorities.clone()),
            None => {
                let tls = backend.tls.as_ref().map(|tls| tls::Client::build(&backend.name, tls)).transpose()?;
                (tls, h2::authorities(&backend)?)
            }
        };
        let h2 = backend.http2.then(h2::Client::build);
        let turnstile = backend.admission.map(|admission| Arc::new(Turnstile::new(admission)));
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let member = Arc::new(Member::new(backend.name.clone(), backend.weight, clock::now()));
        Ok(Upstream {
            tls,
            h2,
            limits,
            authorities,
            number,
            in_use: Arc::default(),
            turnstile,
            member,
            last_check: Mutex::default(),
            backend,
        })
    }

    /// Whether requests wait for it already.
    pub(crate) fn is_saturated(&self) -> bool {
        self.turnstile.as_ref().is_some_and(|turnstile| turnstile.counts().waiting > 0)
    }

    /// It may say that it wants to be left alone: others are asked meanwhile, if there are any. What it says of a credential of the client's own holds for that client only.
    pub(crate) fn heed(&self, head: &AnswerHead, with_credential: bool) {
        if head.status == 429 && with_credential && self.backend.api_key.is_none() {
            return;
        }
        head.retry_after().into_iter().for_each(|span| self.member.health().rest(span, clock::now()));
    }

    /// Whether an answer with this status says that another backend might do better.
    pub(crate) fn is_worth_another(&self, status: u16) -> bool {
        // From 520 on: what proxies in front of engines, and Anthropic, call a backend that is broken or has too much to do.
        matches!(status, 429 | 500 | 502..=504 | 520..=530) || matches!(status, 401 | 403) && self.backend.api_key.is_some()
    }

    /// What a status that is an error says of it. With `with_credential` it was asked with one of the client's own.
    pub(crate) fn fault(&self, status: u16, with_credential: bool) -> Ended {
        let has_ours = self.backend.api_key.is_some();
        match status {
            // What it says of a credential of the client's own holds for that client only.
            429 if with_credential && !has_ours => Ended::Untold,
            429 => Ended::Refused,
            // Ours has expired; or it may not ask for this, which another's may.
            401 if has_ours => Ended::Badly,
            403 if has_ours => Ended::Untold,
            400..=499 => Ended::Well,
            _ => Ended::Badly,
        }
    }

    /// Whether requests wait for it, here or, by its own word, there.
    pub(crate) fn has_queue(&self, now: Tick) -> bool {
        self.is_saturated() || self.member.signals(now).and_then(|signals| signals.waiting).is_some_and(|waiting| waiting >= 1.0)
    }

    /// The same, with the turnstile of the one before it, if its settings are the same: those that are in there count on. What is known of it stays
    /// where it is the same server.
    pub(crate) fn after(mut self, before: Option<&Arc<Upstream>>) -> Self {
        let known = before.filter(|before| before.backend.admission == self.backend.admission);
        self.turnstile = known.and_then(|before| before.turnstile.clone()).or(self.turnstile);
        let is_same_server = |before: &Backend| {
            let server = |backend: &Backend| (backend.host.clone(), backend.port, backend.authority.clone(), backend.prefix.clone());
            server(before) == server(&self.backend) && before.weight == self.backend.weight
        };
        if let Some(before) = before.filter(|before| is_same_server(&before.backend)) {
            self.member = before.member.clone();
        }
        self
    }

    /// Whether the backend is the same in all that concerns its connections.
    pub(crate) fn is_same(&self, backend: &Backend, limits: Limits) -> bool {
        self.limits == limits && self.backend.is_same(backend)
    }

    /// A place among the connections in use, given back when it is dropped; `None` when all are taken.
    pub(crate) fn permit(&self) -> Option<Permit> {
        let most = self.backend.max_connections;
        let taken = self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then(|| Permit(self.in_use.clone()))
    }
}

/// A place among the connections in use.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What can go wrong with a backend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("all connections are in use")]
    Busy,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("closed before it answered")]
    ClosedEarly,
    #[error("cannot write or read: {0}")]
    Io(#[from] std::io::Error),
    #[error("not valid HTTP: {0}")]
    Head(#[from] wire::http1::head::HeadError),
    #[error("not valid HTTP: {0}")]
    Body(#[from] BodyError),
    #[error("HTTP/2: {0}")]
    H2(String),
}

/// The head of an answer, hop-by-hop fields and framing removed.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: u16,
    /// Fields as they go on, each `name: value` with its CRLF.
    pub(crate) fields: Vec<u8>,
    /// The body's length, where the backend states one.
    pub(crate) length: Option<u64>,
    pub(crate) framing: Framing,
    /// `Content-Encoding` other than identity: events cannot be read.
    pub(crate) encoded: bool,
    /// When its first byte was read.
    pub(crate) first_byte: Tick,
}

impl AnswerHead {
    /// How long the backend wants to be left alone, if it says so (`Retry-After`, RFC 9110, 10.2.3), with a status that means it.
    fn retry_after(&self) -> Option<Duration> {
        if !matches!(self.status, 429 | 503) {
            return None;
        }
        let text = std::str::from_utf8(&self.fields).ok()?;
        let value =
            text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?.1.trim();
        let by_date = || httpdate::parse_http_date(value).ok()?.duration_since(std::time::SystemTime::now()).ok();
        value.parse().ok().map(Duration::from_secs).or_else(by_date)
    }
}

/// One step of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyStep {
    /// More may come.
    More,
    /// That was the end, and a proper one.
    End,
}

/// Who hears a body.
pub(crate) trait Hear {
    /// A read has returned at `now`; the kernel had its bytes `lag` microseconds before.
    fn begin_read(&mut self, now: Tick, lag: Option<u64>);

    /// A run of payload.
    fn payload(&mut self, run: &[u8]);
}

/// Where an answer comes from. The relay polls; all methods register the waker when they are pending.
pub(crate) trait Source {
    /// Write the request on.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>>;

    /// The head of the answer. May be asked while the request is still being written.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>>;

    /// One read of the body, given to `hear` run by run.
    fn poll_body(&mut self, cx: &mut Context<'_>, hear: &mut impl Hear) -> Poll<Result<BodyStep, UpstreamError>>;

    /// Whether the connection does not stand yet.
    fn is_connecting(&self) -> bool {
        false
    }

    /// When something of an answer was read last whose head is kept back.
    fn heard_at(&self) -> Option<Tick> {
        None
    }

    /// What has become of a second backend, where one was asked: each time only what is new.
    fn take_news(&mut self) -> News {
        News::default()
    }

    /// The answer is complete: the connection may serve another request if nothing speaks against it.
    fn settle(self, upstream: &Upstream);
}
