//! Stage 6: what does the prompt hold that it should not?
//!
//! All texts of the request are looked at, whosever words they are: system and user, earlier answers, what tools returned, how tools
//! are described. Where findings are to be refused, a body that cannot be read is refused too: `inspect_input` sees to that.

use wire::json::Text;
use wire::request::Speaker;

use crate::exchange::Exchange;
use crate::guard::Guard;
use crate::respond::Refusal;

/// Look at the prompt, if the route has a guard.
pub(crate) fn run(exchange: &mut Exchange, body: &[u8]) -> Result<(), Refusal> {
    let Some(guard) = exchange.routed.as_ref().and_then(|routed| routed.route.guard.clone()) else { return Ok(()) };
    let texts = exchange.inspected.facts.as_ref().map_or(&[][..], |facts| &facts.texts);
    let mut refused = None;
    for text in texts {
        let raw = body.get(text.range.clone()).unwrap_or_default();
        let decoded = Text::of(raw, memchr::memchr(b'\\', raw).is_some()).decode();
        for (rule, kind, refuses) in guard.inspect(&decoded, matches!(text.speaker, Speaker::User | Speaker::Tool)) {
            *exchange.guarded.input.entry(rule.into()).or_default() += 1;
            if refuses {
                refused = refused.or(Some(kind));
            }
        }
    }
    refused.map_or(Ok(()), |kind| Err(refusal(&guard, kind)))
}

/// The client is told the kind of what was found, never the text.
fn refusal(guard: &Guard, kind: &str) -> Refusal {
    let message =
        format!("The request was refused by the guard {:?}: it holds {kind}. Remove it and send the request again.", guard.settings.name);
    Refusal::blocked(400, "content_blocked", message)
}
