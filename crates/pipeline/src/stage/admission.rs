//! Stage 8: a place at the backend, or a place in its queue.
//!
//! - *In*: the backend's turnstile; priority and patience of the request.
//! - *Out*: a place, which the end of the exchange gives back; or a refusal, at once where waiting is in vain.
//! - *Never*: a place held while somebody looks at the prompt: guards come before.

use std::sync::Arc;
use std::time::Duration;

use lens::State;
use traffic::{Caller, Place, Shed, ShedReason, Turnstile, Wish, network};
use wire::http1::head::{Head, RequestLine};

use crate::clock;
use crate::exchange::{ClientHints, Exchange};
use crate::respond::Refusal;

/// Read the client's hints. What is no number is ignored.
pub fn read_hints(head: &Head<'_, RequestLine<'_>>) -> ClientHints {
    let number = |name| std::str::from_utf8(head.get(name)?.trim_ascii()).ok()?.parse::<u32>().ok();
    ClientHints {
        priority: number("x-llm-lens-priority").map(|priority| u8::try_from(priority.min(9)).unwrap_or(9)),
        max_wait: number("x-llm-lens-max-wait").map(|millis| Duration::from_millis(millis.into())),
    }
}

/// The turnstile of the request's backend, if it has one.
pub fn queue(exchange: &Exchange) -> Option<Arc<Turnstile>> {
    exchange.routed.as_ref().and_then(|routed| routed.upstream()?.turnstile.clone())
}

/// Go in or wait.
///
/// # Cancel safety
/// Dropping the future leaves the queue.
pub async fn enter(exchange: &mut Exchange, turnstile: &Arc<Turnstile>) -> Result<(), Refusal> {
    let tokens = exchange.expected.input.saturating_add(exchange.expected.output);
    exchange.permit = Some(match turnstile.enter(tokens) {
        Some(place) => place,
        None => wait(exchange, turnstile, tokens).await.map_err(|shed| refusal(&shed))?,
    });
    exchange.enter(State::Gateway);
    Ok(())
}

async fn wait(exchange: &mut Exchange, turnstile: &Arc<Turnstile>, tokens: u64) -> Result<Place, Shed> {
    exchange.enter(State::Queue);
    let mut waiting = turnstile.wait(wish(exchange, tokens), clock::now())?;
    match tokio::time::timeout(waiting.max_wait(), waiting.turn()).await {
        Ok(turn) => turn,
        Err(_) => Err(waiting.give_up(clock::now())),
    }
}

fn wish(exchange: &Exchange, tokens: u64) -> Wish {
    let caller = exchange.caller.as_deref();
    let most = caller.map_or(Caller::PRIORITY, |caller| caller.priority);
    // A caller without a key is known by its network address.
    let known = caller.filter(|caller| caller.id != exchange.plan.anonymous.id).map(|caller| caller.id.clone());
    let tenant = known.unwrap_or_else(|| exchange.accepted.client.map_or_else(String::new, |address| network(address).to_string()).into());
    Wish { tenant, priority: exchange.hints.priority.unwrap_or(most).min(most), tokens, max_wait: exchange.hints.max_wait }
}

fn refusal(shed: &Shed) -> Refusal {
    let why = match shed.reason {
        ShedReason::QueueFull => "and the queue for it is full",
        ShedReason::TooLate => "and the request's turn would come too late",
        ShedReason::TimedOut => "and the request's turn did not come in time",
    };
    let seconds = shed.retry_after.as_secs_f64().ceil();
    Refusal {
        fields: format!("retry-after: {seconds}\r\n").into(),
        ..Refusal::new(503, "overloaded", format!("The backend has all it can do, {why}. Try again in {seconds} seconds."))
    }
}
