//! Compares the gateway with other proxies and with no proxy.
//!
//! In: the gateway's binary (optional), and a selection of proxies and cells.
//! Out: a Markdown table on stdout, and JSON and Markdown files if wanted;
//! progress goes to stderr.
//! Never: connects beyond 127.0.0.1; reports a run with a wrong answer.

use anyhow::{Context, Result, bail};
use clap::Parser;
use llm_lens_benches::cells::{Cell, Load};
use llm_lens_benches::peers::Kind;
use llm_lens_benches::run::{Options, run_all};
use std::path::PathBuf;

/// Compares the gateway with a TCP splice, nginx, HAProxy and an idle pingora.
#[derive(Parser)]
struct Args {
    /// Binary of the gateway; without it only the others are measured.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Another build of the gateway to measure in the same run, such as the one before a change.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Rounds; three, or one with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Less load and one round, for a quick look.
    #[arg(long)]
    quick: bool,
    /// Only these proxies; the direct way is always measured.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Kind>,
    /// Only these cells.
    #[arg(long, value_delimiter = ',', value_enum)]
    cells: Vec<Cell>,
    /// Where to write all values as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to write the table.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

impl Args {
    fn options(&self) -> Options {
        let wanted =
            |kind: &Kind| *kind == Kind::Direct || self.only.is_empty() || self.only.contains(kind);
        let asked = |kind: &Kind| *kind != Kind::Before || self.before.is_some();
        let chosen = |cell: &Cell| self.cells.is_empty() || self.cells.contains(cell);
        Options {
            gateway: self.gateway.clone(),
            before: self.before.clone(),
            kinds: Kind::ALL.into_iter().filter(wanted).filter(asked).collect(),
            cells: Cell::ALL.into_iter().filter(chosen).collect(),
            rounds: self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1),
            load: if self.quick { Load::QUICK } else { Load::FULL },
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    for binary in [&args.gateway, &args.before].into_iter().flatten() {
        if !binary.is_file() {
            bail!("no such binary: {}", binary.display());
        }
    }
    // Fail here instead of after minutes of measuring.
    for path in [&args.out, &args.markdown].into_iter().flatten() {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make {}", folder.display()))?;
        }
    }
    let report = tokio::select! {
        report = run_all(args.options()) => report?,
        signal = tokio::signal::ctrl_c() => {
            signal?;
            bail!("interrupted");
        }
    };
    let table = report.markdown();
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(path, text + "\n").context("write the JSON")?;
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, &table).context("write the Markdown")?;
    }
    print!("{table}");
    Ok(())
}
