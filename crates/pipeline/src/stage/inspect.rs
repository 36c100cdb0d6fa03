//! Stage 3: reads and inspects the body.
//!
//! An invalid body is forwarded for the engine to reject, unless a stage must act on its content.
//! Then it is refused, because acting on a guess would bypass the rules. Bodies that attack a
//! parser are always refused.

use std::borrow::Cow;

use http1::head::{Head, RequestLine};
use http1::path::decode;
use wire::request::Refused;
use wire::{Dialect, RequestFacts};

use crate::exchange::Exchange;
use crate::stage::accept;
use refusal::Refusal;

/// Parse the body, and store its facts in the exchange. For an invalid body, return the refusal,
/// and fail at once if routes match by model or if the body attacks the parser.
pub fn read_body(
    exchange: &mut Exchange,
    head: &Head<'_, RequestLine<'_>>,
    encoded: bool,
    body: &[u8],
) -> Result<Option<Refusal>, Refusal> {
    let unreadable = if encoded {
        let message = "Compressed request bodies are not supported on this route. Send the body without Content-Encoding.";
        Some(Refusal::new(415, "unsupported_encoding", message))
    } else {
        match RequestFacts::scan(body) {
            Ok(mut facts) => {
                // Servers with a model in the path ignore the one in the body.
                if let Some(named) = model_in_path(head) {
                    facts.model = Some(named.into_owned());
                }
                exchange.inspected.facts = Some(facts);
                None
            }
            Err(refused) if is_abuse(&refused) => return Err(Refusal::bad_body(&refused)),
            Err(refused) => Some(Refusal::bad_body(&refused)),
        }
    };
    match unreadable {
        Some(refusal) if exchange.plan.routes_by_model => Err(refusal),
        unreadable => Ok(unreadable),
    }
}

/// The model that the path names.
pub fn model_in_path<'h>(head: &Head<'h, RequestLine<'h>>) -> Option<Cow<'h, str>> {
    let path = accept::path(head.line.target);
    path.get(Dialect::model_in_path(path)?).map(decode)
}

fn is_abuse(refused: &Refused) -> bool {
    matches!(refused, Refused::Malformed(m) if matches!(m.why, "nested too deep" | "number too long"))
}
