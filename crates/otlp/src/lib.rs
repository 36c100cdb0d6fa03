//! OpenTelemetry export: metrics, traces and logs over OTLP, by gRPC and by HTTP with protobuf.
//!
//! - *In*: the metrics of an [`Observatory`](observatory::Observatory), and finished records.
//! - *Out*: export requests to a collector; counts of what it accepted, refused and did not get.
//! - *Never*: a second count of the same thing: histograms are encoded from the buckets of the
//!   series. A request that waits for the collector. A prompt, an answer or a credential.
//!
//! Module order, lowest first: `semconv`, `value`, `settings`, `metrics`, `traces`, `logs`,
//! `transport`, `exporter`.

mod exporter;
pub mod logs;
pub mod metrics;
pub mod semconv;
mod settings;
pub mod traces;
pub mod transport;
mod value;

pub use exporter::{Collect, Exporter, StartError};
pub use settings::{
    Aggregation, BatchSettings, FileSettings, Headers, LogsSettings, MetricsSettings, Protocol,
    Sampler, Settings, Target, Temporality, TlsFiles, TracesSettings,
};
