//! Jwks of identity providers: JWTs, and the keys that verify them.
//!
//! - *In*: a token that a client shows; the key sets of issuers, fetched again now and then, and when a key is not known.
//! - *Out*: its [`Caller`], by the claims that the operator named.
//! - *Never*: a token whose algorithm its key does not name, or that is symmetric; a fetch that a stranger can cause more than once in
//!   [`ON_DEMAND`]; a memory of tokens that were not good.
//!
//! A token that was good is remembered by its hash until it expires: a signature takes a tenth of a millisecond, a hash a microsecond.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use config::settings::{JwksSource, JwtSettings, Limits};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use traffic::Pattern;
use traffic::settings::{DOLLAR, Limit, Unit};
use traffic::{Caller, Expired, Remembered};
use transport::{BuildError, Upstream};

use crate::clock;
use crate::host::client;

/// How often keys are fetched.
const REFRESH: Duration = Duration::from_secs(600);
/// How often for the sake of a token whose key is not known.
const ON_DEMAND: Duration = Duration::from_secs(10);
/// Clocks of issuers may differ by so many seconds.
const LEEWAY: u64 = 30;

/// All issuers.
#[derive(Debug)]
pub struct Jwks {
    issuers: Vec<Issuer>,
    good: Remembered,
}

struct Issuer {
    settings: JwtSettings,
    source: Source,
    keys: ArcSwapOption<JwkSet>,
    fetched: AtomicU64,
    /// Somebody showed a token whose key is not known.
    wanted: AtomicU64,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

enum Source {
    File(std::path::PathBuf),
    Server(Arc<Upstream>),
}

/// What a token is.
#[derive(Debug)]
pub enum Judged {
    /// A good one.
    Good(Arc<Caller>),
    /// None of ours, or none any more.
    Bad,
    /// Its issuer's keys have not been fetched yet.
    NotYet,
}

impl Jwks {
    pub fn build(settings: &[JwtSettings], limits: Limits) -> Result<Self, BuildError> {
        let issuer = |settings: &JwtSettings| {
            let source = match &settings.jwks {
                JwksSource::File(path) => Source::File(path.clone()),
                JwksSource::Server(backend) => Source::Server(Arc::new(Upstream::build(backend.clone(), limits, None)?)),
            };
            let (fetched, wanted) = (AtomicU64::new(0), AtomicU64::new(0));
            Ok(Issuer { settings: settings.clone(), source, keys: ArcSwapOption::empty(), fetched, wanted })
        };
        Ok(Jwks { issuers: settings.iter().map(issuer).collect::<Result<_, BuildError>>()?, good: Remembered::default() })
    }

    /// Whether settings are the same, so that keys and tokens stay known over a reload.
    pub fn are(&self, settings: &[JwtSettings]) -> bool {
        self.issuers.iter().map(|issuer| &issuer.settings).eq(settings)
    }

    /// Fetch the keys that are due, of all issuers side by side: a dead one delays no other.
    pub async fn refresh(&self) {
        futures_util::future::join_all(self.issuers.iter().filter(|issuer| issuer.is_due()).map(|issuer| self.refresh_one(issuer))).await;
    }

    async fn refresh_one(&self, issuer: &Issuer) {
        match issuer.fetch().await {
            Ok(keys) => {
                let changed = issuer.keys.load().as_ref().is_none_or(|known| **known != keys);
                issuer.keys.store(Some(Arc::new(keys)));
                // A key that is gone vouches for no token.
                if changed {
                    self.good.clear();
                }
            }
            Err(why) => log::error!("the keys of issuer {} cannot be had: {why}", issuer.settings.issuer),
        }
        issuer.wanted.store(0, Ordering::Relaxed);
        issuer.fetched.store(clock::now().0.max(1), Ordering::Relaxed);
    }

    /// Judge a token. What is none at all is bad at once.
    pub fn judge(&self, token: &str, rates: &[Limit]) -> Judged {
        let (hash, now, epoch) = (Remembered::hash(token), clock::wall_us(), self.good.epoch());
        match self.good.find(&hash, now) {
            Ok(Some(caller)) => return Judged::Good(caller),
            Ok(None) => {}
            Err(Expired) => return Judged::Bad,
        }
        let Ok(header) = decode_header(token) else { return Judged::Bad };
        let mut judged = Judged::Bad;
        for issuer in &self.issuers {
            let Some(keys) = issuer.keys.load_full() else {
                judged = Judged::NotYet;
                continue;
            };
            let fits = |jwk: &&Jwk| header.kid.is_none() || jwk.common.key_id == header.kid;
            let mut candidates = keys.keys.iter().filter(fits).peekable();
            if candidates.peek().is_none() {
                issuer.wanted.store(1, Ordering::Relaxed);
            }
            if let Some(claims) = candidates.find_map(|jwk| issuer.verify(token, jwk, &header)) {
                let Some(caller) = issuer.caller(&claims, rates).map(Arc::new) else { return Judged::Bad };
                self.good.keep(hash, &caller, epoch, now);
                return Judged::Good(caller);
            }
        }
        judged
    }
}

impl Issuer {
    fn verify(&self, token: &str, jwk: &Jwk, header: &jsonwebtoken::Header) -> Option<Map<String, Value>> {
        // A key that says what it is for is for nothing else, and a secret that two share proves nothing about either.
        let named = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        if named.is_some_and(|named| named != format!("{:?}", header.alg)) || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        decode::<Map<String, Value>>(token, &key, &validation).ok().map(|token| token.claims)
    }

    /// Who the claims say it is; `None`: they do not say.
    fn caller(&self, claims: &Map<String, Value>, rates: &[Limit]) -> Option<Caller> {
        let settings = &self.settings;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty() && text.len() <= 256);
        let patterns = |name: &Option<String>| -> Option<Vec<Pattern>> {
            let Some(name) = name else { return Some(Vec::new()) };
            // A claim that is to say what is allowed, and is not there, allows nothing.
            let allowed = match claims.get(name)? {
                Value::String(words) => words.split_whitespace().map(Pattern::new).collect(),
                Value::Array(words) => words.iter().filter_map(Value::as_str).map(Pattern::new).collect::<Vec<_>>(),
                _ => return None,
            };
            (!allowed.is_empty()).then_some(allowed)
        };
        let priority =
            settings.priority_claim.as_ref().and_then(|name| claims.get(name)?.as_u64()).and_then(|n| u8::try_from(n.min(9)).ok());
        let limits = settings.limits_claim.as_ref().and_then(|name| claims.get(name)?.as_object());
        let own = limits.into_iter().flatten().filter_map(|(name, amount)| {
            let limit = rates.iter().find(|limit| *limit.name == **name)?;
            let amount = amount.as_f64().filter(|amount| *amount > 0.0)?;
            Some((limit.name.clone(), if limit.of == Unit::Cost { amount * DOLLAR as f64 } else { amount } as u64))
        });
        let end = claims.get("exp").and_then(Value::as_u64)?.saturating_add(LEEWAY);
        Some(Caller {
            id: format!("{}#{}", settings.issuer, text("sub")?).into(),
            owner: text(&settings.owner_claim)?.into(),
            routes: patterns(&settings.routes_claim)?,
            models: patterns(&settings.models_claim)?,
            priority: priority.unwrap_or(Caller::PRIORITY),
            limits: own.collect::<BTreeMap<_, _>>(),
            expires: Some(end.saturating_mul(1_000_000)),
        })
    }

    fn is_due(&self) -> bool {
        let since = Duration::from_nanos(clock::now().0.saturating_sub(self.fetched.load(Ordering::Relaxed)));
        let wanted = self.wanted.load(Ordering::Relaxed) > 0 || self.keys.load().is_none();
        self.fetched.load(Ordering::Relaxed) == 0 || since >= REFRESH || wanted && since >= ON_DEMAND
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let text = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.map_err(|e| e.to_string())?,
            Source::Server(upstream) => {
                let reply = tokio::time::timeout(ON_DEMAND, client::get(upstream)).await;
                let reply = reply.map_err(|_| "it did not answer in time")?.map_err(|e| e.to_string())?;
                if reply.status != 200 {
                    return Err(format!("it answered {}", reply.status));
                }
                reply.body.to_vec()
            }
        };
        serde_json::from_slice(&text).map_err(|e| format!("it is no set of keys: {e}"))
    }
}
