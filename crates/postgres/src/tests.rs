//! Tests with a PostgreSQL server, and the same assertions with SQLite.
//!
//! Those that need the server are ignored: `make test-stack` starts one and runs them. They want
//! `LLM_LENS_TEST_POSTGRES`, a URL of a user that may create databases, and
//! `LLM_LENS_TEST_POSTGRES_PASSWORD`.

mod answers;
mod faults;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lens::Record;
use observatory::{NumberedRecord, RecordKey};
use serde_json::json;
use store::Counters;

use crate::destination::{SinkOptions, ToPostgres};
use crate::session::{Database, Session};

/// 2026-01-02T00:00:00Z.
const DAY: u64 = 1_767_312_000_000_000;
const SECOND: u64 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(60);
const KEEP: Duration = Duration::from_secs(3 * 86_400);

/// The record with this number: one every four seconds from [`DAY`] on.
fn record(number: u64) -> Record {
    let of = |count: u64| number % count;
    let outcome = if of(10) == 9 { "timeout" } else { "ok" };
    let mut record: Record = serde_json::from_value(json!({
        "schema": 1, "id": format!("id-{number}"), "started_at": "2026-01-02T00:00:00Z", "route": format!("r{}", of(2)),
        "endpoint": "/v1/chat/completions", "stream": of(4) != 0, "model_requested": format!("m{}", of(7)), "outcome": outcome,
        "bytes_from_client": 1, "bytes_to_client": 2, "engine_ttft_us": 10_000 + number, "client_ttft_us": 10_100 + number,
        "tpot_us": 8000.5, "trace_id": format!("{:032x}", number / 2), "usage": {"prompt_tokens": 5, "completion_tokens": of(40), "estimated": of(5) == 0},
        "cost": 0.5, "ledger_us": {"gateway": 100}, "total_us": 100_000 + of(997) * 100
    }))
    .unwrap();
    record.backend = (of(11) != 0).then(|| format!("b{}", of(3)).into());
    record.caller = (of(3) == 0).then(|| "key".into());
    record.owner = (of(3) == 0).then(|| format!("team{}", of(6)).into());
    record.http_status = Some(if of(10) == 9 { 504 } else { 200 });
    record.error_code = (of(10) == 9).then(|| "upstream_timeout".into());
    record.unique_id = (of(100) == 1).then(|| format!("unique-{number}"));
    record.started_at = DAY + number * 4 * SECOND;
    record
}

fn numbered(instance: &str, number: u64) -> NumberedRecord {
    let key = RecordKey { instance: instance.into(), epoch: 7, sequence: number };
    NumberedRecord { key, record: Arc::new(record(number)) }
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> Vec<NumberedRecord> {
    numbers.into_iter().map(|number| numbered("gw", number)).collect()
}

/// A database of its own, which is dropped at the end.
struct Server {
    admin: Database,
    database: Database,
}

impl Server {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let variable =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("set {name}: make test-stack"));
        let url: base_url::PostgresUrl = variable("LLM_LENS_TEST_POSTGRES").parse().unwrap();
        let password = Some(variable("LLM_LENS_TEST_POSTGRES_PASSWORD"));
        let admin = Database { url, password, ca: None };
        let mut database = admin.clone();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        database.url.database = format!("lens_test_{}_{number}", std::process::id());
        let server = Server { admin, database };
        server.admin_sql(&format!("CREATE DATABASE {}", server.database.url.database));
        server
    }

    fn admin_sql(&self, sql: &str) {
        Session::connect(&self.admin, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs SQL in the database.
    fn sql(&self, sql: &str) {
        Session::connect(&self.database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// A number that SQL returns.
    fn number(&self, sql: &str) -> i64 {
        let mut session = Session::connect(&self.database, "").unwrap();
        let row = session.run_within(LIMIT, async |client| Ok(client.query_one(sql, &[]).await?));
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    fn gateway(&self) -> ToPostgres {
        let options = SinkOptions { keep: KEEP, spill: None, wall_us: || DAY };
        ToPostgres::new(self.database.clone(), &options, Arc::<Counters>::default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database.url.database);
        // A panic here would hide the one of the test.
        drop(Session::connect(&self.admin, &sql));
    }
}
