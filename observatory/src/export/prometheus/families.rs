//! Families of samples, encoded in one format.
//!
//! - *In*: samples by metric name, with their labels.
//! - *Out*: the bytes of an exposition, in parts, families sorted by name.
//! - *Never*: a tree of values. A sample is encoded when it is added, so a scrape holds only the
//!   bytes that it sends.

use std::collections::BTreeMap;

use lens::Histogram;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::format::Format;
use super::labels::Labels;
use super::{proto, text};
use crate::catalog::{self, Kind, Metric, Unit};
use crate::exemplars::Exemplars;
use crate::export::MetricWriter;

/// Families by name, in one format.
pub(in crate::export) struct Families {
    format: Format,
    families: BTreeMap<&'static str, Family>,
}

struct Family {
    row: &'static Metric,
    /// Bounds of the classic buckets, formatted as `le` values.
    le: Vec<String>,
    samples: Vec<u8>,
}

impl Families {
    pub(in crate::export) fn new(format: Format) -> Families {
        Families { format, families: BTreeMap::new() }
    }

    /// The encoded families, in parts to send in order. Joining them would hold a large scrape
    /// twice.
    pub(in crate::export) fn finish(self) -> Vec<Vec<u8>> {
        let head = match self.format {
            Format::Text => text::family_head,
            Format::OpenMetrics => text::open_metrics_family_head,
            Format::Protobuf => protobuf_family_head,
        };
        let families = self.families.into_values();
        let parts = families.flat_map(|family| [head(family.row, &family.samples), family.samples]);
        let end = (self.format == Format::OpenMetrics).then(|| b"# EOF\n".to_vec());
        parts.chain(end).collect()
    }

    /// The family named `name`. Metrics that are not in the catalog are not exported.
    fn family(&mut self, name: &'static str) -> Option<&mut Family> {
        use std::collections::btree_map::Entry;
        match self.families.entry(name) {
            Entry::Occupied(family) => Some(family.into_mut()),
            Entry::Vacant(place) => {
                let row = catalog::find(name);
                debug_assert!(row.is_some(), "{name} is not in the catalog");
                let row = row?;
                let le = row.bounds.iter().map(|bound| match self.format {
                    // Whole numbers have a fraction: "1.0".
                    Format::OpenMetrics => format!("{bound:?}"),
                    Format::Text | Format::Protobuf => bound.to_string(),
                });
                Some(place.insert(Family { row, le: le.collect(), samples: Vec::new() }))
            }
        }
    }
}

impl MetricWriter for Families {
    type Labels = Labels;

    fn no_labels(&self) -> Labels {
        Labels::none()
    }

    fn with(&self, labels: &Labels, name: &str, value: &str) -> Labels {
        labels.with(self.format, name, value)
    }

    /// Prometheus ignores those that it has already.
    fn exemplars_since(&self) -> Option<u64> {
        self.format.has_exemplars().then_some(0)
    }

    fn number(&mut self, name: &'static str, labels: &Labels, value: f64) {
        let format = self.format;
        let Some(Family { row, samples, .. }) = self.family(name) else { return };
        match format {
            Format::Text | Format::OpenMetrics => text::number(samples, row, labels, value),
            Format::Protobuf => {
                let number = Some(proto::Number { value });
                let value = match row.kind {
                    Kind::Counter => proto::Value { counter: number, ..Default::default() },
                    Kind::Gauge | Kind::Histogram => {
                        proto::Value { gauge: number, ..Default::default() }
                    }
                };
                protobuf_sample(samples, labels, &value);
            }
        }
    }

    /// A histogram without values is omitted: it would cost a line for each bucket.
    fn histogram<const PER_UNIT: u64>(
        &mut self,
        name: &'static str,
        labels: &Labels,
        values: Option<&Histogram<PER_UNIT>>,
        exemplars: Exemplars<'_>,
    ) {
        let Some(values) = values else { return };
        let format = self.format;
        let Some(Family { row, le, samples }) = self.family(name) else { return };
        debug_assert_eq!(
            PER_UNIT == 1,
            row.unit != Unit::Seconds,
            "{name} is recorded in another unit"
        );
        match format {
            Format::Text => {
                text::histogram(samples, (row, le), labels, values, Exemplars::default())
            }
            Format::OpenMetrics => text::histogram(samples, (row, le), labels, values, exemplars),
            Format::Protobuf => {
                let histogram = Some(proto::Histogram::new(values, exemplars));
                let value = proto::Value { histogram, ..Default::default() };
                protobuf_sample(samples, labels, &value);
            }
        }
    }
}

fn protobuf_family_head(row: &Metric, samples: &[u8]) -> Vec<u8> {
    let kind = match row.kind {
        Kind::Counter => proto::MetricType::Counter,
        Kind::Gauge => proto::MetricType::Gauge,
        Kind::Histogram => proto::MetricType::Histogram,
    };
    let head = proto::FamilyHead {
        name: row.name.to_owned(),
        help: row.help.to_owned(),
        kind: kind as i32,
    };
    let mut out = Vec::new();
    encode_varint((head.encoded_len() + samples.len()) as u64, &mut out);
    head.encode_raw(&mut out);
    out
}

fn protobuf_sample(out: &mut Vec<u8>, labels: &Labels, value: &proto::Value) {
    encode_key(proto::FAMILY_METRIC, WireType::LengthDelimited, out);
    encode_varint((labels.encoded().len() + value.encoded_len()) as u64, out);
    out.extend_from_slice(labels.encoded());
    value.encode_raw(out);
}
