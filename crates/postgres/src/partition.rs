//! Partitions: one of each partitioned table per window of time.
//!
//! - *In*: times of records, and how long they are kept.
//! - *Out*: names such as `records_20261130t00_24h`: the start of the window in UTC and its hours.
//!   The partitions that PostgreSQL has are the list of windows.
//! - *Never*: the deletion of a record. A window is dropped as a whole. Two gateways that create or
//!   drop at the same time: an advisory lock admits one.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio_postgres::{Client, Transaction};

use crate::error::Error;
use crate::schema::{CHANGE_LOCK, LOCKS};
use crate::value;

/// Microseconds of an hour.
pub(crate) const HOUR_US: u64 = 3_600_000_000;
/// The partitioned tables, in the order in which writers lock them, and options of a partition.
/// Rows that are updated with each batch leave room for their next version.
const TABLES: [(&str, &str); 4] = [
    ("records", ""),
    ("bodies", ""),
    ("facets", " WITH (fillfactor = 70)"),
    ("rollups", " WITH (fillfactor = 50)"),
];
/// Maximum wait of a drop for a lock: writers and queries wait behind it. The next attempt comes
/// half a minute later.
const DROP_WAIT: &str = "SET LOCAL lock_timeout = '1s'";

/// A window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Window {
    /// Start, in hours since 1970.
    start: u64,
    /// Length in hours.
    hours: u64,
}

impl Window {
    /// Start in Unix microseconds.
    pub(crate) fn start_us(self) -> u64 {
        self.start * HOUR_US
    }

    /// End in Unix microseconds.
    pub(crate) fn end_us(self) -> u64 {
        (self.start + self.hours) * HOUR_US
    }

    fn contains(self, hour: u64) -> bool {
        (self.start..self.start + self.hours).contains(&hour)
    }

    fn overlaps(self, other: Window) -> bool {
        self.start < other.start + other.hours && other.start < self.start + self.hours
    }

    fn suffix(self) -> String {
        format!("{}_{}h", hour_text(self.start, "%Y%m%dt%H"), self.hours)
    }

    /// The window that the name of a partition of `records` states.
    fn from_name(name: &str) -> Option<Self> {
        let (at, hours) = name.strip_prefix("records_")?.strip_suffix('h')?.split_once('_')?;
        let (day, hour) = at.split_once('t')?;
        let number = |from, to| day.get(from..to)?.parse::<i16>().ok();
        let small = |from, to| day.get(from..to)?.parse::<i8>().ok();
        let date = Date::new(number(0, 4)?, small(4, 6)?, small(6, 8)?).ok()?;
        let midnight = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_second();
        let start = u64::try_from(midnight).ok()? / 3600 + hour.parse::<u64>().ok()?;
        Some(Window { start, hours: hours.parse().ok()? })
    }
}

fn hour_text(hour: u64, format: &str) -> String {
    let at = Timestamp::from_second(value::int(hour * 3600)).unwrap_or_default();
    at.strftime(format).to_string()
}

/// Hours of a new window: short in relation to `keep`, and not too many partitions.
fn window_hours(keep: Duration) -> u64 {
    match keep.as_secs() / 3600 {
        0..24 => 1,
        24..96 => 6,
        _ => 24,
    }
}

/// The new window for an hour: one of the usual length, or of one hour if that would overlap a
/// window of another length, after a change of `keep`.
fn new_window(hour: u64, keep: Duration, all: &[Window]) -> Window {
    let hours = window_hours(keep);
    let usual = Window { start: hour / hours * hours, hours };
    match all.iter().any(|other| other.overlaps(usual)) {
        true => Window { start: hour, hours: 1 },
        false => usual,
    }
}

/// The windows that exist, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Windows(Vec<Window>);

impl Windows {
    /// The window of a time, if it is known.
    pub(crate) fn get(&self, at_us: u64) -> Option<Window> {
        let hour = at_us / HOUR_US;
        self.0.iter().rev().copied().find(|window| window.contains(hour))
    }

    /// Creates the windows of these times, if they do not exist.
    pub(crate) async fn ensure(
        &mut self,
        client: &mut Client,
        times_us: impl Iterator<Item = u64>,
        keep: Duration,
    ) -> Result<(), Error> {
        let mut hours: Vec<u64> =
            times_us.filter(|at| self.get(*at).is_none()).map(|at| at / HOUR_US).collect();
        if hours.is_empty() {
            return Ok(());
        }
        hours.sort_unstable();
        hours.dedup();
        let change = client.transaction().await?;
        change.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCKS, &CHANGE_LOCK]).await?;
        let mut all = list(&change, "records").await?;
        for hour in hours {
            if !all.iter().any(|window| window.contains(hour)) {
                let window = new_window(hour, keep, &all);
                create(&change, window).await?;
                all.push(window);
            }
        }
        change.commit().await?;
        self.0 = all;
        Ok(())
    }
}

/// The windows of a table.
async fn list(change: &Transaction<'_>, table: &str) -> Result<Vec<Window>, Error> {
    let query = "SELECT child.relname::text FROM pg_inherits i
        JOIN pg_class child ON child.oid = i.inhrelid
        JOIN pg_class parent ON parent.oid = i.inhparent
        JOIN pg_namespace n ON n.oid = parent.relnamespace
        WHERE n.nspname = 'llm_lens' AND parent.relname = $1 ORDER BY 1";
    let mut found = Vec::new();
    for row in change.query(query, &[&table]).await? {
        let name = row.try_get::<_, String>(0)?.replacen(table, "records", 1);
        found.extend(Window::from_name(&name));
    }
    Ok(found)
}

/// Creates the partitions of a window. Attaching needs no lock that stops writers, unlike
/// `CREATE TABLE ... PARTITION OF`.
async fn create(change: &Transaction<'_>, window: Window) -> Result<(), Error> {
    let suffix = window.suffix();
    let bound = |hour| hour_text(hour, "%Y-%m-%d %H:00:00+00");
    let (from, to) = (bound(window.start), bound(window.start + window.hours));
    for (table, options) in TABLES {
        // Left over if an administrator has dropped only some of them.
        if list(change, table).await?.contains(&window) {
            continue;
        }
        let name = format!("llm_lens.{table}_{suffix}");
        change
            .batch_execute(&format!(
                "CREATE TABLE {name} (LIKE llm_lens.{table} INCLUDING ALL){options};
                 ALTER TABLE llm_lens.{table} ATTACH PARTITION {name}
                 FOR VALUES FROM ('{from}') TO ('{to}')"
            ))
            .await?;
    }
    Ok(())
}

/// Drops the windows whose records are all older than `keep` at `now_us` in Unix microseconds.
/// Returns how many; none if another gateway is at it.
pub(crate) async fn drop_old(
    client: &mut Client,
    now_us: u64,
    keep: Duration,
) -> Result<u64, Error> {
    let keep_us = u64::try_from(keep.as_micros()).unwrap_or(u64::MAX);
    let mut dropped = 0;
    loop {
        let change = client.transaction().await?;
        let lock = "SELECT pg_try_advisory_xact_lock($1, $2)";
        if !change.query_one(lock, &[&LOCKS, &CHANGE_LOCK]).await?.try_get::<_, bool>(0)? {
            change.rollback().await?;
            return Ok(dropped);
        }
        let all = list(&change, "records").await?;
        let is_old = |window: &Window| window.end_us().saturating_add(keep_us) <= now_us;
        let Some(old) = all.into_iter().find(is_old) else {
            // A transaction that is only dropped ends with the next statement.
            change.rollback().await?;
            return Ok(dropped);
        };
        let names = TABLES.map(|(table, _)| format!("llm_lens.{table}_{}", old.suffix()));
        change.batch_execute(DROP_WAIT).await?;
        for name in &names {
            change.batch_execute(&format!("DROP TABLE IF EXISTS {name}")).await?;
        }
        change.commit().await?;
        dropped += 1;
    }
}

/// Bytes of all tables.
pub(crate) async fn bytes(client: &Client) -> Result<u64, Error> {
    let query = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'llm_lens' AND c.relkind = 'r'";
    Ok(value::unsigned(client.query_one(query, &[]).await?.try_get(0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn names_state_the_window_and_other_names_are_none() {
        let window = Window { start: 490_932, hours: 6 };
        assert_eq!(window.suffix(), "20260102t12_6h");
        assert_eq!(Window::from_name("records_20260102t12_6h"), Some(window));
        assert_eq!(window.end_us() - window.start_us(), 6 * HOUR_US);
        for other in
            ["records", "records_2026_6h", "records_20261402t12_6h", "facets_20260102t12_6h"]
        {
            assert_eq!(Window::from_name(other), None, "{other}");
        }
    }

    #[test]
    fn windows_follow_keep_and_never_overlap() {
        for (keep, hours) in [(DAY / 24, 1), (DAY, 6), (DAY * 3, 6), (DAY * 4, 24), (DAY * 90, 24)]
        {
            assert_eq!(window_hours(keep), hours, "{keep:?}");
        }
        let day = new_window(490_911, DAY * 7, &[]);
        assert_eq!(day, Window { start: 490_896, hours: 24 });
        let six = Window { start: 490_902, hours: 6 };
        let hour = new_window(490_911, DAY * 7, &[six]);
        assert_eq!(hour, Window { start: 490_911, hours: 1 });
        assert!(!hour.overlaps(six) && hour.contains(490_911));
        let known = Windows(vec![six, hour]);
        assert_eq!(known.get(490_911 * HOUR_US + 5), Some(hour));
        assert_eq!(known.get(490_912 * HOUR_US), None);
    }
}
