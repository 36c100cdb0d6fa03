//! Which records a partition has: ranges of sequence numbers for each start of a gateway.
//!
//! - *In*: keys of records.
//! - *Out*: whether a key is new in the window, and the id of its source.
//! - *Never*: a key that another partition has counted as new.
//!
//! The other partitions are read when the first record of a source arrives. What they have of it
//! does not change from then on: the records of a process are delivered by one process at a time,
//! itself, or after its end a successor that found them in its spill.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use observatory::RecordKey;
use rusqlite::{Connection, params};

use crate::field::{int, unsigned};
use crate::partition::{self, Partition};
use crate::ranges::Ranges;
use crate::schema::{self, OpenError};

/// One start of one gateway.
#[derive(Debug)]
struct Source {
    instance: Arc<str>,
    epoch: u64,
    /// Its id in this partition; `None`: it has no record here.
    id: Option<i64>,
    here: Ranges,
    /// Its records in other partitions; `None`: they have not been read.
    elsewhere: Option<Ranges>,
}

/// The sources of a partition.
#[derive(Debug)]
pub(super) struct Sources {
    folder: PathBuf,
    partition: Partition,
    all: Vec<Source>,
    /// Index of the source of the last record: most records come from one.
    last: usize,
}

const SEQUENCES: &str =
    "SELECT instance, epoch, id, first, last FROM sources JOIN sequences ON source = id";
const OF_SOURCE: &str = "SELECT first, last FROM sources JOIN sequences ON source = id \
     WHERE instance = ?1 AND epoch = ?2";

impl Sources {
    /// Read the sources of a partition.
    pub(super) fn load(
        db: &Connection,
        folder: &Path,
        partition: Partition,
    ) -> rusqlite::Result<Self> {
        let folder = folder.to_owned();
        let mut sources = Sources { folder, partition, all: Vec::new(), last: 0 };
        let mut query = db.prepare(SEQUENCES)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let source = sources.source(&row.get::<_, String>(0)?, unsigned(row.get(1)?));
            source.id = Some(row.get(2)?);
            let stored = Ranges::from_file([(unsigned(row.get(3)?), unsigned(row.get(4)?))]);
            source.here.merge(stored);
        }
        for source in &mut sources.all {
            source.here.take_changes();
        }
        Ok(sources)
    }

    /// The sources of a new partition of the same window, after this one is full. The partitions
    /// need not be read again.
    pub(super) fn continued_in(mut self, partition: Partition) -> Self {
        self.partition = partition;
        for source in &mut self.all {
            source.id = None;
            let here = std::mem::take(&mut source.here);
            if let Some(elsewhere) = &mut source.elsewhere {
                elsewhere.merge(here);
            }
        }
        self
    }

    /// Add a key. Returns the id of its source, or `None` if a partition has the key.
    pub(super) fn insert(
        &mut self,
        db: &Connection,
        key: &RecordKey,
    ) -> Result<Option<i64>, OpenError> {
        if self.source(&key.instance, key.epoch).elsewhere.is_none() {
            let others = read_others(&self.folder, self.partition, key)?;
            self.source(&key.instance, key.epoch).elsewhere = Some(others);
        }
        let source = self.source(&key.instance, key.epoch);
        // Sequence numbers are kept in the range of SQLite's integers.
        let sequence = unsigned(int(key.sequence));
        let is_elsewhere = source.elsewhere.as_ref().is_some_and(|set| set.contains(sequence));
        if is_elsewhere || !source.here.insert(sequence) {
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
                    elsewhere: None,
                });
                self.all.len() - 1
            });
        }
        &mut self.all[self.last]
    }
}

/// The records of a source in the other partitions of the same time. A window of another length
/// overlaps: `record_store.keep` was changed.
fn read_others(folder: &Path, mine: Partition, key: &RecordKey) -> Result<Ranges, OpenError> {
    let mut found = Ranges::default();
    for other in partition::list(folder)? {
        if other == mine || !other.overlaps(mine) {
            continue;
        }
        let path = other.path(folder);
        match read_other(&path, key) {
            Ok(ranges) => found.merge(ranges),
            // Retention has removed it.
            Err(_) if !path.exists() => {}
            // Named by queries. What it has is missing from them.
            Err(OpenError::Newer(_)) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn read_other(path: &Path, key: &RecordKey) -> Result<Ranges, OpenError> {
    let Some(db) = schema::open_reader(path)? else { return Ok(Ranges::default()) };
    let mut query = db.prepare(OF_SOURCE)?;
    let rows = query.query_map(params![key.instance, int(key.epoch)], |row| {
        Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
    })?;
    let stored: Vec<(u64, u64)> = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Ranges::from_file(stored))
}
