//! Stage 5: reserves rate limits.
//!
//! The estimated use is reserved in every limit that applies; `relay` reports what the stream has
//! used, and the end of the exchange settles it.
//!
//! - *In*: the caller, the facts of the body, the limits of the plan.
//! - *Out*: a charge in the exchange, or a refusal with the limit and the time to wait.
//! - *Never*: a reservation left behind.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use config::settings::OnStoreFailure;
use lens::State;
use lens::record::Outcome;
use traffic::settings::{DOLLAR, Per, Unit, Window};
use traffic::store::Granted;
use traffic::{Charge, Denied, LeaseRequest, LimitRequest, Limited, StoreFallback, TokenUsage};
use wire::Dialect;

use crate::exchange::Exchange;
use crate::stage::admission;
use plan::Plan;
use plan::clock::{self, when};
use plan::shared_limits::StoreUnavailable;
use refusal::Refusal;

/// Bytes of text per token: a little less than English has with current tokenizers.
const BYTES_A_TOKEN: u64 = 4;
/// Maximum store calls for a request: other requests may take the leased units before it retries.
const LEASES: usize = 5;
/// Tokens of a message besides its text.
pub(super) const TOKENS_A_MESSAGE: u64 = 4;

/// Reserve the estimated use.
///
/// # Cancel safety
/// Dropping the future leaves nothing reserved; a slice that was leased meanwhile stays for later
/// requests.
pub async fn reserve(exchange: &mut Exchange) -> Result<(), Refusal> {
    if exchange.plan.rate_limits.is_empty() {
        return Ok(());
    }
    let counts_tokens = exchange.routed.as_ref().is_some_and(|routed| routed.route.counts_tokens);
    if counts_tokens
        && exchange.inspected.facts.as_ref().is_some_and(|facts| facts.has_invalid_count)
    {
        let message = "Token limits and numbers of choices must be whole numbers.";
        return Err(Refusal::invalid(400, "invalid_value", "max_tokens", message.into()));
    }
    exchange.enter(State::Queue);
    let mut reserved = try_reserve(exchange, None);
    for _ in 0..LEASES {
        let Err(Denied::Short(wanted)) = reserved else { break };
        // Boxed, so that requests without a store call do not carry its size.
        reserved = match Box::pin(lease(&exchange.plan, wanted)).await {
            Ok(away) => try_reserve(exchange, away),
            Err(limited) => Err(Denied::Limited(limited)),
        };
    }
    exchange.enter(State::Gateway);
    match reserved {
        Ok(charge) => {
            exchange.charge = charge;
            Ok(())
        }
        Err(Denied::Limited(limited)) => Err(refusal(&limited)),
        // Other requests took the leased units each time: the limit is not exhausted, so this is no
        // 429.
        Err(Denied::Short(_)) => Err(Refusal::limits_unavailable()),
    }
}

/// Lease the missing units from the store. `Ok(Some)`: the store is unreachable, and this fallback
/// applies.
async fn lease(plan: &Plan, wanted: Vec<LeaseRequest>) -> Result<Option<StoreFallback>, Limited> {
    let Some(store) = &plan.store else { return Ok(Some(StoreFallback::Closed)) };
    for wanted in wanted {
        match store.lease(&wanted).await {
            Ok(Granted::Units(units)) => wanted.granted(units),
            Ok(Granted::None(retry_after)) => {
                if let Some(limited) = plan.rate_limits.limited(&wanted, retry_after) {
                    return Err(limited);
                }
            }
            Err(StoreUnavailable) => {
                store.without.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(match store.settings.on_failure {
                    OnStoreFailure::Local => StoreFallback::Local,
                    OnStoreFailure::Open => StoreFallback::Open,
                    OnStoreFailure::Closed => StoreFallback::Closed,
                }));
            }
        }
    }
    Ok(None)
}

fn try_reserve(exchange: &Exchange, away: Option<StoreFallback>) -> Result<Charge, Denied> {
    let Some(routed) = &exchange.routed else { return Ok(Charge::default()) };
    let caller = exchange.caller.as_deref().unwrap_or(&exchange.plan.anonymous);
    let model = exchange.inspected.facts.as_ref().and_then(|facts| facts.model.as_deref());
    let asked = LimitRequest {
        caller,
        route: &routed.route.route.name,
        model: model.unwrap_or_default(),
        declared_model: exchange.plan.declared(model),
        address: exchange.accepted.client,
        expected: exchange.expected,
        reserved_output: routed.route.route.reserved_output_tokens,
    };
    exchange.plan.rate_limits.reserve(&asked, away, when())
}

/// The estimated use: the prompt, and the output that it or the route permits.
pub fn expected(exchange: &Exchange, body: &[u8]) -> TokenUsage {
    let Some(facts) = &exchange.inspected.facts else { return TokenUsage::default() };
    let route = exchange.routed.as_ref().map(|routed| &routed.route.route);
    let text = (facts.prompt_bytes() as u64).div_ceil(BYTES_A_TOKEN)
        + TOKENS_A_MESSAGE * facts.messages as u64;
    // Token ids have no text: estimate them by the bytes of the body.
    let input =
        if facts.tokens { text.max((body.len() as u64).div_ceil(BYTES_A_TOKEN)) } else { text };
    let generates = exchange.accepted.dialect.is_some_and(Dialect::generates);
    let by_default = || {
        let each = route.map_or(0, |route| route.default_output_tokens);
        each.saturating_mul(generated_answers(exchange))
    };
    let output = if generates { max_output(exchange).unwrap_or_else(by_default) } else { 0 };
    TokenUsage { input, output, ..TokenUsage::default() }
}

/// Maximum tokens that the request permits, all answers together.
pub fn max_output(exchange: &Exchange) -> Option<u64> {
    let each = exchange.inspected.facts.as_ref()?.max_tokens?;
    Some(each.saturating_mul(generated_answers(exchange)))
}

/// Number of answers that the engine generates, of which it may return fewer.
fn generated_answers(exchange: &Exchange) -> u64 {
    let best_of = exchange.inspected.facts.as_ref().and_then(|facts| facts.best_of).unwrap_or(1);
    choices(exchange).max(best_of.saturating_mul(prompts(exchange)))
}

/// Number of prompts: more than one only in dialects that batch them.
fn prompts(exchange: &Exchange) -> u64 {
    let facts = exchange
        .inspected
        .facts
        .as_ref()
        .filter(|_| exchange.accepted.dialect.is_some_and(Dialect::batches_prompts));
    facts.map_or(1, |facts| facts.messages.max(1) as u64)
}

/// Number of choices in the answer.
pub fn choices(exchange: &Exchange) -> u64 {
    let asked = exchange.inspected.facts.as_ref().and_then(|facts| facts.n).unwrap_or(1).max(1);
    asked.saturating_mul(prompts(exchange))
}

/// The use so far, as reported by the engine or as observed.
pub fn used(exchange: &Exchange) -> TokenUsage {
    let (expected, lens) = (&exchange.expected, &exchange.answer.lens);
    let stated = lens.usage().unwrap_or_default();
    let is_beside = exchange
        .routed
        .as_ref()
        .and_then(|routed| routed.dialect)
        .is_some_and(Dialect::counts_cache_separately);
    let beside = if is_beside {
        [stated.cached_tokens, stated.cache_creation_tokens].iter().flatten().sum()
    } else {
        0
    };
    let apart = stated.separate_reasoning().unwrap_or(0);
    TokenUsage {
        input: stated.prompt_tokens.map_or(expected.input, |tokens| tokens.saturating_add(beside)),
        cached: stated.cached_tokens.unwrap_or(0),
        output: lens.completion_tokens().0.unwrap_or(0).saturating_add(apart),
        reasoning: stated.reasoning_tokens.unwrap_or(0),
    }
}

/// The request is over: charge its use. A request that reached no engine counts as a request only;
/// one that the gateway shed, or whose client left while it waited, does not count.
pub fn settle(exchange: &mut Exchange) -> TokenUsage {
    let used = total_used(exchange);
    if was_shed(exchange) || left_the_queue(exchange) {
        exchange.charge.cancel(when());
    }
    if !exchange.charge.is_empty() {
        exchange.charge.settle(&used, when());
    }
    used
}

/// The use of the whole request; none if it reached no engine, or if the engine refused it.
pub fn total_used(exchange: &Exchange) -> TokenUsage {
    if was_never_served(exchange) || was_refused(exchange) {
        return TokenUsage::default();
    }
    used_in_all(exchange)
}

/// Whether the gateway refused the request because a backend, or the gateway itself, is at
/// capacity.
fn was_shed(exchange: &Exchange) -> bool {
    let code = exchange.verdict.code.as_deref();
    exchange.verdict.outcome() == Some(Outcome::Rejected)
        && code.is_some_and(|code| {
            [admission::SHED, Refusal::BUSY, Refusal::OVERLOADED].contains(&code)
        })
}

/// Whether the client left while the request waited for a limit or for admission.
fn left_the_queue(exchange: &Exchange) -> bool {
    let is_gone = exchange.verdict.outcome() == Some(Outcome::ClientGone);
    is_gone && exchange.ledger.state() == State::Queue
}

/// Whether no engine has received the whole request. An answer can begin before that, and counts.
fn was_never_served(exchange: &Exchange) -> bool {
    let answered = exchange.answer.lens.marks().first_byte.arrival.is_some();
    exchange.sent.at.is_none() && !answered
}

/// Whether the client got nothing for the request: the engine refused it, or failed before its
/// first token. A client that leaves early pays, because the engine has worked for it.
fn was_refused(exchange: &Exchange) -> bool {
    let (answer, lens) = (&exchange.answer, &exchange.answer.lens);
    let is_read = answer.measured && answer.not_parsed.is_none();
    let has_failed = matches!(
        exchange.verdict.outcome(),
        Some(Outcome::UpstreamError | Outcome::UpstreamFailed | Outcome::Timeout)
    );
    let got_nothing = answer.status.is_some_and(|status| status >= 400)
        || lens.marks().first_byte.arrival.is_none()
        || is_read && answer.streamed && lens.counts().content_events == 0
        || is_read && !answer.streamed && lens.error().is_some();
    has_failed && got_nothing && lens.usage().is_none()
}

/// Billable usage: reported, else estimated. Unreadable answers are billed by estimate or by bytes,
/// so that hiding an answer, or its end, does not make it free.
fn used_in_all(exchange: &Exchange) -> TokenUsage {
    let answer = &exchange.answer;
    let mut used = used(exchange);
    // Embeddings have no generated tokens.
    if exchange.accepted.dialect.is_some_and(|dialect| !dialect.generates()) {
        return used;
    }
    let stated = answer.lens.usage().is_some_and(|usage| usage.completion_tokens.is_some());
    let unread = answer.not_parsed.is_some() || !answer.measured;
    // A stream without a text generated nothing; a whole answer may have another form.
    let is_other = !answer.streamed && answer.lens.counts().content_events == 0;
    if !stated && answer.lens.marks().first_byte.arrival.is_some() && (unread || is_other) {
        let by_bytes = answer.bytes_to_client.div_ceil(BYTES_A_TOKEN);
        used.output =
            used.output.max(by_bytes).max(if unread { exchange.expected.output } else { 0 });
    }
    used
}

/// Add the use to the usage sums, unless the request reached no engine or was not parsed.
pub fn add_usage(exchange: &Exchange, used: &TokenUsage) {
    if was_never_served(exchange) || exchange.accepted.dialect.is_none() {
        return;
    }
    let caller = exchange.caller.as_deref().unwrap_or(&exchange.plan.anonymous);
    let model = exchange.inspected.facts.as_ref().and_then(|facts| facts.model.as_deref());
    let cost = used.cost(exchange.plan.rate_limits.price(model.unwrap_or_default()));
    let names = (&caller.owner, &caller.id, exchange.plan.declared(model));
    exchange.shared.usage_sums.add(names, used, cost, clock::wall_us());
}

/// `x-ratelimit-*`, as OpenAI's clients read them.
pub fn fields(exchange: &Exchange) -> String {
    let mut out = String::new();
    if exchange.charge.is_empty() {
        return out;
    }
    let now = when();
    for (word, left) in [
        ("requests", exchange.charge.requests_left(now)),
        ("tokens", exchange.charge.tokens_left(now)),
    ] {
        if let Some(left) = left {
            // Writing to a string does not fail.
            let _ = write!(
                out,
                "x-ratelimit-limit-{word}: {}\r\nx-ratelimit-remaining-{word}: {}\r\nx-ratelimit-reset-{word}: {}\r\n",
                left.limit,
                left.remaining,
                span(left.reset)
            );
        }
    }
    for (limit, taken) in exchange.charge.warnings(now) {
        let _ = write!(out, "x-llm-lens-limit-warning: {limit}; taken={taken}%\r\n");
    }
    out
}

fn refusal(limited: &Limited) -> Refusal {
    let amount = |units: u64| match limited.unit {
        Unit::Cost => format!("${:.6}", units as f64 / DOLLAR as f64),
        _ => units.to_string(),
    };
    let window = match limited.quota.window {
        Window::Rolling(period) => format!("every {}", span(period)),
        Window::Day => "a day".into(),
        Window::Month => "a month".into(),
        Window::AtATime => "at a time".into(),
    };
    let whose = match limited.per {
        Per::All => String::new(),
        per => format!(" for this {}", per.name()),
    };
    let reserved = if limited.reserved < limited.asked {
        format!(" ({} reserved)", amount(limited.reserved))
    } else {
        String::new()
    };
    let mut message = format!(
        "Rate limit {:?} reached{whose}: {} {} {window}; {} left, {} requested{reserved}.",
        limited.limit,
        amount(limited.quota.amount),
        limited.unit.name(),
        amount(limited.left),
        amount(limited.asked),
    );
    match limited.retry_after {
        Some(wait) => message.push_str(&format!(" Try again in {}.", span(wait))),
        None => message.push_str(" The request alone exceeds the limit. Send a smaller one."),
    }
    let (kind, unit) = match limited.unit {
        Unit::Requests => ("requests", "requests"),
        Unit::Streams => ("requests", "streams"),
        Unit::Cost => ("insufficient_quota", "cost"),
        _ => ("tokens", "tokens"),
    };
    let mut fields = format!(
        "x-ratelimit-limit-{unit}: {}\r\nx-ratelimit-remaining-{unit}: {}\r\n",
        limited.quota.burst, limited.left
    );
    if let Some(wait) = limited.retry_after {
        // Whole seconds, never too early; the clients of OpenAI and Anthropic prefer the finer one.
        fields.push_str(&format!(
            "x-ratelimit-reset-{unit}: {}\r\nretry-after: {}\r\nretry-after-ms: {}\r\n",
            span(wait),
            wait.as_secs_f64().ceil(),
            (wait.as_secs_f64() * 1000.0).ceil()
        ));
    }
    Refusal {
        kind: Some(kind),
        fields: fields.into(),
        ..Refusal::new(429, "rate_limit_exceeded", message)
    }
}

/// Format a duration like OpenAI's headers: `1h2m3s`, `1.5s`, `20ms`.
fn span(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_nanos().div_ceil(1_000_000));
    match (seconds, millis) {
        (0, millis) => format!("{millis}ms"),
        (1..60, 0) => format!("{seconds}s"),
        (1..60, millis) => format!("{}s", seconds as f64 + f64::from(millis) / 1000.0),
        _ => {
            let seconds = seconds + u64::from(millis > 0);
            let mut out = String::new();
            for (unit, part) in
                [("h", seconds / 3600), ("m", seconds / 60 % 60), ("s", seconds % 60)]
            {
                if part > 0 {
                    let _ = write!(out, "{part}{unit}");
                }
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_openai_writes_them() {
        for (nanos, want) in [
            (0, "0ms"),
            (20_000_000, "20ms"),
            (1, "1ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m"),
            (299_999_000_000, "5m"),
            (3_723_000_000_000, "1h2m3s"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), want);
        }
    }
}
