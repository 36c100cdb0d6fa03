//! Decides about requests: by the token, or by the session of a cookie.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use config::settings::{AdminAuth, AdminRole, AdminToken};
use http::{HeaderMap, header};
use lens::Tick;
use lens::observe::Samples;
use subtle::ConstantTimeEq as _;

use crate::attempts::Attempts;
use crate::cookie::session_ids;
use crate::denial::Denial;
use crate::digest::Digest;
use crate::sessions::{SessionId, Sessions};

/// Sessions, failed attempts and counts of the admin listener.
#[derive(Debug, Default)]
pub struct Access {
    sessions: Sessions,
    attempts: Attempts,
    denials: [AtomicU64; Denial::NAMES.len()],
}

/// A request or stream is permitted, as long as [`Access::is_valid`].
#[derive(Clone, Debug)]
pub struct Grant {
    /// The name of the token.
    pub name: Arc<str>,
    /// Its role.
    pub role: AdminRole,
    /// The time until the session ends; `None`: the request has the token itself.
    pub session_left: Option<Duration>,
    credential: Credential,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Credential {
    Token(Digest),
    Session(Digest),
}

impl Access {
    /// Authenticate a request: by `Authorization: Bearer`, or by the session of its cookie.
    ///
    /// # Errors
    /// Why it is denied. The denial is counted.
    pub fn authenticate(
        &self,
        settings: &AdminAuth,
        headers: &HeaderMap,
        client: Option<IpAddr>,
        now: Tick,
    ) -> Result<Grant, Denial> {
        if let Some(token) = bearer(headers) {
            return self.check_token(settings, token, client, now);
        }
        session_ids(headers)
            .map(|id| Credential::Session(Digest::new(id.as_bytes())))
            .find_map(|credential| self.grant(settings, credential, now))
            .ok_or_else(|| self.deny(Denial::NoCredential))
    }

    /// Open a session for a token.
    ///
    /// # Errors
    /// Why it is denied. The denial is counted.
    pub fn sign_in(
        &self,
        settings: &AdminAuth,
        token: &str,
        client: Option<IpAddr>,
        now: Tick,
    ) -> Result<(SessionId, Grant), Denial> {
        self.check_token(settings, token.as_bytes(), client, now)?;
        let digest = Digest::new(token.as_bytes());
        let is_valid = |digest| find_token(settings, digest).is_some();
        let (id, key) = self.sessions.open(digest, now, settings.session, is_valid);
        let grant = self.grant(settings, Credential::Session(key), now);
        Ok((id, grant.expect("invariant: the session was opened with a valid token")))
    }

    /// End the session of a grant, if it has one.
    pub fn sign_out(&self, grant: &Grant) {
        if let Credential::Session(key) = grant.credential {
            self.sessions.close(key);
        }
    }

    /// Whether a grant still holds under the settings in force: its token exists with at least its
    /// role, and its session has not ended. Without authentication, every grant holds.
    pub fn is_valid(&self, settings: Option<&AdminAuth>, grant: &Grant, now: Tick) -> bool {
        let Some(settings) = settings else { return true };
        let current = self.grant(settings, grant.credential, now);
        current.is_some_and(|current| current.role >= grant.role)
    }

    /// Count a denial, and return it.
    pub fn deny(&self, denial: Denial) -> Denial {
        if let Some(count) = self.denials.get(denial.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        denial
    }

    /// Add the metrics; `settings` are those in force, if there are some.
    pub fn observe(&self, settings: Option<&AdminAuth>, now: Tick, samples: &mut Samples) {
        for (name, count) in Denial::NAMES.iter().zip(&self.denials) {
            let count = count.load(Ordering::Relaxed) as f64;
            samples.push_with("llm_lens_admin_denied_requests_total", ("reason", name), count);
        }
        let open = settings.map_or(0, |settings| self.sessions.count(now, settings.session));
        samples.push("llm_lens_admin_sessions", open as f64);
    }

    fn check_token(
        &self,
        settings: &AdminAuth,
        token: &[u8],
        client: Option<IpAddr>,
        now: Tick,
    ) -> Result<Grant, Denial> {
        if let Some(wait) = self.attempts.wait(client, now) {
            return Err(self.deny(Denial::TooManyAttempts { wait }));
        }
        let credential = Credential::Token(Digest::new(token));
        self.grant(settings, credential, now).ok_or_else(|| {
            let address = client.map(|client| client.to_string()).unwrap_or_default();
            if self.attempts.record_failure(client, now) {
                tracing::warn!(address, "admin listener: too many attempts with wrong tokens");
            } else {
                tracing::debug!(address, "admin listener: wrong token");
            }
            self.deny(Denial::WrongToken)
        })
    }

    fn grant(&self, settings: &AdminAuth, credential: Credential, now: Tick) -> Option<Grant> {
        let (digest, session_left) = match credential {
            Credential::Token(digest) => (digest, None),
            Credential::Session(key) => {
                let (digest, left) = self.sessions.find(key, now, settings.session)?;
                (digest, Some(left))
            }
        };
        let token = find_token(settings, digest)?;
        Some(Grant { name: token.name.as_str().into(), role: token.role, session_left, credential })
    }
}

/// The token with that hash. All tokens are compared, in constant time.
fn find_token(settings: &AdminAuth, digest: Digest) -> Option<&AdminToken> {
    settings.tokens.iter().fold(None, |found, token| {
        let own = Digest::new(token.token.reveal().as_bytes());
        if bool::from(own.ct_eq(&digest)) { Some(token) } else { found }
    })
}

/// The token in `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
}

const BEARER: &[u8] = b"bearer ";

#[cfg(test)]
mod tests;
