//! Builds the settings of pools and routing from a checked tree.

use std::path::PathBuf;
use std::sync::Arc;

use routing::settings::{
    Balance, By, Checks, Complexity, Ejection, Hedges, Objective, PoolSettings, Probe, Retries,
};

use super::Builder;
use crate::settings::{
    Ability, Backend, CanarySettings, MirrorSettings, OffloadSettings, Pattern, Pool, Resume,
    Rollback, Route,
};
use crate::tree::Table;

impl Builder {
    /// Build the pools. Backends from their files are added to `backends`.
    pub(super) fn pools(
        &mut self,
        root: &Table,
        backends: &mut Vec<Arc<Backend>>,
    ) -> Vec<Arc<Pool>> {
        let tables = root.list("pools");
        self.unique_names(tables);
        self.note_unnamed(root, "pools");
        tables.iter().map(|table| Arc::new(self.pool(table, backends))).collect()
    }

    fn pool(&mut self, table: &Table, known: &mut Vec<Arc<Backend>>) -> Pool {
        let mut backends = self.filed(table, known);
        for name in table.texts("backends") {
            match known.iter().find(|backend| *backend.name == **name) {
                Some(backend) if backends.iter().any(|there| there.name == backend.name) => {
                    self.wrong(
                        table,
                        "backends",
                        format!("{name:?} is listed twice; set its weight instead"),
                    );
                }
                Some(backend) => backends.push(backend.clone()),
                None => {
                    let names: Vec<&str> = known.iter().map(|backend| &*backend.name).collect();
                    self.unknown(table, "backends", name, &names);
                }
            }
        }
        if backends.len() < table.texts("backends").len() {
            let name = table.text("name").unwrap_or_default().to_owned();
            self.faulty.insert(("pools", name));
        }
        let discovery = self.discovery(table, known);
        let named = !table.texts("backends").is_empty() || table.has("backends_file");
        if !named && table.table("discover").is_none() {
            self.wrong(table, "backends", "a pool needs backends, a backends_file or discover");
        }
        let mut dialects = backends
            .iter()
            .chain(discovery.as_ref().map(|discovery| &discovery.template))
            .map(|backend| backend.dialect);
        let first = dialects.next();
        if dialects.any(|other| Some(other) != first) {
            self.wrong(table, "backends", "backends of a pool must have the same dialect");
        }
        let file = table.text("backends_file").map(PathBuf::from);
        Pool {
            settings: self.pool_settings(table),
            model: table.text("model").map(str::to_owned),
            file,
            discovery,
            backends,
        }
    }

    fn pool_settings(&mut self, table: &Table) -> PoolSettings {
        let by = self.key(table);
        let ejection = self.section(table, "ejection");
        PoolSettings {
            name: table.text("name").unwrap_or_default().into(),
            tier: table.text("tier").unwrap_or_default().into(),
            balance: match table.text("balance") {
                Some("prefix") => Balance::Prefix,
                Some("least_tokens") => Balance::LeastTokens,
                Some("least_requests") => Balance::LeastRequests,
                Some("round_robin") => Balance::RoundRobin,
                Some("weighted") => Balance::Weighted,
                Some("session") => Balance::Session(by),
                Some("hash") => Balance::Hash(by),
                _ => Balance::PeakEwma,
            },
            ejection: Ejection {
                consecutive: u32::try_from(ejection.count("consecutive")).unwrap_or(u32::MAX),
                failure_rate: f64::from(ejection.share("failure_rate")),
                min_requests: ejection.count("min_requests"),
                max_ttft_ratio: self.ratio(&ejection, "max_ttft_ratio"),
                base: ejection.duration("base"),
                max: ejection.duration("max").max(ejection.duration("base")),
                max_ejected: f64::from(ejection.share("max_ejected")),
            },
            slow_start: table.duration("slow_start"),
            decay: table.duration("decay"),
        }
    }

    /// A ratio to the median, above 1; 0 disables the rule.
    fn ratio(&mut self, table: &Table, field: &str) -> f64 {
        let ratio = table.number(field).unwrap_or(0.0);
        if ratio > 0.0 && ratio <= 1.0 {
            self.wrong(table, field, format!("{ratio} must be above 1 (a ratio of times to first token), or 0 to disable the rule"));
        }
        ratio
    }

    /// The key of `session`, `hash` and a canary.
    fn key(&mut self, table: &Table) -> By {
        let text = table.text("key").unwrap_or("caller");
        let named = |prefix| {
            text.strip_prefix(prefix).filter(|name: &&str| !name.is_empty()).map(str::to_owned)
        };
        match (named("header:"), named("cookie:")) {
            (Some(name), _) => By::Header(name.to_ascii_lowercase()),
            (_, Some(name)) => By::Cookie(name),
            _ => {
                if text != "caller" {
                    self.wrong(table, "key", format!("{text:?} is not a key; write \"header:NAME\", \"cookie:NAME\" or \"caller\""));
                }
                By::Caller
            }
        }
    }

    pub(super) fn health(&mut self, backend: &Table) -> Option<Checks> {
        let table = backend.table("health")?;
        let path = table.text("path").unwrap_or("/health");
        if !path.starts_with('/') {
            self.wrong(table, "path", format!("{path:?} must begin with a slash"));
        }
        for name in ["interval", "timeout"] {
            if table.duration(name).is_zero() {
                self.wrong(table, name, "must be greater than 0s");
            }
        }
        let count = |name| u32::try_from(table.count(name)).unwrap_or(u32::MAX);
        Some(Checks {
            probe: table.text("model").map_or_else(
                || Probe::Path(path.to_owned()),
                |model| Probe::Token(model.to_owned()),
            ),
            interval: table.duration("interval"),
            timeout: table.duration("timeout"),
            healthy: count("healthy"),
            unhealthy: count("unhealthy"),
        })
    }

    pub(super) fn engine_metrics(
        &mut self,
        backend: &Table,
    ) -> Option<(String, std::time::Duration)> {
        let table = backend.table("engine_metrics")?;
        let (path, interval) =
            (table.text("path").unwrap_or("/metrics"), table.duration("interval"));
        if !path.starts_with('/') {
            self.wrong(table, "path", format!("{path:?} must begin with a slash"));
        }
        if interval.is_zero() {
            self.wrong(table, "interval", "must be greater than 0s");
        }
        Some((path.to_owned(), interval))
    }

    pub(super) fn unsupported(&mut self, backend: &Table) -> Vec<Ability> {
        let words = [
            ("tools", Ability::Tools),
            ("vision", Ability::Vision),
            ("embeddings", Ability::Embeddings),
        ];
        let mut unsupported = Vec::new();
        for word in backend.texts("unsupported") {
            match words.iter().find(|(known, _)| known == word) {
                Some((_, ability)) => unsupported.push(*ability),
                None => {
                    let known = words.map(|(known, _)| known);
                    self.unknown(backend, "unsupported", word, &known);
                }
            }
        }
        unsupported
    }

    /// The pools of a route, in order: its own, or one that has only its backend; its fallbacks;
    /// the canary's.
    pub(super) fn route_pools(
        &mut self,
        table: &Table,
        backends: &[Arc<Backend>],
        known: &[Arc<Pool>],
    ) -> Option<Vec<Arc<Pool>>> {
        let names: Vec<&str> = known.iter().map(|pool| &*pool.settings.name).collect();
        let first = self.first_pool(table, backends, known);
        let mut pools: Vec<Arc<Pool>> = first.iter().cloned().collect();
        for name in table.texts("fallback") {
            match known.iter().find(|pool| *pool.settings.name == **name) {
                Some(pool) => pools.push(pool.clone()),
                None => self.unknown(table, "fallback", name, &names),
            }
        }
        if let Some(name) = table.table("canary").and_then(|canary| canary.text("pool")) {
            let canary = table.table("canary").cloned().unwrap_or_default();
            match known.iter().find(|pool| *pool.settings.name == *name) {
                Some(pool) if first.as_ref().is_some_and(|first| Arc::ptr_eq(first, pool)) => {
                    self.wrong(&canary, "pool", "is the route's own pool; name another one");
                }
                Some(pool) => pools.push(pool.clone()),
                None => self.unknown(&canary, "pool", name, &names),
            }
        }
        let dialects: Vec<_> = pools
            .iter()
            .filter_map(|pool| pool.representative())
            .map(|backend| backend.dialect)
            .collect();
        if dialects.iter().any(|dialect| Some(dialect) != dialects.first()) {
            self.wrong(table, "fallback", "pools of a route must have the same dialect");
        }
        let is_valid = first.is_some() && pools.iter().all(|pool| pool.representative().is_some());
        is_valid.then_some(pools)
    }

    /// A route's own pool, or one that has only its backend.
    fn first_pool(
        &mut self,
        table: &Table,
        backends: &[Arc<Backend>],
        known: &[Arc<Pool>],
    ) -> Option<Arc<Pool>> {
        match (table.text("backend"), table.text("pool")) {
            (Some(_), None) => {
                let backend =
                    self.named(table, "backend", backends, |backend| &backend.name)?.clone();
                let settings = PoolSettings::named(&backend.name);
                let (model, file, discovery) = (None, None, None);
                Some(Arc::new(Pool { settings, model, file, discovery, backends: vec![backend] }))
            }
            (None, Some(_)) => {
                self.named(table, "pool", known, |pool| &pool.settings.name).cloned()
            }
            (None, None) if table.is_explained("pool") => None,
            (None, None) => {
                self.wrong(table, "backend", "is missing; name a backend or a pool for the route");
                None
            }
            (Some(_), Some(_)) => {
                self.wrong(table, "pool", "cannot be combined with backend; name one of them");
                None
            }
        }
    }

    /// The new version of a route; its pool is the last of `pools`, which are as many.
    pub(super) fn canary(&mut self, table: &Table, pools: usize) -> Option<CanarySettings> {
        let given = table.table("canary")?;
        Some(CanarySettings {
            pool: pools.saturating_sub(1),
            share: f64::from(given.share("share")),
            key: given.text("key").is_some().then(|| self.key(given)),
            rollback: Rollback {
                max_failure_increase: f64::from(given.share("max_failure_increase")),
                max_ttft_ratio: self.ratio(given, "max_ttft_ratio"),
                min_requests: given.count("min_requests"),
            },
        })
    }

    pub(super) fn mirror(&mut self, table: &Table, known: &[Arc<Pool>]) -> Option<MirrorSettings> {
        let given = table.table("mirror")?;
        let pool = self.named(given, "pool", known, |pool| &pool.settings.name)?.clone();
        Some(MirrorSettings { pool, share: f64::from(given.share("share")) })
    }

    pub(super) fn retries(&mut self, table: &Table) -> Retries {
        let alone = table.text("pool").is_none()
            && table.texts("fallback").is_empty()
            && table.table("canary").is_none();
        let Some(given) = table.table("retries") else {
            return Retries {
                max: if alone { 0 } else { Retries::default().max },
                ..Retries::default()
            };
        };
        if alone {
            self.wrong(table, "retries", "need a second backend; set pool or fallback");
        }
        Retries {
            max: u32::try_from(given.count("max")).unwrap_or(0),
            budget: f64::from(given.share("budget")),
            min_per_second: given.count("min_per_second"),
        }
    }

    pub(super) fn resume(&mut self, table: &Table, retries: &Retries) -> Resume {
        let resume = match table.text("resume") {
            Some("on") => Resume::On,
            Some("marked") => Resume::Marked,
            _ => return Resume::Off,
        };
        if retries.max == 0 {
            self.wrong(
                table,
                "resume",
                "needs a second backend and retries; set pool or fallback, and retries.max above 0",
            );
        }
        resume
    }

    /// `first` is the route's own pool.
    pub(super) fn hedges(&mut self, table: &Table, first: Option<&Arc<Pool>>) -> Option<Hedges> {
        let given = table.table("hedge")?;
        let is_small = |pool: &Arc<Pool>| {
            !pool.may_have_two() && !self.is_faulty("pools", &pool.settings.name)
        };
        if first.is_some_and(is_small) {
            self.wrong(table, "hedge", "needs a pool of two backends or more");
        }
        let after = given.duration("after");
        Some(Hedges {
            after: (!after.is_zero()).then_some(after),
            budget: f64::from(given.share("budget")),
        })
    }

    pub(super) fn offload(&mut self, table: &Table) -> Option<OffloadSettings> {
        let given = table.table("offload")?;
        if table.texts("fallback").is_empty() && !table.is_explained("fallback") {
            self.wrong(table, "offload", "needs a fallback: its first pool is the cloud");
        }
        let number = |name| given.number(name).unwrap_or(0.0);
        let header = given.text("header").map(|text| match text.split_once(':') {
            Some((name, value)) => {
                (name.trim().to_ascii_lowercase(), Some(value.trim().to_owned()))
            }
            None => (text.trim().to_ascii_lowercase(), None),
        });
        if !given.texts("findings").is_empty() && table.text("guardrail").is_none() {
            self.wrong(given, "findings", "need a guardrail on the route; set guardrail");
        }
        Some(OffloadSettings {
            header,
            findings: given.texts("findings").iter().map(|text| Pattern::new(text)).collect(),
            probe: given.duration("probe"),
            objective: Objective {
                ttft: given.duration("ttft"),
                completion: given.duration("completion"),
                ttft_weight: number("ttft_weight"),
                tpot_weight: number("tpot_weight"),
                cost_weight: number("cost_weight"),
            },
            complexity: Complexity {
                prompt_tokens: given.count("prompt_tokens"),
                output_tokens: given.count("output_tokens"),
                tools: given.flag("tools"),
            },
        })
    }
}

impl Route {
    /// All backends that may serve it.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.pools.iter().flat_map(|pool| &pool.backends)
    }
}
