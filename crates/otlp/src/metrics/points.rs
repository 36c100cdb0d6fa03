//! Data points: values, their difference to earlier ones, and their messages.

use lens::{Histogram, SCALE};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, number_data_point,
};
use prost::Message as _;

use crate::semconv::Instrument;

/// Maximum buckets of an exponential histogram, as in OpenTelemetry's SDKs.
pub const MAX_BUCKETS: usize = 160;

/// The values of a stream, since the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    Number(f64),
    Explicit(Counts, Vec<u64>),
    Exponential(Exponential),
}

/// Figures of a histogram without its buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counts {
    count: u64,
    sum: f64,
    /// Minimum and maximum; unknown for a difference.
    range: Option<(f64, f64)>,
}

/// Buckets of the scale of `lens`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exponential {
    counts: Counts,
    zeros: u64,
    offset: i32,
    buckets: Vec<u64>,
}

impl Counts {
    fn new<const PER_UNIT: u64>(values: &Histogram<PER_UNIT>) -> Self {
        let unit = |value: u64| value as f64 / PER_UNIT as f64;
        Counts {
            count: values.count(),
            sum: values.exported_sum(),
            range: values.range().map(|(min, max)| (unit(min), unit(max))),
        }
    }

    fn since(self, earlier: Counts) -> Self {
        Counts { count: self.count - earlier.count, sum: self.sum - earlier.sum, range: None }
    }
}

impl Values {
    pub(super) fn explicit<const PER_UNIT: u64>(
        values: &Histogram<PER_UNIT>,
        bounds: &[f64],
    ) -> Self {
        let mut below = 0;
        let mut buckets: Vec<u64> = Vec::with_capacity(bounds.len() + 1);
        for cumulative in values.cumulative(bounds).chain([values.count()]) {
            buckets.push(cumulative - below);
            below = cumulative;
        }
        Values::Explicit(Counts::new(values), buckets)
    }

    pub(super) fn exponential<const PER_UNIT: u64>(values: &Histogram<PER_UNIT>) -> Self {
        let (zeros, offset, buckets) = values.buckets();
        let counts = Counts::new(values);
        Values::Exponential(Exponential { counts, zeros, offset, buckets: buckets.to_vec() })
    }

    /// What was added since `earlier`. Values that shrank began anew, so all of them were added.
    pub(super) fn since(&self, earlier: Option<&Values>) -> Values {
        match (self, earlier) {
            (Values::Number(now), Some(Values::Number(then))) if now >= then => {
                Values::Number(now - then)
            }
            (Values::Explicit(now, buckets), Some(Values::Explicit(then, old)))
                if now.count >= then.count && buckets.len() == old.len() =>
            {
                let added = buckets.iter().zip(old).map(|(new, old)| new.saturating_sub(*old));
                Values::Explicit(now.since(*then), added.collect())
            }
            (Values::Exponential(now), Some(Values::Exponential(then)))
                if now.counts.count >= then.counts.count =>
            {
                Values::Exponential(now.since(then))
            }
            _ => self.clone(),
        }
    }
}

impl Exponential {
    fn since(&self, earlier: &Exponential) -> Self {
        let old = |index: i32| {
            let at = usize::try_from(index - earlier.offset).ok();
            at.and_then(|at| earlier.buckets.get(at)).copied().unwrap_or(0)
        };
        let buckets = (self.offset..).zip(&self.buckets);
        Exponential {
            counts: self.counts.since(earlier.counts),
            zeros: self.zeros.saturating_sub(earlier.zeros),
            offset: self.offset,
            buckets: buckets.map(|(index, count)| count.saturating_sub(old(index))).collect(),
        }
    }

    /// The scale and buckets: without empty ones at the ends, and merged until they are at most
    /// [`MAX_BUCKETS`]. A bucket of the next smaller scale is two of this one.
    fn scaled(&self) -> (i32, Buckets) {
        let first = self.buckets.iter().position(|count| *count > 0).unwrap_or(0);
        let last = self.buckets.iter().rposition(|count| *count > 0).map_or(first, |at| at + 1);
        let mut bucket_counts = self.buckets.get(first..last).unwrap_or_default().to_vec();
        let mut offset = self.offset + i32::try_from(first).unwrap_or(i32::MAX);
        let mut scale = SCALE as i32;
        while bucket_counts.len() > MAX_BUCKETS {
            let lower = offset >> 1;
            let mut merged = vec![0; bucket_counts.len() / 2 + 1];
            for (index, count) in (offset..).zip(bucket_counts) {
                if let Some(sum) = merged.get_mut(((index >> 1) - lower) as usize) {
                    *sum += count;
                }
            }
            (bucket_counts, offset, scale) = (merged, lower, scale - 1);
        }
        (scale, Buckets { offset, bucket_counts })
    }
}

/// A data point.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) attributes: Vec<KeyValue>,
    /// Since when its values are counted, in Unix nanoseconds; 0 for gauges.
    pub(super) start: u64,
    pub(super) at: u64,
    pub(super) values: Values,
    /// The stream and the value that it has reached, where `values` are a difference.
    pub(super) reached: Option<(super::StreamKey, Values)>,
    pub(super) exemplars: Vec<Exemplar>,
}

impl Point {
    /// An upper bound of its encoded size.
    pub(super) fn estimated_bytes(&self, instrument: &Instrument) -> usize {
        let attributes: usize = self.attributes.iter().map(|pair| pair.encoded_len() + 4).sum();
        let values = match &self.values {
            Values::Number(_) => 9,
            Values::Explicit(_, buckets) => 8 * (buckets.len() + instrument.bounds.len()) + 40,
            Values::Exponential(values) => 10 * values.buckets.len().min(MAX_BUCKETS) + 80,
        };
        attributes + values + 32 + self.exemplars.len() * 64
    }

    pub(super) fn number(self, is_integer: bool) -> NumberDataPoint {
        let value = match self.values {
            Values::Number(value) => value,
            Values::Explicit(counts, _) => counts.sum,
            Values::Exponential(values) => values.counts.sum,
        };
        NumberDataPoint {
            attributes: self.attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.at,
            exemplars: self.exemplars,
            flags: 0,
            value: Some(if is_integer {
                number_data_point::Value::AsInt(value as i64)
            } else {
                number_data_point::Value::AsDouble(value)
            }),
        }
    }

    pub(super) fn explicit(self, bounds: &[f64]) -> HistogramDataPoint {
        let (counts, bucket_counts) = match self.values {
            Values::Explicit(counts, buckets) => (counts, buckets),
            Values::Exponential(Exponential { counts, .. }) => (counts, Vec::new()),
            Values::Number(sum) => (Counts { count: 0, sum, range: None }, Vec::new()),
        };
        HistogramDataPoint {
            attributes: self.attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.at,
            count: counts.count,
            sum: Some(counts.sum),
            explicit_bounds: if bucket_counts.is_empty() { Vec::new() } else { bounds.to_vec() },
            bucket_counts,
            exemplars: self.exemplars,
            flags: 0,
            min: counts.range.map(|(min, _)| min),
            max: counts.range.map(|(_, max)| max),
        }
    }

    pub(super) fn exponential(self) -> ExponentialHistogramDataPoint {
        let Values::Exponential(values) = self.values else {
            return ExponentialHistogramDataPoint::default();
        };
        let (scale, positive) = values.scaled();
        ExponentialHistogramDataPoint {
            attributes: self.attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.at,
            count: values.counts.count,
            sum: Some(values.counts.sum),
            scale,
            zero_count: values.zeros,
            positive: Some(positive),
            negative: None,
            flags: 0,
            exemplars: self.exemplars,
            min: values.counts.range.map(|(min, _)| min),
            max: values.counts.range.map(|(_, max)| max),
            zero_threshold: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use lens::TimeHistogram;

    use super::*;

    fn of(micros: impl IntoIterator<Item = u64>) -> TimeHistogram {
        let mut histogram = TimeHistogram::default();
        micros.into_iter().for_each(|value| histogram.record(value));
        histogram
    }

    fn exponential(values: &TimeHistogram) -> Exponential {
        let Values::Exponential(values) = Values::exponential(values) else { unreachable!() };
        values
    }

    /// OpenTelemetry's definition: bucket `i` of scale `s` is `(2^(i/2^s), 2^((i+1)/2^s)]`.
    fn index_of(seconds: f64, scale: i32) -> i32 {
        (seconds.log2() * f64::from(scale).exp2()).ceil() as i32 - 1
    }

    #[test]
    fn narrow_histograms_keep_their_scale_and_wide_ones_are_merged() {
        let narrow = exponential(&of([90_000, 100_000, 110_000]));
        let (scale, buckets) = narrow.scaled();
        assert_eq!((scale, buckets.bucket_counts.iter().sum::<u64>()), (5, 3));
        assert_eq!(buckets.offset, index_of(0.09, 5));
        let micros: Vec<u64> = (0..32).map(|power| 3 << power >> 1).filter(|v| *v > 0).collect();
        let (scale, buckets) = exponential(&of(micros.iter().copied())).scaled();
        assert!(scale < 5 && buckets.bucket_counts.len() <= MAX_BUCKETS, "{scale}");
        for micros in micros {
            let at = index_of(micros as f64 / 1e6, scale) - buckets.offset;
            assert!(buckets.bucket_counts[at as usize] > 0, "{micros} is in its bucket");
        }
    }

    #[test]
    fn differences_are_what_was_added() {
        let (then, now) = (of([1000, 50_000]), of([1000, 50_000, 50_000, 7, 0]));
        let added = exponential(&now).since(&exponential(&then));
        let want = exponential(&of([50_000, 7, 0]));
        assert_eq!((added.counts.count, added.zeros), (3, 1));
        assert!((added.counts.sum - want.counts.sum).abs() < 1e-9);
        assert_eq!(added.scaled(), want.scaled());
        let bounds = [0.001, 0.01];
        let explicit = |values: &TimeHistogram| Values::explicit(values, &bounds);
        let Values::Explicit(_, buckets) = explicit(&now).since(Some(&explicit(&then))) else {
            unreachable!()
        };
        assert_eq!(buckets, [2, 0, 1]);
        // It began anew.
        assert_eq!(explicit(&then).since(Some(&explicit(&now))), explicit(&then));
        assert_eq!(Values::Number(2.0).since(Some(&Values::Number(5.0))), Values::Number(2.0));
    }
}
