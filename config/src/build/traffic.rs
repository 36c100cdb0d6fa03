//! Builds the settings of authentication, rate limits and admission from a checked tree.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use traffic::Pattern;
use traffic::settings::{
    Admission, Auth, DOLLAR, Limit, OnExhausted, Per, Price, Quota, Shared, TenantKey, Unit, Window,
};

use super::Builder;
use crate::settings::{
    AuthSettings, Issuer, JwksSource, JwtSettings, OnStoreFailure, StoreSettings,
};
use crate::tree::Table;

/// Minimum characters of the secret; a shorter one can be guessed.
const SECRET: usize = 16;
/// Maximum limits, and maximum prices: each request checks all of them.
const MAX_ENTRIES: usize = 64;
/// Shortest rolling window.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest rolling window. `month` is longer.
const LONGEST: Duration = Duration::from_secs(31 * 86_400);
/// Pico-dollars per token for a price of one dollar per million tokens.
const PER_MILLION: f64 = DOLLAR as f64 / 1e6;

impl Builder {
    pub(super) fn auth(&mut self, root: &Table) -> Option<AuthSettings> {
        let table = root.table("auth")?;
        let secret = table.secret("secret").cloned();
        let keys = table.text("keys").map(PathBuf::from);
        match (&keys, &secret) {
            (Some(_), None) => self.wrong(
                table,
                "secret",
                "is required with keys; make one with `openssl rand -hex 32` and give it as \"${ENV}\" or \"file:PATH\"",
            ),
            (Some(_), Some(secret)) if secret.reveal().len() < SECRET => {
                self.wrong(table, "secret", format!("must have at least {SECRET} characters"));
            }
            (None, _) if table.list("jwt").is_empty() && !table.is_explained("jwt") => {
                self.wrong(table, "keys", "is missing; set keys or jwt, or no client can authenticate")
            }
            _ => {}
        }
        let jwt = table.list("jwt").iter().filter_map(|table| self.jwt(table)).collect();
        Some(AuthSettings { keys: keys.zip(secret), jwt })
    }

    fn jwt(&mut self, table: &Table) -> Option<JwtSettings> {
        let claim = |name| table.text(name).map(str::to_owned);
        let jwks = table.text("jwks")?;
        let jwks = if jwks.contains("://") {
            JwksSource::Server(Arc::new(self.backend_at(table, "jwks")?))
        } else {
            self.openable(table, "jwks");
            JwksSource::File(jwks.into())
        };
        let issuer = Issuer {
            issuer: claim("issuer")?,
            audience: claim("audience")?,
            owner_claim: claim("owner_claim")?,
            routes_claim: claim("routes_claim"),
            models_claim: claim("models_claim"),
            priority_claim: claim("priority_claim"),
            limits_claim: claim("limits_claim"),
        };
        Some(JwtSettings { issuer, jwks })
    }

    pub(super) fn route_auth(&mut self, table: &Table, has_auth: bool) -> Auth {
        match table.text("auth") {
            Some("off") => Auth::Off,
            Some(word) => {
                if !has_auth {
                    self.wrong(table, "auth", "needs an \"auth\" section");
                }
                if word == "optional" { Auth::Optional } else { Auth::Required }
            }
            None if has_auth => Auth::Required,
            None => Auth::Off,
        }
    }

    pub(super) fn rate_limits(&mut self, root: &Table) -> Vec<Limit> {
        let tables = root.list("rate_limits");
        self.unique_names(tables);
        self.few(root, "rate_limits", tables.len());
        let shared = root.table("store").map(|store| Shared {
            prefix: store.text("prefix").unwrap_or_default().into(),
            replicas: u32::try_from(store.count("replicas")).unwrap_or(1),
        });
        let priced = root.list("prices").iter().any(|price| price.texts("models").is_empty());
        for table in tables.iter().filter(|table| table.text("unit") == Some("cost") && !priced) {
            self.wrong(
                table,
                "unit",
                "cost needs a price for every model; end \"prices\" with an entry without models",
            );
        }
        tables.iter().filter_map(|table| self.rate_limit(root, table, shared.as_ref())).collect()
    }

    pub(super) fn store(&mut self, root: &Table) -> Option<StoreSettings> {
        let table = root.table("store")?;
        let prefix = table.text("prefix").unwrap_or_default();
        if prefix.is_empty() || prefix.contains(|c: char| c == ':' || c.is_whitespace()) {
            self.wrong(table, "prefix", "must be a word without a colon");
        }
        let Some(url) = table.secret("url") else {
            self.wrong(table, "url", "is missing; write for example \"redis://127.0.0.1:6379\"");
            return None;
        };
        if let Err(why) = super::url::check_store_url(url.reveal()) {
            self.wrong(table, "url", why);
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(10))
            .contains(&table.duration("timeout"))
        {
            self.wrong(table, "timeout", "must be from 1ms to 10s");
        }
        let on_failure = match table.text("on_failure") {
            Some("open") => OnStoreFailure::Open,
            Some("closed") => OnStoreFailure::Closed,
            _ => OnStoreFailure::Local,
        };
        Some(StoreSettings { url: url.clone(), timeout: table.duration("timeout"), on_failure })
    }

    fn rate_limit(&mut self, root: &Table, table: &Table, store: Option<&Shared>) -> Option<Limit> {
        self.known_routes(root, table);
        let unit = word(table, "unit", &Unit::WORDS)?;
        let (window, amount) = (self.window(table, unit), self.amount(table, "amount", unit));
        let (window, amount) = (window?, amount?);
        let burst = match (table.number("burst"), window) {
            (None, _) => amount,
            (Some(_), Window::Rolling(_)) => self.amount(table, "burst", unit)?,
            (Some(_), _) => {
                self.wrong(table, "burst", "applies to windows that are durations only; remove it");
                return None;
            }
        };
        let per = word(table, "per", &Per::WORDS)?;
        let shared = table.flag("shared");
        if shared && store.is_none() && !root.is_explained("store") {
            self.wrong(table, "shared", "needs a \"store\" section");
        }
        Some(Limit {
            name: table.text("name").unwrap_or_default().into(),
            unit,
            quota: Quota { amount, window, burst },
            per,
            routes: patterns(table, "routes"),
            models: patterns(table, "models"),
            owners: patterns(table, "owners"),
            on_exhausted: match table.text("on_exhausted") {
                Some("error") => OnExhausted::Error,
                Some("finish") => OnExhausted::Finish,
                _ => OnExhausted::Length,
            },
            warn_at: (table.share("warn_at") * 100.0).round() as u8,
            shared: store.filter(|_| shared).cloned(),
        })
    }

    /// Each route that a limit names must exist: a limit of none would limit nothing.
    fn known_routes(&mut self, root: &Table, table: &Table) {
        let routes: Vec<&str> =
            root.list("routes").iter().filter_map(|route| route.text("name")).collect();
        if routes.len() < root.list("routes").len() || root.is_explained("routes") {
            return;
        }
        for written in table.texts("routes") {
            let pattern = Pattern::new(written);
            if !routes.iter().any(|route| pattern.matches(route)) {
                self.unknown(table, "routes", written, &routes);
            }
        }
    }

    fn window(&mut self, table: &Table, unit: Unit) -> Option<Window> {
        let text = table.text("window").unwrap_or_default();
        if unit == Unit::Streams {
            return Some(Window::AtATime);
        }
        match text {
            "day" => return Some(Window::Day),
            "month" => return Some(Window::Month),
            _ => {}
        }
        match yaml::value::duration(text) {
            Ok(period) if (SHORTEST..=LONGEST).contains(&period) => {
                return Some(Window::Rolling(period));
            }
            Ok(_) => self.wrong(table, "window", "must be from 1s to 31d, or day, or month"),
            Err(_) => {
                self.wrong(table, "window", format!("{text:?} is not a window; write for example \"1m\", \"24h\", \"day\" or \"month\""))
            }
        }
        None
    }

    /// An amount in a limit's units.
    fn amount(&mut self, table: &Table, field: &str, unit: Unit) -> Option<u64> {
        let Some(number) = table.number(field) else {
            self.wrong(table, field, format!("is missing; set the number of {}", unit.name()));
            return None;
        };
        let units = if unit == Unit::Cost { number * DOLLAR as f64 } else { number };
        let whole = unit == Unit::Cost || number.fract() == 0.0;
        if !(1.0..=9e18).contains(&units) || !whole {
            self.wrong(
                table,
                field,
                if unit == Unit::Cost {
                    "must be from 0.000000000001 to 9000000 dollars"
                } else {
                    "must be a whole number, at least 1"
                },
            );
            return None;
        }
        Some(units as u64)
    }

    pub(super) fn prices(&mut self, root: &Table) -> Vec<Price> {
        let tables = root.list("prices");
        self.few(root, "prices", tables.len());
        let price = |table: &Table| {
            let of =
                |field| table.number(field).map(|dollars| (dollars * PER_MILLION).round() as u64);
            let (input, output) = (of("input").unwrap_or(0), of("output").unwrap_or(0));
            let models = patterns(table, "models");
            Price {
                models,
                input,
                cached_input: of("cached_input").unwrap_or(input),
                output,
                reasoning: of("reasoning").unwrap_or(output),
            }
        };
        tables.iter().map(price).collect()
    }

    pub(super) fn admission(&mut self, backend: &Table) -> Option<Admission> {
        let table = backend.table("admission")?;
        let admission = Admission {
            max_requests: table.count("max_requests"),
            max_tokens: table.count("max_tokens"),
            adaptive: table.flag("adaptive"),
            min_requests: table.count("min_requests"),
            queue: table.size("queue"),
            max_wait: table.duration("max_wait"),
            tenant: self.tenant(table),
        };
        if admission.adaptive && admission.max_requests < admission.min_requests {
            self.wrong(
                table,
                "max_requests",
                "must be at least min_requests when adaptive is true: it is the upper bound",
            );
        }
        if admission.max_requests == 0
            && admission.max_tokens == 0
            && !table.is_explained("max_tokens")
        {
            self.wrong(
                table,
                "max_requests",
                "is missing; set max_requests or max_tokens, or remove the section",
            );
        }
        Some(admission)
    }

    fn tenant(&mut self, table: &Table) -> TenantKey {
        let text = table.text("tenant").unwrap_or("owner");
        match (text, text.strip_prefix("header:").filter(|name| !name.is_empty())) {
            ("owner", _) => TenantKey::Owner,
            ("key", _) => TenantKey::Key,
            (_, Some(name)) => TenantKey::Header(name.to_ascii_lowercase()),
            _ => {
                let message = format!(
                    "{text:?} is not a tenant; write \"owner\", \"key\" or \"header:NAME\""
                );
                self.wrong(table, "tenant", message);
                TenantKey::Owner
            }
        }
    }

    fn few(&mut self, root: &Table, field: &str, written: usize) {
        if written > MAX_ENTRIES {
            self.wrong(
                root,
                field,
                format!("has {written} entries; at most {MAX_ENTRIES} are allowed"),
            );
        }
    }
}

fn word<T: Copy>(table: &Table, field: &str, words: &[(&str, T)]) -> Option<T> {
    let written = table.text(field)?;
    words.iter().find(|(word, _)| *word == written).map(|(_, meaning)| *meaning)
}

pub(crate) fn patterns(table: &Table, field: &str) -> Vec<Pattern> {
    table.texts(field).iter().map(|text| Pattern::new(text)).collect()
}
