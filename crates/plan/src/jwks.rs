//! Fetches the key sets of identity providers. `traffic::jwks` verifies tokens.
//!
//! - *In*: the issuers of the settings; files and servers that have their keys.
//! - *Out*: keys for `traffic::jwks::Jwks`.
//! - *Never*: an issuer that delays another.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use config::settings::{JwksSource, JwtSettings, Limits};
use futures_util::future::join_all;
use traffic::Identity;
use traffic::jwks::MIN_ON_DEMAND_INTERVAL;
use traffic::settings::Limit;
use transport::{BuildError, Upstream};

use crate::clock;
use crate::host::client;

/// All issuers, with the sources of their key sets.
#[derive(Debug)]
pub struct Jwks {
    settings: Vec<JwtSettings>,
    /// One for each of the settings.
    sources: Vec<Source>,
    keys: traffic::jwks::Jwks,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Server(Arc<Upstream>),
}

impl Jwks {
    /// The issuers. Key sets in files are read; those of servers are fetched later, and until then
    /// the ones that `before` has for the same issuers are used.
    ///
    /// # Errors
    /// [`BuildError`]: the URL of a server needs TLS files that are invalid.
    pub fn build(
        settings: &[JwtSettings],
        limits: Limits,
        before: Option<&Jwks>,
    ) -> Result<Self, BuildError> {
        let source = |settings: &JwtSettings| {
            if is_insecure(&settings.jwks) {
                tracing::warn!(
                    issuer = settings.issuer.issuer,
                    "auth.jwt[].jwks is fetched by http: an attacker on the network path could \
                     replace the keys; use https"
                );
            }
            Ok(match &settings.jwks {
                JwksSource::File(path) => Source::File(path.clone()),
                JwksSource::Server(backend) => {
                    Source::Server(Arc::new(Upstream::build(backend.clone(), limits, None)?))
                }
            })
        };
        let sources = settings.iter().map(source).collect::<Result<_, BuildError>>()?;
        let mut keys =
            traffic::jwks::Jwks::new(settings.iter().map(|settings| settings.issuer.clone()));
        if let Some(before) = before {
            keys = keys.after(&before.keys);
        }
        let jwks = Jwks { settings: settings.to_vec(), sources, keys };
        for (issuer, source) in jwks.sources.iter().enumerate() {
            if let Source::File(path) = source {
                jwks.store(issuer, std::fs::read(path).map_err(|error| error.to_string()));
            }
        }
        Ok(jwks)
    }

    /// Files without a key set, by the index of their issuer. A file that `before` names as well is
    /// not one of them: it may be in the middle of a replacement, and its keys stay.
    pub fn file_problems(settings: &[JwtSettings], before: Option<&Jwks>) -> Vec<(usize, String)> {
        let problem = |(at, settings): (usize, &JwtSettings)| {
            let JwksSource::File(path) = &settings.jwks else { return None };
            if before.is_some_and(|before| before.settings.contains(settings)) {
                return None;
            }
            // The settings were checked for files that cannot be read.
            let text = std::fs::read(path).ok()?;
            let error = traffic::jwks::check(&text).err()?;
            Some((at, format!("cannot use {}: {error}", path.display())))
        };
        settings.iter().enumerate().filter_map(problem).collect()
    }

    /// The first issuer whose keys have not been fetched yet.
    pub fn pending(&self) -> Option<&str> {
        self.keys.pending()
    }

    /// Whether the settings are unchanged, so that keys and tokens survive a reload.
    pub fn matches_settings(&self, settings: &[JwtSettings]) -> bool {
        self.settings == settings
    }

    /// Verify a token. Malformed ones are bad at once.
    pub fn authenticate(&self, token: &str, rates: &[Limit]) -> Identity {
        self.keys.authenticate(token, rates, clock::wall_us())
    }

    /// Fetch the key sets that are due, concurrently.
    pub async fn refresh(&self) {
        join_all(self.keys.due(clock::now()).into_iter().map(|issuer| self.refresh_one(issuer)))
            .await;
    }

    async fn refresh_one(&self, issuer: usize) {
        let Some(source) = self.sources.get(issuer) else { return };
        let fetched = source.fetch().await;
        self.store(issuer, fetched);
    }

    fn store(&self, issuer: usize, fetched: Result<Vec<u8>, String>) {
        let text = fetched.as_deref().ok();
        let taken = self.keys.store_keys(issuer, text, clock::now()).map_err(|e| e.to_string());
        if let Err(why) = fetched.map(drop).and(taken) {
            let settings = self.settings.get(issuer);
            tracing::error!(
                issuer = settings.map_or("", |settings| &settings.issuer.issuer),
                error = why,
                "fetching JWKS failed, keeping the keys fetched before, if any"
            );
        }
    }
}

/// Whether a key set comes from another host without TLS.
fn is_insecure(source: &JwksSource) -> bool {
    let JwksSource::Server(backend) = source else { return false };
    let host = backend.host.trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    backend.tls.is_none() && !is_local
}

impl Source {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        match self {
            Source::File(path) => tokio::fs::read(path).await.map_err(|e| e.to_string()),
            Source::Server(upstream) => {
                let reply =
                    tokio::time::timeout(MIN_ON_DEMAND_INTERVAL, client::get(upstream)).await;
                let reply = reply.map_err(|_| "timed out")?.map_err(|e| e.to_string())?;
                if reply.status == 200 {
                    Ok(reply.body.to_vec())
                } else {
                    Err(format!("HTTP status {}", reply.status))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(jwks: &std::path::Path, before: Option<&Jwks>) -> Jwks {
        let text = format!(
            "backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\n\
             auth: {{jwt: [{{issuer: 'https://id', audience: a, jwks: '{}'}}]}}\n",
            jwks.display()
        );
        let settings = config::parse("test", &text).unwrap_or_else(|why| panic!("{why}"));
        let jwt = settings.auth.map(|auth| auth.jwt).unwrap_or_default();
        Jwks::build(&jwt, settings.limits, before).expect("no certificate")
    }

    #[test]
    fn key_sets_in_files_are_there_at_once_and_stay_until_others_are() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("keys.json");
        std::fs::write(&file, r#"{"keys": []}"#).expect("writable");
        let jwks = of_file(&file, None);
        assert_eq!(jwks.pending(), None);
        let invalid = folder.path().join("invalid.json");
        std::fs::write(&invalid, "no keys").expect("writable");
        assert_eq!(of_file(&invalid, None).pending(), Some("https://id"));
        assert_eq!(of_file(&invalid, Some(&jwks)).pending(), None);
    }

    #[test]
    fn a_new_file_must_have_a_key_set() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("keys.json");
        std::fs::write(&file, r#"{"keys": []}"#).expect("writable");
        let jwks = of_file(&file, None);
        let problems = |before| Jwks::file_problems(&jwks.settings, before);
        assert_eq!(problems(None), []);
        std::fs::write(&file, "half a fi").expect("writable");
        let found = problems(None);
        assert!(
            matches!(&found[..], [(0, why)] if why.contains("keys.json: not a JSON Web Key Set")),
            "{found:?}"
        );
        assert_eq!(problems(Some(&jwks)), [], "it may be in the middle of a replacement");
    }

    #[test]
    fn key_sets_without_tls_from_other_hosts_are_insecure() {
        for (jwks, insecure) in [
            ("http://id.example/keys", true),
            ("http://10.0.0.1:8080/keys", true),
            ("https://id.example/keys", false),
            ("http://127.0.0.1:8080/keys", false),
            ("http://[::1]:8080/keys", false),
            ("http://localhost/keys", false),
            ("Cargo.toml", false),
        ] {
            let text = format!(
                "backends: [{{name: b, url: 'http://127.0.0.1:1'}}]\nroutes: [{{name: r, backend: b}}]\n\
                 auth: {{jwt: [{{issuer: 'https://id', audience: a, jwks: '{jwks}'}}]}}\n"
            );
            let settings = config::parse("test", &text).unwrap_or_else(|why| panic!("{why}"));
            let source = settings.auth.as_ref().map(|auth| &auth.jwt[0].jwks);
            assert_eq!(source.map(is_insecure), Some(insecure), "{jwks}");
        }
    }
}
