//! Admin pages about pools, and the endpoint that changes the share of a canary.
//!
//! - *In*: the plan in force, queries of the operator.
//! - *Out*: states of backends and their cause, the explanation of a routing decision.
//! - *Never*: a change except [`release`].

use std::sync::Arc;
use std::time::Duration;

use config::settings::{Ability, Backend};
use pipeline::shared::Shared;
use pipeline::stage::select;
use plan::clock;
use plan::{PlannedPool, PlannedRoute, Target};
use routing::{Member, RequestSize, RequestTraits};
use serde_json::{Value, json};

use crate::params::{ApiError, Params};

/// Parameters of [`explain`].
pub const EXPLAIN_PARAMS: &[&str] =
    &["route", "prompt_tokens", "output_tokens", "tools", "header", "findings"];

/// State, load and latency of backends, by pool.
pub fn backends(shared: &Shared) -> Vec<Value> {
    let (plan, now) = (shared.plan.load(), clock::now());
    let ms = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1000.0);
    let mut rows = Vec::new();
    for pool in plan.pools() {
        for (member, upstream) in pool.pool.members().iter().zip(&pool.upstreams) {
            let (asked, failed) = member.totals();
            let health = member.health();
            rows.push(json!({"backend": member.name, "pool": pool.pool.settings.name, "tier": pool.pool.settings.tier, "zone": upstream.backend.zone,
                "state": health.state(now).name(), "cause": health.cause(now).name(), "left_ms": ms(health.remaining(now)),
                "check": upstream.last_check.lock().clone(), "ejections": health.ejections(),
                "requests": member.requests(), "tokens": member.tokens(), "attempts": asked, "failures": failed,
                "queued": upstream.queue.as_ref().map_or(0, |queue| queue.counts().waiting),
                "ttft_ms": ms(member.ttft()), "ttft_p95_ms": ms(member.p95()), "round_trip_ms": ms(member.round_trip()),
                "prediction_error": member.prediction_errors(), "engine": member.engine_metrics(now)}));
        }
    }
    rows
}

/// Set the share of a route's canary: 1 switches over, 0 rolls back.
///
/// # Errors
/// A parameter is wrong.
pub fn release(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let plan = shared.plan.load();
    let name = params.get("route").unwrap_or_default();
    let route = plan.routes.iter().find(|route| *route.route.name == *name);
    let release = route.and_then(|route| route.release.as_ref()).ok_or_else(|| {
        ApiError::bad("route", format!("route {name:?} does not exist or has no canary"))
    })?;
    let share = params
        .get("share")
        .and_then(|share| share.parse::<f64>().ok())
        .filter(|share| (0.0..=1.0).contains(share));
    let share =
        share.ok_or_else(|| ApiError::bad("share", "share must be a number from 0 to 1".into()))?;
    release.set_share(share);
    tracing::info!(route = name, share, "share of the canary set by the admin API");
    Ok(json!({"route": name, "share": release.share()}))
}

/// Where a request would go now, and why.
///
/// # Errors
/// A wrong parameter.
pub fn explain(shared: &Shared, params: &Params) -> Result<Value, ApiError> {
    let (plan, now) = (shared.plan.load(), clock::now());
    let name = params.get("route");
    let known =
        || plan.routes.iter().map(|route| &*route.route.name).collect::<Vec<_>>().join(", ");
    let route = plan.routes.iter().find(|route| name.is_none_or(|name| *route.route.name == *name));
    let route = route.ok_or_else(|| {
        ApiError::bad("route", format!("the route does not exist; known: {}", known()))
    })?;
    let prompt = params.number("prompt_tokens", 100)?;
    let question = RequestSize {
        prompt,
        output: params.number("output_tokens", route.route.default_output_tokens)?,
    };
    let traits = RequestTraits {
        tools: params.is_true("tools"),
        has_header: params.is_true("header"),
        found: params.is_true("findings"),
    };
    let canary = route.route.canary.as_ref().map(|canary| canary.pool);
    let unfit = unfit(route, &question, traits.tools);
    let offers: Vec<_> = (0..route.pools.len())
        .filter(|number| Some(*number) != canary)
        .filter_map(|number| select::tier_offer(route, number, &question, &unfit, now))
        .collect();
    let decided = match (&route.offload, &*offers) {
        (Some(offload), [edge, cloud, ..]) => Some(offload.explain(&question, traits, edge, cloud)),
        _ => None,
    };
    let leaves = decided.is_some_and(routing::Offloaded::leaves);
    let first = offers
        .iter()
        .enumerate()
        .cycle()
        .skip(usize::from(leaves))
        .take(offers.len())
        .find(|(_, offer)| offer.is_available);
    let pools = route.pools.iter().zip(&offers).map(|(pool, offer)| {
        let member = |member: &Arc<Member>| {
            let predicted = member.predict(&question);
            json!({"backend": member.name, "state": member.health().state(now).name(), "cause": member.health().cause(now).name(),
                "requests": member.requests(), "tokens": member.tokens(), "predicted": predicted,
                "completion": predicted.and_then(|predicted| predicted.completion(&question)), "prediction_error": member.prediction_errors()})
        };
        let members: Vec<_> = pool.pool.members().iter().map(member).collect();
        json!({"pool": pool.pool.settings.name, "tier": pool.pool.settings.tier, "balance": pool.pool.settings.balance, "offer": offer, "backends": members})
    });
    let released = route.release.as_ref().zip(canary.and_then(|number| route.pools.get(number)));
    let released = released
        .map(|(release, pool)| {
            json!({"pool": pool.pool.settings.name, "share": release.share(), "rolled_back": release.was_rolled_back(),
                "compared_with": release.reference(), "without_requests": release.without_requests()})
        });
    let goes =
        first.and_then(|(number, _)| Some(route.pools.get(number)?.pool.settings.name.to_string()));
    Ok(
        json!({"route": route.route.name, "prompt_tokens": question.prompt, "output_tokens": question.output, "goes_to": goes,
        "offload": decided.map(|decided| decided.name()), "canary": released, "pools": pools.collect::<Vec<_>>()}),
    )
}

/// Backends that cannot serve such a request, as far as the query describes it.
fn unfit(route: &PlannedRoute, question: &RequestSize, tools: bool) -> Vec<Target> {
    let can = |backend: &Backend| {
        let holds = backend.context_length == 0 || question.tokens() <= backend.context_length;
        holds && !(tools && backend.unsupported.contains(&Ability::Tools))
    };
    let of_pool = |(number, pool): (usize, &Arc<PlannedPool>)| {
        let unfit =
            pool.upstreams.iter().enumerate().filter(|(_, upstream)| !can(&upstream.backend));
        unfit.map(|(at, _)| Target { pool: number, at }).collect::<Vec<_>>()
    };
    route.pools.iter().enumerate().flat_map(of_pool).collect()
}
