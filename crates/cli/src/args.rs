//! Arguments of the command line.

mod gate;
mod run;
mod simulate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::aggregate::AggregateArgs;
use crate::logger::LogFormat;
use crate::probe::ProbeArgs;

pub(crate) use gate::GateArgs;
pub(crate) use run::{Find, RunArgs, Spacing};
pub(crate) use simulate::{SimulateArgs, VerifyClientArgs};

/// The version, the commit, the features.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("LLM_LENS_COMMIT"),
    ")\nfeatures: ",
    env!("LLM_LENS_FEATURES")
);

/// An OpenAI-compatible gateway in front of inference engines that measures every stream.
#[derive(Debug, Parser)]
#[command(name = "llm-lens", version = VERSION, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    /// Log level of standard error: off, error, warn, info, debug or trace.
    #[arg(long, global = true, env = "LLM_LENS_LOG", default_value = "info", value_name = "LEVEL")]
    pub(crate) log: LevelFilter,
    /// Format of log lines: text for people, json for machines.
    #[arg(
        long,
        global = true,
        env = "LLM_LENS_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway.
    Gateway(GatewayArgs),
    /// Check a settings file, and print every problem with its line and column.
    Check {
        /// The settings file, or - for standard input.
        file: PathBuf,
    },
    /// Write a settings file to start from.
    Init {
        /// The file to write, or - for standard output.
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Write every setting with its default and its meaning.
        #[arg(long)]
        full: bool,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON Schema of the settings file, for editors.
    Schema,
    /// Probe a running gateway. Fails, with the reason, if it is not ready.
    Probe(ProbeArgs),
    /// Send load to a gateway or an engine, and measure as a client.
    Run(Box<RunArgs>),
    /// Compare two reports of `run`. Fails if the second one is slower than allowed.
    Compare {
        /// The baseline report, JSON.
        base: PathBuf,
        /// The report to judge, JSON.
        new: PathBuf,
        /// Maximum slowdown of p50 and p99 of TTFT, TPOT and ITL, in percent.
        #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
        percent: f64,
    },
    /// Decide whether a report of `run` is a regression against a baseline: exit code 0 pass, 1
    /// regression, 2 not comparable, 3 invalid run.
    Gate(Box<GateArgs>),
    /// Print the statistics of running gateways.
    Stats(StatsArgs),
    /// Serve the statistics of many gateways as those of one.
    Aggregate(AggregateArgs),
    /// Copy records of a store or of files to files of another format.
    Export(ExportArgs),
    /// Run, measure and train the detectors of guardrails.
    #[command(subcommand)]
    Shield(ShieldCommand),
    /// Manage the API keys in the file named by `auth.keys`.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Verify the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Run a simulated engine with the OpenAI API: random words at realistic speed.
    Simulate(SimulateArgs),
    /// Run a load tester against a simulated engine, and print its error: exit code 0 within the
    /// tolerance, 1 outside, 2 nothing to compare, 3 the tool failed.
    VerifyClient(Box<VerifyClientArgs>),
    /// Run simulated engines, the gateway and a short load, and print what the gateway measured.
    Demo(DemoArgs),
    /// Print the completions of a shell: bash, elvish, fish, powershell or zsh.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// An existing folder.
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShieldCommand {
    /// Print the findings of a text. For JSON lines, `{"id", "text"}`, print one line each, with
    /// offsets in Unicode code points.
    Scan {
        /// The text file, or - for standard input.
        file: PathBuf,
    },
    /// Measure the detectors on labelled rows: pii, secrets, injection, toxicity and benign.jsonl
    /// of a folder. The classifiers are trained anew without the source of each row, also on the
    /// folders in the folder.
    Eval {
        /// The folder.
        folder: PathBuf,
        /// Also measure the classifiers on each language after training without it (takes minutes).
        #[arg(long)]
        languages: bool,
        /// Also measure held bytes on the Rust files below this folder.
        #[arg(long, value_name = "DIR")]
        code: Option<PathBuf>,
    },
    /// Train the classifiers on injection, toxicity and benign.jsonl of a folder, and of the
    /// folders in it. The same rows give the same file.
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
    /// Create a key. It is printed once; only its hash is stored.
    Create(NewKeyArgs),
    /// List the keys that are not revoked.
    List {
        /// The settings file.
        #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Revoke a key.
    Revoke {
        /// The settings file.
        #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
        config: PathBuf,
        /// Public name of the key, as printed by `create` and `list`.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify the hash chain of an audit log. Fails if a line was changed, removed, inserted or
    /// moved, and prints the place.
    Verify(VerifyArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// Files of one log, or their folder. Their order does not matter.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) paths: Vec<PathBuf>,
    /// Hash of a line that must be in the log, as `/api/audit` had it: shows that lines at the end
    /// were removed.
    #[arg(long, value_name = "HASH", value_parser = digest)]
    pub(crate) head: Option<audit_log::Digest>,
    /// File with the key of the chain, `audit.chain_key`. Repeatable, if the key was changed.
    #[arg(long = "key-file", value_name = "FILE")]
    pub(crate) key_files: Vec<PathBuf>,
    /// Environment variable with the key of the chain. Repeatable.
    #[arg(long = "key-env", value_name = "NAME")]
    pub(crate) key_envs: Vec<String>,
}

fn digest(text: &str) -> Result<audit_log::Digest, String> {
    audit_log::Digest::from_hex(text).ok_or_else(|| "must be 64 digits of 0-9 and a-f".into())
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NewKeyArgs {
    /// The settings file.
    #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Owner of the key. Keys of one owner share limits that are `per: owner`.
    #[arg(long, value_name = "NAME")]
    pub(crate) owner: String,
    /// Public name of the key. Default: a random one.
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<String>,
    /// Time until it expires, for example 90d. Default: it does not expire.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(crate) expires_in: Option<Duration>,
    /// A permitted route. A `*` at the end matches any rest. Repeatable. Default: all.
    #[arg(long = "route", value_name = "NAME")]
    pub(crate) routes: Vec<String>,
    /// A permitted model. A `*` at the end matches any rest. Repeatable. Default: all.
    #[arg(long = "model", value_name = "NAME")]
    pub(crate) models: Vec<String>,
    /// Priority in queues, 0 to 9. Higher goes first.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9), value_name = "N")]
    pub(crate) priority: u8,
    /// Own amount of a limit that is `per: key`, NAME=AMOUNT. Repeatable.
    #[arg(long = "limit", value_name = "NAME=AMOUNT", value_parser = own_limit)]
    pub(crate) limits: Vec<(String, String)>,
}

/// The time that a key is valid. Its end is stored in whole seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = lens::duration::parse(text).map_err(|bad| bad.to_string())?;
    match time < Duration::from_secs(1) {
        true => Err("must be at least 1s, or the key would never be valid".into()),
        false => Ok(time),
    }
}

fn own_limit(text: &str) -> Result<(String, String), String> {
    let (name, amount) = text.split_once('=').ok_or("write NAME=AMOUNT")?;
    Ok((name.to_owned(), amount.to_owned()))
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["upstream", "config"]))]
pub(crate) struct GatewayArgs {
    /// URL of the engine, to run without a settings file: http://127.0.0.1:8000
    #[arg(long, env = "LLM_LENS_UPSTREAM", hide_env_values = true, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// The settings file. A changed file is reloaded; SIGHUP reloads it, too.
    #[arg(
        long,
        env = "LLM_LENS_CONFIG",
        value_name = "FILE",
        conflicts_with_all = ["listen", "admin", "workers"]
    )]
    pub(crate) config: Option<PathBuf>,
    /// Address for clients (with --upstream). Port 0 takes a free one.
    #[arg(long, env = "LLM_LENS_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: String,
    /// Address of the admin listener (with --upstream).
    #[arg(long, env = "LLM_LENS_ADMIN", default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: String,
    /// Worker threads (with --upstream). Default: one for each core.
    #[arg(long, env = "LLM_LENS_WORKERS", value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Check everything that the start reads, as `check` does, and exit. Nothing is bound or sent.
    #[arg(long, conflicts_with = "upgrade")]
    pub(crate) dry_run: bool,
    /// Take over the listeners of a running gateway: start this one, then send QUIT to the old one.
    #[arg(long)]
    pub(crate) upgrade: bool,
}

/// The token of admin listeners with `admin.auth`.
#[derive(Debug, ClapArgs)]
pub(crate) struct AdminToken {
    /// Environment variable with a token of the admin listener, if it requires one.
    #[arg(long, value_name = "NAME", default_value = "LLM_LENS_ADMIN_TOKEN")]
    pub(crate) admin_token_env: String,
}

impl AdminToken {
    /// The token, if the variable is set.
    pub(crate) fn value(&self) -> Option<String> {
        std::env::var(&self.admin_token_env).ok().filter(|token| !token.is_empty())
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatsArgs {
    /// URLs of admin listeners: http://127.0.0.1:9090
    #[arg(required = true, value_name = "URL")]
    pub(crate) urls: Vec<String>,
    #[command(flatten)]
    pub(crate) admin_token: AdminToken,
    /// Merge the gateways into one table.
    #[arg(long)]
    pub(crate) merge: bool,
    /// The time to print: 1m, 5m, 15m, or start for all since the start.
    #[arg(long, default_value = "5m", value_name = "WINDOW", value_parser = window)]
    pub(crate) window: String,
    /// Labels to group by: route, backend, operation, model, owner.
    #[arg(long, default_value = "route", value_delimiter = ',', value_name = "LABELS", value_parser = dimension)]
    pub(crate) by: Vec<stats::Dimension>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    /// Folder of a record store, a file, a folder of files, a bucket (s3://BUCKET/PATH), or - for
    /// JSON lines on standard input. Buckets need the variables AWS_ENDPOINT_URL (other stores than
    /// AWS), AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: PathBuf,
    /// File, folder, object or folder of a bucket, or - for standard output. A folder (of a bucket:
    /// with a slash at its end) gets files records-000001 and so on.
    #[arg(long, value_name = "TARGET")]
    pub(crate) to: PathBuf,
    /// jsonl, csv, msgpack, protobuf, arrow or parquet. Default: by the end of the target's name.
    #[arg(long, value_name = "FORMAT", value_parser = record_format)]
    pub(crate) format: Option<lens::RecordFormat>,
    /// Only records with this value, as in /api/records: route=chat, slower_than=2s, from=6h. All
    /// conditions must hold.
    #[arg(long = "where", value_name = "NAME=VALUE")]
    pub(crate) conditions: Vec<String>,
    /// Continue an interrupted export with the same arguments.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Maximum records of a file, if the target is a folder.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) split: u64,
}

fn record_format(text: &str) -> Result<lens::RecordFormat, String> {
    lens::RecordFormat::from_name(text).ok_or_else(|| {
        let known = lens::RecordFormat::WORDS.map(|(word, _)| word).join(", ");
        format!("must be one of {known}")
    })
}

fn window(text: &str) -> Result<String, String> {
    stats::Window::from_name(text).map(|window| window.name().to_owned())
}

fn dimension(text: &str) -> Result<stats::Dimension, String> {
    stats::Dimension::from_name(text).ok_or_else(|| {
        let known = stats::Dimension::ALL.map(stats::Dimension::name).join(", ");
        format!("must be one of {known}")
    })
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// Address of the gateway. A port in use is replaced by a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Address of its admin listener.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// URL of a real engine beside the simulated ones. The demo requests the first model of its
    /// /v1/models.
    #[arg(long, value_name = "URL")]
    pub(crate) backend: Option<String>,
    /// Exit after the load.
    #[arg(long)]
    pub(crate) once: bool,
}
