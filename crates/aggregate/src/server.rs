//! The listener of the aggregator.
//!
//! - *In*: connections.
//! - *Out*: pages.
//! - *Never*: more than [`MAX_CONNECTIONS`]; a connection without a request for longer than
//!   [`HEAD_TIMEOUT`], or longer than [`MAX_TIME`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::members::Members;
use crate::pages;

/// Maximum connections.
const MAX_CONNECTIONS: usize = 256;
/// Maximum time until a request has arrived.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time of a connection.
const MAX_TIME: Duration = Duration::from_secs(120);
/// Pause after a connection could not be accepted, such as without descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An aggregator that listens.
#[derive(Debug)]
pub struct Aggregator {
    listener: TcpListener,
    router: Router,
}

impl Aggregator {
    /// Listen. `hosts` are names in `Host` besides addresses and loopback names.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        members: Members,
        hosts: Vec<String>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Aggregator { listener, router: pages::router(members, hosts) })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The I/O error.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serve until dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let router = self.router.clone();
                    connections.spawn(async move {
                        // A client that is late is disconnected.
                        let _ = tokio::time::timeout(MAX_TIME, serve(socket, router)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn serve(socket: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the aggregator failed");
    }
}
