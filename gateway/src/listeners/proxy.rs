//! The app of a listener: takes accepted connections and decides which protocol they speak.
//!
//! HTTP/1.1 is read by `h1.rs`; HTTP/2 is pingora's, stream by stream. Requests that are not
//! inference go to a stock proxy (`pass_through.rs`).

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use config::settings::Listener;
use observatory::Gauges;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{ALPN, GetSocketDigest, SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use pipeline::shared::Shared;
use pipeline::with_timeout;
use plan::client_limits::ConnectionGuard;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::bind::Bound;
use super::pass_through::{FOREVER, Proxy, new_proxy, total_of};
use super::{h1, h2, proxy_protocol, wait_for_drain};
use crate::tls::Acceptor;

/// Serves the connections of one listener.
pub(crate) struct ProxyApp {
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    listener: Listener,
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
            listener: bound.listener.clone(),
            tls: bound.tls(),
            h2,
            h2_server,
        }
    }

    /// Prepare a connection for its first request. Returns whether it uses HTTP/2; `None`: it may
    /// not connect, it failed, or a timeout expired.
    async fn open(&self, io: Stream, permit: &mut ConnectionGuard) -> Option<(Stream, bool)> {
        let io = self.identify(io, permit).await?;
        let mut io = match &self.tls {
            // Boxed: its state is larger than that of a stream, and every connection would keep
            // room for it.
            Some(tls) => Box::pin(self.handshake(tls, io)).await?,
            None => io,
        };
        let h2 = match io.selected_alpn_proto() {
            Some(ALPN::H2) => true,
            _ if self.tls.is_some() || !self.listener.h2c => false,
            _ => self.begins_h2(&mut io).await?,
        };
        Some((io, h2))
    }

    /// Find the address of the client, in a PROXY header or that of the connection, and check it.
    async fn identify(&self, mut io: Stream, permit: &mut ConnectionGuard) -> Option<Stream> {
        let settings = self.shared.plan.load().settings.clone();
        let mut address = peer_address(&io);
        let trusted = address.is_some_and(|address| settings.is_trusted(address));
        if self.listener.proxy_protocol {
            let limit = settings.timeouts.request_head;
            let read = async { if trusted { proxy_header(io).await } else { None } };
            let Some((rest, stated)) = with_timeout(limit, read).await.flatten() else {
                return self.deny(address, "no valid PROXY header of a trusted proxy");
            };
            (io, address) = (rest, stated.or(address));
        }
        if address.is_some_and(|address| !self.listener.admits(address)) {
            return self.deny(address, "not in the listener's allow list, or in its deny list");
        }
        // A connection of a trusted proxy has the requests of many clients.
        let limited = address.filter(|address| !settings.is_trusted(*address));
        limited.is_none_or(|address| permit.assign(address, &settings.limits)).then_some(io)
    }

    fn deny(&self, address: Option<IpAddr>, why: &'static str) -> Option<Stream> {
        tracing::debug!(?address, why, "connection denied");
        self.shared.client_limits.denied_connections.fetch_add(1, Ordering::Relaxed);
        None
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
    async fn serve_h2(&self, io: Stream, shutdown: &ShutdownWatch, expires: Option<Instant>) {
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
                pending::<()>().await;
            }
        };
        // Pingora sends GOAWAY and finishes the streams when this turns true.
        let (close, closing) = watch::channel(false);
        let mut leaving = shutdown.clone();
        let left = async {
            if leaving.wait_for(|leaving| *leaving).await.is_err() {
                pending::<()>().await;
            }
        };
        let closes = async {
            tokio::select! {
                () = left => {}
                () = expired(expires) => {}
            }
            let _ = close.send(true);
            pending::<()>().await;
        };
        tokio::select! {
            _ = app.process_new(io, &closing) => {}
            () = idled => {}
            () = closes => {}
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

/// The address of a connection's peer, or the one that its PROXY header states.
pub(crate) fn peer_address(io: &Stream) -> Option<IpAddr> {
    let digest = io.get_socket_digest()?;
    digest.peer_addr()?.as_inet().map(SocketAddr::ip)
}

/// Read a PROXY header; the address in it becomes the peer's.
async fn proxy_header(io: Stream) -> Option<(Stream, Option<IpAddr>)> {
    let mut io = io.into_any().downcast::<TcpStream>().ok()?;
    let stated = match proxy_protocol::read(&mut *io).await {
        Ok(stated) => stated,
        Err(error) => {
            tracing::debug!(%error, "PROXY header cannot be read");
            return None;
        }
    };
    if let Some(client) = stated {
        let digest = SocketDigest::from_raw_fd(io.as_raw_fd());
        let _ = digest.peer_addr.set(Some(PeerAddress::Inet(client)));
        io.set_socket_digest(digest);
    }
    Some((io, stated.map(|client| client.ip())))
}

/// When a connection that begins now is old: `limits.connection_age`, less or more by up to a
/// tenth, so that clients that came together do not leave together. `None`: never.
fn expiry(age: Duration) -> Option<Instant> {
    (!age.is_zero()).then(|| Instant::now() + age.mul_f64(rand::random_range(0.9..=1.1)))
}

async fn expired(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
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
        let limits = self.shared.plan.load().settings.limits;
        let mut permit = self.shared.client_limits.admit_connection(None, &limits)?;
        let expires = expiry(limits.connection_age);
        let mut leaving = shutdown.clone();
        let (io, h2) = tokio::select! {
            opened = self.open(io, &mut permit) => opened?,
            () = wait_for_drain(&mut leaving) => return None,
        };
        if h2 {
            self.serve_h2(io, shutdown, expires).await;
        } else {
            h1::serve(&self.shared, &self.proxy, io, shutdown, expires).await;
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
