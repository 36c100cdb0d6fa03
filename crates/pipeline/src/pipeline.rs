//! The pipeline of a request: its stages, in order.
//!
//! ```text
//! accept -> authenticate -> inspect -> route -> rate_limit -> guardrail_input
//!     -> select -> admission -> connect -> send -> relay -> settle -> record
//! ```
//!
//! `listeners` accept and authenticate, because the body is read in between; [`serve`] runs the
//! stages from `inspect` to `select`; `pipeline/attempt.rs` tries one backend after the other;
//! `pipeline/settle.rs` settles and records, however the request ends. Requests that are passed
//! through run the shorter [`admit_unread`].
//!
//! - *In*: an [`ExchangeGuard`] whose head was accepted, the request's bytes, a [`Sink`].
//! - *Out*: the result; the client has been answered.
//! - *Never*: a panic that affects other requests.

mod attempt;
mod settle;

pub use attempt::refuse;
pub use settle::ExchangeGuard;

use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http1::head::{Head, HeadIndex, RequestLine};
use lens::State;
use lens::record::Outcome;
use transport::{HeldBuffer, Sink};

use crate::exchange::{Exchange, Routed, ShownCredential, UpstreamRequest, with_head};
use crate::stage::{
    admission, authenticate, contents, count_tokens, endpoint, guardrail_input, inspect, mirror,
    rate_limit, route, select, validate,
};
use plan::PlannedRoute;
use plan::{current_request, origin};
use refusal::Refusal;

/// A request that was read to its end.
#[derive(Debug)]
pub struct Incoming {
    /// Head, then body.
    pub buffer: HeldBuffer,
    /// Index of the parsed head.
    pub head: HeadIndex,
    /// The body's position in the buffer.
    pub body: Range<usize>,
    /// The body has a content coding.
    pub encoded: bool,
}

/// Why a request ends before a backend is selected.
enum Stopped {
    Refused(Refusal),
    /// The client left.
    Gone,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Stopped::Refused(refusal)
    }
}

/// Serve a request. `false`: the client's connection must be closed.
pub async fn serve<D: Sink>(exchange: &mut Exchange, incoming: Incoming, sink: &mut D) -> bool {
    let ended = {
        let id = exchange.accepted.id.clone();
        let mut run = pin!(current_request::scope(id, run_stages(exchange, incoming, sink)));
        // Unwind safety: what a panic leaves inconsistent is dropped, or belongs to this request,
        // which ends here.
        poll_fn(|cx| {
            catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx)))
                .map_or(Poll::Ready(None), |poll| poll.map(Some))
        })
        .await
    };
    match ended {
        Some(keep) => keep,
        None => panicked(exchange, sink).await,
    }
}

/// End a request after a panic, which the panic hook has logged. Other requests are not affected.
async fn panicked<D: Sink>(exchange: &mut Exchange, sink: &mut D) -> bool {
    observatory::Gauges::count(&exchange.shared.observatory.gauges().panics);
    tracing::error!(request_id = %exchange.accepted.id, "request panicked; please report this");
    if exchange.answer.status.is_some() {
        exchange.verdict.decide(Outcome::Rejected, Some("internal_error"));
        sink.end(false);
    } else {
        refuse(exchange, &Refusal::internal(), sink).await;
    }
    false
}

/// Prepare a request, then try backends until one answers.
async fn run_stages<D: Sink>(exchange: &mut Exchange, incoming: Incoming, sink: &mut D) -> bool {
    match prepare(exchange, incoming, sink).await {
        Ok(request) => attempt::until_answered(exchange, request, sink).await,
        Err(Stopped::Refused(refusal)) => refuse(exchange, &refusal, sink).await,
        Err(Stopped::Gone) => {
            exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
            false
        }
    }
}

/// Run the stages before `select`, in order.
async fn prepare<D: Sink>(
    exchange: &mut Exchange,
    incoming: Incoming,
    sink: &mut D,
) -> Result<UpstreamRequest, Stopped> {
    exchange.enter(State::Gateway);
    let body = incoming.buffer.get(incoming.body.clone()).unwrap_or_default();
    with_head(&incoming.head, &incoming.buffer, |head| -> Result<(), Refusal> {
        let unreadable = inspect::read_body(exchange, head, incoming.encoded, body)?;
        exchange.enter(State::Route);
        route::select(exchange, head)?;
        exchange.enter(State::Gateway);
        check_head(exchange, head)?;
        must_be_readable(exchange, unreadable)?;
        validate::check_json(exchange, body)?;
        exchange.expected = rate_limit::expected(exchange, body);
        validate::check(exchange, body)?;
        exchange.hints = admission::read_hints(head);
        guardrail_input::check_head(exchange, head)
    })?;
    if exchange.routed.as_ref().is_some_and(|routed| routed.route.tokenizer.is_some()) {
        Box::pin(count_tokens::count(exchange, body)).await;
    }
    validate::fits(exchange)?;
    rate_limit::reserve(exchange).await?;
    let replaced = match exchange.guardrail() {
        // Boxed, so that requests without a guardrail do not carry its size.
        Some(_) => Box::pin(guardrail(exchange, body, sink)).await?,
        None => None,
    };
    let buffer = Arc::new(incoming.buffer);
    let body = match replaced {
        Some(body) => {
            let whole = 0..body.len();
            (Arc::new(buffer.derived(body)), whole)
        }
        None => (buffer.clone(), incoming.body),
    };
    let request = UpstreamRequest { head: (buffer, Arc::new(incoming.head)), body };
    request.with_head(|head| select::prepare(exchange, head, request.body()));
    select::keep_for_resume(exchange, &request);
    mirror::start(exchange, &request);
    Ok(request)
}

/// The shorter pipeline of a pass-through request: the head alone decides, and whether a body
/// follows.
pub async fn admit_unread(
    exchange: &mut Exchange,
    route: Arc<PlannedRoute>,
    shown: Option<ShownCredential>,
    head: &Head<'_, RequestLine<'_>>,
    has_body: bool,
) -> Result<(), Refusal> {
    exchange.cors = origin::fields(&route.route, head);
    route::check_host(&route.route, head)?;
    exchange.set_route(route);
    authenticate::admit(exchange, shown)?;
    authenticate::authorize(exchange)?;
    endpoint::check(exchange, head)?;
    rate_limit::reserve(exchange).await?;
    select::select(exchange)?;
    guardrail_input::must_not_pass_unread(exchange, head, has_body)?;
    if has_body || head.get("upgrade").is_some() {
        contents::draft_unread(exchange);
    }
    exchange.take_descriptor()
}

/// Check the host, the origin and the caller against the route.
fn check_head(exchange: &mut Exchange, head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    let route = exchange
        .routed
        .as_ref()
        .map(|routed| routed.route.clone())
        .ok_or_else(Refusal::internal)?;
    route::check_host(&route.route, head)?;
    exchange.cors = origin::fields(&route.route, head);
    authenticate::authorize(exchange)
}

/// Refuse a body that cannot be parsed if a stage of the route needs it.
fn must_be_readable(exchange: &Exchange, unreadable: Option<Refusal>) -> Result<(), Refusal> {
    let must_read = |routed: &Routed| routed.route.must_read;
    match unreadable {
        Some(refusal) if exchange.routed.as_ref().is_some_and(must_read) => Err(refusal),
        _ => Ok(()),
    }
}

/// Check the prompt, and stop if the client disconnects. Returns the redacted body, if any.
async fn guardrail<D: Sink>(
    exchange: &mut Exchange,
    body: &[u8],
    sink: &mut D,
) -> Result<Option<Vec<u8>>, Stopped> {
    exchange.enter(State::GuardrailInput);
    let total = exchange.timeouts().total;
    let checked = tokio::select! {
        biased;
        checked = with_timeout(total, guardrail_input::check_prompt(exchange, body)) => {
            checked.unwrap_or_else(|| Err(Refusal::total_timeout())).map_err(Stopped::Refused)
        }
        () = poll_fn(|cx| sink.poll_gone(cx)) => Err(Stopped::Gone),
    };
    exchange.enter(State::Gateway);
    checked
}

/// Run `work` with a time limit; `None`: it took longer. Zero means no limit.
pub async fn with_timeout<T>(
    limit: std::time::Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    if limit.is_zero() { Some(work.await) } else { tokio::time::timeout(limit, work).await.ok() }
}
