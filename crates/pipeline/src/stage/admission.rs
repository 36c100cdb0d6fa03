//! Stage 8: takes an admission permit of the backend, or waits in its queue.
//!
//! - *In*: the backend's queue; priority and maximum wait of the request.
//! - *Out*: a permit, which the end of the exchange releases; or a refusal, at once if the wait
//!   would be too long.
//! - *Never*: a permit held while a guardrail checks the prompt: guardrails come before.

use std::sync::Arc;
use std::time::Duration;

use lens::State;
use traffic::{AdmissionQueue, Caller, Permit, QueueRequest, Shed, ShedReason, network};
use wire::http1::head::{Head, RequestLine};

use crate::exchange::{ClientHints, Exchange};
use crate::respond::Refusal;
use plan::clock;

/// Read the client's hints. Invalid numbers are ignored.
/// Code of a request that the queue sheds.
pub(super) const SHED: &str = "overloaded";

pub fn read_hints(head: &Head<'_, RequestLine<'_>>) -> ClientHints {
    let number = |name| std::str::from_utf8(head.get(name)?.trim_ascii()).ok()?.parse::<u32>().ok();
    ClientHints {
        priority: number("x-llm-lens-priority")
            .map(|priority| u8::try_from(priority.min(9)).unwrap_or(9)),
        max_wait: number("x-llm-lens-max-wait").map(|millis| Duration::from_millis(millis.into())),
    }
}

/// The queue of the request's backend, if it has one.
pub fn queue(exchange: &Exchange) -> Option<Arc<AdmissionQueue>> {
    exchange.routed.as_ref().and_then(|routed| routed.upstream()?.queue.clone())
}

/// Acquire a permit, waiting in the queue if necessary.
///
/// # Cancel safety
/// Dropping the future leaves the queue.
pub async fn enter(exchange: &mut Exchange, queue: &Arc<AdmissionQueue>) -> Result<(), Refusal> {
    let tokens = exchange.expected.input.saturating_add(exchange.expected.output);
    exchange.permit = Some(match queue.enter(tokens) {
        Some(place) => place,
        None => wait(exchange, queue, tokens).await.map_err(|shed| refusal(&shed))?,
    });
    exchange.enter(State::Gateway);
    Ok(())
}

async fn wait(
    exchange: &mut Exchange,
    queue: &Arc<AdmissionQueue>,
    tokens: u64,
) -> Result<Permit, Shed> {
    exchange.enter(State::Queue);
    let mut waiting = queue.wait(queue_request(exchange, tokens), clock::now())?;
    match tokio::time::timeout(waiting.max_wait(), waiting.turn()).await {
        Ok(turn) => turn,
        Err(_) => Err(waiting.give_up(clock::now())),
    }
}

fn queue_request(exchange: &Exchange, tokens: u64) -> QueueRequest {
    let caller = exchange.caller.as_deref();
    let most = caller.map_or(Caller::PRIORITY, |caller| caller.priority);
    // Callers without a key are grouped by network address.
    let known = caller
        .filter(|caller| caller.id != exchange.plan.anonymous.id)
        .map(|caller| caller.id.clone());
    let tenant = known.unwrap_or_else(|| {
        exchange
            .accepted
            .client
            .map_or_else(String::new, |address| network(address).to_string())
            .into()
    });
    QueueRequest {
        tenant,
        priority: exchange.hints.priority.unwrap_or(most).min(most),
        tokens,
        max_wait: exchange.hints.max_wait,
    }
}

fn refusal(shed: &Shed) -> Refusal {
    let why = match shed.reason {
        ShedReason::QueueFull => "and its queue is full",
        ShedReason::TooLate => "and the expected wait in its queue is too long",
        ShedReason::TimedOut => "and the request waited too long in its queue",
    };
    let seconds = shed.retry_after.as_secs_f64().ceil();
    Refusal {
        fields: format!("retry-after: {seconds}\r\n").into(),
        ..Refusal::new(
            503,
            SHED,
            format!("The backend is at capacity, {why}. Try again in {seconds} seconds."),
        )
    }
}
