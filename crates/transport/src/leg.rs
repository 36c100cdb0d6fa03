//! The two ends of a relay: a source of an answer, and a sink for it.
//!
//! - *In*: polls of one task.
//! - *Out*: heads, runs of payload, bytes taken.
//! - *Never*: an await: the relay stamps between two polls.

use std::task::{Context, Poll};
use std::time::Duration;

use lens::Tick;
use wire::Framing;
use wire::http1::BodyError;

use crate::Upstream;
use crate::out::Out;

/// Why a backend gave no answer, or no whole one.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// All connections of the backend's `max_connections` are in use.
    #[error("all connections are in use")]
    Busy,
    /// The connection was refused, or its TLS handshake failed.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection did not stand within the connect timeout.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The backend closed the connection before an answer began.
    #[error("closed before it answered")]
    ClosedEarly,
    /// The backend broke off behind the head of its answer.
    #[error("broke off in the middle of its answer")]
    BrokeOff,
    /// The socket failed.
    #[error("cannot write or read: {0}")]
    Io(#[from] std::io::Error),
    /// The head of the answer breaks HTTP/1.1.
    #[error("not valid HTTP: {0}")]
    Head(#[from] wire::http1::head::HeadError),
    /// The body of the answer breaks HTTP/1.1.
    #[error("not valid HTTP: {0}")]
    Body(#[from] BodyError),
    /// HTTP/2 failed.
    #[error("HTTP/2: {0}")]
    H2(String),
}

impl UpstreamError {
    /// Whether the error counts against the backend. A full connection limit is the gateway's own.
    pub fn blames_backend(&self) -> bool {
        !matches!(self, UpstreamError::Busy)
    }
}

/// The head of an answer, hop-by-hop fields and framing removed.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status code.
    pub status: u16,
    /// Fields to forward, each `name: value` with its CRLF.
    pub fields: Vec<u8>,
    /// The body's length, where the backend states one.
    pub length: Option<u64>,
    /// How events stand in the body, by its content type.
    pub framing: Framing,
    /// `Content-Encoding` other than identity: events cannot be read.
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

/// One step of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// More may come.
    More,
    /// That was the end, and a proper one.
    End,
}

/// Takes a body as it is read.
pub trait BodyListener {
    /// A read has returned at `now`; the kernel had its bytes `lag` microseconds before.
    fn begin_read(&mut self, now: Tick, lag: Option<u64>);

    /// A run of payload.
    fn payload(&mut self, run: &[u8]);
}

/// Where an answer comes from. The relay polls; all methods register the waker when they are
/// pending.
pub trait Source {
    /// Write the request on.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>>;

    /// The head of the answer. May be polled while the request is still being written.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>>;

    /// One read of the body, given to `listener` run by run.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>>;

    /// Whether the connection is still being made.
    fn is_connecting(&self) -> bool {
        false
    }

    /// When bytes were last read of an answer whose head is held back.
    fn held_read_at(&self) -> Option<Tick> {
        None
    }

    /// Until when the head was held back that was given out; `None`: it was not.
    fn held_until(&self) -> Option<Tick> {
        None
    }

    /// The status of an error instead of the first token, if the answer was held until that.
    fn error_status(&self) -> Option<u16> {
        None
    }

    /// The answer is complete: the connection may serve another request if nothing speaks against
    /// it.
    fn settle(self, upstream: &Upstream);
}

/// The client closed its connection, or reset its stream.
#[derive(Debug)]
pub struct Gone;

/// Where an answer goes. The relay polls; all methods register the waker when they are pending.
pub trait Sink {
    /// Begin the answer. HTTP/1.1 queues the head in `out`, so that it leaves with the first bytes
    /// of the body. `extra` are fields of ours, each with its CRLF.
    fn begin(&mut self, head: &AnswerHead, extra: &str, out: &mut Out) -> Result<(), Gone>;

    /// Write some of what is queued.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<Result<(), Gone>>;

    /// Ready when the client has left.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Everything is written. `complete` is false for an answer that broke off: its end must not
    /// look like one.
    fn end(&mut self, complete: bool);
}
