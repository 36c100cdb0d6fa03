//! Stage 7: the request as the backend will see it.
//!
//! The body's bytes are the client's own; the head is made anew: hop-by-hop fields and what `Connection` nominates are
//! gone before anything of ours is added, the length is ours, and so is the credential when the backend has one.

use wire::http1::head::{Head, RequestLine};

use crate::exchange::Exchange;

/// The parts of a request on their way to the backend: the head, and the body around an insertion.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) head: Vec<u8>,
    /// Text put into the body at an offset: the request for usage.
    pub(crate) insert: Option<(usize, &'static str)>,
}

/// Fields that the backend must not get from the client, or gets from us.
const OURS: [&str; 6] = ["host", "content-length", "expect", "x-request-id", "accept-encoding", "forwarded"];
/// Where clients put keys. They are the operator's to give when the backend has its own.
pub(crate) const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Make the request for the route's backend.
pub(crate) fn prepare(exchange: &mut Exchange, head: &Head<'_, RequestLine<'_>>, body_len: usize) -> Outgoing {
    let insert = usage_insert(exchange);
    exchange.sent.usage_asked = insert.is_some();
    let mut out = Vec::with_capacity(head.len + 256);
    let Some(routed) = &exchange.routed else { return Outgoing { head: out, insert: None } };
    let route = &routed.route.route;
    let backend = &route.backend;
    push(&mut out, &[head.line.method, " ", &backend.prefix, head.line.target, " HTTP/1.1\r\nhost: ", &backend.authority, "\r\n"]);
    // A credential that was for us is for nobody else.
    let withheld = backend.api_key.is_some() || exchange.plan.keys.is_some();
    for field in head.fields {
        let name = field.name;
        let replaced = OURS.iter().any(|n| n.eq_ignore_ascii_case(name))
            && !(route.forward_compression && name.eq_ignore_ascii_case("accept-encoding"));
        let credential = withheld && CREDENTIALS.iter().any(|n| n.eq_ignore_ascii_case(name));
        if replaced || credential || head.is_hop_by_hop(name) {
            continue;
        }
        push(&mut out, &[name, ": "]);
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    if !route.forward_compression {
        push(&mut out, &["accept-encoding: identity\r\n"]);
    }
    if let Some((name, value)) = backend.credential() {
        push(&mut out, &[name, ": ", &value, "\r\n"]);
    }
    let length = body_len + insert.map_or(0, |(_, text)| text.len());
    push(&mut out, &["x-request-id: ", &exchange.accepted.id, "\r\ncontent-length: ", &length.to_string(), "\r\n\r\n"]);
    Outgoing { head: out, insert }
}

/// Where and how to ask for usage, when the route wants it and the client did not ask.
fn usage_insert(exchange: &Exchange) -> Option<(usize, &'static str)> {
    use wire::Dialect::{OpenAiChat, OpenAiCompletions};
    let routed = exchange.routed.as_ref()?;
    let facts = exchange.inspected.facts.as_ref()?;
    let wanted = routed.route.route.inject_usage && facts.stream == Some(true) && !facts.usage_settled;
    if !wanted || !matches!(routed.dialect, Some(OpenAiChat | OpenAiCompletions)) {
        return None;
    }
    Some(match facts.stream_options_at {
        Some(at) if facts.stream_options_empty => (at, "\"include_usage\":true"),
        Some(at) => (at, "\"include_usage\":true,"),
        None => (facts.inside, "\"stream_options\":{\"include_usage\":true},"),
    })
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|p| out.extend_from_slice(p.as_bytes()));
}
