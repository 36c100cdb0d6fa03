//! The walk of one request, from a whole body to the end of its answer. Both kinds of clients come through here.
//!
//! - *In*: an [`Exchange`] whose head was accepted, the request's bytes, a [`Sink`].
//! - *Out*: how it went; the sink has been answered, one way or another.
//! - *Never*: another backend for a request whose answer has begun for the client; a panic that goes beyond the request it came from.

use std::future::poll_fn;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lens::State;
use lens::record::Outcome;
use routing::Ended;
use wire::Framing;
use wire::http1::head::{self, Head, RequestLine};

use super::out::Out;
use super::{Gone, Sink};
use crate::clock;
use crate::exchange::{Exchange, Routed};
use crate::plan::PlannedRoute;
use crate::respond::Refusal;
use crate::stage::choose::{self, Asked};
use crate::stage::relay::{End, Relay};
use crate::stage::{admit, count, guard_input, identify, inspect_input, origin, queue, route, send, validate};
use crate::upstream::h1::{Edits, Request};
use crate::upstream::{AnswerHead, Call, Mirrored, Race, Reads, Second, SecondPlan, Source, Upstream, UpstreamError};

/// How long a client gets to take one of our own short answers.
const REFUSAL_WRITE: Duration = Duration::from_secs(10);

/// A request that was read to its end.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Head, then body.
    pub(crate) buffer: Vec<u8>,
    pub(crate) head_len: usize,
    pub(crate) body: Range<usize>,
    /// The body has a content coding.
    pub(crate) encoded: bool,
}

/// Take a request to its end. `false`: the client's connection must be closed.
pub(crate) async fn serve<D: Sink>(exchange: &mut Exchange, incoming: Incoming, sink: &mut D) -> bool {
    let ended = {
        let mut walk = pin!(walk(exchange, incoming, sink));
        // What the walk leaves half done is dropped with it or belongs to this request alone, which ends here.
        poll_fn(|cx| catch_unwind(AssertUnwindSafe(|| walk.as_mut().poll(cx))).map_or(Poll::Ready(None), |poll| poll.map(Some))).await
    };
    match ended {
        Some(keep) => keep,
        None => panicked(exchange, sink).await,
    }
}

/// A panic, which the hook has logged, ends its request and nothing else.
async fn panicked<D: Sink>(exchange: &mut Exchange, sink: &mut D) -> bool {
    observatory::Gauges::count(&exchange.shared.observatory.gauges().panics);
    log::error!("request {}: a panic ended it; please report this", exchange.accepted.id);
    if exchange.answer.status.is_some() {
        exchange.verdict.decide(Outcome::Rejected, Some("internal_error"));
        sink.end(false);
    } else {
        refuse(exchange, &Refusal::internal(), sink).await;
    }
    false
}

/// The walk itself, one stage after the other.
async fn walk<D: Sink>(exchange: &mut Exchange, incoming: Incoming, sink: &mut D) -> bool {
    exchange.enter(State::Gateway);
    let mut instead = None;
    if let Err(refusal) = prepare(exchange, &incoming) {
        return refuse(exchange, &refusal, sink).await;
    }
    if exchange.routed.as_ref().is_some_and(|routed| routed.route.tokenizer.is_some()) {
        let body = incoming.buffer.get(incoming.body.clone()).unwrap_or_default();
        Box::pin(count::run(exchange, body)).await;
    }
    if let Err(refusal) = validate::fits(exchange) {
        return refuse(exchange, &refusal, sink).await;
    }
    if let Err(refusal) = admit::run(exchange).await {
        return refuse(exchange, &refusal, sink).await;
    }
    if exchange.guard().is_some() {
        // Boxed, so that requests without a guard do not carry its size.
        match Box::pin(guard(exchange, &incoming, sink)).await {
            Guarded::Gone => return client_gone(exchange),
            Guarded::Looked(Err(refusal)) => return refuse(exchange, &refusal, sink).await,
            Guarded::Looked(Ok(body)) => instead = body,
        }
    }
    let buffer = Arc::new(incoming.buffer);
    let body = match instead {
        Some(body) => {
            let whole = 0..body.len();
            (Arc::new(body), whole)
        }
        None => (buffer.clone(), incoming.body),
    };
    let asked = Asked { head: (buffer, incoming.head_len), body };
    if let Err(refusal) = with_head(exchange, &asked, |exchange, head| {
        choose::prepare(exchange, head, asked.body());
        Ok(())
    }) {
        return refuse(exchange, &refusal, sink).await;
    }
    ask_until_answered(exchange, asked, sink).await
}

/// What came of looking at a prompt.
enum Guarded {
    Looked(Result<Option<Vec<u8>>, Refusal>),
    /// The client left meanwhile.
    Gone,
}

/// Look at the prompt, and watch the client meanwhile.
async fn guard<D: Sink>(exchange: &mut Exchange, incoming: &Incoming, sink: &mut D) -> Guarded {
    exchange.enter(State::ShieldInput);
    let body = incoming.buffer.get(incoming.body.clone()).unwrap_or_default();
    let total = Some(exchange.timeouts().total).filter(|total| !total.is_zero()).unwrap_or(Duration::from_secs(86_400));
    let guarded = tokio::select! {
        biased;
        looked = tokio::time::timeout(total, guard_input::run(exchange, body)) => {
            Guarded::Looked(looked.unwrap_or_else(|_| Err(Refusal::total_timeout())))
        }
        () = poll_fn(|cx| sink.poll_gone(cx)) => Guarded::Gone,
    };
    exchange.enter(State::Gateway);
    guarded
}

/// Inspect and route; what the head and the facts of the body say.
fn prepare(exchange: &mut Exchange, incoming: &Incoming) -> Result<(), Refusal> {
    let body = incoming.buffer.get(incoming.body.clone()).unwrap_or_default();
    let mut room = head::field_room();
    let bytes = incoming.buffer.get(..incoming.head_len).unwrap_or_default();
    let head = &head::parse_request(bytes, &mut room, exchange.plan.head_limits).map_err(Refusal::bad_head)?;
    #[cfg(debug_assertions)]
    assert!(head.get("x-llm-lens-rehearse").is_none_or(|what| what != b"panic"), "a panic was asked for");
    let unreadable = inspect_input::run(exchange, incoming.encoded, body)?;
    exchange.enter(State::Route);
    route::run(exchange, head)?;
    exchange.enter(State::Gateway);
    origin::host(&route_of(exchange)?.route, head)?;
    exchange.cors = origin::fields(&route_of(exchange)?.route, head);
    identify::run(exchange)?;
    if let (Some(refusal), true) = (unreadable, exchange.routed.as_ref().is_some_and(|routed| routed.route.must_read)) {
        return Err(refusal);
    }
    exchange.expected = admit::expected(exchange, body);
    validate::run(exchange, body)?;
    exchange.said = queue::said(head);
    match exchange.guard() {
        Some(guard) => guard_input::head(exchange, &guard, head),
        None => Ok(()),
    }
}

fn route_of(exchange: &Exchange) -> Result<Arc<PlannedRoute>, Refusal> {
    exchange.routed.as_ref().map(|routed| routed.route.clone()).ok_or_else(Refusal::no_route)
}

/// Work on the head of the request. It is parsed for it, and again for the next: a parsed head is larger than a stream that waits.
fn with_head<T>(
    exchange: &mut Exchange,
    asked: &Asked,
    work: impl FnOnce(&mut Exchange, &Head<'_, RequestLine<'_>>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut room = head::field_room();
    let (buffer, len) = &asked.head;
    let bytes = buffer.get(..*len).unwrap_or_default();
    let head = head::parse_request(bytes, &mut room, exchange.plan.head_limits).map_err(Refusal::bad_head)?;
    work(exchange, &head)
}

/// How asking one backend went.
enum Asking {
    /// The client has been answered, or is gone; whether its connection may go on.
    Done(bool),
    /// There is nothing of an answer, for this reason; whether that is the backend's fault, and what it is to be told if nobody else is asked.
    Failed(Ended, Refusal),
    /// It answered with an error, and another one is chosen.
    Again(u16),
    /// It died in mid-stream, and another one is chosen to go on.
    Cut,
    /// Its answer may not pass: that is ours to say, and nobody else is asked.
    Refused(Refusal),
}

/// Ask backends, one after the other, until one answers or nobody else may be asked.
async fn ask_until_answered<D: Sink>(exchange: &mut Exchange, asked: Asked, sink: &mut D) -> bool {
    choose::keep_for_continuation(exchange, &asked);
    mirror(exchange, &asked);
    let mut asked = Some(asked);
    loop {
        if let Err(refusal) = choose::run(exchange) {
            return give_up(exchange, &refusal, sink).await;
        }
        let Some(this) = asked.take().or_else(|| exchange.course.asked.take()) else {
            return refuse(exchange, &Refusal::internal(), sink).await;
        };
        if choose::keeps_back(exchange) {
            exchange.course.asked = Some(this.clone());
        }
        match ask(exchange, this, sink).await {
            Asking::Done(keeps) => return keeps,
            Asking::Refused(refusal) => return give_up(exchange, &refusal, sink).await,
            Asking::Failed(ended, refusal) => {
                let resumes = exchange.course.cut.is_some();
                let goes_on = if resumes { choose::may_continue_still(exchange) } else { choose::may_go_on(exchange) };
                if !goes_on {
                    if resumes {
                        choose::close(exchange, ended);
                    }
                    return give_up(exchange, &refusal, sink).await;
                }
                choose::failed(exchange, refusal.code, None, ended);
            }
            Asking::Again(status) => {
                let resumes = exchange.course.cut.is_some();
                // One that will not go on with another's answer is not ill for that.
                let ended = if resumes && status < 500 && status != 429 { Ended::Untold } else { exchange.fault(status) };
                if resumes && !choose::may_continue_still(exchange) {
                    choose::close(exchange, ended);
                    return give_up(exchange, &Refusal::upstream_died(), sink).await;
                }
                choose::failed(exchange, &format!("http_{status}"), Some(status), ended);
            }
            Asking::Cut => choose::failed(exchange, "upstream_died", None, Ended::Badly),
        }
    }
}

/// Nobody else is asked: the client is told, by an answer of ours or, where one has begun, by its last event.
async fn give_up<D: Sink>(exchange: &mut Exchange, refusal: &Refusal, sink: &mut D) -> bool {
    let Some(cut) = exchange.course.cut.take() else { return refuse(exchange, refusal, sink).await };
    let mut out = cut.out;
    exchange.verdict.decide(Outcome::UpstreamFailed, Some(refusal.code));
    exchange.answer.ended_at.get_or_insert_with(clock::now);
    if let Some(dialect) = exchange.routed.as_ref().and_then(|routed| routed.dialect) {
        out.push(dialect.error_event(&refusal.message.replace(['"', '\\'], "'"), refusal.code).as_bytes());
        out.commit();
    }
    exchange.enter(State::ClientWrite);
    let _ = tokio::time::timeout(REFUSAL_WRITE, write_all(sink, &mut out)).await;
    sink.end(false);
    exchange.answer.bytes_to_client = out.payload_written();
    exchange.enter(State::Settle);
    false
}

/// Ask the backend that was chosen: wait for a place there, send, and relay its answer.
async fn ask<D: Sink>(exchange: &mut Exchange, asked: Asked, sink: &mut D) -> Asking {
    // Boxed, so that requests that need not wait do not carry its size.
    if let Some(turnstile) = queue::turnstile(exchange) {
        let waited = tokio::select! {
            biased;
            waited = Box::pin(queue::run(exchange, &turnstile)) => waited,
            () = poll_fn(|cx| sink.poll_gone(cx)) => return Asking::Done(client_gone(exchange)),
        };
        if let Err(refusal) = waited {
            return Asking::Failed(Ended::Untold, refusal);
        }
    }
    let len = asked.body().len();
    let outgoing = match with_head(exchange, &asked, |exchange, head| Ok(send::prepare(exchange, head, len))) {
        Ok(outgoing) => outgoing,
        Err(refusal) => return Asking::Refused(refusal),
    };
    let second = second(exchange, &asked, &outgoing.edits);
    let Asked { head, body: (buffer, body) } = asked;
    drop(head);
    let request = Request { head: outgoing.head, buffer, body, edits: outgoing.edits };
    let Some(upstream) = exchange.routed.as_ref().and_then(|routed| routed.upstream().cloned()) else { return Asking::Done(false) };
    call(exchange, &upstream, request, second, sink).await
}

/// Have another pool asked as well, for nothing, where the route wants that.
fn mirror(exchange: &Exchange, asked: &Asked) {
    let Some(routed) = &exchange.routed else { return };
    let (Some(mirror), Some(dialect)) = (&routed.route.mirror, routed.dialect) else { return };
    if !mirror.takes() {
        return;
    }
    let mirrored = Mirrored {
        route: routed.route.clone(),
        asked: asked.clone(),
        usage: send::usage_edit(exchange),
        model_at: exchange.inspected.facts.as_ref().and_then(|facts| facts.model_at.clone()),
        id: exchange.accepted.id.clone(),
        keeps_credentials: exchange.plan.keys.is_some(),
        with_credential: exchange.course.with_credential,
        dialect,
        question: choose::question(exchange),
        limits: (exchange.plan.head_limits, exchange.plan.reader_limits),
        connect: exchange.timeouts().connect,
        first_byte: exchange.timeouts().first_byte,
    };
    let mirror = mirror.clone();
    // Owned by the worker's runtime; bounded in number and time by the mirror.
    tokio::spawn(async move { mirror.ask(mirrored).await });
}

/// What is needed to ask a second backend, should the one that was chosen be late, where the route wants that.
fn second(exchange: &Exchange, asked: &Asked, edits: &Edits) -> Option<Box<Second>> {
    let (after, budget, unfit) = choose::second(exchange)?;
    let routed = exchange.routed.as_ref()?;
    let echo = exchange.inspected.facts.as_ref().is_some_and(|facts| facts.echo);
    Some(Second::new(SecondPlan {
        route: routed.route.clone(),
        first: routed.target,
        unfit,
        asked: asked.clone(),
        edits: edits.clone(),
        id: exchange.accepted.id.clone(),
        keeps_credentials: exchange.plan.keys.is_some(),
        after,
        budget,
        question: choose::question(exchange),
        limits: exchange.plan.head_limits,
        reads: routed.dialect.map(|dialect| Reads { dialect, limits: exchange.plan.reader_limits, echo }),
        with_credential: exchange.course.with_credential,
        connect: exchange.timeouts().connect,
    }))
}

/// Connect and relay; once more on a new connection when an idle one turns out to be dead.
async fn call<D: Sink>(
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    mut request: Request,
    mut second: Option<Box<Second>>,
    sink: &mut D,
) -> Asking {
    let mut fresh = false;
    loop {
        exchange.enter(State::Connect);
        let (limits, timeout) = (exchange.plan.head_limits, exchange.timeouts().connect);
        let opened = match &second {
            // A second backend may be asked while the connection to the first is made.
            Some(_) => Ok(Call::opening(upstream, request, limits, timeout, fresh)),
            None => tokio::select! {
                biased;
                opened = Call::open(upstream, request, limits, timeout, fresh) => opened,
                () = poll_fn(|cx| sink.poll_gone(cx)) => return Asking::Done(client_gone(exchange)),
            },
        };
        let mut source = match opened {
            Ok(call) => Race::new(call, second.take()),
            Err(error) => return failed(&error),
        };
        let end = Relay::new(exchange, &mut source, sink).run().await;
        choose::hear_of_race(exchange, source.take_news());
        match end {
            End::Complete => {
                // Whoever has answered, which may be another one than was asked first.
                if let Some(upstream) = exchange.routed.as_ref().and_then(Routed::upstream) {
                    source.settle(upstream);
                }
                return Asking::Done(completed(exchange));
            }
            End::Unanswered(error) => {
                let first = source.first_ended();
                match source.into_unanswered() {
                    (Some(again), rest) if !fresh => {
                        log::debug!("request {}: an idle connection was dead ({error}); sending again", exchange.accepted.id);
                        fresh = true;
                        (request, second) = (again, rest);
                    }
                    _ => return neither(&error, first),
                }
            }
            end => return ended(exchange, end),
        }
    }
}

/// What an end that is neither complete nor unanswered means for the request.
fn ended(exchange: &mut Exchange, end: End) -> Asking {
    match end {
        End::Refused(refusal) => {
            let fault = matches!(refusal.outcome, Outcome::UpstreamFailed | Outcome::Timeout) && refusal.code != "total_timeout";
            if fault { Asking::Failed(Ended::Badly, refusal) } else { Asking::Refused(refusal) }
        }
        End::Again(status) => Asking::Again(status),
        End::Cut => Asking::Cut,
        End::Served => {
            completed(exchange);
            Asking::Done(false)
        }
        End::Broken | End::Gone | End::Complete | End::Unanswered(_) => Asking::Done(false),
    }
}

fn failed(error: &UpstreamError) -> Asking {
    // That all connections are in use is our own limit.
    let ended = if matches!(error, UpstreamError::Busy) { Ended::Untold } else { Ended::Badly };
    log::warn!("backend: {error}");
    Asking::Failed(ended, Refusal::unanswered(error))
}

/// Nobody has answered, of one or of two who were asked at the same time; how the first of two ended is its own.
fn neither(error: &UpstreamError, first: Option<Ended>) -> Asking {
    match (failed(error), first) {
        (Asking::Failed(_, refusal), Some(ended)) => Asking::Failed(ended, refusal),
        (asking, _) => asking,
    }
}

fn client_gone(exchange: &mut Exchange) -> bool {
    exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
    false
}

/// The answer was passed on whole. Was it a good one?
fn completed(exchange: &mut Exchange) -> bool {
    let answer = &exchange.answer;
    let status = answer.status.unwrap_or(0);
    let choices = u32::try_from(admit::choices(exchange)).unwrap_or(u32::MAX);
    let engine = answer.lens.error().map(|e| e.code.clone().or_else(|| e.kind.clone()).unwrap_or_else(|| "engine_error".into()));
    let incomplete = answer.streamed && answer.measured && answer.not_parsed.is_none() && !answer.lens.is_complete(choices);
    match engine {
        Some(code) => exchange.verdict.decide(Outcome::UpstreamError, Some(&code)),
        None if status >= 400 => exchange.verdict.decide(Outcome::UpstreamError, Some(&format!("http_{status}"))),
        // The stream ended as HTTP wants and said neither why it ended nor that it did: some engines fail this way.
        None if incomplete => exchange.verdict.decide(Outcome::UpstreamError, Some("incomplete_stream")),
        None => exchange.verdict.decide(Outcome::Ok, None),
    }
    true
}

/// Answer a request ourselves.
pub(crate) async fn refuse<D: Sink>(exchange: &mut Exchange, refusal: &Refusal, sink: &mut D) -> bool {
    exchange.verdict.decide(refusal.outcome, Some(refusal.code));
    exchange.answer.status = Some(refusal.status);
    let body = refusal.body();
    let head = AnswerHead {
        status: refusal.status,
        fields: format!("content-type: application/json\r\n{}", refusal.fields).into_bytes(),
        length: Some(body.len() as u64),
        framing: Framing::Json,
        encoded: false,
        first_byte: clock::now(),
    };
    let mut out = Out::default();
    let mut extra = format!("x-request-id: {}\r\n{}", exchange.accepted.id, exchange.cors.as_deref().unwrap_or_default());
    if exchange.course.was_tried() {
        extra.push_str(&choose::field(exchange));
    }
    exchange.enter(State::ClientWrite);
    let written = match sink.begin(&head, &extra, &mut out) {
        Ok(()) => {
            out.push(body.as_bytes());
            out.finish();
            tokio::time::timeout(REFUSAL_WRITE, write_all(sink, &mut out)).await.is_ok_and(|w| w.is_ok())
        }
        Err(Gone) => false,
    };
    sink.end(written);
    exchange.answer.bytes_to_client = out.payload_written();
    exchange.enter(State::Settle);
    written
}

async fn write_all<D: Sink>(sink: &mut D, out: &mut Out) -> Result<(), Gone> {
    while !out.is_empty() {
        poll_fn(|cx| sink.poll_write(cx, out)).await?;
    }
    Ok(())
}
