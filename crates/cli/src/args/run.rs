//! Arguments of `run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use testbench::definitions::Tool;
use workload::length::Length;
use workload::provider::Provider;

use super::AdminToken;

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Workload file, for what is not an argument: arrivals, conversations, traces. Arguments
    /// replace what stands there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print a workload file to begin with, and end.
    #[arg(long, exclusive = true)]
    pub(crate) init: bool,
    /// URL to send requests to, with or without /v1. Default: that of the provider.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Kind of the server: openai, anthropic, azure, vllm, sglang, tgi, ollama, llamacpp. Default:
    /// any server with the API of OpenAI.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<Provider>,
    /// Model to request. Default: the first of the server's /v1/models.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Closed loop: number of users, each of which sends its next request after an answer.
    /// Default: 1.
    #[arg(long, value_name = "N", conflicts_with = "rate")]
    pub(crate) concurrency: Option<usize>,
    /// Open loop: requests per second, whether or not the server keeps up.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// Spacing of requests in an open loop. Default: poisson.
    #[arg(long, value_enum)]
    pub(crate) spacing: Option<Spacing>,
    /// Send recorded traffic again: Mooncake's JSON lines, or records of a gateway in a file, a
    /// folder or a store.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["rate", "concurrency", "prompts", "prompt_length", "against"])]
    pub(crate) replay: Option<PathBuf>,
    /// Pace of the replay: 2 takes half of the recorded time. Default: 1.
    #[arg(long, value_name = "FACTOR", requires = "replay", value_parser = pace)]
    pub(crate) pace: Option<f64>,
    /// Stop after this number of requests. Default: 100, or the end of stages or of a trace.
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
    /// Search what the server can do: max-rate is the highest rate that meets --slo. Runs of
    /// --duration, 30s by default, begin at --rate, or 1.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        conflicts_with_all = ["against", "replay", "concurrency", "requests", "definitions", "gateway_admin"]
    )]
    pub(crate) find: Option<Find>,
    /// Warm-up requests, which are not measured. Default: 0.
    #[arg(long, value_name = "N")]
    pub(crate) warm_up: Option<u64>,
    /// Words in a prompt: 128, 32..512 (uniform), 256~64 (normal: mean~deviation),
    /// lognormal:256~300, file:lengths.txt. Default: 32.
    #[arg(long, value_name = "LENGTH", conflicts_with = "prompts")]
    pub(crate) prompt_length: Option<Length>,
    /// Prompts from a file, a JSON document a line: a string, {"prompt": ...}, {"messages": ...} or
    /// {"conversations": ...}.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Maximum tokens of an answer: a number, or a distribution as those of --prompt-length.
    #[arg(long, value_name = "LENGTH")]
    pub(crate) max_tokens: Option<Length>,
    /// Send requests without streaming.
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Objectives for goodput: ttft=500ms,tpot=50ms,total=10s. For --find, each holds for 95 % of
    /// requests, or for the percentile that it names: ttft.p99=500ms.
    #[arg(long, value_name = "OBJECTIVES", value_parser = objectives)]
    pub(crate) slo: Option<String>,
    /// Maximum time of a request, from its start to the end of the answer. A request that takes
    /// longer has failed. Default: 10m.
    #[arg(long, value_parser = positive, value_name = "D")]
    pub(crate) timeout: Option<Duration>,
    /// Maximum that this client may be late, as the 99th percentile of a second: with requests that
    /// are due, and with a timer. A second with more is invalid. Default: 10ms.
    #[arg(long, value_parser = lens::duration::parse, value_name = "D")]
    pub(crate) max_client_error: Option<Duration>,
    /// Environment variable with the API key. Default: that of the provider, if it is set.
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
    /// Write the report with its charts as one HTML file.
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub(crate) html: Option<PathBuf>,
    /// Also compute the figures of other load testers by their definitions: llmperf, vllm,
    /// guidellm, genai-perf, inference-perf.
    #[arg(long, value_name = "TOOLS", value_delimiter = ',', conflicts_with = "against")]
    pub(crate) definitions: Vec<Tool>,
    /// Write the table as Markdown.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Seed of prompts and arrivals: the same one sends the same. Default: 1.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// A time above zero.
fn positive(text: &str) -> Result<Duration, String> {
    let time = lens::duration::parse(text).map_err(|bad| bad.to_string())?;
    if time.is_zero() { Err("must be above 0".into()) } else { Ok(time) }
}

/// Objectives, which stay text for reports.
fn objectives(text: &str) -> Result<String, String> {
    text.parse::<workload::Slo>().map(|_| text.to_owned())
}

/// A pace of a replay.
fn pace(text: &str) -> Result<f64, String> {
    let pace = text.parse().ok().filter(|pace| workload::trace::PACES.contains(pace));
    pace.ok_or_else(|| "must be from 0.001 to 1000".into())
}

/// What is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Find {
    /// The highest rate that meets the objectives.
    MaxRate,
}

/// Gaps between requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spacing {
    /// Exponential gaps, as from independent users.
    Poisson,
    /// Equal gaps.
    Constant,
}
