//! Whether a page of another site sent a request.
//!
//! - *In*: `Sec-Fetch-Site`, which browsers set and pages cannot; else `Origin` and `Host`.
//! - *Out*: whether the request must be refused. Programs send neither field.
//! - *Never*: trust in a page of another port, which is another origin.

use http::uri::Uri;
use http::{HeaderMap, HeaderName, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a page of another origin sent the request. `forwarded_host` is the host that a trusted
/// proxy states, if it replaces `Host`.
pub fn is_cross_site(headers: &HeaderMap, forwarded_host: Option<&str>) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let Some(origin) = origin.as_ref().and_then(Uri::authority) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let mut hosts = host.into_iter().chain(forwarded_host);
    !hosts.any(|host| origin.as_str().eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (origin, host, is_cross) in [
            (None, "127.0.0.1:9090", false),
            (Some("http://127.0.0.1:9090"), "127.0.0.1:9090", false),
            (Some("http://Localhost:9090"), "localhost:9090", false),
            (Some("http://localhost:3000"), "localhost:9090", true),
            (Some("https://evil.example"), "127.0.0.1:9090", true),
            (Some("null"), "127.0.0.1:9090", true),
            (Some(""), "127.0.0.1:9090", true),
        ] {
            let mut fields = headers(&[("host", host)]);
            if let Some(origin) = origin {
                fields.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(is_cross_site(&fields, None), is_cross, "{origin:?} {host}");
        }
    }

    #[test]
    fn the_browser_decides_where_it_states_the_site() {
        for (site, is_cross) in
            [("same-origin", false), ("none", false), ("same-site", true), ("cross-site", true)]
        {
            // A proxy may have removed the port from `Host`.
            let fields = [("host", "a"), ("origin", "https://a:8443"), ("sec-fetch-site", site)];
            assert_eq!(is_cross_site(&headers(&fields), None), is_cross, "{site}");
        }
    }

    #[test]
    fn a_proxy_may_state_the_host() {
        let fields = headers(&[("host", "10.0.0.1:9090"), ("origin", "https://lens.example")]);
        assert!(!is_cross_site(&fields, Some("lens.example")));
        assert!(is_cross_site(&fields, Some("evil.example")) && is_cross_site(&fields, None));
    }
}
