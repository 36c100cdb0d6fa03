//! URLs of servers in settings, and what is wrong with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base_url::{BaseUrl, UrlError};

/// Split the URL of an engine. As in the base URLs of clients, `/v1` may be at its end: requests
/// have it already.
pub(super) fn engine_url(url: &str) -> Result<BaseUrl, String> {
    let mut parts = split_url(url)?;
    if let Some(path) = parts.request_path() {
        return Err(format!(
            "{} ends with {path}, which is the path of a request; write {:?}",
            base_url::redact(url),
            parts.without(path)
        ));
    }
    if let Some(prefix) = parts.prefix.strip_suffix("/v1") {
        parts.prefix.truncate(prefix.len());
    }
    Ok(parts)
}

/// Split a URL, or return what is wrong with it.
pub(super) fn split_url(url: &str) -> Result<BaseUrl, String> {
    let shown = base_url::redact(url);
    let parts: BaseUrl = url.parse().map_err(|why| match why {
        UrlError::User => format!("{shown} {why}; give the key as api_key"),
        UrlError::Scheme | UrlError::Malformed | UrlError::NoHost => {
            match base_url::with_scheme(url) {
                Some(full) => format!("{shown} has no scheme; write {full:?}"),
                None => format!("{shown} {why}; write for example \"http://127.0.0.1:8000\""),
            }
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

/// Check the endpoint of a collector, which may be a host and a port for gRPC.
pub(super) fn check_otlp_url(endpoint: &str, is_grpc: bool) -> Result<(), String> {
    let with_scheme = base_url::with_scheme(endpoint).filter(|_| is_grpc);
    let full = with_scheme.unwrap_or_else(|| endpoint.to_owned());
    let parsed = full.parse::<BaseUrl>();
    parsed.map(drop).map_err(|why| {
        let example = "write for example \"http://127.0.0.1:4318\"";
        format!("{} {why}; {example}", base_url::redact(endpoint))
    })
}

/// Check the URL of a store. It may contain a password, so that errors do not contain it.
pub(super) fn check_store_url(url: &str) -> Result<(), &'static str> {
    if url.starts_with("rediss://") {
        return Err("asks for TLS, which is not supported; write redis://");
    }
    let rest = url.strip_prefix("redis://").ok_or("must begin with redis://")?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match host.find(']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    if host.is_empty() {
        return Err("has no host; write for example \"redis://127.0.0.1:6379\"");
    }
    if !is_host(host) {
        return Err("has an invalid host; write for example \"redis://127.0.0.1:6379\"");
    }
    let port = port.strip_prefix(':').map(base_url::parse_port);
    if port.is_some_and(|port| port.is_none()) {
        return Err("has an invalid port; ports go from 1 to 65535");
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    if !path.bytes().all(|b| b.is_ascii_digit())
        || (!path.is_empty() && path.parse::<u32>().is_err())
    {
        return Err(
            "has an invalid database; write its number, as in \"redis://127.0.0.1:6379/0\"",
        );
    }
    Ok(())
}

/// Whether a text is a name, or an address that is not the unspecified one. IPv6 addresses are in
/// brackets.
fn is_host(text: &str) -> bool {
    let is_given = |address: IpAddr| !address.is_unspecified();
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| is_given(address.into()));
    }
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<Ipv4Addr>().is_ok_and(|address| is_given(address.into()));
    }
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
