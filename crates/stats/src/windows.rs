//! Counts of the last minutes and since the start.
//!
//! - *In*: observations with their time, which never runs backwards: it is monotonic, so a step of
//!   the wall clock moves nothing.
//! - *Out*: the cells of a window, merged; the last seconds one by one.
//! - *Never*: more than [`SECONDS`] closed seconds, [`TENS`] closed intervals of ten seconds and
//!   [`MINUTES`] closed minutes, however long nothing is asked or counted.
//!
//! A request is counted once, in the open second. A closed second is merged into the open ten
//! seconds, these into the open minute and into the total. Closed intervals do not change, so they
//! are kept encoded: some hundred bytes for each series.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lens::Tick;
use lens::record::Outcome;

use crate::cell::Cell;
use crate::labels::Labels;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// Closed seconds that are kept.
pub const SECONDS: u64 = 10;
/// Closed intervals of ten seconds that are kept.
pub const TENS: u64 = 6;
/// Closed minutes that are kept.
pub const MINUTES: u64 = 15;

/// A window of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last minute.
    OneMinute,
    /// The last five minutes.
    FiveMinutes,
    /// The last fifteen minutes.
    FifteenMinutes,
    /// Since the start of the process.
    Start,
}

impl Window {
    /// All windows.
    pub const ALL: [Window; 4] =
        [Window::OneMinute, Window::FiveMinutes, Window::FifteenMinutes, Window::Start];

    /// The name in queries and answers.
    pub fn name(self) -> &'static str {
        match self {
            Window::OneMinute => "1m",
            Window::FiveMinutes => "5m",
            Window::FifteenMinutes => "15m",
            Window::Start => "start",
        }
    }

    /// The window with this name.
    ///
    /// # Errors
    /// The known names.
    pub fn from_name(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|window| window.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Window::name).join(", ");
            format!("must be one of {known}, not {name:?}")
        })
    }
}

/// A map of few keys that is looked up several times for each record.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// The cells of one second, by series and outcome.
pub type SecondCells = HashMap<(Labels, Outcome), Cell>;
/// The cells of an open interval.
type OpenCells = HashMap<Labels, Cell>;
/// The encoded cells of a closed interval.
type ClosedCells = HashMap<Labels, Box<[u8]>>;

/// An interval and its number: the time of its start divided by its length.
#[derive(Debug, Default)]
struct Interval<T> {
    number: u64,
    cells: Arc<T>,
}

/// The cells of a window.
#[derive(Clone, Debug, Default)]
pub struct WindowCells {
    /// The time that the window covers, in seconds: from its start, or that of the process, to now.
    pub seconds: f64,
    /// Merged cells by series.
    pub series: BTreeMap<Labels, Cell>,
}

/// What a window consists of, to be merged without the lock.
#[derive(Debug)]
pub(crate) struct Parts {
    seconds: f64,
    second: Arc<SecondCells>,
    open: Vec<Arc<OpenCells>>,
    closed: Vec<Arc<ClosedCells>>,
}

/// The open and closed intervals.
#[derive(Debug)]
pub(crate) struct Windows {
    started: Tick,
    second: Interval<SecondCells>,
    ten: Interval<OpenCells>,
    minute: Interval<OpenCells>,
    total: Arc<OpenCells>,
    seconds: VecDeque<Interval<SecondCells>>,
    tens: VecDeque<Interval<ClosedCells>>,
    minutes: VecDeque<Interval<ClosedCells>>,
}

impl Windows {
    pub(crate) fn new(started: Tick) -> Self {
        let second = started.0 / SECOND;
        Windows {
            started,
            second: Interval { number: second, ..Interval::default() },
            ten: Interval { number: second / 10, ..Interval::default() },
            minute: Interval { number: second / 60, ..Interval::default() },
            total: Arc::default(),
            seconds: VecDeque::new(),
            tens: VecDeque::new(),
            minutes: VecDeque::new(),
        }
    }

    /// Close the intervals that have ended. Returns whether a minute was closed.
    pub(crate) fn advance(&mut self, now: Tick) -> bool {
        let now = now.0 / SECOND;
        if now <= self.second.number {
            return false;
        }
        self.close_second(now);
        if now / 10 > self.ten.number {
            self.close_ten(now / 10);
        }
        if now / 60 <= self.minute.number {
            return false;
        }
        let closed = close(&mut self.minute, now / 60);
        keep(&mut self.minutes, closed, now / 60, MINUTES);
        true
    }

    fn close_second(&mut self, now: u64) {
        let next = Interval { number: now, cells: Arc::default() };
        let closed = std::mem::replace(&mut self.second, next);
        let ten = Arc::make_mut(&mut self.ten.cells);
        for ((labels, _), cell) in &*closed.cells {
            entry(ten, labels).merge(cell);
        }
        self.seconds.push_back(closed);
        while self.seconds.front().is_some_and(|second| second.number + SECONDS < now) {
            self.seconds.pop_front();
        }
    }

    fn close_ten(&mut self, now: u64) {
        let (minute, total) =
            (Arc::make_mut(&mut self.minute.cells), Arc::make_mut(&mut self.total));
        for (labels, cell) in &*self.ten.cells {
            entry(minute, labels).merge(cell);
            entry(total, labels).merge(cell);
        }
        let closed = close(&mut self.ten, now);
        keep(&mut self.tens, closed, now, TENS);
    }

    /// The cell that counts a request now.
    pub(crate) fn cell(&mut self, labels: Labels, outcome: Outcome) -> &mut Cell {
        Arc::make_mut(&mut self.second.cells).entry((labels, outcome)).or_default()
    }

    /// The parts of a window. [`Windows::advance`] was called with `now`.
    pub(crate) fn parts(&self, window: Window, now: Tick) -> Parts {
        let mut open = vec![self.ten.cells.clone()];
        let mut closed = Vec::new();
        let started = self.started.0;
        let (first, length) = match window {
            Window::OneMinute => {
                closed.extend(self.tens.iter().map(|ten| ten.cells.clone()));
                (self.ten.number.saturating_sub(TENS), 10)
            }
            Window::FiveMinutes | Window::FifteenMinutes => {
                let minutes = if window == Window::FiveMinutes { 5 } else { MINUTES };
                let first = self.minute.number.saturating_sub(minutes);
                let all = self.minutes.iter().filter(|minute| minute.number >= first);
                closed.extend(all.map(|minute| minute.cells.clone()));
                open.push(self.minute.cells.clone());
                (first, 60)
            }
            Window::Start => {
                open.push(self.total.clone());
                (0, 1)
            }
        };
        let from = started.max(first * length * SECOND);
        let seconds = now.0.saturating_sub(from) as f64 / SECOND as f64;
        Parts { seconds, second: self.second.cells.clone(), open, closed }
    }

    /// The closed seconds from the number `first` on, as far as they are kept.
    pub(crate) fn seconds_from(&self, first: u64) -> Vec<(u64, Arc<SecondCells>)> {
        // Seconds in which nothing was counted were not closed one by one.
        let first = first.max(self.second.number.saturating_sub(SECONDS));
        let cells = |number| {
            let known = self.seconds.iter().find(|second| second.number == number);
            known.map(|second| second.cells.clone()).unwrap_or_default()
        };
        (first..self.second.number).map(|number| (number, cells(number))).collect()
    }

    /// The number of the open second.
    pub(crate) fn open_second(&self) -> u64 {
        self.second.number
    }

    /// Whether a series has counts in any interval but the total.
    pub(crate) fn has_recent(&self, labels: &Labels) -> bool {
        self.ten.cells.contains_key(labels)
            || self.minute.cells.contains_key(labels)
            || self.tens.iter().any(|ten| ten.cells.contains_key(labels))
            || self.minutes.iter().any(|minute| minute.cells.contains_key(labels))
            || self.second.cells.keys().any(|(known, _)| known == labels)
    }

    /// Count the total of a series under other labels.
    pub(crate) fn fold(&mut self, labels: &Labels, into: Labels) {
        let total = Arc::make_mut(&mut self.total);
        if let Some(cell) = total.remove(labels) {
            total.entry(into).or_default().merge(&cell);
        }
    }
}

impl Parts {
    /// Merge the parts.
    pub(crate) fn merge(self) -> WindowCells {
        let mut series: BTreeMap<Labels, Cell> = BTreeMap::new();
        for ((labels, _), cell) in &*self.second {
            series.entry(labels.clone()).or_default().merge(cell);
        }
        for (labels, cell) in self.open.iter().flat_map(|cells| &**cells) {
            series.entry(labels.clone()).or_default().merge(cell);
        }
        for (labels, bytes) in self.closed.iter().flat_map(|cells| &**cells) {
            let cell = Cell::decode(&mut &**bytes);
            let cell = cell.expect("invariant: closed intervals are written by Cell::encode");
            series.entry(labels.clone()).or_default().merge(&cell);
        }
        WindowCells { seconds: self.seconds, series }
    }
}

/// The cell of a series; its labels are cloned only if they are new.
fn entry<'c>(cells: &'c mut OpenCells, labels: &Labels) -> &'c mut Cell {
    if !cells.contains_key(labels) {
        cells.insert(labels.clone(), Cell::default());
    }
    cells.get_mut(labels).expect("invariant: it was inserted")
}

/// Replace an open interval by the one with the number `next`; returns it, encoded.
fn close(open: &mut Interval<OpenCells>, next: u64) -> Interval<ClosedCells> {
    let next = Interval { number: next, cells: Arc::default() };
    let ended = std::mem::replace(open, next);
    let encoded = |cell: &Cell| {
        let mut bytes = Vec::new();
        cell.encode(&mut bytes);
        bytes.into_boxed_slice()
    };
    let cells = ended.cells.iter().map(|(labels, cell)| (labels.clone(), encoded(cell))).collect();
    Interval { number: ended.number, cells: Arc::new(cells) }
}

/// Keep a closed interval, and the last `count` before the interval `now`.
fn keep<T>(kept: &mut VecDeque<Interval<T>>, closed: Interval<T>, now: u64, count: u64) {
    kept.push_back(closed);
    while kept.front().is_some_and(|interval| interval.number + count < now) {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::Verdict;
    use crate::tests::record;

    fn at(seconds: f64) -> Tick {
        Tick((seconds * 1e9) as u64)
    }

    fn labels(route: &str) -> Labels {
        Labels { route: route.into(), ..Labels::default() }
    }

    fn count(windows: &mut Windows, now: Tick, route: &str) {
        windows.advance(now);
        let cell = windows.cell(labels(route), Outcome::Ok);
        cell.observe(&record(route, "ok"), &Verdict::default());
    }

    fn requests(windows: &mut Windows, window: Window, now: Tick) -> (u64, f64) {
        windows.advance(now);
        let cells = windows.parts(window, now).merge();
        (cells.series.values().map(Cell::requests).sum(), cells.seconds)
    }

    /// One request a second for twenty minutes: each window has the requests of its time.
    #[test]
    fn windows_count_exactly_what_they_cover() {
        let mut windows = Windows::new(Tick(0));
        for second in 0..1200 {
            let now = at(f64::from(second));
            count(&mut windows, now, "r");
            for (window, most) in [
                (Window::OneMinute, 70.0),
                (Window::FiveMinutes, 360.0),
                (Window::FifteenMinutes, 960.0),
                (Window::Start, 1200.0),
            ] {
                let (requests, covered) = requests(&mut windows, window, now);
                // The request of this second is counted, and the second has not begun to pass.
                assert_eq!(requests as f64, covered + 1.0, "{window:?} at {second}");
                assert!(covered < most, "{window:?} at {second}: {covered}");
            }
        }
        let (_, covered) = requests(&mut windows, Window::FiveMinutes, at(1199.0));
        assert!(covered >= 300.0);
    }

    #[test]
    fn pauses_empty_the_windows_and_not_the_total() {
        let mut windows = Windows::new(at(3.0));
        count(&mut windows, at(3.5), "r");
        for (now, expected) in [(64.0, [1, 1, 1, 1]), (75.0, [0, 1, 1, 1]), (1e6, [0, 0, 0, 1])] {
            let all = Window::ALL.map(|window| requests(&mut windows, window, at(now)).0);
            assert_eq!(all, expected, "{now}");
        }
        assert!(windows.tens.is_empty() && windows.minutes.is_empty());
        // A time that is not later closes nothing, and is counted where the clock was.
        count(&mut windows, at(5.0), "r");
        assert_eq!(requests(&mut windows, Window::OneMinute, at(1e6)).0, 1);
    }

    #[test]
    fn closed_seconds_are_listed_once_and_empty_ones_too() {
        let mut windows = Windows::new(Tick(0));
        count(&mut windows, at(0.5), "r");
        count(&mut windows, at(2.5), "r");
        windows.advance(at(4.0));
        let seconds = windows.seconds_from(0);
        let counts: Vec<(u64, usize)> =
            seconds.iter().map(|(number, cells)| (*number, cells.len())).collect();
        assert_eq!(counts, [(0, 1), (1, 0), (2, 1), (3, 0)]);
        assert!(windows.seconds_from(4).is_empty());
        windows.advance(at(1000.0));
        assert_eq!(windows.seconds_from(4).len() as u64, SECONDS);
    }

    /// Each interval is filled; then the memory stays.
    #[test]
    fn memory_is_bounded_by_series_and_intervals() {
        let mut windows = Windows::new(Tick(0));
        for second in 0..2000 {
            count(&mut windows, at(f64::from(second)), "r");
        }
        assert!(windows.seconds.len() as u64 <= SECONDS);
        assert!(windows.tens.len() as u64 <= TENS);
        assert!(windows.minutes.len() as u64 <= MINUTES);
        let closed = windows.minutes.iter().flat_map(|minute| minute.cells.values());
        let largest = closed.map(|bytes| bytes.len()).max();
        assert!(largest.is_some_and(|bytes| bytes < 200), "{largest:?}");
    }
}
