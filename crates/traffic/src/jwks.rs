//! JWTs of identity providers, and the keys that verify them.
//!
//! - *In*: a token that a client presents; the key sets of issuers, which the gateway fetches when
//!   they are due.
//! - *Out*: its [`Caller`], from the claims named in the settings.
//! - *Never*: a token whose algorithm is symmetric, or differs from the one that its key declares;
//!   a fetch that an unauthenticated client can trigger more than once per
//!   [`MIN_ON_DEMAND_INTERVAL`]; an invalid token in the cache.
//!
//! A valid token is cached by its hash until it expires: verifying a signature takes a tenth of a
//! millisecond, hashing a microsecond.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use lens::Tick;
use parking_lot::RwLock;
use serde_json::{Map, Value};

use super::caller::{Caller, Identity};
use super::pattern::Pattern;
use super::settings::{self, DOLLAR, Limit, Unit};
use super::token_cache::{Expired, TokenCache};

/// Time between regular fetches of keys.
const REFRESH: Duration = Duration::from_secs(600);
/// Minimum time between fetches caused by tokens with an unknown key.
pub const MIN_ON_DEMAND_INTERVAL: Duration = Duration::from_secs(10);
/// Tolerated clock difference to issuers, in seconds.
const LEEWAY: u64 = 30;

/// All issuers.
#[derive(Debug)]
pub struct Jwks {
    issuers: Vec<Issuer>,
    good: TokenCache,
}

struct Issuer {
    settings: settings::Issuer,
    /// The keys; `None`: not fetched yet.
    keys: RwLock<Option<Arc<JwkSet>>>,
    /// Time of the last fetch, successful or not; 0: never.
    fetched: AtomicU64,
    /// 1 if a token with an unknown key has arrived since the last fetch.
    wanted: AtomicU64,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The fetched text is not a valid key set.
#[derive(Debug, thiserror::Error)]
#[error("not a JSON Web Key Set: {0}")]
pub struct BadKeys(#[from] serde_json::Error);

/// Check that a text is a key set.
///
/// # Errors
/// [`BadKeys`].
pub fn check(text: &[u8]) -> Result<(), BadKeys> {
    Ok(serde_json::from_slice::<JwkSet>(text).map(drop)?)
}

impl Jwks {
    /// Issuers whose keys have not been fetched yet.
    pub fn new(issuers: impl Iterator<Item = settings::Issuer>) -> Self {
        let issuer = |settings| Issuer {
            settings,
            keys: RwLock::default(),
            fetched: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
        };
        Jwks { issuers: issuers.map(issuer).collect(), good: TokenCache::default() }
    }

    /// Use the keys that `before` has for the same issuers until others are fetched.
    #[must_use]
    pub fn after(self, before: &Jwks) -> Self {
        for issuer in &self.issuers {
            let same = |known: &&Issuer| known.settings.issuer == issuer.settings.issuer;
            let known =
                before.issuers.iter().find(same).and_then(|known| known.keys.read().clone());
            *issuer.keys.write() = known;
        }
        self
    }

    /// The first issuer without keys: none were fetched yet.
    pub fn pending(&self) -> Option<&str> {
        let pending = self.issuers.iter().find(|issuer| issuer.keys.read().is_none())?;
        Some(&pending.settings.issuer)
    }

    /// Indexes of the issuers whose keys are due for a fetch.
    pub fn due(&self, now: Tick) -> Vec<usize> {
        self.issuers
            .iter()
            .enumerate()
            .filter(|(_, issuer)| issuer.is_due(now))
            .map(|(at, _)| at)
            .collect()
    }

    /// Store the fetched key set of an issuer. `None`: the fetch failed, and the known keys stay.
    ///
    /// # Errors
    /// [`BadKeys`]; the known keys stay.
    pub fn store_keys(&self, issuer: usize, text: Option<&[u8]>, now: Tick) -> Result<(), BadKeys> {
        let Some(issuer) = self.issuers.get(issuer) else { return Ok(()) };
        issuer.wanted.store(0, Ordering::Relaxed);
        issuer.fetched.store(now.0.max(1), Ordering::Relaxed);
        let Some(text) = text else { return Ok(()) };
        let keys: JwkSet = serde_json::from_slice(text)?;
        let mut known = issuer.keys.write();
        let changed = known.as_ref().is_none_or(|known| **known != keys);
        *known = Some(Arc::new(keys));
        drop(known);
        // Tokens verified with a removed key must not stay cached.
        if changed {
            self.good.clear();
        }
        Ok(())
    }

    /// Verify a token. A malformed one is invalid at once, even before keys are fetched.
    pub fn authenticate(&self, token: &str, rates: &[Limit], wall_us: u64) -> Identity {
        let (hash, epoch) = (TokenCache::hash(token), self.good.epoch());
        match self.good.find(&hash, wall_us) {
            Ok(Some(caller)) => return Identity::Valid(caller),
            Ok(None) => {}
            Err(Expired) => return Identity::Invalid,
        }
        let Ok(header) = decode_header(token) else { return Identity::Invalid };
        // No extension is supported, so none may be critical (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Identity::Invalid;
        }
        let mut identity = Identity::Invalid;
        for issuer in &self.issuers {
            let Some(keys) = issuer.keys.read().clone() else {
                identity = Identity::KeysPending;
                continue;
            };
            let fits = |jwk: &&Jwk| header.kid.is_none() || jwk.common.key_id == header.kid;
            let mut candidates = keys.keys.iter().filter(fits).peekable();
            if candidates.peek().is_none() {
                issuer.wanted.store(1, Ordering::Relaxed);
            }
            if let Some(claims) = candidates.find_map(|jwk| issuer.verify(token, jwk, &header)) {
                let Some(caller) = issuer.caller(&claims, rates).map(Arc::new) else {
                    return Identity::Invalid;
                };
                self.good.keep(hash, &caller, epoch, wall_us);
                return Identity::Valid(caller);
            }
        }
        identity
    }
}

impl Issuer {
    fn verify(
        &self,
        token: &str,
        jwk: &Jwk,
        header: &jsonwebtoken::Header,
    ) -> Option<Map<String, Value>> {
        // A key with a declared algorithm is not used with another one. Symmetric keys are refused:
        // a shared secret proves nothing.
        let named = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        if named.is_some_and(|named| named != format!("{:?}", header.alg))
            || !may_verify(jwk)
            || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_))
        {
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

    /// The caller of the claims; `None` if a required claim is missing.
    fn caller(&self, claims: &Map<String, Value>, rates: &[Limit]) -> Option<Caller> {
        let settings = &self.settings;
        let text = |name: &str| {
            claims
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty() && text.len() <= 256)
        };
        let patterns = |name: &Option<String>| -> Option<Vec<Pattern>> {
            let Some(name) = name else { return Some(Vec::new()) };
            // A configured claim that is missing permits nothing.
            let allowed = match claims.get(name)? {
                Value::String(words) => words.split_whitespace().map(Pattern::new).collect(),
                Value::Array(words) => {
                    words.iter().filter_map(Value::as_str).map(Pattern::new).collect::<Vec<_>>()
                }
                _ => return None,
            };
            (!allowed.is_empty()).then_some(allowed)
        };
        let priority = settings
            .priority_claim
            .as_ref()
            .and_then(|name| claims.get(name)?.as_u64())
            .and_then(|n| u8::try_from(n.min(9)).ok());
        let limits = settings.limits_claim.as_ref().and_then(|name| claims.get(name)?.as_object());
        let own = limits.into_iter().flatten().filter_map(|(name, amount)| {
            let limit = rates.iter().find(|limit| *limit.name == **name)?;
            let amount = amount.as_f64().filter(|amount| *amount > 0.0)?;
            Some((
                limit.name.clone(),
                if limit.unit == Unit::Cost { amount * DOLLAR as f64 } else { amount } as u64,
            ))
        });
        // A NumericDate may have a fraction (RFC 7519, section 2).
        let end = claims.get("exp").and_then(Value::as_f64)? + LEEWAY as f64;
        Some(Caller {
            id: format!("{}#{}", settings.issuer, text("sub")?).into(),
            owner: text(&settings.owner_claim)?.into(),
            routes: patterns(&settings.routes_claim)?,
            models: patterns(&settings.models_claim)?,
            priority: priority.unwrap_or(Caller::PRIORITY),
            limits: own.collect::<BTreeMap<_, _>>(),
            expires: Some((end * 1e6) as u64),
        })
    }

    fn is_due(&self, now: Tick) -> bool {
        let fetched = self.fetched.load(Ordering::Relaxed);
        let since = Duration::from_nanos(now.0.saturating_sub(fetched));
        let wanted = self.wanted.load(Ordering::Relaxed) > 0 || self.keys.read().is_none();
        fetched == 0 || since >= REFRESH || wanted && since >= MIN_ON_DEMAND_INTERVAL
    }
}

/// Whether a key may verify signatures, by its `use` and `key_ops`.
fn may_verify(jwk: &Jwk) -> bool {
    let uses = jwk.common.public_key_use.as_ref();
    let operations = jwk.common.key_operations.as_ref();
    uses.is_none_or(|uses| *uses == PublicKeyUse::Signature)
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    use super::*;

    const ONE_KEY: &[u8] =
        br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "alg": "EdDSA", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn one() -> Jwks {
        let issuer = settings::Issuer {
            issuer: "https://id".into(),
            audience: "llm".into(),
            owner_claim: "sub".into(),
            routes_claim: None,
            models_claim: None,
            priority_claim: None,
            limits_claim: None,
        };
        Jwks::new([issuer].into_iter())
    }

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    #[test]
    fn keys_are_due_at_start_then_regularly_and_sooner_if_one_is_unknown() {
        let jwks = one();
        assert_eq!(jwks.due(at(1)), [0], "never fetched");
        jwks.store_keys(0, None, at(1)).expect("nothing to read");
        assert!(jwks.due(at(5)).is_empty(), "it failed a moment ago");
        assert_eq!(jwks.due(at(11)), [0], "there are still no keys");
        jwks.store_keys(0, Some(ONE_KEY), at(11)).expect("a set of keys");
        assert!(jwks.due(at(600)).is_empty());
        // A token with an unknown key.
        let token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImIifQ.e30.AA";
        assert!(matches!(jwks.authenticate(token, &[], 0), Identity::Invalid));
        assert_eq!(jwks.due(at(22)), [0], "its key may be new");
        jwks.store_keys(0, Some(ONE_KEY), at(22)).expect("a set of keys");
        assert!(jwks.due(at(40)).is_empty());
        assert_eq!(jwks.due(at(22 + 600)), [0]);
    }

    #[test]
    fn token_is_pending_before_the_first_keys_and_invalid_keys_change_nothing() {
        let jwks = one();
        let token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.e30.AA";
        assert!(matches!(jwks.authenticate(token, &[], 0), Identity::KeysPending));
        assert!(jwks.store_keys(0, Some(b"<html>"), at(1)).is_err());
        assert!(matches!(jwks.authenticate(token, &[], 0), Identity::KeysPending));
        jwks.store_keys(0, Some(ONE_KEY), at(2)).expect("a set of keys");
        assert!(jwks.store_keys(0, Some(b"<html>"), at(3)).is_err());
        assert!(
            matches!(jwks.authenticate(token, &[], 0), Identity::Invalid),
            "the signature is invalid"
        );
        assert!(matches!(jwks.authenticate("no token", &[], 0), Identity::Invalid));
    }

    #[test]
    fn keys_of_the_same_issuer_are_used_until_others_are_fetched() {
        let before = one();
        assert_eq!(before.pending(), Some("https://id"));
        before.store_keys(0, Some(ONE_KEY), at(1)).expect("a set of keys");
        let after = one().after(&before);
        assert_eq!((after.pending(), after.due(at(2))), (None, vec![0]));
        let token = signed(|_, _| ());
        assert!(matches!(after.authenticate(&token, &[], 0), Identity::Valid(_)));
        after.store_keys(0, Some(br#"{"keys": []}"#), at(2)).expect("an empty set");
        assert!(matches!(after.authenticate(&token, &[], 0), Identity::Invalid));
    }

    /// The private key of [`ONE_KEY`], from RFC 8037, appendix A, as PKCS #8.
    const PRIVATE: &str = "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    fn signed(change: impl FnOnce(&mut Header, &mut Value)) -> String {
        let der: Vec<u8> = (0..PRIVATE.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&PRIVATE[at..at + 2], 16).unwrap())
            .collect();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("a".into());
        let mut claims =
            json!({"iss": "https://id", "aud": "llm", "sub": "ada", "exp": 4_102_444_800u64});
        change(&mut header, &mut claims);
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&der)).unwrap()
    }

    fn caller(keys: &str, token: &str) -> Option<Arc<Caller>> {
        let jwks = one();
        jwks.store_keys(0, Some(keys.as_bytes()), at(1)).expect("a set of keys");
        match jwks.authenticate(token, &[], 0) {
            Identity::Valid(caller) => Some(caller),
            _ => None,
        }
    }

    #[test]
    fn dates_may_have_fractions() {
        let keys = std::str::from_utf8(ONE_KEY).unwrap();
        for (name, date, expires) in [
            ("exp", json!(4_102_444_800u64), Some(4_102_444_830_000_000)),
            ("exp", json!(4_102_444_800.25), Some(4_102_444_830_250_000)),
            ("exp", json!(4.1024448e9), Some(4_102_444_830_000_000)),
            ("exp", json!(1_000_000_000.5), None),
            ("exp", json!("4102444800"), None),
            ("exp", json!(-1.5), None),
            ("nbf", json!(1_000_000_000.5), Some(4_102_444_830_000_000)),
            ("nbf", json!(4_102_444_700.5), None),
        ] {
            let caller = caller(keys, &signed(|_, claims| claims[name] = date.clone()));
            assert_eq!(caller.map(|caller| caller.expires), expires.map(Some), "{name} {date}");
        }
    }

    #[test]
    fn critical_extensions_are_refused() {
        let keys = std::str::from_utf8(ONE_KEY).unwrap();
        assert!(caller(keys, &signed(|_, _| ())).is_some());
        for critical in [vec![], vec!["b64".to_owned()], vec!["x".to_owned()]] {
            let token = signed(|header, _| header.crit = Some(critical.clone()));
            assert!(caller(keys, &token).is_none(), "{critical:?}");
        }
    }

    #[test]
    fn only_keys_for_signatures_verify() {
        let keys = std::str::from_utf8(ONE_KEY).unwrap();
        let token = signed(|_, _| ());
        for (member, valid) in [
            (r#""use": "sig""#, true),
            (r#""use": "enc""#, false),
            (r#""key_ops": ["verify"]"#, true),
            (r#""key_ops": ["encrypt", "wrapKey"]"#, false),
        ] {
            let keys = keys.replace(r#""kid""#, &format!(r#"{member}, "kid""#));
            assert_eq!(caller(&keys, &token).is_some(), valid, "{member}");
        }
        // Another key of the same id may verify.
        let both = keys.replace(r#"{"kty""#, r#"{"kty": "OKP", "crv": "Ed25519", "kid": "a", "use": "enc", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, {"kty""#);
        assert!(caller(&both, &token).is_some());
    }
}
