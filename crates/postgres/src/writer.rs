//! Writes batches of records.
//!
//! - *In*: batches of records with their keys.
//! - *Out*: rows, compressed JSON, counts and sketches, in one transaction for each batch.
//! - *Never*: a record twice, in rows or in sums; a row of counts that another gateway updates.
//!
//! Counts and sketches belong to a *slot*, a small number that a transaction locks: gateways that
//! write at the same time update different rows, and queries add them up. A slot is free when its
//! transaction ends, however its gateway ends.

mod bodies;
mod staging;
pub(crate) mod totals;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use observatory::NumberedRecord;
use tokio_postgres::{Client, Transaction};

use crate::error::Error;
use crate::partition::{self, Window, Windows};
use crate::schema::{self, LOCKS};
use crate::session::{Database, Session};
use crate::value;
use bodies::Bodies;
use totals::Totals;

/// Maximum writers at the same time.
const MAX_SLOTS: i16 = 256;
/// Maximum sources in memory: one for each start of a gateway whose records a spill has.
const MAX_SOURCES: usize = 1024;

/// A connection, and what is known about its database.
pub(crate) struct Writer {
    session: Session,
    keep: Duration,
    known: Known,
}

/// What need not be read again, until a transaction fails.
#[derive(Debug, Default)]
struct Known {
    windows: Windows,
    sources: HashMap<(Arc<str>, u64), i32>,
    /// The last slot: it is probably free.
    slot: i16,
    totals: totals::Values,
}

/// A record with its source and its place in the compressed JSON.
struct Row<'b> {
    numbered: &'b NumberedRecord,
    source: i32,
    window: Window,
    chunk: i64,
    line: i32,
}

impl Writer {
    /// Connects, and migrates the tables.
    pub(crate) fn connect(
        database: &Database,
        keep: Duration,
        limit: Duration,
    ) -> Result<Self, Error> {
        let mut session = Session::connect(database, schema::WRITER)?;
        session.run_within(limit, async |client| schema::migrate(client).await)?;
        Ok(Writer { session, keep, known: Known::default() })
    }

    /// Stores the records of a batch that are not stored yet; returns how many those are.
    pub(crate) fn write(
        &mut self,
        batch: &[NumberedRecord],
        limit: Duration,
    ) -> Result<u64, Error> {
        let (known, keep) = (&mut self.known, self.keep);
        self.session.run_within(limit, async |client| {
            let written = known.write(client, batch, keep).await;
            if written.is_err() {
                // Retention may have dropped a window.
                known.windows = Windows::default();
            }
            written
        })
    }

    /// Drops old windows; returns how many.
    pub(crate) fn drop_old(&mut self, now_us: u64, limit: Duration) -> Result<u64, Error> {
        let keep = self.keep;
        let dropped = self
            .session
            .run_within(limit, async |client| partition::drop_old(client, now_us, keep).await)?;
        if dropped > 0 {
            self.known.windows = Windows::default();
        }
        Ok(dropped)
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&mut self, limit: Duration) -> Result<u64, Error> {
        self.session.run_within(limit, async |client| partition::bytes(client).await)
    }
}

impl Known {
    async fn write(
        &mut self,
        client: &mut Client,
        batch: &[NumberedRecord],
        keep: Duration,
    ) -> Result<u64, Error> {
        self.find_sources(client, batch).await?;
        let times = batch.iter().map(|numbered| value::started_us(&numbered.record));
        self.windows.ensure(client, times, keep).await?;
        let change = client.transaction().await?;
        self.slot = lock_slot(&change, self.slot).await?;
        let mut rows = self.rows(batch)?;
        let bodies = Bodies::new(&change, &mut rows).await?;
        staging::copy(&change, &rows).await?;
        let mut new = staging::insert(&change).await?;
        // A key that comes twice in a batch is new once.
        rows.retain(|row| new.remove(&(row.source, value::int(row.numbered.key.sequence))));
        bodies.store(&change, &rows).await?;
        let mut totals = Totals::default();
        for window in rows.iter().map(|row| row.window).collect::<HashSet<_>>() {
            self.totals.load(&change, window).await?;
        }
        for row in &rows {
            totals.add(&mut self.totals, row.window, &row.numbered.record);
        }
        totals.store(&change, self.slot).await?;
        change.commit().await?;
        Ok(rows.len() as u64)
    }

    /// Finds or adds the sources of a batch, each in a transaction of its own: no lock is held.
    async fn find_sources(
        &mut self,
        client: &Client,
        batch: &[NumberedRecord],
    ) -> Result<(), Error> {
        for key in batch.iter().map(|numbered| &numbered.key) {
            let source = (key.instance.clone(), key.epoch);
            if self.sources.contains_key(&source) {
                continue;
            }
            let (instance, epoch) = (value::id(&key.instance), value::int(key.epoch));
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&instance, &epoch];
            let add = "INSERT INTO llm_lens.sources (instance, epoch) VALUES ($1, $2)
                ON CONFLICT DO NOTHING";
            let find = "SELECT id FROM llm_lens.sources WHERE instance = $1 AND epoch = $2";
            let found = match client.query_opt(find, &params).await? {
                Some(row) => row,
                None => {
                    client.execute(add, &params).await?;
                    client.query_one(find, &params).await?
                }
            };
            if self.sources.len() >= MAX_SOURCES {
                self.sources.clear();
            }
            self.sources.insert(source, found.try_get(0)?);
        }
        Ok(())
    }

    /// The rows of a batch, by window.
    fn rows<'b>(&self, batch: &'b [NumberedRecord]) -> Result<Vec<Row<'b>>, Error> {
        let mut rows = Vec::with_capacity(batch.len());
        for numbered in batch {
            let source = (numbered.key.instance.clone(), numbered.key.epoch);
            let source = *self.sources.get(&source).ok_or(Error::Damaged("source"))?;
            let window = self.windows.get(value::started_us(&numbered.record));
            let window = window.ok_or(Error::Damaged("window of a partition"))?;
            rows.push(Row { numbered, source, window, chunk: 0, line: 0 });
        }
        rows.sort_by_key(|row| row.window);
        Ok(rows)
    }
}

/// Locks a slot until the end of the transaction: the last one, or else the first that is free.
async fn lock_slot(change: &Transaction<'_>, last: i16) -> Result<i16, Error> {
    let lock = "SELECT pg_try_advisory_xact_lock($1, $2)";
    for slot in std::iter::once(last).chain(0..MAX_SLOTS) {
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&LOCKS, &i32::from(slot)];
        if change.query_one(lock, &params).await?.try_get(0)? {
            return Ok(slot);
        }
    }
    Err(Error::Slots(MAX_SLOTS))
}
