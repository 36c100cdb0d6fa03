//! OTLP over gRPC, by the official clients on tonic.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::{logs, metrics, trace};
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::http1::chain;
use super::{Accepted, ClientError, Export, ExportError, Request, TlsError, tls};
use crate::settings::Target;

/// A client of one target.
pub struct GrpcClient {
    endpoint: Endpoint,
    metadata: MetadataMap,
    gzip: bool,
    timeout: Duration,
    /// Opened by the first request.
    channel: Option<Channel>,
}

impl GrpcClient {
    pub(super) fn new(target: &Target) -> Result<Self, ClientError> {
        let wrong = |why: String| ClientError::Endpoint(target.url.clone(), why);
        let mut endpoint = Endpoint::from_shared(target.url.clone())
            .and_then(|endpoint| {
                endpoint.user_agent(concat!("llm-lens/", env!("CARGO_PKG_VERSION")))
            })
            .map_err(|error| wrong(chain(&error)))?
            .connect_timeout(target.timeout);
        if target.url.starts_with("https://") {
            let tls = tls_config(target)?;
            endpoint = endpoint.tls_config(tls).map_err(|error| wrong(chain(&error)))?;
        }
        let mut metadata = MetadataMap::new();
        for (name, value) in &target.headers.0 {
            let name = MetadataKey::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(mut value)) = (name, MetadataValue::try_from(value)) {
                value.set_sensitive(true);
                metadata.insert(name, value);
            }
        }
        let (gzip, timeout) = (target.gzip, target.timeout);
        Ok(GrpcClient { endpoint, metadata, gzip, timeout, channel: None })
    }

    async fn exchange(&mut self, request: &Request) -> Result<Accepted, Status> {
        let endpoint = &self.endpoint;
        // tonic connects again by itself.
        let channel = self.channel.get_or_insert_with(|| endpoint.connect_lazy()).clone();
        let gzip = CompressionEncoding::Gzip;
        let partial = match request {
            Request::Metrics(message) => {
                let mut client =
                    metrics::v1::metrics_service_client::MetricsServiceClient::new(channel)
                        .accept_compressed(gzip);
                if self.gzip {
                    client = client.send_compressed(gzip);
                }
                let answer = client.export(self.message(message.clone())).await?;
                answer
                    .into_inner()
                    .partial_success
                    .map(|partial| (partial.rejected_data_points, partial.error_message))
            }
            Request::Traces(message) => {
                let mut client = trace::v1::trace_service_client::TraceServiceClient::new(channel)
                    .accept_compressed(gzip);
                if self.gzip {
                    client = client.send_compressed(gzip);
                }
                let answer = client.export(self.message(message.clone())).await?;
                answer
                    .into_inner()
                    .partial_success
                    .map(|partial| (partial.rejected_spans, partial.error_message))
            }
            Request::Logs(message) => {
                let mut client = logs::v1::logs_service_client::LogsServiceClient::new(channel)
                    .accept_compressed(gzip);
                if self.gzip {
                    client = client.send_compressed(gzip);
                }
                let answer = client.export(self.message(message.clone())).await?;
                answer
                    .into_inner()
                    .partial_success
                    .map(|partial| (partial.rejected_log_records, partial.error_message))
            }
        };
        let (rejected, message) = partial.unwrap_or_default();
        Ok(Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message })
    }

    fn message<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        request
    }
}

impl Export for GrpcClient {
    async fn export(&mut self, request: &Request) -> Result<Accepted, ExportError> {
        let limit = self.timeout;
        let timeout = || ExportError::retryable("timeout", format!("no answer in {limit:?}"));
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err(status)) => Err(refused(&status)),
            Err(_) => Err(timeout()),
        }
    }
}

fn tls_config(target: &Target) -> Result<ClientTlsConfig, ClientError> {
    let files = &target.tls;
    let mut config = ClientTlsConfig::new().trust_anchors(tls::roots(files)?.roots);
    if let (Some(chain), Some(key)) = (&files.client_certificate, &files.client_key) {
        // Checked here: tonic would report them with the first request.
        tls::config(files)?;
        let read = |what, path: &std::path::PathBuf| {
            std::fs::read(path).map_err(|why| TlsError::new(what, path, why))
        };
        let (chain, key) = (read("client certificate", chain)?, read("client key", key)?);
        config = config.identity(Identity::from_pem(chain, key));
    }
    Ok(config)
}

/// The failure of a call, by the rules of OTLP.
fn refused(status: &Status) -> ExportError {
    let retry_after = retry_after(status.details());
    let is_retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Without a time, the collector cannot recover from it.
        Code::ResourceExhausted => retry_after.is_some(),
        _ => false,
    };
    ExportError {
        code: format!("grpc_{}", code_name(status.code())),
        why: chain(status),
        permanent: !is_retryable,
        retry_after: retry_after.filter(|_| is_retryable),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// `google.rpc.Status`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The delay of a `google.rpc.RetryInfo` in the details of a status.
fn retry_after(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let is_info = |detail: &&Any| detail.type_url.ends_with("google.rpc.RetryInfo");
    let info = RetryInfo::decode(status.details.iter().find(is_info)?.value.as_slice()).ok()?;
    let delay = info.retry_delay?;
    let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(seconds: i64) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(RpcDuration { seconds, nanos: 500_000_000 }) };
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        RpcStatus { details: vec![Any { type_url, value: info.encode_to_vec() }] }.encode_to_vec()
    }

    #[test]
    fn failures_are_retried_as_otlp_requires() {
        for (status, permanent, retry_after) in [
            (Status::unavailable("x"), false, None),
            (Status::resource_exhausted("x"), true, None),
            (
                Status::with_details(Code::ResourceExhausted, "x", details(2).into()),
                false,
                Some(Duration::from_millis(2500)),
            ),
            (Status::invalid_argument("x"), true, None),
            (Status::with_details(Code::InvalidArgument, "x", details(2).into()), true, None),
            (Status::with_details(Code::Unavailable, "x", details(-2).into()), false, None),
        ] {
            let error = refused(&status);
            assert_eq!((error.permanent, error.retry_after), (permanent, retry_after), "{status}");
        }
    }
}
