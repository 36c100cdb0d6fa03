//! What can be asked on the command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use log::LevelFilter;

/// An OpenAI-compatible gateway in front of inference engines that measures every stream.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    /// How much to log to standard error: off, error, warn, info, debug or trace.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub(crate) log: LevelFilter,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stand in front of one engine or many, and measure.
    Gateway(GatewayArgs),
    /// Check a settings file; every problem is told with its line and column.
    Check {
        /// The settings file.
        file: PathBuf,
    },
    /// Write a commented settings file with every field and its default.
    Init {
        /// Where to write it.
        #[arg(default_value = "gateway.yaml")]
        file: PathBuf,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON Schema of the settings file, for editors.
    Schema,
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["upstream", "config"]))]
pub(crate) struct GatewayArgs {
    /// The engine, without a settings file: http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,
    /// A settings file; it is watched, and HUP reads it again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "admin", "workers"])]
    pub(crate) config: Option<PathBuf>,
    /// Where clients connect (with --upstream); port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: String,
    /// Where the operator connects (with --upstream).
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) admin: String,
    /// Worker threads (with --upstream); default: all cores.
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Take the listeners over from a running gateway: start this, then send QUIT to the old one.
    #[arg(long)]
    pub(crate) upgrade: bool,
}
