//! HTTP/1.1 clients: the gateway's own reader and writer on a connection that pingora accepted.
//!
//! - *In*: a plain or TLS stream.
//! - *Out*: inference requests for the pipeline; other requests for pingora's proxy, with the bytes
//!   that were read.
//! - *Never*: a head that the parser did not accept; a request parsed from a body that was not
//!   read.

mod request;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use pipeline::shared::Shared;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use transport::buffer;

use super::pass_through::{Proxy, total_of};
use request::Next;

/// Maximum time, and bytes, for which the rest of a request is read after an early answer, so that
/// the client receives the answer and not a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// A client's connection.
struct Connection {
    io: Stream,
    /// Bytes that were read and belong to the next request.
    buffer: Vec<u8>,
    /// Empty lines since the last request.
    empty_lines: usize,
    /// When it is to end after an answer.
    expires: Option<Instant>,
}

/// Serve a connection to its end.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    proxy: &Arc<Proxy>,
    io: Stream,
    shutdown: &ShutdownWatch,
    expires: Option<Instant>,
) {
    let mut connection = Connection { io, buffer: Vec::new(), empty_lines: 0, expires };
    let mut leaving = shutdown.clone();
    loop {
        match connection.next(shared, &mut leaving).await {
            Next::KeepAlive => {}
            Next::Close => break,
            Next::Linger => {
                let _ = tokio::time::timeout(LINGER, connection.linger()).await;
                break;
            }
            Next::PassThrough => match connection.pass_through(shared, proxy, shutdown).await {
                Some(back) => connection = back,
                None => return,
            },
        }
    }
    let _ = connection.io.shutdown().await;
}

impl Connection {
    /// Hand the request at the front of the buffer to pingora's proxy. Returns the connection if it
    /// can be reused.
    async fn pass_through(
        self,
        shared: &Shared,
        proxy: &Arc<Proxy>,
        shutdown: &ShutdownWatch,
    ) -> Option<Connection> {
        let (expires, is_expired) = (self.expires, self.is_expired());
        let mut first = self.buffer;
        // Requests that arrived in the same read stay with this connection.
        let rest = request::end_of_first(&first, shared.plan.load().head_limits)
            .map(|end| first.split_off(end))
            .unwrap_or_default();
        let total = total_of(shared, &first);
        let mut session = ServerSession::new_http1(self.io);
        session.set_keepalive(Some(60));
        session.set_pipelined_prefix(BytesMut::from(first.as_slice()));
        buffer::give(first);
        // Pingora closes connections after the answer when the gateway drains.
        let (_, closing) = watch::channel(true);
        let shutdown = if is_expired { &closing } else { shutdown };
        let reused =
            Box::pin(tokio::time::timeout(total, proxy.process_new_http(session, shutdown)))
                .await
                .ok()??;
        let (io, _settings) = reused.consume();
        Some(Connection { io, buffer: rest, empty_lines: 0, expires })
    }

    /// Whether it is older than `limits.connection_age`.
    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| Instant::now() >= at)
    }

    /// Read some bytes into the buffer; how many.
    async fn read_some(&mut self) -> std::io::Result<usize> {
        poll_fn(|cx| poll_read_some(&mut self.io, cx, &mut self.buffer)).await
    }

    /// Close the write side, and discard what the client still sends.
    async fn linger(&mut self) {
        let _ = AsyncWriteExt::shutdown(&mut self.io).await;
        let mut left = LINGER_BYTES;
        while left > 0 {
            self.buffer.clear();
            match self.read_some().await {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }
}

/// One read through the worker's scratch buffer, so that an idle connection holds none.
fn poll_read_some(
    io: &mut Stream,
    cx: &mut Context<'_>,
    into: &mut Vec<u8>,
) -> Poll<std::io::Result<usize>> {
    buffer::with_scratch(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        let read = buf.filled();
        if into.capacity() == 0 && !read.is_empty() {
            *into = buffer::take();
        }
        into.extend_from_slice(read);
        Poll::Ready(Ok(read.len()))
    })
}
