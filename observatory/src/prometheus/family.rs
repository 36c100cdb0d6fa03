//! Families being gathered: the types of the Prometheus crate, filled by hand.

use std::collections::BTreeMap;

use lens::Histogram;
use prometheus::proto;

use super::Labels;
use crate::catalog::{self, Kind, Metric, Unit};

/// Kept units in a shown one: microseconds are kept, and seconds shown.
fn per_shown(metric: &Metric) -> f64 {
    if metric.unit == Unit::Seconds { 1e6 } else { 1.0 }
}

/// Families by name.
#[derive(Default)]
pub(super) struct Families(BTreeMap<&'static str, proto::MetricFamily>);

impl Families {
    pub(super) fn counter(&mut self, name: &'static str, labels: Labels, value: u64) {
        self.counter_f64(name, labels, value as f64);
    }

    /// A sum of microseconds, shown in seconds.
    pub(super) fn seconds(&mut self, name: &'static str, labels: Labels, micros: u64) {
        self.counter_f64(name, labels, micros as f64 / 1e6);
    }

    fn counter_f64(&mut self, name: &'static str, labels: Labels, value: f64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        let mut metric = with_labels(labels);
        metric.set_counter(counter);
        self.add(name, metric);
    }

    pub(super) fn gauge(&mut self, name: &'static str, labels: Labels, value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = with_labels(labels);
        metric.set_gauge(gauge);
        self.add(name, metric);
    }

    /// A gauge of 1 whose labels are the information.
    pub(super) fn info(&mut self, name: &'static str, labels: Labels, more: &[(String, String)], server: &str) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(1.0);
        let mut metric = with_labels(labels);
        let mut pairs = metric.take_label();
        pairs.push(pair("server_address", server));
        pairs.extend(more.iter().map(|(name, value)| pair(name, value)));
        metric.set_label(pairs);
        metric.set_gauge(gauge);
        self.add(name, metric);
    }

    pub(super) fn histogram(&mut self, name: &'static str, labels: Labels, micros: Option<&Histogram>, bounds: &[f64]) {
        let (Some(micros), Some(row)) = (micros, catalog::find(name)) else { return };
        let per_shown = per_shown(row);
        let kept: Vec<u64> = bounds.iter().map(|b| (b * per_shown).round() as u64).collect();
        let buckets = bounds.iter().zip(micros.cumulative(&kept)).map(|(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(micros.count());
        histogram.set_sample_sum(micros.sum() as f64 / per_shown);
        let mut metric = with_labels(labels);
        metric.set_histogram(histogram);
        self.add(name, metric);
    }

    pub(super) fn finish(self) -> Vec<proto::MetricFamily> {
        self.0.into_values().collect()
    }

    /// Add a sample. What is not in the catalog is not exported.
    fn add(&mut self, name: &'static str, metric: proto::Metric) {
        let row = catalog::find(name);
        debug_assert!(row.is_some(), "{name} is not in the catalog");
        let Some(row) = row else { return };
        let is_known = |label: &proto::LabelPair| row.labels.contains(&label.name()) || row.labels.contains(&"*");
        debug_assert!(metric.get_label().iter().all(is_known), "a label of {name} is not in the catalog: {:?}", metric.get_label());
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(row.help.to_owned());
            family.set_field_type(match row.kind {
                Kind::Counter => proto::MetricType::COUNTER,
                Kind::Gauge => proto::MetricType::GAUGE,
                Kind::Histogram => proto::MetricType::HISTOGRAM,
            });
            family
        });
        family.mut_metric().push(metric);
    }
}

fn with_labels(labels: Labels) -> proto::Metric {
    let mut metric = proto::Metric::default();
    metric.set_label(labels.into_iter().map(|(name, value)| pair(name, &value)).collect());
    metric
}

fn pair(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
