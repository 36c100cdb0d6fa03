//! The `Host` of admin requests.
//!
//! - *In*: the header fields of a request, and a host in its target.
//! - *Out*: 421 unless each of these hosts is an IP address, a loopback name, or listed in
//!   `admin.hosts`.
//! - *Never*: a page for another name. A web page could let its own name resolve to this listener
//!   (DNS rebinding) and read every answer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pipeline::shared::Shared;

use admin_auth::is_served;
use pages::ApiError;

/// Checks the `Host` of a request, and adds the security fields to its answer.
pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let refused = refused(&request, &shared.plan.load().settings.admin.hosts);
    let mut answer = match refused {
        Some(host) => ApiError::wrong_host(&host).into_response(),
        None => next.run(request).await,
    };
    let no_sniff = HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    answer
}

/// The first host that is not served: in an absolute-form target, which replaces `Host` (RFC 9112,
/// section 3.2.2), or in `Host`. Browsers always send one; HTTP/1.0 probes may have none.
fn refused<B>(request: &axum::http::Request<B>, hosts: &[String]) -> Option<String> {
    let target = request.uri().authority().map(Authority::as_str);
    if let Some(host) = target.filter(|host| !is_served(host, hosts)) {
        return Some(host.to_owned());
    }
    let mut all = request.headers().get_all(header::HOST).iter();
    let refused = all.find(|host| !host.to_str().is_ok_and(|host| is_served(host, hosts)))?;
    Some(String::from_utf8_lossy(refused.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_hosts_must_be_served() {
        let refused_by = |target: &str, named: &[&[u8]]| {
            let mut request = axum::http::Request::new(());
            *request.uri_mut() = target.parse().expect("a target");
            for host in named {
                let value = HeaderValue::from_bytes(host).expect("a field value");
                request.headers_mut().append(header::HOST, value);
            }
            refused(&request, &[])
        };
        assert_eq!(refused_by("/", &[]), None);
        assert_eq!(refused_by("/", &[b"127.0.0.1"]), None);
        let second = refused_by("/", &[b"127.0.0.1", b"evil.example"]);
        assert_eq!(second.as_deref(), Some("evil.example"));
        assert!(refused_by("/", &[b"caf\xe9"]).is_some());
        assert_eq!(refused_by("http://127.0.0.1:9/", &[b"127.0.0.1"]), None);
        let target = refused_by("http://evil.example/api/settings", &[b"127.0.0.1"]);
        assert_eq!(target.as_deref(), Some("evil.example"));
    }
}
