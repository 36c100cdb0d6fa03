//! The statistics of a process: series, windows, error budgets.
//!
//! - *In*: batches of finished records, on the thread of the sinks.
//! - *Out*: windows, the last seconds, budgets. They are merged without the lock.
//! - *Never*: a lock that a request waits for; more than [`MAX_SERIES`] series and one more for
//!   each route and operation.
//!
//! A record counts when its batch arrives, some milliseconds after its request has ended. When
//! there are too many series, the place of one without requests in the last 15 minutes is reused;
//! without such a series, requests count under `other`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lens::observe::{Observe, Samples};
use lens::{Record, Tick};

use crate::budget::{BURN_WINDOWS, History};
use crate::labels::Labels;
use crate::objectives::{Objectives, Slo, Verdict};
use crate::report::{BudgetReport, BurnReport};
use crate::windows::{HashMap, SecondCells, Window, WindowCells, Windows};

/// Maximum series with labels of their own.
pub const MAX_SERIES: usize = 512;
/// Maximum series that an owner has for itself: owners may come from tokens, and there may be many.
pub const MAX_OWNER_SERIES: usize = MAX_SERIES / 2;

/// Statistics of the last minutes and since the start.
#[derive(Debug)]
pub struct Statistics(Mutex<State>);

#[derive(Debug)]
struct State {
    models: Arc<HashSet<Arc<str>>>,
    known: HashSet<Labels, foldhash::fast::RandomState>,
    /// Those of `known` that an owner has for itself.
    owned: usize,
    /// Whether a series has no recent requests, as far as is known.
    may_have_idle: bool,
    windows: Windows,
    objectives: HashMap<Arc<str>, Judge>,
}

/// The objectives of a route and their histories.
#[derive(Debug)]
struct Judge {
    objectives: Objectives,
    histories: [Option<History>; Slo::ALL.len()],
}

impl Statistics {
    /// Statistics of a process that began at `started`.
    pub fn new(started: Tick) -> Self {
        Statistics(Mutex::new(State {
            models: Arc::default(),
            known: HashSet::default(),
            owned: 0,
            may_have_idle: false,
            windows: Windows::new(started),
            objectives: HashMap::default(),
        }))
    }

    /// Use the declared models and the objectives of new settings. An objective keeps its history
    /// unless its maximum time has changed.
    pub fn configure<'m>(
        &self,
        models: impl IntoIterator<Item = &'m str>,
        objectives: &[Objectives],
        now: Tick,
    ) {
        let mut state = self.lock();
        state.models = Arc::new(models.into_iter().map(Arc::from).collect());
        let mut before = std::mem::take(&mut state.objectives);
        state.objectives = objectives
            .iter()
            .map(|new| (new.route.clone(), Judge::new(new, before.remove(&new.route), now)))
            .collect();
    }

    /// Count records.
    pub fn add(&self, now: Tick, records: &[Arc<Record>]) {
        let mut state = self.lock();
        state.advance(now);
        records.iter().for_each(|record| state.count(now, record));
    }

    /// The cells of a window.
    pub fn window(&self, window: Window, now: Tick) -> WindowCells {
        let parts = {
            let mut state = self.lock();
            state.advance(now);
            state.windows.parts(window, now)
        };
        parts.merge()
    }

    /// The number of the second that is being counted.
    pub fn open_second(&self, now: Tick) -> u64 {
        let mut state = self.lock();
        state.advance(now);
        state.windows.open_second()
    }

    /// The cells of the closed seconds from the number `first` on, as far as they are kept.
    pub fn seconds_from(&self, first: u64, now: Tick) -> Vec<(u64, Arc<SecondCells>)> {
        let mut state = self.lock();
        state.advance(now);
        state.windows.seconds_from(first)
    }

    /// The declared models.
    pub fn models(&self) -> Arc<HashSet<Arc<str>>> {
        self.lock().models.clone()
    }

    /// The budgets of all objectives, by route.
    pub fn budgets(&self, now: Tick) -> Vec<BudgetReport> {
        let state = self.lock();
        let mut reports: Vec<_> =
            state.objectives.values().flat_map(|judge| judge.reports(now)).collect();
        reports.sort_by(|one, other| (&one.route, one.slo).cmp(&(&other.route, other.slo)));
        reports
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, now: Tick) {
        self.may_have_idle |= self.windows.advance(now);
    }

    fn count(&mut self, now: Tick, record: &Record) {
        let verdict = self.judge(now, record);
        let labels = Labels::of_record(record, &self.models);
        let labels = self.admit(labels);
        self.windows.cell(labels, record.outcome).observe(record, &verdict);
    }

    fn judge(&mut self, now: Tick, record: &Record) -> Verdict {
        let Some(judge) = self.objectives.get_mut(&record.route) else {
            return Verdict::default();
        };
        let verdict = judge.objectives.judge(record);
        for (slo, history) in Slo::ALL.into_iter().zip(&mut judge.histories) {
            if let (Some(missed), Some(history)) = (verdict.misses(slo), history) {
                history.count(now, missed);
            }
        }
        verdict
    }

    /// The labels under which a request counts.
    fn admit(&mut self, labels: Labels) -> Labels {
        if self.known.contains(&labels) {
            return labels;
        }
        if self.has_place(&labels) || (self.forget_idle() && self.has_place(&labels)) {
            self.owned += usize::from(labels.has_owner());
            self.known.insert(labels.clone());
            return labels;
        }
        match labels.has_owner() {
            true => self.admit(labels.without_owner()),
            false => labels.folded(),
        }
    }

    fn has_place(&self, labels: &Labels) -> bool {
        self.known.len() < MAX_SERIES && (!labels.has_owner() || self.owned < MAX_OWNER_SERIES)
    }

    /// Count the totals of idle series under `other`; returns whether there was one. It looks at
    /// most once a minute.
    fn forget_idle(&mut self) -> bool {
        if !std::mem::take(&mut self.may_have_idle) {
            return false;
        }
        let windows = &self.windows;
        let idle: Vec<Labels> =
            self.known.iter().filter(|labels| !windows.has_recent(labels)).cloned().collect();
        for labels in &idle {
            self.known.remove(labels);
            self.owned -= usize::from(labels.has_owner());
            self.windows.fold(labels, labels.folded());
        }
        !idle.is_empty()
    }
}

impl Judge {
    fn new(objectives: &Objectives, before: Option<Judge>, now: Tick) -> Self {
        let mut before = before;
        let histories = Slo::ALL.map(|slo| {
            objectives.target(slo)?;
            let kept = before.as_mut().and_then(|before| {
                let is_same = before.objectives.max(slo) == objectives.max(slo);
                before.histories[slo as usize].take().filter(|_| is_same)
            });
            Some(kept.unwrap_or_else(|| History::new(now)))
        });
        Judge { objectives: objectives.clone(), histories }
    }

    fn reports(&self, now: Tick) -> impl Iterator<Item = BudgetReport> {
        Slo::ALL.into_iter().zip(&self.histories).filter_map(move |(slo, history)| {
            let (objectives, history) = (&self.objectives, history.as_ref()?);
            let target = objectives.target(slo)?;
            let over = history.over(objectives.window, now);
            let rates = BURN_WINDOWS.map(|(window, length)| BurnReport {
                window,
                burn_rate: history.over(length, now).burn_rate(target),
                counts: history.over(length, now),
                covered_s: history.covered(length, now).as_secs_f64(),
            });
            Some(BudgetReport {
                route: objectives.route.clone(),
                slo,
                target,
                max_s: objectives.max(slo).map(|max| max.as_secs_f64()),
                window_s: objectives.window.as_secs_f64(),
                covered_s: history.covered(objectives.window, now).as_secs_f64(),
                counts: over,
                burn_rate: over.burn_rate(target),
                burn_rates: rates,
                total: history.total(),
            })
        })
    }
}

impl Observe for Statistics {
    fn observe(&self, now: Tick, samples: &mut Samples) {
        for report in self.budgets(now) {
            let labels = [("route", &*report.route), ("slo", report.slo.name())];
            samples.with_labels(&labels, |samples| report.observe(samples));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cell::Cell;
    use crate::objectives::Threshold;
    use crate::tests::record;

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    fn owned(route: &str, owner: &str) -> Arc<Record> {
        Arc::new(Record { owner: Some(owner.into()), ..record(route, "ok") })
    }

    fn requests(cells: &WindowCells, owner: &str) -> u64 {
        let wanted = cells.series.iter().filter(|(labels, _)| &*labels.owner == owner);
        wanted.map(|(_, cell)| cell.requests()).sum()
    }

    #[test]
    fn many_owners_share_a_series_and_nothing_is_lost() {
        let statistics = Statistics::new(Tick(0));
        let owners = MAX_OWNER_SERIES as u64 + 50;
        for number in 0..owners {
            statistics.add(at(1), &[owned("r", &format!("owner-{number}"))]);
        }
        let cells = statistics.window(Window::OneMinute, at(2));
        assert_eq!(cells.series.values().map(Cell::requests).sum::<u64>(), owners);
        assert_eq!(requests(&cells, "other"), 50);
        // A series without owners still has a place.
        statistics.add(at(3), &[Arc::new(record("r2", "ok"))]);
        assert_eq!(requests(&statistics.window(Window::OneMinute, at(4)), ""), 1);
    }

    #[test]
    fn idle_series_make_room_and_their_totals_are_kept() {
        let statistics = Statistics::new(Tick(0));
        for number in 0..2 * MAX_SERIES {
            statistics.add(at(1), &[Arc::new(record(&format!("r{number}"), "ok"))]);
        }
        let cells = statistics.window(Window::Start, at(2));
        let folded = cells.series.keys().filter(|labels| &*labels.backend == "other").count();
        assert_eq!(folded, MAX_SERIES, "the rest, one for each route");
        statistics.add(at(3000), &[Arc::new(record("late", "ok"))]);
        let cells = statistics.window(Window::Start, at(3001));
        assert_eq!(
            cells.series.values().map(Cell::requests).sum::<u64>(),
            2 * MAX_SERIES as u64 + 1
        );
        let late = cells.series.keys().find(|labels| &*labels.route == "late").expect("counted");
        assert_eq!(&*late.backend, "", "it has a place of its own");
    }

    #[test]
    fn models_of_clients_become_other() {
        let statistics = Statistics::new(Tick(0));
        statistics.configure(["known"], &[], Tick(0));
        for model in ["known", "made-up"] {
            let record = Record { model_requested: Some(model.into()), ..record("r", "ok") };
            statistics.add(at(1), &[Arc::new(record)]);
        }
        let cells = statistics.window(Window::OneMinute, at(1));
        let models: Vec<&str> = cells.series.keys().map(|labels| &*labels.model).collect();
        assert_eq!(models, ["known", "other"]);
    }

    #[test]
    fn a_reload_keeps_the_history_of_an_unchanged_objective() {
        let objectives = |ttft: u64, percentile| Objectives {
            route: "r".into(),
            ttft: Some(Threshold { percentile, max: Duration::from_millis(ttft) }),
            tpot: None,
            availability: Some(99.0),
            window: Duration::from_secs(3600),
        };
        let statistics = Statistics::new(Tick(0));
        statistics.configure([], &[objectives(1, 95)], Tick(0));
        statistics.add(at(10), &[Arc::new(record("r", "ok")), Arc::new(record("other", "ok"))]);
        let events = |now| statistics.budgets(now).iter().map(|b| b.counts.events).collect();
        let all: Vec<u64> = events(at(20));
        assert_eq!(all, [1, 1]);
        statistics.configure([], &[objectives(1, 99)], at(30));
        let all: Vec<u64> = events(at(40));
        assert_eq!(all, [1, 1], "another percentile of the same time");
        statistics.configure([], &[objectives(2, 99)], at(50));
        let all: Vec<u64> = events(at(60));
        assert_eq!(all, [1, 0], "the old misses are of another time");
        statistics.configure([], &[], at(70));
        assert!(statistics.budgets(at(80)).is_empty());
    }
}
