//! Answers `GET /v1/models`, its aliases, `GET /v1/models/ID` and Ollama's `GET /api/tags` where
//! the routes of the gateway decide which models there are.
//!
//! A request that lists models names no model, so that it would match no route by model, and one
//! backend's list would stand for all. If one route without models serves everything, its backend
//! answers instead, and the list is forwarded unchanged.
//!
//! - *In*: the head, the credential, the routes.
//! - *Out*: the models that the caller can use with this API, in its format: OpenAI's, Anthropic's
//!   or Ollama's.
//! - *Never*: a model of a route that the caller may not use.

use std::collections::BTreeSet;
use std::sync::Arc;

use http1::head::{Head, RequestLine};
use http1::path::decode;
use lens::record::rfc3339;
use plan::{Plan, PlannedRoute, models, origin};
use serde_json::{Value, json};
use transport::ListedModel;
use wire::ErrorFormat;

use crate::exchange::{CredentialCheck, Exchange, ShownCredential};
use crate::stage::{accept, authenticate, route};
use refusal::Refusal;

/// Inference paths that clients of OpenAI and compatible engines use, of Anthropic's, and of
/// Ollama's.
const OPENAI: [&str; 4] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];
const ANTHROPIC: [&str; 1] = ["/v1/messages"];
const OLLAMA: [&str; 2] = ["/api/chat", "/api/generate"];

/// Path of Ollama's list.
const TAGS: &str = "/api/tags";
/// Paths of the list that have no inference path of their own: llama.cpp serves `/models`, and base
/// URLs may end in `/openai/v1`.
const ALIASES: [&str; 2] = ["/models", "/openai/v1/models"];

/// Whether the gateway answers the request itself.
pub fn is_answered_here(
    plan: &Plan,
    head: &Head<'_, RequestLine<'_>>,
    shown: Option<&ShownCredential>,
) -> bool {
    if !matches!(head.line.method, "GET" | "HEAD") {
        return false;
    }
    let path = decode(accept::path(head.line.target));
    if wanted(&path).is_none() || is_forwarded(plan, head, &path) {
        return false;
    }
    let is_restricted = || {
        let caller = shown.and_then(|shown| match &shown.who {
            CredentialCheck::Known(caller) => Some(caller),
            _ => None,
        });
        caller.is_some_and(|caller| !caller.models.is_empty())
    };
    match &*routes(plan, head, paths(head, &path)) {
        [] => false,
        [route] => names_models(route) || is_restricted(),
        _ => true,
    }
}

/// The body of the answer.
pub async fn list(
    exchange: &mut Exchange,
    head: &Head<'_, RequestLine<'_>>,
    shown: Option<ShownCredential>,
) -> Result<String, Refusal> {
    accept::check(head)?;
    authenticate::admit(exchange, shown)?;
    let plan = exchange.plan.clone();
    let who = exchange.credential.take().map(|shown| shown.who);
    let path = decode(accept::path(head.line.target));
    let paths = paths(head, &path);
    let routes = routes(&plan, head, paths);
    let permitted = permitted(&plan, head, &routes, who.as_ref())?;
    exchange.cors = permitted.iter().find_map(|route| origin::fields(&route.route, head));
    models::refresh(permitted).await;
    let usable = usable(&plan, head, paths, who.as_ref());
    let format = exchange.accepted.errors;
    let object = |model: &ListedModel| match format {
        ErrorFormat::Anthropic => anthropic_object(model),
        ErrorFormat::Ollama => ollama_object(model),
        _ => openai_object(model),
    };
    let body = match wanted(&path).unwrap_or_default() {
        "" if format == ErrorFormat::Ollama => {
            json!({"models": usable.iter().map(object).collect::<Vec<_>>()})
        }
        "" if format == ErrorFormat::Anthropic => {
            let id = |model: Option<&ListedModel>| model.map(|model| model.id.clone());
            json!({"data": usable.iter().map(object).collect::<Vec<_>>(), "has_more": false,
                "first_id": id(usable.first()), "last_id": id(usable.last())})
        }
        "" => json!({"object": "list", "data": usable.iter().map(object).collect::<Vec<_>>()}),
        name => match usable.iter().find(|model| model.id == name) {
            Some(model) => object(model),
            None => {
                let known: Vec<&str> = usable.iter().map(|model| model.id.as_str()).collect();
                return Err(Refusal::no_model(name, &known));
            }
        },
    };
    Ok(body.to_string())
}

/// The models that a caller can use on these paths, in the order of the routes: each belongs to the
/// first route that takes it.
pub fn usable(
    plan: &Plan,
    head: &Head<'_, RequestLine<'_>>,
    paths: &[&str],
    who: Option<&CredentialCheck>,
) -> Vec<ListedModel> {
    let mut seen = BTreeSet::new();
    let mut usable = Vec::new();
    for route in plan.routes.iter().filter(|route| route::matches_headers(&route.route, head)) {
        let caller = match who.map(|who| authenticate::caller_on(plan, who, &route.route)) {
            None => None,
            Some(Ok(caller)) => caller,
            Some(Err(_)) => continue,
        };
        if !origin::has_host(&route.route, head) {
            continue;
        }
        let takes = |model: &str| {
            let first = |path: &&str| {
                let takes = |other: &&Arc<PlannedRoute>| takes(other, head, path, Some(model));
                plan.routes.iter().find(takes)
            };
            paths.iter().filter_map(first).any(|first| Arc::ptr_eq(first, route))
        };
        for model in models::offered(route) {
            let may_use = caller.as_ref().is_none_or(|caller| caller.may_use_model(&model.id));
            if may_use && !seen.contains(&model.id) && takes(&model.id) {
                seen.insert(model.id.clone());
                usable.push(model);
            }
        }
    }
    usable
}

/// The routes that requests with this head can reach, by the model that they name.
fn routes<'p>(
    plan: &'p Plan,
    head: &Head<'_, RequestLine<'_>>,
    paths: &[&str],
) -> Vec<&'p Arc<PlannedRoute>> {
    let mut open: Vec<&str> = paths.to_vec();
    let mut routes = Vec::new();
    for route in plan.routes.iter().filter(|route| route::matches_headers(&route.route, head)) {
        let of = |path: &&str| takes_path(route, path);
        if open.iter().any(of) {
            routes.push(route);
        }
        // Later routes get nothing of these paths.
        if route.route.models.is_empty() {
            open.retain(|path| !of(path));
        }
    }
    routes
}

/// Those of the routes that the caller may use; the first refusal, if there are none.
fn permitted<'p>(
    plan: &Plan,
    head: &Head<'_, RequestLine<'_>>,
    routes: &[&'p Arc<PlannedRoute>],
    who: Option<&CredentialCheck>,
) -> Result<Vec<&'p Arc<PlannedRoute>>, Refusal> {
    let mut first = None;
    let mut permitted = Vec::new();
    for route in routes {
        let checked = route::check_host(&route.route, head).and_then(|()| match who {
            Some(who) => authenticate::caller_on(plan, who, &route.route).map(drop),
            None => Ok(()),
        });
        match checked {
            Ok(()) => permitted.push(*route),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    match first {
        Some(refusal) if permitted.is_empty() => Err(refusal),
        _ => Ok(permitted),
    }
}

/// Whether a route names the path itself, so that the request is forwarded.
fn is_forwarded(plan: &Plan, head: &Head<'_, RequestLine<'_>>, path: &str) -> bool {
    route::find(plan, head, None).is_some_and(|route| {
        let is_own = route.route.path.is_some()
            && !OPENAI.iter().chain(&ANTHROPIC).chain(&OLLAMA).any(|path| takes_path(route, path));
        let mut named = route.route.passthrough.iter();
        is_own || named.any(|pattern| route::matches_decoded(pattern, path))
    })
}

/// Whether the settings of a route name models.
fn names_models(route: &PlannedRoute) -> bool {
    !route.route.models.is_empty()
        || route.pools.iter().any(|pool| {
            pool.model.is_some()
                || pool.upstreams.iter().any(|upstream| !upstream.backend.models.is_empty())
        })
}

fn takes(
    route: &PlannedRoute,
    head: &Head<'_, RequestLine<'_>>,
    path: &str,
    model: Option<&str>,
) -> bool {
    takes_path(route, path)
        && route::matches_headers(&route.route, head)
        && route::matches_model(&route.route, model)
}

fn takes_path(route: &PlannedRoute, path: &str) -> bool {
    route.route.path.as_ref().is_none_or(|pattern| route::matches_decoded(pattern, path))
}

/// The inference paths of the client's API.
fn paths(head: &Head<'_, RequestLine<'_>>, path: &str) -> &'static [&'static str] {
    match ErrorFormat::from_path(path) {
        ErrorFormat::Ollama => &OLLAMA,
        _ if head.get("anthropic-version").is_some() => &ANTHROPIC,
        _ => &OPENAI,
    }
}

/// The model that a path names; empty: all.
fn wanted(path: &str) -> Option<&str> {
    let listed = path.strip_suffix('/').unwrap_or(path);
    if listed == TAGS || ALIASES.contains(&listed) {
        return Some("");
    }
    let rest = path.strip_prefix("/v1/models")?;
    match rest.strip_suffix('/').unwrap_or(rest) {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

fn openai_object(model: &ListedModel) -> Value {
    let owner = if model.owned_by.is_empty() { "llm-lens" } else { &model.owned_by };
    let mut object = json!({"id": model.id, "object": "model", "created": model.created,
        "owned_by": owner});
    if let Some(length) = model.context_length {
        object["max_model_len"] = length.into();
    }
    object
}

/// Anthropic names the epoch for an unknown time.
fn anthropic_object(model: &ListedModel) -> Value {
    json!({"type": "model", "id": model.id, "display_name": model.id,
        "created_at": "1970-01-01T00:00:00Z"})
}

/// Ollama names the time in RFC 3339; its clients require one.
fn ollama_object(model: &ListedModel) -> Value {
    let micros = model.created.saturating_mul(1_000_000);
    let modified = rfc3339::serialize(&micros, serde_json::value::Serializer)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".into());
    json!({"name": model.id, "model": model.id, "modified_at": modified})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_model_or_all() {
        for (path, want) in [
            ("/v1/models", Some("")),
            ("/v1/models/", Some("")),
            ("/v1/models/org/name", Some("org/name")),
            ("/v1/modelsx", None),
            ("/models", Some("")),
            ("/models/x", None),
            ("/openai/v1/models/", Some("")),
            ("/openai/v1/models/x", None),
            ("/api/tags", Some("")),
            ("/api/tags/x", None),
        ] {
            assert_eq!(wanted(path), want, "{path}");
        }
    }
}
