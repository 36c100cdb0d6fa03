//! Settings of authentication, limits, prices and admission. `config` builds them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Pattern;

/// Pico-dollars per dollar. A token of the cheapest model costs about ten thousand of them.
pub const DOLLAR: u64 = 1_000_000_000_000;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens of prompts.
    InputTokens,
    /// Generated tokens.
    OutputTokens,
    /// Both.
    TotalTokens,
    /// Pico-dollars, by the price table.
    Cost,
    /// Concurrent requests.
    Streams,
}

impl Unit {
    /// Names in the settings, and their values.
    pub const WORDS: [(&'static str, Unit); 6] = [
        ("requests", Unit::Requests),
        ("input_tokens", Unit::InputTokens),
        ("output_tokens", Unit::OutputTokens),
        ("total_tokens", Unit::TotalTokens),
        ("cost", Unit::Cost),
        ("streams", Unit::Streams),
    ];

    /// Name in the settings.
    pub fn name(self) -> &'static str {
        Unit::WORDS.iter().find(|(_, unit)| *unit == self).map_or("", |(word, _)| word)
    }
}

/// Which requests share an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All requests.
    All,
    /// Each key, or subject of a token or certificate.
    Key,
    /// All requests with keys of an owner.
    Owner,
    /// All requests of a route.
    Route,
    /// All requests for a model; models that no backend declares count as one.
    Model,
    /// All requests from a client address; for IPv6, from its /64.
    Address,
}

impl Per {
    /// Names in the settings, and their values.
    pub const WORDS: [(&'static str, Per); 6] = [
        ("all", Per::All),
        ("key", Per::Key),
        ("owner", Per::Owner),
        ("route", Per::Route),
        ("model", Per::Model),
        ("address", Per::Address),
    ];

    /// Name in the settings.
    pub fn name(self) -> &'static str {
        Per::WORDS.iter().find(|(_, per)| *per == self).map_or("", |(word, _)| word)
    }
}

/// Time window of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Any span of this length.
    Rolling(Duration),
    /// A day of the calendar, by UTC.
    Day,
    /// A month of the calendar, by UTC.
    Month,
    /// No window: units in use at the same time.
    AtATime,
}

/// Amount of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Units, at least 1.
    pub amount: u64,
    /// Time window.
    pub window: Window,
    /// Maximum units at once; equals the amount for windows other than rolling ones.
    pub burst: u64,
}

impl Quota {
    /// Nanoseconds in which a rate refills that many units, rounded up.
    pub(super) fn time_of(&self, units: u64) -> u64 {
        let Window::Rolling(period) = self.window else { return 0 };
        let (nanos, amount) = (period.as_nanos(), u128::from(self.amount.max(1)));
        u64::try_from((u128::from(units) * nanos).div_ceil(amount))
            .unwrap_or(u64::MAX / 4)
            .min(u64::MAX / 4)
    }

    /// Units that a rate refills in that many nanoseconds, rounded down.
    pub(super) fn units_of(&self, nanos: u64) -> u64 {
        let Window::Rolling(period) = self.window else { return 0 };
        u64::try_from(u128::from(nanos) * u128::from(self.amount) / period.as_nanos().max(1))
            .unwrap_or(u64::MAX)
    }
}

/// What happens to a stream when its limit is exhausted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// It ends as if `max_tokens` were reached.
    #[default]
    Length,
    /// It ends with an error.
    Error,
    /// It continues; later requests pay the debt.
    Finish,
}

/// An identity provider, and the claims to read from its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issuer {
    /// Required value of `iss`.
    pub issuer: String,
    /// Required value of `aud`.
    pub audience: String,
    /// The claim with the owner.
    pub owner_claim: String,
    /// The claim with routes.
    pub routes_claim: Option<String>,
    /// The claim with models.
    pub models_claim: Option<String>,
    /// The claim with the priority.
    pub priority_claim: Option<String>,
    /// The claim with own amounts for limits.
    pub limits_claim: Option<String>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Its name, in answers and metrics.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// Its quota.
    pub quota: Quota,
    /// Which requests share an account.
    pub per: Per,
    /// Only requests of these routes, if any are named.
    pub routes: Vec<Pattern>,
    /// Only requests for these models.
    pub models: Vec<Pattern>,
    /// Only callers of these owners.
    pub owners: Vec<Pattern>,
    /// Percentage of use from which callers are warned; 0: never.
    pub warn_at: u8,
    /// What happens to a stream when the limit is exhausted.
    pub on_exhausted: OnExhausted,
    /// How gateways share it through a store; `None`: not shared.
    pub shared: Option<Shared>,
}

/// How gateways share a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Prefix of the account keys in the store.
    pub prefix: Arc<str>,
    /// Number of gateways. It determines the share of each one while the store is unreachable.
    pub replicas: u32,
}

/// What a token costs, in pico-dollars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Price {
    /// Models that it applies to; empty: all.
    pub models: Vec<Pattern>,
    /// Price of an input token.
    pub input: u64,
    /// Price of a cached input token.
    pub cached_input: u64,
    /// Price of an output token.
    pub output: u64,
    /// Price of a reasoning token.
    pub reasoning: u64,
}

/// A credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// A key with this HMAC-SHA-256.
    Key([u8; 32]),
    /// A certificate with this SHA-256 fingerprint.
    Certificate([u8; 32]),
    /// A certificate that has a name with this SHA-256.
    Subject([u8; 32]),
}

impl Proof {
    /// A certificate with a name.
    pub fn subject(name: &str) -> Proof {
        Proof::Subject(Sha256::digest(name.as_bytes()).into())
    }
}

/// An entry of the key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public name.
    pub id: Arc<str>,
    /// The credential that proves its use.
    pub proof: Proof,
    /// Owner.
    pub owner: Arc<str>,
    /// Expiry in Unix microseconds.
    pub expires: Option<u64>,
    /// Routes it may use; none named: all.
    pub routes: Vec<Pattern>,
    /// Models it may use; none named: all.
    pub models: Vec<Pattern>,
    /// Priority in queues, 0 to 9; higher goes first.
    pub priority: u8,
    /// Amounts of its own for limits by name, in the limit's units.
    pub limits: BTreeMap<Arc<str>, u64>,
    /// Limits for which it has amounts without effect: the settings have no such `per: key` limit.
    pub unused_limits: Vec<Arc<str>>,
}

/// Admission limits of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admission {
    /// Maximum requests in flight; 0: unlimited. Upper bound of an adaptive cap.
    pub max_requests: u64,
    /// Maximum estimated tokens in flight; 0: unlimited.
    pub max_tokens: u64,
    /// Whether the cap on requests adapts to the engine.
    pub adaptive: bool,
    /// Lower bound of an adaptive cap.
    pub min_requests: u64,
    /// Maximum number of waiting requests.
    pub queue: usize,
    /// Maximum wait of a request.
    pub max_wait: Duration,
    /// Which requests share a turn.
    pub tenant: TenantKey,
}

/// Which requests of one priority are of the same tenant in an admission queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantKey {
    /// Those of an owner.
    #[default]
    Owner,
    /// Those of a key.
    Key,
    /// Those with the same value of this request header, in lower case; without it, of an owner.
    Header(String),
}

/// Whether a route requires a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Credentials are ignored. If other routes require credentials, they are still not forwarded
    /// to the backend.
    #[default]
    Off,
    /// A presented credential must be valid; without one, the caller is `anonymous`.
    Optional,
    /// A valid credential is required.
    Required,
}
