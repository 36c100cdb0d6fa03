//! Answers to HTTP/1.1 clients.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer;
use crate::leg::{AnswerHead, Gone, Sink};
use crate::stream_buffer::StreamBuffer;

/// Maximum bytes of pipelined requests that are kept while an answer is written.
const MAX_PIPELINED: usize = 64 << 10;

/// Writes the answer of one exchange.
pub struct H1Sink<'c, I> {
    io: &'c mut I,
    /// Bytes of the next request that arrive early.
    pipelined: &'c mut Vec<u8>,
    http10: bool,
    keep_alive: bool,
    /// `io` buffers bytes until it is flushed, as TLS does.
    buffers: bool,
    /// Bytes that were written to `io` and not flushed.
    unflushed: usize,
}

impl<'c, I> H1Sink<'c, I> {
    /// A sink on a client's connection. `pipelined` collects what the client sends meanwhile;
    /// `buffers`: `io` buffers bytes until it is flushed, as TLS does.
    pub fn new(
        io: &'c mut I,
        pipelined: &'c mut Vec<u8>,
        http10: bool,
        keep_alive: bool,
        buffers: bool,
    ) -> Self {
        H1Sink { io, pipelined, http10, keep_alive, buffers, unflushed: 0 }
    }

    /// Whether the connection may serve another request.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Sink for H1Sink<'_, I> {
    fn begin(
        &mut self,
        head: &AnswerHead,
        extra: &str,
        out: &mut StreamBuffer,
    ) -> Result<(), Gone> {
        let bodiless = matches!(head.status, 204 | 304);
        let chunked = head.length.is_none() && !self.http10 && !bodiless;
        // Without a length, an HTTP/1.0 client detects the end by the close.
        self.keep_alive &= head.length.is_some() || chunked || bodiless;
        out.head(|queue| {
            let mut say = |text: &str| queue.extend_from_slice(text.as_bytes());
            say("HTTP/1.1 ");
            say(status_text(head.status, &mut [0; 3]));
            say(" ");
            say(reason_phrase(head.status));
            say("\r\n");
            queue.extend_from_slice(&head.fields);
            let mut say = |text: &str| queue.extend_from_slice(text.as_bytes());
            say(extra);
            match head.length {
                Some(length) if !bodiless => say(&format!("content-length: {length}\r\n")),
                _ if chunked => say("transfer-encoding: chunked\r\n"),
                _ => {}
            }
            match (self.keep_alive, self.http10) {
                (false, _) => say("connection: close\r\n"),
                (true, true) => say("connection: keep-alive\r\n"),
                (true, false) => {}
            }
            say("\r\n");
        });
        out.set_chunked(chunked);
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut StreamBuffer,
    ) -> Poll<Result<(), Gone>> {
        if self.unflushed == 0 {
            match ready!(Pin::new(&mut *self.io).poll_write(cx, out.pending())) {
                Ok(n) if n > 0 => self.unflushed = n,
                _ => return Poll::Ready(Err(Gone)),
            }
        }
        if self.buffers {
            ready!(Pin::new(&mut *self.io).poll_flush(cx)).map_err(|_| Gone)?;
        }
        out.advance(std::mem::take(&mut self.unflushed));
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.pipelined.len() < MAX_PIPELINED {
            let read = buffer::with_scratch(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                match ready!(Pin::new(&mut *self.io).poll_read(cx, &mut buf)) {
                    Ok(()) => self.pipelined.extend_from_slice(buf.filled()),
                    Err(_) => return Poll::Ready(0),
                }
                Poll::Ready(buf.filled().len())
            });
            if ready!(read) == 0 {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn end(&mut self, complete: bool) {
        self.keep_alive &= complete;
    }
}

/// The reason phrase of a status.
pub fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unknown")
}

/// The three digits of a status.
fn status_text(status: u16, room: &mut [u8; 3]) -> &str {
    let mut rest = status;
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    std::str::from_utf8(room).unwrap_or("500")
}
