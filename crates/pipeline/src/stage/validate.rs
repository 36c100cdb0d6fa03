//! Strict validation of requests, on routes with `validation: strict`.
//!
//! - *In*: the body and its facts; models and context length of the backends.
//! - *Out*: a refusal in OpenAI's shape that names the member.
//! - *Never*: a change of the body. Transparent routes, the default, are not checked.

use wire::{json, validate};

use crate::exchange::Exchange;
use refusal::Refusal;

/// Refuse a body that is not valid JSON, where it is validated or a guardrail reads it: an engine
/// with a lenient parser would read another text than the gateway.
pub fn check_json(exchange: &Exchange, body: &[u8]) -> Result<(), Refusal> {
    let is_checked = exchange.routed.as_ref().is_some_and(|routed| {
        routed.route.route.strict
            || routed.route.guardrail.as_ref().is_some_and(|built| built.needs_valid_requests())
    });
    // A body that the gateway cannot parse at all is refused elsewhere.
    if !is_checked || exchange.inspected.facts.is_none() {
        return Ok(());
    }
    json::strict::check(body).map_err(|malformed| {
        let message = format!("The request body is not valid JSON: {malformed}.");
        Refusal::new(400, "invalid_json", message)
    })
}

/// Check the values of a body, and its model name.
pub fn check(exchange: &Exchange, body: &[u8]) -> Result<(), Refusal> {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.route.strict) else {
        return Ok(());
    };
    let (Some(dialect), Some(facts)) = (routed.dialect, &exchange.inspected.facts) else {
        return Ok(());
    };
    validate::check(dialect, body).map_err(|invalid| {
        Refusal::invalid(400, "invalid_value", invalid.param, format!("{invalid}."))
    })?;
    let model = facts.model.as_deref().unwrap_or_default();
    let route = &routed.route.route;
    // A pool that sets the model name accepts any name from the client.
    let names_any = route.backends().any(|backend| backend.models.is_empty())
        || route.pools.iter().any(|pool| pool.model.is_some());
    if !names_any
        && !route.backends().any(|backend| backend.models.iter().any(|known| known == model))
    {
        let may_use =
            |known: &str| exchange.caller.as_ref().is_none_or(|caller| caller.may_use_model(known));
        let mut known: Vec<&str> = route
            .backends()
            .flat_map(|backend| &backend.models)
            .map(String::as_str)
            .filter(|known| may_use(known))
            .collect();
        known.sort_unstable();
        known.dedup();
        return Err(Refusal::no_model(model, &known));
    }
    Ok(())
}

/// Whether prompt and answer fit into the model's context, as far as that is known.
pub fn fits(exchange: &Exchange) -> Result<(), Refusal> {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.route.strict) else {
        return Ok(());
    };
    let asked = exchange.inspected.facts.as_ref().and_then(|facts| facts.max_tokens).unwrap_or(0);
    // A backend without a declared context length accepts any.
    let contexts = || routed.route.route.backends().map(|backend| backend.context_length);
    let context =
        if contexts().any(|context| context == 0) { 0 } else { contexts().max().unwrap_or(0) };
    // The estimate of a prompt may be too high by half; a request is refused only if it is far too
    // long.
    let least =
        if exchange.prompt_counted { exchange.expected.input } else { exchange.expected.input / 2 };
    if context > 0 && asked.saturating_add(least) > context {
        let counted = if exchange.prompt_counted { "" } else { "about " };
        let prompt = exchange.expected.input;
        let message = match asked {
            0 => format!(
                "The prompt has {counted}{prompt} tokens, and the model has a context of {context}."
            ),
            _ => format!(
                "The prompt has {counted}{prompt} tokens and the request asks for {asked} more; the model has a context of {context}."
            ),
        };
        let param = if least > context { "messages" } else { "max_tokens" };
        return Err(Refusal::invalid(400, "context_length_exceeded", param, message));
    }
    Ok(())
}
