//! OTLP over HTTP/1.1 with protobuf bodies, on one connection that is kept open.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Accepted, ClientError, Export, ExportError, Request, tls};
use crate::settings::Target;

/// Maximum bytes of an answer.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of an error's text that are logged.
const MAX_WHY: usize = 200;

/// A client of one signal's URL.
pub struct HttpClient {
    uri: Uri,
    host: String,
    port: u16,
    headers: HeaderMap,
    gzip: bool,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl HttpClient {
    pub(super) fn new(target: &Target) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Endpoint(target.url.clone(), why.to_owned());
        let uri: Uri = target.url.parse().map_err(|_| wrong("it is not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let tls = if is_tls {
            let mut config = tls::config(&target.tls)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = ServerName::try_from(host.clone()).map_err(|_| wrong("its host"))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(HttpClient {
            headers: headers(target, &uri).map_err(|()| wrong("its headers"))?,
            uri,
            host,
            port,
            gzip: target.gzip,
            timeout: target.timeout,
            tls,
            connection: None,
        })
    }

    async fn exchange(&mut self, request: &Request) -> Result<Accepted, ExportError> {
        let body = self.body(request);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut message = http::Request::post(path)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ExportError::retryable("request", error.to_string()))?;
        *message.headers_mut() = self.headers.clone();
        let mut connection = self.connect().await?;
        let broken = |error: hyper::Error| ExportError::retryable("connection", chain(&error));
        let answer = connection.send_request(message).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| ExportError::retryable("connection", error.to_string()))?
            .to_bytes();
        self.connection = Some(connection);
        if head.status.is_success() {
            return Ok(accepted(request, &body));
        }
        Err(refused(head.status, &head.headers, &body))
    }

    /// The open connection, or a new one.
    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, ExportError> {
        if let Some(mut open) = self.connection.take()
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let wrong = |error: std::io::Error| ExportError::retryable("connect", error.to_string());
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(wrong)?;
        let _ = socket.set_nodelay(true);
        match &self.tls {
            None => open(socket).await,
            Some((connector, name)) => {
                open(connector.connect(name.clone(), socket).await.map_err(wrong)?).await
            }
        }
    }

    fn body(&self, request: &Request) -> Vec<u8> {
        let plain = match request {
            Request::Metrics(message) => message.encode_to_vec(),
            Request::Traces(message) => message.encode_to_vec(),
            Request::Logs(message) => message.encode_to_vec(),
        };
        if !self.gzip {
            return plain;
        }
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        let written = out.write_all(&plain).and_then(|()| out.finish());
        written.expect("invariant: writing to memory does not fail")
    }
}

impl Export for HttpClient {
    async fn export(&mut self, request: &Request) -> Result<Accepted, ExportError> {
        let limit = self.timeout;
        let timeout = || ExportError::retryable("timeout", format!("no answer in {limit:?}"));
        tokio::time::timeout(limit, self.exchange(request)).await.unwrap_or_else(|_| Err(timeout()))
    }
}

/// Begin HTTP on a connection. Its task ends with the connection.
async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
) -> Result<SendRequest<Full<Bytes>>, ExportError> {
    let (sender, connection) = handshake(TokioIo::new(socket))
        .await
        .map_err(|error| ExportError::retryable("connect", chain(&error)))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn headers(target: &Target, uri: &Uri) -> Result<HeaderMap, ()> {
    let mut headers = HeaderMap::new();
    let host = uri.authority().map_or("", |authority| authority.as_str());
    // A URL may have credentials, which are not a part of the host.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    headers.insert(HOST, HeaderValue::try_from(host).map_err(drop)?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("llm-lens/", env!("CARGO_PKG_VERSION"))),
    );
    if target.gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    for (name, value) in &target.headers.0 {
        let name = HeaderName::try_from(name).map_err(drop)?;
        let mut value = HeaderValue::try_from(value).map_err(drop)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The result of a success. An answer that is not the message counts as one without details.
fn accepted(request: &Request, body: &[u8]) -> Accepted {
    let result = |rejected: i64, message: String| Accepted {
        rejected: u64::try_from(rejected).unwrap_or(0),
        message,
    };
    match request {
        Request::Metrics(_) => ExportMetricsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| result(partial.rejected_data_points, partial.error_message)),
        Request::Traces(_) => ExportTraceServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| result(partial.rejected_spans, partial.error_message)),
        Request::Logs(_) => ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| result(partial.rejected_log_records, partial.error_message)),
    }
    .unwrap_or_default()
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ExportError {
    let is_retryable = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    ExportError {
        code: format!("http_{}", status.as_u16()),
        why: reason(body),
        permanent: !is_retryable,
        retry_after: headers.get(RETRY_AFTER).and_then(retry_after).filter(|_| is_retryable),
    }
}

/// Readable text of an error: collectors answer with a `google.rpc.Status`, or with a line.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let printable = text.chars().filter(|c| !c.is_control() && *c != '\u{fffd}');
    printable.take(MAX_WHY).collect::<String>().trim().to_owned()
}

/// Seconds, or a date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
