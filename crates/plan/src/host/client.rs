//! A single call to a backend, outside of any exchange: over the same connections, pool and parser
//! as exchanges.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use filters::{HostRequest, HostResponse};
use http1::head::HeadLimits;

use lens::Tick;
use transport::{
    BodyListener, BodyStep, H1Source, H2Source, Request, Source, Upstream, UpstreamError, connect,
};

/// Maximum bytes of an answer. Embeddings of a hundred sentences are the largest.
pub const MAX_REPLY: usize = 8 << 20;
/// The caller bounds the whole call; this bounds a connection to a dead address where no deadline
/// is set.
const CONNECT: Duration = Duration::from_secs(5);
const LIMITS: HeadLimits = HeadLimits { bytes: 64 << 10, fields: 100 };

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    /// The backend could not be reached, or did not answer.
    Upstream(#[from] UpstreamError),
    #[error("the answer is larger than {MAX_REPLY} bytes")]
    /// The answer is longer than [`MAX_REPLY`].
    TooLarge,
}

/// Send a POST. Repeat once on a new connection if a reused one is dead.
pub async fn post(upstream: &Arc<Upstream>, ask: &HostRequest) -> Result<HostResponse, CallError> {
    if upstream.backend.http2 {
        let mut source = H2Source::open(upstream, request(upstream, ask)).await?;
        let reply = exchange(&mut source).await?;
        source.settle(upstream);
        return Ok(reply);
    }
    let mut fresh = false;
    loop {
        let connection = connect(upstream, CONNECT, fresh).await?;
        let mut source = H1Source::new(connection, request(upstream, ask), LIMITS);
        match exchange(&mut source).await {
            Ok(reply) => {
                source.settle(upstream);
                return Ok(reply);
            }
            Err(CallError::Upstream(_)) if !fresh && source.into_unanswered().is_some() => {
                fresh = true
            }
            Err(error) => return Err(error),
        }
    }
}

/// GET the path of the backend's URL.
pub async fn get(upstream: &Arc<Upstream>) -> Result<HostResponse, CallError> {
    get_path(upstream, if upstream.backend.prefix.is_empty() { "/" } else { "" }).await
}

/// GET a path below that of the backend's URL.
pub async fn get_path(upstream: &Arc<Upstream>, path: &str) -> Result<HostResponse, CallError> {
    let backend = &upstream.backend;
    let mut head = format!(
        "GET {}{path} HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/plain\r\naccept-encoding: identity\r\n",
        backend.prefix, backend.authority
    );
    if let Some((name, value)) = backend.credential() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if backend.provider == "anthropic" {
        head.push_str("anthropic-version: 2023-06-01\r\n");
    }
    head.push_str("\r\n");
    let request = Request {
        head: head.into_bytes(),
        buffer: Arc::default(),
        body: 0..0,
        edits: [None, None],
    };
    if backend.http2 {
        return exchange(&mut H2Source::open(upstream, request).await?).await;
    }
    let connection = connect(upstream, CONNECT, true).await?;
    exchange(&mut H1Source::new(connection, request, LIMITS)).await
}

fn request(upstream: &Upstream, ask: &HostRequest) -> Request {
    let backend = &upstream.backend;
    let mut head = format!(
        "POST {}{} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json\r\naccept-encoding: identity\r\ncontent-length: {}\r\n",
        backend.prefix,
        ask.path,
        backend.authority,
        ask.body.len()
    );
    if let Some((name, value)) = backend.credential() {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Request {
        head: head.into_bytes(),
        buffer: Arc::new(ask.body.to_vec().into()),
        body: 0..ask.body.len(),
        edits: [None, None],
    }
}

async fn exchange<S: Source>(source: &mut S) -> Result<HostResponse, CallError> {
    poll_fn(|cx| source.poll_send(cx)).await?;
    let head = poll_fn(|cx| source.poll_head(cx)).await?;
    let mut body = Body(Vec::new());
    loop {
        let step = poll_fn(|cx| source.poll_body(cx, &mut body)).await?;
        if body.0.len() > MAX_REPLY {
            return Err(CallError::TooLarge);
        }
        if step == BodyStep::End {
            return Ok(HostResponse { status: head.status, body: body.0.into() });
        }
    }
}

/// Collects a body.
struct Body(Vec<u8>);

impl BodyListener for Body {
    fn begin_read(&mut self, _: Tick, _: Option<u64>) {}

    fn payload(&mut self, run: &[u8]) {
        self.0.extend_from_slice(run);
    }
}
