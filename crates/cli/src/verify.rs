//! `verify-client`: a load tester against a simulated engine, and its error.

use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use simulator::verify::{self, Format, Reported};
use simulator::{Engine, TruthHandle};
use tokio::time::Instant;

use crate::args::VerifyClientArgs;
use crate::simulate::TruthFile;
use crate::{runtime, write_stdout};

/// Nothing could be compared.
const NOT_COMPARABLE: u8 = 2;
/// The tool failed, or exceeded a bound.
const INVALID: u8 = 3;

/// Interval of looks at the tool.
const INTERVAL: Duration = Duration::from_millis(20);
/// Maximum time until answers have ended after the tool has.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a result.
const MAX_RESULT: u64 = 256 << 20;

/// Runs the tool, and compares what it reported with the truth.
pub(crate) fn verify_client(args: &VerifyClientArgs) -> Result<ExitCode> {
    let profile = args.engine.profile()?;
    let model = profile.model.clone();
    let mut file = args.truth.as_deref().map(TruthFile::create).transpose()?;
    // An old result is not the tool's.
    if let Some(result) = args.result.as_deref().filter(|result| result.exists()) {
        std::fs::remove_file(result)
            .with_context(|| format!("cannot remove the old {}", result.display()))?;
    }
    let runtime = runtime()?;
    let (truth, ended) = runtime.block_on(async {
        let engine = Engine::bind(([127, 0, 0, 1], 0).into(), profile).await?;
        let (port, truth) = (engine.address()?.port(), engine.truth());
        let serving = tokio::spawn(engine.serve());
        let mut tool = start(&args.command, port, &model)?;
        let ended = finish(&mut tool, &truth, args).await?;
        let settled = Instant::now() + SETTLE_TIMEOUT;
        while !truth.is_complete() && Instant::now() < settled {
            tokio::time::sleep(INTERVAL).await;
        }
        serving.abort();
        anyhow::Ok((truth, ended))
    })?;
    file.iter_mut().try_for_each(|file| file.write(&truth))?;
    let problem = match ended {
        Ended::Exited(status) if status.success() => None,
        Ended::Exited(status) => Some(format!("the tool failed: {status}")),
        Ended::TooLong => Some(format!("the tool was killed after {:?}", args.timeout)),
        Ended::TooMany => Some(format!("the tool was killed after {} requests", args.max_requests)),
    };
    let reported = match args.result.as_deref().zip(args.format) {
        Some((result, format)) if problem.is_none() => Some(read(result, format, args)),
        _ => None,
    };
    judge(args, &truth, reported, problem)
}

/// Prints the verdict.
fn judge(
    args: &VerifyClientArgs,
    truth: &TruthHandle,
    reported: Option<Result<Reported>>,
    problem: Option<String>,
) -> Result<ExitCode> {
    let is_compared = reported.is_some() || args.expect_rate.is_some();
    let (reported, unreadable) = match reported {
        Some(Ok(reported)) => (Some(reported), None),
        Some(Err(error)) => (None, Some(format!("{error:#}"))),
        None => (None, None),
    };
    let verdict = truth.read(|truth| verify::compare(truth, reported.as_ref(), &args.plan()));
    if let Some(path) = &args.json {
        let mut json = verdict.json();
        json["problem"] = problem.as_ref().or(unreadable.as_ref()).cloned().into();
        json["truth"] = truth.summary();
        std::fs::write(path, format!("{json:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_stdout(&verdict.table())?;
    let (code, line) = match (problem, unreadable, verdict.is_within()) {
        (Some(problem), _, _) => (INVALID, problem),
        (_, Some(problem), _) => (NOT_COMPARABLE, problem),
        (.., Some(true)) => (0, "within the tolerance".into()),
        (.., Some(false)) => (1, "outside the tolerance".into()),
        (.., None) if is_compared => (NOT_COMPARABLE, "nothing to compare".into()),
        (.., None) => (0, "the truth alone; --result names the tool's figures".into()),
    };
    write_stdout(&format!("{line}\n"))?;
    Ok(ExitCode::from(code))
}

/// Starts the tool with the address of the engine.
fn start(command: &[String], port: u16, model: &str) -> Result<Child> {
    let url = format!("http://127.0.0.1:{port}");
    let replace = |argument: &String| {
        let port = port.to_string();
        argument.replace("{url}", &url).replace("{port}", &port).replace("{model}", model)
    };
    let (program, arguments) = command.split_first().context("no command is given")?;
    Command::new(replace(program))
        .args(arguments.iter().map(replace))
        .env("OPENAI_BASE_URL", format!("{url}/v1"))
        .env("OPENAI_API_KEY", "dummy")
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

enum Ended {
    Exited(ExitStatus),
    TooLong,
    TooMany,
}

/// Waits for the tool, and kills it at a bound.
async fn finish(tool: &mut Child, truth: &TruthHandle, args: &VerifyClientArgs) -> Result<Ended> {
    let until = Instant::now() + args.timeout;
    loop {
        if let Some(status) = tool.try_wait()? {
            return Ok(Ended::Exited(status));
        }
        let requests = truth.read(|truth| truth.totals().requests);
        let bound = if requests > args.max_requests {
            Some(Ended::TooMany)
        } else if Instant::now() >= until {
            Some(Ended::TooLong)
        } else {
            None
        };
        if let Some(bound) = bound {
            tool.kill()?;
            tool.wait()?;
            return Ok(bound);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reads what the tool reported.
fn read(path: &Path, format: Format, args: &VerifyClientArgs) -> Result<Reported> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    anyhow::ensure!(size <= MAX_RESULT, "{shown} is larger than 256 MiB");
    let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let document: Value =
        serde_json::from_slice(&text).with_context(|| format!("{shown} is not JSON"))?;
    verify::read(&document, format, &args.read)
        .map_err(|problem| anyhow::anyhow!("{shown}: {problem}"))
}
