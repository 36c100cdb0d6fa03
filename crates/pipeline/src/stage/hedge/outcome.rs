//! Plans hedges, and applies their outcome to the exchange.

use std::time::Duration;

use lens::record::RecordHedge;
use relay::ProbeParsing;
use routing::{AttemptResult, Reason};
use transport::Edits;

use super::{Hedge, HedgeOutcome, HedgePlan, Switch};
use crate::exchange::{Exchange, UpstreamRequest};
use crate::stage::select::{self, end, write_attempt};
use plan::Target;
use plan::clock;

/// The plan of a hedge, if the route has hedging.
pub fn plan(
    exchange: &mut Exchange,
    request: &UpstreamRequest,
    edits: &Edits,
    reads: Option<ProbeParsing>,
) -> Option<Box<Hedge>> {
    let traceparent = match exchange.routed.as_ref()?.route.route.hedges {
        Some(_) => exchange.spans.as_mut().map(|spans| spans.begin_hedge()),
        None => return None,
    };
    let routed = exchange.routed.as_ref()?;
    let hedges = routed.route.route.hedges?;
    routed.pool().pool.hedges.earn(clock::now());
    let after = hedges.after.or_else(|| routed.upstream()?.member.p95())?;
    let others = exchange.attempts.unfit.iter().chain(&exchange.attempts.tried);
    let unfit =
        others.filter(|target| target.pool == routed.target.pool).map(|target| target.at).collect();
    Some(Hedge::new(HedgePlan {
        route: routed.route.clone(),
        first: routed.target,
        unfit,
        request: request.clone(),
        edits: edits.clone(),
        id: exchange.accepted.id.clone(),
        keeps_credentials: exchange.plan.keys.is_some(),
        traceparent,
        peer: exchange.accepted.peer,
        after,
        budget: hedges.budget,
        question: select::request_size(exchange),
        limits: exchange.plan.head_limits,
        reads,
        with_credential: exchange.attempts.with_credential,
        connect: exchange.timeouts().connect,
        clients: exchange.shared.client_limits.clone(),
    }))
}

/// Apply the outcome of a hedge to the exchange.
pub fn apply(exchange: &mut Exchange, outcome: HedgeOutcome) {
    if let Some(switched) = outcome.switch {
        switch(exchange, switched);
    }
    // A hedge that failed is not retried on the same backend.
    if let Some((target, after)) = outcome.second_failed {
        exchange.attempts.tried.push(target);
        lost(exchange, target, after);
    }
    if let Some((target, after)) = outcome.lost {
        lost(exchange, target, after);
    }
}

/// Switch the exchange to the hedge, which answered first, and report the late first backend to its
/// pool.
fn switch(exchange: &mut Exchange, switch: Switch) {
    let now = clock::now();
    if let (Some(attempt), None, Some(routed)) =
        (&exchange.attempts.attempt, &switch.first, &exchange.routed)
    {
        let sent = exchange.sent.at.unwrap_or(switch.began);
        routed.pool().pool.first_token(attempt, Duration::from_nanos(now.nanos_since(sent)), now);
    }
    if let Some(failure) = &switch.first {
        write_attempt(exchange, (&failure.code, failure.status), failure.ended, failure.at);
    }
    // A backend that is still connecting has not failed, and is not retried.
    let late =
        if switch.first_connects { AttemptResult::Overloaded } else { AttemptResult::Unknown };
    end(exchange, switch.first.map_or(late, |failure| failure.ended), now);
    if let Some(permit) = exchange.permit.take() {
        permit.abandon(now);
    }
    let first_upstream = exchange.routed.as_ref().and_then(|routed| routed.upstream());
    let first_provider = first_upstream.map(|first| first.backend.provider.clone());
    exchange.set_target(switch.target);
    let first_span = exchange.spans.as_mut().and_then(|spans| {
        let hedge = spans.hedge.take();
        std::mem::replace(&mut spans.call, hedge)
    });
    let attempts = &mut exchange.attempts;
    (attempts.engine_metrics, attempts.last_predicted) =
        (switch.attempt.member().engine_metrics(now), switch.attempt.predicted());
    (attempts.attempt, attempts.reason) = (Some(switch.attempt), Some(Reason::Balanced));
    attempts.tried.push(switch.target);
    if let Some(backend) =
        exchange.routed.as_ref().and_then(|routed| Some(routed.upstream()?.backend.name.clone()))
    {
        exchange.attempts.hedge = Some(RecordHedge {
            backend,
            won: true,
            after_us: switch.after.as_micros() as u64,
            provider: first_provider.filter(|_| first_span.is_some()),
            span_id: first_span,
        });
    }
    (exchange.permit, exchange.sent.at) = (switch.permit, switch.sent_at);
}

/// Record a hedge that lost.
fn lost(exchange: &mut Exchange, target: Target, after: Duration) {
    let Some(upstream) = exchange.routed.as_ref().and_then(|routed| routed.route.upstream(target))
    else {
        return;
    };
    let (backend, provider) = (upstream.backend.name.clone(), upstream.backend.provider.clone());
    let span_id = exchange.spans.as_mut().and_then(|spans| spans.hedge.take());
    exchange.attempts.hedge = Some(RecordHedge {
        backend,
        won: false,
        after_us: after.as_micros() as u64,
        provider: span_id.is_some().then_some(provider),
        span_id,
    });
}
