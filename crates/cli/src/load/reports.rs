//! The reports of `run`: the table on standard output, and the files that arguments name.
//!
//! - *In*: the outcome of a run.
//! - *Out*: the table, and each file. What cannot be written is an error at the end.
//! - *Never*: a run whose results are lost because one of its files cannot be written.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use testbench::definitions;
use testbench::join::Joined;
use testbench::report::{Report, Slo};
use testbench::{Config, Outcome};

use crate::args::RunArgs;
use crate::write_stdout;

/// Checks that the files can be written. Existing files keep their content, and new ones are
/// removed, so that a run that does not start leaves none.
///
/// # Errors
/// The first file that cannot be written.
pub(super) fn check_files(args: &RunArgs) -> Result<()> {
    for (option, path) in [
        ("--json", &args.json),
        ("--csv", &args.csv),
        ("--markdown", &args.markdown),
        ("--html", &args.html),
    ] {
        if let Some(path) = path {
            let file = || format!("{option}: cannot write {}", path.display());
            check_file(path).with_context(file)?;
        }
    }
    Ok(())
}

fn check_file(path: &Path) -> std::io::Result<()> {
    // Opening a pipe could wait for its reader, and closing it would end what it reads.
    if path.metadata().is_ok_and(|file| !file.is_file() && !file.is_dir()) {
        return Ok(());
    }
    let exists = path.symlink_metadata().is_ok();
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if exists { Ok(()) } else { std::fs::remove_file(path) }
}

/// Prints the table and writes the files. If one of them fails, or the gateway's records could not
/// be read, the others are written before the error is returned.
///
/// # Errors
/// Everything that failed.
pub(super) fn write(
    args: &RunArgs,
    config: &Config,
    outcome: &Outcome,
    slo: Option<Slo>,
    joined: Option<Result<Joined, String>>,
) -> Result<ExitCode> {
    let found = joined.as_ref().and_then(|joined| joined.as_ref().ok());
    let report = Report { config, outcome, slo, joined: found };
    let figures = definitions::figures(outcome, &args.definitions);
    let defined = if figures.is_empty() { String::new() } else { definitions::table(&figures) };
    let printed = write_stdout(&format!("{}{defined}", report.table()));
    let json = || {
        let mut document = report.json();
        if !figures.is_empty() {
            document["definitions"] = definitions::json(&figures);
        }
        document.to_string()
    };
    let files: [File<'_>; 4] = [
        (&args.json, &json),
        (&args.csv, &|| report.csv()),
        (&args.markdown, &|| report.markdown()),
        (&args.html, &|| report.html()),
    ];
    let mut failures = write_files(&files);
    failures.extend(joined.and_then(Result::err));
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    printed?;
    let any = outcome.samples.iter().any(testbench::Sample::is_ok);
    Ok(if any { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A file that an argument names, and its text.
pub(super) type File<'f> = (&'f Option<PathBuf>, &'f dyn Fn() -> String);

/// Writes files; returns what failed.
pub(super) fn write_files(files: &[File<'_>]) -> Vec<String> {
    let write = |(path, text): &File<'_>| {
        let path = path.as_ref()?;
        let written = std::fs::write(path, text());
        written.err().map(|error| format!("cannot write {}: {error}", path.display()))
    };
    files.iter().filter_map(write).collect()
}
