//! Strict validation of requests, on routes with `validation: strict`.
//!
//! - *In*: the body and its facts; models and context length of the backends.
//! - *Out*: a refusal in OpenAI's shape that names the member.
//! - *Never*: a change of the body. Transparent routes, the default, are not checked.

use wire::validate;

use crate::exchange::Exchange;
use crate::respond::Refusal;

/// Characters of an unknown model name that an error repeats.
const MAX_SHOWN: usize = 64;

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
        let mut known: Vec<&str> =
            route.backends().flat_map(|backend| &backend.models).map(String::as_str).collect();
        known.sort_unstable();
        known.dedup();
        let shown: String = model.chars().take(MAX_SHOWN).collect();
        let message =
            format!("The model `{shown}` does not exist. Available models: {}.", known.join(", "));
        return Err(Refusal::invalid(404, "model_not_found", "model", message));
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
