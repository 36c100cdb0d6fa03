//! Stage 4: matches the route. The first route whose conditions all hold is used.

use std::sync::Arc;

use config::settings::{Pattern, Route};
use http1::head::{Head, RequestLine};
use http1::path::decode;

use crate::exchange::Exchange;
use crate::stage::{accept, models};
use plan::{Plan, PlannedRoute, origin};
use refusal::Refusal;

/// Find the route of an exchange.
pub fn select(exchange: &mut Exchange, head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    let model = exchange.inspected.facts.as_ref().and_then(|f| f.model.as_deref());
    let Some(route) = find(&exchange.plan, head, model).cloned() else {
        let who = exchange.credential.as_ref().map(|shown| &shown.who);
        let path = decode(accept::path(head.line.target));
        let known = models::usable(&exchange.plan, head, &[&path], who);
        let known: Vec<&str> = known.iter().map(|model| model.id.as_str()).collect();
        return Err(Refusal::no_route((head.line.method, &path), model, &known));
    };
    exchange.set_route(route);
    Ok(())
}

/// The first route that matches.
pub fn find<'p>(
    plan: &'p Plan,
    head: &Head<'_, RequestLine<'_>>,
    model: Option<&str>,
) -> Option<&'p Arc<PlannedRoute>> {
    plan.routes.iter().find(|r| matches(&r.route, head, model))
}

fn matches(route: &Route, head: &Head<'_, RequestLine<'_>>, model: Option<&str>) -> bool {
    route.path.as_ref().is_none_or(|pattern| matches_path(pattern, head))
        && matches_headers(route, head)
        && matches_model(route, model)
}

/// Whether the header conditions of a route hold.
pub(super) fn matches_headers(route: &Route, head: &Head<'_, RequestLine<'_>>) -> bool {
    route.headers.iter().all(|(name, want)| {
        head.get(name).is_some_and(|got| want.as_ref().is_none_or(|want| want.as_bytes() == got))
    })
}

/// Whether the model conditions of a route hold.
pub(super) fn matches_model(route: &Route, model: Option<&str>) -> bool {
    route.models.is_empty() || model.is_some_and(|m| route.models.iter().any(|p| p.matches(m)))
}

/// Check the request's `Host` against the hosts of the route.
pub fn check_host(route: &Route, head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    origin::has_host(route, head).then_some(()).ok_or_else(Refusal::wrong_host)
}

/// Whether a path matches, with or without a slash at its end: servers treat both alike. The
/// pattern is compared with the decoded path.
pub fn matches_path(pattern: &Pattern, head: &Head<'_, RequestLine<'_>>) -> bool {
    matches_decoded(pattern, &decode(accept::path(head.line.target)))
}

/// [`matches_path`] for a decoded path.
pub(super) fn matches_decoded(pattern: &Pattern, path: &str) -> bool {
    pattern.matches(path) || path.strip_suffix('/').is_some_and(|path| pattern.matches(path))
}
