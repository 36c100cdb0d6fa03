//! Stage 4: matches the route. The first route whose conditions all hold is used.

use std::sync::Arc;

use config::settings::{Pattern, Route};
use wire::http1::head::{Head, RequestLine};
use wire::http1::path::decode;

use crate::exchange::Exchange;
use crate::respond::Refusal;
use crate::stage::accept;
use plan::{Plan, PlannedRoute};

/// Find the route of an exchange.
pub fn select(exchange: &mut Exchange, head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    let model = exchange.inspected.facts.as_ref().and_then(|f| f.model.as_deref());
    let route = find(&exchange.plan, head, model).ok_or_else(Refusal::no_route)?.clone();
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
    let path = route.path.as_ref().is_none_or(|pattern| matches_path(pattern, head));
    let headers = route.headers.iter().all(|(name, want)| {
        head.get(name).is_some_and(|got| want.as_ref().is_none_or(|want| want.as_bytes() == got))
    });
    let models =
        route.models.is_empty() || model.is_some_and(|m| route.models.iter().any(|p| p.matches(m)));
    path && headers && models
}

/// Whether a path matches, with or without a slash at its end: servers treat both alike. The
/// pattern is compared with the decoded path.
pub fn matches_path(pattern: &Pattern, head: &Head<'_, RequestLine<'_>>) -> bool {
    let path = decode(accept::path(head.line.target));
    pattern.matches(&path) || path.strip_suffix('/').is_some_and(|path| pattern.matches(path))
}
