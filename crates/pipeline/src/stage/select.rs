//! Stage 7: selects a backend, and the next one after a failure.
//!
//! `routing` decides; this stage passes it the request's properties, and the results of attempts.
//!
//! - *In*: the route's pools, the facts of the request, the result of an attempt.
//! - *Out*: a target in the exchange, or a refusal when no backend can serve the request.
//! - *Never*: another backend for a request whose answer has reached the client, whose client has
//!   left, or beyond the retry budget.

mod fit;
mod report;
mod resume;

pub use fit::prepare;
pub use report::{backend_field, write_down};
pub use resume::{keep_for_resume, may_resume, resume_mark, resumed};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lens::record::{Outcome, RecordAttempt};
use lens::{EngineError, State, Tick};
use routing::member::Change;
use routing::{
    AnswerTimes, Attempt, AttemptResult, BalanceRequest, Offloaded, Reason, RequestSize,
    RequestTraits, Selection, TierOffer, Version, VersionResult,
};

use crate::exchange::{Attempts, Exchange};
use plan::{PlannedPool, PlannedRoute, Target, clock};
use refusal::Refusal;

/// Maximum backends with waiting requests that are skipped for another one of the pool.
const MAX_SKIPPED: usize = 4;

/// Maximum prompt tokens, and output tokens, that a request counts as.
const MAX_TOKENS: u64 = 1_000_000;

/// Choose a backend, or take the one that was chosen when the last attempt failed.
pub fn select(exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(routed) = &exchange.routed else { return Err(Refusal::internal()) };
    let now = clock::now();
    let route = routed.route.clone();
    if exchange.attempts.tried.is_empty() {
        route.pools.iter().for_each(|pool| pool.pool.retries.earn(now));
        exchange.attempts.offloaded = offload(exchange, &route, now);
        // A request that goes to the cloud belongs to no version of the edge pool.
        if exchange.attempts.offloaded.is_some_and(Offloaded::leaves) {
            exchange.attempts.assigned = None;
        }
    }
    let chosen = exchange.attempts.next.take().or_else(|| pick(exchange, &route, now));
    let (target, reason) = chosen.ok_or_else(Refusal::no_backend)?;
    note(&exchange.attempts, &route, target, reason);
    let canary_failed = failed_canary(&exchange.attempts, &route, target, now);
    exchange.set_target(target);
    let question = request_size(exchange);
    let attempts = &mut exchange.attempts;
    let side = |canary: &config::settings::CanarySettings| {
        if canary.pool == target.pool { Version::Canary } else { Version::Stable }
    };
    attempts.version = attempts.assigned.and(route.route.canary.as_ref()).map(side);
    if let (Some(release), true) = (&route.release, canary_failed) {
        release.record_result(Version::Canary, VersionResult::Failure, None);
    }
    attempts.attempt = route.pools.get(target.pool).and_then(|pool| {
        pool.pool.remember(&attempts.prefix, target.at);
        pool.pool.begin(target.at, question)
    });
    attempts.engine_metrics =
        attempts.attempt.as_ref().and_then(|attempt| attempt.member().engine_metrics(now));
    attempts.last_predicted = attempts.attempt.as_ref().and_then(Attempt::predicted);
    (attempts.began, attempts.reason, attempts.first_token_reported) = (now, Some(reason), false);
    attempts.tried.push(target);
    Ok(())
}

/// Count retries, fallbacks, resumes and offload decisions.
fn note(attempts: &Attempts, route: &PlannedRoute, target: Target, reason: Reason) {
    let counters = &route.counters;
    if reason == Reason::Fallback && attempts.tried.iter().all(|tried| tried.pool != target.pool) {
        counters.fallbacks.fetch_add(1, Ordering::Relaxed);
    }
    if attempts.tried.is_empty() {
        attempts.offloaded.into_iter().for_each(|decided| counters.offloaded(decided));
    } else {
        let count = if attempts.resuming { &counters.resumes } else { &counters.retries };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the stable version takes over a request of the canary, because all canary backends that
/// can serve it have failed.
fn failed_canary(attempts: &Attempts, route: &PlannedRoute, target: Target, now: Tick) -> bool {
    let canary = route.route.canary.as_ref().filter(|canary| canary.pool != target.pool);
    let is_its = attempts.assigned == Some(Version::Canary) && attempts.tried.is_empty();
    let Some(pool) = canary.filter(|_| is_its).and_then(|canary| route.pools.get(canary.pool))
    else {
        return false;
    };
    let unfit = attempts
        .unfit
        .iter()
        .filter(|target| canary.is_some_and(|canary| canary.pool == target.pool));
    pool.pool.has_failed(&unfit.map(|target| target.at).collect::<Vec<_>>(), now)
}

/// Size of the request.
pub fn request_size(exchange: &Exchange) -> RequestSize {
    // Clients can claim any size. Without a bound, one claim would outweigh all other requests.
    RequestSize {
        prompt: exchange.expected.input.min(MAX_TOKENS),
        output: exchange.expected.output.min(MAX_TOKENS),
    }
}

/// Decide between the first pool (edge) and the second (cloud), if the route has an offload policy.
fn offload(exchange: &Exchange, route: &PlannedRoute, now: Tick) -> Option<Offloaded> {
    // A pass-through request has no size estimate.
    let offload = route.offload.as_ref().filter(|_| exchange.accepted.dialect.is_some())?;
    let question = request_size(exchange);
    let wanted = route.route.offload.iter().flat_map(|wanted| &wanted.findings);
    let traits = RequestTraits {
        tools: exchange.inspected.facts.as_ref().is_some_and(|facts| facts.tools > 0),
        has_header: exchange.attempts.requests_cloud,
        found: wanted
            .into_iter()
            .any(|wanted| exchange.guarded.input.keys().any(|rule| wanted.matches(rule))),
    };
    // Requests of the canary are predicted for its pool, not for the stable version's.
    let version =
        route.route.canary.as_ref().filter(|_| exchange.attempts.assigned == Some(Version::Canary));
    let [edge, cloud] = [version.map_or(0, |canary| canary.pool), 1]
        .map(|number| tier_offer(route, number, &question, &exchange.attempts.unfit, now));
    Some(offload.decide(&question, traits, &edge?, &cloud?))
}

/// Availability, saturation, predicted latency and cost of a pool for a request.
pub fn tier_offer(
    route: &PlannedRoute,
    number: usize,
    question: &RequestSize,
    unfit: &[Target],
    now: Tick,
) -> Option<TierOffer> {
    let pool = route.pools.get(number)?;
    let unfit: Vec<usize> =
        unfit.iter().filter(|target| target.pool == number).map(|target| target.at).collect();
    let (is_available, predicted) = pool.pool.tier_offer(question, &unfit, now);
    let well = || {
        pool.upstreams
            .iter()
            .enumerate()
            .filter(|(at, _)| pool.pool.can_serve(*at, &unfit, now))
            .map(|(_, upstream)| upstream)
    };
    let cheapest =
        well().map(|upstream| upstream.backend.cost).min_by(f64::total_cmp).unwrap_or(0.0);
    let is_saturated = is_available && well().all(|upstream| upstream.has_queue(now));
    // `cost` is in dollars per million tokens, the offer in cents.
    Some(TierOffer {
        is_available,
        is_saturated,
        predicted,
        cost: cheapest * question.tokens() as f64 / 1e4,
    })
}

/// Select from the first pool with a healthy backend that can serve the request or, in panic mode,
/// from the first pool with any. An offloaded request tries the edge last.
fn pick(exchange: &Exchange, route: &PlannedRoute, now: Tick) -> Option<(Target, Reason)> {
    if !route.has_choice() {
        return exchange.attempts.tried.is_empty().then_some((Target::default(), Reason::Only));
    }
    let mut last_resort = None;
    let mut order: Vec<usize> = (0..route.pools.len()).collect();
    if exchange.attempts.offloaded.is_some_and(Offloaded::leaves) {
        order.rotate_left(1);
    }
    if let Some(canary) = &route.route.canary {
        order.retain(|number| *number != canary.pool);
        // The stable version takes over for the canary, never the other way round.
        if exchange.attempts.assigned == Some(Version::Canary) {
            order.insert(0, canary.pool);
        }
    }
    let first = order.first().copied();
    for (number, pool) in
        order.into_iter().filter_map(|number| Some((number, route.pools.get(number)?)))
    {
        let Some(choice) = pick_from_pool(exchange, number, pool, now) else { continue };
        let reason = if Some(number) == first { choice.reason } else { Reason::Fallback };
        if choice.reason != Reason::Panic {
            return Some((Target { pool: number, at: choice.at }, reason));
        }
        last_resort = last_resort.or(Some((Target { pool: number, at: choice.at }, choice.reason)));
    }
    last_resort
}

fn pick_from_pool(
    exchange: &Exchange,
    number: usize,
    pool: &Arc<PlannedPool>,
    now: Tick,
) -> Option<Selection> {
    let attempts = &exchange.attempts;
    let of = |targets: &[Target]| -> Vec<usize> {
        targets.iter().filter(|target| target.pool == number).map(|target| target.at).collect()
    };
    let (tried, unfit) = (of(&attempts.tried), of(&attempts.unfit));
    let (tokens, again) = (request_size(exchange).tokens(), !attempts.tried.is_empty());
    let choose = |unfit: &[usize]| {
        pool.pool.choose(
            &BalanceRequest {
                tokens,
                key: attempts.key.as_deref(),
                prefix: &attempts.prefix,
                tried: &tried,
                again,
                unfit,
            },
            now,
        )
    };
    let first = choose(&unfit)?;
    // A backend with a queue is skipped if another has none.
    let (mut choice, mut passed) = (first, unfit.clone());
    for _ in 0..MAX_SKIPPED {
        if !pool.upstreams.get(choice.at).is_some_and(|upstream| upstream.is_saturated()) {
            return Some(choice);
        }
        passed.push(choice.at);
        match choose(&passed).filter(|other| other.reason != Reason::Panic) {
            Some(other) => choice = other,
            None => break,
        }
    }
    Some(first)
}

/// Whether another backend may be tried after this one has failed. Selection spends the retry
/// budget.
pub fn may_retry(exchange: &mut Exchange) -> bool {
    !exchange.attempts.committed && choose_next(exchange)
}

/// Select the next backend, and pay for it from the retry budget.
fn choose_next(exchange: &mut Exchange) -> bool {
    if exchange.attempts.next.is_some() {
        return true;
    }
    let Some(route) = exchange.routed.as_ref().map(|routed| routed.route.clone()) else {
        return false;
    };
    let retries = &route.route.retries;
    if exchange.attempts.tried.len() > retries.max as usize {
        return false;
    }
    let now = clock::now();
    let Some(next) = pick(exchange, &route, now) else { return false };
    let paid = route
        .pools
        .first()
        .is_some_and(|pool| pool.pool.retries.spend(retries.budget, retries.min_per_second, now));
    if !paid {
        route.counters.retries_denied.fetch_add(1, Ordering::Relaxed);
        exchange.attempts.retry_denied = true;
    }
    exchange.attempts.next = paid.then_some(next);
    paid
}

/// Whether another backend can still be tried. Then the answer is held until its first token.
pub fn can_retry(exchange: &Exchange) -> bool {
    let Some(routed) = &exchange.routed else { return false };
    let hidden = |number: usize| {
        let canary = routed.route.route.canary.as_ref().is_some_and(|canary| canary.pool == number);
        canary && exchange.attempts.assigned != Some(Version::Canary)
    };
    let pools = routed.route.pools.iter().enumerate().filter(|(number, _)| !hidden(*number));
    let targets: usize = pools.map(|(_, pool)| pool.upstreams.len()).sum();
    let tried = exchange.attempts.tried.len();
    !exchange.attempts.committed
        && tried <= routed.route.route.retries.max as usize
        && tried < targets
}

/// Report the time to first token to the pool, once for each attempt.
pub fn report_first_token(exchange: &mut Exchange) {
    if exchange.attempts.first_token_reported {
        return;
    }
    let Some(first) = exchange.answer.lens.marks().first_token.arrival else { return };
    exchange.attempts.first_token_reported = true;
    if let (Some(attempt), Some(sent), Some(routed)) =
        (&exchange.attempts.attempt, exchange.sent.at, &exchange.routed)
    {
        routed.pool().pool.first_token(
            attempt,
            Duration::from_nanos(first.nanos_since(sent)),
            first,
        );
    }
}

/// An attempt has failed, and another backend is tried: record the failed one.
pub fn record_failure(
    exchange: &mut Exchange,
    code: &str,
    status: Option<u16>,
    ended: AttemptResult,
) {
    let now = clock::now();
    if let Some(permit) = exchange.permit.take() {
        permit.abandon(now);
    }
    write_attempt(exchange, (code, status), ended, now);
    end(exchange, ended, now);
    if !exchange.attempts.resuming {
        (exchange.answer, exchange.sent) = Default::default();
    } else {
        exchange.attempts.first_sent = exchange.attempts.first_sent.or(exchange.sent.at);
    }
    exchange.enter(State::Gateway);
}

/// Write a failed attempt to the record, the log and the release of the canary.
pub(super) fn write_attempt(
    exchange: &mut Exchange,
    (code, http_status): (&str, Option<u16>),
    ended: AttemptResult,
    at: Tick,
) {
    let Some(routed) = &exchange.routed else { return };
    let Some(upstream) = routed.upstream() else { return };
    let went = version_result(ended, http_status.unwrap_or(0));
    if let Some(went) = went.filter(|went| *went != VersionResult::Success) {
        record_version(exchange, went, None);
    }
    let (backend, us) = (upstream.backend.name.clone(), at.micros_since(exchange.attempts.began));
    let route = &*routed.route.route.name;
    tracing::debug!(%backend, route, code, "attempt failed, selecting another backend");
    let at_us = exchange.attempts.began.micros_since(exchange.accepted.head_at);
    // Without one, the request was not sent.
    let span_id = exchange.spans.as_mut().and_then(|spans| spans.call.take());
    let provider = span_id.is_some().then(|| upstream.backend.provider.clone());
    exchange.attempts.failed.push(RecordAttempt {
        backend,
        code: code.to_owned(),
        http_status,
        us,
        at_us,
        span_id,
        provider,
    });
}

/// End the current attempt with this result, whatever the outcome of the exchange.
pub fn close(exchange: &mut Exchange, ended: AttemptResult) {
    end(exchange, ended, clock::now());
}

/// The result of an attempt for its version. Every 4xx of a backend counts as refused: clients are
/// the same for both versions, so the one with more of them is worse.
fn version_result(ended: AttemptResult, error_status: u16) -> Option<VersionResult> {
    match ended {
        AttemptResult::Failure => Some(VersionResult::Failure),
        AttemptResult::Overloaded => Some(VersionResult::Refused),
        _ if (400..500).contains(&error_status) => Some(VersionResult::Refused),
        AttemptResult::Success => Some(VersionResult::Success),
        AttemptResult::Unknown => None,
    }
}

/// Report a result to the release of the canary or, on a route without one, to its history. A
/// request that goes to the cloud belongs to no version.
fn record_version(exchange: &Exchange, went: VersionResult, ttft: Option<Duration>) {
    let (Some(routed), attempts) = (&exchange.routed, &exchange.attempts) else { return };
    match (&routed.route.release, attempts.version) {
        (Some(release), Some(side)) => release.record_result(side, went, ttft),
        (None, _) if !attempts.offloaded.is_some_and(Offloaded::leaves) => {
            routed.route.history.record(went, ttft);
        }
        _ => {}
    }
}

/// End the last attempt of an exchange, and report its result to the release of the canary.
pub fn settle(exchange: &mut Exchange) {
    let ended = verdict(exchange);
    if let Some(went) = version_result(ended, error_status(exchange)) {
        let first = exchange
            .answer
            .lens
            .marks()
            .first_token
            .arrival
            .zip(exchange.sent.at)
            .filter(|_| exchange.attempts.resumes.is_empty());
        let ttft = first.map(|(first, sent)| Duration::from_nanos(first.nanos_since(sent)));
        record_version(exchange, went, ttft);
    }
    let of_one = exchange.answer.streamed && exchange.attempts.resumes.is_empty();
    if let (Some(attempt), Some(pace), true) = (&exchange.attempts.attempt, pace(exchange), of_one)
    {
        attempt.paced(&pace);
    }
    end(exchange, ended, clock::now());
}

/// Times of the answer's tokens, if they were measured.
fn pace(exchange: &Exchange) -> Option<AnswerTimes> {
    let (lens, sent) = (&exchange.answer.lens, exchange.sent.at?);
    let each = Duration::from_secs_f64((lens.tpot_us()? / 1e6).clamp(0.0, 3600.0));
    let since = |mark: Option<Tick>| mark.map(|at| Duration::from_nanos(at.nanos_since(sent)));
    Some(AnswerTimes {
        first: since(lens.marks().first_token.arrival)?,
        last: since(lens.marks().last_token.arrival)?,
        each,
    })
}

/// The result of an exchange for its backend. Client mistakes, and clients that leave, are not its
/// fault.
fn verdict(exchange: &Exchange) -> AttemptResult {
    let status = error_status(exchange);
    match exchange.verdict.outcome() {
        Some(Outcome::Ok) => AttemptResult::Success,
        // A pass-through request may need permissions that the backend's credential does not have.
        Some(Outcome::UpstreamError)
            if exchange.accepted.dialect.is_none() && matches!(status, 401 | 403) =>
        {
            AttemptResult::Success
        }
        Some(Outcome::UpstreamError) => exchange.fault(status),
        // A backend that cannot resume an answer has not failed.
        Some(Outcome::UpstreamFailed)
            if exchange.verdict.code.as_deref() == Some("upstream_resume_failed") =>
        {
            AttemptResult::Unknown
        }
        Some(Outcome::UpstreamFailed) => AttemptResult::Failure,
        // A client that does not read or send, and an answer longer than permitted, are no fault of
        // the backend.
        Some(Outcome::Timeout)
            if !matches!(
                exchange.verdict.code.as_deref(),
                Some(
                    "client_write_timeout"
                        | "total_timeout"
                        | "request_timeout"
                        | "gateway_shutdown"
                )
            ) =>
        {
            AttemptResult::Failure
        }
        _ => AttemptResult::Unknown,
    }
}

/// Status of the backend's error, 0 without one. An error in a stream has a status of its own.
fn error_status(exchange: &Exchange) -> u16 {
    let told = exchange.answer.lens.error().map(EngineError::status);
    exchange.answer.status.filter(|status| *status >= 400).or(told).unwrap_or(0)
}

pub(super) fn end(exchange: &mut Exchange, ended: AttemptResult, now: Tick) {
    let (Some(attempt), Some(routed)) = (exchange.attempts.attempt.take(), &exchange.routed) else {
        return;
    };
    let name = attempt.member().name.clone();
    // An attempt that was never sent does not count for the backend's health.
    let was_asked = exchange.sent.at.is_some() || exchange.attempts.passes;
    let ended =
        if !was_asked && ended == AttemptResult::Success { AttemptResult::Unknown } else { ended };
    match routed.pool().pool.end(attempt, ended, now) {
        Some(Change::Ejected(cause, span)) => {
            tracing::warn!(backend = %name, cause = cause.name(), duration = ?span, "backend ejected")
        }
        Some(Change::Recovered) => tracing::info!(backend = %name, "backend recovered"),
        None => {}
    }
}
