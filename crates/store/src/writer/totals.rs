//! Counts by label and hour, and rollups by minute and hour.
//!
//! - *In*: records with their values.
//! - *Out*: rows of `facets` and `rollups`, merged with those of the file once per transaction.
//! - *Never*: more than [`MAX_ROLLED_UP`] values of a field in rollups: further ones are counted as
//!   [`OTHER`], because models come from clients.

use std::collections::{HashMap, HashSet};

use lens::Record;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::chart::{COMBINED, MAX_ROLLED_UP, ROLLED_UP, STEPS};
use crate::field::{FIELDS, Field, Values, unsigned};
use crate::rollup::Rollup;
use crate::schema::OpenError;

/// The value of further ones. Label ids begin at 1.
pub(crate) const OTHER: i64 = 0;
/// Number of the rollups of all requests.
pub(crate) const ALL_REQUESTS: u8 = 0;
/// Number of the rollups by combination of route, backend and model.
pub(crate) const COMBINATION: u8 = FIELDS as u8 + 1;

/// Sums of the transaction, and what limits the number of values.
#[derive(Debug, Default)]
pub(super) struct Totals {
    facets: HashMap<(u8, u64, i64), u64>,
    /// By field, value and minute.
    rollups: HashMap<(u8, i64, u64), Rollup>,
    /// Values with rollups.
    values: HashSet<(u8, i64)>,
    combinations: HashMap<[i64; 3], i64>,
    /// Number of values of each field.
    counts: [usize; COMBINATION as usize + 1],
}

impl Totals {
    /// Read which values a partition has.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut totals = Totals::default();
        let mut query =
            db.prepare("SELECT DISTINCT field, value FROM rollups WHERE step = 3600")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            totals.note(row.get(0)?, row.get(1)?);
        }
        let mut query = db.prepare("SELECT id, route, backend, model FROM combinations")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            totals.combinations.insert([row.get(1)?, row.get(2)?, row.get(3)?], row.get(0)?);
        }
        Ok(totals)
    }

    /// Note that a value has rollups.
    fn note(&mut self, field: u8, value: i64) {
        if self.values.insert((field, value))
            && let Some(count) = self.counts.get_mut(usize::from(field))
        {
            *count += 1;
        }
    }

    /// Count a record.
    pub(super) fn add(
        &mut self,
        db: &Connection,
        record: &Record,
        values: &Values,
    ) -> rusqlite::Result<()> {
        let seconds = record.started_at / 1_000_000;
        for (field, value) in Field::ALL.into_iter().zip(values) {
            if let Some(value) = value {
                *self.facets.entry((field.code(), seconds / 3600, *value)).or_default() += 1;
            }
        }
        let combination = self.combination(db, values)?;
        let minute = seconds / 60;
        self.observe(ALL_REQUESTS, OTHER, minute, record);
        self.observe(COMBINATION, combination, minute, record);
        for field in ROLLED_UP {
            if let Some(value) = values[field.index()] {
                self.observe(field.code(), value, minute, record);
            }
        }
        Ok(())
    }

    fn observe(&mut self, field: u8, value: i64, minute: u64, record: &Record) {
        let is_known = self.values.contains(&(field, value));
        let is_full = self.counts.get(usize::from(field)).is_none_or(|n| *n >= MAX_ROLLED_UP);
        let value = if is_known || !is_full { value } else { OTHER };
        if !is_known {
            self.note(field, value);
        }
        self.rollups.entry((field, value, minute)).or_default().observe(record);
    }

    /// The id of a combination of route, backend and model.
    fn combination(&mut self, db: &Connection, values: &Values) -> rusqlite::Result<i64> {
        let key = COMBINED.map(|field| values[field.index()].unwrap_or(0));
        if let Some(id) = self.combinations.get(&key) {
            return Ok(*id);
        }
        if self.combinations.len() >= MAX_ROLLED_UP {
            return Ok(OTHER);
        }
        let insert = "INSERT INTO combinations (route, backend, model) VALUES (?1, ?2, ?3)";
        let id = db.prepare_cached(insert)?.insert(key)?;
        self.combinations.insert(key, id);
        Ok(id)
    }

    /// Merge the sums of the transaction into those of the file.
    pub(super) fn store(&mut self, db: &Connection) -> Result<(), OpenError> {
        let mut add = db.prepare_cached(
            "INSERT INTO facets VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET rows = rows + excluded.rows",
        )?;
        for ((field, hour, value), rows) in self.facets.drain() {
            add.execute(params![field, hour as i64, value, rows as i64])?;
        }
        let mut hours: HashMap<(u8, i64, u64), Rollup> = HashMap::new();
        for ((field, value, minute), rollup) in &self.rollups {
            hours.entry((*field, *value, *minute / 60)).or_default().merge(rollup);
        }
        for (step, rollups) in STEPS.into_iter().zip([&mut self.rollups, &mut hours]) {
            for ((field, value, bucket), rollup) in rollups.drain() {
                merge_rollup(db, (step, field, value, bucket), rollup)?;
            }
        }
        Ok(())
    }
}

/// Merge a rollup into the one of the file.
fn merge_rollup(
    db: &Connection,
    (step, field, value, bucket): (u64, u8, i64, u64),
    mut rollup: Rollup,
) -> Result<(), OpenError> {
    let (step, bucket) = (step as i64, bucket as i64);
    let mut stored = db.prepare_cached(
        "SELECT rollup FROM rollups WHERE step = ?1 AND field = ?2 AND value = ?3 AND bucket = ?4",
    )?;
    let stored: Option<Vec<u8>> =
        stored.query_row(params![step, field, value, bucket], |row| row.get(0)).optional()?;
    if let Some(stored) = stored {
        rollup.merge(&Rollup::decode(&stored)?);
    }
    db.prepare_cached("INSERT OR REPLACE INTO rollups VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![step, field, value, bucket, rollup.encode()])?;
    Ok(())
}

/// A bucket of the table as Unix seconds.
pub(crate) fn bucket_start(step: u64, bucket: i64) -> u64 {
    unsigned(bucket).saturating_mul(step)
}
