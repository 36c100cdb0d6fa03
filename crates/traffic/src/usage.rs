//! Usage by owner, key, model and day.
//!
//! - *In*: the usage of each request, its owner, model and time.
//! - *Out*: sums by owner, key and model, by day and month; the same as rows that can be restored;
//!   the usage that a journal does not have yet.
//! - *Never*: more than [`MAX_ROWS`] sums: the oldest day is dropped first; a name chosen by an
//!   unauthenticated client: callers are authenticated, models are declared.

mod journal;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use jiff::civil::Date;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use journal::UsageJournal;

use super::account::day;
use super::prices::TokenUsage;
use super::settings::{DOLLAR, Unit};

/// Maximum number of sums, about 100 MiB.
const MAX_ROWS: usize = 500_000;
/// Maximum age of a sum in days: covers all of this month and the previous one.
const DAYS: i64 = 62;

/// Usage totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Of these, from a cache.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub output_tokens: u64,
    /// Of these, reasoning.
    pub reasoning_tokens: u64,
    /// Pico-dollars.
    pub cost_pico: u64,
}

/// A row of usage: owner, key, model, and day or month.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsageRow {
    /// UTC day (`2026-11-26`) or month (`2026-11`).
    pub time: String,
    /// The owner; empty where owners are summed.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub owner: Arc<str>,
    /// The key, likewise.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub key: Arc<str>,
    /// The model, likewise.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub model: Arc<str>,
}

/// The dimensions to group by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupBy {
    /// Owners.
    pub owner: bool,
    /// Keys.
    pub key: bool,
    /// Models.
    pub model: bool,
    /// Months instead of days.
    pub months: bool,
}

impl GroupBy {
    /// All dimensions, by day.
    pub const EVERYTHING: GroupBy = GroupBy { owner: true, key: true, model: true, months: false };
}

/// Rows that are copied per lock: about 50 microseconds.
const CHUNK: usize = 1000;

type Sum = (Date, Arc<str>, Arc<str>, Arc<str>);

/// The sums.
#[derive(Debug, Default)]
pub struct UsageSums {
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    all: BTreeMap<Sum, Totals>,
    /// Usage since [`UsageSums::take_unsaved`]; `None` without a journal.
    unsaved: Option<BTreeMap<Sum, Totals>>,
}

impl UsageSums {
    /// Sums that a journal saves: [`UsageSums::take_unsaved`] returns what they gain.
    pub fn journaled() -> Self {
        UsageSums { sums: Mutex::new(Sums { unsaved: Some(BTreeMap::new()), ..Sums::default() }) }
    }

    /// Add the usage of a request.
    pub fn add(
        &self,
        (owner, key, model): (&Arc<str>, &Arc<str>, &Arc<str>),
        used: &TokenUsage,
        cost_pico: u64,
        wall_us: u64,
    ) {
        let Some(day) = day(wall_us) else { return };
        let totals = Totals {
            requests: 1,
            input_tokens: used.input,
            cached_tokens: used.cached,
            output_tokens: used.output,
            reasoning_tokens: used.reasoning,
            cost_pico,
        };
        let sum = (day, owner.clone(), key.clone(), model.clone());
        let mut sums = self.sums.lock();
        if let Some(unsaved) = &mut sums.unsaved {
            unsaved.entry(sum.clone()).or_default().add(&totals);
            bound(unsaved, day);
        }
        sums.all.entry(sum).or_default().add(&totals);
        bound(&mut sums.all, day);
    }

    /// The usage added since the last call, by [`UsageSums::add`] only. Empty without a journal.
    pub fn take_unsaved(&self) -> Vec<(UsageRow, Totals)> {
        let unsaved = self.sums.lock().unsaved.as_mut().map(std::mem::take).unwrap_or_default();
        let row = |((day, owner, key, model), totals): (Sum, Totals)| {
            (UsageRow { time: day.to_string(), owner, key, model }, totals)
        };
        unsaved.into_iter().map(row).collect()
    }

    /// Return usage that could not be saved; the next [`UsageSums::take_unsaved`] has it again.
    pub fn return_unsaved(&self, rows: Vec<(UsageRow, Totals)>) {
        if let Some(unsaved) = &mut self.sums.lock().unsaved {
            add_rows(unsaved, rows.into_iter());
        }
    }

    /// Sums from `from` on, grouped.
    pub fn rows(&self, group_by: GroupBy, from: Option<Date>) -> Vec<(UsageRow, Totals)> {
        let unnamed: Arc<str> = "".into();
        let name =
            |wanted: bool, name: &Arc<str>| if wanted { name.clone() } else { unnamed.clone() };
        let mut lines: BTreeMap<UsageRow, Totals> = BTreeMap::new();
        for ((day, owner, key, model), totals) in self.snapshot(from) {
            let time = if group_by.months {
                format!("{:04}-{:02}", day.year(), day.month())
            } else {
                day.to_string()
            };
            let line = UsageRow {
                time,
                owner: name(group_by.owner, &owner),
                key: name(group_by.key, &key),
                model: name(group_by.model, &model),
            };
            lines.entry(line).or_default().add(&totals);
        }
        lines.into_iter().collect()
    }

    /// A copy of the sums of days from `from` on. Requests wait for the lock, so it is held for
    /// [`CHUNK`] rows at a time.
    fn snapshot(&self, from: Option<Date>) -> Vec<(Sum, Totals)> {
        let mut rows: Vec<(Sum, Totals)> = Vec::new();
        loop {
            let sums = self.sums.lock();
            let behind = rows.last().map_or(Bound::Unbounded, |(last, _)| Bound::Excluded(last));
            let chunk: Vec<_> = sums
                .all
                .range((behind, Bound::Unbounded))
                .take(CHUNK)
                .map(|(sum, totals)| (sum.clone(), *totals))
                .collect();
            drop(sums);
            if chunk.is_empty() {
                rows.retain(|((day, ..), _)| from.is_none_or(|from| *day >= from));
                return rows;
            }
            rows.extend(chunk);
        }
    }

    /// Restore saved sums. Returns the number of invalid lines, which are skipped.
    pub fn restore(&self, lines: impl Iterator<Item = (UsageRow, Totals)>) -> usize {
        add_rows(&mut self.sums.lock().all, lines)
    }
}

impl Totals {
    fn add(&mut self, more: &Totals) {
        let sum = |into: &mut u64, more: u64| *into = into.saturating_add(more);
        sum(&mut self.requests, more.requests);
        sum(&mut self.input_tokens, more.input_tokens);
        sum(&mut self.cached_tokens, more.cached_tokens);
        sum(&mut self.output_tokens, more.output_tokens);
        sum(&mut self.reasoning_tokens, more.reasoning_tokens);
        sum(&mut self.cost_pico, more.cost_pico);
    }

    /// Usage in a limit's unit; zero for streams, which do not survive a restart.
    pub(super) fn in_units(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::InputTokens => self.input_tokens,
            Unit::OutputTokens => self.output_tokens,
            Unit::TotalTokens => self.input_tokens.saturating_add(self.output_tokens),
            Unit::Cost => self.cost_pico,
            Unit::Streams => 0,
        }
    }

    /// Cost in dollars.
    pub fn cost(&self) -> f64 {
        self.cost_pico as f64 / DOLLAR as f64
    }
}

/// Add rows; returns the number of rows without a valid day, which are skipped.
fn add_rows(
    sums: &mut BTreeMap<Sum, Totals>,
    rows: impl Iterator<Item = (UsageRow, Totals)>,
) -> usize {
    let mut skipped = 0;
    for (row, totals) in rows {
        match row.time.parse::<Date>() {
            Ok(day) => sums.entry((day, row.owner, row.key, row.model)).or_default().add(&totals),
            Err(_) => skipped += 1,
        }
    }
    skipped
}

/// Drop days that are too old, and the oldest sums if there are too many.
fn bound(sums: &mut BTreeMap<Sum, Totals>, today: Date) {
    while let Some(((first, ..), _)) = sums.first_key_value() {
        let old = (today - *first).get_days() as i64 > DAYS;
        if !old && sums.len() <= MAX_ROWS {
            return;
        }
        sums.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn us(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_microsecond() as u64
    }

    #[test]
    fn a_snapshot_has_every_row_once() {
        let sums = UsageSums::default();
        for key in 0..2 * CHUNK + 7 {
            let names: [Arc<str>; 3] = ["o".into(), format!("k{key}").into(), "m".into()];
            sums.add(
                (&names[0], &names[1], &names[2]),
                &TokenUsage::default(),
                0,
                us("2026-02-01T10:00:00Z"),
            );
        }
        assert_eq!(sums.rows(GroupBy::EVERYTHING, None).len(), 2 * CHUNK + 7);
        assert_eq!(sums.rows(GroupBy::default(), None)[0].1.requests as usize, 2 * CHUNK + 7);
    }

    #[test]
    fn unsaved_usage_is_what_was_added_and_not_what_was_restored() {
        let names: [Arc<str>; 3] = ["o".into(), "k".into(), "m".into()];
        let add = |sums: &UsageSums| {
            let used = TokenUsage { output: 5, ..TokenUsage::default() };
            sums.add((&names[0], &names[1], &names[2]), &used, 0, us("2026-02-01T10:00:00Z"));
        };
        let without = UsageSums::default();
        add(&without);
        assert_eq!(without.take_unsaved(), []);
        let sums = UsageSums::journaled();
        sums.restore(without.rows(GroupBy::EVERYTHING, None).into_iter());
        assert_eq!(sums.take_unsaved(), []);
        add(&sums);
        let taken = sums.take_unsaved();
        assert_eq!(taken, without.rows(GroupBy::EVERYTHING, None));
        assert_eq!(sums.take_unsaved(), []);
        sums.return_unsaved(taken);
        add(&sums);
        assert_eq!(sums.take_unsaved()[0].1.requests, 2);
        assert_eq!(sums.rows(GroupBy::default(), None)[0].1.requests, 3);
    }

    #[test]
    fn sums_are_grouped_and_restored() {
        let sums = UsageSums::default();
        let name = |text: &str| -> Arc<str> { text.into() };
        let used = TokenUsage { input: 10, output: 5, ..TokenUsage::default() };
        for (owner, key, at) in [
            ("a", "k1", "2026-01-31T10:00:00Z"),
            ("a", "k2", "2026-02-01T10:00:00Z"),
            ("b", "k3", "2026-02-01T11:00:00Z"),
        ] {
            sums.add((&name(owner), &name(key), &name("m")), &used, DOLLAR / 2, us(at));
        }
        let by_owner = sums.rows(GroupBy { owner: true, months: true, ..GroupBy::default() }, None);
        let said: Vec<_> = by_owner
            .iter()
            .map(|(line, totals)| {
                (line.time.as_str(), &*line.owner, totals.requests, totals.cost())
            })
            .collect();
        assert_eq!(
            said,
            [("2026-01", "a", 1, 0.5), ("2026-02", "a", 1, 0.5), ("2026-02", "b", 1, 0.5)]
        );
        assert_eq!(
            sums.rows(GroupBy::default(), Some("2026-02-01".parse().unwrap())),
            [(
                UsageRow {
                    time: "2026-02-01".into(),
                    owner: name(""),
                    key: name(""),
                    model: name("")
                },
                Totals {
                    requests: 2,
                    input_tokens: 20,
                    output_tokens: 10,
                    cost_pico: DOLLAR,
                    ..Totals::default()
                }
            )]
        );
        let everything = GroupBy::EVERYTHING;
        let again = UsageSums::default();
        assert_eq!(again.restore(sums.rows(everything, None).into_iter()), 0);
        assert_eq!(again.rows(everything, None), sums.rows(everything, None));
        // Days that are too old are dropped with the next request.
        again.add((&name("a"), &name("k"), &name("m")), &used, 0, us("2026-06-01T00:00:00Z"));
        assert_eq!(again.rows(everything, None).len(), 1);
    }
}
