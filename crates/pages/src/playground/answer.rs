//! Forwards the answer of a call, unbuffered.
//!
//! - *In*: the answer of the gateway's listener.
//! - *Out*: its status, a few of its fields, and its bytes as they arrive.
//! - *Never*: a wait that closes the admin connection, as long as the client reads; an answer that
//!   continues after the session has ended. A body that breaks off ends the connection.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use super::Permit;
use crate::access::{Caller, Connection};
use crate::params::ApiError;

/// Interval at which the session is checked, and the admin connection kept.
const TICK: Duration = Duration::from_secs(1);
/// Fields of the answer that are forwarded.
const FIELDS: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-llm-lens-backend"),
];
/// Marks an answer of the gateway's listener; errors of the admin listener do not have it.
const MARK: HeaderName = HeaderName::from_static("x-llm-lens-playground");

/// A call that runs. The gateway sees that its client has left when this is dropped.
pub(super) struct Running {
    pub(super) caller: Caller,
    pub(super) connection: Connection,
    pub(super) _permit: Permit,
    pub(super) _driver: AbortOnDropHandle<()>,
}

impl Running {
    /// Wait for a part of the answer.
    ///
    /// # Errors
    /// The session of the caller has ended.
    pub(super) async fn wait_for<T>(&self, part: impl Future<Output = T>) -> Result<T, ApiError> {
        let mut part = pin!(part);
        loop {
            tokio::select! {
                part = &mut part => return Ok(part),
                () = tokio::time::sleep(TICK) => self.connection.keep(),
            }
            if !self.caller.is_valid() {
                return Err(ApiError::forbidden("the session has ended".into()));
            }
        }
    }
}

/// The answer for the client.
pub(super) fn forward(got: hyper::Response<Incoming>, running: Running) -> Response {
    let (head, body) = got.into_parts();
    let parts = stream::unfold(Some((body, running)), async |state| {
        let (mut body, running) = state?;
        match running.wait_for(body.frame()).await {
            Ok(None) => None,
            Ok(Some(Ok(frame))) => {
                // Trailers, which are not forwarded, are the end.
                let data = frame.into_data().ok()?;
                Some((Ok(data), Some((body, running))))
            }
            Ok(Some(Err(error))) => Some((Err(axum::Error::new(error)), None)),
            Err(_) => Some((Err(axum::Error::new("the session has ended")), None)),
        }
    });
    let mut answer = Response::new(Body::from_stream(parts));
    *answer.status_mut() = head.status;
    let fields = answer.headers_mut();
    for name in FIELDS {
        if let Some(value) = head.headers.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    fields.insert(MARK, HeaderValue::from_static("answer"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What an engine sends must not become a page of this origin.
    let sandbox = HeaderValue::from_static("default-src 'none'; sandbox");
    fields.insert(header::CONTENT_SECURITY_POLICY, sandbox);
    // nginx would otherwise collect events.
    fields.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}
