//! What is exported where: from the `OTEL_*` variables and the `otlp` section of the settings.
//!
//! - *In*: variables as a map, and fields of the settings file, which override them.
//! - *Out*: [`Settings`], and a warning for each value that is not valid.
//! - *Never*: the environment of the process; an error. As OpenTelemetry specifies, an empty value
//!   counts as unset, and an invalid one is replaced by the default with a warning.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use observatory::SpillSettings;

use crate::semconv::Conventions;

mod read;
use read::Variables;

/// Transport of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with protobuf bodies.
    Http,
}

/// Request headers. Their values are secrets, which are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, "***"))).finish()
    }
}

/// PEM files of TLS. Without a CA, the certificate authorities of the system apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate authorities.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain.
    pub client_certificate: Option<PathBuf>,
    /// The client's private key.
    pub client_key: Option<PathBuf>,
}

/// Where a signal is exported to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// URL; for HTTP with the path of the signal. gRPC ignores its path.
    pub url: String,
    /// The transport.
    pub protocol: Protocol,
    /// Headers of each request.
    pub headers: Headers,
    /// Compress bodies with gzip.
    pub gzip: bool,
    /// Maximum time of a request. Default 10 s.
    pub timeout: Duration,
    /// Files of TLS.
    pub tls: TlsFiles,
}

/// Temporality of sums and histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// Both since the start. The default.
    Cumulative,
    /// Both since the last export.
    Delta,
    /// Histograms since the last export, sums since the start.
    LowMemory,
}

/// Form of histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// Buckets with the boundaries of the conventions. The default.
    Explicit,
    /// Base-2 exponential buckets.
    Exponential,
}

/// Export of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The destination.
    pub target: Target,
    /// Time from one export to the next. Default 60 s.
    pub interval: Duration,
    /// Maximum time of an export, retries included. Default 30 s.
    pub timeout: Duration,
    /// Temporality.
    pub temporality: Temporality,
    /// Form of histograms.
    pub aggregation: Aggregation,
}

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Share of the traces that are exported for no other reason, 0 to 1.
    pub share: f64,
    /// A client's sampled flag decides for its trace.
    pub parent_based: bool,
    /// Requests that take longer are exported.
    pub slow: Duration,
}

/// Export of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesSettings {
    /// The destination.
    pub target: Target,
    /// Which traces are exported.
    pub sampler: Sampler,
    /// Queue and batches; the items are spans.
    pub batches: BatchSettings,
}

/// Export of log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsSettings {
    /// The destination.
    pub target: Target,
    /// Queue and batches; the items are log records.
    pub batches: BatchSettings,
}

/// Queue and batches of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Maximum finished requests that wait in memory. Further ones are dropped and counted. Default
    /// 2048.
    pub max_queued: usize,
    /// Maximum items of an export request. Default 512.
    pub max_batch: usize,
    /// Maximum time that requests wait for others. Default: spans 5 s, logs 1 s.
    pub delay: Duration,
    /// Maximum time of an attempt to export a batch. Default 30 s.
    pub timeout: Duration,
}

/// What is exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Attributes of the resource, `service.name` among them.
    pub resource: BTreeMap<String, String>,
    /// GenAI conventions of metrics and spans.
    pub conventions: Conventions,
    /// Metrics; `None`: not exported.
    pub metrics: Option<MetricsSettings>,
    /// Traces; `None`: not exported.
    pub traces: Option<TracesSettings>,
    /// Logs; `None`: not exported.
    pub logs: Option<LogsSettings>,
    /// Where requests wait for the collector, each signal in a folder of its own below the path;
    /// `None`: in memory only.
    pub spill: Option<SpillSettings>,
}

/// Fields of the settings file. Each takes the place of a variable, and of its forms for one
/// signal.
#[derive(Clone)]
pub struct FileSettings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Option<String>,
    /// `OTEL_EXPORTER_OTLP_HEADERS`, a secret.
    pub headers: Option<String>,
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`.
    pub compression: Option<String>,
    /// `OTEL_EXPORTER_OTLP_TIMEOUT`.
    pub timeout: Option<Duration>,
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`.
    pub ca: Option<String>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.
    pub client_certificate: Option<String>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY`.
    pub client_key: Option<String>,
    /// `false`: `OTEL_METRICS_EXPORTER=none`.
    pub metrics: bool,
    /// `false`: `OTEL_TRACES_EXPORTER=none`.
    pub traces: bool,
    /// `false`: `OTEL_LOGS_EXPORTER=none`.
    pub logs: bool,
    /// `OTEL_METRIC_EXPORT_INTERVAL`.
    pub interval: Option<Duration>,
    /// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`.
    pub temporality: Option<String>,
    /// `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`: `explicit` or `exponential`.
    pub histograms: Option<String>,
    /// `OTEL_SEMCONV_STABILITY_OPT_IN`.
    pub semconv: Option<String>,
    /// `OTEL_TRACES_SAMPLER=parentbased_traceidratio` with this argument.
    pub share: Option<f64>,
    /// Requests that take longer are exported; `None`: 10 s.
    pub slow: Option<Duration>,
    /// Added to `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource: BTreeMap<String, String>,
    /// Where requests wait for the collector; no variable has it.
    pub spill: Option<SpillSettings>,
}

impl Default for FileSettings {
    /// Everything as the variables have it.
    fn default() -> Self {
        FileSettings {
            endpoint: None,
            protocol: None,
            headers: None,
            compression: None,
            timeout: None,
            ca: None,
            client_certificate: None,
            client_key: None,
            metrics: true,
            traces: true,
            logs: true,
            interval: None,
            temporality: None,
            histograms: None,
            semconv: None,
            share: None,
            slow: None,
            resource: BTreeMap::new(),
            spill: None,
        }
    }
}

/// Requests that take longer than this are exported by default.
const SLOW: Duration = Duration::from_secs(10);

impl Settings {
    /// The settings, and warnings about values that are not valid. `None`: nothing is exported,
    /// because there is no endpoint, or everything is off.
    pub fn new(
        variables: BTreeMap<String, String>,
        file: &FileSettings,
    ) -> (Option<Settings>, Vec<String>) {
        let mut read = Variables::new(variables, file);
        let settings = Settings::read(&mut read, file);
        (settings, read.warnings)
    }

    fn read(read: &mut Variables, file: &FileSettings) -> Option<Settings> {
        if read.flag("OTEL_SDK_DISABLED") {
            return None;
        }
        let metrics = is_on(read, "METRICS").then(|| metrics(read)).flatten();
        let traces = is_on(read, "TRACES").then(|| traces(read, file)).flatten();
        let logs = is_on(read, "LOGS").then(|| logs(read)).flatten();
        if metrics.is_none() && traces.is_none() && logs.is_none() {
            return None;
        }
        let opt_in = read.text("OTEL_SEMCONV_STABILITY_OPT_IN").unwrap_or_default();
        Some(Settings {
            resource: resource(read, file),
            conventions: Conventions::from_opt_in(&opt_in),
            metrics,
            traces,
            logs,
            spill: file.spill.clone(),
        })
    }
}

/// Whether a signal is exported: `OTEL_*_EXPORTER` says so, or there is an endpoint.
fn is_on(read: &mut Variables, signal: &str) -> bool {
    let variable = format!("OTEL_{signal}_EXPORTER");
    match read.text(&variable).as_deref() {
        Some("otlp") => true,
        Some("none") => false,
        Some(other) => {
            read.warn(&variable, other, "otlp or none");
            false
        }
        None => read.of_signal(signal, "ENDPOINT").is_some(),
    }
}

fn target(read: &mut Variables, signal: &str) -> Option<Target> {
    let protocol = match read.of_signal(signal, "PROTOCOL") {
        None => Protocol::Http,
        Some((variable, value)) => match value.as_str() {
            "grpc" => Protocol::Grpc,
            "http/protobuf" => Protocol::Http,
            _ => {
                read.warn(&variable, &value, "grpc or http/protobuf");
                Protocol::Http
            }
        },
    };
    let gzip = match read.of_signal(signal, "COMPRESSION") {
        None => false,
        Some((variable, value)) => match value.as_str() {
            "gzip" => true,
            "none" => false,
            _ => {
                read.warn(&variable, &value, "gzip or none");
                false
            }
        },
    };
    let insecure = read.of_signal(signal, "INSECURE").is_some_and(|(_, value)| value == "true");
    let url = read.url(signal, protocol, insecure)?;
    let file = |read: &Variables, name: &str| {
        read.of_signal(signal, name).map(|(_, path)| PathBuf::from(path))
    };
    let tls = TlsFiles {
        ca: file(read, "CERTIFICATE"),
        client_certificate: file(read, "CLIENT_CERTIFICATE"),
        client_key: file(read, "CLIENT_KEY"),
    };
    let timeout = match read.of_signal(signal, "TIMEOUT") {
        None => Duration::from_secs(10),
        Some((variable, _)) => read.millis(&variable, 10_000),
    };
    Some(Target { url, protocol, headers: read.headers(signal), gzip, timeout, tls })
}

fn metrics(read: &mut Variables) -> Option<MetricsSettings> {
    let temporality = read.word(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        &[
            ("cumulative", Temporality::Cumulative),
            ("delta", Temporality::Delta),
            ("lowmemory", Temporality::LowMemory),
        ],
    );
    let aggregation = read.word(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        &[
            ("explicit_bucket_histogram", Aggregation::Explicit),
            ("base2_exponential_bucket_histogram", Aggregation::Exponential),
        ],
    );
    Some(MetricsSettings {
        target: target(read, "METRICS")?,
        interval: read.millis("OTEL_METRIC_EXPORT_INTERVAL", 60_000),
        timeout: read.millis("OTEL_METRIC_EXPORT_TIMEOUT", 30_000),
        temporality: temporality.unwrap_or(Temporality::Cumulative),
        aggregation: aggregation.unwrap_or(Aggregation::Explicit),
    })
}

/// `None`: the sampler is `always_off`.
fn traces(read: &mut Variables, file: &FileSettings) -> Option<TracesSettings> {
    let target = target(read, "TRACES")?;
    let (share, parent_based) = sampler(read)?;
    Some(TracesSettings {
        target,
        sampler: Sampler { share, parent_based, slow: file.slow.unwrap_or(SLOW) },
        batches: batches(read, "BSP", 5000),
    })
}

fn logs(read: &mut Variables) -> Option<LogsSettings> {
    Some(LogsSettings { target: target(read, "LOGS")?, batches: batches(read, "BLRP", 1000) })
}

/// The variables of a batch processor: `BSP` for spans, `BLRP` for log records.
fn batches(read: &mut Variables, processor: &str, delay: u64) -> BatchSettings {
    let variable = |name: &str| format!("OTEL_{processor}_{name}");
    BatchSettings {
        max_queued: read.count(&variable("MAX_QUEUE_SIZE"), 2048),
        max_batch: read.count(&variable("MAX_EXPORT_BATCH_SIZE"), 512),
        delay: read.millis(&variable("SCHEDULE_DELAY"), delay),
        timeout: read.millis(&variable("EXPORT_TIMEOUT"), 30_000),
    }
}

/// The sampled share, and whether the client's flag decides. `None`: no traces.
fn sampler(read: &mut Variables) -> Option<(f64, bool)> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    let name = read.text(SAMPLER).unwrap_or_else(|| "parentbased_always_on".into());
    match name.as_str() {
        "always_on" => Some((1.0, false)),
        "always_off" => None,
        "traceidratio" => Some((read.share("OTEL_TRACES_SAMPLER_ARG"), false)),
        "parentbased_always_on" => Some((1.0, true)),
        "parentbased_always_off" => Some((0.0, true)),
        "parentbased_traceidratio" => Some((read.share("OTEL_TRACES_SAMPLER_ARG"), true)),
        other => {
            read.warn(SAMPLER, other, "a sampler such as parentbased_traceidratio");
            Some((1.0, true))
        }
    }
}

fn resource(read: &mut Variables, file: &FileSettings) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("service.name".to_owned(), "llm-lens".to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("telemetry.sdk.language".to_owned(), "rust".to_owned()),
        ("telemetry.sdk.name".to_owned(), "llm-lens".to_owned()),
        ("telemetry.sdk.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    all.extend(read.pairs("OTEL_RESOURCE_ATTRIBUTES"));
    all.extend(read.text("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    all.extend(file.resource.clone());
    all
}

#[cfg(test)]
mod tests;
