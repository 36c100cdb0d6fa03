//! Clients and delivery against collectors in this process: honest, failing and lying ones.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;

use super::*;
use crate::settings::{Headers, TlsFiles};

fn target(url: String, protocol: Protocol) -> Target {
    Target {
        url,
        protocol,
        headers: Headers(vec![("api-key".into(), "secret".into())]),
        gzip: true,
        timeout: Duration::from_secs(10),
        tls: TlsFiles::default(),
    }
}

fn request() -> Request {
    let span = Span { name: "s".into(), ..Span::default() };
    Request::Traces(crate::traces::request(vec![(Resource::default(), vec![span])]))
}

fn partial(rejected: i64) -> ExportTraceServiceResponse {
    let error_message = "too long".to_owned();
    ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: rejected,
            error_message,
        }),
    }
}

/// An answer of the collector; `None`: it closes the connection.
type Answer = Option<(u16, Option<&'static str>, Vec<u8>)>;

/// What an HTTP collector got: path, headers and decoded spans.
type Got = Arc<Mutex<Vec<(String, http::HeaderMap, usize)>>>;

async fn http_collector(answers: Vec<Answer>) -> (String, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/v1/traces", listener.local_addr().expect("bound"));
    let got = Got::default();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let seen = got.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (seen, answers) = (seen.clone(), answers.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (seen, answers) = (seen.clone(), answers.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let mut plain = Vec::new();
                    GzDecoder::new(&*body).read_to_end(&mut plain).expect("gzip");
                    let message = ExportTraceServiceRequest::decode(&*plain).expect("spans");
                    let spans = &message.resource_spans[0].scope_spans[0].spans;
                    seen.lock().push((head.uri.to_string(), head.headers, spans.len()));
                    let answer = answers.lock().pop_front().unwrap_or(Some((200, None, vec![])));
                    let (status, retry, body) = answer.ok_or("closed")?;
                    let mut response = http::Response::builder().status(status);
                    if let Some(retry) = retry {
                        response = response.header("retry-after", retry);
                    }
                    let response = response.body(Full::new(Bytes::from(body)));
                    Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response.expect("valid"))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (url, got)
}

#[tokio::test]
async fn http_requests_are_what_otlp_requires() {
    let (url, got) = http_collector(vec![]).await;
    let mut client = Client::new(&target(url, Protocol::Http)).unwrap();
    for _ in 0..2 {
        assert_eq!(client.export(&request()).await, Ok(Accepted::default()));
    }
    let got = got.lock().clone();
    assert_eq!(got.len(), 2);
    let (path, headers, spans) = &got[0];
    assert_eq!((path.as_str(), *spans), ("/v1/traces", 1));
    for (name, value) in [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "gzip"),
        ("api-key", "secret"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert!(headers.contains_key("host") && headers.contains_key("content-length"));
}

#[tokio::test]
async fn partial_success_is_no_success_of_all() {
    let (url, _) = http_collector(vec![Some((200, None, partial(1).encode_to_vec()))]).await;
    let mut client = Client::new(&target(url, Protocol::Http)).unwrap();
    let accepted = client.export(&request()).await.unwrap();
    assert_eq!(accepted, Accepted { rejected: 1, message: "too long".into() });
}

#[tokio::test]
async fn statuses_are_retried_as_otlp_requires() {
    for (status, retry, permanent, after) in [
        (400, None, true, None),
        (401, Some("5"), true, None),
        (500, None, true, None),
        (501, None, true, None),
        (302, None, true, None),
        (429, Some("7"), false, Some(Duration::from_secs(7))),
        (502, None, false, None),
        (503, Some("Thu, 01 Jan 1970 00:00:00 GMT"), false, Some(Duration::ZERO)),
        (504, Some("soon"), false, None),
    ] {
        let (url, _) = http_collector(vec![Some((status, retry, b"why\x07 not".to_vec()))]).await;
        let mut client = Client::new(&target(url, Protocol::Http)).unwrap();
        let error = client.export(&request()).await.unwrap_err();
        assert_eq!((error.permanent, error.retry_after), (permanent, after), "{status}");
        assert_eq!((error.code, error.why), (format!("http_{status}"), "why not".to_owned()));
    }
}

#[tokio::test]
async fn closed_connections_and_dead_addresses_are_retried() {
    let (url, got) = http_collector(vec![None]).await;
    let client = Client::new(&target(url, Protocol::Http)).unwrap();
    let mut failures = Vec::new();
    let mut delivery = Delivery::new(client, Duration::from_secs(20));
    let result = delivery.deliver(&request(), |error| failures.push(error.code.clone())).await;
    assert_eq!(result, Ok(Accepted::default()));
    assert_eq!((failures, got.lock().len()), (vec!["connection".to_owned()], 2));
    // Nothing listens on a port that was just released.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut client = Client::new(&target(format!("http://{free}/"), Protocol::Http)).unwrap();
    let error = client.export(&request()).await.unwrap_err();
    assert_eq!((&*error.code, error.permanent), ("connect", false));
}

/// A scripted client.
struct Script(VecDeque<Result<Accepted, ExportError>>, Vec<Instant>);

impl Export for Script {
    async fn export(&mut self, _: &Request) -> Result<Accepted, ExportError> {
        self.1.push(Instant::now());
        self.0.pop_front().unwrap_or_else(|| Err(ExportError::retryable("http_503", "")))
    }
}

fn wait(seconds: u64) -> Result<Accepted, ExportError> {
    let retry_after = Some(Duration::from_secs(seconds));
    Err(ExportError { retry_after, ..ExportError::retryable("http_503", "") })
}

#[tokio::test(start_paused = true)]
async fn pauses_that_the_collector_demands_are_obeyed() {
    let script = Script(VecDeque::from([wait(60), wait(5), Ok(Accepted::default())]), vec![]);
    let mut delivery = Delivery::new(script, Duration::from_secs(1));
    let began = Instant::now();
    assert!(delivery.deliver(&request(), |_| {}).await.is_ok());
    let at: Vec<u64> =
        delivery.client.1.iter().map(|at| at.duration_since(began).as_secs()).collect();
    assert_eq!(at, [0, 60, 65]);
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_the_timeout_and_permanent_errors_are_not_retried() {
    let mut delivery = Delivery::new(Script(VecDeque::new(), vec![]), Duration::from_secs(10));
    let began = Instant::now();
    let error = delivery.deliver(&request(), |_| {}).await.unwrap_err();
    assert_eq!(error.code, "http_503");
    let tries = delivery.client.1.len();
    assert!((4..=8).contains(&tries), "{tries} tries");
    assert!(began.elapsed() <= Duration::from_secs(10));
    let permanent = ExportError { permanent: true, ..ExportError::retryable("http_400", "") };
    let script = Script(VecDeque::from([Err(permanent.clone())]), vec![]);
    let mut delivery = Delivery::new(script, Duration::from_secs(10));
    assert_eq!(delivery.deliver(&request(), |_| {}).await, Err(permanent));
    assert_eq!(delivery.client.1.len(), 1);
}

#[test]
fn missing_tls_files_are_named() {
    let mut target = target("https://127.0.0.1:1/v1/traces".into(), Protocol::Http);
    target.tls.ca = Some("/nowhere/ca.pem".into());
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let error =
            Client::new(&Target { protocol, ..target.clone() }).err().map(|e| e.to_string());
        assert!(error.is_some_and(|why| why.contains("/nowhere/ca.pem")), "{protocol:?}");
    }
}

#[cfg(feature = "grpc")]
mod over_grpc {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use tonic::codec::CompressionEncoding;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Response, Status};

    use super::*;

    /// A collector that refuses the first request.
    struct Collector(Mutex<Vec<(String, usize)>>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let key = request.metadata().get("api-key").and_then(|key| key.to_str().ok());
            let key = key.unwrap_or_default().to_owned();
            let spans = request.get_ref().resource_spans[0].scope_spans[0].spans.len();
            let mut got = self.0.lock();
            got.push((key, spans));
            if got.len() == 1 {
                return Err(Status::unavailable("not yet"));
            }
            Ok(Response::new(partial(1)))
        }
    }

    #[tokio::test]
    async fn requests_are_compressed_retried_and_have_their_headers() {
        let collector = Arc::new(Collector(Mutex::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let service = TraceServiceServer::from_arc(collector.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpIncoming::from(listener)));
        let client = Client::new(&target(url, Protocol::Grpc)).unwrap();
        let mut delivery = Delivery::new(client, Duration::from_secs(20));
        let mut failures = Vec::new();
        let result = delivery.deliver(&request(), |error| failures.push(error.clone())).await;
        assert_eq!(result, Ok(Accepted { rejected: 1, message: "too long".into() }));
        assert_eq!(failures[0].code, "grpc_unavailable");
        let both = vec![("secret".to_owned(), 1); 2];
        assert_eq!(*collector.0.lock(), both);
    }
}
