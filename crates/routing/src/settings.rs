//! What an operator may ask about routing. `config` builds these from text.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// How a pool chooses among its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// At random, by weight.
    Weighted,
    /// The one with the fewest requests in flight for its weight.
    LeastRequests,
    /// The one with the fewest estimated tokens in flight for its weight.
    LeastTokens,
    /// The better of two at random, by time to first token and tokens in flight.
    #[default]
    PeakEwma,
    /// The one that has seen most of the prompt, unless it is busy.
    Prefix,
    /// Always the same for the same key, while it is there.
    Session(By),
    /// The same for the same key, unless it is busy.
    Hash(By),
}

/// What a request's key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// Who asks: the caller, or the address of who shows no credential.
    Caller,
}

/// How long a backend that fails is left alone, and when.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ejection {
    /// Failures in a row; 0: they do not count.
    pub consecutive: u32,
    /// Share of failures among the requests of ten seconds; 0: it does not count.
    pub failure_rate: f64,
    /// Requests in ten seconds below which a share says nothing.
    pub min_requests: u64,
    /// Times of the pool's median time to first token; 0: it does not count.
    pub slower_than: f64,
    /// The first ejection; each one soon after doubles it.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
    /// The largest share of a pool that is ejected at a time.
    pub most: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            consecutive: 5,
            failure_rate: 0.5,
            min_requests: 20,
            slower_than: 5.0,
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            most: 0.5,
        }
    }
}

/// How a backend is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checks {
    /// What is asked for.
    pub probe: Probe,
    /// Between two checks; a tenth of it more or less, so that gateways do not ask together.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row after which it is up again.
    pub healthy: u32,
    /// Bad ones after which it is down.
    pub unhealthy: u32,
}

/// What a check asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A path that answers 200.
    Path(String),
    /// One token of that model: the engine's whole way.
    Token(String),
}

/// When a request is asked again of another backend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Retries {
    /// Backends that a request may be asked of after the first.
    pub most: u32,
    /// Retries for each request, over ten seconds.
    pub budget: f64,
    /// Retries in a second that the budget does not bound.
    pub always: u64,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { most: 2, budget: 0.2, always: 3 }
    }
}

/// When a second backend is asked at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hedges {
    /// After so long; `None`: after the 95th percentile of the backend's time to first token.
    pub after: Option<Duration>,
    /// Hedges for each request, over ten seconds.
    pub budget: f64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolSettings {
    /// Its name.
    pub name: Arc<str>,
    /// `edge`, `cloud`, or whatever the operator calls it.
    pub tier: Arc<str>,
    /// How it chooses.
    pub balance: Balance,
    /// When backends are left alone.
    pub ejection: Ejection,
    /// How long a newcomer's share grows.
    pub slow_start: Duration,
    /// How fast times are forgotten.
    pub forget: Duration,
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
            forget: Duration::from_secs(10),
        }
    }
}

/// What an edge and a cloud are weighed by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// Time to first token that is good enough; zero: none is.
    pub ttft: Duration,
    /// Time to the last token that is good enough; zero: it does not matter.
    pub completion: Duration,
    /// What a second to the first token weighs.
    pub weigh_ttft: f64,
    /// What a second for a hundred tokens weighs.
    pub weigh_tpot: f64,
    /// What a cent weighs.
    pub weigh_cost: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Objective { ttft: Duration::ZERO, completion: Duration::ZERO, weigh_ttft: 1.0, weigh_tpot: 0.0, weigh_cost: 0.0 }
    }
}

/// From when on a request is too much for the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Complexity {
    /// Tokens of the prompt; 0: any number.
    pub prompt_tokens: u64,
    /// Asked tokens; 0: any number.
    pub output_tokens: u64,
    /// It offers tools.
    pub tools: bool,
}
