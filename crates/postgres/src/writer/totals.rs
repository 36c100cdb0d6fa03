//! Counts by value and hour, and rollups by minute and hour.
//!
//! - *In*: the new records of a batch.
//! - *Out*: rows of `facets` and `rollups` of the slot, merged with what they had, once per batch.
//! - *Never*: more than [`MAX_ROLLED_UP`] values of a field and window in rollups, for each
//!   gateway: further ones are counted below the negative kind, because models come from clients.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use lens::Record;
use store::{COMBINED, Field, MAX_ROLLED_UP, ROLLED_UP, Rollup, STEPS};
use tokio_postgres::Transaction;

use crate::error::Error;
use crate::partition::{HOUR_US, Window};
use crate::value::{self, clean};

/// The kind of the rollups of all requests.
pub(crate) const ALL_REQUESTS: i16 = 0;
/// The kind of the rollups of combinations.
pub(crate) const COMBINATION: i16 = Field::ALL.len() as i16 + 1;
/// Windows whose values are in memory. Late records need one more than the current one.
const MAX_WINDOWS: usize = 4;
const MINUTE_US: u64 = 60_000_000;

/// The value of a field, or those of a combination; empty texts are absent ones.
type Labels = [String; 3];

/// Values that have rollups, by window.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<(Window, ValuesOfWindow)>);

#[derive(Debug, Default)]
struct ValuesOfWindow {
    known: HashSet<(i16, Labels)>,
    counts: HashMap<i16, usize>,
}

/// A row of `rollups` without its slot.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    /// Position in [`STEPS`].
    step: usize,
    kind: i16,
    /// Start, Unix microseconds.
    at_us: u64,
    labels: Labels,
}

/// Sums of a batch.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By field, value and hour.
    facets: HashMap<(i16, String, u64), i64>,
    rollups: HashMap<Key, Rollup>,
}

impl Values {
    /// Reads the values of a window, whichever gateway has counted them.
    pub(super) async fn load(
        &mut self,
        change: &Transaction<'_>,
        window: Window,
    ) -> Result<(), Error> {
        if self.0.iter().any(|(known, _)| *known == window) {
            return Ok(());
        }
        let query = "SELECT DISTINCT kind, a, b, c FROM llm_lens.rollups
            WHERE step = 3600 AND kind > 0 AND at >= $1 AND at < $2";
        let (from, to) = (value::time(window.start_us()), value::time(window.end_us()));
        let mut values = ValuesOfWindow::default();
        for row in change.query(query, &[&from, &to]).await? {
            let labels = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
            values.add(row.try_get(0)?, &labels);
        }
        if self.0.len() >= MAX_WINDOWS {
            self.0.remove(0);
        }
        self.0.push((window, values));
        Ok(())
    }

    /// The kind of a value's rollups: negative if it has none of its own.
    fn kind(&mut self, window: Window, kind: i16, labels: &Labels) -> i16 {
        let found = self.0.iter_mut().find(|(known, _)| *known == window);
        let has_room = found.is_some_and(|(_, values)| values.add(kind, labels));
        if has_room || kind == ALL_REQUESTS { kind } else { -kind }
    }
}

impl ValuesOfWindow {
    /// Adds a value, unless there are too many. Returns whether it is there.
    fn add(&mut self, kind: i16, labels: &Labels) -> bool {
        // The check without a new text is the usual case.
        let key = (kind, labels.clone());
        if self.known.contains(&key) {
            return true;
        }
        let count = self.counts.entry(kind).or_default();
        if *count >= MAX_ROLLED_UP {
            return false;
        }
        *count += 1;
        self.known.insert(key)
    }
}

impl Totals {
    /// Counts a record of a window that is loaded.
    pub(super) fn add(&mut self, values: &mut Values, window: Window, record: &Record) {
        let at_us = value::started_us(record);
        let text = |field: Field| field.text(record).map(|text| clean(&text).into_owned());
        for field in Field::ALL {
            if let Some(text) = text(field) {
                let key = (i16::from(field.code()), text, at_us / HOUR_US * HOUR_US);
                *self.facets.entry(key).or_default() += 1;
            }
        }
        let combination = COMBINED.map(|field| text(field).unwrap_or_default());
        let mut kinds = vec![(ALL_REQUESTS, Labels::default()), (COMBINATION, combination)];
        kinds.extend(ROLLED_UP.into_iter().filter_map(|field| {
            let labels = [text(field)?, String::new(), String::new()];
            Some((i16::from(field.code()), labels))
        }));
        for (kind, labels) in kinds {
            let kind = values.kind(window, kind, &labels);
            let labels = if kind < 0 { Labels::default() } else { labels };
            let key = Key { step: 0, kind, at_us: at_us / MINUTE_US * MINUTE_US, labels };
            self.rollups.entry(key).or_default().observe(record);
        }
    }

    /// Merges the sums into those of the slot.
    pub(super) async fn store(self, change: &Transaction<'_>, slot: i16) -> Result<(), Error> {
        let Totals { facets, mut rollups } = self;
        if facets.is_empty() {
            return Ok(());
        }
        store_facets(change, slot, facets).await?;
        let mut hours: HashMap<Key, Rollup> = HashMap::new();
        for (key, rollup) in &rollups {
            let at_us = key.at_us / HOUR_US * HOUR_US;
            let hour = Key { step: 1, kind: key.kind, at_us, labels: key.labels.clone() };
            hours.entry(hour).or_default().merge(rollup);
        }
        rollups.extend(hours);
        // In one order for all transactions.
        let mut rollups: Vec<(Key, Rollup)> = rollups.into_iter().collect();
        rollups.sort_by(|(a, _), (b, _)| a.cmp(b));
        store_rollups(change, slot, rollups).await
    }
}

async fn store_facets(
    change: &Transaction<'_>,
    slot: i16,
    facets: HashMap<(i16, String, u64), i64>,
) -> Result<(), Error> {
    let mut facets: Vec<_> = facets.into_iter().collect();
    facets.sort_unstable();
    let fields: Vec<i16> = facets.iter().map(|((field, ..), _)| *field).collect();
    let values: Vec<&str> = facets.iter().map(|((_, value, _), _)| value.as_str()).collect();
    let hours: Vec<SystemTime> = facets.iter().map(|((.., hour), _)| value::time(*hour)).collect();
    let counts: Vec<i64> = facets.iter().map(|(_, count)| *count).collect();
    let add = "INSERT INTO llm_lens.facets (slot, field, value, hour, records)
        SELECT $1, * FROM unnest($2::smallint[], $3::text[], $4::timestamptz[], $5::bigint[])
        ON CONFLICT (field, value, hour, slot)
        DO UPDATE SET records = facets.records + excluded.records";
    change.execute(add, &[&slot, &fields, &values, &hours, &counts]).await?;
    Ok(())
}

async fn store_rollups(
    change: &Transaction<'_>,
    slot: i16,
    mut rollups: Vec<(Key, Rollup)>,
) -> Result<(), Error> {
    let steps: Vec<i32> = rollups.iter().map(|(key, _)| step_seconds(key.step)).collect();
    let kinds: Vec<i16> = rollups.iter().map(|(key, _)| key.kind).collect();
    let times: Vec<SystemTime> = rollups.iter().map(|(key, _)| value::time(key.at_us)).collect();
    let [a, b, c] = [0, 1, 2].map(|at| -> Vec<String> {
        rollups.iter().map(|(key, _)| key.labels[at].clone()).collect()
    });
    let (from, to) = (times.iter().min().copied(), times.iter().max().copied());
    let find = "SELECT k.n, r.rollup
        FROM unnest($2::integer[], $3::smallint[], $4::timestamptz[], $5::text[], $6::text[],
            $7::text[]) WITH ORDINALITY AS k (step, kind, at, a, b, c, n)
        JOIN llm_lens.rollups r USING (step, kind, at, a, b, c)
        WHERE r.slot = $1 AND r.at >= $8 AND r.at <= $9";
    let stored =
        change.query(find, &[&slot, &steps, &kinds, &times, &a, &b, &c, &from, &to]).await?;
    for row in stored {
        let at = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
        let stored = Rollup::decode(row.try_get(1)?).map_err(|_| Error::Damaged("rollup"))?;
        if let Some((_, rollup)) = at.checked_sub(1).and_then(|at| rollups.get_mut(at)) {
            rollup.merge(&stored);
        }
    }
    let encoded: Vec<Vec<u8>> = rollups.iter().map(|(_, rollup)| rollup.encode()).collect();
    let put = "INSERT INTO llm_lens.rollups (slot, step, kind, at, a, b, c, rollup)
        SELECT $1, * FROM unnest($2::integer[], $3::smallint[], $4::timestamptz[], $5::text[],
            $6::text[], $7::text[], $8::bytea[])
        ON CONFLICT (step, kind, a, b, c, at, slot) DO UPDATE SET rollup = excluded.rollup";
    change.execute(put, &[&slot, &steps, &kinds, &times, &a, &b, &c, &encoded]).await?;
    Ok(())
}

fn step_seconds(step: usize) -> i32 {
    STEPS.get(step).and_then(|seconds| i32::try_from(*seconds).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_limit_share_the_negative_kind() {
        let mut values = ValuesOfWindow::default();
        let labels = |n: usize| [format!("m{n}"), String::new(), String::new()];
        assert!((0..MAX_ROLLED_UP).all(|n| values.add(3, &labels(n))));
        assert!(values.add(3, &labels(5)));
        assert!(!values.add(3, &labels(MAX_ROLLED_UP)));
        assert!(values.add(2, &labels(MAX_ROLLED_UP)));
    }
}
