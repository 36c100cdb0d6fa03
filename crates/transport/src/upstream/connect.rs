//! Connections: idle ones from the pool, or new ones.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{ConnectionPermit, Upstream, kernel, pool};
use crate::clock;
use crate::leg::UpstreamError;

/// A connection to a backend, plain or TLS.
#[derive(Debug)]
pub enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Io::Tcp(socket) => socket,
            Io::Tls(tls) => tls.get_ref().0,
        }
    }
}

/// A connection in use by one exchange.
#[derive(Debug)]
pub struct Connection {
    pub(super) io: Io,
    /// It has served a request before. A close before the first byte may then be an idle timeout.
    pub reused: bool,
    pub(super) kernel_timestamps: bool,
    _permit: ConnectionPermit,
}

/// Take an idle connection, or dial. `fresh`: always dial.
pub async fn connect(
    upstream: &Arc<Upstream>,
    timeout: Duration,
    fresh: bool,
) -> Result<Connection, UpstreamError> {
    let permit = upstream.permit().ok_or(UpstreamError::Busy)?;
    let kernel_timestamps = upstream.limits.kernel_timestamps && upstream.tls.is_none();
    if let Some(io) = (!fresh).then(|| pool::take(upstream.number)).flatten() {
        return Ok(Connection { io, reused: true, kernel_timestamps, _permit: permit });
    }
    let dial = async {
        let socket = dial_tcp(upstream).await?;
        socket.set_nodelay(true)?;
        if kernel_timestamps {
            kernel::enable(&socket)?;
        }
        match &upstream.tls {
            None => Ok(Io::Tcp(socket)),
            Some(tls) => tls.handshake(socket).await.map(|s| Io::Tls(Box::new(s))),
        }
    };
    let io = match (!timeout.is_zero()).then_some(timeout) {
        Some(timeout) => {
            tokio::time::timeout(timeout, dial).await.map_err(|_| UpstreamError::ConnectTimeout)?
        }
        None => dial.await,
    };
    Ok(Connection {
        io: io.map_err(UpstreamError::Connect)?,
        reused: false,
        kernel_timestamps,
        _permit: permit,
    })
}

/// Dial over TCP, and record the connect time as round trip. DNS resolution is not included.
pub async fn dial_tcp(upstream: &Upstream) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((upstream.backend.host.as_str(), upstream.backend.port))
            .await?
            .collect();
    let began = clock::now();
    let socket = TcpStream::connect(&*addresses).await?;
    let now = clock::now();
    upstream.member.connected(Duration::from_nanos(now.nanos_since(began)), now);
    Ok(socket)
}

impl Connection {
    /// Return the connection to the pool. Its answer was read to the end, and no byte followed.
    /// `rests`: it is used again after [`pool::REST`] only.
    pub(super) fn give_back(self, upstream: &Upstream, rests: bool) {
        pool::put(upstream.number, self.io, rests, upstream.backend.idle_connections);
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
