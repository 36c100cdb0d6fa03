//! Settings of the export over OTLP.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::seconds;
use yaml::Secret;

/// Export over OTLP. An absent field follows the `OTEL_*` variables.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Otlp {
    /// URL of the collector.
    pub endpoint: Option<String>,
    /// `grpc` or `http/protobuf`.
    pub protocol: Option<String>,
    /// Headers of each request.
    pub headers: Option<Secret>,
    /// `none` or `gzip`.
    pub compression: Option<String>,
    /// Maximum time of a request.
    pub timeout: Option<Duration>,
    /// File with certificate authorities.
    pub ca: Option<String>,
    /// File with the client's certificate chain.
    pub client_cert: Option<String>,
    /// File with the client's private key.
    pub client_key: Option<String>,
    /// Metrics are exported.
    pub metrics: bool,
    /// Traces are exported.
    pub traces: bool,
    /// A log record for each request is exported.
    pub logs: bool,
    /// Time from one export of metrics to the next.
    pub interval: Option<Duration>,
    /// `cumulative`, `delta` or `lowmemory`.
    pub temporality: Option<String>,
    /// `explicit` or `exponential`.
    pub histograms: Option<String>,
    /// GenAI conventions.
    pub semconv: Option<String>,
    /// Share of the traces that are exported for no other reason.
    pub trace_share: Option<f32>,
    /// Traces of requests that take longer are always exported.
    #[serde(serialize_with = "seconds")]
    pub slow: Duration,
    /// Attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// Where traces and logs wait; `None`: in memory.
    pub spill: Option<OtlpSpill>,
}

/// Files in which traces and logs wait for the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtlpSpill {
    /// The folder.
    pub path: PathBuf,
    /// Maximum size of each signal in bytes.
    pub max_size: u64,
    /// Maximum age of a request.
    #[serde(serialize_with = "seconds")]
    pub max_age: Duration,
    /// When it is full, the oldest requests are dropped; otherwise the newest.
    pub drops_oldest: bool,
}
