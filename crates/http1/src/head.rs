//! Parsing and validation of message heads.
//!
//! - *In*: the bytes of a connection from the start of a message.
//! - *Out*: a [`Head`] of slices with its body framing, or the [`HeadError`] that rejects it.
//! - *Never*: repair. It rejects bare CR or LF, NUL, folded lines, a duplicate or malformed
//!   `Content-Length`, `Transfer-Encoding` together with `Content-Length`, and any transfer coding
//!   other than `chunked`.

mod index;
pub use index::{FieldList, HeadIndex};

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use memchr::{memchr3_iter, memmem};

use super::body::BodyFraming;
use super::field_names::FieldNames;
use super::path;

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Maximum bytes of start line and fields. Default 64 KiB.
    pub bytes: usize,
    /// Maximum number of fields. Default 100, at most [`MAX_FIELDS`].
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { bytes: 64 << 10, fields: 100 }
    }
}

/// Upper bound of [`HeadLimits::fields`].
pub const MAX_FIELDS: usize = 256;
/// Maximum bytes of a method. The longest registered one has 17.
const MAX_METHOD: usize = 32;

/// Finds the end of a head. Making it costs as much as a search.
static EMPTY_LINE: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));

/// Why a head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More bytes than the limit.
    #[error("the message head is larger than the limit")]
    TooLarge,
    /// More fields than the limit.
    #[error("the message has more header fields than the limit")]
    TooManyFields,
    /// A CR or LF outside a CRLF pair, or a NUL.
    #[error("the message head contains a bare CR, a bare LF or a NUL")]
    StrayControl,
    /// The head violates the grammar of RFC 9112.
    #[error("the message head is malformed: {0}")]
    Malformed(&'static str),
    /// A version that is neither 1.0 nor 1.1.
    #[error("unsupported HTTP version")]
    Version,
    /// `Content-Length` together with `Transfer-Encoding`, a duplicate or malformed length, or an
    /// unsupported coding.
    #[error("ambiguous message framing: {0}")]
    Framing(&'static str),
    /// `Host` is missing, duplicate or invalid.
    #[error("missing, duplicate or invalid Host header")]
    Host,
    /// The target is not a path: the authority form of CONNECT, control characters, a fragment.
    #[error("invalid request target")]
    Target,
    /// Servers can read the path as different paths.
    #[error("the path contains {0}, which servers read differently")]
    Path(&'static str),
}

/// The first line of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The method, a token.
    pub method: &'a str,
    /// Path and query, or `*`. An absolute-form target is reduced to its path and query.
    pub target: &'a str,
}

/// The first line of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine {
    /// The status code.
    pub status: u16,
}

/// A parsed head that borrows from the bytes it was read from.
#[derive(Debug)]
pub struct Head<'a, L> {
    /// The first line.
    pub line: L,
    /// Whether the message is HTTP/1.0.
    pub http10: bool,
    /// The fields in order, as sent.
    pub fields: &'a [httparse::Header<'a>],
    /// How the body is framed.
    pub framing: BodyFraming,
    /// Length of the head in bytes, including the empty line.
    pub len: usize,
}

impl<'a, L> Head<'a, L> {
    /// Value of the first field with this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
    }

    /// Whether a comma-separated list field contains a token.
    pub fn list_contains(&self, name: &str, token: &str) -> bool {
        self.fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).any(|f| {
            f.value
                .split(|b| *b == b',')
                .any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    }

    /// Whether the connection stays open after this message.
    pub fn keeps_alive(&self) -> bool {
        if self.http10 {
            self.list_contains("connection", "keep-alive")
        } else {
            !self.list_contains("connection", "close")
        }
    }

    /// The fields that must not be forwarded.
    pub fn hop_by_hop(&self) -> HopByHop<'_, 'a, L> {
        HopByHop { head: self, lists_fields: self.get("connection").is_some() }
    }
}

/// The hop-by-hop fields of a message: those of RFC 9110 section 7.6.1, and those that `Connection`
/// lists.
pub struct HopByHop<'h, 'a, L> {
    head: &'h Head<'a, L>,
    /// The message has a `Connection` field.
    lists_fields: bool,
}

impl<L> HopByHop<'_, '_, L> {
    const ALWAYS: FieldNames = FieldNames::new(&[
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]);

    /// Whether the field is one of them.
    #[inline]
    pub fn contains(&self, name: &str) -> bool {
        Self::ALWAYS.contains(name)
            || self.lists_fields && self.head.list_contains("connection", name)
    }
}

/// Buffer for the fields of one head. The caller provides it, so that parsing does not allocate.
pub type FieldBuffer<'a> = [MaybeUninit<httparse::Header<'a>>; MAX_FIELDS];

/// An empty field buffer. It is not initialized: that would write 8 KiB for each head.
pub fn field_buffer<'a>() -> FieldBuffer<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Offset just past the head in `bytes`, or `None` if the head is incomplete. The first `seen`
/// bytes were searched by an earlier call and are not searched again.
///
/// # Errors
/// [`HeadError::TooLarge`], or [`HeadError::StrayControl`] at the first stray control byte, so that
/// the caller does not wait for a head that can never become valid.
pub fn find_end(bytes: &[u8], seen: usize, limits: HeadLimits) -> Result<Option<usize>, HeadError> {
    let from = seen.min(bytes.len()).saturating_sub(3);
    let end = EMPTY_LINE.find(bytes.get(from..).unwrap_or_default()).map(|at| from + at + 4);
    if end.unwrap_or(bytes.len()) > limits.bytes {
        return Err(HeadError::TooLarge);
    }
    let fresh = bytes.get(from..end.unwrap_or(bytes.len())).unwrap_or_default();
    let stray = memchr3_iter(b'\r', b'\n', 0, fresh).any(|at| match fresh.get(at) {
        Some(b'\r') => fresh.get(at + 1).is_some_and(|b| *b != b'\n'),
        Some(b'\n') => {
            (from + at).checked_sub(1).and_then(|before| bytes.get(before)) != Some(&b'\r')
        }
        _ => true,
    });
    if stray {
        return Err(HeadError::StrayControl);
    }
    Ok(end)
}

/// Parse the request head that [`find_end`] delimited.
///
/// # Errors
/// The first problem found, as a [`HeadError`].
pub fn parse_request<'a>(
    head: &'a [u8],
    room: &'a mut FieldBuffer<'a>,
    limits: HeadLimits,
) -> Result<Head<'a, RequestLine<'a>>, HeadError> {
    let room = room.get_mut(..limits.fields.min(MAX_FIELDS)).unwrap_or_default();
    let mut parsed = httparse::Request::new(&mut []);
    complete(parsed.parse_with_uninit_headers(head, room), head.len())?;
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Malformed("no request line"));
    };
    if method.len() > MAX_METHOD {
        return Err(HeadError::Malformed("the method is longer than 32 bytes"));
    }
    let fields: &'a [httparse::Header<'a>] = parsed.headers;
    let http10 = version == 0;
    let line = RequestLine { method, target: reduce_target(method, target)? };
    let framing = framing(fields, http10)?.unwrap_or(BodyFraming::Empty);
    check_host(fields, http10)?;
    Ok(Head { line, http10, fields, framing, len: head.len() })
}

/// Parse the response head that [`find_end`] delimited. `to_head`: the request method was HEAD.
///
/// # Errors
/// The first problem found, as a [`HeadError`].
pub fn parse_response<'a>(
    head: &'a [u8],
    room: &'a mut FieldBuffer<'a>,
    limits: HeadLimits,
    to_head: bool,
) -> Result<Head<'a, StatusLine>, HeadError> {
    let room = room.get_mut(..limits.fields.min(MAX_FIELDS)).unwrap_or_default();
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    complete(config.parse_response_with_uninit_headers(&mut parsed, head, room), head.len())?;
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Malformed("no status line"));
    };
    // RFC 9110, 15: other numbers are no status codes.
    if !(100..=599).contains(&status) {
        return Err(HeadError::Malformed("invalid status code"));
    }
    let fields: &'a [httparse::Header<'a>] = parsed.headers;
    let http10 = version == 0;
    let stated = framing(fields, http10)?;
    let framing = match status {
        100..=199 | 204 | 304 => BodyFraming::Empty,
        _ if to_head => BodyFraming::Empty,
        _ => stated.unwrap_or(BodyFraming::UntilClose),
    };
    Ok(Head { line: StatusLine { status }, http10, fields, framing, len: head.len() })
}

fn complete(parsed: httparse::Result<usize>, len: usize) -> Result<(), HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(n)) if n == len => Ok(()),
        Ok(_) => Err(HeadError::Malformed("the head does not end at its empty line")),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooManyFields),
        Err(httparse::Error::Version) => Err(HeadError::Version),
        Err(httparse::Error::HeaderName) => {
            Err(HeadError::Malformed("invalid field name or folded line"))
        }
        Err(httparse::Error::HeaderValue) => Err(HeadError::Malformed("invalid field value")),
        Err(_) => Err(HeadError::Malformed("invalid first line")),
    }
}

/// Body framing declared by the fields, if any (RFC 9112 section 6.3, without its repairs).
fn framing(
    fields: &[httparse::Header<'_>],
    http10: bool,
) -> Result<Option<BodyFraming>, HeadError> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(HeadError::Framing("duplicate Content-Length"));
            }
            length = Some(parse_length(field.value)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Framing("Transfer-Encoding is not a single \"chunked\""));
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(HeadError::Framing("Content-Length with Transfer-Encoding")),
        (None, true) if http10 => Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0")),
        (None, true) => Ok(Some(BodyFraming::Chunked)),
        (Some(0), false) => Ok(Some(BodyFraming::Empty)),
        (Some(length), false) => Ok(Some(BodyFraming::Length(length))),
        (None, false) => Ok(None),
    }
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    const BAD: HeadError = HeadError::Framing("malformed Content-Length");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).ok_or(BAD)
}

fn check_host(fields: &[httparse::Header<'_>], http10: bool) -> Result<(), HeadError> {
    let mut hosts = fields.iter().filter(|f| f.name.eq_ignore_ascii_case("host"));
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.value,
        (None, None) if http10 => return Ok(()),
        _ => return Err(HeadError::Host),
    };
    let fine = |b: &u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%')
    };
    if host.is_empty() || !host.iter().all(fine) {
        return Err(HeadError::Host);
    }
    Ok(())
}

fn reduce_target<'a>(method: &str, target: &'a str) -> Result<&'a str, HeadError> {
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(HeadError::Target);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(target);
    }
    let target = strip_origin(target)?;
    path::check(method, target).map_err(HeadError::Path)?;
    Ok(target)
}

/// The origin form of a target in origin or absolute form.
fn strip_origin(target: &str) -> Result<&str, HeadError> {
    if target.starts_with('/') {
        return Ok(target);
    }
    let rest = ["http://", "https://"].iter().find_map(|s| {
        let (scheme, rest) = target.split_at_checked(s.len())?;
        scheme.eq_ignore_ascii_case(s).then_some(rest)
    });
    let rest = rest.ok_or(HeadError::Target)?;
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes().get(at) == Some(&b'?') => Err(HeadError::Target),
        at => Ok(at.and_then(|at| rest.get(at..)).unwrap_or("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &[u8]) -> Result<(String, BodyFraming), HeadError> {
        let limits = HeadLimits::default();
        let end = find_end(text, 0, limits)?.ok_or(HeadError::Malformed("incomplete"))?;
        let mut fields = field_buffer();
        let head = parse_request(&text[..end], &mut fields, limits)?;
        Ok((format!("{} {}", head.line.method, head.line.target), head.framing))
    }

    #[test]
    fn well_formed_requests() {
        assert_eq!(
            request(b"POST /v1?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
            Ok(("POST /v1?x=1".into(), BodyFraming::Length(5)))
        );
        assert_eq!(
            request(b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Ok(("POST /".into(), BodyFraming::Chunked))
        );
        assert_eq!(
            request(b"GET http://b:1/p HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok(("GET /p".into(), BodyFraming::Empty))
        );
        assert_eq!(
            request(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok(("OPTIONS *".into(), BodyFraming::Empty))
        );
        assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n"), Ok(("GET /".into(), BodyFraming::Empty)));
    }

    #[test]
    fn methods_are_bounded() {
        let of = |len: usize| {
            request(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(len)).as_bytes())
        };
        assert!(of(32).is_ok());
        for len in [33, 60_000] {
            assert_eq!(of(len), Err(HeadError::Malformed("the method is longer than 32 bytes")));
        }
    }

    #[test]
    fn ambiguous_framing_is_rejected() {
        let post = |fields: &str| {
            request(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes())
        };
        for fields in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 5 ",
            "Content-Length: 0x5",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 9999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: \u{a0}chunked",
            "Transfer-Encoding : chunked",
            " Content-Length: 5",
            "X: a\r\n folded",
            "X: a\rb",
            "X: a\nContent-Length: 5",
            "X: a\0b",
            "Content-Length\u{85}: 5",
            "Host: b",
            "X y: z",
            ": z",
        ] {
            // A trailing space after a length is optional white space and legal.
            let legal = fields.ends_with("5 ");
            assert_eq!(post(fields).is_ok(), legal, "{fields:?}");
        }
    }

    #[test]
    fn targets_hosts_and_versions() {
        for bad in [
            "CONNECT a:1 HTTP/1.1\r\nHost: a",
            "GET a HTTP/1.1\r\nHost: a",
            "GET /a#b HTTP/1.1\r\nHost: a",
            "GET /\u{e9} HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1\r\nX: a",
            "GET / HTTP/1.1\r\nHost: u@a",
            "GET / HTTP/1.1\r\nHost:",
            "GET / HTTP/2.0\r\nHost: a",
            "GET  / HTTP/1.1\r\nHost: a",
            "GET ftp://a/ HTTP/1.1\r\nHost: a",
            "GET http://a?b/c HTTP/1.1\r\nHost: a",
            "GET /a/../b HTTP/1.1\r\nHost: a",
            "GET http://a/b//c HTTP/1.1\r\nHost: a",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
        ] {
            assert!(request(format!("{bad}\r\n\r\n").as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let fields = "A: b\r\n".repeat(100);
        assert_eq!(
            request(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()),
            Err(HeadError::TooManyFields)
        );
        let long = "x".repeat(65 << 10);
        assert_eq!(
            request(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").as_bytes()),
            Err(HeadError::TooLarge)
        );
        assert_eq!(
            find_end(b"GET / HTTP/1.1\n", 0, HeadLimits::default()),
            Err(HeadError::StrayControl)
        );
        assert_eq!(find_end(b"GET / HTTP/1.1\r", 14, HeadLimits::default()), Ok(None));
    }

    #[test]
    fn connection_field_nominates_hop_by_hop_fields() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-secret, close\r\nX-Secret: 1\r\nX-Open: 2\r\n\r\n";
        let mut fields = field_buffer();
        let head = parse_request(text, &mut fields, HeadLimits::default()).unwrap();
        let hop_by_hop = head.hop_by_hop();
        assert!(hop_by_hop.contains("X-Secret") && hop_by_hop.contains("Transfer-Encoding"));
        assert!(!hop_by_hop.contains("X-Open") && !head.keeps_alive());
    }

    #[test]
    fn responses() {
        let parse = |text: &[u8], to_head| {
            let mut fields = field_buffer();
            parse_response(text, &mut fields, HeadLimits::default(), to_head)
                .map(|h| (h.line.status, h.framing))
        };
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n", false), Ok((200, BodyFraming::UntilClose)));
        assert_eq!(
            parse(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", false),
            Ok((204, BodyFraming::Empty))
        );
        assert_eq!(
            parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true),
            Ok((200, BodyFraming::Empty))
        );
        assert!(parse(b"SSH-2.0-x\r\n\r\n", false).is_err());
        assert!(
            parse(
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
                false
            )
            .is_err()
        );
    }
}
