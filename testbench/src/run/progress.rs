//! Progress of a run on standard error: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::Outcome;
use workload::arrival::Stop;

/// Interval between updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between lines, where standard error is a file or a pipe.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Width of the bar.
const WIDTH: usize = 30;

/// Progress of a run.
pub(super) struct Progress {
    stop: Stop,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(super) fn new(stop: Stop) -> Self {
        Progress { stop, terminal: std::io::stderr().is_terminal(), shown: false }
    }

    /// Interval between calls of [`Progress::show`].
    pub(super) fn interval(&self) -> Duration {
        if self.terminal { BAR_INTERVAL } else { LINE_INTERVAL }
    }

    pub(super) fn show(&mut self, outcome: &Outcome, start: Instant) {
        self.shown = true;
        let _ = std::io::stderr().write_all(self.text(outcome, start.elapsed()).as_bytes());
    }

    fn text(&self, outcome: &Outcome, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let done = outcome.samples.len();
        let failed = outcome.samples.iter().filter(|s| s.is_failed()).count();
        let rate = done as f64 / seconds.max(1e-9);
        if !self.terminal {
            return format!("{seconds:.0} s: {done} requests, {failed} failed, {rate:.1}/s\n");
        }
        let share = match self.stop {
            Stop::Requests(n) => done as f64 / n.max(1) as f64,
            Stop::After(time) => seconds / time.as_secs_f64().max(1e-9),
            // Its end is not known.
            Stop::AtEnd => 0.0,
        };
        let filled = ((share * WIDTH as f64) as usize).min(WIDTH);
        let bar = format!("{}{}", "=".repeat(filled), " ".repeat(WIDTH - filled));
        format!("\r[{bar}] {done} requests, {failed} failed, {rate:.1}/s ")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown {
            let _ = write!(std::io::stderr(), "\r{:70}\r", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_lines_and_terminals_a_bar() {
        let (outcome, elapsed) = (Outcome::default(), Duration::from_secs(20));
        let mut progress =
            Progress { stop: Stop::After(Duration::from_secs(40)), terminal: false, shown: false };
        assert_eq!(progress.text(&outcome, elapsed), "20 s: 0 requests, 0 failed, 0.0/s\n");
        assert_eq!(progress.interval(), LINE_INTERVAL);
        progress.terminal = true;
        let bar = format!("\r[{}{}] 0 requests", "=".repeat(15), " ".repeat(15));
        assert!(progress.text(&outcome, elapsed).starts_with(&bar));
    }
}
