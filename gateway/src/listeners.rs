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
