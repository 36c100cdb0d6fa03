//! What can be asked on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use testbench::prompts::Length;
use testbench::report::Slo;
use testbench::simulate::Profile;
use tracing::level_filters::LevelFilter;

use crate::logger::LogFormat;

/// The version, the commit, the features.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LLM_LENS_COMMIT"), ")\nfeatures: ", env!("LLM_LENS_FEATURES"));

/// An OpenAI-compatible gateway in front of inference engines that measures every stream.
#[derive(Debug, Parser)]
#[command(name = "llm-lens", version = VERSION, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    /// How much to log to standard error: off, error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub(crate) log: LevelFilter,
    /// What log lines look like: text for people, JSON for machines.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stand in front of one engine or many, and measure.
    Gateway(GatewayArgs),
    /// Check a settings file; every problem is told with its line and column.
    Check {
        /// The settings file.
        file: PathBuf,
    },
    /// Write a commented settings file with every field and its default.
    Init {
        /// Where to write it.
        #[arg(default_value = "gateway.yaml")]
        file: PathBuf,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON Schema of the settings file, for editors.
    Schema,
    /// Load a gateway or an engine, and measure from the client's end.
    Run(Box<RunArgs>),
    /// Compare two reports of `run`; fails when the second is slower than allowed.
    Compare {
        /// The report to compare with, JSON.
        base: PathBuf,
        /// The report to judge, JSON.
        new: PathBuf,
        /// How much slower p50 and p99 of TTFT, TPOT and ITL may be, in percent.
        #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
        percent: f64,
    },
    /// The detectors of personal data and credentials, over texts and over labelled data.
    #[command(subcommand)]
    Shield(ShieldCommand),
    /// API keys in the file that the settings' `auth.keys` names.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Be an engine: OpenAI's wire, made-up words, real time.
    Simulate(SimulateArgs),
    /// Two simulated engines, the gateway, a short load, and what the gateway saw.
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShieldCommand {
    /// Print what a text holds. Rows of JSONL, `{"id", "text"}`, are answered with a row each, offsets in Unicode code points.
    Scan {
        /// The text, or - for standard input.
        file: PathBuf,
    },
    /// Print how good the detectors are on labelled rows: pii, secrets, injection, toxicity and benign.jsonl of a folder.
    Eval {
        /// The folder.
        folder: PathBuf,
        /// Also leave out one source after the other (takes minutes).
        #[arg(long)]
        sources: bool,
        /// Also stream the Rust files below this folder through the scanner.
        #[arg(long, value_name = "DIR")]
        code: Option<PathBuf>,
    },
    /// Train the classifiers on injection, toxicity and benign.jsonl of a folder. The same rows give the same file.
    Train {
        /// The folder.
        folder: PathBuf,
        /// Where to write the weights.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; it is printed once, and only its hash is kept.
    Create(NewKeyArgs),
    /// Print who has keys; revoked ones are left out.
    List {
        /// The settings file.
        #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Take a key out of use.
    Revoke {
        /// The settings file.
        #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
        /// Its public name, as `create` and `list` print it.
        id: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NewKeyArgs {
    /// The settings file.
    #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Whose it is; limits that are `per: owner` are shared by all keys of an owner.
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: String,
    /// Its public name; default: one is made up.
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<String>,
    /// How long it is good, for example 90d; default: until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = lens::duration::parse)]
    pub(crate) expires_in: Option<Duration>,
    /// A route it may use, `*` at an end for any rest; may be given again; default: all.
    #[arg(long = "route", value_name = "NAME")]
    pub(crate) routes: Vec<String>,
    /// A model it may ask for, likewise.
    #[arg(long = "model", value_name = "NAME")]
    pub(crate) models: Vec<String>,
    /// Its place in queues, 0 to 9; higher goes first.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9), value_name = "N")]
    pub(crate) priority: u8,
    /// An amount of its own for a limit that is `per: key`, NAME=AMOUNT; may be given again.
    #[arg(long = "limit", value_name = "NAME=AMOUNT", value_parser = own_limit)]
    pub(crate) limits: Vec<(String, String)>,
}

fn own_limit(text: &str) -> Result<(String, String), String> {
    let (name, amount) = text.split_once('=').ok_or("write NAME=AMOUNT")?;
    Ok((name.to_owned(), amount.to_owned()))
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["upstream", "config"]))]
pub(crate) struct GatewayArgs {
    /// The engine, without a settings file: http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// A settings file; it is watched, and HUP reads it again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "admin", "workers"])]
    pub(crate) config: Option<PathBuf>,
    /// Where clients connect (with --upstream); port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: String,
    /// Where the operator connects (with --upstream).
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: String,
    /// Worker threads (with --upstream); default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Take the listeners over from a running gateway: start this, then send QUIT to the old one.
    #[arg(long)]
    pub(crate) upgrade: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Where to send requests, with or without /v1.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: String,
    /// The model to ask for.
    #[arg(long, default_value = "default")]
    pub(crate) model: String,
    /// Closed loop: that many workers, each asking again when answered.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "rate")]
    pub(crate) concurrency: usize,
    /// Open loop: that many requests a second, whether or not the server keeps up.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
    /// How an open loop spaces its requests.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    pub(crate) spacing: Spacing,
    /// Stop after that many requests (default: 100).
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) requests: Option<u64>,
    /// Stop after that time: 30s, 5m.
    #[arg(long, value_parser = lens::duration::parse, value_name = "D")]
    pub(crate) duration: Option<Duration>,
    /// Requests before the run that are not counted.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) warm_up: u64,
    /// Words in a prompt: 128, 32..512 (uniform), 256~64 (normal: mean~deviation).
    #[arg(long, default_value = "32", value_name = "LENGTH", conflicts_with = "prompts")]
    pub(crate) prompt_length: Length,
    /// Prompts from a file, a JSON document a line: a string, {"prompt": ...} or {"messages": ...}.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Tokens to ask for.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Ask for whole answers instead of streams.
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Objectives for goodput: ttft=500ms,tpot=50ms,total=10s.
    #[arg(long, value_name = "OBJECTIVES")]
    pub(crate) slo: Option<Slo>,
    /// The environment variable that holds an API key.
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_env: Option<String>,
    /// The gateway's admin listener: join its records with ours by request id.
    #[arg(long, value_name = "URL")]
    pub(crate) gateway_admin: Option<String>,
    /// Write everything as JSON.
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

/// Gaps between requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spacing {
    /// Exponential, as independent users make them.
    Poisson,
    /// All the same.
    Constant,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SimulateArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// The profile to start from: fast (20 ms to begin, 8 ms a token) or slow (90 ms, 25 ms, stalls).
    #[arg(long, default_value = "fast")]
    profile: String,
    /// The model's name.
    #[arg(long)]
    model: Option<String>,
    /// Time before the first token, without the prompt's share: 20ms.
    #[arg(long, value_parser = lens::duration::parse)]
    base: Option<Duration>,
    /// Time for each prompt token: 80us.
    #[arg(long, value_parser = lens::duration::parse)]
    prefill: Option<Duration>,
    /// Time for each output token: 8ms.
    #[arg(long, value_parser = lens::duration::parse)]
    decode: Option<Duration>,
    /// Relative jitter of these, 0 to 1.
    #[arg(long)]
    jitter: Option<f64>,
    /// Requests that run at a time.
    #[arg(long)]
    slots: Option<usize>,
}

impl SimulateArgs {
    pub(crate) fn profile(&self) -> anyhow::Result<Profile> {
        let mut profile = match self.profile.as_str() {
            "fast" => Profile::fast(),
            "slow" => Profile::slow(),
            other => anyhow::bail!("there is no profile {other:?}; known: fast, slow"),
        };
        anyhow::ensure!(self.jitter.is_none_or(|j| (0.0..=1.0).contains(&j)), "--jitter must be from 0 to 1");
        anyhow::ensure!(self.slots != Some(0), "--slots must be at least 1");
        if let Some(model) = &self.model {
            anyhow::ensure!(
                model.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b)),
                "--model must be made of letters, digits and - _ . / :"
            );
            profile.model = model.clone();
        }
        profile.base = self.base.unwrap_or(profile.base);
        profile.prefill = self.prefill.unwrap_or(profile.prefill);
        profile.decode = self.decode.unwrap_or(profile.decode);
        profile.jitter = self.jitter.unwrap_or(profile.jitter);
        profile.slots = self.slots.unwrap_or(profile.slots);
        Ok(profile)
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// Where the gateway listens; a taken port is replaced by a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Where its admin listener is.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// End after the load instead of staying up.
    #[arg(long)]
    pub(crate) once: bool,
}
