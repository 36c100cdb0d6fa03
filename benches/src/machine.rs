//! The machine of a run, for the head of the report.
//!
//! In: /proc, and the version lines of the peers.
//! Out: CPU model, cores, memory, kernel, load at the start, peer versions.
//! It also raises this process's own limit of open files, for its children.
//! Never: names the host, a user or a folder.

use crate::peers::Kind;
use anyhow::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A machine and the peers on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPU model.
    pub cpu: String,
    /// Cores that may be used.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load averages at the start of the run; a high load means noisy figures.
    pub load: String,
    /// Version line of each peer.
    pub versions: BTreeMap<&'static str, String>,
}

impl Machine {
    /// Reads the properties of this machine.
    #[must_use]
    pub fn detect() -> Self {
        let number = |text: String| text.split_whitespace().next()?.parse::<u64>().ok();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(number)
                .map_or(0, |kib| kib / 1024),
            kernel: read("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            versions: BTreeMap::new(),
        }
    }

    /// Adds the version of one peer.
    pub fn add(&mut self, kind: Kind, program: Option<&Path>) {
        let version = match (kind, program) {
            (Kind::Splice, _) => "tokio copy_bidirectional, one thread".to_owned(),
            (Kind::IdlePingora, _) => "pingora 0.9, one thread".to_owned(),
            (Kind::Nginx | Kind::Haproxy, Some(program)) => first_line(program, "-v"),
            (Kind::LlmLens | Kind::Before, Some(program)) => first_line(program, "--version"),
            _ => return,
        };
        self.versions.insert(kind.name(), version);
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "unknown".to_owned();
    };
    // nginx prints its version on stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// Raises the limit of open files to `wanted`, or as far as permitted; returns the new limit.
///
/// # Errors
/// When a permitted limit cannot be set.
pub fn raise_open_files(wanted: u64) -> Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(soft);
    }
    let hard = now.maximum.unwrap_or(u64::MAX);
    let higher = Rlimit { current: Some(wanted), maximum: Some(hard.max(wanted)) };
    if setrlimit(Resource::Nofile, higher).is_ok() {
        return Ok(wanted);
    }
    let allowed = Rlimit { current: Some(hard.min(wanted)), maximum: Some(hard) };
    setrlimit(Resource::Nofile, allowed)?;
    Ok(hard.min(wanted))
}
