//! Classifies requests that the gateway does not parse, and refuses those it must not forward.
//!
//! A backend may hold the operator's key, and an engine has APIs that unload models, delete files
//! or return the answers of others. The gateway forwards such a request only if a route names its
//! path under `passthrough`, or if there is nothing to protect: no authentication, no key of a
//! backend, no guardrail and no limit that would have to read it.
//!
//! - *In*: method and path; the route and the caller.
//! - *Out*: a refusal, or nothing.
//! - *Never*: a decision by the body, which is not read.

use filters::settings::GuardrailSettings;
use http1::head::{Head, RequestLine};
use http1::path::decode;
use wire::Dialect;

use crate::exchange::{Exchange, Routed};
use crate::stage::{accept, guardrail_input, route};
use refusal::Refusal;

/// What a request that is not parsed may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// It reads public facts: models, health, versions, token counts.
    ReadOnly,
    /// It runs a model, over an API that the gateway does not parse.
    Inference,
    /// Anything else: management, files, stored answers, or unknown.
    Other,
}

/// Classify a request by its method and its decoded path.
pub fn classify(method: &str, path: &str) -> Endpoint {
    const READ: [&str; 21] = [
        "/",
        "/models",
        "/v1/models",
        "/v1beta/models",
        "/openai/models",
        "/openai/v1/models",
        "/v1beta/openai/models",
        "/health",
        "/healthz",
        "/health/live",
        "/health/liveness",
        "/health/liveliness",
        "/health/ready",
        "/health/readiness",
        "/api/tags",
        "/api/version",
        "/api/ps",
        "/ping",
        "/version",
        "/v1/version",
        "/info",
    ];
    const COUNT: [&str; 6] = [
        "/tokenize",
        "/detokenize",
        "/api/show",
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
        "/v1/tokenize",
    ];
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
    let is_model = |start: &&str| {
        path.strip_prefix(start).is_some_and(|name| !name.is_empty() && !name.contains('/'))
    };
    let reads = READ.contains(&path)
        || path.starts_with("/v1/models/")
        || ["/v1beta/models/", "/openai/v1/models/"].iter().any(is_model);
    let counts = COUNT.contains(&path) || path.ends_with(":countTokens");
    let infers = is_foreign_inference(path) || is_unparsed_inference(path);
    let is_known = || reads || counts || infers || Dialect::from_path(path).is_some();
    match method {
        "GET" | "HEAD" if reads => Endpoint::ReadOnly,
        "OPTIONS" if is_known() => Endpoint::ReadOnly,
        "POST" if counts => Endpoint::ReadOnly,
        "POST" if infers => Endpoint::Inference,
        _ => Endpoint::Other,
    }
}

/// Whether a path belongs to a chat API that the gateway does not parse: Gemini, Bedrock, Cohere,
/// Triton. Such requests pass through and are counted; their records have `not_parsed`.
pub fn is_foreign_inference(path: &str) -> bool {
    const ENDS: [&str; 8] = [
        ":embedContent",
        ":batchEmbedContents",
        ":generateContent",
        ":streamGenerateContent",
        "/converse",
        "/converse-stream",
        "/invoke",
        "/invoke-with-response-stream",
    ];
    ENDS.iter().any(|end| path.ends_with(end))
        || path == "/v2/chat"
        || (path.starts_with("/v2/models/") && path.ends_with("/infer"))
}

/// Whether a path belongs to another model API: images, audio, moderation, ranking, scores.
fn is_unparsed_inference(path: &str) -> bool {
    const ENDS: [&str; 6] = [
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/images/generations",
        "/images/edits",
        "/images/variations",
    ];
    const LAST: [&str; 12] = [
        "moderations",
        "rerank",
        "reranking",
        "rank",
        "score",
        "pooling",
        "classify",
        "embed",
        "embed_all",
        "embed_sparse",
        "infill",
        "predict",
    ];
    ENDS.iter().any(|end| path.ends_with(end))
        || path.rsplit('/').next().is_some_and(|last| LAST.contains(&last))
}

/// Refuse a request that is not parsed where forwarding it could do harm, or where its model,
/// tokens or permits must be counted.
pub fn check(exchange: &Exchange, head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    let Some(routed) = &exchange.routed else { return Ok(()) };
    let (method, path) = (head.line.method, &*decode(accept::path(head.line.target)));
    let endpoint = classify(method, path);
    let mut named = routed.route.route.passthrough.iter();
    let is_named = named.any(|pattern| route::matches_decoded(pattern, path));
    if endpoint == Endpoint::ReadOnly || is_named {
        return Ok(());
    }
    let why_counted = why_counted(exchange, routed);
    let counts = why_counted.is_some();
    let guardrail = exchange.guardrail().filter(|guardrail| guardrail_input::acts(guardrail));
    let is_exempt = guardrail.as_ref().is_some_and(|built| is_exempt(&built.settings, path));
    let protects = exchange.plan.settings.auth.is_some() || has_backend_key(routed);
    match endpoint {
        Endpoint::Inference => match why_counted {
            Some(why) => Err(Refusal::uncountable_endpoint(why)),
            None => Ok(()),
        },
        Endpoint::Other if is_exempt && !counts => Ok(()),
        Endpoint::Other if counts || guardrail.is_some() || protects => {
            let path = &exchange.accepted.endpoint;
            Err(match Dialect::from_path(path) {
                Some(_) => Refusal::wrong_method(method, path),
                None => Refusal::unknown_endpoint(method, path),
            })
        }
        _ => Ok(()),
    }
}

/// Whether a guardrail exempts a decoded path.
pub fn is_exempt(guardrail: &GuardrailSettings, path: &str) -> bool {
    guardrail.passthrough.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    })
}

/// Why a request must be parsed: the caller's key, limits or a queue depend on its model or tokens.
fn why_counted(exchange: &Exchange, routed: &Routed) -> Option<&'static str> {
    let mut upstreams = routed.route.pools.iter().flat_map(|pool| &pool.upstreams);
    if exchange.caller.as_ref().is_some_and(|caller| !caller.models.is_empty()) {
        Some(
            "This API key permits certain models only, and the gateway cannot read the model of \
             requests to this API.",
        )
    } else if routed.route.counts_tokens || routed.route.counts_models {
        Some("The limits of this route cannot count requests to this API.")
    } else if upstreams.any(|upstream| upstream.queue.is_some()) {
        Some("The queue of this route's backends cannot count requests to this API.")
    } else {
        None
    }
}

/// Whether a backend of the route gets a key of the operator.
fn has_backend_key(routed: &Routed) -> bool {
    let mut upstreams = routed.route.pools.iter().flat_map(|pool| &pool.upstreams);
    upstreams.any(|upstream| upstream.backend.api_key.is_some())
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, classify};

    #[test]
    fn requests_are_classified_by_method_and_path() {
        for (method, path, endpoint) in [
            ("GET", "/v1/models", Endpoint::ReadOnly),
            ("GET", "/v1/models/", Endpoint::ReadOnly),
            ("GET", "/v1/models/org%2Fname", Endpoint::ReadOnly),
            ("HEAD", "/health", Endpoint::ReadOnly),
            ("POST", "/v1/messages/count_tokens", Endpoint::ReadOnly),
            ("POST", "/v1/rerank", Endpoint::Inference),
            ("POST", "/v1/audio/speech", Endpoint::Inference),
            ("POST", "/v1beta/models/gemini:generateContent", Endpoint::Inference),
            ("DELETE", "/v1/models/ft:x", Endpoint::Other),
            ("DELETE", "/v1/files/x", Endpoint::Other),
            ("POST", "/v1/models", Endpoint::Other),
            ("OPTIONS", "/v1/models", Endpoint::ReadOnly),
            ("OPTIONS", "/v1/chat/completions", Endpoint::ReadOnly),
            ("OPTIONS", "/v1/audio/speech", Endpoint::ReadOnly),
            ("OPTIONS", "/key/generate", Endpoint::Other),
            ("OPTIONS", "/v1/files/x", Endpoint::Other),
            ("OPTIONS", "*", Endpoint::Other),
            ("POST", "/v1/fine_tuning/jobs", Endpoint::Other),
            ("POST", "/v1/load_lora_adapter", Endpoint::Other),
            ("POST", "/sleep", Endpoint::Other),
            ("POST", "/reset_prefix_cache", Endpoint::Other),
            ("DELETE", "/api/delete", Endpoint::Other),
            ("POST", "/api/pull", Endpoint::Other),
            ("POST", "/slots/0", Endpoint::Other),
            ("GET", "/slots", Endpoint::Other),
            ("GET", "/health/history", Endpoint::Other),
            ("GET", "/v1beta/models/m/operations/o", Endpoint::Other),
            ("GET", "/openai/v1/models", Endpoint::ReadOnly),
            ("POST", "/v1/audio/voices", Endpoint::Other),
            ("POST", "/openai/deployments/d/images/generations", Endpoint::Inference),
            ("POST", "/key/generate", Endpoint::Other),
            ("POST", "/v1/threads/t/messages", Endpoint::Other),
            ("GET", "/metrics", Endpoint::Other),
            ("GET", "/v1/responses/r1", Endpoint::Other),
            ("GET", "/v1/organization/admin_api_keys", Endpoint::Other),
        ] {
            assert_eq!(classify(method, path), endpoint, "{method} {path}");
        }
    }
}
