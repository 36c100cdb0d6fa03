//! What an operator may ask about traffic. `config` builds these from text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Pattern;

/// Pico-dollars in a dollar: a token of the cheapest model is some ten thousand of them.
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
    /// Requests at a time.
    Streams,
}

impl Unit {
    /// Words of the settings with their meaning.
    pub const WORDS: [(&'static str, Unit); 6] = [
        ("requests", Unit::Requests),
        ("input_tokens", Unit::InputTokens),
        ("output_tokens", Unit::OutputTokens),
        ("total_tokens", Unit::TotalTokens),
        ("cost", Unit::Cost),
        ("streams", Unit::Streams),
    ];

    /// The word.
    pub fn name(self) -> &'static str {
        Unit::WORDS.iter().find(|(_, unit)| *unit == self).map_or("", |(word, _)| word)
    }
}

/// Requests that share an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All requests.
    All,
    /// Each key, or subject of a token or certificate.
    Key,
    /// All keys of an owner.
    Owner,
    /// All requests of a route.
    Route,
    /// All requests for a model; those that no backend declares share one.
    Model,
    /// A client's address; of IPv6 its /64.
    Address,
}

impl Per {
    /// Words of the settings with their meaning.
    pub const WORDS: [(&'static str, Per); 6] = [
        ("all", Per::All),
        ("key", Per::Key),
        ("owner", Per::Owner),
        ("route", Per::Route),
        ("model", Per::Model),
        ("address", Per::Address),
    ];

    /// The word.
    pub fn name(self) -> &'static str {
        Per::WORDS.iter().find(|(_, per)| *per == self).map_or("", |(word, _)| word)
    }
}

/// Over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Any span of that length.
    Rolling(Duration),
    /// A day of the calendar, by UTC.
    Day,
    /// A month of the calendar, by UTC.
    Month,
    /// At a time.
    AtATime,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Units, at least 1.
    pub amount: u64,
    /// Over which time.
    pub window: Window,
    /// Units that may go at once; the amount, where it is no rate.
    pub burst: u64,
}

impl Quota {
    /// Nanoseconds in which a rate gives so many units, rounded up.
    pub(super) fn time_of(&self, units: u64) -> u64 {
        let Window::Rolling(period) = self.window else { return 0 };
        let (nanos, amount) = (period.as_nanos(), u128::from(self.amount.max(1)));
        u64::try_from((u128::from(units) * nanos).div_ceil(amount))
            .unwrap_or(u64::MAX / 4)
            .min(u64::MAX / 4)
    }

    /// Units that a rate gives in so many nanoseconds, rounded down.
    pub(super) fn units_of(&self, nanos: u64) -> u64 {
        let Window::Rolling(period) = self.window else { return 0 };
        u64::try_from(u128::from(nanos) * u128::from(self.amount) / period.as_nanos().max(1))
            .unwrap_or(u64::MAX)
    }
}

/// What happens to a stream that has taken all there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExhausted {
    /// It ends as if `max_tokens` were reached.
    #[default]
    Length,
    /// It ends with an error.
    Error,
    /// It goes on; the debt is paid by later requests.
    Finish,
}

/// An identity provider, and the claims of its tokens that matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issuer {
    /// What `iss` must say.
    pub issuer: String,
    /// What `aud` must say.
    pub audience: String,
    /// The claim with the owner.
    pub owner_claim: String,
    /// The claim with routes.
    pub routes_claim: Option<String>,
    /// The claim with models.
    pub models_claim: Option<String>,
    /// The claim with the priority.
    pub priority_claim: Option<String>,
    /// The claim with amounts.
    pub limits_claim: Option<String>,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Its name, in answers and metrics.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Unit,
    /// How much.
    pub quota: Quota,
    /// Requests that share an amount.
    pub per: Per,
    /// Only requests of these routes, if any are named.
    pub routes: Vec<Pattern>,
    /// Only requests for these models.
    pub models: Vec<Pattern>,
    /// Only callers of these owners.
    pub owners: Vec<Pattern>,
    /// The percentage of it from which on callers are warned; 0: never.
    pub warn_at: u8,
    /// When a stream has taken all.
    pub on_exhausted: OnExhausted,
    /// Shared with other gateways, through a store.
    pub shared: Option<Shared>,
}

/// How gateways share a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// What the names of accounts in the store begin with.
    pub prefix: Arc<str>,
    /// How many gateways there are; for their shares when the store is away.
    pub replicas: u32,
}

/// What a token costs, in pico-dollars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Price {
    /// For which models.
    pub models: Vec<Pattern>,
    /// A token of a prompt.
    pub input: u64,
    /// One that the engine had in its cache.
    pub cached_input: u64,
    /// A generated token.
    pub output: u64,
    /// One of reasoning.
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
    /// What its owner must show.
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
}

/// How many requests a backend gets at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Admission {
    /// Requests in flight; 0: any number. The most of an adaptive cap.
    pub max_requests: u64,
    /// Estimated tokens in flight; 0: any number.
    pub max_tokens: u64,
    /// The cap on requests follows the engine.
    pub adaptive: bool,
    /// The least of an adaptive cap.
    pub min_requests: u64,
    /// Requests that may wait.
    pub queue: usize,
    /// How long each may.
    pub max_wait: Duration,
}

/// Whether a route requires a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Credentials are ignored. If other routes require one, it still reaches no backend.
    #[default]
    Off,
    /// A presented credential must be valid; without one, the caller is `anonymous`.
    Optional,
    /// A good credential.
    Required,
}
