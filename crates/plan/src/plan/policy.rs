//! Policies of a route (offload, release, retries), and how they survive a reload.
//!
//! - *In*: settings of routes, the route of the same name in the plan before.
//! - *Out*: policies that keep their measurements if their settings are unchanged; counters.
//! - *Never*: a change to a policy in use: the new plan may still fail.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::Settings;
use config::settings::Route;
use routing::{Offload, Offloaded, Release, RouteHistory};

use super::{PlannedPool, PlannedRoute};

/// Counters of retries, fallbacks, resumes and offload decisions of a route.
#[derive(Debug, Default)]
pub struct RouteCounters {
    /// Retries.
    pub retries: AtomicU64,
    /// Retries denied by the budget.
    pub retries_denied: AtomicU64,
    /// Requests sent to a fallback pool.
    pub fallbacks: AtomicU64,
    /// Streams resumed by another backend.
    pub resumes: AtomicU64,
    /// Offload decisions, in the order of [`Offloaded::ALL`].
    pub offloaded: [AtomicU64; Offloaded::ALL.len()],
}

impl RouteCounters {
    /// The offload decisions and their counts.
    pub fn decisions(&self) -> impl Iterator<Item = (Offloaded, u64)> {
        Offloaded::ALL
            .into_iter()
            .zip(self.offloaded.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Count an offload decision.
    pub fn offloaded(&self, decided: Offloaded) {
        let at = Offloaded::ALL.iter().position(|known| *known == decided);
        if let Some(count) = at.and_then(|at| self.offloaded.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The shortest probe interval of all routes, by backend.
pub(super) fn probes(settings: &Settings) -> HashMap<Arc<str>, Duration> {
    let mut probes = HashMap::new();
    for route in &settings.routes {
        for every in
            route.offload.iter().map(|offload| offload.probe).filter(|every| !every.is_zero())
        {
            for backend in route.backends() {
                probes
                    .entry(backend.name.clone())
                    .and_modify(|known: &mut Duration| *known = every.min(*known))
                    .or_insert(every);
            }
        }
    }
    probes
}

/// Set for each pool whether it has a fallback in any route. The stable version is the fallback of
/// the canary. With offload, the edge is the fallback of the cloud, so every pool has one.
pub(super) fn set_fallbacks(routes: &[Arc<PlannedRoute>]) {
    let backed_in = |route: &Arc<PlannedRoute>| -> Vec<Arc<PlannedPool>> {
        let canary = route.route.canary.as_ref().and_then(|canary| route.pools.get(canary.pool));
        let others = route.pools.len() - usize::from(canary.is_some());
        let last = usize::from(route.offload.is_none());
        route.pools.iter().take(others.saturating_sub(last)).chain(canary).cloned().collect()
    };
    let has_fallback: Vec<Arc<PlannedPool>> = routes.iter().flat_map(backed_in).collect();
    for pool in routes.iter().flat_map(|route| &route.pools) {
        pool.pool.set_has_fallback(has_fallback.iter().any(|known| Arc::ptr_eq(known, pool)));
    }
}

/// The offload policy of a route. It keeps its state if its settings are unchanged.
pub(super) fn offload(route: &Route, known: Option<&Arc<PlannedRoute>>) -> Option<Arc<Offload>> {
    let wanted = route.offload.as_ref()?;
    let known = known
        .filter(|known| known.route.offload == route.offload)
        .and_then(|known| known.offload.clone());
    Some(known.unwrap_or_else(|| Arc::new(Offload::new(wanted.objective, wanted.complexity))))
}

/// The release of a route's canary. With unchanged settings it continues, at the share that the
/// operator may have set meanwhile. With a changed rollback rule it continues under the new rule;
/// only a changed share in the settings sets the share.
pub(super) fn release(
    route: &Route,
    known: Option<&Arc<PlannedRoute>>,
    history: &Arc<RouteHistory>,
) -> Option<Arc<Release>> {
    let wanted = route.canary.as_ref()?;
    let pool_of =
        |route: &Route| Some(route.pools.get(route.canary.as_ref()?.pool)?.settings.name.clone());
    let known = known.and_then(|known| {
        Some((known.route.canary.as_ref()?, known.release.as_ref()?, pool_of(&known.route)))
    });
    let (rollback, seed) = (Some(wanted.rollback), rand::random());
    Some(match known.filter(|(.., pool)| *pool == pool_of(route)) {
        Some((canary, release, _))
            if canary.share == wanted.share && canary.rollback == wanted.rollback =>
        {
            release.clone()
        }
        Some((canary, release, _)) => {
            let share = (canary.share != wanted.share).then_some(wanted.share);
            Arc::new(Release::after(release, share, rollback, seed))
        }
        None => Arc::new(Release::new(wanted.share, rollback, seed).with_history(history.clone())),
    })
}
