//! URLs of servers in settings, and what is wrong with them.

use wire::url::{self, BaseUrl, UrlError};

/// Split the URL of an engine. As in the base URLs of clients, `/v1` may be at its end: requests
/// have it already.
pub(super) fn engine_url(url: &str) -> Result<BaseUrl, String> {
    let mut parts = split_url(url)?;
    if let Some(prefix) = parts.prefix.strip_suffix("/v1") {
        parts.prefix.truncate(prefix.len());
    }
    Ok(parts)
}

/// Split a URL, or return what is wrong with it.
pub(super) fn split_url(url: &str) -> Result<BaseUrl, String> {
    let shown = url::redact(url);
    let parts: BaseUrl = url.parse().map_err(|why| match why {
        UrlError::User => format!("{shown} {why}; give the key as api_key"),
        UrlError::Scheme if !url.contains(['/', '@', '?']) => {
            format!("{shown} has no scheme; write \"http://{url}\"")
        }
        UrlError::Scheme | UrlError::Malformed | UrlError::NoHost => {
            format!("{shown} {why}; write for example \"http://127.0.0.1:8000\"")
        }
        why => format!("{shown} {why}"),
    })?;
    if crate::discovery::is_forbidden(&parts.host) {
        return Err(format!(
            "{shown} is a link-local or metadata address; the gateway does not connect to those"
        ));
    }
    Ok(parts)
}
