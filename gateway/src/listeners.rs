//! Connections of clients, accepted by pingora: HTTP/1.1 with the gateway's own reader and writer,
//! HTTP/2 with pingora's.
//!
//! - *In*: bound sockets.
//! - *Out*: requests for the pipeline; a [`Sink`](transport::Sink) that the relay writes an answer
//!   to.
//! - *Never*: a second interpretation of a head. Requests for pingora's proxy are first checked by
//!   the same parser.
//!
//! Why the exchange is not run from pingora's `request_filter`: `docs/adr/0001-the-two-legs.md`. In
//! short, a head that pingora has parsed has lost what must be refused (both framings at once,
//! folded lines), and its session keeps buffers that an idle stream should not.

mod bind;
mod h1;
mod h2;
mod pass_through;
mod proxy;
mod proxy_protocol;

pub use bind::BindError;
pub(crate) use bind::{Bound, Sockets};
pub(crate) use proxy::{ProxyApp, peer_address};

use std::time::Duration;

use pingora::server::ShutdownWatch;

/// How long an idle connection stays open when the gateway drains: a request may be on its way.
const DRAIN_DELAY: Duration = Duration::from_millis(500);

/// Wait until the gateway drains and requests in flight have arrived.
async fn wait_for_drain(shutdown: &mut ShutdownWatch) {
    // The sender is gone: there will be no drain.
    if shutdown.wait_for(|leaving| *leaving).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(DRAIN_DELAY).await;
}
