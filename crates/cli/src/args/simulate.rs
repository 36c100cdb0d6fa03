//! Arguments of `simulate` and `verify-client`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use simulator::verify::{Format, Plan, Read, Tolerance};
use simulator::{Fault, Profile};
use testbench::definitions::Tool;

/// Settings of a simulated engine.
#[derive(Debug, ClapArgs)]
pub(crate) struct EngineArgs {
    /// Base profile: fast (20 ms to the first token, 8 ms a token) or slow (90 ms, 25 ms, stalls).
    #[arg(long, default_value = "fast")]
    profile: String,
    /// Name of the model.
    #[arg(long)]
    model: Option<String>,
    /// Time before the prefill of a request, up to 10m: 20ms.
    #[arg(long, value_parser = lens::duration::parse)]
    base: Option<Duration>,
    /// Time for each prompt token, up to 1s: 80us.
    #[arg(long, value_parser = lens::duration::parse)]
    prefill: Option<Duration>,
    /// Maximum prompt tokens that a step reads. Default: 2048.
    #[arg(long, value_name = "TOKENS")]
    chunk: Option<u64>,
    /// Time for a token of an answer that runs alone, 1us to 1m: 8ms.
    #[arg(long, value_parser = lens::duration::parse)]
    decode: Option<Duration>,
    /// Further time of a token for each other answer that runs, up to 1s: 60us.
    #[arg(long, value_parser = lens::duration::parse)]
    slowdown: Option<Duration>,
    /// Relative jitter of these times, 0 to 1.
    #[arg(long)]
    jitter: Option<f64>,
    /// Share of requests that fail in this way: KIND=SHARE, repeatable. Kinds: 429, 500, 503;
    /// after half of the answer: reset, stall, error-event, truncate.
    #[arg(long = "fail", value_name = "KIND=SHARE", value_parser = failure)]
    failures: Vec<(Fault, f64)>,
    /// Share of requests answered with 503, 0 to 1; the same as --fail 503=SHARE.
    #[arg(long, value_name = "SHARE")]
    error_share: Option<f64>,
    /// How long a stall lasts, up to 1h. Default: 1s; 400ms of the slow profile.
    #[arg(long, value_parser = lens::duration::parse)]
    stall: Option<Duration>,
    /// Maximum answers that run at a time; further ones queue. Default: 64, or 32.
    #[arg(long)]
    slots: Option<usize>,
    /// Maximum tokens of prompts and answers that run at a time. Default: 400000, or 200000.
    #[arg(long, value_name = "TOKENS")]
    kv_tokens: Option<u64>,
    /// Maximum requests in the queue; further ones get 503. Default: 1024.
    #[arg(long, value_name = "N")]
    max_queue: Option<usize>,
    /// Tokens of an answer without max_tokens. Default: 64.
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Tokens in an event of a stream, as with speculative decoding. Default: 1.
    #[arg(long, value_name = "N")]
    tokens_per_event: Option<u32>,
    /// Seed of jitter, stalls and failures of the engine. Default: 0.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn failure(text: &str) -> Result<(Fault, f64), String> {
    let (kind, share) = text.split_once('=').ok_or("write KIND=SHARE")?;
    let share = share.parse().map_err(|_| format!("{share:?} is not a number from 0 to 1"))?;
    Ok((kind.parse()?, share))
}

impl EngineArgs {
    /// The profile, validated.
    pub(crate) fn profile(&self) -> anyhow::Result<Profile> {
        let base = match self.profile.as_str() {
            "fast" => Profile::fast(),
            "slow" => Profile::slow(),
            other => anyhow::bail!("profile {other:?} does not exist; use fast or slow"),
        };
        let errors = self.error_share.map(|share| (Fault::Status(503), share));
        let profile = Profile {
            model: self.model.clone().unwrap_or(base.model),
            base: self.base.unwrap_or(base.base),
            prefill: self.prefill.unwrap_or(base.prefill),
            chunk: self.chunk.unwrap_or(base.chunk),
            decode: self.decode.unwrap_or(base.decode),
            slowdown: self.slowdown.unwrap_or(base.slowdown),
            jitter: self.jitter.unwrap_or(base.jitter),
            stall_share: base.stall_share,
            stall: self.stall.unwrap_or(base.stall),
            faults: self.failures.iter().copied().chain(errors).collect(),
            slots: self.slots.unwrap_or(base.slots),
            kv_tokens: self.kv_tokens.unwrap_or(base.kv_tokens),
            max_queue: self.max_queue.unwrap_or(base.max_queue),
            tokens: self.tokens.unwrap_or(base.tokens),
            tokens_per_event: self.tokens_per_event.unwrap_or(base.tokens_per_event),
            seed: self.seed.unwrap_or(base.seed),
        };
        profile.validate().map_err(|problem| anyhow::anyhow!("simulated engine: {problem}"))?;
        Ok(profile)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SimulateArgs {
    /// Address to listen on. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// File for the truth: JSON lines, one for each request that ended.
    #[arg(long, value_name = "FILE")]
    pub(crate) truth: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyClientArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// File that the tool writes its figures to. Without it, the truth is printed alone.
    #[arg(long, value_name = "FILE", requires = "format")]
    pub(crate) result: Option<PathBuf>,
    /// Format of that file: llm-lens, vllm, guidellm, genai-perf, json-path.
    #[arg(long, value_name = "FORMAT", requires = "result")]
    pub(crate) format: Option<Format>,
    /// A figure in that file: ttft.p50=path.to.field:ms, failed=path.to.field. Repeatable. Names:
    /// ttft, tpot, itl, request with mean, p50, p90, p95, p99; succeeded, failed, tokens. Units:
    /// us, ms, s.
    #[arg(long, value_name = "NAME=PATH", requires = "result")]
    pub(crate) read: Vec<Read>,
    /// Tool whose definitions apply. Default: that of the format; llm-lens for json-path.
    #[arg(long, value_name = "TOOL")]
    pub(crate) definitions: Option<Tool>,
    /// Permitted error of a figure, in percent of the truth.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT", value_parser = positive)]
    pub(crate) tolerance: f64,
    /// Errors below this are permitted, in milliseconds; a tenth of it for times per token.
    #[arg(long, default_value_t = 5.0, value_name = "MS", value_parser = positive)]
    pub(crate) tolerance_ms: f64,
    /// Requests at the beginning that the tool does not count, such as its warm-up.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) warm_up: u64,
    /// Rate that the tool is to offer, in requests per second: whether it arrives is judged.
    #[arg(long, value_name = "R", value_parser = positive)]
    pub(crate) expect_rate: Option<f64>,
    /// Maximum time of the tool, which is then killed.
    #[arg(long, default_value = "10m", value_name = "D", value_parser = lens::duration::parse)]
    pub(crate) timeout: Duration,
    /// Maximum requests of the tool, which is then killed.
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) max_requests: u64,
    /// File for the verdict, JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// File for the truth: JSON lines, one for each request.
    #[arg(long, value_name = "FILE")]
    pub(crate) truth: Option<PathBuf>,
    /// The tool and its arguments. {url}, {port} and {model} are replaced; OPENAI_BASE_URL and
    /// OPENAI_API_KEY are set.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "must be a number above 0".to_owned())
}

impl VerifyClientArgs {
    pub(crate) fn plan(&self) -> Plan {
        let of_format = self.format.map(Format::tool);
        Plan {
            tool: self.definitions.or(of_format).unwrap_or(Tool::LlmLens),
            tolerance: Tolerance { percent: self.tolerance, ms: self.tolerance_ms },
            warm_up: self.warm_up,
            rate: self.expect_rate,
        }
    }
}
