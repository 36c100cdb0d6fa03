//! The progress line of a run.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::Outcome;
use crate::schedule::Stop;

/// Minimum interval between updates.
const EVERY: Duration = Duration::from_millis(200);

/// The progress line. It is not shown if standard error is not a terminal.
pub(super) struct Progress {
    stop: Stop,
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    pub(super) fn new(wanted: bool, stop: Stop) -> Self {
        Progress { stop, shown: None, on: wanted && std::io::stderr().is_terminal() }
    }

    pub(super) fn show(&mut self, outcome: &Outcome, start: Instant) {
        if !self.on || self.shown.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let done = outcome.samples.len();
        let share = match self.stop {
            Stop::Requests(n) => done as f64 / n.max(1) as f64,
            Stop::After(time) => start.elapsed().as_secs_f64() / time.as_secs_f64().max(1e-9),
        };
        const WIDTH: usize = 30;
        let filled = ((share * WIDTH as f64) as usize).min(WIDTH);
        let failed = outcome.samples.iter().filter(|s| !s.is_ok()).count();
        let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-9);
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(WIDTH - filled));
        let _ =
            write!(std::io::stderr(), "\r[{bar}] {done} requests, {failed} failed, {rate:.1}/s ");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r{:70}\r", "");
        }
    }
}
