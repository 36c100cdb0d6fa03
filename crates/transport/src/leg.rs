//! The two ends of a relay: a source of an answer, and a sink for it.
//!
//! - *In*: polls of one task.
//! - *Out*: heads, runs of payload, bytes written.
//! - *Never*: an await, because the relay takes timestamps between two polls.

use std::task::{Context, Poll};
use std::time::Duration;

use http1::BodyError;
use lens::Tick;
use wire::Framing;

use crate::Upstream;
use crate::stream_buffer::StreamBuffer;

/// Why a backend gave no answer, or an incomplete one.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// All connections of the backend's `max_connections` are in use.
    #[error("all connections to the backend are in use (max_connections)")]
    Busy,
    /// The connection was refused, or its TLS handshake failed.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection was not established within the connect timeout.
    #[error("connect timeout")]
    ConnectTimeout,
    /// The backend closed the connection before an answer began.
    #[error("connection closed before the answer")]
    ClosedEarly,
    /// The backend broke off after the head of its answer.
    #[error("the answer ended prematurely")]
    BrokeOff,
    /// The socket failed.
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The head of the answer is not valid HTTP/1.1.
    #[error("invalid head of the answer: {0}")]
    Head(#[from] http1::head::HeadError),
    /// The body of the answer is not valid HTTP/1.1.
    #[error("invalid body of the answer: {0}")]
    Body(#[from] BodyError),
    /// HTTP/2 failed.
    #[error("HTTP/2: {0}")]
    H2(String),
}

impl UpstreamError {
    /// Whether the error counts against the backend's health. `Busy` does not: the connection limit
    /// is the gateway's own.
    pub fn blames_backend(&self) -> bool {
        !matches!(self, UpstreamError::Busy)
    }
}

/// The head of an answer, hop-by-hop fields and framing removed.
#[derive(Clone, Debug)]
pub struct AnswerHead {
    /// The status code.
    pub status: u16,
    /// Fields to forward, each `name: value` with its CRLF.
    pub fields: Vec<u8>,
    /// The body's length, where the backend states one.
    pub length: Option<u64>,
    /// Framing of events in the body, by its content type.
    pub framing: Framing,
    /// `Content-Encoding` is not identity, so events cannot be parsed.
    pub encoded: bool,
    /// When its first byte was read.
    pub first_byte: Tick,
}

impl AnswerHead {
    /// `Retry-After` of a 429 or 503 (RFC 9110, 10.2.3), in seconds or as a date.
    pub fn retry_after(&self) -> Option<Duration> {
        if !matches!(self.status, 429 | 503) {
            return None;
        }
        let text = std::str::from_utf8(&self.fields).ok()?;
        let value = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?
            .1
            .trim();
        let by_date = || {
            httpdate::parse_http_date(value).ok()?.duration_since(std::time::SystemTime::now()).ok()
        };
        value.parse().ok().map(Duration::from_secs).or_else(by_date)
    }
}

/// An error in place of the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyError {
    /// The equivalent HTTP status.
    pub status: u16,
    /// Its code; `None`: it follows from the status.
    pub code: Option<&'static str>,
}

/// One step of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// More may follow.
    More,
    /// The body is complete.
    End,
}

/// Receives a body as it is read.
pub trait BodyListener {
    /// A read has returned at `now`. The kernel received its bytes `lag` microseconds earlier;
    /// `None`: unknown.
    fn begin_read(&mut self, now: Tick, lag: Option<u64>);

    /// A run of payload.
    fn payload(&mut self, run: &[u8]);
}

/// The source of an answer. The relay polls it; a pending method registers the waker.
pub trait Source {
    /// Continue to write the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>>;

    /// The head of the answer. May be polled while the request is still being written.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>>;

    /// Read the body once, and pass the payload to `listener` run by run.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>>;

    /// Whether the connection is still being established.
    fn is_connecting(&self) -> bool {
        false
    }

    /// Time of the last read of an answer whose head is held.
    fn held_read_at(&self) -> Option<Tick> {
        None
    }

    /// Take the comments (keep-alives) of an event stream whose head is held, with a copy of the
    /// head. They may be sent to the client ahead of the answer.
    fn take_comments(&mut self) -> Option<(AnswerHead, Vec<u8>)> {
        None
    }

    /// Time until which the head was held; `None`: it was not held.
    fn held_until(&self) -> Option<Tick> {
        None
    }

    /// The error in place of the first token, if the answer was held until then.
    fn early_error(&self) -> Option<EarlyError> {
        None
    }

    /// The answer is complete: return the connection to the pool if it can be reused.
    fn settle(self, upstream: &Upstream);
}

/// The client closed its connection, or reset its stream.
#[derive(Debug)]
pub struct Gone;

/// The destination of an answer. The relay polls it; a pending method registers the waker.
pub trait Sink {
    /// Begin the answer. HTTP/1.1 queues the head in `out`, so that it is written with the first
    /// bytes of the body. `extra`: fields that the gateway adds, each with its CRLF.
    fn begin(&mut self, head: &AnswerHead, extra: &str, out: &mut StreamBuffer)
    -> Result<(), Gone>;

    /// Write queued bytes.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut StreamBuffer,
    ) -> Poll<Result<(), Gone>>;

    /// Ready when the client has disconnected.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// All bytes are written. `complete` is false for an answer that broke off: the client must be
    /// able to detect that.
    fn end(&mut self, complete: bool);
}
