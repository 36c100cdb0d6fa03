//! Active health checks, engine metrics, round trips, and the once-a-second tick of pools.
//!
//! - *In*: the checks and engine metrics that backends configure, the pools of the plan.
//! - *Out*: states of backends, engine metrics; tail latencies and slow backends, once a second.
//! - *Never*: more than one check of a backend at a time, even if several pools have it; a request
//!   that waits for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config::settings::{Backend, Probe};
use filters::HostRequest;
use lens::Tick;
use pipeline::shared::Shared;
use plan::Plan;
use plan::clock;
use plan::host::client;
use routing::EngineMetrics;
use routing::member::Change;
use routing::release::RollbackCause;
use tokio::task::{Id, JoinSet};
use transport::{Upstream, dial_tcp};
use wire::Dialect;

/// Interval between checks for due work.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout for scraping an engine's metrics.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout for probing the round trip to a backend.
const PROBE: Duration = Duration::from_secs(2);
/// Nanoseconds between two ticks of pools.
const TICK: u64 = 1_000_000_000;
/// Nanoseconds between two removals of series whose backends are gone.
const EXPIRE_INTERVAL: u64 = 60_000_000_000;

/// Run due checks, and tick pools. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let (mut checks, mut signals, mut ways) =
        (PeriodicTasks::default(), PeriodicTasks::default(), PeriodicTasks::default());
    let (mut ticked, mut expired_at) = (clock::now(), clock::now());
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let (plan, now) = (shared.plan.load_full(), clock::now());
        if now.nanos_since(ticked) >= TICK {
            ticked = now;
            tick(&plan, now);
        }
        if now.nanos_since(expired_at) >= EXPIRE_INTERVAL && shared.observatory.expire(now) {
            expired_at = now;
        }
        checks.start_due(
            &plan,
            now,
            |upstream| upstream.backend.health.as_ref().map(|checks| checks.interval),
            check,
        );
        signals.start_due(
            &plan,
            now,
            |upstream| upstream.backend.engine_metrics.as_ref().map(|(_, interval)| *interval),
            scrape,
        );
        // Backends that requests have recently connected to need no probe.
        let known = |upstream: &Upstream, every| {
            upstream.member.measured_ago(now).is_some_and(|ago| ago < every)
        };
        ways.start_due(
            &plan,
            now,
            |upstream| {
                plan.probed_every(&upstream.backend.name).filter(|every| !known(upstream, *every))
            },
            probe,
        );
    }
}

fn tick(plan: &Plan, now: Tick) {
    for upstream in plan.routable() {
        upstream.member.tick();
        if upstream.backend.health.is_none() {
            upstream.member.health().clear_checks();
        }
    }
    for planned in &plan.routes {
        let route = &planned.route.name;
        let Some(release) = &planned.release else {
            planned.history.tick();
            continue;
        };
        if let Some(version) = release.report_without_requests() {
            tracing::warn!(
                %route,
                version = version.name(),
                share = release.share(),
                "canary: one version has no requests, so the two cannot be compared; check canary.key and canary.share"
            );
        }
        match release.tick() {
            Some(RollbackCause::Failures(new, old)) => {
                tracing::error!(
                    %route,
                    failure_ratio = new,
                    reference_failure_ratio = old,
                    "canary rolled back: failure ratio too high"
                );
            }
            Some(RollbackCause::Slower(new, old)) => {
                tracing::error!(
                    %route,
                    ttft_p95 = ?new,
                    reference_ttft_p95 = ?old,
                    "canary rolled back: time to first token too high"
                );
            }
            None => {}
        }
    }
    for pool in plan.pools() {
        for (at, change) in pool.pool.tick(now) {
            if let (Change::Ejected(cause, span), Some(upstream)) = (change, pool.upstreams.get(at))
            {
                let (name, pool) = (&upstream.backend.name, &pool.pool.settings.name);
                tracing::warn!(backend = %name, %pool, cause = cause.name(), duration = ?span, "backend ejected");
            }
        }
    }
}

/// A periodic task for each backend: what is running, and when each is due.
#[derive(Default)]
struct PeriodicTasks {
    running: JoinSet<()>,
    /// The backend of each running task.
    about: HashMap<Id, Arc<str>>,
    /// When each backend is due; `None`: its task is running.
    due: HashMap<Arc<str>, Option<Tick>>,
}

impl PeriodicTasks {
    fn start_due<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        plan: &Plan,
        now: Tick,
        interval: impl Fn(&Upstream) -> Option<Duration>,
        work: impl Fn(Arc<Upstream>) -> F,
    ) {
        let named = |name: &Arc<str>| plan.host.upstream(name);
        while let Some(done) = self.running.try_join_next_with_id() {
            // A task that panicked is due again like any other.
            let id = done.map_or_else(|panicked| panicked.id(), |(id, ())| id);
            let Some(name) = self.about.remove(&id) else { continue };
            self.due.remove(&name);
            if let Some(interval) = named(&name).and_then(|upstream| interval(upstream)) {
                self.due.insert(name, Some(later(now, interval)));
            }
        }
        // Removed backends are not due. A running check is remembered until it ends, so that a
        // backend that returns is not checked twice at a time.
        self.due.retain(|name, due| {
            due.is_none() || named(name).is_some_and(|upstream| interval(upstream).is_some())
        });
        for upstream in plan.routable().iter().filter(|upstream| interval(upstream).is_some()) {
            let due = self.due.entry(upstream.backend.name.clone()).or_insert(Some(now));
            if due.take_if(|due| *due <= now).is_some() {
                let (name, work) = (upstream.backend.name.clone(), work(upstream.clone()));
                // Owned by this set, which ends with the gateway.
                self.about.insert(self.running.spawn(work).id(), name);
            }
        }
    }
}

/// One interval from now, with a tenth of jitter.
fn later(now: Tick, interval: Duration) -> Tick {
    let nanos = interval.as_nanos() as f64 * (0.9 + 0.2 * rand::random::<f64>());
    Tick(now.0.saturating_add(nanos as u64))
}

/// Scrape the metrics of an engine.
async fn scrape(upstream: Arc<Upstream>) {
    let Some((path, interval)) = &upstream.backend.engine_metrics else { return };
    let page = tokio::time::timeout(SCRAPE_TIMEOUT, client::get_path(&upstream, path)).await;
    let page = page.ok().and_then(Result::ok).filter(|page| page.status == 200);
    let metrics = page.and_then(|page| EngineMetrics::read(std::str::from_utf8(&page.body).ok()?));
    match metrics {
        Some(metrics) => {
            upstream.member.record_engine_metrics(metrics, *interval * 3, clock::now())
        }
        None => tracing::debug!(backend = %upstream.backend.name, path, "no engine metrics"),
    }
}

/// Measure the round trip to a backend without recent connections.
async fn probe(upstream: Arc<Upstream>) {
    match tokio::time::timeout(PROBE, dial_tcp(&upstream)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(backend = %upstream.backend.name, %error, "probe failed"),
        Err(_) => {
            tracing::debug!(backend = %upstream.backend.name, timeout = ?PROBE, "probe timed out")
        }
    }
}

async fn check(upstream: Arc<Upstream>) {
    let Some(checks) = &upstream.backend.health else { return };
    let asked = async {
        match &checks.probe {
            Probe::Path(path) => client::get_path(&upstream, path).await,
            Probe::Token(model) => {
                client::post(&upstream, &one_token(&upstream.backend, model)).await
            }
        }
    };
    let answered = tokio::time::timeout(checks.timeout, asked).await;
    // The gateway's own connection limit proves nothing about the backend.
    if matches!(&answered, Ok(Err(client::CallError::Upstream(error))) if !error.blames_backend()) {
        return;
    }
    let why = match answered {
        Ok(Ok(reply)) if reply.status == 200 => None,
        Ok(Ok(reply)) => Some(format!("HTTP status {}", reply.status)),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {:?}", checks.timeout)),
    };
    let well = why.is_none();
    upstream.last_check.lock().clone_from(&why);
    if upstream.member.checked(well, checks, clock::now()) {
        match why {
            Some(why) => {
                tracing::warn!(backend = %upstream.backend.name, reason = why, "health check failed, backend is unhealthy")
            }
            None => {
                tracing::info!(backend = %upstream.backend.name, "health check passed, backend is healthy")
            }
        }
    }
}

/// The shortest request in the backend's dialect; chat, if it accepts any.
fn one_token(backend: &Backend, model: &str) -> HostRequest {
    let (path, body) = backend.dialect.unwrap_or(Dialect::OpenAiChat).probe(model);
    HostRequest { backend: backend.name.clone(), path: path.into(), body: body.into_bytes().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_asked_in_the_words_of_each_api() {
        let settings =
            config::from_flags("http://127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:0", None).unwrap();
        let mut backend = Backend::clone(&settings.backends[0]);
        for dialect in Dialect::ALL {
            backend.dialect = Some(dialect);
            let ask = one_token(&backend, "m");
            assert_eq!(Dialect::from_path(&ask.path), Some(dialect), "{}", ask.path);
            assert!(serde_json::from_slice::<serde_json::Value>(&ask.body).is_ok());
        }
    }
}
