//! A client connection: hyper's HTTP/1.1 over tokio's sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base_url::{BaseUrl, UrlError};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Timeout for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("cannot connect to {0} within {CONNECT:?}")]
    ConnectTimeout(String),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// The server that requests are sent to.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    authority: String,
    prefix: String,
    tls: Option<TlsConnector>,
}

/// One open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Whether it served a request before.
    reused: bool,
    /// Set when bytes arrive.
    received: Arc<AtomicBool>,
}

impl Target {
    /// The target of a base URL, `http://host:port` with or without `/v1`.
    pub(crate) fn new(base: &str) -> Result<Self, String> {
        let shown = base_url::redact(base);
        let bad = |why: UrlError| match base_url::with_scheme(base) {
            Some(full) => format!("{shown} has no scheme; write {full}"),
            None => format!("{shown} {why}; write for example http://127.0.0.1:8080"),
        };
        let url: BaseUrl = base.parse().map_err(bad)?;
        if let Some(path) = url.request_path() {
            let right = url.without(path);
            return Err(format!("{shown} ends with {path}, the path of a request; write {right}"));
        }
        let BaseUrl { tls, host, port, authority, prefix } = url;
        let prefix = prefix.strip_suffix("/v1").unwrap_or(&prefix).to_owned();
        Ok(Target { host, port, authority, prefix, tls: tls.then(connector) })
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}{path}", self.authority, self.prefix)
    }

    /// A request for a path.
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", &self.authority)
    }

    pub(crate) async fn connect(&self) -> Result<Connection, ClientError> {
        let name = || self.authority.clone();
        let dial = async {
            let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
            socket.set_nodelay(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let timeout = tokio::time::timeout(CONNECT, dial)
            .await
            .map_err(|_| ClientError::ConnectTimeout(name()))?;
        let socket = timeout.map_err(|e| ClientError::Connect(name(), e))?;
        let Some(tls) = &self.tls else { return handshake(socket).await };
        let server = ServerName::try_from(self.host.clone())
            .map_err(|e| ClientError::Connect(name(), std::io::Error::other(e)))?;
        let stream =
            tls.connect(server, socket).await.map_err(|e| ClientError::Connect(name(), e))?;
        handshake(stream).await
    }
}

async fn handshake<I>(io: I) -> Result<Connection, ClientError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let received = Arc::new(AtomicBool::new(false));
    let io = Watched { io, received: received.clone() };
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    // Drives the connection; it ends when the sender is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { sender, reused: false, received })
}

impl Connection {
    /// Sends a request; returns the head of the answer.
    ///
    /// # Errors
    /// [`SendError`]: the error, and whether the request may be sent again.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, SendError> {
        let reused = std::mem::replace(&mut self.reused, true);
        self.received.store(false, Ordering::Relaxed);
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        answer.await.map_err(|error| SendError {
            error: error.into(),
            closed_before: reused && !self.received.load(Ordering::Relaxed),
        })
    }

    /// Whether another request may be sent.
    pub(crate) fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// A request without the head of an answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// The error.
    pub(crate) error: ClientError,
    /// The connection had served a request before, and closed before any byte of this answer: a
    /// server that closes its idle connections. Clients send such a request again.
    pub(crate) closed_before: bool,
}

/// A socket that notes when bytes arrive.
struct Watched<I> {
    io: I,
    received: Arc<AtomicBool>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.received.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("invariant: the provider supports the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
