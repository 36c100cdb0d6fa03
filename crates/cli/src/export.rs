//! `export`: records of a store or of files to files of another format.
//!
//! - *In*: a folder of a record store, files of any format, a bucket of an object store, or JSON
//!   lines on standard input.
//! - *Out*: files, objects, or standard output. Progress and the number of records on standard
//!   error.
//! - *Never*: a progress line where standard error is no terminal.

mod bucket;
#[cfg(feature = "sqlite")]
mod from_store;
#[cfg(not(feature = "sqlite"))]
#[path = "export/from_store_off.rs"]
mod from_store;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use files::{
    Export, ExportError, FileSource, Progress, RowWriter, Source, SourceError, Target, WriteError,
};
use lens::{RecordFilter, RecordFormat};

use crate::args::ExportArgs;
use crate::export::bucket::BucketSource;
use crate::is_standard;

/// Records between two checkpoints.
const CHECKPOINT: u64 = 20_000;
/// Interval of the progress line.
const REDRAW: Duration = Duration::from_millis(200);

/// Copies the records.
pub(crate) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let format = format(args)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let mut filter = RecordFilter::default();
    for condition in &args.conditions {
        filter.add(condition, now_us).map_err(|why| anyhow::anyhow!("--where: {why}"))?;
    }
    if is_standard(&args.from) && args.resume {
        bail!("--resume needs files: standard input cannot be read again");
    }
    let (from, to) = (bucket::url(&args.from)?, bucket::url(&args.to)?);
    if to.is_some() && args.resume {
        bail!("--resume needs files: an export to a bucket begins again");
    }
    // Files of a bucket are made here, and uploaded when they are complete.
    let staging = to.as_ref().map(|_| tempfile::tempdir()).transpose()?;
    let target = match &staging {
        Some(staging) => staged(args, staging.path()),
        None => target(args, format)?,
    };
    let export = Export {
        source: args.from.display().to_string(),
        conditions: args.conditions.clone(),
        format,
        target,
        resume: args.resume,
        checkpoint: CHECKPOINT,
    };
    let mut line = ProgressLine::new();
    let open = |place: Option<&str>| match &from {
        Some(url) => Ok(Box::new(BucketSource::open(url, place)?) as Box<dyn Source>),
        None => open(&args.from, &filter, place),
    };
    let exported = export.copy(now_us, open, &mut |progress| line.show(progress));
    line.end();
    match exported {
        Ok(records) => {
            if let (Some(staging), Some(url)) = (&staging, &to) {
                bucket::upload(staging.path(), url, is_folder(&args.to))?;
            }
            let noun = if records == 1 { "record" } else { "records" };
            let _ =
                writeln!(std::io::stderr(), "exported {records} {noun} to {}", args.to.display());
            Ok(ExitCode::SUCCESS)
        }
        // The reader of our output closed the pipe.
        Err(ExportError::Write { source: WriteError::Io(error), .. })
            if error.kind() == ErrorKind::BrokenPipe =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens records: standard input, a store, files.
pub(crate) fn open(
    from: &Path,
    filter: &RecordFilter,
    place: Option<&str>,
) -> Result<Box<dyn Source>, SourceError> {
    if is_standard(from) {
        let input = std::io::BufReader::new(std::io::stdin());
        return Ok(Box::new(FileSource::stream("standard input", input)));
    }
    if is_store(from) {
        return from_store::open(from, filter, place);
    }
    Ok(Box::new(FileSource::open(from, place)?))
}

/// Whether a folder has files of a record store.
fn is_store(folder: &Path) -> bool {
    let is_partition = |name: &str| name.starts_with("records-") && name.ends_with(".sqlite");
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_partition))
    })
}

fn is_folder(to: &Path) -> bool {
    to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn format(args: &ExportArgs) -> Result<RecordFormat> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    let known = RecordFormat::WORDS.map(|(_, format)| format.extension()).join(", .");
    match RecordFormat::from_path(&args.to) {
        Some(format) => Ok(format),
        None if is_standard(&args.to) => Ok(RecordFormat::Jsonl),
        None if is_folder(&args.to) => bail!("--to is a folder; name the format with --format"),
        None => bail!(
            "{}: the end of the name states no format; name it with --format, or use one of .{known}",
            args.to.display()
        ),
    }
}

/// A target in a folder of files that are uploaded.
fn staged(args: &ExportArgs, folder: &Path) -> Target {
    match is_folder(&args.to) {
        true => Target::Folder(folder.to_owned(), args.split),
        false => Target::File(folder.join("object")),
    }
}

fn target(args: &ExportArgs, format: RecordFormat) -> Result<Target> {
    if is_standard(&args.to) {
        let out: Box<dyn std::io::Write> = Box::new(std::io::stdout());
        return Ok(Target::Stream(RowWriter::new(out, format)?));
    }
    Ok(match is_folder(&args.to) {
        true => Target::Folder(args.to.clone(), args.split),
        false => Target::File(args.to.clone()),
    })
}

/// A line on a terminal that is drawn again and again.
struct ProgressLine {
    is_terminal: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl ProgressLine {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        ProgressLine { is_terminal, started: Instant::now(), drawn: None }
    }

    fn show(&mut self, progress: Progress) {
        if !self.is_terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let text = progress_text(progress, self.started.elapsed());
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }

    fn end(&self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn progress_text(progress: Progress, time: Duration) -> String {
    const WIDTH: u64 = 20;
    let Progress { done, all, unit, written } = progress;
    let rate = written as f64 / time.as_secs_f64().max(0.001);
    let bar = match all.filter(|all| *all > 0) {
        Some(all) => {
            let full = (done.min(all) * WIDTH / all) as usize;
            let bar = format!("{}{}", "#".repeat(full), " ".repeat(WIDTH as usize - full));
            format!("[{bar}] {done} of {all} {unit}, ")
        }
        None => String::new(),
    };
    format!("{bar}{written} records written, {rate:.0}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_a_bar_where_the_end_is_known() {
        let progress = Progress { done: 1, all: Some(4), unit: "files", written: 500 };
        let text = progress_text(progress, Duration::from_secs(2));
        assert_eq!(text, "[#####               ] 1 of 4 files, 500 records written, 250/s");
        let progress = Progress { written: 5, ..Progress::default() };
        assert_eq!(progress_text(progress, Duration::from_secs(1)), "5 records written, 5/s");
        let over = Progress { done: 9, all: Some(4), unit: "records", written: 0 };
        assert!(progress_text(over, Duration::ZERO).starts_with("[####################] "));
    }
}
