//! `run` and `compare`: load tests and their reports.

mod interleaved;
mod plan;
mod reports;
mod sweeps;

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lens::compare::{Comparison, compare as compare_histograms};
use testbench::join::Joined;
use testbench::report::{failure_share, histograms};
use testbench::{Config, Outcome, join};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Find, RunArgs};
use crate::{runtime, write_stdout};
use plan::Plan;

/// Exit codes after a signal: 128 and its number, as shells report them.
const EXIT_HUP: u8 = 129;
const EXIT_INT: u8 = 130;
const EXIT_TERM: u8 = 143;

/// Maximum time until the gateway has recorded the last request: it does so in the background.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between looks at its records.
const RECORDS_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a load test and writes its reports. Fails if no request succeeded. INT, TERM and HUP stop
/// it; what was measured until then is reported. A second signal ends it at once. HUP that was
/// ignored at the start, as under `nohup`, is still ignored.
pub(crate) fn run_load_test(args: RunArgs) -> Result<ExitCode> {
    if args.init {
        write_stdout(workload::STARTER)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = runtime()?;
    let ended = runtime.block_on(run_until_signal(args));
    // Does not wait for a report that is being written.
    runtime.shutdown_background();
    ended
}

async fn run_until_signal(args: RunArgs) -> Result<ExitCode> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
    let mut next_signal = async || {
        let hung_up = async {
            match &mut hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = int.recv() => ExitCode::from(EXIT_INT),
            _ = term.recv() => ExitCode::from(EXIT_TERM),
            _ = hung_up => ExitCode::from(EXIT_HUP),
        }
    };
    let (interrupt, interrupted) = tokio::sync::oneshot::channel::<()>();
    let stop = async {
        // The sender is not dropped before the run ends.
        let _ = interrupted.await;
    };
    let mut run = pin!(measure_and_report(args, stop));
    let code = tokio::select! {
        done = &mut run => return done,
        code = next_signal() => code,
    };
    let _ = interrupt.send(());
    tokio::select! {
        done = &mut run => done.map(|_| code),
        code = next_signal() => Ok(code),
    }
}

/// Whether the process was started with HUP ignored.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

async fn measure_and_report(args: RunArgs, stop: impl Future<Output = ()>) -> Result<ExitCode> {
    let Plan { config, slo, objectives, grid } = plan::read(&args)?;
    reports::check_files(&args)?;
    let mut stop = pin!(stop);
    let token = args.admin_token.value();
    let admin = args.gateway_admin.as_deref().map(|url| (url, token.as_deref()));
    let prepared = tokio::select! {
        prepared = prepare(config, admin) => prepared?,
        () = stop.as_mut() => return Ok(ExitCode::FAILURE),
    };
    if let Some(against) = args.against.as_deref() {
        anyhow::ensure!(grid.is_none(), "--against runs one workload; remove the sweep");
        return interleaved::run_pairs(&args, against, prepared, slo, stop).await;
    }
    if let Some(Find::MaxRate) = args.find {
        let slo = slo.unwrap_or_default();
        return sweeps::find(&args, prepared, slo, &objectives.unwrap_or_default(), stop).await;
    }
    if let Some(grid) = grid {
        return sweeps::sweep(&args, &grid, prepared, slo, stop).await;
    }
    let outcome = testbench::run::run_load(prepared.clone(), stop).await?;
    let joined = match admin {
        Some(admin) => Some(joined(admin, &outcome).await),
        None => None,
    };
    tokio::task::spawn_blocking(move || reports::write(&args, &prepared, &outcome, slo, joined))
        .await?
}

/// URL of an admin listener, and a token of it.
type Admin<'a> = (&'a str, Option<&'a str>);

/// What can fail before the load: the admin listener, and the name of the model.
async fn prepare(mut config: Config, admin: Option<Admin<'_>>) -> Result<Config> {
    if let Some((url, token)) = admin {
        let checked = join::check_admin(url, token).await;
        checked.map_err(anyhow::Error::msg).context("--gateway-admin")?;
    }
    if config.model.is_empty() {
        let models = testbench::models(&config.base_url, &config.provider, config.key.as_deref())
            .await
            .map_err(anyhow::Error::msg)
            .context("no --model is given, and the server does not name one")?;
        config.model = models.first().cloned().unwrap_or_default();
        // Progress of the run is on standard error, too.
        let _ = writeln!(
            std::io::stderr(),
            "model {} ({} at the server; --model selects another)",
            config.model,
            models.len()
        );
    }
    Ok(config)
}

/// Joins the run with the gateway's records.
async fn joined((admin, token): Admin<'_>, outcome: &Outcome) -> Result<Joined, String> {
    let last = outcome.samples.iter().rfind(|sample| sample.status.is_some());
    let until = tokio::time::Instant::now() + RECORDS_TIMEOUT;
    loop {
        let records = join::records(admin, token).await?;
        let has_last = last.is_none_or(|last| records.iter().any(|r| r.id == last.id));
        if !has_last && tokio::time::Instant::now() < until {
            tokio::time::sleep(RECORDS_INTERVAL).await;
            continue;
        }
        let joined = join::join(&outcome.samples, &records);
        if joined.matched == 0 && last.is_some() {
            return Err(format!(
                "the gateway at {admin} has no record of any request of this run; \
                 is it the gateway that serves {}, with limits.records above 0?",
                outcome.url
            ));
        }
        return Ok(joined);
    }
}

/// Compares two reports. Fails if the new one is slower than `percent` allows and the difference is
/// statistically significant.
pub(crate) fn compare(base: &Path, new: &Path, percent: f64) -> Result<ExitCode> {
    let (base, new) = (read(base)?, read(new)?);
    if base.timings.iter().all(|(_, timing)| timing.count() == 0) {
        bail!("the baseline has no successful request; there is nothing to compare with");
    }
    let (base_failures, new_failures) = (base.failures, new.failures);
    let (base, new) = (base.timings, new.timings);
    let mut text = format!(
        "{:20} {:>8} {:>12} {:>12} {:>8}  {}\n",
        "timing", "", "base ms", "new ms", "ratio", "distance"
    );
    let mut slower = false;
    for (name, old) in &base {
        if old.count() == 0 {
            continue;
        }
        let Some(new) = new.iter().find(|(other, _)| other == name).map(|(_, timing)| timing)
        else {
            text.push_str(&format!("{name}: missing in the new report\n"));
            slower = true;
            continue;
        };
        let Some(comparison) = compare_histograms(old, new) else {
            text.push_str(&format!("{name}: no request of the new report has it\n"));
            slower = true;
            continue;
        };
        let comparison = with_enough(comparison, old.count().min(new.count()));
        if comparison.pairs.is_empty() {
            text.push_str(&format!("{name}: too few requests to compare\n"));
            slower |= JUDGED.contains(&name.as_str());
        }
        for pair in &comparison.pairs {
            let ratio = pair.ratio().map_or_else(|| "-".into(), |r| format!("{r:.3}"));
            let (b, n) = (pair.base_us as f64 / 1000.0, pair.new_us as f64 / 1000.0);
            text.push_str(&format!(
                "{name:20} {:>8} {b:>12.3} {n:>12.3} {ratio:>8}  {:.3}\n",
                format!("p{}", pair.percentile),
                comparison.distance
            ));
        }
        if JUDGED.contains(&name.as_str()) && is_slower(&comparison, percent) {
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

/// The timings that may not be slower. The others are parts of them, or depend on the lengths.
const JUDGED: [&str; 3] = ["ttft", "tpot", "itl"];

/// The comparison without percentiles of too few samples.
fn with_enough(mut comparison: Comparison, count: u64) -> Comparison {
    comparison.pairs.retain(|pair| count >= ::gate::min_samples(pair.percentile));
    comparison
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
