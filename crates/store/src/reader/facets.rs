//! Values of fields with the number of their records, from counts by hour.
//!
//! - *In*: fields and a range of hours.
//! - *Out*: the values with the most records, and how many others there are.
//! - *Never*: more than [`MAX_READ`] values of a field and partition in memory.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::field::{Field, int, unsigned};
use crate::partition::HOUR_US;
use crate::query::{FacetCounts, FacetQuery, Filter, MAX_LABELS, StoreError};
use crate::schema::OpenError;

/// Maximum values of a field that are read from one partition.
const MAX_READ: usize = 10_000;

const COUNTS: &str = "SELECT value, text, sum(rows) AS n FROM facets LEFT JOIN labels ON id = value \
     WHERE field = ?1 AND hour >= ?2 AND hour < ?3 GROUP BY value ORDER BY n DESC LIMIT ?4";

/// Counts of all partitions.
pub(super) struct Counts {
    /// The range of time.
    pub(super) range: Filter,
    fields: Vec<(Field, HashMap<String, u64>)>,
}

impl Counts {
    pub(super) fn new(query: &FacetQuery) -> Result<Self, StoreError> {
        if !(1..=MAX_LABELS).contains(&query.limit) {
            return Err(StoreError::Query(format!("limit must be from 1 to {MAX_LABELS}")));
        }
        let range = Filter { from_us: query.from_us, to_us: query.to_us, ..Filter::default() };
        let fields = query.fields.iter().map(|field| (*field, HashMap::new())).collect();
        Ok(Counts { range, fields })
    }

    /// Add the counts of a partition. Returns the fields of which it has too many values.
    pub(super) fn add(&mut self, db: &Connection) -> Result<Vec<&'static str>, OpenError> {
        let from = self.range.from_us.map_or(0, |us| int(us / HOUR_US));
        let to = self.range.to_us.map_or(i64::MAX, |us| int(us.div_ceil(HOUR_US)));
        let mut query = db.prepare(COUNTS)?;
        let mut folded = Vec::new();
        for (field, counts) in &mut self.fields {
            let mut read = 0;
            let mut rows = query.query(params![field.code(), from, to, MAX_READ as i64])?;
            while let Some(row) = rows.next()? {
                let value: i64 = row.get(0)?;
                let text = match field.number_text(value) {
                    Some(text) => text,
                    None => row.get::<_, Option<String>>(1)?.unwrap_or_default(),
                };
                *counts.entry(text).or_default() += unsigned(row.get(2)?);
                read += 1;
            }
            if read >= MAX_READ {
                folded.push(field.name());
            }
        }
        Ok(folded)
    }

    pub(super) fn into_fields(self, query: &FacetQuery) -> Vec<FacetCounts> {
        let sorted = |(field, counts): (Field, HashMap<String, u64>)| {
            let mut values: Vec<(String, u64)> = counts.into_iter().collect();
            values.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
            let distinct = values.len() as u64;
            let others = values.iter().skip(query.limit).map(|(_, rows)| rows).sum();
            values.truncate(query.limit);
            FacetCounts { field, values, distinct, others }
        };
        self.fields.into_iter().map(sorted).collect()
    }
}
