//! Pools of a plan, and how they survive a reload.
//!
//! - *In*: pools of the settings, prepared backends, the previous plan.
//! - *Out*: the same pool if nothing changed; else a new one with the measurements and budgets of
//!   the old one.
//! - *Never*: a backend in two states: all pools with it share its upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::settings::Route;
use transport::Upstream;

use super::{Mirror, Plan};

/// A pool with its backends.
#[derive(Debug)]
pub struct PlannedPool {
    /// Health and balancing of its backends.
    pub pool: routing::Pool,
    /// Its backends, in the order of its members.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Model name at these backends, in place of the client's.
    pub model: Option<String>,
    /// Whether all backends have the same models, context length and abilities.
    pub uniform: bool,
    /// Zone of the gateway, which decides which backends are near.
    zone: Option<String>,
    /// Whether discovery adds backends.
    pub(super) is_discovered: bool,
    /// Counters of its hedges.
    pub hedged: Arc<HedgeCounters>,
}

/// Hedges of a pool. Counts survive discovery.
#[derive(Debug, Default)]
pub struct HedgeCounters {
    /// Hedges sent.
    pub asked: AtomicU64,
    /// Hedges that answered first.
    pub won: AtomicU64,
    /// Estimated prompt tokens of all hedges.
    pub tokens: AtomicU64,
}

impl PlannedPool {
    /// Count a hedge.
    pub fn hedged(&self, prompt: u64) {
        self.hedged.asked.fetch_add(1, Ordering::Relaxed);
        self.hedged.tokens.fetch_add(prompt, Ordering::Relaxed);
    }

    /// Count a hedge that answered first.
    pub fn hedge_won(&self) {
        self.hedged.won.fetch_add(1, Ordering::Relaxed);
    }
}

/// Builds pools. Unchanged pools of the previous plan are kept, with their health and counters.
pub(super) struct Pools<'p> {
    upstreams: &'p [Arc<Upstream>],
    zone: Option<&'p str>,
    known: Vec<Arc<PlannedPool>>,
    made: Vec<Arc<PlannedPool>>,
}

impl<'p> Pools<'p> {
    pub(super) fn new(
        upstreams: &'p [Arc<Upstream>],
        zone: Option<&'p str>,
        before: Option<&Plan>,
    ) -> Self {
        let known = before.map(Plan::pools).unwrap_or_default();
        Pools { upstreams, zone, known, made: Vec::new() }
    }

    pub(super) fn of_route(&mut self, route: &Route) -> Vec<Arc<PlannedPool>> {
        route.pools.iter().map(|pool| self.pool(pool)).collect()
    }

    /// The backends of all pools that were built, without duplicates.
    pub(super) fn routable(&self) -> Vec<Arc<Upstream>> {
        let mut routable: Vec<Arc<Upstream>> = Vec::new();
        for upstream in self.made.iter().flat_map(|pool| &pool.upstreams) {
            if !routable.iter().any(|known| Arc::ptr_eq(known, upstream)) {
                routable.push(upstream.clone());
            }
        }
        routable
    }

    /// The mirror, with its counts if its settings are unchanged.
    pub(super) fn mirror(&mut self, route: &Route, before: Option<&Plan>) -> Option<Arc<Mirror>> {
        let wanted = route.mirror.as_ref()?;
        let pool = self.pool(&wanted.pool);
        let known = before.and_then(|plan| {
            plan.routes.iter().find(|known| known.route.name == route.name)?.mirror.clone()
        });
        Some(Arc::new(Mirror::new(pool, wanted.share, known.as_deref())))
    }

    fn pool(&mut self, wanted: &config::settings::Pool) -> Arc<PlannedPool> {
        let upstreams: Vec<Arc<Upstream>> = wanted
            .backends
            .iter()
            .filter_map(|backend| self.upstreams.get(backend.index).cloned())
            .collect();
        let same = |pool: &&Arc<PlannedPool>| {
            let members = pool.upstreams.len() == upstreams.len()
                && pool
                    .upstreams
                    .iter()
                    .zip(&upstreams)
                    .all(|(one, other)| Arc::ptr_eq(one, other));
            members
                && pool.pool.settings == wanted.settings
                && pool.model == wanted.model
                && pool.zone.as_deref() == self.zone
        };
        if let Some(pool) = self.made.iter().chain(&self.known).find(same).cloned() {
            self.made.push(pool.clone());
            return pool;
        }
        let abilities = |backend: &config::settings::Backend| {
            (backend.models.clone(), backend.context_length, backend.unsupported.clone())
        };
        let uniform = wanted
            .backends
            .windows(2)
            .all(|pair| matches!(pair, [one, other] if abilities(one) == abilities(other)));
        let members = upstreams.iter().map(|upstream| upstream.member.clone()).collect();
        let near = upstreams
            .iter()
            .map(|upstream| self.zone.is_some() && upstream.backend.zone.as_deref() == self.zone)
            .collect();
        let mut pool =
            routing::Pool::new(wanted.settings.clone(), members, rand::random()).preferring(near);
        let before = self
            .known
            .iter()
            .find(|known| known.pool.settings == wanted.settings && known.model == wanted.model);
        if let Some(before) = before {
            pool = pool.after(&before.pool);
        }
        let pool = Arc::new(PlannedPool {
            pool,
            upstreams,
            model: wanted.model.clone(),
            uniform,
            zone: self.zone.map(str::to_owned),
            is_discovered: wanted.discovery.is_some(),
            hedged: before.map(|before| before.hedged.clone()).unwrap_or_default(),
        });
        self.made.push(pool.clone());
        pool
    }
}
