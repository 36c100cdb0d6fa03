//! Connections of the admin listener: how many, and for how long.
//!
//! - *In*: accepted connections of people, scrapers and probes.
//! - *Out*: each is served to its end, or closed because it made no progress.
//! - *Never*: a queue. Beyond [`max_connections`], the connection that has been without progress
//!   for the longest time is closed in favor of the new one, so that a probe is always served.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pages::access;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Maximum connections at a time, besides watchers of the live stream.
const MAX_OTHERS: usize = 64;
/// A connection whose head takes longer is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is neither read nor written for this long is closed: an idle one, or one whose
/// client does not read its answers.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum connections at a time.
fn max_connections() -> usize {
    MAX_OTHERS + pages::live::max_watchers()
}

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Vec<Arc<Connection>>>);

/// An open connection.
#[derive(Debug)]
struct Connection {
    /// When a byte was last read or written.
    progress: Mutex<Instant>,
    /// Notified when the connection must be closed.
    close: Notify,
}

impl Connections {
    /// Serve one connection to its end.
    pub(super) async fn serve<I>(&self, io: I, peer: Option<IpAddr>, router: Router)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = self.open();
        let (mut handle, ended) = oneshot::channel();
        let io = Watched { io, connection: open.connection.clone(), ended: Some(ended) };
        let router = TowerToHyperService::new(router);
        let waiting = open.connection.clone();
        let progress: Arc<dyn Fn() + Send + Sync> = Arc::new(move || waiting.moved(1));
        let from = access::Connection { peer, progress: Some(progress) };
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(from.clone());
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let served = async {
            if let Err(error) = served.await {
                tracing::debug!(%error, "admin connection failed");
            }
            // A WebSocket goes on in a task of its own.
            handle.closed().await;
        };
        tokio::select! {
            () = served => {}
            () = open.connection.stalled() => tracing::debug!("admin connection timed out"),
            () = open.connection.close.notified() => {
                tracing::debug!("admin connection closed in favor of a new one");
            }
        }
    }

    /// Add a connection, and close another one if there are too many.
    fn open(&self) -> Open<'_> {
        let connection =
            Arc::new(Connection { progress: Mutex::new(Instant::now()), close: Notify::new() });
        let mut all = self.0.lock();
        if all.len() >= max_connections() {
            let oldest = (0..all.len()).min_by_key(|at| *all[*at].progress.lock());
            if let Some(at) = oldest {
                all.swap_remove(at).close.notify_one();
            }
        }
        all.push(connection.clone());
        Open { connections: self, connection }
    }
}

/// Removes its connection from the open ones when dropped.
struct Open<'a> {
    connections: &'a Connections,
    connection: Arc<Connection>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.connections.0.lock().retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

impl Connection {
    /// Returns when there was no progress for [`STALL_TIMEOUT`].
    async fn stalled(&self) {
        loop {
            let deadline = *self.progress.lock() + STALL_TIMEOUT;
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }

    /// Record progress if `moved` bytes were transferred.
    fn moved(&self, moved: usize) {
        if moved > 0 {
            *self.progress.lock() = Instant::now();
        }
    }
}

/// A connection's bytes; records when some were transferred.
struct Watched<I> {
    io: I,
    connection: Arc<Connection>,
    /// Resolves when the connection must end, whatever uses its bytes. `None`: it has ended.
    ended: Option<oneshot::Receiver<Infallible>>,
}

impl<I> Watched<I> {
    fn check_ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().is_none_or(|ended| Pin::new(ended).poll(cx).is_ready()) {
            self.ended = None;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_ended(cx)?;
        let before = into.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, into);
        self.connection.moved(into.filled().len() - before);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_ended(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            self.connection.moved(*count);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::ws::WebSocketUpgrade;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn router() -> Router {
        let socket = async |upgrade: WebSocketUpgrade| {
            upgrade.on_upgrade(async |mut socket| while socket.recv().await.is_some() {})
        };
        Router::new()
            .route("/healthz", get("ok\n"))
            .route("/large", get("x".repeat(100_000)))
            .route("/socket", get(socket))
    }

    fn connect(connections: &Arc<Connections>) -> DuplexStream {
        let (client, server) = tokio::io::duplex(1024);
        let connections = connections.clone();
        tokio::spawn(async move { connections.serve(server, None, router()).await });
        client
    }

    /// The answer to a probe, and how long it took.
    async fn probe(connections: &Arc<Connections>) -> (String, Duration) {
        let (mut client, began) = (connect(connections), Instant::now());
        let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.expect("it is read");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        (answer, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_served_whatever_other_connections_do() {
        let connections = Arc::new(Connections::default());
        let mut others = Vec::new();
        for number in 0..3 * max_connections() {
            let mut client = connect(&connections);
            // Every second one is silent; the others never read their answers.
            if number % 2 == 0 {
                let requests = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(10);
                client.write_all(&requests).await.expect("it fits");
            }
            others.push(client);
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            let (answer, took) = probe(&connections).await;
            assert!(answer.ends_with("ok\n"), "{answer}");
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        assert!(connections.0.lock().len() <= max_connections());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_idle_and_unread_connections_are_closed_in_time() {
        let connections = Arc::new(Connections::default());
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let silent = connect(&connections);
        let mut idle = connect(&connections);
        idle.write_all(request("/healthz").as_bytes()).await.expect("it is read");
        let mut unread = connect(&connections);
        unread.write_all(request("/large").as_bytes()).await.expect("it is read");
        tokio::time::sleep(HEAD_TIMEOUT - Duration::from_secs(1)).await;
        assert_eq!(connections.0.lock().len(), 3);
        tokio::time::sleep(STALL_TIMEOUT).await;
        assert_eq!(connections.0.lock().len(), 0);
        drop((silent, idle, unread));
    }

    /// An upgraded connection that makes no progress is closed, and counted until then.
    #[tokio::test(start_paused = true)]
    async fn a_stalled_websocket_is_closed() {
        let connections = Arc::new(Connections::default());
        let (mut client, began) = (connect(&connections), Instant::now());
        let request = b"GET /socket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(request).await.expect("it is read");
        tokio::time::sleep(STALL_TIMEOUT / 2).await;
        assert_eq!(connections.0.lock().len(), 1);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(began.elapsed(), STALL_TIMEOUT);
        assert_eq!(connections.0.lock().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_reads_is_served_to_the_end() {
        let connections = Arc::new(Connections::default());
        let mut client = connect(&connections);
        let request = b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.expect("it is read");
        let (mut total, mut piece) = (0, [0; 1024]);
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            match client.read(&mut piece).await.expect("an answer") {
                0 => break,
                count => total += count,
            }
        }
        assert!(total > 100_000, "{total}");
    }
}
