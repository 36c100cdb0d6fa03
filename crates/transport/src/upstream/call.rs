//! An exchange with a backend, over HTTP/1.1 or HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http1::head::HeadLimits;

use super::h1::Request;
use super::{H1Source, H2Source, Upstream, connect};
use crate::leg::{AnswerHead, BodyListener, BodyStep, Source, UpstreamError};

/// One exchange with a backend.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all calls are the large variant, and a box would allocate for each request"
)]
pub enum Call {
    /// The connection is being established.
    Opening(Pin<Box<dyn Future<Output = Result<Call, UpstreamError>> + Send>>),
    /// An exchange over HTTP/1.1.
    H1(H1Source),
    /// An exchange over HTTP/2, boxed so that the others do not carry its size.
    H2(Box<H2Source>),
}

impl Call {
    /// Like [`open`](Self::open), but returns at once; polling the call opens the connection.
    pub fn opening(
        upstream: &Arc<Upstream>,
        request: Request,
        limits: HeadLimits,
        timeout: Duration,
        fresh: bool,
    ) -> Call {
        let upstream = upstream.clone();
        Call::Opening(Box::pin(async move {
            Call::open(&upstream, request, limits, timeout, fresh).await
        }))
    }

    /// Open an exchange on an idle or a new connection. `fresh`: always dial over HTTP/1.1.
    pub async fn open(
        upstream: &Arc<Upstream>,
        request: Request,
        limits: HeadLimits,
        timeout: Duration,
        fresh: bool,
    ) -> Result<Call, UpstreamError> {
        if upstream.backend.http2 {
            let opening = Box::pin(H2Source::open(upstream, request));
            let opened = match timeout.is_zero() {
                true => opening.await,
                false => tokio::time::timeout(timeout, opening)
                    .await
                    .map_err(|_| UpstreamError::ConnectTimeout)?,
            };
            return opened.map(|source| Call::H2(Box::new(source)));
        }
        let connection = connect(upstream, timeout, fresh).await?;
        Ok(Call::H1(H1Source::new(connection, request, limits)))
    }

    /// The request, if it may be sent again: see [`H1Source::into_unanswered`] and
    /// [`H2Source::into_unanswered`].
    pub fn into_unanswered(self) -> Option<Request> {
        match self {
            Call::H1(source) => source.into_unanswered(),
            Call::H2(source) => source.into_unanswered(),
            Call::Opening(_) => None,
        }
    }
}

impl Source for Call {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        if let Call::Opening(opening) = self {
            *self = ready!(opening.as_mut().poll(cx))?;
        }
        match self {
            Call::Opening(_) => Poll::Pending,
            Call::H1(source) => source.poll_send(cx),
            Call::H2(source) => source.poll_send(cx),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        match self {
            Call::Opening(_) => Poll::Pending,
            Call::H1(source) => source.poll_head(cx),
            Call::H2(source) => source.poll_head(cx),
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        match self {
            Call::Opening(_) => Poll::Pending,
            Call::H1(source) => source.poll_body(cx, listener),
            Call::H2(source) => source.poll_body(cx, listener),
        }
    }

    fn is_connecting(&self) -> bool {
        matches!(self, Call::Opening(_))
    }

    fn settle(self, upstream: &Upstream) {
        match self {
            Call::Opening(_) => {}
            Call::H1(source) => source.settle(upstream),
            Call::H2(source) => source.settle(upstream),
        }
    }
}
