//! A connection to a simulated engine: requests in, bytes out, with the time of each write.
//!
//! - *In*: bytes of HTTP/1.1.
//! - *Out*: whole requests; writes, stamped at the system call that took their last byte.
//! - *Never*: a buffer between a stamp and the kernel.

use std::io::{Error, ErrorKind, Result};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http1::head::{HeadLimits, field_buffer, find_end, parse_request};
use http1::{BodyReader, Progress};
use tokio::net::TcpStream;

/// Maximum bytes of a request body.
const MAX_BODY: usize = 64 << 20;
/// Maximum bytes that are read ahead of a request's end.
const MAX_AHEAD: usize = 64 << 10;
/// Maximum time of a head or a body once its first byte is there, and between requests.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A request that is complete.
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) body: Vec<u8>,
    pub(super) keeps_alive: bool,
    /// When the read that completed it returned.
    pub(super) received: Instant,
}

/// A write that the kernel has taken.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    /// The system call that took the last byte began.
    pub(super) at: Instant,
    /// The time of that call: the bytes left within it.
    pub(super) took: Duration,
}

pub(super) struct Connection {
    socket: TcpStream,
    read: BytesMut,
    /// When the latest read returned.
    read_at: Instant,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        Connection { socket, read: BytesMut::new(), read_at: Instant::now() }
    }

    /// The next request, or `None` at the end of the connection.
    ///
    /// # Errors
    /// I/O errors, and a message for the client if the request is invalid.
    pub(super) async fn request(&mut self) -> Result<Option<Request>> {
        let read = tokio::time::timeout(READ_TIMEOUT, self.read_request()).await;
        read.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    async fn read_request(&mut self) -> Result<Option<Request>> {
        let mut seen = 0;
        let end = loop {
            let end = find_end(&self.read, seen, HeadLimits::default());
            if let Some(end) = end.map_err(invalid)? {
                break end;
            }
            seen = self.read.len();
            if self.fill().await? == 0 {
                return Ok(None);
            }
        };
        let head_bytes = self.read.split_to(end);
        let mut fields = field_buffer();
        let head =
            parse_request(&head_bytes, &mut fields, HeadLimits::default()).map_err(invalid)?;
        if head.http10 {
            return Err(invalid("HTTP/1.1 is required"));
        }
        let (method, target) = (head.line.method.to_owned(), head.line.target.to_owned());
        let (keeps_alive, framing) = (head.keeps_alive(), head.framing);
        if head.list_contains("expect", "100-continue") && self.read.is_empty() {
            self.give(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = self.body(BodyReader::new(framing)).await?;
        Ok(Some(Request { method, target, body, keeps_alive, received: self.read_at }))
    }

    async fn body(&mut self, mut reader: BodyReader) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            match reader.next(&self.read).map_err(invalid)? {
                Progress::Data { skip, len } => {
                    self.read.advance(skip);
                    body.extend_from_slice(&self.read.split_to(len));
                }
                Progress::Done { used } => {
                    self.read.advance(used);
                    return Ok(body);
                }
                Progress::More => {
                    self.read.clear();
                    if self.fill().await? == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            if body.len() > MAX_BODY {
                return Err(invalid("the body is larger than 64 MiB"));
            }
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_read_buf(&mut self.read) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => {
                    self.read_at = Instant::now();
                    return read;
                }
            }
        }
    }

    /// Waits until the client has closed. What it sends is kept for the next request.
    pub(super) async fn gone(&mut self) {
        loop {
            if self.read.len() > MAX_AHEAD {
                return std::future::pending().await;
            }
            if self.fill().await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn give(&mut self, mut bytes: &[u8]) -> Result<Stamp> {
        loop {
            self.socket.writable().await?;
            let at = Instant::now();
            match self.socket.try_write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            }
            if bytes.is_empty() {
                return Ok(Stamp { at, took: at.elapsed() });
            }
        }
    }

    /// Ends the connection with a reset.
    pub(super) fn reset(self) {
        // Without it, the connection ends with a FIN, which a client notices as well.
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidData, error)
}
