//! The operator's listener: metrics, health, what routes and requests do, which settings are in force.
//!
//! - *In*: GET requests of people and scrapers.
//! - *Out*: text and JSON. Secrets are masked by their type.
//! - *Never*: a change of anything but the share of a new version; the data path's threads: this runs on the main one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use filters::traffic::{Apart, LimitCounts, Line, ShedReason, Totals};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use observatory::Sample;
use pingora::protocols::Stream;
use routing::health::State;
use routing::{Member, Nature, Question, Side};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::clock;
use crate::shared::Shared;
use crate::stage::choose;

/// Connections served at a time; more wait.
const MOST_CONNECTIONS: usize = 64;
/// A client that takes longer for its head is cut.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a change wants to be sure that a person or a program of the operator's asks for it.
const OPERATOR: &str = "x-llm-lens-operator";
/// Records that `/api/requests` gives when nobody says how many.
const DEFAULT_LIMIT: usize = 100;

/// The operator's pages.
pub(crate) struct Admin {
    shared: Arc<Shared>,
    places: Semaphore,
}

impl Admin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Admin { shared, places: Semaphore::new(MOST_CONNECTIONS) }
    }

    /// Serve one connection to its end.
    pub(crate) async fn serve(&self, io: Stream) {
        let Ok(_place) = self.places.acquire().await else { return };
        let service = service_fn(|request| answer(self.shared.clone(), request));
        let served =
            http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(TokioIo::new(io), service);
        if let Err(e) = served.await {
            log::debug!("admin connection: {e}");
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if (request.method(), request.uri().path()) == (&Method::POST, "/api/routes/release") {
        return Ok(match release(&shared, &request) {
            Ok(done) => json(StatusCode::OK, &done),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        });
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".into()));
    }
    Ok(match request.uri().path() {
        "/metrics" => text(StatusCode::OK, observatory::CONTENT_TYPE, shared.observatory.prometheus(samples(&shared))),
        "/healthz" => text(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" if shared.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n".into()),
        "/readyz" => text(StatusCode::OK, "text/plain", "ready\n".into()),
        "/api/routes" => {
            let up = Duration::from_nanos(clock::now().nanos_since(shared.started));
            json(StatusCode::OK, &json!({"routes": shared.observatory.overview(up)}))
        }
        "/api/requests" => match limit(request.uri().query()) {
            Ok(limit) => json(StatusCode::OK, &json!({"requests": shared.observatory.recent(limit)})),
            Err(why) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": "limit"}})),
        },
        "/api/security" => {
            let route = parameter(request.uri().query(), "route");
            json(StatusCode::OK, &json!({"routes": shared.observatory.security(route)}))
        }
        "/api/routes/explain" => match explain(&shared, request.uri().query()) {
            Ok(explained) => json(StatusCode::OK, &explained),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        },
        "/api/backends" => json(StatusCode::OK, &json!({"backends": backends(&shared)})),
        "/api/usage" => match usage(&shared, request.uri().query()) {
            Ok(usage) => json(StatusCode::OK, &usage),
            Err((param, why)) => json(StatusCode::BAD_REQUEST, &json!({"error": {"message": why, "param": param}})),
        },
        "/api/settings" => json(StatusCode::OK, &json!({"settings": shared.plan.load().settings})),
        "/" => text(StatusCode::OK, "text/plain", INDEX.into()),
        _ => json(StatusCode::NOT_FOUND, &json!({"error": {"message": "not found; GET / lists what is here"}})),
    })
}

/// What is known of backends, by pool.
fn backends(shared: &Shared) -> Vec<serde_json::Value> {
    let (plan, now) = (shared.plan.load(), clock::now());
    let ms = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1000.0);
    let mut rows = Vec::new();
    for pool in plan.pools() {
        for member in pool.pool.members() {
            let (asked, failed) = member.totals();
            let health = member.health();
            rows.push(json!({"backend": member.name, "pool": pool.pool.settings.name, "tier": pool.pool.settings.tier,
                "state": health.state(now).name(), "cause": health.cause(now).name(), "ejections": health.ejections(),
                "requests": member.requests(), "tokens": member.tokens(), "asked": asked, "failed": failed,
                "ttft_ms": ms(member.ttft()), "ttft_p95_ms": ms(member.p95()), "round_trip_ms": ms(member.round_trip()),
                "prediction_error": member.prediction_error(), "engine": member.signals(now)}));
        }
    }
    rows
}

/// Give a route's candidate another share, at once: 1 switches, 0 goes back. A page in somebody's browser cannot: it has no way to say the header.
fn release(shared: &Shared, request: &Request<Incoming>) -> Result<serde_json::Value, (&'static str, String)> {
    if !request.headers().contains_key(OPERATOR) {
        return Err((OPERATOR, format!("the header {OPERATOR} is missing; any value will do")));
    }
    let (plan, query) = (shared.plan.load(), request.uri().query());
    let name = parameter(query, "route").unwrap_or_default();
    let route = plan.routes.iter().find(|route| *route.route.name == *name);
    let release =
        route.and_then(|route| route.release.as_ref()).ok_or_else(|| ("route", format!("there is no route {name:?} with a candidate")))?;
    let share = parameter(query, "share").and_then(|share| share.parse::<f64>().ok()).filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or_else(|| ("share", "share must be a number from 0 to 1".to_owned()))?;
    release.set_share(share);
    log::info!("route {name}: the candidate has {share} of requests from now on, by the admin listener");
    Ok(json!({"route": name, "share": release.share()}))
}

/// Where a request would go now, and why.
fn explain(shared: &Shared, query: Option<&str>) -> Result<serde_json::Value, (&'static str, String)> {
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
    let nature = Nature { tools: parameter(query, "tools") == Some("true"), asks: false };
    let outlooks: Vec<_> = (0..route.pools.len()).filter_map(|number| choose::outlook(route, number, &question, &[])).collect();
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
                "completion": predicted.and_then(|predicted| predicted.completion(&question)), "prediction_error": member.prediction_error()})
        };
        let members: Vec<_> = pool.pool.members().iter().map(member).collect();
        json!({"pool": pool.pool.settings.name, "tier": pool.pool.settings.tier, "balance": pool.pool.settings.balance, "outlook": outlook, "backends": members})
    });
    let goes = first.and_then(|(number, _)| Some(route.pools.get(number)?.pool.settings.name.to_string()));
    Ok(json!({"route": route.route.name, "prompt_tokens": question.prompt, "output_tokens": question.output, "goes_to": goes,
        "offload": decided.map(|decided| decided.name()), "pools": pools.collect::<Vec<_>>()}))
}

/// What pools and their backends do.
fn pool_samples(shared: &Shared, samples: &mut Vec<Sample>) {
    let (plan, now) = (shared.plan.load(), clock::now());
    let mut push =
        |name, help, labels: &[(&'static str, String)], value: f64| samples.push(Sample { name, help, labels: labels.to_vec(), value });
    for (route, release) in plan.routes.iter().filter_map(|route| Some((&route.route.name, route.release.as_ref()?))) {
        let labels = [("route", route.to_string())];
        push("llm_lens_candidate_share", "Share of a route's requests that its candidate is to have.", &labels, release.share());
        push(
            "llm_lens_candidate_rolled_back",
            "Whether it was taken back because it was worse.",
            &labels,
            f64::from(u8::from(release.was_rolled_back())),
        );
        for (side, version) in [(Side::Stable, "stable"), (Side::Candidate, "candidate")] {
            for (result, count) in [("well", release.counts(side).0), ("badly", release.counts(side).1)] {
                let labels = [labels[0].clone(), ("version", version.to_owned()), ("ended", result.to_owned())];
                push("llm_lens_version_requests", "Requests of a version since the candidate's share was set.", &labels, count as f64);
            }
        }
    }
    for pool in plan.pools() {
        let settings = &pool.pool.settings;
        let labels = [("pool", settings.name.to_string()), ("tier", settings.tier.to_string())];
        let (looked, found) = pool.pool.prefix_blocks();
        if looked > 0 {
            push("llm_lens_prefix_blocks_total", "Blocks of prompts that were looked for.", &labels, looked as f64);
            push(
                "llm_lens_prefix_block_hits_total",
                "Of these, those that the chosen backend had been given before.",
                &labels,
                found as f64,
            );
        }
        push(
            "llm_lens_hedges_total",
            "Second backends that were asked because the first was late.",
            &labels,
            pool.hedges.load(Ordering::Relaxed) as f64,
        );
        push("llm_lens_hedges_won_total", "Of these, those that answered first.", &labels, pool.hedges_won.load(Ordering::Relaxed) as f64);
        push(
            "llm_lens_hedged_tokens_total",
            "Tokens of prompts, as estimated, that those who lost had been given.",
            &labels,
            pool.hedged_tokens.load(Ordering::Relaxed) as f64,
        );
        for member in pool.pool.members() {
            let labels = [labels[0].clone(), ("backend", member.name.to_string())];
            let (asked, failed) = member.totals();
            push("llm_lens_backend_attempts_total", "Requests that a backend was asked.", &labels, asked as f64);
            push("llm_lens_backend_failures_total", "Of these, those that ended badly by its fault.", &labels, failed as f64);
            push("llm_lens_backend_ejections_total", "How often a backend was left alone.", &labels, member.health().ejections() as f64);
            push("llm_lens_backend_in_flight", "Requests at a backend.", &labels, member.requests() as f64);
            push("llm_lens_backend_tokens_in_flight", "Their tokens, as estimated.", &labels, member.tokens() as f64);
            let signals = member.signals(now).unwrap_or_default();
            for (name, help, value) in [
                ("llm_lens_engine_running", "Requests that an engine says it works on.", signals.running),
                ("llm_lens_engine_waiting", "Requests that an engine says wait there.", signals.waiting),
                ("llm_lens_engine_cache_ratio", "Share of its key-value cache that an engine says is in use.", signals.cache),
            ] {
                value.into_iter().for_each(|value| push(name, help, &labels, value));
            }
            if let Some(error) = member.prediction_error() {
                push(
                    "llm_lens_prediction_error_ratio",
                    "Median of how far predicted times to first token were off, of the last 128.",
                    &labels,
                    error,
                );
            }
            for state in State::ALL {
                let labels = [labels[0].clone(), labels[1].clone(), ("state", state.name().to_owned())];
                let holds = member.health().state(now) == state;
                push("llm_lens_backend_state", "What a backend is: 1 for the state that holds.", &labels, f64::from(u8::from(holds)));
            }
        }
    }
}

/// Sums of what was used, by what the query tells apart.
fn usage(shared: &Shared, query: Option<&str>) -> Result<serde_json::Value, (&'static str, String)> {
    let mut apart = Apart::default();
    for word in parameter(query, "by").unwrap_or("owner").split(',') {
        match word {
            "owner" => apart.owner = true,
            "key" => apart.key = true,
            "model" => apart.model = true,
            _ => return Err(("by", format!("by must name owner, key or model, not {word:?}"))),
        }
    }
    apart.months = match parameter(query, "per") {
        None | Some("day") => false,
        Some("month") => true,
        Some(other) => return Err(("per", format!("per must be day or month, not {other:?}"))),
    };
    let date = |text: &str| text.parse().map_err(|_| ("from", format!("from must be a date such as 2026-01-31, not {text:?}")));
    let from = parameter(query, "from").map(date).transpose()?;
    let line = |(line, totals): (Line, Totals)| {
        let mut row = json!({"requests": totals.requests, "input_tokens": totals.input_tokens, "cached_tokens": totals.cached_tokens,
            "output_tokens": totals.output_tokens, "reasoning_tokens": totals.reasoning_tokens, "cost": totals.cost()});
        if let (Some(row), Ok(serde_json::Value::Object(names))) = (row.as_object_mut(), serde_json::to_value(line)) {
            row.extend(names);
        }
        row
    };
    let rows: Vec<_> = shared.spend.lines(apart, from).into_iter().map(line).collect();
    Ok(json!({"currency": "USD", "usage": rows}))
}

/// What limits keep count of.
fn samples(shared: &Shared) -> Vec<Sample> {
    let plan = shared.plan.load();
    let mut samples = Vec::new();
    for LimitCounts { limit, refused, ended, warned, accounts } in plan.rate_limits.counts() {
        let labels = vec![("limit", limit.name.to_string()), ("of", limit.of.name().to_owned())];
        for (name, help, value) in [
            ("llm_lens_limited_requests_total", "Requests that a limit refused.", refused),
            ("llm_lens_limited_streams_total", "Streams that a limit ended.", ended),
            ("llm_lens_limit_warnings_total", "Answers that said that a limit is nearly reached.", warned),
            ("llm_lens_limit_accounts", "Accounts that a limit keeps.", accounts as u64),
        ] {
            samples.push(Sample { name, help, labels: labels.clone(), value: value as f64 });
        }
    }
    for (name, help, count) in [
        ("llm_lens_refused_connections_total", "Connections beyond the limits.", &shared.edge.refused_connections),
        ("llm_lens_refused_addresses_total", "Requests of addresses that asked too often.", &shared.edge.refused_requests),
    ] {
        samples.push(Sample { name, help, labels: Vec::new(), value: count.load(Ordering::Relaxed) as f64 });
    }
    if let Some(store) = &plan.store {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        for (name, help, value) in [
            ("llm_lens_store_up", "Whether the store of shared limits is there.", f64::from(u8::from(store.is_there()))),
            ("llm_lens_store_answers_total", "Questions that it answered.", load(&store.answered)),
            ("llm_lens_store_failures_total", "Questions that it did not answer.", load(&store.failed)),
            ("llm_lens_store_fallbacks_total", "Requests that were decided without it.", load(&store.without)),
        ] {
            samples.push(Sample { name, help, labels: Vec::new(), value });
        }
    }
    for upstream in plan.world.upstreams() {
        let Some(counts) = upstream.turnstile.as_ref().map(|turnstile| turnstile.counts()) else { continue };
        let labels = vec![("backend", upstream.backend.name.to_string())];
        for (name, help, value) in [
            ("llm_lens_queue_depth", "Requests that wait for a place at a backend.", counts.waiting),
            ("llm_lens_admitted_in_flight", "Requests that have a place at a backend.", counts.in_flight),
            ("llm_lens_admitted_tokens", "Their tokens, prompts and what may be generated, as estimated.", counts.tokens),
            ("llm_lens_admission_cap", "Places at a backend; 0: any number.", counts.cap),
            ("llm_lens_admitted_requests_total", "Requests that got a place at a backend.", counts.admitted),
            ("llm_lens_queued_requests_total", "Of these, those that had waited for it.", counts.queued),
        ] {
            samples.push(Sample { name, help, labels: labels.clone(), value: value as f64 });
        }
        for (reason, shed) in ShedReason::ALL.iter().zip(counts.shed) {
            let labels = vec![labels[0].clone(), ("reason", reason.name().to_owned())];
            let help = "Requests that were not served because a backend had all it could do.";
            samples.push(Sample { name: "llm_lens_shed_requests_total", help, labels, value: shed as f64 });
        }
    }
    pool_samples(shared, &mut samples);
    samples
}

const INDEX: &str = "\
/metrics            Prometheus text
/healthz            the process lives
/readyz             it takes requests (503 while draining)
/api/routes         counts, rates since the start, percentiles and ledger shares by route and backend
/api/requests       the last records, newest first (?limit=N)
/api/routes/explain where a request would go now, and why (?route=NAME&prompt_tokens=N&output_tokens=N&tools=true)
/api/routes/release POST with x-llm-lens-operator: the share of a route's candidate (?route=NAME&share=0..1)
/api/backends       which are well, why not, how busy and how fast they are
/api/security       what guards cost: by route, phase, filter and percentile (?route=NAME)
/api/usage          who used what and what it cost (?by=owner,key,model&per=day|month&from=2026-01-31)
/api/settings       the settings in force, secrets masked
";

fn limit(query: Option<&str>) -> Result<usize, String> {
    parameter(query, "limit").map_or(Ok(DEFAULT_LIMIT), |v| v.parse().map_err(|_| format!("limit must be a whole number, not {v:?}")))
}

fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    text(status, "application/json", value.to_string())
}
