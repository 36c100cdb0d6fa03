//! Tries backends one after the other until one answers: select, admission, connect, send, relay.
//!
//! - *In*: a request that is ready to be sent.
//! - *Out*: an answer for the client: a backend's, or an error of the gateway.
//! - *Never*: another backend after the client has received an event of an answer, except to resume
//!   it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use lens::record::Outcome;
use lens::{EngineError, State};
use relay::{End, Failure, InterruptedStream, ProbeParsing, Relay, Resume};
use routing::AttemptResult;
use transport::{
    AnswerHead, Call, Gone, Request, Sink, Source, StreamBuffer, Upstream, UpstreamError,
};
use wire::Framing;

use crate::exchange::{Exchange, Routed, UpstreamRequest};
use crate::stage::hedge::{self, Hedge, HedgedCall};
use crate::stage::{admission, call_log, rate_limit, relay as relayed, select, send};
use plan::clock;
use refusal::Refusal;

/// Timeout for writing one of the gateway's own short answers.
const REFUSAL_WRITE: Duration = Duration::from_secs(10);

/// The end of an attempt.
enum AttemptEnd {
    /// The client was answered, or is gone; whether its connection can be reused.
    Done(bool),
    /// No answer has begun, apart from comments: the result for the backend, and the client's error
    /// if no other backend is tried.
    Failed(AttemptResult, Refusal),
    /// The backend answered with an error of this status and code, and the next backend is
    /// selected.
    Again(u16, String),
    /// The answer with this status cannot continue the stream that the client has.
    Unusable(u16),
    /// The stream failed with this code, and the backend that resumes it is selected.
    InterruptedStream(String),
    /// The answer must not be forwarded: the gateway answers, and no other backend is tried.
    Refused(Refusal),
}

/// Try backends, one after the other, until one answers or no other may be tried.
pub(super) async fn until_answered<D: Sink>(
    exchange: &mut Exchange,
    request: UpstreamRequest,
    sink: &mut D,
) -> bool {
    let mut request = Some(request);
    let mut cut: Option<Box<InterruptedStream>> = None;
    loop {
        if cut.is_some() {
            // The client has this head.
            (exchange.answer.status, exchange.answer.streamed) = (Some(200), true);
        }
        if let Err(refusal) = select::select(exchange) {
            return give_up(exchange, &refusal, cut, sink).await;
        }
        let Some(this) = request.take().or_else(|| exchange.attempts.request.take()) else {
            return give_up(exchange, &Refusal::internal(), cut, sink).await;
        };
        if select::can_retry(exchange) {
            exchange.attempts.request = Some(this.clone());
        }
        let end = try_backend(exchange, this, &mut cut, sink).await;
        exchange.attempts.resuming = cut.as_ref().is_some_and(|cut| cut.has_events());
        let (ended, refusal, status) = match end {
            AttemptEnd::Done(keeps) => return keeps,
            AttemptEnd::Refused(refusal) => return give_up(exchange, &refusal, cut, sink).await,
            AttemptEnd::InterruptedStream(code) => {
                select::record_failure(exchange, &code, None, AttemptResult::Failure);
                continue;
            }
            AttemptEnd::Again(status, code) => {
                let ended = exchange.fault(status);
                call_log::log_error(exchange, status, &code);
                // Of an empty stream, the status is not the engine's.
                let status = code.starts_with("http_").then_some(status);
                select::record_failure(exchange, &code, status, ended);
                continue;
            }
            AttemptEnd::Unusable(status) => {
                let (ended, refusal) = unusable(exchange, status);
                (ended, refusal, Some(status))
            }
            AttemptEnd::Failed(ended, refusal) => (ended, refusal, None),
        };
        let code =
            status.map_or_else(|| refusal.code.to_owned(), |status| format!("http_{status}"));
        if !may_continue(exchange, cut.as_deref()) {
            if cut.is_some() {
                select::close(exchange, ended);
            }
            // An error answer is the cause, even if what it ended is a resumed stream.
            if refusal.outcome == Outcome::UpstreamError || status.is_some_and(|one| one >= 400) {
                exchange.verdict.decide(refusal.outcome, Some(&code));
            }
            return give_up(exchange, &refusal, cut, sink).await;
        }
        select::record_failure(exchange, &code, status, ended);
    }
}

/// The result of a backend whose answer cannot follow what the client has, and the client's error
/// if it is the last one.
fn unusable(exchange: &Exchange, status: u16) -> (AttemptResult, Refusal) {
    let code = format!("http_{status}");
    match exchange.attempts.resuming && status >= 400 {
        // The client's request was accepted before, so that it is not the cause.
        true => call_log::log_answer(exchange, &code, "error answer to a resumed stream"),
        false => call_log::log_error(exchange, status, &code),
    }
    // A backend that cannot continue an answer has not failed.
    let ended = match status {
        ..500 if status != 429 => AttemptResult::Unknown,
        _ => exchange.fault(status),
    };
    let refusal = match status {
        400.. if !exchange.attempts.resuming => Refusal::error_answer(status),
        _ => Refusal::from(&Failure::UpstreamDied),
    };
    (ended, refusal)
}

/// Whether another backend is selected: to resume the stream `cut`, or to answer from the start.
fn may_continue(exchange: &mut Exchange, cut: Option<&InterruptedStream>) -> bool {
    match cut.filter(|cut| cut.has_events()) {
        Some(cut) => {
            cut.text().is_some_and(|text| select::may_resume(exchange, text) == Resume::Selected)
        }
        None => select::may_retry(exchange),
    }
}

/// No other backend is tried: the client gets the gateway's error or, in mid-stream, an error
/// event.
async fn give_up<D: Sink>(
    exchange: &mut Exchange,
    refusal: &Refusal,
    cut: Option<Box<InterruptedStream>>,
    sink: &mut D,
) -> bool {
    let Some(cut) = cut else { return refuse(exchange, refusal, sink).await };
    let outcome = if cut.has_events() { Outcome::UpstreamFailed } else { refusal.outcome };
    let mut out = cut.out;
    exchange.verdict.decide(outcome, Some(refusal.code));
    exchange.answer.ended_at.get_or_insert_with(clock::now);
    if let Some(dialect) = exchange.routed.as_ref().and_then(|routed| routed.dialect) {
        let events = exchange.answer.lens.counts().events;
        let error = refusal.error(&exchange.accepted.id);
        out.push(dialect.error_format().event(&error, events).as_bytes());
        out.commit();
    }
    exchange.enter(State::ClientWrite);
    let _ = tokio::time::timeout(REFUSAL_WRITE, write_all(sink, &mut out)).await;
    sink.end(false);
    exchange.answer.bytes_to_client = out.payload_written();
    exchange.enter(State::Settle);
    false
}

/// Call the selected backend: wait for a permit, send, and relay the answer.
async fn try_backend<D: Sink>(
    exchange: &mut Exchange,
    request: UpstreamRequest,
    cut: &mut Option<Box<InterruptedStream>>,
    sink: &mut D,
) -> AttemptEnd {
    // Boxed, so that requests that need not wait do not carry its size.
    if let Some(queue) = admission::queue(exchange) {
        let named = request.with_head(|head| admission::named_tenant(&queue, head));
        let waited = tokio::select! {
            biased;
            waited = Box::pin(admission::enter(exchange, &queue, named)) => waited,
            () = poll_fn(|cx| sink.poll_gone(cx)) => return AttemptEnd::Done(client_gone(exchange)),
        };
        if let Err(refusal) = waited {
            return AttemptEnd::Failed(AttemptResult::Unknown, refusal);
        }
    }
    if let Err(refusal) = exchange.take_descriptor() {
        return AttemptEnd::Refused(refusal);
    }
    let len = request.body().len();
    let outgoing = request.with_head(|head| send::prepare(exchange, head, len));
    let reads = reads(exchange, len);
    let hedge = hedge::plan(exchange, &request, &outgoing.edits, reads);
    let UpstreamRequest { head, body: (buffer, body) } = request;
    drop(head);
    let request = Request { head: outgoing.head, buffer, body, edits: outgoing.edits };
    let Some(upstream) = exchange.routed.as_ref().and_then(|routed| routed.upstream().cloned())
    else {
        return AttemptEnd::Done(false);
    };
    call(exchange, &upstream, (request, hedge, reads), cut, sink).await
}

/// How the answer is read to find its first token.
fn reads(exchange: &Exchange, request_bytes: usize) -> Option<ProbeParsing> {
    let dialect = exchange.routed.as_ref()?.dialect?;
    let echo = exchange.inspected.facts.as_ref().is_some_and(|facts| facts.echo);
    Some(ProbeParsing { dialect, limits: exchange.plan.reader_limits, echo, request_bytes })
}

/// Connect and relay. Repeat once on a new connection if a reused one is dead.
async fn call<D: Sink>(
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    (mut request, mut hedge, reads): (Request, Option<Box<Hedge>>, Option<ProbeParsing>),
    cut: &mut Option<Box<InterruptedStream>>,
    sink: &mut D,
) -> AttemptEnd {
    let holds = cut.is_some() || select::can_retry(exchange);
    let mut fresh = false;
    loop {
        exchange.enter(State::Connect);
        let (limits, timeout) = (exchange.plan.head_limits, exchange.timeouts().connect);
        let opened = match &hedge {
            // A hedge may start while the first connection is being made.
            Some(_) => Ok(Call::opening(upstream, request, limits, timeout, fresh)),
            None => tokio::select! {
                biased;
                opened = Call::open(upstream, request, limits, timeout, fresh) => opened,
                () = poll_fn(|cx| sink.poll_gone(cx)) => {
                    return AttemptEnd::Done(client_gone(exchange));
                }
            },
        };
        let mut source = match opened {
            Ok(call) => HedgedCall::new(call, hedge.take(), reads, holds),
            Err(error) => return failed(exchange, upstream, &error),
        };
        let context = relayed::context(exchange);
        let (end, rest) =
            Relay::new(exchange, context, &mut source, sink, cut.take()).forward_answer().await;
        *cut = rest;
        hedge::apply(exchange, source.take_outcome());
        match end {
            End::Complete => {
                // The backend that answered, which may be the hedge.
                if let Some(upstream) = exchange.routed.as_ref().and_then(Routed::upstream) {
                    source.settle(upstream);
                }
                return AttemptEnd::Done(completed(exchange));
            }
            End::Unanswered(error) => {
                let first = source.first_ended();
                match source.into_unanswered() {
                    (Some(again), rest) if !fresh => {
                        tracing::debug!(%error, "reused connection was dead, retrying");
                        fresh = true;
                        (request, hedge) = (again, rest);
                    }
                    _ => return both_failed(exchange, upstream, &error, first),
                }
            }
            end => return ended(exchange, end),
        }
    }
}

/// Map an end other than `Complete` and `Unanswered` to the end of the attempt.
fn ended(exchange: &mut Exchange, end: End) -> AttemptEnd {
    match end {
        End::Refused(failure) => {
            let is_fault = matches!(failure.outcome(), Outcome::UpstreamFailed | Outcome::Timeout)
                && !matches!(failure, Failure::TotalTimeout | Failure::ShuttingDown);
            let refusal = Refusal::from(&failure);
            if is_fault || failure == Failure::Incomplete {
                call_log::log_answer(exchange, failure.code(), "no complete answer");
            }
            if is_fault {
                AttemptEnd::Failed(AttemptResult::Failure, refusal)
            } else {
                AttemptEnd::Refused(refusal)
            }
        }
        End::Again { status, code } => AttemptEnd::Again(status, code),
        End::Unusable { status } => AttemptEnd::Unusable(status),
        End::Interrupted(code) => {
            call_log::log_answer(exchange, &code, "no complete answer");
            AttemptEnd::InterruptedStream(code)
        }
        End::Served => {
            completed(exchange);
            AttemptEnd::Done(false)
        }
        End::Broken | End::Gone => {
            call_log::log_outcome(exchange);
            AttemptEnd::Done(false)
        }
        End::Complete | End::Unanswered(_) => AttemptEnd::Done(false),
    }
}

fn failed(exchange: &Exchange, upstream: &Upstream, error: &UpstreamError) -> AttemptEnd {
    let ended =
        if error.blames_backend() { AttemptResult::Failure } else { AttemptResult::Unknown };
    let refusal = Refusal::unanswered(error);
    call_log::log_failure(exchange, &upstream.backend.name, refusal.code, &error.to_string());
    AttemptEnd::Failed(ended, refusal)
}

/// Neither the backend nor its hedge answered. `first` is the result of the first, if it has its
/// own.
fn both_failed(
    exchange: &Exchange,
    upstream: &Upstream,
    error: &UpstreamError,
    first: Option<AttemptResult>,
) -> AttemptEnd {
    match (failed(exchange, upstream, error), first) {
        (AttemptEnd::Failed(_, refusal), Some(ended)) => AttemptEnd::Failed(ended, refusal),
        (end, _) => end,
    }
}

fn client_gone(exchange: &mut Exchange) -> bool {
    exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
    false
}

/// The answer was forwarded completely: decide the outcome by its status, errors and end.
fn completed(exchange: &mut Exchange) -> bool {
    let answer = &exchange.answer;
    let status = answer.status.unwrap_or(0);
    let choices = u32::try_from(rate_limit::choices(exchange)).unwrap_or(u32::MAX);
    let refused = match answer.lens.error() {
        _ if status >= 400 => Some(status),
        error => error.map(EngineError::status),
    };
    // The relay ends a truncated stream with an error; this one has a Content-Length, or is in
    // another format than its dialect's.
    let incomplete = answer.streamed
        && answer.measured
        && answer.not_parsed.is_none()
        && !answer.lens.is_complete(choices);
    match refused {
        Some(status) => {
            exchange.verdict.decide(Outcome::UpstreamError, Some(&format!("http_{status}")))
        }
        // The stream ended as HTTP requires, without a finish reason or end marker: some engines
        // fail this way.
        None if incomplete => {
            exchange.verdict.decide(Outcome::UpstreamError, Some("incomplete_stream"))
        }
        None if answer.ends_inside_json => {
            exchange.verdict.decide(Outcome::UpstreamError, Some("incomplete_answer"))
        }
        None => exchange.verdict.decide(Outcome::Ok, None),
    }
    call_log::log_outcome(exchange);
    true
}

/// Answer a request with an error of the gateway.
pub async fn refuse<D: Sink>(exchange: &mut Exchange, refusal: &Refusal, sink: &mut D) -> bool {
    exchange.verdict.decide(refusal.outcome, Some(refusal.code));
    exchange.answer.status = Some(refusal.status);
    let accepted = &exchange.accepted;
    let body = accepted.errors.body(&refusal.error(&accepted.id));
    let head = AnswerHead {
        status: refusal.status,
        fields: format!("content-type: application/json\r\n{}", refusal.fields).into_bytes(),
        length: Some(body.len() as u64),
        framing: Framing::Json,
        encoded: false,
        first_byte: clock::now(),
    };
    let mut out = StreamBuffer::default();
    let mut extra = format!(
        "x-request-id: {}\r\n{}",
        accepted.id,
        exchange.cors.as_deref().unwrap_or_default()
    );
    if let Some(name) = accepted.errors.id_field() {
        extra.push_str(&format!("{name}: {}\r\n", accepted.id));
    }
    // Before the guardrail has run, there is no verdict, unless it refuses to run.
    let verdict = if refusal.outcome == Outcome::Blocked { "block" } else { "" };
    extra.push_str(&relayed::security_field(exchange, verdict));
    if exchange.attempts.was_tried() {
        extra.push_str(&select::backend_field(exchange));
    }
    exchange.enter(State::ClientWrite);
    let written = match sink.begin(&head, &extra, &mut out) {
        Ok(()) => {
            out.push(body.as_bytes());
            out.finish();
            tokio::time::timeout(REFUSAL_WRITE, write_all(sink, &mut out))
                .await
                .is_ok_and(|w| w.is_ok())
        }
        Err(Gone) => false,
    };
    sink.end(written);
    exchange.answer.bytes_to_client = out.payload_written();
    exchange.enter(State::Settle);
    written
}

async fn write_all<D: Sink>(sink: &mut D, out: &mut StreamBuffer) -> Result<(), Gone> {
    while !out.is_empty() {
        poll_fn(|cx| sink.poll_write(cx, out)).await?;
    }
    Ok(())
}
