//! Stage 1: accepts a request by its head, and decides which server handles it.

use std::borrow::Cow;
use std::sync::Arc;

use http1::head::{Head, RequestLine};
use http1::path::decode;
use lens::Tick;
use wire::{Dialect, ErrorFormat};

use crate::exchange::{Accepted, TraceParent};
use plan::clock;
use plan::forwarded::Peer;
use refusal::Refusal;

/// Longest request id taken from a client.
const MAX_ID: usize = 128;
/// Longest path kept for the record.
const MAX_ENDPOINT: usize = 256;
/// Start of the gateway's API keys; 64 hex digits follow.
const KEY_PREFIX: &str = "llk_";
const KEY_LEN: usize = KEY_PREFIX.len() + 64;
const MASKED_KEY: &str = "llk_***";

/// Which server handles a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Server {
    /// The pipeline, with the dialect of the path.
    Exchange(Dialect),
    /// Pingora's proxy: forwarded unparsed, and only timed.
    PassThrough,
}

/// The server for a request with that head.
pub fn server(line: &RequestLine<'_>) -> Server {
    match Dialect::from_path(path(line.target)) {
        Some(dialect) if line.method == "POST" => Server::Exchange(dialect),
        _ => Server::PassThrough,
    }
}

/// Refuse TRACE, protocol upgrades, and expectations other than `100-continue`.
pub fn check(head: &Head<'_, RequestLine<'_>>) -> Result<(), Refusal> {
    if head.line.method.eq_ignore_ascii_case("TRACE") {
        return Err(Refusal::method_not_allowed());
    }
    if head.get("upgrade").is_some() || head.list_contains("connection", "upgrade") {
        return Err(Refusal::upgrade());
    }
    match head.get("expect") {
        Some(value) if !value.eq_ignore_ascii_case(b"100-continue") => Err(Refusal::expectation()),
        _ => Ok(()),
    }
}

/// Whether the client waits for `100 Continue` before it sends its body.
pub fn expects_continue(head: &Head<'_, RequestLine<'_>>) -> bool {
    !head.http10 && head.get("expect").is_some()
}

/// Facts of the head for the exchange.
pub fn accepted(
    head: &Head<'_, RequestLine<'_>>,
    dialect: Option<Dialect>,
    head_at: Tick,
) -> Accepted {
    let given = head.get("x-request-id").and_then(usable_id);
    let endpoint = path(head.line.target);
    Accepted {
        id: given.map_or_else(new_id, Arc::from),
        unique_id: given.map(|_| new_id()),
        trace: head.get("traceparent").and_then(trace_parent),
        started_at: clock::wall_us(),
        head_at,
        endpoint: recorded_path(endpoint),
        dialect,
        errors: error_format(endpoint, dialect, head.get("anthropic-version").is_some()),
        bytes: head.len as u64,
        peer: Peer::default(),
        client: None,
    }
}

/// The format of errors for a request. Clients of Anthropic send `anthropic-version`, also on
/// paths that other APIs share with it, such as `/v1/models`. A path that is refused for its empty
/// or dot segments has the format of the path without them.
fn error_format(path: &str, dialect: Option<Dialect>, is_anthropic: bool) -> ErrorFormat {
    // Embeddings have the same last segment in several APIs.
    let format = match dialect.filter(|dialect| *dialect != Dialect::Embeddings) {
        Some(dialect) => dialect.error_format(),
        None => ErrorFormat::from_path(&normalized(&decode(path))),
    };
    match format {
        ErrorFormat::OpenAi if is_anthropic => ErrorFormat::Anthropic,
        format => format,
    }
}

/// The path without empty and dot segments, and with slashes for backslashes.
fn normalized(path: &str) -> Cow<'_, str> {
    let is_odd = |pair: &[u8]| matches!(pair, [b'/', b'/' | b'.'] | [_, b'\\']);
    if !path.as_bytes().windows(2).any(is_odd) {
        return Cow::Borrowed(path);
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Facts of a request whose head is malformed, of which `bytes` were received.
pub fn unknown(head_at: Tick, bytes: &[u8]) -> Accepted {
    // The first line may be intact, so that the API is known.
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let target = std::str::from_utf8(target).unwrap_or_default();
    let name = b"anthropic-version:";
    let is_anthropic = bytes
        .split(|byte| *byte == b'\n')
        .any(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    Accepted {
        id: new_id(),
        unique_id: None,
        trace: None,
        started_at: clock::wall_us(),
        head_at,
        endpoint: String::new(),
        dialect: None,
        errors: error_format(path(target), None, is_anthropic),
        bytes: bytes.len() as u64,
        peer: Peer::default(),
        client: None,
    }
}

fn new_id() -> Arc<str> {
    let mut room = uuid::Uuid::encode_buffer();
    Arc::from(&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut room))
}

/// The path of a request target, without the query.
pub fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// A path for the record, without API keys that it may have.
fn recorded_path(path: &str) -> String {
    let masked = mask_keys(path);
    masked.get(..MAX_ENDPOINT).unwrap_or(&masked).to_owned()
}

/// A client's request id, if it is safe in headers and log lines, and has no API key.
fn usable_id(value: &[u8]) -> Option<&str> {
    let fits = !value.is_empty() && value.len() <= MAX_ID && value.iter().all(u8::is_ascii_graphic);
    let id = fits.then(|| std::str::from_utf8(value).ok()).flatten()?;
    matches!(mask_keys(id), Cow::Borrowed(_)).then_some(id)
}

/// A text of a client with the gateway's API keys masked: some clients put a key into a path, a
/// model or an id.
pub fn mask_keys(text: &str) -> Cow<'_, str> {
    if text.len() < KEY_LEN {
        return Cow::Borrowed(text);
    }
    let is_key = |from: usize| {
        let digits = text.as_bytes().get(from + KEY_PREFIX.len()..from + KEY_LEN);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let mut out = String::new();
    let mut copied = 0;
    for (from, _) in text.match_indices(KEY_PREFIX).filter(|(from, _)| is_key(*from)) {
        out.push_str(text.get(copied..from).unwrap_or_default());
        out.push_str(MASKED_KEY);
        copied = from + KEY_LEN;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Parse a W3C `traceparent` (Trace Context, section 3.2): `VERSION-TRACE_ID-SPAN_ID-FLAGS`. Later
/// versions may have more parts; all-zero ids are invalid.
fn trace_parent(value: &[u8]) -> Option<TraceParent> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let mut parts = text.split('-');
    let mut hex = |len: usize| {
        let is_hex = |part: &&str| {
            part.len() == len
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        parts.next().filter(is_hex)
    };
    let version = hex(2)?;
    let (trace_id, span_id, flags) = (hex(32)?, hex(16)?, hex(2)?);
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    let is_set = |id: &str| id.bytes().any(|b| b != b'0');
    (is_known && is_set(trace_id) && is_set(span_id)).then_some(TraceParent {
        trace_id: trace_id.to_owned(),
        span_id: span_id.to_owned(),
        flags: u8::from_str_radix(flags, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_request_ids_are_rejected() {
        assert_eq!(usable_id(b"req-1"), Some("req-1"));
        for bad in [&b""[..], b"a b", b"a\x1b[1m", &[b'x'; 129], "é".as_bytes()] {
            assert_eq!(usable_id(bad), None);
        }
    }

    #[test]
    fn keys_are_masked_in_whatever_is_recorded() {
        let key = format!("llk_{}", "0a".repeat(32));
        assert_eq!(mask_keys(&format!("/v1/{key}/x/{key}")), "/v1/llk_***/x/llk_***");
        assert_eq!(recorded_path(&format!("/{}{key}", "a".repeat(240))).len(), 1 + 240 + 7);
        assert_eq!(usable_id(format!("id-{key}").as_bytes()), None);
        for same in ["llk_", "llk_0a", &format!("llk_{}", "g".repeat(64)), &"é".repeat(40)] {
            assert!(matches!(mask_keys(same), Cow::Borrowed(_)), "{same}");
        }
    }

    #[test]
    fn traces_are_read_as_w3c_writes_them() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = |text: String| {
            trace_parent(text.as_bytes())
                .map(|parent| (parent.trace_id, parent.span_id, parent.flags))
        };
        let want = |flags| Some((trace.to_owned(), span.to_owned(), flags));
        assert_eq!(read(format!("00-{trace}-{span}-01")), want(1));
        assert_eq!(read(format!("cc-{trace}-{span}-00-what-the-future-brings")), want(0));
        for bad in [
            format!("00-xyz-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            String::new(),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn only_posts_on_inference_paths_enter_the_pipeline() {
        let of = |method, target| server(&RequestLine { method, target });
        assert_eq!(
            of("POST", "/v1/chat/completions?api-version=1"),
            Server::Exchange(Dialect::OpenAiChat)
        );
        assert_eq!(of("GET", "/v1/chat/completions"), Server::PassThrough);
        assert_eq!(of("POST", "/tokenize"), Server::PassThrough);
    }
}
