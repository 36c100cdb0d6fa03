//! Arguments of `gate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use gate::{Bound, Threshold};

/// Thresholds or bounds of one argument.
type List<T> = std::sync::Arc<[T]>;

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("runs").required(true).args(["baseline", "interleaved"]))]
pub(crate) struct GateArgs {
    /// Baseline report of `run --json`. Repeatable: from three on, the gate also takes into account
    /// how much runs differ.
    #[arg(long, value_name = "FILE", requires = "candidate")]
    pub(crate) baseline: Vec<PathBuf>,
    /// Report to judge.
    #[arg(long, value_name = "FILE", requires = "baseline")]
    pub(crate) candidate: Option<PathBuf>,
    /// Report of `run --against --json`, with blocks of both sides in turn.
    #[arg(long, value_name = "FILE", conflicts_with = "candidate")]
    pub(crate) interleaved: Option<PathBuf>,
    /// Changes that are a regression: ttft.p95=+5%,goodput=-2%. Metrics: goodput, failures, and
    /// ttft, tpot or request with mean, p50, p75, p90, p95, p99 or p99.9.
    #[arg(long, value_name = "CHANGES", value_parser = thresholds)]
    pub(crate) fail_on: List<Threshold>,
    /// Absolute bounds of the candidate, whatever the baseline is: ttft.p95=800ms,goodput=12.
    #[arg(long, value_name = "BOUNDS", value_parser = bounds)]
    pub(crate) bound: Option<List<Bound>>,
    /// A change of a time by less than this is no regression.
    #[arg(long, default_value = "0s", value_name = "D", value_parser = lens::duration::parse)]
    pub(crate) and_above: Duration,
    /// Maximum share of windows of a run in which the client was too busy, in percent.
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT", value_parser = percent)]
    pub(crate) max_invalid: f64,
    /// Fields of the workload that may differ: arrival, machine, max_tokens, model, objectives,
    /// prompts, seed, stop, stream, warm_up.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', value_parser = field)]
    pub(crate) allow: Vec<String>,
    /// Write the decision as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the decision as Markdown, for a comment on a pull request.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Write the decision as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the decision as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

fn thresholds(text: &str) -> Result<List<Threshold>, String> {
    gate::parse_thresholds(text).map(List::from)
}

fn bounds(text: &str) -> Result<List<Bound>, String> {
    gate::parse_bounds(text).map(List::from)
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "must be a number from 0 to 100".to_owned())
}

fn field(text: &str) -> Result<String, String> {
    let known = gate::FIELDS.contains(&text);
    known
        .then(|| text.to_owned())
        .ok_or_else(|| format!("must be one of {}", gate::FIELDS.join(", ")))
}
