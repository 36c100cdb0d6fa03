//! `run` with a sweep in its workload file, and `run --find`.
//!
//! - *In*: the plan of a run.
//! - *Out*: a line on standard error after each run, a table, and the files that arguments name.
//! - *Never*: results that are lost because a later run cannot be done.

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use testbench::report::Slo;
use testbench::sweep::{self, Found, Grid, Point};
use testbench::{Config, Ended};

use super::reports::write_files;
use crate::args::RunArgs;
use crate::write_stdout;

/// Runs all points of a grid.
pub(super) async fn sweep(
    args: &RunArgs,
    grid: &Grid,
    config: Config,
    slo: Option<Slo>,
    stop: impl Future<Output = ()>,
) -> Result<ExitCode> {
    check(args)?;
    let (points, ended) = sweep::run_grid(grid, &config, slo, show, stop).await?;
    report(args, &config, &points, ended, None)
}

/// Searches the highest rate.
pub(super) async fn find(
    args: &RunArgs,
    config: Config,
    slo: Slo,
    objectives: &str,
    stop: impl Future<Output = ()>,
) -> Result<ExitCode> {
    check(args)?;
    let (found, ended) = sweep::find_max_rate(&config, slo, show, stop).await?;
    report(args, &config, &found.points, ended, Some((&found, objectives)))
}

fn check(args: &RunArgs) -> Result<()> {
    if args.markdown.is_some() || args.gateway_admin.is_some() || !args.definitions.is_empty() {
        bail!("several runs have no --markdown, --gateway-admin or --definitions");
    }
    Ok(())
}

/// Shows a run that is complete.
fn show(point: &Point) {
    let settings: Vec<String> =
        point.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let overloaded = if point.overloaded { ", overloaded" } else { "" };
    let _ = writeln!(
        std::io::stderr(),
        "{}: {:.2} answers/s, {} failed{overloaded}",
        settings.join(", "),
        point.requests_per_second,
        point.failed
    );
}

fn report(
    args: &RunArgs,
    config: &Config,
    points: &[Point],
    ended: Ended,
    found: Option<(&Found, &str)>,
) -> Result<ExitCode> {
    let mut text = match ended {
        Ended::Completed => String::new(),
        Ended::Interrupted => "interrupted; the runs that were complete:\n".to_owned(),
        Ended::FailedAlike => "stopped, since all requests of a run fail alike\n".to_owned(),
    };
    text.push_str(&sweep::table(points));
    if let Some((found, objectives)) = found {
        text.push_str(&format!("{}\n", found.text(objectives)));
    }
    let printed = write_stdout(&text);
    let failures = write_files(&[
        (&args.json, &|| sweep::json(config, points, found.map(|found| found.0)).to_string()),
        (&args.csv, &|| sweep::csv(points)),
        (&args.html, &|| sweep::html(config, points, found)),
    ]);
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    printed?;
    let any = points.iter().any(|point| point.failed < point.requests);
    let is_found = found.is_none_or(|(found, _)| found.rate.is_some());
    let is_done = any && is_found && ended != Ended::FailedAlike;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
