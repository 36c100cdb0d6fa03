//! `simulate`: a simulated engine, and the file of its truth.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use simulator::truth::MAX_PAGE;
use simulator::{Engine, TruthHandle};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::SimulateArgs;
use crate::{runtime, write_stdout};

/// Interval of writes to the file.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs the engine until INT or TERM.
pub(crate) fn simulate(args: &SimulateArgs) -> Result<()> {
    runtime()?.block_on(async {
        let engine = Engine::bind(args.listen, args.engine.profile()?).await.with_context(|| {
            format!(
                "cannot listen on {}; choose another address with --listen (port 0 takes a free \
                 one)",
                args.listen
            )
        })?;
        let mut file = args.truth.as_deref().map(TruthFile::create).transpose()?;
        let truth = engine.truth();
        let (mut int, mut term) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        write_stdout(&format!("simulated engine on http://{}\n", engine.address()?))?;
        let mut serve = std::pin::pin!(engine.serve());
        loop {
            tokio::select! {
                () = &mut serve => break,
                _ = int.recv() => break,
                _ = term.recv() => break,
                () = tokio::time::sleep(INTERVAL), if file.is_some() => {
                    file.iter_mut().try_for_each(|file| file.write(&truth))?;
                }
            }
        }
        file.iter_mut().try_for_each(|file| file.write(&truth))
    })
}

/// The truth as JSON lines.
pub(crate) struct TruthFile {
    out: BufWriter<File>,
    shown: String,
    /// Position of the next row.
    next: u64,
}

impl TruthFile {
    /// Creates or replaces the file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = File::create(path).with_context(|| format!("cannot create {shown}"))?;
        Ok(TruthFile { out: BufWriter::new(file), shown, next: 0 })
    }

    /// Appends the rows that are new. The engine keeps more rows than end between two calls.
    pub(crate) fn write(&mut self, truth: &TruthHandle) -> Result<()> {
        loop {
            let (lines, next) = truth.read(|truth| {
                let (rows, next) = truth.page(self.next, MAX_PAGE);
                let lines: serde_json::Result<Vec<String>> =
                    rows.into_iter().map(serde_json::to_string).collect();
                (lines, next)
            });
            let lines = lines?;
            for line in &lines {
                writeln!(self.out, "{line}").with_context(|| self.shown.clone())?;
            }
            self.next = next;
            if lines.len() < MAX_PAGE {
                return self.out.flush().with_context(|| self.shown.clone());
            }
        }
    }
}
