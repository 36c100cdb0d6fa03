//! Expressions of PromQL over metrics of the catalog.
//!
//! - *In*: names of metrics, labels to keep.
//! - *Out*: expressions with the filters of the dashboard's variables, for each label that the
//!   metric has. Those of histograms have two halves joined by `or`: the first reads classic
//!   buckets, the second native histograms; a server ingests one of the two.
//! - *Never*: a percentile of percentiles, a name or label that the catalog does not have.

use observatory::catalog::{self, Kind, Metric};

/// Labels that variables of the dashboards filter, with their variables.
const FILTERS: [(&str, &str); 3] =
    [("route", "$route"), ("backend", "$backend"), ("gen_ai_request_model", "$model")];

/// The window of rates: Grafana makes it at least four scrapes long.
const WINDOW: &str = "$__rate_interval";

/// The same timing under the names of each family, which the variable `family` selects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing(pub(crate) &'static [&'static str]);

/// Time to the first token at the engine.
pub(crate) const ENGINE_TTFT: Timing =
    Timing(&["llm_lens_engine_ttft_seconds", "gen_ai_server_time_to_first_token_seconds"]);
/// Mean time per output token of a request.
pub(crate) const TPOT: Timing = Timing(&[
    "llm_lens_time_per_output_token_seconds",
    "gen_ai_server_time_per_output_token_seconds",
]);
/// Gaps between events with text, as received from the engine.
pub(crate) const ITL: Timing = Timing(&[
    "llm_lens_inter_token_seconds",
    "gen_ai_client_operation_time_per_output_chunk_seconds",
]);
/// Time from the request sent to the engine to the end of its answer.
pub(crate) const ENGINE_E2E: Timing =
    Timing(&["llm_lens_engine_duration_seconds", "gen_ai_server_request_duration_seconds"]);

fn row(name: &str) -> &'static Metric {
    catalog::find(name).unwrap_or_else(|| panic!("{name} is not in the catalog"))
}

/// A metric of this kind that has these labels.
fn checked(name: &str, kind: Kind, by: &[&str]) -> &'static Metric {
    let row = row(name);
    assert!(row.kind == kind, "{name} is a {:?}", row.kind);
    for label in by.iter().filter(|label| **label != "instance") {
        assert!(row.labels.contains(label), "{name} has no label {label}");
    }
    row
}

/// The matchers of the variables, for labels that all of the metrics have; `more` are further ones.
fn matchers(rows: &[&Metric], more: &[(&str, &str)]) -> String {
    let has = |label: &&str| rows.iter().all(|row| row.labels.contains(label));
    let mut all: Vec<String> = FILTERS
        .iter()
        .filter(|(label, _)| has(label))
        .map(|(label, variable)| format!("{label}=~\"{variable}\""))
        .collect();
    all.push("instance=~\"$instance\"".into());
    for (label, value) in more {
        assert!(
            has(label),
            "{} has no label {label}",
            rows.iter().map(|r| r.name).collect::<String>()
        );
        all.push(format!("{label}=~\"{value}\""));
    }
    all.join(", ")
}

fn aggregate(function: &str, by: &[&str], inner: &str) -> String {
    match by.is_empty() {
        true => format!("{function}({inner})"),
        false => format!("{function} by ({}) ({inner})", by.join(", ")),
    }
}

/// The rate of a counter a second.
pub(crate) fn rate(name: &str, by: &[&str]) -> String {
    let row = checked(name, Kind::Counter, by);
    aggregate("sum", by, &format!("rate({name}{{{}}}[{WINDOW}])", matchers(&[row], &[])))
}

/// A rate divided by another one, where the other one is not 0.
pub(crate) fn ratio(part: &str, whole: &str) -> String {
    format!("{part} / ({whole} > 0)")
}

/// The increase of a counter in the time that the dashboard shows.
pub(crate) fn increase(name: &str, by: &[&str]) -> String {
    let row = checked(name, Kind::Counter, by);
    aggregate("sum", by, &format!("increase({name}{{{}}}[$__range])", matchers(&[row], &[])))
}

/// The sum of a gauge.
pub(crate) fn sum(name: &str, by: &[&str]) -> String {
    gauge("sum", name, by)
}

/// The maximum of a gauge.
pub(crate) fn max(name: &str, by: &[&str]) -> String {
    gauge("max", name, by)
}

fn gauge(function: &str, name: &str, by: &[&str]) -> String {
    let row = checked(name, Kind::Gauge, by);
    aggregate(function, by, &format!("{name}{{{}}}", matchers(&[row], &[])))
}

/// The selector of a histogram's series with this ending.
fn series(timing: Timing, ending: &str, by: &[&str], more: &[(&str, &str)]) -> String {
    let rows: Vec<&Metric> =
        timing.0.iter().map(|name| checked(name, Kind::Histogram, by)).collect();
    let matchers = matchers(&rows, more);
    match timing.0 {
        [name] => format!("{name}{ending}{{{matchers}}}"),
        names => format!(
            "{{__name__=~\"${{family}}_.+\", __name__=~\"({}){ending}\", {matchers}}}",
            names.join("|")
        ),
    }
}

/// A quantile of a timing.
pub(crate) fn quantile(quantile: &str, timing: Timing, by: &[&str]) -> String {
    quantile_where(quantile, timing, by, &[])
}

/// A quantile of the series with these labels.
pub(crate) fn quantile_where(
    quantile: &str,
    timing: Timing,
    by: &[&str],
    more: &[(&str, &str)],
) -> String {
    let with_bounds = [by, &["le"]].concat();
    let (classic, native) = (series(timing, "_bucket", by, more), series(timing, "", by, more));
    let classic = aggregate("sum", &with_bounds, &format!("rate({classic}[{WINDOW}])"));
    let native = aggregate("sum", by, &format!("rate({native}[{WINDOW}])"));
    format!("histogram_quantile({quantile}, {classic}) or histogram_quantile({quantile}, {native})")
}

/// The distribution over time, for a heat map.
pub(crate) fn distribution(timing: Timing, more: &[(&str, &str)]) -> String {
    let (classic, native) = (series(timing, "_bucket", &[], more), series(timing, "", &[], more));
    format!("sum by (le) (increase({classic}[{WINDOW}])) or sum(increase({native}[{WINDOW}]))")
}

/// The rate of the sum of a histogram's values.
pub(crate) fn rate_of_sum(timing: Timing, by: &[&str], more: &[(&str, &str)]) -> String {
    let (classic, native) = (series(timing, "_sum", by, more), series(timing, "", by, more));
    format!(
        "{} or histogram_sum({})",
        aggregate("sum", by, &format!("rate({classic}[{WINDOW}])")),
        aggregate("sum", by, &format!("rate({native}[{WINDOW}])"))
    )
}

/// A series that `deploy/prometheus/rules.yaml` records, with the filter of the variable `route`.
pub(crate) fn recorded(name: &str) -> String {
    assert!(name.contains(":llm_lens_"), "{name} is not the name of a recorded series");
    format!("{name}{{route=~\"$route\"}}")
}

/// What the catalog says about the metrics of an expression.
pub(crate) fn meaning(expression: &str) -> Vec<&'static str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found: Vec<&str> = Vec::new();
    for word in expression.split(move |c| !is_part(c)) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let row = catalog::find(word).or_else(|| base.and_then(catalog::find));
        if let Some(row) = row.filter(|row| !found.contains(&row.help)) {
            found.push(row.help);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_those_of_the_labels_that_a_metric_has() {
        assert_eq!(
            rate("llm_lens_requests_total", &["route", "outcome"]),
            "sum by (route, outcome) (rate(llm_lens_requests_total{route=~\"$route\", \
             backend=~\"$backend\", gen_ai_request_model=~\"$model\", instance=~\"$instance\"}\
             [$__rate_interval]))"
        );
        assert_eq!(
            sum("llm_lens_client_connections", &[]),
            "sum(llm_lens_client_connections{instance=~\"$instance\"})"
        );
    }

    #[test]
    fn a_timing_has_both_forms_and_the_names_of_all_families() {
        let query = quantile("0.95", ENGINE_TTFT, &["backend"]);
        assert!(
            query.contains("sum by (backend, le) (rate({__name__=~\"${family}_.+\""),
            "{query}"
        );
        assert!(query.contains("seconds)_bucket\""), "{query}");
        assert!(query.contains(" or histogram_quantile(0.95, sum by (backend) ("), "{query}");
        for (_, family) in crate::FAMILIES {
            assert!(ENGINE_TTFT.0.iter().any(|name| name.starts_with(family)), "{family}");
        }
    }

    #[test]
    #[should_panic(expected = "llm_lens_nothing is not in the catalog")]
    fn an_unknown_metric_panics() {
        rate("llm_lens_nothing", &[]);
    }

    #[test]
    #[should_panic(expected = "has no label pool")]
    fn an_unknown_label_panics() {
        rate("llm_lens_requests_total", &["pool"]);
    }

    #[test]
    fn meanings_are_those_of_the_catalog() {
        let meaning = meaning(&quantile("0.5", TPOT, &[]));
        assert_eq!(meaning.len(), 2, "{meaning:?}");
        assert!(meaning.iter().all(|help| help.starts_with("Mean time per output token")));
    }
}
