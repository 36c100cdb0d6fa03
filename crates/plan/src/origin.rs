//! Checks `Host`, and answers CORS.
//!
//! - *In*: `Host`, `Origin`; the route.
//! - *Out*: whether the route serves the host; the fields that let a browser show the answer to
//!   the page (the Fetch standard's CORS protocol).
//! - *Never*: `access-control-allow-origin: *`, or credentials of the browser: pages send keys
//!   themselves.

use std::sync::Arc;

use config::settings::{Pattern, Route};
use http1::head::{Head, RequestLine};

use crate::{Plan, PlannedRoute};

/// How long browsers cache a preflight, in seconds.
const REMEMBER: u32 = 600;

/// Whether the request's `Host` is one of the route's.
pub fn has_host(route: &Route, head: &Head<'_, RequestLine<'_>>) -> bool {
    let named =
        head.get("host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
    // The port is not part of the name; an IPv6 address has colons of its own.
    let name = if named.ends_with(']') {
        named
    } else {
        named.rsplit_once(':').map_or(named, |(name, _)| name)
    };
    let fits = |host: &String| match host.strip_prefix("*.") {
        Some(domain) => {
            name.len() > domain.len() + 1
                && name.to_ascii_lowercase().ends_with(&format!(".{domain}"))
        }
        None => host.eq_ignore_ascii_case(name),
    };
    route.hosts.is_empty() || route.hosts.iter().any(fits)
}

/// CORS fields of an answer, if the route allows the request's origin.
pub fn fields(route: &Route, head: &Head<'_, RequestLine<'_>>) -> Option<String> {
    let origin = origin(head).filter(|origin| allows(route, origin))?;
    Some(format!(
        "access-control-allow-origin: {origin}\r\naccess-control-expose-headers: x-request-id, retry-after, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens\r\nvary: origin\r\n"
    ))
}

/// The answer to a CORS preflight: the route and the fields. A preflight has neither the headers
/// nor the body of the request, so the path alone decides; `matches` compares it with a pattern.
pub fn preflight(
    plan: &Plan,
    head: &Head<'_, RequestLine<'_>>,
    matches: impl Fn(&Pattern) -> bool,
) -> Option<(Arc<PlannedRoute>, String)> {
    let asked = head.get("access-control-request-method")?;
    let origin = origin(head)?;
    let fits = |route: &Route| {
        route.path.as_ref().is_none_or(&matches) && allows(route, origin) && has_host(route, head)
    };
    let route =
        plan.routes.iter().find(|route| head.line.method == "OPTIONS" && fits(&route.route))?;
    let method = std::str::from_utf8(asked)
        .ok()
        .filter(|method| method.bytes().all(|b| b.is_ascii_alphabetic()))?;
    let wanted = head
        .get("access-control-request-headers")
        .and_then(|names| std::str::from_utf8(names).ok());
    let names = wanted.filter(|names| {
        names.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b',' | b' ' | b'_'))
    });
    let fields = format!(
        "access-control-allow-origin: {origin}\r\naccess-control-allow-methods: {method}\r\naccess-control-allow-headers: {}\r\naccess-control-max-age: {REMEMBER}\r\nvary: origin\r\n",
        names.unwrap_or("authorization, content-type"),
    );
    Some((route.clone(), fields))
}

fn origin<'h>(head: &Head<'h, RequestLine<'h>>) -> Option<&'h str> {
    let origin = std::str::from_utf8(head.get("origin")?).ok()?;
    (origin.len() <= 256 && origin.bytes().all(|b| b.is_ascii_graphic())).then_some(origin)
}

fn allows(route: &Route, origin: &str) -> bool {
    route.cors.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}
