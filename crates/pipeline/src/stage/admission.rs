//! Stage 8: takes an admission permit of the backend, or waits in its queue.
//!
//! - *In*: the backend's queue; priority and maximum wait of the request.
//! - *Out*: a permit, which the end of the exchange releases; or a refusal, at once if the wait
//!   would be too long.
//! - *Never*: a permit held while a guardrail checks the prompt: guardrails come before.

use std::sync::Arc;
use std::time::Duration;

use http1::head::{Head, RequestLine};
use lens::State;
use traffic::settings::TenantKey;
use traffic::{AdmissionQueue, Caller, Permit, QueueRequest, Shed, ShedReason, network};

use crate::exchange::{ClientHints, Exchange};
use plan::clock;
use refusal::Refusal;

/// Code of a request that the queue sheds.
pub(super) const SHED: &str = "overloaded";

/// Maximum bytes of a header value that names a tenant; a longer one is ignored.
const MAX_TENANT: usize = 256;

/// Read the client's hints. Invalid numbers are ignored.
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

/// The tenant that the request names in the header of the settings, if they have one.
pub fn named_tenant(queue: &AdmissionQueue, head: &Head<'_, RequestLine<'_>>) -> Option<Arc<str>> {
    let TenantKey::Header(name) = queue.tenant_key() else { return None };
    let value = std::str::from_utf8(head.get(name)?).ok()?.trim();
    (1..=MAX_TENANT).contains(&value.len()).then(|| value.into())
}

/// Acquire a permit, waiting in the queue if necessary. `named` is the tenant that the request
/// names.
///
/// # Cancel safety
/// Dropping the future leaves the queue.
pub async fn enter(
    exchange: &mut Exchange,
    queue: &Arc<AdmissionQueue>,
    named: Option<Arc<str>>,
) -> Result<(), Refusal> {
    let expected = &exchange.expected;
    exchange.permit = Some(match queue.enter(expected.input, expected.output) {
        Some(place) => place,
        None => wait(exchange, queue, named).await.map_err(|shed| refusal(&shed))?,
    });
    exchange.enter(State::Gateway);
    Ok(())
}

async fn wait(
    exchange: &mut Exchange,
    queue: &Arc<AdmissionQueue>,
    named: Option<Arc<str>>,
) -> Result<Permit, Shed> {
    exchange.enter(State::Queue);
    let tenant = named.unwrap_or_else(|| tenant(exchange, queue.tenant_key()));
    let mut waiting = queue.wait(queue_request(exchange, tenant), clock::now())?;
    match tokio::time::timeout(waiting.max_wait(), waiting.turn()).await {
        Ok(turn) => turn,
        Err(_) => Err(waiting.give_up(clock::now())),
    }
}

/// The tenant of a request that names none: its owner or key. Callers without a key are grouped by
/// network address.
fn tenant(exchange: &Exchange, key: &TenantKey) -> Arc<str> {
    let known = exchange.caller.as_deref().filter(|c| c.id != exchange.plan.anonymous.id);
    match (known, key) {
        (Some(caller), TenantKey::Key) => caller.id.clone(),
        (Some(caller), _) => caller.owner.clone(),
        (None, _) => exchange
            .accepted
            .client
            .map_or_else(String::new, |address| network(address).to_string())
            .into(),
    }
}

fn queue_request(exchange: &Exchange, tenant: Arc<str>) -> QueueRequest {
    let most = exchange.caller.as_deref().map_or(Caller::PRIORITY, |caller| caller.priority);
    QueueRequest {
        tenant,
        priority: exchange.hints.priority.unwrap_or(most).min(most),
        expected: exchange.expected,
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
