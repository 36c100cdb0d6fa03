//! The exported messages of `io.prometheus.client`, with the field numbers of Prometheus's
//! `metrics.proto`.
//!
//! - *In*: values, and histograms of `lens`.
//! - *Out*: messages for `prost` to encode.
//! - *Never*: classic buckets, or recounted buckets: native buckets are copies.

use crate::exemplars::{self, Exemplars};

/// `MetricFamily.metric`.
pub(super) const FAMILY_METRIC: u32 = 4;
/// `Metric.label`.
pub(super) const METRIC_LABEL: u32 = 1;
/// Smaller values count as zero. It is the threshold of Prometheus's client libraries, so that
/// histograms can be merged with theirs.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// Maximum exemplars of a histogram. Prometheus has ten slots in its client libraries.
const MAX_EXEMPLARS: usize = 10;

/// The head of a `MetricFamily`; its samples follow in the same message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FamilyHead {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) help: String,
    #[prost(enumeration = "MetricType", tag = "3")]
    pub(super) kind: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// The value of a `Metric`, which follows its labels. Exactly one field is set.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

/// A `Gauge` or a `Counter`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Number {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
}

/// A native histogram.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(uint64, tag = "1")]
    pub(super) sample_count: u64,
    #[prost(double, tag = "2")]
    pub(super) sample_sum: f64,
    #[prost(sint32, tag = "5")]
    pub(super) schema: i32,
    #[prost(double, tag = "6")]
    pub(super) zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub(super) zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub(super) positive_delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    pub(super) exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    pub(super) value: f64,
    #[prost(message, optional, tag = "3")]
    pub(super) timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

/// A run of non-empty buckets.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct BucketSpan {
    /// Empty buckets since the last span; for the first span, the index of its first bucket.
    #[prost(sint32, tag = "1")]
    pub(super) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(super) length: u32,
}

impl From<exemplars::Exemplar<'_>> for Exemplar {
    fn from(exemplar: exemplars::Exemplar<'_>) -> Exemplar {
        let pair =
            |(name, value): (&str, &str)| LabelPair { name: name.into(), value: value.into() };
        let (seconds, micros) = (exemplar.at / 1_000_000, exemplar.at % 1_000_000);
        Exemplar {
            label: exemplar.labels().map(pair).collect(),
            value: exemplar.seconds,
            timestamp: Some(Timestamp { seconds: seconds as i64, nanos: micros as i32 * 1000 }),
        }
    }
}

impl Histogram {
    /// Copies the buckets. Prometheus indexes a bucket by its upper bound, which is one more than
    /// the index in `lens`.
    pub(super) fn new<const PER_UNIT: u64>(
        values: &lens::Histogram<PER_UNIT>,
        exemplars: Exemplars<'_>,
    ) -> Histogram {
        let (zero_count, first, counts) = values.buckets();
        let (mut positive_span, mut positive_delta): (Vec<BucketSpan>, _) =
            (Vec::new(), Vec::new());
        let (mut next, mut last) = (0, 0);
        for (index, count) in (first + 1..).zip(counts).filter(|(_, count)| **count > 0) {
            match positive_span.last_mut() {
                Some(span) if index == next => span.length += 1,
                _ => positive_span.push(BucketSpan { offset: index - next, length: 1 }),
            }
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            positive_delta.push(count - last);
            (next, last) = (index + 1, count);
        }
        Histogram {
            sample_count: values.count(),
            sample_sum: values.exported_sum(),
            schema: lens::SCALE as i32,
            zero_threshold: ZERO_THRESHOLD,
            zero_count,
            positive_span,
            positive_delta,
            exemplars: exemplars.iter().take(MAX_EXEMPLARS).map(Exemplar::from).collect(),
        }
    }
}
