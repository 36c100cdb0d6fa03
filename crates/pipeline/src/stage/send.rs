//! Stage 10: builds the request for the backend.
//!
//! The body is the client's. The head is rebuilt: hop-by-hop fields and those that `Connection`
//! names are removed, then the gateway's fields are added, with the new length and the backend's
//! credential, if it has one.

use std::borrow::Cow;
use std::ops::Range;

use config::settings::{Backend, Route};
use http1::FieldNames;
use http1::head::{Head, RequestLine};
use http1::path::encode;
use transport::{Edit, Edits};
use wire::Dialect;
use wire::request::StreamOptions;

use crate::exchange::Exchange;
use crate::stage::{accept, inspect};
use plan::PlannedPool;
use plan::forwarded::{self, Peer};

/// A request to a backend: the head, and the edits of the body.
#[derive(Debug)]
pub struct PreparedRequest {
    /// The head as it is sent.
    pub head: Vec<u8>,
    pub(crate) edits: Edits,
}

/// Fields of the client that are not forwarded. The gateway sets its own where the backend needs
/// one.
const REPLACED_FIELDS: FieldNames =
    FieldNames::new(&["host", "content-length", "expect", "x-request-id", "accept-encoding"]);
/// Fields that carry credentials. The client's are removed if the backend has its own key, or if
/// the gateway authenticates clients.
pub const CREDENTIALS: FieldNames =
    FieldNames::new(&["authorization", "x-api-key", "api-key", "x-goog-api-key"]);

/// Fields of clients that replace the method or the path for some servers, so that another request
/// would be served than was checked. They are removed where credentials are.
pub const OVERRIDES: FieldNames = FieldNames::new(&[
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
]);

/// Build the request for the selected backend.
pub fn prepare(
    exchange: &mut Exchange,
    head: &Head<'_, RequestLine<'_>>,
    body_len: usize,
) -> PreparedRequest {
    let usage = usage_edit(exchange);
    exchange.sent.usage_injected = usage.is_some();
    let mut edits = [model_edit(exchange, head), usage];
    edits.sort_by_key(|edit| edit.as_ref().map(|edit| edit.range.start));
    let chosen =
        exchange.routed.as_ref().and_then(|routed| Some((&routed.route.route, routed.upstream()?)));
    let Some((route, upstream)) = chosen else {
        return PreparedRequest { head: Vec::new(), edits };
    };
    let traceparent = exchange.spans.as_mut().map(|spans| spans.begin_call());
    // A credential for the gateway is not forwarded.
    let facts = HeadFacts {
        model: exchange.routed.as_ref().and_then(|routed| routed.pool().model.as_deref()),
        id: &exchange.accepted.id,
        keeps_credentials: exchange.plan.keys.is_some(),
        peer: exchange.accepted.peer,
        body_len,
        edits: &edits,
        traceparent: traceparent.as_deref(),
    };
    PreparedRequest { head: head_for(route, &upstream.backend, head, &facts), edits }
}

/// Whether a head carries a credential.
pub fn has_credential(head: &Head<'_, RequestLine<'_>>) -> bool {
    head.fields.iter().any(|field| CREDENTIALS.contains(field.name))
}

/// What the head needs for any backend.
pub struct HeadFacts<'s> {
    /// The model name of the pool, if it has one. It replaces a name in the path.
    pub model: Option<&'s str>,
    /// The id of the request.
    pub id: &'s str,
    /// Credentials of clients are not forwarded.
    pub keeps_credentials: bool,
    /// The other end of the client's connection.
    pub peer: Peer,
    pub(crate) body_len: usize,
    pub(crate) edits: &'s Edits,
    /// The `traceparent` of the call; `None`: the client's is forwarded.
    pub(crate) traceparent: Option<&'s str>,
}

/// The head of the request to a backend.
pub fn head_for(
    route: &Route,
    backend: &Backend,
    head: &Head<'_, RequestLine<'_>>,
    facts: &HeadFacts<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len + 256);
    push(&mut out, &[head.line.method, " ", &backend.prefix]);
    push_target(&mut out, head.line.target, facts.model);
    push(&mut out, &[" HTTP/1.1\r\nhost: ", &backend.authority, "\r\n"]);
    let withheld = backend.api_key.is_some() || facts.keeps_credentials;
    let hop_by_hop = head.hop_by_hop();
    for field in head.fields {
        let name = field.name;
        let replaced = REPLACED_FIELDS.contains(name)
            && !(route.forward_compression && name.eq_ignore_ascii_case("accept-encoding"));
        let is_withheld = withheld && (CREDENTIALS.contains(name) || OVERRIDES.contains(name));
        let traced = facts.traceparent.is_some() && name.eq_ignore_ascii_case("traceparent");
        if replaced
            || is_withheld
            || traced
            || forwarded::is_replaced(name)
            || hop_by_hop.contains(name)
        {
            continue;
        }
        push(&mut out, &[name, ": "]);
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    if backend.forwarded_headers {
        let request = head.fields.iter().map(|field| (field.name, field.value));
        forwarded::fields(&facts.peer, request, |name, value| {
            push(&mut out, &[name, ": "]);
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        });
    }
    if !route.forward_compression {
        push(&mut out, &["accept-encoding: identity\r\n"]);
    }
    if let Some(value) = facts.traceparent {
        push(&mut out, &["traceparent: ", value, "\r\n"]);
    }
    if let Some((name, value)) = backend.credential() {
        push(&mut out, &[name, ": ", &value, "\r\n"]);
    }
    let length = facts
        .edits
        .iter()
        .flatten()
        .fold(facts.body_len, |len, edit| len + edit.text.len() - edit.range.len());
    push(
        &mut out,
        &["x-request-id: ", facts.id, "\r\ncontent-length: ", &length.to_string(), "\r\n\r\n"],
    );
    out
}

/// Edit that requests usage, if the route injects it and the client did not request it. A client
/// that declines cannot evade limits and prices, which need usage; the event is removed from its
/// answer.
pub fn usage_edit(exchange: &Exchange) -> Option<Edit> {
    let routed = exchange.routed.as_ref()?;
    let facts = exchange.inspected.facts.as_ref()?;
    let wanted = routed.route.route.inject_usage && facts.stream == Some(true);
    if !wanted || !routed.dialect.is_some_and(Dialect::takes_stream_options) {
        return None;
    }
    let (range, text) = match facts.stream_options.clone() {
        StreamOptions::Absent => {
            let at = facts.members_at;
            (at..at, "\"stream_options\":{\"include_usage\":true},")
        }
        StreamOptions::Invalid(at) => (at, "{\"include_usage\":true}"),
        StreamOptions::Open { at, empty: true } => (at..at, "\"include_usage\":true"),
        StreamOptions::Open { at, empty: false } => (at..at, "\"include_usage\":true,"),
        StreamOptions::Declined(at) => (at, "true"),
        StreamOptions::Requested => return None,
    };
    Some(Edit { range, text: text.into() })
}

/// The target, with the pool's model in place of one that the path names.
fn push_target(out: &mut Vec<u8>, target: &str, model: Option<&str>) {
    let parts = model.and_then(|model| {
        let at = Dialect::model_in_path(accept::path(target))?;
        Some((target.get(..at.start)?, model, target.get(at.end..)?))
    });
    match parts {
        Some((before, model, after)) => push(out, &[before, &encode(model), after]),
        None => push(out, &[target]),
    }
}

fn model_edit(exchange: &Exchange, head: &Head<'_, RequestLine<'_>>) -> Option<Edit> {
    let at = exchange.inspected.facts.as_ref()?.model_at.clone()?;
    model_of(exchange.routed.as_ref()?.pool(), head, at)
}

/// Edit that replaces the model of the body: by the pool's name, or else by the name in the path,
/// which was checked in its place.
pub fn model_of(
    pool: &PlannedPool,
    head: &Head<'_, RequestLine<'_>>,
    at: Range<usize>,
) -> Option<Edit> {
    let name = match &pool.model {
        Some(model) => Cow::Borrowed(model.as_str()),
        None => inspect::model_in_path(head)?,
    };
    let quoted = serde_json::Value::from(&*name).to_string();
    Some(Edit { range: at, text: quoted[1..quoted.len() - 1].to_owned().into() })
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|p| out.extend_from_slice(p.as_bytes()));
}
