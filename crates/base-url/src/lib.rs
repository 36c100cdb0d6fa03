//! Base URLs of servers, in settings and command-line arguments.

use http::Uri;

mod bucket;
pub use bucket::{BucketUrl, BucketUrlError};

mod postgres;
pub use postgres::{PostgresUrl, PostgresUrlError};

/// A parsed base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// The host; an IPv6 address without brackets.
    pub host: String,
    /// The port. Default 80 for `http`, 443 for `https`.
    pub port: u16,
    /// Host and port as written, for the `Host` field.
    pub authority: String,
    /// The path without trailing slashes.
    pub prefix: String,
}

/// Why a text is not a base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The text does not parse as a URL.
    #[error("is not a URL")]
    Malformed,
    /// The scheme is neither `http` nor `https`.
    #[error("is neither http nor https")]
    Scheme,
    /// The port is not a number from 1 to 65535.
    #[error("has an invalid port; ports go from 1 to 65535")]
    Port,
    /// The URL has no host.
    #[error("has no host")]
    NoHost,
    /// The URL contains credentials.
    #[error("contains credentials")]
    User,
    /// The URL has a query.
    #[error("has a query, which is not supported")]
    Query,
}

/// The URL for error messages. A URL that may contain a secret (before `@` or after `?`) is
/// replaced by a placeholder.
pub fn redact(url: &str) -> String {
    if url.contains(['@', '?']) { "the URL".to_owned() } else { format!("{url:?}") }
}

/// A port: a number from 1 to 65535 without a sign.
pub fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

/// The URL with `http://` in front, if only its scheme is missing.
pub fn with_scheme(text: &str) -> Option<String> {
    let url = format!("http://{text}");
    (!text.contains("://") && url.parse::<BaseUrl>().is_ok()).then_some(url)
}

/// Paths of requests, which are no part of a base URL.
const REQUEST_PATHS: [&str; 11] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/models",
    "/chat/completions",
    "/completions",
    "/api/chat",
    "/api/generate",
    "/generate_stream",
];

impl BaseUrl {
    /// The path of a request at the end of the URL.
    pub fn request_path(&self) -> Option<&'static str> {
        REQUEST_PATHS.into_iter().find(|path| self.prefix.ends_with(path))
    }

    /// The URL without a path at its end.
    pub fn without(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let prefix = self.prefix.strip_suffix(path).unwrap_or(&self.prefix);
        format!("{scheme}://{}{prefix}", self.authority)
    }
}

impl std::str::FromStr for BaseUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::NoHost)?;
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        if uri.query().is_some() {
            return Err(UrlError::Query);
        }
        let after_host = authority.as_str().get(authority.host().len()..).unwrap_or_default();
        let port = match after_host.strip_prefix(':') {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => parse_port(port).ok_or(UrlError::Port)?,
        };
        Ok(BaseUrl {
            tls,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let url: BaseUrl = "https://[::1]/v1/".parse().expect("a URL");
        assert_eq!(
            (url.tls, &*url.host, url.port, &*url.authority, &*url.prefix),
            (true, "::1", 443, "[::1]", "/v1")
        );
        let url: BaseUrl = "http://engine:8000".parse().expect("a URL");
        assert_eq!(
            (url.tls, &*url.host, url.port, &*url.authority, &*url.prefix),
            (false, "engine", 8000, "engine:8000", "")
        );
    }

    #[test]
    fn urls_that_may_contain_secrets_are_redacted() {
        for url in [
            "http://me:secret@engine",
            "htps://me:secret@engine",
            "me:secret@engine:8000",
            "ftp://engine/?key=secret",
        ] {
            assert_eq!(redact(url), "the URL");
        }
        assert_eq!(redact("ftp://engine"), "\"ftp://engine\"");
    }

    #[test]
    fn paths_of_requests_and_missing_schemes_are_found() {
        let url: BaseUrl = "https://h:1/api/v1/chat/completions/".parse().expect("a URL");
        let path = url.request_path().expect("a path");
        assert_eq!((path, &*url.without(path)), ("/v1/chat/completions", "https://h:1/api"));
        let url: BaseUrl = "http://h/v1".parse().expect("a URL");
        assert_eq!(url.request_path(), None);
        assert_eq!(with_scheme("h:8000/v1").as_deref(), Some("http://h:8000/v1"));
        for text in ["", "/v1", "http://h", "me@h", "h?key=secret", "ftp:/h"] {
            assert_eq!(with_scheme(text), None, "{text}");
        }
    }

    #[test]
    fn invalid_base_urls_are_rejected_with_the_reason() {
        for (text, why) in [
            ("engine:8000", UrlError::Scheme),
            ("ftp://engine", UrlError::Scheme),
            ("/v1", UrlError::Scheme),
            ("http://me:secret@engine", UrlError::User),
            ("http://engine/?key=secret", UrlError::Query),
            ("http://engine:99999", UrlError::Port),
            ("http://engine:0", UrlError::Port),
            ("http://engine:", UrlError::Port),
            ("http://engine:+80", UrlError::Port),
            ("https://[::1]:65536/v1", UrlError::Port),
            ("http://", UrlError::Malformed),
            ("", UrlError::Malformed),
        ] {
            assert_eq!(text.parse::<BaseUrl>(), Err(why), "{text}");
        }
    }
}
