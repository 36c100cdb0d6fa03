//! Metrics as OTLP messages, encoded from the histograms of the series.
//!
//! - *In*: all metrics of an observatory, through [`MetricWriter`].
//! - *Out*: export requests of bounded size, with the names of [`semconv`](crate::semconv).
//! - *Never*: recounted values. Exponential buckets are copies, merged to a smaller scale where
//!   there are more than [`MAX_BUCKETS`]; explicit ones are computed, so their bounds are exact to
//!   2.2 %; sums and counts are exact.
//!
//! With delta temporality, the encoder keeps the values that were committed last: what a collector
//! did not get is a part of the next export.

mod points;

pub use points::MAX_BUCKETS;

use std::collections::{BTreeMap, HashMap};

use lens::Histogram;
use observatory::catalog::{self, Kind, Metric as Row, Unit};
use observatory::{Exemplar, Exemplars, Group, MetricWriter};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as EncodedExemplar, ExponentialHistogram, Gauge,
    Histogram as ExplicitHistogram, Metric, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::semconv::{self, Conventions, Derivation, Instrument};
use crate::settings::{Aggregation, Temporality};
use crate::traces::{span_bytes, trace_bytes};
use crate::value::{int, pair, text};
use points::{Point, Values};

/// Size above which a request is split. Collectors accept 4 MiB in a gRPC message.
pub(crate) const MAX_REQUEST_BYTES: usize = 2 << 20;

/// The label with host and port of a backend.
const SERVER: &str = "server_address";

/// Maximum exemplars of a data point.
const MAX_EXEMPLARS: usize = 4;

/// Attributes of a data point, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Host and port of a backend; nothing without one.
    fn add_server(&mut self, server: &str) {
        if let Some((host, port)) = server.rsplit_once(':') {
            self.0.push(("server.address".into(), host.to_owned()));
            self.0.push(("server.port".into(), port.to_owned()));
        }
    }

    fn encoded(&self, instrument: &Instrument) -> Vec<KeyValue> {
        let kept = self
            .0
            .iter()
            .filter(|(key, _)| instrument.has_token_type || key != "gen_ai.token.type");
        let modality =
            instrument.has_modality.then(|| pair("gen_ai.token.modality", text("unknown")));
        kept.map(|(key, value)| match (key.as_str(), value.parse()) {
            ("server.port", Ok(port)) => pair(key, int(port)),
            _ => pair(key, text(value)),
        })
        .chain(modality)
        .collect()
    }
}

/// A stream of values: a metric and its attributes.
type StreamKey = (String, Attributes);

/// Encodes metrics, export after export.
#[derive(Debug)]
pub struct Encoder {
    resource: Resource,
    conventions: Conventions,
    temporality: Temporality,
    aggregation: Aggregation,
    /// When counting began, in Unix nanoseconds.
    started: u64,
    /// When the last export was made.
    last: Option<u64>,
    /// Values that were committed last, and when; empty if all temporality is cumulative.
    previous: HashMap<StreamKey, (u64, Values)>,
    /// Since when values of these attributes are counted.
    since: HashMap<Attributes, u64>,
    /// End of the last export that was delivered, in Unix nanoseconds. Later requests are
    /// exemplars.
    delivered: u64,
}

/// An export request.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsRequest {
    /// The message.
    pub message: ExportMetricsServiceRequest,
    /// Number of its data points.
    pub points: u64,
    /// The values that its streams have reached.
    pub baseline: Baseline,
}

/// The values of a request, which the next delta begins from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    at: u64,
    values: Vec<(StreamKey, Values)>,
}

impl Encoder {
    /// An encoder of metrics that are counted since `started`, in Unix nanoseconds.
    pub fn new(
        resource: Resource,
        conventions: Conventions,
        (temporality, aggregation): (Temporality, Aggregation),
        started: u64,
    ) -> Self {
        Encoder {
            resource,
            conventions,
            temporality,
            aggregation,
            started,
            last: None,
            previous: HashMap::new(),
            since: HashMap::new(),
            delivered: started,
        }
    }

    /// Begin an export at `now`, in Unix nanoseconds.
    pub fn begin(&mut self, now: u64) -> Export<'_> {
        Export {
            encoder: self,
            now,
            metrics: BTreeMap::new(),
            previous: HashMap::new(),
            since: HashMap::new(),
        }
    }

    /// A request was delivered, or given up: the next delta begins after it.
    pub fn commit(&mut self, Baseline { at, values }: Baseline) {
        self.previous.extend(values.into_iter().map(|(key, values)| (key, (at, values))));
    }

    /// All requests of an export that began at `now` were delivered, or given up.
    pub fn end(&mut self, now: u64) {
        self.delivered = now;
    }

    fn is_delta(&self, kind: Kind) -> bool {
        match (self.temporality, kind) {
            (_, Kind::Gauge) | (Temporality::Cumulative, _) => false,
            (Temporality::Delta, _) => true,
            (Temporality::LowMemory, kind) => kind == Kind::Histogram,
        }
    }
}

/// A metric with its data points.
struct Family {
    instrument: Instrument,
    is_integer: bool,
    points: Vec<Point>,
}

/// One export.
pub struct Export<'e> {
    encoder: &'e mut Encoder,
    now: u64,
    metrics: BTreeMap<String, Family>,
    /// Entries of the encoder whose streams are in this export. Others have expired.
    previous: HashMap<StreamKey, (u64, Values)>,
    since: HashMap<Attributes, u64>,
}

impl MetricWriter for Export<'_> {
    type Labels = Attributes;

    fn no_labels(&self) -> Attributes {
        Attributes::default()
    }

    /// An empty value means that the label does not apply, so the attribute is absent.
    fn with(&self, labels: &Attributes, name: &str, value: &str) -> Attributes {
        let mut labels = labels.clone();
        if name == SERVER {
            labels.add_server(value);
        } else if !value.is_empty() {
            labels.0.push((semconv::attribute(name).to_owned(), value.to_owned()));
        }
        labels
    }

    fn inference_labels(&self, group: &Group, model: &str) -> Attributes {
        let mut labels = self.labels([
            ("route", &group.route),
            ("backend", &group.backend),
            ("gen_ai_operation_name", group.operation),
            ("gen_ai_provider_name", &group.provider),
            ("gen_ai_request_model", model),
        ]);
        labels.add_server(&group.server);
        labels
    }

    fn exemplars_since(&self) -> Option<u64> {
        Some(self.encoder.delivered / 1000)
    }

    fn number(&mut self, name: &'static str, labels: &Attributes, value: f64) {
        let Some(row) = catalog::find(name) else { return };
        for instrument in self.instruments(row, labels) {
            let none = Exemplars::default();
            self.add((row, instrument), labels, Values::Number(value), none);
        }
    }

    fn histogram<const PER_UNIT: u64>(
        &mut self,
        name: &'static str,
        labels: &Attributes,
        values: Option<&Histogram<PER_UNIT>>,
        exemplars: Exemplars<'_>,
    ) {
        let Some(row) = catalog::find(name) else { return };
        for instrument in self.instruments(row, labels) {
            let values = match (instrument.derivation, values) {
                (Derivation::Sum, values) => {
                    Values::Number(values.map_or(0.0, Histogram::exported_sum))
                }
                (Derivation::Same, None) => continue,
                (Derivation::Same, Some(values)) => match self.encoder.aggregation {
                    Aggregation::Explicit => Values::explicit(values, instrument.bounds),
                    Aggregation::Exponential => Values::exponential(values),
                },
            };
            self.add((row, instrument), labels, values, exemplars);
        }
    }
}

fn encoded(exemplar: &Exemplar<'_>) -> EncodedExemplar {
    EncodedExemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: exemplar.at.saturating_mul(1000),
        span_id: exemplar.span_id.map(span_bytes).unwrap_or_default(),
        trace_id: trace_bytes(exemplar.trace_id),
        value: Some(exemplar::Value::AsDouble(exemplar.seconds)),
    }
}

impl Export<'_> {
    fn instruments(&self, row: &'static Row, labels: &Attributes) -> Vec<Instrument> {
        let operation = labels.get("gen_ai.operation.name");
        let token_type = labels.get("gen_ai.token.type");
        semconv::instruments(row, self.encoder.conventions, operation, token_type)
    }

    fn add(
        &mut self,
        (row, instrument): (&'static Row, Instrument),
        labels: &Attributes,
        values: Values,
        exemplars: Exemplars<'_>,
    ) {
        let since = self.since(labels);
        let (start, values, reached) = if self.encoder.is_delta(instrument.kind) {
            let key = (instrument.name.clone().into_owned(), labels.clone());
            let previous = self.encoder.previous.remove(&key);
            let start = previous.as_ref().map_or(since, |(at, _)| *at);
            let added = values.since(previous.as_ref().map(|(_, values)| values));
            self.previous.extend(previous.map(|previous| (key.clone(), previous)));
            (start, added, Some((key, values)))
        } else {
            (since, values, None)
        };
        let is_integer = instrument.kind == Kind::Counter && row.unit != Unit::Seconds;
        let point = Point {
            attributes: labels.encoded(&instrument),
            start: if instrument.kind == Kind::Gauge { 0 } else { start },
            at: self.now,
            values,
            reached,
            exemplars: exemplars.iter().take(MAX_EXEMPLARS).map(|one| encoded(&one)).collect(),
        };
        let name = instrument.name.clone().into_owned();
        let family = || Family { instrument, is_integer, points: Vec::new() };
        self.metrics.entry(name).or_insert_with(family).points.push(point);
    }

    /// Since when values of these attributes are counted. A series that appears later, or again
    /// after it expired, has its own start.
    fn since(&mut self, labels: &Attributes) -> u64 {
        if let Some(since) = self.since.get(labels) {
            return *since;
        }
        let encoder = &self.encoder;
        let known = encoder.since.get(labels).copied();
        let since = known.unwrap_or_else(|| encoder.last.unwrap_or(encoder.started));
        self.since.insert(labels.clone(), since);
        since
    }

    /// The requests.
    pub fn finish(self) -> Vec<MetricsRequest> {
        let Export { encoder, now, metrics, previous, since } = self;
        (encoder.since, encoder.previous, encoder.last) = (since, previous, Some(now));
        let mut requests = Vec::new();
        let mut open = Open::new(now);
        for Family { instrument, is_integer, points } in metrics.into_values() {
            let temporality = if encoder.is_delta(instrument.kind) {
                AggregationTemporality::Delta
            } else {
                AggregationTemporality::Cumulative
            };
            let mut part = Vec::new();
            for point in points {
                let bytes = point.estimated_bytes(&instrument);
                if open.bytes + bytes > MAX_REQUEST_BYTES {
                    open.push(&instrument, is_integer, temporality, std::mem::take(&mut part));
                    requests.extend(
                        std::mem::replace(&mut open, Open::new(now)).close(&encoder.resource),
                    );
                }
                open.bytes += bytes;
                part.push(point);
            }
            open.push(&instrument, is_integer, temporality, part);
        }
        requests.extend(open.close(&encoder.resource));
        requests
    }
}

/// A request that still has room.
struct Open {
    metrics: Vec<Metric>,
    bytes: usize,
    points: u64,
    baseline: Baseline,
}

impl Open {
    fn new(at: u64) -> Self {
        let baseline = Baseline { at, values: Vec::new() };
        Open { metrics: Vec::new(), bytes: 0, points: 0, baseline }
    }

    fn push(
        &mut self,
        instrument: &Instrument,
        is_integer: bool,
        temporality: AggregationTemporality,
        mut points: Vec<Point>,
    ) {
        if points.is_empty() {
            return;
        }
        self.points += points.len() as u64;
        self.baseline.values.extend(points.iter_mut().filter_map(|point| point.reached.take()));
        self.metrics.push(Metric {
            name: instrument.name.clone().into_owned(),
            description: instrument.help.to_owned(),
            unit: instrument.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data(instrument, is_integer, temporality, points)),
        });
    }

    fn close(self, resource: &Resource) -> Option<MetricsRequest> {
        if self.metrics.is_empty() {
            return None;
        }
        let scope_metrics = vec![ScopeMetrics {
            scope: Some(crate::traces::scope()),
            metrics: self.metrics,
            schema_url: String::new(),
        }];
        let resource_metrics = vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics,
            schema_url: String::new(),
        }];
        let message = ExportMetricsServiceRequest { resource_metrics };
        Some(MetricsRequest { message, points: self.points, baseline: self.baseline })
    }
}

fn data(
    instrument: &Instrument,
    is_integer: bool,
    temporality: AggregationTemporality,
    points: Vec<Point>,
) -> metric::Data {
    let aggregation_temporality = temporality as i32;
    let points = points.into_iter();
    match instrument.kind {
        Kind::Gauge => {
            metric::Data::Gauge(Gauge { data_points: points.map(|p| p.number(false)).collect() })
        }
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: points.map(|point| point.number(is_integer)).collect(),
            aggregation_temporality,
            is_monotonic: true,
        }),
        Kind::Histogram => {
            let points: Vec<Point> = points.collect();
            let is_exponential =
                points.iter().any(|point| matches!(point.values, Values::Exponential(_)));
            if is_exponential {
                metric::Data::ExponentialHistogram(ExponentialHistogram {
                    data_points: points.into_iter().map(Point::exponential).collect(),
                    aggregation_temporality,
                })
            } else {
                let explicit = |point: Point| point.explicit(instrument.bounds);
                metric::Data::Histogram(ExplicitHistogram {
                    data_points: points.into_iter().map(explicit).collect(),
                    aggregation_temporality,
                })
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
