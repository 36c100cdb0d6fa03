//! HTTP/2 to backends, with pingora's client.
//!
//! Opening the stream sends the head. The body and the answer are polled as with HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use config::settings::Backend;
use h2::SendStream;
use http1::head::HeadError;
use parking_lot::Mutex;
use pingora::connectors::http::v2::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use wire::Framing;

use super::h1::{MAX_INTERIM, Request};
use super::tls::BuildError;
use super::{ConnectionPermit, Upstream};
use crate::clock;
use crate::leg::{AnswerHead, BodyListener, BodyStep, Source, UpstreamError};
use crate::memory::Held;

/// Maximum idle time of an HTTP/2 connection without streams.
pub(super) const IDLE: Duration = Duration::from_secs(55);

/// Connections to one backend.
pub struct H2Client {
    connector: Connector,
}

impl std::fmt::Debug for H2Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("H2Client")
    }
}

impl H2Client {
    pub(super) fn build() -> Self {
        H2Client { connector: Connector::new(None) }
    }
}

/// Certificate authorities from the settings, in pingora's form.
pub(super) fn authorities(backend: &Backend) -> Result<Option<Arc<CaType>>, BuildError> {
    let Some(path) = backend.tls.as_ref().and_then(|t| t.ca.as_ref()) else { return Ok(None) };
    let pem = |why: String| BuildError::Pem {
        what: "certificate authorities",
        path: path.display().to_string(),
        why,
    };
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem(e.to_string()))?;
    Ok(Some(all.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect()))
}

/// Counts interim (1xx) answers. The `h2` crate drops them, but wakes the task that waits for the
/// head: once for all that arrive before the task runs, which costs it no more than one.
#[derive(Debug)]
struct HeadWaker {
    task: Mutex<Waker>,
    wakes: AtomicUsize,
}

impl HeadWaker {
    fn new() -> Arc<Self> {
        Arc::new(HeadWaker { task: Mutex::new(Waker::noop().clone()), wakes: AtomicUsize::new(0) })
    }
}

impl Wake for HeadWaker {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.task.lock().wake_by_ref();
    }
}

/// An answer over HTTP/2.
pub struct H2Source {
    session: Option<Http2Session>,
    /// The stream's writing side, and what is left to write.
    writer: Option<SendStream<Bytes>>,
    body: Bytes,
    /// The request, until its answer begins.
    request: Option<Request>,
    /// The backend has not processed the request.
    is_refused: bool,
    /// Counts the body until it is written.
    held: Option<Held>,
    /// Wakes the task that waits for the head.
    head: Arc<HeadWaker>,
    peer: HttpPeer,
    upstream: Arc<Upstream>,
    _permit: ConnectionPermit,
}

impl H2Source {
    /// Open a stream and send the head.
    pub async fn open(upstream: &Arc<Upstream>, request: Request) -> Result<Self, UpstreamError> {
        let permit = upstream.permit().ok_or(UpstreamError::Busy)?;
        let client = upstream.h2.as_ref().ok_or(UpstreamError::ClosedEarly)?;
        let peer = super::peer(upstream).await.map_err(UpstreamError::Connect)?;
        let h2 = |e: Box<pingora::Error>| UpstreamError::H2(e.etype().as_str().to_owned());
        let session = match client.connector.reused_http_session(&peer).await.map_err(h2)? {
            Some(session) => session,
            None => match client.connector.new_http_session::<_, ()>(&peer).await {
                Ok(HttpSession::H2(session)) => session,
                Ok(_) => return Err(UpstreamError::H2("the backend does not speak HTTP/2".into())),
                Err(e) => {
                    return Err(UpstreamError::Connect(std::io::Error::other(
                        e.etype().as_str().to_owned(),
                    )));
                }
            },
        };
        let header = request_header(&request).map_err(h2)?;
        let body = whole_body(&request);
        let held = Some(request.buffer.copied(body.len()));
        let mut source = H2Source {
            session: Some(session),
            writer: None,
            body,
            request: Some(request),
            is_refused: false,
            held,
            head: HeadWaker::new(),
            peer,
            upstream: upstream.clone(),
            _permit: permit,
        };
        let Some(session) = source.session.as_mut() else { return Err(UpstreamError::ClosedEarly) };
        session.write_request_header(Box::new(header), source.body.is_empty()).map_err(h2)?;
        source.writer = session.take_request_body_writer();
        Ok(source)
    }

    /// The request, if it may be sent again: the backend refused its stream, or closed the
    /// connection and named the last stream that it processes, which was an earlier one.
    pub fn into_unanswered(mut self) -> Option<Request> {
        self.request.take().filter(|_| self.is_refused)
    }

    fn failed(&mut self, error: &h2::Error) -> UpstreamError {
        self.is_refused |= was_not_processed(error);
        UpstreamError::H2(error.to_string())
    }
}

/// Whether an error of a stream means that the backend has not acted on it: RFC 9113, sections 6.8
/// and 8.7.
fn was_not_processed(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)
            || error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
}

/// Converts the HTTP/1.1 head to HTTP/2.
fn request_header(request: &Request) -> Result<RequestHeader, Box<pingora::Error>> {
    let mut fields = http1::head::field_buffer();
    let mut parsed = httparse::Request::new(&mut []);
    // The gateway wrote this head from validated fields, so it parses.
    let _ = parsed.parse_with_uninit_headers(&request.head, &mut fields);
    let (method, target) = (parsed.method.unwrap_or("POST"), parsed.path.unwrap_or("/"));
    let mut header = RequestHeader::build(method, target.as_bytes(), Some(parsed.headers.len()))?;
    for field in parsed.headers.iter() {
        header.append_header(field.name.to_ascii_lowercase(), field.value)?;
    }
    header.set_version(http::Version::HTTP_2);
    Ok(header)
}

fn whole_body(request: &Request) -> Bytes {
    let [_, body @ ..] = request.parts();
    Bytes::from(body.concat())
}

impl Source for H2Source {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        while !self.body.is_empty() {
            let Some(writer) = &mut self.writer else {
                return Poll::Ready(Err(UpstreamError::ClosedEarly));
            };
            writer.reserve_capacity(self.body.len());
            while writer.capacity() == 0 {
                match ready!(writer.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                    None => return Poll::Ready(Err(UpstreamError::ClosedEarly)),
                }
            }
            let piece = self.body.split_to(writer.capacity().min(self.body.len()));
            if let Err(error) = writer.send_data(piece, self.body.is_empty()) {
                return Poll::Ready(Err(self.failed(&error)));
            }
        }
        self.held = None;
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, UpstreamError>> {
        let Some(session) = self.session.as_mut() else {
            return Poll::Ready(Err(UpstreamError::ClosedEarly));
        };
        self.head.task.lock().clone_from(cx.waker());
        let waker = Waker::from(self.head.clone());
        match session.poll_read_response_header(&mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(())) => self.request = None,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
            Poll::Pending if self.head.wakes.load(Ordering::Relaxed) > MAX_INTERIM => {
                return Poll::Ready(Err(HeadError::Malformed("too many interim answers").into()));
            }
            Poll::Pending => return Poll::Pending,
        }
        let first_byte = clock::now();
        let Some(head) = session.response_header() else {
            return Poll::Ready(Err(UpstreamError::ClosedEarly));
        };
        if head.status.as_u16() > 599 {
            return Poll::Ready(Err(UpstreamError::H2("invalid status code".to_owned())));
        }
        let mut fields = Vec::with_capacity(512);
        for (name, value) in &head.headers {
            if !matches!(
                name.as_str(),
                "content-length"
                    | "x-request-id"
                    | "connection"
                    | "transfer-encoding"
                    | "keep-alive"
                    | "upgrade"
            ) {
                fields.extend_from_slice(name.as_str().as_bytes());
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(value.as_bytes());
                fields.extend_from_slice(b"\r\n");
            }
        }
        let text = |name| head.headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
        Poll::Ready(Ok(AnswerHead {
            status: head.status.as_u16(),
            fields,
            length: text("content-length").and_then(|v| v.parse().ok()),
            framing: Framing::from_content_type(text("content-type").unwrap_or_default()),
            encoded: text("content-encoding").is_some_and(|v| v != "identity"),
            first_byte,
        }))
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        listener: &mut impl BodyListener,
    ) -> Poll<Result<BodyStep, UpstreamError>> {
        let Some(session) = self.session.as_mut() else {
            return Poll::Ready(Err(UpstreamError::ClosedEarly));
        };
        match ready!(session.poll_read_response_body(cx)) {
            Some(Ok(run)) => {
                listener.begin_read(clock::now(), None);
                if !run.is_empty() {
                    listener.payload(&run);
                }
                Poll::Ready(Ok(BodyStep::More))
            }
            Some(Err(e)) => Poll::Ready(Err(UpstreamError::H2(e.to_string()))),
            None => Poll::Ready(Ok(BodyStep::End)),
        }
    }

    fn settle(self, _: &Upstream) {}
}

impl Drop for H2Source {
    /// The connection returns to the pool; an incomplete stream is reset, so that the engine stops
    /// generating.
    fn drop(&mut self) {
        self.writer = None;
        let (Some(session), Some(client)) = (self.session.take(), self.upstream.h2.as_ref()) else {
            return;
        };
        client.connector.release_http_session(session, &self.peer, Some(IDLE));
    }
}
