//! The downstream end: clients, over HTTP/1.1 (our own reader and writer) or HTTP/2 (pingora's).
//!
//! - *In*: a connection or a stream that pingora accepted.
//! - *Out*: requests for the walk; a [`Sink`] that the relay writes an answer to.
//! - *Never*: a second reading of a head. What passes through to pingora's proxy was checked by the same parser.

pub(crate) mod buffer;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod out;
pub(crate) mod walk;

use std::task::{Context, Poll};
use std::time::Duration;

use pingora::server::ShutdownWatch;

use crate::upstream::AnswerHead;
use out::Out;

/// How long a connection that says nothing stays open when the gateway leaves: a request may be on its way, and a client cannot know that nobody
/// will read it.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// The gateway leaves, and what was on its way has come.
pub(crate) async fn left(shutdown: &mut ShutdownWatch) {
    // Without anybody who could say so, the gateway does not leave by itself.
    if shutdown.wait_for(|leaving| *leaving).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(ON_ITS_WAY).await;
}

/// The client is gone, or does as if.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where an answer goes. The relay polls; all methods register the waker when they are pending.
pub(crate) trait Sink {
    /// Begin the answer. HTTP/1.1 queues the head in `out`, so that it leaves with the first bytes of the body. `extra` are
    /// fields of ours, each with its CRLF.
    fn begin(&mut self, head: &AnswerHead, extra: &str, out: &mut Out) -> Result<(), Gone>;

    /// Write some of what is queued.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<Result<(), Gone>>;

    /// Ready when the client has left.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Everything is written. `complete` is false for an answer that broke off: its end must not look like one.
    fn end(&mut self, complete: bool);
}
