//! The plan of a run: the workload file, and the arguments that replace parts of it.
//!
//! - *In*: the arguments of `run`.
//! - *Out*: a [`Config`], and the objectives.
//! - *Never*: a key of an API in an error.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lens::RecordFilter;
use testbench::Config;
use testbench::client::Limits;
use testbench::report::Slo;
use testbench::sweep::Grid;
use workload::arrival::{Arrival, Spacing, Stop};
use workload::prompts::Prompts;
use workload::provider::{PROVIDERS, Provider};
use workload::trace::{Trace, TraceBuilder};
use workload::{Sweep, WorkloadFile, parse};

use crate::args::RunArgs;
use crate::args::Spacing as SpacingArg;

/// Default of `--requests`.
const REQUESTS: u64 = 100;
/// Default of `--duration` of the runs of a search.
const SEARCH_RUN: Duration = Duration::from_secs(30);
/// Default of `--rate` of a search.
const SEARCH_RATE: f64 = 1.0;
/// Default of `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Default of `--seed`.
const SEED: u64 = 1;
/// Maximum size of a workload file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What is to be run.
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) slo: Option<Slo>,
    /// The objectives as they were written.
    pub(super) objectives: Option<String>,
    /// Values of settings, each combination of which is a run.
    pub(super) grid: Option<Grid>,
}

/// Reads the plan.
///
/// # Errors
/// What is missing or wrong.
pub(super) fn read(args: &RunArgs) -> Result<Plan> {
    let file = match &args.config {
        Some(path) => file(path)?,
        None => parse("", "{}", Path::new("")).expect("invariant: an empty file is valid"),
    };
    let provider = args.provider.or(file.provider).unwrap_or_default();
    let base_url = args.base_url.clone().or_else(|| file.base_url.clone());
    let Some(base_url) = base_url.or_else(|| provider.base_url.map(str::to_owned)) else {
        let known = PROVIDERS.map(|provider| provider.name).join(", ");
        bail!("the server is missing: --base-url URL, or --provider with one of {known}");
    };
    let seed = args.seed.or(file.seed).unwrap_or(SEED);
    let mut workload = file.workload(seed);
    if let Some(path) = &args.prompts {
        workload.prompts = Prompts::from_file(path).map_err(anyhow::Error::msg)?;
    }
    if let Some(length) = &args.prompt_length {
        workload.prompts = Prompts::Made(length.clone());
    }
    let mut arrival = arrival(args, &file)?;
    if let Some((path, pace)) = replay(args, &file) {
        let trace = trace(&path).with_context(|| format!("cannot replay {}", path.display()))?;
        arrival = trace.arrival(pace);
        workload.prompts = Prompts::Trace(trace.requests);
    }
    if let Some(limit) = &args.max_tokens {
        workload.max_tokens = Some(limit.clone());
    }
    let stop = match (args.duration, args.requests, file.stop) {
        (None, None, None) if args.find.is_some() => Stop::After(SEARCH_RUN),
        (Some(time), _, _) => Stop::After(time),
        (None, Some(n), _) => Stop::Requests(n),
        (None, None, Some(stop)) => stop,
        (None, None, None) if arrival.has_end() => Stop::AtEnd,
        (None, None, None) => Stop::Requests(REQUESTS),
    };
    let objectives = args.slo.clone().or_else(|| file.objectives.clone());
    let slo = objectives.as_ref().map(|text| text.parse::<Slo>().map_err(anyhow::Error::msg));
    let slo = slo.transpose().context("--slo")?;
    let grid = file.sweep.as_ref().map(|sweep| grid(sweep, &arrival));
    let limits = args.max_client_error.or(file.max_client_error);
    let config = Config {
        base_url,
        model: args.model.clone().or_else(|| file.model.clone()).unwrap_or_default(),
        provider,
        arrival,
        stop,
        warm_up: args.warm_up.or(file.warm_up).unwrap_or(0),
        stream: !args.no_stream && file.stream.unwrap_or(true),
        workload: Arc::new(workload),
        key: key(args.api_key_env.as_ref().or(file.api_key_env.as_ref()), &provider)?,
        timeout: args.timeout.or(file.timeout).unwrap_or(TIMEOUT),
        limits: limits.map_or_else(Limits::default, |error| Limits { error }),
        seed,
        progress: true,
    };
    if args.find.is_some() && (slo.is_none_or(|slo| slo.single().is_empty()) || grid.is_some()) {
        bail!("--find needs objectives (--slo ttft.p95=500ms,tpot.p95=50ms), and no sweep");
    }
    Ok(Plan { config, slo, objectives, grid })
}

/// The grid of a sweep. Rates have the spacing of the file's arrivals.
fn grid(sweep: &Sweep, arrival: &Arrival) -> Grid {
    let spacing = match arrival {
        Arrival::Open { spacing, .. } => *spacing,
        _ => Spacing::Poisson,
    };
    let closed = sweep.concurrency.iter().map(|users| Arrival::Closed { concurrency: *users });
    let open = sweep.rate.iter().map(|rate| Arrival::open(spacing, *rate));
    Grid {
        arrivals: closed.chain(open).collect(),
        prompt_lengths: sweep.prompt_length.clone(),
        max_tokens: sweep.max_tokens.clone(),
    }
}

fn file(path: &Path) -> Result<WorkloadFile> {
    let name = path.display().to_string();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    anyhow::ensure!(size <= MAX_FILE, "{name} is larger than {} MiB", MAX_FILE >> 20);
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok(parse(&name, &text, path.parent().unwrap_or(Path::new("")))?)
}

fn arrival(args: &RunArgs, file: &WorkloadFile) -> Result<Arrival> {
    let spacing = match args.spacing {
        Some(SpacingArg::Poisson) => Some(Spacing::Poisson),
        Some(SpacingArg::Constant) => Some(Spacing::Constant),
        None => None,
    };
    if let Some(rate) = args.rate {
        return Ok(Arrival::open(spacing.unwrap_or(Spacing::Poisson), rate));
    }
    if let Some(concurrency) = args.concurrency {
        return Ok(Arrival::Closed { concurrency });
    }
    match (file.arrival.clone(), spacing) {
        (Some(Arrival::Open { stages, .. }), Some(spacing)) => {
            Ok(Arrival::Open { spacing, stages })
        }
        (Some(arrival), None) => Ok(arrival),
        (None, _) if args.find.is_some() => {
            Ok(Arrival::open(spacing.unwrap_or(Spacing::Poisson), SEARCH_RATE))
        }
        (None, None) => Ok(Arrival::Closed { concurrency: 1 }),
        (_, Some(_)) => bail!("--spacing needs an open loop: add --rate"),
    }
}

fn replay(args: &RunArgs, file: &WorkloadFile) -> Option<(std::path::PathBuf, f64)> {
    match &args.replay {
        Some(path) => Some((path.clone(), args.pace.unwrap_or(1.0))),
        None => file.replay.clone(),
    }
}

/// Reads recorded traffic.
fn trace(path: &Path) -> Result<Trace> {
    if path.extension().is_some_and(|end| end == "jsonl" || end == "json") {
        return report_skipped(Trace::from_file(path).map_err(anyhow::Error::msg)?);
    }
    let mut source = crate::export::open(path, &RecordFilter::default(), None)?;
    let mut builder = TraceBuilder::default();
    while let Some(row) = source.next_row()? {
        builder.add_record(&row.record).map_err(anyhow::Error::msg)?;
    }
    report_skipped(builder.build().map_err(anyhow::Error::msg)?)
}

fn report_skipped(trace: Trace) -> Result<Trace> {
    if trace.skipped > 0 {
        let mut err = std::io::stderr();
        let _ = writeln!(
            err,
            "{} records without prompt tokens are not replayed; {} are",
            trace.skipped,
            trace.requests.len()
        );
    }
    Ok(trace)
}

/// The key: of the variable that is named, or of the provider's if it is set.
fn key(name: Option<&String>, provider: &Provider) -> Result<Option<String>> {
    match (name, provider.key_env) {
        (Some(name), _) => std::env::var(name)
            .map(Some)
            .with_context(|| format!("the environment variable {name} is not set")),
        (None, Some(usual)) => Ok(std::env::var(usual).ok()),
        (None, None) => Ok(None),
    }
}
