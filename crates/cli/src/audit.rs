//! `audit verify`: the hash chain of an audit log.
//!
//! - *In*: files of a log, or their folder; keys from files or the environment.
//! - *Out*: a line for each file, each problem with its place, and the head of the chain.
//! - *Never*: a key in the output; a change of a file.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use audit_log::{ChainKey, FileReport, Report, VerifyOptions};

use crate::args::VerifyArgs;
use crate::write_stdout;

/// Verifies a log. Fails if its chain breaks.
pub(crate) fn verify_log(args: &VerifyArgs) -> Result<ExitCode> {
    let mut keys = Vec::new();
    for file in &args.key_files {
        keys.push(key_of_file(file)?);
    }
    for name in &args.key_envs {
        let key = std::env::var(name);
        let key = key.with_context(|| format!("--key-env {name}: the variable is not set"))?;
        keys.push(chain_key(&key).with_context(|| format!("--key-env {name}"))?);
    }
    let options = VerifyOptions { keys, head: args.head };
    let report = audit_log::verify(&args.paths, &options).context("cannot read the audit log")?;
    write_stdout(&render(&report))?;
    Ok(if report.problem_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn key_of_file(file: &Path) -> Result<ChainKey> {
    let shown = || format!("--key-file {}", file.display());
    chain_key(&std::fs::read_to_string(file).with_context(shown)?).with_context(shown)
}

/// The key as the settings read it: without a line feed at its end.
fn chain_key(text: &str) -> Result<ChainKey> {
    let key = text.trim_end_matches(['\r', '\n']);
    if key.is_empty() {
        bail!("the key is empty");
    }
    Ok(ChainKey::new(key.as_bytes()))
}

fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    for FileReport { path, lines, first, last } in &report.files {
        let (Some((first, from)), Some((last, to))) = (first, last) else { continue };
        let time = |at: &Option<String>| match at {
            // A line that was changed may have other characters.
            Some(at) => at.escape_debug().to_string(),
            None => "no time".into(),
        };
        let _ = writeln!(
            out,
            "{}: {}, {first} to {last}, {} to {}",
            path.display(),
            if *lines == 1 { "1 line".into() } else { format!("{lines} lines") },
            time(from),
            time(to)
        );
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for problem in &report.problems {
        let _ = writeln!(out, "problem: {problem}");
    }
    let listed = report.problems.len() as u64;
    if report.problem_count > listed {
        let _ = writeln!(out, "problem: and {} more", report.problem_count - listed);
    }
    if let Some(head) = report.head {
        let _ = writeln!(out, "head: line {}, {}", head.sequence, head.chain);
    }
    let _ = match report.problem_count {
        0 => writeln!(out, "valid"),
        1 => writeln!(out, "invalid: 1 problem"),
        count => writeln!(out, "invalid: {count} problems"),
    };
    out
}
