//! Values of fields with the number of their records, from counts by hour.
//!
//! - *In*: fields and a range of hours.
//! - *Out*: the values with the most records, and how many others there are.
//! - *Never*: more than [`MAX_READ_LABELS`] values of a field and partition in memory.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::field::{Field, int, unsigned};
use crate::query::{FacetCounts, FacetQuery, Filter, MAX_READ_LABELS, StoreError};
use crate::schema::OpenError;

const COUNTS: &str = "SELECT value, text, sum(rows) AS n FROM facets LEFT JOIN labels ON id = value \
     WHERE field = ?1 AND hour >= ?2 AND hour < ?3 GROUP BY value ORDER BY n DESC LIMIT ?4";

/// Counts of all partitions.
pub(super) struct Counts {
    /// The range of time.
    pub(super) range: Filter,
    hours: (u64, Option<u64>),
    fields: Vec<(Field, HashMap<String, u64>)>,
}

impl Counts {
    pub(super) fn new(query: &FacetQuery) -> Result<Self, StoreError> {
        query.check()?;
        let range = Filter { from_us: query.from_us, to_us: query.to_us, ..Filter::default() };
        let fields = query.fields.iter().map(|field| (*field, HashMap::new())).collect();
        Ok(Counts { range, hours: query.hours(), fields })
    }

    /// Add the counts of a partition. Returns the fields of which it has too many values.
    pub(super) fn add(&mut self, db: &Connection) -> Result<Vec<&'static str>, OpenError> {
        let (from, to) = (int(self.hours.0), self.hours.1.map_or(i64::MAX, int));
        let mut query = db.prepare(COUNTS)?;
        let mut folded = Vec::new();
        for (field, counts) in &mut self.fields {
            let mut read = 0;
            let mut rows = query.query(params![field.code(), from, to, MAX_READ_LABELS as i64])?;
            while let Some(row) = rows.next()? {
                let value: i64 = row.get(0)?;
                let text = match field.number_text(value) {
                    Some(text) => text,
                    None => row.get::<_, Option<String>>(1)?.unwrap_or_default(),
                };
                *counts.entry(text).or_default() += unsigned(row.get(2)?);
                read += 1;
            }
            if read >= MAX_READ_LABELS {
                folded.push(field.name());
            }
        }
        Ok(folded)
    }

    pub(super) fn into_fields(self, query: &FacetQuery) -> Vec<FacetCounts> {
        let fields = self.fields.into_iter();
        fields.map(|(field, counts)| FacetCounts::new(field, counts, query.limit)).collect()
    }
}
