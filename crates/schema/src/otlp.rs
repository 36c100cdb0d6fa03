//! Sections of the export over OTLP.

use super::{Kind, Section, field};

/// `otlp`
pub static OTLP: Section = Section {
    doc: "Export over OTLP. A field takes the place of the variable that it names, also of its forms for one signal, such as `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.",
    fields: &[
        field(
            "endpoint",
            Kind::Text,
            "",
            "URL of the collector, such as `http://127.0.0.1:4318`. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`; without either, nothing is exported.",
        ),
        field(
            "protocol",
            Kind::Word(&["grpc", "http/protobuf"]),
            "",
            "Transport. Default: `OTEL_EXPORTER_OTLP_PROTOCOL`, else http/protobuf.",
        ),
        field(
            "headers",
            Kind::Secret,
            "",
            "Headers of each request, as `name=value,name=value` with percent-encoded values. Default: `OTEL_EXPORTER_OTLP_HEADERS`.",
        ),
        field(
            "compression",
            Kind::Word(&["none", "gzip"]),
            "",
            "Compression of requests. Default: `OTEL_EXPORTER_OTLP_COMPRESSION`, else none.",
        ),
        field(
            "timeout",
            Kind::Duration,
            "",
            "Maximum time of a request. Default: `OTEL_EXPORTER_OTLP_TIMEOUT`, else 10s.",
        ),
        field(
            "ca",
            Kind::Text,
            "",
            "PEM file with certificate authorities. Default: `OTEL_EXPORTER_OTLP_CERTIFICATE`, else those of the system.",
        ),
        field(
            "client_cert",
            Kind::Text,
            "",
            "PEM file with the client's certificate chain. Default: `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`.",
        ),
        field(
            "client_key",
            Kind::Text,
            "",
            "PEM file with the client's private key. Default: `OTEL_EXPORTER_OTLP_CLIENT_KEY`.",
        ),
        field(
            "metrics",
            Kind::Flag,
            "true",
            "Export metrics, unless `OTEL_METRICS_EXPORTER` is `none`.",
        ),
        field(
            "traces",
            Kind::Flag,
            "true",
            "Export traces, unless `OTEL_TRACES_EXPORTER` is `none`.",
        ),
        field(
            "logs",
            Kind::Flag,
            "true",
            "Export a log record for each finished request, unless `OTEL_LOGS_EXPORTER` is `none`.",
        ),
        field(
            "interval",
            Kind::Duration,
            "",
            "Time from one export of metrics to the next. Default: `OTEL_METRIC_EXPORT_INTERVAL`, else 60s.",
        ),
        field(
            "temporality",
            Kind::Word(&["cumulative", "delta", "lowmemory"]),
            "",
            "Temporality of sums and histograms. Default: `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`, else cumulative.",
        ),
        field(
            "histograms",
            Kind::Word(&["explicit", "exponential"]),
            "",
            "Form of histograms: the boundaries of the conventions, or exponential buckets. Default: `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION`, else explicit.",
        ),
        field(
            "semconv",
            Kind::Word(&["v1.41", "gen_ai_latest_experimental", "gen_ai_latest_experimental/dup"]),
            "",
            "GenAI conventions of names: v1.41, `semantic-conventions-genai` v0.1.0, or both. Default: `OTEL_SEMCONV_STABILITY_OPT_IN`, else v1.41.",
        ),
        field(
            "trace_share",
            Kind::Share,
            "",
            "Share of the traces that are exported besides those of slow, failed, blocked and limited requests. A client's sampled flag decides for its trace. Default: `OTEL_TRACES_SAMPLER`, else 1.",
        ),
        field(
            "slow",
            Kind::Duration,
            "10s",
            "Traces of requests that take longer are always exported. The default is longer than most answers.",
        ),
        field(
            "resource",
            Kind::TextMap,
            "",
            "Attributes of the resource, in addition to `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`, and in place of theirs.",
        ),
        field(
            "spill",
            Kind::Section(&OTLP_SPILL),
            "",
            "Files in which traces and logs wait for the collector, so that a crash of the gateway does not lose them. Default: none, they wait in memory.",
        ),
    ],
};

/// `otlp.spill`
pub static OTLP_SPILL: Section = Section {
    doc: "Traces and logs are written to files before they are sent, and removed when the collector has accepted them. They can arrive twice after a crash.",
    fields: &[
        field(
            "path",
            Kind::RequiredText,
            "",
            "Folder of the files, which no other gateway uses. Traces and logs have a folder each in it. It is created if it is missing.",
        ),
        field(
            "max_size",
            Kind::Size,
            "256MiB",
            "Maximum size of the files of each signal, at least 16MiB. A request takes about 3 KiB.",
        ),
        field(
            "max_age",
            Kind::Duration,
            "24h",
            "Maximum age. Older requests are dropped and counted. Backends often refuse what is older than a few hours.",
        ),
        field(
            "when_full",
            Kind::Word(&["drop_oldest", "drop_newest"]),
            "drop_oldest",
            "Which requests are dropped and counted when the files have their maximum size.",
        ),
    ],
};
