//! Samples in the Prometheus text format, and in OpenMetrics, which differs from it in the heads of
//! families, in the bounds of buckets, and in exemplars.
//!
//! - *In*: rows of the catalog, labels and values.
//! - *Out*: lines.
//! - *Never*: a timestamp of a sample: it is current.

use std::io::Write as _;

use lens::Histogram;

use super::labels::{self, Labels};
use crate::catalog::{Kind, Metric, Unit};
use crate::exemplars::{Exemplar, Exemplars};

pub(super) fn family_head(row: &Metric, _samples: &[u8]) -> Vec<u8> {
    let Metric { name, help, .. } = row;
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n", kind = kind(row)).into_bytes()
}

/// A counter's family has no `_total`, and a unit is named where the name ends with it.
pub(super) fn open_metrics_family_head(row: &Metric, _samples: &[u8]) -> Vec<u8> {
    let name = row.name.strip_suffix("_total").unwrap_or(row.name);
    let unit = match row.unit {
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Tokens => "tokens",
        Unit::One => "",
    };
    let mut out = format!("# TYPE {name} {}\n", kind(row)).into_bytes();
    if !unit.is_empty() && name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
        _ = writeln!(out, "# UNIT {name} {unit}");
    }
    _ = write!(out, "# HELP {name} ");
    labels::escape(row.help, &mut out);
    out.push(b'\n');
    out
}

fn kind(row: &Metric) -> &'static str {
    match row.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// Writes a counter or a gauge.
pub(super) fn number(out: &mut Vec<u8>, row: &Metric, labels: &Labels, value: f64) {
    head(out, row.name, labels);
    _ = writeln!(out, "{value}");
}

/// Writes a histogram. `le` are its bounds as the format writes them. A bucket has its latest
/// exemplar.
pub(super) fn histogram<const PER_UNIT: u64>(
    out: &mut Vec<u8>,
    (row, le): (&Metric, &[String]),
    labels: &Labels,
    values: &Histogram<PER_UNIT>,
    exemplars: Exemplars<'_>,
) {
    let mut bucket = format!("{}_bucket{{", row.name).into_bytes();
    bucket.extend_from_slice(labels.encoded());
    if !labels.encoded().is_empty() {
        bucket.push(b',');
    }
    bucket.extend_from_slice(b"le=\"");
    let finite = le.iter().map(String::as_str).zip(row.bounds.iter().copied());
    let bounds = finite.chain([("+Inf", f64::INFINITY)]);
    let counts = values.cumulative(row.bounds).chain([values.count()]);
    let mut lower = f64::NEG_INFINITY;
    for ((le, upper), count) in bounds.zip(counts) {
        out.extend_from_slice(&bucket);
        out.extend_from_slice(le.as_bytes());
        _ = write!(out, "\"}} {count}");
        let is_inside = |one: &Exemplar<'_>| lower < one.seconds && one.seconds <= upper;
        if let Some(latest) = exemplars.iter().find(is_inside) {
            write_exemplar(out, latest);
        }
        out.push(b'\n');
        lower = upper;
    }
    head(out, &format!("{}_sum", row.name), labels);
    _ = writeln!(out, "{}", values.exported_sum());
    head(out, &format!("{}_count", row.name), labels);
    _ = writeln!(out, "{}", values.count());
}

/// Writes the name and the labels of a sample.
fn head(out: &mut Vec<u8>, name: &str, labels: &Labels) {
    out.extend_from_slice(name.as_bytes());
    if !labels.encoded().is_empty() {
        out.push(b'{');
        out.extend_from_slice(labels.encoded());
        out.push(b'}');
    }
    out.push(b' ');
}

fn write_exemplar(out: &mut Vec<u8>, exemplar: Exemplar<'_>) {
    let mut separator = " # {";
    for (name, value) in exemplar.labels() {
        _ = write!(out, "{separator}{name}=\"{value}\"");
        separator = ",";
    }
    let (seconds, micros) = (exemplar.at / 1_000_000, exemplar.at % 1_000_000);
    _ = write!(out, "}} {} {seconds}.{micros:06}", exemplar.seconds);
}
