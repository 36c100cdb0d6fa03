//! Stage 4: what does the body ask for?
//!
//! A body that cannot be read is passed on as it is, for the engine to judge, unless somebody here must act on what it
//! says: then it is refused, because acting on a guess is a way around our own rules. Documents that are built to hurt a
//! parser are refused in any case.

use wire::RequestFacts;
use wire::request::Refused;

use crate::exchange::Exchange;
use crate::respond::Refusal;

/// Read the facts of the body into the exchange.
pub(crate) fn run(exchange: &mut Exchange, encoded: bool, body: &[u8]) -> Result<(), Refusal> {
    let must_read = exchange.plan.must_read;
    if encoded {
        if must_read {
            return Err(Refusal::new(
                415,
                "unsupported_encoding",
                "Compressed request bodies cannot be read here; send the body without Content-Encoding.",
            ));
        }
        return Ok(());
    }
    match RequestFacts::scan(body) {
        Ok(facts) => exchange.inspected.facts = Some(facts),
        Err(refused) if must_read || is_abuse(&refused) => return Err(Refusal::bad_body(&refused)),
        Err(_) => {}
    }
    Ok(())
}

fn is_abuse(refused: &Refused) -> bool {
    matches!(refused, Refused::Malformed(m) if matches!(m.why, "nested too deep" | "number too long"))
}
