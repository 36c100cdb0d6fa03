//! `gate`: decides whether a run is a regression.
//!
//! - *In*: reports of `run`, and the checks.
//! - *Out*: the decision on standard output and in files, and its exit code.
//! - *Never*: exit code 0 or 1 because of a file: one that cannot be read or written is 2.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use gate::{Decision, Options, Run, Verdict, judge, judge_pairs, pairs_from_json};

use crate::args::GateArgs;
use crate::write_stdout;

/// Maximum bytes of a report: some millions of requests.
const MAX_REPORT: u64 = 1 << 30;

/// Judges, prints the decision and writes its files.
pub(crate) fn judge_reports(args: &GateArgs) -> ExitCode {
    let decision = decide(args)
        .unwrap_or_else(|reasons| Decision::without_figures(Verdict::NotComparable, reasons));
    let mut code = decision.verdict.exit_code();
    for problem in write(args, &decision) {
        let _ = writeln!(std::io::stderr(), "llm-lens: {problem}");
        code = if code == 0 { Verdict::NotComparable.exit_code() } else { code };
    }
    ExitCode::from(code)
}

/// Reads the reports and judges.
///
/// # Errors
/// Every report that cannot be read.
fn decide(args: &GateArgs) -> Result<Decision, Vec<String>> {
    let options = Options {
        thresholds: args.fail_on.to_vec(),
        bounds: args.bound.as_deref().unwrap_or_default().to_vec(),
        and_above_us: args.and_above.as_secs_f64() * 1e6,
        max_invalid: args.max_invalid / 100.0,
        allow: args.allow.clone(),
    };
    if let Some(path) = &args.interleaved {
        let name = path.display().to_string();
        let pairs = read(path).and_then(|text| pairs_from_json(&name, &text));
        return Ok(judge_pairs(&pairs.map_err(|reason| vec![reason])?, &options));
    }
    let paths = args.baseline.iter().chain(&args.candidate);
    let (mut runs, mut reasons) = (Vec::new(), Vec::new());
    for path in paths {
        let name = path.display().to_string();
        match read(path).and_then(|text| Run::from_json(&name, &text)) {
            Ok(run) => runs.push(run),
            Err(reason) => reasons.push(reason),
        }
    }
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let candidate = runs.pop().ok_or_else(|| vec!["there is no candidate".to_owned()])?;
    Ok(judge(&runs, &candidate, &options))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let file = path.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?;
    if file.len() > MAX_REPORT {
        return Err(format!("{shown} has {} bytes; at most {MAX_REPORT} are read", file.len()));
    }
    std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))
}

/// Writes the decision; returns what failed.
fn write(args: &GateArgs, decision: &Decision) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = write_stdout(&decision.text()) {
        problems.push(format!("cannot write to standard output: {error}"));
    }
    let files: [(_, &dyn Fn() -> String); 4] = [
        (&args.json, &|| format!("{:#}\n", decision.json())),
        (&args.markdown, &|| decision.markdown()),
        (&args.junit, &|| decision.junit()),
        (&args.html, &|| decision.html()),
    ];
    for (path, text) in files {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::write(path, text()) {
            problems.push(format!("cannot write {}: {error}", path.display()));
        }
    }
    problems
}
