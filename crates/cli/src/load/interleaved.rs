//! `run --against`: blocks of load to two servers in turn.
//!
//! - *In*: the arguments of a run, and the second server.
//! - *Out*: a table for each server, and the JSON that `gate --interleaved` reads.
//! - *Never*: a verdict.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbench::interleave::{Pair, run_interleaved};
use testbench::report::{Report, Slo};
use testbench::{Config, Ended, Outcome};
use workload::arrival::Stop;

use crate::args::RunArgs;
use crate::write_stdout;

/// Default of `--pairs`.
const PAIRS: u32 = 40;
/// Default of `--block`, in seconds.
const BLOCK_SECONDS: u64 = 10;

/// Runs the pairs, prints the tables and writes the JSON. Fails if no pair is complete.
pub(super) async fn run_pairs(
    args: &RunArgs,
    against: &str,
    mut config: Config,
    slo: Option<Slo>,
    stop: impl Future<Output = ()>,
) -> Result<ExitCode> {
    let block = args.block.unwrap_or(std::time::Duration::from_secs(BLOCK_SECONDS));
    config.stop = Stop::After(block);
    let candidate = Config { base_url: against.to_owned(), ..config.clone() };
    let count = args.pairs.unwrap_or(PAIRS);
    let (pairs, ended) = run_interleaved(&config, &candidate, count, stop).await?;
    let written = match &args.json {
        Some(path) => write_json(path, &config, &candidate, &pairs, slo),
        None => Ok(()),
    };
    let complete = pairs.len();
    let (mut base, mut new) = (Outcome::default(), Outcome::default());
    for pair in pairs {
        base.append(pair.base);
        new.append(pair.candidate);
    }
    let ending = match ended {
        Ended::Completed => String::new(),
        Ended::Interrupted => "interrupted; ".into(),
        Ended::FailedAlike => "stopped, since all requests of a block fail alike; ".into(),
    };
    let mut text = format!("{ending}{complete} of {count} pairs are complete\n");
    for (config, outcome) in [(&config, &base), (&candidate, &new)] {
        let report = Report { config, outcome, slo, joined: None };
        text.push_str(&format!("\n{}\n{}", outcome.url, report.table()));
    }
    write_stdout(&text)?;
    written?;
    Ok(if complete > 0 && ended != Ended::FailedAlike {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn write_json(
    path: &Path,
    base: &Config,
    candidate: &Config,
    pairs: &[Pair],
    slo: Option<Slo>,
) -> Result<()> {
    let report = |config: &Config, outcome: &Outcome| -> Value {
        Report { config, outcome, slo, joined: None }.json()
    };
    let both = |pair: &Pair| -> Value {
        let (base, candidate) = (report(base, &pair.base), report(candidate, &pair.candidate));
        json!({"base": base, "candidate": candidate})
    };
    let pairs: Vec<Value> = pairs.iter().map(both).collect();
    let text = json!({"interleaved": pairs}).to_string();
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
