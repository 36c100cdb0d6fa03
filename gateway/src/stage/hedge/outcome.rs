//! A second backend at the same time: when, and what becomes of the exchange.

use std::time::Duration;

use lens::Tick;
use lens::record::RecordHedge;
use routing::{Ended, Reason};

use super::{end, write_attempt};
use crate::clock;
use crate::exchange::Exchange;
use crate::plan::Target;
use crate::upstream::{News, Switch};

/// When a second backend is asked at the same time, on what budget, and who of its pool is not.
pub(crate) fn second(exchange: &Exchange) -> Option<(Duration, f64, Vec<usize>)> {
    let routed = exchange.routed.as_ref()?;
    let hedges = routed.route.route.hedges?;
    routed.pool().pool.hedges.earn(clock::now());
    let after = hedges.after.or_else(|| routed.upstream()?.member.p95())?;
    let others = exchange.course.unfit.iter().chain(&exchange.course.tried);
    let unfit = others.filter(|target| target.pool == routed.target.pool).map(|target| target.at).collect();
    Some((after, hedges.budget, unfit))
}

/// What has become of a second backend is known of the exchange from now on. Until when the beginning of the answer was kept back, if it was.
pub(crate) fn hear_of_race(exchange: &mut Exchange, news: News) -> Option<Tick> {
    if let Some(switched) = news.switch {
        switch(exchange, switched);
    }
    // It is not asked again.
    if let Some((target, after)) = news.second_failed {
        exchange.course.tried.push(target);
        lost(exchange, target, after);
    }
    if let Some((target, after)) = news.lost {
        lost(exchange, target, after);
    }
    news.kept_until
}

/// The second backend has answered first: the exchange is its. That the first was late is known of it.
fn switch(exchange: &mut Exchange, switch: Switch) {
    let now = clock::now();
    if let (Some(attempt), None, Some(routed)) = (&exchange.course.attempt, &switch.first, &exchange.routed) {
        let sent = exchange.sent.at.unwrap_or(switch.began);
        routed.pool().pool.first_token(attempt, Duration::from_nanos(now.nanos_since(sent)), now);
    }
    if let Some(failure) = &switch.first {
        write_attempt(exchange, (&failure.code, failure.status), failure.ended, failure.at);
    }
    // One that takes no connection has not failed yet, and is not the one to ask.
    let late = if switch.first_connects { Ended::Refused } else { Ended::Untold };
    end(exchange, switch.first.map_or(late, |failure| failure.ended), now);
    if let Some(place) = exchange.place.take() {
        place.leave(now, None);
    }
    exchange.set_target(switch.target);
    let course = &mut exchange.course;
    (course.signals, course.last_predicted) = (switch.attempt.member().signals(now), switch.attempt.predicted());
    (course.attempt, course.reason) = (Some(switch.attempt), Some(Reason::Balanced));
    course.tried.push(switch.target);
    if let Some(backend) = exchange.routed.as_ref().and_then(|routed| Some(routed.upstream()?.backend.name.clone())) {
        exchange.course.hedge = Some(RecordHedge { backend, won: true, after_us: switch.after.as_micros() as u64 });
    }
    (exchange.place, exchange.sent.at) = (switch.place, switch.sent_at);
}

/// The second backend was asked and has lost.
fn lost(exchange: &mut Exchange, target: Target, after: Duration) {
    let Some(upstream) = exchange.routed.as_ref().and_then(|routed| routed.route.upstream(target)) else { return };
    let backend = upstream.backend.name.clone();
    exchange.course.hedge = Some(RecordHedge { backend, won: false, after_us: after.as_micros() as u64 });
}
