//! A child process with its log, which never outlives its owner.
//!
//! In: a command.
//! Out: its process id, on request the first line that it prints, and the tail of its log after a
//! failure.
//! Never: ends a process that it did not start. Children get SIGTERM first, so that an nginx master
//! also ends its worker.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

/// A running child.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `folder`, with its output in a log there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let log = folder.join("log");
        let out = File::create(&log).context("log file")?;
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, log })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first whole line that the process has printed.
    ///
    /// # Errors
    /// When it exits, or prints nothing in time.
    pub fn first_line(&mut self) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut line = String::new();
            BufReader::new(File::open(&self.log)?).read_line(&mut line)?;
            if line.ends_with('\n') {
                return Ok(line.trim().to_owned());
            }
            self.check()?;
            if Instant::now() > until {
                bail!("no address printed within {PATIENCE:?}");
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Fails with the log's tail if the process has ended.
    ///
    /// # Errors
    /// When it has.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("ended early ({status}); its log: {}", self.tail());
        }
        Ok(())
    }

    /// The last lines of the log.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn ended_within(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if !self.ended_within(PATIENCE) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
