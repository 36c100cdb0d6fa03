//! One request on an HTTP/1.1 connection, from its first byte to the end of its answer.

use std::sync::Arc;
use std::time::Duration;

use http1::head::{self, HeadIndex, HeadLimits};
use http1::{BodyFraming, BodyReader, Progress};
use lens::Tick;
use lens::record::Outcome;
use pingora::server::ShutdownWatch;
use pipeline::exchange::{Accepted, ShownCredential};
use pipeline::shared::Shared;
use pipeline::stage::accept::{self, Server};
use pipeline::stage::authenticate;
use pipeline::{ExchangeGuard, Incoming, with_timeout};
use plan::Plan;
use plan::clock;
use plan::forwarded;
use refusal::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::{H1Sink, HeldBuffer, buffer};

use super::Connection;
use crate::listeners::proxy::peer_address;
use crate::listeners::wait_for_drain;
use crate::tls::client_certificate;

/// Maximum empty lines before a request. Old clients send one too many after a body.
const MAX_EMPTY_LINES: usize = 8;
/// A buffer grows by at most this ahead of the received bytes, so that a large Content-Length alone
/// reserves no memory.
const BODY_STEP: usize = 256 << 10;

/// What happens to the connection after a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    KeepAlive,
    Close,
    /// Close after the client has had time to read the answer.
    Linger,
    /// Hand the request in the buffer to pingora.
    PassThrough,
}

/// Facts from a head, independent of the buffer.
struct Accept {
    accepted: Accepted,
    framing: BodyFraming,
    keep_alive: bool,
    http10: bool,
    expects_continue: bool,
    encoded: bool,
    shown: Option<ShownCredential>,
    head: HeadIndex,
}

/// What the head of a request says about its body.
#[derive(Clone, Copy)]
struct BodyHead {
    /// Length of the head.
    len: usize,
    framing: BodyFraming,
    expects_continue: bool,
}

impl Accept {
    fn body_head(&self) -> BodyHead {
        let (framing, expects_continue) = (self.framing, self.expects_continue);
        BodyHead { len: self.head.head_len(), framing, expects_continue }
    }
}

/// How a request with a complete head is handled.
enum Entered {
    Ours(Accept),
    PassThrough,
    Refused(Accepted, Refusal),
}

impl Connection {
    /// Serve the next request.
    pub(super) async fn next(&mut self, shared: &Arc<Shared>, leaving: &mut ShutdownWatch) -> Next {
        let plan = shared.plan.load_full();
        self.empty_lines = 0;
        if !self.drop_empty_lines() {
            return Next::Close;
        }
        if self.buffer.is_empty()
            && !self.wait_for_request(plan.settings.timeouts.idle, leaving).await
        {
            return Next::Close;
        }
        let began = clock::now();
        // The request keeps the plan that is in force when its first byte arrives.
        let plan = shared.plan.load_full();
        let len = match self.read_head(shared, &plan, plan.settings.timeouts.request_head).await {
            Ok(Some(len)) => len,
            Ok(None) => return Next::Close,
            Err(refusal) => return self.refuse_head(shared, plan, began, refusal).await,
        };
        match self.enter(shared, &plan, len) {
            Entered::PassThrough => Next::PassThrough,
            Entered::Refused(accepted, refusal) => {
                let exchange = ExchangeGuard::open(shared, plan, accepted, began);
                self.refuse(exchange, refusal).await
            }
            Entered::Ours(accept) => self.exchange(shared, plan, accept, began).await,
        }
    }

    /// Wait between requests; `false` when the connection is over.
    async fn wait_for_request(&mut self, idle: Duration, leaving: &mut ShutdownWatch) -> bool {
        buffer::give(std::mem::take(&mut self.buffer));
        let coming = async {
            while self.buffer.is_empty() {
                if !matches!(self.read_some().await, Ok(n) if n > 0) {
                    return false;
                }
                if !self.drop_empty_lines() {
                    return false;
                }
            }
            true
        };
        tokio::select! {
            biased;
            coming = with_timeout(idle, coming) => coming.unwrap_or(false),
            () = wait_for_drain(leaving) => false,
        }
    }

    /// Drop empty lines before a request; `false`: there were too many.
    fn drop_empty_lines(&mut self) -> bool {
        let lines = self.buffer.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count();
        self.buffer.drain(..2 * lines);
        self.empty_lines += lines;
        self.empty_lines <= MAX_EMPTY_LINES
    }

    /// Read until the head is complete. Returns its length, or `None` if the client left before.
    async fn read_head(
        &mut self,
        shared: &Shared,
        plan: &Plan,
        limit: Duration,
    ) -> Result<Option<usize>, Refusal> {
        let reading = async {
            let mut seen = 0;
            loop {
                if !self.drop_empty_lines() {
                    return Ok(None);
                }
                match head::find_end(&self.buffer, seen, plan.head_limits) {
                    Ok(Some(len)) => return Ok(Some(len)),
                    Ok(None) => seen = self.buffer.len(),
                    Err(error) => return Err(shared.bad_head(error)),
                }
                if !matches!(self.read_some().await, Ok(n) if n > 0) {
                    return Ok(None);
                }
            }
        };
        with_timeout(limit, reading).await.unwrap_or_else(|| Err(Refusal::slow_request()))
    }

    /// Parse the head, and decide which server handles the request.
    fn enter(&self, shared: &Shared, plan: &Plan, len: usize) -> Entered {
        let head_at = clock::now();
        let mut fields = head::field_buffer();
        let bytes = self.buffer.get(..len).unwrap_or_default();
        let head = match head::parse_request(bytes, &mut fields, plan.head_limits) {
            Ok(head) => head,
            Err(error) => {
                return Entered::Refused(accept::unknown(head_at, bytes), shared.bad_head(error));
            }
        };
        let server = accept::server(&head.line);
        let dialect = match server {
            Server::Exchange(dialect) => Some(dialect),
            Server::PassThrough => None,
        };
        if let Err(refusal) = accept::check(&head) {
            return Entered::Refused(accept::accepted(&head, dialect, head_at), refusal);
        }
        if server == Server::PassThrough {
            return Entered::PassThrough;
        }
        let mut accepted = accept::accepted(&head, dialect, head_at);
        let tls = self.io.get_ssl_digest();
        accepted.peer = forwarded::peer(plan, peer_address(&self.io), tls.is_some(), false);
        accepted.client = forwarded::client(plan, &accepted.peer, &head);
        Entered::Ours(Accept {
            accepted,
            framing: head.framing,
            keep_alive: head.keeps_alive(),
            http10: head.http10,
            expects_continue: accept::expects_continue(&head),
            encoded: head
                .get("content-encoding")
                .is_some_and(|v| !v.eq_ignore_ascii_case(b"identity")),
            shown: authenticate::read_credential(plan, &head, client_certificate(tls.as_deref())),
            head: HeadIndex::new(&head, bytes),
        })
    }

    async fn exchange(
        &mut self,
        shared: &Arc<Shared>,
        plan: Arc<Plan>,
        mut accept: Accept,
        began: Tick,
    ) -> Next {
        let limits = plan.settings.limits;
        let body_timeout = plan.settings.timeouts.request_body;
        let head = accept.body_head();
        let mut exchange = ExchangeGuard::open(shared, plan, accept.accepted, began);
        if let Err(refusal) = authenticate::admit(&mut exchange, accept.shown.take()) {
            return self.refuse(exchange, refusal).await;
        }
        // Bytes after the head belong to this request, and may belong to the next one.
        let mut buffer = HeldBuffer::new(std::mem::take(&mut self.buffer), &shared.memory);
        let max = (limits.request_body, shared.memory.max(&limits));
        let reading = self.read_body(&mut buffer, head, max);
        let body = match with_timeout(body_timeout, reading).await {
            Some(Ok(Some(body))) => body,
            Some(Ok(None)) => {
                exchange.verdict.decide(Outcome::ClientGone, Some("client_closed"));
                return Next::Close;
            }
            ended => {
                // The answer may take a while; the bytes are of no use anymore.
                drop(buffer);
                let refusal = ended.and_then(Result::err).unwrap_or_else(Refusal::slow_request);
                return self.refuse(exchange, refusal).await;
            }
        };
        exchange.accepted.bytes = body.end as u64;
        self.buffer = buffer.split_off(body.end);
        buffer.count(max.1);
        let incoming = Incoming { buffer, head: accept.head, body, encoded: accept.encoded };
        let keep_alive = accept.keep_alive && !shared.is_draining() && !self.is_expired();
        // TLS buffers bytes until it is flushed.
        let buffers = self.io.get_ssl_digest().is_some();
        let mut sink =
            H1Sink::new(&mut self.io, &mut self.buffer, accept.http10, keep_alive, buffers);
        let proper = pipeline::serve(&mut exchange, incoming, &mut sink).await;
        if proper && sink.keeps_alive() { Next::KeepAlive } else { Next::Close }
    }

    /// Read the body after the head, decoded in place: at most `max.0` bytes, and `max.1` in the
    /// memory of all clients. Returns its range in the buffer; `None`: the client left.
    async fn read_body(
        &mut self,
        buffer: &mut HeldBuffer,
        head: BodyHead,
        max: (usize, u64),
    ) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        let (head_len, limit) = (head.len, max.0);
        if let BodyFraming::Length(length) = head.framing
            && length > limit as u64
        {
            return Err(Refusal::body_too_large(limit));
        }
        if head.expects_continue && head.framing != BodyFraming::Empty && buffer.len() == head_len {
            let interim = async {
                self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                self.io.flush().await
            };
            if interim.await.is_err() {
                return Ok(None);
            }
        }
        let mut reader = BodyReader::new(head.framing);
        // `head_len..end` is decoded payload; bytes from `raw` on are not decoded yet.
        let (mut end, mut raw) = (head_len, head_len);
        if !buffer.count(max.1) {
            return Err(Refusal::out_of_memory());
        }
        loop {
            match reader
                .next(buffer.get(raw..).unwrap_or_default())
                .map_err(|_| Refusal::broken_body())?
            {
                Progress::Data { skip, len } => {
                    let from = raw + skip;
                    if from > end {
                        buffer.copy_within(from..from + len, end);
                    }
                    end += len;
                    raw = from + len;
                    if end - head_len > limit {
                        return Err(Refusal::body_too_large(limit));
                    }
                }
                Progress::Done { used } => {
                    buffer.drain(end..raw + used);
                    return Ok(Some(head_len..end));
                }
                Progress::More => {
                    buffer.truncate(end);
                    raw = end;
                    buffer.reserve(BODY_STEP.min(limit - (end - head_len) + 4096));
                    match self.io.read_buf(&mut **buffer).await {
                        Ok(n) if n > 0 => {}
                        _ => return Ok(None),
                    }
                    if !buffer.count(max.1) {
                        return Err(Refusal::out_of_memory());
                    }
                }
            }
        }
    }

    /// Answer a request whose head is malformed.
    async fn refuse_head(
        &mut self,
        shared: &Arc<Shared>,
        plan: Arc<Plan>,
        began: Tick,
        refusal: Refusal,
    ) -> Next {
        let accepted = accept::unknown(clock::now(), &self.buffer);
        let exchange = ExchangeGuard::open(shared, plan, accepted, began);
        self.refuse(exchange, refusal).await
    }

    /// Answer with an error while the client may still be sending: the connection cannot serve
    /// another request.
    async fn refuse(&mut self, mut exchange: ExchangeGuard, refusal: Refusal) -> Next {
        let mut pipelined = Vec::new();
        // TLS buffers bytes until it is flushed.
        let buffers = self.io.get_ssl_digest().is_some();
        let mut sink = H1Sink::new(&mut self.io, &mut pipelined, false, false, buffers);
        pipeline::refuse(&mut exchange, &refusal, &mut sink).await;
        Next::Linger
    }
}

/// The end of the first request in the buffer, if it is complete.
pub(super) fn end_of_first(buffer: &[u8], limits: HeadLimits) -> Option<usize> {
    let head_end = head::find_end(buffer, 0, limits).ok()??;
    let mut fields = head::field_buffer();
    let framing = head::parse_request(buffer.get(..head_end)?, &mut fields, limits).ok()?.framing;
    let mut reader = BodyReader::new(framing);
    let mut at = head_end;
    loop {
        match reader.next(buffer.get(at..)?).ok()? {
            Progress::Data { skip, len } => at += skip + len,
            Progress::Done { used } => return Some(at + used),
            Progress::More => return None,
        }
    }
}
