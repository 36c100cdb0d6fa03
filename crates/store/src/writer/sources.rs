//! Which records a partition has: ranges of sequence numbers for each start of a gateway.
//!
//! - *In*: keys of records.
//! - *Out*: whether a key is new in the window, and the id of its source.
//! - *Never*: a key of another part of the same window counted as new.

use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::field::{int, unsigned};
use crate::key::{Ranges, RecordKey};

/// One start of one gateway.
#[derive(Debug)]
struct Source {
    instance: Arc<str>,
    epoch: u64,
    /// Its id in this partition; `None`: it has no record here.
    id: Option<i64>,
    here: Ranges,
    /// Records in other parts of the window.
    elsewhere: Ranges,
}

/// The sources of a partition.
#[derive(Debug, Default)]
pub(super) struct Sources {
    all: Vec<Source>,
    /// Index of the source of the last record: most records come from one.
    last: usize,
}

const SEQUENCES: &str =
    "SELECT instance, epoch, id, first, last FROM sources JOIN sequences ON source = id";

impl Sources {
    /// Read the sources of the partition.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut sources = Sources::default();
        let mut query = db.prepare(SEQUENCES)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let source = sources.source(&row.get::<_, String>(0)?, unsigned(row.get(1)?));
            source.id = Some(row.get(2)?);
            source.here.load(unsigned(row.get(3)?), unsigned(row.get(4)?));
        }
        Ok(sources)
    }

    /// Read the sources of another part of the window.
    pub(super) fn load_elsewhere(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut query = db.prepare(SEQUENCES)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let source = self.source(&row.get::<_, String>(0)?, unsigned(row.get(1)?));
            source.elsewhere.load(unsigned(row.get(3)?), unsigned(row.get(4)?));
        }
        Ok(())
    }

    /// Add a key. Returns the id of its source, or `None` if the window has the key.
    pub(super) fn insert(
        &mut self,
        db: &Connection,
        key: &RecordKey,
    ) -> rusqlite::Result<Option<i64>> {
        let source = self.source(&key.instance, key.epoch);
        // Sequence numbers are kept in the range of SQLite's integers.
        let sequence = unsigned(int(key.sequence));
        if source.elsewhere.contains(sequence) || !source.here.insert(sequence) {
            return Ok(None);
        }
        if source.id.is_none() {
            let insert = "INSERT INTO sources (instance, epoch) VALUES (?1, ?2)";
            source.id =
                Some(db.prepare_cached(insert)?.insert(params![key.instance, int(key.epoch)])?);
        }
        Ok(source.id)
    }

    /// Write the changed ranges.
    pub(super) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut put = db.prepare_cached("INSERT OR REPLACE INTO sequences VALUES (?1, ?2, ?3)")?;
        let mut absorb =
            db.prepare_cached("DELETE FROM sequences WHERE source = ?1 AND first = ?2")?;
        for source in &mut self.all {
            let Some(id) = source.id else { continue };
            for (first, last) in source.here.take_changes() {
                match last {
                    Some(last) => put.execute(params![id, int(first), int(last)])?,
                    None => absorb.execute(params![id, int(first)])?,
                };
            }
        }
        Ok(())
    }

    fn source(&mut self, instance: &str, epoch: u64) -> &mut Source {
        let is_it = |source: &Source| source.epoch == epoch && &*source.instance == instance;
        if !self.all.get(self.last).is_some_and(is_it) {
            self.last = self.all.iter().position(is_it).unwrap_or_else(|| {
                self.all.push(Source {
                    instance: instance.into(),
                    epoch,
                    id: None,
                    here: Ranges::default(),
                    elsewhere: Ranges::default(),
                });
                self.all.len() - 1
            });
        }
        &mut self.all[self.last]
    }
}
