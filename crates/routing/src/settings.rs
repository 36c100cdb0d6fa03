//! Settings of routing. `config` builds them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// How a pool selects a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// At random, by weight.
    Weighted,
    /// The one with the fewest requests in flight for its weight.
    LeastRequests,
    /// The one with the fewest estimated tokens in flight for its weight.
    LeastTokens,
    /// The better of two random ones, by time to first token and tokens in flight.
    #[default]
    PeakEwma,
    /// The one that was sent the longest prefix of the prompt, unless it is busy.
    Prefix,
    /// Always the same for the same key, while it is in rotation.
    Session(By),
    /// The same for the same key, unless it is busy.
    Hash(By),
}

/// Where the affinity key of a request comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The caller, or the client address of anonymous requests.
    Caller,
}

/// When a failing backend is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ejection {
    /// Failures in a row; 0 disables the rule.
    pub consecutive: u32,
    /// Share of failures within ten seconds; 0 disables the rule.
    pub failure_rate: f64,
    /// Minimum requests within ten seconds for `failure_rate`.
    pub min_requests: u64,
    /// Ratio to the pool's median time to first token; 0 disables the rule.
    pub max_ttft_ratio: f64,
    /// Duration of the first ejection. It doubles with each one that follows soon.
    pub base: Duration,
    /// Maximum duration of an ejection.
    pub max: Duration,
    /// Maximum share of the pool that may be ejected at a time.
    pub max_ejected: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            consecutive: 5,
            failure_rate: 0.5,
            min_requests: 20,
            max_ttft_ratio: 5.0,
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_ejected: 0.5,
        }
    }
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checks {
    /// The probe.
    pub probe: Probe,
    /// Time between two checks, with a tenth of jitter so that gateways do not check together.
    pub interval: Duration,
    /// Maximum duration of a check.
    pub timeout: Duration,
    /// Successes in a row that make a backend healthy.
    pub healthy: u32,
    /// Failures in a row that make it unhealthy.
    pub unhealthy: u32,
}

/// What a health check requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A GET of a path that answers 200.
    Path(String),
    /// One token of a model, which checks the whole engine.
    Token(String),
}

/// Retries on another backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Retries {
    /// Maximum retries of a request.
    pub max: u32,
    /// Retries as a share of requests, over ten seconds.
    pub budget: f64,
    /// Retries per second that are allowed beyond the budget.
    pub min_per_second: u64,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { max: 2, budget: 0.2, min_per_second: 3 }
    }
}

/// Settings of hedging.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hedges {
    /// Wait before the hedge; `None`: the 95th percentile of the backend's time to first token.
    pub after: Option<Duration>,
    /// Hedges as a share of requests, over ten seconds.
    pub budget: f64,
}

/// Settings of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolSettings {
    /// Its name.
    pub name: Arc<str>,
    /// `edge`, `cloud`, or another label.
    pub tier: Arc<str>,
    /// How it selects a backend.
    pub balance: Balance,
    /// When backends are ejected.
    pub ejection: Ejection,
    /// Duration of slow start.
    pub slow_start: Duration,
    /// Time constant with which measured times decay.
    pub decay: Duration,
}

impl PoolSettings {
    /// A pool with all defaults.
    pub fn named(name: &str) -> Self {
        PoolSettings {
            name: name.into(),
            tier: "".into(),
            balance: Balance::default(),
            ejection: Ejection::default(),
            slow_start: Duration::ZERO,
            decay: Duration::from_secs(10),
        }
    }
}

/// Objective of the decision between edge and cloud.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// Objective for the time to first token; zero: none.
    pub ttft: Duration,
    /// Objective for the time to the last token; zero: none.
    pub completion: Duration,
    /// Weight of a second to the first token.
    pub ttft_weight: f64,
    /// Weight of a second for a hundred tokens.
    pub tpot_weight: f64,
    /// Weight of a cent.
    pub cost_weight: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Objective {
            ttft: Duration::ZERO,
            completion: Duration::ZERO,
            ttft_weight: 1.0,
            tpot_weight: 0.0,
            cost_weight: 0.0,
        }
    }
}

/// Requests that are too complex for the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Complexity {
    /// Maximum prompt tokens; 0: no limit.
    pub prompt_tokens: u64,
    /// Maximum requested output tokens; 0: no limit.
    pub output_tokens: u64,
    /// Whether requests with tools are too complex.
    pub tools: bool,
}
