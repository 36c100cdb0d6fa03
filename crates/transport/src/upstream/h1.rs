//! Our own HTTP/1.1 client: one request and one answer, parsed in the read buffer.
//!
//! - *In*: a connection and a request that is ready.
//! - *Out*: the answer's head, and runs of payload as slices of the read buffer.
//! - *Never*: a buffer held by an idle stream. Reads use the worker's scratch; only bytes that must
//!   survive a read (a torn head) are copied, at most once per answer.

use std::borrow::Cow;
use std::io::{ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http1::head::{self, HeadLimits};
use http1::{BodyFraming, BodyReader, FieldNames, Progress};
use lens::Tick;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::Framing;

use super::connect::{Connection, Io};
use super::{Upstream, kernel};
use crate::leg::{AnswerHead, BodyListener, BodyStep, Source, UpstreamError};
use crate::{HeldBuffer, buffer, clock};

/// Maximum interim (1xx) answers before an answer. Each costs little, but an endless sequence would
/// keep a core busy until the first-byte timeout.
pub(super) const MAX_INTERIM: usize = 32;

/// Fields of an answer that the gateway sets itself.
const OURS: FieldNames = FieldNames::new(&["content-length", "x-request-id"]);

/// A prepared request: the head written by the gateway, and the client's body with edits.
#[derive(Debug)]
pub struct Request {
    /// The head as it is written.
    pub head: Vec<u8>,
    /// The buffer with the body, shared with attempts at other backends.
    pub buffer: Arc<HeldBuffer>,
    /// Byte range of the body in the buffer.
    pub body: std::ops::Range<usize>,
    /// Replacements, in order.
    pub edits: Edits,
}

/// At most two edits: the model's name, and `include_usage`.
pub type Edits = [Option<Edit>; 2];

/// A replacement for a range of the body, which may be empty.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Byte range in the body.
    pub range: std::ops::Range<usize>,
    /// The replacement.
    pub text: Cow<'static, str>,
}

impl Request {
    /// The body before its edits.
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body.clone()).unwrap_or_default()
    }

    /// The head, then kept parts of the body and edits in turn.
    pub(super) fn parts(&self) -> [&[u8]; 6] {
        let body = self.body();
        let [first, second] = &self.edits;
        let (mut at, mut parts) = (0, [&self.head[..], &[], &[], &[], &[], &[]]);
        for (place, edit) in [(1, first), (3, second)] {
            if let Some(edit) = edit {
                parts[place] = body.get(at..edit.range.start).unwrap_or_default();
                parts[place + 1] = edit.text.as_bytes();
                at = edit.range.end;
            }
        }
        parts[5] = body.get(at..).unwrap_or_default();
        parts
    }
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub struct H1Source {
    connection: Connection,
    limits: HeadLimits,
    /// Kept until the answer begins, so that it can be sent again on another connection.
    request: Option<Request>,
    sent: usize,
    is_sent: bool,
    /// The backend reset the connection.
    was_reset: bool,
    /// Bytes of the answer that were read but not parsed: a torn head, or body bytes that arrived
    /// with the head.
    left: Vec<u8>,
    first_byte: Option<Tick>,
    /// Interim answers so far.
    interim: usize,
    body: BodyReader,
    reusable: bool,
    is_chunked: bool,
}

impl H1Source {
    /// An exchange on a connection; nothing is written yet.
    pub fn new(connection: Connection, request: Request, limits: HeadLimits) -> Self {
        H1Source {
            connection,
            limits,
            request: Some(request),
            sent: 0,
            is_sent: false,
            was_reset: false,
            left: Vec::new(),
            first_byte: None,
            interim: 0,
            body: BodyReader::new(BodyFraming::Empty),
            reusable: false,
            is_chunked: false,
        }
    }

    /// The request, if it may be sent again: the connection was reused, no byte of an answer has
    /// arrived, and the backend cannot have acted on the request, because it closed the connection
    /// before it had received it.
    pub fn into_unanswered(mut self) -> Option<Request> {
        let request = self.request.take()?;
        let len = request.parts().iter().map(|part| part.len()).sum();
        // A reset, other than a close, does not acknowledge what was received before.
        let may_have_run = self.is_sent
            && (self.was_reset || kernel::may_have_arrived(self.connection.io.socket(), len));
        (self.connection.reused && self.first_byte.is_none() && !may_have_run).then_some(request)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        lag: &mut Option<u64>,
    ) -> Poll<Result<usize, UpstreamError>> {
        let read = match &mut self.connection.io {
            Io::Tcp(socket) if self.connection.kernel_timestamps => {
                ready!(kernel::poll_read(socket, cx, scratch)).map(|(len, late)| {
                    *lag = late;
                    len
                })
            }
            io => {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(io).poll_read(cx, &mut buf)).map(|()| buf.filled().len())
            }
        };
        self.was_reset |=
            read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        Poll::Ready(read.map_err(UpstreamError::from))
    }

    /// Parse the head in `left`, if it is complete. Interim answers are skipped.
    fn parse_head(&mut self, seen: usize) -> Result<Option<AnswerHead>, UpstreamError> {
        let mut seen = seen;
        loop {
            let Some(end) = head::find_end(&self.left, seen, self.limits)? else { return Ok(None) };
            let (answer, framing) = self.answer_head(end)?;
            self.left.drain(..end);
            seen = 0;
            match answer.status {
                101 => {
                    return Err(head::HeadError::Malformed("unrequested 101 response").into());
                }
                100..=199 => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(head::HeadError::Malformed("too many interim answers").into());
                    }
                }
                _ => {
                    self.body = BodyReader::new(framing);
                    if let Some(request) = self.request.take() {
                        if let Some(held) = Arc::into_inner(request.buffer) {
                            buffer::give(held.into_bytes());
                        }
                        buffer::give(request.head);
                    }
                    return Ok(Some(answer));
                }
            }
        }
    }

    fn answer_head(&mut self, end: usize) -> Result<(AnswerHead, BodyFraming), UpstreamError> {
        let mut fields = head::field_buffer();
        let bytes = self.left.get(..end).unwrap_or_default();
        let head = head::parse_response(bytes, &mut fields, self.limits, false)?;
        let mut fields = buffer::take();
        let hop_by_hop = head.hop_by_hop();
        for field in head.fields {
            if !OURS.contains(field.name) && !hop_by_hop.contains(field.name) {
                fields.extend_from_slice(field.name.as_bytes());
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(field.value);
                fields.extend_from_slice(b"\r\n");
            }
        }
        let content_type =
            head.get("content-type").and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default();
        self.reusable =
            self.is_sent && head.keeps_alive() && head.framing != BodyFraming::UntilClose;
        self.is_chunked = head.framing == BodyFraming::Chunked;
        let answer = AnswerHead {
            status: head.line.status,
            fields,
            length: match head.framing {
                BodyFraming::Empty => Some(0),
                BodyFraming::Length(length) => Some(length),
                BodyFraming::Chunked | BodyFraming::UntilClose => None,
            },
            framing: Framing::from_content_type(content_type),
            encoded: head
                .get("content-encoding")
                .is_some_and(|v| !v.eq_ignore_ascii_case(b"identity")),
            first_byte: self.first_byte.unwrap_or_default(),
        };
        Ok((answer, head.framing))
    }

    /// Pass the payload in `bytes` to `listener`, run by run.
    fn decode(
        &mut self,
        mut bytes: &[u8],
        listener: &mut impl BodyListener,
    ) -> Result<BodyStep, UpstreamError> {
        loop {
            match self.body.next(bytes)? {
                Progress::Data { skip, len } => {
                    let (run, rest) = bytes
                        .get(skip..)
                        .unwrap_or_default()
                        .split_at_checked(len)
                        .unwrap_or_default();
                    listener.payload(run);
                    bytes = rest;
                }
                Progress::More => return Ok(BodyStep::More),
                Progress::Done { used } => {
                    // Surplus bytes after the end: the connection must not serve another request.
                    self.reusable &= used == bytes.len();
                    return Ok(BodyStep::End);
                }
            }
        }
    }
}

impl Source for H1Source {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        while let Some(request) = &self.request {
            let parts = request.parts();
            let total: usize = parts.iter().map(|p| p.len()).sum();
            if self.sent >= total {
                break;
            }
            let mut skip = self.sent;
            let slices = parts.map(|part| {
                let rest = part.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(part.len());
                IoSlice::new(rest)
            });
            match ready!(Pin::new(&mut self.connection.io).poll_write_vectored(cx, &slices)) {
                Ok(0) => {
                    return Poll::Ready(Err(
                        std::io::Error::from(std::io::ErrorKind::WriteZero).into()
                    ));
                }
                Ok(n) => self.sent += n,
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
        ready!(Pin::new(&mut self.connection.io).poll_flush(cx))?;
        self.is_sent = true;
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        loop {
            let seen = self.left.len();
            let read = buffer::with_scratch(|scratch| {
                let len = ready!(self.poll_read(cx, scratch, &mut None))?;
                self.left.extend_from_slice(scratch.get(..len).unwrap_or_default());
                Poll::Ready(Ok::<_, UpstreamError>(len))
            });
            if ready!(read)? == 0 {
                return Poll::Ready(Err(UpstreamError::ClosedEarly));
            }
            self.first_byte.get_or_insert_with(clock::now);
            if let Some(head) = self.parse_head(seen)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        if self.body.is_done() {
            self.reusable &= self.left.is_empty();
            return Poll::Ready(Ok(BodyStep::End));
        }
        if !self.left.is_empty() {
            let left = std::mem::take(&mut self.left);
            listener.begin_read(self.first_byte.unwrap_or_default(), None);
            return Poll::Ready(self.decode(&left, listener));
        }
        buffer::with_scratch(|scratch| {
            let mut lag = None;
            let len = ready!(self.poll_read(cx, scratch, &mut lag))?;
            if len == 0 {
                self.reusable = false;
                self.body.closed()?;
                return Poll::Ready(Ok(BodyStep::End));
            }
            listener.begin_read(clock::now(), lag);
            Poll::Ready(self.decode(scratch.get(..len).unwrap_or_default(), listener))
        })
    }

    fn settle(self, upstream: &Upstream) {
        if self.reusable && self.body.is_done() {
            self.connection.give_back(upstream, self.is_chunked);
        }
    }
}
