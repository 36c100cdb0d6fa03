//! Runs the benches: in each round, every cell on every proxy.
//!
//! In: the selected proxies and cells, and their load.
//! Out: a report, and a line of progress for each cell on stderr.
//! The order of the proxies rotates by one each round, so that none is always the first. Never:
//! leaves a process or a folder behind.

use crate::cells::{Cell, Load};
use crate::machine::{Machine, raise_open_files};
use crate::peers::process::Process;
use crate::peers::{Kind, Peer, sibling};
use crate::report::Report;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Timeout of a cell.
const CELL_TIMEOUT: Duration = Duration::from_secs(180);

/// Open files in addition to those of the idle streams.
const SPARE_FILES: u64 = 1024;

/// Options of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Binary of the gateway, if it takes part.
    pub gateway: Option<PathBuf>,
    /// Another build of it, if one takes part.
    pub before: Option<PathBuf>,
    /// Proxies that take part.
    pub kinds: Vec<Kind>,
    /// Cells to run.
    pub cells: Vec<Cell>,
    /// Rounds.
    pub rounds: usize,
    /// Load of the cells.
    pub load: Load,
}

struct Competitor {
    kind: Kind,
    program: Option<PathBuf>,
}

struct Run {
    engine: SocketAddr,
    folder: PathBuf,
    load: Load,
    cells: Vec<Cell>,
}

/// A folder that is deleted when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs all rounds.
///
/// # Errors
/// When a process does not start or an answer is wrong.
pub async fn run_all(options: Options) -> Result<Report> {
    let begin = Instant::now();
    let mut machine = Machine::detect();
    let mut contenders = find(&options, &mut machine);
    let load = fit(options.load)?;
    let name = format!("llm-lens-benches-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let program = sibling("mock-engine").context("mock-engine is missing: build it")?;
    let mut engine = Process::start(&mut Command::new(program), &folder.0.join("engine"))?;
    let run = Run {
        engine: engine.first_line()?.parse().context("mock engine")?,
        folder: folder.0.clone(),
        load,
        cells: options.cells,
    };
    let mut report = Report::new(machine, load, options.rounds);
    for contender in &contenders {
        report.add_kind(contender.kind);
    }
    for round in 0..options.rounds {
        for contender in &contenders {
            run.all_cells(contender, round, &mut report).await?;
            engine.check().context("mock engine")?;
        }
        contenders.rotate_left(1);
    }
    report.seconds = begin.elapsed().as_secs();
    Ok(report)
}

fn find(options: &Options, machine: &mut Machine) -> Vec<Competitor> {
    let mut contenders = Vec::new();
    for kind in options.kinds.iter().copied() {
        match kind.find(options.gateway.as_deref(), options.before.as_deref()) {
            Ok(program) => {
                machine.add(kind, program.as_deref());
                contenders.push(Competitor { kind, program });
            }
            Err(error) => eprintln!("skipped: {error:#}"),
        }
    }
    contenders
}

/// Raises the limit of open files, or reduces the idle streams to fit it.
fn fit(mut load: Load) -> Result<Load> {
    let wanted = u64::from(load.idle_streams) * 2 + SPARE_FILES;
    let allowed = raise_open_files(wanted)?;
    if allowed < wanted {
        load.idle_streams = u32::try_from(allowed.saturating_sub(SPARE_FILES) / 2)?;
        eprintln!("open files are limited to {allowed}: only {} idle streams", load.idle_streams);
    }
    Ok(load)
}

impl Run {
    async fn all_cells(&self, who: &Competitor, round: usize, report: &mut Report) -> Result<()> {
        let mut peer = None;
        for cell in self.cells.iter().copied() {
            let at = format!("round {}, {}, {cell:?}", round + 1, who.kind.name());
            // Memory is measured in a process without previous load.
            if cell == Cell::Memory || peer.is_none() {
                drop(peer.take());
                let folder = self.folder.join(format!("{:?}", who.kind));
                peer = Some(self.start(who, &folder).await?);
            }
            let begin = Instant::now();
            let Some(peer) = &peer else { continue };
            let figures = tokio::time::timeout(CELL_TIMEOUT, cell.measure(peer, &self.load))
                .await
                .with_context(|| format!("{at}: not done within {CELL_TIMEOUT:?}"))?
                .with_context(|| at.clone())?;
            eprint!("{at} ({:.1} s):", begin.elapsed().as_secs_f64());
            for (metric, value) in figures {
                eprint!(" {metric:?} {value:.1}");
                report.add(who.kind, metric, value);
            }
            eprintln!();
        }
        Ok(())
    }

    async fn start(&self, who: &Competitor, folder: &Path) -> Result<Peer> {
        let connections = u64::from(self.load.idle_streams) + 256;
        let program = who.program.as_deref();
        Peer::start(who.kind, program, self.engine, folder, connections).await
    }
}
