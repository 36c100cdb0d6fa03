//! Routes of a plan: their pools, policies, and the metric group of each request.
//!
//! - *In*: settings of routes, and the plan before.
//! - *Out*: [`PlannedRoute`].
//! - *Never*: a lookup by name while a request waits.

use std::sync::Arc;

use config::settings::Route;
use filters::Guardrail;
use observatory::{Group, GroupGauges, GroupId, Observatory};
use traffic::RateLimits;
use transport::Upstream;
use wire::Dialect;

use super::{BuildError, Mirror, Plan, PlannedPool, Pools, RouteCounters, policy};
use crate::host::Tokenizer;

/// A route with its backends.
#[derive(Debug)]
pub struct PlannedRoute {
    /// The settings of the route.
    pub route: Arc<Route>,
    /// In the order in which they are tried.
    pub pools: Vec<Arc<PlannedPool>>,
    /// A gap between two events that counts as a stall, in nanoseconds.
    pub stall_ns: u64,
    /// The guardrail, if the route has one.
    pub guardrail: Option<Arc<Guardrail>>,
    /// The mirror.
    pub mirror: Option<Arc<Mirror>>,
    /// Release of the canary.
    pub release: Option<Arc<routing::Release>>,
    /// Results of requests without the canary, for the comparison with a canary.
    pub history: Arc<routing::RouteHistory>,
    /// Offload policy between the first pool and the second.
    pub offload: Option<Arc<routing::Offload>>,
    /// Counters of retries, fallbacks, resumes and offload decisions.
    pub counters: Arc<RouteCounters>,
    /// Tokenizer that counts prompts.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Whether a body must be valid before it is forwarded: usage is injected, or the guardrail
    /// acts on prompts.
    pub must_read: bool,
    /// Whether a rate limit on this route counts tokens or cost.
    pub counts_tokens: bool,
    /// Whether a limit depends on the model.
    pub counts_models: bool,
    /// Metric groups by pool, backend and operation.
    groups: Vec<Vec<[MetricGroup; OPERATIONS.len()]>>,
    /// Metric group of requests without a backend, on routes whose backends are discovered.
    unmatched: Option<[MetricGroup; OPERATIONS.len()]>,
}

/// Operations of requests; empty for requests that are not inference.
const OPERATIONS: [&str; 4] = ["", "chat", "text_completion", "embeddings"];

/// A metric group and its gauges.
#[derive(Clone, Debug)]
pub struct MetricGroup {
    /// The group of metrics.
    pub id: GroupId,
    /// Labels of its series.
    pub group: Group,
    /// Requests of the group in flight.
    pub in_flight: Arc<GroupGauges>,
}

/// Inputs for planning routes.
pub(super) struct RouteParts<'p> {
    /// The plan in force.
    pub before: Option<&'p Plan>,
    /// The plan in force, if only discovered backends changed: then no file is read again.
    pub same: Option<&'p Plan>,
    pub guardrails: &'p [Arc<Guardrail>],
    pub rate_limits: &'p RateLimits,
    pub models: &'p Arc<[String]>,
    pub observatory: &'p Observatory,
    /// Tokenizers that are loaded already.
    pub tokenizers: Vec<Arc<Tokenizer>>,
    pub pools: Pools<'p>,
}

impl RouteParts<'_> {
    /// Plan a route.
    ///
    /// # Errors
    /// [`BuildError::Tokenizer`].
    pub(super) fn route(&mut self, route: &Arc<Route>) -> Result<Arc<PlannedRoute>, BuildError> {
        let guardrail = route.guardrail.as_ref().and_then(|wanted| {
            self.guardrails.iter().find(|built| built.settings.name == wanted.name).cloned()
        });
        let pools = self.pools.of_route(route);
        let mut planned =
            PlannedRoute::new((route, pools, guardrail), self.models, self.observatory);
        // Requests that are not parsed cannot be counted.
        planned.counts_tokens = self.rate_limits.count_tokens_of(&route.name);
        planned.counts_models = self.rate_limits.depend_on_model_of(&route.name);
        planned.must_read |= planned.counts_tokens || planned.counts_models;
        let known = self
            .before
            .and_then(|plan| plan.routes.iter().find(|known| known.route.name == route.name));
        planned.history = known.map(|known| known.history.clone()).unwrap_or_default();
        planned.release = policy::release(route, known, &planned.history);
        planned.offload = policy::offload(route, known);
        planned.counters = known.map(|known| known.counters.clone()).unwrap_or_default();
        planned.mirror = self.pools.mirror(route, self.before);
        planned.tokenizer = self.tokenizer(route)?;
        self.tokenizers.extend(planned.tokenizer.clone());
        Ok(Arc::new(planned))
    }

    /// The tokenizer of a route. Routes that name the same file share it.
    fn tokenizer(&self, route: &Route) -> Result<Option<Arc<Tokenizer>>, BuildError> {
        let Some(path) = &route.tokenizer else { return Ok(None) };
        match self.same.and_then(|plan| plan.routes.get(route.index)?.tokenizer.clone()) {
            Some(kept) => Ok(Some(kept)),
            None => Ok(Some(Tokenizer::load(path, &self.tokenizers)?)),
        }
    }
}

impl PlannedRoute {
    fn new(
        (route, pools, guardrail): (&Arc<Route>, Vec<Arc<PlannedPool>>, Option<Arc<Guardrail>>),
        models: &Arc<[String]>,
        observatory: &Observatory,
    ) -> Self {
        let labels: Arc<[(String, String)]> =
            route.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let group = |backend: Option<&config::settings::Backend>, operation| Group {
            route: route.name.clone(),
            backend: backend.map_or_else(|| "".into(), |backend| backend.name.clone()),
            provider: backend.map_or("", |backend| &backend.provider).into(),
            operation,
            models: models.clone(),
            labels: labels.clone(),
            server: backend
                .map_or_else(String::new, |backend| format!("{}:{}", backend.host, backend.port))
                .into(),
        };
        let counted = |backend| {
            OPERATIONS
                .map(|operation| MetricGroup::new(observatory, group(Some(backend), operation)))
        };
        let is_discovered = pools.iter().any(|pool| pool.is_discovered);
        let unmatched = is_discovered.then(|| {
            OPERATIONS.map(|operation| MetricGroup::new(observatory, group(None, operation)))
        });
        let groups = pools
            .iter()
            .map(|pool| pool.upstreams.iter().map(|upstream| counted(&upstream.backend)).collect())
            .collect();
        PlannedRoute {
            route: route.clone(),
            pools,
            must_read: route.inject_usage
                || route.reads_bodies()
                || guardrail.as_ref().is_some_and(|guardrail| guardrail.needs_valid_requests()),
            stall_ns: u64::try_from(route.stall.as_nanos()).unwrap_or(u64::MAX),
            guardrail,
            mirror: None,
            release: None,
            history: Arc::default(),
            offload: None,
            counters: Arc::default(),
            tokenizer: None,
            counts_tokens: false,
            counts_models: false,
            groups,
            unmatched,
        }
    }

    /// Metric group of a request at a backend. `dialect` is `None` for requests that are not
    /// inference.
    pub fn group(&self, target: Target, dialect: Option<Dialect>) -> &MetricGroup {
        let operation = dialect.map_or("", Dialect::operation);
        let at = OPERATIONS.iter().position(|known| *known == operation).unwrap_or(0);
        let of = self.groups.get(target.pool).and_then(|pool| pool.get(target.at));
        let of = of.or(self.unmatched.as_ref()).map(|of| &of[at]);
        of.expect("invariant: PlannedRoute::new makes groups for all backends, and for none")
    }

    /// Whether the route has, or may have by discovery, a number of backends other than one.
    pub fn has_choice(&self) -> bool {
        self.pools.len() > 1
            || self.pools.iter().any(|pool| pool.is_discovered || pool.upstreams.len() > 1)
    }

    /// The backend of a target; `None`: it no longer exists.
    pub fn upstream(&self, target: Target) -> Option<&Arc<Upstream>> {
        self.pools.get(target.pool).and_then(|pool| pool.upstreams.get(target.at))
    }
}

/// Position of a backend in a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Index of the pool in the route.
    pub pool: usize,
    /// Index of the backend in the pool.
    pub at: usize,
}

impl MetricGroup {
    fn new(observatory: &Observatory, group: Group) -> Self {
        let (id, in_flight) = observatory.group(group.clone());
        MetricGroup { id, group, in_flight }
    }

    /// Metric group of requests that match no route.
    pub(super) fn no_route_group(observatory: &Observatory, models: Arc<[String]>) -> Self {
        let group = Group {
            route: "none".into(),
            backend: "".into(),
            provider: "".into(),
            operation: "",
            models,
            labels: Arc::new([]),
            server: "".into(),
        };
        MetricGroup::new(observatory, group)
    }
}
