//! Asking backends whether they are well, and the second hand of pools.
//!
//! - *In*: the checks of backends, the pools of the plan.
//! - *Out*: members that are up or down; tails that are computed, and outliers that are left alone, once a second.
//! - *Never*: a check for each pool: a backend is asked once, whoever has it; two checks of a backend at a time; a request that waits for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config::settings::{Checks, Probe};
use filters::Ask;
use lens::Tick;
use routing::member::Change;
use routing::release::Worse;
use tokio::task::JoinSet;

use super::client;
use crate::clock;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::upstream::Upstream;

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(100);
/// Between two ticks of pools.
const TICK: u64 = 1_000_000_000;

/// Check what is due, and tell pools the time. Never ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut checks = Checking::default();
    let mut ticked = clock::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let (plan, now) = (shared.plan.load_full(), clock::now());
        if now.nanos_since(ticked) >= TICK {
            ticked = now;
            tick(&plan, now);
        }
        checks.look(&plan, now);
    }
}

fn tick(plan: &Plan, now: Tick) {
    for (route, release) in plan.routes.iter().filter_map(|route| Some((&route.route.name, route.release.as_ref()?))) {
        match release.tick() {
            Some(Worse::Failures(new, old)) => {
                log::error!(
                    "route {route}: the candidate is taken back; {:.1} % of its requests fail, {:.1} % of the others",
                    new * 100.0,
                    old * 100.0
                );
            }
            Some(Worse::Slower(new, old)) => {
                log::error!(
                    "route {route}: the candidate is taken back; its 95th percentile to the first token is {new:?}, that of the others {old:?}"
                );
            }
            None => {}
        }
    }
    for pool in plan.pools() {
        for (at, change) in pool.pool.tick(now) {
            if let (Change::Ejected(cause, span), Some(upstream)) = (change, pool.upstreams.get(at)) {
                let (name, pool) = (&upstream.backend.name, &pool.pool.settings.name);
                log::warn!("backend {name} of pool {pool} is left alone for {span:?}: {}", cause.name());
            }
        }
    }
}

/// Checks that run, and when each backend is due.
#[derive(Default)]
struct Checking {
    running: JoinSet<Arc<str>>,
    due: HashMap<Arc<str>, Option<Tick>>,
}

impl Checking {
    fn look(&mut self, plan: &Plan, now: Tick) {
        while let Some(done) = self.running.try_join_next() {
            if let Ok(name) = done
                && let Some(interval) =
                    plan.world.upstreams().find(|u| u.backend.name == name).and_then(|u| Some(u.backend.health.as_ref()?.interval))
            {
                self.due.insert(name, Some(later(now, interval)));
            }
        }
        self.due.retain(|name, _| plan.world.upstreams().any(|upstream| upstream.backend.name == *name));
        for upstream in plan.world.upstreams() {
            let Some(checks) = &upstream.backend.health else { continue };
            // `None`: it is being asked.
            let due = self.due.entry(upstream.backend.name.clone()).or_insert(Some(now));
            if due.is_some_and(|due| due <= now) {
                *due = None;
                let (upstream, checks) = (upstream.clone(), checks.clone());
                // Owned by this set, which ends with the gateway.
                self.running.spawn(async move {
                    check(&upstream, &checks).await;
                    upstream.backend.name.clone()
                });
            }
        }
    }
}

/// An interval from now, a tenth more or less.
fn later(now: Tick, interval: Duration) -> Tick {
    let nanos = interval.as_nanos() as f64 * (0.9 + 0.2 * rand::random::<f64>());
    Tick(now.0.saturating_add(nanos as u64))
}

async fn check(upstream: &Arc<Upstream>, checks: &Checks) {
    let asked = async {
        match &checks.probe {
            Probe::Path(path) => client::get_path(upstream, path).await,
            Probe::Token(model) => client::ask(upstream, &one_token(&upstream.backend.name, model)).await,
        }
    };
    let answered = tokio::time::timeout(checks.timeout, asked).await;
    let why = match answered {
        Ok(Ok(reply)) if reply.status == 200 => None,
        Ok(Ok(reply)) => Some(format!("it answered {}", reply.status)),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("it did not answer within {:?}", checks.timeout)),
    };
    let well = why.is_none();
    if upstream.member.checked(well, checks, clock::now()) {
        match why {
            Some(why) => log::warn!("backend {} is down: {why}", upstream.backend.name),
            None => log::info!("backend {} is up", upstream.backend.name),
        }
    }
}

fn one_token(backend: &Arc<str>, model: &str) -> Ask {
    let body = serde_json::json!({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "ok"}]});
    Ask { backend: backend.clone(), path: "/v1/chat/completions".into(), body: body.to_string().into_bytes().into() }
}
