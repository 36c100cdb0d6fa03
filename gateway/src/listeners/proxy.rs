//! The app of a listener: takes accepted connections and decides which protocol they speak.
//!
//! HTTP/1.1 is read by `h1.rs`; HTTP/2 is pingora's, stream by stream. Requests that are not
//! inference go to a stock proxy (`pass_through.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use observatory::Gauges;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{ALPN, SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use pipeline::shared::Shared;
use pipeline::with_timeout;
use tokio::sync::Notify;

use super::bind::Bound;
use super::pass_through::{FOREVER, Proxy, new_proxy, total_of};
use super::{h1, h2, wait_for_drain};
use crate::tls::Acceptor;

/// Serves the connections of one listener.
pub(crate) struct ProxyApp {
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    /// Accept HTTP/2 without TLS.
    h2c: bool,
    tls: Option<Arc<Acceptor>>,
    h2: H2Options,
    h2_server: HttpServerOptions,
}

/// The preface of an HTTP/2 connection. No HTTP/1.1 request begins with its first four bytes.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl ProxyApp {
    pub(crate) fn new(shared: &Arc<Shared>, bound: &Bound) -> Self {
        let settings = &shared.plan.load().settings;
        let limits = settings.limits;
        let mut h2 = H2Options::new();
        h2.max_header_list_size(u32::try_from(limits.request_head).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.h2_streams)
            .max_concurrent_reset_streams(20)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(Some(64))
            .initial_window_size(256 << 10)
            .initial_connection_window_size(1 << 20);
        let mut h2_server = HttpServerOptions::default();
        h2_server.h2c = true;
        let idle = settings.timeouts.idle;
        h2_server.h2_idle_timeout = (!idle.is_zero()).then_some(idle);
        ProxyApp {
            shared: shared.clone(),
            proxy: Arc::new(new_proxy(shared)),
            h2c: bound.h2c,
            tls: bound.tls(),
            h2,
            h2_server,
        }
    }

    /// Prepare a connection for its first request. Returns whether it speaks HTTP/2; `None`: it
    /// failed, or a timeout expired.
    async fn open(&self, io: Stream) -> Option<(Stream, bool)> {
        let mut io = match &self.tls {
            Some(tls) => self.handshake(tls, io).await?,
            None => io,
        };
        let h2 = match io.selected_alpn_proto() {
            Some(ALPN::H2) => true,
            _ if self.tls.is_some() || !self.h2c => false,
            _ => self.begins_h2(&mut io).await?,
        };
        Some((io, h2))
    }

    /// Shake hands, within `timeouts.request_head`.
    async fn handshake(&self, tls: &Acceptor, io: Stream) -> Option<Stream> {
        let io = io.into_any().downcast::<TcpStream>().ok()?;
        let limit = self.shared.plan.load().settings.timeouts.request_head;
        match with_timeout(limit, tls.handshake(*io)).await {
            Some(Ok(io)) => return Some(io),
            Some(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            None => tracing::debug!(timeout = ?limit, "TLS handshake timeout"),
        }
        self.shared.client_limits.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Serve an HTTP/2 connection. Pingora applies the idle timeout after the client's preface; a
    /// client that sends no request, and not even that, is closed after the same time.
    async fn serve_h2(&self, io: Stream, shutdown: &ShutdownWatch) {
        let idle = self.shared.plan.load().settings.timeouts.idle;
        let app = Arc::new(H2App {
            shared: self.shared.clone(),
            proxy: self.proxy.clone(),
            h2: self.h2.clone(),
            options: self.h2_server.clone(),
            requested: Notify::new(),
        });
        let idled = async {
            if with_timeout(idle, app.requested.notified()).await.is_some() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            _ = app.process_new(io, shutdown) => {}
            () = idled => {}
        }
    }

    /// Whether the connection begins with the HTTP/2 preface, without consuming it; `None`: a
    /// timeout expired. `idle` applies to the first byte, `request_head` to the rest.
    async fn begins_h2(&self, io: &mut Stream) -> Option<bool> {
        let timeouts = self.shared.plan.load().settings.timeouts;
        let mut begins = [0; PREFACE.len()];
        for (len, wait) in
            [(1, timeouts.idle), (4, timeouts.request_head), (PREFACE.len(), timeouts.request_head)]
        {
            let part = begins.get_mut(..len)?;
            let wait = if wait.is_zero() { FOREVER } else { wait };
            if !tokio::time::timeout(wait, io.try_peek(part)).await.ok()?.ok()? {
                return Some(false);
            }
            if *part != PREFACE[..len] {
                return Some(false);
            }
        }
        Some(true)
    }
}

/// Counts a connection while it lives.
struct CountedConnection<'s>(&'s Gauges);

impl Drop for CountedConnection<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl ServerApp for ProxyApp {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let gauges = self.shared.observatory.gauges();
        gauges.connections.fetch_add(1, Ordering::Relaxed);
        let _counted = CountedConnection(gauges);
        let address = io
            .get_socket_digest()
            .as_deref()
            .and_then(SocketDigest::peer_addr)
            .and_then(|address| address.as_inet())
            .map(SocketAddr::ip);
        let limits = self.shared.plan.load().settings.limits;
        let _permitted = self.shared.client_limits.admit_connection(address, &limits)?;
        let mut leaving = shutdown.clone();
        let (io, h2) = tokio::select! {
            opened = self.open(io) => opened?,
            () = wait_for_drain(&mut leaving) => return None,
        };
        if h2 {
            self.serve_h2(io, shutdown).await;
        } else {
            h1::serve(&self.shared, &self.proxy, io, shutdown).await;
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Serves the streams of one HTTP/2 connection.
pub(crate) struct H2App {
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    h2: H2Options,
    options: HttpServerOptions,
    /// Notified by each request.
    requested: Notify,
}

#[async_trait]
impl HttpServerApp for H2App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: pingora::protocols::http::ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.requested.notify_one();
        if let pingora::protocols::http::ServerSession::H2(stream) = &mut session
            && h2::is_ours(stream)
        {
            h2::serve(&self.shared, stream).await;
            return None;
        }
        let head = match &session {
            pingora::protocols::http::ServerSession::H2(stream) => h2::as_http1(stream),
            _ => Vec::new(),
        };
        let total = total_of(&self.shared, &head);
        tokio::time::timeout(total, self.proxy.process_new_http(session, shutdown))
            .await
            .ok()
            .flatten()
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
