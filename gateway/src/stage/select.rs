//! Stage 6: which backend, and which next when that one fails.
//!
//! `routing` decides; this tells it what it must know of the request, and how attempts went.
//!
//! - *In*: the route's pools, the facts of the request, how an attempt ended.
//! - *Out*: a target in the exchange, or a refusal when nobody can serve it.
//! - *Never*: another backend for a request of which the client has heard an answer, that he left, or beyond the route's budget of retries.

mod continuation;
mod fit;
mod hedge;

pub(crate) use continuation::{keep_for_continuation, may_continue, may_continue_still, resumed, seam_mark};
pub(crate) use fit::prepare;
pub(crate) use hedge::{hear_of_race, second};

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lens::record::{Outcome, RecordAttempt, RecordHedge, RecordRouting, RecordSeam};
use lens::{EngineError, State, Tick};
use routing::member::Change;
use routing::{Attempt, Choice, Ended, Nature, Offloaded, Outlook, Pace, Predicted, Question, Reason, Side, Signals, Went, Wish};

use crate::clock;
use crate::exchange::{Exchange, Routed};
use crate::plan::{PlannedPool, PlannedRoute, Target};
use crate::respond::Refusal;
use crate::stage::relay::Cut;

/// How often a backend that has no room is passed over for another of its pool.
const PASSED_OVER: usize = 4;

/// Most tokens of a prompt, or of an answer, that a request counts as.
const MOST_TOKENS: u64 = 1_000_000;

/// What a backend is asked: the client's head, and the body as it goes on, which a guard may have changed.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: (Arc<Vec<u8>>, usize),
    pub(crate) body: (Arc<Vec<u8>>, std::ops::Range<usize>),
}

impl Asked {
    pub(crate) fn body(&self) -> &[u8] {
        let (buffer, range) = &self.body;
        buffer.get(range.clone()).unwrap_or_default()
    }
}

/// A request's way among backends.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// The attempt that runs, and when it began.
    attempt: Option<Attempt>,
    began: Tick,
    reason: Option<Reason>,
    /// Where it goes next; chosen, and paid for of the budget.
    next: Option<(Target, Reason)>,
    tried: Vec<Target>,
    /// What it is to be sent to the same backend by.
    key: Option<Vec<u8>>,
    /// Hashes of the prompt's beginnings.
    prefix: Vec<u64>,
    /// Backends that cannot serve it.
    unfit: Vec<Target>,
    /// The version of the route that it is for, and the one that is asked: the old one stands in for the new one.
    assigned: Option<Side>,
    side: Option<Side>,
    /// The client wants the cloud.
    asks_cloud: bool,
    /// Where the policy of the route sent it, and why.
    offloaded: Option<Offloaded>,
    /// The second backend that was asked at the same time.
    pub(crate) hedge: Option<RecordHedge>,
    /// What the engine said of itself when it was chosen.
    pub(crate) signals: Option<Signals>,
    /// What the backend was thought to take.
    pub(crate) last_predicted: Option<Predicted>,
    /// The client's own credential goes on with it, to backends that have none of ours.
    pub(crate) with_credential: bool,
    /// It passes through unread, and a connection to its backend stands.
    pub(crate) passes: bool,
    /// Attempts that failed.
    pub(crate) failed: Vec<RecordAttempt>,
    /// The client hears the answer: nobody else will be asked.
    committed: bool,
    /// The client's request and the body to send on, for as long as somebody else may be asked.
    pub(crate) asked: Option<Asked>,
    first_token_told: bool,
    /// Somebody else could have been asked, but for the budget.
    retry_denied: bool,
    /// What was asked, for as long as another backend may go on with the answer.
    continuing: Option<Asked>,
    /// When the one that has died was asked: times are of the whole answer.
    first_sent: Option<Tick>,
    /// A stream whose backend has died.
    pub(crate) cut: Option<Box<Cut>>,
    /// Where others went on with the answer.
    pub(crate) seams: Vec<RecordSeam>,
}

impl Course {
    /// Whether another backend may go on with the answer.
    pub(crate) fn continues(&self) -> bool {
        self.continuing.is_some()
    }

    /// Whether a backend was chosen.
    pub(crate) fn was_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    /// The backend has done its part.
    pub(crate) fn leave(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.leave();
        }
    }

    /// The client hears an answer. What another backend would have been asked is not needed any more.
    pub(crate) fn commit(&mut self) {
        self.committed = true;
        self.asked = None;
    }
}

/// Choose a backend, or take the one that was chosen when the last attempt failed.
pub(crate) fn run(exchange: &mut Exchange) -> Result<(), Refusal> {
    let Some(routed) = &exchange.routed else { return Err(Refusal::no_route()) };
    let now = clock::now();
    let route = routed.route.clone();
    if exchange.course.tried.is_empty() {
        route.pools.iter().for_each(|pool| pool.pool.retries.earn(now));
        exchange.course.offloaded = offload(exchange, &route, now);
        // What is for the cloud is for no version of the edge.
        if exchange.course.offloaded.is_some_and(Offloaded::leaves) {
            exchange.course.assigned = None;
        }
    }
    let chosen = exchange.course.next.take().or_else(|| pick(exchange, &route, now));
    let (target, reason) = chosen.ok_or_else(Refusal::no_backend)?;
    note(&exchange.course, &route, target, reason);
    let candidate_is_ill = failed_candidate(&exchange.course, &route, target, now);
    exchange.set_target(target);
    let question = question(exchange);
    let course = &mut exchange.course;
    let side = |candidate: &config::settings::Candidate| if candidate.pool == target.pool { Side::Candidate } else { Side::Stable };
    course.side = course.assigned.and(route.route.candidate.as_ref()).map(side);
    if let (Some(release), true) = (&route.release, candidate_is_ill) {
        release.seen(Side::Candidate, Went::Badly, None);
    }
    course.attempt = route.pools.get(target.pool).and_then(|pool| {
        pool.pool.remember(&course.prefix, target.at);
        pool.pool.begin(target.at, question)
    });
    course.signals = course.attempt.as_ref().and_then(|attempt| attempt.member().signals(now));
    course.last_predicted = course.attempt.as_ref().and_then(Attempt::predicted);
    (course.began, course.reason, course.first_token_told) = (now, Some(reason), false);
    course.tried.push(target);
    Ok(())
}

/// Count what is done besides asking the first one.
fn note(course: &Course, route: &PlannedRoute, target: Target, reason: Reason) {
    let events = &route.events;
    if reason == Reason::Fallback && course.tried.iter().all(|tried| tried.pool != target.pool) {
        events.fallbacks.fetch_add(1, Ordering::Relaxed);
    }
    if course.tried.is_empty() {
        course.offloaded.into_iter().for_each(|decided| events.offloaded(decided));
    } else {
        let count = if course.cut.is_some() { &events.continuations } else { &events.retries };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the new version has failed a request that is its: all of its backends that could take it are left alone, and the old one stands in at once.
fn failed_candidate(course: &Course, route: &PlannedRoute, target: Target, now: Tick) -> bool {
    let candidate = route.route.candidate.as_ref().filter(|candidate| candidate.pool != target.pool);
    let is_its = course.assigned == Some(Side::Candidate) && course.tried.is_empty();
    let Some(pool) = candidate.filter(|_| is_its).and_then(|candidate| route.pools.get(candidate.pool)) else { return false };
    let unfit = course.unfit.iter().filter(|target| candidate.is_some_and(|candidate| candidate.pool == target.pool));
    pool.pool.is_ill(&unfit.map(|target| target.at).collect::<Vec<_>>(), now)
}

/// What the request asks of a backend.
pub(crate) fn question(exchange: &Exchange) -> Question {
    // What a client asks for is its word: beyond this it would only make all others look like nothing.
    Question { prompt: exchange.expected.input.min(MOST_TOKENS), output: exchange.expected.output.min(MOST_TOKENS) }
}

/// Whether the first pool is passed over for the second, where the route has a policy for that.
fn offload(exchange: &Exchange, route: &PlannedRoute, now: Tick) -> Option<Offloaded> {
    // What passes through unread asks nothing that could be too much.
    let offload = route.offload.as_ref().filter(|_| exchange.accepted.dialect.is_some())?;
    let question = question(exchange);
    let wanted = route.route.offload.iter().flat_map(|wanted| &wanted.findings);
    let nature = Nature {
        tools: exchange.inspected.facts.as_ref().is_some_and(|facts| facts.tools > 0),
        asks: exchange.course.asks_cloud,
        found: wanted.into_iter().any(|wanted| exchange.guarded.input.keys().any(|rule| wanted.matches(rule))),
    };
    // Who is for a new version of the edge is asked there, whatever the old one is like.
    let version = route.route.candidate.as_ref().filter(|_| exchange.course.assigned == Some(Side::Candidate));
    let [edge, cloud] =
        [version.map_or(0, |candidate| candidate.pool), 1].map(|number| outlook(route, number, &question, &exchange.course.unfit, now));
    Some(offload.decide(&question, nature, &edge?, &cloud?))
}

/// What a pool of a route offers for a request.
pub(crate) fn outlook(route: &PlannedRoute, number: usize, question: &Question, unfit: &[Target], now: Tick) -> Option<Outlook> {
    let pool = route.pools.get(number)?;
    let unfit: Vec<usize> = unfit.iter().filter(|target| target.pool == number).map(|target| target.at).collect();
    let (is_there, predicted) = pool.pool.outlook(question, &unfit, now);
    let well = || pool.upstreams.iter().enumerate().filter(|(at, _)| pool.pool.may_take(*at, &unfit, now)).map(|(_, upstream)| upstream);
    let cheapest = well().map(|upstream| upstream.backend.cost).min_by(f64::total_cmp).unwrap_or(0.0);
    let is_saturated = is_there && well().all(|upstream| upstream.has_queue(now));
    // Dollars for a million tokens: cents for these.
    Some(Outlook { is_there, is_saturated, predicted, cost: cheapest * question.tokens() as f64 / 1e4 })
}

/// The first pool in which somebody is well and can serve the request; when nobody anywhere is well, the first in which somebody can. A request
/// that leaves the first pool for the second comes back to it last.
fn pick(exchange: &Exchange, route: &PlannedRoute, now: Tick) -> Option<(Target, Reason)> {
    if !route.has_choice() {
        return exchange.course.tried.is_empty().then_some((Target::default(), Reason::Only));
    }
    let mut last_resort = None;
    let mut order: Vec<usize> = (0..route.pools.len()).collect();
    if exchange.course.offloaded.is_some_and(Offloaded::leaves) {
        order.rotate_left(1);
    }
    if let Some(candidate) = &route.route.candidate {
        order.retain(|number| *number != candidate.pool);
        // The old version stands in for the new one, and never the other way round.
        if exchange.course.assigned == Some(Side::Candidate) {
            order.insert(0, candidate.pool);
        }
    }
    let first = order.first().copied();
    for (number, pool) in order.into_iter().filter_map(|number| Some((number, route.pools.get(number)?))) {
        let Some(choice) = pick_of(exchange, number, pool, now) else { continue };
        let reason = if Some(number) == first { choice.reason } else { Reason::Fallback };
        if choice.reason != Reason::NobodyWell {
            return Some((Target { pool: number, at: choice.at }, reason));
        }
        last_resort = last_resort.or(Some((Target { pool: number, at: choice.at }, choice.reason)));
    }
    last_resort
}

fn pick_of(exchange: &Exchange, number: usize, pool: &Arc<PlannedPool>, now: Tick) -> Option<Choice> {
    let course = &exchange.course;
    let of = |targets: &[Target]| -> Vec<usize> { targets.iter().filter(|target| target.pool == number).map(|target| target.at).collect() };
    let (tried, unfit) = (of(&course.tried), of(&course.unfit));
    let (tokens, again) = (question(exchange).tokens(), !course.tried.is_empty());
    let wish = |unfit: &[usize]| {
        pool.pool.choose(&Wish { tokens, key: course.key.as_deref(), prefix: &course.prefix, tried: &tried, again, unfit }, now)
    };
    let first = wish(&unfit)?;
    // Who has a queue is passed over, if somebody has none.
    let (mut choice, mut passed) = (first, unfit.clone());
    for _ in 0..PASSED_OVER {
        if !pool.upstreams.get(choice.at).is_some_and(|upstream| upstream.is_saturated()) {
            return Some(choice);
        }
        passed.push(choice.at);
        match wish(&passed).filter(|other| other.reason != Reason::NobodyWell) {
            Some(other) => choice = other,
            None => break,
        }
    }
    Some(first)
}

/// Whether another backend may be asked after this one has failed; it is chosen and paid for then.
pub(crate) fn may_go_on(exchange: &mut Exchange) -> bool {
    let Some(route) = exchange.routed.as_ref().map(|routed| routed.route.clone()) else { return false };
    if exchange.course.next.is_some() {
        return true;
    }
    let retries = &route.route.retries;
    if exchange.course.committed || exchange.course.tried.len() > retries.most as usize {
        return false;
    }
    let now = clock::now();
    let Some(next) = pick(exchange, &route, now) else { return false };
    let paid = route.pools.first().is_some_and(|pool| pool.pool.retries.spend(retries.budget, retries.always, now));
    if !paid {
        route.events.retries_denied.fetch_add(1, Ordering::Relaxed);
        exchange.course.retry_denied = true;
    }
    exchange.course.next = paid.then_some(next);
    paid
}

/// Whether an answer is to be kept back until it is known to be one: somebody else may still give another.
pub(crate) fn keeps_back(exchange: &Exchange) -> bool {
    let Some(routed) = &exchange.routed else { return false };
    let hidden = |number: usize| {
        let candidate = routed.route.route.candidate.as_ref().is_some_and(|candidate| candidate.pool == number);
        candidate && exchange.course.assigned != Some(Side::Candidate)
    };
    let pools = routed.route.pools.iter().enumerate().filter(|(number, _)| !hidden(*number));
    let targets: usize = pools.map(|(_, pool)| pool.upstreams.len()).sum();
    let tried = exchange.course.tried.len();
    !exchange.course.committed && tried <= routed.route.route.retries.most as usize && tried < targets
}

/// The first token of the answer was read.
pub(crate) fn first_token(exchange: &mut Exchange) {
    if exchange.course.first_token_told {
        return;
    }
    let Some(first) = exchange.answer.lens.marks().first_token.arrival else { return };
    exchange.course.first_token_told = true;
    if let (Some(attempt), Some(sent), Some(routed)) = (&exchange.course.attempt, exchange.sent.at, &exchange.routed) {
        routed.pool().pool.first_token(attempt, Duration::from_nanos(first.nanos_since(sent)), first);
    }
}

/// An attempt has failed, and another backend is asked: what is known of this one is written down.
pub(crate) fn failed(exchange: &mut Exchange, code: &str, status: Option<u16>, ended: Ended) {
    let now = clock::now();
    if let Some(place) = exchange.place.take() {
        place.leave(now, None);
    }
    write_attempt(exchange, (code, status), ended, now);
    end(exchange, ended, now);
    if exchange.course.cut.is_none() {
        (exchange.answer, exchange.sent) = Default::default();
    } else {
        exchange.course.first_sent = exchange.course.first_sent.or(exchange.sent.at);
    }
    exchange.enter(State::Gateway);
}

/// What is known of an attempt that has failed.
fn write_attempt(exchange: &mut Exchange, (code, http_status): (&str, Option<u16>), ended: Ended, at: Tick) {
    let Some(routed) = &exchange.routed else { return };
    let Some(upstream) = routed.upstream() else { return };
    if let (Some(release), Some(side), true) = (&routed.route.release, exchange.course.side, ended == Ended::Badly) {
        release.seen(side, Went::Badly, None);
    }
    let (backend, us) = (upstream.backend.name.clone(), at.micros_since(exchange.course.began));
    log::debug!("request {}: backend {backend} failed ({code})", exchange.accepted.id);
    exchange.course.failed.push(RecordAttempt { backend, code: code.to_owned(), http_status, us });
}

/// Where the answer comes from, and why: on routes that have a choice.
pub(crate) fn field(exchange: &Exchange) -> String {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.has_choice()) else { return String::new() };
    let Some(upstream) = routed.upstream() else { return String::new() };
    let (backend, pool) = (&upstream.backend.name, &routed.pool().pool.settings.name);
    let reason = exchange.course.reason.map_or("", Reason::name);
    let mut field = format!("x-llm-lens-backend: {backend}; pool={pool}; reason={reason}");
    if let Some(side) = exchange.course.side {
        field.push_str(if side == Side::Candidate { "; version=candidate" } else { "; version=stable" });
    }
    if let Some(offloaded) = exchange.course.offloaded {
        field.push_str(&format!("; offload={}", offloaded.name()));
    }
    for attempt in &exchange.course.failed {
        field.push_str(&format!("; failed={}:{}", attempt.backend, attempt.code));
    }
    field.push_str("\r\n");
    field
}

/// What the record says of the choice.
pub(crate) fn write_down(course: &mut Course, routed: Option<&Routed>) -> RecordRouting {
    let chosen_of = routed.filter(|routed| routed.route.has_choice());
    RecordRouting {
        pool: chosen_of.map(|routed| routed.pool().pool.settings.name.clone()),
        chosen: chosen_of.and(course.reason).map(|reason| Cow::Borrowed(reason.name())),
        offload: course.offloaded.map(|offloaded| Cow::Borrowed(offloaded.name())),
        engine_waiting: course.signals.and_then(|signals| signals.waiting).map(|waiting| waiting as u64),
        predicted_ttft_us: chosen_of.and(course.last_predicted).map(|predicted| (predicted.ttft * 1e6) as u64),
        predicted_tpot_us: chosen_of.and(course.last_predicted).and_then(|predicted| predicted.tpot).map(|tpot| tpot * 1e6),
        retry_denied: course.retry_denied,
        hedge: course.hedge.take(),
        seams: std::mem::take(&mut course.seams),
        failed_attempts: std::mem::take(&mut course.failed),
    }
}

/// The attempt is over in that way, whatever becomes of the exchange.
pub(crate) fn close(exchange: &mut Exchange, ended: Ended) {
    end(exchange, ended, clock::now());
}

/// The exchange is over: so is its last attempt.
pub(crate) fn settle(exchange: &mut Exchange) {
    let ended = verdict(exchange);
    if let (Some(release), Some(side)) = (exchange.routed.as_ref().and_then(|routed| routed.route.release.as_ref()), exchange.course.side)
        && !matches!(ended, Ended::Untold | Ended::Refused)
    {
        let first = exchange.answer.lens.marks().first_token.arrival.zip(exchange.sent.at).filter(|_| exchange.course.seams.is_empty());
        let refused = exchange.answer.status.is_some_and(|status| (400..500).contains(&status));
        let went = match ended {
            Ended::Well if refused => Went::Refused,
            Ended::Well => Went::Well,
            Ended::Badly | Ended::Refused | Ended::Untold => Went::Badly,
        };
        release.seen(side, went, first.map(|(first, sent)| Duration::from_nanos(first.nanos_since(sent))));
    }
    let of_one = exchange.answer.streamed && exchange.course.seams.is_empty();
    if let (Some(attempt), Some(pace), true) = (&exchange.course.attempt, pace(exchange), of_one) {
        attempt.paced(&pace);
    }
    end(exchange, ended, clock::now());
}

/// How long the answer took, where it tells.
fn pace(exchange: &Exchange) -> Option<Pace> {
    let (lens, sent) = (&exchange.answer.lens, exchange.sent.at?);
    let each = Duration::from_secs_f64((lens.tpot_us()? / 1e6).clamp(0.0, 3600.0));
    let since = |mark: Option<Tick>| mark.map(|at| Duration::from_nanos(at.nanos_since(sent)));
    Some(Pace { first: since(lens.marks().first_token.arrival)?, last: since(lens.marks().last_token.arrival)?, each })
}

/// What the end of an exchange says of its backend. What clients do wrong, and when they leave, is not its fault.
fn verdict(exchange: &Exchange) -> Ended {
    // An error in a stream has a status of its own.
    let told = exchange.answer.lens.error().map(EngineError::status);
    let status = exchange.answer.status.filter(|status| *status >= 400).or(told).unwrap_or(0);
    match exchange.verdict.outcome() {
        Some(Outcome::Ok) => Ended::Well,
        // What passes through asks for things that our credential need not be good for.
        Some(Outcome::UpstreamError) if exchange.accepted.dialect.is_none() && matches!(status, 401 | 403) => Ended::Well,
        Some(Outcome::UpstreamError) => exchange.fault(status),
        // One that will not go on with another's answer is not ill for that.
        Some(Outcome::UpstreamFailed) if exchange.verdict.code.as_deref() == Some("upstream_began_anew") => Ended::Untold,
        Some(Outcome::UpstreamFailed) => Ended::Badly,
        // A client that takes nothing, or says nothing, and an answer that is longer than the operator allows, are no fault of the backend's.
        Some(Outcome::Timeout)
            if !matches!(exchange.verdict.code.as_deref(), Some("client_write_timeout" | "total_timeout" | "request_timeout")) =>
        {
            Ended::Badly
        }
        _ => Ended::Untold,
    }
}

fn end(exchange: &mut Exchange, ended: Ended, now: Tick) {
    let (Some(attempt), Some(routed)) = (exchange.course.attempt.take(), &exchange.routed) else { return };
    let name = attempt.member().name.clone();
    // Of who never was asked nothing can be said.
    let was_asked = exchange.sent.at.is_some() || exchange.course.passes;
    let ended = if !was_asked && ended == Ended::Well { Ended::Untold } else { ended };
    match routed.pool().pool.end(attempt, ended, now) {
        Some(Change::Ejected(cause, span)) => log::warn!("backend {name} is left alone for {span:?}: {}", cause.name()),
        Some(Change::Recovered) => log::info!("backend {name} is well again"),
        None => {}
    }
}
