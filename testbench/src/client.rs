//! The client's own error: what the load generator adds to the times that it measures.
//!
//! - *In*: the lateness of a timer on the threads that send and read, the scheduler's account of
//!   these threads, and the samples of the run.
//! - *Out*: a [`ClientBudget`]: windows of a second with their figures, and the limits that each
//!   window broke. A window that broke a limit is invalid: its times may be the client's.
//! - *Never*: a corrected time. An error that is known is shown beside the time.

mod monitor;
mod threads;

use std::time::{Duration, Instant};

use serde::Serialize;

pub(crate) use monitor::Monitor;

use crate::measure::Sample;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(1);
/// Default of [`Limits::error`]: twice the gap between two ticks of tokio's timer, and a pause of
/// the scheduler.
const DEFAULT_ERROR: Duration = Duration::from_millis(10);
/// Maximum share of a window in which one thread runs. Above it, requests and events wait for it.
const MAX_CPU: f64 = 0.9;
/// Maximum share of a window in which one thread is ready and does not run.
const MAX_RUN_QUEUE: f64 = 0.2;

/// What a window may not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// 99th percentile of the schedule slip, and of the lateness of a timer. Default 10 ms.
    pub error: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { error: DEFAULT_ERROR }
    }
}

impl Limits {
    fn json(self) -> serde_json::Value {
        serde_json::json!({
            "error_us": micros(self.error), "cpu_share": MAX_CPU, "run_queue_share": MAX_RUN_QUEUE,
        })
    }
}

/// A window of a run. Times are microseconds from its start; absent means unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Window {
    /// Its start.
    pub start_us: u64,
    /// Its end.
    pub end_us: u64,
    /// Requests that were due in it.
    pub requests: u64,
    /// 99th percentile of the time from when a request was due to when its task began to send. The
    /// maximum, if there are fewer than 100 requests.
    pub slip_p99_us: Option<u64>,
    /// 99th percentile of the lateness of a timer on the threads that send and read. An event that
    /// arrives waits as long until it gets its time.
    pub timer_p99_us: Option<u64>,
    /// Share of the window in which the busiest thread ran.
    pub cpu_share: Option<f64>,
    /// CPU of all threads, in cores.
    pub cpu_cores: Option<f64>,
    /// Share of the window in which the thread that waited longest was ready and did not run.
    pub run_queue_share: Option<f64>,
    /// Events with text of requests due in the window that were read together with an earlier one.
    /// Either the server sent them together, or they waited in the socket.
    pub coalesced_events: u64,
    /// The limits that it broke: `slip`, `timer`, `cpu`, `run_queue`. Empty if it is valid.
    pub broken: Vec<&'static str>,
}

impl Window {
    /// Whether no limit was broken.
    pub fn is_valid(&self) -> bool {
        self.broken.is_empty()
    }

    fn judge(&mut self, limits: Limits) {
        let over = |value: Option<u64>| value.is_some_and(|us| us > micros(limits.error));
        let above = |value: Option<f64>, max: f64| value.is_some_and(|share| share > max);
        let checks = [
            ("slip", over(self.slip_p99_us)),
            ("timer", over(self.timer_p99_us)),
            ("cpu", above(self.cpu_share, MAX_CPU)),
            ("run_queue", above(self.run_queue_share, MAX_RUN_QUEUE)),
        ];
        self.broken = checks.into_iter().filter(|(_, broken)| *broken).map(|(n, _)| n).collect();
    }
}

/// The client's error of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientBudget {
    /// Smallest step of the clock, in nanoseconds.
    pub clock_resolution_ns: u64,
    /// Median lateness of a timer before the load, in microseconds.
    pub idle_timer_us: u64,
    /// What windows may not exceed.
    pub limits: Limits,
    /// The windows, in order.
    pub windows: Vec<Window>,
}

impl ClientBudget {
    /// Adds what the samples show, and judges each window.
    pub(crate) fn complete(mut self, samples: &[Sample]) -> Self {
        let mut slips: Vec<Vec<u64>> = vec![Vec::new(); self.windows.len()];
        for sample in samples {
            let after = self.windows.partition_point(|window| window.start_us <= sample.due_us);
            let Some(at) = after.checked_sub(1) else { continue };
            slips[at].push(sample.slip_us);
            self.windows[at].coalesced_events += sample.coalesced_events;
        }
        for (window, mut slips) in self.windows.iter_mut().zip(slips) {
            window.requests = slips.len() as u64;
            window.slip_p99_us = p99(&mut slips);
            window.judge(self.limits);
        }
        self
    }

    /// Adds the windows of a run that follows after `shift_us`.
    pub(crate) fn append(&mut self, other: ClientBudget, shift_us: u64) {
        let shifted = |window: Window| Window {
            start_us: window.start_us + shift_us,
            end_us: window.end_us + shift_us,
            ..window
        };
        self.windows.extend(other.windows.into_iter().map(shifted));
        self.clock_resolution_ns = self.clock_resolution_ns.max(other.clock_resolution_ns);
        self.idle_timer_us = self.idle_timer_us.max(other.idle_timer_us);
        self.limits = other.limits;
    }

    /// The windows that broke a limit.
    pub fn invalid(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| !window.is_valid())
    }

    /// The budget as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "clock_resolution_ns": self.clock_resolution_ns,
            "idle_timer_us": self.idle_timer_us,
            "limits": self.limits.json(),
            "invalid_windows": self.invalid().count(),
            "windows": self.windows,
        })
    }

    /// The budget as lines of a table: the worst of each figure, and the invalid windows.
    pub fn text(&self) -> String {
        let ms = |us: Option<u64>| {
            us.map_or_else(|| "-".into(), |us| format!("{:.1} ms", us as f64 / 1e3))
        };
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0))
        };
        let windows = &self.windows;
        let worst = |get: fn(&Window) -> Option<u64>| windows.iter().filter_map(get).max();
        let most =
            |get: fn(&Window) -> Option<f64>| windows.iter().filter_map(get).max_by(f64::total_cmp);
        let mut out = format!(
            "client: worst second: slip p99 {}, timer p99 {}, busiest thread {}, run queue {}; idle timer {:.1} ms late, clock step {} ns\n",
            ms(worst(|w| w.slip_p99_us)),
            ms(worst(|w| w.timer_p99_us)),
            percent(most(|w| w.cpu_share)),
            percent(most(|w| w.run_queue_share)),
            self.idle_timer_us as f64 / 1e3,
            self.clock_resolution_ns,
        );
        let invalid: Vec<&Window> = self.invalid().collect();
        if !invalid.is_empty() {
            let shown: Vec<String> = invalid
                .iter()
                .take(MAX_SHOWN)
                .map(|w| format!("{:.0} s ({})", w.start_us as f64 / 1e6, w.broken.join(", ")))
                .collect();
            let rest = if invalid.len() > MAX_SHOWN { ", ..." } else { "" };
            out.push_str(&format!(
                "invalid: {} of {} windows, because this machine was too busy to measure: {}{rest}\n",
                invalid.len(),
                windows.len(),
                shown.join(", ")
            ));
        }
        out
    }
}

/// Maximum invalid windows that the table names.
const MAX_SHOWN: usize = 8;

/// The 99th percentile; the maximum of fewer than 100 values.
fn p99(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    let rank = (values.len() as f64 * 0.99).ceil() as usize;
    values.get(rank.checked_sub(1)?).copied()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The smallest step between two readings of the clock that differ, of a few thousand.
fn clock_resolution() -> Duration {
    let steps = (0..2_000).filter_map(|_| {
        let first = Instant::now();
        // Bounded, for a clock that stands still.
        (0..1_000).map(|_| first.elapsed()).find(|step| !step.is_zero())
    });
    steps.min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(second: u64) -> Window {
        Window {
            start_us: second * 1_000_000,
            end_us: (second + 1) * 1_000_000,
            ..Window::default()
        }
    }

    #[test]
    fn a_window_that_breaks_a_limit_is_invalid_and_named() {
        let limits = Limits::default();
        type Change = fn(&mut Window);
        let cases: [(Change, &[&str]); 6] = [
            (|_| {}, &[]),
            (|w| w.slip_p99_us = Some(10_001), &["slip"]),
            (|w| w.timer_p99_us = Some(10_001), &["timer"]),
            (|w| w.cpu_share = Some(0.95), &["cpu"]),
            (|w| w.run_queue_share = Some(0.25), &["run_queue"]),
            (|w| (w.slip_p99_us, w.cpu_share) = (Some(50_000), Some(1.0)), &["slip", "cpu"]),
        ];
        for (set, broken) in cases {
            let mut window = window(0);
            (window.slip_p99_us, window.timer_p99_us) = (Some(10_000), Some(10_000));
            (window.cpu_share, window.run_queue_share) = (Some(0.9), Some(0.2));
            set(&mut window);
            window.judge(limits);
            assert_eq!(window.broken, broken);
        }
    }

    #[test]
    fn samples_count_in_the_window_in_which_they_were_due() {
        let sample = |due_us, slip_us| Sample { due_us, slip_us, ..crate::measure::example() };
        let budget =
            ClientBudget { windows: vec![window(0), window(1)], ..ClientBudget::default() };
        let samples = [sample(0, 100), sample(999_999, 300), sample(1_000_000, 20_000)];
        let budget = budget.complete(&samples);
        let got: Vec<_> = budget.windows.iter().map(|w| (w.requests, w.slip_p99_us)).collect();
        assert_eq!(got, [(2, Some(300)), (1, Some(20_000))]);
        assert_eq!(budget.invalid().map(|w| w.start_us).collect::<Vec<_>>(), [1_000_000]);
        assert!(budget.text().contains("invalid: 1 of 2 windows"), "{}", budget.text());
        assert!(budget.text().contains("1 s (slip)"), "{}", budget.text());
        assert_eq!(budget.json()["windows"][1]["broken"][0], "slip");
    }

    #[test]
    fn the_clock_has_a_resolution() {
        let step = clock_resolution();
        assert!(!step.is_zero() && step < Duration::from_millis(1), "{step:?}");
        assert_eq!(p99(&mut [3, 1, 2]), Some(3));
        assert_eq!(p99(&mut (1..=1000).collect::<Vec<_>>()), Some(990));
        assert_eq!(p99(&mut []), None);
    }
}
