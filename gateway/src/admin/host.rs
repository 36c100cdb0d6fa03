//! The `Host` of admin requests.
//!
//! - *In*: the header fields of a request.
//! - *Out*: 421 unless each `Host` is an IP address, a loopback name, or listed in `admin.hosts`.
//! - *Never*: a page for another name. A web page could let its own name resolve to this listener
//!   (DNS rebinding) and read every answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pipeline::shared::Shared;

use super::params::ApiError;

/// Checks the `Host` of a request, and adds the security fields to its answer.
pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let refused = refused(request.headers(), &shared.plan.load().settings.admin.hosts);
    let mut answer = match refused {
        Some(host) => ApiError::wrong_host(&host).into_response(),
        None => next.run(request).await,
    };
    let no_sniff = HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    answer
}

/// The first `Host` that is not served. Browsers always send one; HTTP/1.0 probes may have none.
fn refused(headers: &HeaderMap, hosts: &[String]) -> Option<String> {
    let mut all = headers.get_all(header::HOST).iter();
    let refused = all.find(|host| !host.to_str().is_ok_and(|host| is_served(host, hosts)))?;
    Some(String::from_utf8_lossy(refused.as_bytes()).into_owned())
}

fn is_served(host: &str, hosts: &[String]) -> bool {
    let has_port =
        |(_, port): &(&str, &str)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let name = host.rsplit_once(':').filter(has_port).map_or(host, |(name, _)| name);
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_listed = |listed: &String| match listed.strip_prefix('*') {
        Some(domain) => name.len() > domain.len() && name.ends_with(domain),
        None => name == *listed,
    };
    name == "localhost" || name.ends_with(".localhost") || hosts.iter().any(is_listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_loopback_names_and_listed_names_are_served() {
        let hosts = ["lens.internal".to_owned(), "*.svc.cluster.local".to_owned()];
        for host in [
            "127.0.0.1:9090",
            "10.0.0.7",
            "[::1]:9090",
            "[::1]",
            "localhost",
            "LocalHost:9090",
            "lens.localhost:1",
            "lens.internal:9090",
            "Lens.Internal.",
            "lens.monitoring.svc.cluster.local:9090",
        ] {
            assert!(is_served(host, &hosts), "{host}");
        }
        for host in [
            "evil.example:9090",
            "evil.example",
            "",
            "localhost.evil.example",
            "evil-localhost",
            "127.0.0.1.evil.example",
            "x.lens.internal",
            ".svc.cluster.local",
            "svc.cluster.local",
            "lens.internal@evil.example",
            "lens.internal:x",
        ] {
            assert!(!is_served(host, &hosts), "{host}");
        }
    }

    #[test]
    fn each_of_several_hosts_must_be_served() {
        let mut headers = HeaderMap::new();
        assert_eq!(refused(&headers, &[]), None);
        headers.append(header::HOST, HeaderValue::from_static("127.0.0.1"));
        assert_eq!(refused(&headers, &[]), None);
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(refused(&headers, &[]).as_deref(), Some("evil.example"));
        let invalid = HeaderValue::from_bytes(b"caf\xe9").expect("a field value");
        let only = HeaderMap::from_iter([(header::HOST, invalid)]);
        assert!(refused(&only, &[]).is_some());
    }
}
