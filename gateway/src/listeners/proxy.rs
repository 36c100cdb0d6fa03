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
use pingora::protocols::{ALPN, SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use pipeline::shared::Shared;

use super::bind::Protocols;
use super::pass_through::{FOREVER, Proxy, new_proxy, total_of};
use super::{h1, h2, wait_for_drain};

/// Serves the connections of one listener.
pub(crate) struct ProxyApp {
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    streams: Arc<H2App>,
    protocols: Protocols,
}

/// The preface of an HTTP/2 connection. No HTTP/1.1 request begins with its first four bytes.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl ProxyApp {
    pub(crate) fn new(shared: &Arc<Shared>, protocols: Protocols) -> Self {
        let proxy = Arc::new(new_proxy(shared));
        let limits = shared.plan.load().settings.limits;
        let mut h2 = H2Options::new();
        h2.max_header_list_size(u32::try_from(limits.request_head).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.h2_streams)
            .max_concurrent_reset_streams(20)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(Some(64))
            .initial_window_size(256 << 10)
            .initial_connection_window_size(1 << 20);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        let idle = shared.plan.load().settings.timeouts.idle;
        options.h2_idle_timeout = (!idle.is_zero()).then_some(idle);
        let streams = Arc::new(H2App { shared: shared.clone(), proxy: proxy.clone(), h2, options });
        ProxyApp { shared: shared.clone(), proxy, streams, protocols }
    }
}

impl ProxyApp {
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
    async fn process_new(
        self: &Arc<Self>,
        mut io: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
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
        let tls = io.get_ssl_digest();
        // Pingora accepts TLS 1.2 and 1.3; connections that the listener does not permit end here.
        if !self.protocols.tls12 && tls.as_ref().is_some_and(|tls| tls.version != "TLSv1_3") {
            return None;
        }
        let tls = tls.is_some();
        let h2 = match io.selected_alpn_proto() {
            Some(ALPN::H2) => true,
            _ if tls || !self.protocols.h2c => false,
            _ => {
                let mut leaving = shutdown.clone();
                tokio::select! {
                    begins = self.begins_h2(&mut io) => begins?,
                    () = wait_for_drain(&mut leaving) => return None,
                }
            }
        };
        if h2 {
            self.streams.process_new(io, shutdown).await;
        } else {
            h1::serve(&self.shared, &self.proxy, io, shutdown).await;
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Serves the streams of HTTP/2 connections.
pub(crate) struct H2App {
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    h2: H2Options,
    options: HttpServerOptions,
}

#[async_trait]
impl HttpServerApp for H2App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: pingora::protocols::http::ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
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
