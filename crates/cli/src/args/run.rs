//! Arguments of `run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use testbench::prompts::Length;
use testbench::report::Slo;

use super::AdminToken;

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// URL to send requests to, with or without /v1.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: String,
    /// Model to request. Default: the first of the server's /v1/models.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Closed loop: number of workers, each of which sends its next request after an answer.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "rate")]
    pub(crate) concurrency: usize,
    /// Open loop: requests per second, whether or not the server keeps up.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// Spacing of requests in an open loop.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    pub(crate) spacing: Spacing,
    /// Stop after this number of requests. Default: 100.
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) requests: Option<u64>,
    /// Stop after this time: 30s, 5m.
    #[arg(long, value_parser = lens::duration::parse, value_name = "D")]
    pub(crate) duration: Option<Duration>,
    /// URL of a second server to judge against the first one: blocks of load go to both in turn,
    /// so that they meet the same conditions. `gate --interleaved` reads the report.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["requests", "duration", "gateway_admin", "csv", "markdown"]
    )]
    pub(crate) against: Option<String>,
    /// Number of pairs of blocks. Default: 40.
    #[arg(
        long,
        value_name = "N",
        requires = "against",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub(crate) pairs: Option<u32>,
    /// Length of a block. Default: 10s.
    #[arg(long, value_name = "D", requires = "against", value_parser = positive)]
    pub(crate) block: Option<Duration>,
    /// Warm-up requests, which are not measured.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) warm_up: u64,
    /// Words in a prompt: 128, 32..512 (uniform), 256~64 (normal: mean~deviation).
    #[arg(long, default_value = "32", value_name = "LENGTH", conflicts_with = "prompts")]
    pub(crate) prompt_length: Length,
    /// Prompts from a file, a JSON document a line: a string, {"prompt": ...} or {"messages": ...}.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Value of max_tokens.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Send requests without streaming.
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Objectives for goodput: ttft=500ms,tpot=50ms,total=10s.
    #[arg(long, value_name = "OBJECTIVES")]
    pub(crate) slo: Option<Slo>,
    /// Maximum time of a request, from its start to the end of the answer. A request that takes
    /// longer has failed.
    #[arg(long, default_value = "10m", value_parser = positive, value_name = "D")]
    pub(crate) timeout: Duration,
    /// Maximum that this client may be late, as the 99th percentile of a second: with requests that
    /// are due, and with a timer. A second with more is invalid.
    #[arg(long, default_value = "10ms", value_parser = lens::duration::parse, value_name = "D")]
    pub(crate) max_client_error: Duration,
    /// Environment variable with the API key.
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_env: Option<String>,
    /// URL of the gateway's admin listener, to join its records by request id.
    #[arg(long, value_name = "URL")]
    pub(crate) gateway_admin: Option<String>,
    #[command(flatten)]
    pub(crate) admin_token: AdminToken,
    /// Write the full report as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a line for each request as CSV.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the table as Markdown.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Seed of prompts and arrivals.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// A time above zero.
fn positive(text: &str) -> Result<Duration, String> {
    let time = lens::duration::parse(text).map_err(|bad| bad.to_string())?;
    if time.is_zero() { Err("must be above 0".into()) } else { Ok(time) }
}

/// Gaps between requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spacing {
    /// Exponential gaps, as from independent users.
    Poisson,
    /// Equal gaps.
    Constant,
}
