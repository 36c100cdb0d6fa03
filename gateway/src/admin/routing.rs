//! What the operator is told of pools, and the share of a new version that he changes.
//!
//! - *In*: the plan in force, questions of its operator.
//! - *Out*: who is well and why not, where a request would go, figures for scrapers.
//! - *Never*: a change but [`release`], and that for nobody who cannot say a header.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::settings::{Ability, Backend};
use http::Request;
use hyper::body::Incoming;
use lens::Tick;
use observatory::Sample;
use pipeline::clock;
use pipeline::plan::{PlannedPool, PlannedRoute, RouteCounters, Target};
use pipeline::shared::Shared;
use pipeline::stage::select;
use routing::health::State;
use routing::{Member, Nature, Offloaded, Question, Release, Side};
use serde_json::json;

use super::parameter;

/// What a change wants to be sure that a person or a program of the operator's asks for it.
const OPERATOR: &str = "x-llm-lens-operator";

/// What is known of backends, by pool.
pub(super) fn backends(shared: &Shared) -> Vec<serde_json::Value> {
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
                "requests": member.requests(), "tokens": member.tokens(), "asked": asked, "failed": failed,
                "ttft_ms": ms(member.ttft()), "ttft_p95_ms": ms(member.p95()), "round_trip_ms": ms(member.round_trip()),
                "prediction_error": member.prediction_errors(), "engine": member.signals(now)}));
        }
    }
    rows
}

/// Give a route's candidate another share, at once: 1 switches, 0 goes back. A page in somebody's browser cannot: it has no way to say the header.
pub(super) fn release(shared: &Shared, request: &Request<Incoming>) -> Result<serde_json::Value, (&'static str, String)> {
    if !request.headers().contains_key(OPERATOR) {
        return Err((OPERATOR, format!("the header {OPERATOR} is missing; any value will do")));
    }
    // A name could have been made to lead here by somebody else.
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name_of = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    if name_of != "localhost" && name_of.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() {
        return Err(("host", "ask by the address of the admin listener, not by a name".into()));
    }
    let (plan, query) = (shared.plan.load(), request.uri().query());
    let name = parameter(query, "route").unwrap_or_default();
    let route = plan.routes.iter().find(|route| *route.route.name == *name);
    let release =
        route.and_then(|route| route.release.as_ref()).ok_or_else(|| ("route", format!("there is no route {name:?} with a candidate")))?;
    let share = parameter(query, "share").and_then(|share| share.parse::<f64>().ok()).filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or_else(|| ("share", "share must be a number from 0 to 1".to_owned()))?;
    release.set_share(share);
    tracing::info!(route = name, share, "share of the canary set by the admin API");
    Ok(json!({"route": name, "share": release.share()}))
}

/// Where a request would go now, and why.
pub(super) fn explain(shared: &Shared, query: Option<&str>) -> Result<serde_json::Value, (&'static str, String)> {
    let (plan, now) = (shared.plan.load(), clock::now());
    let name = parameter(query, "route");
    let known = || plan.routes.iter().map(|route| &*route.route.name).collect::<Vec<_>>().join(", ");
    let route = plan.routes.iter().find(|route| name.is_none_or(|name| *route.route.name == *name));
    let route = route.ok_or_else(|| ("route", format!("there is no such route; known: {}", known())))?;
    let number = |param: &'static str, or: u64| match parameter(query, param) {
        None => Ok(or),
        Some(text) => text.parse().map_err(|_| (param, format!("{param} must be a whole number, not {text:?}"))),
    };
    let question = Question { prompt: number("prompt_tokens", 100)?, output: number("output_tokens", route.route.expected_output)? };
    let says = |param| parameter(query, param) == Some("true");
    let nature = Nature { tools: says("tools"), asks: says("asked"), found: says("found") };
    let candidate = route.route.candidate.as_ref().map(|candidate| candidate.pool);
    let unfit = unfit(route, &question, nature.tools);
    let outlooks: Vec<_> = (0..route.pools.len())
        .filter(|number| Some(*number) != candidate)
        .filter_map(|number| select::outlook(route, number, &question, &unfit, now))
        .collect();
    let decided = match (&route.offload, &*outlooks) {
        (Some(offload), [edge, cloud, ..]) => Some(offload.explain(&question, nature, edge, cloud)),
        _ => None,
    };
    let leaves = decided.is_some_and(routing::Offloaded::leaves);
    let first = outlooks.iter().enumerate().cycle().skip(usize::from(leaves)).take(outlooks.len()).find(|(_, outlook)| outlook.is_there);
    let pools = route.pools.iter().zip(&outlooks).map(|(pool, outlook)| {
        let member = |member: &Arc<Member>| {
            let predicted = member.predict(&question);
            json!({"backend": member.name, "state": member.health().state(now).name(), "cause": member.health().cause(now).name(),
                "requests": member.requests(), "tokens": member.tokens(), "predicted": predicted,
                "completion": predicted.and_then(|predicted| predicted.completion(&question)), "prediction_error": member.prediction_errors()})
        };
        let members: Vec<_> = pool.pool.members().iter().map(member).collect();
        json!({"pool": pool.pool.settings.name, "tier": pool.pool.settings.tier, "balance": pool.pool.settings.balance, "outlook": outlook, "backends": members})
    });
    let released = route.release.as_ref().zip(candidate.and_then(|number| route.pools.get(number)));
    let released = released.map(|(release, pool)| json!({"pool": pool.pool.settings.name, "share": release.share()}));
    let goes = first.and_then(|(number, _)| Some(route.pools.get(number)?.pool.settings.name.to_string()));
    Ok(json!({"route": route.route.name, "prompt_tokens": question.prompt, "output_tokens": question.output, "goes_to": goes,
        "offload": decided.map(|decided| decided.name()), "candidate": released, "pools": pools.collect::<Vec<_>>()}))
}

/// Backends that cannot serve a request like that, as far as what is asked here tells.
fn unfit(route: &PlannedRoute, question: &Question, tools: bool) -> Vec<Target> {
    let can = |backend: &Backend| {
        let holds = backend.context_length == 0 || question.tokens() <= backend.context_length;
        holds && !(tools && backend.lacks.contains(&Ability::Tools))
    };
    let of_pool = |(number, pool): (usize, &Arc<PlannedPool>)| {
        let unfit = pool.upstreams.iter().enumerate().filter(|(_, upstream)| !can(&upstream.backend));
        unfit.map(|(at, _)| Target { pool: number, at }).collect::<Vec<_>>()
    };
    route.pools.iter().enumerate().flat_map(of_pool).collect()
}

/// What pools and their backends do.
pub(super) fn samples(shared: &Shared, samples: &mut Vec<Sample>) {
    let (plan, now) = (shared.plan.load(), clock::now());
    for (route, release) in plan.routes.iter().filter_map(|route| Some((&route.route.name, route.release.as_ref()?))) {
        versions(route, release, samples);
    }
    for (route, mirror) in plan.routes.iter().filter_map(|route| Some((&route.route.name, route.mirror.as_ref()?))) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (ended, count) in [("well", &mirror.counts.success), ("badly", &mirror.counts.failure), ("left_out", &mirror.counts.left_out)] {
            let labels = [("route", route.to_string()), ("ended", ended.to_owned())];
            push(samples, "llm_lens_mirrored_requests_total", &labels, load(count));
        }
        let labels = [("route", route.to_string())];
        push(samples, "llm_lens_mirrored_ttft_microseconds_total", &labels, load(&mirror.counts.first_token_us));
        push(samples, "llm_lens_mirrored_first_tokens_total", &labels, load(&mirror.counts.first_tokens));
    }
    plan.routes.iter().filter(|route| route.has_choice()).for_each(|route| counters(&route.route.name, &route.counters, samples));
    for pool in plan.pools() {
        let settings = &pool.pool.settings;
        let labels = [("pool", settings.name.to_string()), ("tier", settings.tier.to_string())];
        let (looked, found) = pool.pool.prefix_blocks();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (name, value) in [
            ("llm_lens_prefix_blocks_total", looked as f64),
            ("llm_lens_prefix_block_hits_total", found as f64),
            ("llm_lens_hedges_total", load(&pool.hedged.asked)),
            ("llm_lens_hedges_won_total", load(&pool.hedged.won)),
            ("llm_lens_hedged_tokens_total", load(&pool.hedged.tokens)),
        ] {
            push(samples, name, &labels, value);
        }
        pool.pool.members().iter().for_each(|member| backend(member, &settings.name, now, samples));
    }
}

/// What a route did besides asking the first one.
fn counters(route: &str, counters: &RouteCounters, samples: &mut Vec<Sample>) {
    let labels = [("route", route.to_owned())];
    for (name, count) in [
        ("llm_lens_retries_total", &counters.retries),
        ("llm_lens_retries_denied_total", &counters.retries_denied),
        ("llm_lens_fallbacks_total", &counters.fallbacks),
        ("llm_lens_continuations_total", &counters.continuations),
    ] {
        push(samples, name, &labels, count.load(Ordering::Relaxed) as f64);
    }
    for (decided, count) in Offloaded::ALL.iter().zip(&counters.offloaded).filter(|(_, count)| count.load(Ordering::Relaxed) > 0) {
        let labels = [labels[0].clone(), ("decision", decided.name().to_owned())];
        push(samples, "llm_lens_offload_decisions_total", &labels, count.load(Ordering::Relaxed) as f64);
    }
}

/// How a new version does beside the old one.
fn versions(route: &str, release: &Release, samples: &mut Vec<Sample>) {
    let labels = [("route", route.to_owned())];
    let rolled_back = f64::from(u8::from(release.was_rolled_back()));
    push(samples, "llm_lens_candidate_share", &labels, release.share());
    push(samples, "llm_lens_candidate_rolled_back", &labels, rolled_back);
    for (side, version) in [(Side::Stable, "stable"), (Side::Candidate, "candidate")] {
        let (well, badly) = release.counts(side);
        for (ended, count) in [("well", well), ("badly", badly)] {
            let labels = [labels[0].clone(), ("version", version.to_owned()), ("ended", ended.to_owned())];
            push(samples, "llm_lens_version_requests", &labels, count as f64);
        }
    }
}

fn backend(member: &Member, pool: &str, now: Tick, samples: &mut Vec<Sample>) {
    let labels = [("pool", pool.to_owned()), ("backend", member.name.to_string())];
    let (asked, failed) = member.totals();
    for (name, value) in [
        ("llm_lens_backend_attempts_total", asked),
        ("llm_lens_backend_failures_total", failed),
        ("llm_lens_backend_ejections_total", member.health().ejections()),
        ("llm_lens_backend_in_flight", member.requests()),
        ("llm_lens_backend_tokens_in_flight", member.tokens()),
    ] {
        push(samples, name, &labels, value as f64);
    }
    let signals = member.signals(now).unwrap_or_default();
    let errors = member.prediction_errors();
    for (of, error) in [("ttft", errors.ttft), ("completion", errors.completion)] {
        let labels = [labels[0].clone(), labels[1].clone(), ("of", of.to_owned())];
        error.into_iter().for_each(|error| push(samples, "llm_lens_prediction_error_ratio", &labels, error));
    }
    for (name, value) in [
        ("llm_lens_engine_running", signals.running),
        ("llm_lens_engine_waiting", signals.waiting),
        ("llm_lens_engine_cache_ratio", signals.cache),
    ] {
        value.into_iter().for_each(|value| push(samples, name, &labels, value));
    }
    for state in State::ALL {
        let labels = [labels[0].clone(), labels[1].clone(), ("state", state.name().to_owned())];
        let holds = f64::from(u8::from(member.health().state(now) == state));
        push(samples, "llm_lens_backend_state", &labels, holds);
    }
}

fn push(samples: &mut Vec<Sample>, name: &'static str, labels: &[(&'static str, String)], value: f64) {
    samples.push(Sample { name, labels: labels.to_vec(), value });
}
