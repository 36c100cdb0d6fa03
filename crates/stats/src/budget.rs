//! Error budgets: events and misses of an objective over time.
//!
//! - *In*: whether each event missed, with monotonic time.
//! - *Out*: the share of the budget that is left, and burn rates of several windows.
//! - *Never*: more than [`MINUTES`] minutes and [`MAX_WINDOW`] of hours for each objective. History
//!   begins with the process.

use std::collections::VecDeque;
use std::time::Duration;

use lens::Tick;
use serde::Serialize;

/// Minutes that are kept: windows up to 6 hours are counted by the minute, longer ones by the hour.
const MINUTES: u64 = 360;
/// Longest window of a budget.
pub const MAX_WINDOW: Duration = Duration::from_secs(90 * 24 * 3600);
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

/// Windows of burn rates, as in the alert rules.
pub const BURN_WINDOWS: [(&str, Duration); 5] = [
    ("5m", Duration::from_secs(300)),
    ("30m", Duration::from_secs(1800)),
    ("1h", Duration::from_secs(3600)),
    ("6h", Duration::from_secs(6 * 3600)),
    ("3d", Duration::from_secs(3 * 24 * 3600)),
];

/// Events and misses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Misses {
    /// Requests that count for the objective.
    pub events: u64,
    /// Those that missed it.
    pub misses: u64,
}

impl Misses {
    fn add(&mut self, other: Misses) {
        self.events += other.events;
        self.misses += other.misses;
    }

    /// The share of misses divided by the share that `target` allows: 1 uses up exactly what is
    /// allowed. `None` without events.
    pub fn burn_rate(&self, target: f64) -> Option<f64> {
        (self.events > 0).then(|| self.misses as f64 / self.events as f64 / (1.0 - target))
    }
}

/// The history of one objective.
#[derive(Clone, Debug)]
pub struct History {
    started: Tick,
    /// By number of the minute; minutes without events are left out.
    minutes: VecDeque<(u64, Misses)>,
    /// By number of the hour.
    hours: VecDeque<(u64, Misses)>,
    total: Misses,
}

impl History {
    /// A history that begins at `started`.
    pub fn new(started: Tick) -> Self {
        History {
            started,
            minutes: VecDeque::new(),
            hours: VecDeque::new(),
            total: Misses::default(),
        }
    }

    /// Count an event.
    pub fn count(&mut self, now: Tick, missed: bool) {
        let one = Misses { events: 1, misses: u64::from(missed) };
        let seconds = now.0 / 1_000_000_000;
        add(&mut self.minutes, seconds / MINUTE, one, MINUTES);
        add(&mut self.hours, seconds / HOUR, one, MAX_WINDOW.as_secs() / HOUR);
        self.total.add(one);
    }

    /// Events and misses since the start.
    pub fn total(&self) -> Misses {
        self.total
    }

    /// The time that is counted, at most `window`.
    pub fn covered(&self, window: Duration, now: Tick) -> Duration {
        window.min(Duration::from_nanos(now.nanos_since(self.started)))
    }

    /// Events and misses of the last `window`: up to 6 hours it begins with a whole minute, a
    /// longer one with a whole hour.
    pub fn over(&self, window: Duration, now: Tick) -> Misses {
        let (kept, unit) = match window.as_secs() <= MINUTES * MINUTE {
            true => (&self.minutes, MINUTE),
            false => (&self.hours, HOUR),
        };
        let current = now.0 / 1_000_000_000 / unit;
        let first = current.saturating_sub(window.as_secs().div_ceil(unit));
        let mut sum = Misses::default();
        let wanted = kept.iter().rev().take_while(|(number, _)| *number >= first);
        wanted.for_each(|(_, misses)| sum.add(*misses));
        sum
    }
}

/// Add to the newest interval, or begin one, and drop those that are older than `keep` intervals.
fn add(kept: &mut VecDeque<(u64, Misses)>, number: u64, one: Misses, keep: u64) {
    match kept.back_mut() {
        Some((newest, misses)) if *newest >= number => misses.add(one),
        _ => kept.push_back((number, one)),
    }
    while kept.front().is_some_and(|(oldest, _)| oldest + keep < number) {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    /// Ten events a minute for four days, all of the third day's first hour missed.
    #[test]
    fn windows_hold_what_happened_in_them() {
        let day = 24 * HOUR;
        let mut history = History::new(Tick(0));
        for second in (0..4 * day).step_by(6) {
            history.count(at(second), (3 * day..3 * day + HOUR).contains(&second));
        }
        let now = at(3 * day + HOUR);
        // Seen an hour after the misses began, all windows up to an hour have nothing else. Later
        // events are in the history already, and count for the current minute at most.
        let hour = history.over(Duration::from_secs(HOUR), at(4 * day - 1));
        assert_eq!(hour.misses, 0);
        assert!((600..=610).contains(&hour.events), "{hour:?}");
        let all = history.over(Duration::from_secs(28 * day), at(4 * day - 1));
        assert_eq!(all, Misses { events: 4 * day / 6, misses: 600 });
        assert_eq!(history.total(), all);
        let burn = all.burn_rate(0.99).expect("events");
        assert!((burn - 600.0 / (4.0 * 14_400.0) / 0.01).abs() < 1e-9, "{burn}");
        assert_eq!(history.covered(Duration::from_secs(HOUR), now).as_secs(), HOUR);
        assert_eq!(history.covered(Duration::from_secs(28 * day), now).as_secs(), 3 * day + HOUR);
    }

    #[test]
    fn a_failing_service_burns_at_once_and_recovers_by_the_window() {
        let mut history = History::new(Tick(0));
        (0..600).for_each(|second| history.count(at(second), second >= 300));
        let burn = |window: u64, now: u64| {
            history.over(Duration::from_secs(window), at(now)).burn_rate(0.999)
        };
        assert!(burn(300, 599).is_some_and(|rate| rate > 800.0));
        assert!(burn(3600, 599).is_some_and(|rate| (rate - 500.0).abs() < 1.0));
        assert_eq!(burn(300, 1000), None, "no events in the window");
        assert!(burn(3600, 1000).is_some_and(|rate| (rate - 500.0).abs() < 1.0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut history = History::new(Tick(0));
        for minute in 0..200 * 24 * 60 {
            history.count(at(minute * MINUTE), false);
        }
        assert!(history.minutes.len() as u64 <= MINUTES + 1);
        assert!(history.hours.len() as u64 <= MAX_WINDOW.as_secs() / HOUR + 1);
    }
}
