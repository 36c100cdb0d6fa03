//! The plan: settings prepared for requests. Building it may read files; it starts no task.
//!
//! - *In*: [`config::Settings`], the observatory, and the previous plan, whose unchanged backends
//!   are kept, so that their connections survive.
//! - *Out*: routes with everything that a request needs, without lookups by name.
//! - *Never*: a change after it was built. A reload builds another.

mod mirror;
mod policy;
mod pools;
mod route;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::settings::{Backend, Limits};
use config::{Found, Settings};
use filters::settings::GuardrailSettings;
use filters::{Guardrail, Registry, UnknownFilter};
use http1::head::HeadLimits;
use observatory::Observatory;
use traffic::{Caller, KeyHasher, Keys, RateLimits};
use wire::ReaderLimits;

use transport::Upstream;

#[cfg(feature = "onnx")]
use crate::host::load_model;
use crate::host::{FilterHost, ThreadPool, Tokenizer, TokenizerError};
use crate::jwks::Jwks;
use crate::shared_limits::Store;
pub use mirror::{Mirror, MirrorSlot};
pub use policy::RouteCounters;
use pools::Pools;
pub use pools::{HedgeCounters, PlannedPool};
use route::RouteParts;
pub use route::{MetricGroup, PlannedRoute, Target};

/// Why a plan cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An invalid certificate or key file.
    #[error(transparent)]
    Tls(#[from] transport::BuildError),
    /// A tokenizer that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Settings that need a feature which this build does not have.
    #[error("{setting}: this build was made without the feature `{feature}`")]
    Feature {
        /// The setting.
        setting: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// A source of discovery that this build does not support.
    #[error("pool {pool}: {why}")]
    Discovery {
        /// The pool.
        pool: String,
        /// Why, and what to do about it.
        why: &'static str,
    },
    /// An invalid key file.
    #[error(transparent)]
    Keys(#[from] config::Problems),
    /// A file without the key set of an identity provider.
    #[error("{0}")]
    KeySet(String),
    /// A guardrail that cannot be built.
    #[error(transparent)]
    Guardrail(#[from] filters::BuildError),
}

/// Dependencies of plans, besides settings.
#[derive(Debug)]
pub struct Tools {
    /// Where series and records go.
    pub observatory: Arc<Observatory>,
    /// Filters that settings may name.
    pub filters: Registry,
    /// Threads of guardrails.
    pub pool: Arc<ThreadPool>,
    /// Threads that count prompts.
    pub counting: Arc<ThreadPool>,
}

/// Check what parsing the settings does not: features of this build, guardrail rules, tokenizers,
/// and files of keys and certificates. Returns all problems, each with the path of its setting,
/// which is empty where the problem has its own place, and warnings about keys. That a file of
/// certificates or a tokenizer cannot be opened is a problem of the settings, and not among them.
pub fn check(settings: &Settings, filters: &Registry) -> (Vec<(String, BuildError)>, Vec<String>) {
    let guardrails = settings.guardrails.iter().enumerate().filter_map(|(at, guardrail)| {
        let error = Guardrail::build(guardrail, filters, &load_model).err()?;
        Some((guardrail_path(at, guardrail, &error), error.into()))
    });
    let can_be_opened = |file: &Path| std::fs::File::open(file).is_ok();
    let tokenizers = settings.routes.iter().filter_map(|route| {
        let file = route.tokenizer.as_deref().filter(|file| can_be_opened(file))?;
        let error = Tokenizer::load(file, &[]).err()?;
        Some((format!("routes[{}].tokenizer", route.index), error.into()))
    });
    let has_ca = |backend: &Backend| {
        backend.tls.as_ref().and_then(|tls| tls.ca.as_deref()).is_none_or(can_be_opened)
    };
    let backends =
        settings.backends.iter().filter(|backend| has_ca(backend)).filter_map(|backend| {
            let error = Upstream::build(backend.clone(), settings.limits, None).err()?;
            Some((format!("backends[{}].tls", backend.index), error.into()))
        });
    let keys = keys(settings);
    let warnings = keys.iter().flatten().flat_map(Keys::warnings).collect();
    let key_file = settings.auth.as_ref().and_then(|auth| Some(&auth.keys.as_ref()?.0));
    // Problems inside of a key file have their own places.
    let of_keys = if key_file.is_none_or(|file| can_be_opened(file)) { "" } else { "auth.keys" };
    let key_sets = settings.auth.iter().flat_map(|auth| Jwks::file_problems(&auth.jwt, None));
    let key_sets =
        key_sets.map(|(at, problem)| (format!("auth.jwt[{at}].jwks"), BuildError::KeySet(problem)));
    let others = [("", features(settings)), (of_keys, keys.map(drop).map_err(BuildError::from))];
    let others =
        others.into_iter().filter_map(|(path, checked)| Some((path.to_owned(), checked.err()?)));
    (guardrails.chain(others).chain(key_sets).chain(tokenizers).chain(backends).collect(), warnings)
}

/// As [`check`], without what reads a file: features, and guardrails without local models and
/// filters of this build. Also returns the paths of guardrails that were not checked.
pub fn check_without_files(
    settings: &Settings,
    filters: &Registry,
) -> (Vec<(String, BuildError)>, Vec<String>) {
    let (mut problems, mut unchecked) = (Vec::new(), Vec::new());
    for (at, guardrail) in settings.guardrails.iter().enumerate() {
        let has_model = guardrail.judges.iter().any(|judge| judge.files.is_some());
        if has_model || !guardrail.filters.is_empty() {
            unchecked.push(format!("guardrails[{at}]"));
        } else if let Err(error) = Guardrail::build(guardrail, filters, &load_model) {
            problems.push((guardrail_path(at, guardrail, &error), error.into()));
        }
    }
    problems.extend(features(settings).err().map(|error| (String::new(), error)));
    (problems, unchecked)
}

/// The path of the setting that makes a guardrail fail.
fn guardrail_path(at: usize, settings: &GuardrailSettings, error: &filters::BuildError) -> String {
    let filter = |name: &Arc<str>| settings.filters.iter().position(|f| f.declared.name == *name);
    let judge = |name: &Arc<str>| settings.judges.iter().position(|j| j.declared.name == *name);
    let below = match error {
        filters::BuildError::Rules { .. } => None,
        filters::BuildError::Filter {
            why: UnknownFilter::Unknown { name, .. } | UnknownFilter::Settings { name, .. },
            ..
        } => filter(name).map(|at| format!(".filters[{at}]")),
        filters::BuildError::Model { judge: name, .. } => {
            judge(name).map(|at| format!(".judges[{at}]"))
        }
    };
    format!("guardrails[{at}]{}", below.unwrap_or_default())
}

/// Check that this build has the features that the settings need.
fn features(settings: &Settings) -> Result<(), BuildError> {
    let jwt = settings.auth.as_ref().is_some_and(|auth| !auth.jwt.is_empty());
    for (wanted, has, setting, feature) in [
        (jwt, cfg!(feature = "jwt"), "auth.jwt", "jwt"),
        (settings.store.is_some(), cfg!(feature = "redis"), "store", "redis"),
    ] {
        if wanted && !has {
            return Err(BuildError::Feature { setting, feature });
        }
    }
    discoveries(settings)
}

/// Check that this build supports the discovery sources of all pools.
fn discoveries(settings: &Settings) -> Result<(), BuildError> {
    let wanted = settings
        .pools
        .iter()
        .filter_map(|pool| Some((&pool.settings.name, &pool.discovery.as_ref()?.source)));
    wanted.into_iter().try_for_each(|(pool, source)| {
        discovery::is_supported(source)
            .map_err(|why| BuildError::Discovery { pool: pool.to_string(), why })
    })
}

/// Build the guardrails of the settings.
fn guardrails(
    settings: &Settings,
    filters: &Registry,
) -> Result<Vec<Arc<Guardrail>>, filters::BuildError> {
    settings
        .guardrails
        .iter()
        .map(|guardrail| Guardrail::build(guardrail, filters, &load_model).map(Arc::new))
        .collect()
}

/// The API keys of settings.
fn keys(settings: &Settings) -> Result<Option<Keys>, config::Problems> {
    let Some(auth) = &settings.auth else { return Ok(None) };
    let Some((file, secret)) = &auth.keys else {
        return Ok(Some(Keys::new(KeyHasher::new(""), Vec::new())));
    };
    Ok(Some(Keys::new(
        KeyHasher::new(secret.reveal()),
        config::load_keys(file, &settings.rate_limits)?,
    )))
}

/// Log amounts of keys that have no effect.
fn log_warnings(keys: Option<Keys>) -> Option<Keys> {
    for problem in keys.iter().flat_map(Keys::warnings) {
        tracing::warn!(problem, "settings");
    }
    keys
}

/// The identity providers of the settings. Fetched keys survive a reload, until those of a changed
/// provider are fetched.
fn jwks(settings: &Settings, before: Option<&Plan>) -> Result<Option<Arc<Jwks>>, BuildError> {
    let Some(auth) = settings.auth.as_ref().filter(|auth| !auth.jwt.is_empty()) else {
        return Ok(None);
    };
    let known = before.and_then(|plan| plan.jwks.as_ref());
    // Tokens carry amounts by limit name: changed limits require that they are read again.
    let same = known.filter(|jwks| {
        jwks.matches_settings(&auth.jwt)
            && before.is_some_and(|plan| plan.settings.rate_limits == settings.rate_limits)
    });
    match same {
        Some(jwks) => Ok(Some(jwks.clone())),
        None => {
            let known = known.map(|jwks| &**jwks);
            if let Some((_, problem)) = Jwks::file_problems(&auth.jwt, known).into_iter().next() {
                return Err(BuildError::KeySet(problem));
            }
            let jwks = Jwks::build(&auth.jwt, settings.limits, known)?;
            Ok(Some(Arc::new(jwks)))
        }
    }
}

/// Load a judge that runs in this process.
#[cfg(not(feature = "onnx"))]
fn load_model(_: &filters::settings::Judge) -> Result<Arc<dyn filters::Filter>, String> {
    Err("this build has no local models; build it with the feature `onnx`".into())
}

/// Settings prepared for requests.
#[derive(Debug)]
pub struct Plan {
    /// The settings as the operator wrote them, without discovered backends.
    pub written: Arc<Settings>,
    /// The settings with discovered backends added.
    pub settings: Settings,
    /// The routes, in the order of the settings.
    pub routes: Vec<Arc<PlannedRoute>>,
    /// Limits on the heads of requests.
    pub head_limits: HeadLimits,
    /// Limits on parsing answers.
    pub reader_limits: ReaderLimits,
    /// Whether a route matches by model. Then a body that cannot be parsed matches no route.
    pub routes_by_model: bool,
    /// API keys; `None`: authentication is off.
    pub keys: Option<Arc<Keys>>,
    /// Identity providers.
    pub jwks: Option<Arc<Jwks>>,
    /// The caller of requests without a credential.
    pub anonymous: Arc<Caller>,
    /// Rate limits.
    pub rate_limits: RateLimits,
    /// The store of the rate limits that gateways share.
    pub store: Option<Arc<Store>>,
    /// The declared models, sorted, followed by the one name for all others in metrics and limits.
    declared: Vec<Arc<str>>,
    /// What filters may use.
    pub host: Arc<FilterHost>,
    /// Metric group of requests that match no route.
    pub no_route_group: MetricGroup,
    guardrails: Vec<Arc<Guardrail>>,
    routable: Vec<Arc<Upstream>>,
    probes: HashMap<Arc<str>, Duration>,
}

impl Plan {
    /// Build the plan of `written`. Unchanged parts of `before` are kept: connections, health,
    /// counters, limits.
    ///
    /// # Errors
    /// [`BuildError`]: a file that the settings name is invalid, or a feature is missing.
    pub fn build(
        written: Arc<Settings>,
        found: &Found,
        tools: &Tools,
        before: Option<&Plan>,
    ) -> Result<Self, BuildError> {
        let observatory = &*tools.observatory;
        // If only discovered backends changed, no file is read again.
        let same = before.filter(|plan| Arc::ptr_eq(&plan.written, &written));
        let settings = written.with_discovered(found);
        features(&settings)?;
        let upstreams = upstreams(&settings, before)?;
        let models: Arc<[String]> =
            settings.declared_models().into_iter().map(str::to_owned).collect();
        let guardrails = match same {
            Some(plan) => plan.guardrails.clone(),
            None => guardrails(&settings, &tools.filters)?,
        };
        let rate_limits = RateLimits::new(
            &settings.rate_limits,
            &settings.prices,
            before.map(|plan| &plan.rate_limits),
        );
        let mut parts = RouteParts {
            before,
            same,
            guardrails: &guardrails,
            rate_limits: &rate_limits,
            models: &models,
            observatory,
            tokenizers: before.map(Plan::tokenizers).unwrap_or_default(),
            pools: Pools::new(&upstreams, settings.zone.as_deref(), before),
        };
        let routes: Vec<_> =
            settings.routes.iter().map(|route| parts.route(route)).collect::<Result<_, _>>()?;
        let keys = match same {
            Some(plan) => plan.keys.clone(),
            None => log_warnings(keys(&settings)?).map(Arc::new),
        };
        let jwks = jwks(&settings, before)?;
        // This changes pools that the plan in force may share, so nothing after it may fail.
        policy::set_fallbacks(&routes);
        Ok(Plan {
            routable: parts.pools.routable(),
            probes: policy::probes(&settings),
            routes,
            head_limits: HeadLimits {
                bytes: settings.limits.request_head,
                fields: settings.limits.header_fields,
            },
            reader_limits: ReaderLimits { event: settings.limits.event },
            routes_by_model: settings.routes.iter().any(|r| !r.models.is_empty()),
            keys,
            jwks,
            anonymous: Arc::new(Caller::anonymous()),
            rate_limits,
            store: store(&settings, before),
            declared: models
                .iter()
                .map(|name| name.as_str().into())
                .chain(["other".into()])
                .collect(),
            no_route_group: MetricGroup::no_route_group(observatory, models),
            host: Arc::new(FilterHost::new(upstreams.iter().cloned(), tools.pool.clone())),
            guardrails,
            written,
            settings,
        })
    }

    /// The shared name of a declared model, or the one name for all others.
    pub fn declared(&self, model: Option<&str>) -> &Arc<str> {
        let (others, declared) =
            self.declared.split_last().expect("invariant: `build` appends the name of the others");
        declared.iter().find(|known| Some(&***known) == model).unwrap_or(others)
    }

    /// The plan of the same settings, with other discovered backends.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn with_discovered(&self, found: &Found, tools: &Tools) -> Result<Self, BuildError> {
        Plan::build(self.written.clone(), found, tools, Some(self))
    }

    /// Backends in pools of routes. Others are templates, or used by guardrails only.
    pub fn routable(&self) -> &[Arc<Upstream>] {
        &self.routable
    }

    /// Maximum time between two measurements of the round trip to a backend; `None`: no offload
    /// policy uses it.
    pub fn probed_every(&self, backend: &str) -> Option<Duration> {
        self.probes.get(backend).copied()
    }

    /// All pools of all routes.
    pub fn pools(&self) -> Vec<Arc<PlannedPool>> {
        let mut pools: Vec<Arc<PlannedPool>> = Vec::new();
        let mirrors = self.routes.iter().filter_map(|route| Some(&route.mirror.as_ref()?.pool));
        for pool in self.routes.iter().flat_map(|route| &route.pools).chain(mirrors) {
            if !pools.iter().any(|known| Arc::ptr_eq(known, pool)) {
                pools.push(pool.clone());
            }
        }
        pools
    }

    fn tokenizers(&self) -> Vec<Arc<Tokenizer>> {
        self.routes.iter().filter_map(|route| route.tokenizer.clone()).collect()
    }

    fn upstream(&self, backend: &config::settings::Backend) -> Option<&Arc<Upstream>> {
        self.host.upstream(&backend.name)
    }

    fn same_upstream(
        &self,
        backend: &config::settings::Backend,
        limits: Limits,
    ) -> Option<Arc<Upstream>> {
        self.upstream(backend).filter(|upstream| upstream.is_same(backend, limits)).cloned()
    }
}

/// Build the backends, or keep those of the previous plan if unchanged.
fn upstreams(settings: &Settings, before: Option<&Plan>) -> Result<Vec<Arc<Upstream>>, BuildError> {
    let mut upstreams: Vec<Arc<Upstream>> = Vec::with_capacity(settings.backends.len());
    for backend in &settings.backends {
        let upstream = match before.and_then(|plan| plan.same_upstream(backend, settings.limits)) {
            Some(upstream) => upstream,
            None => {
                // Discovered backends come after their template, and share its TLS setup.
                let another = upstreams
                    .iter()
                    .find(|another| backend.tls.is_some() && another.backend.tls == backend.tls);
                let upstream = Upstream::build(
                    backend.clone(),
                    settings.limits,
                    another.map(|another| &**another),
                )?;
                Arc::new(upstream.after(before.and_then(|plan| plan.upstream(backend))))
            }
        };
        upstreams.push(upstream);
    }
    Ok(upstreams)
}

/// The store of shared limits. It keeps its connection if its settings are unchanged.
fn store(settings: &Settings, before: Option<&Plan>) -> Option<Arc<Store>> {
    let wanted = settings.store.as_ref()?;
    let known =
        before.and_then(|plan| plan.store.clone()).filter(|store| store.settings == *wanted);
    Some(known.unwrap_or_else(|| Arc::new(Store::new(wanted.clone()))))
}
