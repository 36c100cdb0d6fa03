//! `run` and `compare`: load tests and their reports.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use lens::compare::{Comparison, compare as compare_histograms};
use testbench::prompts::Prompts;
use testbench::report::{Report, failure_share, histograms};
use testbench::schedule::{Arrival, Stop};
use testbench::{Config, join};

use crate::args::{RunArgs, Spacing};
use crate::{runtime, write_stdout};

/// Runs a load test and writes its reports. Fails if no request succeeded.
pub(crate) fn run_load_test(args: RunArgs) -> Result<ExitCode> {
    let config = config(&args)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(testbench::run::run_load(config.clone()))?;
    let joined = args.gateway_admin.as_ref().map(|admin| {
        let records = runtime.block_on(join::records(admin)).map_err(anyhow::Error::msg)?;
        anyhow::Ok(join::join(&outcome.samples, &records))
    });
    // If the gateway's records cannot be read, the reports are written before the error is
    // returned.
    let found = joined.as_ref().and_then(|joined| joined.as_ref().ok());
    let report = Report { config: &config, outcome: &outcome, slo: args.slo, joined: found };
    let write = |path: &Option<std::path::PathBuf>, text: &dyn Fn() -> String| match path {
        Some(path) => {
            std::fs::write(path, text()).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(()),
    };
    write(&args.json, &|| report.json().to_string())?;
    write(&args.csv, &|| report.csv())?;
    write(&args.markdown, &|| report.markdown())?;
    write_stdout(&report.table())?;
    joined.transpose()?;
    let any = outcome.samples.iter().any(testbench::Sample::is_ok);
    Ok(if any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn config(args: &RunArgs) -> Result<Config> {
    let arrival = match (args.rate, args.spacing) {
        (Some(rate), Spacing::Poisson) => Arrival::Poisson { rate },
        (Some(rate), Spacing::Constant) => Arrival::Constant { rate },
        (None, _) => Arrival::Closed { concurrency: args.concurrency },
    };
    let stop = match (args.duration, args.requests) {
        (Some(time), _) => Stop::After(time),
        (None, n) => Stop::Requests(n.unwrap_or(100)),
    };
    let key = match &args.api_key_env {
        Some(name) => Some(
            std::env::var(name)
                .with_context(|| format!("the environment variable {name} is not set"))?,
        ),
        None => None,
    };
    let prompts = match &args.prompts {
        Some(path) => Prompts::from_file(path).map_err(anyhow::Error::msg)?,
        None => Prompts::Made(args.prompt_length),
    };
    Ok(Config {
        base_url: args.base_url.clone(),
        model: args.model.clone(),
        arrival,
        stop,
        warm_up: args.warm_up,
        stream: !args.no_stream,
        prompts,
        max_tokens: args.max_tokens,
        key,
        seed: args.seed,
        progress: true,
    })
}

/// Compares two reports. Fails if the new one is slower than `percent` allows and the difference is
/// statistically significant.
pub(crate) fn compare(base: &Path, new: &Path, percent: f64) -> Result<ExitCode> {
    let (base, new) = (read(base)?, read(new)?);
    let (base_failures, new_failures) = (base.failures, new.failures);
    let (base, new) = (base.timings, new.timings);
    let mut text = format!(
        "{:10} {:>8} {:>12} {:>12} {:>8}  {}\n",
        "timing", "", "base ms", "new ms", "ratio", "distance"
    );
    let mut slower = false;
    for (name, old) in &base {
        if old.count() == 0 {
            continue;
        }
        let Some(comparison) =
            new.iter().find(|(n, _)| n == name).and_then(|(_, new)| compare_histograms(old, new))
        else {
            text.push_str(&format!("{name}: missing in the new report\n"));
            slower = true;
            continue;
        };
        for pair in &comparison.pairs {
            let ratio = pair.ratio().map_or_else(|| "-".into(), |r| format!("{r:.3}"));
            let (b, n) = (pair.base_us as f64 / 1000.0, pair.new_us as f64 / 1000.0);
            text.push_str(&format!(
                "{name:10} {:>8} {b:>12.3} {n:>12.3} {ratio:>8}  {:.3}\n",
                format!("p{}", pair.percentile),
                comparison.distance
            ));
        }
        if name != "request" && is_slower(&comparison, percent) {
            text.push_str(&format!("{name}: slower than --percent {percent} allows\n"));
            slower = true;
        }
    }
    if new_failures > base_failures + MAX_FAILURE_INCREASE {
        text.push_str(&format!(
            "failed requests: {:.1} % instead of {:.1} %\n",
            new_failures * 100.0,
            base_failures * 100.0
        ));
        slower = true;
    }
    write_stdout(&text)?;
    Ok(if slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn is_slower(comparison: &Comparison, percent: f64) -> bool {
    let most = 1.0 + percent / 100.0;
    let over = comparison
        .pairs
        .iter()
        .filter(|p| [50.0, 99.0].contains(&p.percentile))
        .any(|p| p.ratio().is_some_and(|r| r > most));
    comparison.significant && over
}

/// Maximum increase of the share of failed requests before a run counts as worse.
const MAX_FAILURE_INCREASE: f64 = 0.01;

/// The part of a report that is compared.
struct Reported {
    timings: Vec<(String, lens::Micros)>,
    /// Share of requests that failed.
    failures: f64,
}

fn read(path: &Path) -> Result<Reported> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let timings = histograms(&report).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    Ok(Reported { timings, failures: failure_share(&report) })
}
