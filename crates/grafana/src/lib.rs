//! Grafana dashboards made from the catalog of metrics.
//!
//! - *In*: rows of [`observatory::catalog`], and the panels in `dashboards/`.
//! - *Out*: the files of `deploy/grafana/dashboards`. `UPDATE_DOCS=1 cargo test -p llm-lens-tests
//!   --test deploy` writes them.
//! - *Never*: a query of a metric or a label that the catalog does not have: making it panics. The
//!   crate is not a part of the binary.

mod dashboard;
mod dashboards;
mod panel;
mod query;

use serde_json::Value;

/// A file of `deploy/grafana/dashboards`.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name.
    pub name: String,
    /// The dashboard, as Grafana provisions it.
    pub dashboard: Value,
}

/// All dashboards.
pub fn files() -> Vec<File> {
    dashboards::all()
        .iter()
        .map(|dashboard| File {
            name: format!("{}.json", dashboard.uid),
            dashboard: dashboard.to_json(),
        })
        .collect()
}

/// Values of the variable `family`: whose names of the engine's timings the panels query.
pub const FAMILIES: [(&str, &str); 2] =
    [("LLM Latency Lens (finer buckets)", "llm_lens"), ("OpenTelemetry GenAI v1.41", "gen_ai")];
