//! The stock proxy for requests that are not inference.
//!
//! - *In*: requests that are not inference.
//! - *Out*: the backend's answer as it is, timed.
//! - *Never*: a request that the route's guardrail must read; a client's credential in place of the
//!   backend's own.

mod respond;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http1::head::{self, Head, RequestLine};
use lens::State;
use lens::record::Outcome;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, Session, http_proxy};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pipeline::ExchangeGuard;
use pipeline::shared::Shared;
use pipeline::stage::send::{CREDENTIALS, OVERRIDES};
use pipeline::stage::{accept, authenticate, call_log, endpoint, guardrail_input, models, route};
use plan::forwarded;
use plan::{Plan, PlannedRoute};
use plan::{clock, current_request, origin};
use process::descriptors::MAX_IDLE_PASS_THROUGH;
use refusal::Refusal;
use wire::Framing;

use super::h2;
use crate::tls::client_certificate;
use respond::{allow, answer_models, refuse, upstream_refusal};
use upstream::{
    describe_client, find_peer, log_failure, remove_hop_by_hop, retries_refused, selects_another,
};

/// Pingora's proxy with the gateway's rules for pass-through requests.
pub(super) type Proxy = HttpProxy<PassThrough>;

/// A timeout that never expires.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A stock proxy for pass-through requests.
pub(super) fn new_proxy(shared: &Arc<Shared>) -> Proxy {
    let settings =
        ServerConf { upstream_keepalive_pool_size: MAX_IDLE_PASS_THROUGH, ..ServerConf::default() };
    http_proxy(&Arc::new(settings), PassThrough { shared: shared.clone() })
}

/// Total timeout of a pass-through request with that head.
pub(super) fn total_of(shared: &Shared, head: &[u8]) -> Duration {
    let plan = shared.plan.load();
    let mut fields = head::field_buffer();
    let route = head::parse_request(head, &mut fields, plan.head_limits)
        .ok()
        .and_then(|head| route::find(&plan, &head, None).cloned());
    let total = route.map_or(plan.settings.timeouts, |route| route.route.timeouts).total;
    if total.is_zero() { FOREVER } else { total }
}

/// Maximum interim (1xx) answers before an answer.
const MAX_INTERIM: usize = 32;

/// Error type of an answer that must not pass unread.
const UNREADABLE: &str = "UnreadableAnswer";

/// A stock proxy: heads are cleaned, bodies are streamed both ways and timed, nothing is parsed.
pub(crate) struct PassThrough {
    shared: Arc<Shared>,
}

/// One pass-through request. Its ledger is coarse: pingora reports only when the connection was
/// established and when the answer began, and bodies of both directions count as `await_token`.
pub(crate) struct Passing {
    exchange: Option<ExchangeGuard>,
    began: lens::Tick,
    /// Interim answers of the backend so far.
    interim: usize,
    /// Its permit for a connection to the backend.
    permit: Option<transport::ConnectionPermit>,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = Passing;

    fn new_ctx(&self) -> Passing {
        Passing { exchange: None, began: clock::now(), interim: 0, permit: None }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Passing) -> Result<bool> {
        let plan = self.shared.plan.load_full();
        let mut fields = head::field_buffer();
        // HTTP/1.1 heads were checked before pingora saw them; those of HTTP/2 are checked here.
        let bytes = match session.as_http2() {
            Some(stream) => h2::as_http1(stream),
            None => session.to_h1_raw().to_vec(),
        };
        let parsed = head::parse_request(&bytes, &mut fields, plan.head_limits);
        let (accepted, found) = match &parsed {
            Ok(head) => (accept::accepted(head, None, clock::now()), self.find(&plan, head)),
            Err(error) => {
                (accept::unknown(clock::now(), &bytes), Err(self.shared.bad_head(*error)))
            }
        };
        let tls = session.digest().and_then(|digest| digest.ssl_digest.clone());
        let address =
            session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
        let is_h2 = session.as_http2().is_some();
        let preflight = parsed.as_ref().ok().and_then(|head| {
            origin::preflight(&plan, head, |pattern| route::matches_path(pattern, head))
        });
        let certificate = client_certificate(tls.as_deref());
        let read = |head| authenticate::read_credential(&plan, head, certificate);
        let shown = parsed.as_ref().ok().and_then(read);
        let opened = ExchangeGuard::open(&self.shared, plan.clone(), accepted, ctx.began);
        let exchange = ctx.exchange.insert(opened);
        exchange.accepted.peer = forwarded::peer(&plan, address, tls.is_some(), is_h2);
        exchange.accepted.client = match &parsed {
            Ok(head) => forwarded::client(&plan, &exchange.accepted.peer, head),
            Err(_) => address,
        };
        exchange.enter(State::Connect);
        if let Some((route, fields)) = preflight {
            exchange.set_route(route);
            return allow(session, fields).await.map(|()| true);
        }
        if let Ok(head) = &parsed
            && models::is_answered_here(&plan, head, shown.as_ref())
        {
            return answer_models(session, exchange, head, shown).await.map(|()| true);
        }
        let admitted = match (found, &parsed) {
            (Ok(route), Ok(head)) => {
                let id = exchange.accepted.id.clone();
                let has_body = !session.is_body_empty();
                let admitting = pipeline::admit_unread(exchange, route, shown, head, has_body);
                current_request::scope(id, admitting).await
            }
            (Err(refusal), _) => Err(refusal),
            (Ok(_), Err(error)) => Err(self.shared.bad_head(*error)),
        };
        if let Err(refusal) = admitted {
            return refuse(session, exchange, &refusal).await.map(|()| true);
        }
        let timeouts = exchange.timeouts();
        session.set_read_timeout(nonzero(timeouts.request_body));
        session.set_write_timeout(nonzero(timeouts.client_write));
        if self.shared.is_draining() {
            session.set_keepalive(None);
        }
        Ok(false)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<bytes::Bytes>,
        end: bool,
        ctx: &mut Passing,
    ) -> Result<()>
    where
        Self::CTX: Send + Sync,
    {
        let Some(exchange) = &ctx.exchange else { return Ok(()) };
        let limit = exchange.plan.settings.timeouts.request_body;
        let took = clock::now().nanos_since(exchange.accepted.head_at);
        if !end && !limit.is_zero() && u128::from(took) > limit.as_nanos() {
            return Err(Error::explain(ErrorType::ReadTimedout, "the body did not arrive in time")
                .into_down());
        }
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Passing,
    ) -> Result<Box<HttpPeer>> {
        let peer = find_peer(ctx).await;
        peer.map_err(|mut error| {
            error.set_retry(selects_another(session, ctx, (&error, false)));
            error
        })
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        _: Option<&pingora::protocols::Digest>,
        ctx: &mut Passing,
    ) -> Result<()> {
        if let Some(exchange) = &mut ctx.exchange {
            exchange.enter(State::AwaitFirstByte);
            exchange.attempts.passes = true;
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Passing,
    ) -> Result<()> {
        let Some(exchange) = &mut ctx.exchange else { return Ok(()) };
        if let Some(spans) = &mut exchange.spans {
            request.insert_header("traceparent", spans.begin_call())?;
        }
        let Some(routed) = &exchange.routed else { return Ok(()) };
        let Some(upstream) = routed.upstream() else { return Ok(()) };
        let backend = &upstream.backend;
        describe_client(request, &exchange.accepted.peer, backend.forwarded_headers)?;
        // The absolute form, which a client may use, is not passed on.
        let target = request.uri.path_and_query().map_or("/", |p| p.as_str());
        let target = format!("{}{target}", backend.prefix);
        request.set_raw_path(target.as_bytes())?;
        request.insert_header("host", backend.authority.as_str())?;
        request.insert_header("x-request-id", &*exchange.accepted.id)?;
        let credential = backend.credential();
        if credential.is_some() || exchange.plan.keys.is_some() {
            let withheld = CREDENTIALS.iter().chain(OVERRIDES.iter());
            withheld.for_each(|name| drop(request.remove_header(name)));
        }
        // Nothing that OPTIONS returns needs a key.
        if let Some((name, value)) = credential.filter(|_| request.method != "OPTIONS") {
            request.insert_header(name, value)?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Passing,
    ) -> Result<()>
    where
        Self::CTX: Send + Sync,
    {
        let status = response.status.as_u16();
        if retries_refused(session, ctx, status) {
            let mut error =
                Error::explain(ErrorType::HTTPStatus(status), "refused; another backend is asked");
            error.set_retry(true);
            return Err(error.into_up());
        }
        if streams(response)
            && response.status.is_success()
            && ctx.exchange.as_ref().is_some_and(|exchange| {
                exchange.guardrail().is_some_and(|guardrail| guardrail_input::acts(&guardrail))
            })
        {
            return Err(Error::explain(
                ErrorType::Custom(UNREADABLE),
                "a stream that the route's guardrail cannot read",
            )
            .into_up());
        }
        ctx.interim += usize::from(response.status.is_informational());
        if ctx.interim > MAX_INTERIM || status > 599 {
            return Err(Error::explain(
                ErrorType::InvalidHTTPHeader,
                "too many interim answers, or an invalid status code",
            )
            .into_up());
        }
        let codings: Vec<_> = response.headers.get_all("transfer-encoding").iter().collect();
        let plain = matches!(codings.as_slice(), [] | [_])
            && codings.iter().all(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if status == 101 || !plain {
            return Err(Error::explain(
                ErrorType::InvalidHTTPHeader,
                "a protocol upgrade, or an ambiguous framing",
            )
            .into_up());
        }
        remove_hop_by_hop(response);
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Passing,
    ) -> Result<()>
    where
        Self::CTX: Send + Sync,
    {
        if let Some(exchange) = &mut ctx.exchange {
            exchange.enter(State::AwaitToken);
            if streams(response) || endpoint::is_foreign_inference(&exchange.accepted.endpoint) {
                exchange.answer.not_parsed = Some("no_dialect");
            }
            response.insert_header("x-request-id", &*exchange.accepted.id)?;
            for (name, value) in exchange
                .cors
                .iter()
                .flat_map(|fields| fields.lines())
                .filter_map(|line| line.split_once(": "))
            {
                response.insert_header(name.to_owned(), value)?;
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Passing,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.set_retry(selects_another(session, ctx, (&error, false)));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Passing,
        reused: bool,
    ) -> Box<Error> {
        let is_repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated();
        if is_repeatable {
            // A connection that was reused may have been dead: the same backend gets another.
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        let is_upstream = *error.esource() == pingora::ErrorSource::Upstream
            && *error.etype() != ErrorType::Custom(UNREADABLE);
        if is_upstream && !error.retry() {
            error.set_retry(selects_another(session, ctx, (&error, true)));
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Passing,
    ) -> FailToProxy {
        let refusal = match error.etype() {
            ErrorType::ReadTimedout if *error.esource() == pingora::ErrorSource::Downstream => {
                Refusal::slow_request()
            }
            ErrorType::HTTPStatus(status) if *status != 503 => {
                Refusal::new(*status, "refused", "The request was refused.")
            }
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
                if *error.esource() == pingora::ErrorSource::Downstream =>
            {
                Refusal {
                    outcome: Outcome::ClientGone,
                    code: "client_closed",
                    ..Refusal::broken_body()
                }
            }
            _ if *error.esource() == pingora::ErrorSource::Downstream => Refusal::broken_body(),
            _ => upstream_refusal(error),
        };
        // Interim answers are no answer.
        let has_begun =
            session.response_written().is_some_and(|head| !head.status.is_informational());
        if let (Some(exchange), false) = (&mut ctx.exchange, has_begun) {
            let _ = refuse(session, exchange, &refusal).await;
        }
        FailToProxy { error_code: refusal.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Passing)
    where
        Self::CTX: Send + Sync,
    {
        // The permit is released before the client can read the end of the answer.
        ctx.permit = None;
        let Some(mut exchange) = ctx.exchange.take() else { return };
        exchange.answer.status =
            session.response_written().map(|r| r.status.as_u16()).or(exchange.answer.status);
        exchange.answer.bytes_to_client = session.body_bytes_sent() as u64;
        exchange.accepted.bytes += session.body_bytes_read() as u64;
        exchange.answer.ended_at = Some(clock::now());
        let status = exchange.answer.status.unwrap_or(0);
        match error.map(|e| (e.esource(), e.etype())) {
            Some((pingora::ErrorSource::Downstream, ErrorType::WriteTimedout)) => {
                exchange.verdict.decide(Outcome::Timeout, Some("client_write_timeout"))
            }
            Some((pingora::ErrorSource::Downstream, _)) => {
                exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"))
            }
            Some((_, ErrorType::ReadTimedout | ErrorType::ConnectTimedout)) => {
                exchange.verdict.decide(Outcome::Timeout, Some("upstream_timeout"))
            }
            Some(_) => exchange.verdict.decide(Outcome::UpstreamFailed, Some("upstream_died")),
            None if status >= 400 => {
                exchange.verdict.decide(Outcome::UpstreamError, Some(&format!("http_{status}")))
            }
            None => exchange.verdict.decide(Outcome::Ok, None),
        }
        match error {
            Some(error) => log_failure(&exchange, error),
            None if exchange.verdict.outcome() == Some(Outcome::UpstreamError) => {
                call_log::log_outcome(&exchange);
            }
            None => {}
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Passing, _: &Error) -> bool {
        true
    }
}

impl PassThrough {
    fn find(
        &self,
        plan: &Plan,
        head: &Head<'_, RequestLine<'_>>,
    ) -> std::result::Result<Arc<PlannedRoute>, Refusal> {
        accept::check(head)?;
        route::find(plan, head, None).cloned().ok_or_else(|| {
            Refusal::no_route_unparsed((head.line.method, accept::path(head.line.target)))
        })
    }
}

fn streams(response: &ResponseHeader) -> bool {
    let kind =
        response.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    matches!(Framing::from_content_type(kind), Framing::Sse | Framing::Ndjson)
}

fn nonzero(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}
