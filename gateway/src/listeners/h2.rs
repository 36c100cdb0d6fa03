//! HTTP/2 clients, over pingora's sessions.
//!
//! - *In*: a stream that pingora accepted.
//! - *Out*: the same pipeline as HTTP/1.1: the head is rewritten as HTTP/1.1 and goes through the
//!   same parser, so that both refuse the same.
//! - *Never*: more of a body than the limit; a DATA frame beyond the client's flow-control window.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http1::head::{self, HeadIndex, RequestLine};
use lens::record::Outcome;
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::server::HttpSession as H2Session;
use pingora::protocols::tls::SslDigest;
use pipeline::exchange::{Accepted, ShownCredential};
use pipeline::shared::Shared;
use pipeline::stage::accept::{self, Server};
use pipeline::stage::authenticate;
use pipeline::{ExchangeGuard, Incoming, with_timeout};
use plan::Plan;
use plan::clock;
use plan::forwarded::{self, Peer};
use refusal::Refusal;
use transport::{AnswerHead, Gone, HeldBuffer, Sink, StreamBuffer};

use crate::tls::client_certificate;

/// Delay before a stream that broke off is reset, so that queued data is written.
const BEFORE_RESET: Duration = Duration::from_millis(50);

/// Whether a request on an HTTP/2 stream is inference, and so served by the pipeline.
pub(super) fn is_ours(session: &H2Session) -> bool {
    let head = session.req_header();
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    matches!(
        accept::server(&RequestLine { method: head.method.as_str(), target }),
        Server::Exchange(_)
    )
}

/// Serve an inference request.
pub(super) async fn serve(shared: &Arc<Shared>, session: &mut H2Session) {
    let began = clock::now();
    let plan = shared.plan.load_full();
    let mut buffer = HeldBuffer::new(as_http1(session), &shared.memory);
    let head_len = buffer.len();
    let tls = session.digest().and_then(|digest| digest.ssl_digest.as_deref());
    let address = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
    let peer = forwarded::peer(&plan, address, tls.is_some(), true);
    let ParsedHead { accepted, head, encoded, shown } =
        parse_head(shared, &plan, &buffer, peer, tls);
    let limits = plan.settings.limits;
    let max = (limits.request_body, shared.memory.max(&limits));
    let body_timeout = plan.settings.timeouts.request_body;
    let mut exchange = ExchangeGuard::open(shared, plan, accepted, began);
    let request = match head
        .and_then(|head| authenticate::admit(&mut exchange, shown).map(|()| head))
    {
        Err(refusal) => Err(refusal),
        Ok(head) => match with_timeout(body_timeout, read_body(session, &mut buffer, max)).await {
            Some(Ok(true)) => Ok((head, head_len..buffer.len())),
            Some(Ok(false)) => {
                return exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
            }
            Some(Err(refusal)) => Err(refusal),
            None => Err(Refusal::slow_request()),
        },
    };
    let mut sink = H2Sink { session, stream: None, done: false };
    match request {
        Ok((head, body)) => {
            exchange.accepted.bytes = buffer.len() as u64;
            let incoming = Incoming { buffer, head, body, encoded };
            pipeline::serve(&mut exchange, incoming, &mut sink).await;
        }
        Err(refusal) => {
            // The answer may take a while; the bytes are of no use anymore.
            drop(buffer);
            pipeline::refuse(&mut exchange, &refusal, &mut sink).await;
        }
    }
    let client_left = exchange.verdict.outcome() == Some(Outcome::ClientGone);
    drop(exchange);
    if !sink.done {
        // A reset overtakes queued data. A connected client should receive the error event first.
        if !client_left {
            tokio::time::sleep(BEFORE_RESET).await;
        }
        sink.reset();
    }
}

/// Facts from the head.
struct ParsedHead {
    accepted: Accepted,
    /// The parsed head, or why it is refused.
    head: Result<HeadIndex, Refusal>,
    /// The body has a content coding.
    encoded: bool,
    shown: Option<ShownCredential>,
}

fn parse_head(
    shared: &Shared,
    plan: &Plan,
    bytes: &[u8],
    peer: Peer,
    tls: Option<&SslDigest>,
) -> ParsedHead {
    let mut fields = head::field_buffer();
    let head = match head::parse_request(bytes, &mut fields, plan.head_limits) {
        Ok(head) => head,
        Err(error) => {
            let mut accepted = accept::unknown(clock::now(), bytes);
            (accepted.peer, accepted.client) = (peer, peer.address);
            return ParsedHead {
                accepted,
                head: Err(shared.bad_head(error)),
                encoded: false,
                shown: None,
            };
        }
    };
    let dialect = match accept::server(&head.line) {
        Server::Exchange(dialect) => Some(dialect),
        Server::PassThrough => None,
    };
    let mut accepted = accept::accepted(&head, dialect, clock::now());
    (accepted.peer, accepted.client) = (peer, forwarded::client(plan, &peer, &head));
    ParsedHead {
        accepted,
        head: accept::check(&head).map(|()| HeadIndex::new(&head, bytes)),
        encoded: head.get("content-encoding").is_some_and(|v| !v.eq_ignore_ascii_case(b"identity")),
        shown: authenticate::read_credential(plan, &head, client_certificate(tls)),
    }
}

/// The head as HTTP/1.1, without `content-length`.
pub(super) fn as_http1(session: &H2Session) -> Vec<u8> {
    let head = session.req_header();
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut out = Vec::with_capacity(4096);
    let mut say = |parts: &[&[u8]]| parts.iter().for_each(|p| out.extend_from_slice(p));
    say(&[head.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    if let Some(authority) = head.uri.authority().filter(|_| !head.headers.contains_key("host")) {
        say(&[b"host: ", authority.as_str().as_bytes(), b"\r\n"]);
    }
    for (name, value) in &head.headers {
        if name != "content-length" {
            say(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    say(&[b"\r\n"]);
    out
}

/// Append the body to `buffer`: at most `max.0` bytes, and `max.1` in the memory of all clients.
/// `false`: the client left.
async fn read_body(
    session: &mut H2Session,
    buffer: &mut HeldBuffer,
    max: (usize, u64),
) -> Result<bool, Refusal> {
    let (start, limit) = (buffer.len(), max.0);
    loop {
        match session.read_body_bytes().await {
            Ok(Some(piece)) => {
                if buffer.len() - start + piece.len() > limit {
                    return Err(Refusal::body_too_large(limit));
                }
                buffer.extend_from_slice(&piece);
                if !buffer.count(max.1) {
                    return Err(Refusal::out_of_memory());
                }
            }
            Ok(None) => return Ok(true),
            Err(_) => return Ok(false),
        }
    }
}

/// Writes the answer of a stream.
struct H2Sink<'s> {
    session: &'s mut H2Session,
    stream: Option<SendStream<Bytes>>,
    done: bool,
}

impl H2Sink<'_> {
    /// Reset the stream.
    fn reset(&mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => self.session.shutdown_with_reason(Reason::INTERNAL_ERROR),
        }
        self.done = true;
    }
}

impl Sink for H2Sink<'_> {
    fn begin(&mut self, head: &AnswerHead, extra: &str, _: &mut StreamBuffer) -> Result<(), Gone> {
        let mut header = ResponseHeader::build(head.status, Some(16)).map_err(|_| Gone)?;
        let lines =
            head.fields.split(|b| *b == b'\n').chain(extra.as_bytes().split(|b| *b == b'\n'));
        for line in lines {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            header
                .append_header(name, value.strip_prefix(b": ").unwrap_or_default())
                .map_err(|_| Gone)?;
        }
        if let Some(length) = head.length {
            header.insert_header("content-length", length.to_string()).map_err(|_| Gone)?;
        }
        self.session.write_response_header(Box::new(header), false).map_err(|_| Gone)?;
        self.stream = self.session.take_response_body_writer();
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut StreamBuffer,
    ) -> Poll<Result<(), Gone>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Gone)) };
        stream.reserve_capacity(out.len());
        while stream.capacity() == 0 {
            match ready!(Pin::new(&mut *stream).poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Err(Gone)),
            }
        }
        let pending = out.pending();
        let len = stream.capacity().min(pending.len());
        let piece = Bytes::copy_from_slice(pending.get(..len).unwrap_or_default());
        stream.send_data(piece, false).map_err(|_| Gone)?;
        out.advance(len);
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(cx).map(|_| ()),
            None => {
                let idle = std::pin::pin!(self.session.idle());
                std::future::Future::poll(idle, cx).map(|_| ())
            }
        }
    }

    fn end(&mut self, complete: bool) {
        let Some(stream) = &mut self.stream else { return };
        if complete {
            self.done = stream.send_data(Bytes::new(), true).is_ok();
        }
    }
}
