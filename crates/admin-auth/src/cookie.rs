//! The cookie of a session.

use std::time::Duration;

use http::HeaderMap;
use http::header::COOKIE;

use crate::sessions::SessionId;

/// Name of the cookie.
pub(crate) const NAME: &str = "llm-lens-session";

/// The value of `Set-Cookie` for a new session. `is_secure`: the browser uses https.
pub fn session_cookie(id: &SessionId, max_age: Duration, is_secure: bool) -> String {
    field(id.reveal(), max_age, is_secure)
}

/// The value of `Set-Cookie` that removes the cookie.
pub fn removal(is_secure: bool) -> String {
    field("", Duration::ZERO, is_secure)
}

fn field(value: &str, max_age: Duration, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    let seconds = max_age.as_secs();
    format!("{NAME}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// Session ids in the cookies of a request. A server on another port of the same host may have set
/// one of the same name, so there can be several.
pub(crate) fn session_ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).map(str::trim);
    pairs.filter_map(|pair| pair.strip_prefix(NAME)?.strip_prefix('=')).take(MAX_IDS)
}

/// Maximum ids of a request that are looked up.
const MAX_IDS: usize = 4;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ids_are_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        for text in ["a=b; llm-lens-session=1", "llm-lens-session=2;llm-lens-sessions=3", "\u{e9}"]
        {
            headers.append(COOKIE, HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
        }
        assert_eq!(session_ids(&headers).collect::<Vec<_>>(), ["1", "2"]);
        let many = format!("{NAME}=x;").repeat(100);
        headers.insert(COOKIE, many.parse().expect("a value"));
        assert_eq!(session_ids(&headers).count(), MAX_IDS);
    }

    #[test]
    fn removal_expires_and_https_is_secure() {
        let removal = removal(true);
        assert!(removal.contains("llm-lens-session=; Path=/; Max-Age=0;"), "{removal}");
        assert!(removal.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{removal}");
        assert!(!super::removal(false).contains("Secure"));
    }
}
