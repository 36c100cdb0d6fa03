//! What is refused before an engine hears of it, where the route is strict.
//!
//! - *In*: the body and its facts; what the backend declares of itself.
//! - *Out*: a refusal in OpenAI's shape that names the member.
//! - *Never*: a change. A route that is transparent, as they are by default, passes on what it is given.

use wire::validate;

use crate::exchange::Exchange;
use crate::respond::Refusal;

/// Look at a body.
pub(crate) fn run(exchange: &Exchange, body: &[u8]) -> Result<(), Refusal> {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.route.strict) else { return Ok(()) };
    let (Some(dialect), Some(facts)) = (routed.dialect, &exchange.inspected.facts) else { return Ok(()) };
    validate::check(dialect, body).map_err(|invalid| Refusal::invalid(400, "invalid_value", invalid.param, format!("{invalid}.")))?;
    let backend = &routed.route.route.backend;
    let model = facts.model.as_deref().unwrap_or_default();
    if !backend.models.is_empty() && !backend.models.iter().any(|known| known == model) {
        let message = format!("The model does not exist here; there are: {}.", backend.models.join(", "));
        return Err(Refusal::invalid(404, "model_not_found", "model", message));
    }
    Ok(())
}

/// Whether prompt and answer fit into the model's context, as far as that is known.
pub(crate) fn fits(exchange: &Exchange) -> Result<(), Refusal> {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.route.strict) else { return Ok(()) };
    let asked = exchange.inspected.facts.as_ref().and_then(|facts| facts.max_tokens).unwrap_or(0);
    let context = routed.route.route.backend.context_length;
    // The estimate of a prompt may be too high by half; what is refused here would not fit by far.
    let least = if exchange.counted { exchange.expected.input } else { exchange.expected.input / 2 };
    if context > 0 && asked.saturating_add(least) > context {
        let message =
            format!("The model has a context of {context} tokens; the request asks for {asked} besides its prompt. Ask for fewer.");
        return Err(Refusal::invalid(400, "context_length_exceeded", "max_tokens", message));
    }
    Ok(())
}
