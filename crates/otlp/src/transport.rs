//! Delivery of export requests to a collector, with retries.
//!
//! - *In*: messages of OTLP.
//! - *Out*: what the collector accepted, or why it did not.
//! - *Never*: a retry of a request that the collector has refused; a request earlier than the
//!   collector allows.

#[cfg(feature = "grpc")]
mod grpc;
mod http1;
mod tls;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::time::Instant;

use crate::settings::{Protocol, Target};

pub use tls::TlsError;

/// First pause before a retry. Each further one is twice as long, up to [`MAX_BACKOFF`], and drawn
/// from its upper half.
const BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Longest pause that a collector can demand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// An export request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
}

/// The answer to a request that the collector took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Spans, log records or data points that it refused (partial success). They are not sent
    /// again.
    pub rejected: u64,
    /// Its reason, or a warning.
    pub message: String,
}

/// Why the collector did not take a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {why}")]
pub struct ExportError {
    /// A stable code: `http_503`, `grpc_unavailable`, `connect`, `timeout`.
    pub code: String,
    /// The reason.
    pub why: String,
    /// A retry would fail, too.
    pub permanent: bool,
    /// How long the collector accepts no request.
    pub retry_after: Option<Duration>,
}

impl ExportError {
    pub(crate) fn retryable(code: &str, why: impl Into<String>) -> Self {
        ExportError { code: code.into(), why: why.into(), permanent: false, retry_after: None }
    }
}

/// Sends one request, once. Another layer of delivery may be added in front of it.
pub trait Export {
    /// Send a request.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is known about what the collector stored.
    fn export(&mut self, request: &Request) -> impl Future<Output = Result<Accepted, ExportError>>;
}

/// A client of a collector.
pub enum Client {
    /// Over HTTP.
    Http(Box<http1::HttpClient>),
    /// Over gRPC.
    #[cfg(feature = "grpc")]
    Grpc(Box<grpc::GrpcClient>),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A TLS file is invalid.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The endpoint is not valid.
    #[error("the OTLP endpoint {0:?} is not valid: {1}")]
    Endpoint(String, String),
    /// The build has no gRPC.
    #[error("OTLP over gRPC needs the feature `otlp-grpc`; use the protocol http/protobuf")]
    NoGrpc,
}

impl Client {
    /// A client for a target. It connects with the first request.
    ///
    /// # Errors
    /// When a TLS file or the endpoint is invalid.
    pub fn new(target: &Target) -> Result<Self, ClientError> {
        match target.protocol {
            Protocol::Http => Ok(Client::Http(Box::new(http1::HttpClient::new(target)?))),
            #[cfg(feature = "grpc")]
            Protocol::Grpc => Ok(Client::Grpc(Box::new(grpc::GrpcClient::new(target)?))),
            #[cfg(not(feature = "grpc"))]
            Protocol::Grpc => Err(ClientError::NoGrpc),
        }
    }
}

impl Export for Client {
    async fn export(&mut self, request: &Request) -> Result<Accepted, ExportError> {
        match self {
            Client::Http(client) => client.export(request).await,
            #[cfg(feature = "grpc")]
            Client::Grpc(client) => client.export(request).await,
        }
    }
}

/// Delivers requests of one signal, with retries.
pub struct Delivery<E> {
    client: E,
    /// Maximum time of a request with its retries, without pauses that the collector demands.
    timeout: Duration,
    /// The collector accepts no request before this.
    not_before: Option<Instant>,
}

impl<E: Export> Delivery<E> {
    /// A delivery whose requests may take `timeout`, retries included.
    pub fn new(client: E, timeout: Duration) -> Self {
        Delivery { client, timeout, not_before: None }
    }

    /// Deliver a request. `failed` gets each failure, the last one included.
    ///
    /// # Errors
    /// The last failure.
    ///
    /// # Cancel safety
    /// The request may have been delivered.
    pub async fn deliver(
        &mut self,
        request: &Request,
        mut failed: impl FnMut(&ExportError),
    ) -> Result<Accepted, ExportError> {
        let mut spent = Duration::ZERO;
        let mut backoff = BACKOFF;
        loop {
            if let Some(until) = self.not_before.take() {
                tokio::time::sleep_until(until).await;
            }
            let began = Instant::now();
            let error = match self.client.export(request).await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            failed(&error);
            spent += began.elapsed();
            if let Some(pause) = error.retry_after {
                self.not_before = Some(Instant::now() + pause.min(MAX_RETRY_AFTER));
            }
            if error.permanent {
                return Err(error);
            }
            let pause = if error.retry_after.is_some() {
                Duration::ZERO
            } else {
                backoff.mul_f64(rand::random_range(0.5..=1.0))
            };
            spent += pause.max(Duration::from_millis(1));
            if spent >= self.timeout {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
}

#[cfg(test)]
mod tests;
